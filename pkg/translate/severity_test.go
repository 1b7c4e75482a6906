package translate

import (
	"fmt"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// docs/severity.md and the built-in table have the same rows, and each says what the status means and from where that is known.
func TestSeverityTableIsDocumented(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/severity.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := make(map[rating]bool)
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.TrimSuffix(strings.TrimSpace(line), " |"), " | ")
		if len(cells) != 5 || !strings.HasPrefix(cells[0], "| `") {
			continue
		}
		row := rating{strings.Trim(cells[0], "| `"), strings.Trim(cells[1], "`"), cells[2]}
		if documented[row] {
			t.Errorf("%v is there twice", row)
		}
		documented[row] = true
		if len(cells[3]) < 8 || cells[4] == "" {
			t.Errorf("%v: no meaning or no source: %q, %q", row, cells[3], cells[4])
		}
	}
	// the statuses by which check-config finds what is misspelled
	known := make(map[string][]string)
	for _, r := range ratings {
		known[r.class] = append(known[r.class], r.status)
		if !documented[r] {
			t.Errorf("docs/severity.md lacks %v", r)
		}
		delete(documented, r)
	}
	if !reflect.DeepEqual(known, event.Statuses) {
		t.Errorf("the built-in table has %v, event.Statuses %v", known, event.Statuses)
	}
	for r := range documented {
		t.Errorf("docs/severity.md has %v, which the built-in table lacks", r)
	}
}

// So have the statuses of links their rows.
func TestLinkStatusesAreDocumented(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/severity.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), "| link | severity |")
	table, _, _ = strings.Cut(table, "\n\n")
	var documented []string
	for line := range strings.Lines(table) {
		cells := strings.Split(line, " | ")
		if len(cells) != 4 || !strings.HasPrefix(line, "| `") {
			continue
		}
		status := strings.Trim(cells[0], "| `")
		documented = append(documented, status)
		e := described(newConverter(), "property-change", `{"change-reports":[{"property-name":"physical-channel-status","old-value":"x","new-value":"`+
			status+`"}]}`, "class", "storage-port", "name", "X")[0]
		if e.Severity != cells[1] || len(cells[2]) < 8 {
			t.Errorf("%s is %s, documented %q", status, e.Severity, cells[1:])
		}
	}
	if !slices.Equal(documented, event.LinkStatuses) {
		t.Errorf("documented\n%v\nknown\n%v", documented, event.LinkStatuses)
	}
}

// A status change has the severity of the table, also where it is one of many.
func TestSeverityOfStatuses(t *testing.T) {
	t.Parallel()
	for _, r := range append([]rating{
		{"cpc", "dreaming", "info"},
		{"oracle", "dreaming", "info"},
		{"", "", "info"},
		// a status of another class means what it means there
		{"logical-partition", "no-power", "critical"},
		{"oracle", "not-operating", "critical"},
	}, ratings...) {
		if r.class == "storage-group" || r.status == "" {
			continue
		}
		for _, reports := range []string{
			`[{"old-status":"x","new-status":"` + r.status + `"}]`,
			`[{"old-status":"x","new-status":"no-power"},{"old-status":"no-power","new-status":"` + r.status + `"}]`,
		} {
			e := described(newConverter(), "status-change", `{"change-reports":`+reports+`}`, "class", r.class, "name", "X")[0]
			if e.Severity != r.severity || e.Unacceptable != nil {
				t.Errorf("%s %s is %s, want %s", r.class, reports, e.Severity, r.severity)
			}
		}
	}
}

// Storage that is not there, and a link without a signal, are told as properties.
func TestSeverityOfStatusProperties(t *testing.T) {
	t.Parallel()
	own := NewSeverities(config.Severity{Status: config.SeverityTable{"storage-group/pending": "critical", "adapter/stopped": "info"}})
	for _, test := range []struct {
		class, property, value, want string
		s                            *Severities
	}{
		{"storage-group", "fulfillment-state", `"incomplete"`, "warning", nil},
		{"storage-group", "fulfillment-state", `"complete"`, "info", nil},
		{"storage-group", "fulfillment-state", `"pending"`, "info", nil},
		{"storage-group", "fulfillment-state", `"pending"`, "critical", own},
		{"storage-group", "description", `"incomplete"`, "info", nil},
		{"partition", "fulfillment-state", `"incomplete"`, "info", nil},
		{"adapter", "physical-channel-status", `"link-failure"`, "warning", nil},
		{"adapter", "physical-channel-status", `"operating"`, "info", nil},
		{"adapter", "physical-channel-status", `"stopped"`, "info", own},
		{"network-port", "physical-channel-status", `"loss-of-signal"`, "warning", nil},
		{"adapter", "physical-channel-status", `null`, "info", nil},
	} {
		c := newConverter()
		c.Severities = test.s
		e := described(c, "property-change", `{"change-reports":[{"property-name":"`+test.property+`","old-value":"x","new-value":`+test.value+`},`+
			`{"property-name":"name","old-value":"a","new-value":"b"}]}`, "class", test.class, "name", "X")[0]
		if e.Severity != test.want {
			t.Errorf("%+v is %s", test, e.Severity)
		}
	}
}

