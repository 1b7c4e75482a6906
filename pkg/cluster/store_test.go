package cluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap/zaptest"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
	"github.com/hmcnotifyd/hmcnotifyd/tests/natscluster"
	"github.com/hmcnotifyd/hmcnotifyd/tests/soak"
)

// openQueue opens the queue of a cluster, as the one who leads with an epoch.
func openQueue(t testing.TB, c *Cluster, epoch uint64, change ...func(*queue.Options)) (*queue.Queue, *Store) {
	t.Helper()
	s := NewStore(c, StoreOptions{Epoch: epoch, Patience: patience})
	opts := queue.Options{Store: s, Logger: zaptest.NewLogger(t), SegmentBytes: 64 << 10}
	for _, f := range change {
		f(&opts)
	}
	q, err := queue.Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = q.Close() })
	return q, s
}

// put stores a batch and waits for it.
func put(q *queue.Queue, b queue.Batch) error {
	done := make(chan error, 1)
	b.Done = func(err error) { done <- err }
	if err := q.Append(context.Background(), b); err != nil {
		return err
	}
	return <-done
}

// all reads everything that a cursor has, and acknowledges it.
func all(t testing.TB, c *queue.Cursor) (records []string) {
	t.Helper()
	for {
		if waiting, _, _ := c.Pending(); waiting == 0 {
			return records
		}
		next, err := c.Next(t.Context(), 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range next {
			records = append(records, string(r.Data))
		}
		if err := c.Ack(next[len(next)-1].Seq); err != nil {
			t.Fatal(err)
		}
	}
}

func newCursor(t testing.TB, q *queue.Queue, name string) *queue.Cursor {
	t.Helper()
	c, err := q.Cursor(name)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Records and state come back as they were, however large they are, and from whichever place they
// are read.
func TestQueueOnCluster(t *testing.T) {
	t.Parallel()
	url := natscluster.Single(t, func(o *server.Options) { o.MaxPayload = LeastPayload })
	c := connect(t, "x", 1, url)
	q, _ := openQueue(t, c, 1)
	cursor := newCursor(t, q, "c")
	var want []string
	state := map[string]string{}
	random := rand.New(rand.NewPCG(1, 2))
	for i := range 400 {
		b := queue.Batch{}
		for range random.IntN(4) {
			size := random.IntN(2000)
			if i%100 == 50 {
				size = 3 << 20
			}
			want = append(want, fmt.Sprintf("%d %s", len(want), strings.Repeat("x", size)))
			b.Records = append(b.Records, []byte(want[len(want)-1]))
		}
		key, value := "k"+strconv.Itoa(random.IntN(30)), strings.Repeat(strconv.Itoa(i), 1+random.IntN(50))
		if i%150 == 149 {
			value = strings.Repeat("v", 2<<20)
		}
		state[key] = value
		b.State = []queue.KeyValue{{Key: key, Value: []byte(value)}}
		if err := put(q, b); err != nil {
			t.Fatal(err)
		}
	}
	check := func(q *queue.Queue) {
		t.Helper()
		for key, value := range state {
			if v, _ := q.State(key); string(v) != value {
				t.Errorf("%s is %.20q instead of %.20q", key, v, value)
			}
		}
		for range 40 { // from anywhere
			first := uint64(1 + random.IntN(len(want)))
			r := q.Reader(first, false)
			records, err := r.Poll(3, 0)
			if err != nil || len(records) == 0 {
				t.Fatalf("nothing from %d on: %v", first, err)
			}
			for i, record := range records {
				if seq := first + uint64(i); record.Seq != seq || string(record.Data) != want[seq-1] {
					t.Fatalf("record %d is %d, %.20q instead of %.20q", seq, record.Seq, record.Data, want[seq-1])
				}
			}
			r.Close()
		}
	}
	check(q)
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	q, _ = openQueue(t, c, 2)
	check(q)
	if cursor.Acked() != 0 {
		t.Errorf("acknowledged is %d", cursor.Acked())
	}
	cursor = newCursor(t, q, "c")
	if got := all(t, cursor); !slices.Equal(got, want) {
		t.Errorf("%d records instead of %d", len(got), len(want))
	}
	// What everybody has is removed from the cluster too.
	if err := put(q, queue.Batch{Records: [][]byte{[]byte(strings.Repeat("y", 100<<10))}}); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the stream to be trimmed", func() bool {
		state, err := c.state(t.Context())
		return err == nil && state.First > 400
	})
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	q, _ = openQueue(t, c, 3)
	cursor = newCursor(t, q, "c")
	if got := all(t, cursor); len(got) != 1 || len(got[0]) != 100<<10 {
		t.Errorf("%d records are left", len(got))
	}
}

