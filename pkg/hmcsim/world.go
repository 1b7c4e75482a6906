package hmcsim

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

type worldOptions struct {
	cpcs, partitions int
	seed             uint64
	rate             float64
	stepDelay        time.Duration
	keepMessages     int
}

// world is the estate and its time: what the HMCs that watch it tell of. One lock guards it and all of them, so that
// what happens is published in the order in which it happens.
type world struct {
	opts    worldOptions
	started string // an UUID that names this world in ids

	mu       sync.Mutex
	rng      *rand.Rand
	hmcs     []*HMC
	tasks    taskHeap
	taskSeq  int64
	happened int64 // notifications that life has caused, each counted once however many sessions see it
	liveFrom int64

	poke     chan struct{}
	quit     chan struct{}
	stopOnce sync.Once
	wg       sync.WaitGroup
}

type partition struct{}

func (p *partition) held() []osMessage { return nil }

type osMessage struct{}

func osMessageNotification(*partition, []osMessage, bool) Message { return Message{} }

func newWorld(opts worldOptions) *world {
	w := &world{
		opts: opts,
		rng:  rand.New(rand.NewPCG(opts.seed, opts.seed^0x9e3779b97f4a7c15)), //nolint:gosec // an estate, not a secret
		poke: make(chan struct{}, 1),
		quit: make(chan struct{}),
	}
	w.started = w.uuid()
	return w
}

// uuid returns the next UUID, in the form of version 1 as HMCs use it.
func (w *world) uuid() string {
	a, b := w.rng.Uint64(), w.rng.Uint64()
	return fmt.Sprintf("%08x-%04x-11%02x-%04x-%012x", uint32(a), uint16(a>>32), uint8(a>>48), 0x8000|uint16(b>>48)&0x3fff, b&0xffffffffffff)
}

// attach lets an HMC watch the world.
func (w *world) attach(h *HMC) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hmcs = append(w.hmcs, h)
}

func (w *world) live() { w.happened++ }
