package queue

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/datadir"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/storage"
)

// Batch is what Append stores together: all of it or nothing.
type Batch struct {
	// Records are stored in this order, with consecutive sequence numbers.
	Records [][]byte
	// State are changes of the state, made in this order, in the same transaction.
	State []KeyValue
	// Done may be nil. It is called once: with nil when the batch is synced to disk, else with
	// the reason why it was not stored. (After an error of the disk itself, other than that it
	// is full, a batch may all the same be found stored after a restart.) The calls are made
	// one after the other, in the order of the Appends, in a goroutine of their own. It must
	// not call the Queue's Append, Flush or Close: transactions wait while too many calls are
	// due.
	Done func(error)
	// Chain may be nil. A batch is stored only if no other one of its chain, appended before
	// it, has failed.
	Chain *Chain
}

// Chain joins batches whose state builds on each other. A batch that builds on a failed one is not
// stored:
//
//   - When a batch of the chain has not been stored, none that was appended to the chain after it
//     is stored either. The Done of those that Append has accepted gets an error, which is ErrChain
//     unless the store has refused them itself.
//   - From then on Failed is true and Append returns ErrChain. Failed is true before the first of
//     those Dones is called.
//   - Nothing is said of other chains, nor of batches without one, except that a transaction stores
//     all of its batches or none: they can fail with ErrChain too if they were appended before the
//     failure was known.
//
// A chain that has failed stays so. Whoever appends waits until the Done of each of its batches has
// been called; what Queue.State returns then is what is stored, and a new Chain may build on that.
// The zero value is a chain that has not failed.
type Chain struct{ failed atomic.Bool }

// Failed says whether a batch of the chain could not be stored. It is false for nil.
func (c *Chain) Failed() bool { return c != nil && c.failed.Load() }

// ErrChain is why a batch was not stored: one before it in its chain was not.
var ErrChain = errors.New("queue: a batch that this one builds on could not be stored")

// KeyValue is a change of the state: the key is set to the value, or deleted if the value is nil.
type KeyValue struct {
	Key   string
	Value []byte
}

// group is what goes into one transaction: whole batches.
type group struct {
	records []storage.Draft
	state   []storage.Draft
	ops     []KeyValue
	dones   []func(error)
	chains  []*Chain
	bytes   int64
	since   time.Time
}

// Append accepts a batch and returns; what has become of it says Done, which is called if and only
// if Append returns nil. It blocks while too much waits to be written, until ctx is done. The
// memory of the records is the caller's again when Append returns, that of State must not be
// changed any more.
func (q *Queue) Append(ctx context.Context, b Batch) error {
	var size int64
	for _, r := range b.Records {
		if len(r) > MaxRecordBytes {
			return fmt.Errorf("%w: %d bytes", ErrTooLarge, len(r))
		}
		size += int64(len(r)) + 2
	}
	for _, kv := range b.State {
		size += int64(len(kv.Key)+len(kv.Value)) + 8
	}
	q.waitMu.Lock()
	for q.waitBytes >= q.opts.WaitBytes && !q.isClosing() && !b.Chain.Failed() {
		space := q.space
		q.waitMu.Unlock()
		notify(q.urgent) // what keeps others waiting is not gathered any longer
		select {
		case <-space:
		case <-q.closing:
		case <-ctx.Done():
			return fmt.Errorf("queue: append: %w", ctx.Err())
		}
		q.waitMu.Lock()
	}
	err := q.accept(&b, size)
	q.waitMu.Unlock()
	notify(q.work)
	return err
}

// accept puts a batch into the last group or a new one. waitMu is held.
func (q *Queue) accept(b *Batch, size int64) error {
	if q.isClosing() {
		return ErrClosed
	}
	if b.Chain.Failed() {
		return ErrChain
	}
	n := len(q.groups)
	if n == 0 || q.groups[n-1].bytes+size > commitBytes {
		q.groups = append(q.groups, &group{since: time.Now()})
		n++
	}
	g := q.groups[n-1]
	q.addTo(g, b)
	g.bytes += size
	q.waitBytes += size
	if n > 1 || q.waitBytes >= min(commitBytes, q.opts.WaitBytes/2) {
		notify(q.urgent)
	}
	return nil
}

