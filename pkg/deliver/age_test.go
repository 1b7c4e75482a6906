package deliver

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/sinks"
)

// letters are the ids of the events that are dead letters, and the time from their receipt to that.
func (s *fixture) letters() (ids []string, reasons []string) {
	s.t.Helper()
	all, err := s.dead.List(queue.DeadLetterFilter{})
	if err != nil {
		s.t.Fatal(err)
	}
	for _, l := range all {
		ids, reasons = append(ids, l.EventID), append(reasons, l.Reason)
	}
	return ids, reasons
}

// down is a consumer that does not answer.
func down([]*event.Event) error { return errors.New("connection refused") }

// A sink that is dead for eight days, with the settings that there are without any, leaves a dead letter of each event: none
// goes by the age limit of the queue, and none waits for longer than a day.
func TestDeadForEightDays(t *testing.T) {
	t.Parallel()
	for _, settings := range []string{"concurrency: 1, batch: {max_events: 50}", "concurrency: 4", "concurrency: 2, collapse: true"} {
		t.Run(settings, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newFixture(t)
				s.consumer.refuses(down(nil))
				s.runWith(config.Flood{Window: time.Second, Min: 100}, settings+", retry: {max: 1h}")
				const perHour, hours = 2, 8 * 24
				for hour := range hours {
					for i := range perHour {
						s.store(another(event.TypeOSMessage, (hour*7+i)%50))
					}
					time.Sleep(time.Hour)
				}
				synctest.Wait()
				waiting, _, oldest := s.delivery.Cursor.Pending()
				if age := time.Since(oldest); waiting != 24*perHour && waiting != 23*perHour || age > 24*time.Hour+time.Minute {
					t.Errorf("%d wait, the oldest for %s", waiting, age)
				}
				if dropped := s.delivery.metrics.dropped.N.Load(); dropped != 0 {
					t.Errorf("%d were dropped", dropped)
				}
				time.Sleep(24 * time.Hour)
				s.eventually("the rest is given up, too", s.settled)
				s.end()
				s.sums(0, 0, int64(s.stored), 0)
				if ids, reasons := s.letters(); len(ids) != s.stored || !strings.HasPrefix(reasons[0], "given up after 24h0m0s: connection refused") {
					t.Errorf("%d letters: %s", len(ids), reasons[0])
				}
			})
		})
	}
}

// "A page that comes a day late helps nobody": with max_age: 1h nothing arrives that is older, whatever has held it up: the
// sink, other events, a pause, or a daemon that was down.
func TestAPageThatComesLateHelpsNobody(t *testing.T) {
	t.Parallel()
	const settings = "concurrency: 2, retry: {max_age: 1h}"
	late := func(t *testing.T, s *fixture) {
		t.Helper()
		for _, e := range s.consumer.got() {
			if age := e.Time.Sub(e.Received); age > time.Hour {
				t.Errorf("%s was delivered %s after its receipt", e.ID, age)
			}
		}
	}
	// stamped notes when an event arrives.
	stamped := func(answer func([]*event.Event) error) func([]*event.Event) error {
		return func(events []*event.Event) error {
			for _, e := range events {
				e.Time = time.Now()
			}
			return answer(events)
		}
	}
	ok := func([]*event.Event) error { return nil }
	for name, answer := range map[string]func([]*event.Event) error{
		"the sink is down": down,
		"it is paused":     func([]*event.Event) error { return unauthorized },
		"it wants to rest": func([]*event.Event) error {
			return &sinks.RetryAfterError{Status: 429, After: time.Hour, Err: errors.New("status 429")}
		},
		"others are tried": func(events []*event.Event) error {
			return map[bool]error{true: unavailable}[events[0].ID == "0" || events[0].ID == "1"]
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newFixture(t)
				s.consumer.answers(stamped(answer))
				s.runWith(config.Flood{}, settings)
				for i := range 120 {
					s.store(another(event.TypeOSMessage, i%10))
					time.Sleep(time.Minute)
				}
				s.consumer.answers(stamped(ok))
				if name == "it wants to rest" {
					time.Sleep(time.Hour)
				}
				s.eventually("all is done", s.settled)
				s.end()
				late(t, s)
				ids, _ := s.letters()
				if len(ids) < 2 || len(ids)+len(s.consumer.got()) != s.stored {
					t.Errorf("%d letters, %d delivered, of %d", len(ids), len(s.consumer.got()), s.stored)
				}
			})
		})
	}
	t.Run("the daemon was down", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			s := newFixture(t)
			for i := range 3000 {
				s.store(another(event.TypeOSMessage, i%100))
			}
			time.Sleep(59 * time.Minute)
			for i := range 10 {
				s.store(another(event.TypeOSMessage, i))
			}
			time.Sleep(2 * time.Minute)
			s.consumer.answers(stamped(ok))
			s.runWith(config.Flood{}, settings)
			s.eventually("all is done", s.settled)
			s.end()
			late(t, s)
			s.sums(10, 0, 3000, 0)
			if _, reasons := s.letters(); reasons[0] != "given up after 1h0m0s: it was too late when its turn came" {
				t.Error(reasons[0])
			}
		})
	})
	t.Run("it was down while it was tried", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			s := newFixture(t)
			s.consumer.answers(stamped(down))
			s.runWith(config.Flood{}, settings)
			s.store(another(event.TypeOSMessage, 1))
			time.Sleep(40 * time.Minute)
			s.finish()
			s.runWith(config.Flood{}, settings) // the time before counts
			time.Sleep(19 * time.Minute)
			synctest.Wait()
			if s.dead.Count("hook") != 0 {
				t.Error("too early")
			}
			time.Sleep(2 * time.Minute)
			s.eventually("it is a dead letter", func() bool { return s.dead.Count("hook") == 1 })
			s.end()
		})
	})
}

