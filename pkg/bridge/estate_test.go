package bridge

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
)

// ofOrigin are the summaries of events that came to be known in a way, in order.
func ofOrigin(events []*event.Event, origin string) []string {
	var out []string
	for _, e := range events {
		if e.Origin == origin {
			out = append(out, e.Summary)
		}
	}
	return out
}

// dpm returns the DPM partitions of a simulator.
func dpm(t *testing.T, sim *hmcsim.HMC, n int) []hmcsim.PartitionInfo {
	t.Helper()
	var out []hmcsim.PartitionInfo
	for _, p := range sim.Partitions() {
		if p.DPM {
			out = append(out, p)
		}
	}
	if len(out) < n {
		t.Fatalf("%d partitions", len(out))
	}
	return out
}

// estateKnown waits until the estate has been listed and compared.
func (d *daemon) estateKnown(name string, resources int) {
	d.t.Helper()
	d.eventually("the estate is known", func() bool {
		for _, s := range d.bridge.now().supervisors {
			if s.it.Cfg.Name == name {
				n := 0
				for range s.it.Rec.Group().Estate.All(name) {
					n++
				}
				return n == resources
			}
		}
		return false
	})
}

// What happens to partitions while the daemon is down is told by one event each when it is back, and no more than that.
func TestReconcileAfterDowntime(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{CPCs: 2, Partitions: 10})
	d := startDaemon(t, hmcYAML(t, "a", sim))
	d.connected("a")
	d.estateKnown("a", 12)
	d.stop()
	if got := ofOrigin(d.fileEvents(), event.OriginReconcile); len(got) > 0 {
		t.Fatalf("the first start tells %q", got)
	}
	// Nothing has happened: nothing is told.
	d.start(d.config(hmcYAML(t, "a", sim)))
	d.connected("a")
	d.awaitGaps(1)
	d.stop()
	if got := ofOrigin(d.fileEvents(), event.OriginReconcile); len(got) > 0 {
		t.Fatalf("nothing has happened, it tells %q", got)
	}

	p := dpm(t, sim, 4)
	was := p[1].Status
	for _, err := range []error{
		sim.RenamePartition(p[0].ID, "NEWNAME"), sim.SetPartitionStatus(p[1].ID, "degraded"), sim.DeletePartition(p[2].ID),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	created, err := sim.CreatePartition(p[0].CPC, "FRESH")
	if err != nil {
		t.Fatal(err)
	}
	d.start(d.config(hmcYAML(t, "a", sim)))
	const said = " (no notification of it was received)"
	want := []string{
		"partition FRESH on " + created.CPC + ": added" + said,
		fmt.Sprintf("partition NEWNAME on %s: name %q -> \"NEWNAME\"", p[0].CPC, p[0].Name) + said,
		"partition " + p[1].Name + " on " + p[1].CPC + ": " + was + " -> degraded" + said,
		"partition " + p[2].Name + " on " + p[2].CPC + ": removed" + said,
	}
	slices.Sort(want)
	d.eventually("told", func() bool { return len(ofOrigin(d.fileEvents(), event.OriginReconcile)) >= len(want) })
	d.connected("a")
	d.awaitGaps(2)
	got := ofOrigin(d.fileEvents(), event.OriginReconcile)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("told\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if n := d.gapsTold()[1].Recovered["object"]; n != len(want) {
		t.Errorf("the gap says that %d were recovered", n)
	}
	// Once: the next start knows all of it.
	d.stop()
	d.start(d.config(hmcYAML(t, "a", sim)))
	d.connected("a")
	d.awaitGaps(3)
	if got := ofOrigin(d.fileEvents(), event.OriginReconcile); len(got) != len(want) {
		t.Errorf("told again: %q", got)
	}
}

// A lost link, and notifications that a full buffer or a jump of the numbers lost, are blind moments as well.
func TestReconcileAfterALostLink(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{CPCs: 1, Partitions: 4})
	d := startDaemon(t, hmcYAML(t, "a", sim, "topics: [object]"))
	d.connected("a")
	d.estateKnown("a", 5)
	p := dpm(t, sim, 4)
	sim.Broker().StopListening()
	sim.Broker().DropLinks()
	d.eventually("noticed", func() bool { return !d.hmc("a").Connected })
	if err := sim.SetPartitionStatus(p[0].ID, "paused"); err != nil {
		t.Fatal(err)
	}
	if err := sim.Broker().StartListening(); err != nil {
		t.Fatal(err)
	}
	want := []string{"partition " + p[0].Name + " on " + p[0].CPC + ": " + p[0].Status + " -> paused (no notification of it was received)"}
	d.eventually("told", func() bool { return slices.Equal(ofOrigin(d.fileEvents(), event.OriginReconcile), want) })
	d.awaitGaps(1)

	// While the link is up: the numbers jump, and what was lost was a change.
	if err := sim.SetPartitionStatus(p[1].ID, "paused"); err != nil {
		t.Fatal(err)
	}
	d.eventually("live", func() bool { return len(ofOrigin(d.fileEvents(), event.OriginLive)) > 0 })
	sim.SkipSequence(3)
	publish(sim, "P", "after the jump")
	d.awaitGaps(2)
	if got := ofOrigin(d.fileEvents(), event.OriginReconcile); !slices.Equal(got, want) {
		t.Errorf("told %q", got)
	}
}

