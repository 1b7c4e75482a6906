package histories_test

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// setup is what a history is of.
type setup struct {
	hmcs    int
	grouped bool
	// lag is by how much later than the first HMC another one of its group tells the same.
	lag time.Duration
	// keeps is how many messages of a partition an HMC holds.
	keeps int
	// refresh says that what an HMC holds of a partition is replayed.
	refresh bool
	// budget is how many requests a minute an HMC gets.
	budget int
	// delay is how long everything takes on the network, commit how long a commit takes.
	delay, commit time.Duration
	// hosts is how many an HMC has: a second one is another HMC of the same machines.
	hosts int
	// cold says that nothing is stored when the first fault comes.
	cold bool

	refreshOnce, perSession, cutOnEnd, numbersDiffer bool
}

func (s *setup) String() string {
	return fmt.Sprintf("%+v", *s)
}

// kind is what a step does.
type kind string

const (
	change   kind = "change"  // a property of an object
	status   kind = "status"  // of a partition
	console  kind = "console" // an operating system writes
	same     kind = "same"    // an operating system writes what it has written before
	anew     kind = "anew"    // the numbers of a partition's messages begin anew
	cutOff   kind = "cutoff"  // the machines do not communicate
	rename   kind = "rename"  // a partition
	clockSet kind = "clock"   // of an HMC is set
	reload   kind = "reload"  // the daemon has another configuration
	entries  kind = "entries" // of a log
	equal    kind = "equal"   // entries of a log that nobody can tell apart
	job      kind = "job"     // ends
	cut      kind = "cut"     // connections to an HMC are lost
	away     kind = "away"    // an HMC cannot be reached
	stall    kind = "stall"   // nothing passes, and nobody is told
	slow     kind = "slow"    // everything comes late
	expire   kind = "expire"  // a session ends
	restart  kind = "restart" // an HMC restarts
	topicEnd kind = "topic"   // the broker takes a topic away
	rest     kind = "rest"    // requests go wrong
	full     kind = "full"    // the disk is
	refused  kind = "refused" // some commits are
	kill     kind = "kill"    // the daemon
	stop     kind = "stop"    // the daemon ends in order
)

// step is one thing that happens. What it does not need is 0.
type step struct {
	at   time.Duration
	kind kind
	hmc  int
	obj  int           // which object or partition
	n    int           // how many, or which of several ways
	last time.Duration // how long it lasts
}

func (s step) String() string {
	return fmt.Sprintf("%9.3fs %-8s hmc %d, object %d, %d, for %v", s.at.Seconds(), s.kind, s.hmc, s.obj, s.n, s.last)
}

// plan is a history before it happens.
type plan struct {
	seed  uint64
	setup setup
	steps []step
}

func (p *plan) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v\n", &p.setup)
	for _, s := range p.steps {
		fmt.Fprintf(&b, "  %v\n", s)
	}
	return b.String()
}

// objects is how many partitions there are.
const objects = 3

// draw returns the history of a seed.
func draw(seed uint64) *plan {
	r := rand.New(rand.NewPCG(seed, 0x686973746f7279))
	p := &plan{seed: seed}
	s := &p.setup
	one := func(n int) bool { return r.IntN(n) == 0 }
	ms := func(most int) time.Duration { return time.Duration(r.IntN(most+1)) * time.Millisecond }
	s.hosts = 1
	switch r.IntN(8) {
	case 0:
		s.hmcs = 1
	case 1:
		s.hmcs, s.hosts = 1, 2
	case 2, 3:
		s.hmcs = 2
	default:
		s.hmcs, s.grouped = 2+r.IntN(5)/4, true
		s.lag = []time.Duration{0, ms(30), ms(400), ms(2000)}[r.IntN(4)]
	}
	s.keeps = []int{1_000_000, 1_000_000, 1_000_000, 20}[r.IntN(4)]
	s.refresh, s.refreshOnce, s.perSession = !one(3), one(2), one(3)
	s.cutOnEnd, s.numbersDiffer = one(2), one(2)
	s.budget = []int{60, 600, 10_000}[r.IntN(3)]
	s.delay = []time.Duration{0, 0, ms(10), ms(200)}[r.IntN(4)]
	s.commit = []time.Duration{0, 0, ms(20), ms(200)}[r.IntN(4)]
	s.cold = one(6)

	// Which faults there are, and how often: few kinds at a time show more than all.
	happen := []kind{change, change, change, change, status, console, console, console, entries, entries, job}
	faults := []kind{cut, away, stall, slow, expire, restart, topicEnd, rest, full, refused, kill, stop, reload}
	for _, k := range []kind{anew, cutOff, rename} {
		// What is written while nobody is told, under numbers that begin anew, leaves no trace.
		if one(3) && (k != cutOff || !slices.Contains(happen, anew)) {
			happen = append(happen, k)
		}
	}
	if one(2) && !slices.Contains(happen, anew) && s.hosts == 1 && s.keeps > 1000 {
		// else some of it could be something else
		happen = append(happen, same, same)
	}
	if s.cold {
		faults = slices.DeleteFunc(faults, func(k kind) bool { return k == kill || k == stop })
	}
	r.Shuffle(len(faults), func(i, j int) { faults[i], faults[j] = faults[j], faults[i] })
	faults = faults[:1+r.IntN(len(faults))]
	often := 4 + r.IntN(20)
	at := time.Duration(0)
	for range 10 + r.IntN(120) {
		switch r.IntN(20) {
		case 0:
			at += ms(120_000)
		case 1, 2, 3:
			at += ms(15_000)
		case 4, 5, 6, 7, 8, 9:
			at += ms(1500)
		default:
			at += ms(30)
		}
		st := step{at: at, hmc: r.IntN(s.hmcs), obj: r.IntN(objects), n: r.IntN(12)}
		if one(often) {
			// Where a session ends and its link only falls silent, nobody who is killed before the next look
			// at it can know since when.
			st.kind = faults[r.IntN(len(faults))]
			st.last = []time.Duration{ms(100), ms(2000), ms(15_000), ms(90_000)}[r.IntN(4)]
			if st.kind == expire && (slices.Contains(faults, kill) || slices.Contains(faults, stop)) {
				st.n %= 6
			}
		} else {
			st.kind = happen[r.IntN(len(happen))]
		}
		p.steps = append(p.steps, st)
	}
	p.logs(rand.New(rand.NewPCG(seed, 0x6c6f6773)), at)
	return p
}

// logs adds what makes entries of logs hard to tell apart: equal ones, and clocks that are set. It
// draws from numbers of its own, so that the rest of a history is the same without it.
func (p *plan) logs(r *rand.Rand, end time.Duration) {
	for _, k := range []kind{equal, clockSet} {
		if r.IntN(3) > 0 {
			continue
		}
		for range 1 + r.IntN(6) {
			p.steps = append(p.steps, step{
				at: time.Duration(r.Int64N(int64(end) + 1)), kind: k, hmc: r.IntN(p.setup.hmcs), n: r.IntN(12),
			})
		}
	}
	slices.SortStableFunc(p.steps, func(a, b step) int { return cmp.Compare(a.at, b.at) })
}
