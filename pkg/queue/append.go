package queue

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// Batch is what Append stores together: all of it or nothing.
type Batch struct {
	// Records are stored in this order, with consecutive sequence numbers.
	Records [][]byte
	// State are changes of the state, made in this order, in the same transaction.
	State []KeyValue
	// Done may be nil. It is called once: with nil when the batch is synced to disk, else with the reason why it was not stored.
	// (After an error of the disk itself, other than that it is full, a batch may all the same be found stored after a restart.)
	// The calls are made one after the other, in the order of the Appends, in a goroutine of their own. It must not call the Queue's
	// Append, Flush or Close: transactions wait while too many calls are due.
	Done func(error)
	// Chain may be nil. A batch is stored only if no other one of its chain, appended before it, has failed.
	Chain *Chain
}

// Chain joins batches whose state builds on each other. A batch that builds on a failed one is not stored:
//
//   - When a batch of the chain has not been stored, none that was appended to the chain after it is stored either. The Done
//     of those that Append has accepted gets an error, which is ErrChain unless the store has refused them itself.
//   - From then on Failed is true and Append returns ErrChain. Failed is true before the first of those Dones is called.
//   - Nothing is said of other chains, nor of batches without one, except that a transaction stores all of its batches or none:
//     they can fail with ErrChain too if they were appended before the failure was known.
//
// A chain that has failed stays so. Whoever appends waits until the Done of each of its batches has been called; what
// Queue.State returns then is what is stored, and a new Chain may build on that. The zero value is a chain that has not failed.
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

// Group is what goes into one transaction: whole batches. Without any it asks whether a group of its size would be stored.
type Group struct {
	records []draft
	state   []draft
	ops     []KeyValue
	dones   []func(error)
	chains  []*Chain
	bytes   int64
	since   time.Time
}

type doneCall struct {
	dones []func(error)
	err   error
}

// Append accepts a batch and returns; what has become of it says Done, which is called if and only if Append returns nil. It blocks
// while too much waits to be written, until ctx is done. The memory of the records is the caller's again when Append returns, that of
// State must not be changed any more.
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
	for {
		if q.stopped {
			q.waitMu.Unlock()
			return ErrClosed
		}
		if b.Chain.Failed() {
			q.waitMu.Unlock()
			return ErrChain
		}
		if q.waitBytes < q.opts.WaitBytes {
			break
		}
		if q.space == nil {
			q.space = make(chan struct{})
		}
		space := q.space
		q.waitMu.Unlock()
		select {
		case <-space:
		case <-q.closing:
			return ErrClosed
		case <-ctx.Done():
			return fmt.Errorf("queue: append: %w", ctx.Err())
		}
		q.waitMu.Lock()
	}
	n := len(q.groups)
	if n == 0 || q.groups[n-1].bytes+size > commitBytes {
		q.groups = append(q.groups, &Group{since: time.Now()})
		n++
	}
	g := q.groups[n-1]
	q.addTo(g, &b)
	g.bytes += size
	q.waitBytes += size
	urgent := n > 1 || q.waitBytes >= min(commitBytes, q.opts.WaitBytes/2)
	q.waitMu.Unlock()
	notify(q.work)
	if urgent {
		notify(q.urgent)
	}
	return nil
}

