package queue

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/tests/scratch"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/boltfile"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/storage"
)

func TestNextLimits(t *testing.T) {
	t.Parallel()
	q := open(t, Options{CacheBytes: 1})
	c := cursor(t, q, "c")
	for i := range 30 {
		mustPut(t, q, numbered(10*i+1, 10)...)
	}
	ctx := t.Context()
	seq := uint64(0)
	for _, limit := range []struct{ records, bytes, want int }{
		{1, 0, 1}, {7, 0, 7}, {100, 9 * 3, 3}, {100, 1, 1}, {0, 0, 288},
	} {
		var records []Record
		for len(records) < limit.want { // blocks on disk may be handed out one by one
			got, err := c.Next(ctx, limit.records, limit.bytes)
			if err != nil {
				t.Fatal(err)
			}
			records = append(records, got...)
			if limit.want < 100 {
				break
			}
		}
		if len(records) != limit.want {
			t.Errorf("Next(%d, %d) returned %d records", limit.records, limit.bytes, len(records))
		}
		for _, r := range records {
			if seq++; r.Seq != seq {
				t.Fatalf("%d after %d", r.Seq, seq-1)
			}
		}
	}
	expectNothing(t, c)
}

// expectNothing expects that Next waits.
func expectNothing(t *testing.T, c *Cursor) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if r, err := c.Next(ctx, 0, 0); !errors.Is(err, context.Canceled) {
		t.Fatalf("Next: %d records, %v", len(r), err)
	}
}

func TestNextWaits(t *testing.T) {
	t.Parallel()
	q := open(t, Options{})
	c := cursor(t, q, "c")
	for i := range 50 {
		var group sync.WaitGroup
		group.Go(func() { expectRecords(t, c, i+1, 1) })
		mustPut(t, q, numbered(i+1, 1)...)
		group.Wait()
	}
	done := make(chan error)
	go func() {
		_, err := c.Next(context.Background(), 0, 0)
		done <- err
	}()
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, ErrClosed) {
		t.Errorf("Next: %v", err)
	}
}

