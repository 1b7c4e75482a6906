package bridge

import (
	"context"
	"time"
)

// rateEvery is how often the totals are looked at; what came in between counts for the minute of
// the look.
const rateEvery = 2 * time.Second

// every calls f with the time now and then, until ctx is done.
func every(ctx context.Context, interval time.Duration, f func(now time.Time)) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			f(now)
		case <-ctx.Done():
			return
		}
	}
}

func (b *Bridge) noteRates(now time.Time) {
	running := b.now()
	for _, r := range running.supervisors {
		r.it.Rate.List(now, r.it.Metrics.Received())
	}
	for _, r := range running.deliveries {
		r.it.CountRate(now)
	}
}
