package event

import "time"

// clockSet is by how much a clock differs from itself where it was set, at least: what is less is
// how exactly it is read.
const clockSet = time.Second

// Wall returns a time in UTC as a page shows it, by the clock that now was read from. Where that
// was set after t was read from it, it is what the clock would have said: what is shown is as long
// ago as it was. A time that was stored is shown as it is.
func Wall(t, now time.Time) time.Time {
	if set := now.Round(0).Sub(t.Round(0)) - now.Sub(t); set.Abs() >= clockSet {
		t = t.Add(set)
	}
	return t.UTC()
}

// Anchored returns a time before now, which may have been stored, by the clock that now was read
// from: from then on it does not follow the clock when that is set. One that is ahead of now was
// told by a clock that was set back since. How long ago that was is not known: it counts as now.
func Anchored(t, now time.Time) time.Time { return now.Add(min(0, t.Sub(now))) }
