package sinks

import (
	"strings"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// maxNameField is how much of a value goes into the name of a subject or topic: these have limits, values have none.
const maxNameField = 64

// eventFields are what of an event goes into names and headers. Empty is what the event does not have.
type eventFields struct {
	hmc, kind, cpc, class, name, severity string

	time []byte // JSON
}

// fieldsOf reads the beginning of the record's JSON, up to where headers and body begin. What is known of the resource is
// read only for a name that needs it.
func fieldsOf(r *event.Record, name naming) eventFields {
	f := eventFields{kind: r.Type}
	for member, value := range event.Members(r.JSON) {
		switch string(member) {
		case "hmc":
			f.hmc = event.String(value)
		case "time":
			f.time = value
		case "resource":
			if !name.resource {
				continue
			}
			for member, value := range event.Members(value) {
				switch string(member) {
				case "class":
					f.class = event.String(value)
				case "name":
					f.name = event.String(value)
				case "cpc":
					f.cpc = event.String(value)
				}
			}
		case "severity": // the last of them
			f.severity = event.String(value)
			return f
		}
	}
	return f
}

func (f *eventFields) get(field string) string {
	switch field {
	case config.FieldHMC:
		return f.hmc
	case config.FieldType:
		return f.kind
	case config.FieldCPC:
		return f.cpc
	case config.FieldClass:
		return f.class
	case config.FieldName:
		return f.name
	case config.FieldSeverity:
		return f.severity
	}
	return ""
}

// naming makes the name of a subject or topic for an event.
type naming struct {
	parts    []config.NamePart
	also     string // the characters besides ASCII letters and digits that a value may bring in
	resource bool   // it has something of the resource in it
}

func newNaming(name, also string) (naming, error) {
	parts, err := config.SplitName(name)
	n := naming{parts: parts, also: also}
	for _, p := range parts {
		n.resource = n.resource || p.Field == config.FieldCPC || p.Field == config.FieldClass || p.Field == config.FieldName
	}
	return n, err
}

// fixed reports whether the name is the same for all events.
func (n naming) fixed() bool {
	for _, p := range n.parts {
		if p.Field != "" {
			return false
		}
	}
	return true
}

// of returns the name for an event.
func (n naming) of(f *eventFields) string {
	if len(n.parts) == 1 && n.parts[0].Field == "" {
		return n.parts[0].Text
	}
	var b strings.Builder
	for _, p := range n.parts {
		if p.Field == "" {
			b.WriteString(p.Text)
		} else {
			n.writeSafe(&b, f.get(p.Field))
		}
	}
	return b.String()
}

// pattern returns the name with the wildcard in place of every value.
func (n naming) pattern(wildcard string) string {
	var b strings.Builder
	for _, p := range n.parts {
		if p.Field == "" {
			b.WriteString(p.Text)
		} else {
			b.WriteString(wildcard)
		}
	}
	return b.String()
}

// writeSafe writes a value of which nothing is left that means something in a name: _ for each such character, and for
// a value that is empty.
func (n naming) writeSafe(b *strings.Builder, value string) {
	if value == "" {
		b.WriteByte('_')
		return
	}
	length := 0
	for _, c := range value {
		if length++; length > maxNameField {
			return
		}
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.ContainsRune(n.also, c) {
			b.WriteRune(c)
		} else {
			b.WriteByte('_')
		}
	}
}
