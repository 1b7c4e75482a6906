package sinks

import (
	"cmp"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// siemFormat writes events in a format that security systems read without rules of their own: a
// header that says what kind of event it is, and attributes.
//
// CEF is that of ArcSight ("Implementing ArcSight Common Event Format", version 25), LEEF 2.0 that
// of QRadar (https://www.ibm.com/docs/en/dsm?topic=overview-leef-event-components).
type siemFormat struct {
	leef bool
	// version is that of the program.
	version string
}

const (
	// siemVendor is what both formats call the vendor and the product.
	siemVendor = "hmcnotifyd"

	// CEF's dictionary bounds device version, event class id and name at 31, 1023 and 512
	// characters. The latter are kept shorter, so that there is room in the smallest message.
	maxSIEMVersion = 31
	maxSIEMClass   = 80

	// leefDelimiter separates attributes, and therefore is in none. A tab would be what LEEF
	// does without being told; syslog servers replace it.
	leefDelimiter = '^'

	// The time of LEEF as Go writes it, and as Java reads it.
	leefTime     = "Jan 02 2006 15:04:05.000 GMT"
	leefTimeJava = "MMM dd yyyy HH:mm:ss.SSS z"
)

// siemAttribute is what an event has under the names of the two formats; of an empty name the
// format does not have it.
type siemAttribute struct {
	cef, leef string
	// label names one of CEF's custom strings.
	label string
	value string
	// max is what CEF's dictionary allows, in characters; LEEF allows 255 where it says anything,
	// and half an address is of no use.
	max int
}

// level is the severity of both: CEF has 0 to 3 as low, 4 to 6 as medium, and from 9 on as very
// high.
func (siemFormat) level(severity string) string {
	switch severity {
	case event.SeverityCritical:
		return "9"
	case event.SeverityWarning:
		return "6"
	}
	return "3"
}

// append appends an event in at most room bytes. What there is no room for is left out, the text
// first; then the attribute cutFrom has the length that it would have.
func (s siemFormat) append(dst []byte, e *eventFields, room int) []byte {
	id, attributes := s.attributes(e)
	start := len(dst)
	dst = s.appendHead(dst, e, id)
	head := len(dst)
	for _, a := range attributes {
		dst, _ = s.appendAttribute(dst, head, &a, len(a.value)*4+len(a.label)*2+64)
	}
	whole := len(dst) - start
	if whole <= room {
		return dst
	}
	mark := siemAttribute{cef: "hmcnotifydCutFrom", leef: "cutFrom", value: strconv.Itoa(whole)}
	end := start + room - len(mark.cef) - len(mark.value) - 2
	dst = dst[:head]
	for _, a := range attributes {
		var cut bool
		if dst, cut = s.appendAttribute(dst, head, &a, end-len(dst)); cut {
			end = len(dst)
		}
	}
	dst, _ = s.appendAttribute(dst, head, &mark, start+room-len(dst))
	return dst
}

// appendHead appends the header. id is that of the kind of event.
func (s siemFormat) appendHead(dst []byte, e *eventFields, id string) []byte {
	dst = append(dst, "CEF:0|"...)
	if s.leef {
		dst = append(dst[:len(dst)-len("CEF:0|")], "LEEF:2.0|"...)
	}
	for _, field := range []string{
		siemVendor, siemVendor, headerField(s.version, maxSIEMVersion), headerField(id, maxSIEMClass),
	} {
		dst = append(s.appendText(dst, field, '|'), '|')
	}
	if s.leef {
		return append(dst, leefDelimiter, '|')
	}
	// Words for the kind, the same for all events of it.
	title := strings.ReplaceAll(headerField(e.kind, maxSIEMClass), "-", " ")
	title = strings.ToUpper(title[:1]) + title[1:]
	dst = append(s.appendText(dst, title, '|'), '|')
	return append(append(dst, s.level(e.severity)...), '|')
}

// appendText appends the whole of a text; apart is what separates it from others.
func (s siemFormat) appendText(dst []byte, text string, apart rune) []byte {
	for _, r := range text {
		dst = s.appendRune(dst, r, apart)
	}
	return dst
}

// appendRune appends a character of a text. CEF puts a backslash in front of what means something;
// LEEF has no such thing, so that it is written as control characters are: # and three octal
// digits.
func (s siemFormat) appendRune(dst []byte, r, apart rune) []byte {
	switch {
	case s.leef && (r == leefDelimiter || r == '|'):
		return appendOctal(dst, r)
	case s.leef:
	case r == '\\' || r == apart:
		return append(dst, '\\', byte(r))
	case r == '\n' && apart == '=':
		return append(dst, '\\', 'n')
	case r == '\r' && apart == '=':
		return append(dst, '\\', 'r')
	}
	if r < ' ' || r == 0x7f {
		return appendOctal(dst, r)
	}
	return utf8.AppendRune(dst, event.PrintableRune(r))
}

// appendAttribute appends an attribute in at most room bytes, and reports whether it had to be cut,
// or left out. Of an empty one there is nothing. head is where the attributes begin.
func (s siemFormat) appendAttribute(dst []byte, head int, a *siemAttribute, room int) ([]byte, bool) {
	key, limit, apart := a.cef, a.max, byte(' ')
	if s.leef {
		key, apart = a.leef, leefDelimiter
		limit = min(limit, 255)
		if a.leef == "msg" || a.leef == "runbook" {
			limit = 0
		}
	}
	// CEF tells the end of a value by the blank in front of the next key.
	value := strings.TrimFunc(a.value, func(r rune) bool {
		return unicode.IsSpace(r) || r >= utf8.RuneSelf && event.PrintableRune(r) == ' '
	})
	if key == "" || value == "" {
		return dst, false
	}
	start, end := len(dst), len(dst)+room
	if start > head {
		dst = append(dst, apart)
	}
	if a.label != "" && !s.leef {
		dst = append(dst, key+"Label="+a.label+" "...)
	}
	dst = append(dst, key+"="...)
	least, chars := len(dst), 0
	fits := least // up to where the mark fits behind it
	for _, r := range value {
		before := len(dst)
		dst = s.appendRune(dst, r, '=')
		if chars++; dst[before] == '#' && r != '#' {
			chars += 3
		}
		switch more := len(cutMark); {
		case len(dst) > end && fits == least:
			return dst[:start], true
		case len(dst) > end || limit > 0 && chars > limit:
			return append(dst[:fits], cutMark...), len(dst) > end
		case len(dst)+more <= end && (limit == 0 || chars+more <= limit):
			fits = len(dst)
		}
	}
	return dst, false
}

// appendOctal writes a character as rsyslog writes control characters.
func appendOctal(dst []byte, r rune) []byte {
	return append(dst, '#', '0'+byte(r>>6), '0'+byte(r>>3&7), '0'+byte(r&7))
}

// attributes returns what kind of event it is, and its attributes, the most important first and the
// text last.
func (s siemFormat) attributes(e *eventFields) (id string, attributes []siemAttribute) {
	var origin, runbook, labels string
	var body []byte
	for name, value := range event.Members(e.record.JSON) {
		switch string(name) {
		case "origin":
			origin = event.String(value)
		case "runbook":
			runbook = event.String(value)
		case "labels":
			labels = labelsInWords(value)
		case "body":
			body = value
		}
	}
	id, text, userid := e.kind, e.summary, ""
	var report event.Report
	switch e.kind {
	case event.TypeStatusChange:
		report.OldStatus, report.NewStatus = event.FromTo(body)
	case event.TypeOSMessage:
		text = cmp.Or(event.String(event.Member(body, "message-text")), text)
	case event.TypeLogEntry:
		text = cmp.Or(event.String(event.Member(body, "event-message")), text)
		userid = event.String(event.Member(body, "userid"))
		if number := event.Unquoted(event.Member(body, "event-id")); number != "" {
			id += "-" + number
		}
	}
	at, received := e.at(), e.record.Received
	attributes = []siemAttribute{
		{cef: "externalId", leef: "id", value: e.record.ID, max: 40},
		{cef: "start", value: milliseconds(at)},
		{cef: "end", value: milliseconds(at)},
		{cef: "rt", leef: "received", value: milliseconds(received)},
		{leef: "sev", value: s.level(e.severity)},
		{cef: "cat", leef: "cat", value: cmp.Or(e.topicType, e.kind), max: 1023},
		{cef: "dvchost", leef: "hmc", value: e.hmc, max: 100},
		{cef: "suser", leef: "usrName", value: userid, max: 1023},
		{cef: "cs1", leef: "cpc", label: "cpc", value: e.cpc, max: 4000},
		{cef: "cs2", leef: "resource", label: "resource", value: e.name, max: 4000},
		{cef: "cs3", leef: "class", label: "class", value: e.class, max: 4000},
		{cef: "cs4", leef: "oldStatus", label: "oldStatus", value: report.OldStatus, max: 4000},
		{cef: "cs5", leef: "newStatus", label: "newStatus", value: report.NewStatus, max: 4000},
		{cef: "cs6", leef: "labels", label: "labels", value: labels, max: 4000},
		{cef: "hmcnotifydOrigin", leef: "origin", value: origin, max: 255},
		{cef: "hmcnotifydRunbook", leef: "runbook", value: runbook, max: 2048},
		{cef: "msg", leef: "msg", value: text, max: 1023},
	}
	if utc := at.UTC(); s.leef && utc.Year() >= 1000 && utc.Year() <= 9999 {
		attributes[1] = siemAttribute{leef: "devTime", value: utc.Format(leefTime), max: 255}
		attributes[2] = siemAttribute{leef: "devTimeFormat", value: leefTimeJava, max: 255}
	}
	return id, attributes
}

// milliseconds is a time since 1970; "": before that, as nothing of an event is.
func milliseconds(at time.Time) string {
	if at.UnixMilli() < 0 {
		return ""
	}
	return strconv.FormatInt(at.UnixMilli(), 10)
}

// labelsInWords returns labels as one text.
func labelsInWords(labels []byte) string {
	var all []string
	for name, value := range event.Members(labels) {
		all = append(all, string(name)+"="+event.String(value))
	}
	return strings.Join(all, ", ")
}

// siemFormatOf returns the format; nil: it is another one.
func siemFormatOf(format, version string) *siemFormat {
	if format != config.FormatCEF && format != config.FormatLEEF {
		return nil
	}
	return &siemFormat{leef: format == config.FormatLEEF, version: cmp.Or(version, "0")}
}
