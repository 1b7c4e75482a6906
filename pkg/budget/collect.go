package budget

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync/atomic"
	"time"
)

const (
	// leastGarbage and mostGarbage bound how much garbage is in memory before it is collected:
	// what is made of it in garbageFor, and more only where so much is in use that looking it
	// through takes long.
	leastGarbage = 12 << 20
	mostGarbage  = 32 << 20
	garbageFor   = 200 * time.Millisecond
)

// PaceCollector has the garbage collector run as seldom as a busy program needs and as often as an
// idle one can bear, until stop is called. GOGC goes before.
//
// By itself the collector runs when the heap has doubled: one of a few megabytes doubles so often
// that every hundredth event has to wait for it, and one of many in a burst keeps as many for
// garbage.
func PaceCollector() (stop func()) {
	if os.Getenv("GOGC") != "" {
		return func() {}
	}
	p := &pacer{at: time.Now(), percent: 100}
	for i, name := range [len(p.samples)]string{
		"/gc/heap/allocs:bytes", "/gc/heap/live:bytes", "/gc/scan/stack:bytes", "/gc/scan/globals:bytes",
	} {
		p.samples[i].Name = name
	}
	p.await()
	return func() {
		if !p.stopped.Swap(true) {
			debug.SetGCPercent(100)
		}
	}
}

// pacer adapts the percentage after each collection.
type pacer struct {
	stopped atomic.Bool

	// What follows is the runtime's goroutine of finalizers'.
	samples [4]metrics.Sample
	percent int
	at      time.Time // the last collection
	made    uint64    // until then
}

// cycle becomes garbage at once: each collection finds one.
type cycle struct{ of *pacer }

func (p *pacer) await() {
	runtime.SetFinalizer(&cycle{p}, func(c *cycle) {
		if !c.of.stopped.Load() {
			c.of.collected(time.Now())
			c.of.await()
		}
	})
}

func (p *pacer) collected(now time.Time) {
	metrics.Read(p.samples[:])
	made, live := p.samples[0].Value.Uint64(), p.samples[1].Value.Uint64()
	if p.made == 0 {
		p.made = made // what a start has made says nothing of what comes
	}
	room := garbage(made-p.made, live, now.Sub(p.at))
	p.made, p.at = made, now
	// What the runtime takes the percentage of.
	of := live + p.samples[2].Value.Uint64() + p.samples[3].Value.Uint64()
	percent := int(room * 100 / max(of, 1))
	if diff := percent - p.percent; max(diff, -diff)*8 > p.percent { // it stops the world
		p.percent = percent
		debug.SetGCPercent(percent)
	}
}

// garbage returns how much may be made until the next collection, if so much was made since the
// last one and so much is in use.
func garbage(made, live uint64, since time.Duration) uint64 {
	rate := float64(made) / max(since.Seconds(), 1e-6)
	return max(leastGarbage, min(mostGarbage, uint64(rate*garbageFor.Seconds())), live/2)
}
