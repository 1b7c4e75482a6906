package ledger

import (
	"fmt"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

func TestSightings(t *testing.T) {
	t0 := time.Unix(1_800_000_000, 0)
	at := func(seconds int) time.Time { return t0.Add(time.Duration(seconds) * time.Second) }
	key := event.IDOf("active -> stopped")
	const within = 30 * time.Second
	s := NewSightings("east", "changes", within)
	state := make(map[string][]byte)
	note := func(hmc string, seconds int, want bool) {
		t.Helper()
		got := s.Report(key, hmc, at(seconds), func(_ string, reported time.Time) bool { return at(seconds).Sub(reported) <= within })
		if got != want {
			t.Errorf("%s at %d is a repetition: %v", hmc, seconds, got)
		}
		store(state, s)
	}
	s.SetMembers(1)
	note("a", 0, false)
	note("a", 0, false)
	if s.Shared() {
		t.Error("one HMC shares nothing")
	}
	s.SetMembers(2)
	// Whichever is slower.
	note("a", 0, false)
	note("b", 1, true)
	note("b", 10, false)
	note("a", 39, true)
	// The same change three times within the window is three changes, each of which both tell.
	for range 3 {
		note("a", 100, false)
	}
	for range 3 {
		note("b", 101, true)
	}
	note("b", 102, false)
	// Too late is another one.
	note("a", 133, false)
	note("b", 170, false)
	// What could not be stored was not reported.
	always := func(string, time.Time) bool { return true }
	s.Report(key, "b", at(171), always)
	s.Changes(nil) // on its way, and refused
	s.Load(storedIn(state))
	note("a", 171, true) // b's of 170
	note("a", 172, false)
	// A restart forgets nothing.
	s = NewSightings("east", "changes", within)
	s.SetMembers(2)
	s.Load(storedIn(state))
	note("b", 173, true)
	// Three HMCs tell it once together.
	s.SetMembers(3)
	note("a", 300, false)
	note("c", 301, true)
	note("b", 302, true)
	note("c", 303, false)
	for i := range 2 * maxSightings {
		s.Report(event.IDOf(fmt.Sprint(i)), "a", at(304), always)
	}
	if n := len(s.byKey); n > maxSightings || s.n > maxSightings {
		t.Errorf("%d are remembered, %d are counted", n, s.n)
	}
	if s.Report(event.IDOf("x"), "a", at(400), always); len(s.byKey) != 1 || s.n != 1 {
		t.Errorf("%d are remembered after the time", len(s.byKey))
	}
	clear(state)
	store(state, s)
	if len(state) != 1 {
		t.Errorf("%d values are stored", len(state))
	}
	for _, broken := range [][]byte{{1}, make([]byte, 24), append(make([]byte, 24), 1, 9)} {
		if damaged := s.Load(storedIn(map[string][]byte{"told/east\x00changes/0": broken})); damaged != 1 || s.n != 0 {
			t.Errorf("%v was read", broken)
		}
	}
}