// addTo copies a batch into the group. waitMu is held.
func (q *Queue) addTo(g *group, b *Batch) {
	for _, r := range b.Records {
		g.records = storage.AddEntry(g.records, r, &q.spares)
		if d := &g.records[len(g.records)-1]; d.At == 0 {
			d.At = q.clock.now()
		}
	}
	var op []byte
	for _, kv := range b.State {
		op = storage.AppendOp(op[:0], kv.Key, kv.Value)
		g.state = storage.AddEntry(g.state, op, &q.spares)
	}
	g.ops = append(g.ops, b.State...)
	if b.Done != nil {
		g.dones = append(g.dones, b.Done)
	}
	if b.Chain != nil && !slices.Contains(g.chains, b.Chain) {
		g.chains = append(g.chains, b.Chain)
	}
}

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// commitLoop writes what waits, one transaction after the other, until Close.
func (q *Queue) commitLoop() {
	defer close(q.dones)
	pause := func(until time.Time, wake <-chan struct{}) {
		select {
		case <-time.After(time.Until(until)):
		case <-wake:
		case <-q.closing:
		}
	}
	for {
		g := q.waiting()
		if g == nil {
			if q.isClosing() {
				return
			}
			var probe <-chan time.Time
			if q.commitErr != nil {
				probe = time.After(probeInterval)
			}
			select {
			case <-q.work:
			case <-q.closing:
			case <-probe:
				q.probe()
			}
			continue
		}
		if q.opts.CommitInterval > 0 {
			pause(g.since.Add(q.opts.CommitInterval), q.urgent)
		}
		if q.commitErr != nil {
			// What has come meanwhile is tried together, so that a disk that refuses
			// does not cost all the time.
			pause(q.failed.Add(retryInterval), nil)
		}
		q.commitGroup(q.take())
	}
}

// waiting returns the next group, nil if there is none.
func (q *Queue) waiting() *group {
	q.waitMu.Lock()
	defer q.waitMu.Unlock()
	if len(q.groups) == 0 {
		return nil
	}
	return q.groups[0]
}

func (q *Queue) take() *group {
	q.waitMu.Lock()
	defer q.waitMu.Unlock()
	g := q.groups[0]
	q.groups[0] = nil
	q.groups = q.groups[1:]
	q.waitBytes -= g.bytes
	close(q.space)
	q.space = make(chan struct{})
	return g
}

// doneLoop calls the batches back.
func (q *Queue) doneLoop() {
	for call := range q.dones {
		call()
	}
}

func (q *Queue) commitGroup(g *group) {
	var err error
	switch {
	case slices.ContainsFunc(g.chains, (*Chain).Failed):
		err = ErrChain // of all of the group, since it is one transaction
	case len(g.records)+len(g.state) > 0:
		start := time.Now()
		err = q.write(g)
		if err == nil {
			q.metrics.commits.Inc()
			q.metrics.commitDuration.Observe(time.Since(start).Seconds())
		}
		q.result(err, g.bytes)
		err = q.commitErr
	}
	if err != nil {
		for _, c := range g.chains {
			c.failed.Store(true)
		}
	}
	if dones := g.dones; len(dones) > 0 {
		q.dones <- func() {
			for _, done := range dones {
				done(err)
			}
		}
	}
	if err == nil {
		q.rollIfFull()
	}
}

// write stores a group and makes it visible to readers.
func (q *Queue) write(g *group) error {
	if err := q.ready(); err != nil {
		return err
	}
	first, end := q.Bounds()
	for _, op := range q.clock.changes(q.state, first, end) {
		g.state = storage.AddEntry(g.state, storage.AppendOp(nil, op.Key, op.Value), nil)
		g.ops = append(g.ops, op)
	}
	var chunks []storage.Chunk
	w := &Group{Positions: q.checkpoint(), After: *q.active}
	for i := range g.records {
		d := &g.records[i]
		if w.After.Empty() {
			w.After.FirstAt = d.At
		}
		chunks = append(chunks, d.Finish(storage.KindRecords, w.After.Last+1, w.After.Bytes))
		w.Records = append(w.Records, d.Buf)
		w.After.Last += uint64(d.Count)
		w.After.Bytes += d.Bytes
		w.After.LastAt = d.At
	}
	w.State = storage.FinishState(g.state)
	if err := q.makingRoom(func() (bool, error) { return w.Sealed, q.store.Commit(w) }); err != nil {
		if s := q.active; w.Sealed {
			q.active = nil
			if datadir.IsDamage(err) {
				q.takeOut(s)
			}
		}
		return err
	}
	q.publish(w, chunks, g.ops)
	return nil
}

// makingRoom calls what writes, and again for as long as the disk is full and something goes that
// is only retained. That it is done with says write, too.
func (q *Queue) makingRoom(write func() (done bool, err error)) error {
	for {
		done, err := write()
		if done || err == nil || !datadir.IsNoSpace(err) {
			return err
		}
		q.mu.RLock()
		var oldest *storage.Segment
		if len(q.segments) > 1 && q.segments[0].Last <= q.needed() {
			oldest = q.segments[0]
		}
		q.mu.RUnlock()
		if oldest == nil {
			return err
		}
		q.log.Warn("the disk is full: the oldest segment that is only retained goes",
			zap.Uint64("first_record", oldest.Base), zap.Error(err))
		q.remove(oldest)
	}
}

