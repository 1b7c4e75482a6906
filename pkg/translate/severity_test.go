package translate

import (
	"fmt"
	"testing"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// Every status that HMCs are known to have, of CPCs, partitions and classic LPARs (4.1), and one that nobody has seen.
func TestSeverityOfStatuses(t *testing.T) {
	t.Parallel()
	for status, want := range map[string]string{
		"active": "info", "operating": "info", "acceptable": "info", "starting": "info", "stopping": "info", "dreaming": "info",
		"stopped": "warning", "paused": "warning", "degraded": "warning", "not-operating": "warning", "not-activated": "warning", "service": "warning",
		"communications-not-active": "critical", "not-communicating": "critical", "status-check": "critical", "no-power": "critical",
		"terminated": "critical", "exceptions": "critical", "service-required": "critical", "reservation-error": "critical",
	} {
		for _, class := range []string{"cpc", "partition", "logical-partition"} {
			e := described(newConverter(), "status-change", `{"change-reports":[{"old-status":"active","new-status":"`+status+`"}]}`, "class", class, "name", "X")[0]
			if e.Severity != want {
				t.Errorf("%s %s is %s, want %s", class, status, e.Severity, want)
			}
			for _, well := range []string{"active", "operating"} {
				e := described(newConverter(), "status-change", `{"change-reports":[{"old-status":"`+status+`","new-status":"`+well+`"}]}`, "class", class, "name", "X")[0]
				if e.Severity != event.SeverityInfo {
					t.Errorf("%s %s -> %s is %s", class, status, well, e.Severity)
				}
			}
		}
	}
}

// What the HMC calls unacceptable (4.1) is a warning at least, and no less than the table says.
func TestSeverityOfUnacceptableStatuses(t *testing.T) {
	t.Parallel()
	quiet := NewSeverities(config.Severity{Status: config.SeverityTable{"stopped": "info"}})
	for _, test := range []struct {
		status, unacceptable string
		s                    *Severities
		want                 string
	}{
		{"dreaming", "true", nil, "warning"},
		{"dreaming", "false", nil, "info"},
		{"dreaming", "null", nil, "info"},
		{"terminated", "true", nil, "critical"},
		{"terminated", "false", nil, "critical"},
		{"stopped", "true", quiet, "warning"},
		{"stopped", "false", quiet, "info"},
	} {
		c := newConverter()
		c.Severities = test.s
		e := described(c, "status-change", `{"change-reports":[{"old-status":"active","new-status":"`+test.status+`","has-unacceptable-status":`+test.unacceptable+`}]}`)[0]
		if e.Severity != test.want {
			t.Errorf("%+v is %s", test, e.Severity)
		}
	}
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
