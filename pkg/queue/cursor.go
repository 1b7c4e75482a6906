package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"sync"
	"time"

	"go.uber.org/zap"
)

// Record is one record of the queue.
type Record struct {
	// Seq is its sequence number.
	Seq uint64
	// Data is valid for as long as it is used, and must not be changed: other cursors may have the same memory. It keeps its
	// neighbors in memory too, up to 64 KiB.
	Data []byte
}

// What Next returns at most when it is not told.
const (
	DefaultNextRecords = 1000
	DefaultNextBytes   = 1 << 20
)

// ErrNotRead is returned by Ack for a record that Next has not returned.
var ErrNotRead = errors.New("queue: acknowledged a record that was not read")

// Cursor is one reader's place in the queue. Its methods may be called from any goroutine; Next serves one call at a time.
type Cursor struct {
	q    *Queue
	name string
	wake chan struct{} // holds one token when there may be something new

	nextMu sync.Mutex // held by Next

	mu      sync.Mutex // guards what follows; q.mu is never taken while it is held
	pos     position
	read    uint64     // the record that Next returns next
	window  []chunkRef // chunks from pos.acked+1 to what was read
	holes   []span     // unreadable records that are not acknowledged yet
	lostTo  uint64     // records up to here that could not be read were reported
	hint    int64      // when the first record that is not acknowledged was appended, at the latest; used while window is empty
	view    Block  // where Next reads
	chunk   int        // index of the chunk
	offset  int        // of record read in view, when at is read
	at      uint64
	using   uint64    // base of the segment that is read, which the store keeps open; 0: none
	removed bool
}

