package deliver

import (
	"cmp"
	"slices"
	"sync"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
)

// progress tracks the records that a delivery has read, and acknowledges them as far as all before
// them are done too. It bounds how far the delivery reads beyond the first record that is not done.
type progress struct {
	cursor *queue.Cursor
	log    *zap.Logger
	// room holds a token when there is room again.
	room chan struct{}
	// eager: there is one also when records were acknowledged and there is no room yet, for what
	// is to be done meanwhile depends on which record is the first.
	eager bool
	// maxEvents and maxBytes are what may be read from the first record that is not done.
	maxEvents, maxBytes int

	mu sync.Mutex
	// entries are the records from the first that is not done.
	entries fifo[entry]
	bytes   int
	// upTo is the last record of those that are done up to there, as far as they were read.
	upTo uint64
	// before is what was done before anything was read.
	before Done
}

type entry struct {
	seq   uint64
	bytes int
	done  bool
}

func newProgress(cursor *queue.Cursor, log *zap.Logger, maxEvents, maxBytes int) *progress {
	return &progress{cursor: cursor, log: log, room: make(chan struct{}, 1), maxEvents: maxEvents, maxBytes: maxBytes}
}

// hasRoom says whether more may be read, and else which record has to be done first.
func (p *progress) hasRoom() (ok bool, first uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.roomLeft() {
		return true, 0
	}
	return false, p.entries.rest()[0].seq
}

func (p *progress) roomLeft() bool { return p.entries.len() < p.maxEvents && p.bytes < p.maxBytes }

// add takes in records that were read. Some may be done already.
func (p *progress) add(entries []entry) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.entries.push(entries...)
	for i := range entries {
		p.bytes += entries[i].bytes
	}
	p.advance()
}

// finish marks records as done. Those that the limits of the queue have taken away are not there
// any more.
func (p *progress) finish(seqs []uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	entries := p.entries.rest()
	bySeq := func(e entry, seq uint64) int { return cmp.Compare(e.seq, seq) }
	at := 0
	for _, seq := range seqs {
		if at >= len(entries) || entries[at].seq != seq { // mostly it is the next one
			var found bool
			if at, found = slices.BinarySearchFunc(entries, seq, bySeq); !found {
				continue
			}
		}
		entries[at].done = true
		at++
	}
	p.advance()
}

// trimmed forgets the records up to seq, which the limits of the queue have taken away, and returns
// how many of them had been done.
func (p *progress) trimmed(seq uint64) (done int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	entries := p.entries.rest()
	for i := 0; i < len(entries) && entries[i].seq <= seq; i++ {
		if entries[i].done {
			done++
		}
		entries[i].done = true
	}
	p.advance()
	return done
}

// advance acknowledges what is done from the first record on.
func (p *progress) advance() {
	n, last := 0, uint64(0)
	for _, e := range p.entries.rest() {
		if !e.done {
			break
		}
		p.bytes -= e.bytes
		last = e.seq
		n++
	}
	if n == 0 {
		return
	}
	p.entries.drop(n)
	p.upTo = last
	if err := p.cursor.Ack(last); err != nil {
		p.log.Error("deliveries could not be acknowledged; they may be repeated after a restart", zap.Error(err))
	}
	if p.eager || p.roomLeft() {
		notify(p.room)
	}
}

// notify leaves a token in a channel that holds one.
func notify(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
