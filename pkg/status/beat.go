package status

import (
	"sync/atomic"
	"time"
)

// Beat is when a loop last turned. It does not follow the machine's clock when that is set. Safe
// for concurrent use.
type Beat struct {
	began time.Time
	since atomic.Int64 // nanoseconds after that
}

// NewBeat returns a Beat of a loop that turns now.
func NewBeat() *Beat { return &Beat{began: time.Now()} }

// Turn notes that the loop turns.
func (b *Beat) Turn() { b.since.Store(int64(time.Since(b.began))) }

// Last returns when the loop last turned.
func (b *Beat) Last() time.Time { return b.began.Add(time.Duration(b.since.Load())) }
