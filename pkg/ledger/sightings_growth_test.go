package ledger

import (
	"fmt"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// What both HMCs of a group have reported need not be remembered: neither memory nor what is stored grows with it, however long
// a report would be remembered otherwise.
func TestSightingsOfAllAreForgotten(t *testing.T) {
	s := NewSightings("east", "messages", 24*time.Hour)
	s.SetMembers(2)
	state := make(map[string][]byte)
	now := time.Unix(1_800_000_000, 0)
	always := func(string, time.Time) bool { return true }
	report := func(hmc string, first, n int, want bool) {
		t.Helper()
		for i := first; i < first+n; i++ {
			if got := s.Report(event.IDOf(fmt.Sprint(i)), hmc, now, always); got != want {
				t.Fatalf("%d of %s is a repetition: %v", i, hmc, got)
			}
		}
	}
	for round := range 100 {
		report("a", 100*round, 100, false)
		if round%2 == 0 {
			store(state, s)
		}
		report("b", 100*round, 100, true)
		store(state, s)
	}
	if len(s.chunks) > 1 || len(state) > 1 || s.n != 0 {
		t.Errorf("%d chunks are remembered and %d stored, of nothing that still counts", len(s.chunks), len(state))
	}
	// The numbers of chunks go on, also over a restart.
	report("a", 1_000_000, 40, false)
	store(state, s)
	s = NewSightings("east", "messages", 24*time.Hour)
	s.Load(storedIn(state))
	s.SetMembers(2)
	report("b", 1_000_000, 40, true)
	report("a", 2_000_000, 20, false)
	store(state, s)
	s.Load(storedIn(state))
	report("b", 2_000_000, 20, true)
	// A group with one HMC remembers nothing.
	report("a", 3_000_000, 40, false)
	store(state, s)
	s.SetMembers(1)
	if store(state, s); len(state) != 0 {
		t.Errorf("%d values are stored for one HMC", len(state))
	}
}