// chunkRef is what a cursor keeps of a chunk that it has read.
type chunkRef struct {
	first, last uint64
	at          int64
	before      int64
	bytes       int64
	segment     uint64
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

// Next returns the records after those it has returned before, at least one. It waits for it until ctx is done, or returns ErrClosed when the
// queue is closed or the cursor was removed. It returns no more than maxRecords, and no more bytes than maxBytes unless the first
// record alone is larger; 0 stands for the defaults. What it returns remains in the queue until it is acknowledged, but is returned
// again only after Rewind or a restart.
func (c *Cursor) Next(ctx context.Context, maxRecords, maxBytes int) ([]Record, error) {
	if maxRecords <= 0 {
		maxRecords = DefaultNextRecords
	}
	if maxBytes <= 0 {
		maxBytes = DefaultNextBytes
	}
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
			// Rewind was called meanwhile: what was collected would come twice, and out of order.
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
		view, found, err := c.locate(read)
		if err != nil || !found {
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

// collect appends records of the current block; the queue ends with record end, or later. c.mu is held and the block holds c.read.
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
	for {
		ch := &c.view.chunks[c.chunk]
		if n := len(c.window); n == 0 || c.window[n-1].last < c.read {
			c.window = append(c.window, chunkRef{
				first: ch.first, last: ch.last(), at: ch.at, before: ch.before, bytes: ch.bytes, segment: c.view.segment,
			})
		}
		for c.offset < ch.end {
			data, next := nextEntry(c.view.buf, c.offset)
			if len(records) == maxRecords || (len(data) > room && len(records) > 0) {
				c.at = c.read
				return records, room, true
			}
			records = append(records, Record{Seq: c.read, Data: data})
			room -= len(data)
			c.read++
			c.offset = next
		}
		c.at = c.read
		if c.chunk++; c.chunk == len(c.view.chunks) {
			c.at = 0
			return records, room, len(records) == maxRecords || room <= 0
		}
		c.offset = c.view.chunks[c.chunk].start
	}
}

// seek finds c.read in the current block.
func (c *Cursor) seek() {
	chunks := c.view.chunks
	c.chunk = sort.Search(len(chunks), func(i int) bool { return chunks[i].last() >= c.read })
	c.offset = chunks[c.chunk].start
	for range c.read - chunks[c.chunk].first {
		_, c.offset = nextEntry(c.view.buf, c.offset)
	}
	c.at = c.read
}

// locate returns the block with record seq, or, if that is not to be had, with the first one after it. found is false
// at the end of the queue.
func (c *Cursor) locate(seq uint64) (view Block, found bool, err error) {
	q := c.q
	for {
		q.mu.RLock()
		if seq > q.end {
			q.mu.RUnlock()
			c.use(0)
			return Block{}, false, nil
		}
		if view, ok := q.cachedBlock(seq); ok {
			q.mu.RUnlock()
			c.use(0)
			return view, true, nil
		}
		i := sort.Search(len(q.segments), func(i int) bool { return q.segments[i].last >= seq })
		if i == len(q.segments) {
			q.mu.RUnlock()
			return Block{}, false, nil
		}
		s := q.segments[i]
		at := *s
		q.mu.RUnlock()
		seq = max(seq, at.base)
		c.use(at.base)

		view, next, err := q.store.Read(at, seq)
		switch {
		case err == nil:
			return view, true, nil
		case errors.Is(err, errGone):
			if q.isClosing() {
				return Block{}, false, ErrClosed
			}
			// removed meanwhile
		case !isDamage(err):
			return Block{}, false, fmt.Errorf("queue: %w", err)
		case next == 0:
			if q.condemn(s) {
				return Block{}, false, nil // the cursor is behind it now
			}
		default:
			c.lost(seq, next-1)
			seq = next
		}
	}
}

// cachedBlock returns the block with record seq if it is in memory. q.mu is held.
func (q *Queue) cachedBlock(seq uint64) (Block, bool) {
	n := len(q.cache)
	if n == 0 || seq < q.cache[0].first() {
		return Block{}, false
	}
	i := n - 1
	if seq < q.cache[i].first() {
		i = sort.Search(n, func(i int) bool { return q.cache[i].last() >= seq })
	}
	view := q.cache[i].Block
	return view, view.holds(seq)
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

// condemn takes a segment that cannot be read at all out of use. It returns true for the one that is written to: that stays on
// the list until the committer, who may be using it at this moment, takes it out.
func (q *Queue) condemn(s *Segment) (active bool) {
	q.mu.Lock()
	active = len(q.segments) > 0 && q.segments[len(q.segments)-1] == s
	last := s.last
	if active {
		q.condemned = s
	}
	q.mu.Unlock()
	if active {
		q.skip(s.base, last)
	} else {
		q.takeOut(s)
	}
	return active
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
	if n > 0 {
		c.q.opts.OnDropped(c.name, n)
		c.moved()
	}
}

// settle moves the acknowledged position over unreadable records behind it. c.mu is held.
func (c *Cursor) settle() {
	for len(c.holes) > 0 && c.holes[0].first <= c.pos.acked+1 {
		c.pos.acked = max(c.pos.acked, c.holes[0].last)
		c.holes = c.holes[1:]
	}
}

// Ack says that every record up to and including seq is done with. It returns at once; the position is written 100 ms later and
// synced to disk after a second, and by Close. Sequence numbers that are acknowledged already are no error, so that a late call does no harm.
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
	c.pos.acked = seq
	c.settle()
	c.popWindow()
	c.mu.Unlock()
	c.moved()
	return nil
}

// popWindow drops what is acknowledged from the window and takes the position's bytes from it. c.mu is held.
func (c *Cursor) popWindow() {
	n := 0
	for n < len(c.window) && c.window[n].last <= c.pos.acked {
		n++
	}
	if n > 0 {
		w := &c.window[n-1]
		c.pos.segment, c.pos.bytes, c.hint = w.segment, w.before+w.bytes, w.at
		c.window = c.window[:copy(c.window, c.window[n:])]
	}
	if len(c.window) > 0 {
		if w := &c.window[0]; w.first <= c.pos.acked {
			done := int64(c.pos.acked - w.first + 1)
			c.pos.segment = w.segment
			c.pos.bytes = w.before + w.bytes*done/int64(w.last-w.first+1)
		}
	}
}

// moved tells the flusher.
func (c *Cursor) moved() { notify(c.q.dirty) }

// Rewind makes Next begin again with the first record that is not acknowledged.
func (c *Cursor) Rewind() {
	c.mu.Lock()
	c.read = c.pos.acked + 1
	c.window = c.window[:0]
	c.at = 0
	c.mu.Unlock()
	notify(c.wake)
}

// skip moves the cursor over the records first to last, which are gone, and returns how many of them it had not acknowledged.
func (c *Cursor) skip(first, last uint64) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	from := max(first, c.pos.acked+1)
	if from > last {
		return 0
	}
	if c.pos.acked+1 >= first {
		c.pos.acked = last
		c.settle()
		c.popWindow()
	}
	if c.read >= first && c.read <= last {
		c.read = last + 1
	}
	return int(last - from + 1)
}

// remove ends the cursor.
func (c *Cursor) remove() {
	c.mu.Lock()
	c.removed = true
	c.view, c.window = Block{}, nil
	c.mu.Unlock()
	c.use(0)
	notify(c.wake)
}

// arrived wakes the cursor for record first, which is new and was appended at the given time, and returns the last record that it does not need.
func (c *Cursor) arrived(first uint64, at int64) uint64 {
	c.mu.Lock()
	acked := c.pos.acked
	if acked+1 == first {
		c.hint = at
	}
	c.mu.Unlock()
	notify(c.wake)
	return acked
}

// loadHint reads when the first waiting record was appended. Only Open calls it.
func (c *Cursor) loadHint() {
	view, found, err := c.locate(c.read)
	if err == nil && found {
		c.mu.Lock()
		i := sort.Search(len(view.chunks), func(i int) bool { return view.chunks[i].last() > c.pos.acked })
		c.hint = view.chunks[min(i, len(view.chunks)-1)].at
		c.mu.Unlock()
	}
	c.use(0)
}

// Pending returns how many records wait, that is are not acknowledged, the bytes of their data, and when the oldest of them was appended
// (zero if there is none). The number is exact; bytes are estimated where a part of what was stored in one transaction is acknowledged.
// It never reads the disk.
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
		if view, ok := c.q.cachedBlock(pos.acked + 1); ok {
			i := sort.Search(len(view.chunks), func(i int) bool { return view.chunks[i].last() > pos.acked })
			at = view.chunks[i].at
		}
	}
	return events, bytes, time.Unix(0, at)
}

