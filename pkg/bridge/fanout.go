package bridge

import (
	"errors"
	"sync"
	"sync/atomic"
)

const (
	// maxLiveReaders bounds how many may read along.
	maxLiveReaders = 32
	// liveEvents and liveBytes bound what waits for one of them. All wait for the newest, so that they share its memory.
	liveEvents = 4096
	liveBytes  = 4 << 20
)

// Errors of those who read along.
var (
	errTooManyReaders = errors.New("too many readers of live events")
	errLiveEnded      = errors.New("the daemon is ending")
)

// fanout hands what was stored to those who read along. Nobody waits for them: what a reader does not fetch in time is lost
// to it, and counted. While there are none it costs a look at a number for each batch. The zero value is ready.
type fanout struct {
	reading atomic.Int32 // how many readers there are

	mu      sync.Mutex
	readers map[*follower]struct{}
	ended   bool
}

// liveBatch is what one commit stored; readers share it.
type liveBatch struct {
	records [][]byte // end to end in one piece of memory
	bytes   int
}

// gather copies records that are about to be stored, if anybody reads along; else it returns nil.
func (l *fanout) gather(records [][]byte) *liveBatch {
	if l == nil || l.reading.Load() == 0 || len(records) == 0 {
		return nil
	}
	b := &liveBatch{records: make([][]byte, len(records))}
	for _, r := range records {
		b.bytes += len(r)
	}
	if b.bytes > liveBytes {
		b.records = make([][]byte, len(records)) // too large for any reader; only their number counts
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

// publish hands a batch that was stored to all readers. It never waits for one.
func (l *fanout) publish(b *liveBatch) {
	if b == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for r := range l.readers {
		r.put(b)
	}
}

// end lets the readers have what waits for them, and no more. None can come after it.
func (l *fanout) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	for r := range l.readers {
		r.end()
	}
}

// follow adds one who reads what is stored from now on.
func (l *fanout) follow() (*follower, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.ended:
		return nil, errLiveEnded
	case len(l.readers) >= maxLiveReaders:
		return nil, errTooManyReaders
	case l.readers == nil:
		l.readers = make(map[*follower]struct{})
	}
	r := &follower{wake: make(chan struct{}, 1)}
	l.readers[r] = struct{}{}
	l.reading.Store(int32(len(l.readers)))
	return r, nil
}

// leave removes one who reads along.
func (l *fanout) leave(r *follower) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.readers, r)
	l.reading.Store(int32(len(l.readers)))
}

// follower holds what waits for one who reads along.
type follower struct {
	wake chan struct{} // holds one token when there may be something new

	mu      sync.Mutex
	batches []*liveBatch
	events  int
	bytes   int
	lost    int
	ended   bool
}

func (r *follower) end() {
	r.mu.Lock()
	r.ended = true
	r.mu.Unlock()
	r.notify()
}

func (r *follower) notify() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// put adds a batch. What waits longest goes where there is no room.
func (r *follower) put(b *liveBatch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.batches = append(r.batches, b)
	r.events += len(b.records)
	r.bytes += b.bytes
	for len(r.batches) > 0 && (r.events > liveEvents || r.bytes > liveBytes) {
		r.lost += r.shift()
	}
	r.notify()
}

// shift drops the first batch and returns how many events it had. r.mu is held.
func (r *follower) shift() int {
	b := r.batches[0]
	r.batches[0] = nil // its memory goes before that of the slice
	r.batches = r.batches[1:]
	r.events -= len(b.records)
	r.bytes -= b.bytes
	return len(b.records)
}

// next takes the records of the batch that waits longest; nil: none waits. lost is how many events could not be kept since
// the last call, ended whether none will come any more.
func (r *follower) next() (records [][]byte, lost int, ended bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	lost, r.lost = r.lost, 0
	if len(r.batches) > 0 {
		records = r.batches[0].records
		r.shift()
	}
	return records, lost, r.ended
}
