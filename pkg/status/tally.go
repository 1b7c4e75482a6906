package status

import (
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
