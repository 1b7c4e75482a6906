package bridge

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/sinks"
)

// lane sends some of a sink's events one after the other, in a goroutine of its own: all events of one resource go
// into one lane, which keeps their order. What holds up one lane holds up no other.
type lane struct {
	*delivery
	index int
	wake  chan struct{} // holds one token when there is something new

	mu      sync.Mutex
	pending []item // from head
	head    int
	closed  bool // nothing comes any more

	batch batch // of the lane's goroutine
}

// item is one record on its way.
type item struct {
	number  uint64 // in progress
	seq     uint64
	record  event.Record
	invalid error // why the record cannot be sent at all
}

// batch is what a lane has taken to be sent at once. Its memory is used again for the next one.
type batch struct {
	numbers []uint64
	seqs    []uint64
	records []event.Record
	invalid error // of its only record
}

// add takes in records. They come in the order of the queue.
func (l *lane) add(items []item) {
	l.mu.Lock()
	if l.head > len(l.pending)/2 {
		n := copy(l.pending, l.pending[l.head:])
		clear(l.pending[n:])
		l.pending, l.head = l.pending[:n], 0
	}
	l.pending = append(l.pending, items...)
	l.mu.Unlock()
	notify(l.wake)
}

// close says that nothing comes any more.
func (l *lane) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	notify(l.wake)
}

// run sends until the lane is closed and empty, until ctx is done, or, while draining, to the first failure.
func (l *lane) run(ctx context.Context) {
	for l.take(ctx) {
		if !l.bringToEnd(ctx) {
			l.giveUp() // the rest stays stored, and is sent after the next start
			return
		}
		l.progress.finish(l.batch.numbers)
	}
}

// take waits for the next batch: for its first event, and then up to max_wait for it to fill. It returns false at the
// end of the lane.
func (l *lane) take(ctx context.Context) bool {
	var filled <-chan time.Time
	waited := l.cfg.Batch.MaxEvents <= 1 || l.cfg.Batch.MaxWait <= 0
	draining := l.draining
	for ctx.Err() == nil {
		l.mu.Lock()
		n, full := l.fitting()
		if n > 0 && (full || waited || l.closed) {
			l.pick(n)
			l.mu.Unlock()
			return true
		}
		closed := l.closed
		l.mu.Unlock()
		if closed {
			return false
		}
		if n > 0 && filled == nil && !waited {
			timer := time.NewTimer(l.cfg.Batch.MaxWait)
			defer timer.Stop()
			filled = timer.C
		}
		select {
		case <-l.wake:
		case <-filled:
			waited = true
		case <-draining:
			waited, draining = true, nil
		case <-ctx.Done():
		}
	}
	return false
}

// fitting returns how many of the pending records go into the next batch, and whether there is no use in waiting for
// more. l.mu is held.
func (l *lane) fitting() (n int, full bool) {
	bytes := 0
	for i := l.head; i < len(l.pending); i++ {
		it := &l.pending[i]
		switch {
		case n == 0 && it.invalid != nil:
			return 1, true
		case n > 0 && (it.invalid != nil || n >= l.batchEvents || bytes+len(it.record.JSON) > l.batchBytes):
			return n, true
		}
		bytes += len(it.record.JSON)
		n++
	}
	return n, n >= min(l.batchEvents, l.cfg.Batch.MaxEvents)
}

// pick moves pending records into the batch. l.mu is held.
func (l *lane) pick(n int) {
	b := &l.batch
	clear(b.records)
	b.numbers, b.seqs, b.records = b.numbers[:0], b.seqs[:0], b.records[:0]
	picked := l.pending[l.head : l.head+n]
	for i := range picked {
		b.numbers = append(b.numbers, picked[i].number)
		b.seqs = append(b.seqs, picked[i].seq)
		b.records = append(b.records, picked[i].record)
	}
	b.invalid = picked[0].invalid
	clear(picked) // the memory of a record is that of its neighbors too
	l.head += n
}

// wanted returns what is left of the batch: the limits of the sink's queue may have taken away its beginning.
func (l *lane) wanted() []event.Record {
	acked := l.cursor.Acked()
	gone := 0
	for gone < len(l.batch.seqs) && l.batch.seqs[gone] <= acked {
		gone++
	}
	return l.batch.records[gone:]
}

