package chaos

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// What can fail, and how.
const (
	targetDaemon   = "daemon"
	targetConsumer = "consumer"
	targetDisk     = "disk"
	targetTopic    = "topic" // of the sinks kafka and nats

	kindKill     = "kill"      // SIGKILL; starts again after the fault's time
	kindTerm     = "term"      // SIGTERM; must end in order
	kindTermKill = "term-kill" // SIGTERM, and SIGKILL before it is done

	kindCut      = "cut"           // all connections are reset
	kindRefuse   = "refuse"        // reset, and new ones are refused
	kindStall    = "stall"         // half-open: nothing passes, nobody is told
	kindSlow     = "slow"          // everything comes late
	kindExpire   = "expire"        // the session ends, its link with it
	kindSilent   = "expire-silent" // the session ends, its link falls silent
	kindRestart  = "restart"       // the HMC restarts
	kindTruncate = "truncate"      // the broker closes the link in the middle of a frame
	kindGarbage  = "garbage"       // the broker sends what is no frame
	kindRESTDown = "rest-down"     // REST requests get no answer
	kindRESTBusy = "rest-busy"     // REST answers 503
	kindClock    = "clock"         // its clock is set

	kindDie     = "die"  // the consumer refuses connections
	kindHang    = "hang" // it reads requests and never answers
	kindDrip    = "drip" // it answers byte by byte
	kindReset   = "reset"
	kindError   = "500"
	kindTooMany = "429"
	kindBad     = "400" // of each fourth event, for good

	kindFull = "full"

	kindDeleted = "deleted" // it is deleted, and made again
)

// fault is something that fails for a time. The same seed gives the same ones.
type fault struct {
	At     time.Duration // since the start of the run
	For    time.Duration
	Target string // one of the above, or an HMC
	Kind   string
	Delay  time.Duration // of kindSlow; between the signals of kindTermKill; what kindClock sets
}

func (f fault) String() string {
	text := fmt.Sprintf("%-8s %s for %s", f.Target, f.Kind, f.For)
	if f.Delay != 0 {
		text += fmt.Sprintf(" (%s)", f.Delay)
	}
	return text
}

// weighted is a choice and how often it is taken.
type weighted struct {
	name   string
	weight int
	min    time.Duration // how long it lasts
	max    time.Duration
}

func pick(rng *rand.Rand, choices []weighted) weighted {
	sum := 0
	for _, c := range choices {
		sum += c.weight
	}
	n := rng.IntN(sum)
	for _, c := range choices {
		if n -= c.weight; n < 0 {
			return c
		}
	}
	return choices[len(choices)-1]
}

// between returns a whole number of milliseconds.
func between(rng *rand.Rand, low, high time.Duration) time.Duration {
	return low + time.Duration(rng.Int64N(int64((high-low)/time.Millisecond)+1))*time.Millisecond
}

const (
	// Faults come in storms, so that there are also times in which all of it
	// is put in order, gaps are told, and nothing may be lost.
	stormLength = 14 * time.Second
	calmLength  = 7 * time.Second
	// silentNoticed is how long the daemon may take to notice a session that
	// has ended and told nobody.
	silentNoticed = 75 * time.Second
)

// kinds returns what can happen to a target.
func kinds(target string) []weighted {
	const second, ms = time.Second, time.Millisecond
	network := []weighted{
		{kindCut, 4, 0, 0},
		{kindRefuse, 2, 300 * ms, 4 * second},
		{kindStall, 3, 500 * ms, 8 * second},
		{kindSlow, 2, 2 * second, 6 * second},
	}
	switch target {
	case targetDaemon:
		return []weighted{{kindKill, 5, 0, 3 * second}, {kindTerm, 3, 0, 2 * second}, {kindTermKill, 1, 0, second}}
	case targetConsumer:
		return []weighted{
			{kindDie, 2, 300 * ms, 5 * second},
			{kindHang, 2, 500 * ms, 5 * second},
			{kindDrip, 1, 500 * ms, 3 * second},
			{kindReset, 1, 300 * ms, 3 * second},
			{kindError, 2, 300 * ms, 4 * second},
			{kindTooMany, 2, 300 * ms, 4 * second},
			{kindBad, 2, 200 * ms, second},
		}
	case targetDisk:
		return []weighted{{kindFull, 1, 500 * ms, 4 * second}}
	case targetTopic:
		return []weighted{{kindDeleted, 1, 200 * ms, 8 * second}}
	case hmcActiveMQ:
		return append(network, weighted{kindKill, 2, 0, 2 * second}, weighted{kindTerm, 1, 0, 2 * second})
	default:
		return append(network,
			weighted{kindExpire, 2, 0, 0}, weighted{kindRestart, 2, 500 * ms, 3 * second},
			weighted{kindTruncate, 1, 0, 0}, weighted{kindGarbage, 1, 0, 0},
			weighted{kindRESTDown, 1, 500 * ms, 4 * second}, weighted{kindRESTBusy, 1, 500 * ms, 4 * second},
			weighted{kindClock, 2, 0, 0})
	}
}

// The HMCs of a run: two simulated ones, two of one group, and one whose broker is ActiveMQ.
const (
	hmcEast     = "east"
	hmcWest     = "west"
	hmcNorth    = "north"
	hmcSouth    = "south"
	hmcActiveMQ = "activemq"
)

// accountPair is the ledger's account of what north and south both tell.
const accountPair = "pair"

// clocks are what the clock of an HMC, or of the machine, is set to, compared with the right time.
var clocks = []time.Duration{ //nolint:gochecknoglobals // a constant
	0, time.Minute, -time.Minute, time.Hour, -time.Hour, 30 * time.Hour, -30 * time.Hour,
}

// plan returns the faults of a run, in the order of their time. A target has
// one fault at a time; those of different targets overlap.
func plan(seed uint64, length time.Duration) []fault {
	rng := rand.New(rand.NewPCG(seed, 0x6368616f73))
	targets := []weighted{
		{name: targetDaemon, weight: 4},
		{name: hmcEast, weight: 3},
		{name: hmcWest, weight: 3},
		{name: hmcNorth, weight: 3},
		{name: hmcSouth, weight: 3},
		{name: hmcActiveMQ, weight: 3},
		{name: targetTopic, weight: 2},
		{name: targetConsumer, weight: 4},
		{name: targetDisk, weight: 1},
	}
	busy := make(map[string]time.Duration)
	var faults []fault
	for at := time.Second; at < length; at += between(rng, 50*time.Millisecond, 800*time.Millisecond) {
		if at%(stormLength+calmLength) >= stormLength {
			continue
		}
		target := pick(rng, targets).name
		kind := pick(rng, kinds(target))
		f := fault{At: at, For: between(rng, kind.min, kind.max), Target: target, Kind: kind.name}
		switch f.Kind {
		case kindSlow:
			f.Delay = between(rng, 20*time.Millisecond, 250*time.Millisecond)
		case kindTermKill:
			f.Delay = between(rng, 0, 300*time.Millisecond)
		case kindClock:
			f.Delay = clocks[rng.IntN(len(clocks))]
		case kindExpire:
			if rng.IntN(4) == 0 && at+silentNoticed < length {
				f.Kind, f.For = kindSilent, silentNoticed
			}
		}
		pause := between(rng, 300*time.Millisecond, 3*time.Second)
		if at < busy[target] || at+f.For > length {
			continue
		}
		busy[target] = at + f.For + pause
		faults = append(faults, f)
	}
	return faults
}
