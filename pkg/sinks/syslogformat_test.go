package sinks

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// syslogFormatOf makes the formatter of a configuration with the defaults.
func syslogFormatOf(t testing.TB, framing string, change ...func(*config.Syslog)) *syslogFormat {
	t.Helper()
	f, err := newSyslogFormat(syslogConfig("tcp://127.0.0.1:601", framing, change...).Syslog, "v1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func withFormat(format string) func(*config.Syslog) {
	return func(c *config.Syslog) { c.Format = format }
}

func osMessage(text string) *event.Event {
	at := time.Date(2026, 11, 20, 10, 0, 0, 123456789, time.FixedZone("", 3600))
	body, err := json.Marshal(map[string]any{"sequence-number": 17, "message-text": text})
	if err != nil {
		panic(err)
	}
	return &event.Event{
		ID: "0123", HMC: "hmc-east", Type: event.TypeOSMessage, Time: at, Received: at, TopicType: event.TopicOSMessage,
		Origin: event.OriginLive, Severity: event.SeverityInfo, Summary: "LNX1 on CPC1: " + strings.TrimSpace(text),
		Resource: &event.Resource{Class: "partition", Name: "LNX1", CPC: "CPC1", ObjectURI: "/api/partitions/1"}, Body: body,
	}
}

func TestSyslogFormats(t *testing.T) {
	const sd = `[hmcnotifyd@32473 hmc="hmc-east" cpc="CPC1" partition="LNX1" class="partition" name="LNX1" type="os-message" id="0123" severity="info"]`
	for _, test := range []struct {
		name, format, text, want string
	}{
		{"json", config.FormatJSON, "\nIEF450I JOB\n", string(event.NewRecord(osMessage("\nIEF450I JOB\n")).JSON)},
		{"text", config.FormatText, "IEF450I JOB", "LNX1 on CPC1: IEF450I JOB"},
		{"text that is not ASCII", config.FormatText, "Überlauf", "\ufeffLNX1 on CPC1: Überlauf"},
		{"text of several lines", config.FormatText, "a\r\nb\tc\x00\x1b[2J\x7f\u0085\u2028d", "\ufeffLNX1 on CPC1: a#015#012b\tc#000#033[2J#177  d"},
		{"cadf", config.FormatCADF, "IEF450I JOB", string(event.NewRecord(osMessage("IEF450I JOB")).JSON)},
		{"os-forwarder", config.FormatOSForwarder, "\n\nIEF450I JOB\n", "CPC1 LNX1 17: IEF450I JOB"},
		{"os-forwarder, lines", config.FormatOSForwarder, "a\nb", "CPC1 LNX1 17: a#012b"},
	} {
		for _, framing := range []string{config.FramingLF, config.FramingOctetCounting} {
			t.Run(test.name+" "+framing, func(t *testing.T) {
				f := syslogFormatOf(t, framing, withFormat(test.format))
				r := event.NewRecord(osMessage(test.text))
				got := string(f.append(nil, &r, f.max))
				head := fmt.Sprintf("<134>1 2026-11-20T09:00:00.123Z bridge.example.com hmcnotifyd %s os-message %s ", strings.Fields(f.host)[2], sd)
				if got != head+test.want {
					t.Errorf("got\n%q\nwant\n%q", got, head+test.want)
				}
			})
		}
	}
	t.Run("other events of os-forwarder are text", func(t *testing.T) {
		e := osMessage("")
		e.Type, e.Summary, e.Body = event.TypeStatusChange, "partition LNX1: active -> stopped", nil
		f := syslogFormatOf(t, config.FramingLF, withFormat(config.FormatOSForwarder))
		r := event.NewRecord(e)
		if got := string(f.append(nil, &r, f.max)); !strings.HasSuffix(got, "] "+e.Summary) {
			t.Error(got)
		}
	})
}

func TestSyslogHeader(t *testing.T) {
	for severity, level := range map[string]int{event.SeverityInfo: 6, event.SeverityWarning: 4, event.SeverityCritical: 2, "": 6} {
		for facility, name := range config.SyslogFacilities() {
			e := osMessage("text")
			e.Severity = severity
			f := syslogFormatOf(t, config.FramingLF, func(c *config.Syslog) { c.Facility = name })
			r := event.NewRecord(e)
			if got, want := string(f.append(nil, &r, f.max)), fmt.Sprintf("<%d>1 ", facility*8+level); !strings.HasPrefix(got, want) {
				t.Errorf("%s, %q: got %.10s, want %s", name, severity, got, want)
			}
		}
	}
}

// TestSyslogNames has the structured data hold whatever an HMC calls things.
func TestSyslogNames(t *testing.T) {
	for name, want := range map[string]string{
		"LNX1":                    "LNX1",
		`a"b\\c]d[e=f`:            `a"b\\c]d[e=f`,
		"Zürich 日本":               "Zürich 日本",
		"a\nb\x00c\u2028d":        "a b c d",
		"bad \xff UTF-8":          "bad \ufffd UTF-8",
		"\n<0>1 - - - - - - x":    " <0>1 - - - - - - x",
		strings.Repeat("ü", 200):  strings.Repeat("ü", 127),
		strings.Repeat(`"`, 1000): strings.Repeat(`"`, 255),
	} {
		e := osMessage("text")
		e.Resource.Name, e.Resource.CPC = name, name
		r := event.NewRecord(e)
		for _, format := range []string{config.FormatJSON, config.FormatOSForwarder} {
			f := syslogFormatOf(t, config.FramingLF, withFormat(format))
			m, err := parseSyslog(f.append(nil, &r, f.max))
			if err != nil {
				t.Errorf("%q: %v", name, err)
				continue
			}
			for _, param := range []string{"partition", "name", "cpc"} {
				if got := m.param(param); got != want {
					t.Errorf("%s is %q, not %q", param, got, want)
				}
			}
		}
	}
	e := osMessage("text")
	e.Resource = nil
	r := event.NewRecord(e)
	f := syslogFormatOf(t, config.FramingLF)
	if m, err := parseSyslog(f.append(nil, &r, f.max)); err != nil || len((*m.StructuredData)[syslogSDID]) != 4 {
		t.Errorf("%v %v", m.StructuredData, err)
	}
}

// TestSyslogCut cuts at every length, with the longest header that there can be.
func TestSyslogCut(t *testing.T) {
	t.Parallel()
	text := strings.Repeat("aü日😀", 600)
	for _, long := range []bool{false, true} {
		e := osMessage(text)
		if long {
			e.Type, e.HMC = strings.Repeat("t", 100), strings.Repeat("]", 300)
			e.Resource = &event.Resource{Class: strings.Repeat("]", 300), Name: strings.Repeat("]", 300), CPC: strings.Repeat("]", 300)}
			e.ID = strings.Repeat("i", 300)
		}
		for _, format := range []string{config.FormatJSON, config.FormatText} {
			for limit := 1 << 10; limit < 6<<10; limit += 7 { // each place in a character
				f := syslogFormatOf(t, config.FramingLF, withFormat(format), func(c *config.Syslog) {
					c.MaxSize = config.Size(limit)
					if long {
						c.Hostname, c.AppName = strings.Repeat("h", 255), strings.Repeat("a", 48)
					}
				})
				r := event.NewRecord(e)
				whole := string(r.JSON)
				if format == config.FormatText {
					whole = "\ufeff" + e.Summary
				}
				raw := f.append(nil, &r, f.max)
				if len(raw) > limit || len(raw) < limit-3 && len(raw) < len(whole) {
					t.Fatalf("%d bytes of at most %d", len(raw), limit)
				}
				m, err := parseSyslog(raw)
				if err != nil {
					t.Fatal(err)
				}
				if m.text() == strings.TrimPrefix(whole, bom) || m.text() == whole {
					if m.param("cut_from") != "" {
						t.Fatal("a whole message is marked as cut")
					}
					continue
				}
				begin, ok := strings.CutSuffix(m.text(), cutMark)
				if !ok || !utf8.ValidString(begin) || !strings.HasPrefix(whole, begin) && !strings.HasPrefix(whole, bom+begin) {
					t.Fatalf("limit %d: %q", limit, m.text())
				}
				if m.param("cut_from") != strconv.Itoa(len(whole)) {
					t.Fatalf("cut_from is %q of %d", m.param("cut_from"), len(whole))
				}
				if id := m.param("id"); id == "" || !strings.HasPrefix(e.ID, id) {
					t.Fatalf("the id is %q", id)
				}
			}
		}
	}
}

// TestSyslogForgery has texts that look like the end of a message and another one.
func TestSyslogForgery(t *testing.T) {
	t.Parallel()
	const forged = "text\n<0>1 2026-11-20T10:00:00.123Z evil root - - - owned\n10 <0>1 - - -\r\n<0>1 - - - - - - x\x00<0>1"
	for _, test := range syslogStreams {
		for _, format := range []string{
			config.FormatJSON, config.FormatText, config.FormatCADF, config.FormatOSForwarder, config.FormatCEF, config.FormatLEEF,
		} {
			t.Run(test.network+" "+test.framing+" "+format, func(t *testing.T) {
				server, s := syslogTest(t, test.network, test.framing, withFormat(format))
				e := osMessage(forged)
				e.Summary, e.HMC, e.Resource.Name = forged, forged, forged
				rs := []event.Record{event.NewRecord(e)}
				e.Type, e.Body = event.TypeLogEntry, json.RawMessage(`{"event-id":"1941","event-message":`+strconv.Quote("\n<0>1 - - - - - - x")+`,"event-data-items":[]}`)
				rs = append(rs, event.NewRecord(e), record(3))
				// Not what is ever stored, but nothing depends on that.
				rs = append(rs, event.Record{ID: "4", Type: "a\nb", JSON: []byte("{\n\"hmc\":\n\"a\"}\n<0>1 - - - - - - x")})
				if err := s.Send(t.Context(), rs); err != nil {
					t.Fatal(err)
				}
				eventually(t, "all events", func() bool { return len(server.received()) >= len(rs) })
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				server.stop()
				if n := len(server.received()); n != len(rs) || len(server.broken()) > 0 {
					t.Fatalf("%d messages of %d, %v", n, len(rs), server.broken())
				}
				for i, m := range server.received() {
					if strings.ContainsAny(string(m.raw), "\n\r\x00") {
						t.Errorf("message %d: %q", i, m.raw)
					}
				}
			})
		}
	}
}

// FuzzSyslogFormat makes messages of anything. Each is one message to a parser, within its size, with the right fields.
func FuzzSyslogFormat(f *testing.F) {
	f.Add("hmc-east", "partition", "LNX1", "CPC1", "os-message", "summary", "text\n<0>1 - - - - - - x", "bridge.example.com", 1024, 0, true)
	f.Add("", "", "", "", "", "", "", "", 0, 1, false)
	f.Add("\xff", "\n", `"]\\`, "\u2028", " ", "ü", strings.Repeat("日", 1000), "a b", 2000, 2, true)
	f.Add("a", "cpc", "a", "a", event.TypeLogEntry, "a", `1941`, "h", 100_000, 3, false)
	formats := []string{config.FormatJSON, config.FormatText, config.FormatCADF, config.FormatOSForwarder}
	f.Fuzz(func(t *testing.T, hmc, class, name, cpc, typ, summary, text, host string, size, format int, lf bool) {
		framing := config.FramingOctetCounting
		if lf {
			framing = config.FramingLF
		}
		size = 1<<10 + (size&0xffff)%(64<<10)
		formatter := syslogFormatOf(t, framing, func(c *config.Syslog) {
			c.Format, c.Hostname, c.MaxSize = formats[format&3], host, config.Size(size)
		})
		body, err := json.Marshal(map[string]any{
			"message-text": text, "event-message": text, "event-id": text, "userid": name, "sequence-number": size,
			"event-data-items": []map[string]any{{"data-item-number": format, "data-item-value": text, "data-item-type": "string"}},
		})
		if err != nil {
			t.Fatal(err)
		}
		at := time.Unix(int64(size)*int64(format), 0)
		r := event.NewRecord(&event.Event{
			ID: event.NewID(text), HMC: hmc, Type: typ, Time: at, Received: at, Summary: summary, Severity: class,
			Resource: &event.Resource{Class: class, Name: name, CPC: cpc}, Body: body,
		})
		raw := formatter.append(nil, &r, formatter.max)
		if len(raw) > size {
			t.Errorf("%d bytes of at most %d", len(raw), size)
		}
		if strings.ContainsAny(string(raw), "\n\r\x00") || !utf8.Valid(raw) {
			t.Errorf("%q", raw)
		}
		m, err := parseSyslog(raw)
		if err != nil {
			t.Fatal(err)
		}
		if got := m.param("id"); got != r.ID {
			t.Errorf("the id is %q, not %q", got, r.ID)
		}
		if len(raw) < size && len(hmc) < 50 && utf8.ValidString(hmc) {
			if got, want := m.param("hmc"), strings.Map(event.PrintableRune, hmc); got != want {
				t.Errorf("the HMC is %q, not %q", got, want)
			}
		}
		isJSON := formats[format&3] == config.FormatJSON || formats[format&3] == config.FormatCADF
		if isJSON && m.param("cut_from") == "" && !json.Valid([]byte(m.text())) {
			t.Errorf("not JSON: %q", m.text())
		}
		// The stream tells where it ends.
		stream := formatter.stream([]event.Record{r, r})
		want := strings.Repeat(string(raw)+"\n", 2)
		if !lf {
			want = strings.Repeat(fmt.Sprintf("%d %s", len(raw), raw), 2)
		}
		if string(stream) != want {
			t.Errorf("the stream is\n%q\nnot\n%q", stream, want)
		}
	})
}