// What operators have made acceptable on the HMC is information, whatever else says what; what the HMC calls unacceptable is a
// warning at least, unless the configuration knows better.
func TestSeverityOfJudgedStatuses(t *testing.T) {
	t.Parallel()
	quiet := NewSeverities(config.Severity{Status: config.SeverityTable{"stopped": "info", "paused": "critical", "partition/paused": "warning"}})
	deaf := NewSeverities(config.Severity{AcceptableStatus: config.AcceptableIgnore})
	for _, test := range []struct {
		status, unacceptable string
		s                    *Severities
		want                 string
	}{
		{"dreaming", "true", nil, "warning"},
		{"dreaming", "false", nil, "info"},
		{"dreaming", "null", nil, "info"},
		{"dreaming", "true", deaf, "info"},
		{"status-check", "true", nil, "critical"},
		{"status-check", "false", nil, "info"},
		{"status-check", "false", deaf, "critical"},
		{"stopped", "true", quiet, "info"},
		{"paused", "true", quiet, "warning"},
		{"paused", "false", quiet, "info"},
		{"paused", "null", quiet, "warning"},
	} {
		c := newConverter()
		c.Severities = test.s
		e := described(c, "status-change", `{"change-reports":[{"old-status":"active","new-status":"`+test.status+`","has-unacceptable-status":`+test.unacceptable+`}]}`, "class", "partition")[0]
		told := "null"
		if e.Unacceptable != nil {
			told = strconv.FormatBool(*e.Unacceptable)
		}
		if e.Severity != test.want || told != test.unacceptable {
			t.Errorf("%+v is %s, unacceptable %s", test, e.Severity, told)
		}
	}
}

// What the HMC thinks of a status is known from the notification, else from what is acceptable for the resource, which may change.
func TestAcceptableStatusIsFollowed(t *testing.T) {
	t.Parallel()
	c := newConverter()
	headers := []string{"class", "logical-partition", "name", "TEST1", "object-uri", "/api/logical-partitions/t1"}
	change := func(reports string) event.Event {
		return described(c, "status-change", `{"change-reports":`+reports+`}`, headers...)[0]
	}
	expect := func(what string, e event.Event, severity, unacceptable, summary string) {
		t.Helper()
		told := "null"
		if e.Unacceptable != nil {
			told = strconv.FormatBool(*e.Unacceptable)
		}
		if e.Severity != severity || told != unacceptable || !strings.Contains(e.Summary, summary) || e.Repeat {
			t.Errorf("%s: %s, unacceptable %s, %q (repeat %v)", what, e.Severity, told, e.Summary, e.Repeat)
		}
	}
	acceptable := func(list string) {
		described(c, "property-change", `{"change-reports":[{"property-name":"acceptable-status","old-value":null,"new-value":`+list+`}]}`, headers...)
	}
	expect("nothing is known", change(`[{"old-status":"operating","new-status":"not-activated"}]`), "warning", "null", "operating -> not-activated")
	acceptable(`["operating","not-activated"]`)
	expect("activated", change(`[{"old-status":"not-activated","new-status":"operating"}]`), "info", "false", "operating")
	expect("acceptable", change(`[{"old-status":"operating","new-status":"not-activated"}]`), "info", "false", "not-activated")
	expect("the notification wins", change(`[{"old-status":"not-activated","new-status":"operating","has-unacceptable-status":true}]`), "warning", "true", "operating")
	acceptable(`["operating"]`)
	expect("not any more", change(`[{"old-status":"operating","new-status":"not-activated"}]`), "warning", "true", "not-activated")
	acceptable(`["operating","not-activated"]`)
	expect("judged anew", change(`[{"has-unacceptable-status":false}]`), "info", "false", "the status not-activated is acceptable now")
	expect("and back", change(`[{"has-unacceptable-status":true}]`), "warning", "true", "the status not-activated is unacceptable now")
	change(`[{"old-status":"not-activated","new-status":"operating"}]`)
	expect("worse", change(`[{"old-status":"operating","new-status":"not-operating"}]`), "critical", "true", "not-operating")
	expect("a flag of an earlier report", change(`[{"old-status":"not-operating","new-status":"exceptions","has-unacceptable-status":true},`+
		`{"old-status":"exceptions","new-status":"operating"}]`), "info", "false", "not-operating -> exceptions -> operating")
	expect("a report that names no status ends nothing", change(`[{"old-status":"operating","new-status":"exceptions","has-unacceptable-status":false},`+
		`{"new-additional-status":"x"}]`), "info", "false", "operating -> exceptions (additional status x)")
	expect("the same once more, judged otherwise", change(`[{"old-status":"operating","new-status":"exceptions","has-unacceptable-status":true}]`), "warning", "true", "operating -> exceptions")
}

