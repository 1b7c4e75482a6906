package ledger

import (
	"math/rand/v2"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
)

func seenID(n int) event.ID { return event.IDOf("seen", strconv.Itoa(n)) }

// addAll adds ids in batches and returns what would be stored.
func addAll(t *testing.T, h *SeenHandle, now time.Time, state map[string][]byte, ids ...int) {
	t.Helper()
	var batch []event.ID
	for _, n := range ids {
		if h.Add(seenID(n)) {
			t.Errorf("%d is known already", n)
		}
		batch = append(batch, seenID(n))
	}
	for _, kv := range h.Persist(batch, now) {
		if kv.Value == nil {
			delete(state, kv.Key)
		} else {
			state[kv.Key] = kv.Value
		}
	}
}

func restarted(state map[string][]byte, window time.Duration, maxIDs int) *SeenWindow {
	w := NewSeenWindow(window, maxIDs)
	for k, v := range state {
		w.Load(k, v)
	}
	w.Finish()
	return w
}

// An id is known for the time and the number that were asked for, also after a restart, and is then forgotten, also on disk.
func TestSeenWindow(t *testing.T) {
	now := time.Unix(1700000000, 0)
	state := make(map[string][]byte)
	w := NewSeenWindow(10*time.Minute, 1000)
	h := w.Handle("a")
	addAll(t, h, now, state, 1, 2, 3)
	if !h.Add(seenID(2)) {
		t.Error("2 is not known")
	}
	if w := restarted(state, 10*time.Minute, 1000); !w.Handle("a").Add(seenID(3)) || w.Handle("a").Add(seenID(4)) {
		t.Error("a restart does not know the same")
	}
	addAll(t, h, now.Add(11*time.Minute), state, 5)
	addAll(t, h, now.Add(22*time.Minute), state)
	if len(w.ids) != 0 || len(w.chunks) != 0 || len(state) != 0 {
		t.Errorf("after the time: %d ids, %d chunks, %d stored", len(w.ids), len(w.chunks), len(state))
	}
	if h.Add(seenID(5)) {
		t.Error("5 is still known")
	}
}

// The number of ids is that of all HMCs together, give or take a chunk.
func TestSeenWindowIsBounded(t *testing.T) {
	now := time.Unix(1700000000, 0)
	state := make(map[string][]byte)
	const maxIDs = 1000
	w := NewSeenWindow(time.Hour, maxIDs)
	n := 0
	for range 200 {
		for _, hmc := range []string{"a", "b", "c"} {
			addAll(t, w.Handle(hmc), now, state, n, n+1, n+2)
			n += 3
			if len(w.ids) > maxIDs+3*seenChunk {
				t.Fatalf("%d ids", len(w.ids))
			}
		}
	}
	for i := range maxIDs - 3*seenChunk {
		if !w.Handle("a").Add(seenID(n - 1 - i)) {
			t.Fatalf("the one %d before the last is not known", i)
		}
	}
	stored := 0
	for _, v := range state {
		stored += (len(v) - 8) / 16
	}
	if stored < maxIDs || stored > maxIDs+3*seenChunk {
		t.Errorf("%d ids are stored", stored)
	}
	w.Configure(0, maxIDs)
	addAll(t, w.Handle("a"), now, state, 1_000_000)
	if w.Handle("a").Add(seenID(1_000_000)) {
		t.Error("without a window something is known")
	}
}

// What could not be stored is not known, and is not stored with what follows.
func TestSeenForgets(t *testing.T) {
	now := time.Unix(1700000000, 0)
	state := make(map[string][]byte)
	w := NewSeenWindow(time.Hour, 1000)
	h := w.Handle("a")
	addAll(t, h, now, state, 1)
	addAll(t, h, now, make(map[string][]byte), 2) // refused by the queue
	h.Forget([]event.ID{seenID(2)})
	addAll(t, h, now, state, 3)
	if h.Add(seenID(2)) {
		t.Error("2 is known")
	}
	after := restarted(state, time.Hour, 1000).Handle("a")
	if !after.Add(seenID(1)) || after.Add(seenID(2)) || !after.Add(seenID(3)) {
		t.Error("a restart knows something else")
	}
}

// Against a naive window, with restarts through a real queue.
func TestSeenModel(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Log("seed", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	q, err := queue.Open(queue.Options{Dir: filepath.Join(t.TempDir(), "q")})
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	const window, maxIDs = time.Minute, 500
	now := time.Unix(1700000000, 0)
	w := NewSeenWindow(window, maxIDs)
	added := make(map[int]time.Time)
	order := []int{}
	for n := range 20_000 {
		h := w.Handle(strconv.Itoa(random.IntN(3)))
		id := random.IntN(3000)
		at, was := added[id]
		known := h.Add(seenID(id))
		since := 0
		for i := len(order) - 1; i >= 0 && order[i] != id; i-- {
			since++
		}
		recent := was && now.Sub(at) < window-time.Second && since < maxIDs-3*seenChunk
		old := !was || now.Sub(at) > 2*window || since > maxIDs+8*seenChunk
		if recent && !known || old && known {
			t.Fatalf("step %d: known %v, added %v ago, %d since", n, known, now.Sub(at), since)
		}
		var ids []event.ID
		if !known {
			ids = []event.ID{seenID(id)}
			added[id] = now
			order = append(order, id)
			if len(order) > 4*maxIDs {
				order = order[2*maxIDs:]
			}
		}
		if err := q.Append(t.Context(), queue.Batch{State: h.Persist(ids, now)}); err != nil {
			t.Fatal(err)
		}
		now = now.Add(time.Duration(random.IntN(200)) * time.Millisecond)
		if random.IntN(2000) == 0 {
			if err := q.Flush(); err != nil {
				t.Fatal(err)
			}
			w = NewSeenWindow(window, maxIDs)
			q.StateRange(StateSeen, func(key string, value []byte) bool {
				w.Load(key, value)
				return true
			})
			w.Finish()
		}
	}
}

func TestSeenConcurrently(t *testing.T) {
	w := NewSeenWindow(time.Minute, 10_000)
	var working sync.WaitGroup
	for g := range 4 {
		working.Go(func() {
			h := w.Handle(strconv.Itoa(g))
			for i := range 5000 {
				id := event.IDOf(strconv.Itoa(g), strconv.Itoa(i))
				if h.Add(id) {
					t.Errorf("%d of %d is known", i, g)
				}
				h.Persist([]event.ID{id}, time.Now())
			}
		})
	}
	working.Wait()
}

func BenchmarkSeen(b *testing.B) {
	w := NewSeenWindow(10*time.Minute, 100_000)
	h := w.Handle("a")
	var ids []event.ID
	n, now := 0, time.Now()
	b.ReportAllocs()
	for b.Loop() {
		n++
		id := event.ID{byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)}
		h.Add(id)
		if ids = append(ids, id); len(ids) == 1024 {
			h.Persist(ids, now)
			ids = nil
		}
	}
}