// counter appends numbered records whose state builds on each other, and notes what was confirmed.
type counter struct {
	name      string
	confirmed int
	// steadfast: it tries again whatever happens.
	steadfast bool
}

// pause is what those who write wait after each record: without one the servers and they take all that the machine has.
func pause(t testing.TB) time.Duration {
	return time.Duration(soak.Count(t, "CLUSTER_PAUSE_MS", 2, 0)) * time.Millisecond
}

// run appends until stop, or until the queue is another one's.
func (w *counter) run(t testing.TB, q *queue.Queue, stop func() bool) {
	between := pause(t)
	key := "counter/" + w.name
	for !stop() {
		v, _ := q.State(key)
		n, _ := strconv.Atoi(string(v))
		if n < w.confirmed {
			t.Errorf("%s: the state is %d, and %d was confirmed", w.name, n, w.confirmed)
			return
		}
		n++
		err := put(q, queue.Batch{
			Records: [][]byte{fmt.Appendf(nil, "%s %d", w.name, n)},
			State:   []queue.KeyValue{{Key: key, Value: strconv.AppendInt(nil, int64(n), 10)}},
		})
		if err == nil {
			w.confirmed = n
			time.Sleep(between)
		} else if errors.Is(err, ErrDeposed) || errors.Is(err, queue.ErrClosed) || (!w.steadfast && rand.IntN(3) == 0) {
			return // as if what failed were never tried again
		}
	}
}

// judge checks that the log has what was confirmed, in order, and nothing twice. One record may be
// there that was not confirmed: its answer did not arrive.
func (w *counter) judge(t testing.TB, records []string) {
	t.Helper()
	last := 0
	for _, r := range records {
		name, number, _ := strings.Cut(r, " ")
		if name != w.name {
			continue
		}
		if n, err := strconv.Atoi(number); err != nil || n != last+1 {
			t.Fatalf("%q follows %d", r, last)
		}
		last++
	}
	if last < w.confirmed {
		t.Errorf("%s: the log ends with %d, and %d was confirmed", w.name, last, w.confirmed)
	}
}

