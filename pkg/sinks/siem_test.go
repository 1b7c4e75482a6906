package sinks

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/render"
)

// The parsers here know of the formats what the vendors write about them, and nothing of what makes them. What the vendors
// leave open is an error.

// siemMessage is a message as a security system understands it.
type siemMessage struct {
	vendor, product, version, class, name, severity string
	attributes                                      map[string]string
}

// cefLimits are the lengths of the CEF dictionary, for the keys used here: "Implementing ArcSight Common Event Format (CEF)",
// version 25, "ArcSight Extension Dictionary",
// https://www.microfocus.com/documentation/arcsight/arcsight-smartconnectors-8.4/cef-implementation-standard/
var cefLimits = map[string]int{
	"externalId": 40, "cat": 1023, "dvchost": 100, "suser": 1023, "msg": 1023,
	"cs1": 4000, "cs2": 4000, "cs3": 4000, "cs4": 4000, "cs5": 4000, "cs6": 4000,
	"cs1Label": 1023, "cs2Label": 1023, "cs3Label": 1023, "cs4Label": 1023, "cs5Label": 1023, "cs6Label": 1023,
}

// parseCEF reads a message as that document says: seven fields that end with a pipe, in which a pipe and a backslash have a
// backslash in front; then pairs of key and value with a blank between, in whose values an equals sign and a backslash have one,
// and a line break is written as \n or \r. Keys are alphanumeric, a value goes on to the blank in front of the next key.
func parseCEF(message string) (m siemMessage, err error) {
	rest, ok := strings.CutPrefix(message, "CEF:0|")
	if !ok {
		return m, errors.New("no CEF:0 at the beginning")
	}
	for _, field := range []struct {
		to    *string
		limit int
	}{{&m.vendor, 63}, {&m.product, 63}, {&m.version, 31}, {&m.class, 1023}, {&m.name, 512}, {&m.severity, 10}} {
		end, escaped := -1, false
		var b strings.Builder
		for i, r := range rest {
			if escaped {
				if r != '|' && r != '\\' {
					return m, fmt.Errorf("\\%c in the header", r)
				}
				b.WriteRune(r)
				escaped = false
				continue
			}
			if escaped = r == '\\'; escaped {
				continue
			}
			if r == '|' {
				end = i
				break
			}
			b.WriteRune(r)
		}
		if end < 0 {
			return m, fmt.Errorf("the header ends early: %q", rest)
		}
		*field.to, rest = b.String(), rest[end+1:]
		if n := utf8.RuneCountInString(*field.to); n == 0 || n > field.limit {
			return m, fmt.Errorf("a field of the header has %d characters, of at most %d", n, field.limit)
		}
	}
	if n, err := strconv.Atoi(m.severity); err != nil || n < 0 || n > 10 {
		return m, fmt.Errorf("severity %q", m.severity)
	}
	m.attributes, err = cefExtension(rest)
	if err != nil {
		return m, err
	}
	for key, value := range m.attributes {
		if limit := cefLimits[key]; limit > 0 && utf8.RuneCountInString(value) > limit {
			return m, fmt.Errorf("%s is longer than %d characters: %q", key, limit, value)
		}
		if regexp.MustCompile(`^cs[1-6]$`).MatchString(key) && m.attributes[key+"Label"] == "" {
			return m, fmt.Errorf("%s has no label", key)
		}
		if name, ok := strings.CutSuffix(key, "Label"); ok && m.attributes[name] == "" {
			return m, fmt.Errorf("%s without a value", key)
		}
	}
	for _, key := range []string{"rt", "start", "end"} { // milliseconds since 1970
		if value, ok := m.attributes[key]; ok {
			if n, err := strconv.ParseInt(value, 10, 64); err != nil || n < 0 {
				return m, fmt.Errorf("%s is %q", key, value)
			}
		}
	}
	return m, nil
}

var cefKey = regexp.MustCompile(`(?:^| )([A-Za-z0-9]+)$`)

