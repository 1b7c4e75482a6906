package deliver

import (
	"errors"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/tests/soak"
)

func workItems(from, n, keys int) []item {
	items := make([]item, n)
	for i := range items {
		number := uint64(from + i)
		key := strconv.Itoa(int(number) % keys)
		items[i] = item{seq: number, key: key, record: event.Record{Key: key, JSON: []byte("0123456789")}}
	}
	return items
}

func (w *work) done(b *batch) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.giveBack(b)
}

// However many lanes take, and in whatever order they are done: each event is taken once, those of
// one key in their order and never by two lanes at the same time, and a batch is in the order of
// the queue.
func TestWorkKeepsTheOrder(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Log("seed", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for range soak.Count(t, "ORDERS", 50, 1000) {
		lanes, maxEvents, keys := 1+random.IntN(8), 1+random.IntN(20), 1+random.IntN(30)
		w := newWork(lanes, maxEvents, 10*(1+random.IntN(30)), 1, 0)
		var (
			added, taken int
			running      []*batch
			busy         = make(map[string]bool)
			last         = make(map[string]uint64)
		)
		const total = 1000
		for taken < total {
			switch {
			case added < total && random.IntN(3) == 0:
				n := min(1+random.IntN(50), total-added)
				w.add(workItems(added+1, n, keys))
				added += n
			case len(running) < lanes && random.IntN(2) == 0:
				b := new(batch)
				if n := len(running) - 1; n >= 0 && random.IntN(2) == 0 { // the next one of the same lane
					b, running = running[n], running[:n]
					for _, it := range b.items {
						delete(busy, it.record.Key)
					}
				}
				ok, wait, ended := w.take(b, time.Now)
				if !ok {
					if wait != 0 || ended {
						t.Fatalf("wait %s, ended %v", wait, ended)
					}
					break
				}
				if len(b.items) > maxEvents {
					t.Fatalf("%d events of at most %d", len(b.items), maxEvents)
				}
				for i := range b.items {
					r := b.items[i].record
					if i > 0 && b.seqs[i] <= b.seqs[i-1] || b.seqs[i] != b.items[i].seq {
						t.Fatalf("batch %v", b.seqs)
					}
					if busy[r.Key] {
						t.Fatalf("key %s is taken twice", r.Key)
					}
					if b.seqs[i] <= last[r.Key] || last[r.Key] != 0 && b.seqs[i] != last[r.Key]+uint64(keys) {
						t.Fatalf("key %s: %d after %d", r.Key, b.seqs[i], last[r.Key])
					}
					last[r.Key] = b.seqs[i]
				}
				for _, it := range b.items {
					busy[it.record.Key] = true
				}
				taken += len(b.items)
				running = append(running, b)
			case len(running) > 0:
				i := random.IntN(len(running))
				for _, it := range running[i].items {
					delete(busy, it.record.Key)
				}
				w.done(running[i])
				running = append(running[:i], running[i+1:]...)
			}
		}
		for _, b := range running {
			w.done(b)
		}
		w.become(complete)
		if ok, _, ended := w.take(new(batch), time.Now); ok || !ended || w.available != 0 || w.left != 0 || len(w.queues) != 0 {
			t.Fatalf("at the end: %d available, %d left, %d queues", w.available, w.left, len(w.queues))
		}
	}
}

// A batch waits to become full, but no longer than it may, and not at the end.
func TestWorkWaitsForAFullBatch(t *testing.T) {
	t.Parallel()
	w := newWork(2, 100, 1<<20, 10, time.Minute)
	w.add(workItems(1, 9, 3))
	now, later := time.Now, func() time.Time { return time.Now().Add(2 * time.Minute) }
	var b batch
	if ok, wait, _ := w.take(&b, now); ok || wait <= 0 || wait > time.Minute {
		t.Errorf("9 of 10: %v, %s", ok, wait)
	}
	if ok, _, _ := w.take(&b, later); !ok || len(b.items) != 9 {
		t.Errorf("after the wait: %v, %d events", ok, len(b.items))
	}
	w.done(&b)
	w.add(workItems(10, 10, 3))
	if ok, _, _ := w.take(&b, now); !ok || len(b.items) != 10 {
		t.Errorf("a full one: %v, %d events", ok, len(b.items))
	}
	w.add(workItems(20, 3, 3))
	w.done(&b)
	w.become(hurried)
	if ok, _, _ := w.take(&b, now); !ok || len(b.items) != 3 {
		t.Errorf("in a hurry: %v, %d events", ok, len(b.items))
	}
	w.done(&b)
	w.add(workItems(23, 1, 3))
	w.become(complete)
	if ok, _, _ := w.take(&b, now); !ok {
		t.Error("not at the end")
	}
	w.done(&b)
	if ok, _, ended := w.take(&b, now); ok || !ended {
		t.Error("it does not end")
	}
}

// What cannot be sent goes alone.
func TestWorkInvalidAlone(t *testing.T) {
	t.Parallel()
	w := newWork(1, 100, 1<<20, 1, 0)
	items := workItems(1, 5, 100)
	items[2].invalid = errors.New("broken")
	w.add(items)
	var sizes []int
	for range 3 {
		var b batch
		if ok, _, _ := w.take(&b, time.Now); !ok {
			t.Fatal("nothing to take")
		}
		if (b.items[0].invalid != nil) != (len(sizes) == 1) {
			t.Errorf("batch %d: %v", len(sizes), b.items[0].invalid)
		}
		sizes = append(sizes, len(b.items))
		w.done(&b)
	}
	if sizes[0] != 2 || sizes[1] != 1 || sizes[2] != 2 {
		t.Errorf("batches of %v", sizes)
	}
}
