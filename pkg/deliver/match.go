package deliver

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// Router decides which events a sink gets.
type Router struct {
	Match, Drop []config.Matcher
}

// Wants says whether the sink gets the record: any item of match (or none configured) and no item
// of drop. A record that cannot be parsed is delivered: what nobody can read must not vanish on the
// way.
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
			value = event.Cut(event.Printable(value), event.MaxValue)
			misses = append(misses, fmt.Sprintf("match[%d] does not fit %s %q", i, key, value))
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
	// What matchers look at in the bodies of the known notification types.
	messageText, eventMessage, userid, eventID string
	// Of all change reports, where they have them.
	statuses, properties []string
}

// parse reads the body. One of another shape leaves the fields empty: nothing in it can match then.
func (v *View) parse() {
	if v.parsed {
		return
	}
	v.parsed = true
	for name, value := range event.Members(v.Body) {
		switch string(name) {
		case "message-text":
			v.messageText = event.String(value)
		case "event-message":
			v.eventMessage = event.String(value)
		case "userid":
			v.userid = event.String(value)
		case "event-id": // a string of digits; a number is taken as well
			v.eventID = event.Unquoted(value)
		}
	}
	for r := range event.Reports(v.Body) {
		if r.NewStatus != "" {
			v.statuses = append(v.statuses, r.NewStatus)
		}
		if r.Property != "" {
			v.properties = append(v.properties, r.Property)
		}
	}
}

func (v *View) matchesAny(ms []config.Matcher) bool {
	for i := range ms {
		if key, _ := v.mismatch(&ms[i]); key == "" {
			return true
		}
	}
	return false
}

// mismatch returns the first key of the matcher that does not fit the event, and what the event has
// there; "": all that it has fit.
func (v *View) mismatch(m *config.Matcher) (key, value string) {
	res := cmp.Or(v.Resource, &event.Resource{})
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
	v.parse()
	switch {
	case m.Status.IsSet() && !slices.ContainsFunc(v.statuses, m.Status.Match):
		return "status", strings.Join(v.statuses, ", ")
	case m.Property.IsSet() && !slices.ContainsFunc(v.properties, m.Property.Match):
		return "property", strings.Join(v.properties, ", ")
	case m.User.IsSet() && !m.User.Match(v.userid):
		return "user", v.userid
	case m.EventID.IsSet() && !m.EventID.Match(v.eventID):
		return "event_id", v.eventID
	case m.Text.IsSet() && !m.Text.Match(v.text()):
		return "text", v.text()
	}
	return "", ""
}

// Contains says whether a text, in lower case, is part of what a person reads of the event.
func (v *View) Contains(text string) bool {
	r := cmp.Or(v.Resource, &event.Resource{})
	return slices.ContainsFunc([]string{v.Summary, v.Type, v.text(), r.Name, r.CPC, r.ElementName, r.Class},
		func(s string) bool { return strings.Contains(strings.ToLower(s), text) })
}

// text is what a person would read: the message of an operating system or a log, else the summary.
func (v *View) text() string {
	v.parse()
	return cmp.Or(v.messageText, v.eventMessage, v.BodyText, v.Summary)
}
