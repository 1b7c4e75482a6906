package deliver

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
)

// sweepItems is how many waiting events are put aside at once.
const sweepItems = 1024

// sweep puts aside what becomes too old while it waits, for as long as ctx lasts. What a lane has
// taken is the lane's matter.
func (d *Delivery) sweep(ctx context.Context) {
	if d.Cfg.Retry.MaxAge <= 0 {
		return
	}
	tick := time.NewTicker(max(min(trimEvery, d.Cfg.Retry.MaxAge/8), time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-d.overdue:
		case <-ctx.Done():
			return
		}
		for {
			old := d.work.takeOld(d.isOld(time.Now()), sweepItems)
			if len(old) == 0 {
				break
			}
			there, ok := d.fetch(ctx, old)
			if !ok || len(there) > 0 && !d.giveUp(ctx, nil, there, nil) {
				return
			}
			d.settle(old)
		}
	}
}

// isOld returns what says whether an event is too old by now to be sent: it is retry.max_age from
// its receipt on, or from when the sink began, whether or not it was tried, and whatever the
// machine's clock was set to since.
func (d *Delivery) isOld(now time.Time) func(*item) bool {
	return func(it *item) bool { return d.untilOld(it, now) <= 0 }
}

// untilOld returns how long it is from now until an event is too old.
func (d *Delivery) untilOld(it *item, now time.Time) time.Duration {
	if d.Cfg.Retry.MaxAge <= 0 {
		return math.MaxInt64
	}
	since := it.record.Stored
	if it.seq <= d.backlog.Last {
		since = status.Later(since, d.backlog.Began)
	}
	return d.Cfg.Retry.MaxAge - now.Sub(since)
}

// giveUp puts events aside that have become too old. last is the error of the last attempt to send
// them; nil: there was none. It returns false when it was interrupted.
func (d *Delivery) giveUp(ctx context.Context, lane *laneHealth, items []item, last error) bool {
	if last == nil {
		last = d.health.why()
	}
	if last == nil {
		last = errors.New("it was too late when its turn came")
	}
	err := fmt.Errorf("given up after %s: %w", d.Cfg.Retry.MaxAge, last)
	return d.putAside(ctx, lane, "given up", items, func(int) error { return err })
}

// putAside makes dead letters of events; what is what became of them, for the log. As long as that
// is not possible it tries again: they are not sent again before, and not lost. It returns false
// when it was interrupted.
func (d *Delivery) putAside(
	ctx context.Context, lane *laneHealth, what string, items []item, cause func(i int) error,
) bool {
	letters := make([]queue.DeadLetter, len(items))
	for i := range items {
		r := &items[i].record
		letters[i] = d.Refusal(cause(i))
		letters[i].EventID, letters[i].EventType, letters[i].Data = r.ID, r.Type, r.JSON
		letters[i].Summary = event.String(event.Member(r.JSON, "summary"))
	}
	backoff := retryBackoff{cfg: d.Cfg.Retry}
	for {
		err := d.dead.Put(letters...)
		if err == nil {
			break
		}
		if errors.Is(err, queue.ErrClosed) && d.draining.Err() != nil {
			return false // whoever delivers next does that
		}
		if backoff.limit == 0 {
			d.log.Error(what+", but could not be put aside; they stay in the queue",
				zap.Int("events", len(items)), zap.Error(err))
		}
		d.health.failed(lane, time.Now(), fmt.Errorf("%v, and could not be put aside: %w", cause(0), err))
		if !d.pause(ctx, backoff.next(), nil) {
			return false
		}
	}
	now, stored := time.Now(), 0
	if backoff.limit > 0 {
		d.health.answered(lane, now)
	}
	for i := range items {
		stored += items[i].left(d.Cursor)
	}
	d.metrics.deadLetter.AddN(stored)
	if events, due := d.refusals.Count(now, stored); due {
		d.log.Warn(what+" and put aside as dead letters",
			zap.Int("events", events), zap.String("last_id", items[0].record.ID), zap.Error(cause(0)))
	}
	return true
}

// pause waits before the next attempt, at most until changed is closed; math.MaxInt64 is for ever.
// It returns false when the daemon shuts down.
func (d *Delivery) pause(ctx context.Context, wait time.Duration, changed <-chan struct{}) bool {
	if d.draining.Err() != nil {
		return false
	}
	var over <-chan time.Time
	if wait < math.MaxInt64 {
		over = time.After(wait)
	}
	select {
	case <-over:
	case <-changed:
	case <-ctx.Done():
		return false
	case <-d.draining.Done():
		return false
	}
	return true
}
