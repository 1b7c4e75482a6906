package queue

import (
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
