package translate

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// sequenceRun feeds a tracker and adds up what it says is missing.
type sequenceRun struct {
	t        SequenceTracker
	now      time.Time
	missing  map[string]int64
	overLink int64
}

func newSequenceRun(complete bool) *sequenceRun {
	r := &sequenceRun{now: time.Unix(1700000000, 0), missing: make(map[string]int64)}
	r.t.NewSession(complete)
	return r
}

func (r *sequenceRun) note(topic string, numbers ...int64) {
	for _, nr := range numbers {
		r.now = r.now.Add(time.Millisecond)
		r.t.Note(topic, nr, r.now)
	}
}

func (r *sequenceRun) settle(all bool) {
	for _, g := range r.t.Settle(r.now, all) {
		r.missing[g.Topic] += g.Missing
		if g.OverLink {
			r.overLink += g.Missing
		}
	}
}

func (r *sequenceRun) total() (n int64) {
	for _, m := range r.missing {
		n += m
	}
	return n
}

func TestSequence(t *testing.T) {
	for _, test := range []struct {
		name     string
		complete bool
		run      func(r *sequenceRun)
		missing  string
		overLink int64
	}{
		{name: "the first number is no gap", complete: true, run: func(r *sequenceRun) { r.note("a", 17, 18) }, missing: "map[]"},
		{name: "a jump of the only topic", complete: true, run: func(r *sequenceRun) { r.note("a", 0, 1, 5) }, missing: "map[a:3]"},
		{name: "per topic", complete: true, run: func(r *sequenceRun) {
			r.note("a", 0, 1)
			r.note("b", 0, 1)
			r.note("a", 2)
			r.note("b", 5)
		}, missing: "map[b:3]"},
		{name: "per session: topics share the numbers", complete: true, run: func(r *sequenceRun) {
			r.note("a", 0, 1)
			r.note("b", 2)
			r.note("a", 3)
			r.note("b", 4)
			r.note("a", 5, 6)
		}, missing: "map[]"},
		{name: "per session: a jump", complete: true, run: func(r *sequenceRun) {
			r.note("a", 0, 1)
			r.note("b", 2)
			r.note("a", 3)
			r.note("b", 4, 9)
		}, missing: "map[:4]"},
		{name: "per session: a late one fills the hole", complete: true, run: func(r *sequenceRun) {
			r.note("a", 0, 1)
			r.note("b", 2)
			r.note("a", 3)
			r.note("b", 5)
			r.note("a", 4, 6)
		}, missing: "map[]"},
		{name: "per session with topics that are not subscribed to: a jump means nothing", run: func(r *sequenceRun) {
			r.note("a", 0, 1)
			r.note("b", 2)
			r.note("a", 3)
			r.note("b", 4)
			r.note("a", 90)
		}, missing: "map[]"},
		{name: "perhaps they went to topics that are not subscribed to: said three times", run: func(r *sequenceRun) { r.note("a", 0, 2, 4, 6, 8, 10) }, missing: "map[a:3]"},
		{name: "per topic is known: each jump counts", run: func(r *sequenceRun) {
			r.note("a", 0)
			r.note("b", 7)
			r.note("a", 1)
			r.note("a", 3, 5, 7, 9, 11)
		}, missing: "map[a:5]"},
		{name: "restart, repetition and wrap", complete: true, run: func(r *sequenceRun) { r.note("a", 5, 6, 0, 1, 1, 2, 3_000_000, 3_000_001) }, missing: "map[]"},
		{name: "our own drops explain the jump", complete: true, run: func(r *sequenceRun) {
			r.note("a", 0)
			r.t.Dropped("a", 3)
			r.note("a", 1, 2, 6) // those before the drop come first
			r.note("a", 9)
		}, missing: "map[a:2]"},
		{name: "drops explain a part", complete: true, run: func(r *sequenceRun) {
			r.note("a", 0)
			r.t.Dropped("a", 3)
			r.note("a", 10)
		}, missing: "map[a:6]"},
		{name: "over a link", complete: true, run: func(r *sequenceRun) {
			r.note("a", 0, 1)
			r.t.NewLink(true)
			r.note("a", 5, 8)
		}, missing: "map[a:5]", overLink: 3},
		{name: "another session", complete: true, run: func(r *sequenceRun) {
			r.note("a", 0, 1)
			r.t.NewSession(true)
			r.note("c", 50, 51)
		}, missing: "map[]"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newSequenceRun(test.complete)
			test.run(r)
			r.now = r.now.Add(time.Minute)
			r.settle(false)
			if got := fmt.Sprint(r.missing); got != test.missing || r.overLink != test.overLink {
				t.Errorf("missing %s, want %s; over a link %d, want %d", got, test.missing, r.overLink, test.overLink)
			}
			before := r.total()
			r.settle(true)
			if r.total() != before {
				t.Error("something was reported twice")
			}
		})
	}
}

