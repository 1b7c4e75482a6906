package bridge

import (
	"context"
	"sync"
	"time"
)

const (
	// ratedMinutes is how many minutes the status tells of.
	ratedMinutes = 60
	// rateEvery is how often the totals are looked at; what came in between counts for the minute of the look.
	rateEvery = 2 * time.Second
)

// minutes tells how much a total grew in each of the last minutes, by looking at it now and then: what counts events need
// not know of it. The zero value is ready. Safe for concurrent use.
type minutes struct {
	mu     sync.Mutex
	at     int64 // the running minute, since 1970
	total  int64
	counts [ratedMinutes]int64
}

// note takes what the total is now.
func (m *minutes) note(now time.Time, total int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.noteLocked(now, total)
}

func (m *minutes) noteLocked(now time.Time, total int64) {
	at := now.Unix() / 60
	switch passed := at - m.at; {
	case passed > ratedMinutes:
		m.counts = [ratedMinutes]int64{}
		m.at = at
	case passed > 0:
		for ; m.at < at; m.at++ {
			m.counts[(m.at+1)%ratedMinutes] = 0
		}
	}
	// A clock that was set back makes the minute a long one.
	m.counts[m.at%ratedMinutes] += max(0, total-m.total)
	m.total = total
}

// list returns the growth in each minute, the oldest first; the last one is still running.
func (m *minutes) list(now time.Time, total int64) []int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.noteLocked(now, total)
	out := make([]int64, ratedMinutes)
	for i := range out {
		out[i] = m.counts[(m.at+1+int64(i))%ratedMinutes]
	}
	return out
}

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
		r.it.rate.note(now, r.it.metrics.received())
	}
	for _, r := range deliveries {
		r.it.rate.note(now, r.it.metrics.delivered.n.Load())
	}
}
