package check_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/check"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
)

const expectConfig = `hmcs: [{name: east, hosts: [x], userid: u, password: p, group: all, labels: {site: DC1}}]
sinks:
  - {name: lines, log: {output: %s}, match: [{severity: [warning, critical]}]}
  - {name: chat, webhook: {url: "http://x", format: template, template: '{"t": {{ json .Summary }}, "n": [1, {"g": {{ json .Group }}}], "at": {{ json .Time }}}'}, drop: [{name: "TEST.*"}]}
  - {name: text, webhook: {url: "http://x", format: template, content_type: text/plain, template: "a {{ .Type }}\nb\nc {{ .Severity }}\n"}}
  - {name: odd, webhook: {url: "http://x", format: template, content_type: text/plain, template: '{{ if lt (field "n" .Body | default 1) 3 }}1{{ end }}'}, match: [{type: odd}]}
  - {name: whole, webhook: {url: "http://x", compression: gzip, secret: whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw}}
  - {name: siem, syslog: {address: "udp://127.0.0.1:9", format: cef}}
  - {name: stream, nats: {servers: ["nats://x"], subject: a}}
  - {name: topic, kafka: {brokers: ["x:1"], topic: a}}
  - {name: alerts, alertmanager: {urls: ["http://x"]}}
rules:
  - {match: [{text: panic}], severity: critical, labels: {area: os}, runbook: "https://wiki.example.com/panic"}
severity: {status: {stopped: critical}}
`

// expect runs a file of expectations.
func expect(t *testing.T, text string) (out string, err error) {
	t.Helper()
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	log := filepath.Join(dir, "events.log")
	cfg, err := config.Load(write("c.yaml", fmt.Sprintf(expectConfig, log)))
	if err != nil {
		t.Fatal(err)
	}
	write("event.json", `{"id":"1","hmc":"east","type":"os-message","time":"2026-11-20T10:00:00Z","received":"2026-11-20T10:00:00Z","origin":"live","severity":"info","body":{"message-text":"panic"}}`)
	write("broken.json", `{"type":`)
	var b strings.Builder
	err = check.Expectations(cfg, write("test.yaml", text), "test", &b)
	if _, stat := os.Lstat(log); stat == nil {
		t.Error("the file of a sink was left")
	}
	return strings.ReplaceAll(b.String(), dir+string(filepath.Separator), ""), err
}

const stopped = `type: status-change, summary: s, time: 2026-11-20T10:00:00Z, resource: {class: partition, name: PART1}, body: {change-reports: [{old-status: active, new-status: stopped}]}`

func TestExpectationsMet(t *testing.T) {
	out, err := expect(t, `
- event: {`+stopped+`}
  expect:
    severity: critical
    sinks: [whole, siem, stream, topic, alerts, chat, text, lines]
    labels: {area: ""}
    runbook: ""
    body:
      chat: {t: s, n: [1.0, {g: all}], at: "2026-11-20T10:00:00.000Z", none: null}
      text: |
        a status-change
        b
        c critical
      whole: {severity: critical, body: {change-reports: [{new-status: stopped}]}}
      stream: '{"hmc": "east"}'
      topic: {type: status-change}
      lines: {time: "2026-11-20T10:00:00.000Z", received: "2026-11-20T10:00:00.000Z"}
- event: {type: status-change, summary: s, severity: critical, resource: {class: partition, name: TEST1}, body: {change-reports: [{new-status: active}]}}
  expect: {severity: info, sinks: [whole, siem, stream, topic, alerts, text]}
- event: event.json
  expect: {severity: critical, labels: {area: os}, runbook: "https://wiki.example.com/panic"}
- event: {type: bridge-gap, severity: warning}
  expect: {severity: warning}
- event: {type: os-message, body: {message-text: "panic", answered: true}}
  expect: {severity: info, labels: {area: os}}
- event: {type: job-completion, body: {status: complete, job-status-code: 500}}
  expect: {severity: warning}
- event: {type: status-change, unacceptable: true, body: {change-reports: [{new-status: active}]}}
  expect: {severity: warning}
`)
	if err != nil || out != "test.yaml: 7 events, all as expected\n" {
		t.Errorf("%v\n%s", err, out)
	}
}

