package translate

import (
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
)

// described makes the events of a notification about partition PART1 on CPC1, or with the headers given.
func described(c *Converter, typ, body string, headers ...string) []event.Event {
	n := receiver.Notification{Topic: "u.1", Received: time.Now(), Body: []byte(body), Headers: receiver.Headers{{Name: "notification-type", Value: typ}}}
	if len(headers) == 0 {
		headers = []string{"class", "partition", "name", "PART1", "object-uri", "/api/partitions/e12121da"}
	}
	for i := 0; i < len(headers); i += 2 {
		n.Headers = append(n.Headers, receiver.Header{Name: headers[i], Value: headers[i+1]})
	}
	var all []event.Event
	var parsed Notification
	parsed.Parse(&n, true)
	c.Convert(&parsed, event.IDOf("x"), func(p *Part) {
		e := p.Event
		copied := *e
		all = append(all, copied)
	})
	return all
}

// "facts" names the statement of docs/hmc-behavior.md.
func TestSummaries(t *testing.T) {
	t.Parallel()
	const element = "/api/partitions/e12121da/nics/n1"
	nic := []string{"class", "nic", "object-uri", "/api/partitions/e12121da", "element-uri", element, "element-id", "n1"}
	for _, test := range []struct {
		facts, typ, body  string
		headers           []string
		summary, severity string
	}{
		{
			facts: "4.1: four keys, additional statuses null", typ: "status-change",
			body:    `{"change-reports":[{"old-status":"communications-not-active","old-additional-status":null,"new-status":"stopped","new-additional-status":null}]}`,
			summary: "partition PART1 on CPC1: communications-not-active -> stopped", severity: "warning",
		},
		{
			facts: "4.1: has-unacceptable-status may be present", typ: "status-change",
			body:    `{"change-reports":[{"old-status":"active","new-status":"odd","has-unacceptable-status":true}]}`,
			summary: "partition PART1 on CPC1: active -> odd", severity: "warning",
		},
		{
			facts: "4.1: an additional status", typ: "status-change",
			body:    `{"change-reports":[{"old-status":"active","old-additional-status":null,"new-status":"degraded","new-additional-status":"storage"}]}`,
			summary: "partition PART1 on CPC1: active -> degraded (additional status storage)", severity: "warning",
		},
		{
			facts: "4.1: oldest first", typ: "status-change",
			body:    `{"change-reports":[{"old-status":"active","new-status":"stopping"},{"old-status":"stopping","new-status":"stopped"},{"old-status":"stopped","new-status":"starting"},{"old-status":"starting","new-status":"active"}]}`,
			summary: "partition PART1 on CPC1: active -> stopping -> stopped -> starting -> active", severity: "info",
		},
		{
			facts: "4.1: oldest first, and more than a line bears", typ: "status-change",
			body:    `{"change-reports":[{"old-status":"a","new-status":"b"},{"old-status":"b","new-status":"c"},{"old-status":"c","new-status":"d"},{"old-status":"d","new-status":"e"},{"old-status":"e","new-status":"paused"}]}`,
			summary: "partition PART1 on CPC1: a -> paused", severity: "warning",
		},
		{
			facts: "4.1: the same change repeated", typ: "status-change",
			body:    `{"change-reports":[{"old-status":"active","new-status":"stopped"},{"old-status":"active","new-status":"stopped"}]}`,
			summary: "partition PART1 on CPC1: active -> stopped", severity: "warning",
		},
		{
			facts: "4.1: the same status repeated", typ: "status-change",
			body:    `{"change-reports":[{"old-status":"active","new-status":"active"}]}`,
			summary: "partition PART1 on CPC1: active -> active", severity: "info",
		},
		{
			facts: "4.2: a container reports what was removed and what was added", typ: "property-change",
			body:    `{"change-reports":[{"property-name":"nic-uris","old-value":null,"new-value":["/a","/b"]},{"property-name":"hba-uris","old-value":["/c"],"new-value":["/d"]}]}`,
			summary: "partition PART1 on CPC1: nic-uris: 2 added, hba-uris: 1 added, 1 removed", severity: "info",
		},
		{
			facts: "4.2: an array that is no container", typ: "property-change",
			body:    `{"change-reports":[{"property-name":"acceptable-status","old-value":["operating"],"new-value":["operating","not-activated"]}]}`,
			summary: `partition PART1 on CPC1: acceptable-status ["operating"] -> ["operating","not-activated"]`, severity: "info",
		},
		{
			facts: "4.2: write-only properties: both null", typ: "property-change",
			body: `{"change-reports":[{"property-name":"password","old-value":null,"new-value":null}]}`, headers: []string{"class", "user", "name", "ops"},
			summary: "user ops: password changed", severity: "info",
		},
		{
			facts: "4.2: values can be any JSON type", typ: "property-change",
			body:    `{"change-reports":[{"property-name":"a","old-value":1.5,"new-value":{"x":true}},{"property-name":"b","old-value":"","new-value":null},{"property-name":"c","old-value":false,"new-value":true},{"property-name":"d","old-value":1,"new-value":2}]}`,
			summary: `partition PART1 on CPC1: a 1.5 -> {"x":true}, b "" -> null, c false -> true and 1 more`, severity: "info",
		},
		{
			facts: "4.2: also emitted for elements", typ: "property-change", headers: nic,
			body:    `{"change-reports":[{"property-name":"name","old-value":"old","new-value":"eth0"}]}`,
			summary: `partition PART1 on CPC1: element nics/eth0 name "old" -> "eth0"`, severity: "info",
		},
		{
			facts: "4.3: inventory-change has a zero-length body", typ: "inventory-change", headers: append(nic, "action", "remove"),
			summary: "partition PART1 on CPC1: element nics/eth0 removed", severity: "info",
		},
		{
			facts: "3: of an element the class is its own; whose name the name is, is not known", typ: "inventory-change", headers: append(nic, "action", "add", "name", "N"),
			summary: "nic N on CPC1: element nics/eth0 added", severity: "info",
		},
		{
			facts: "4.3: an action nobody has seen", typ: "inventory-change", headers: []string{"class", "adapter", "name", "A1", "object-uri", "/api/adapters/a1", "action", "swap"},
			summary: "adapter A1: swap", severity: "info",
		},
		{
			facts: "4.4: job-completion has no body", typ: "job-completion", headers: []string{"job-uri", "/api/jobs/17"},
			summary: "job 17 completed", severity: "info",
		},
		{
			facts: "4.4: a job-completion without job-uri", typ: "job-completion", headers: []string{"x", "y"},
			summary: "job completed", severity: "info",
		},
		{
			facts: "4.4: also sent when a job is canceled", typ: "job-completion", headers: []string{"job-uri", "/api/jobs/17"},
			body:    `{"status":"canceled","job-status-code":500,"job-reason-code":101,"job-results":{}}`,
			summary: "job 17 canceled, status 500, reason 101", severity: "warning",
		},
		{
			facts: "1.11: Query Job Status", typ: "job-completion", headers: []string{"job-uri", "/api/jobs/17"},
			body:    `{"status":"complete","job-status-code":200,"job-results":{"image":"x","size":3}}`,
			summary: "job 17 complete, status 200 (results: image, size)", severity: "info",
		},
		{
			facts: "1.11: the reason code only on error", typ: "job-completion", headers: []string{"job-uri", "/api/jobs/17"},
			body:    `{"status":"complete","job-status-code":409,"job-reason-code":1}`,
			summary: "job 17 complete, status 409, reason 1", severity: "warning",
		},
		{
			facts: "4.5: message-text may be blank; message-id a string; prompt-text empty", typ: "os-message",
			body:    `{"os-messages":[{"sequence-number":1564,"message-id":"0","message-text":" \n","os-name":null,"timestamp":-1,"sound-alarm":false,"is-priority":false,"is-held":false,"is-refresh":false,"prompt-text":""}]}`,
			summary: "partition PART1 on CPC1: ", severity: "info",
		},
		{
			facts: "4.5: held needs a reply", typ: "os-message",
			body:    `{"os-messages":[{"sequence-number":1,"message-id":7,"message-text":"\n*01 REPLY Y\tOR N\nmore","is-held":true,"prompt-text":"01"}]}`,
			summary: "partition PART1 on CPC1: held, waits for an answer: *01 REPLY Y OR N", severity: "warning",
		},
		{
			facts: "4.5: priority", typ: "os-message", body: `{"os-messages":[{"sequence-number":1,"message-text":"disk full","is-priority":true}]}`,
			summary: "partition PART1 on CPC1: priority: disk full", severity: "warning",
		},
		{
			facts: "4.5: sound-alarm", typ: "os-message", body: `{"os-messages":[{"sequence-number":1,"message-text":"beep","sound-alarm":true}]}`,
			summary: "partition PART1 on CPC1: beep", severity: "warning",
		},
		{
			facts: "4.6: the message is fully formatted", typ: "log-entry", headers: []string{"x", "y"},
			body:    `{"log-entries":[{"event-time":1574705197000,"event-id":"1941","event-name":"","event-message":"User zbc has logged on","userid":"zbc"}]}`,
			summary: "User zbc has logged on [1941]", severity: "info",
		},
		{
			facts: "4.6: who, where the message does not say it", typ: "log-entry", headers: []string{"x", "y"},
			body:    `{"log-entries":[{"event-time":1574705197000,"event-id":"77","event-message":"Task performed","userid":"zbc"}]}`,
			summary: "zbc: Task performed [77]", severity: "critical",
		},
		{
			facts: "4.6: userid may be null, event-name empty", typ: "log-entry", headers: []string{"x", "y"},
			body:    `{"log-entries":[{"event-time":1,"event-id":"5","event-name":"","event-message":"","userid":null}]}`,
			summary: "log entry 5", severity: "info",
		},
		{
			facts: "a type and a class nobody has seen", typ: "mood-change", headers: []string{"class", "oracle", "name", "O"}, body: `{"mood":1}`,
			summary: "oracle O: mood-change", severity: "info",
		},
	} {
		t.Run(test.facts, func(t *testing.T) {
			c := newConverter()
			c.elements = map[string]string{element: "eth0"}
			c.Severities = NewSeverities(config.Severity{EventID: config.SeverityTable{"77": "critical"}})
			all := described(c, test.typ, test.body, test.headers...)
			if len(all) != 1 || all[0].Summary != test.summary || all[0].Severity != test.severity {
				t.Errorf("got %q, %s, want %q, %s", all[0].Summary, all[0].Severity, test.summary, test.severity)
			}
		})
	}
}

