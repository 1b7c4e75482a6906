package queue_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/cluster"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
	"github.com/hmcnotifyd/hmcnotifyd/tests/natscluster"
	"github.com/hmcnotifyd/hmcnotifyd/tests/natscluster/deployment"
)

// contents is all that a user of a queue can see of it.
type contents struct {
	first, last uint64
	records     map[uint64]string
	state       map[string]string
	waiting     map[string]int64  // of each cursor
	next        map[string]uint64 // and which comes next
	found       [2]uint64         // by time
}

func contentsOf(t *testing.T, q *queue.Queue, middle time.Time) contents {
	t.Helper()
	c := contents{
		records: map[uint64]string{}, state: map[string]string{}, waiting: map[string]int64{}, next: map[string]uint64{},
	}
	c.first, c.last = q.Bounds()
	r := q.Reader(1, false)
	defer r.Close()
	for {
		records, err := r.Poll(0, 0)
		if err != nil {
			t.Fatal(err)
		}
		if len(records) == 0 {
			break
		}
		for _, one := range records {
			c.records[one.Seq] = string(one.Data)
		}
	}
	q.StateRange("", func(key string, value []byte) bool { c.state[key] = string(value); return true })
	for _, name := range q.Cursors() {
		cursor := q.Lookup(name)
		events, _, _ := cursor.Pending()
		c.waiting[name] = events
		if events > 0 {
			records, err := cursor.Next(t.Context(), 1, 0)
			if err != nil {
				t.Fatal(err)
			}
			c.next[name] = records[0].Seq
		}
	}
	var err error
	c.found[0], c.found[1], err = q.Find(middle, middle)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *contents) compare(t *testing.T, other *contents) {
	t.Helper()
	if c.first != other.first || c.last != other.last || c.found != other.found {
		t.Errorf("%d to %d, by time %v; it was %d to %d, %v", other.first, other.last, other.found, c.first, c.last, c.found)
	}
	if !maps.Equal(c.records, other.records) {
		t.Errorf("%d records, of %d", len(other.records), len(c.records))
	}
	if !maps.Equal(c.state, other.state) || !maps.Equal(c.waiting, other.waiting) || !maps.Equal(c.next, other.next) {
		t.Errorf("%v %v %v, it was %v %v %v", other.state, other.waiting, other.next, c.state, c.waiting, c.next)
	}
}

