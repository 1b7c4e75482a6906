package queue

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/appendlog"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/datadir"
	"github.com/hmcnotifyd/hmcnotifyd/tests/scratch"
)

// The limit is a metric, and so is what the disk has left, without anything being stored.
func TestSpaceMetrics(t *testing.T) {
	t.Parallel()
	for limit, want := range map[int64]float64{0: DefaultMaxBytes, 64 << 20: 64 << 20, Unlimited: 0} {
		m := NewMetrics(nil)
		q, err := Open(Options{Dir: t.TempDir(), MaxBytes: limit, Metrics: m})
		if err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(time.Minute); testutil.ToFloat64(m.available) == 0 && time.Now().Before(deadline); {
			time.Sleep(time.Millisecond)
		}
		if err := q.Close(); err != nil {
			t.Error(err)
		}
		if got := testutil.ToFloat64(m.maxBytes); got != want {
			t.Errorf("a limit of %d is shown as %v", limit, got)
		}
		if got := testutil.ToFloat64(m.available); got < 1<<20 || got > 1<<60 {
			t.Errorf("%v bytes are available", got)
		}
	}
}

// Small groups go where there are zeros, so that a sync need not store a new size each time; large ones
// make the file larger by themselves, and one that is ended has nothing behind its end.
func TestSmallGroupsHaveRoom(t *testing.T) {
	t.Parallel()
	q := open(t, Options{})
	sizes := func() (written, all int64) {
		t.Helper()
		b, err := os.ReadFile(segmentFiles(t, q.opts.Dir)[0])
		if err != nil {
			t.Fatal(err)
		}
		return int64(len(bytes.TrimRight(b, "\x00"))), int64(len(b))
	}
	const step = 64 << 10
	small := strings.Repeat("s", 1000)
	for i := range 200 {
		mustPut(t, q, small)
		if written, all := sizes(); all%step != 0 || all-written >= 2*step {
			t.Fatalf("after %d groups %d bytes are written of %d", i+1, written, all)
		}
	}
	_, before := sizes()
	mustPut(t, q, strings.Repeat("l", 5*step))
	if written, all := sizes(); all-written > 64 || all <= before {
		t.Errorf("after a large group %d bytes are written of %d", written, all)
	}
	mustPut(t, q, small)
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	if written, all := sizes(); all-written > 64 {
		t.Errorf("%d bytes are written of %d", written, all)
	}
}

// grudging is a system that refuses zeros for a segment, of which it writes a part, and to cut one.
type grudging struct {
	datadir.System
	err     error
	part    int
	refused atomic.Int32
}

func (s *grudging) Open(path string, flag int) (datadir.SystemFile, error) {
	f, err := s.System.Open(path, flag)
	if err != nil || !strings.Contains(path, segmentPrefix) {
		return f, err
	}
	return grudgingFile{f, s}, nil
}

type grudgingFile struct {
	datadir.SystemFile
	s *grudging
}

func (f grudgingFile) WriteAt(b []byte, at int64) (int, error) {
	if len(bytes.Trim(b, "\x00")) > 0 {
		return f.SystemFile.WriteAt(b, at)
	}
	f.s.refused.Add(1)
	n, err := f.SystemFile.WriteAt(b[:f.s.part], at)
	return n, cmp.Or(err, f.s.err)
}

func (f grudgingFile) Truncate(int64) error { return f.s.err }

// Where there is no space for zeros, small groups are stored all the same: in those that there are, and
// then behind the file.
func TestNoRoomAhead(t *testing.T) {
	t.Parallel()
	for _, cause := range []error{syscall.ENOSPC, syscall.EIO} {
		for _, part := range []int{0, 1, 5_000} {
			t.Run(fmt.Sprint(cause, part), func(t *testing.T) {
				t.Parallel()
				system := &grudging{System: datadir.Disk, err: cause, part: part}
				q := open(t, Options{Dir: scratch.Memory(t), system: system})
				c := cursor(t, q, "c")
				for i := 1; i <= 100; i++ {
					mustPut(t, q, numbered(i, 1)...)
				}
				expectRecords(t, c, 1, 100)
				if n := system.refused.Load(); n != 1 || len(segmentFiles(t, q.opts.Dir)) != 1 {
					t.Errorf("zeros were written %d times, to %v", n, segmentFiles(t, q.opts.Dir))
				}
				system.err = nil
				q = reopen(t, q)
				c = cursor(t, q, "c")
				expectRecords(t, c, 1, 100)
				if err := c.Ack(100); err != nil {
					t.Error(err)
				}
				expectEmpty(t, c)
				if n := len(damagedFiles(t, q.opts.Dir)); n > 0 {
					t.Errorf("%d files are called damaged", n)
				}
			})
		}
	}
}

// A loss of power may leave the room behind any segment: with no end in front of it, or a part of one, or a
// whole one, and a byte of it may be damaged. Nothing is lost by that, and nothing called damage.
func TestRoomThatIsLeft(t *testing.T) {
	t.Parallel()
	const records = 200
	pristine := makeStore(t, records)
	files := len(segmentFiles(t, pristine))
	for which := range files {
		for variant := range 4 {
			dir := filepath.Join(scratch.Memory(t), "copy")
			copyDir(t, pristine, dir)
			path := segmentFiles(t, dir)[which]
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			_, at, ok := appendlog.ReadEnd(bytes.NewReader(b), int64(len(b)))
			if !ok {
				t.Fatal("it was not ended")
			}
			end := map[int]int64{2: at + 20, 3: int64(len(b))}
			b = append(b[:cmp.Or(end[variant], at)], make([]byte, 64<<10)...)
			if variant == 1 {
				b[len(b)-1000] = 1
			}
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			metrics := NewMetrics(nil)
			q := open(t, Options{Dir: dir, Metrics: metrics, OnDropped: func(string, int) { t.Error("something is lost") }})
			for i, r := range next(t, cursor(t, q, "all"), records) {
				if string(r.Data) != damageRecord(i+1) || r.Seq != uint64(i+1) {
					t.Fatalf("record %d is %d: %.20q", i+1, r.Seq, r.Data)
				}
			}
			mustPut(t, q, "next")
			if _, last := q.Bounds(); last != records+1 || testutil.ToFloat64(metrics.damaged) > 0 {
				t.Errorf("segment %d, variant %d: the next record is %d, %v are damaged", which, variant, last, metrics.damaged)
			}
		}
	}
}
