package status

import (
	"math"
	"sync"
	"time"
)

// clockSlack is how far the clock may be off without having been set.
const clockSlack = 10 * time.Second

// Ages says which events are too old to be sent: it is retry.max_age from their receipt on, whether
// or not they were tried.
//
// The time of receipt is one of the machine's clock, which may be set meanwhile. So a second clock
// goes on as if it had not been set: an event is only as old as both say. When every event from
// before the change has become too old the second one is set, too.
type Ages struct {
	limit time.Duration

	mu sync.Mutex
	// base is when the second clock was set, and has the reading of the monotonic clock.
	base time.Time
	// changed is when the two were first seen to differ.
	changed time.Time
}

// NewAges returns what has a limit; 0: there is none.
func NewAges(limit time.Duration) *Ages {
	if limit <= 0 {
		limit = math.MaxInt64
	}
	return &Ages{limit: limit, base: time.Now()}
}

// Old says whether an event is too old.
func (a *Ages) Old(received, now time.Time) bool { return a.Left(received, now) <= 0 }

// Left returns how long it is until an event is too old.
func (a *Ages) Left(received, now time.Time) time.Duration {
	if a.limit == math.MaxInt64 || received.IsZero() {
		return a.limit
	}
	left := a.limit - now.Round(0).Sub(received)
	if left <= 0 {
		left = max(left, received.Sub(a.Oldest(now)))
	}
	return left
}

// Oldest returns when an event may have been received at the earliest that is not too old.
func (a *Ages) Oldest(now time.Time) time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	oldest := a.second(now)
	if wall := now.Round(0); wall.Before(oldest) {
		oldest = wall
	}
	return oldest.Add(-a.limit)
}

// second reads the second clock. a is locked.
func (a *Ages) second(now time.Time) time.Time { return a.base.Round(0).Add(now.Sub(a.base)) }

// Look compares the two clocks.
func (a *Ages) Look(now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	drift := now.Round(0).Sub(a.second(now))
	switch {
	case drift.Abs() < clockSlack:
		a.changed = time.Time{}
	case a.changed.IsZero():
		a.changed = now
	case now.Sub(a.changed) >= a.limit:
		a.base, a.changed = now, time.Time{}
	}
}
