package record

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/estate"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/ledger"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/translate"
)

const (
	unitPrefix = "unit/" // group, NUL, URI: a CPC or a partition
	// arriveWithin is how much later than one HMC another one may report the same.
	arriveWithin = 5 * time.Second
	// recordedWithin is how much later than the one report the other one may be recorded.
	recordedWithin = 2 * time.Minute
	// replayWithin is how long ago another HMC may have reported what this one replays or lists
	// after an outage.
	replayWithin = 24 * time.Hour
)

// Group is what HMCs share that manage the same machines: what is known of these, and what any of
// them has reported. Their transactions follow each other, so that what is known is stored in the
// order in which it became so. Safe for concurrent use.
type Group struct {
	Name   string
	Estate *estate.Estate

	queue      *queue.Queue
	log        *zap.Logger
	configured atomic.Int32 // HMCs
	mu         sync.Mutex   // of the transactions, and of what follows
	groupState
	flight flight
}

// groupState is what a transaction reaches of its group.
type groupState struct {
	out        outbox
	operations translate.Operations
	members    map[string]*Recorder // that run
	changes    *ledger.Sightings
	messages   *ledger.Sightings
}

// NewGroup returns a group with what is stored of it.
func NewGroup(name string, q *queue.Queue, log *zap.Logger) *Group {
	g := &Group{
		Name: name, Estate: estate.New(), queue: q, log: log,
		groupState: groupState{
			members: make(map[string]*Recorder), changes: ledger.NewSightings(name, "changes", recordedWithin),
			messages: ledger.NewSightings(name, "messages", replayWithin),
		},
	}
	g.load()
	return g
}

// load replaces what is known by what is stored. g.mu is held, or nobody knows g yet.
func (g *Group) load() {
	prefix := unitPrefix + g.Name + "\x00"
	damaged := g.Estate.Load(time.Now(), func(fn func(uri string, value []byte) bool) {
		g.queue.StateRange(prefix, func(key string, value []byte) bool { return fn(key[len(prefix):], value) })
	})
	damaged += g.changes.Load(g.queue.StateRange) + g.messages.Load(g.queue.StateRange)
	g.changes.Anchor(time.Now())
	g.messages.Anchor(time.Now())
	if damaged > 0 {
		g.log.Warn("a part of what is known of CPCs and partitions cannot be read, and is asked for again",
			zap.String("group", g.Name), zap.Int("values", damaged))
	}
}

// Configured says how many HMCs the group has by the configuration: also one that does not run, for
// a moment of a reload, may report. It never waits: the next transaction goes by it.
func (g *Group) Configured(members int) { g.configured.Store(int32(members)) }

// sawAll reports whether another HMC of the group was watched all the time, and lacked no topic.
func (t *tx) sawAll(from, to time.Time, kind string) bool {
	for _, o := range t.g.members {
		follows := slices.Contains(o.cfg.Topics, kind)
		if kind == event.TopicOSMessage {
			follows = len(o.cfg.OSMessages) > 0
		}
		if o != t.r && follows && o.tx.gaps.Watched(from, to, kind) && !o.tx.gaps.Lacks(kind) {
			return true
		}
	}
	return false
}

// inSight reports whether an HMC of the group is watched now.
func (t *tx) inSight(hmc string) bool {
	o := t.g.members[hmc]
	return o != nil && o.tx.gaps.Watched(t.now, t.now, event.TopicObject)
}

// flight is what a group has handed to the queue, and what became of it. The batches build on each
// other: when one of them cannot be stored, none behind it is.
type flight struct {
	failed atomic.Bool // a batch could not be stored, and what is known was not loaded since

	mu        sync.Mutex
	chain     *queue.Chain
	pending   int
	sent      uint64
	committed uint64
	refused   failures
	landed    chan struct{} // closed when none is pending any more; nil: nobody waits
}

// add counts a batch, and returns its number and the chain it belongs to.
func (f *flight) add() (batch uint64, chain *queue.Chain) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.chain == nil {
		f.chain = new(queue.Chain)
	}
	f.pending++
	f.sent++
	return f.sent, f.chain
}

// land notes what became of a batch. The queue calls it, so that it must not wait for a
// transaction, which may be waiting for the queue.
func (f *flight) land(batch uint64, err error, refused failures) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil {
		f.committed = max(f.committed, batch)
	} else {
		f.failed.Store(true)
		if f.refused == nil {
			f.refused = make(failures)
		}
		for r, of := range refused {
			f.refused.add(r, of)
		}
	}
	if f.pending--; f.pending == 0 && f.landed != nil {
		close(f.landed)
		f.landed = nil
	}
}

// stored returns the number of the last batch that is stored.
func (f *flight) stored() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.committed
}

// landing returns a channel that is closed when no batch is pending any more; nil: none is.
func (f *flight) landing() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.pending == 0 {
		return nil
	}
	if f.landed == nil {
		f.landed = make(chan struct{})
	}
	return f.landed
}

// restart begins a new chain, and returns what could not be stored since the last call.
func (f *flight) restart() (refused failures) {
	f.mu.Lock()
	defer f.mu.Unlock()
	refused, f.refused = f.refused, nil
	f.chain = nil
	f.failed.Store(false)
	return refused
}