// How long a status has lasted is known from the second change on.
func TestHowLongAStatusLasted(t *testing.T) {
	t.Parallel()
	c := newConverter()
	headers := []string{"class", "partition", "name", "PART1", "object-uri", "/api/partitions/e12121da"}
	change := func(ms, from, to string) event.Event {
		return described(c, "status-change", `{"change-reports":[{"old-status":"`+from+`","new-status":"`+to+`"}]}`, append(headers, "timestamp", ms)...)[0]
	}
	first := change("1574705197000", "stopped", "active")
	second := change("1574970000000", "active", "stopped")
	if first.Summary != "partition PART1 on CPC1: stopped -> active" || second.Summary != "partition PART1 on CPC1: active -> stopped (active for 3d 1h)" {
		t.Errorf("%q, %q", first.Summary, second.Summary)
	}
	if again := change("1574970001000", "active", "stopped"); !again.Repeat || again.Summary != "partition PART1 on CPC1: active -> stopped" {
		t.Errorf("the same change again: %+v", again)
	}
	if first.Repeat || second.Repeat {
		t.Error("a change that was not told before is marked as a repetition")
	}
	// It has become active since, and that was missed.
	if later := change("1574970700000", "active", "stopped"); later.Repeat {
		t.Errorf("what happens again is marked as a repetition: %+v", later)
	}
	if again := change("1574970701000", "active", "stopped"); !again.Repeat {
		t.Errorf("the same change again: %+v", again)
	}
	if again := change("1574990000000", "stopped", "stopped"); !again.Repeat {
		t.Errorf("no change: %+v", again)
	}
	for d, want := range map[time.Duration]string{
		50 * time.Hour: "2d 2h", 25 * time.Hour: "1d 1h", time.Hour: "1h", 61 * time.Minute: "1h 1m", 90 * time.Second: "1m 30s", 9 * time.Second: "9s", 9: "less than 1s",
	} {
		if got := roughly(d); got != want {
			t.Errorf("%s is %q, want %q", d, got, want)
		}
	}
}

