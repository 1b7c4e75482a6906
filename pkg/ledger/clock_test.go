package ledger

import (
	"maps"
	"strconv"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/tests/clock"
)

// sets are by how much the machine's clock is set.
var sets = []time.Duration{-200 * time.Hour, -time.Hour, time.Hour, 200 * time.Hour}

// Ids are recognized for the time of the window, whatever the clock is set to meanwhile.
func TestSeenDoesNotFollowTheClock(t *testing.T) {
	for _, by := range sets {
		t.Run(by.String(), func(t *testing.T) {
			state := make(map[string][]byte)
			s := NewSeenWindow(10*time.Minute, 1000).Of("a")
			now := time.Now()
			add := func(id string, now time.Time) bool {
				t.Helper()
				known := s.Add(event.IDOf(id), now)
				store(state, s)
				return known
			}
			if add("1", now) {
				t.Fatal("known before it was there")
			}
			later := clock.Set(t, now.Add(time.Minute), by)
			if add("2", later); !add("1", later) || !add("2", later) {
				t.Error("forgotten within the window")
			}
			for i := range 2 * seenChunk { // another chunk
				add("more "+strconv.Itoa(i), later)
			}
			much := clock.Set(t, now.Add(20*time.Minute), by)
			if add("3", much); add("1", much) {
				t.Error("known after the window")
			}
		})
	}
	// Stored before the clock was set back: it has been there for some time, and goes within the window.
	state, s, now := make(map[string][]byte), NewSeenWindow(10*time.Minute, 1000).Of("a"), time.Now()
	s.Add(event.IDOf("1"), now.Add(time.Hour))
	store(state, s)
	s = restarted(state, 10*time.Minute, 1000)
	s.Anchor(now)
	if !s.Add(event.IDOf("1"), now.Add(time.Minute)) {
		t.Error("forgotten over a restart")
	}
	s.Add(event.IDOf("2"), now.Add(11*time.Minute))
	store(state, s)
	if s.Add(event.IDOf("1"), now.Add(11*time.Minute)) {
		t.Error("known for longer than the window")
	}
}

// What another HMC has reported by a clock that was set back since is not what happens now.
func TestSightingsBeforeTheClockWasSetBack(t *testing.T) {
	state, now := make(map[string][]byte), time.Now()
	within := func(limit time.Duration, at time.Time) func(string, time.Time) bool {
		return func(_ string, reported time.Time) bool { return at.Sub(reported) <= limit }
	}
	s := NewSightings("east", "messages", 24*time.Hour)
	s.SetMembers(2)
	s.Report(event.IDOf("x"), "a", now.Add(3*time.Hour), within(0, now))
	store(state, s)
	s = NewSightings("east", "messages", 24*time.Hour)
	s.SetMembers(2)
	s.Load(storedIn(state))
	s.Anchor(now)
	at := now.Add(100 * time.Millisecond)
	kept := maps.Clone(state)
	if s.Report(event.IDOf("x"), "b", at, within(500*time.Millisecond, at)) {
		t.Error("a report of what has just happened is taken for one of before the restart")
	}
	s = NewSightings("east", "messages", 24*time.Hour)
	s.SetMembers(2)
	s.Load(storedIn(kept))
	s.Anchor(now)
	if !s.Report(event.IDOf("x"), "b", at, within(24*time.Hour, at)) {
		t.Error("what is replayed is not recognized")
	}
}

// A window is as long as it was, its ends are by the clock as it is set at its end, and the first is not after the last.
func TestGapsDoNotFollowTheClock(t *testing.T) {
	for _, by := range sets {
		t.Run(by.String(), func(t *testing.T) {
			now := time.Now()
			b := NewGaps("a")
			b.LinkUp(now, now, false)
			lost, back := now.Add(time.Second), clock.Set(t, now.Add(6*time.Second), by)
			b.LinkLost(lost, "a test", lost)
			b.LinkUp(back, back, false)
			loss := clock.Set(t, now.Add(20*time.Second), 2*by)
			b.Missing(back.Add(10*time.Second), loss, "numbers jumped", "", "object", 1, false, loss)
			due := b.Due(loss.Add(time.Minute), time.Second)
			if len(due) != 2 {
				t.Fatalf("%d gaps", len(due))
			}
			for i, want := range []struct {
				long time.Duration
				to   time.Time
			}{{5 * time.Second, back}, {4 * time.Second, loss}} {
				g := due[i].Report(nil)
				if long := g.To.Sub(g.From); long < want.long || long > want.long+2*time.Millisecond || g.To.Sub(want.to.Round(0)).Abs() > time.Millisecond {
					t.Errorf("gap %d: from %s to %s, want %s up to %s", i, g.From, g.To, want.long, want.to)
				}
			}
			// Killed, and the clock is set while nobody is there.
			state := make(map[string][]byte)
			b.LinkLost(loss, "a test", loss)
			store(state, b)
			b = NewGaps("a")
			b.Load(storedIn(state))
			again := clock.Set(t, now.Add(30*time.Second), 3*by)
			b.LinkLost(loss.Round(0), "the daemon ended without notice", again)
			b.LinkUp(again, again, false)
			for _, g := range b.Due(again.Add(time.Minute), time.Second) {
				if r := g.Report(nil); r.To.Before(r.From) || r.To.Sub(again.Round(0)).Abs() > time.Millisecond {
					t.Errorf("from %s to %s, it was over at %s", r.From, r.To, again)
				}
			}
		})
	}
}
