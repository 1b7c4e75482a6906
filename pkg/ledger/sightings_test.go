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
	s := Sightings{Keep: TwinWithin}
	note := func(hmc string, seconds int, want bool) {
		t.Helper()
		if got := s.Note(key, hmc, at(seconds), TwinWithin); got != want {
			t.Errorf("%s at %d is a twin: %v", hmc, seconds, got)
		}
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
	// What could not be recorded was not told.
	s.Forget(key, "b")
	note("a", 171, false)
	// Three HMCs tell it once together.
	s.SetMembers(3)
	note("a", 300, false)
	note("c", 301, true)
	note("b", 302, true)
	note("c", 303, false)
	for i := range 2 * maxSightings {
		s.Note(event.IDOf(fmt.Sprint(i)), "a", at(304), TwinWithin)
	}
	if n := len(s.byKey); n > maxSightings || len(s.order) > 2*maxSightings {
		t.Errorf("%d are remembered", n)
	}
	if s.Note(event.IDOf("x"), "a", at(400), TwinWithin); len(s.byKey) != 1 {
		t.Errorf("%d are remembered after the window", len(s.byKey))
	}
}

// Who has seen what, and when.
func TestSightIsClear(t *testing.T) {
	t0 := time.Unix(1_800_000_000, 0)
	at := func(seconds int) time.Time { return t0.Add(time.Duration(seconds) * time.Second) }
	var s Sight
	check := func(from, to int, want bool) {
		t.Helper()
		if got := s.Clear(at(from), at(to)); got != want {
			t.Errorf("from %d to %d: %v", from, to, got)
		}
	}
	check(0, 1, false)
	s.LinkUp(at(10), false)
	check(5, 12, false)
	check(10, 12, true)
	s.LinkLost(at(20), "a test")
	check(10, 20, true)
	check(15, 19, true)
	check(15, 21, false)
	check(21, 22, false)
	s.LinkUp(at(30), false)
	check(31, 32, true)
	check(25, 32, false)
	check(15, 32, false)
	if gaps := s.Ready(at(100), 0); len(gaps) != 1 {
		t.Fatalf("%d gaps", len(gaps))
	}
	check(15, 19, true)
	check(15, 32, false)
	s.Spot(at(40), at(41), "numbers jumped", "", "object", 1, false)
	check(31, 39, true)
	check(31, 42, false)
}
