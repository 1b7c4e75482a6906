package bridge

import (
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
)

func TestSightings(t *testing.T) {
	t0 := time.Unix(1_800_000_000, 0)
	at := func(seconds int) time.Time { return t0.Add(time.Duration(seconds) * time.Second) }
	key := event.IDOf("active -> stopped")
	s := sightings{keep: twinWithin}
	note := func(hmc string, seconds int, want bool) {
		t.Helper()
		if got := s.note(key, hmc, at(seconds), twinWithin); got != want {
			t.Errorf("%s at %d is a twin: %v", hmc, seconds, got)
		}
	}
	s.setMembers(1)
	note("a", 0, false)
	note("a", 0, false)
	if s.shared() {
		t.Error("one HMC shares nothing")
	}
	s.setMembers(2)
	// Whichever is slower.
	note("a", 0, false)
	note("b", 1, true)
	note("b", 10, false)
	note("a", 39, true)
	// The same change three times within the window is three changes, each of which both tell.
	for range 3 {
		note("a", 100, false)
	}
	for range 3 {
		note("b", 101, true)
	}
	note("b", 102, false)
	// Too late is another one.
	note("a", 133, false)
	note("b", 170, false)
	// What could not be recorded was not told.
	s.forget(key, "b")
	note("a", 171, false)
	// Three HMCs tell it once together.
	s.setMembers(3)
	note("a", 300, false)
	note("c", 301, true)
	note("b", 302, true)
	note("c", 303, false)
	for i := range 2 * maxSightings {
		s.note(event.IDOf(fmt.Sprint(i)), "a", at(304), twinWithin)
	}
	if n := len(s.byKey); n > maxSightings || len(s.order) > 2*maxSightings {
		t.Errorf("%d are remembered", n)
	}
	if s.note(event.IDOf("x"), "a", at(400), twinWithin); len(s.byKey) != 1 {
		t.Errorf("%d are remembered after the window", len(s.byKey))
	}
}

// startPair starts two HMCs of one estate, the second of which is slower and numbers OS messages otherwise.
func startPair(t *testing.T, lag time.Duration, opts hmcsim.Options) (a, b *hmcsim.HMC) {
	t.Helper()
	a = startSim(t, opts)
	b = startSim(t, hmcsim.Options{Name: "HMC2", EstateOf: a, Lag: lag, OSMessageOffset: 5000})
	return a, b
}

func pairYAML(t *testing.T, a, b *hmcsim.HMC, extra ...string) string {
	t.Helper()
	extra = append(extra, "group: east")
	return hmcYAML(t, "a", a, extra...) + hmcYAML(t, "b", b, extra...)
}

// What two HMCs tell of one estate is delivered once.
func TestTwoHMCsOfOneGroup(t *testing.T) {
	a, b := startPair(t, 30*time.Millisecond, hmcsim.Options{CPCs: 1, Partitions: 6, StepDelay: 10 * time.Millisecond})
	d := startDaemon(t, pairYAML(t, a, b, allOSMessages))
	d.connected("a")
	d.connected("b")
	d.estateKnown("a", 7)
	d.estateKnown("b", 7)
	p := dpm(t, a, 6)
	said := 0
	for i := range 6 {
		if err := a.RenamePartition(p[i].ID, fmt.Sprintf("N%d", i)); err != nil {
			t.Fatal(err)
		}
		for round := range 5 {
			if err := b.SetPartitionStatus(p[i].ID, []string{"paused", "active"}[round%2]); err != nil {
				t.Fatal(err)
			}
			if p[i].Status != "active" {
				continue // it may be followed from now on, and may not
			}
			said += 2
			if _, err := a.OSMessages(p[i].ID, fmt.Sprintf("test %d of %d", round, i), "test the same"); err != nil {
				t.Fatal(err)
			}
		}
	}
	// Behind all else.
	if err := a.RenamePartition(p[5].ID, "LAST"); err != nil {
		t.Fatal(err)
	}
	if err := a.RenamePartition(p[5].ID, "END"); err != nil {
		t.Fatal(err)
	}
	d.eventually("both HMCs have told all", func() bool {
		h, g := d.hmc("a"), d.hmc("b")
		return h.Notifications["property-change"] == 8 && g.Notifications["property-change"] == 8 &&
			h.Notifications["status-change"] == g.Notifications["status-change"] && h.Notifications["os-message"] == g.Notifications["os-message"]
	})
	d.eventually("recognized", func() bool {
		return d.metric(`hmcnotifyd_events_duplicate_total{hmc="a",type="property-change"}`)+d.metric(`hmcnotifyd_events_duplicate_total{hmc="b",type="property-change"}`) == 8
	})
	d.stop() // which delivers what is left
	renames, messages := 0, 0
	last := map[string]string{}
	for _, e := range d.fileEvents() {
		switch {
		case e.Origin != event.OriginLive:
			if e.Origin != event.OriginRefresh {
				t.Errorf("%s: %s", e.Origin, e.Summary)
			}
			continue
		case len(e.SeenBy) != 1 || e.SeenBy[0] != e.HMC:
			t.Errorf("seen by %q: %s", e.SeenBy, e.Summary)
		}
		switch e.Type {
		case event.TypePropertyChange:
			renames++
		case event.TypeStatusChange:
			// The simulator tells some changes twice, at both HMCs.
			if was := last[e.Resource.ObjectURI]; was == e.Summary && !e.Repeat {
				t.Errorf("twice: %s", e.Summary)
			}
			last[e.Resource.ObjectURI] = e.Summary
		case event.TypeOSMessage:
			messages++
		}
	}
	if renames != 8 || messages != said || said == 0 {
		t.Errorf("%d renames, %d messages of %d", renames, messages, said)
	}
}

