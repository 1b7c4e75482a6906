// Package match says which events a matcher fits: those of the keys match and drop of sinks and
// rules.
package match

import (
	"cmp"
	"strconv"
	"strings"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// Matcher selects events: every key that is set must match.
type Matcher struct {
	// the type of the event
	Type Patterns `yaml:"type"`
	// the name of the HMC
	HMC Patterns `yaml:"hmc"`
	// of the resource: cpc, partition, logical-partition, ...
	Class Patterns `yaml:"class"`
	// of the resource
	Name Patterns `yaml:"name"`
	// the name of the CPC that the resource is on
	CPC Patterns `yaml:"cpc"`
	// live, refresh, backfill, reconcile or bridge
	Origin Patterns `yaml:"origin"`
	// info, warning or critical
	Severity Patterns `yaml:"severity"`
	// the new status
	Status Patterns `yaml:"status"`
	// the name of any changed property
	Property Patterns `yaml:"property"`
	// the userid of a log entry
	User Patterns `yaml:"user"`
	// the id of a log entry, such as 1941
	EventID Patterns `yaml:"event_id"`
	// found anywhere in the text of a message
	Text Search `yaml:"text"`
	// the new value of a changed property (of the one that property names): of a string the text,
	// of anything else its JSON
	Value Patterns `yaml:"value"`
	// whether it is a status change that was reported before
	Repeat *bool `yaml:"repeat"`
	// whether it was planned: the daemon was told to stop, or an audit entry or a job explains it
	Planned *bool `yaml:"planned"`
	// labels that the event has, by their names
	Label map[string]Patterns `yaml:"label"`
}

// View is an event as matchers see it; its body is parsed when the first matcher asks for it.
type View struct {
	*event.Event
	parsed bool
	// What matchers look at in the bodies of the known notification types.
	messageText, eventMessage, userid, eventID string
	// of a status change or property-change
	reports []event.Report
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
		case "change-reports":
			for r := range event.Reports(v.Body) {
				v.reports = append(v.reports, r)
			}
		}
	}
}

// Fits says whether any of the matchers fits the event.
func (v *View) Fits(ms []Matcher) bool {
	for i := range ms {
		if key, _ := v.Mismatch(&ms[i]); key == "" {
			return true
		}
	}
	return false
}

// Mismatch returns the first key of the matcher that does not fit the event, and what the event has
// there; "": all that it has fit.
func (v *View) Mismatch(m *Matcher) (key, value string) {
	res := v.Resource
	if res == nil {
		res = new(event.Resource)
	}
	switch {
	case !m.Type.allow(v.Type):
		return "type", v.Type
	case !m.HMC.allow(v.HMC):
		return "hmc", v.HMC
	case !m.Class.allow(res.Class):
		return "class", res.Class
	case !m.Name.allow(res.Name):
		return "name", res.Name
	case !m.CPC.allow(res.CPC):
		return "cpc", res.CPC
	case !m.Origin.allow(v.Origin):
		return "origin", v.Origin
	case !m.Severity.allow(v.Severity):
		return "severity", v.Severity
	case m.Repeat != nil && *m.Repeat != v.Repeat:
		return "repeat", strconv.FormatBool(v.Repeat)
	case m.Planned != nil && *m.Planned != v.Planned:
		return "planned", strconv.FormatBool(v.Planned)
	}
	for name, patterns := range m.Label {
		if is := v.Labels.Get(name); !patterns.Match(is) {
			return "label." + name, is
		}
	}
	v.parse()
	switch {
	case m.Status.IsSet() && !v.anyReport(func(r *event.Report) bool {
		return r.NewStatus != "" && m.Status.Match(r.NewStatus)
	}):
		return "status", v.listed(func(r *event.Report) string { return r.NewStatus })
	case m.Property.IsSet() && !v.anyReport(m.fitsProperty):
		return "property", v.listed(func(r *event.Report) string { return r.Property })
	case m.Value.IsSet() && !v.anyReport(m.fitsValue):
		return "value", v.listed(newValue)
	case m.User.IsSet() && !m.User.Match(v.userid):
		return "user", v.userid
	case m.EventID.IsSet() && !m.EventID.Match(v.eventID):
		return "event_id", v.eventID
	case m.Text.IsSet() && !m.Text.Match(v.Text()):
		return "text", v.Text()
	}
	return "", ""
}

// CanFit says whether the matcher can fit events of a type: some of its keys are of one type only.
func (m *Matcher) CanFit(typ string) bool {
	if !m.Type.allow(typ) {
		return false
	}
	for _, key := range m.KeysOfOneType() {
		if key.Set && key.Type != typ {
			return false
		}
	}
	return true
}

// KeyOfOneType is a key of a matcher that is of events of one type only.
type KeyOfOneType struct {
	Name string
	Set  bool
	Type string
}

// KeysOfOneType lists those keys, whether or not they are set.
func (m *Matcher) KeysOfOneType() [6]KeyOfOneType {
	return [...]KeyOfOneType{
		{"status", m.Status.IsSet(), event.TypeStatusChange},
		{"repeat", m.Repeat != nil && *m.Repeat, event.TypeStatusChange},
		{"property", m.Property.IsSet(), event.TypePropertyChange},
		{"value", m.Value.IsSet(), event.TypePropertyChange},
		{"user", m.User.IsSet(), event.TypeLogEntry},
		{"event_id", m.EventID.IsSet(), event.TypeLogEntry},
	}
}

func (m *Matcher) fitsProperty(r *event.Report) bool {
	return r.Property != "" && m.Property.allow(r.Property)
}

// fitsValue says whether a report is of a change to the value, of the property if one is named.
func (m *Matcher) fitsValue(r *event.Report) bool {
	return m.fitsProperty(r) && m.Value.Match(newValue(r))
}

// newValue is the new value of a property: of a string the text, else as JSON has it.
func newValue(r *event.Report) string { return event.Unquoted(r.NewValue) }

func (v *View) anyReport(fits func(*event.Report) bool) bool {
	for i := range v.reports {
		if fits(&v.reports[i]) {
			return true
		}
	}
	return false
}

func (v *View) listed(of func(*event.Report) string) string {
	var all []string
	for i := range v.reports {
		if text := of(&v.reports[i]); text != "" {
			all = append(all, text)
		}
	}
	return strings.Join(all, ", ")
}

// Text is what a person would read: the message of an operating system or a log, else the summary.
func (v *View) Text() string {
	v.parse()
	return cmp.Or(v.messageText, v.eventMessage, v.BodyText, v.Summary)
}