// addTo copies a batch into the group. waitMu is held.
func (q *Queue) addTo(g *Group, b *Batch) {
	var now int64
	for _, r := range b.Records {
		n := len(r) + uvarintLen(len(r))
		last := len(g.records) - 1
		if last < 0 || !g.records[last].fits(n) {
			if now == 0 {
				now = time.Now().UnixNano()
			}
			d := draft{at: now}
			if q.spare != nil && n <= cap(q.spare)-chunkHeaderSize {
				d.buf, q.spare = q.spare[:chunkHeaderSize], nil
			} else {
				d = newDraft(n, now)
			}
			g.records = append(g.records, d)
			last++
		}
		g.records[last].add(r)
	}
	if len(b.State) > 0 {
		var op []byte
		for _, kv := range b.State {
			op = appendOp(op[:0], kv.Key, kv.Value)
			n := len(op) + uvarintLen(len(op))
			last := len(g.state) - 1
			if last < 0 || !g.state[last].fits(n) {
				g.state = append(g.state, newDraft(n, 0))
				last++
			}
			g.state[last].add(op)
		}
		g.ops = append(g.ops, b.State...)
	}
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

// free keeps the memory of a draft that was copied for the next one.
func (q *Queue) free(buf []byte) {
	if cap(buf) > 2*blockSize {
		return
	}
	q.waitMu.Lock()
	q.spare = buf
	q.waitMu.Unlock()
}

// commitLoop writes what waits, one transaction after the other, until Close.
func (q *Queue) commitLoop() {
	defer close(q.dones)
	timer := time.NewTimer(0)
	defer timer.Stop()
	pause := func(d time.Duration, wake <-chan struct{}) {
		if d <= 0 {
			return
		}
		timer.Reset(d)
		select {
		case <-timer.C:
		case <-wake:
		case <-q.closing:
		}
	}
	for {
		since, ok := q.waiting()
		if !ok {
			if q.isClosing() {
				return
			}
			var probe <-chan time.Time
			if q.failing {
				timer.Reset(probeInterval)
				probe = timer.C
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
			pause(time.Until(since.Add(q.opts.CommitInterval)), q.urgent)
		}
		if q.failing {
			// What has come meanwhile is tried together, so that a disk that refuses does not cost all the time.
			pause(time.Until(q.failed.Add(retryInterval)), nil)
		}
		q.commitGroup(q.take())
	}
}

// waiting returns since when the next group waits.
func (q *Queue) waiting() (time.Time, bool) {
	q.waitMu.Lock()
	defer q.waitMu.Unlock()
	if len(q.groups) == 0 {
		return time.Time{}, false
	}
	return q.groups[0].since, true
}

func (q *Queue) take() *Group {
	q.waitMu.Lock()
	defer q.waitMu.Unlock()
	g := q.groups[0]
	q.groups[0] = nil
	q.groups = q.groups[1:]
	q.waitBytes -= g.bytes
	if q.space != nil {
		close(q.space)
		q.space = nil
	}
	return g
}

// doneLoop calls the batches back.
func (q *Queue) doneLoop() {
	for call := range q.dones {
		for _, done := range call.dones {
			done(call.err)
		}
	}
}

func (q *Queue) commitGroup(g *Group) {
	var err error
	switch {
	case slices.ContainsFunc(g.chains, (*Chain).Failed):
		err = ErrChain // of all of the group, since it is one transaction
	case len(g.records)+len(g.state) > 0:
		start := time.Now()
		if err = q.backend.Commit(g); err != nil {
			q.fail(err, g.bytes)
			err = fmt.Errorf("queue: store: %w", err)
		} else {
			q.metrics.commits.Inc()
			q.metrics.commitDuration.Observe(time.Since(start).Seconds())
			q.succeed()
		}
	}
	if err != nil {
		for _, c := range g.chains {
			c.failed.Store(true)
		}
	}
	if len(g.dones) > 0 {
		q.dones <- doneCall{g.dones, err}
	}
	if err == nil {
		q.rollIfFull()
	}
}

// store writes a group and makes it visible to readers.
func (q *Queue) store(g *Group) error {
	if err := q.ready(); err != nil {
		return err
	}
	w := q.writer
	records := w.planRecords(g.records, q.free)
	state := w.planState(g.state)
	sum := summary{last: w.last, bytes: w.bytes, firstAt: w.firstAt, lastAt: w.lastAt}
	if len(g.records) > 0 {
		if w.empty() {
			sum.firstAt = g.records[0].at
		}
		for i := range g.records {
			sum.last += uint64(g.records[i].count)
			sum.bytes += g.records[i].bytes
		}
		sum.lastAt = g.records[len(g.records)-1].at
	}
	if err := w.commit(records, state, sum, q.checkpoint().encode()); err != nil {
		q.afterFailure(err)
		return err
	}
	w.records = records.tail(w.records)
	w.state = state.tail(w.state)
	q.publish(w, records, sum, g.ops, w.committed())
	return nil
}

// ready makes sure that there is a segment to write to.
func (q *Queue) ready() error {
	if w := q.writer; w != nil {
		q.mu.RLock()
		condemned := w.condemned
		q.mu.RUnlock()
		if !condemned {
			return nil
		}
		q.abandon(errors.New("reading it has failed"))
	}
	return q.begin(q.nextInfo())
}

// nextInfo describes the segment that follows the last one.
func (q *Queue) nextInfo() segmentInfo {
	q.mu.RLock()
	defer q.mu.RUnlock()
	info := segmentInfo{base: q.end + 1}
	for _, s := range slices.Backward(q.segments) {
		if !s.empty() {
			info.previousBase, info.previousLast = s.base, s.last
			break
		}
	}
	return info
}

// begin makes a new segment the one that is written to. The one before must have been sealed by the caller if it succeeds.
func (q *Queue) begin(info segmentInfo) error {
	mapped := 64 << 10
	for int64(mapped) < 2*q.opts.SegmentBytes {
		mapped *= 2
	}
	stateOf := func(yield func(key, value string) error) error {
		// Only the committer, which this is, changes the state: no lock that would make everybody wait for the disk.
		for k, v := range q.state {
			if err := yield(k, v); err != nil {
				return err
			}
		}
		return nil
	}
	w, err := newWriter(q.opts.Dir, info, mapped, q.checkpoint().encode(), stateOf)
	if err != nil {
		return err
	}
	q.mu.Lock()
	if n := len(q.segments); n > 0 && q.segments[n-1].base == info.base {
		// It was empty, and the new file has taken its name.
		q.segments[n-1].retire()
		q.segments = q.segments[:n-1]
	}
	q.segments = append(q.segments, w.segment)
	q.mu.Unlock()
	q.writer = w
	q.account()
	return nil
}

// rollIfFull begins a new segment when the one that is written to has reached its size. It is no harm if that fails: the old one
// takes more, and it is tried again a little later.
func (q *Queue) rollIfFull() {
	w := q.writer
	if w == nil || w.size-w.initial < max(q.opts.SegmentBytes-w.initial, q.opts.SegmentBytes/2) || time.Since(q.rollTry) < probeInterval {
		return
	}
	if err := q.begin(q.nextInfo()); err != nil {
		q.metrics.errors.Inc()
		if q.rollTry.IsZero() {
			q.log.Warn("no new segment could be begun, the old one goes on", zap.String("file", w.path), zap.Error(err))
		}
		q.rollTry = time.Now()
		return
	}
	q.rollTry = time.Time{}
	q.seal(w, nil)
	q.enforceLimit()
	notify(q.dirty) // the old one may be done with already
}

// afterFailure decides whether the segment can still be written to. If a write of data was refused, bbolt has taken everything
// back and nothing is in doubt; the usual case is a full disk. After anything else, above all a failed sync, it is not known what is on disk.
func (q *Queue) afterFailure(err error) {
	var perr *os.PathError
	if errors.As(err, &perr) && perr.Op == "write" && q.writer.unchanged() {
		return
	}
	if isDamage(err) {
		q.reportDamage(err)
		q.abandon(err)
		return
	}
	w := q.writer
	q.writer = nil
	q.seal(w, err)
}

// abandon sets the segment that is written to aside as damaged.
func (q *Queue) abandon(reason error) {
	w := q.writer
	q.writer = nil
	q.seal(w, reason)
	q.takeOut(w.segment)
}

func (q *Queue) seal(w *writer, reason error) {
	if err := w.seal(reason); err != nil {
		q.log.Warn("segment did not close", zap.String("file", w.path), zap.Error(err))
	}
}

// publish makes what was stored visible.
func (q *Queue) publish(w *writer, records plan, sum summary, ops []KeyValue, size int64) {
	q.mu.Lock()
	first := w.last + 1
	w.last, w.bytes, w.firstAt, w.lastAt, w.size = sum.last, sum.bytes, sum.firstAt, sum.lastAt, size
	q.end = sum.last
	for i := range records {
		p := &records[i]
		n := len(q.cache)
		block := hotBlock{
			blockView: blockView{buf: slices.Clip(p.buf), chunks: p.chunks, segment: w.base}, key: p.key, size: int64(cap(p.buf)),
		}
		if n > 0 && q.cache[n-1].key == p.key {
			old := &q.cache[n-1]
			block.chunks = append(old.chunks, p.chunks...)
			q.cached += block.size - old.size
			q.cache[n-1] = block
			continue
		}
		// A block that grows after it has left the cache comes back with its new chunks only.
		q.cache = append(q.cache, block)
		q.cached += block.size
	}
	for _, kv := range ops {
		q.applyState(kv.Key, kv.Value)
	}
	if len(records) > 0 {
		needed, at := q.end, records[0].chunks[0].at
		for _, c := range q.cursors {
			needed = min(needed, c.arrived(first, at))
		}
		q.trimCache(needed)
	}
	q.mu.Unlock()
	q.account()
	q.enforceLimit()
}

// trimCache drops the blocks that every cursor has acknowledged, and the oldest beyond the limit. q.mu is held.
func (q *Queue) trimCache(needed uint64) {
	n := 0
	for n < len(q.cache) && (q.cached > q.opts.CacheBytes || q.cache[n].last() <= needed) {
		q.cached -= q.cache[n].size
		q.cache[n] = hotBlock{}
		n++
	}
	q.cache = q.cache[n:]
}

// account adds up what is on disk.
func (q *Queue) account() {
	q.mu.Lock()
	var total int64
	for _, s := range q.segments {
		total += s.size
	}
	if q.positions != nil {
		total += 2 * cursorSlotSize
	}
	q.total = total
	n := len(q.segments)
	q.mu.Unlock()
	q.metrics.bytes.Set(float64(total))
	q.metrics.segments.Set(float64(n))
}

// enforceLimit removes the oldest segments while there is too much.
func (q *Queue) enforceLimit() {
	for {
		q.mu.RLock()
		var oldest *segment
		if q.total > q.opts.MaxBytes && len(q.segments) > 1 {
			oldest = q.segments[0]
		}
		q.mu.RUnlock()
		if oldest == nil {
			return
		}
		if q.removeDone() {
			continue // nobody loses anything by that
		}
		q.log.Warn("storage is full, its oldest segment goes", zap.String("file", oldest.path), zap.Int64("max_bytes", q.opts.MaxBytes))
		q.skipSegment(oldest)
		q.removeFile(oldest)
	}
}

// takeOut sets a damaged segment aside; what the cursors have not acknowledged of it is lost.
func (q *Queue) takeOut(s *segment) {
	q.skipSegment(s)
	if !q.forget(s) {
		return // somebody else does it
	}
	s.retire()
	if err := q.setAside(s.path); err != nil {
		q.log.Warn("damaged file was not set aside", zap.String("file", s.path), zap.Error(err))
	}
}

// skipSegment moves every cursor behind a segment and reports what they lose.
func (q *Queue) skipSegment(s *segment) {
	q.mu.RLock()
	first, last := s.base, s.last
	var cursors []*Cursor
	for _, c := range q.cursors {
		cursors = append(cursors, c)
	}
	q.mu.RUnlock()
	if last < first {
		return
	}
	for _, c := range cursors {
		if n := c.skip(first, last); n > 0 {
			q.opts.OnDropped(c.name, n)
			c.moved()
		}
	}
}

// forget takes a segment off the list. It returns false if it was not on it.
func (q *Queue) forget(s *segment) bool {
	q.mu.Lock()
	i := slices.Index(q.segments, s)
	if i >= 0 {
		q.segments = slices.Delete(q.segments, i, i+1)
	}
	q.mu.Unlock()
	q.account()
	return i >= 0
}

// removeFile removes a segment that nobody needs, or keeps it under another name if it was damaged.
func (q *Queue) removeFile(s *segment) {
	if !q.forget(s) {
		return // somebody else does it
	}
	s.retire()
	q.mu.RLock()
	flagged := s.flagged
	q.mu.RUnlock()
	var err error
	if flagged {
		err = q.setAside(s.path)
	} else if err = os.Remove(s.path); err == nil {
		err = syncDir(q.opts.Dir)
	}
	if err != nil {
		q.log.Warn("segment was not removed", zap.String("file", s.path), zap.Error(err))
	}
}

// fail notes that a write was refused.
func (q *Queue) fail(err error, size int64) {
	q.metrics.errors.Inc()
	q.failed, q.failSize = time.Now(), size
	if !q.failing {
		q.failing = true
		q.log.Error("storage refuses writes", zap.Error(err))
	}
	q.mu.Lock()
	q.commitErr = fmt.Errorf("queue: store: %w", err)
	q.mu.Unlock()
}

// succeed notes that a write went well.
func (q *Queue) succeed() {
	if !q.failing {
		return
	}
	q.failing = false
	q.mu.Lock()
	q.commitErr = nil
	q.mu.Unlock()
	q.log.Info("storage accepts writes again")
}

// probe tries whether what was refused last would be accepted now.
func (q *Queue) probe() {
	if err := q.backend.Commit(&Group{bytes: q.failSize}); err != nil {
		q.fail(err, q.failSize)
		return
	}
	q.succeed()
}

// probeDisk writes size bytes to a file and removes it.
func probeDisk(dir string, size int64) (err error) {
	path := filepath.Join(dir, "probe"+temporarySuffix)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(path)) }()
	if _, err := f.Write(make([]byte, size)); err != nil {
		return err
	}
	return f.Sync()
}
