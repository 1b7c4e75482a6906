package status

import (
	"math"
	"testing"
	"time"
	"unsafe"
)

// set returns a time as the clock would have said it had it been set by d before: the reading of the monotonic clock stays.
func set(t time.Time, d time.Duration) time.Time {
	// The first word of a time with such a reading has the seconds above 30 bits of nanoseconds.
	wall := (*uint64)(unsafe.Pointer(&t))
	*wall += uint64(d/time.Second) << 30
	return t
}

// A clock that is set makes no event old that is not, forward or back, before or after its receipt; and it makes none
// young for longer than the limit.
func TestAges(t *testing.T) {
	t.Parallel()
	const limit = 24 * time.Hour
	start := time.Now()
	if got := set(start, time.Hour); got.Round(0).Sub(start.Round(0)) != time.Hour || got.Sub(start) != 0 {
		t.Fatalf("the clock cannot be set: %s, %s", got.Round(0).Sub(start.Round(0)), got.Sub(start))
	}
	at := func(after, clock time.Duration) time.Time { return set(start.Add(after), clock) }
	for _, by := range []time.Duration{0, time.Hour, -time.Hour, 168 * time.Hour, -168 * time.Hour} {
		a := NewAges(limit)
		a.base = start
		before, after := at(time.Hour, 0).Round(0), at(3*time.Hour, by).Round(0)
		// The clock is set two hours after the start.
		for _, test := range []struct {
			received  time.Time
			hours     time.Duration // after the start
			old, free bool          // free: it may be counted as younger, as long as the change is not forgotten
		}{
			{before, 4, false, false}, {before, 24, false, false}, {before, 26, true, by < 0},
			{after, 4, false, false}, {after, 26, false, false}, {after, 28, true, by > 0},
		} {
			now := at(test.hours*time.Hour, by)
			if before := !test.received.After(a.Oldest(now)); before != a.Old(test.received, now) {
				t.Errorf("set by %s, received %s: before the oldest: %v", by, test.received, before)
			}
			if got := a.Old(test.received, now); got != test.old && !(test.free && !got) {
				t.Errorf("set by %s, received %s, %d h after the start: old %v", by, test.received, test.hours, got)
			}
		}
		// When all from before the change is too old, what came after it is judged by the clock again.
		for hours := range 40 {
			a.Look(at(time.Duration(3+hours)*time.Hour, by))
		}
		late := at(43*time.Hour, by)
		received := late.Add(-limit - time.Minute).Round(0)
		if !a.Old(received, late) || a.Old(received.Add(2*time.Minute), late) {
			t.Errorf("set by %s: the change is not forgotten", by)
		}
	}
	none := NewAges(0)
	if none.Old(start.Add(-1e6*time.Hour), start) || none.Left(start, start) != math.MaxInt64 {
		t.Error("without a limit")
	}
	if NewAges(limit).Old(time.Time{}, start) {
		t.Error("a time that is not known")
	}
}
