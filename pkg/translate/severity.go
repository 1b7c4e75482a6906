package translate

import (
	"cmp"
	"slices"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/estate"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// Severities rate statuses and log entries: as the configuration says, else by the built-in table.
// It does not change; nil is the built-in table alone.
type Severities struct {
	status, eventID config.SeverityTable
	ignoreJudged    bool
}

// NewSeverities returns the severities that a configuration asks for.
func NewSeverities(c config.Severity) *Severities {
	return &Severities{
		status: c.Status, eventID: c.EventID, ignoreJudged: c.AcceptableStatus == config.AcceptableIgnore,
	}
}

// rating is a row of the built-in table, which docs/severity.md has with the meaning of each status
// and the source of that.
type rating struct{ class, status, severity string }

// ratings are all statuses that HMCs are documented to have, by class. What is not listed at all is
// information: what nobody has seen before must not wake anybody up.
var ratings = []rating{
	{"cpc", "active", event.SeverityInfo},
	{"cpc", "operating", event.SeverityInfo},
	{"cpc", "acceptable", event.SeverityInfo},
	{"cpc", "exceptions", event.SeverityWarning},
	{"cpc", "degraded", event.SeverityWarning},
	{"cpc", "service", event.SeverityWarning},
	{"cpc", "service-required", event.SeverityWarning},
	{"cpc", "not-operating", event.SeverityCritical},
	{"cpc", "no-power", event.SeverityCritical},
	{"cpc", "not-communicating", event.SeverityCritical},
	{"cpc", "status-check", event.SeverityCritical},

	{"logical-partition", "operating", event.SeverityInfo},
	{"logical-partition", "not-activated", event.SeverityWarning},
	{"logical-partition", "exceptions", event.SeverityWarning},
	{"logical-partition", "not-operating", event.SeverityCritical},
	// Not among those that are documented: what other HMCs say where they do not know.
	{"logical-partition", "status-check", event.SeverityCritical},

	{"partition", "active", event.SeverityInfo},
	{"partition", "starting", event.SeverityInfo},
	{"partition", "stopping", event.SeverityInfo},
	{"partition", "stopped", event.SeverityWarning},
	{"partition", "paused", event.SeverityWarning},
	{"partition", "degraded", event.SeverityWarning},
	{"partition", "terminated", event.SeverityWarning},
	{"partition", "reservation-error", event.SeverityCritical},
	{"partition", "communications-not-active", event.SeverityCritical},
	{"partition", "status-check", event.SeverityCritical},

	{"adapter", "active", event.SeverityInfo},
	{"adapter", "not-active", event.SeverityWarning},
	{"adapter", "not-detected", event.SeverityWarning},
	{"adapter", "exceptions", event.SeverityWarning},

	{"storage-group", "complete", event.SeverityInfo},
	{"storage-group", "pending", event.SeverityInfo},
	{"storage-group", "pending-with-mismatches", event.SeverityWarning},
	{"storage-group", "checking-migration", event.SeverityInfo},
	{"storage-group", "incomplete", event.SeverityWarning},
}

// channelOperating is the physical-channel-status of an adapter or port whose link works: any other
// (event.LinkStatuses, and what is new) is a warning.
const channelOperating = "operating"

// OfStatus rates a new status of a resource of a class, which the HMC thinks of as judged says.
func (s *Severities) OfStatus(class, status string, judged estate.Judgement) string {
	if s.ignoresJudged() {
		judged = estate.Unjudged
	}
	if judged == estate.Acceptable {
		return event.SeverityInfo
	}
	if severity := s.configured(class, status); severity != "" {
		return severity
	}
	severity := rated(class, status)
	if judged == estate.Unacceptable && severity == event.SeverityInfo {
		severity = event.SeverityWarning
	}
	return severity
}

// OfActivation is OfStatus for one that a resource may have because it was activated and has not
// started yet.
func (s *Severities) OfActivation(class, status string, judged estate.Judgement, starting bool) string {
	severity := s.OfStatus(class, status, judged)
	if starting && s.configured(class, status) == "" {
		severity = event.Milder(severity, event.SeverityWarning)
	}
	return severity
}

// ignoresJudged says that what the HMC thinks of a status does not count.
func (s *Severities) ignoresJudged() bool { return s != nil && s.ignoreJudged }

// rated is what the built-in table says. A status of another class means here what it means there.
func rated(class, status string) string {
	severity := ""
	for i := range ratings {
		switch r := &ratings[i]; {
		case r.status != status:
		case r.class == class:
			return r.severity
		case severity == "":
			severity = r.severity
		}
	}
	return cmp.Or(severity, event.SeverityInfo)
}

// configured is what the configuration says of a status; "": nothing.
func (s *Severities) configured(class, status string) string {
	if s == nil || len(s.status) == 0 {
		return ""
	}
	if severity, ok := s.status[class+"/"+status]; ok {
		return severity
	}
	return s.status[status]
}

// ratePropertyChange rates a change of a property that is a status: the last one of several, for
// what was between is over.
func (c *Converter) ratePropertyChange(e *event.Event, reports []event.Report) {
	class, rated := classOf(e), make([]string, 0, 2)
	for i := len(reports) - 1; i >= 0; i-- {
		r := &reports[i]
		if !event.IsStatus(class, r.Property) || slices.Contains(rated, r.Property) {
			continue
		}
		rated = append(rated, r.Property)
		status := event.String(r.NewValue)
		severity := c.Severities.OfStatus(class, status, estate.Unjudged)
		if r.Property == "physical-channel-status" && c.Severities.configured(class, status) == "" &&
			status != "" && status != channelOperating {
			severity = event.SeverityWarning
		}
		e.Severity = event.Worse(e.Severity, severity)
	}
}

// ofEventID rates an entry of the audit or security log. There are hundreds of ids, and which of
// them matter is a site's own matter. Listed are only those by which an HMC says that somebody was
// not let in: their numbers and texts are those of zhmc-log-forwarder's zhmc_log_messages.yml,
// which is of HMC 2.14.1.
func (s *Severities) ofEventID(id string) string {
	if s != nil {
		if severity, ok := s.eventID[id]; ok {
			return severity
		}
	}
	switch id {
	case "136", "137", "138", "522", "1340", "1691", "1692", // a logon failed
		"1286", "1287", "2031", // a userid that is disabled, or not allowed remote access
		"191", "192", "193", "859", "1324": // too many logons failed; a userid is disabled for it
		return event.SeverityWarning
	}
	return event.SeverityInfo
}
