package bridge

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/check"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/watch"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
)

const withHardware = "hardware_messages: true"

// startHardwareSim is startSim, and makes sure in the end that nothing was ever called that deletes hardware messages or calls
// IBM.
func startHardwareSim(t *testing.T, opts hmcsim.Options) *hmcsim.HMC {
	t.Helper()
	opts.Partitions = -1
	sim := hmctest.Start(t, opts)
	t.Cleanup(func() {
		if n := sim.ForbiddenCalls(); n != 0 {
			t.Errorf("%d forbidden calls", n)
		}
	})
	return sim
}

func addHardware(t *testing.T, sim *hmcsim.HMC, cpc string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if _, err := sim.AddHardwareMessage(cpc, text); err != nil {
			t.Fatal(err)
		}
	}
}

// hardwareEvents are the events of hardware messages: those that came, or those that say that one was deleted.
func (d *daemon) hardwareEvents(deleted bool) []*event.Event {
	d.t.Helper()
	return slices.DeleteFunc(d.fileEvents(), func(e *event.Event) bool {
		return e.Type != event.TypeHardwareMessage || event.True(event.Member(e.Body, "deleted")) != deleted
	})
}

// hardwareTexts are the texts of such events, in order.
func hardwareTexts(events []*event.Event) []string {
	var out []string
	for _, e := range events {
		out = append(out, event.String(event.Member(e.Body, "text")))
	}
	slices.Sort(out)
	return out
}

// wantHardware waits for the events of these messages and says if there are others, or one of them twice.
func (d *daemon) wantHardware(deleted bool, texts ...string) []*event.Event {
	d.t.Helper()
	d.eventually(fmt.Sprintf("%d hardware messages, deleted %v", len(texts), deleted), func() bool { return len(d.hardwareEvents(deleted)) >= len(texts) })
	events := d.hardwareEvents(deleted)
	slices.Sort(texts)
	if got := hardwareTexts(events); !slices.Equal(got, texts) {
		d.t.Fatalf("deleted %v: got %q, want %q", deleted, got, texts)
	}
	ids := make(map[string]bool)
	for _, e := range d.fileEvents() {
		if ids[e.ID] {
			d.t.Fatalf("id %s twice: %s", e.ID, e.Summary)
		}
		ids[e.ID] = true
	}
	return events
}

// listedAgain waits until everything was listed after now, and what came of it is recorded.
func (d *daemon) listedAgain(sim *hmcsim.HMC, parents int) {
	d.t.Helper()
	// One list may be under way, and what the last one told is recorded before the next one of the same parent.
	want := sim.RESTRequests()["list-hardware-messages"] + 3*int64(parents)
	d.eventually("listed again", func() bool { return sim.RESTRequests()["list-hardware-messages"] >= want })
}

// What is there at the start is told once, with all that the HMC says of it; what comes later too, also while the
// flag has-hardware-messages is true already and changes no more (facts-hmc.md 9.2).
func TestHardwareMessages(t *testing.T) {
	t.Parallel()
	sim := startHardwareSim(t, hmcsim.Options{CPCs: 2})
	cpc := sim.CPCs()[0]
	addHardware(t, sim, "", "console 1")
	addHardware(t, sim, cpc.Name, "cpc 1\nsecond line")
	d := startDaemon(t, hmcYAML(t, "a", sim, withHardware))
	d.wantHardware(false, "console 1", "cpc 1\nsecond line")

	// An edge on the other CPC, none on this one.
	addHardware(t, sim, sim.CPCs()[1].Name, "other 1")
	addHardware(t, sim, cpc.Name, "cpc 2")
	addHardware(t, sim, "", "console 2")
	events := d.wantHardware(false, "console 1", "cpc 1\nsecond line", "other 1", "cpc 2", "console 2")
	for _, e := range events {
		r := e.Resource
		if e.Origin != event.OriginLive || e.Severity != event.SeverityWarning || e.HMC != "a" || time.Since(e.Time) > time.Hour || e.Time.After(e.Received) ||
			event.Int(event.Member(e.Body, "timestamp")) != e.Time.UnixMilli() || event.Member(e.Body, "details") == nil ||
			r == nil || r.ElementURI != event.String(event.Member(e.Body, "element-uri")) || r.ElementID != event.String(event.Member(e.Body, "element-id")) ||
			r.ObjectURI != event.String(event.Member(e.Body, "parent")) {
			t.Errorf("%+v %+v %s", e, r, e.Body)
			continue
		}
		want := event.Resource{Class: "console", Name: "a", ObjectURI: "/api/console", ElementURI: r.ElementURI, ElementID: r.ElementID}
		summary := "hardware message on console a: " + event.String(event.Member(e.Body, "text"))
		if text := event.String(event.Member(e.Body, "text")); strings.HasPrefix(text, "cpc") {
			want.Class, want.Name, want.CPC, want.ObjectURI, want.ObjectID = "cpc", cpc.Name, cpc.Name, cpc.URI, cpc.ID
			summary = "hardware message on CPC " + cpc.Name + ": " + strings.TrimSuffix(text, "\nsecond line")
		} else if strings.HasPrefix(text, "other") {
			continue
		}
		if *r != want || e.Summary != summary {
			t.Errorf("%+v %q, want %+v %q", *r, e.Summary, want, summary)
		}
	}
	d.listedAgain(sim, 3)
	d.wantHardware(false, "console 1", "cpc 1\nsecond line", "other 1", "cpc 2", "console 2")
	if n := d.metric(`hmcnotifyd_events_total{hmc="a",origin="live",type="hardware-message"}`); n != 5 {
		t.Errorf("%v are counted", n)
	}
	d.wantHardware(true)
	if n := sim.RESTRequests()["get-hardware-message-properties"]; n != 5 {
		t.Errorf("%d were asked for", n)
	}
}

