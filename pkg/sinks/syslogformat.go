package sinks

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

const (
	// syslogSDID names the structured data. 32473 is the enterprise number for those that have
	// none (RFC 5612).
	syslogSDID = "hmcnotifyd@32473"

	// syslogLabels names that of the labels, which have names of their own.
	syslogLabels = "labels@32473"

	// maxSDName is what RFC 5424 allows.
	maxSDName = 32

	// maxSDValue bounds each value of the structured data, in bytes. What an HMC calls things
	// is far shorter.
	maxSDValue = 255

	// maxMsgID is what RFC 5424 allows.
	maxMsgID = 32

	syslogTime = "2006-01-02T15:04:05.000Z"

	// cutMark is the end of a message that was cut.
	cutMark = "..."

	bom = "\uFEFF"
)

// syslogFormat makes messages of RFC 5424.
type syslogFormat struct {
	facility int
	// host is HOSTNAME, APP-NAME and PROCID, with a blank between and around them.
	host   string
	format string
	// lf says that a line feed ends a message, so that there must be none inside.
	lf bool
	// max is the length of a message in bytes.
	max int
	// kinds are further ones of log entries, with the format cadf.
	kinds map[string]cadfKind
	// siem is nil with the other formats. A message of it has no structured data: all is in it, and
	// a name must not stand in front of it that looks like its beginning.
	siem *siemFormat
}

func newSyslogFormat(cfg *config.Syslog, version string) (*syslogFormat, error) {
	f := &syslogFormat{
		facility: slices.Index(config.SyslogFacilities(), cfg.Facility),
		format:   cmp.Or(cfg.Format, config.FormatJSON),
		lf:       cfg.Framing == config.FramingLF,
		max:      int(cfg.MaxSize),
		kinds:    cadfKindsOf(cfg.LogMessages),
	}
	f.siem = siemFormatOf(f.format, version)
	if f.facility < 0 {
		return nil, fmt.Errorf("facility %q is not known", cfg.Facility)
	}
	switch f.format {
	case config.FormatJSON, config.FormatText, config.FormatCADF, config.FormatOSForwarder,
		config.FormatCEF, config.FormatLEEF:
	default:
		return nil, fmt.Errorf("format %q is not available", f.format)
	}
	if f.max < 1<<10 {
		return nil, fmt.Errorf("max_size %d is too small", f.max)
	}
	host := cfg.Hostname
	if host == "" {
		host, _ = os.Hostname()
	}
	f.host = " " + headerField(host, 255) + " " + headerField(cfg.AppName, 48) + " " + strconv.Itoa(os.Getpid()) + " "
	return f, nil
}

// headerField makes a text fit for the header: printable ASCII without blanks, and "-" for nothing.
func headerField(s string, longest int) string {
	s = strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' {
			return '_'
		}
		return r
	}, s)
	return cmp.Or(s[:min(len(s), longest)], "-")
}

// level is the severity of RFC 5424.
func (f *eventFields) level() int {
	switch f.severity {
	case event.SeverityCritical:
		return 2
	case event.SeverityWarning:
		return 4
	}
	return 6
}

// append appends the message of an event, of at most limit bytes. It holds no line feed.
func (f *syslogFormat) append(dst []byte, r *event.Record, limit int) []byte {
	e := fieldsOf(r)
	if f.siem != nil {
		start := len(dst)
		dst = append(f.appendHeader(dst, &e), "- "...)
		return f.siem.append(dst, &e, limit-(len(dst)-start))
	}
	// No message has a line feed: texts have been through text, and stored JSON is compact. If
	// one had all the same, it would be two messages to the server.
	message := bytes.ReplaceAll(f.message(&e), []byte{'\n'}, []byte{' '})
	start := len(dst)
	dst = f.appendHead(dst, &e, 0, true)
	if len(dst)-start+len(message) <= limit {
		return append(dst, message...)
	}

	dst = f.appendHead(dst[:start], &e, len(message), true)
	if len(dst)-start+len(cutMark) > limit {
		dst = f.appendHead(dst[:start], &e, len(message), false)
	}
	end := max(limit-(len(dst)-start)-len(cutMark), 0)
	return append(append(dst, event.Beginning(message, end)...), cutMark...)
}

