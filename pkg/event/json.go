package event

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"io"
	"slices"
	"strconv"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/jsontext"
)

// MarshalJSON returns what AppendJSON appends.
func (e *Event) MarshalJSON() ([]byte, error) { return e.AppendJSON(nil), nil }

// AppendJSON appends the event's JSON form, on one line and without white space between tokens, and
// returns the extended slice. Body must be valid JSON without line breaks (see CompactValid);
// invalid UTF-8 in any other field becomes U+FFFD. Characters that would mislead a reader, or steer
// his terminal, are escaped.
//
// It is written by hand because it runs once for every notification: reflection costs more here
// than everything else the supervisor does.
func (e *Event) AppendJSON(dst []byte) []byte {
	dst = appendField(dst, `{"id":`, e.ID)
	dst = appendField(dst, `,"hmc":`, e.HMC)
	dst = appendField(dst, `,"type":`, e.Type)
	dst = appendTime(dst, `,"time":"`, e.Time, e.Received)
	dst = appendTime(dst, `,"received":"`, e.Received, time.Time{})
	dst = appendOptional(dst, `,"topic":`, e.Topic)
	dst = appendOptional(dst, `,"topic_type":`, e.TopicType)
	if e.SessionSequenceNr != nil {
		dst = strconv.AppendInt(append(dst, `,"session_sequence_nr":`...), *e.SessionSequenceNr, 10)
	}
	if e.GlobalSequenceNr != nil {
		dst = strconv.AppendInt(append(dst, `,"global_sequence_nr":`...), *e.GlobalSequenceNr, 10)
	}
	dst = appendField(dst, `,"origin":`, e.Origin)
	if e.Resource != nil {
		dst = append(dst, `,"resource":{`...)
		mark := len(dst)
		dst = appendOptional(dst, `,"class":`, e.Resource.Class)
		dst = appendOptional(dst, `,"name":`, e.Resource.Name)
		dst = appendOptional(dst, `,"object_uri":`, e.Resource.ObjectURI)
		dst = appendOptional(dst, `,"object_id":`, e.Resource.ObjectID)
		dst = appendOptional(dst, `,"element_uri":`, e.Resource.ElementURI)
		dst = appendOptional(dst, `,"element_id":`, e.Resource.ElementID)
		dst = appendOptional(dst, `,"element_name":`, e.Resource.ElementName)
		dst = appendOptional(dst, `,"cpc":`, e.Resource.CPC)
		dst = appendOptional(dst, `,"os_name":`, e.Resource.OSName)
		dst = appendOptional(dst, `,"os_level":`, e.Resource.OSLevel)
		dst = appendOptional(dst, `,"sysplex":`, e.Resource.Sysplex)
		if len(dst) > mark { // drop the comma in front of the first field
			dst = append(dst[:mark], dst[mark+1:]...)
		}
		dst = append(dst, '}')
	}
	dst = appendOptional(dst, `,"summary":`, e.Summary)
	dst = appendField(dst, `,"severity":`, e.Severity)
	if len(e.Labels) > 0 {
		dst = e.Labels.appendJSON(append(dst, `,"labels":`...))
	}
	dst = appendOptional(dst, `,"runbook":`, e.Runbook)
	if e.Unacceptable != nil {
		dst = strconv.AppendBool(append(dst, `,"unacceptable":`...), *e.Unacceptable)
	}
	if e.Repeat {
		dst = append(dst, `,"repeat":true`...)
	}
	if e.Planned {
		dst = append(dst, `,"planned":true`...)
	}
	for i, hmc := range e.SeenBy {
		dst = appendField(dst, []string{`,"seen_by":[`, `,`}[min(i, 1)], hmc)
	}
	if len(e.SeenBy) > 0 {
		dst = append(dst, ']')
	}
	if len(e.Headers) > 0 {
		dst = append(dst, `,"headers":`...)
		dst = e.Headers.appendJSON(dst)
	}
	if len(e.Body) > 0 {
		dst = AppendEscaped(append(dst, `,"body":`...), e.Body)
	}
	dst = appendOptional(dst, `,"body_text":`, e.BodyText)
	return append(dst, '}')
}

// MarshalJSON returns the object form.
func (h Headers) MarshalJSON() ([]byte, error) { return h.appendJSON(nil), nil }

func (h Headers) appendJSON(dst []byte) []byte {
	start := len(dst)
	dst, quotes := h.appendMembers(dst, false)
	if !jsontext.Plain(dst[start:], quotes) { // hardly ever: all is looked through once, and not name by name
		dst, _ = h.appendMembers(dst[:start], true)
	}
	return dst
}

// appendMembers appends an object, and returns how many quotes it has outside names and values.
// Where these are not escaped, what is in them may make it something else.
func (h Headers) appendMembers(dst []byte, escaped bool) (object []byte, quotes int) {
	dst = append(dst, '{')
	var names uint64
	for i := range h {
		if h[:i+1].Repeats(&names) {
			continue
		}
		if i > 0 {
			dst = append(dst, ',')
		}
		if escaped {
			dst = append(appendString(dst, h[i].Name), ':')
			dst = appendString(dst, h[i].Value)
		} else {
			dst = append(append(append(dst, '"'), h[i].Name...), `":"`...)
			dst = append(append(dst, h[i].Value...), '"')
		}
		quotes += 4
	}
	return append(dst, '}'), quotes
}

