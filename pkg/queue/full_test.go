package queue

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/tests/scratch"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/datadir"
)

// refused runs a queue on a disk that is full after full() and has space again after empty().
// Nothing of what was stored may be lost, acknowledging has to go on, and so has appending when
// there is space.
func refused(q *Queue, full, empty func() error) error {
	c, err := q.Cursor("c")
	if err != nil {
		return err
	}
	big := strings.Repeat("x", 3000)
	stored := 0
	add := func() error {
		err := tryPut(q, fmt.Sprintf("%d %s", stored+1, big), fmt.Sprintf("%d %s", stored+2, big))
		if err == nil {
			stored += 2
		}
		return err
	}
	for range 40 {
		if err := add(); err != nil {
			return err
		}
	}
	for round := range 3 {
		if err := full(); err != nil {
			return err
		}
		failures := 0
		for failures < 5 {
			err := add()
			switch {
			case err == nil && stored > 100_000:
				return fmt.Errorf("round %d: the disk does not get full", round)
			case err != nil && q.Err() == nil:
				return fmt.Errorf("round %d: Err is nil after %w", round, err)
			case err != nil:
				failures++
			}
		}
		// What is stored is still there, and acknowledging it is durable.
		for read := int(c.Acked()); read < stored-10; {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			records, err := c.Next(ctx, 7, 0)
			cancel()
			if err != nil {
				return fmt.Errorf("round %d: after %d of %d: %w", round, read, stored, err)
			}
			for _, r := range records {
				read++
				if want := fmt.Sprintf("%d %s", read, big); string(r.Data) != want {
					return fmt.Errorf("round %d: record %d is %.20q", round, read, r.Data)
				}
			}
			if err := c.Ack(records[len(records)-1].Seq); err != nil {
				return err
			}
		}
		if err := q.flushPositions(true); err != nil {
			return fmt.Errorf("round %d: cursors on a full disk: %w", round, err)
		}
		if err := empty(); err != nil {
			return err
		}
		// Without any append.
		for deadline := time.Now().Add(20 * time.Second); q.Err() != nil; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				return fmt.Errorf("round %d: still %w", round, q.Err())
			}
		}
		for range 40 {
			if err := add(); err != nil {
				return fmt.Errorf("round %d: with space again: %w", round, err)
			}
		}
	}
	acked := c.Acked()
	opts := q.opts
	if err := q.Close(); err != nil {
		return err
	}
	if q, err = Open(opts); err != nil {
		return err
	}
	if c, err = q.Cursor("c"); err != nil {
		return err
	}
	if c.Acked() != acked {
		return fmt.Errorf("the cursor was at %d and is at %d", acked, c.Acked())
	}
	for want := int(acked) + 1; want <= stored; {
		records, err := c.Next(context.Background(), 0, 0)
		if err != nil {
			return err
		}
		for _, r := range records {
			if !strings.HasPrefix(string(r.Data), fmt.Sprintf("%d x", want)) || r.Seq != uint64(want) {
				return fmt.Errorf("at the end: record %d is %.20q, want %d", r.Seq, r.Data, want)
			}
			want++
		}
	}
	if events, _, _ := c.Pending(); int(events) != stored-int(acked) {
		return fmt.Errorf("%d wait, %d should", events, stored-int(acked))
	}
	return q.Close()
}

// childFull limits the size that its files may have: the system's answer is that of a full disk in
// all but the number, and needs no rights.
func childFull(dir, _ string) error {
	signal.Ignore(syscall.SIGXFSZ)
	q, err := Open(Options{Dir: dir, SegmentBytes: 1 << 20, CacheBytes: 64 << 10})
	if err != nil {
		return err
	}
	var unlimited syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &unlimited); err != nil {
		return err
	}
	limit := func() error {
		l := unlimited
		// enough for the cursors' file, which has its size, and for a segment to be begun
		l.Cur = 48 << 10
		return syscall.Setrlimit(syscall.RLIMIT_FSIZE, &l)
	}
	return refused(q, limit, func() error { return syscall.Setrlimit(syscall.RLIMIT_FSIZE, &unlimited) })
}

