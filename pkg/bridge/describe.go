package bridge

import (
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
	// Oldest first: the last report is how things stand now.
	var from, to string
	reports, unacceptable := 0, false
	for report := range event.Elements(event.Member(e.Body, "change-reports")) {
		for name, value := range event.Members(report) {
			switch string(name) {
			case "old-status":
				if reports == 0 {
					from = event.String(value)
				}
			case "new-status":
				to = event.String(value)
			case "has-unacceptable-status":
				unacceptable = event.True(value)
			}
		}
		reports++
	}
	if reports == 0 {
		e.Summary = withResource(e, "status changed")
		return
	}
	e.Summary = withResource(e, orUnknown(from)+" -> "+orUnknown(to))
	e.Severity = statusSeverity(to)
	if unacceptable && e.Severity == event.SeverityInfo {
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
	var first []byte
	reports := 0
	for report := range event.Elements(event.Member(e.Body, "change-reports")) {
		if reports == 0 {
			first = report
		}
		reports++
	}
	if reports == 0 {
		names := strings.Join(strings.Fields(e.Headers.Get("property-names")), ", ")
		if names == "" {
			names = "properties"
		}
		e.Summary = withResource(e, names+" changed")
		return
	}
	what := event.String(event.Member(first, "property-name")) +
		" " + shortValue(event.Member(first, "old-value")) + " -> " + shortValue(event.Member(first, "new-value"))
	if reports > 1 {
		what += " and " + strconv.Itoa(reports-1) + " more"
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
	switch {
	case name == "":
		return class + ": " + what
	case r.CPC == "" || class == "cpc":
		return class + " " + name + ": " + what
	}
	return class + " " + name + " on " + r.CPC + ": " + what
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

// shortValue is a JSON value as it stands, cut to a bearable length: a string keeps its quotes, for "" is not nothing.
func shortValue(raw []byte) string {
	if len(raw) == 0 {
		return "null"
	}
	if len(raw) <= maxValue {
		return string(raw)
	}
	cut := maxValue
	for cut > 0 && !utf8.RuneStart(raw[cut]) {
		cut--
	}
	return string(raw[:cut]) + "..."
}
