package bridge

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
)

// startPair starts two HMCs of one estate, the second of which is slower and numbers OS messages otherwise.
func startPair(t *testing.T, lag time.Duration, opts hmcsim.Options) (a, b *hmcsim.HMC) {
	t.Helper()
	a = hmctest.Start(t, opts)
	b = hmctest.Start(t, hmcsim.Options{Name: "HMC2", EstateOf: a, Lag: lag, OSMessageOffset: 5000})
	return a, b
}

func pairYAML(t *testing.T, a, b *hmcsim.HMC, extra ...string) string {
	t.Helper()
	extra = append(extra, "group: east")
	return hmcYAML(t, "a", a, extra...) + hmcYAML(t, "b", b, extra...)
}

// What two HMCs tell of one estate is delivered once.
func TestTwoHMCsOfOneGroup(t *testing.T) {
	t.Parallel()
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
	t.Parallel()
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
	t.Parallel()
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
	for _, s := range d.bridge.now().supervisors {
		if s.it.Cfg.Name == name {
			return !s.it.Rec.View().Pending
		}
	}
	return false
}

// What neither of them saw is told, once.
func TestBothHMCsOfAGroupAreDown(t *testing.T) {
	t.Parallel()
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
	t.Parallel()
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
