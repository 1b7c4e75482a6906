package queue

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/hmcnotifyd/hmcnotifyd/tests/scratch"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/datadir"
)

// stubborn is a system that does not sync directories.
type stubborn struct {
	datadir.System
	on atomic.Bool
}

func (s *stubborn) Sync(dir string) error {
	if s.on.Load() {
		return syscall.EIO
	}
	return s.System.Sync(dir)
}

// A segment whose name nobody knows to be on disk takes nothing, and what was in front of it is where it
// was: also the state of one that it has replaced, since it had no records.
func TestNameIsNotOnDisk(t *testing.T) {
	t.Parallel()
	system := &stubborn{System: datadir.Disk}
	opts := Options{Dir: scratch.Memory(t), SegmentBytes: 64 << 10, system: system}
	q, dropped := countingQueue(t, opts)
	confirmed, refused := 0, 0
	write := func(number int) {
		value := fmt.Append(nil, number, strings.Repeat("x", 9000))
		err := store(q, Batch{State: []KeyValue{{Key: "key", Value: value}}})
		switch {
		case err == nil:
			confirmed = number
		case errors.Is(err, syscall.EIO):
			refused++
		default:
			t.Fatal(err)
		}
	}
	for i := range 5 { // none of them begins a segment
		write(i + 1)
	}
	system.on.Store(true)
	for i := 5; refused < 3; i++ {
		if write(i + 1); i > 100 {
			t.Fatal("no segment was begun")
		}
	}
	if q.Err() == nil {
		t.Error("nothing is refused any more, while the directory is not synced")
	}
	check := func() {
		t.Helper()
		if value, _ := q.State("key"); !strings.HasPrefix(string(value), fmt.Sprint(confirmed, "x")) {
			t.Errorf("the state is %.10q, %d is confirmed", value, confirmed)
		}
		if n := testutil.ToFloat64(q.metrics.damaged); n != 0 || dropped.Load() != 0 {
			t.Errorf("%v damaged, %d dropped", n, dropped.Load())
		}
	}
	check()
	system.on.Store(false)
	waitFor(t, "the directory to be synced", func() bool { return q.Err() == nil })
	write(1000)
	check()
	system.on.Store(true)
	for i := 1000; refused < 6; i++ {
		write(i + 1)
	}
	system.on.Store(false)
	q = reopen(t, q)
	check()
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
}

// A take-over that ended when all was made and nothing removed knows again which of the old files are
// damaged: these are kept.
func TestTakeOverAgain(t *testing.T) {
	t.Parallel()
	dir := unpackOld(t)
	harmed := 0
	for _, file := range append(segmentsNamed(t, dir, oldSuffix), filepath.Join(dir, "dead-letters.db")) {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		reason, _ := damageLetter(3)
		for _, of := range []string{damageRecord(300), reason} {
			if n := bytes.Count(b, []byte(of)); n > 0 {
				harmed++
				b = bytes.ReplaceAll(b, []byte(of), []byte("#"+of[1:]))
			}
		}
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if harmed < 2 {
		t.Fatalf("%d places were harmed", harmed)
	}
	system := &stubborn{System: datadir.Disk}
	system.on.Store(true)
	for range 2 {
		if q, err := Open(Options{Dir: dir, system: system}); !errors.Is(err, syscall.EIO) {
			t.Fatal(q, err)
		}
		if d, err := OpenDeadLetters(DeadLetterOptions{Dir: dir, System: system}); !errors.Is(err, syscall.EIO) {
			t.Fatal(d, err)
		}
	}
	q, _ := countingQueue(t, Options{Dir: dir})
	openDead(t, DeadLetterOptions{Dir: dir, Metrics: q.metrics})
	if n := testutil.ToFloat64(q.metrics.damaged); n != 2 {
		t.Errorf("%v files are called damaged", n)
	}
	if aside := damagedFiles(t, dir); len(aside) != 1 || !strings.HasPrefix(filepath.Base(aside[0]), segmentPrefix) {
		t.Errorf("set aside are %q", aside)
	}
	if _, last := q.Bounds(); last != damageRecords {
		t.Errorf("it ends with record %d", last)
	}
}

// Version 0.1 does not know the files of today: there is one of its own in each directory that tells it
// to end.
func TestBarrier(t *testing.T) {
	t.Parallel()
	dir := scratch.Memory(t)
	q := open(t, Options{Dir: dir})
	mustPut(t, q, "a")
	for range 2 {
		expectBarrier(t, dir)
		q = reopen(t, q)
	}
	if _, last := q.Bounds(); last != 1 || testutil.ToFloat64(q.metrics.damaged) != 0 {
		t.Errorf("it ends with record %d", last)
	}
	if base := firstOf(t, barrier); base != math.MaxUint64 {
		t.Errorf("it is no segment to version 0.1: %d", base)
	}
}