// While the network to the cluster fails in every way, with answers that are lost above all, what is
// confirmed is in the log, once and in order, and what is not is not seen: a state that builds on
// itself has no hole. After each failure another one takes over now and then.
func TestNetworkFails(t *testing.T) {
	t.Parallel()
	url := natscluster.Single(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	w := newWire()
	direct := connect(t, "x", 1, url)
	prepared, _ := openQueue(t, direct, 1)
	newCursor(t, prepared, "all") // which needs everything
	for i := range 3 {            // a segment begins with several messages
		b := queue.Batch{State: []queue.KeyValue{{Key: strconv.Itoa(i), Value: make([]byte, 200<<10)}}}
		if err := put(prepared, b); err != nil {
			t.Fatal(err)
		}
	}
	if err := prepared.Close(); err != nil {
		t.Fatal(err)
	}
	counters := []*counter{{name: "a"}, {name: "b"}, {name: "c"}}
	epoch := uint64(1)
	for rounds := soak.Count(t, "CLUSTER_NETWORK", 5, 100); rounds > 0; {
		c, err := Connect(t.Context(), Options{
			URLs: []string{url}, Name: "x", Replicas: 1, Logon: []nats.Option{nats.SetCustomDialer(w), nats.Timeout(patience)},
		})
		if err != nil {
			t.Fatal(err)
		}
		epoch++
		q, err := queue.Open(queue.Options{
			Store: NewStore(c, StoreOptions{Epoch: epoch, Patience: 500 * time.Millisecond}), SegmentBytes: 64 << 10,
		})
		if err != nil { // something of the one before has arrived meanwhile, or the machine is slow
			t.Log(err)
			c.Close()
			continue
		}
		rounds--
		stop := make(chan struct{})
		var work sync.WaitGroup
		for _, n := range counters {
			work.Go(func() {
				n.run(t, q, func() bool {
					select {
					case <-stop:
						return true
					default:
						return false
					}
				})
			})
		}
		troubles := random.Uint64()
		work.Go(func() { w.trouble(stop, rand.New(rand.NewPCG(troubles, 1)).IntN) })
		time.Sleep(2 * time.Second) // so long everything fails
		close(stop)
		work.Wait()
		if random.IntN(2) == 0 { // or it is killed
			if err := q.Close(); err != nil {
				t.Error(err)
			}
			c.Close()
		} else {
			w.set(false, false, true)
			c.Close()
			_ = q.Close()
		}
	}
	q, _ := openQueue(t, direct, epoch+1)
	records := all(t, newCursor(t, q, "all"))
	for _, n := range counters {
		t.Logf("%s: %d confirmed", n.name, n.confirmed)
		n.judge(t, records)
		if n.confirmed == 0 {
			t.Error("nothing was stored")
		}
	}
}

// Where two write, whatever the lease says, the later one has the log: what the earlier one was
// confirmed is there, and no more than that is confirmed to it.
func TestTwoWriters(t *testing.T) {
	t.Parallel()
	url := natscluster.Single(t)
	takeovers := soak.Count(t, "CLUSTER_WRITERS", 6, 12)
	first, _ := openQueue(t, connect(t, "x", 1, url), 1)
	newCursor(t, first, "all")
	var writers sync.WaitGroup
	var counters []*counter
	q, epoch := first, uint64(1)
	for i := range takeovers {
		on := q
		for _, who := range []string{"a", "b"} {
			n := &counter{name: fmt.Sprint(i, who)}
			counters = append(counters, n)
			writers.Go(func() { n.run(t, on, func() bool { return false }) })
		}
		writers.Go(func() { // groups in several parts
			for put(on, queue.Batch{Records: [][]byte{make([]byte, 700<<10)}}) == nil {
				time.Sleep(4 * pause(t))
			}
		})
		time.Sleep(200 * time.Millisecond) // so long it is alone
		c := connect(t, "x", 1, url)
		epoch++
		q, _ = openQueue(t, c, epoch)
	}
	_ = q.Close() // the last one is not deposed
	writers.Wait()
	q, _ = openQueue(t, connect(t, "x", 1, url), epoch+1)
	records := all(t, newCursor(t, q, "all"))
	for _, n := range counters {
		n.judge(t, records)
	}
}

// Who has been deposed hears of it, also when it saves nothing but cursors, and changes nothing.
func TestDeposed(t *testing.T) {
	t.Parallel()
	url := natscluster.Single(t)
	a, b := connect(t, "x", 1, url), connect(t, "x", 1, url)
	old, oldStore := openQueue(t, a, 1)
	cursor := newCursor(t, old, "c")
	if err := put(old, queue.Batch{Records: [][]byte{[]byte("1"), []byte("2")}}); err != nil {
		t.Fatal(err)
	}
	if _, err := cursor.Next(t.Context(), 0, 0); err != nil {
		t.Fatal(err)
	}
	if err := cursor.Ack(1); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the position to be saved", func() bool {
		e, err := a.kv.Get(t.Context(), cursorsKey)
		return err == nil && e.Revision() > 2
	})
	next, nextStore := openQueue(t, b, 2)
	if got := newCursor(t, next, "c").Acked(); got != 1 {
		t.Errorf("the position is %d", got)
	}
	if err := cursor.Ack(2); err != nil {
		t.Fatal(err)
	}
	<-oldStore.Lost()
	if !errors.Is(oldStore.Why(), ErrDeposed) {
		t.Errorf("why: %v", oldStore.Why())
	}
	if err := put(old, queue.Batch{Records: [][]byte{[]byte("3")}}); !errors.Is(err, ErrDeposed) {
		t.Errorf("one that is deposed has written: %v", err)
	}
	if got := all(t, newCursor(t, next, "c")); !slices.Equal(got, []string{"2"}) {
		t.Errorf("the other has %q", got)
	}
	if nextStore.Why() != nil {
		t.Error(nextStore.Why())
	}
}