func cefExtension(text string) (map[string]string, error) {
	// Unescaped, with where the equals signs are that stand for themselves.
	var plain strings.Builder
	var signs []int
	escaped := false
	for _, r := range text {
		switch {
		case escaped && (r == '\\' || r == '='):
			plain.WriteRune(r)
		case escaped && r == 'n':
			plain.WriteByte('\n')
		case escaped && r == 'r':
			plain.WriteByte('\r')
		case escaped:
			return nil, fmt.Errorf("\\%c in the extension", r)
		case r == '\\':
			escaped = true
			continue
		case r == '=':
			signs = append(signs, plain.Len())
			plain.WriteRune(r)
		default:
			plain.WriteRune(r)
		}
		escaped = false
	}
	if escaped {
		return nil, errors.New("a backslash at the end")
	}
	all, found := plain.String(), map[string]string{}
	end := len(all)
	for _, sign := range slices.Backward(signs) {
		key := cefKey.FindStringSubmatch(all[:sign])
		if key == nil {
			return nil, fmt.Errorf("no key in front of an equals sign: %q", all[:sign])
		}
		if _, twice := found[key[1]]; twice {
			return nil, fmt.Errorf("%s is there twice", key[1])
		}
		found[key[1]] = all[sign+1 : end]
		end = sign - len(key[0])
	}
	if end > 0 {
		return nil, fmt.Errorf("%q is no pair", all[:end])
	}
	return found, nil
}

// leefPredefined are keys whose meaning LEEF defines, with what their values look like, as far as they are used here:
// https://www.ibm.com/docs/en/dsm?topic=overview-predefined-leef-event-attributes
var leefPredefined = map[string]*regexp.Regexp{
	"sev":     regexp.MustCompile(`^([1-9]|10)$`),
	"cat":     regexp.MustCompile(`^.{1,255}$`),
	"usrName": regexp.MustCompile(`^.{1,255}$`),
	// A pattern of java.text.SimpleDateFormat, one of those of
	// https://www.ibm.com/docs/en/dsm?topic=overview-custom-event-date-format
	"devTimeFormat": regexp.MustCompile(`^MMM dd yyyy HH:mm:ss\.SSS z$`),
	"devTime":       regexp.MustCompile(`^[A-Z][a-z]{2} \d\d \d{4} \d\d:\d\d:\d\d\.\d{3} GMT$`),
	"resource":      regexp.MustCompile(`^.+$`),
}

// parseLEEF reads a message as IBM says: https://www.ibm.com/docs/en/dsm?topic=overview-leef-event-components (a header whose
// fields end with a pipe, of which the sixth is the delimiter: a character, or x and its hexadecimal number; pairs of key and
// value with that between), https://www.ibm.com/docs/en/dsm?topic=overview-custom-event-keys (each key once) and
// https://www.ibm.com/docs/en/dsm?topic=keys-best-practices-guidelines-leef-events (alphanumeric keys of one word, and no tab,
// pipe or caret in keys and values). There are no escapes.
func parseLEEF(message string) (m siemMessage, err error) {
	rest, ok := strings.CutPrefix(message, "LEEF:2.0|")
	if !ok {
		return m, errors.New("no LEEF:2.0 at the beginning")
	}
	delimiter := ""
	for _, to := range []*string{&m.vendor, &m.product, &m.version, &m.class, &delimiter} {
		if *to, rest, ok = strings.Cut(rest, "|"); !ok || *to == "" {
			return m, fmt.Errorf("the header ends early: %q", rest)
		}
	}
	if code, ok := strings.CutPrefix(strings.TrimPrefix(delimiter, "0"), "x"); ok && code != "" {
		n, err := strconv.ParseUint(code, 16, 16)
		if err != nil {
			return m, err
		}
		delimiter = string(rune(n))
	}
	if utf8.RuneCountInString(delimiter) != 1 {
		return m, fmt.Errorf("delimiter %q", delimiter)
	}
	m.attributes = map[string]string{}
	for pair := range strings.SplitSeq(rest, delimiter) {
		key, value, ok := strings.Cut(pair, "=")
		if !ok || !regexp.MustCompile(`^[A-Za-z0-9]+$`).MatchString(key) || value == "" || strings.ContainsAny(value, "\t|^") {
			return m, fmt.Errorf("no pair: %q", pair)
		}
		if _, twice := m.attributes[key]; twice {
			return m, fmt.Errorf("%s is there twice", key)
		}
		if form := leefPredefined[key]; form != nil && !form.MatchString(value) {
			return m, fmt.Errorf("%s is %q", key, value)
		}
		m.attributes[key] = value
	}
	m.severity = m.attributes["sev"]
	return m, nil
}

var siemParsers = map[string]func(string) (siemMessage, error){config.FormatCEF: parseCEF, config.FormatLEEF: parseLEEF}