// Repeats says whether the last header has the name of one before it: the first one counts. names
// is 0 for the first header, and then what the call for the one before it has left there, so that
// hardly any names have to be compared.
func (h Headers) Repeats(names *uint64) bool {
	last := len(h) - 1
	name := h[last].Name
	bit := uint64(1)
	if name != "" {
		bit <<= (21*len(name) + int(name[0]) + int(name[len(name)-1])) & 63 // other bits for the names that HMCs use
	}
	seen := *names&bit != 0
	*names |= bit
	return seen && slices.ContainsFunc(h[:last], func(other Header) bool { return other.Name == name })
}

// CompactValid returns body, which must be valid JSON, without insignificant white space: on one
// line. It returns body itself where nothing has to change.
func CompactValid(body []byte) json.RawMessage {
	i := nextSpace(body, 0)
	if i == len(body) {
		return body
	}
	out := make([]byte, 0, len(body))
	start := 0
	for i < len(body) {
		out = append(out, body[start:i]...)
		start = i + 1
		i = nextSpace(body, start)
	}
	return append(out, body[start:]...)
}

// nextSpace returns the index of the first white space outside strings at or after i, which must
// not be inside a string, or len(body).
func nextSpace(body []byte, i int) int {
	for i < len(body) {
		switch body[i] {
		case ' ', '\t', '\n', '\r':
			return i
		case '"':
			i = stringEnd(body, i+1)
		default:
			i++
		}
	}
	return i
}

// stringEnd returns the index behind the quote that ends the string that i is in.
func stringEnd(body []byte, i int) int {
	for {
		q := bytes.IndexByte(body[i:], '"')
		if q < 0 {
			return len(body)
		}
		i += q
		slashes := 0
		for body[i-1-slashes] == '\\' { // ends at the opening quote at the latest
			slashes++
		}
		i++
		if slashes%2 == 0 {
			return i
		}
	}
}

func appendField(dst []byte, key, value string) []byte {
	return appendString(append(dst, key...), value)
}

func appendOptional(dst []byte, key, value string) []byte {
	if value == "" {
		return dst
	}
	return appendString(append(dst, key...), value)
}

// appendTime appends t as RFC 3339 in UTC with milliseconds, always three digits, so that times
// sort as text; other where that has no year for t.
func appendTime(dst []byte, key string, t, other time.Time) []byte {
	const year0, year10000 = -62167219200, 253402300800
	if seconds := t.Unix(); seconds < year0 || seconds >= year10000 {
		t = other
	}
	// The layouts with fractions are slow, or drop zeros at the end.
	dst = t.UTC().AppendFormat(append(dst, key...), time.RFC3339)
	ms := t.Nanosecond() / int(time.Millisecond)
	return append(dst[:len(dst)-1], '.', '0'+byte(ms/100), '0'+byte(ms/10%10), '0'+byte(ms%10), 'Z', '"')
}

// AppendEscaped appends valid JSON, with the characters escaped that mislead those who read it as
// it stands: C1 and other controls, ends of lines of Unicode, format characters. The values are the
// same. Text that is not JSON becomes harmless in the same way; line feeds stay.
func AppendEscaped(dst, text []byte) []byte {
	start := 0
	for i := nextSpecial(text, 0); i < len(text); i = nextSpecial(text, i) {
		r, size := utf8.DecodeRune(text[i:])
		if misleads(r) {
			dst = appendEscape(append(dst, text[start:i]...), r)
			start = i + size
		}
		i += size
	}
	return append(dst, text[start:]...)
}

// EscapingWriter writes what it is given as AppendEscaped does. Each Write has whole characters.
type EscapingWriter struct{ io.Writer }

// Write implements io.Writer.
func (w EscapingWriter) Write(text []byte) (int, error) {
	_, err := w.Writer.Write(AppendEscaped(nil, text))
	return len(text), err
}

// nextSpecial returns the index of the next byte at or after i that is no printable ASCII, or
// len(text).
func nextSpecial(text []byte, i int) int {
	// Eight at a time: a byte of 0x7f or more has its first bit set, or gets it when one is
	// added.
	const ones, firstBits = 0x0101010101010101, 0x8080808080808080
	for ; i+8 <= len(text); i += 8 {
		if x := binary.LittleEndian.Uint64(text[i:]); (x|(x+ones))&firstBits != 0 {
			break
		}
	}
	for i < len(text) && text[i] < 0x7f {
		i++
	}
	return i
}

// appendEscape appends the JSON escape of a character.
func appendEscape(dst []byte, r rune) []byte {
	if r > 0xffff {
		high, low := utf16.EncodeRune(r)
		return appendEscape(appendEscape(dst, high), low)
	}
	return append(dst, '\\', 'u', hexDigits[r>>12], hexDigits[r>>8&0xf], hexDigits[r>>4&0xf], hexDigits[r&0xf])
}

const hexDigits = "0123456789abcdef"

// appendString appends s as a JSON string.
func appendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	start := len(dst)
	dst = append(dst, s...)
	if i := jsontext.NextSpecial(dst, start); i < len(dst) {
		dst = appendEscapedString(dst[:i], s[i-start:])
	}
	return append(dst, '"')
}

// appendEscapedString appends s as it stands in a JSON string.
func appendEscapedString(dst []byte, s string) []byte {
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if ' ' <= c && c < 0x7f && c != '"' && c != '\\' {
			i++
			continue
		}
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRuneInString(s[i:])
			switch {
			case r == utf8.RuneError && size == 1:
				dst = append(append(dst, s[start:i]...), "\ufffd"...)
				start = i + size
			case misleads(r):
				dst = appendEscape(append(dst, s[start:i]...), r)
				start = i + size
			}
			i += size
			continue
		}
		dst = append(dst, s[start:i]...)
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		case '\t':
			dst = append(dst, '\\', 't')
		default:
			dst = appendEscape(dst, rune(c))
		}
		i++
		start = i
	}
	return append(dst, s[start:]...)
}
