package config

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/match"
)

// Alertmanager sends alerts to Prometheus Alertmanager: some events make one fire, others resolve
// it.
type Alertmanager struct {
	// URLs are the members of one cluster, without /api/v2. Each gets every alert, as
	// Alertmanager asks for.
	// required
	URLs []URL `yaml:"urls"`
	// how requests are made, and what authenticates them
	HTTPConfig HTTPConfig `yaml:"http_config"`

	// which of the four are made
	Alerts []string `yaml:"alerts"`
	// which fire; none: those that the severities call warning or critical
	Statuses match.Patterns `yaml:"statuses"`
	// of every alert, besides its own
	Labels map[string]string `yaml:"labels"`

	// what fires is sent again; it ends four intervals after the last time
	ResendInterval time.Duration `yaml:"resend_interval"`
	// an OS message fires so long, if it is not answered before
	OSMessageResolve time.Duration `yaml:"os_message_resolve"`
}

// The names of the alerts.
const (
	// a CPC, partition or other object is in a status that is not acceptable.
	AlertResourceStatus = "HMCResourceStatus"
	// the daemon does not see what an HMC publishes.
	AlertConnectionLost = "HMCConnectionLost"
	// an operating system wrote a message that is held, or has priority.
	AlertOSMessage = "HMCOSMessage"
	// a console or CPC has a hardware message.
	AlertHardwareMessage = "HMCHardwareMessage"
)

// AlertNames lists the names of all alerts.
func AlertNames() []string {
	return []string{AlertResourceStatus, AlertConnectionLost, AlertOSMessage, AlertHardwareMessage}
}

// AlertLabels lists the labels that alerts have of their own.
func AlertLabels() []string {
	return strings.Fields(
		"alertname severity hmc cpc resource class message object_id element_id os_name os_level sysplex")
}

func (a *Alertmanager) setDefaults() {
	a.Alerts = AlertNames()
	a.ResendInterval = time.Minute
	a.OSMessageResolve = time.Hour
}

// labelName is what Prometheus accepts as the name of a label everywhere.
var labelName = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*$`)

func (a *Alertmanager) check(d *decoder, path string, s *Sink) {
	at := under(path)
	if len(a.URLs) == 0 {
		d.errorf(at("urls"), "is missing: "+
			"list the members of the cluster, such as [http://alertmanager.example.com:9093]")
	}
	seen := make(map[string]bool)
	for i, address := range a.URLs {
		at := item(at("urls"), i)
		d.baseURL(at, address, "Alertmanager", "http://alertmanager.example.com:9093", "/api/v",
			a.HTTPConfig.authenticates())
		if seen[address.Expose()] {
			d.errorf(at, "is listed twice")
		}
		seen[address.Expose()] = true
	}
	d.httpConfig(at("http_config"), &a.HTTPConfig)
	if len(a.Alerts) == 0 {
		d.errorf(at("alerts"), "is empty: list at least one of %s", strings.Join(AlertNames(), ", "))
	}
	d.statuses(at("statuses"), a.Statuses, nil, event.LinkStatuses...)
	for i, name := range a.Alerts {
		d.oneOf(item(at("alerts"), i), name, AlertNames()...)
	}
	for _, name := range slices.Sorted(maps.Keys(a.Labels)) {
		switch {
		case !labelName.MatchString(name) || strings.HasPrefix(name, "__"):
			d.errorf(join(at("labels"), name), "is no name of a label: "+
				"letters, digits and _, not a digit first, not __")
		case slices.Contains(AlertLabels(), name):
			d.errorf(join(at("labels"), name), "is a label that alerts have of their own")
		}
	}
	within(d, at("resend_interval"), a.ResendInterval, time.Second, 24*time.Hour)
	within(d, at("os_message_resolve"), a.OSMessageResolve, time.Second, 30*24*time.Hour)
	if s.Collapse {
		d.errorf(join(parent(path), "collapse"), "must be false for an alertmanager: "+
			"each resource has an alert of its own, and Alertmanager groups them")
	}
}