// pending adds up what is behind a position, and returns the segment in which that begins. q.mu is held.
func (q *Queue) pending(pos position) (events, bytes int64, first *Segment) {
	for _, s := range slices.Backward(q.segments) {
		if s.last <= pos.acked {
			break
		}
		if s.empty() {
			continue
		}
		first = s
		if s.base > pos.acked {
			events += int64(s.last - s.base + 1)
			bytes += s.bytes
			continue
		}
		events += int64(s.last - pos.acked)
		if pos.segment == s.base {
			bytes += s.bytes - min(s.bytes, pos.bytes)
		} else {
			bytes += s.bytes
		}
		break
	}
	return events, bytes, first
}

// Trim acknowledges the oldest records until no more than maxBytes wait and none that was appended before olderThan, and returns how many went.
// 0 and the zero time stand for no limit. Records that Next has returned and that are not acknowledged count as waiting and may go too.
// Unlike Pending it may read the disk.
func (c *Cursor) Trim(maxBytes int64, olderThan time.Time) (dropped int, err error) {
	if c.q.isClosing() {
		return 0, ErrClosed
	}
	var before int64
	if !olderThan.IsZero() {
		before = olderThan.UnixNano()
	}
	for {
		n, more, err := c.trimStep(maxBytes, before)
		dropped += n
		if err != nil || !more {
			if dropped > 0 {
				c.moved()
			}
			return dropped, err
		}
	}
}

