package hmcsim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

type worldOptions struct {
	cpcs, partitions int
	seed             uint64
	rate             float64
	stepDelay        time.Duration
	keepMessages     int
	newSequence      bool // of OS messages at each IPL
	now              func() time.Time
}

// world is the estate and its time: what the HMCs that watch it tell of. One lock guards it and all
// of them, so that what happens is published in the order in which it happens.
type world struct {
	opts worldOptions
	name string // an UUID that names this world in ids

	mu       sync.Mutex
	rng      *rand.Rand // of the estate and its life
	ids      *rand.Rand // of what clients cause, so that they do not change the life
	hmcs     []*HMC
	ended    bool // all HMCs are closed
	cpcs     []*cpc
	parts    []*partition // of all CPCs
	byID     map[string]*partition
	groups   []*storageGroup
	loads    uint32 // of z/OS
	tasks    taskHeap
	taskSeq  int64
	happened int64 // notifications that were caused, each counted once however many sessions see it
	liveFrom int64
	turn     int // of life's mix

	poke      chan struct{}
	quit      chan struct{}
	startOnce sync.Once
	stopOnce  sync.Once
	wg        sync.WaitGroup
}

func newWorld(opts worldOptions) *world {
	w := &world{
		opts: opts, rng: rand.New(rand.NewPCG(opts.seed, opts.seed^0x9e3779b97f4a7c15)),
		ids: rand.New(rand.NewPCG(opts.seed, 1)), byID: make(map[string]*partition), poke: make(chan struct{}, 1),
		quit: make(chan struct{}),
	}
	w.name = w.uuid()
	w.populate()
	return w
}

// uuid returns the next UUID, in the form of version 1 as HMCs use it.
func (w *world) uuid() string {
	a, b := w.ids.Uint64(), w.ids.Uint64()
	return fmt.Sprintf(
		"%08x-%04x-11%02x-%04x-%012x", uint32(a), uint16(a>>32), uint8(a>>48), 0x8000|uint16(b>>48)&0x3fff,
		b&0xffffffffffff,
	)
}

// join lets an HMC watch the world, unless all that did are closed.
func (w *world) join(h *HMC) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		return false
	}
	w.hmcs = append(w.hmcs, h)
	return true
}

// leaveLocked ends what join began, and says whether no HMC watches any more: then the world ends.
// The HMC's sessions hear nothing more.
func (w *world) leaveLocked(h *HMC) (last bool) {
	for _, s := range h.order {
		s.ended = true
	}
	w.hmcs = slices.DeleteFunc(w.hmcs, func(o *HMC) bool { return o == h })
	w.ended = len(w.hmcs) == 0
	return w.ended
}

// tell publishes a notification about an object to every session of every HMC.
func (w *world) tell(m Message) {
	w.happened++
	for _, h := range w.hmcs {
		h.laterLocked(func() int { return h.publishAllLocked(TopicObject, m) })
	}
}

// laterLocked publishes something of the estate now, or after the HMC's lag, and returns to how
// many subscriptions it went now. What is published later stays in its order.
func (h *HMC) laterLocked(publish func() int) int {
	if h.opts.Lag <= 0 {
		return publish()
	}
	h.world.after(h.opts.Lag, func() {
		if !h.closed {
			publish()
		}
	})
	return 0
}

// setStatus changes a partition's status and tells of it. While the SE of its CPC is cut off nobody
// can see it; it shows when the SE is back.
func (w *world) setStatus(p *partition, status string) {
	if p.oldStatus != "" {
		p.oldStatus = status
		return
	}
	w.showStatus(p, status)
}

// showStatus changes what the HMCs see of a partition's status and tells of it.
func (w *world) showStatus(p *partition, status string) {
	if p.status == status {
		return
	}
	old := p.status
	p.status = status
	w.tellStatus(p, old, status)
}

func (w *world) setCPCStatus(c *cpc, status string) {
	if c.status == status {
		return
	}
	old := c.status
	c.status = status
	w.tellStatus(c, old, status)
}

// tellStatus tells of a status change. Now and then the body has more keys than usual, and now and
// then the same change is told twice, as real HMCs do.
func (w *world) tellStatus(o statusObject, from, to string) {
	m := statusChange(o, from, to, w.rng.IntN(8) == 0)
	w.tell(m)
	if w.rng.IntN(8) == 0 {
		w.tell(m)
	}
}

