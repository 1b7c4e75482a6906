package render

import (
	"bytes"
	"encoding/json"
	"slices"
	"strconv"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// Event is what a template sees of an event: the fields of its JSON form. A field that the event
// does not have is empty.
type Event struct {
	ID   string
	HMC  string
	Type string
	// as in the JSON form; see the function date
	Time              string
	Received          string
	Topic             string
	TopicType         string
	SessionSequenceNr json.Number
	GlobalSequenceNr  json.Number
	Origin            string
	Resource          event.Resource
	Summary           string
	Severity          string
	Repeat            bool
	SeenBy            []string
	Headers           map[string]string
	// a JSON object; every other kind of body is only in the whole event
	Body     map[string]any
	BodyText string

	whole []byte
}

// Batch is what a template for batches sees.
type Batch struct {
	Events []*Event
}

// MarshalJSON returns the event as it is delivered without a template.
func (e *Event) MarshalJSON() ([]byte, error) { return e.whole, nil }

// MarshalJSON returns the events as an array.
func (b Batch) MarshalJSON() ([]byte, error) {
	all := make([][]byte, len(b.Events))
	for i, e := range b.Events {
		all[i] = e.whole
	}
	return slices.Concat([]byte{'['}, bytes.Join(all, []byte{','}), []byte{']'}), nil
}

// newEvent reads the record.
func newEvent(r event.Record) (*Event, error) {
	e := &Event{whole: r.JSON}
	for key, value := range event.Members(r.JSON) {
		var err error
		switch to := e.member(string(key)).(type) {
		case nil:
		case *string:
			*to = event.String(value)
		case *json.Number:
			*to = json.Number(value)
		case *bool:
			*to = event.True(value)
		case *map[string]any:
			if bytes.HasPrefix(value, []byte("{")) {
				d := json.NewDecoder(bytes.NewReader(value))
				d.UseNumber()
				err = d.Decode(to)
				numbers(*to)
			}
		default:
			err = json.Unmarshal(value, to)
		}
		if err != nil {
			return nil, err
		}
	}
	return e, nil
}

// member returns where a member of the JSON form belongs; nil: nowhere.
func (e *Event) member(name string) any {
	switch name {
	case "id":
		return &e.ID
	case "hmc":
		return &e.HMC
	case "type":
		return &e.Type
	case "time":
		return &e.Time
	case "received":
		return &e.Received
	case "topic":
		return &e.Topic
	case "topic_type":
		return &e.TopicType
	case "session_sequence_nr":
		return &e.SessionSequenceNr
	case "global_sequence_nr":
		return &e.GlobalSequenceNr
	case "origin":
		return &e.Origin
	case "resource":
		return &e.Resource
	case "summary":
		return &e.Summary
	case "severity":
		return &e.Severity
	case "repeat":
		return &e.Repeat
	case "seen_by":
		return &e.SeenBy
	case "headers":
		return &e.Headers
	case "body":
		return &e.Body
	case "body_text":
		return &e.BodyText
	}
	return nil
}

// numbers makes int64 or float64 of the numbers in v, in place, so that a template can compare
// them, and whole numbers are printed as such.
func numbers(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			v[key] = numbers(value)
		}
	case []any:
		for i, value := range v {
			v[i] = numbers(value)
		}
	case json.Number:
		if n, err := strconv.ParseInt(v.String(), 10, 64); err == nil {
			return n
		}
		if f, err := v.Float64(); err == nil {
			return f
		}
		return v.String()
	}
	return v
}
