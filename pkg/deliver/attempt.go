package deliver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/sinks"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
)

// overdueAfter is how much longer than its timeout an attempt may take before it counts as failed.
const overdueAfter = time.Second

// verdict is what becomes of events after an attempt to send them.
type verdict int

const (
	accepted verdict = iota
	// paused means not as long as nobody mends the destination: one is sent again now and then.
	paused
	// again means not now: they are sent again.
	again
	// refused is for good: they are put aside.
	refused
	// refusedContent is refused because of what is in them: a part of them may be accepted.
	refusedContent
)

// Fate is a verdict for those who send beside the lanes. Content: a part may be accepted.
type Fate struct{ Accepted, Paused, Refused, Content bool }

func (v verdict) fate() Fate { return Fate{v == accepted, v == paused, v > again, v == refusedContent} }

// FateOf is the verdict of the error for a single event.
func FateOf(err error) Fate { return judge(err).fate() }

// judge is the one place where an error of a sink is judged.
func judge(err error) verdict {
	if err == nil {
		return accepted
	}
	if _, ok := errors.AsType[*sinks.PartialError](err); ok {
		return accepted
	}
	if _, ok := errors.AsType[*sinks.RejectedError](err); ok {
		return accepted
	}
	if _, ok := errors.AsType[*sinks.PausedError](err); ok {
		return paused
	}
	if errors.Is(err, sinks.ErrNotJudged) {
		return refusedContent
	}
	refusal, ok := errors.AsType[*sinks.PermanentError](err)
	if !ok {
		return again
	}
	switch refusal.Status {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity:
		return refusedContent
	}
	return refused
}

// attempt calls the sink once, which keeps to its timeout, and measures, counts and judges what
// comes of it. lane is whose attempt it is; nil: that of nobody, which is beside the lanes. now is
// when it begins, and then when it has ended: to ask for the time has its price too.
func (d *Delivery) attempt(
	ctx context.Context, lane *laneHealth, now time.Time, call func(context.Context) error,
) (verdict, time.Time, error) {
	start, err := d.mayBegin(ctx, now)
	if err != nil {
		return again, start, err
	}
	if lane != nil {
		d.health.begin(lane, start)
	}
	err = call(ctx)
	counted := lane != nil && d.health.end(lane)
	now = time.Now()
	d.metrics.duration.Observe(now.Sub(start).Seconds())
	if later, ok := errors.AsType[*sinks.RetryAfterError](err); ok && later.After > 0 {
		d.health.rest(now.Add(later.After))
	}
	v := judge(err)
	if v > again && lane == d.repetitions() {
		// There is nothing to put aside, and the sink does not do what it is for.
		v = again
	}
	switch {
	case v == accepted:
		d.metrics.success.Inc()
		d.health.answered(lane, now)
	case ctx.Err() != nil:
		// Whoever wanted it does not any more.
	case v > again:
		d.metrics.permanent.Inc()
		d.health.answered(lane, now)
	case !counted:
		d.metrics.retry.Inc()
		d.health.failed(lane, now, err)
	}
	return v, now, err
}

// repetitions is the lane of what a sinks.Repeater says again.
func (d *Delivery) repetitions() *laneHealth { return &d.health.lanes[len(d.lanes)] }

// alone makes an attempt beside the lanes. A sink that does not come back is left behind.
func (d *Delivery) alone(ctx context.Context, call func(context.Context) error) (verdict, error) {
	v, _, err := d.attempt(ctx, nil, time.Now(), func(ctx context.Context) error {
		answer := make(chan error, 1)
		go func() { answer <- call(ctx) }()
		limit := d.Cfg.Timeout + overdueAfter
		select {
		case err := <-answer:
			return err
		case <-time.After(limit):
			return overdueError(limit)
		}
	})
	return v, err
}

// Resend makes one attempt to send events beside the lanes, within ByHand.
func (d *Delivery) Resend(ctx context.Context, events []event.Record) (Fate, error) {
	v, err := d.alone(ctx, func(ctx context.Context) error { return d.Sink.Send(ctx, events) })
	return v.fate(), err
}

// overdueError is that of an attempt which has not ended after this time.
type overdueError time.Duration

func (e overdueError) Error() string {
	return fmt.Sprintf("an attempt has not ended after %s", time.Duration(e))
}

// Unwrap gives the error its reason.
func (e overdueError) Unwrap() error { return context.DeadlineExceeded }

// retryBackoff is the wait between attempts to deliver: doubled each time up to a maximum, with
// full jitter, so that many senders that failed together do not come back together.
type retryBackoff struct {
	cfg config.Retry
	// limit is that of the last wait; 0: nothing has failed.
	limit time.Duration
}

// next returns how long to wait after one more failure: never less than a tenth of what it may be,
// for a consumer in trouble is not to be asked at once again.
func (b *retryBackoff) next() time.Duration {
	b.limit = status.NextWait(b.limit, b.cfg.Initial, b.cfg.Max)
	return status.RandomBetween(b.limit/10, b.limit)
}
