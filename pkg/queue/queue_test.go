package queue

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		os.Exit(child())
	}
	goleak.VerifyTestMain(m)
}

// open opens a queue that is closed at the end of the test.
func open(t testing.TB, opts Options) *Queue {
	t.Helper()
	if opts.Dir == "" {
		opts.Dir = t.TempDir()
	}
	q, err := Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := q.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return q
}

// reopen closes q and opens its directory again.
func reopen(t testing.TB, q *Queue) *Queue {
	t.Helper()
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	return open(t, q.opts)
}

func cursor(t testing.TB, q *Queue, name string) *Cursor {
	t.Helper()
	c, err := q.Cursor(name)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// mustPut stores records and waits until they are on disk.
func mustPut(t testing.TB, q *Queue, records ...string) {
	t.Helper()
	if err := tryPut(q, records...); err != nil {
		t.Fatal(err)
	}
}

func tryPut(q *Queue, records ...string) error {
	b := Batch{}
	for _, r := range records {
		b.Records = append(b.Records, []byte(r))
	}
	return store(q, b)
}

// store appends a batch and waits for its Done.
func store(q *Queue, b Batch) error {
	done := make(chan error, 1)
	b.Done = func(err error) { done <- err }
	if err := q.Append(context.Background(), b); err != nil {
		return err
	}
	return <-done
}

func numbered(from, n int) []string {
	records := make([]string, n)
	for i := range records {
		records[i] = fmt.Sprintf("record %d", from+i)
	}
	return records
}

// next reads n records.
func next(t testing.TB, c *Cursor, n int) []Record {
	t.Helper()
	var records []Record
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for len(records) < n {
		got, err := c.Next(ctx, n-len(records), 0)
		if err != nil {
			t.Fatalf("after %d of %d records: %v", len(records), n, err)
		}
		records = append(records, got...)
	}
	return records
}

// expectRecords reads what "record FROM" and following are, and checks data and sequence.
func expectRecords(t testing.TB, c *Cursor, from, n int) {
	t.Helper()
	for i, r := range next(t, c, n) {
		if want := fmt.Sprintf("record %d", from+i); string(r.Data) != want || r.Seq != uint64(from+i) {
			t.Fatalf("got %d %q, want %d %q", r.Seq, r.Data, from+i, want)
		}
	}
}

func expectEmpty(t testing.TB, c *Cursor) {
	t.Helper()
	if events, bytes, oldest := c.Pending(); events != 0 || bytes != 0 || !oldest.IsZero() {
		t.Fatalf("pending %d records, %d bytes, since %v", events, bytes, oldest)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if r, err := c.Next(ctx, 1, 0); !errors.Is(err, context.Canceled) {
		t.Fatalf("Next: %v %v", r, err)
	}
}

// waitFor polls until ok, which must happen soon.
func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for: %s", what)
		}
	}
}

func TestAppendAndRead(t *testing.T) {
	t.Parallel()
	q := open(t, Options{})
	a, b := cursor(t, q, "a"), cursor(t, q, "b")
	mustPut(t, q, numbered(1, 1)...)
	mustPut(t, q, numbered(2, 500)...)
	for _, c := range []*Cursor{a, b} {
		if events, _, oldest := c.Pending(); events != 501 || time.Since(oldest) > time.Minute {
			t.Fatalf("%s: %d pending since %v", c.Name(), events, oldest)
		}
		expectRecords(t, c, 1, 501)
	}
	if err := a.Ack(501); err != nil {
		t.Fatal(err)
	}
	expectEmpty(t, a)
	if err := b.Ack(200); err != nil {
		t.Fatal(err)
	}
	b.Rewind()
	expectRecords(t, b, 201, 301)
	b.Rewind()

	q = reopen(t, q)
	a, b = cursor(t, q, "a"), cursor(t, q, "b")
	if a.Acked() != 501 || b.Acked() != 200 {
		t.Fatalf("acknowledged %d and %d", a.Acked(), b.Acked())
	}
	expectEmpty(t, a)
	if events, bytes, oldest := b.Pending(); events != 301 || bytes < 301*9 || time.Since(oldest) > time.Minute {
		t.Fatalf("pending %d, %d bytes, since %v", events, bytes, oldest)
	}
	expectRecords(t, b, 201, 301)
	mustPut(t, q, numbered(502, 10)...)
	expectRecords(t, a, 502, 10)
	expectRecords(t, b, 502, 10)
}

