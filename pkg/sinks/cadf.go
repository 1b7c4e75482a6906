package sinks

import (
	"cmp"
	_ "embed" // for cadf_messages.txt
	"encoding/json"
	"strconv"
	"strings"
	"sync"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// cadf is an event of the Cloud Auditing Data Federation (DMTF DSP0262) in the form that
// zhmc-log-forwarder gives it.
type cadf struct {
	ID            string       `json:"id"`
	TypeURI       string       `json:"typeURI"`
	EventTime     string       `json:"eventTime"`
	EventType     string       `json:"eventType"`
	Action        string       `json:"action"`
	EventCategory string       `json:"x_eventCategory"`
	XEventType    string       `json:"x_eventType"`
	Outcome       string       `json:"outcome"`
	Observer      cadfResource `json:"observer"`
	Message       cadfMessage  `json:"x_message"`
	// Labels are not part of the standard, whose tags are URIs.
	Labels map[string]string `json:"x_labels,omitempty"`
	// The standard demands both, whether or not anything is known of them.
	Initiator cadfResource `json:"initiator"`
	Target    cadfResource `json:"target"`
}

type cadfResource struct {
	ID      string `json:"id"`
	TypeURI string `json:"typeURI"`
	Name    string `json:"name,omitempty"`
	Address string `json:"address,omitempty"`
	Label   string `json:"x_label,omitempty"`
	Class   string `json:"x_class,omitempty"`
}

// cadfMessage is the entry itself. The lists are in the order of the variables' numbers, with null
// for one that is missing.
type cadfMessage struct {
	Number string            `json:"number"`
	Log    string            `json:"log"`
	Text   string            `json:"text"`
	Values []json.RawMessage `json:"var_values"`
	Types  []json.RawMessage `json:"var_types"`
}

const (
	// The type of the HMC.
	cadfService = "service"
	cadfUnknown = "unknown"

	// cadfTime is the standard's form, which has no Z.
	cadfTime = "2006-01-02T15:04:05.000-07:00"

	// maxCADFVariable bounds the lists of variables. Messages have fewer than ten.
	maxCADFVariable = 99
)

// cadfEvent returns a log entry as CADF event. more are kinds of entries beside those that are
// known, or in their place.
func cadfEvent(e *eventFields, more map[string]cadfKind) []byte {
	var id, userid, user string
	m := cadfMessage{Log: e.topicType, Values: []json.RawMessage{}, Types: []json.RawMessage{}}
	for name, value := range event.Members(e.body()) {
		switch string(name) {
		case "event-id":
			id = strings.Trim(string(value), `"`)
		case "event-message":
			m.Text = event.String(value)
		case "userid":
			userid = event.String(value)
		case "user-uri":
			user = event.String(value)
		case "event-data-items":
			for item := range event.Elements(value) {
				m.add(item)
			}
		}
	}
	m.Number = id
	k, ok := more[id]
	if !ok {
		k = cadfKindOf(id)
	}
	consoleURI, consoleName := "/api/console", e.hmc
	if e.class == "console" {
		consoleURI, consoleName = cmp.Or(e.object, consoleURI), cmp.Or(e.name, consoleName)
	}
	c := cadf{
		ID:            "hmcnotifyd:" + e.record.ID,
		TypeURI:       "https://schemas.dmtf.org/cloud/audit/1.0/event",
		EventTime:     e.at().UTC().Format(cadfTime),
		EventType:     "activity",
		Action:        k.action,
		EventCategory: "activity/" + k.action,
		XEventType:    "zhmc" + id,
		Outcome:       k.outcome,
		Observer:      cadfResource{ID: "hmc:" + consoleURI, TypeURI: cadfService, Name: consoleName, Label: e.hmc},
		Message:       m,
		Initiator: cadfResource{
			ID: cadfUnknown, TypeURI: cadfUnknown, Name: cadfUnknown, Address: m.address(k.address),
		},
		// which one it is no entry says in a form for programs
		Target: cadfResource{ID: cadfUnknown, TypeURI: k.typeURI, Class: k.class},
	}
	for name, value := range e.labels() {
		if c.Labels == nil {
			c.Labels = make(map[string]string)
		}
		c.Labels[name] = value
	}
	if userid != "" {
		c.Initiator.TypeURI, c.Initiator.Name = "data/security/account/user", userid
	}
	if user != "" {
		c.Initiator.ID = "hmc:" + user
	}
	if k.class == "console" {
		c.Target = cadfResource{ID: c.Observer.ID, TypeURI: cadfService, Name: consoleName, Class: k.class}
	}
	data, err := json.Marshal(c)
	if err != nil { // a body that is no JSON, which no stored event has
		return e.record.JSON
	}
	return event.AppendEscaped(nil, data)
}

// add puts one element of event-data-items in its place.
func (m *cadfMessage) add(item []byte) {
	number := event.Int(event.Member(item, "data-item-number"))
	if number < 0 || number > maxCADFVariable {
		return
	}
	for int64(len(m.Values)) <= number {
		m.Values = append(m.Values, nil)
		m.Types = append(m.Types, nil)
	}
	m.Values[number] = event.Member(item, "data-item-value")
	m.Types[number] = event.Member(item, "data-item-type")
}

// address returns the variable that says where somebody came from, as zhmc-log-forwarder puts it.
func (m *cadfMessage) address(variable int) string {
	if variable < 0 || variable >= len(m.Values) {
		return cadfUnknown
	}
	address := event.String(m.Values[variable])
	switch {
	case strings.Contains(address, "console"): // "the console"
		return "console"
	// "an unknown location".
	case address == "", strings.Contains(address, cadfUnknown):
		return cadfUnknown
	}
	return address
}

// cadfKind is what an entry of the audit or security log means to CADF.
type cadfKind struct {
	action, outcome string
	// typeURI and class are those of the target; of the latter "": not known.
	typeURI, class string
	// address is the number of the variable with the initiator's address; -1: there is none.
	address int
}

// cadfTypeOf is the type of a target of a class.
func cadfTypeOf(class string) string {
	switch class {
	case "code", "user_template", "user_pattern", "unknown":
		return cadfService
	}
	return cadfUnknown
}

// cadfKindsOf are the kinds of entries that a configuration describes.
func cadfKindsOf(messages []config.LogMessage) map[string]cadfKind {
	kinds := make(map[string]cadfKind, len(messages))
	for _, m := range messages {
		kinds[m.Number] = cadfKind{
			m.Action, m.Outcome, cmp.Or(m.TargetType, cadfTypeOf(m.TargetClass)), m.TargetClass, m.Address,
		}
	}
	return kinds
}

//go:embed cadf_messages.txt
var cadfMessages string

// cadfKinds are the kinds of entries by event id.
var cadfKinds = sync.OnceValue(func() map[string]cadfKind {
	kinds := make(map[string]cadfKind)
	for line := range strings.Lines(cadfMessages) {
		row := strings.Fields(line)
		if len(row) == 0 || row[0] == "#" {
			continue
		}
		address, err := strconv.Atoi(row[3])
		if err != nil {
			address = -1
		}
		for _, id := range row[4:] {
			class := strings.TrimPrefix(row[2], "-")
			kinds[id] = cadfKind{row[0], row[1], cadfTypeOf(class), class, address}
		}
	}
	return kinds
})

func cadfKindOf(id string) cadfKind {
	if kind, ok := cadfKinds()[id]; ok {
		return kind
	}
	return cadfKind{cadfUnknown, cadfUnknown, cadfUnknown, "", -1}
}