// The ids by which an HMC says that somebody was not let in, and what the configuration makes of them.
func TestSeverityOfLogEntries(t *testing.T) {
	t.Parallel()
	warned := []string{"136", "137", "138", "191", "192", "193", "522", "859", "1286", "1287", "1324", "1340", "1691", "1692", "2031"}
	entry := func(s *Severities, id string) string {
		c := newConverter()
		c.Severities = s
		return described(c, "log-entry", fmt.Sprintf(`{"log-entries":[{"event-time":1574705197000,"event-id":%q,"event-message":"m"}]}`, id), "x", "y")[0].Severity
	}
	for _, id := range warned {
		if got := entry(nil, id); got != event.SeverityWarning {
			t.Errorf("%s is %s", id, got)
		}
	}
	for _, id := range []string{"", "1941", "1942", "1325", "99999"} { // 1325: a userid is no longer disabled
		if got := entry(nil, id); got != event.SeverityInfo {
			t.Errorf("%s is %s", id, got)
		}
	}
	own := NewSeverities(config.Severity{EventID: config.SeverityTable{"522": "info", "1941": "critical"}})
	for id, want := range map[string]string{"522": "info", "1941": "critical", "136": "warning", "1942": "info"} {
		if got := entry(own, id); got != want {
			t.Errorf("as configured, %s is %s, want %s", id, got, want)
		}
	}
}

// Classes, statuses, types, headers and members that nobody has seen yet arrive as the HMC sent them (4.7).
func TestUnknownPassesThrough(t *testing.T) {
	t.Parallel()
	for typ, body := range map[string]string{
		"status-change":    `{"change-reports":[{"old-status":"x1","new-status":"x2","mood":{"a":[1,null,"é"]}}],"more":1.50}`,
		"property-change":  `{"change-reports":[{"property-name":"p","old-value":{"b":1},"new-value":[[]],"why":"?"}],"more":{}}`,
		"inventory-change": `{"more":[1]}`,
		"job-completion":   `{"status":"dreaming","job-status-code":"200","more":[1]}`,
		"os-message":       `{"os-message":[1]}`,
		"log-entry":        `{"log-entry":[1]}`,
		"mood-change":      `[1,{"a":"\u0041"}]`,
	} {
		headers := []string{"class", "oracle", "name", "O", "object-uri", "/api/oracles/o", "object-id", "o", "x-new", "a b"}
		all := described(newConverter(), typ, body, headers...)
		if len(all) != 1 {
			t.Fatalf("%s: %d events", typ, len(all))
		}
		e := all[0]
		if e.Type != typ || string(e.Body) != body || e.Severity != event.SeverityInfo || e.Summary == "" || e.Headers.Get("x-new") != "a b" ||
			*e.Resource != (event.Resource{Class: "oracle", Name: "O", ObjectURI: "/api/oracles/o", ObjectID: "o"}) {
			t.Errorf("%s became %+v, %s", typ, e, e.Body)
		}
	}
	for typ, list := range map[string]string{"os-message": "os-messages", "log-entry": "log-entries"} {
		const element = `{"mood":{"a":[1]},"event-id":7,"sequence-number":"x"}`
		if all := described(newConverter(), typ, `{"`+list+`":[`+element+`]}`); len(all) != 1 || string(all[0].Body) != element || all[0].Severity != event.SeverityInfo {
			t.Errorf("%s: %+v", typ, all)
		}
	}
}
