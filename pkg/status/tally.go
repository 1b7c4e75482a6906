package status

import (
	"context"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Tally is a counter that can be read back for the status page.
type Tally struct {
	prometheus.Counter
	N atomic.Int64
}

func NewTally(c prometheus.Counter) *Tally { return &Tally{Counter: c} }

func (t *Tally) AddN(n int) {
	t.Add(float64(n))
	t.N.Add(int64(n))
}

// UnixSeconds is t as the metrics show it: 0 for the zero time.
func UnixSeconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}

// Sleep waits for d or until ctx is done, and reports whether the whole wait was had.
func Sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// RandomBetween returns a random duration in [low, high].
func RandomBetween(low, high time.Duration) time.Duration {
	return low + rand.N(high-low+1)
}
