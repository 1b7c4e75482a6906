package status

import (
	"sync"
	"time"
)

// logEvery is how often the log speaks of the same thing that happens again and again.
const logEvery = time.Minute

// Throttle keeps the log from repeating itself. The zero value is ready. Safe for concurrent use.
type Throttle struct {
	mu     sync.Mutex
	last   time.Time
	silent int
}

// Count counts n more. It reports whether the log is due to have them now, and how many there have
// been since it last was.
func (t *Throttle) Count(now time.Time, n int) (total int, due bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.silent += n
	if !t.last.IsZero() && now.Sub(t.last) < logEvery {
		return 0, false
	}
	total, t.silent, t.last = t.silent, 0, now
	return total, true
}
