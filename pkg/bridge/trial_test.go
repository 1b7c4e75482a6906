package bridge

import (
	"fmt"
	"hash/fnv"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/probe"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
)

// plex starts a simulator with a sysplex of four LPARs that run z/OS, on M90, and a daemon that follows their messages by the ready
// rules. It returns the names of the members.
func plex(t *testing.T, timing probe.Intervals, extra ...string) (*hmcsim.HMC, *daemon, []string) {
	t.Helper()
	sim := hmctest.Start(t, hmcsim.Options{CPCs: 2, Partitions: 16, StepDelay: 10 * time.Millisecond})
	if err := sim.StartPartition("M90/LP07"); err != nil { // it waits for its IPL
		t.Fatal(err)
	}
	d := &daemon{t: t, dir: t.TempDir(), consumer: newConsumer(t), timing: testTiming()}
	d.timing.Probe = timing
	d.start(load(t, d.dir, "hmcs:\n"+hmcYAML(t, "a", sim, append(extra, `os_messages: [{cpc: M90, include_refresh_messages: false}]`)...)+fmt.Sprintf(`
sinks:
  - {name: hook, webhook: {url: %q}, retry: {initial: 10ms, max: 50ms}, drop: [{type: ["bridge-.*"]}]}
  - {name: file, log: {output: events.log}, drop: [{type: ["bridge-.*"]}]}
rules:
  - include: zos
`, d.consumer.url())))
	d.connected("a")
	members := []string{"LP01", "LP03", "LP05", "LP07"}
	d.eventually("the HMC has told who runs where", func() bool {
		n := 0
		for _, u := range d.bridge.Units() {
			if slices.Contains(members, u.Name) && u.Sysplex == "PLEX1" && u.OSName == "SY"+u.Name[2:] && u.OSLevel == "z/OS V2.5" && u.Status == "operating" {
				n++
			}
		}
		return n == len(members)
	})
	d.followed(6) // two are not activated
	return sim, d, members
}

// about are the events of a type about a resource.
func about(events []*event.Event, name, typ string) []*event.Event {
	return slices.DeleteFunc(slices.Clone(events), func(e *event.Event) bool {
		return e.Type != typ || e.Resource == nil || e.Resource.Name != name
	})
}

// A system of a sysplex goes into a disabled wait: one critical event says which one, why, what that means, and how the sysplex
// stands. Its IPL is told: what was loaded, from where, and how long it was away.
func TestDisabledWaitAndIPL(t *testing.T) {
	t.Parallel()
	sim, d, _ := plex(t, probe.Intervals{})
	begin := time.Now()
	if err := sim.DisabledWait("M90/LP03", 0x0a2, 0x17c); err != nil {
		t.Fatal(err)
	}
	var down *event.Event
	d.eventually("it is told", func() bool {
		for _, e := range about(d.consumer.got(), "LP03", event.TypeStatusChange) {
			down = e
		}
		return down != nil
	})
	t.Logf("told after %v", time.Since(begin))
	for _, part := range []string{
		"logical-partition LP03 on M90: operating -> not-operating", "; 1 of 4 members of PLEX1 is down",
		"; all processors in a disabled wait: 0A2, reason 017C: XCF: the system was removed from its sysplex",
	} {
		if !strings.Contains(down.Summary, part) {
			t.Errorf("%q lacks %q", down.Summary, part)
		}
	}
	if down.Severity != event.SeverityCritical || down.Resource.OSName != "SY03" || down.Resource.Sysplex != "PLEX1" || down.Unacceptable == nil || !*down.Unacceptable {
		t.Errorf("%+v of %+v", down, down.Resource)
	}
	if n := sim.RESTRequests()["get-logical-partition-properties"]; n != 1 {
		t.Errorf("%d requests for it", n)
	}
	if got := d.metric(`hmcnotifyd_resource_info{class="logical-partition",cpc="M90",hmc="a",name="LP03",os_level="z/OS V2.5",os_name="SY03",sysplex="PLEX1"}`); got != 1 {
		t.Errorf("resource_info %v", got)
	}
	if err := sim.StartPartition("M90/LP03"); err != nil {
		t.Fatal(err)
	}
	d.eventually("its IPL is told", func() bool { return len(about(d.consumer.got(), "LP03", event.TypeIPL)) == 1 })
	ipl := about(d.consumer.got(), "LP03", event.TypeIPL)[0]
	if !strings.HasPrefix(ipl.Summary, "logical-partition LP03 on M90: IPL of SY03 (z/OS V2.5) from 00A86, parameter 0A8600M1, after ") || ipl.Severity != event.SeverityInfo {
		t.Errorf("%q, %s", ipl.Summary, ipl.Severity)
	}
	if token := event.String(event.Member(ipl.Body, "os-ipl-token")); len(token) != 16 || event.String(event.Member(ipl.Body, "away-since")) == "" {
		t.Errorf("%s", ipl.Body)
	}
	for _, name := range []string{"LP01", "LP05", "LP07"} {
		if got := about(d.consumer.got(), name, event.TypeIPL); len(got) > 0 && name != "LP07" {
			t.Errorf("%s was not loaded: %q", name, got[0].Summary)
		}
	}
	d.stop()
	changes := about(d.fileEvents(), "LP03", event.TypeStatusChange)
	var critical []string
	for _, e := range changes {
		if e.Severity == event.SeverityCritical && !e.Repeat {
			critical = append(critical, e.Summary)
		}
	}
	if len(critical) != 1 {
		t.Errorf("critical: %q", critical)
	}
}