// steps lets something happen to a partition step by step: the first at once, each other one
// StepDelay later, and done at last, or when the partition is deleted. The partition is busy until
// then.
func (w *world) steps(p *partition, done func(), steps ...func()) {
	p.busy = true
	var next func(i int)
	next = func(i int) {
		if p.deleted || i == len(steps) {
			p.busy = false
			done()
			return
		}
		steps[i]()
		w.after(w.opts.stepDelay, func() { next(i + 1) })
	}
	next(0)
}

// bootSteps lets an operating system boot.
func (w *world) bootSteps(p *partition, groups [][]string) []func() {
	steps := make([]func(), 0, len(groups))
	for _, group := range groups {
		steps = append(steps, func() { w.tellOS(p, group...) })
	}
	return steps
}

// startUp lets a partition start: a DPM partition from stopped, a classic LPAR from not activated
// or not operating. done runs at the end.
func (w *world) startUp(p *partition, done func()) {
	var steps []func()
	if w.opts.newSequence {
		p.nextSeq, p.messages = 0, nil
	}
	p.halted = false
	for i := range p.messages { // whoever waited for an answer is not there any more
		p.messages[i].held = false
	}
	if p.cpc.dpm {
		steps = append(steps, func() { w.setStatus(p, statusStarting) })
		steps = append(steps, w.bootSteps(p, p.bootMessages())...)
		steps = append(steps, func() { w.setOS(p, w.loaded(p)) }, func() { w.setStatus(p, statusActive) })
	} else {
		if p.status == statusNotActivated {
			steps = append(steps, func() { w.setStatus(p, statusNotOperating) })
		}
		steps = append(steps, func() {
			p.psws = nil
			w.setStatus(p, statusOperating)
		})
		steps = append(steps, w.bootSteps(p, p.bootMessages())...)
		steps = append(steps, func() { w.setOS(p, w.loaded(p)) })
	}
	w.steps(p, done, steps...)
}

// shutDown lets a partition stop, its operating system first; it ends in the status given.
func (w *world) shutDown(p *partition, end string, done func()) {
	var steps []func()
	if p.cpc.dpm {
		steps = append(steps, func() { w.setStatus(p, statusStopping) })
	}
	if p.hasOS() {
		steps = append(steps, w.bootSteps(p, p.shutdownMessages())...)
	}
	steps = append(steps, func() { w.reset(p, end) })
	w.steps(p, done, steps...)
}

// reset takes what is loaded away: the partition is in the status given, and nothing runs in it.
func (w *world) reset(p *partition, status string) {
	p.halted, p.psws = false, nil
	w.setStatus(p, status)
	w.setOS(p, osInfo{loadAddress: p.os.loadAddress, loadParameter: p.os.loadParameter})
}

// restStatus is how a partition is when it is stopped for good.
func (p *partition) restStatus() string {
	if p.cpc.dpm {
		return statusStopped
	}
	return statusNotActivated
}

// lostStatus is what the HMC says of a partition whose SE does not communicate. What it says of a
// classic LPAR is not known.
func (p *partition) lostStatus() string {
	if p.cpc.dpm {
		return statusNoComm
	}
	return statusCheck
}

// setCommunicating cuts the SE of a CPC off, or brings it back: a burst of status changes of all
// its partitions. Every second one is told again when it is cut off, and each when it is back
// (public issues of users tell so).
func (w *world) setCommunicating(c *cpc, up bool) {
	if c.cutOff != up {
		return
	}
	c.cutOff = !up
	if !up {
		w.setCPCStatus(c, statusNotCommunicating)
		var again []Message
		for i, p := range c.partitions {
			p.oldStatus, p.status = p.status, p.lostStatus()
			if p.oldStatus == p.status {
				continue
			}
			m := statusChange(p, p.oldStatus, p.status, false)
			w.tell(m)
			if i%2 == 0 {
				again = append(again, m)
			}
		}
		for _, m := range again {
			w.tell(m)
		}
		return
	}
	w.setCPCStatus(c, c.goodStatus())
	for _, p := range c.partitions {
		if p.oldStatus == "" { // made meanwhile
			continue
		}
		old := p.status
		p.status, p.oldStatus = p.oldStatus, ""
		if p.status == old {
			continue
		}
		m := statusChange(p, old, p.status, false)
		w.tell(m)
		w.tell(m)
	}
}

// republishInventoryLocked tells of everything there is, as an HMC does that has built its
// inventory again: an "add" does not mean that something was created.
func (h *HMC) republishInventoryLocked() {
	for _, c := range h.world.cpcs {
		h.publishAllLocked(TopicObject, inventoryChange(c, "", "add"))
		for _, p := range c.partitions {
			h.publishAllLocked(TopicObject, inventoryChange(p, "", "add"))
		}
	}
}
