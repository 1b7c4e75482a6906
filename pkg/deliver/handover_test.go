package deliver

import (
	"math/rand/v2"
	"testing"
	"testing/synctest"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// What is done by either of two is what each of them has, whatever ranges it is made of.
func TestDoneOfTwo(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	const records = 60
	for range 500 {
		want := make(map[uint64]bool)
		some := func() (d Done) {
			d.UpTo = random.Uint64N(records / 3)
			for seq := range d.UpTo + 1 {
				want[seq] = true
			}
			for first := d.UpTo + 1 + random.Uint64N(5); first < records; {
				last := first + random.Uint64N(5)
				d.Beyond = append(d.Beyond, [2]uint64{first, last})
				for seq := first; seq <= last; seq++ {
					want[seq] = true
				}
				first = last + 2 + random.Uint64N(10)
			}
			return d
		}
		a, b := some(), some()
		both := a.with(b)
		for seq := range uint64(records + 10) {
			if both.has(seq) != want[seq] {
				t.Fatalf("%v with %v is %v: record %d", a, b, both, seq)
			}
		}
		for i, r := range both.Beyond {
			before := both.UpTo
			if i > 0 {
				before = both.Beyond[i-1][1]
			}
			if r[0] <= before+1 || r[1] < r[0] {
				t.Fatalf("%v with %v is %v", a, b, both)
			}
		}
	}
}

// A delivery that is told to finish begins nothing more, and who delivers next leaves out what it has brought to its end: also the part
// of a batch that was accepted, and what other lanes have sent.
func TestFinish(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newFixture(t)
		for i := range 300 {
			s.store(another(event.TypeOSMessage, i))
		}
		attempts := 0
		s.consumer.each = func(events []*event.Event) []error {
			if attempts++; attempts == 5 {
				s.delivery.Finish()
			}
			out := make([]error, len(events))
			for i := range out {
				if i%3 == 0 {
					out[i] = unavailable // and is to be sent once more
				}
			}
			return out
		}
		const settings = "batch: {max_events: 10}, concurrency: 4, retry: {initial: 1ms, max: 1ms}"
		s.runWith(config.Flood{}, settings)
		s.ended()
		if attempts < 5 || attempts > 8 {
			t.Errorf("%d attempts, of which four may have been on their way", attempts)
		}
		before, done := len(s.consumer.got()), s.delivery.Done()
		if before == 0 || len(done.Beyond) == 0 {
			t.Fatalf("%d events were accepted, %v", before, done)
		}
		s.consumer.each = nil
		s.resume = &done
		s.runWith(config.Flood{}, settings)
		s.eventually("all is done", s.settled)
		s.end()
		seen := make(map[string]int)
		for _, e := range s.consumer.got() {
			seen[e.ID]++
		}
		for id, n := range seen {
			if n != 1 {
				t.Errorf("%s was accepted %d times", id, n)
			}
		}
		if len(seen) != 300 {
			t.Errorf("%d events were accepted", len(seen))
		}
	})
}
