package queue

import (
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/storage"
	machine "github.com/hmcnotifyd/hmcnotifyd/tests/clock"
)

// How old a record is does not depend on what the clock of the machine was set to since: while the queue is open, when it is
// opened again, and when the machine has been booted in between.
func TestAgesDoNotFollowTheClock(t *testing.T) {
	const age = time.Minute
	for _, by := range []time.Duration{-200 * time.Hour, -time.Hour, 0, time.Hour, 200 * time.Hour} {
		t.Run(by.String(), func(t *testing.T) {
			q := open(t, Options{})
			c := cursor(t, q, "a")
			mustPut(t, q, "before")
			near := func(what string, got time.Duration) {
				t.Helper()
				if got < 0 || got > age {
					t.Errorf("%s: the record is %s old", what, got)
				}
			}
			oldest := func() time.Duration {
				t.Helper()
				_, _, at := c.Pending()
				return time.Since(at)
			}
			near("stored", oldest())

			// The clock is set: when the queue was opened it said something else.
			q.clock.began = machine.Set(t, q.clock.began, -by)
			near("while the queue is open", oldest())
			mustPut(t, q, "after")
			if dropped, err := c.Trim(0, time.Now().Add(-age)); dropped != 0 || err != nil {
				t.Errorf("%d were dropped (%v)", dropped, err)
			}
			records, err := c.Next(t.Context(), 0, 0)
			if err != nil || len(records) != 2 {
				t.Fatal(records, err)
			}
			for _, r := range records {
				near(string(r.Data), time.Since(r.Stored))
			}
			if dropped, err := c.Trim(0, time.Now().Add(age)); dropped != 2 || err != nil {
				t.Errorf("%d were dropped (%v), want all that is older than in a minute", dropped, err)
			}
			mustPut(t, q, "waits")
			dir, last := q.opts.Dir, q.clock.now()
			if err := q.Close(); err != nil {
				t.Fatal(err)
			}

			q = open(t, Options{Dir: dir})
			c = cursor(t, q, "a")
			near("opened again", oldest())

			// The clock was set by as much while the queue was not open: in the same boot of the machine that is no
			// matter, and over another one it is as if as much had passed, but no less than nothing.
			value := []byte(q.state[clockKey])
			big.PutUint64(value, big.Uint64(value)-uint64(by))
			var same, other clock
			same.start(string(value), []*storage.Segment{{LastAt: last}})
			if got := time.Duration(same.now() - last); got < 0 || got > age {
				t.Errorf("in the same boot %s have passed", got)
			}
			other.start(string(value[:16])+"another", []*storage.Segment{{LastAt: last}})
			passed := time.Duration(other.now() - last)
			if passed < max(0, -by) || passed > max(0, -by)+age {
				t.Errorf("over a boot %s have passed, by %s", passed, by)
			}
		})
	}
}
