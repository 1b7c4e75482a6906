package deliver

import (
	"context"
	"errors"
	"math"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/sinks"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
)

// lane sends batches of a sink's events one after the other, in a goroutine of its own.
type lane struct {
	*Delivery
	own     *laneHealth
	batch   batch
	latency status.Latency
}

// run sends until all is done or ctx is done. It returns false when it gave up: at the end of ctx,
// or at the first failure while draining. What is left stays stored, and is sent after the next
// start.
func (l *lane) run(ctx context.Context) bool {
	for l.take(ctx) {
		if !l.bringToEnd(ctx) {
			return false
		}
		l.progress.finish(l.batch.seqs)
	}
	return true
}

// take is done with the batch and waits for the next one. It returns false when there is none any
// more.
func (l *lane) take(ctx context.Context) bool {
	for ctx.Err() == nil && l.finishing.Err() == nil {
		ok, wait, ended := l.work.take(&l.batch, time.Now)
		if ok || ended {
			return ok
		}
		var filled <-chan time.Time
		if wait > 0 {
			filled = time.After(wait)
		}
		select {
		case <-l.work.wake:
		case <-filled:
		case <-ctx.Done():
		}
	}
	return false
}

// bringToEnd sends the batch until all of it is delivered, put aside or taken away by the queue's
// limits. It returns false when it was interrupted before: by the end of ctx, or by a failure while
// draining.
//
// A batch that is refused because of what is in it is sent in smaller parts, so that only those
// events are put aside which are refused by themselves.
func (l *lane) bringToEnd(ctx context.Context) bool {
	there, ok := l.fetch(ctx, l.batch.items)
	if l.batch.set(there); !ok || len(there) == 0 {
		return ok
	}
	if err := l.batch.items[0].invalid; err != nil {
		// Nothing can be done with it but to keep it where a person can look at it.
		return l.putAside(ctx, l.own, refusedForGood, l.batch.items, func(int) error { return err })
	}
	defer l.health.leave(l.own)
	var (
		backoff = retryBackoff{cfg: l.Cfg.Retry}
		next    time.Time // when the next attempt may be made
		size    = len(l.batch.items)
		last    error // of the attempts so far
	)
	for {
		now := time.Now()
		// What has gone by the limits of the queue may be anywhere in a batch that a stage made.
		acked := l.Cursor.Acked()
		l.batch.remove(func(i int) bool { return l.batch.items[i].seq <= acked })
		isOld := l.isOld(now)
		if old := l.batch.remove(func(i int) bool { return isOld(&l.batch.items[i]) }); len(old) > 0 {
			if !l.giveUp(ctx, l.own, old, last) {
				return false
			}
			l.settle(old)
		}
		if len(l.batch.items) == 0 {
			return true
		}
		turn, wait, changed := l.health.admit(l.own, now)
		if wait = max(wait, next.Sub(now)); wait > 0 || !turn {
			if !l.wait(ctx, turn, wait, changed) {
				return false
			}
			select {
			case <-changed:
				next = time.Time{} // what was waited for has happened
			default:
			}
			continue
		}
		n := min(size, len(l.batch.items))
		if changed != nil {
			n = 1
		}
		records := l.batch.records[:n]
		v, now, err := l.attempt(ctx, l.own, now, func(ctx context.Context) error { return l.Sink.Send(ctx, records) })
		if v == accepted {
			l.delivered(l.batch.items[:n], now, err)
			if n == len(l.batch.items) {
				return true
			}
			l.settle(l.batch.remove(func(i int) bool { return i < n }))
			size, backoff.limit, last = 2*n, 0, nil
			continue
		}
		left, ok := n, true
		if each, divided := errors.AsType[*sinks.EventsError](err); divided && len(each.Events) == n {
			left, ok = l.divide(ctx, now, each.Events)
		} else if v == refused || v == refusedContent && n == 1 {
			left, ok = l.divide(ctx, now, slices.Repeat([]error{err}, n))
		}
		if !ok || ctx.Err() != nil || l.finishing.Err() != nil {
			return false
		}
		if left < n { // something has become of the others
			backoff.limit = 0
		}
		switch {
		case v == paused, v == again, left == 1 && n == 1:
			last, next = err, time.Now().Add(backoff.next())
		case left > 0:
			size = (left + 1) / 2
		}
	}
}

