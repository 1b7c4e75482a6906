package sinks

import (
	"cmp"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/render"
)

// maxNameField is how much of a value goes into the name of a subject or topic: these have limits,
// values have none.
const maxNameField = 64

// eventFields are what of an event goes into names, headers and lines. Empty is what the event does
// not have.
type eventFields struct {
	record            *event.Record
	hmc, kind, time   string
	class, name, cpc  string
	object            string // URI
	topicType         string
	summary, severity string
	// labels as they stand in the JSON
	labelsJSON []byte
}

// fieldsOf reads the beginning of the record's JSON, up to where headers and body begin.
func fieldsOf(r *event.Record) eventFields {
	f := eventFields{record: r, kind: r.Type}
	f.read(r.JSON)
	return f
}

// read reads the event, and its resource within.
func (f *eventFields) read(object []byte) {
	for member, value := range event.Members(object) {
		switch string(member) {
		case "hmc":
			f.hmc = event.String(value)
		case "time":
			f.time = event.String(value)
		case "topic_type":
			f.topicType = event.String(value)
		case "resource":
			f.read(value)
		case "class":
			f.class = event.String(value)
		case "name":
			f.name = event.String(value)
		case "cpc":
			f.cpc = event.String(value)
		case "object_uri":
			f.object = event.String(value)
		case "summary":
			f.summary = event.String(value)
		case "severity":
			f.severity = event.String(value)
		case "labels": // the last of them, behind the severity
			f.labelsJSON = value
			return
		case "runbook", "headers", "body", "body_text":
			return
		}
	}
}

// labels are those of the event, in the order of their names.
func (f *eventFields) labels() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for name, value := range event.Members(f.labelsJSON) {
			if !yield(string(name), event.String(value)) {
				return
			}
		}
	}
}

// at is the time of the event, or when it was received, where that is none that can be read.
func (f *eventFields) at() time.Time {
	at, err := time.Parse(time.RFC3339Nano, f.time)
	if err != nil {
		return f.record.Received
	}
	return at
}

// body is what the event has of the HMC's.
func (f *eventFields) body() []byte { return event.Member(f.record.JSON, "body") }

func (f *eventFields) get(field string) string {
	switch field {
	case render.FieldHMC:
		return f.hmc
	case render.FieldType:
		return f.kind
	case render.FieldCPC:
		return f.cpc
	case render.FieldClass:
		return f.class
	case render.FieldName:
		return f.name
	case render.FieldSeverity:
		return f.severity
	}
	return ""
}

// naming makes the name of a subject or topic for an event.
type naming struct {
	parts []render.NamePart
	// also has the characters besides ASCII letters and digits that a value may bring in.
	also string
}

func newNaming(name, also string) (naming, error) {
	parts, err := render.SplitName(name)
	return naming{parts: parts, also: also}, err
}

// fixed reports whether the name is the same for all events.
func (n naming) fixed() bool {
	return !slices.ContainsFunc(n.parts, func(p render.NamePart) bool { return p.Field != "" })
}

// of returns the name for an event.
func (n naming) of(f *eventFields) string {
	return n.join(func(field string) string { return n.safe(f.get(field)) })
}

// pattern returns the name with the wildcard in place of every value.
func (n naming) pattern(wildcard string) string {
	return n.join(func(string) string { return wildcard })
}

// join puts the parts together, with what value returns for the fields among them.
func (n naming) join(value func(field string) string) string {
	var b strings.Builder
	for _, p := range n.parts {
		if p.Field == "" {
			b.WriteString(p.Text)
		} else {
			b.WriteString(value(p.Field))
		}
	}
	return b.String()
}

// safe returns a value of which nothing is left that means something in a name: _ for each such
// character, and for a value that is empty. What is left is ASCII.
func (n naming) safe(value string) string {
	value = strings.Map(func(c rune) rune {
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.ContainsRune(n.also, c) {
			return c
		}
		return '_'
	}, value)
	return cmp.Or(value[:min(len(value), maxNameField)], "_")
}