// An event is rated as the daemon rates its notification, and has the labels of its HMC.
func TestExpectationsOfWhatTheDaemonDoes(t *testing.T) {
	var tests strings.Builder
	n := 0
	for _, test := range [][2]string{
		{`type: hardware-message, body: {text: Power}`, "warning, labels: {site: DC1}"},
		{`type: hardware-message, severity: critical, body: {text: Power, deleted: true}`, "info"},
		{`type: bridge-disconnected, body: {state: auth_failed}`, "critical"},
		{`type: bridge-disconnected, body: {state: disconnected}`, "warning"},
		{`type: bridge-disconnected, severity: info, body: {state: disconnected}`, "info"},
		{`type: bridge-gap, body: {may_be_missing: [x]}`, "warning"},
		{`type: bridge-gap, body: {causes: [x]}`, "info"},
		{`type: bridge-heartbeat, body: {connected: false}`, "warning"},
		{`type: bridge-heartbeat, body: {connected: true}`, "info"},
		{`type: status-change-summary, body: {new-status: communications-not-active}`, "critical"},
		{`type: status-change-summary, body: {new-status: active}`, "info"},
		{`type: never-seen`, "info, labels: {site: DC1}"},
		{`type: never-seen, labels: {site: LAB, team: a}`, "info, labels: {site: LAB, team: a}"},
		{`type: never-seen, hmc: another`, `info, labels: {site: ""}`},
		{ // an activation
			`type: status-change, resource: {class: logical-partition}, body: {change-reports: [{old-status: not-activated, new-status: not-operating}]}`,
			"warning",
		},
		{
			`type: status-change, resource: {class: logical-partition}, body: {change-reports: [{old-status: operating, new-status: not-operating}]}`,
			"critical",
		},
		{ // of several the last
			`type: property-change, resource: {class: storage-group}, body: {change-reports: [{property-name: fulfillment-state, new-value: incomplete},` +
				` {property-name: fulfillment-state, new-value: complete}]}`,
			"info",
		},
		{
			`type: property-change, resource: {class: storage-group}, body: {change-reports: [{property-name: fulfillment-state, new-value: complete},` +
				` {property-name: fulfillment-state, new-value: incomplete}, {property-name: name, new-value: x}]}`,
			"warning",
		},
	} {
		fmt.Fprintf(&tests, "- event: {%s}\n  expect: {severity: %s}\n", test[0], test[1])
		n++
	}
	if out, err := expect(t, tests.String()); err != nil || out != fmt.Sprintf("test.yaml: %d events, all as expected\n", n) {
		t.Errorf("%v\n%s", err, out)
	}
}

// What is not as expected is said, all of it.
func TestExpectationsNotMet(t *testing.T) {
	out, err := expect(t, `
- name: first
  event: {`+stopped+`}
  expect:
    severity: warning
    sinks: [chat]
    labels: {area: disk}
    runbook: https://wiki.example.com/a
    body:
      chat: {t: other, n: [2, {h: x}], x: {}}
      text: "a status-change\nx\ny\nc critical"
      lines: [1]
      siem: {a: 1}
- event: {`+stopped+`}
  expect: {severity: critical}
- event: {type: x, resource: {name: TEST1}, body: {n: text}}
  expect: {sinks: [lines, chat], body: {odd: "1"}}
`)
	const want = `test.yaml: test 1 (first) is not as expected:
  severity: expected warning, is critical
  runbook: expected https://wiki.example.com/a, is none
  label area: expected disk, is none
  sink lines: expected not to get it, does: match[0] fits
  sink text: expected not to get it, does: it has no match, and so gets every event
  sink whole: expected not to get it, does: it has no match, and so gets every event
  sink siem: expected not to get it, does: it has no match, and so gets every event
  sink stream: expected not to get it, does: it has no match, and so gets every event
  sink topic: expected not to get it, does: it has no match, and so gets every event
  sink alerts: expected not to get it, does: it has no match, and so gets every event
  body of chat:
    n[0]: expected 2, is 1
    n[1].h: expected "x", is missing
    t: expected "other", is "s"
    x: expected {}, is missing
  body of lines:
    all of it: expected a list of 1, is {`
	if !strings.HasPrefix(out, want) {
		t.Errorf("got\n%s\nwant\n%s", out, want)
	}
	for _, want := range []string{
		"\n  body of siem:\n    expected JSON, is text:\n    - \n    + CEF:0|hmcnotifyd|hmcnotifyd|test|status-change|Status change|9|",
		"\n  body of text:\n    - x\n    - y\n    + b\n",
		"\ntest.yaml: test 3 is not as expected:\n  sink lines: expected to get it, does not: match[0] does not fit severity \"info\"\n" +
			"  sink chat: expected to get it, does not: drop[0] fits\n",
		"\n  body of odd: webhook: nothing was sent, the template failed: line 1: ",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("lacks %q:\n%s", want, out)
		}
	}
	if err == nil || !strings.HasSuffix(err.Error(), "test.yaml: of 3 events 2 are not as expected") {
		t.Errorf("%v", err)
	}
}