func TestAckErrors(t *testing.T) {
	t.Parallel()
	q := open(t, Options{})
	c := cursor(t, q, "c")
	mustPut(t, q, numbered(1, 5)...)
	if err := c.Ack(1); !errors.Is(err, ErrNotRead) {
		t.Errorf("of an unread record: %v", err)
	}
	next(t, c, 3)
	for _, seq := range []uint64{0, 2, 1, 2, 3, 3} {
		if err := c.Ack(seq); err != nil {
			t.Errorf("%d: %v", seq, err)
		}
	}
	if c.Acked() != 3 {
		t.Errorf("acknowledged %d", c.Acked())
	}
	if err := c.Ack(4); !errors.Is(err, ErrNotRead) {
		t.Errorf("of an unread record: %v", err)
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	if err := c.Ack(3); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestCursorsByName(t *testing.T) {
	t.Parallel()
	q := open(t, Options{})
	mustPut(t, q, "before")
	a := cursor(t, q, "a")
	expectEmpty(t, a)
	mustPut(t, q, "after")
	if cursor(t, q, "a") != a {
		t.Error("another cursor of the same name")
	}
	cursor(t, q, "b")
	if got := q.Cursors(); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("cursors %q", got)
	}
	if _, err := q.Cursor(""); err == nil {
		t.Error("a cursor without a name")
	}
	waiting := make(chan error)
	b := cursor(t, q, "b")
	go func() {
		_, err := b.Next(context.Background(), 0, 0)
		waiting <- err
	}()
	if err := errors.Join(q.RemoveCursor("b"), q.RemoveCursor("nobody")); err != nil {
		t.Fatal(err)
	}
	if err := <-waiting; !errors.Is(err, ErrClosed) {
		t.Errorf("Next of a removed cursor: %v", err)
	}
	if err := b.Ack(1); !errors.Is(err, ErrClosed) {
		t.Errorf("Ack of a removed cursor: %v", err)
	}
	q = reopen(t, q)
	if got := q.Cursors(); !slices.Equal(got, []string{"a"}) {
		t.Errorf("cursors %q", got)
	}
	if got := next(t, cursor(t, q, "a"), 1)[0]; string(got.Data) != "after" || got.Seq != 2 {
		t.Errorf("got %d %q", got.Seq, got.Data)
	}
}

// TestManyCursors needs more room for their positions than the file has at first.
func TestManyCursors(t *testing.T) {
	t.Parallel()
	q := open(t, Options{Dir: filepath.Join(scratch.Memory(t), "q")})
	var want []string
	for i := range 300 {
		name := fmt.Sprintf("%03d%s", i, strings.Repeat("n", 100))
		want = append(want, name)
		cursor(t, q, name)
	}
	mustPut(t, q, numbered(1, 10)...)
	c := cursor(t, q, want[7])
	next(t, c, 10)
	if err := c.Ack(4); err != nil {
		t.Fatal(err)
	}
	q = reopen(t, q)
	if got := q.Cursors(); !slices.Equal(got, want) {
		t.Fatalf("%d cursors", len(got))
	}
	if got := cursor(t, q, want[7]).Acked(); got != 4 {
		t.Errorf("acknowledged %d", got)
	}
}

// TestPending compares Pending with what is known, over many segments and restarts.
func TestPending(t *testing.T) {
	t.Parallel()
	q := open(t, Options{SegmentBytes: 64 << 10, CacheBytes: 16 << 10})
	c := cursor(t, q, "c")
	const n, each, length = 60, 10, 500
	for i := range n {
		var b Batch
		for range each {
			b.Records = append(b.Records, make([]byte, length))
		}
		if err := store(q, b); err != nil {
			t.Fatal(err)
		}
		if i == n/2 {
			q = reopen(t, q)
			c = cursor(t, q, "c")
		}
	}
	if len(segmentFiles(t, q.opts.Dir)) < 5 {
		t.Fatal("too few segments")
	}
	read := 0
	for step := 0; read < n*each; step++ {
		read += len(next(t, c, min(7, n*each-read)))
		if err := c.Ack(uint64(read)); err != nil {
			t.Fatal(err)
		}
		if step%20 == 19 {
			q = reopen(t, q)
			c = cursor(t, q, "c")
		}
		events, bytes, oldest := c.Pending()
		if events != int64(n*each-read) || bytes != events*length {
			t.Fatalf("after %d: %d records, %d bytes", read, events, bytes)
		}
		if events > 0 && (time.Since(oldest) > time.Minute || time.Since(oldest) < 0) {
			t.Fatalf("after %d: since %v", read, oldest)
		}
	}
	expectEmpty(t, c)
}

// TestOldest looks at the time of the oldest waiting record, which has to be right the moment
// something is stored.
func TestOldest(t *testing.T) {
	t.Parallel()
	q := open(t, Options{})
	c := cursor(t, q, "c")
	for range 20 {
		before := time.Now().Add(-time.Millisecond)
		mustPut(t, q, "x")
		if _, _, oldest := c.Pending(); oldest.Before(before) {
			t.Fatalf("appended after %v, waits since %v", before, oldest)
		}
		mustPut(t, q, "y")
		r := next(t, c, 2)
		if err := c.Ack(r[0].Seq); err != nil {
			t.Fatal(err)
		}
		if _, _, oldest := c.Pending(); oldest.Before(before) {
			t.Fatalf("appended after %v, waits since %v", before, oldest)
		}
		if err := c.Ack(r[1].Seq); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTrim(t *testing.T) {
	t.Parallel()
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprintf("restart=%v", restart), func(t *testing.T) {
			t.Parallel()
			q := open(t, Options{SegmentBytes: 64 << 10, CacheBytes: 16 << 10})
			c, other := cursor(t, q, "c"), cursor(t, q, "other")
			const n, length = 500, 1000
			var times []time.Time
			for i := range n {
				times = append(times, time.Now())
				mustPut(t, q, fmt.Sprintf("%-*d", length, i+1))
			}
			if restart {
				q = reopen(t, q)
				c, other = cursor(t, q, "c"), cursor(t, q, "other")
			}
			trim := func(maxBytes int64, olderThan time.Time, want int) {
				t.Helper()
				got, err := c.Trim(maxBytes, olderThan)
				if err != nil || got != want {
					t.Fatalf("Trim dropped %d, want %d: %v", got, want, err)
				}
			}
			trim(0, time.Time{}, 0)
			trim(n*length, times[0], 0)
			trim((n-3)*length, time.Time{}, 3)
			trim((n-3)*length, time.Time{}, 0)
			if r := next(t, c, 1)[0]; r.Seq != 4 {
				t.Fatalf("then comes %d", r.Seq)
			}
			trim(0, times[9], 6) // one of which was read
			trim(100*length+length/2, times[9], n-9-100)
			if r := next(t, c, 1)[0]; r.Seq != n-99 || !strings.HasPrefix(string(r.Data), fmt.Sprint(n-99)+" ") {
				t.Fatalf("then comes %d %.10q", r.Seq, r.Data)
			}
			if events, bytes, _ := c.Pending(); events != 100 || bytes != 100*length {
				t.Fatalf("%d records and %d bytes wait", events, bytes)
			}
			if err := c.Ack(n - 99); err != nil {
				t.Fatal(err)
			}
			trim(1, time.Time{}, 99)
			trim(1, time.Now(), 0)
			expectEmpty(t, c)
			if events, _, _ := other.Pending(); events != n {
				t.Errorf("another cursor has %d", events)
			}
		})
	}
}

// TestMaxBytes lets the oldest segments go, for a cursor that does not read and for one that does.
func TestMaxBytes(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	dropped := map[string]int{}
	q := open(t, Options{Dir: scratch.Memory(t), MaxBytes: 512 << 10, CacheBytes: 16 << 10, OnDropped: func(name string, n int) {
		mu.Lock()
		defer mu.Unlock()
		dropped[name] += n
	}})
	slow, fast := cursor(t, q, "slow"), cursor(t, q, "fast")
	const n = 2000
	next1 := uint64(1)
	for i := range n {
		mustPut(t, q, fmt.Sprintf("%-1000d", i+1))
		if r := next(t, fast, 1)[0]; r.Seq != uint64(i+1) {
			t.Fatalf("fast got %d", r.Seq)
		}
		if err := fast.Ack(uint64(i + 1)); err != nil {
			t.Fatal(err)
		}
		if i == 300 { // in the middle of what is going to be dropped
			next1 = next(t, slow, 1)[0].Seq + 1
		}
	}
	if size := q.Size(); size > 600<<10 {
		t.Errorf("%d bytes are used", size)
	}
	events, _, _ := slow.Pending()
	mu.Lock()
	if got := dropped["slow"]; got+int(events) != n || dropped["fast"] != 0 || got == 0 {
		t.Errorf("dropped %v, %d wait", dropped, events)
	}
	mu.Unlock()
	r := next(t, slow, int(events))
	if r[0].Seq < next1 || r[0].Seq != n-uint64(events)+1 || r[len(r)-1].Seq != n {
		t.Errorf("slow got %d to %d", r[0].Seq, r[len(r)-1].Seq)
	}
}

func TestLocked(t *testing.T) {
	t.Parallel()
	q := open(t, Options{})
	_, err := Open(q.opts)
	if !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), fmt.Sprint(os.Getpid())) || !strings.Contains(err.Error(), q.opts.Dir) {
		t.Errorf("second Open: %v", err)
	}
}

