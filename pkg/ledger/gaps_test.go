package ledger

import (
	"slices"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// Who has seen what, and when.
func TestWatched(t *testing.T) {
	t0 := time.Unix(1_800_000_000, 0)
	at := func(seconds int) time.Time { return t0.Add(time.Duration(seconds) * time.Second) }
	s := NewGaps("a")
	check := func(from, to int, want bool) {
		t.Helper()
		if got := s.Watched(at(from), at(to), "object"); got != want {
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

// Each time without sight is a window of its own, and so is what goes missing while there is sight, but for what does so at the
// same time.
func TestEachWindowIsItsOwn(t *testing.T) {
	t0 := time.Unix(1_800_000_000, 0)
	at := func(seconds float64) time.Time { return t0.Add(time.Duration(seconds * float64(time.Second))) }
	missing := func(b *Gaps, from, to float64, cause, kind string) {
		b.Missing(at(from), at(to), cause, "t", kind, 1, true, at(to))
	}
	for _, test := range []struct {
		name string
		do   func(b *Gaps)
		want [][2]float64
	}{
		{"numbers jump behind an outage", func(b *Gaps) {
			b.LinkLost(at(10), "lost", at(11))
			b.LinkUp(at(20), at(20), true)
			missing(b, 20.5, 21, "jump", "object")
		}, [][2]float64{{10, 20}, {20.5, 21}}},
		{"two jumps, one of them much later", func(b *Gaps) {
			missing(b, 1, 2, "jump", "object")
			missing(b, 3, 4, "jump", "audit")
			missing(b, 10, 11, "jump", "object")
		}, [][2]float64{{1, 4}, {10, 11}}},
		{"an outage behind a jump", func(b *Gaps) {
			missing(b, 1, 2, "jump", "object")
			b.LinkLost(at(2), "lost", at(3))
			b.LinkUp(at(4), at(4), true)
		}, [][2]float64{{1, 2}, {2, 4}}},
		{"two outages in a moment", func(b *Gaps) {
			b.LinkLost(at(1), "lost", at(1))
			b.LinkUp(at(1.5), at(1.5), true)
			b.LinkLost(at(1.6), "lost", at(1.7))
			b.LinkUp(at(1.8), at(1.8), true)
		}, [][2]float64{{1, 1.5}, {1.6, 1.8}}},
		{"attempts that fail", func(b *Gaps) {
			b.LinkLost(at(1), "lost", at(1))
			b.LinkLost(at(1), "refused", at(2))
			b.LinkUp(at(3), at(3), true)
		}, [][2]float64{{1, 3}}},
		{"the storage refuses now and then", func(b *Gaps) {
			for _, s := range []float64{1, 2, 20} {
				b.StorageFailed(at(s), "full", map[string]int{"object": 1}, at(s))
				b.StorageWorks(at(s + 0.5))
			}
		}, [][2]float64{{1, 2.5}, {20, 20.5}}},
		{"the storage refuses while the link is lost", func(b *Gaps) {
			b.StorageFailed(at(1), "full", nil, at(1))
			b.LinkLost(at(2), "lost", at(2))
			b.LinkUp(at(3), at(3), true)
			b.StorageWorks(at(4))
		}, [][2]float64{{1, 4}}},
		{"the storage refuses just behind an outage", func(b *Gaps) {
			b.LinkLost(at(1), "lost", at(1))
			b.LinkUp(at(2), at(2), true)
			b.StorageFailed(at(2.1), "full", nil, at(2.1))
			b.StorageWorks(at(3))
		}, [][2]float64{{1, 2}, {2.1, 3}}},
		{"what goes missing while there is no sight is of that time", func(b *Gaps) {
			b.LinkLost(at(1), "lost", at(1))
			missing(b, 1, 1, "jump", "object")
			b.LinkUp(at(2), at(2), true)
		}, [][2]float64{{1, 2}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := NewGaps("a")
			b.LinkUp(at(0), at(0), true)
			test.do(b)
			for b.TakeRefill() != nil {
				b.Filled(at(30))
			}
			b.Filled(at(30))
			due := b.Due(at(60), time.Second)
			if len(due) != len(test.want) {
				t.Fatalf("%d gaps, want %d", len(due), len(test.want))
			}
			for i, g := range due {
				if !g.From.Equal(at(test.want[i][0])) || !g.To.Equal(at(test.want[i][1])) {
					t.Errorf("gap %d from %s to %s, want %v", i, g.From, g.To, test.want[i])
				}
			}
			if b.Pending() {
				t.Error("something is left")
			}
		})
	}
}

// A daemon that is killed again and again has a window for each time, also where none was told yet; one that was not in sight
// in between goes on.
func TestGapsOfManyKills(t *testing.T) {
	t0 := time.Unix(1_800_000_000, 0)
	at := func(seconds int) time.Time { return t0.Add(time.Duration(seconds) * time.Second) }
	state := make(map[string][]byte)
	b := NewGaps("a")
	b.LinkUp(at(0), at(0), true)
	store(state, b)
	var want [][2]int
	for kill := range 12 {
		b = NewGaps("a")
		b.Load(storedIn(state))
		begin := 10*kill + 1
		b.LinkLost(at(begin), "the daemon ended without notice", at(begin+1))
		if kill == 5 { // and before it had connected
			store(state, b)
			b = NewGaps("a")
			b.Load(storedIn(state))
			b.LinkLost(at(begin), "the daemon ended without notice", at(begin+2))
		}
		b.LinkUp(at(begin+4), at(begin+4), true)
		store(state, b)
		want = append(want, [2]int{begin, begin + 4})
	}
	b.Filled(at(200))
	due := b.Due(at(300), time.Second)
	if len(due) != len(want) {
		t.Fatalf("%d gaps of %d", len(due), len(want))
	}
	for i, g := range due {
		r := g.Report([]string{"object"})
		if !g.From.Equal(at(want[i][0])) || !g.To.Equal(at(want[i][1])) || len(g.Causes) != 1 || len(r.Missing) == 0 {
			t.Errorf("gap %d: from %s to %s, %q, want %v", i, g.From, g.To, g.Causes, want[i])
		}
	}
}

// Where more is known to be missed than was recovered, of whatever kind, a gap says what may be missing; and what was missed
// and came is not said to be missing, whichever window it is counted for.
func TestGapSaysWhatMayBeMissing(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	for _, kind := range event.TopicTypes() {
		for _, recovered := range []int{0, 1, 2} {
			b := NewGaps("a")
			b.LinkUp(now, now, false)
			b.LinkLost(now, "lost", now)
			b.LinkUp(now, now, false)
			b.MissedBefore(kind, 2, now)
			for range recovered {
				b.Recovered(kind, now)
			}
			r := b.Due(now.Add(time.Hour), time.Second)[0].Report(nil)
			if missing := len(r.Missing) > 0; missing != (recovered < 2) {
				t.Errorf("2 of %s are missed, %d were recovered: may be missing %q", kind, recovered, r.Missing)
			}
		}
	}
	// Two windows: what the second one lacks does not count for the first, of which nothing is known to be missing.
	b := NewGaps("a")
	b.LinkUp(now, now, false)
	b.LinkLost(now, "lost", now)
	b.LinkUp(now, now, false)
	b.Missing(now, now, "full", "t", "audit", 2, false, now)
	for range 3 {
		b.Recovered("audit", now)
	}
	for i, g := range b.Due(now.Add(time.Hour), time.Second) {
		if r := g.Report(nil); len(r.Missing) > 0 || g.Recovered["audit"] != 1+i {
			t.Errorf("gap %d: recovered %v, may be missing %q", i, g.Recovered, r.Missing)
		}
	}
}

// What is stored of a window that was not reported says the same of it as before.
func TestStoredGapSaysTheSame(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	state, b := make(map[string][]byte), NewGaps("a")
	b.LinkUp(now, now, true)
	b.Missing(now, now, "jump", "t", "audit", 2, true, now)
	b.Problem("the audit log, which could not be fetched")
	store(state, b)
	b = NewGaps("a")
	b.Load(storedIn(state))
	due := b.Due(now.Add(time.Hour), time.Second)
	if len(due) != 1 {
		t.Fatalf("%d gaps", len(due))
	}
	r := due[0].Report([]string{"object", "audit"})
	want := []string{"the audit log, which could not be fetched", "the daemon ended before everything could be fetched", "entries of the audit log"}
	if !slices.Equal(r.Missing, want) || r.Missed["audit"] != 2 {
		t.Errorf("%+v", r)
	}
}
