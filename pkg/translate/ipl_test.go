package translate

import (
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/estate"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
)

// Program status words as they were seen, and what nobody has seen.
func TestDisabledWaits(t *testing.T) {
	t.Parallel()
	const (
		xcf    = "0002000080000000000000000017C0A2"
		runs   = "0706C00180000000000000000070E050" // a public sample: it is waiting for work
		stops  = "00020000800000000000000000000000"
		linux  = "0002000180000000000000000010F2A2"
		unseen = "00020000000000000000000000123FFE"
		check  = "000A0000000000000000000000000064" // machine checks are taken
	)
	for want, psws := range map[string][]string{
		"":                                     {runs, runs},
		"all processors in a disabled wait":    {stops},
		"2 of 3 processors in a disabled wait": {stops, runs, stops},
		"all processors in a disabled wait: 0A2, reason 017C: XCF: the system was removed from its sysplex, or cannot go on in it": {xcf, stops, xcf},
		"1 of 2 processors in a disabled wait: 064: an error was found while the nucleus was initialized":                          {check, runs},
		"all processors in a disabled wait: FFE, reason 0123":                                                                      {unseen},
		"all processors in a disabled wait: PSW 00020001 80000000 00000000 0010F2A2":                                               {linux},
		"1 of 4 processors in a disabled wait":                                                                                     {stops, "", "x", "000200008000000000000000000000ZZ"},
	} {
		got, coded := disabledWait(psws)
		if got != want || coded != strings.Contains(want, ": ") {
			t.Errorf("%q: %q, want %q", psws, got, want)
		}
	}
	if text, coded := disabledWait(nil); text != "" || coded {
		t.Error("nobody waits")
	}
}

// docs/wait-states.md has the wait states that are explained.
func TestWaitStatesAreDocumented(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/wait-states.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := make(map[string]string)
	for _, m := range regexp.MustCompile("(?m)^\\| `([0-9A-F]{3})` \\| (.*) \\|$").FindAllStringSubmatch(string(text), -1) {
		documented[m[1]] = m[2]
	}
	for code, meaning := range waitStates {
		name := strings.ToUpper(string([]byte{"0123456789ABCDEF"[code>>8], "0123456789ABCDEF"[code>>4&15], "0123456789ABCDEF"[code&15]}))
		if documented[name] != meaning {
			t.Errorf("%s is %q in docs/wait-states.md, and %q", name, documented[name], meaning)
		}
		delete(documented, name)
	}
	for name := range documented {
		t.Errorf("docs/wait-states.md has %s, which the code lacks", name)
	}
}

