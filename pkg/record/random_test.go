package record

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/ledger"
)

// Whatever fails, of two HMCs of a group that record at the same time: each event is stored once, or is one of those that a gap
// of its HMC counts.
func TestEachEventIsStoredOrCounted(t *testing.T) {
	for range 2 {
		seed := rand.Uint64()
		t.Run(fmt.Sprint(seed), func(t *testing.T) { storedOrCounted(t, seed) })
	}
}

func storedOrCounted(t *testing.T, seed uint64) {
	const each = 100
	h := newHouse(t, 2)
	names := []string{"a", "b"}
	missed, sent := make(map[string]int), make(map[string]time.Time)
	var last []*Recorder
	var mu sync.Mutex
	var running sync.WaitGroup
	for i, name := range names {
		r, w := h.open(name)
		connect(r)
		_ = h.queue.Flush() // before the first contact is stored, nothing was watched
		running.Go(func() {
			random := rand.New(rand.NewPCG(seed, uint64(i)))
			for n := range each {
				mark := fmt.Sprint(name, n)
				mu.Lock()
				sent[mark] = time.Now()
				mu.Unlock()
				h.change(r, mark)
				switch random.IntN(20) {
				case 0, 1, 2, 3, 4, 5:
					r.Flush(t.Context())
				case 6:
					r.tick(t.Context(), false)
				case 7:
					h.disk.failing.Store(int32(1 + random.IntN(2)))
				case 8:
					r.Disconnected(t.Context(), Disconnection{State: "disconnected", Cause: "cut"}, time.Now(), false)
					connect(r)
				case 10:
					time.Sleep(time.Duration(random.IntN(20)) * time.Millisecond)
				}
			}
			r.Flush(t.Context())
			_ = h.queue.Flush()
			_ = r.Replaying("") // loads what is stored, where something was refused
			mu.Lock()
			defer mu.Unlock()
			missed[name] += w.missed[event.TopicObject]
			last = append(last, r)
		})
	}
	running.Wait()
	h.disk.failing.Store(0)
	h.works()
	for range 2 { // what was refused at the end of the first is known in the second
		for _, r := range last {
			h.settle(r)
		}
		_ = h.queue.Flush()
	}
	marks, gaps := h.stored()
	stored := make(map[string]int)
	for _, m := range marks {
		if stored[m]++; stored[m] > 1 && !sent[m].IsZero() {
			t.Errorf("%s is stored twice", m)
		}
	}
	for mark, at := range sent {
		in := func(g ledger.Gap) bool { return !at.Before(g.From.Add(-time.Millisecond)) && !at.After(g.To) }
		if gaps := h.gapsOf[mark[:1]]; stored[mark] == 0 && !slices.ContainsFunc(gaps, in) {
			t.Fatalf("%s of %s is not stored, and in no gap: %+v", mark, at, gaps)
		}
	}
	count, counted, all := 0, 0, 0
	for _, name := range names {
		all += missed[name]
		for n := range each {
			count += stored[fmt.Sprint(name, n)]
		}
	}
	for _, g := range gaps {
		counted += g.Missed[event.TopicObject]
		if g.To.Before(g.From) || len(g.Causes) == 0 {
			t.Errorf("gap %+v", g)
		}
	}
	if lost := len(names)*each - count; lost != all || lost != counted {
		t.Errorf("%d are not stored, %d are missed, gaps count %d", lost, all, counted)
	}
}
