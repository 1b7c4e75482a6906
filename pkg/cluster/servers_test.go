package cluster

import (
	"context"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap/zaptest"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
	"github.com/hmcnotifyd/hmcnotifyd/tests/natscluster"
	"github.com/hmcnotifyd/hmcnotifyd/tests/soak"
)

// Of three servers one after the other is killed or held up and comes back, and now and then all of
// them, while records are written, and daemons take over from each other. What was confirmed is there,
// once and in order.
func TestServersFail(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	servers := natscluster.Start(t, 3)
	counters := []*counter{{name: "a"}, {name: "b"}}
	first := connect(t, "x", 3, servers.URLs()...)
	prepared, _ := openQueue(t, first, 1)
	newCursor(t, prepared, "all")
	if err := prepared.Close(); err != nil {
		t.Fatal(err)
	}
	epoch := uint64(1)
	takeOver := func() *queue.Queue {
		var q *queue.Queue
		waitFor(t, "the log to be opened", func() bool {
			epoch++
			next, err := queue.Open(queue.Options{
				Store: NewStore(first, StoreOptions{Epoch: epoch}), SegmentBytes: 64 << 10, Logger: zaptest.NewLogger(t),
			})
			if err != nil {
				t.Log(err)
			}
			q = next
			return err == nil
		})
		return q
	}
	for range soak.Count(t, "CLUSTER_SERVERS", 2, 60) {
		q := takeOver()
		ctx, cancel := context.WithCancel(t.Context())
		var work sync.WaitGroup
		before := 0
		for _, n := range counters {
			before += n.confirmed
			n.steadfast = true
			work.Go(func() { n.run(t, q, func() bool { return ctx.Err() != nil }) })
		}
		hit := []int{random.IntN(3)}
		if random.IntN(4) == 0 {
			hit = []int{0, 1, 2}
		}
		time.Sleep(500 * time.Millisecond) // it writes meanwhile
		if random.IntN(2) == 0 {
			for _, i := range hit {
				servers.Kill(i)
			}
			time.Sleep(time.Second)
			for _, i := range hit {
				servers.StartServer(i)
			}
		} else {
			for _, i := range hit {
				servers.Server(i).Signal(t, syscall.SIGSTOP)
			}
			time.Sleep(3 * time.Second)
			for _, i := range hit {
				servers.Server(i).Signal(t, syscall.SIGCONT)
			}
		}
		// It goes on by itself.
		waitFor(t, "it to be stored again", func() bool {
			err := put(q, queue.Batch{Records: [][]byte{[]byte("more")}})
			return err == nil
		})
		cancel()
		work.Wait()
		if random.IntN(2) == 0 {
			if err := q.Close(); err != nil {
				t.Error(err)
			}
		} else {
			t.Cleanup(func() { _ = q.Close() }) // it is deposed
		}
		t.Logf("hit %v, %d confirmed", hit, counters[0].confirmed+counters[1].confirmed-before)
	}
	last := takeOver()
	defer last.Close()
	records := all(t, newCursor(t, last, "all"))
	for _, n := range counters {
		n.judge(t, records)
		if n.confirmed == 0 {
			t.Error("nothing was stored")
		}
	}
}
