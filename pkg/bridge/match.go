package bridge

import (
	"encoding/json"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// router decides which events a sink gets.
type router struct {
	match, drop []config.Matcher
}

// wants says whether the sink gets the record: any item of match (or none configured) and no item of drop.
// A record that cannot be parsed is delivered: what nobody can read must not vanish on the way.
func (r router) wants(rec event.Record) bool {
	if len(r.match) == 0 && len(r.drop) == 0 {
		return true
	}
	e, err := rec.Event()
	if err != nil {
		return true
	}
	v := view{Event: e}
	if len(r.match) > 0 && !v.matchesAny(r.match) {
		return false
	}
	return !v.matchesAny(r.drop)
}

// view is an event as the matchers see it; its body is parsed when the first matcher asks for it.
type view struct {
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

func (v *view) parsedBody() *bodyView {
	if !v.parsed {
		v.parsed = true
		// A body of another shape leaves the fields empty: nothing in it can match then.
		_ = json.Unmarshal(v.Body, &v.body)
	}
	return &v.body
}

func (v *view) matchesAny(ms []config.Matcher) bool {
	for i := range ms {
		if v.matches(&ms[i]) {
			return true
		}
	}
	return false
}

// matches says whether every key that the matcher has fits the event.
func (v *view) matches(m *config.Matcher) bool {
	var res event.Resource
	if v.Resource != nil {
		res = *v.Resource
	}
	for _, f := range []struct {
		patterns config.Patterns
		value    string
	}{
		{m.Type, v.Type},
		{m.HMC, v.HMC},
		{m.Class, res.Class},
		{m.Name, res.Name},
		{m.CPC, res.CPC},
		{m.Origin, v.Origin},
		{m.Severity, v.Severity},
	} {
		if f.patterns.IsSet() && !f.patterns.Match(f.value) {
			return false
		}
	}
	if m.Status.IsSet() && !v.anyReport(func(status, _ string) bool { return status != "" && m.Status.Match(status) }) {
		return false
	}
	if m.Property.IsSet() && !v.anyReport(func(_, property string) bool { return property != "" && m.Property.Match(property) }) {
		return false
	}
	if m.User.IsSet() && !m.User.Match(v.parsedBody().Userid) {
		return false
	}
	if m.EventID.IsSet() && !m.EventID.Match(unquoted(v.parsedBody().EventID)) {
		return false
	}
	return !m.Text.IsSet() || m.Text.Match(v.text())
}

func (v *view) anyReport(f func(status, property string) bool) bool {
	for _, r := range v.parsedBody().ChangeReports {
		if f(r.NewStatus, r.PropertyName) {
			return true
		}
	}
	return false
}

// text is what a person would read: the message of an operating system or a log, else the summary.
func (v *view) text() string {
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

// unquoted returns a JSON string's value, and any other JSON value as it stands.
func unquoted(raw []byte) string {
	if len(raw) > 0 && raw[0] == '"' {
		return event.String(raw)
	}
	return string(raw)
}
