package sinks

import (
	"encoding/json"
	"net/url"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

const (
	cloudEvent  = "application/cloudevents+json"
	cloudEvents = "application/cloudevents-batch+json"

	// Source and type of a CloudEvent begin with these. No top-level domain is called hmcnotifyd, so that no such type is in
	// anybody else's domain.
	cloudEventSource = "/hmcnotifyd/"
	cloudEventType   = "hmcnotifyd."

	// cloudEventEnvelope is about how many bytes stand around the event.
	cloudEventEnvelope = 400
)

// cloudEventBody returns the record as CloudEvents 1.0 in structured mode has it.
func cloudEventBody(records []event.Record) ([]byte, error) {
	return appendCloudEvent(make([]byte, 0, len(records[0].JSON)+cloudEventEnvelope), records[0]), nil
}

// cloudEventsBody returns the records as a batch of CloudEvents.
func cloudEventsBody(records []event.Record) ([]byte, error) {
	size := 2
	for i := range records {
		size += len(records[i].JSON) + cloudEventEnvelope
	}
	body := append(make([]byte, 0, size), '[')
	for i := range records {
		if i > 0 {
			body = append(body, ',')
		}
		body = appendCloudEvent(body, records[i])
	}
	return append(body, ']'), nil
}

// appendCloudEvent takes what it needs out of the event's JSON as it stands there. The event as a whole is the data.
func appendCloudEvent(dst []byte, r event.Record) []byte {
	var hmc, kind, at, name, uri []byte
	for key, value := range event.Members(r.JSON) {
		switch string(key) {
		case "hmc":
			hmc = value
		case "type":
			kind = value
		case "time":
			at = value
		case "resource":
			name, uri = event.Member(value, "name"), event.Member(value, "object_uri")
		}
	}
	dst = append(dst, `{"specversion":"1.0","id":`...)
	dst = appendQuoted(dst, r.ID)
	dst = append(dst, `,"source":`...)
	dst = appendQuoted(dst, cloudEventSource+url.PathEscape(event.String(hmc)))
	dst = append(dst, `,"type":`...)
	dst = appendQuoted(dst, cloudEventType+event.String(kind))
	if len(at) > 0 {
		dst = append(append(dst, `,"time":`...), at...)
	}
	// An empty subject is against the specification: then there is none.
	if event.String(name) == "" {
		name = uri
	}
	if event.String(name) != "" {
		dst = append(append(dst, `,"subject":`...), name...)
	}
	dst = append(dst, `,"datacontenttype":"application/json","data":`...)
	dst = append(dst, r.JSON...)
	return append(dst, '}')
}

func appendQuoted(dst []byte, s string) []byte {
	quoted, _ := json.Marshal(s) // cannot fail for a string
	return append(dst, quoted...)
}