// An IPL is told by another token, or where there is none by the first message of a boot; a first token, and a replay, tell none.
func TestIPLs(t *testing.T) {
	t.Parallel()
	c := newConverter()
	at := time.Unix(1_700_000_000, 0)
	convert := func(typ, body string, seconds int) (all []event.Event) {
		var n Notification
		n.Parse(&receiver.Notification{Topic: "u.1", Received: at.Add(time.Duration(seconds) * time.Second), Body: []byte(body), Headers: receiver.Headers{
			{Name: "notification-type", Value: typ},
			{Name: "class", Value: "logical-partition"},
			{Name: "name", Value: "LP01"},
			{Name: "object-uri", Value: "/api/logical-partitions/1"},
		}}, true)
		c.Convert(&n, event.IDOf("x"), func(p *Part) { all = append(all, *p.Event) })
		return all
	}
	ipls := func(all []event.Event) (told []string) {
		for _, e := range all {
			if e.Type == event.TypeIPL {
				told = append(told, e.Summary)
				if e.ID == "" || e.Severity != event.SeverityInfo || e.Body == nil {
					t.Errorf("%+v", e)
				}
			}
		}
		return told
	}
	expect := func(all []event.Event, want ...string) {
		t.Helper()
		if got := strings.Join(ipls(all), "; "); got != strings.Join(want, "; ") {
			t.Errorf("%q, want %q", got, want)
		}
	}
	property := func(name, value string, seconds int) []event.Event {
		return convert("property-change", `{"change-reports":[{"property-name":"`+name+`","old-value":null,"new-value":`+value+`}]}`, seconds)
	}
	status := func(from, to string, seconds int) {
		convert("status-change", `{"change-reports":[{"old-status":"`+from+`","new-status":"`+to+`"}]}`, seconds)
	}
	boot := func(text, more string, seconds int) []event.Event {
		return convert("os-message", `{"os-messages":[{"sequence-number":1,"message-text":"`+text+`"`+more+`}]}`, seconds)
	}
	const linux = `[    0.000000] Linux version 6.4.0 (geeko@buildhost) #1 SMP`
	status("x", "operating", 0)
	expect(boot(linux, "", 1), "logical-partition LP01: IPL of Linux (6.4.0)")
	expect(boot(linux, `,"is-refresh":true`, 2))
	expect(boot("[   99.1] Linux version", "", 2))
	status("operating", "not-operating", 100)
	status("not-operating", "operating", 160)
	expect(boot(linux, "", 161), "logical-partition LP01: IPL of Linux (6.4.0), after 1m 1s")
	all := boot(linux, "", 170)
	expect(all, "logical-partition LP01: IPL of Linux (6.4.0)")
	if r := all[1].Resource; r.OSName != "Linux" || r.OSLevel != "6.4.0" || !strings.Contains(string(all[1].Body), `"os-name":"Linux","os-level":"6.4.0"`) {
		t.Errorf("%+v, %s", r, all[1].Body)
	}
	// Now z/OS.
	expect(property("os-ipl-token", `"0000000000000000"`, 200))
	expect(property("os-ipl-token", `"AAAA000000000001"`, 201)) // what was there before is not known
	expect(boot(linux, "", 202))                                // the token tells it
	property("os-name", `"SY01    "`, 203)
	property("os-level", `"z/OS V2.5"`, 203)
	property("sysplex-name", `"PLEX1"`, 203)
	property("last-used-load-address", `"0A86"`, 203)
	expect(property("os-ipl-token", `"AAAA000000000001"`, 204))
	status("operating", "not-activated", 300)
	expect(property("os-ipl-token", `"0000000000000000"`, 301))
	property("os-name", `null`, 301)
	status("not-activated", "operating", 900)
	all = property("os-ipl-token", `"AAAA000000000002"`, 930)
	expect(all, "logical-partition LP01: IPL of SY01 (z/OS V2.5) from 0A86, after 10m 30s")
	if r := all[1].Resource; len(all) != 2 || r.OSName != "SY01" || r.OSLevel != "z/OS V2.5" || r.Sysplex != "PLEX1" {
		t.Errorf("%+v", r)
	}
	// That there was no token before is told as well: it is the first IPL of a system.
	property("os-ipl-token", `"0000000000000000"`, 940)
	c.estate.Update("/api/logical-partitions/1", estate.ClassLogicalPartition, "LP01", time.Time{}, func(r *estate.Resource) { r.System.IPLToken = "" })
	first := convert("property-change", `{"change-reports":[{"property-name":"os-ipl-token","old-value":"0000000000000000","new-value":"AAAA000000000002"}]}`, 945)
	expect(first, "logical-partition LP01: IPL of SY01 (z/OS V2.5) from 0A86")
	expect(convert("property-change", `{"change-reports":[{"property-name":"os-ipl-token","old-value":"0000000000000000","new-value":"AAAA000000000002"}]}`, 946))
	// It has run for a day: the time without it was not before this IPL.
	status("operating", "not-operating", 1000)
	status("not-operating", "operating", 1001)
	expect(property("os-ipl-token", `"AAAA000000000003"`, 90_000), "logical-partition LP01: IPL of SY01 (z/OS V2.5) from 0A86")
}

// How a sysplex stands is said where one of its members goes down.
func TestMembersOfASysplex(t *testing.T) {
	t.Parallel()
	c := newConverter()
	for _, name := range []string{"A", "B", "C", "D"} {
		uri := "/api/logical-partitions/" + name
		c.estate.SetStatus(&estate.Resource{URI: uri, Class: estate.ClassLogicalPartition, Name: name, Status: "operating"}, time.Now())
		c.estate.Update(uri, estate.ClassLogicalPartition, name, time.Time{}, func(r *estate.Resource) { r.System.Sysplex = "PLEX1" })
	}
	change := func(name, from, to string) string {
		to, judged, ok := strings.Cut(to, " ")
		if ok {
			judged = `,"has-unacceptable-status":` + judged
		}
		return described(c, "status-change", `{"change-reports":[{"old-status":"`+from+`","new-status":"`+to+`"`+judged+`}]}`,
			"class", "logical-partition", "name", name, "object-uri", "/api/logical-partitions/"+name)[0].Summary
	}
	for _, test := range []struct{ name, from, to, want string }{
		{"A", "operating", "not-operating", "; 1 of 4 members of PLEX1 is down"},
		{"B", "operating", "not-activated", "; 2 of 4 members of PLEX1 are down"},
		{"A", "not-operating", "operating", ""},
		{"C", "operating", "exceptions", ""},
		{"X", "operating", "not-operating", ""},
		{"B", "not-activated", "operating", ""},
		{"C", "exceptions", "not-activated false", ""}, // which is acceptable: nothing is down
		{"D", "operating", "not-operating true", "; 1 of 4 members of PLEX1 is down, 1 is off, which is acceptable"},
		{"A", "operating", "not-activated false", "; 1 of 4 members of PLEX1 is down, 2 are off, which is acceptable"},
	} {
		if got := change(test.name, test.from, test.to); strings.Contains(got, "members") != (test.want != "") || !strings.Contains(got, test.want) {
			t.Errorf("%+v: %q", test, got)
		}
	}
}
