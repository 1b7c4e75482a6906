package cluster

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"go.uber.org/zap/zaptest"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
	"github.com/hmcnotifyd/hmcnotifyd/tests/natscluster"
)

// tailed is a Tail and what it has read.
type tailed struct {
	*Tail
	mu      sync.Mutex
	records map[uint64]string
	stop    func()
}

func startTail(t *testing.T, c *Cluster) *tailed {
	t.Helper()
	n := &tailed{records: map[uint64]string{}}
	n.Tail = c.Tail(func(seq uint64, data []byte) {
		n.mu.Lock()
		defer n.mu.Unlock()
		if was, ok := n.records[seq]; ok && was != string(data) {
			t.Errorf("record %d is %.20q and was %.20q", seq, data, was)
		}
		n.records[seq] = string(data)
	})
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { n.Run(ctx) })
	n.stop = sync.OnceFunc(func() { cancel(); running.Wait() })
	t.Cleanup(n.stop)
	return n
}

func (n *tailed) has() map[uint64]string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return maps.Clone(n.records)
}

// Whoever reads along sees what is stored, once and in order, also where segments end and writers take over from each other. When its turn
// comes it has the state and the positions as one has that loads all, and has the rest to read only.
func TestReadAlong(t *testing.T) {
	t.Parallel()
	url := natscluster.Single(t, func(o *server.Options) { o.MaxPayload = LeastPayload })
	c := connect(t, "x", 1, url)
	tail := startTail(t, connect(t, "x", 1, url))
	random := rand.New(rand.NewPCG(3, 4))
	state, want := map[string]string{}, map[uint64]string{}
	var q *queue.Queue
	var cursor *queue.Cursor
	write := func(batches int) {
		t.Helper()
		for i := range batches {
			b := queue.Batch{}
			for range random.IntN(4) {
				text := fmt.Sprintf("%d %s", len(want), strings.Repeat("x", random.IntN(2000)))
				if i == 20 {
					text = strings.Repeat("large ", 1<<18) // several messages
				}
				want[uint64(len(want)+1)] = text
				b.Records = append(b.Records, []byte(text))
			}
			key := "k" + strconv.Itoa(random.IntN(30))
			b.State = []queue.KeyValue{{Key: key, Value: []byte(strconv.Itoa(random.Int()))}}
			state[key] = string(b.State[0].Value)
			if i%40 == 39 {
				b.State[0].Value = nil
				delete(state, key)
			}
			if err := put(q, b); err != nil {
				t.Fatal(err)
			}
		}
	}
	for epoch := range uint64(3) {
		if q != nil && epoch == 1 {
			if err := q.Close(); err != nil {
				t.Fatal(err)
			}
		} // else it is deposed
		q, _ = openQueue(t, c, epoch+1)
		cursor = newCursor(t, q, "c")
		newCursor(t, q, "holds all")
		write(150)
		all(t, cursor)
	}
	waitFor(t, "the last one to be read", func() bool { _, ok := tail.has()[uint64(len(want))]; return ok })
	tail.stop()
	got := tail.has()
	first := slices.Min(slices.Collect(maps.Keys(got))) // of the segment that it began with
	for seq := first; seq <= uint64(len(want)); seq++ {
		if want[seq] != got[seq] {
			t.Errorf("record %d is %.20q instead of %.20q", seq, got[seq], want[seq])
		}
	}
	write(5) // it has missed these
	last := cursor.Acked()

	read := tail.fold.next
	s := NewStore(c, StoreOptions{Epoch: 10, Patience: patience, Warm: tail.Tail})
	warm := tail.fold
	next, err := queue.Open(queue.Options{Store: s, Logger: zaptest.NewLogger(t), SegmentBytes: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	if warm != s.tail.fold || warm.next <= read {
		t.Error("what was read along was not used")
	}
	for key := range 30 {
		key := "k" + strconv.Itoa(key)
		if v, ok := next.State(key); string(v) != state[key] || ok != (state[key] != "") {
			t.Errorf("%s is %q instead of %q", key, v, state[key])
		}
	}
	if at := newCursor(t, next, "c"); at.Acked() != last {
		t.Errorf("the position is %d instead of %d", at.Acked(), last)
	}
	reads := func(seq uint64, many int) int {
		r := next.Reader(seq, false)
		defer r.Close()
		n := 0
		for n < many {
			records, err := r.Poll(many-n, 0)
			if err != nil || len(records) == 0 {
				t.Fatalf("record %d: %v", seq+uint64(n), err)
			}
			for _, record := range records {
				if at := seq + uint64(n); record.Seq != at || string(record.Data) != want[at] {
					t.Fatalf("record %d is %d, %.20q instead of %.20q", at, record.Seq, record.Data, want[at])
				}
				n++
			}
		}
		return n
	}
	begin, _ := next.Bounds()
	there := len(want) + 1 - int(begin)
	if there <= 0 || reads(begin, there) != there {
		t.Errorf("from %d on there are %d", begin, there)
	}
	for range 40 { // from anywhere
		reads(begin+uint64(random.IntN(there)), 1)
	}
}

// Where the log has been made anew meanwhile, what was read along of the one before is not used.
func TestReadAlongOfAnotherLog(t *testing.T) {
	t.Parallel()
	url := natscluster.Single(t)
	c := connect(t, "x", 1, url)
	q, _ := openQueue(t, c, 1)
	if err := put(q, queue.Batch{Records: [][]byte{[]byte("before")}, State: []queue.KeyValue{{Key: "k", Value: []byte("before")}}}); err != nil {
		t.Fatal(err)
	}
	tail := startTail(t, c)
	waitFor(t, "it to be read", func() bool { return len(tail.has()) == 1 })
	tail.stop()
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	if err := c.js.DeleteStream(t.Context(), c.stream()); err != nil {
		t.Fatal(err)
	}
	c = connect(t, "x", 1, url)
	q, _ = openQueue(t, c, 2)
	if err := put(q, queue.Batch{Records: [][]byte{[]byte("behind")}, State: []queue.KeyValue{{Key: "l", Value: []byte("behind")}}}); err != nil {
		t.Fatal(err)
	}
	next, err := queue.Open(queue.Options{
		Store: NewStore(c, StoreOptions{Epoch: 3, Patience: patience, Warm: tail.Tail}), Logger: zaptest.NewLogger(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	_, k := next.State("k")
	if l, _ := next.State("l"); k || string(l) != "behind" {
		t.Errorf("the state: %v, %q", k, l)
	}
}