// So it is with what no list has, an adapter for example.
func TestAdapterThatFailsAgain(t *testing.T) {
	t.Parallel()
	c, at := newConverter(), time.Unix(1_700_000_000, 0)
	for i, step := range []struct {
		after  time.Duration
		from   string
		repeat bool
	}{
		{0, "active", false},
		{time.Second, "active", true},
		{9 * time.Minute, "active", true},
		{11 * time.Minute, "active", false},
		{time.Second, "active", true},
		{time.Hour, "not-detected", true},
		{time.Hour, "", true},
	} {
		at = at.Add(step.after)
		var n Notification
		n.Parse(&receiver.Notification{
			Topic: "u.1", Received: at, Body: []byte(`{"change-reports":[{"old-status":"` + step.from + `","new-status":"not-detected"}]}`),
			Headers: receiver.Headers{
				{Name: "notification-type", Value: "status-change"}, {Name: "class", Value: "adapter"}, {Name: "object-uri", Value: "/api/adapters/a"},
			},
		}, true)
		c.Convert(&n, event.IDOf("x"), func(p *Part) {
			if p.Repeat != step.repeat {
				t.Errorf("step %d: repeat %v", i, p.Repeat)
			}
		})
	}
}

func TestSeverityOfTheConfiguration(t *testing.T) {
	t.Parallel()
	c := newConverter()
	c.Severities = NewSeverities(config.Severity{Status: config.SeverityTable{"stopped": "info", "dreaming": "critical"}})
	for status, want := range map[string]string{"stopped": "info", "dreaming": "critical", "status-check": "critical", "degraded": "warning"} {
		e := described(c, "status-change", `{"change-reports":[{"old-status":"active","new-status":"`+status+`"}]}`)[0]
		if e.Severity != want {
			t.Errorf("%s is %s, want %s", status, e.Severity, want)
		}
	}
}

