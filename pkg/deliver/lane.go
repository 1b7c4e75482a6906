package deliver

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
)

// lane sends batches of a sink's events one after the other, in a goroutine of its own.
type lane struct {
	*Delivery
	own   *laneHealth
	batch batch
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
		l.work.done(&l.batch)
	}
	return true
}

// take waits for the next batch. It returns false when there is none any more.
func (l *lane) take(ctx context.Context) bool {
	for ctx.Err() == nil {
		ok, wait, ended := l.work.take(&l.batch, time.Now())
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
	if err := l.batch.items[0].invalid; err != nil {
		// Nothing can be done with it but to keep it where a person can look at it.
		return l.refuse(ctx, l.batch.records, err)
	}
	backoff := retryBackoff{cfg: l.Cfg.Retry}
	var first time.Time // when the first attempt began that did not succeed
	size, sent := len(l.batch.records), 0
	for sent < len(l.batch.records) {
		if !l.leaveAlone(ctx) {
			return false
		}
		l.batch.drop(sent, l.Cursor.Acked())
		if sent = 0; len(l.batch.records) == 0 {
			break
		}
		records := l.batch.records[:min(size, len(l.batch.records))]
		start := time.Now()
		v, err := l.attempt(ctx, l.own, func(ctx context.Context) error { return l.Sink.Send(ctx, records) })
		switch {
		case v == accepted:
			l.delivered(records)
		case ctx.Err() != nil:
			return false
		case v == refusedContent && len(records) > 1:
			size = (len(records) + 1) / 2
			continue
		case v != again:
			if !l.refuse(ctx, records, err) {
				return false
			}
		default:
			if first.IsZero() {
				first = start
			}
			if maxAge := l.Cfg.Retry.MaxAge; maxAge > 0 && time.Since(first) >= maxAge {
				l.batch.drop(0, l.Cursor.Acked())
				return l.refuse(ctx, l.batch.records, fmt.Errorf("given up after %s: %w", maxAge, err))
			}
			if !l.pause(ctx, backoff.next()) {
				return false
			}
			continue
		}
		sent, size = len(records), 2*len(records)
		backoff.limit, first = 0, time.Time{}
	}
	return true
}

// leaveAlone waits as long as the sink has asked for, in whichever lane. It returns false when it
// was interrupted.
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

// delivered counts the next records of the batch, which the sink took.
func (l *lane) delivered(records []event.Record) {
	now := time.Now()
	l.metrics.delivered.AddN(l.batch.stored(len(records), l.Cursor.Acked()))
	for i := range records {
		l.metrics.latency.Observe(now.Sub(records[i].Received).Seconds())
	}
	l.metrics.lastSuccess.Set(status.UnixSeconds(now))
	l.health.delivered(now)
}

// refuse puts the next records of the batch aside for good. As long as that is not possible it
// tries again: they are not sent again before, and not lost. It returns false when it was
// interrupted.
func (l *lane) refuse(ctx context.Context, records []event.Record, cause error) bool {
	if len(records) == 0 {
		return true
	}
	letters := make([]queue.DeadLetter, len(records))
	for i, r := range records {
		letters[i] = l.refusal(cause)
		letters[i].EventID, letters[i].EventType, letters[i].Data = r.ID, r.Type, r.JSON
	}
	backoff := retryBackoff{cfg: l.Cfg.Retry}
	for {
		err := l.dead.Put(letters...)
		if err == nil {
			break
		}
		if backoff.limit == 0 {
			l.log.Error("refused events could not be put aside; they stay in the queue",
				zap.Int("events", len(records)), zap.Error(err))
		}
		l.health.failed(l.own, time.Now(), fmt.Errorf("%v, and could not be put aside: %w", cause, err))
		if !l.pause(ctx, backoff.next()) {
			return false
		}
	}
	if backoff.limit > 0 {
		l.health.answered(l.own, time.Now())
	}
	stored := l.batch.stored(len(records), l.Cursor.Acked())
	l.metrics.deadLetter.AddN(stored)
	if events, due := l.refusals.Count(time.Now(), stored); due {
		l.log.Warn("refused for good and put aside as dead letters",
			zap.Int("events", events), zap.String("last_id", records[0].ID), zap.Error(cause))
	}
	return true
}

// pause waits before the next attempt. It ends early, and with false, when the daemon shuts down.
func (l *lane) pause(ctx context.Context, wait time.Duration) bool {
	if l.draining.Err() != nil {
		return false
	}
	select {
	case <-time.After(wait):
		return true
	case <-ctx.Done():
	case <-l.draining.Done():
	}
	return false
}
