package sinks

import (
	"cmp"
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

const (
	cloudEvent  = "application/cloudevents+json"
	cloudEvents = "application/cloudevents-batch+json"

	// Source and type of a CloudEvent begin with these. No top-level domain is called
	// hmcnotifyd, so that no such type is in anybody else's domain.
	cloudEventSource = "/hmcnotifyd/"
	cloudEventType   = "hmcnotifyd."

	// cloudEventEnvelope is about how many bytes stand around the event.
	cloudEventEnvelope = 400
)

// appendCloudEvent appends the record as CloudEvents 1.0 in structured mode has it. It takes what
// it needs out of the event's JSON as it stands there. The event as a whole is the data.
func appendCloudEvent(dst []byte, r event.Record) []byte {
	f := fieldsOf(&r)
	dst = append(dst, `{"specversion":"1.0","id":`...)
	dst = appendQuoted(dst, r.ID)
	dst = append(dst, `,"source":`...)
	dst = appendQuoted(dst, cloudEventSource+url.PathEscape(f.hmc))
	dst = append(dst, `,"type":`...)
	dst = appendQuoted(dst, cloudEventType+f.kind)
	if _, err := time.Parse(time.RFC3339Nano, f.time); err == nil {
		dst = appendQuoted(append(dst, `,"time":`...), f.time)
	}
	// An empty subject is against the specification: then there is none.
	if subject := cmp.Or(f.name, f.object); subject != "" {
		dst = appendQuoted(append(dst, `,"subject":`...), subject)
	}
	dst = appendExtensions(dst, &f)
	dst = append(dst, `,"datacontenttype":"application/json","data":`...)
	dst = append(dst, r.JSON...)
	return append(dst, '}')
}

// appendExtensions appends each label as an attribute of its own, by which brokers select. Names of
// attributes have small letters and digits only, so that of two labels which differ in nothing else
// the first counts.
func appendExtensions(dst []byte, f *eventFields) []byte {
	var seen []string
	for label, value := range f.labels() {
		name := "label" + strings.ReplaceAll(label, "_", "")
		if !slices.Contains(seen, name) {
			seen = append(seen, name)
			dst = appendQuoted(append(appendQuoted(append(dst, ','), name), ':'), value)
		}
	}
	return dst
}

func appendQuoted(dst []byte, s string) []byte {
	quoted, _ := json.Marshal(s) // cannot fail for a string
	return event.AppendEscaped(dst, quoted)
}