// A notification makes them be listed at once, without the interval: the flag's edge, a change of the list itself, and an
// inventory change (which of the latter two HMCs send is not known). Nobody asks while there are none.
func TestHardwareMessagesAreListedWhenTold(t *testing.T) {
	t.Parallel()
	sim := startHardwareSim(t, hmcsim.Options{CPCs: 1})
	cpc := sim.CPCs()[0]
	d := &daemon{t: t, dir: t.TempDir(), consumer: newConsumer(t), timing: testTiming()}
	d.timing.Hardware = time.Hour / 100 // the shortest pause between two lists is a sixtieth of it: 600 ms
	d.start(d.config(hmcYAML(t, "a", sim, withHardware)))
	d.connected("a")
	// Answered, not only asked for: an answer that is still to be made would have the first message.
	d.eventually("listed", func() bool { return strings.Count(d.logs.String(), `"operation":"list-hardware-messages"`) == 2 })
	addHardware(t, sim, cpc.Name, "first")
	d.wantHardware(false, "first")
	addHardware(t, sim, cpc.Name, "second")
	sim.Publish("object", []hmcsim.Header{
		{Name: "notification-type", Value: "property-change"},
		{Name: "class", Value: "cpc"},
		{Name: "object-uri", Value: cpc.URI},
		{Name: "property-names", Value: " hardware-messages "},
	}, []byte(`{"change-reports":[]}`))
	d.wantHardware(false, "first", "second")
	addHardware(t, sim, cpc.Name, "third")
	sim.Publish("object", []hmcsim.Header{
		{Name: "notification-type", Value: "inventory-change"},
		{Name: "class", Value: "hardware-message"},
		{Name: "action", Value: "add"},
		{Name: "object-uri", Value: cpc.URI},
		{Name: "element-uri", Value: cpc.URI + "/hardware-messages/x"},
	}, nil)
	d.wantHardware(false, "first", "second", "third")
	if err := sim.DeleteHardwareMessages(cpc.Name); err != nil {
		t.Fatal(err)
	}
	d.wantHardware(true, "first", "second", "third")
	addHardware(t, sim, "", "on the console")
	d.wantHardware(false, "first", "second", "third", "on the console")
	if n := sim.RESTRequests()["list-hardware-messages"]; n < 7 || n > 9 { // on a slow machine the interval may be over
		t.Errorf("listed %d times, want 7", n)
	}
}