// What is tried without end is not put aside, and what the queue's own limit is for goes by that.
func TestWithoutAgeLimit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newFixture(t)
		s.consumer.refuses(unavailable)
		s.runWith(config.Flood{}, "concurrency: 2, retry: {max_age: 0s}, queue: {max_age: 96h}")
		for i := range 100 {
			s.store(another(event.TypeOSMessage, i%10))
			time.Sleep(time.Hour)
		}
		synctest.Wait()
		if n := s.dead.Count("hook"); n != 0 {
			t.Errorf("%d dead letters", n)
		}
		if n := s.delivery.metrics.dropped.N.Load(); n < 3 || n > 5 {
			t.Errorf("%d dropped", n)
		}
		s.end()
	})
}

// An event that is too old is put aside while another one, which is not, holds the lane.
func TestOldBehindYounger(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newFixture(t)
		s.consumer.atOnce = 1
		s.consumer.refuses(unavailable)
		// Of one resource many, of another one: turns go round.
		for range 50 {
			s.store(another(event.TypeOSMessage, 1))
		}
		time.Sleep(30 * time.Minute)
		s.runWith(config.Flood{}, "concurrency: 2, retry: {max_age: 1h}")
		for i := range 10 {
			s.store(another(event.TypeOSMessage, 2+i))
		}
		time.Sleep(30*time.Minute + time.Minute)
		synctest.Wait()
		if n := s.dead.Count("hook"); n != 50 {
			t.Errorf("%d of 50 are dead letters", n)
		}
		s.consumer.answers(nil)
		s.eventually("the rest is delivered", s.settled)
		s.end()
		s.sums(10, 0, 50, 0)
	})
}

// As long as dead letters cannot be stored, nothing is lost, and nothing that is too old is sent.
func TestTooOldAndNoRoom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newFixture(t)
		s.consumer.answers(func([]*event.Event) error {
			return &sinks.RetryAfterError{Status: http.StatusBadGateway, Err: errors.New("502")}
		})
		s.runWith(config.Flood{}, "concurrency: 2, retry: {max_age: 1h}")
		for i := range 20 {
			s.store(another(event.TypeOSMessage, i))
		}
		if err := s.dead.Close(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Hour)
		s.consumer.answers(nil)
		time.Sleep(time.Hour)
		synctest.Wait()
		if waiting, _, _ := s.delivery.Cursor.Pending(); waiting != 20 || len(s.consumer.got()) != 0 {
			t.Errorf("%d wait, %d delivered", waiting, len(s.consumer.got()))
		}
		s.end()
	})
}

// What failed until it was given up says no more that a sink is stuck when that has accepted something since, whichever lane
// that was.
func TestNotStuckBehindWhatWasGivenUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newFixture(t)
		s.consumer.answers(func(events []*event.Event) error {
			return map[bool]error{true: unavailable}[events[0].ID == "0"]
		})
		s.runWith(config.Flood{}, "concurrency: 4, retry: {max_age: 1h}")
		s.store(another(event.TypeOSMessage, 0))
		time.Sleep(2 * time.Hour)
		s.eventually("it is given up", s.settled)
		if got := s.delivery.Snapshot(); !got.Stuck || got.Accepting() || got.DeadLetters != 1 {
			t.Errorf("while it has accepted nothing: %+v", got)
		}
		s.store(another(event.TypeOSMessage, 1))
		s.eventually("another one is delivered", s.settled)
		if got := s.delivery.Snapshot(); got.Stuck || !got.Accepting() || got.FailedAttempts != 0 || got.Delivered != 1 {
			t.Errorf("when it has: %+v", got)
		}
	})
}
