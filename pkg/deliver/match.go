package deliver

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// Router decides which events a sink gets.
type Router struct {
	Match, Drop []config.Matcher
}

// Wants says whether the sink gets the record: any item of match (or none configured) and no item of drop.
// A record that cannot be parsed is delivered: what nobody can read must not vanish on the way.
func (r Router) Wants(rec event.Record) bool {
	if len(r.Match) == 0 && len(r.Drop) == 0 {
		return true
	}
	e, err := rec.Event()
	if err != nil {
		return true
	}
	v := View{Event: e}
	if len(r.Match) > 0 && !v.matchesAny(r.Match) {
		return false
	}
	return !v.matchesAny(r.Drop)
}

// Route says whether a sink gets an event, and why.
type Route struct {
	Sink string
	Gets bool
	Why  string // in words
}

// Routes says which sinks of a configuration get an event.
func Routes(cfg *config.Config, e *event.Event) []Route {
	var routes []Route
	for i := range cfg.Sinks {
		s := &cfg.Sinks[i]
		r := Route{Sink: s.Name}
		r.Gets, r.Why = Explain(s, &View{Event: e})
		if s.Alertmanager != nil && !r.Gets {
			r.Why += "; it can end an alert all the same"
		}
		routes = append(routes, r)
	}
	return routes
}

// Explain says whether a sink gets an event.
func Explain(s *config.Sink, v *View) (gets bool, why string) {
	for i := range s.Drop {
		if key, _ := v.mismatch(&s.Drop[i]); key == "" {
			return false, fmt.Sprintf("drop[%d] fits", i)
		}
	}
	why = "it has no match, and so gets every event"
	if len(s.Match) > 0 {
		var misses []string
		for i := range s.Match {
			key, value := v.mismatch(&s.Match[i])
			if key == "" {
				gets, why = true, fmt.Sprintf("match[%d] fits", i)
				break
			}
			misses = append(misses, fmt.Sprintf("match[%d] does not fit %s %q", i, key, event.Cut(event.Printable(value), event.MaxValue)))
		}
		if !gets {
			return false, strings.Join(misses, "; ")
		}
	}
	if s.Collapse && (v.Repeat || v.Type == event.TypeStatusChange) {
		if v.Repeat {
			return false, why + ", but collapse leaves out what was told before"
		}
		why += "; collapse may gather it into a " + event.TypeStatusChangeSummary
	}
	return true, why
}

// View is an event as the matchers see it; its body is parsed when the first matcher asks for it.
type View struct {
	*event.Event
	parsed bool
	body   bodyView
}

// bodyView is what matchers look at in the bodies of the known notification types.
type bodyView struct {
	ChangeReports []struct {
		NewStatus    string `json:"new-status"`
		PropertyName string `json:"property-name"`
	} `json:"change-reports"`
	MessageText  string          `json:"message-text"`
	EventMessage string          `json:"event-message"`
	Userid       string          `json:"userid"`
	EventID      json.RawMessage `json:"event-id"` // a string of digits; a number is taken as well
}

func (v *View) parsedBody() *bodyView {
	if !v.parsed {
		v.parsed = true
		// A body of another shape leaves the fields empty: nothing in it can match then.
		_ = json.Unmarshal(v.Body, &v.body)
	}
	return &v.body
}

func (v *View) matchesAny(ms []config.Matcher) bool {
	for i := range ms {
		if key, _ := v.mismatch(&ms[i]); key == "" {
			return true
		}
	}
	return false
}

// mismatch returns the first key of the matcher that does not fit the event, and what the event has there; "": all that it has fit.
func (v *View) mismatch(m *config.Matcher) (key, value string) {
	var res event.Resource
	if v.Resource != nil {
		res = *v.Resource
	}
	for _, f := range []struct {
		key      string
		patterns config.Patterns
		value    string
	}{
		{"type", m.Type, v.Type},
		{"hmc", m.HMC, v.HMC},
		{"class", m.Class, res.Class},
		{"name", m.Name, res.Name},
		{"cpc", m.CPC, res.CPC},
		{"origin", m.Origin, v.Origin},
		{"severity", m.Severity, v.Severity},
	} {
		if f.patterns.IsSet() && !f.patterns.Match(f.value) {
			return f.key, f.value
		}
	}
	if m.Status.IsSet() && !v.anyReport(func(status, _ string) bool { return status != "" && m.Status.Match(status) }) {
		return "status", v.reported(func(status, _ string) string { return status })
	}
	if m.Property.IsSet() && !v.anyReport(func(_, property string) bool { return property != "" && m.Property.Match(property) }) {
		return "property", v.reported(func(_, property string) string { return property })
	}
	if user := v.parsedBody().Userid; m.User.IsSet() && !m.User.Match(user) {
		return "user", user
	}
	if id := event.Unquoted(v.parsedBody().EventID); m.EventID.IsSet() && !m.EventID.Match(id) {
		return "event_id", id
	}
	if m.Text.IsSet() && !m.Text.Match(v.text()) {
		return "text", v.text()
	}
	return "", ""
}

// reported lists what the change reports have, for a person.
func (v *View) reported(of func(status, property string) string) string {
	var all []string
	v.anyReport(func(status, property string) bool {
		all = append(all, of(status, property))
		return false
	})
	return strings.Join(all, ", ")
}

func (v *View) anyReport(f func(status, property string) bool) bool {
	for _, r := range v.parsedBody().ChangeReports {
		if f(r.NewStatus, r.PropertyName) {
			return true
		}
	}
	return false
}

// text is what a person would read: the message of an operating system or a log, else the summary.
func (v *View) text() string {
	b := v.parsedBody()
	switch {
	case b.MessageText != "":
		return b.MessageText
	case b.EventMessage != "":
		return b.EventMessage
	case v.BodyText != "":
		return v.BodyText
	}
	return v.Summary
}