// Names are known at once after a restart, also while the HMC cannot be asked, and follow what the HMC tells.
func TestNames(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{CPCs: 1, Partitions: 4})
	d := startDaemon(t, hmcYAML(t, "a", sim))
	d.connected("a")
	d.estateKnown("a", 5)
	p := dpm(t, sim, 4)
	d.stop()
	for _, operation := range []string{"list-cpcs", "list-permitted-partitions", "list-permitted-logical-partitions"} {
		sim.FaultREST(hmcsim.RESTFault{Kind: hmcsim.RESTFaultStatus, Operation: operation, Status: 500, Reason: 0})
	}
	d.start(d.config(hmcYAML(t, "a", sim)))
	d.connected("a")
	nameless := func(uri string) {
		sim.Publish("object", []hmcsim.Header{
			{Name: "notification-type", Value: "status-change"}, {Name: "class", Value: "partition"}, {Name: "object-uri", Value: uri},
		}, []byte(`{"change-reports":[{"old-status":"active","new-status":"terminated"}]}`))
	}
	last := func() *event.Event {
		all := d.fileEvents()
		if len(all) == 0 {
			return &event.Event{}
		}
		return all[len(all)-1]
	}
	nameless(p[0].URI)
	d.eventually("a name that was stored", func() bool {
		e := last()
		return e.Summary == "partition "+p[0].Name+" on "+p[0].CPC+": active -> terminated" && e.Resource.Name == p[0].Name && e.Resource.CPC == p[0].CPC
	})
	if err := sim.RenamePartition(p[1].ID, "OTHER"); err != nil {
		t.Fatal(err)
	}
	nameless(p[1].URI)
	d.eventually("the new name", func() bool { return last().Summary == "partition OTHER on "+p[1].CPC+": active -> terminated" })
	// What could be listed at last is what is known already.
	sim.ClearRESTFaults()
	d.awaitGaps(1)
	if got := ofOrigin(d.fileEvents(), event.OriginReconcile); len(got) > 2 { // the two that the test has made up
		t.Errorf("told %q", got)
	}
}

// One kind of list that fails holds up none of the others.
func TestOneListFails(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{CPCs: 2, Partitions: 4})
	sim.FaultREST(hmcsim.RESTFault{Kind: hmcsim.RESTFaultStatus, Operation: "list-permitted-partitions", Status: 500, Reason: 0})
	d := startDaemon(t, hmcYAML(t, "a", sim))
	classic := 0
	for _, p := range sim.Partitions() {
		if !p.DPM {
			classic++
		}
	}
	d.estateKnown("a", 2+classic)
	sim.ClearRESTFaults()
	d.estateKnown("a", 2+4)
}

// resource_status has one series per resource and its current status, and goes with the resource.
func TestResourceMetrics(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{CPCs: 1, Partitions: 3})
	d := &daemon{t: t, dir: t.TempDir(), consumer: newConsumer(t), timing: testTiming()}
	cfg := d.config(hmcYAML(t, "a", sim))
	d.start(cfg)
	d.connected("a")
	d.estateKnown("a", 4)
	d.lint()
	p := dpm(t, sim, 3)
	series := func(name, status string) string {
		return fmt.Sprintf(`hmcnotifyd_resource_status{class="partition",cpc=%q,hmc="a",name=%q,status=%q}`, p[0].CPC, name, status)
	}
	count := func(prefix string) int {
		families, err := d.registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, f := range families {
			if f.GetName() == prefix {
				n += len(f.GetMetric())
			}
		}
		return n
	}
	if d.metric(series(p[0].Name, p[0].Status)) != 1 || count("hmcnotifyd_resource_status") != 4 || count("hmcnotifyd_resource_status_since_timestamp_seconds") != 4 {
		t.Errorf("%d series", count("hmcnotifyd_resource_status"))
	}
	if err := sim.SetPartitionStatus(p[0].ID, "paused"); err != nil {
		t.Fatal(err)
	}
	d.eventually("told", func() bool { return len(d.fileEvents()) > 0 }) // the simulator tells some changes twice
	since := d.metric(fmt.Sprintf(`hmcnotifyd_resource_status_since_timestamp_seconds{class="partition",cpc=%q,hmc="a",name=%q}`, p[0].CPC, p[0].Name))
	if d.metric(series(p[0].Name, "paused")) != 1 || count("hmcnotifyd_resource_status") != 4 || float64(time.Now().Unix())-since > within.Seconds() {
		t.Errorf("%d series, since %f", count("hmcnotifyd_resource_status"), since)
	}
	if err := sim.DeletePartition(p[1].ID); err != nil {
		t.Fatal(err)
	}
	d.eventually("the series of a partition that is gone is gone", func() bool { return count("hmcnotifyd_resource_status") == 3 })

	// Two of the same name must not make the scrape fail. Beyond the limit they are counted.
	if err := sim.RenamePartition(p[2].ID, p[0].Name); err != nil {
		t.Fatal(err)
	}
	d.eventually("the same name", func() bool { return count("hmcnotifyd_resource_status") == 2 })
	if n := d.metric(`hmcnotifyd_resources_not_exported{hmc="a"}`); n != 1 {
		t.Errorf("%f are not exported", n)
	}
	limited := *cfg
	limited.Estate.MaxResources = 1
	if err := d.bridge.Reload(&limited); err != nil {
		t.Fatal(err)
	}
	if n := count("hmcnotifyd_resource_status"); n != 1 {
		t.Errorf("%d series with a limit of 1", n)
	}
	if n := d.metric(`hmcnotifyd_resources{class="partition",hmc="a"}`); n != 2 {
		t.Errorf("%f partitions", n)
	}
}