// bringToEnd sends the batch until all of it is delivered, put aside or taken away by the queue's limits. It returns
// false when it was interrupted before: by the end of ctx, or by a failure while draining.
func (l *lane) bringToEnd(ctx context.Context) bool {
	if l.batch.invalid != nil {
		// Nothing can be done with it but to keep it where a person can look at it.
		return l.refuse(ctx, l.batch.records, l.batch.invalid)
	}
	backoff := retryBackoff{cfg: l.cfg.Retry}
	var first time.Time
	for {
		if !l.leaveAlone(ctx) {
			return false
		}
		records := l.wanted()
		if len(records) == 0 {
			return true
		}
		start := time.Now()
		counted, err := l.attempt(ctx, start, records)
		now := time.Now()
		l.metrics.duration.Observe(now.Sub(start).Seconds())
		if err == nil {
			l.accepted(now, records)
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		if _, ok := errors.AsType[*sinks.PermanentError](err); ok {
			l.metrics.permanent.Inc()
			l.health.answered(l.index, now)
			return l.refuse(ctx, records, err)
		}
		if !counted {
			l.metrics.retry.Inc()
			l.health.failed(l.index, now, err)
		}
		if first.IsZero() {
			first = start
		}
		if maxAge := l.cfg.Retry.MaxAge; maxAge > 0 && now.Sub(first) >= maxAge {
			return l.refuse(ctx, records, fmt.Errorf("given up after %s: %w", maxAge, err))
		}
		if later, ok := errors.AsType[*sinks.RetryAfterError](err); ok {
			l.health.rest(now.Add(later.After))
		}
		if !l.pause(ctx, backoff.next()) {
			return false
		}
	}
}

// attempt calls Send once. A sink that does not come back from it in time is noticed by the delivery's watch; nothing
// else is sent in this lane as long as it does not.
func (l *lane) attempt(ctx context.Context, start time.Time, records []event.Record) (counted bool, _ error) {
	ctx, cancel := context.WithTimeout(ctx, l.cfg.Timeout)
	defer cancel()
	l.health.began(l.index, start)
	err := l.sink.Send(ctx, records)
	return l.health.ended(l.index), err
}

// leaveAlone waits as long as the sink has asked for, in whichever lane. It returns false when it was interrupted.
func (l *lane) leaveAlone(ctx context.Context) bool {
	for {
		wait := l.health.resting(time.Now())
		if wait <= 0 {
			return true
		}
		if !l.pause(ctx, wait) {
			return false
		}
	}
}

// accepted counts records that the sink took.
func (l *lane) accepted(now time.Time, records []event.Record) {
	l.metrics.success.Inc()
	l.metrics.delivered.add(len(records))
	for i := range records {
		l.metrics.latency.Observe(now.Sub(records[i].Received).Seconds())
	}
	l.metrics.lastSuccess.Set(unixSeconds(now))
	l.health.succeeded(l.index, now)
}

// refuse puts records aside for good. As long as that is not possible it tries again: they are not asked for again
// before, and not lost. It returns false when it was interrupted.
func (l *lane) refuse(ctx context.Context, records []event.Record, cause error) bool {
	letters := l.lettersOf(records, cause)
	backoff := retryBackoff{cfg: l.cfg.Retry}
	for {
		err := l.dead.Put(letters...)
		if err == nil {
			break
		}
		if backoff.failures == 0 {
			l.log.Error("refused events could not be put aside; they stay in the queue", zap.Int("events", len(records)), zap.Error(err))
		}
		l.health.failed(l.index, time.Now(), fmt.Errorf("%w, and could not be put aside: %w", cause, err))
		if !l.pause(ctx, backoff.next()) {
			return false
		}
	}
	if backoff.failures > 0 {
		l.health.answered(l.index, time.Now())
	}
	l.metrics.deadLetter.add(len(records))
	if events, say := l.refusals.note(time.Now(), len(records)); say {
		l.log.Warn("refused for good and put aside as dead letters", zap.Int("events", events), zap.String("last_id", records[0].ID), zap.Error(cause))
	}
	return true
}

// pause waits before the next attempt. It ends early, and with false, when the daemon shuts down.
func (l *lane) pause(ctx context.Context, wait time.Duration) bool {
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-l.draining:
		return false
	default:
	}
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
	case <-l.draining:
	}
	return false
}
