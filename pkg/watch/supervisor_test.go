package watch

import (
	"errors"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmc"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/ledger"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/logon"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
)

// How long an HMC is left alone, what is said meanwhile, and that the watchdog sees a loop that
// turns.
func TestWaits(t *testing.T) {
	refused := &hmc.HTTPError{Status: http.StatusForbidden}
	for name, test := range map[string]struct {
		upFor       time.Duration
		err         error
		least, most time.Duration
		state       string
		reason      string
	}{
		"a refused logon": {
			err:   &logon.HoldError{Reason: status.ReasonLogon, Err: refused},
			least: 30 * time.Minute, most: 30 * time.Minute, state: status.StateAuthFailed, reason: status.ReasonLogon,
		},
		"nothing listens": {
			err: &receiver.ConnectionError{Reason: receiver.ReasonRefused, Err: errors.New("x")},
			// reconnect_sleep_max, and a tenth of it by chance
			least: time.Millisecond, most: 66 * time.Second, state: status.StateDisconnected, reason: receiver.ReasonRefused,
		},
		"a busy HMC": {
			err:   fmt.Errorf("later: %w", &hmc.BusyError{RetryAfter: 90 * time.Second, Err: errors.New("x")}),
			least: 90 * time.Second, most: 90 * time.Second, state: status.StateDisconnected, reason: receiver.ReasonOther,
		},
		"a busy HMC that asks for too much": {
			err:   &hmc.BusyError{RetryAfter: 24 * time.Hour, Err: errors.New("x")},
			least: 2 * time.Minute, most: 2 * time.Minute, state: status.StateDisconnected, reason: receiver.ReasonOther,
		},
		"too many sessions": {
			err:   &hmc.HTTPError{Status: http.StatusBadRequest, Reason: hmc.ReasonTooManySessions},
			least: time.Millisecond, most: 2 * time.Minute, state: status.StateDisconnected, reason: status.ReasonLogon,
		},
		"a link that was up for long": {
			upFor: time.Hour, err: &receiver.ConnectionError{Reason: receiver.ReasonBroker, Err: errors.New("x")},
			least: time.Millisecond, most: time.Second, state: status.StateDisconnected, reason: receiver.ReasonBroker,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newTestSupervisor(t)
				s.Rec.Open(ledger.NewSeenWindow(time.Minute, 10))
				for range 50 {
					s.backoff.Next()
				}
				var upSince time.Time
				if test.upFor > 0 {
					upSince = time.Now().Add(-test.upFor)
				}
				start, done := time.Now(), make(chan struct{})
				go func() {
					defer close(done)
					s.waitAfter(t.Context(), upSince, test.err)
				}()
				synctest.Wait()
				h := s.Snapshot()
				if h.State != test.state || h.NextAttempt == nil || s.source.now().reason != test.reason || len(h.Outages) != 1 {
					t.Errorf("%s, next attempt %v, reason %q, outages %v", h.State, h.NextAttempt, s.source.now().reason, h.Outages)
				}
				for waiting := true; waiting; {
					if !s.Alive(time.Now(), 2*time.Second) {
						t.Fatal("counts as hanging")
					}
					select {
					case <-done:
						waiting = false
					case <-time.After(time.Second):
					}
				}
				if !s.Alive(time.Now(), 2*time.Second) || s.Alive(time.Now().Add(3*time.Second), 2*time.Second) {
					t.Error("the watchdog does not see that the loop turned, or not when")
				}
				if waited := time.Since(start); waited < test.least || waited > test.most+time.Second {
					t.Errorf("waited for %s", waited)
				}
			})
		})
	}
}

// The waits double from the first to the longest; what is about to become possible is tried sooner.
func TestRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := Intervals{}.withDefaults()
		for _, test := range []struct {
			r    retry
			want []time.Duration
		}{
			{retry{}, []time.Duration{15 * time.Second, 30 * time.Second, time.Minute, 2 * time.Minute, 4 * time.Minute, 8 * time.Minute, 10 * time.Minute, 10 * time.Minute}},
			{retry{soon: true}, []time.Duration{2 * time.Second, 4 * time.Second, 8 * time.Second}},
		} {
			for n, want := range test.want {
				if !test.r.isDue(time.Now()) {
					t.Fatal("not due")
				}
				test.r.failed(&i)
				time.Sleep(want - time.Nanosecond)
				if test.r.isDue(time.Now()) || test.r.tries != n+1 {
					t.Errorf("due before %s, after %d tries", want, test.r.tries)
				}
				time.Sleep(time.Nanosecond)
			}
		}
	})
}

// However often the estate is to be listed, the HMC has its rest between two lists.
func TestListsAreApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKeeper(newTestSupervisor(t), nil, new(logon.Offer), nil)
		l := &k.lister
		lists := 0
		for start := time.Now(); time.Since(start) < time.Minute; time.Sleep(time.Second) {
			l.ask()
			if l.takeDue(time.Now()) {
				lists++
				l.last = time.Now()
			}
			if wait := k.untilDue(time.Now()); l.wanted && wait > 10*time.Second {
				t.Fatalf("sleeps for %s although the estate is to be listed", wait)
			}
		}
		if lists != 6 {
			t.Errorf("%d lists in a minute", lists)
		}
	})
}

// The recorder's questions are answered from memory, whether or not a link is up.
func TestSource(t *testing.T) {
	s := newTestSupervisor(t)
	src := &s.source
	if at, handedOn := src.LastContact(); !at.IsZero() || handedOn || src.CanFetch() || src.Ask("/api/jobs/1") {
		t.Error("there is no link")
	}
	src.Fetch(map[string]bool{"": true})
	src.ListHardware("/api/console")

	k := newKeeper(s, newLink(t), new(logon.Offer), nil)
	src.keeper.Store(k)
	src.update(func(now *state) { now.up(k.link) })
	if _, handedOn := src.LastContact(); !handedOn || !src.CanFetch() || !src.Ask("/api/jobs/1") || <-k.questions != "/api/jobs/1" {
		t.Error("there is a link")
	}
	src.Fetch(map[string]bool{"": true})
	if !k.fetch.running || !k.lister.wanted {
		t.Error("nothing is fetched")
	}
	src.Missed("object", 3)
	if h := s.Snapshot(); h.Missed != 3 || src.Heartbeat().State != status.StateConnected {
		t.Errorf("%+v", h)
	}
}
