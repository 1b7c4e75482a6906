package bridge

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/replay"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
)

func next(t *testing.T, r *replay.LiveReader) ([]event.Record, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	events, lost, err := r.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return events, lost
}

func readLive(t *testing.T, b *Bridge, f replay.LiveFilter) *replay.LiveReader {
	t.Helper()
	r, err := b.Live()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	if _, err := r.Only(f); err != nil {
		t.Fatal(err)
	}
	return r
}

// A running daemon: what is stored is read along, over a restart of the HMC, which the status tells of.
func TestLiveOfADaemon(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{Partitions: 2})
	d := startDaemon(t, hmcYAML(t, "east", sim, "topics: [object]"))
	d.connected("east")
	r := readLive(t, d.bridge, replay.LiveFilter{})
	idle := readLive(t, d.bridge, replay.LiveFilter{}) // never reads
	defer idle.Close()
	await := func(what string, fits func(e *event.Event) bool) {
		t.Helper()
		for {
			events, lost := next(t, r)
			if lost > 0 {
				t.Fatalf("%d lost", lost)
			}
			for _, rec := range events {
				if e, err := rec.Event(); err != nil {
					t.Fatal(err)
				} else if fits(e) {
					return
				}
			}
		}
	}
	if publish(sim, "PART1", "x") != 1 {
		t.Fatal("nobody listens")
	}
	await("the notification", func(e *event.Event) bool { return e.Resource != nil && e.Resource.Name == "PART1" })
	before := time.Now().Truncate(time.Second)
	sim.Stop()
	await("the loss", func(e *event.Event) bool { return e.Type == event.TypeBridgeDisconnected })
	d.eventually("failed attempts", func() bool {
		o := d.hmc("east").Outages
		return len(o) == 1 && o[0].Attempts > 0
	})
	h := d.hmc("east")
	o := h.Outages[0]
	if o.To != nil || o.From.Before(before) || o.Cause == "" || o.LastProblem == "" {
		t.Errorf("%+v", o)
	}
	if len(h.Troubles) != 1 || h.Troubles[0].Severity != event.SeverityCritical || !strings.Contains(h.Troubles[0].Do, "Nothing listens there") {
		t.Errorf("%+v", h.Troubles)
	}
	for _, u := range d.bridge.Units() {
		if u.Current {
			t.Errorf("%+v", u)
		}
	}
	if err := sim.Resume(); err != nil {
		t.Fatal(err)
	}
	await("the new link", func(e *event.Event) bool { return e.Type == event.TypeBridgeConnected })
	d.connected("east")
	h = d.hmc("east")
	if o := h.Outages; len(o) != 1 || o[0].To == nil || o[0].To.Before(o[0].From) {
		t.Errorf("%+v", o)
	}
	d.eventually("nothing needs attention", func() bool { return len(d.hmc("east").Troubles) == 0 })
	if n := h.NotificationsPerMinute; len(n) != status.RatedMinutes || totalOf(n) == 0 || totalOf(n) != d.bridge.now().supervisors[0].it.Metrics.Received() {
		t.Errorf("%v", n)
	}
	d.eventually("the units are listed again", func() bool { return len(d.bridge.Units()) == 4 })
	cpcs := 0
	units := d.bridge.Units()
	for _, u := range units {
		if u.Class == "cpc" {
			cpcs++
		}
		if u.Name == "" || u.CPC == "" || u.Severity == "" || u.Group != "east" || !u.Current {
			t.Errorf("%+v", u)
		}
	}
	if cpcs != 2 || len(units) != 4 {
		t.Errorf("%d units, %d of them CPCs", len(units), cpcs)
	}
}

func totalOf(counts []int64) (n int64) {
	for _, c := range counts {
		n += c
	}
	return n
}