// However an HMC counts: once that is known, what is reported as missing is what is missing, through reordering between
// topics, drops of our own and lost links.
func TestSequenceModel(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Log("seed", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for run := range 300 {
		perSession := run%2 == 0
		r := newSequenceRun(true)
		topics := []string{"a", "b", "c"}
		var (
			session int64
			own     = make(map[string]int64)
			lost    int64
		)
		next := func(topic string) int64 {
			if perSession {
				session++
				return session
			}
			own[topic]++
			return own[topic]
		}
		// So that it can be learned, and no topic's first notification is the lost one.
		for range 20 {
			for _, topic := range topics {
				r.note(topic, next(topic))
			}
			r.note(topics[0], next(topics[0]))
		}
		for range 300 {
			topic := topics[random.IntN(len(topics))]
			switch random.IntN(20) {
			case 0:
				lost++
				next(topic)
			case 1:
				r.t.Dropped(topic, 1)
				next(topic)
				r.note(topic, next(topic)) // the jump comes
			case 2: // two topics in the other order
				first, second := topics[0], topics[1]
				x, y := next(first), next(second)
				r.note(second, y)
				r.note(first, x)
			case 3:
				r.settle(true) // as at the end of a link
				r.t.NewLink(true)
			default:
				r.note(topic, next(topic))
			}
			if random.IntN(10) == 0 {
				r.settle(false)
			}
		}
		for _, topic := range topics {
			r.note(topic, next(topic))
		}
		r.settle(true)
		if got := r.total(); got != lost {
			t.Fatalf("run %d, per session %v: %d are missing, %d reported: %v", run, perSession, lost, got, r.missing)
		}
	}
}

func BenchmarkSequence(b *testing.B) {
	var t SequenceTracker
	t.NewSession(true)
	now := time.Now()
	t.Note("a", 0, now)
	t.Note("b", 100, now)
	nr := int64(1)
	b.ReportAllocs()
	for b.Loop() {
		t.Note("a", nr, now)
		nr++
	}
}

// TestSequenceBehind has the first number of a topic tell that there was one before it. Whether the HMC
// begins with 0 or 1 is not documented: the first 0 says so, also for the sessions after this one.
func TestSequenceBehind(t *testing.T) {
	r := newSequenceRun(true)
	behind := func(topic string, nr int64, want bool) {
		t.Helper()
		if ofTopic, _ := r.t.Behind(topic, nr); ofTopic != want {
			t.Errorf("number %d of topic %s: %v", nr, topic, ofTopic)
		}
	}
	behind("a", 1, false)
	behind("a", 2, true)
	r.note("a", 1, 2)
	behind("a", 5, false) // a jump, of which Settle tells
	behind("b", 1, false)
	r.note("b", 0)
	behind("c", 1, true)
	behind("c", 0, false)
	r.t.NewSession(true)
	behind("a", 0, false)
	behind("a", 1, true)
}