// wait waits until a lane may go on, or an event of its batch has become too old; without the turn
// until changed is closed. It returns false when it was interrupted.
func (l *lane) wait(ctx context.Context, turn bool, wait time.Duration, changed <-chan struct{}) bool {
	if !turn {
		wait = math.MaxInt64
	}
	now := time.Now()
	for i := range l.batch.items {
		wait = min(wait, l.untilOld(&l.batch.items[i], now))
	}
	return l.pause(ctx, wait, changed)
}

// divide does with each of the first events of the batch what its own error says. It returns how
// many of them are to be sent again, or false when it was interrupted.
func (l *lane) divide(ctx context.Context, now time.Time, each []error) (left int, ok bool) {
	var (
		done    []item
		bad     []item
		causes  []error
		settled = make([]bool, len(each))
	)
	for i, err := range each {
		it := &l.batch.items[i]
		switch v := judge(err); {
		case v == accepted:
			done = append(done, *it)
		case v > again && !errors.Is(err, sinks.ErrNotJudged):
			bad, causes = append(bad, *it), append(causes, err)
		default:
			left++
			continue
		}
		settled[i] = true
	}
	if len(done) > 0 {
		l.delivered(done, now, nil)
	}
	if len(bad) > 0 {
		l.health.refuses(len(bad), now, causes[0])
		if !l.putAside(ctx, l.own, refusedForGood, bad, func(i int) error { return causes[i] }) {
			return left, false
		}
	}
	l.settle(l.batch.remove(func(i int) bool { return i < len(settled) && settled[i] }))
	return left, true
}

// fetch reads what was left in the queue of events, and returns those that are still there. It
// returns false when it was interrupted.
func (d *Delivery) fetch(ctx context.Context, items []item) (there []item, ok bool) {
	var seqs []uint64
	for i := range items {
		if items[i].stored > 0 {
			seqs = append(seqs, items[i].seq)
		}
	}
	if seqs == nil {
		return items, true
	}
	records, err := d.Cursor.Again(seqs)
	for ; err != nil; records, err = d.Cursor.Again(seqs) {
		if errors.Is(err, queue.ErrClosed) {
			return items, false
		}
		d.log.Error("stored events cannot be read", zap.Error(err))
		if !d.pause(ctx, time.Second, nil) {
			return items, false
		}
	}
	var gone []item
	lost, acked := 0, d.Cursor.Acked()
	for _, it := range items {
		if it.stored > 0 {
			stored := records[0]
			records = records[1:]
			if stored.Data == nil {
				if gone = append(gone, it); it.seq > acked {
					lost++
				}
				continue
			}
			it.record, it.stored = newItem(stored).record, 0
		}
		there = append(there, it)
	}
	d.settle(gone)
	if lost > 0 {
		d.metrics.dropped.AddN(lost)
		d.log.Error("events were dropped: they cannot be read any more", zap.Int("events", lost))
	}
	return there, true
}

// settle says that events are done with which are not the whole of a lane's batch: what is left of
// it may take long.
func (d *Delivery) settle(items []item) {
	var seqs []uint64
	for i := range items {
		seqs = items[i].appendSeqs(seqs)
	}
	d.progress.finish(seqs)
}

// delivered counts events that the sink took now. err is nil, or says that a part of the
// destination, or some of the events, are an exception.
func (l *lane) delivered(items []item, now time.Time, err error) {
	stored := 0
	for i := range items {
		stored += items[i].left(l.Cursor)
		l.latency.Observe(l.metrics.latency, now.Sub(items[i].record.Received), items[i].record.ID, now)
	}
	l.health.delivered(now)
	if err != nil {
		l.health.partly(err, now)
	}
	if rejected, ok := errors.AsType[*sinks.RejectedError](err); ok {
		n := min(rejected.Events, stored)
		stored -= n
		l.metrics.deadLetter.AddN(n)
		if events, due := l.refusals.Count(now, n); due {
			l.log.Warn("refused for good; which events those are the sink does not say, so that they are not kept",
				zap.Int("events", events), zap.Error(err))
		}
	}
	l.metrics.delivered.AddN(stored)
	l.metrics.lastSuccess.Set(status.UnixSeconds(now))
}