// ready makes sure that there is a segment to write to.
func (q *Queue) ready() error {
	if q.unsaved {
		if err := q.makingRoom(func() (bool, error) { return false, q.savePositions() }); err != nil {
			return err
		}
	}
	if s := q.active; s != nil {
		if q.condemned.Load() != s {
			return nil
		}
		q.active = nil
		q.takeOut(s)
	}
	return q.makingRoom(func() (bool, error) { return false, q.begin() })
}

// begin makes a new segment the one that is written to.
func (q *Queue) begin() error {
	start := &Start{Positions: q.checkpoint()}
	q.mu.RLock()
	start.Base = q.end + 1
	for _, s := range slices.Backward(q.segments) {
		if !s.Empty() {
			start.PreviousBase, start.PreviousLast = s.Base, s.Last
			break
		}
	}
	q.mu.RUnlock()
	start.State = q.snapshot
	size, err := q.store.Begin(start)
	if err != nil {
		return err
	}
	s := start.Segment()
	s.Size = size
	q.mu.Lock()
	if n := len(q.segments); n > 0 && q.segments[n-1].Base == s.Base {
		q.segments = q.segments[:n-1] // it was empty
	}
	q.segments = append(q.segments, &s)
	q.mu.Unlock()
	q.active, q.initial = &s, size
	q.account()
	return nil
}

// snapshot puts the whole state, a few chunks at a time.
func (q *Queue) snapshot(put func(chunks [][]byte) error) error {
	const chunks = 16
	now := q.clock.now()
	var drafts []storage.Draft
	flush := func() error {
		for i := range drafts {
			drafts[i].At = now
		}
		state := storage.FinishState(drafts)
		drafts = drafts[:0]
		return put(state)
	}
	var op []byte
	// Only the committer, which this is, changes the state: no lock that would make everybody
	// wait for the disk.
	for k, v := range q.state {
		op = storage.AppendOp(op[:0], k, []byte(v))
		if n := len(drafts); n == chunks && !drafts[n-1].Fits(op) {
			if err := flush(); err != nil {
				return err
			}
		}
		drafts = storage.AddEntry(drafts, op, nil)
	}
	if len(drafts) == 0 {
		return nil
	}
	return flush()
}

// rollIfFull begins a new segment when the one that is written to has reached its size. It is no
// harm if that fails: the old one takes more, and it is tried again a little later.
func (q *Queue) rollIfFull() {
	s := q.active
	room := max(q.opts.SegmentBytes-q.initial, q.opts.SegmentBytes/2)
	if s == nil || s.Size-q.initial < room || time.Since(q.rollTry) < probeInterval {
		return
	}
	if err := q.begin(); err != nil {
		q.metrics.errors.Inc()
		if q.rollTry.IsZero() {
			q.log.Warn("no new segment could be begun, the old one goes on",
				zap.Uint64("first_record", s.Base), zap.Error(err))
		}
		q.rollTry = time.Now()
		return
	}
	q.rollTry = time.Time{}
	q.enforceLimit()
	notify(q.dirty) // the old one may be done with already
}

// publish makes what was stored visible.
func (q *Queue) publish(g *Group, chunks []storage.Chunk, ops []KeyValue) {
	q.mu.Lock()
	first := q.active.Last + 1
	*q.active = g.After
	q.end = g.After.Last
	spares := g.State
	for i, chunk := range g.Records {
		if n := len(q.cache); n > 0 && q.cache[n-1].Segment == g.After.Base {
			if grow(&q.cache[n-1], chunk, chunks[i]) {
				spares = append(spares, chunk)
				continue
			}
		}
		q.cache = append(q.cache, storage.Block{Buf: chunk, Chunks: []storage.Chunk{chunks[i]}, Segment: g.After.Base})
		q.cached += int64(cap(chunk))
	}
	for _, kv := range ops {
		storage.SetState(q.state, kv.Key, kv.Value)
	}
	if len(g.Records) > 0 {
		needed, oldest, at := q.end, q.cache[0].First(), chunks[0].At
		for _, c := range q.cursors {
			needed = min(needed, c.arrived(first, oldest, at))
		}
		q.trimCache(needed)
		for c := range q.readers {
			notify(c.wake)
		}
	}
	q.mu.Unlock()
	q.waitMu.Lock()
	q.spares.Keep(spares...)
	q.waitMu.Unlock()
	q.account()
	q.enforceLimit()
}

// smallChunk is how long a chunk may be that is added to a block in memory, while that has room: a
// trickle of single records does not fill the cache with their memory.
const smallChunk = 16 << 10