// A summary is one line of a bearable length, whatever an operating system or an HMC sends.
func TestSummaryIsOneLine(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("ü", 400)
	texts := []string{`a\u0007b\u001b[31mc`, long, `a\r\nb`, `\u007f`, `a\u0085b\u009b31mc`, `a\u2028b\u2029c`, "a\xff\xfeb", strings.Repeat("\xff", 299)}
	for i := range 8 {
		texts = append(texts, strings.Repeat("x", i)+strings.Repeat("€", 200)) // the cut falls on each byte of a character
	}
	for _, text := range texts {
		entry := `{"log-entries":[{"event-id":"1941","event-message":"` + text + `"}]}`
		for _, e := range append(described(newConverter(), "os-message", `{"os-messages":[{"sequence-number":1,"message-text":"`+text+`"}]}`),
			described(newConverter(), "log-entry", entry)...) {
			if len(e.Summary) > event.MaxSummary || !utf8.ValidString(e.Summary) || strings.ContainsFunc(e.Summary, func(r rune) bool {
				return unicode.IsControl(r) || r == '\u2028' || r == '\u2029'
			}) {
				t.Errorf("%d bytes: %q", len(e.Summary), e.Summary)
			}
			if e.Type == event.TypeLogEntry && !strings.HasSuffix(e.Summary, " [1941]") {
				t.Errorf("the id is cut off: %q", e.Summary)
			}
		}
	}
	if got, want := described(newConverter(), "os-message", `{"os-messages":[{"message-text":"Grüße, 世界 a\u001b[31mb"}]}`)[0].Summary,
		"partition PART1 on CPC1: Grüße, 世界 a [31mb"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	e := event.Event{Type: "x", Origin: event.OriginReconcile, Resource: &event.Resource{Class: "partition", Name: long}}
	if new(Converter).Describe(&e); len(e.Summary) > event.MaxSummary || !strings.HasSuffix(e.Summary, "(no notification of it was received)") {
		t.Errorf("%d bytes: %q", len(e.Summary), e.Summary)
	}
}