// While storing takes long, what the HMC lists may be told by a notification that waits to be recorded: it is reported once.
func TestListedBeforeItIsRecorded(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{CPCs: 1, Partitions: 2})
	d, g := startGated(t, hmcYAML(t, "a", sim, "topics: [object]"))
	d.estateKnown("a", 3)
	lists := func(operation string) int64 { return sim.RESTRequests()[operation] }

	// The answer to a list that a new partition makes necessary takes until the recorder is held up, with what tells of
	// another status waiting for it.
	before, answered := lists("list-cpcs"), lists("list-permitted-partitions")
	sim.FaultREST(hmcsim.RESTFault{Kind: hmcsim.RESTFaultSlow, Operation: "list-permitted-partitions", Delay: time.Second, Times: 1})
	if _, err := sim.CreatePartition(sim.CPCs()[0].Name, "NEW"); err != nil {
		t.Fatal(err)
	}
	d.eventually("a list", func() bool { return lists("list-cpcs") > before })
	g.flood(t, sim)
	p := dpm(t, sim, 3)[0]
	if err := sim.SetPartitionStatus(p.ID, "paused"); err != nil {
		t.Fatal(err)
	}
	d.eventually("the list", func() bool { return lists("list-permitted-partitions") > answered })
	time.Sleep(3 * d.timing.Recording.Settle) // it is not compared meanwhile
	g.closed.Store(false)
	d.eventually("all is recorded", func() bool { return d.bridge.watched()[0].Link().Buffered() == 0 })
	told := func() (origins []string) {
		for _, e := range d.fileEvents() {
			if e.Type == event.TypeStatusChange && e.Resource.ObjectURI == "/api/partitions/"+p.ID {
				origins = append(origins, e.Origin)
			}
		}
		return origins
	}
	d.eventually("told", func() bool { return len(told()) > 0 })
	d.stop()
	if got := told(); !slices.Equal(got, []string{event.OriginLive}) {
		t.Errorf("reported %q", got)
	}
}

// Operators make a status acceptable, and the HMC tells that the property has changed, and not what follows from it: the list does.
func TestAcceptableStatusThatOnlyTheListTells(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{CPCs: 2, Partitions: 10})
	p := dpm(t, sim, 1)[0]
	if err := sim.SetPartitionStatus(p.ID, "active"); err != nil { // which is acceptable
		t.Fatal(err)
	}
	d := startDaemon(t, hmcYAML(t, "a", sim))
	d.connected("a")
	d.estateKnown("a", 12)
	headers := func(typ string) []hmcsim.Header {
		return []hmcsim.Header{
			{Name: "notification-type", Value: typ},
			{Name: "class", Value: "partition"},
			{Name: "name", Value: p.Name},
			{Name: "object-uri", Value: p.URI},
			{Name: "property-names", Value: " acceptable-status "},
		}
	}
	told := func(text, origin string) {
		t.Helper()
		d.eventually(text, func() bool {
			return slices.ContainsFunc(about(d.consumer.got(), p.Name, event.TypeStatusChange), func(e *event.Event) bool {
				return e.Origin == origin && strings.Contains(e.Summary, text)
			})
		})
	}
	// It was not, before they did.
	d.raw(sim, headers(event.TypeStatusChange), `{"change-reports":[{"has-unacceptable-status":true}]}`)
	told("the status active is unacceptable now", event.OriginLive)
	d.raw(sim, headers(event.TypePropertyChange),
		`{"change-reports":[{"property-name":"acceptable-status","old-value":["stopped"],"new-value":["active","stopped"]}]}`)
	told("the status active is acceptable now", event.OriginReconcile)
}
