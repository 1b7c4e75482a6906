package bridge

import (
	"encoding/json"
	"path"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// maxValue bounds a property value in a summary, in bytes.
const maxValue = 80

// describe sets the summary and the severity of an event that is a whole notification.
func describe(e *event.Event) {
	switch e.Type {
	case event.TypeStatusChange:
		describeStatusChange(e)
	case event.TypePropertyChange:
		describePropertyChange(e)
	case event.TypeInventoryChange:
		describeInventoryChange(e)
	case event.TypeJobCompletion:
		e.Summary = "job " + path.Base(e.Headers.Get("job-uri")) + " completed"
	default:
		e.Summary = withResource(e, e.Type)
	}
}

func describeStatusChange(e *event.Event) {
	var body struct {
		Reports []struct {
			Old          string `json:"old-status"`
			New          string `json:"new-status"`
			Unacceptable *bool  `json:"has-unacceptable-status"`
		} `json:"change-reports"`
	}
	decodeLoosely(e.Body, &body)
	if len(body.Reports) == 0 {
		e.Summary = withResource(e, "status changed")
		return
	}
	// Oldest first: the last one is how things stand now.
	last := body.Reports[len(body.Reports)-1]
	e.Summary = withResource(e, orUnknown(body.Reports[0].Old)+" -> "+orUnknown(last.New))
	e.Severity = statusSeverity(last.New)
	if last.Unacceptable != nil && *last.Unacceptable && e.Severity == event.SeverityInfo {
		e.Severity = event.SeverityWarning
	}
}

// statusSeverity rates the statuses of CPCs, partitions and LPARs. One that is not listed here is information: what
// nobody has seen before must not wake anybody up.
func statusSeverity(status string) string {
	switch status {
	case "communications-not-active", "not-communicating", "status-check", "no-power", "terminated", "exceptions",
		"service-required", "reservation-error":
		return event.SeverityCritical
	case "stopped", "paused", "degraded", "not-operating", "not-activated", "service":
		return event.SeverityWarning
	}
	return event.SeverityInfo
}

func describePropertyChange(e *event.Event) {
	var body struct {
		Reports []struct {
			Name string          `json:"property-name"`
			Old  json.RawMessage `json:"old-value"`
			New  json.RawMessage `json:"new-value"`
		} `json:"change-reports"`
	}
	decodeLoosely(e.Body, &body)
	if len(body.Reports) == 0 {
		names := strings.Join(strings.Fields(e.Headers.Get("property-names")), ", ")
		if names == "" {
			names = "properties"
		}
		e.Summary = withResource(e, names+" changed")
		return
	}
	first := body.Reports[0]
	what := first.Name + " " + shortValue(first.Old) + " -> " + shortValue(first.New)
	if more := len(body.Reports) - 1; more > 0 {
		what += " and " + strconv.Itoa(more) + " more"
	}
	e.Summary = withResource(e, what)
}

func describeInventoryChange(e *event.Event) {
	action := e.Headers.Get("action")
	switch action {
	case "add":
		action = "added" // not "created": the HMC repeats it when it rebuilds its inventory
	case "remove":
		action = "removed"
	case "":
		action = "inventory changed"
	}
	if e.Resource != nil && e.Resource.ElementURI != "" {
		action = "element " + path.Base(path.Dir(e.Resource.ElementURI)) + "/" + path.Base(e.Resource.ElementURI) + " " + action
	}
	e.Summary = withResource(e, action)
}

// withResource puts the resource in front of what happened: "partition PART1 on CPC1: active -> stopped".
func withResource(e *event.Event, what string) string {
	r := e.Resource
	if r == nil {
		return what
	}
	class := r.Class
	if class == "" {
		class = "resource"
	}
	name := r.Name
	if name == "" {
		name = r.ObjectURI
	}
	s := class
	if name != "" {
		s += " " + name
	}
	if r.CPC != "" && class != "cpc" {
		s += " on " + r.CPC
	}
	return s + ": " + what
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

// shortValue is a JSON value as a person reads it, cut to a bearable length.
func shortValue(raw json.RawMessage) string {
	s := unquoted(raw)
	if len(raw) > 0 && raw[0] == '"' {
		s = string(raw) // a string keeps its quotes: "" is not nothing
	}
	if s == "" {
		return "null"
	}
	if len(s) <= maxValue {
		return s
	}
	cut := maxValue
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "..."
}