// siemOf formats an event and parses what it becomes.
func siemOf(t *testing.T, format string, e *event.Event, change ...func(*config.Syslog)) siemMessage {
	t.Helper()
	f := syslogFormatOf(t, config.FramingLF, append(change, withFormat(format))...)
	r := event.NewRecord(e)
	raw := f.append(nil, &r, f.max)
	syslog, err := parseSyslog(raw)
	if err != nil {
		t.Fatal(err)
	}
	if syslog.StructuredData != nil || len(raw) > f.max {
		t.Fatalf("%d bytes: %q", len(raw), raw)
	}
	m, err := siemParsers[format](syslog.text())
	if err != nil {
		t.Fatalf("%v\n%q", err, raw)
	}
	for key, value := range m.attributes {
		if strings.ContainsFunc(value, func(r rune) bool { return r != '\n' && r != '\r' && unseen(r) }) {
			t.Errorf("%s is %q", key, value)
		}
	}
	return m
}

// unseen says whether a character does something that is not seen.
func unseen(r rune) bool { return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp) }

func TestSIEMFormats(t *testing.T) {
	status := osMessage("")
	status.Type, status.TopicType, status.Severity = event.TypeStatusChange, event.TopicObject, event.SeverityCritical
	status.Summary = "partition LNX1 on CPC1: active -> stopped"
	status.Body = json.RawMessage(`{"change-reports":[{"old-status":"active","new-status":"paused"},{"old-status":"paused","new-status":"stopped"}]}`)
	status.Labels, status.Runbook = event.Headers{{Name: "site", Value: "DC=1"}, {Name: "team", Value: "z"}}, "https://wiki.example.com/a?b=c"
	entry := osMessage("")
	entry.Type, entry.TopicType, entry.Severity, entry.Resource = event.TypeLogEntry, event.TopicSecurity, event.SeverityWarning, nil
	entry.Body = json.RawMessage(`{"event-id":"1941","userid":"SYSPROG","event-message":"Logon failed | why=\"\\\""}`)
	const at, version = "1795165200123", "v1.2.3"
	for _, test := range []struct {
		name   string
		e      *event.Event
		format string
		want   siemMessage
	}{
		{"status", status, config.FormatCEF, siemMessage{"hmcnotifyd", "hmcnotifyd", version, "status-change", "Status change", "9", map[string]string{
			"externalId": "0123", "start": at, "end": at, "rt": at, "cat": "object", "dvchost": "hmc-east", "cs1Label": "cpc", "cs1": "CPC1",
			"cs2Label": "resource", "cs2": "LNX1", "cs3Label": "class", "cs3": "partition", "cs4Label": "oldStatus", "cs4": "active",
			"cs5Label": "newStatus", "cs5": "stopped", "cs6Label": "labels", "cs6": "site=DC=1, team=z", "hmcnotifydOrigin": "live",
			"hmcnotifydRunbook": "https://wiki.example.com/a?b=c", "msg": status.Summary,
		}}},
		{"status", status, config.FormatLEEF, siemMessage{"hmcnotifyd", "hmcnotifyd", version, "status-change", "", "9", map[string]string{
			"id": "0123", "devTime": "Nov 20 2026 09:00:00.123 GMT", "devTimeFormat": "MMM dd yyyy HH:mm:ss.SSS z", "received": at, "sev": "9",
			"cat": "object", "hmc": "hmc-east", "cpc": "CPC1", "resource": "LNX1", "class": "partition", "oldStatus": "active", "newStatus": "stopped",
			"labels": "site=DC=1, team=z", "origin": "live", "runbook": "https://wiki.example.com/a?b=c", "msg": status.Summary,
		}}},
		{"log entry", entry, config.FormatCEF, siemMessage{"hmcnotifyd", "hmcnotifyd", version, "log-entry-1941", "Log entry", "6", map[string]string{
			"externalId": "0123", "start": at, "end": at, "rt": at, "cat": "security", "dvchost": "hmc-east", "suser": "SYSPROG",
			"hmcnotifydOrigin": "live", "msg": `Logon failed | why="\"`,
		}}},
		{"log entry", entry, config.FormatLEEF, siemMessage{"hmcnotifyd", "hmcnotifyd", version, "log-entry-1941", "", "6", map[string]string{
			"id": "0123", "devTime": "Nov 20 2026 09:00:00.123 GMT", "devTimeFormat": "MMM dd yyyy HH:mm:ss.SSS z", "received": at, "sev": "6",
			"cat": "security", "hmc": "hmc-east", "usrName": "SYSPROG", "origin": "live", "msg": `Logon failed #174 why="\"`,
		}}},
	} {
		t.Run(test.name+" "+test.format, func(t *testing.T) {
			got := siemOf(t, test.format, test.e)
			if fmt.Sprint(got) != fmt.Sprint(test.want) {
				t.Errorf("got\n%q\nwant\n%q", got, test.want)
			}
		})
	}
}