// trimStep does a part of Trim: a whole segment if that is possible, else within a block. more asks for another step.
func (c *Cursor) trimStep(maxBytes, before int64) (dropped int, more bool, err error) {
	c.mu.Lock()
	pos := c.pos
	c.mu.Unlock()
	q := c.q
	q.mu.RLock()
	_, waiting, _ := q.pending(pos)
	i := sort.Search(len(q.segments), func(i int) bool { return q.segments[i].last > pos.acked })
	if i == len(q.segments) {
		q.mu.RUnlock()
		return 0, false, nil
	}
	s := q.segments[i]
	base, last, lastAt, whole := s.base, s.last, s.lastAt, s.bytes
	q.mu.RUnlock()
	over := maxBytes > 0 && waiting > maxBytes
	rest := whole
	if pos.segment == base {
		rest -= min(whole, pos.bytes)
	}
	if (over && waiting-rest >= maxBytes) || lastAt < before {
		return c.advance(pos, max(base, pos.acked+1), position{acked: last, segment: base, bytes: whole})
	}
	if !over && before == 0 {
		return 0, false, nil
	}
	view, found, err := c.locate(max(base, pos.acked+1))
	if err != nil || !found {
		return 0, false, err
	}
	to := pos
	first := max(pos.acked+1, view.first())
	to.acked = first - 1
	for _, ch := range view.chunks {
		if ch.last() < first {
			continue
		}
		bytes, seq := ch.before, ch.first
		for offset := ch.start; offset < ch.end; seq++ {
			var data []byte
			data, offset = nextEntry(view.buf, offset)
			bytes += int64(len(data))
			if seq < first {
				continue
			}
			if (maxBytes <= 0 || waiting <= maxBytes) && ch.at >= before {
				n, _, err := c.advance(pos, first, to)
				return n, false, err
			}
			waiting -= int64(len(data))
			to = position{acked: seq, segment: view.segment, bytes: bytes}
		}
	}
	return c.advance(pos, first, to)
}

// advance moves the acknowledged position from one to another, records first and following of which were still wanted. If it has
// changed meanwhile, nothing is done and more asks for another try.
func (c *Cursor) advance(from position, first uint64, to position) (dropped int, more bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.removed {
		return 0, false, ErrClosed
	}
	if c.pos != from {
		return 0, true, nil
	}
	if to.acked <= from.acked {
		return 0, false, nil
	}
	n := 0
	for len(c.window) > n && c.window[n].last <= to.acked {
		c.hint = c.window[n].at
		n++
	}
	c.window = c.window[:copy(c.window, c.window[n:])]
	c.pos = to
	c.settle()
	if c.read <= c.pos.acked {
		c.read = c.pos.acked + 1
	}
	return int(to.acked + 1 - first), true, nil
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

// flushLoop stores the positions, a little after they have changed, and removes segments that are done with.
func (q *Queue) flushLoop() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var (
		synced time.Time
		due    <-chan time.Time // what is written is to be synced then
	)
	for {
		sync := false
		select {
		case <-due:
			sync = true
		case <-q.dirty:
			timer.Reset(flushInterval)
			select {
			case <-timer.C:
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

// flushPositions stores the positions of all cursors, so that they survive the end of the process, or also, with sync, that
// of the machine.
func (q *Queue) flushPositions(sync bool) error {
	q.flushMu.Lock()
	defer q.flushMu.Unlock()
	err := q.store.SaveCursors(q.checkpoint(), sync)
	q.mu.Lock()
	before := q.cursorErr
	q.cursorErr = nil
	if err != nil {
		q.cursorErr = fmt.Errorf("queue: store cursors: %w", err)
	}
	q.mu.Unlock()
	switch {
	case err != nil:
		q.metrics.errors.Inc()
		if before == nil {
			q.log.Error("cursors cannot be stored", zap.Error(err))
		}
	case before != nil:
		q.log.Info("cursors can be stored again")
	}
	return err
}

// removeDone removes the segments that every cursor has passed. The last one stays: it holds the state, and how far the sequence went.
// It returns whether there was any.
func (q *Queue) removeDone() (removed bool) {
	for {
		q.mu.RLock()
		var done *Segment
		if len(q.segments) > 1 {
			done = q.segments[0]
			for _, c := range q.cursors {
				if c.Acked() < done.last {
					done = nil
					break
				}
			}
		}
		q.mu.RUnlock()
		if done == nil {
			return removed
		}
		q.remove(done)
		removed = true
	}
}
