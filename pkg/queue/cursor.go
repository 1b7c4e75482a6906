package queue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/datadir"
)

// Record is one record of the queue.
type Record struct {
	// Seq is its sequence number.
	Seq uint64
	// Data is valid for as long as it is used, and must not be changed: other cursors may have
	// the same memory. It keeps its neighbors in memory too, up to 64 KiB.
	Data []byte
	// Stored is when it was appended, which does not follow the machine's clock when that is set.
	Stored time.Time
}

// What Next returns at most when it is not told.
const (
	DefaultNextRecords = 1000
	DefaultNextBytes   = 1 << 20
)

// ErrNotRead is returned by Ack for a record that Next has not returned.
var ErrNotRead = errors.New("queue: acknowledged a record that was not read")

// Cursor is one reader's place in the queue. Its methods may be called from any goroutine; Next
// serves one call at a time.
type Cursor struct {
	q    *Queue
	name string
	// Holds one token when there may be something new.
	wake chan struct{}

	// held by Next
	nextMu sync.Mutex

	// Guards what follows; q.mu is never taken while it is held.
	mu  sync.Mutex
	pos position
	// The record that Next returns next.
	read uint64
	// Chunks from pos.acked+1 to what was read.
	window []chunkRef
	// Unreadable records that are not acknowledged yet.
	holes []span
	// Unreadable records up to this one were reported.
	lostTo uint64
	// When the first record that is not acknowledged was appended, at the latest; used while
	// window is empty.
	hint int64
	// Where Next reads: a block, a chunk of it, and the offset of record read, which is right
	// if at is read.
	view   Block
	chunk  int
	offset int
	at     uint64
	// Base of the segment that is read, which the store keeps open; 0: none.
	using   uint64
	removed bool

	// Reads for Again; made when it is needed.
	againMu sync.Mutex
	again   *Cursor
}

// chunkRef is what a cursor keeps of a chunk that it has read.
type chunkRef struct {
	chunkInfo
	segment uint64
}

func newCursor(q *Queue, name string, p position) *Cursor {
	return &Cursor{q: q, name: name, wake: make(chan struct{}, 1), pos: p, read: p.acked + 1}
}

// Name returns the cursor's name.
func (c *Cursor) Name() string { return c.name }

// Acked returns the sequence number up to which everything is acknowledged.
func (c *Cursor) Acked() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pos.acked
}