// TestFullDisk starts a child, and so runs alone; see TestKill.
func TestFullDisk(t *testing.T) {
	t.Run("file size limit", func(t *testing.T) {
		cmd, out := startChild(t, "full", t.TempDir(), "")
		message, err := io.ReadAll(out)
		if err := cmd.Wait(); err != nil {
			t.Fatalf("%v\n%s", err, message)
		}
		if err != nil {
			t.Fatal(err)
		}
	})
	t.Run("small file system", func(t *testing.T) {
		dir := t.TempDir()
		if err := mountMemory(t, dir, "6m"); err != nil {
			return // not allowed to; the test above has done nearly the same
		}
		q, err := Open(Options{Dir: filepath.Join(dir, "q"), SegmentBytes: 512 << 10, CacheBytes: 64 << 10})
		if err != nil {
			t.Fatal(err)
		}
		filler := filepath.Join(dir, "filler")
		full := func() error {
			f, err := os.Create(filler)
			if err != nil {
				return err
			}
			for err == nil {
				_, err = f.Write(make([]byte, 4096))
			}
			return f.Close()
		}
		if err := refused(q, full, func() error { return os.Remove(filler) }); err != nil {
			t.Fatal(err)
		}
	})
}

// TestOpenOnFullDisk starts where nothing can be written: reading and acknowledging work, and
// appending does when there is space.
func TestOpenOnFullDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := mountMemory(t, dir, "4m"); err != nil {
		t.Skip("needs to mount a small file system: ", err)
	}
	var dropped atomic.Int64
	opts := Options{Dir: filepath.Join(dir, "q"), SegmentBytes: 256 << 10, OnDropped: func(_ string, n int) { dropped.Add(int64(n)) }}
	q := open(t, opts)
	cursor(t, q, "c")
	const n = 300
	for i := range n {
		mustPut(t, q, fmt.Sprintf("record %d%s", i+1, strings.Repeat(" ", 3000)))
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	scratch.Fill(t, dir)
	q = open(t, opts)
	if q.Err() == nil {
		t.Fatal("no error on a full disk")
	}
	d, err := OpenDeadLetters(DeadLetterOptions{Dir: opts.Dir})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Put(DeadLetter{Sink: "s"}); !datadir.IsNoSpace(err) {
		t.Fatalf("dead letter on a full disk: %v", err)
	}
	c := cursor(t, q, "c")
	for i, r := range next(t, c, n) {
		if want := fmt.Sprintf("record %d ", i+1); !strings.HasPrefix(string(r.Data), want) {
			t.Fatalf("record %d is %.20q", i+1, r.Data)
		}
	}
	// Acknowledging gives segments back, and with that the space to go on.
	if err := c.Ack(n); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the disk to be usable", func() bool { return q.Err() == nil })
	mustPut(t, q, "on")
	if got := next(t, c, 1)[0]; got.Seq != n+1 {
		t.Fatalf("sequence number %d", got.Seq)
	}
	if err := d.Put(DeadLetter{Sink: "s"}); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if dropped.Load() != 0 {
		t.Errorf("%d dropped", dropped.Load())
	}
}

// Dead letters can be removed while the disk is full, however many there are, and give their space back
// when the last one is gone.
func TestPurgeOnFullDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := mountMemory(t, dir, "24m"); err != nil {
		t.Skip("needs to mount a small file system: ", err)
	}
	d, err := OpenDeadLetters(DeadLetterOptions{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	const times, atOnce = 30, 999
	for range times {
		some := make([]DeadLetter, atOnce)
		for i := range some {
			some[i] = DeadLetter{Sink: fmt.Sprint("sink ", i%3), Reason: "refused", Data: []byte("data")}
		}
		if err := d.Put(some...); err != nil {
			t.Fatal(err)
		}
	}
	scratch.Fill(t, dir)
	if err := d.Put(DeadLetter{Sink: "sink 1", Data: make([]byte, 1<<20)}); !datadir.IsNoSpace(err) {
		t.Fatalf("a letter on a full disk: %v", err)
	}
	before := datadir.Available(dir)
	if n, err := Purge(d, DeadLetterFilter{Sink: "sink 1"}); n != times*atOnce/3 || err != nil {
		t.Fatalf("%d letters of one sink were removed, %v", n, err)
	}
	if n, err := Purge(d, DeadLetterFilter{}); n != times*atOnce/3*2 || err != nil {
		t.Fatalf("%d letters were removed, %v", n, err)
	}
	if after := datadir.Available(dir); before > 1<<20 || after < 2<<20 {
		t.Errorf("%d bytes are left, it were %d", after, before)
	}
	if err := d.Put(DeadLetter{Sink: "sink 1", Data: make([]byte, 1<<20)}); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if d, err = OpenDeadLetters(DeadLetterOptions{Dir: dir}); err != nil {
		t.Fatal(err)
	}
	if n := len(list(t, d, DeadLetterFilter{})); n != 1 {
		t.Errorf("%d letters", n)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}