func TestOpenErrors(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, opts := range map[string]Options{
		"no directory": {}, "a file": {Dir: file}, "below a file": {Dir: filepath.Join(file, "x")},
		"negative size": {Dir: t.TempDir(), MaxBytes: -1}, "negative time": {Dir: t.TempDir(), CommitInterval: -1},
	} {
		if q, err := Open(opts); err == nil {
			t.Errorf("%s: opened", name)
			_ = q.Close()
		}
	}
}

func TestAppendBlocks(t *testing.T) {
	t.Parallel()
	q := open(t, Options{WaitBytes: 1000})
	hold := make(chan struct{})
	// The callbacks hold the transactions up, and those the list.
	var called atomic.Int64
	batch := Batch{Records: [][]byte{make([]byte, 2000)}, Done: func(error) { <-hold; called.Add(1) }}
	ctx, cancel := context.WithCancel(t.Context())
	accepted := 0
	time.AfterFunc(300*time.Millisecond, cancel)
	for {
		err := q.Append(ctx, batch)
		if err != nil {
			if !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
			break
		}
		accepted++
	}
	if called.Load() != 0 {
		t.Error("a callback came back")
	}
	close(hold)
	if err := q.Append(t.Context(), Batch{Records: [][]byte{make([]byte, MaxRecordBytes+1)}}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a record that is too large: %v", err)
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	if got := called.Load(); got != int64(accepted) {
		t.Errorf("%d callbacks for %d batches", got, accepted)
	}
	if err := q.Append(t.Context(), batch); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if err := q.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

// TestAppendCopies reuses the memory of a batch at once, as a caller may.
func TestAppendCopies(t *testing.T) {
	t.Parallel()
	q := open(t, Options{})
	c := cursor(t, q, "c")
	buf := make([]byte, 8)
	records := make([][]byte, 1)
	for i := range 1000 {
		records[0] = fmt.Appendf(buf[:0], "%08d", i)
		if err := q.Append(t.Context(), Batch{Records: records}); err != nil {
			t.Fatal(err)
		}
	}
	for i, r := range next(t, c, 1000) {
		if string(r.Data) != fmt.Sprintf("%08d", i) {
			t.Fatalf("record %d is %q", i, r.Data)
		}
	}
}

func TestCommitInterval(t *testing.T) {
	t.Parallel()
	q := open(t, Options{CommitInterval: time.Hour})
	c := cursor(t, q, "c")
	var done atomic.Int64
	count := func(err error) {
		if err != nil {
			t.Error(err)
		}
		done.Add(1)
	}
	for range 10 {
		if err := q.Append(t.Context(), Batch{Records: [][]byte{[]byte("x")}, Done: count}); err != nil {
			t.Fatal(err)
		}
	}
	if events, _, _ := c.Pending(); events != 0 || done.Load() != 0 {
		t.Errorf("%d stored at once, %d done", events, done.Load())
	}
	// Too much to wait for the interval.
	if err := q.Append(t.Context(), Batch{Records: [][]byte{make([]byte, commitBytes)}, Done: count}); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the transaction", func() bool { return done.Load() >= 10 })
	if err := q.Append(t.Context(), Batch{Records: [][]byte{[]byte("last")}, Done: count}); err != nil {
		t.Fatal(err)
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	if done.Load() != 12 {
		t.Errorf("%d done", done.Load())
	}
}

// TestSizes stores records of all sizes, those that do not fit a block too.
func TestSizes(t *testing.T) {
	t.Parallel()
	q := open(t, Options{SegmentBytes: 1 << 20, CacheBytes: 1})
	c := cursor(t, q, "c")
	var sizes []int
	for _, around := range []int{0, 100, 1000, boltfile.PageSize, smallChunk, storage.BlockSize, 1 << 20, 5 << 20} {
		for d := -60; d <= 60; d += 20 {
			sizes = append(sizes, max(0, around+d))
		}
	}
	fill := func(i, size int) []byte { return []byte(strings.Repeat(string(rune('a'+i%26)), size)) }
	for i, size := range sizes {
		if i%2 == 0 {
			if err := store(q, Batch{Records: [][]byte{fill(i, size)}}); err != nil {
				t.Fatal(err)
			}
		} else if err := q.Append(t.Context(), Batch{Records: [][]byte{fill(i, size)}}); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		seen := 0
		for seen < len(sizes) {
			for _, r := range next(t, c, 1) {
				if want := fill(seen, sizes[seen]); string(r.Data) != string(want) {
					t.Fatalf("record %d: %d bytes, want %d", r.Seq, len(r.Data), len(want))
				}
				seen++
			}
		}
		q = reopen(t, q)
		c = cursor(t, q, "c")
	}
}

// TestStateAlone changes the state without any record: its log must not grow without end.
func TestStateAlone(t *testing.T) {
	t.Parallel()
	q := open(t, Options{Dir: filepath.Join(scratch.Memory(t), "q"), SegmentBytes: 64 << 10})
	want := map[string]string{}
	for i := range 3000 {
		key, value := fmt.Sprintf("k%d", i%10), fmt.Sprintf("%0100d", i)
		want[key] = value
		if err := store(q, Batch{State: []KeyValue{{key, []byte(value)}, {"empty", []byte{}}, {"gone", []byte("x")}, {"gone", nil}}}); err != nil {
			t.Fatal(err)
		}
	}
	want["empty"] = ""
	if size := q.Size(); size > 256<<10 {
		t.Errorf("%d bytes for a small state", size)
	}
	for range 2 {
		got := map[string]string{}
		q.StateRange("", func(key string, value []byte) bool { got[key] = string(value); return true })
		if !maps.Equal(got, want) {
			t.Fatalf("state is %d keys, want %d", len(got), len(want))
		}
		q = reopen(t, q)
	}
	n := 0
	q.StateRange("k", func(string, []byte) bool { n++; return n < 3 })
	if n != 3 {
		t.Errorf("StateRange went on, %d calls", n)
	}
}

// TestRewindMeanwhile rewinds, trims and acknowledges while another goroutine reads from disk: what
// comes is always in order from the place where the cursor was put.
func TestRewindMeanwhile(t *testing.T) {
	t.Parallel()
	q := open(t, Options{SegmentBytes: 64 << 10, CacheBytes: 1})
	c := cursor(t, q, "c")
	const n = 1500
	for i := range n / 10 {
		mustPut(t, q, numbered(10*i+1, 10)...)
	}
	stop := make(chan struct{})
	var group sync.WaitGroup
	group.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			switch i % 3 {
			case 0:
				c.Rewind()
			case 1:
				if _, err := c.Trim(int64(20_000-20*i), time.Time{}); err != nil {
					t.Error(err)
				}
			case 2:
				c.Pending()
			}
			time.Sleep(100 * time.Microsecond)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for last := uint64(0); last < n; {
		records, err := c.Next(ctx, 37, 0)
		if err != nil {
			t.Fatal(err)
		}
		for i, r := range records {
			if string(r.Data) != fmt.Sprintf("record %d", r.Seq) || (i > 0 && r.Seq != last+1) {
				t.Fatalf("%d %q after %d", r.Seq, r.Data, last)
			}
			last = r.Seq
		}
		// A rewound cursor has not read it any more.
		if err := c.Ack(records[0].Seq); err != nil && !errors.Is(err, ErrNotRead) {
			t.Fatal(err)
		}
	}
	close(stop)
	group.Wait()
}

// What was read can be read again by number, in any order, from memory and from files, while more is
// stored. What is acknowledged, or cannot be read, has no data.
func TestAgain(t *testing.T) {
	t.Parallel()
	const records = 2000
	q := open(t, Options{SegmentBytes: 64 << 10, CacheBytes: 32 << 10})
	c := cursor(t, q, "c")
	long := strings.Repeat("x", 100)
	put := func(from, n int) {
		for i := from; i < from+n; i++ {
			mustPut(t, q, fmt.Sprint(i, long))
		}
	}
	expect := func(gone uint64, seqs ...uint64) {
		t.Helper()
		got, err := c.Again(seqs)
		if err != nil || len(got) != len(seqs) {
			t.Fatalf("%d records of %d: %v", len(got), len(seqs), err)
		}
		for i, r := range got {
			want := fmt.Sprint(seqs[i], long)
			if there := seqs[i] > gone; r.Seq != seqs[i] || there && string(r.Data) != want || !there && r.Data != nil ||
				there == r.Stored.IsZero() {
				t.Fatalf("record %d: %d, %.10s, %v", seqs[i], r.Seq, r.Data, r.Stored)
			}
		}
	}
	put(1, records)
	next(t, c, records)
	expect(0, 1, 2, 3, records, 1999, 5, 5, 700, 701, 702, 6, 1)
	put(records+1, 10)
	next(t, c, 10)
	expect(0, records+1, records+10, 2, records+9)
	var all []uint64
	for i := range uint64(records) {
		all = append(all, i+1)
	}
	expect(0, all...)
	if err := c.Ack(records); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "files to go", func() bool { q.mu.RLock(); defer q.mu.RUnlock(); return q.segments[0].Base > 100 })
	c.again.view = storage.Block{}
	expect(1, 1, records+1)
	if err := q.RemoveCursor("c"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Again(all); !errors.Is(err, ErrClosed) {
		t.Errorf("of a cursor that was removed: %v", err)
	}
}