// grow adds a small chunk that follows to a block, without moving that. Who has the block as it was
// does not see that.
func grow(b *storage.Block, chunk []byte, c storage.Chunk) bool {
	n := len(b.Buf)
	if len(chunk) > smallChunk || n+len(chunk) > cap(b.Buf) {
		return false
	}
	c.Start += n
	c.End += n
	b.Buf, b.Chunks = append(b.Buf, chunk...), append(b.Chunks, c)
	return true
}

// trimCache drops the blocks that every cursor has read, or will read from a file, but for one that
// can still grow, and the oldest beyond the limit. q.mu is held.
func (q *Queue) trimCache(needed uint64) {
	n, last := 0, len(q.cache)-1
	done := func(b *storage.Block, grows bool) bool {
		return b.Last() <= needed && (!grows || cap(b.Buf)-len(b.Buf) < smallChunk)
	}
	for n <= last && (q.cached > q.opts.CacheBytes || done(&q.cache[n], n == last)) {
		q.cached -= int64(cap(q.cache[n].Buf))
		q.cache[n] = storage.Block{}
		n++
	}
	q.cache = q.cache[n:]
}

// account shows what is stored.
func (q *Queue) account() {
	q.mu.RLock()
	defer q.mu.RUnlock()
	q.metrics.bytes.Set(float64(q.size()))
	q.metrics.segments.Set(float64(len(q.segments)))
	q.metrics.retained.Set(float64(q.retained()))
	var oldest float64
	if s := q.segmentOf(0); s != nil && !s.Empty() {
		oldest = float64(q.clock.time(s.FirstAt).UnixMilli()) / 1000
	}
	q.metrics.oldest.Set(oldest)
}

// enforceLimit removes the oldest segments while there is too much.
func (q *Queue) enforceLimit() {
	for {
		q.mu.RLock()
		var oldest *storage.Segment
		if len(q.segments) > 1 && q.size() > q.opts.MaxBytes {
			oldest = q.segments[0]
		}
		retained := oldest != nil && oldest.Last <= q.needed()
		q.mu.RUnlock()
		if oldest == nil {
			return
		}
		if q.removeDone() {
			continue // nobody loses anything by that
		}
		if retained { // nor by that
			q.remove(oldest)
			continue
		}
		q.log.Warn("storage is full, its oldest segment goes",
			zap.Uint64("first_record", oldest.Base), zap.Int64("max_bytes", q.opts.MaxBytes))
		q.takeOut(oldest)
	}
}

// takeOut removes a segment; what the cursors have not acknowledged of it is lost.
func (q *Queue) takeOut(s *storage.Segment) {
	q.skip(s.Base, s.Last)
	q.remove(s)
}

// skip moves every cursor behind records that are gone and reports what they lose.
func (q *Queue) skip(first, last uint64) {
	q.mu.RLock()
	cursors := slices.Collect(maps.Values(q.cursors))
	q.mu.RUnlock()
	for _, c := range cursors {
		if n := c.skip(first, last); n > 0 {
			q.opts.OnDropped(c.name, n)
			notify(q.dirty)
		}
	}
}

// remove removes a segment that nobody needs.
func (q *Queue) remove(s *storage.Segment) {
	q.mu.Lock()
	i := slices.Index(q.segments, s)
	if i >= 0 {
		q.segments = slices.Delete(q.segments, i, i+1)
	}
	q.mu.Unlock()
	if i < 0 {
		return // somebody else does it
	}
	q.account()
	if err := q.store.Trim(s.Base); err != nil {
		q.log.Warn("segment was not removed", zap.Uint64("first_record", s.Base), zap.Error(err))
	}
}

// result notes whether a group was stored, or would be. Only the committer, which this is, changes
// commitErr.
func (q *Queue) result(err error, size int64) {
	if err != nil || q.commitErr != nil {
		q.failed, q.failSize = time.Now(), size
		q.outcome(&q.commitErr, "store", err, "storage refuses writes", "storage accepts writes again")
	}
}

// outcome notes what became of a write, and logs it when that is something new.
func (q *Queue) outcome(last *error, what string, err error, failing, works string) {
	q.mu.Lock()
	before := *last
	*last = nil
	if err != nil {
		*last = fmt.Errorf("queue: %s: %w", what, err)
	}
	q.mu.Unlock()
	switch {
	case err != nil:
		q.metrics.errors.Inc()
		if before == nil {
			q.log.Error(failing, zap.Error(err))
		}
	case before != nil:
		q.log.Info(works)
	}
}

// probe tries whether what was refused last would be accepted now.
func (q *Queue) probe() {
	err := q.ready()
	if err == nil {
		err = q.store.Commit(&Group{Bytes: min(q.failSize, commitBytes)})
	}
	q.result(err, q.failSize)
}