// A system stops while channels of a hundred consoles are being opened, which takes two minutes of the budget: it is told in time
// and with the reason all the same. So is that of an adapter with its CPC, of which two have one of the same name.
func TestDisabledWaitWhileChannelsAreOpened(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{CPCs: 3, Partitions: 90, StepDelay: 10 * time.Millisecond})
	d := &daemon{t: t, dir: t.TempDir(), consumer: newConsumer(t), timing: testTiming()}
	d.start(load(t, d.dir, "hmcs:\n"+strings.Replace(hmcYAML(t, "a", sim, `os_messages: [{}]`), ": 10000", ": 60", 1)+fmt.Sprintf(`
sinks:
  - {name: hook, webhook: {url: %q}, retry: {initial: 10ms, max: 50ms}}
`, d.consumer.url())))
	opened := func() int64 { return sim.RESTRequests()["open-os-message-channel"] }
	d.eventually("channels are being opened", func() bool { return opened() > 4 })
	dpm := slices.DeleteFunc(sim.CPCs(), func(c hmcsim.CPCInfo) bool { return !c.DPM })
	if err := sim.DisabledWait("M90/LP03", 0x0a2, 0x17c); err != nil {
		t.Fatal(err)
	}
	number := fnv.New32a()
	_, _ = number.Write([]byte("OSD 0120"))
	for _, c := range dpm {
		if err := sim.SetAdapterStatus(fmt.Sprintf("/api/adapters/%08x%s", number.Sum32(), c.ID[8:]), "not-active", ""); err != nil {
			t.Fatal(err)
		}
	}
	told := func(name string) (changes []*event.Event) {
		return slices.DeleteFunc(about(d.consumer.got(), name, event.TypeStatusChange), func(e *event.Event) bool { return e.Repeat })
	}
	d.eventually("it is told", func() bool { return len(told("LP03")) > 0 && len(told("OSD 0120")) == len(dpm) })
	if n := opened(); n >= 90 {
		t.Errorf("all of %d channels were open", n)
	}
	if all := told("LP03"); len(all) != 1 || !strings.Contains(all[0].Summary, "; all processors in a disabled wait: 0A2, reason 017C") {
		t.Errorf("%q", all[0].Summary)
	}
	for _, e := range told("OSD 0120") {
		if e.Resource.CPC == "" || !strings.HasPrefix(e.Summary, "adapter OSD 0120 on "+e.Resource.CPC+": ") {
			t.Errorf("%q of %+v", e.Summary, e.Resource)
		}
	}
}

// The HMC does not say why in time, or cannot: then the event is told without, and what comes behind it stays behind it.
func TestDisabledWaitWithoutAnswer(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]hmcsim.RESTFault{
		"it hangs":   {Operation: "get-logical-partition-properties", Kind: hmcsim.RESTFaultHang},
		"it refuses": {Operation: "get-logical-partition-properties", Kind: hmcsim.RESTFaultStatus, Status: http.StatusInternalServerError},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sim, d, _ := plex(t, probe.Intervals{})
			sim.FaultREST(fault)
			if err := sim.DisabledWait("M90/LP05", 0x064, 0x9); err != nil {
				t.Fatal(err)
			}
			if err := sim.SetPartitionStatus("M90/LP05", "exceptions"); err != nil {
				t.Fatal(err)
			}
			d.eventually("both are told", func() bool {
				all := about(d.consumer.got(), "LP05", event.TypeStatusChange)
				return slices.ContainsFunc(all, func(e *event.Event) bool { return strings.Contains(e.Summary, "-> exceptions") })
			})
			var path []string
			for _, e := range about(d.consumer.got(), "LP05", event.TypeStatusChange) {
				if strings.Contains(e.Summary, "disabled wait") {
					t.Errorf("%q", e.Summary)
				}
				if !e.Repeat {
					_, after, _ := strings.Cut(e.Summary, "M90: ")
					path = append(path, strings.Fields(after)[0])
				}
			}
			if want := []string{"operating", "not-operating"}; !slices.Equal(path, want) {
				t.Errorf("changes from %q, want %q", path, want)
			}
		})
	}
}

