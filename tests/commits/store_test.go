package commits_test

import (
	"math/rand/v2"
	"sync"
	"syscall"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
	"github.com/hmcnotifyd/hmcnotifyd/tests/oracle"
)

// held is how long what was received may wait before it is to be stored.
const held = 3 * time.Second

// faults decides which commits fail. It outlives the store of one start.
type faults struct {
	ledger *oracle.Ledger

	mu     sync.Mutex
	random *rand.Rand
	armed  bool
	often  int // one of so many commits begins a burst
	length int // of a burst, at most
	left   int // of the present burst
	end    func()
	failed int
	bursts int
}

// arm makes commits fail from now on, or not any more.
func (f *faults) arm(on bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.armed = on
	if !on {
		f.left = 0
	}
}

// begun is how many bursts there were.
func (f *faults) begun() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.bursts
}

// refuse says whether the next commit is to fail.
func (f *faults) refuse() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.armed && f.left == 0 && f.random.IntN(f.often) == 0 {
		f.left = 1 + f.random.IntN(f.length)
		f.bursts++
	}
	if f.left == 0 {
		return false
	}
	f.left--
	f.failed++
	if f.end == nil {
		f.end = f.ledger.BeginAt("", "commits fail", time.Now().Add(-held))
	}
	return true
}

// succeeded ends the time in which something may be lost.
func (f *faults) succeeded() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.end != nil {
		f.end()
		f.end = nil
	}
}

// failing is a store whose commits fail.
type failing struct {
	queue.Store
	faults *faults
}

func (s failing) Commit(g *queue.Group) error {
	if s.faults.refuse() {
		return syscall.ENOSPC
	}
	err := s.Store.Commit(g)
	if err == nil {
		s.faults.succeeded()
	}
	return err
}
