package bridge

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/deliver"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/match"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/record"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
)

// liveBridge is as much of a Bridge as live readers need.
func liveBridge(t *testing.T) *Bridge {
	t.Helper()
	b := new(Bridge)
	b.current.Store(&current{cfg: load(t, t.TempDir(), `
hmcs: [{name: east, hosts: [h], userid: u, password: p}]
sinks:
  - {name: all, log: {output: all.log}}
  - {name: some, log: {output: some.log}, match: [{severity: warning}], drop: [{name: TEST}]}
`)})
	return b
}

func liveRecords(n int, size int) [][]byte {
	var out [][]byte
	for i := range n {
		out = append(out, event.AppendRecord(nil, &event.Event{
			ID: fmt.Sprint(i), HMC: "east", Type: event.TypeStatusChange, Severity: event.SeverityInfo, BodyText: strings.Repeat("x", size),
		}))
	}
	return out
}

func next(t *testing.T, r *LiveReader) ([]event.Record, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	events, lost, err := r.Next(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return events, lost
}

func readLive(t *testing.T, b *Bridge, f LiveFilter) *LiveReader {
	t.Helper()
	r, err := b.Live()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	if err := r.Only(f); err != nil {
		t.Fatal(err)
	}
	return r
}

// Nobody reads along: nothing is copied, nothing is kept.
func TestLiveCostsNothing(t *testing.T) {
	b := liveBridge(t)
	records := liveRecords(10, 10)
	if n := testing.AllocsPerRun(100, func() { b.live.Publish(b.live.Gather(records)) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	var none *record.Fanout
	none.Publish(none.Gather(records))
	r := readLive(t, b, LiveFilter{})
	if b.live.Gather(records) == nil {
		t.Error("nothing for a reader")
	}
	r.Close()
	if b.live.Gather(records) != nil {
		t.Error("something for nobody")
	}
}

// What was handed over may be overwritten: the outbox uses its memory again.
func TestLiveCopies(t *testing.T) {
	t.Parallel()
	b := liveBridge(t)
	r := readLive(t, b, LiveFilter{})
	records := liveRecords(2, 10)
	batch := b.live.Gather(records)
	for _, rec := range records {
		clear(rec)
	}
	b.live.Publish(batch)
	if events, _ := next(t, r); len(events) != 2 || events[1].ID != "1" {
		t.Errorf("%v", events)
	}
}

// A reader that does not read loses the oldest, is told how many, and holds up nothing.
func TestLiveSlowReader(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ batches, each, size, lost int }{
		"in time":                   {10, 100, 10, 0},
		"too many":                  {50, 100, 10, 5000 - record.LiveEvents/100*100},
		"too much":                  {10, 10, 100_000, 60},
		"one that fits nobody":      {1, 5, record.LiveBytes / 4, 5},
		"as much as may wait, once": {1, record.LiveEvents, 10, 0},
	} {
		t.Run(name, func(t *testing.T) {
			b := liveBridge(t)
			slow, quick := readLive(t, b, LiveFilter{}), readLive(t, b, LiveFilter{})
			records := liveRecords(test.each, test.size)
			got := 0
			for range test.batches {
				b.live.Publish(b.live.Gather(records))
				events, lost := next(t, quick)
				got += len(events) + lost
			}
			if got != test.batches*test.each {
				t.Errorf("the quick one got %d", got)
			}
			got, lostFirst := 0, -1
			for got < test.batches*test.each {
				events, lost := next(t, slow)
				if lostFirst < 0 {
					lostFirst = lost
				} else if lost > 0 {
					t.Errorf("%d lost later", lost)
				}
				got += len(events) + lost
			}
			if lostFirst != test.lost {
				t.Errorf("%d lost, not %d", lostFirst, test.lost)
			}
			if slow.from.Bytes != 0 || slow.from.Events != 0 {
				t.Errorf("%d events of %d bytes left", slow.from.Events, slow.from.Bytes)
			}
		})
	}
}

func TestLiveFilter(t *testing.T) {
	t.Parallel()
	b := liveBridge(t)
	patterns := func(sources ...string) match.Patterns {
		var out match.Patterns
		for _, s := range sources {
			p, err := match.NewPattern(s)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, p)
		}
		return out
	}
	events := []*event.Event{
		{ID: "stop", HMC: "east", Type: event.TypeStatusChange, Severity: event.SeverityWarning, Summary: "partition PART1 on CPC1: active -> stopped", Resource: &event.Resource{Class: "partition", Name: "PART1", CPC: "CPC1"}},
		{ID: "test", HMC: "west", Type: event.TypeStatusChange, Severity: event.SeverityWarning, Resource: &event.Resource{Class: "partition", Name: "TEST"}},
		{ID: "os", HMC: "east", Type: event.TypeOSMessage, Severity: event.SeverityInfo, Body: []byte(`{"message-text":"Kernel PANIC - not syncing"}`)},
		{ID: "gap", HMC: "west", Type: event.TypeBridgeGap, Severity: event.SeverityInfo, Origin: event.OriginBridge},
	}
	var records [][]byte
	for _, e := range events {
		records = append(records, event.AppendRecord(nil, e))
	}
	records = append(records, []byte("no record"))
	for name, test := range map[string]struct {
		filter LiveFilter
		want   string
	}{
		"all":                         {LiveFilter{}, "stop test os gap"},
		"a type":                      {LiveFilter{Type: patterns("status-change")}, "stop test"},
		"types":                       {LiveFilter{Type: patterns("os-message", "bridge-.*")}, "os gap"},
		"an HMC":                      {LiveFilter{HMC: patterns("west")}, "test gap"},
		"a severity":                  {LiveFilter{Severity: patterns("warning", "critical")}, "stop test"},
		"a type of an HMC":            {LiveFilter{Type: patterns("status-change"), HMC: patterns("east")}, "stop"},
		"text of the summary":         {LiveFilter{Text: "-> STOPPED"}, "stop"},
		"text of a message":           {LiveFilter{Text: "panic"}, "os"},
		"a name":                      {LiveFilter{Text: "part1"}, "stop"},
		"a CPC":                       {LiveFilter{Text: "cpc1"}, "stop"},
		"a type as text":              {LiveFilter{Text: "bridge"}, "gap"},
		"a sink that gets everything": {LiveFilter{Sink: "all"}, "stop test os gap"},
		"a sink that does not":        {LiveFilter{Sink: "some"}, "stop"},
		"a sink and text":             {LiveFilter{Sink: "some", Text: "test"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := readLive(t, b, test.filter)
			got, err := r.wanted(records)
			if err != nil {
				t.Fatal(err)
			}
			var ids []string
			for _, rec := range got {
				ids = append(ids, rec.ID)
			}
			// The text is lowered where the reader is made, so that each event is compared with it as it is.
			if strings.Join(ids, " ") != test.want {
				t.Errorf("%q, not %q", ids, test.want)
			}
		})
	}
	if err := readLive(t, b, LiveFilter{}).Only(LiveFilter{Sink: "nobody"}); !errors.Is(err, deliver.ErrNoSuchSink) {
		t.Errorf("%v", err)
	}
	r := readLive(t, b, LiveFilter{Sink: "some"})
	b.current.Store(&current{cfg: load(t, t.TempDir(),
		"hmcs: [{name: east, hosts: [h], userid: u, password: p}]\nsinks: [{name: all, log: {output: all.log}}]\n")})
	b.live.Publish(b.live.Gather(records))
	if _, _, err := r.Next(t.Context()); !errors.Is(err, deliver.ErrNoSuchSink) {
		t.Errorf("after a reload without it: %v", err)
	}
}

func TestLiveReadersAreBounded(t *testing.T) {
	t.Parallel()
	b := liveBridge(t)
	var readers []*LiveReader
	for range record.MaxLiveReaders {
		readers = append(readers, readLive(t, b, LiveFilter{}))
	}
	if _, err := b.Live(); !errors.Is(err, ErrTooManyReaders) {
		t.Errorf("%v", err)
	}
	readers[3].Close()
	readers[3].Close()
	readLive(t, b, LiveFilter{})
}

// At the end each reader gets what waits for it, and then is told; one that waits is woken.
func TestLiveEnds(t *testing.T) {
	t.Parallel()
	b := liveBridge(t)
	r, waiting := readLive(t, b, LiveFilter{}), readLive(t, b, LiveFilter{Text: "nothing has this"})
	var all sync.WaitGroup
	all.Go(func() {
		if _, _, err := waiting.Next(t.Context()); !errors.Is(err, ErrLiveEnded) {
			t.Errorf("the one that waits: %v", err)
		}
	})
	b.live.Publish(b.live.Gather(liveRecords(3, 10)))
	b.live.End()
	if events, _ := next(t, r); len(events) != 3 {
		t.Errorf("%d events", len(events))
	}
	if _, _, err := r.Next(t.Context()); !errors.Is(err, ErrLiveEnded) {
		t.Errorf("%v", err)
	}
	all.Wait()
	if _, err := b.Live(); !errors.Is(err, ErrLiveEnded) {
		t.Errorf("after the end: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	alone := liveBridge(t)
	if _, _, err := readLive(t, alone, LiveFilter{}).Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// A running daemon: what is stored is read along, over a restart of the HMC, which the status tells of.
func TestLiveOfADaemon(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{Partitions: 2})
	d := startDaemon(t, hmcYAML(t, "east", sim, "topics: [object]"))
	d.connected("east")
	r := readLive(t, d.bridge, LiveFilter{})
	idle := readLive(t, d.bridge, LiveFilter{}) // never reads
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
