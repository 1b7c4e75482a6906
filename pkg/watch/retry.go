package watch

import (
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
)

// retry is something that is tried again after waits that double. The zero value is due at once.
type retry struct {
	due  time.Time
	wait time.Duration
	// that failed, in a row
	tries int
	// soon says that it is about to become possible: the first attempts follow each other
	// faster.
	soon bool
	// again says that it was asked for once more since the last attempt has begun.
	again bool
}

func (r *retry) isDue(now time.Time) bool { return !now.Before(r.due) }

// failed makes it due after the next wait, which is ChannelMax at most.
func (r *retry) failed(i *Intervals) { r.failedUpTo(i, i.ChannelMax) }

func (r *retry) failedUpTo(i *Intervals, longest time.Duration) {
	first := i.ChannelMin
	if r.soon {
		first = i.ChannelSoon
	}
	r.wait = status.NextWait(r.wait, first, longest)
	r.due = time.Now().Add(r.wait)
	r.tries++
}

// jittered adds full jitter to waits above 5 s: when an HMC comes back, its clients must not all
// arrive at once.
func jittered(d time.Duration) time.Duration {
	const above = 5 * time.Second
	if d <= above {
		return d
	}
	return status.RandomBetween(above, d)
}

// signal wakes whoever waits on a channel with room for one.
func signal(wake chan<- struct{}) {
	select {
	case wake <- struct{}{}:
	default:
	}
}
