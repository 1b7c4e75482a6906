package render

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strconv"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// Event is what a template sees of an event: the fields of its JSON form. A field that the event
// does not have is empty.
type Event struct {
	ID  string `json:"id"`
	HMC string `json:"hmc"`
	// of the HMC, by the configuration: the same for HMCs that see the same machines
	Group string `json:"-"`
	Type  string `json:"type"`
	// as in the JSON form; see the function date
	Time              string            `json:"time"`
	Received          string            `json:"received"`
	Topic             string            `json:"topic"`
	TopicType         string            `json:"topic_type"`
	SessionSequenceNr json.Number       `json:"session_sequence_nr"`
	GlobalSequenceNr  json.Number       `json:"global_sequence_nr"`
	Origin            string            `json:"origin"`
	Resource          event.Resource    `json:"resource"`
	Summary           string            `json:"summary"`
	Severity          string            `json:"severity"`
	Repeat            bool              `json:"repeat"`
	Planned           bool              `json:"planned"`
	Unacceptable      any               `json:"unacceptable"` // true, false, or nil: not known
	Labels            map[string]string `json:"labels"`
	Runbook           string            `json:"runbook"`
	SeenBy            []string          `json:"seen_by"`
	Headers           map[string]string `json:"headers"`
	// a JSON object; every other kind of body is only in the whole event
	Body     map[string]any `json:"body"`
	BodyText string         `json:"body_text"`

	Change

	whole []byte
}

// Change is what an event says of a status, in as many reports as there are: the one before, the
// one that it is now, and the property that is a status by another name.
type Change struct {
	OldStatus      string `json:"-"`
	NewStatus      string `json:"-"`
	StatusProperty string `json:"-"`
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
	d := json.NewDecoder(bytes.NewReader(r.JSON))
	d.UseNumber()
	err := d.Decode(e)
	if other, ok := errors.AsType[*json.UnmarshalTypeError](err); ok && other.Field == "body" {
		err = nil // all but that has been read
	}
	switch r.Type {
	case event.TypeStatusChange:
		e.OldStatus, e.NewStatus = event.FromTo(bodyOf(r.JSON))
	case event.TypePropertyChange:
		e.StatusProperty, e.OldStatus, e.NewStatus = event.StatusProperty(e.Resource.Class, bodyOf(r.JSON))
	}
	numbers(e.Body)
	return e, err
}

func bodyOf(whole []byte) []byte { return event.Member(whole, "body") }

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
