package queue

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
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
