package translate

import (
	"cmp"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/estate"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// Rater rates events that were rated before, or by nobody, as a configuration rates them now.
type Rater struct {
	severities *Severities
	rules      *Rules
}

// NewRater returns a rater for a configuration.
func NewRater(cfg *config.Config) *Rater {
	return &Rater{severities: NewSeverities(cfg.Severity), rules: NewRules(cfg.Rules)}
}

// Rate gives an event the severity that follows from what is in it, and then what the rules say.
// What does not follow from that stays as it is: the severity of an event of the daemon itself, a
// summary, labels.
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
		c.describe(e, &n, &o)
	case event.TypeOSMessage:
		if m := event.ParseOSMessage(e.Body); !isOver(e) {
			describeOSMessage(e, &m)
		}
	case event.TypeLogEntry:
		l := ParseLogEntry(e.Body)
		describeLogEntry(e, &l, c.Severities)
	default:
		e.Severity = cmp.Or(given.Severity, event.SeverityInfo)
	}
	e.Summary = cmp.Or(given.Summary, e.Summary)
	r.rules.Apply(e)
}
