// Package clock sets the clock that a time was read from. The machine's own clock
// stays as it is.
package clock

import (
	"testing"
	"time"
	"unsafe"
)

// As time.Time has it: nanoseconds in the lowest bits of the first word, above
// them seconds, and in the highest bit whether there is a monotonic reading.
const (
	secondsAt    = 30
	hasMonotonic = 1 << 63
)

// Set returns a time that was read from the machine's clock as it would have
// been read from one that was set by so much before: in whole seconds, and with
// the same monotonic reading.
func Set(tb testing.TB, t time.Time, by time.Duration) time.Time {
	tb.Helper()
	set := t
	word := (*uint64)(unsafe.Pointer(&set))
	if *word&hasMonotonic == 0 {
		tb.Fatal("a time without a monotonic reading, or Go has times in another way now")
	}
	*word += uint64(int64(by/time.Second) << secondsAt)
	if set.Sub(t) != 0 || set.Round(0).Sub(t.Round(0)) != by.Truncate(time.Second) {
		tb.Fatal("Go has times in another way now")
	}
	return set
}