func TestSegmentsComeAndGo(t *testing.T) {
	t.Parallel()
	q := open(t, Options{SegmentBytes: 64 << 10, CacheBytes: 1})
	c := cursor(t, q, "c")
	files := func() int {
		names, err := filepath.Glob(filepath.Join(q.opts.Dir, "segment-*.log"))
		if err != nil {
			t.Fatal(err)
		}
		return len(names)
	}
	big := strings.Repeat("x", 1000)
	n := 0
	for files() < 8 {
		mustPut(t, q, big, big, big, big, big, big, big, big)
		n += 8
	}
	for i, r := range next(t, c, n) {
		if r.Seq != uint64(i+1) || string(r.Data) != big {
			t.Fatalf("record %d: %d, %d bytes", i, r.Seq, len(r.Data))
		}
	}
	size := q.Size()
	if err := c.Ack(uint64(n)); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "segments to be removed", func() bool { return files() == 1 })
	if q.Size() > size/4 {
		t.Errorf("size was %d and is %d", size, q.Size())
	}
	q = reopen(t, q)
	mustPut(t, q, "on")
	if got := next(t, cursor(t, q, "c"), 1)[0]; got.Seq != uint64(n+1) || string(got.Data) != "on" {
		t.Fatalf("got %d %q", got.Seq, got.Data)
	}
}

func TestState(t *testing.T) {
	t.Parallel()
	q := open(t, Options{SegmentBytes: 64 << 10})
	want := map[string]string{}
	for i := range 3000 {
		b := Batch{State: []KeyValue{{Key: fmt.Sprintf("id/%d", i), Value: fmt.Appendf(nil, "v%d", i)}}}
		want[b.State[0].Key] = string(b.State[0].Value)
		if i >= 1000 {
			old := fmt.Sprintf("id/%d", i-1000)
			b.State = append(b.State, KeyValue{Key: old})
			delete(want, old)
		}
		if i%3 == 0 {
			b.Records = [][]byte{[]byte("r")}
		}
		if i%100 == 99 {
			if err := store(q, b); err != nil {
				t.Fatal(err)
			}
		} else if err := q.Append(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		if i%1000 == 999 {
			q = reopen(t, q)
		}
	}
	got := map[string]string{}
	last := ""
	q.StateRange("id/", func(key string, value []byte) bool {
		if key <= last {
			t.Errorf("%q after %q", key, last)
		}
		last, got[key] = key, string(value)
		return true
	})
	if len(got) != len(want) {
		t.Fatalf("%d keys, want %d", len(got), len(want))
	}
	for k, v := range want {
		if got[k] != v {
			t.Fatalf("%s is %q, want %q", k, got[k], v)
		}
	}
	if _, ok := q.State("id/1"); ok {
		t.Error("a deleted key is there")
	}
}

func TestConcurrent(t *testing.T) {
	t.Parallel()
	q := open(t, Options{SegmentBytes: 256 << 10, CacheBytes: 128 << 10})
	const writers, each = 4, 2000
	var group sync.WaitGroup
	for _, name := range []string{"a", "b", "c"} {
		c := cursor(t, q, name)
		group.Go(func() {
			last := map[string]int{}
			for got := 0; got < writers*each; {
				records, err := c.Next(context.Background(), 100, 0)
				if err != nil {
					t.Error(err)
					return
				}
				for _, r := range records {
					got++
					if r.Seq != uint64(got) {
						t.Errorf("%s: %d is number %d", name, r.Seq, got)
					}
					var n int
					who, number, _ := strings.Cut(string(r.Data), " ")
					if _, err := fmt.Sscan(number, &n); err != nil || n != last[who]+1 {
						t.Errorf("%s: %q after %d: %v", name, r.Data, last[who], err)
						return
					}
					last[who] = n
				}
				if err := c.Ack(records[len(records)-1].Seq); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for w := range writers {
		group.Go(func() {
			for i := range each {
				if err := q.Append(context.Background(), Batch{Records: [][]byte{fmt.Appendf(nil, "w%d %d", w, i+1)}}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
}

// Where a batch of a chain cannot be stored, none that was appended after it is, until its owner
// begins another chain. Others are not concerned.
func TestChain(t *testing.T) {
	t.Parallel()
	q := open(t, Options{})
	outcome := make(chan error, 10)
	chain := new(Chain)
	add := func(c *Chain, text string) error {
		return q.Append(t.Context(), Batch{Records: [][]byte{[]byte(text)}, Done: func(err error) { outcome <- err }, Chain: c})
	}
	if err := add(chain, "stored"); err != nil {
		t.Fatal(err)
	}
	if err := <-outcome; err != nil || chain.Failed() {
		t.Fatal(err)
	}
	// As after a commit that failed while the next batch was waiting already.
	q.waitMu.Lock()
	q.groups = append(q.groups, &group{chains: []*Chain{chain}, dones: []func(error){func(err error) { outcome <- err }}, state: nil, since: time.Now()})
	chain.failed.Store(true)
	q.waitMu.Unlock()
	notify(q.work)
	if err := <-outcome; !errors.Is(err, ErrChain) {
		t.Errorf("what waited: %v", err)
	}
	if err := add(chain, "refused"); !errors.Is(err, ErrChain) {
		t.Errorf("what comes later: %v", err)
	}
	for _, c := range []*Chain{nil, new(Chain)} {
		if err := add(c, "another"); err != nil {
			t.Fatal(err)
		}
		if err := <-outcome; err != nil {
			t.Error(err)
		}
	}
}