// While one HMC is down the other's sight is enough: nothing is missed, and nothing is told of it but that it is down.
func TestOneHMCOfAGroupIsDown(t *testing.T) {
	for _, down := range []string{"a", "b"} {
		t.Run(down, func(t *testing.T) {
			t.Parallel()
			a, b := startPair(t, 30*time.Millisecond, hmcsim.Options{CPCs: 1, Partitions: 4})
			d := startDaemon(t, pairYAML(t, a, b, allOSMessages))
			d.connected("a")
			d.connected("b")
			d.estateKnown("a", 5)
			d.estateKnown("b", 5)
			p := dpm(t, a, 4)
			if err := a.RenamePartition(p[3].ID, "BOTH"); err != nil {
				t.Fatal(err)
			}
			// Of each the last that was heard came when the other was in sight.
			d.eventually("both tell", func() bool {
				return d.hmc("a").Notifications["property-change"] == 1 && d.hmc("b").Notifications["property-change"] == 1
			})
			stopped := map[string]*hmcsim.HMC{"a": a, "b": b}[down]
			stopped.Stop()
			d.eventually("noticed", func() bool { return !d.hmc(down).Connected })
			if err := a.SetPartitionStatus(p[0].ID, "paused"); err != nil {
				t.Fatal(err)
			}
			if _, err := a.OSMessages(p[1].ID, "test one", "test two"); err != nil {
				t.Fatal(err)
			}
			d.eventually("told by the other", func() bool {
				return len(marked(d.fileEvents(), event.TypeOSMessage)) == 2 && len(ofOrigin(d.fileEvents(), event.OriginLive)) >= 4
			})
			if err := stopped.Resume(); err != nil {
				t.Fatal(err)
			}
			d.connected(down)
			d.eventually("the time without sight is over", func() bool {
				h := d.hmc(down)
				return h.BlindSince == nil && d.settledGap(down)
			})
			if gaps := d.gapsTold(); len(gaps) != 0 {
				t.Errorf("gaps: %+v", gaps)
			}
			if got := ofOrigin(d.fileEvents(), event.OriginReconcile); len(got) != 0 {
				t.Errorf("told again: %q", got)
			}
			if got := marked(d.fileEvents(), event.TypeOSMessage); !slices.Equal(got, []string{"test one", "test two"}) {
				t.Errorf("OS messages: %q", got)
			}
		})
	}
}

