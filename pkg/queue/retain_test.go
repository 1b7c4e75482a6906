package queue

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// segmentsOf returns how many segments there are.
func segmentsOf(q *Queue) int {
	q.mu.RLock()
	defer q.mu.RUnlock()
	return len(q.segments)
}

// fill stores records of 1,000 bytes and more until there are so many segments, and returns how many records there are.
func fill(t *testing.T, q *Queue, segments int) int {
	t.Helper()
	_, last := q.Bounds()
	for n := int(last); ; n += 8 {
		if segmentsOf(q) >= segments {
			return n
		}
		var records []string
		for i := range 8 {
			records = append(records, fmt.Sprintf("record %d ", n+i+1)+strings.Repeat("x", 1000))
		}
		mustPut(t, q, records...)
	}
}

// readAll returns what a reader finds from record first on, and checks that the numbers are those of the data.
func readAll(t *testing.T, q *Queue, first uint64) (records []Record) {
	t.Helper()
	r := q.Reader(first, false)
	defer r.Close()
	for {
		got, err := r.Poll(100, 0)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) == 0 {
			return records
		}
		for _, one := range got {
			if !strings.HasPrefix(string(one.Data), fmt.Sprintf("record %d ", one.Seq)) {
				t.Fatalf("record %d is %.20q", one.Seq, one.Data)
			}
		}
		records = append(records, got...)
	}
}

// What every cursor has acknowledged stays for as long as it is retained, over a restart too, and no longer.
func TestRetain(t *testing.T) {
	t.Parallel()
	q := open(t, Options{SegmentBytes: 64 << 10, CacheBytes: 1, Retain: time.Hour})
	c := cursor(t, q, "c")
	n := fill(t, q, 6)
	next(t, c, n)
	if err := c.Ack(uint64(n)); err != nil {
		t.Fatal(err)
	}
	q.removeDone()
	if got, size := q.Retained(), q.Size(); got < size/2 || got >= size {
		t.Errorf("%d of %d bytes are only retained", got, size)
	}
	for range 2 {
		if got := readAll(t, q, 0); len(got) != n {
			t.Fatalf("%d of %d records are there", len(got), n)
		}
		expectEmpty(t, cursor(t, q, "c"))
		q = reopen(t, q)
	}

	// A new cursor may begin anywhere in it.
	first := uint64(n / 2)
	late, err := q.CursorFrom("late", first)
	if err != nil {
		t.Fatal(err)
	}
	want := int64(0)
	for _, r := range readAll(t, q, first) {
		want += int64(len(r.Data))
	}
	if events, bytes, _ := late.Pending(); events != int64(n)-int64(first)+1 || bytes != want {
		t.Errorf("%d records of %d bytes wait for a cursor from %d of %d on, want %d bytes", events, bytes, first, n, want)
	}
	for i, r := range next(t, late, n-int(first)+1) {
		if r.Seq != first+uint64(i) {
			t.Fatalf("record %d came for %d", r.Seq, first+uint64(i))
		}
	}
	expectEmpty(t, mustCursorFrom(t, q, "latest", 1<<63))
	if err := q.RemoveCursor("late"); err != nil {
		t.Fatal(err)
	}

	// In time it goes by itself, without anything being stored or acknowledged.
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	opts := q.opts
	opts.Retain = 10 * time.Millisecond
	q = open(t, opts)
	waitFor(t, "segments to be removed", func() bool { return segmentsOf(q) == 1 })
}