// One that is gone is told, once, with what is known of it. A list that cannot be had says nothing, nor does that of a CPC which
// the HMC does not reach.
func TestHardwareMessagesDeleted(t *testing.T) {
	t.Parallel()
	sim := startHardwareSim(t, hmcsim.Options{CPCs: 1})
	cpc := sim.CPCs()[0]
	long := strings.Repeat("ä", 150)
	addHardware(t, sim, cpc.Name, "one", long)
	addHardware(t, sim, "", "console")
	d := startDaemon(t, hmcYAML(t, "a", sim, withHardware))
	d.wantHardware(false, "one", long, "console")
	for _, fault := range []hmcsim.RESTFault{
		{Kind: hmcsim.RESTFaultStatus, Status: 403, Reason: 1},
		{Kind: hmcsim.RESTFaultStatus, Status: 404, Reason: 1},
		{Kind: hmcsim.RESTFaultGarbage},
		{Kind: hmcsim.RESTFaultTruncate},
		{Kind: hmcsim.RESTFaultBusy},
	} {
		fault.Operation = "list-hardware-messages"
		sim.FaultREST(fault)
		d.listedAgain(sim, 2)
		sim.ClearRESTFaults()
	}
	if !strings.Contains(d.logs.String(), `it takes the task \"Hardware Messages\"`) {
		t.Error("the log does not tell what is missing")
	}
	d.eventually("they can be listed again", func() bool { return strings.Contains(d.logs.String(), "hardware messages can be listed again") })
	d.wantHardware(true)

	if err := sim.SetCommunicating(cpc.Name, false); err != nil {
		t.Fatal(err)
	}
	if err := sim.DeleteHardwareMessages(cpc.Name); err != nil {
		t.Fatal(err)
	}
	d.listedAgain(sim, 2)
	d.wantHardware(true)
	if err := sim.SetCommunicating(cpc.Name, true); err != nil {
		t.Fatal(err)
	}
	events := d.wantHardware(true, "one", long[:200])
	for _, e := range events {
		text := event.String(event.Member(e.Body, "text"))
		if e.Severity != event.SeverityInfo || e.Origin != event.OriginLive || e.Summary != "hardware message on CPC "+cpc.Name+" was deleted: "+text ||
			e.Resource == nil || e.Resource.CPC != cpc.Name || e.Resource.ElementURI != event.String(event.Member(e.Body, "element-uri")) ||
			event.Int(event.Member(e.Body, "timestamp")) < 1e12 {
			t.Errorf("%+v %+v %s", e, e.Resource, e.Body)
		}
	}
	if err := sim.DeleteHardwareMessages(""); err != nil {
		t.Fatal(err)
	}
	d.wantHardware(true, "one", long[:200], "console")
	d.wantHardware(false, "one", long, "console")
}

// What was told is not told again after a restart, a lost link or the end of the session; what came and went meanwhile is.
func TestHardwareMessagesOverRestarts(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"daemon down", "link lost", "session ended", "HMC restarted"} {
		t.Run(how, func(t *testing.T) {
			sim := startHardwareSim(t, hmcsim.Options{CPCs: 2})
			cpc, other := sim.CPCs()[0].Name, sim.CPCs()[1].Name
			addHardware(t, sim, cpc, "before")
			addHardware(t, sim, other, "goes")
			d := startDaemon(t, hmcYAML(t, "a", sim, withHardware))
			d.wantHardware(false, "before", "goes")
			d.listedAgain(sim, 3)

			if how == "daemon down" {
				d.stop()
			} else {
				sim.Broker().StopListening()
				switch how {
				case "link lost":
					sim.Broker().DropLinks()
				case "session ended":
					sim.ExpireSessions(true)
				case "HMC restarted":
					sim.Stop()
				}
				d.eventually("lost", func() bool { return d.hmc("a").State != status.StateConnected })
			}
			addHardware(t, sim, cpc, "meanwhile")
			if err := sim.DeleteHardwareMessages(other); err != nil {
				t.Fatal(err)
			}
			switch how {
			case "daemon down":
				d.start(d.bridge.now().cfg)
			case "HMC restarted":
				if err := sim.Resume(); err != nil {
					t.Fatal(err)
				}
			default:
				if err := sim.Broker().StartListening(); err != nil {
					t.Fatal(err)
				}
			}
			d.wantHardware(true, "goes")
			d.wantHardware(false, "before", "goes", "meanwhile")
			addHardware(t, sim, cpc, "after")
			for _, e := range d.wantHardware(false, "before", "goes", "meanwhile", "after") {
				want := event.OriginLive
				if event.String(event.Member(e.Body, "text")) == "meanwhile" {
					want = event.OriginBackfill
				}
				if e.Origin != want {
					t.Errorf("%s has the origin %s", e.Summary, e.Origin)
				}
			}
			d.listedAgain(sim, 3)
			d.wantHardware(true, "goes")
			d.wantHardware(false, "before", "goes", "meanwhile", "after")
		})
	}
}

// Where the properties of a message cannot be had, the event has what the list says.
func TestHardwareMessageWithoutDetails(t *testing.T) {
	t.Parallel()
	for _, fault := range []hmcsim.RESTFault{
		{Kind: hmcsim.RESTFaultStatus, Status: 500, Reason: 1},
		{Kind: hmcsim.RESTFaultStatus, Status: 404, Reason: 1},
		{Kind: hmcsim.RESTFaultGarbage},
		{Kind: hmcsim.RESTFaultDrop},
	} {
		t.Run(fmt.Sprint(fault.Kind, fault.Status), func(t *testing.T) {
			sim := startHardwareSim(t, hmcsim.Options{CPCs: 1})
			fault.Operation = "get-hardware-message-properties"
			sim.FaultREST(fault)
			addHardware(t, sim, "", "one", "two")
			d := startDaemon(t, hmcYAML(t, "a", sim, withHardware))
			for _, e := range d.wantHardware(false, "one", "two") {
				if event.Member(e.Body, "details") != nil || e.Resource.ElementID == "" || time.Since(e.Time) > time.Hour {
					t.Errorf("%+v %s", e, e.Body)
				}
			}
			if sim.RESTRequests()["get-hardware-message-properties"] == 0 {
				t.Error("they were not asked for")
			}
			sim.ClearRESTFaults()
			d.listedAgain(sim, 1)
			d.wantHardware(false, "one", "two")
		})
	}
}