// TestSIEMEscapes has the texts of an HMC and of people hold what means something to a format.
func TestSIEMEscapes(t *testing.T) {
	for text, want := range map[string][2]string{
		`a|b\c=d^e`:                 {`a|b\c=d^e`, `a#174b\c=d#136e`},
		"a\nb\r\nc\td\x00e\x7f":     {"a\nb\r\nc#011d#000e#177", "a#012b#015#012c#011d#000e#177"},
		`\`:                         {`\`, `\`},
		`a\`:                        {`a\`, `a\`},
		`a\=b cs1=forged msg=x`:     {`a\=b cs1=forged msg=x`, `a\=b cs1=forged msg=x`},
		"a^sev=10^usrName=root":     {"a^sev=10^usrName=root", "a#136sev=10#136usrName=root"},
		"a\u202eb\u2066c\u200bd":    {"a\ufffdb\ufffdc\ufffdd", "a\ufffdb\ufffdc\ufffdd"},
		"a\u2028b\u0085c\u009b2Jd":  {"a b c 2Jd", "a b c 2Jd"},
		" \n x CEF:0|a|b|c|d|e|9| ": {"x CEF:0|a|b|c|d|e|9|", "x CEF:0#174a#174b#174c#174d#174e#1749#174"},
		"Überlauf 日本 😀":             {"Überlauf 日本 😀", "Überlauf 日本 😀"},
		"\u2028":                    {"", ""},
	} {
		e := osMessage(text)
		e.Summary, e.HMC, e.Resource.Name, e.Resource.CPC = text, text, text, text
		e.Labels = event.Headers{{Name: "team", Value: text}}
		for i, format := range []string{config.FormatCEF, config.FormatLEEF} {
			m := siemOf(t, format, e)
			for _, key := range [][2]string{{"msg", "msg"}, {"dvchost", "hmc"}, {"cs2", "resource"}, {"cs1", "cpc"}} {
				if got := m.attributes[key[i]]; got != want[i] {
					t.Errorf("%s: %s of %q is %q, want %q", format, key[i], text, got, want[i])
				}
			}
			if got := m.severity; got != "3" {
				t.Errorf("severity %s", got)
			}
		}
	}
	// A type that nobody has seen yet is part of the header.
	e := osMessage("x")
	for kind, want := range map[string][3]string{
		`a|b\c^d=e`:              {`a|b\c^d=e`, `A|b\c^d=e`, `a#174b\c#136d=e`},
		"LEEF:2.0|x|y|z|":        {"LEEF:2.0|x|y|z|", "LEEF:2.0|x|y|z|", "LEEF:2.0#174x#174y#174z#174"},
		"ä\nb":                   {"__b", "__b", "__b"},
		"":                       {"-", " ", "-"},
		strings.Repeat("|", 200): {strings.Repeat("|", 80), strings.Repeat("|", 80), strings.Repeat("#174", 80)},
	} {
		e.Type = kind
		cef, leef := siemOf(t, config.FormatCEF, e), siemOf(t, config.FormatLEEF, e)
		if got := [3]string{cef.class, cef.name, leef.class}; got != want {
			t.Errorf("%q: %q, want %q", kind, got, want)
		}
	}
}

// TestSIEMSeverity has what the vendors call low, medium and very high.
func TestSIEMSeverity(t *testing.T) {
	for severity, want := range map[string]string{"info": "3", "warning": "6", "critical": "9", "": "3"} {
		e := osMessage("x")
		e.Severity = severity
		for format := range siemParsers {
			if got := siemOf(t, format, e).severity; got != want {
				t.Errorf("%s: %s is %s, want %s", format, severity, got, want)
			}
		}
	}
}