// A bucket that somebody has removed costs at most what is saved in it alone; a log that somebody has
// removed is a loss that is counted, and its numbers are not used again.
func TestRemoved(t *testing.T) {
	t.Parallel()
	url := natscluster.Single(t)
	c := connect(t, "x", 1, url)
	q, _ := openQueue(t, c, 10)
	newCursor(t, q, "c")
	if err := put(q, queue.Batch{
		Records: [][]byte{[]byte("1"), []byte("2"), []byte("3")}, State: []queue.KeyValue{{Key: "k", Value: []byte("v")}},
	}); err != nil {
		t.Fatal(err)
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	if err := c.js.DeleteKeyValue(t.Context(), Bucket("x")); err != nil {
		t.Fatal(err)
	}
	c = connect(t, "x", 1, url)
	term, err := c.Lead(t.Context(), LeaseOptions{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := term.NewStore(t.Context(), StoreOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if q, err = queue.Open(queue.Options{Store: s}); err != nil {
		t.Fatal(err)
	}
	if v, _ := q.State("k"); string(v) != "v" {
		t.Errorf("the state is %q", v)
	}
	if got := all(t, newCursor(t, q, "c")); len(got) != 3 {
		t.Errorf("there are %q", got)
	}
	if err := put(q, queue.Batch{Records: [][]byte{[]byte("4"), []byte("5")}}); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(q.Close(), c.js.DeleteStream(t.Context(), LogStream("x"))); err != nil {
		t.Fatal(err)
	}
	c = connect(t, "x", 1, url)
	lost := 0
	q, _ = openQueue(t, c, 1000, func(o *queue.Options) { o.OnDropped = func(_ string, n int) { lost += n } })
	if first, last := q.Bounds(); lost != 2 || first <= 5 || last < first-1 {
		t.Errorf("%d are lost; from %d to %d", lost, first, last)
	}
	if err := put(q, queue.Batch{Records: [][]byte{[]byte("6")}}); err != nil {
		t.Fatal(err)
	}
	if got := all(t, newCursor(t, q, "c")); !slices.Equal(got, []string{"6"}) {
		t.Errorf("there are %q", got)
	}
	if err := term.End(t.Context()); err != nil {
		t.Error(err)
	}
}

// A stream that has no room is a full disk: what is only retained goes, then nothing is stored until
// there is room again.
func TestNoRoom(t *testing.T) {
	t.Parallel()
	url := natscluster.Single(t)
	c := connect(t, "x", 1, url)
	limit := func(bytes int64) {
		config := c.wanted()
		config.MaxBytes = bytes
		if _, err := c.js.UpdateStream(t.Context(), config); err != nil {
			t.Fatal(err)
		}
	}
	limit(1 << 20)
	q, _ := openQueue(t, c, 1, func(o *queue.Options) { o.Retain = time.Hour })
	cursor := newCursor(t, q, "c")
	record := func() error { return put(q, queue.Batch{Records: [][]byte{make([]byte, 20<<10)}}) }
	for range 200 { // all of it is acknowledged, and so there is always room
		if err := record(); err != nil {
			t.Fatal(err)
		}
		all(t, cursor)
	}
	stored := 0
	for err := error(nil); err == nil; stored++ {
		if err = record(); err != nil && !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
		if stored > 200 {
			t.Fatal("it never becomes full")
		}
	}
	stored--
	if q.Err() == nil {
		t.Error("nobody is told that it is full")
	}
	limit(4 << 20)
	waitFor(t, "it to be stored again", func() bool { return q.Err() == nil })
	if err := record(); err != nil {
		t.Fatal(err)
	}
	if got := all(t, cursor); len(got) != stored+1 {
		t.Errorf("%d records instead of %d", len(got), stored+1)
	}
}

// Each mistake in a stream or bucket that is there already has a text that says what to change.
func TestStreamChecked(t *testing.T) {
	t.Parallel()
	url := natscluster.Single(t)
	admin := connect(t, "admin", 1, url)
	good := func(name string) jetstream.StreamConfig {
		c := &Cluster{opts: Options{Name: name, Replicas: 1}}
		return c.wanted()
	}
	for i, test := range []struct {
		change func(*jetstream.StreamConfig)
		want   string
	}{
		{func(*jetstream.StreamConfig) {}, ""},
		{func(s *jetstream.StreamConfig) { s.MaxBytes = 1 << 30 }, ""},
		{func(s *jetstream.StreamConfig) { s.DenyDelete = true }, ""}, // nothing is deleted one by one
		{func(s *jetstream.StreamConfig) { s.Storage = jetstream.MemoryStorage }, "it is in memory"},
		{func(s *jetstream.StreamConfig) { s.MaxAge = time.Hour }, "max_age is 1h0m0s"},
		{func(s *jetstream.StreamConfig) { s.MaxMsgs = 1000 }, "max_msgs is 1000: set it to -1"},
		{func(s *jetstream.StreamConfig) { s.MaxMsgsPerSubject = 5 }, "max_msgs_per_subject is 5"},
		{func(s *jetstream.StreamConfig) { s.MaxMsgSize = 1000 }, "max_msg_size is 1000"},
		{func(s *jetstream.StreamConfig) { s.MaxBytes, s.Discard = 1<<20, jetstream.DiscardOld }, "set discard to new"},
		{func(s *jetstream.StreamConfig) { s.DenyPurge = true }, "deny_purge is set"},
		{func(s *jetstream.StreamConfig) { s.AllowDirect = false }, "allow_direct is not set"},
		{func(s *jetstream.StreamConfig) { s.NoAck = true }, "no_ack is set"},
		{func(s *jetstream.StreamConfig) { s.Retention = jetstream.InterestPolicy }, "its retention is interest"},
		{func(s *jetstream.StreamConfig) { s.Subjects = []string{"something.>"} }, "its subjects are something.>"},
	} {
		name := "s" + strconv.Itoa(i)
		config := good(name)
		test.change(&config)
		if _, err := admin.js.CreateStream(t.Context(), config); err != nil {
			t.Fatal(name, err)
		}
		_, err := tryConnect(t, name, 1, url)
		if (err == nil) != (test.want == "") || (err != nil && !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: %v instead of %q", name, err, test.want)
		}
	}
	if _, err := tryConnect(t, "s0", 3, url); err == nil || !strings.Contains(err.Error(), "it has 1 replicas and the configuration says 3") {
		t.Errorf("another number of replicas: %v", err)
	}
	if _, err := admin.js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: Bucket("bucket"), TTL: time.Hour, History: 3}); err != nil {
		t.Fatal(err)
	}
	_, err := tryConnect(t, "bucket", 1, url)
	for _, want := range []string{"bucket hmcnotifyd-bucket", "max_age is 1h0m0s", "history is 3"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v instead of %q", err, want)
		}
	}
	if _, err := tryConnect(t, "x", 1, natscluster.Single(t, func(o *server.Options) { o.JetStream = false })); err == nil ||
		!strings.Contains(err.Error(), "JetStream is not enabled") {
		t.Errorf("without JetStream: %v", err)
	}
	if _, err := tryConnect(t, "x", 1, natscluster.Single(t, func(o *server.Options) { o.MaxPayload = 64 << 10 })); err == nil ||
		!strings.Contains(err.Error(), "max_payload of the NATS server is 65536") {
		t.Errorf("with a small max_payload: %v", err)
	}
}