// A console with very many messages costs few requests, and no more after a restart.
func TestManyHardwareMessages(t *testing.T) {
	t.Parallel()
	sim := startHardwareSim(t, hmcsim.Options{CPCs: 3})
	texts := numbered("message ", 1, 1000)
	addHardware(t, sim, "", texts...)
	d := startDaemon(t, hmcYAML(t, "a", sim, withHardware))
	d.wantHardware(false, texts...)
	if n := sim.RESTRequests()["get-hardware-message-properties"]; n != watch.HardwareDetails {
		t.Errorf("%d were asked for one by one, want %d", n, watch.HardwareDetails)
	}
	// The order is that of their times.
	var last int64
	detailed := 0
	for _, e := range d.hardwareEvents(false) {
		at := event.Int(event.Member(e.Body, "timestamp"))
		if at < last {
			t.Fatal("not in the order of their times")
		}
		last = at
		if event.Member(e.Body, "details") != nil {
			detailed++
		}
	}
	if detailed != watch.HardwareDetails {
		t.Errorf("%d have details", detailed)
	}
	d.stop()
	if err := sim.DeleteHardwareMessages(""); err != nil {
		t.Fatal(err)
	}
	d.start(d.bridge.now().cfg)
	d.wantHardware(true, texts...)
	d.wantHardware(false, texts...)
	if n := sim.RESTRequests()["get-hardware-message-properties"]; n != watch.HardwareDetails {
		t.Errorf("%d were asked for one by one after a restart", n)
	}
}

// A list that does not come holds up no notification, not what the keeper does, and not the end.
func TestHardwareMessagesThatDoNotCome(t *testing.T) {
	t.Parallel()
	sim := startHardwareSim(t, hmcsim.Options{CPCs: 3})
	for _, c := range sim.CPCs() {
		addHardware(t, sim, c.Name, c.Name)
	}
	sim.FaultREST(hmcsim.RESTFault{Kind: hmcsim.RESTFaultHang, Operation: "list-hardware-messages", Times: 1})
	d := startDaemon(t, hmcYAML(t, "a", sim, withHardware, allOSMessages))
	d.eventually("the list hangs", func() bool { return sim.RESTRequests()["list-hardware-messages"] == 1 })
	d.connected("a") // the partitions are listed
	publish(sim, "P", "x")
	d.eventually("delivered", func() bool { return len(marks(d.consumer.got())["P"]) == 1 })
	ended := time.Now()
	d.stop()
	if took := time.Since(ended); took > within/2 {
		t.Errorf("the end took %v", took)
	}
}

// A daemon that is not asked to follow hardware messages leaves them alone.
func TestNoHardwareMessages(t *testing.T) {
	t.Parallel()
	sim := startHardwareSim(t, hmcsim.Options{CPCs: 1})
	addHardware(t, sim, "", "one")
	d := startDaemon(t, hmcYAML(t, "a", sim))
	d.connected("a")
	addHardware(t, sim, sim.CPCs()[0].Name, "two")
	d.eventually("the flag is told", func() bool { return len(d.consumer.got()) == 1 })
	if r := sim.RESTRequests(); r["list-hardware-messages"] != 0 {
		t.Errorf("%v", r)
	}
}

// check-config says whether the userid may see them.
func TestCheckHardwareMessages(t *testing.T) {
	t.Parallel()
	sim := startHardwareSim(t, hmcsim.Options{CPCs: 2})
	addHardware(t, sim, "", "one")
	d := &daemon{t: t, dir: t.TempDir(), consumer: newConsumer(t)}
	cfg := d.config(hmcYAML(t, "a", sim, withHardware))
	for _, want := range []string{"hardware messages of the console (1 now) and of the CPCs are followed", `could not be listed (it takes the task "Hardware Messages"`} {
		var out strings.Builder
		err := check.Run(t.Context(), check.Options{Config: cfg, Version: "test", Out: &out})
		if text := fmt.Sprintf("%s%v", out.String(), err); !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
		sim.FaultREST(hmcsim.RESTFault{Kind: hmcsim.RESTFaultStatus, Status: 403, Reason: 1, Operation: "list-hardware-messages"})
	}
}