// All of a queue can be copied to a cluster and back to a directory: records with their numbers and times, state, positions. A
// copy that was interrupted is not used, and made anew.
func TestCopy(t *testing.T) {
	t.Parallel()
	opts := queue.Options{Dir: t.TempDir(), SegmentBytes: 256 << 10, MaxBytes: queue.Unlimited, Retain: time.Hour}
	q := openQueue(t, opts)
	for _, name := range []string{"ahead", "behind", "nothing"} {
		if _, err := q.Cursor(name); err != nil {
			t.Fatal(err)
		}
	}
	var middle time.Time
	for n := range 300 {
		size := 1 << 10
		if n%60 == 7 {
			size = 300 << 10 // more than a message, and a block
		}
		b := queue.Batch{
			Records: [][]byte{fmt.Appendf(nil, "%d %s", n, strings.Repeat("x", size)), fmt.Append(nil, n)},
			State:   []queue.KeyValue{{Key: fmt.Sprint("key/", n%17), Value: fmt.Append(nil, n)}},
		}
		if err := q.Append(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		if n%20 == 0 {
			if err := q.Flush(); err != nil {
				t.Fatal(err)
			}
		}
		if n == 150 {
			middle = time.Now()
		}
	}
	if err := errors.Join(q.Flush(), readTo(t, q, "behind", 101), readTo(t, q, "ahead", 333), readTo(t, q, "nothing", 600)); err != nil {
		t.Fatal(err)
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}

	q = openQueue(t, opts)
	want := contentsOf(t, q, middle)
	if len(want.records) != 600 || want.next["ahead"] != 334 || want.waiting["nothing"] != 0 || len(want.state) != 17 {
		t.Fatalf("%d records, %+v %+v", len(want.records), want.next, want.waiting)
	}
	natsd := deployment.Connect(t, natscluster.Single(t))
	epoch := uint64(0)
	onCluster := func() queue.Options {
		epoch++
		o := opts
		o.Dir, o.Store = "", cluster.NewStore(natsd, cluster.StoreOptions{Epoch: epoch, Patience: natscluster.Patience})
		return o
	}
	interrupted := errors.New("interrupted")
	for _, target := range []func() queue.Options{onCluster, func() queue.Options { o := opts; return o }} {
		if epoch > 0 { // the second one is a directory
			opts.Dir = t.TempDir()
		}
		half := target()
		half.From, half.Copied = q, func(record uint64) error {
			if record > 200 {
				return interrupted
			}
			return nil
		}
		if _, err := queue.Open(half); !errors.Is(err, interrupted) {
			t.Fatalf("interrupted: %v", err)
		}
		if _, err := queue.Open(target()); !errors.Is(err, queue.ErrHalfCopied) {
			t.Fatalf("half: %v", err)
		}
		whole, last := target(), uint64(0)
		whole.From, whole.Copied = q, func(record uint64) error {
			if record <= last && record > 0 {
				t.Errorf("progress from %d to %d", last, record)
			}
			last = record
			return nil
		}
		copied := openQueue(t, whole)
		if last != 600 {
			t.Errorf("it ends at %d", last)
		}
		got := contentsOf(t, copied, middle)
		want.compare(t, &got)
		if err := errors.Join(copied.Close(), q.Close()); err != nil {
			t.Fatal(err)
		}
		again := target()
		again.From = copied
		if _, err := queue.Open(again); !errors.Is(err, queue.ErrNotEmpty) {
			t.Fatalf("again: %v", err)
		}
		q = openQueue(t, target())
		got = contentsOf(t, q, middle)
		want.compare(t, &got)
	}
	// It is as any other: what comes next has the next number, and what was read goes.
	if err := errors.Join(q.Append(t.Context(), queue.Batch{Records: [][]byte{[]byte("more")}}), q.Flush()); err != nil {
		t.Fatal(err)
	}
	records, err := q.Lookup("nothing").Next(t.Context(), 0, 0)
	if err != nil || len(records) != 1 || records[0].Seq != 601 {
		t.Errorf("%v %v", slices.Collect(maps.Keys(want.next)), err)
	}
	if err := q.Close(); err != nil {
		t.Error(err)
	}
}

// A directory of version 0.1 is taken over when it is opened, and copied as any other.
func TestCopyOfOldFormat(t *testing.T) {
	t.Parallel()
	opts := queue.Options{Dir: queue.UnpackOld(t), MaxBytes: queue.Unlimited, Retain: time.Hour}
	from := openQueue(t, opts)
	want := contentsOf(t, from, time.Now())
	if len(want.records) == 0 || len(want.state) == 0 || len(want.next) != 2 {
		t.Fatalf("%d records, %d keys, %v", len(want.records), len(want.state), want.next)
	}
	store := cluster.NewStore(deployment.Connect(t, natscluster.Single(t)), cluster.StoreOptions{Epoch: 1, Patience: natscluster.Patience})
	for _, to := range []queue.Options{{Store: store}, {Dir: t.TempDir()}} {
		to.MaxBytes, to.Retain = opts.MaxBytes, opts.Retain
		to.From, to.Copied = from, func(uint64) error { return nil }
		copied := openQueue(t, to)
		got := contentsOf(t, copied, time.Now())
		want.compare(t, &got)
		if err := from.Close(); err != nil {
			t.Fatal(err)
		}
		from = copied
	}
}

// What cannot be read of a queue is missing in the copy, and nothing else; who waits for it is told.
func TestCopyOfDamage(t *testing.T) {
	t.Parallel()
	dropped := map[string]int64{}
	opts := queue.Options{Dir: t.TempDir(), SegmentBytes: 256 << 10, OnDropped: func(name string, n int) { dropped[name] += int64(n) }}
	q := openQueue(t, opts)
	for _, name := range []string{"all", "behind"} {
		if _, err := q.Cursor(name); err != nil {
			t.Fatal(err)
		}
	}
	const records, acked, harmed = 600, 50, 3
	for n := range records {
		if err := q.Append(t.Context(), queue.Batch{Records: [][]byte{fmt.Appendf(nil, "record %d %s", n+1, strings.Repeat("x", 1000))}}); err != nil {
			t.Fatal(err)
		}
		if n%10 == 0 {
			if err := q.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := errors.Join(q.Flush(), readTo(t, q, "behind", acked), q.Close()); err != nil {
		t.Fatal(err)
	}
	// The first one that each of them waits for, and one in the middle.
	left := harmed
	files, err := filepath.Glob(filepath.Join(opts.Dir, "segment-*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range []int{1, acked + 1, 300} {
			if i := bytes.Index(b, fmt.Appendf(nil, "record %d x", n)); i >= 0 {
				b[i]++
				left--
			}
		}
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if left != 0 {
		t.Fatalf("%d records were not found to be harmed", left)
	}
	q = openQueue(t, opts)
	had := map[string]int64{}
	for _, name := range q.Cursors() {
		had[name], _, _ = q.Lookup(name).Pending()
	}
	noticed := maps.Clone(dropped) // what is first was looked at
	if had["all"] != records-dropped["all"] || had["behind"] != records-acked-dropped["behind"] {
		t.Fatalf("%v wait", had)
	}
	copied := openQueue(t, queue.Options{Dir: t.TempDir(), SegmentBytes: opts.SegmentBytes, From: q, Copied: func(uint64) error { return nil }})
	got := contentsOf(t, copied, time.Now())
	for _, name := range q.Cursors() {
		if lost := dropped[name] - noticed[name]; lost == 0 || got.waiting[name] != had[name]-lost {
			t.Errorf("%s: %d wait in the copy, of %d, %d are told to be lost", name, got.waiting[name], had[name], dropped[name])
		}
	}
	if n := int64(len(got.records)); n != records-dropped["all"] || n < records-harmed*70 || got.last != records {
		t.Errorf("%d records, %d lost, the last is %d", n, dropped["all"], got.last)
	}
	for seq, data := range got.records {
		if !strings.HasPrefix(data, fmt.Sprintf("record %d x", seq)) {
			t.Errorf("%d is %.20q", seq, data)
		}
	}
	// The original has lost the same, and no more.
	want := contentsOf(t, q, time.Now())
	if !maps.Equal(want.records, got.records) || !maps.Equal(want.next, got.next) {
		t.Errorf("%d records, %v; in the copy %d, %v", len(want.records), want.next, len(got.records), got.next)
	}
}

// readTo has a cursor acknowledge a record.
func readTo(t *testing.T, q *queue.Queue, name string, seq uint64) error {
	t.Helper()
	for c := q.Lookup(name); ; {
		records, err := c.Next(t.Context(), 0, 0)
		if err != nil {
			return err
		}
		if records[len(records)-1].Seq >= seq {
			return c.Ack(seq)
		}
	}
}

func openQueue(t *testing.T, o queue.Options) *queue.Queue {
	t.Helper()
	q, err := queue.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = q.Close() })
	return q
}