// A hardware message of a CPC is told once, and once that it is gone; those of the consoles are each HMC's own.
func TestHardwareMessagesOfAGroup(t *testing.T) {
	a, b := startPair(t, 0, hmcsim.Options{CPCs: 1, Partitions: -1, HardwareMessageChanges: true})
	d := startDaemon(t, pairYAML(t, a, b, "hardware_messages: true"))
	d.connected("a")
	d.connected("b")
	told := func() (out []string) {
		for _, e := range d.fileEvents() {
			if e.Type == event.TypeHardwareMessage {
				out = append(out, e.Summary)
			}
		}
		slices.Sort(out)
		return out
	}
	duplicates := func() float64 {
		return d.metric(`hmcnotifyd_events_duplicate_total{hmc="a",type="hardware-message"}`) + d.metric(`hmcnotifyd_events_duplicate_total{hmc="b",type="hardware-message"}`)
	}
	if _, err := a.AddHardwareMessage("CPC1", "fan 3"); err != nil {
		t.Fatal(err)
	}
	for _, sim := range []*hmcsim.HMC{a, b} {
		if _, err := sim.AddHardwareMessage("", "disk"); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{"hardware message on CPC CPC1: fan 3", "hardware message on console a: disk", "hardware message on console b: disk"}
	d.eventually("told", func() bool { return slices.Equal(told(), want) && duplicates() == 1 })
	if err := b.DeleteHardwareMessages("CPC1"); err != nil {
		t.Fatal(err)
	}
	want = append([]string{want[0], "hardware message on CPC CPC1 was deleted: fan 3"}, want[1:]...)
	slices.Sort(want)
	d.eventually("told that it is gone", func() bool { return slices.Equal(told(), want) && duplicates() == 2 })
}

// settledGap reports whether an HMC has no gap that is still to be told.
func (d *daemon) settledGap(name string) bool {
	d.bridge.mu.RLock()
	defer d.bridge.mu.RUnlock()
	for _, s := range d.bridge.supervisors {
		if s.it.cfg.Name == name {
			s.it.rec.sight.mu.Lock()
			defer s.it.rec.sight.mu.Unlock()
			return s.it.rec.sight.current == nil && len(s.it.rec.sight.cutShort) == 0
		}
	}
	return false
}

// Who has seen what, and when.
func TestSightIsClear(t *testing.T) {
	t0 := time.Unix(1_800_000_000, 0)
	at := func(seconds int) time.Time { return t0.Add(time.Duration(seconds) * time.Second) }
	var s sight
	check := func(from, to int, want bool) {
		t.Helper()
		if got := s.clear(at(from), at(to)); got != want {
			t.Errorf("from %d to %d: %v", from, to, got)
		}
	}
	check(0, 1, false)
	s.linkUp(at(10), false)
	check(5, 12, false)
	check(10, 12, true)
	s.linkLost(at(20), "a test")
	check(10, 20, true)
	check(15, 19, true)
	check(15, 21, false)
	check(21, 22, false)
	s.linkUp(at(30), false)
	check(31, 32, true)
	check(25, 32, false)
	check(15, 32, false)
	if gaps := s.ready(at(100), 0); len(gaps) != 1 {
		t.Fatalf("%d gaps", len(gaps))
	}
	check(15, 19, true)
	check(15, 32, false)
	s.spot(at(40), at(41), "numbers jumped", "", "object", 1, false)
	check(31, 39, true)
	check(31, 42, false)
}

// What neither of them saw is told, once.
func TestBothHMCsOfAGroupAreDown(t *testing.T) {
	a, b := startPair(t, 0, hmcsim.Options{CPCs: 1, Partitions: 4})
	d := startDaemon(t, pairYAML(t, a, b, "topics: [object]"))
	d.connected("a")
	d.connected("b")
	d.estateKnown("a", 5)
	d.estateKnown("b", 5)
	d.stop()
	p := dpm(t, a, 4)
	if err := a.SetPartitionStatus(p[0].ID, "paused"); err != nil {
		t.Fatal(err)
	}
	if err := a.DeletePartition(p[1].ID); err != nil {
		t.Fatal(err)
	}
	d.start(d.config(pairYAML(t, a, b, "topics: [object]")))
	d.connected("a")
	d.connected("b")
	d.awaitGaps(2)
	// That one is deleted takes a second list, which may come after the gaps.
	d.eventually("both changes are told", func() bool { return len(ofOrigin(d.fileEvents(), event.OriginReconcile)) >= 2 })
	d.stop()
	if got := ofOrigin(d.fileEvents(), event.OriginReconcile); len(got) != 2 {
		t.Errorf("told %q", got)
	}
}

// What one HMC of a group told while the other was away is recognized when that one replays it, also when its configuration was changed
// in between: that is how one sets right why it was away.
func TestReloadWhileOneHMCOfAGroupIsDown(t *testing.T) {
	a, b := startPair(t, 0, hmcsim.Options{CPCs: 1, Partitions: 2})
	d := startDaemon(t, pairYAML(t, a, b, allOSMessages))
	d.connected("a")
	d.connected("b")
	d.estateKnown("b", 3)
	p := dpm(t, a, 2)
	b.Stop()
	d.eventually("noticed", func() bool { return !d.hmc("b").Connected })
	if _, err := a.OSMessages(p[0].ID, "test one", "test two"); err != nil {
		t.Fatal(err)
	}
	d.eventually("told by the other", func() bool { return len(marked(d.fileEvents(), event.TypeOSMessage)) == 2 })
	next := d.config(hmcYAML(t, "a", a, allOSMessages, "group: east") + hmcYAML(t, "b", b, allOSMessages, "group: east", "hardware_messages: true"))
	if err := d.bridge.Reload(next); err != nil {
		t.Fatal(err)
	}
	if err := b.Resume(); err != nil {
		t.Fatal(err)
	}
	d.connected("b")
	d.eventually("replayed", func() bool { return d.hmc("b").BlindSince == nil && d.settledGap("b") })
	d.stop()
	if got := marked(d.fileEvents(), event.TypeOSMessage); !slices.Equal(got, []string{"test one", "test two"}) {
		t.Errorf("OS messages: %q", got)
	}
}

// What an HMC has told is stored as known together with the event that tells it, and not before with those of another HMC of the group: a
// crash in between would lose the event, and no list would show a difference any more.
func TestStateOfAGroupGoesWithItsEvents(t *testing.T) {
	a, q := hardwareRecorder(t, filepath.Join(t.TempDir(), "q"))
	g := newGroup("east")
	g.configured(2)
	b := newRecorder(config.HMC{Name: "b"}, q, newReceiverMetrics(prometheus.NewRegistry()).forHMC("b"), zap.NewNop(), new(topicTable), yyTiming())
	b.onMissed, b.inSight, b.heard = a.onMissed, a.inSight, a.heard
	b.open(newSeenWindow(time.Minute, 100))
	for _, r := range []*recorder{a, b} {
		r.share(g)
		g.join(r)
	}
	sent := 0
	status := func(r *recorder, partition, status string) {
		sent++
		headers := receiver.Headers{
			{Name: "notification-type", Value: "status-change"},
			{Name: "message-id", Value: fmt.Sprint(sent)},
			{Name: "class", Value: "partition"},
			{Name: "name", Value: partition},
			{Name: "object-uri", Value: "/api/partitions/" + partition},
		}
		r.notification(t.Context(), &receiver.Notification{Topic: "u.1", Received: time.Now(), Headers: headers, Body: fmt.Appendf(nil, `{"change-reports":[{"old-status":"active","new-status":%q}]}`, status)}, true)
	}
	stored := func(r *recorder) (out []string) {
		t.Helper()
		r.flushNow(t.Context())
		if err := q.Flush(); err != nil {
			t.Fatal(err)
		}
		q.StateRange(stateUnit+"east\x00", func(_ string, value []byte) bool {
			out = append(out, event.String(event.Member(value, "name"))+" "+event.String(event.Member(value, "status")))
			return true
		})
		slices.Sort(out)
		return out
	}
	for _, step := range []struct {
		by   *recorder
		want []string
	}{
		{a, []string{"P1 stopped"}},
		{b, []string{"P1 stopped", "P2 stopped"}},
	} {
		if step.by == a {
			status(b, "P2", "stopped")
			status(a, "P1", "stopped")
		}
		if got := stored(step.by); !slices.Equal(got, step.want) {
			t.Errorf("stored with the events of %s: %q, want %q", step.by.cfg.Name, got, step.want)
		}
	}
	// Of one that both have told of whoever is last stores it.
	status(b, "P1", "paused")
	status(a, "P1", "active")
	stored(a)
	if got := stored(b); !slices.Equal(got, []string{"P1 active", "P2 stopped"}) {
		t.Errorf("stored %q", got)
	}
	if len(g.untold) != 0 {
		t.Errorf("held for ever: %v", g.untold)
	}
}
