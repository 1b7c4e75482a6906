package deliver

import (
	"sync"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
)

// progress tracks the records that a delivery has read, and acknowledges them as far as all before them are done too.
// Each record has a number: those numbers have no gaps, which sequence numbers may have.
type progress struct {
	cursor *queue.Cursor
	log    *zap.Logger
	room   chan struct{} // holds one token when there may be room again
	eager  bool          // a token also when there is none yet: who waits for it has to know what it is waited for

	maxEvents, maxBytes int // what may be read from the first record that is not done

	mu      sync.Mutex
	entries []entry // from head: the records from the first that is not done
	head    int
	first   uint64 // number of entries[head]
	bytes   int    // of entries[head:]
}

type entry struct {
	seq   uint64
	bytes int
	done  bool
}

func newProgress(cursor *queue.Cursor, log *zap.Logger, maxEvents, maxBytes int) *progress {
	return &progress{cursor: cursor, log: log, room: make(chan struct{}, 1), maxEvents: maxEvents, maxBytes: maxBytes}
}

// next returns the number of the first record that add is given next.
func (p *progress) next() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.first + uint64(len(p.entries)-p.head)
}

// hasRoom says whether more may be read.
func (p *progress) hasRoom() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.roomLeft()
}

// firstLeft returns the number of the first record that is not done: what there has to be room for waits for that one.
func (p *progress) firstLeft() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.first
}

func (p *progress) roomLeft() bool {
	return len(p.entries)-p.head < p.maxEvents && p.bytes < p.maxBytes
}

// add takes in records that were read. Some may be done already.
func (p *progress) add(entries []entry) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.head > len(p.entries)/2 {
		p.entries = p.entries[:copy(p.entries, p.entries[p.head:])]
		p.head = 0
	}
	p.entries = append(p.entries, entries...)
	for i := range entries {
		p.bytes += entries[i].bytes
	}
	p.advance()
}

// finish marks records as done.
func (p *progress) finish(numbers []uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, n := range numbers {
		if n >= p.first { // else the queue's limits were faster
			p.entries[p.head+int(n-p.first)].done = true
		}
	}
	p.advance()
}

// trimmed forgets the records up to seq, which the limits of the queue have taken away, and returns how many of them
// had been done.
func (p *progress) trimmed(seq uint64) (done int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := p.head; i < len(p.entries) && p.entries[i].seq <= seq; i++ {
		if e := &p.entries[i]; e.done {
			done++
		} else {
			e.done = true
		}
	}
	p.advance()
	return done
}

// advance acknowledges what is done from the first record on.
func (p *progress) advance() {
	from := p.head
	for p.head < len(p.entries) && p.entries[p.head].done {
		p.bytes -= p.entries[p.head].bytes
		p.head++
	}
	if p.head == from {
		return
	}
	p.first += uint64(p.head - from)
	if err := p.cursor.Ack(p.entries[p.head-1].seq); err != nil {
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