func mustCursorFrom(t *testing.T, q *Queue, name string, first uint64) *Cursor {
	t.Helper()
	c, err := q.CursorFrom(name, first)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// What is only retained goes before anything that somebody waits for.
func TestRetainedGoesFirst(t *testing.T) {
	t.Parallel()
	var dropped atomic.Int64
	const limit = 1 << 20
	q := open(t, Options{
		SegmentBytes: 64 << 10, MaxBytes: limit, Retain: time.Hour,
		OnDropped: func(_ string, events int) { dropped.Add(int64(events)) },
	})
	c := cursor(t, q, "c")
	const waiting = 50 // some wait always
	for n := 8; n < 5000; n += 8 {
		for i := range 8 {
			mustPut(t, q, fmt.Sprintf("record %d ", n-7+i)+strings.Repeat("x", 1000))
		}
		next(t, c, 8)
		if err := c.Ack(uint64(max(0, n-waiting))); err != nil {
			t.Fatal(err)
		}
		if size := q.Size(); size > limit+64<<10 || dropped.Load() > 0 {
			t.Fatalf("%d bytes are stored, and %d records were dropped", size, dropped.Load())
		}
		if first, _ := q.Bounds(); first > 1 {
			if got := q.Retained(); got < limit/4 {
				t.Fatalf("%d bytes are retained", got)
			}
			readAll(t, q, 0)
			return
		}
	}
	t.Fatal("the limit was not reached")
}

// fullStore has room for so many segments.
type fullStore struct {
	Store
	room  *atomic.Int64
	there atomic.Int64
}

func (s *fullStore) Begin(start *Start) (int64, error) {
	if s.there.Load() >= s.room.Load() {
		return 0, syscall.ENOSPC
	}
	s.there.Add(1)
	return s.Store.Begin(start)
}

func (s *fullStore) Commit(g *Group) error {
	if s.there.Load() > s.room.Load() {
		return syscall.ENOSPC
	}
	return s.Store.Commit(g)
}

func (s *fullStore) Trim(base uint64) error {
	s.there.Add(-1)
	return s.Store.Trim(base)
}

// A disk that is full refuses nothing as long as there is something that is only retained.
func TestRetainedMakesRoom(t *testing.T) {
	t.Parallel()
	var room atomic.Int64
	room.Store(6)
	q := open(t, Options{
		SegmentBytes: 64 << 10, Retain: time.Hour, CacheBytes: 1,
		Wrap: func(s Store) Store { return &fullStore{Store: s, room: &room} },
	})
	c := cursor(t, q, "c")
	n := fill(t, q, 6)
	next(t, c, n)
	if err := c.Ack(uint64(n)); err != nil {
		t.Fatal(err)
	}
	room.Store(3)
	mustPut(t, q, fmt.Sprintf("record %d ", n+1))
	if got := segmentsOf(q); got != 3 {
		t.Errorf("%d segments, want no more gone than had to", got)
	}
	next(t, c, 1)
	room.Store(0)
	if err := tryPut(q, "not acknowledged"); err == nil {
		t.Error("it was stored where there is no room")
	}
	room.Store(1)
	waitFor(t, "storage to accept again", func() bool { return q.Err() == nil })
	if got := readAll(t, q, uint64(n+1)); len(got) != 1 {
		t.Errorf("%d records wait, want the one that nobody has acknowledged", len(got))
	}
}

// A reader that holds on to what it has not read gets all of it, and what is done with goes when it is closed.
func TestReaderHolds(t *testing.T) {
	t.Parallel()
	q := open(t, Options{SegmentBytes: 64 << 10, CacheBytes: 1})
	c := cursor(t, q, "c")
	r := q.Reader(1, true)
	n := fill(t, q, 5)
	next(t, c, n)
	if err := c.Ack(uint64(n)); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		got, err := r.Next(t.Context(), 1, 0)
		if err != nil || len(got) != 1 || got[0].Seq != uint64(i+1) {
			t.Fatal(i, got, err)
		}
		q.removeDone()
	}
	if got, err := r.Poll(0, 0); len(got) != 0 || err != nil {
		t.Error(got, err)
	}
	if len(r.c.window) != 0 {
		t.Errorf("it keeps %d chunks", len(r.c.window))
	}
	come := make(chan int)
	go func() {
		got, _ := r.Next(t.Context(), 0, 0)
		come <- len(got)
	}()
	mustPut(t, q, "one more")
	if got := <-come; got != 1 {
		t.Errorf("%d records came when one was stored", got)
	}
	r.Close()
	waitFor(t, "segments to be removed", func() bool { return segmentsOf(q) == 1 })
}

// What was appended at a time by the machine's clock is found, whatever that was set to in between, and little else is read
// where it was not set.
func TestFind(t *testing.T) {
	for _, set := range []bool{false, true} {
		t.Run(fmt.Sprintf("set %t", set), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rng := rand.New(rand.NewPCG(1, 2))
				q := open(t, Options{SegmentBytes: 128 << 10, CacheBytes: 1, Retain: 1000 * time.Hour})
				var walls []time.Time
				pad := strings.Repeat("x", 40_000)
				for range 60 {
					pause := time.Duration(1+rng.IntN(600)) * time.Second
					time.Sleep(pause)
					synctest.Wait()
					if set && rng.IntN(8) == 0 {
						// The clock is set back, or forward, which is the same as that less time has passed.
						q.clock.at += int64(time.Duration(rng.IntN(7200))*time.Second - pause/2)
					}
					walls = append(walls, time.Now())
					mustPut(t, q, string(binary.BigEndian.AppendUint64(nil, uint64(time.Now().UnixNano())))+pad)
				}
				check := func() {
					t.Helper()
					for range 200 {
						since := walls[0].Add(time.Duration(rng.Int64N(int64(10 * time.Hour))))
						until := since.Add(time.Duration(rng.Int64N(int64(2 * time.Hour))))
						first, last, err := q.Find(since, until)
						if err != nil {
							t.Fatal(err)
						}
						in := 0
						for i, wall := range walls {
							if wall.Before(since) || wall.After(until) {
								continue
							}
							in++
							if seq := uint64(i + 1); seq < first || seq > last {
								t.Fatalf("record %d of %s is not among %d to %d, of %s to %s", seq, wall, first, last, since, until)
							}
						}
						if n := int(last) - int(first) + 1; !set && n > in+3 {
							t.Fatalf("%d records are to be read for %d", n, in)
						}
					}
				}
				check()
				q = reopen(t, q)
				check()
				if first, last, err := q.Find(time.Time{}, time.Unix(1<<40, 0)); first != 1 || last != 60 || err != nil {
					t.Error(first, last, err)
				}
				if first, last, err := q.Find(time.Now().Add(100*time.Hour), time.Now().Add(200*time.Hour)); first < 60 || err != nil {
					t.Error(first, last, err)
				}
			})
		})
	}
}

// Where an earlier version has stored something, nothing is left out, and with what that version has stored goes the doubt.
func TestFindInWhatAnEarlierVersionStored(t *testing.T) {
	t.Parallel()
	q := open(t, Options{})
	mustPut(t, q, "a", "b")
	delete(q.state, rangeKey)
	mustPut(t, q, "c")
	long := time.Now().Add(-time.Hour)
	if first, last, err := q.Find(long, long); first != 1 || last != 3 || err != nil {
		t.Error(first, last, err)
	}
	if low, high := aheadRange(q.state, 3); low != high || low < -time.Minute || low > time.Minute {
		t.Error(low, high)
	}
}