// appendHead appends what stands in front of the message. cut is the length of a message that is
// not sent whole, else 0. Where there is no place for names, the id has to do.
func (f *syslogFormat) appendHead(dst []byte, e *eventFields, cut int, names bool) []byte {
	dst = append(f.appendHeader(dst, e), "["+syslogSDID...)
	if names {
		dst = appendSD(dst, "hmc", e.hmc)
		dst = appendSD(dst, "cpc", e.cpc)
		if e.class == "partition" || e.class == "logical-partition" {
			dst = appendSD(dst, "partition", e.name)
		}
		dst = appendSD(dst, "class", e.class)
		dst = appendSD(dst, "name", e.name)
		dst = appendSD(dst, "type", e.kind)
		dst = appendSD(dst, "id", e.record.ID)
		dst = appendSD(dst, "severity", e.severity)
	} else {
		dst = appendSD(dst, "id", event.Beginning(e.record.ID, 64))
	}
	if cut > 0 {
		dst = appendSD(dst, "cut_from", strconv.Itoa(cut))
	}
	dst = append(dst, ']')
	if names && len(e.labelsJSON) > 0 {
		dst = append(dst, "["+syslogLabels...)
		for name, value := range e.labels() {
			dst = appendSD(dst, name[:min(len(name), maxSDName)], value)
		}
		dst = append(dst, ']')
	}
	return append(dst, ' ')
}

// appendHeader appends the header up to the structured data.
func (f *syslogFormat) appendHeader(dst []byte, e *eventFields) []byte {
	dst = append(dst, '<')
	dst = strconv.AppendInt(dst, int64(f.facility*8+e.level()), 10)
	dst = append(dst, ">1 "...)
	if utc := e.at().UTC(); utc.IsZero() || utc.Year() < 0 || utc.Year() > 9999 {
		dst = append(dst, '-')
	} else {
		dst = utc.AppendFormat(dst, syslogTime)
	}
	dst = append(dst, f.host...)
	kind := headerField(e.kind, maxMsgID)
	if f.siem != nil {
		kind = strings.ReplaceAll(kind, "|", "_")
	}
	return append(append(dst, kind...), ' ')
}

// appendSD appends one parameter of the structured data; of an empty one, nothing.
func appendSD(dst []byte, name, value string) []byte {
	if value == "" {
		return dst
	}
	dst = append(append(append(dst, ' '), name...), '=', '"')
	for _, r := range event.Beginning(value, maxSDValue) { // what is not UTF-8 becomes U+FFFD
		switch r {
		case '"', '\\', ']':
			dst = append(dst, '\\', byte(r))
		default:
			dst = utf8.AppendRune(dst, event.PrintableRune(r))
		}
	}
	return append(dst, '"')
}

// message returns the message of an event.
func (f *syslogFormat) message(e *eventFields) []byte {
	switch f.format {
	case config.FormatCADF:
		if e.kind == event.TypeLogEntry {
			return cadfEvent(e, f.kinds)
		}
	case config.FormatOSForwarder:
		if e.kind == event.TypeOSMessage {
			return f.text(osForwarderLine(e))
		}
		return f.text(e.summary)
	case config.FormatText:
		return f.text(e.summary)
	}
	return e.record.JSON
}

// text returns s as a message. RFC 5424 wants a byte order mark in front of UTF-8, which JSON must
// not have (RFC 8259). ASCII control characters become # and three octal digits, as rsyslog writes
// them, and others blanks: what an HMC or an operating system has sent must look like a message of
// its own nowhere, whichever way the server separates messages.
func (f *syslogFormat) text(s string) []byte {
	b := make([]byte, 0, len(bom)+len(s)+16)
	if strings.ContainsFunc(s, func(r rune) bool { return r >= utf8.RuneSelf }) {
		b = append(b, bom...)
	}
	for _, r := range s { // what is not UTF-8 becomes U+FFFD
		switch {
		case r == '\t':
			b = append(b, '\t')
		case r < ' ' || r == 0x7f:
			b = appendOctal(b, r)
		default:
			b = utf8.AppendRune(b, event.PrintableRune(r))
		}
	}
	return b
}

// osForwarderLine is an OS message as zhmc-os-forwarder writes it: CPC, partition and sequence
// number, and then the text without the line feeds around it.
func osForwarderLine(e *eventFields) string {
	number, text := "-", ""
	for name, value := range event.Members(e.body()) {
		switch string(name) {
		case "sequence-number":
			number = string(value)
		case "message-text":
			text = strings.Trim(event.String(value), "\n")
		}
	}
	return cmp.Or(e.cpc, "-") + " " + cmp.Or(e.name, "-") + " " + number + ": " + text
}