// What is wrong with the file is one line.
func TestExpectationsRefused(t *testing.T) {
	for text, want := range map[string]string{
		"":                     "holds no test",
		"[]":                   "holds no test",
		"a: 1":                 `line 1: must be a list: write "- " in front of each`,
		"garbage":              `line 1: must be a list: write "- " in front of each, not "garbage"`,
		"- 5":                  `line 1: must be keys with their values, not "5"`,
		"- [":                  "line ",
		"- {evnt: {}}":         "line 1: there is no key evnt",
		"- {event: {type: x}}": "test 1: expects nothing",
		"- {event: {type: x}, expect: {sink: [a]}}":               "line 1: there is no key sink",
		"- {expect: {severity: info}}":                            "test 1: has no event",
		"- {event: 7, expect: {severity: info}}":                  "test 1: event must be an event",
		"- {event: {}, expect: {severity: info}}":                 "test 1: event: has no type",
		"- {event: {typ: x}, expect: {severity: info}}":           `unknown field "typ"`,
		"- {event: {type: x}, expect: {sinks: chat}}":             `line 1: must be a list: write "- " in front of each, not "chat"`,
		"- {event: {type: x}, expect: {}}":                        "test 1: expects nothing",
		"- {event: {type: x}, expect: {labels: {}}}":              "test 1: expects nothing",
		"- {event: {type: x, time: now}, expect: {sinks: []}}":    `event: is no event: "now" is no time as 2026-11-20T10:00:00Z`,
		"- {event: {type: 7}, expect: {sinks: []}}":               "event: is no event: type must be a string, not of the kind number",
		"- {event: {type: status_change}, expect: {sinks: []}}":   `no event of the type "status_change" is known, did you mean "status-change"?`,
		"- {name: a, event: none.json, expect: {severity: info}}": "none.json: no such file",
		"- {event: broken.json, expect: {severity: info}}":        "event: is no event as JSON: ",
		"- {event: {type: x}, expect: {severity: bad}}":           `severity must be one of info, warning, critical, not "bad"`,
		"- {event: {type: x}, expect: {sinks: [al]}}":             `there is no sink "al": the sinks are lines, chat`,
		"- {event: {type: x}, expect: {body: {al: x}}}":           `there is no sink "al"`,
		"- {event: {type: x}, expect: {body: {alerts: x}}}":       "body of alerts: what a sink of this kind sends cannot be compared",
		"- {event: {type: x, a: {1: 2, 1: 3}}, expect: {}}":       "already defined at line 1",
		"- {event: {type: x}, expect: {sinks: []}}\n---\n- {}":    ": a second YAML document begins here",
	} {
		if out, err := expect(t, text); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") ||
			strings.Contains(err.Error(), "check.") || strings.Contains(err.Error(), ": ;") || out != "" {
			t.Errorf("%q: %v, want %s\n%s", text, err, want, out)
		}
	}
	if err := check.Expectations(&config.Config{}, filepath.Join(t.TempDir(), "none"), "", nil); err == nil {
		t.Error("a file that is not there")
	}
}