// TestSIEMCut cuts at every length. What is left can be parsed, has the id and the severity, and says how long it was.
func TestSIEMCut(t *testing.T) {
	t.Parallel()
	for _, unit := range []string{"ab =|\\^", "ü日😀", "\n\\", "||||"} {
		for format := range siemParsers {
			for limit := 1 << 10; limit < 3<<10; limit += 29 {
				e := osMessage(strings.Repeat(unit, 400))
				long := strings.Repeat(unit, 30)
				e.ID, e.Type, e.HMC, e.Runbook = event.NewID(unit), long, long, "https://wiki.example.com/"+long
				e.Resource = &event.Resource{Class: long, Name: long, CPC: long}
				large := func(size int) siemMessage {
					return siemOf(t, format, e, func(c *config.Syslog) {
						c.MaxSize, c.Hostname, c.AppName = config.Size(size), strings.Repeat("h", 255), strings.Repeat("|", 48)
					})
				}
				m, whole := large(limit), large(1<<20)
				id, mark := m.attributes["externalId"], m.attributes["hmcnotifydCutFrom"]
				if format == config.FormatLEEF {
					id, mark = m.attributes["id"], m.attributes["cutFrom"]
				}
				n, err := strconv.Atoi(mark)
				if isWhole := maps.Equal(m.attributes, whole.attributes); id != e.ID || m.severity != "3" || (mark == "") != isWhole || !isWhole && (err != nil || n < limit-400) {
					t.Fatalf("%s, %d bytes: %q", format, limit, m)
				}
			}
		}
	}
	// CEF bounds single values: they end with a mark.
	e := osMessage(strings.Repeat("a", 5000))
	if m := siemOf(t, config.FormatCEF, e); m.attributes["msg"] != strings.Repeat("a", 1020)+"..." {
		t.Errorf("%q", m.attributes["msg"])
	}
	if m := siemOf(t, config.FormatLEEF, e); m.attributes["msg"] != strings.Repeat("a", 5000) {
		t.Errorf("%q", m.attributes["msg"])
	}
}

// TestSIEMSamples has events of each type.
func TestSIEMSamples(t *testing.T) {
	for _, s := range render.Samples() {
		e, err := s.Record.Event()
		if err != nil {
			t.Fatal(err)
		}
		for format := range siemParsers {
			if m := siemOf(t, format, e); !strings.HasPrefix(m.class, e.Type) {
				t.Errorf("%s: %q", s.Name, m)
			}
		}
	}
}

// FuzzSIEMFormats makes messages of anything. A parser by the vendor's words reads each, in its size, and finds in it what is in the event.
func FuzzSIEMFormats(f *testing.F) {
	f.Add("hmc-east", "LNX1", event.TypeOSMessage, "text\n<0>1 - - - - - - x", "SYSPROG", 1024, true)
	f.Add("a|b", "c^d", event.TypeLogEntry, "a\\=b msg=c\u202e", "^usrName=root", 0, false)
	f.Add("\\", "=", "|", "\xff\x00\t", " = ", 5000, true)
	f.Add(" ", "\u2028", event.TypeStatusChange, strings.Repeat("=日", 2000), "\\n", 3000, false)
	f.Fuzz(func(t *testing.T, hmc, name, typ, text, userid string, size int, isCEF bool) {
		format := config.FormatLEEF
		if isCEF {
			format = config.FormatCEF
		}
		size = 1<<10 + (size&0xffff)%(64<<10)
		body, err := json.Marshal(map[string]any{
			"message-text": text, "event-message": text, "event-id": name, "userid": userid,
			"change-reports": []map[string]any{{"old-status": name, "new-status": text}},
		})
		if err != nil {
			t.Fatal(err)
		}
		at := time.UnixMilli(int64(size) * 1e9)
		e := &event.Event{
			ID: event.NewID(text), HMC: hmc, Type: typ, Time: at, Received: at, Summary: text, Severity: "warning",
			Resource: &event.Resource{Class: name, Name: name, CPC: hmc}, Body: body,
			Labels: event.Headers{{Name: "a", Value: text}}, Runbook: text, Origin: event.OriginLive,
		}
		m := siemOf(t, format, e, func(c *config.Syslog) { c.MaxSize = config.Size(size) })
		id, user, mark := m.attributes["externalId"], m.attributes["suser"], m.attributes["hmcnotifydCutFrom"]
		if !isCEF {
			id, user, mark = m.attributes["id"], m.attributes["usrName"], m.attributes["cutFrom"]
		}
		if id != e.ID || m.severity != "6" {
			t.Errorf("%q", m)
		}
		plain := func(s string) bool {
			return !strings.ContainsFunc(s, func(r rune) bool { return unseen(r) || r == '^' || r == '|' })
		}
		if userid = strings.TrimSpace(userid); typ == event.TypeLogEntry && mark == "" && utf8.ValidString(userid) && plain(userid) && len(userid) < 200 && user != userid {
			t.Errorf("the user is %q, not %q", user, userid)
		}
	})
}
