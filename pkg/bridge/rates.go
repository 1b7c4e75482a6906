package bridge

import (
	"context"
	"time"
)

const (
	// rateEvery is how often the totals are looked at; what came in between counts for the
	// minute of the look.
	rateEvery = 2 * time.Second
)

// watchRates looks at the totals until ctx is done.
func (b *Bridge) watchRates(ctx context.Context) {
	tick := time.NewTicker(rateEvery)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			b.noteRates(now)
		case <-ctx.Done():
			return
		}
	}
}

func (b *Bridge) noteRates(now time.Time) {
	b.mu.RLock()
	supervisors, deliveries := b.supervisors, b.deliveries
	b.mu.RUnlock()
	for _, r := range supervisors {
		r.it.Rate.List(now, r.it.Metrics.Received())
	}
	for _, r := range deliveries {
		r.it.CountRate(now)
	}
}
