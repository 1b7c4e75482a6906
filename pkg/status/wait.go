package status

import (
	"context"
	"math/rand/v2"
	"time"
)

// Sleep waits for d or until ctx is done, and reports whether all of d has passed.
func Sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// RandomBetween returns a random duration in [low, high].
func RandomBetween(low, high time.Duration) time.Duration {
	return low + rand.N(high-low+1)
}

// NextWait returns the wait after another failure: twice the last one, at least first, at most longest.
func NextWait(last, first, longest time.Duration) time.Duration {
	return min(max(2*last, first), longest)
}
