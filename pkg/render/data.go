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
	texts := map[string]*string{
		"id": &e.ID, "hmc": &e.HMC, "type": &e.Type, "time": &e.Time, "received": &e.Received,
		"topic": &e.Topic, "topic_type": &e.TopicType, "origin": &e.Origin,
		"summary": &e.Summary, "severity": &e.Severity, "body_text": &e.BodyText,
	}
	others := map[string]any{
		"session_sequence_nr": &e.SessionSequenceNr, "global_sequence_nr": &e.GlobalSequenceNr, "resource": &e.Resource,
		"repeat": &e.Repeat, "seen_by": &e.SeenBy, "headers": &e.Headers, "body": &e.Body,
	}
	for key, value := range event.Members(r.JSON) {
		if text := texts[string(key)]; text != nil {
			*text = event.String(value)
			continue
		}
		to := others[string(key)]
		if to == nil || to == &e.Body && !bytes.HasPrefix(value, []byte("{")) {
			continue
		}
		d := json.NewDecoder(bytes.NewReader(value))
		d.UseNumber()
		if err := d.Decode(to); err != nil {
			return nil, err
		}
	}
	numbers(e.Body)
	return e, nil
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
