package translate

import (
	"cmp"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/estate"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// authFailed is the state of bridge-disconnected of an HMC that refuses the logon.
const authFailed = "auth_failed"

// Rater rates events that were rated before, or by nobody, as a configuration rates them now.
type Rater struct {
	severities *Severities
	rules      *Rules
	labels     map[string]event.Headers // of the HMCs, by their names
}

// NewRater returns a rater for a configuration.
func NewRater(cfg *config.Config) *Rater {
	r := &Rater{
		severities: NewSeverities(cfg.Severity), rules: NewRules(cfg.Rules), labels: make(map[string]event.Headers),
	}
	for i := range cfg.HMCs {
		r.labels[cfg.HMCs[i].Name] = Labels(cfg.HMCs[i].Labels)
	}
	return r
}

// Rate gives an event the severity that follows from what is in it, the labels of its HMC, and then
// what the rules say. What does not follow from that stays as it is: a summary, labels, the
// severity of an event of the daemon itself that has one.
func (r *Rater) Rate(e *event.Event) {
	c := NewConverter(e.HMC, nil, estate.New(), nil)
	c.Severities = r.severities
	given := *e
	e.Severity = event.SeverityInfo
	switch e.Type {
	case event.TypeStatusChange, event.TypePropertyChange, event.TypeInventoryChange, event.TypeJobCompletion:
		n := Notification{Type: e.Type, Headers: e.Headers}
		for report := range event.Reports(e.Body) {
			n.Reports = append(n.Reports, report)
		}
		o := outcomeOf(n.Reports)
		if o.judged == estate.Unjudged && e.Unacceptable != nil {
			o.judged = estate.JudgementOf(*e.Unacceptable)
		}
		known := estate.Resource{Class: classOf(e)}
		n.Received = e.Received
		o.starting = o.status == notOperating && !started(&n, &known, true).IsZero()
		c.describe(e, &n, &o)
	case event.TypeOSMessage:
		if m := event.ParseOSMessage(e.Body); !isOver(e) {
			describeOSMessage(e, &m)
		}
	case event.TypeLogEntry:
		l := ParseLogEntry(e.Body)
		describeLogEntry(e, &l, c.Severities)
	case event.TypeHardwareMessage:
		if !isOver(e) {
			e.Severity = event.SeverityWarning
		}
	default:
		e.Severity = cmp.Or(given.Severity, r.own(e))
	}
	e.Summary = cmp.Or(given.Summary, e.Summary)
	e.Labels = withLabels(e.Labels, r.labels[e.HMC])
	r.rules.Apply(e)
}

// own is the severity of an event that the daemon itself makes, and of any other type.
func (r *Rater) own(e *event.Event) string {
	member := func(name string) []byte { return event.Member(e.Body, name) }
	switch e.Type {
	case event.TypeBridgeDisconnected:
		if event.String(member("state")) == authFailed {
			return event.SeverityCritical
		}
		return event.SeverityWarning
	case event.TypeBridgeGap:
		for range event.Elements(member("may_be_missing")) {
			return event.SeverityWarning
		}
	case event.TypeBridgeHeartbeat:
		if up, told := event.Bool(member("connected")); told && !up {
			return event.SeverityWarning
		}
	case event.TypeStatusChangeSummary:
		return r.severities.OfStatus("", event.String(member("new-status")), estate.Unjudged)
	}
	return event.SeverityInfo
}
