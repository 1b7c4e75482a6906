package deliver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/sinks"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
)

// lane sends batches of a sink's events one after the other, in a goroutine of its own.
type lane struct {
	*Delivery
	index int
	batch batch
	sent  int // records of the batch that are delivered or put aside
}

// run sends until all is done, until ctx is done, or, while draining, to the first failure.
func (l *lane) run(ctx context.Context) {
	for l.take(ctx) {
		if !l.bringToEnd(ctx) {
			l.giveUp() // the rest stays stored, and is sent after the next start
			return
		}
		l.progress.finish(l.batch.numbers)
		l.Work.done(&l.batch)
	}
}

// take waits for the next batch. It returns false when there is none any more.
func (l *lane) take(ctx context.Context) bool {
	hurry, alone, draining, gaveUp := false, false, l.draining, l.gaveUp
	for ctx.Err() == nil {
		ok, wait, ended := l.Work.take(&l.batch, time.Now(), hurry)
		if ok || ended || alone { // what is left is behind what another lane has given up
			l.sent = 0
			return ok
		}
		var filled <-chan time.Time
		if wait > 0 {
			filled = time.After(wait)
		}
		select {
		case <-l.Work.wake:
		case <-filled:
		case <-draining:
			hurry, draining = true, nil
		case <-gaveUp:
			hurry, alone, gaveUp = true, true, nil
		case <-ctx.Done():
		}
	}
	return false
}

// wanted returns what is left of the batch: the limits of the sink's queue may have taken away its beginning.
func (l *lane) wanted() []event.Record {
	acked := l.Cursor.Acked()
	for l.sent < len(l.batch.seqs) && l.batch.seqs[l.sent] <= acked {
		l.sent++
	}
	if l.Flood != nil { // its events are not in the order of the queue: they may be gone from anywhere in the batch
		l.batch.drop(l.sent, acked)
	}
	return l.batch.records[l.sent:]
}

// stored returns how many stored events the next n records of the batch stand for.
func (l *lane) stored(n int) int {
	if l.Flood == nil {
		return n
	}
	events, acked := 0, l.Cursor.Acked()
	for i := range l.batch.items[l.sent : l.sent+n] {
		events += l.batch.items[l.sent+i].left(acked)
	}
	return events
}

// bringToEnd sends the batch until all of it is delivered, put aside or taken away by the queue's limits. It returns
// false when it was interrupted before: by the end of ctx, or by a failure while draining.
//
// A batch that is refused because of what is in it is sent in smaller parts, so that only those events are put aside
// which are refused by themselves.
func (l *lane) bringToEnd(ctx context.Context) bool {
	if l.batch.invalid != nil {
		// Nothing can be done with it but to keep it where a person can look at it.
		return l.refuse(ctx, l.batch.records, l.batch.invalid)
	}
	backoff := retryBackoff{cfg: l.Cfg.Retry}
	var first time.Time
	size := len(l.batch.records) // of a part
	for {
		if !l.leaveAlone(ctx) {
			return false
		}
		records := l.wanted()
		if len(records) == 0 {
			return true
		}
		records = records[:min(size, len(records))]
		start := time.Now()
		counted, err := l.attempt(ctx, start, records)
		now := time.Now()
		l.Metrics.duration.Observe(now.Sub(start).Seconds())
		if err == nil {
			l.accepted(now, records)
		} else if ctx.Err() != nil {
			return false
		}
		refusal, refused := errors.AsType[*sinks.PermanentError](err)
		if refused {
			l.Metrics.permanent.Inc()
			l.Health.answered(l.index, now)
			if len(records) > 1 && contentRefused(refusal.Status) {
				size = (len(records) + 1) / 2
				continue
			}
			if !l.refuse(ctx, records, err) {
				return false
			}
		}
		if err == nil || refused {
			l.sent += len(records)
			size = 2 * len(records)
			backoff.failures, first = 0, time.Time{}
			continue
		}
		if !counted {
			l.Metrics.retry.Inc()
			l.Health.failed(l.index, now, err)
		}
		if first.IsZero() {
			first = start
		}
		if maxAge := l.Cfg.Retry.MaxAge; maxAge > 0 && now.Sub(first) >= maxAge {
			return l.refuse(ctx, l.wanted(), fmt.Errorf("given up after %s: %w", maxAge, err))
		}
		if later, ok := errors.AsType[*sinks.RetryAfterError](err); ok {
			l.Health.rest(now.Add(later.After))
		}
		if !l.pause(ctx, backoff.next()) {
			return false
		}
	}
}

// contentRefused says whether a status is about what was sent, rather than about who sends it or where.
func contentRefused(status int) bool {
	switch status {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity:
		return true
	}
	return false
}

// attempt calls Send once. A sink that does not come back from it in time is noticed by the delivery's watch; nothing
// else is sent in this lane as long as it does not.
func (l *lane) attempt(ctx context.Context, start time.Time, records []event.Record) (counted bool, _ error) {
	ctx, cancel := context.WithTimeout(ctx, l.Cfg.Timeout)
	defer cancel()
	l.Health.began(l.index, start)
	err := l.Sink.Send(ctx, records)
	return l.Health.ended(l.index), err
}

// leaveAlone waits as long as the sink has asked for, in whichever lane. It returns false when it was interrupted.
func (l *lane) leaveAlone(ctx context.Context) bool {
	for {
		wait := l.Health.Resting(time.Now())
		if wait <= 0 {
			return true
		}
		if !l.pause(ctx, wait) {
			return false
		}
	}
}

// accepted counts the next records of the batch, which the sink took.
func (l *lane) accepted(now time.Time, records []event.Record) {
	l.Metrics.success.Inc()
	l.Metrics.Delivered.AddN(l.stored(len(records)))
	for i := range records {
		l.Metrics.latency.Observe(now.Sub(records[i].Received).Seconds())
	}
	l.Metrics.lastSuccess.Set(status.UnixSeconds(now))
	l.Health.succeeded(l.index, now)
}

// refuse puts the next records of the batch aside for good. As long as that is not possible it tries again: they are not asked for again
// before, and not lost. It returns false when it was interrupted.
func (l *lane) refuse(ctx context.Context, records []event.Record, cause error) bool {
	letters := l.lettersOf(records, cause)
	backoff := retryBackoff{cfg: l.Cfg.Retry}
	for {
		err := l.dead.Put(letters...)
		if err == nil {
			break
		}
		if backoff.failures == 0 {
			l.log.Error("refused events could not be put aside; they stay in the queue", zap.Int("events", len(records)), zap.Error(err))
		}
		l.Health.failed(l.index, time.Now(), fmt.Errorf("%w, and could not be put aside: %w", cause, err))
		if !l.pause(ctx, backoff.next()) {
			return false
		}
	}
	if backoff.failures > 0 {
		l.Health.answered(l.index, time.Now())
	}
	refused := l.stored(len(records))
	l.Metrics.deadLetter.AddN(refused)
	if events, say := l.refusals.Note(time.Now(), refused); say {
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
