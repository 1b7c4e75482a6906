package ledger

import (
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
)

func seenID(n int) event.ID { return event.IDOf("seen", strconv.Itoa(n)) }

// addAll adds ids and stores what has changed.
func addAll(t *testing.T, s *Seen, now time.Time, state map[string][]byte, ids ...int) {
	t.Helper()
	for _, n := range ids {
		if s.Add(seenID(n), now) {
			t.Errorf("%d is known already", n)
		}
	}
	s.at = now
	store(state, s)
}

// store stores what has changed in a book.
func store(state map[string][]byte, b Book) {
	for _, kv := range b.Changes(nil) {
		if kv.Value == nil {
			delete(state, kv.Key)
		} else {
			state[kv.Key] = kv.Value
		}
	}
}

// storedIn ranges over a state as a queue does.
func storedIn(state map[string][]byte) Stored {
	return func(prefix string, fn func(key string, value []byte) bool) {
		for _, key := range slices.Sorted(maps.Keys(state)) {
			if strings.HasPrefix(key, prefix) && !fn(key, state[key]) {
				return
			}
		}
	}
}

func restarted(state map[string][]byte, window time.Duration, maxIDs int) *Seen {
	s := NewSeenWindow(window, maxIDs).Of("a")
	s.Load(storedIn(state))
	return s
}

// An id is known for the time and the number that were asked for, also after a restart, and is then forgotten, also on disk.
func TestSeenWindow(t *testing.T) {
	now := time.Unix(1700000000, 0)
	state := make(map[string][]byte)
	w := NewSeenWindow(10*time.Minute, 1000)
	h := w.Of("a")
	addAll(t, h, now, state, 1, 2, 3)
	if !h.Add(seenID(2), now) {
		t.Error("2 is not known")
	}
	if s := restarted(state, 10*time.Minute, 1000); !s.Add(seenID(3), now) || s.Add(seenID(4), now) {
		t.Error("a restart does not know the same")
	}
	addAll(t, h, now.Add(11*time.Minute), state, 5)
	addAll(t, h, now.Add(22*time.Minute), state)
	if w.ids.n != 0 || len(w.chunks) != 0 || len(state) != 0 {
		t.Errorf("after the time: %d ids, %d chunks, %d stored", w.ids.n, len(w.chunks), len(state))
	}
	if h.Add(seenID(5), now) {
		t.Error("5 is still known")
	}
}

// The number of ids is that of all HMCs together, give or take a chunk.
func TestSeenWindowIsBounded(t *testing.T) {
	now := time.Unix(1700000000, 0)
	state := make(map[string][]byte)
	const maxIDs = 1000
	w := NewSeenWindow(time.Hour, maxIDs)
	books := []*Seen{w.Of("a"), w.Of("b"), w.Of("c")}
	n := 0
	for range 200 {
		for _, s := range books {
			addAll(t, s, now, state, n, n+1, n+2)
			n += 3
			if w.ids.n > maxIDs+3*seenChunk {
				t.Fatalf("%d ids", w.ids.n)
			}
		}
	}
	for i := range maxIDs - 3*seenChunk {
		if !books[0].Add(seenID(n-1-i), now) {
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
	addAll(t, books[0], now, state, 1_000_000)
	if books[0].Add(seenID(1_000_000), now) {
		t.Error("without a window something is known")
	}
}

// What could not be stored is not known, and is not stored with what follows.
func TestSeenLoadsAfterAFailure(t *testing.T) {
	now := time.Unix(1700000000, 0)
	state := make(map[string][]byte)
	w := NewSeenWindow(time.Hour, 1000)
	h, other := w.Of("a"), w.Of("b")
	addAll(t, h, now, state, 1)
	addAll(t, other, now, state, 10)
	addAll(t, h, now, make(map[string][]byte), 2) // refused by the queue
	h.Add(seenID(3), now)                         // on its way to it
	h.Load(storedIn(state))
	addAll(t, h, now, state, 4)
	if h.Add(seenID(2), now) || h.Add(seenID(3), now) || !h.Add(seenID(10), now) || !h.Add(seenID(1), now) {
		t.Error("what is known is not what is stored")
	}
	after := restarted(state, time.Hour, 1000)
	if !after.Add(seenID(1), now) || after.Add(seenID(2), now) || !after.Add(seenID(4), now) {
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
	var books []*Seen
	load := func() {
		w := NewSeenWindow(window, maxIDs)
		books = nil
		for i := range 3 {
			books = append(books, w.Of(strconv.Itoa(i)))
			books[i].Load(q.StateRange)
		}
	}
	load()
	added := make(map[int]time.Time)
	order := []int{}
	for n := range 20_000 {
		id := random.IntN(3000)
		s := books[id%3] // no two HMCs have ids in common
		at, was := added[id]
		known := s.Add(seenID(id), now)
		since := 0
		for i := len(order) - 1; i >= 0 && order[i] != id; i-- {
			since++
		}
		// The ids of a chunk go together: while one was filled, as many were added elsewhere as chance had it.
		recent := was && now.Sub(at) < window-time.Second && since < maxIDs-12*seenChunk
		old := !was || now.Sub(at) > 2*window || since > maxIDs+8*seenChunk
		if recent && !known || old && known {
			t.Fatalf("step %d: known %v, added %v ago, %d since", n, known, now.Sub(at), since)
		}
		if !known {
			added[id] = now
			order = append(order, id)
			if len(order) > 4*maxIDs {
				order = order[2*maxIDs:]
			}
		}
		if err := q.Append(t.Context(), queue.Batch{State: s.Changes(nil)}); err != nil {
			t.Fatal(err)
		}
		now = now.Add(time.Duration(random.IntN(200)) * time.Millisecond)
		if random.IntN(2000) == 0 {
			if err := q.Flush(); err != nil {
				t.Fatal(err)
			}
			load()
		}
	}
}

func TestSeenConcurrently(t *testing.T) {
	w := NewSeenWindow(time.Minute, 10_000)
	var working sync.WaitGroup
	for g := range 4 {
		working.Go(func() {
			s := w.Of(strconv.Itoa(g))
			for i := range 5000 {
				id := event.IDOf(strconv.Itoa(g), strconv.Itoa(i))
				if s.Add(id, time.Now()) {
					t.Errorf("%d of %d is known", i, g)
				}
				s.Changes(nil)
			}
		})
	}
	working.Wait()
}

func BenchmarkSeen(b *testing.B) {
	w := NewSeenWindow(10*time.Minute, 100_000)
	s := w.Of("a")
	n, now := 0, time.Now()
	b.ReportAllocs()
	for b.Loop() {
		n++
		s.Add(event.ID{byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)}, now)
		if n%1024 == 0 {
			s.Changes(nil)
		}
	}
}