// A test system whose acceptable statuses hold not-activated is switched off: that is information. What operators change is
// followed, also while the daemon is away.
func TestAcceptableStatusOfTheHMC(t *testing.T) {
	t.Parallel()
	sim, d, _ := plex(t, probe.Intervals{})
	acceptable := func(statuses ...string) {
		t.Helper()
		if err := sim.SetAcceptableStatus("M90/LP05", statuses...); err != nil {
			t.Fatal(err)
		}
	}
	last := func(text string) *event.Event {
		t.Helper()
		var found *event.Event
		d.eventually(text, func() bool {
			for _, e := range about(d.consumer.got(), "LP05", event.TypeStatusChange) {
				if !e.Repeat && strings.Contains(e.Summary, text) {
					found = e
				}
			}
			return found != nil
		})
		return found
	}
	judged := func(e *event.Event, severity string, unacceptable bool) {
		t.Helper()
		if e.Severity != severity || e.Unacceptable == nil || *e.Unacceptable != unacceptable {
			t.Errorf("%q is %s, unacceptable %v", e.Summary, e.Severity, e.Unacceptable)
		}
	}
	acceptable("operating", "not-activated")
	if err := sim.StopPartition("M90/LP05"); err != nil {
		t.Fatal(err)
	}
	judged(last("operating -> not-activated"), event.SeverityInfo, false)
	acceptable("operating")
	judged(last("the status not-activated is unacceptable now"), event.SeverityWarning, true)
	d.stop()
	acceptable("operating", "not-activated")
	d.start(load(t, d.dir, readConfig(t, d)))
	judged(last("the status not-activated is acceptable now"), event.SeverityInfo, false)
}

// A message that waits for an answer is a state: it is counted, listed with what to reply with, and its end is told once, whether
// the HMC then keeps it or forgets it, knows which messages are held or not, and over a restart of the daemon.
func TestMessagesThatWait(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		gone, restart, unfiltered bool
	}{
		"answered": {}, "gone": {gone: true}, "answered while the daemon is away": {restart: true}, "no filter": {unfiltered: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sim, d, _ := plex(t, probe.Intervals{Held: 30 * time.Millisecond})
			if test.unfiltered {
				sim.FaultREST(hmcsim.RESTFault{Operation: "list-os-messages", URI: "is-held", Kind: hmcsim.RESTFaultStatus, Status: http.StatusBadRequest, Reason: 1, Times: 1000})
			}
			number := func(text string) int64 {
				t.Helper()
				p, err := sim.Partition("M90/LP01")
				if err != nil {
					t.Fatal(err)
				}
				if n, err := sim.OSMessages("M90/LP01", text); err != nil || n != 1 {
					t.Fatalf("%d, %v", n, err)
				}
				return p.NextOSMessage
			}
			first := number("*17 IEF238D JOB1 - REPLY DEVICE NAME OR 'CANCEL'.")
			second := number("*18 ABC999D REPLY U TO GO ON")
			const series = `hmcnotifyd_os_messages_held{class="logical-partition",cpc="M90",hmc="a",name="LP01"}`
			waiting := func() (replies []string) {
				for _, m := range d.bridge.Status().Held {
					replies = append(replies, m.Name+" "+m.Reply)
				}
				return replies
			}
			held := func(want ...string) {
				t.Helper()
				d.eventually(fmt.Sprintf("%q wait", want), func() bool { return slices.Equal(waiting(), want) && d.metric(series) == float64(len(want)) })
			}
			ids := make(map[string]string)
			d.eventually("both are told", func() bool {
				for _, e := range about(d.consumer.got(), "LP01", event.TypeOSMessage) {
					ids[event.String(event.Member(e.Body, "message-text"))[:3]] = e.ID
				}
				return ids["*17"] != "" && ids["*18"] != ""
			})
			held("LP01 R 17,", "LP01 R 18,")
			answer := func(number int64) {
				t.Helper()
				if err := sim.AnswerOSMessage("M90/LP01", number, test.gone); err != nil {
					t.Fatal(err)
				}
			}
			if test.restart {
				d.stop()
				answer(first)
				d.start(load(t, d.dir, readConfig(t, d)))
			} else {
				answer(first)
			}
			held("LP01 R 18,")
			answered := func() (ids []string) {
				for _, e := range about(d.consumer.got(), "LP01", event.TypeOSMessage) {
					if id := event.String(event.Member(e.Body, "answered")); id != "" {
						ids = append(ids, id)
						if e.Severity != event.SeverityInfo || !strings.Contains(e.Summary, "answered, or gone: *1") {
							t.Errorf("%q is %s", e.Summary, e.Severity)
						}
					}
				}
				return ids
			}
			d.eventually("it is told", func() bool { return len(answered()) > 0 })
			answer(second)
			held()
			d.eventually("that is told too", func() bool { return len(answered()) > 1 })
			if got := answered(); !slices.Equal(got, []string{ids["*17"], ids["*18"]}) {
				t.Errorf("answered: %q, want %q", got, ids)
			}
			d.eventually("nothing is listed while nothing waits", func() bool {
				before := sim.RESTRequests()["list-os-messages"]
				time.Sleep(200 * time.Millisecond)
				return sim.RESTRequests()["list-os-messages"] == before
			})
		})
	}
}

