package status

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// Tally is a counter that can be read back for the status page.
type Tally struct {
	prometheus.Counter
	N atomic.Int64
}

// NewTally returns a Tally that counts with c.
func NewTally(c prometheus.Counter) *Tally { return &Tally{Counter: c} }

// AddN counts n more.
func (t *Tally) AddN(n int) {
	t.Add(float64(n))
	t.N.Add(int64(n))
}

// UnixSeconds is t as the metrics show it: 0 for the zero time.
func UnixSeconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(event.Wall(t, time.Now()).UnixMilli()) / 1000
}