// Next returns the records after those it has returned before, at least one. It waits for it until
// ctx is done, or returns ErrClosed when the queue is closed or the cursor was removed. It returns
// no more than maxRecords, and no more bytes than maxBytes unless the first record alone is larger;
// 0 stands for the defaults. What it returns remains in the queue until it is acknowledged, but is
// returned again only after Rewind or a restart.
func (c *Cursor) Next(ctx context.Context, maxRecords, maxBytes int) ([]Record, error) {
	maxRecords = cmp.Or(max(maxRecords, 0), DefaultNextRecords)
	maxBytes = cmp.Or(max(maxBytes, 0), DefaultNextBytes)
	c.nextMu.Lock()
	defer c.nextMu.Unlock()
	for {
		if c.q.isClosing() {
			return nil, ErrClosed
		}
		records, err := c.take(maxRecords, maxBytes)
		if err != nil || len(records) > 0 {
			return records, err
		}
		select {
		case <-c.wake:
		case <-c.q.closing:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Again returns records that Next has returned before, in the order of the numbers given, so that
// nobody need keep what waits. One that is not there any more has no Data: it was acknowledged, or
// cannot be read. Neighbors cost little.
func (c *Cursor) Again(seqs []uint64) ([]Record, error) {
	c.againMu.Lock()
	defer c.againMu.Unlock()
	c.mu.Lock()
	removed := c.removed
	c.mu.Unlock()
	if removed {
		return nil, ErrClosed
	}
	if c.again == nil {
		c.again = newCursor(c.q, "", position{})
	}
	a, records := c.again, make([]Record, len(seqs))
	for i, seq := range seqs {
		records[i].Seq = seq
		if !a.view.holds(seq) {
			if c.q.isClosing() {
				return nil, ErrClosed
			}
			view, err := a.locate(seq)
			if err != nil {
				return nil, err
			}
			if !view.holds(seq) {
				continue
			}
			a.view = view
		}
		if a.read != seq || a.at != seq {
			a.read = seq
			a.seek()
		}
		ch := &a.view.chunks[a.chunk]
		records[i].Data, a.offset = nextEntry(a.view.buf, a.offset)
		records[i].Stored = c.q.clock.time(ch.at)
		if a.read = seq + 1; a.offset < ch.end {
			a.at = a.read
		} else {
			a.at = 0
		}
	}
	return records, nil
}

// take returns what there is, which may be nothing.
func (c *Cursor) take(maxRecords, maxBytes int) ([]Record, error) {
	var records []Record
	room := maxBytes
	c.q.mu.RLock()
	end := c.q.end
	c.q.mu.RUnlock()
	for {
		c.mu.Lock()
		if c.removed {
			c.mu.Unlock()
			return nil, ErrClosed
		}
		if len(records) > 0 && records[len(records)-1].Seq >= c.read {
			// Rewind was called meanwhile: what was collected would come twice, and out
			// of order.
			records, room = nil, maxBytes
		}
		full := false
		if c.view.holds(c.read) {
			records, room, full = c.collect(records, maxRecords, room, end)
		}
		read := c.read
		c.mu.Unlock()
		if full {
			return records, nil
		}
		view, err := c.locate(read)
		if err != nil || view.empty() {
			if len(records) > 0 {
				return records, nil // an error comes back with the next call
			}
			return nil, err
		}
		c.mu.Lock()
		if c.read == read { // else it was moved while the disk was read
			c.view, c.at = view, 0
			c.read = max(read, view.first()) // a hole in front of it
		}
		c.mu.Unlock()
	}
}

// collect appends records of the current block; the queue ends with record end, or later. c.mu is
// held and the block holds c.read.
func (c *Cursor) collect(records []Record, maxRecords, room int, end uint64) (_ []Record, left int, full bool) {
	if c.at != c.read {
		c.seek()
	}
	if records == nil {
		// One allocation for what is going to fit, judging by this chunk.
		ch := &c.view.chunks[c.chunk]
		fit := uint64(int64(room)*int64(ch.count)/max(1, ch.bytes)) + 1
		records = make([]Record, 0, min(uint64(maxRecords), fit, end-c.read+1))
	}
	for ; c.chunk < len(c.view.chunks); c.chunk++ {
		ch := &c.view.chunks[c.chunk]
		c.offset = max(c.offset, ch.start)
		at := c.q.clock.time(ch.at)
		if n := len(c.window); n == 0 || c.window[n-1].last() < c.read {
			c.window = append(c.window, chunkRef{*ch, c.view.segment})
		}
		for c.offset < ch.end {
			data, next := nextEntry(c.view.buf, c.offset)
			if len(records) == maxRecords || (len(data) > room && len(records) > 0) {
				c.at = c.read
				return records, room, true
			}
			records = append(records, Record{Seq: c.read, Data: data, Stored: at})
			room -= len(data)
			c.read++
			c.offset = next
		}
	}
	c.at = 0
	return records, room, len(records) == maxRecords || room <= 0
}

// seek finds c.read in the current block.
func (c *Cursor) seek() {
	c.chunk = c.view.chunkOf(c.read)
	ch := &c.view.chunks[c.chunk]
	c.offset = ch.start
	for range c.read - ch.first {
		_, c.offset = nextEntry(c.view.buf, c.offset)
	}
	c.at = c.read
}

// locate returns the block with record seq, or, if that is not to be had, with the first one after
// it. It is empty at the end of the queue.
func (c *Cursor) locate(seq uint64) (Block, error) {
	q := c.q
	for {
		q.mu.RLock()
		b, s := q.cachedBlock(seq), q.segmentOf(seq)
		if !b.empty() || s == nil || s.empty() {
			q.mu.RUnlock()
			c.use(0)
			return b, nil
		}
		at := *s
		q.mu.RUnlock()
		seq = max(seq, at.base)
		c.use(at.base)

		view, next, err := q.store.Read(at, seq)
		switch {
		case err == nil:
			return view, nil
		case errors.Is(err, ErrGone):
			if q.isClosing() {
				return Block{}, ErrClosed
			}
			// removed meanwhile
		case !datadir.IsDamage(err):
			return Block{}, fmt.Errorf("queue: %w", err)
		case next == 0:
			if q.condemn(s) {
				return Block{}, nil // the cursor is behind it now
			}
		default:
			c.lost(seq, next-1)
			seq = next
		}
	}
}

// segmentOf returns the segment with record seq, or the first one after it; nil if there is none.
// q.mu is held.
func (q *Queue) segmentOf(seq uint64) *Segment {
	i := sort.Search(len(q.segments), func(i int) bool { return q.segments[i].last >= seq })
	if i == len(q.segments) {
		return nil
	}
	return q.segments[i]
}

// cachedBlock returns the block with record seq if it is in memory, else an empty one. q.mu is
// held.
func (q *Queue) cachedBlock(seq uint64) Block {
	i := sort.Search(len(q.cache), func(i int) bool { return q.cache[i].last() >= seq })
	if i == len(q.cache) || !q.cache[i].holds(seq) {
		return Block{}
	}
	return q.cache[i]
}

// use notes which segment the cursor reads, so that it is kept open between the calls. 0: none.
func (c *Cursor) use(base uint64) {
	c.mu.Lock()
	if c.removed {
		base = 0
	}
	old := c.using
	c.using = base
	c.mu.Unlock()
	if old != base && old != 0 {
		c.q.store.Rest(old)
	}
}

// condemn takes a segment that cannot be read at all out of use. It returns true for the one that
// is written to: that stays on the list until the committer, who may be using it at this moment,
// takes it out.
func (q *Queue) condemn(s *Segment) (active bool) {
	q.mu.RLock()
	active = len(q.segments) > 0 && q.segments[len(q.segments)-1] == s
	last := s.last
	q.mu.RUnlock()
	if !active {
		q.takeOut(s)
		return false
	}
	q.condemned.Store(s)
	q.skip(s.base, last)
	return true
}

// lost notes that records cannot be read.
func (c *Cursor) lost(first, last uint64) {
	c.mu.Lock()
	n := 0
	if last > c.lostTo {
		n = int(last - max(first, c.lostTo+1) + 1)
		c.lostTo = last
		c.holes = append(c.holes, span{first, last})
		c.settle()
	}
	c.mu.Unlock()
	if n > 0 && c.name != "" { // a Reader sees it in the numbers
		c.q.opts.OnDropped(c.name, n)
		notify(c.q.dirty)
	}
}

// settle moves the acknowledged position over unreadable records behind it. c.mu is held.
func (c *Cursor) settle() {
	for len(c.holes) > 0 && c.holes[0].first <= c.pos.acked+1 {
		c.pos.acked = max(c.pos.acked, c.holes[0].last)
		c.holes = c.holes[1:]
	}
}

// Ack says that every record up to and including seq is done with. It returns at once; the position
// is written 100 ms later and synced to disk after a second, and by Close. Sequence numbers that
// are acknowledged already are no error, so that a late call does no harm.
func (c *Cursor) Ack(seq uint64) error {
	if c.q.isClosing() {
		return ErrClosed
	}
	c.mu.Lock()
	if c.removed {
		c.mu.Unlock()
		return ErrClosed
	}
	if seq <= c.pos.acked {
		c.mu.Unlock()
		return nil
	}
	if seq >= c.read {
		c.mu.Unlock()
		return fmt.Errorf("%w: %d", ErrNotRead, seq)
	}
	c.moveTo(seq)
	c.mu.Unlock()
	notify(c.q.dirty)
	return nil
}

// moveTo moves the acknowledged position to record seq. c.mu is held.
func (c *Cursor) moveTo(seq uint64) {
	c.pos.acked = seq
	c.settle()
	c.popWindow()
	c.read = max(c.read, c.pos.acked+1)
}

// popWindow drops what is acknowledged from the window and takes the position's bytes from it. c.mu
// is held.
func (c *Cursor) popWindow() {
	n := 0
	for n < len(c.window) && c.window[n].last() <= c.pos.acked {
		n++
	}
	if n > 0 {
		w := &c.window[n-1]
		c.pos.segment, c.pos.bytes, c.hint = w.segment, w.before+w.bytes, w.at
		c.window = c.window[n:] // to be moved by append, and not each time
	}
	if len(c.window) > 0 {
		if w := &c.window[0]; w.first <= c.pos.acked {
			done := int64(c.pos.acked - w.first + 1)
			c.pos.segment = w.segment
			c.pos.bytes = w.before + w.bytes*done/int64(w.count)
		}
	}
}

// Rewind makes Next begin again with the first record that is not acknowledged.
func (c *Cursor) Rewind() {
	c.mu.Lock()
	c.read = c.pos.acked + 1
	c.window = c.window[:0]
	c.at = 0
	c.mu.Unlock()
	notify(c.wake)
}

// skip moves the cursor over the records first to last, which are gone, and returns how many of
// them it had not acknowledged.
func (c *Cursor) skip(first, last uint64) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	from := max(first, c.pos.acked+1)
	if from > last {
		return 0
	}
	n := int(last - from + 1)
	for _, h := range c.holes { // they were counted
		n -= max(0, int(min(h.last, last))+1-int(max(h.first, from)))
	}
	if c.pos.acked+1 >= first {
		c.moveTo(last)
	}
	if c.read >= first && c.read <= last {
		c.read = last + 1
	}
	return n
}

// remove ends the cursor.
func (c *Cursor) remove() {
	c.mu.Lock()
	c.removed = true
	c.view, c.window = Block{}, nil
	c.mu.Unlock()
	c.use(0)
	notify(c.wake)
	c.againMu.Lock()
	defer c.againMu.Unlock()
	if c.again != nil {
		c.again.remove()
		c.again = nil
	}
}

// arrived wakes the cursor for record first, which is new and was appended at the given time, and
// returns the last record that it does not need to be kept in memory, where record oldest is the
// first one: who is behind that reads files.
func (c *Cursor) arrived(first, oldest uint64, at int64) uint64 {
	c.mu.Lock()
	read := c.read
	if c.pos.acked+1 == first {
		c.hint = at
	}
	c.mu.Unlock()
	notify(c.wake)
	if read < oldest {
		return math.MaxUint64
	}
	return read - 1
}

// loadHint reads when the first waiting record was appended. Only Open calls it.
func (c *Cursor) loadHint() {
	if b, err := c.locate(c.read); err == nil && !b.empty() {
		c.mu.Lock()
		c.hint = b.chunks[b.chunkOf(max(b.first(), c.pos.acked+1))].at
		c.mu.Unlock()
	}
	c.use(0)
}

// Pending returns how many records wait, that is are not acknowledged, the bytes of their data, and
// when the oldest of them was appended (zero if there is none). The number is exact; bytes are
// estimated where a part of what was stored in one transaction is acknowledged. It never reads the
// disk.
func (c *Cursor) Pending() (events, bytes int64, oldest time.Time) {
	c.mu.Lock()
	pos, at := c.pos, c.hint
	fromWindow := len(c.window) > 0
	if fromWindow {
		at = c.window[0].at
	}
	c.mu.Unlock()
	c.q.mu.RLock()
	defer c.q.mu.RUnlock()
	events, bytes, first := c.q.pending(pos)
	if events == 0 {
		return 0, 0, time.Time{}
	}
	if !fromWindow {
		at = max(at, first.firstAt)
		if b := c.q.cachedBlock(pos.acked + 1); !b.empty() {
			at = b.chunks[b.chunkOf(pos.acked+1)].at
		}
	}
	return events, bytes, c.q.clock.time(at)
}

// left returns the bytes of a segment that are behind a position in it or before it.
func (p position) left(s *Segment) int64 {
	if p.segment == s.base {
		return max(0, s.bytes-p.bytes)
	}
	return s.bytes
}

// pending adds up what is behind a position, and returns the segment in which that begins. q.mu is
// held.
func (q *Queue) pending(pos position) (events, bytes int64, first *Segment) {
	for _, s := range slices.Backward(q.segments) {
		if s.last <= pos.acked {
			break
		}
		if s.empty() {
			continue
		}
		first = s
		events += int64(s.last - max(s.base-1, pos.acked))
		bytes += pos.left(s)
	}
	return events, bytes, first
}

// Trim acknowledges the oldest records until no more than maxBytes wait and none that was appended
// before olderThan, and returns how many went. 0 and the zero time stand for no limit. Records that
// Next has returned and that are not acknowledged count as waiting and may go too. Unlike Pending
// it may read the disk.
func (c *Cursor) Trim(maxBytes int64, olderThan time.Time) (dropped int, err error) {
	if c.q.isClosing() {
		return 0, ErrClosed
	}
	var before int64
	if !olderThan.IsZero() {
		before = c.q.clock.now() - int64(time.Since(olderThan))
	}
	for {
		from, to, first, err := c.trimTarget(maxBytes, before)
		if err == nil && to.acked > from.acked {
			var n int
			if n, err = c.advance(from, to, first); err == nil {
				dropped += n
				continue
			}
		}
		if dropped > 0 {
			notify(c.q.dirty)
		}
		return dropped, err
	}
}

// trimTarget finds a step of Trim: over all of a segment if that is possible, else within a block.
// to is from when there is nothing to do. The records from first to the position are still there.
func (c *Cursor) trimTarget(maxBytes, before int64) (from, to position, first uint64, err error) {
	c.mu.Lock()
	from = c.pos
	c.mu.Unlock()
	q := c.q
	q.mu.RLock()
	_, waiting, _ := q.pending(from)
	s := q.segmentOf(from.acked + 1)
	if s == nil {
		q.mu.RUnlock()
		return from, from, 0, nil
	}
	at := *s
	q.mu.RUnlock()
	over := maxBytes > 0 && waiting > maxBytes
	first = max(at.base, from.acked+1)
	if (over && waiting-from.left(&at) >= maxBytes) || at.lastAt < before {
		return from, position{acked: at.last, segment: at.base, bytes: at.bytes}, first, nil
	}
	if !over && before == 0 {
		return from, from, 0, nil
	}
	view, err := c.locate(first)
	if err != nil || view.empty() {
		return from, from, 0, err
	}
	to = from
	first = max(from.acked+1, view.first())
	for _, ch := range view.chunks[view.chunkOf(first):] {
		bytes, seq := ch.before, ch.first
		for offset := ch.start; offset < ch.end; seq++ {
			var data []byte
			data, offset = nextEntry(view.buf, offset)
			bytes += int64(len(data))
			if seq < first {
				continue
			}
			if (maxBytes <= 0 || waiting <= maxBytes) && ch.at >= before {
				return from, to, first, nil
			}
			waiting -= int64(len(data))
			to = position{acked: seq, segment: view.segment, bytes: bytes}
		}
	}
	return from, to, first, nil
}

// advance moves the acknowledged position from one to another, and returns how many of the records
// from first on that drops. If it has changed meanwhile, nothing is done.
func (c *Cursor) advance(from, to position, first uint64) (dropped int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.removed {
		return 0, ErrClosed
	}
	if c.pos != from {
		return 0, nil
	}
	c.moveTo(to.acked)
	c.pos.segment, c.pos.bytes = to.segment, to.bytes
	return int(to.acked + 1 - first), nil
}

// checkpoint collects the positions of all cursors.
func (q *Queue) checkpoint() *Checkpoint {
	q.mu.RLock()
	defer q.mu.RUnlock()
	cp := &Checkpoint{end: q.end, cursors: make(map[string]position, len(q.cursors))}
	for name, c := range q.cursors {
		c.mu.Lock()
		cp.cursors[name] = c.pos
		c.mu.Unlock()
	}
	return cp
}

// flushLoop stores the positions, a little after they have changed, and removes segments that are
// done with.
func (q *Queue) flushLoop() {
	var synced time.Time
	var old <-chan time.Time // something may be so by now
	if q.opts.Retain > 0 {
		tick := time.NewTicker(max(min(q.opts.Retain/8, retainEvery), time.Millisecond))
		defer tick.Stop()
		old = tick.C
	}
	var due <-chan time.Time // what is written is to be synced then
	for {
		sync := false
		select {
		case <-old:
			q.removeDone()
			continue
		case <-due:
			sync = true
		case <-q.dirty:
			select {
			case <-time.After(flushInterval):
			case <-q.closing:
			}
			sync = time.Since(synced) >= syncInterval
		case <-q.closing:
			return // Close stores what there is at the very end
		}
		switch err := q.flushPositions(sync); {
		case err != nil:
			notify(q.dirty) // again
		case sync:
			synced, due = time.Now(), nil
		case due == nil:
			due = time.After(syncInterval - time.Since(synced))
		}
		q.removeDone()
	}
}

// flushPositions stores the positions of all cursors, so that they survive the end of the process,
// or also, with sync, that of the machine.
func (q *Queue) flushPositions(sync bool) error {
	q.flushMu.Lock()
	defer q.flushMu.Unlock()
	err := q.store.SaveCursors(q.checkpoint(), sync)
	q.outcome(&q.cursorErr, "store cursors", err, "cursors cannot be stored", "cursors can be stored again")
	return err
}

// removeDone removes the segments that every cursor has passed and that are not retained. The last
// one stays: it holds the state, and how far the sequence went. It returns whether there was any.
func (q *Queue) removeDone() (removed bool) {
	q.mu.RLock()
	needed, young := q.needed(), q.clock.now()-int64(q.opts.Retain)
	for c, hold := range q.readers {
		if hold {
			needed = min(needed, c.Acked())
		}
	}
	var done []*Segment
	for i, s := range q.segments {
		if i+1 < len(q.segments) && s.last <= needed && (q.opts.Retain == 0 || s.empty() || s.lastAt < young) {
			done = append(done, s)
		}
	}
	q.mu.RUnlock()
	for _, s := range done {
		q.remove(s)
	}
	if q.opts.Retain > 0 {
		q.account()
	}
	return len(done) > 0
}

// needed returns the last record that every cursor has passed. q.mu is held.
func (q *Queue) needed() uint64 {
	needed := uint64(math.MaxUint64)
	for _, c := range q.cursors {
		needed = min(needed, c.Acked())
	}
	return needed
}
