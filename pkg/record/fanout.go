package record

import (
	"errors"
	"sync"
	"sync/atomic"
)

const (
	// MaxLiveReaders bounds how many may read along.
	MaxLiveReaders = 32
	// LiveEvents bounds how many events wait for one of them. All wait for the newest, so that
	// they share its memory.
	LiveEvents = 4096
	// LiveBytes bounds how many bytes of events wait for one of them.
	LiveBytes = 4 << 20
)

// Errors of those who read along.
var (
	ErrTooManyReaders = errors.New("too many readers of live events")
	ErrLiveEnded      = errors.New("the daemon is ending")
)

// Fanout hands what was stored to those who read along. Nobody waits for them: what a reader does
// not fetch in time is lost to it, and counted. While there are none it costs a look at a number
// for each batch. The zero value is ready.
type Fanout struct {
	reading atomic.Int32 // how many readers there are

	mu      sync.Mutex
	readers map[*Follower]struct{}
	ended   bool
}

// LiveBatch is what one commit stored; readers share it.
type LiveBatch struct {
	records [][]byte // end to end in one piece of memory
	bytes   int
}

// Gather copies records that are about to be stored, if anybody reads along; else it returns nil.
func (l *Fanout) Gather(records [][]byte) *LiveBatch {
	if l == nil || l.reading.Load() == 0 || len(records) == 0 {
		return nil
	}
	b := &LiveBatch{records: make([][]byte, len(records))}
	for _, r := range records {
		b.bytes += len(r)
	}
	if b.bytes > LiveBytes {
		// too large for any reader; only their number counts
		b.records = make([][]byte, len(records))
		return b
	}
	memory := make([]byte, 0, b.bytes)
	for i, r := range records {
		start := len(memory)
		memory = append(memory, r...)
		b.records[i] = memory[start:len(memory):len(memory)]
	}
	return b
}

// Publish hands a batch that was stored to all readers. It never waits for one.
func (l *Fanout) Publish(b *LiveBatch) {
	if b == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for r := range l.readers {
		r.put(b)
	}
}

// End lets the readers have what waits for them, and no more. None can come after it.
func (l *Fanout) End() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	for r := range l.readers {
		r.end()
	}
}

// Follow adds one who reads what is stored from now on.
func (l *Fanout) Follow() (*Follower, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.ended:
		return nil, ErrLiveEnded
	case len(l.readers) >= MaxLiveReaders:
		return nil, ErrTooManyReaders
	case l.readers == nil:
		l.readers = make(map[*Follower]struct{})
	}
	r := &Follower{Wake: make(chan struct{}, 1)}
	l.readers[r] = struct{}{}
	l.reading.Store(int32(len(l.readers)))
	return r, nil
}

// Leave removes one who reads along.
func (l *Fanout) Leave(r *Follower) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.readers, r)
	l.reading.Store(int32(len(l.readers)))
}

// Follower holds what waits for one who reads along.
type Follower struct {
	Wake chan struct{} // holds one token when there may be something new

	mu      sync.Mutex
	batches []*LiveBatch
	Events  int
	Bytes   int
	lost    int
	ended   bool
}

func (r *Follower) end() {
	r.mu.Lock()
	r.ended = true
	r.mu.Unlock()
	r.notify()
}

func (r *Follower) notify() {
	select {
	case r.Wake <- struct{}{}:
	default:
	}
}

// put adds a batch. What waits longest goes where there is no room.
func (r *Follower) put(b *LiveBatch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.batches = append(r.batches, b)
	r.Events += len(b.records)
	r.Bytes += b.bytes
	for len(r.batches) > 0 && (r.Events > LiveEvents || r.Bytes > LiveBytes) {
		r.lost += r.shift()
	}
	r.notify()
}

// shift drops the first batch and returns how many events it had. r.mu is held.
func (r *Follower) shift() int {
	b := r.batches[0]
	r.batches[0] = nil // its memory goes before that of the slice
	r.batches = r.batches[1:]
	r.Events -= len(b.records)
	r.Bytes -= b.bytes
	return len(b.records)
}

// Next takes the records of the batch that waits longest; nil: none waits. lost is how many events
// could not be kept since the last call, ended whether none will come any more.
func (r *Follower) Next() (records [][]byte, lost int, ended bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	lost, r.lost = r.lost, 0
	if len(r.batches) > 0 {
		records = r.batches[0].records
		r.shift()
	}
	return records, lost, r.ended
}