// Two HMCs of a group see the same message: it waits once, and its end is told once, by whichever can be asked.
func TestMessagesThatWaitInAGroup(t *testing.T) {
	t.Parallel()
	first := hmctest.Start(t, hmcsim.Options{CPCs: 2, Partitions: 8, Name: "HMC1"})
	second := hmctest.Start(t, hmcsim.Options{EstateOf: first, Name: "HMC2", OSMessageOffset: 1000})
	d := &daemon{t: t, dir: t.TempDir(), consumer: newConsumer(t), timing: testTiming()}
	d.timing.Probe = probe.Intervals{Held: 30 * time.Millisecond}
	follow := `os_messages: [{cpc: M90, include_refresh_messages: false}]`
	d.start(d.config(hmcYAML(t, "a", first, "group: g", follow) + hmcYAML(t, "b", second, "group: g", follow)))
	d.connected("a")
	d.connected("b")
	for _, name := range []string{"a", "b"} {
		d.eventually("followed by "+name, func() bool { m := d.hmc(name).OSMessages; return m != nil && m.Followed == 3 }) // one is not activated
	}
	p, err := first.Partition("M90/LP01")
	if err != nil {
		t.Fatal(err)
	}
	if n, err := first.OSMessages(p.ID, "*17 ABC999D REPLY U"); err != nil || n != 2 {
		t.Fatalf("%d, %v", n, err)
	}
	d.eventually("it waits", func() bool { return len(d.bridge.Status().Held) == 1 })
	teller := map[string]*hmcsim.HMC{"a": first, "b": second}[d.bridge.Status().Held[0].HMC]
	teller.Stop() // the other one has to be asked
	d.eventually("one is out of sight", func() bool {
		return slices.ContainsFunc(d.bridge.Status().HMCs, func(h status.HMCStatus) bool { return !h.Connected })
	})
	if err := first.AnswerOSMessage(p.ID, p.NextOSMessage, false); err != nil {
		t.Fatal(err)
	}
	d.eventually("it does not wait any more", func() bool { return len(d.bridge.Status().Held) == 0 })
	if err := teller.Resume(); err != nil {
		t.Fatal(err)
	}
	d.connected("a")
	d.connected("b")
	d.stop()
	var told []string
	for _, e := range about(d.fileEvents(), "LP01", event.TypeOSMessage) {
		told = append(told, e.Summary)
	}
	if len(told) != 2 || !strings.Contains(told[1], "answered, or gone") {
		t.Errorf("%q", told)
	}
}

// readConfig is the configuration that a daemon runs with.
func readConfig(t *testing.T, d *daemon) string {
	t.Helper()
	text, err := os.ReadFile(d.dir + "/hmcnotifyd.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// An HMC that does not know how to tell of several resources at once is asked for each, and one that fails is asked again.
func TestInfosOneByOne(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]hmcsim.RESTFault{
		"unknown": {Operation: "submit-requests", Kind: hmcsim.RESTFaultStatus, Status: http.StatusNotFound, Reason: 1},
		"failing": {Operation: "submit-requests", Kind: hmcsim.RESTFaultBusy, Times: 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sim := hmctest.Start(t, hmcsim.Options{CPCs: 2, Partitions: 16})
			sim.FaultREST(fault)
			d := &daemon{t: t, dir: t.TempDir(), consumer: newConsumer(t), timing: testTiming()}
			d.timing.Probe = probe.Intervals{Retry: 10 * time.Millisecond}
			d.start(d.config(hmcYAML(t, "a", sim)))
			d.eventually("the HMC has told who runs where", func() bool {
				n := 0
				for _, u := range d.bridge.Units() {
					if u.OSName != "" {
						n++
					}
				}
				return n == 11 // of 16, 4 are at rest, and one has only been activated
			})
			if requests := sim.RESTRequests(); name == "unknown" && requests["submit-requests"] != 1 {
				t.Errorf("%v", requests)
			}
		})
	}
}
