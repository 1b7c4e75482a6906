package status

import (
	"slices"
	"sync"
	"time"
)

// RatedMinutes is how many minutes the status covers.
const RatedMinutes = 60

// Minutes is how much a total grew in each of the last minutes. It follows from looks at the total
// now and then: what counts events need not know of it. The zero value is ready. Safe for
// concurrent use.
type Minutes struct {
	mu sync.Mutex
	// first is when List was called first, at the running minute, since 1970 as the clock was set
	// then: it does not follow that.
	first  time.Time
	at     int64
	total  int64
	counts [RatedMinutes]int64
}

// List takes what the total is now and returns the growth in each minute, the oldest first; the
// last one is still running. What came since the last look counts for the minute of this one.
func (m *Minutes) List(now time.Time, total int64) []int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.first.IsZero() {
		m.first = now
	}
	at := (m.first.Unix() + int64(now.Sub(m.first)/time.Second)) / 60
	for m.at = max(m.at, at-RatedMinutes); m.at < at; m.at++ {
		m.counts[(m.at+1)%RatedMinutes] = 0
	}
	m.counts[m.at%RatedMinutes] += max(0, total-m.total)
	m.total = total
	oldest := (m.at + 1) % RatedMinutes
	return slices.Concat(m.counts[oldest:], m.counts[:oldest])
}
