// Package budget counts the memory of what is received and not stored yet, over everybody who
// receives: each alone may be within its limits, and all together be too much.
package budget

import (
	"math"
	"runtime/debug"
	"sync"
)

const (
	// part of the memory is for what was received and is not stored: that becomes seven times as
	// much while it is made events and stored, and fourteen times where all of it is escaped.
	part = 16
	most = 144 << 20
	// least lets two frames of the largest size be read.
	least = 16 << 20
)

// OfProcess returns how many bytes may be received and not stored yet, by the memory limit of the
// process (debug.SetMemoryLimit, GOMEMLIMIT).
func OfProcess() int {
	if limit := debug.SetMemoryLimit(-1); limit != math.MaxInt64 {
		return int(max(least, min(most, limit/part)))
	}
	return most
}

// shared is how much of OfProcess is for single HMCs. The rest is for whoever is held up too long,
// and is used by all of them together.
func shared() int { return min(16<<20, OfProcess()/2) }

// Share is what one of so many HMCs has for itself of what is received and not stored, in bytes.
func Share(hmcs int) int { return Divided(shared(), hmcs) }

// Divided is the part of so many bytes that one of so many HMCs has: 64 KiB to 8 MiB.
func Divided(bytes, hmcs int) int { return max(64<<10, min(8<<20, bytes/max(hmcs, 1))) }

// Common is what all HMCs have together beyond their shares, in bytes.
func Common() int { return OfProcess() - shared() }

// Budget is so many bytes that several may hold together. A nil Budget has no end. Its methods may
// be called by several goroutines, and never block.
type Budget struct {
	mu          sync.Mutex
	limit, used int
	room        chan struct{} // nil: nobody waits
}

// New returns a Budget of so many bytes.
func New(limit int) *Budget { return &Budget{limit: limit} }

// Take takes n bytes. Where there is no room it takes none, and returns what is closed when
// something is given back.
func (b *Budget) Take(n int) (room <-chan struct{}) {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.used+n <= b.limit {
		b.used += n
		return nil
	}
	if b.room == nil {
		b.room = make(chan struct{})
	}
	return b.room
}

// Give gives n bytes back.
func (b *Budget) Give(n int) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used -= n
	if b.room != nil {
		close(b.room)
		b.room = nil
	}
}

// Used returns how many bytes are taken.
func (b *Budget) Used() int {
	if b == nil {
		return 0
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used
}

// Account is what one holder has: up to Free for itself, and of the Budget what is beyond. It is
// for one goroutine at a time.
type Account struct {
	Budget *Budget
	Free   int
	held   int
}

// Take takes n bytes more, as Budget.Take does.
func (a *Account) Take(n int) (room <-chan struct{}) {
	if beyond := min(n, a.held+n-a.Free); beyond > 0 {
		room = a.Budget.Take(beyond)
	}
	if room == nil {
		a.held += n
	}
	return room
}

// Give gives n bytes back.
func (a *Account) Give(n int) {
	if beyond := min(n, a.held-a.Free); beyond > 0 {
		a.Budget.Give(beyond)
	}
	a.held -= n
}

// Close gives everything back.
func (a *Account) Close() { a.Give(a.held) }
