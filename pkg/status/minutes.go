package status

import (
	"sync"
	"time"
)

const (
	// RatedMinutes is how many minutes the status tells of.
	RatedMinutes = 60
)

// Minutes tells how much a total grew in each of the last minutes, by looking at it now and then: what counts events need
// not know of it. The zero value is ready. Safe for concurrent use.
type Minutes struct {
	mu     sync.Mutex
	at     int64 // the running minute, since 1970
	Total  int64
	counts [RatedMinutes]int64
}

// Note takes what the total is now.
func (m *Minutes) Note(now time.Time, total int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.noteLocked(now, total)
}

func (m *Minutes) noteLocked(now time.Time, total int64) {
	at := now.Unix() / 60
	switch passed := at - m.at; {
	case passed > RatedMinutes:
		m.counts = [RatedMinutes]int64{}
		m.at = at
	case passed > 0:
		for ; m.at < at; m.at++ {
			m.counts[(m.at+1)%RatedMinutes] = 0
		}
	}
	// A clock that was set back makes the minute a long one.
	m.counts[m.at%RatedMinutes] += max(0, total-m.Total)
	m.Total = total
}

// List returns the growth in each minute, the oldest first; the last one is still running.
func (m *Minutes) List(now time.Time, total int64) []int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.noteLocked(now, total)
	out := make([]int64, RatedMinutes)
	for i := range out {
		out[i] = m.counts[(m.at+1+int64(i))%RatedMinutes]
	}
	return out
}
