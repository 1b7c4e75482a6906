package ledger

import (
	"testing"
	"time"
)

// Who has seen what, and when.
func TestWatched(t *testing.T) {
	t0 := time.Unix(1_800_000_000, 0)
	at := func(seconds int) time.Time { return t0.Add(time.Duration(seconds) * time.Second) }
	s := NewGaps("a")
	check := func(from, to int, want bool) {
		t.Helper()
		if got := s.Watched(at(from), at(to)); got != want {
			t.Errorf("from %d to %d: %v", from, to, got)
		}
	}
	check(0, 1, false)
	s.LinkUp(at(10), at(10), false)
	check(5, 12, false)
	check(10, 12, true)
	s.LinkLost(at(20), "a test", at(20))
	check(10, 20, true)
	check(15, 19, true)
	check(15, 21, false)
	check(21, 22, false)
	s.LinkUp(at(30), at(30), false)
	check(31, 32, true)
	check(25, 32, false)
	check(15, 32, false)
	if gaps := s.Due(at(100), 0); len(gaps) != 1 {
		t.Fatalf("%d gaps", len(gaps))
	}
	check(15, 19, true)
	check(15, 32, false)
	s.Missing(at(40), at(41), "numbers jumped", "", "object", 1, false, at(41))
	check(31, 39, true)
	check(31, 42, false)
}

// Each window is reported once, with its own times and causes, whatever the daemon's end or a full disk comes between.
func TestGapsAreReportedOnce(t *testing.T) {
	t0 := time.Unix(1_800_000_000, 0)
	at := func(seconds int) time.Time { return t0.Add(time.Duration(seconds) * time.Second) }
	state := make(map[string][]byte)
	open := func() *Gaps {
		b := NewGaps("a")
		b.Load(storedIn(state))
		return b
	}
	expect := func(gaps []*Gap, windows ...[2]int) {
		t.Helper()
		if len(gaps) != len(windows) {
			t.Fatalf("%d gaps, want %d", len(gaps), len(windows))
		}
		for i, g := range gaps {
			if !g.From.Equal(at(windows[i][0])) || !g.To.Equal(at(windows[i][1])) {
				t.Errorf("gap %d from %s to %s, want %v", i, g.From, g.To, windows[i])
			}
		}
	}
	b := open()
	b.LinkUp(at(0), at(0), true)
	b.Filled(at(0))
	b.LinkLost(at(10), "one", at(11))
	store(state, b)
	b = open() // killed while it was blind: the window goes on
	b.LinkLost(at(12), "two", at(13))
	b.LinkUp(at(20), at(20), true)
	store(state, b)
	b = open() // killed before it could be reported: another window
	b.LinkLost(at(30), "three", at(31))
	b.LinkUp(at(40), at(40), true)
	due := b.Due(at(50), time.Second)
	expect(due, [2]int{10, 20})
	if causes := due[0].Causes; len(causes) != 2 || len(due[0].Report(nil).Missing) == 0 {
		t.Errorf("causes %q, may be missing %q", causes, due[0].Report(nil).Missing)
	}
	b.Reported(due[0], 1)
	b.Load(storedIn(state)) // batch 1 was refused
	b.Filled(at(50))
	due = b.Due(at(60), time.Second)
	expect(due, [2]int{10, 20}, [2]int{30, 40})
	for _, g := range due {
		b.Reported(g, 2)
	}
	store(state, b)
	b.Committed(2)
	b.Load(storedIn(state)) // batch 3 was refused
	expect(b.Due(at(70), time.Second))
	if len(state) != 0 {
		t.Errorf("stored: %q", state)
	}
}

// A gap is not reported while something of it is still to be asked for: what was fetched before says nothing of that.
func TestGapWaitsForWhatWasMissedSince(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	b := NewGaps("a")
	b.LinkUp(now, now, true)
	b.Missing(now, now, "numbers jumped", "x", "audit", 1, true, now)
	if topics := b.TakeRefill(); !topics["x"] {
		t.Fatalf("%v are to be fetched", topics)
	}
	b.Missing(now, now, "numbers jumped", "y", "security", 1, true, now)
	b.Filled(now) // of x
	if gaps := b.Due(now.Add(time.Hour), time.Second); len(gaps) != 0 {
		t.Error("the gap is reported before y is asked for")
	}
	if topics := b.TakeRefill(); !topics["y"] {
		t.Fatalf("%v are to be fetched", topics)
	}
	b.Filled(now)
	if gaps := b.Due(now.Add(time.Hour), time.Second); len(gaps) != 1 {
		t.Errorf("%d gaps", len(gaps))
	}
}
