package replay

import (
	"context"
	"errors"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/deliver"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/sinks"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
)

// resend sends events beside the lanes, in their order and in batches as the lanes have them, until
// each is accepted or refused for good, however long that takes. None of them becomes a dead
// letter. Between two attempts it leaves the sink, and the machine, to the lanes for as long as the
// last one took. An error says why it has ended before.
func (r *run) resend(ctx context.Context, events []event.Record) error {
	d := r.to
	most, bytes := sinks.MaxBatch(d.Sink)
	most = max(1, min(most, d.Cfg.Batch.MaxEvents))
	size, backoff := most, time.Duration(0)
	for len(events) > 0 {
		if wait := d.Resting(); wait > 0 {
			r.waits("the sink asks to be left alone for " + max(time.Second, wait.Round(time.Second)).String())
			if !status.Sleep(ctx, wait) {
				return context.Cause(ctx)
			}
			continue
		}
		n, sum := 1, len(events[0].JSON)
		for n < min(size, len(events)) && sum+len(events[n].JSON) <= bytes {
			sum += len(events[n].JSON)
			n++
		}
		start := time.Now()
		v, err := d.Resend(ctx, events[:n:n])
		pause := time.Since(start)
		each, divided := errors.AsType[*sinks.EventsError](err)
		switch {
		case v.Accepted:
			refused := 0
			if rejected, some := errors.AsType[*sinks.RejectedError](err); some { // it does not say which
				refused = min(rejected.Events, n)
				r.became(events[:refused], err)
			}
			r.became(events[refused:n], nil)
			events, size, backoff = events[n:], min(2*n, most), 0
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case divided && len(each.Events) == n:
			left := r.settle(events[:n], each.Events)
			if len(left) < n {
				backoff = 0
			}
			if len(left) > 0 {
				size, pause = (len(left)+1)/2, max(pause, r.next(&backoff))
				r.waits(err.Error())
			}
			events = append(left, events[n:]...)
		case v.Refused && !v.Content, v.Refused && n == 1:
			r.became(events[:n], err)
			events, backoff = events[n:], 0
		case v.Content:
			size = (n + 1) / 2
		default:
			if v.Paused {
				size = 1
			}
			pause = max(pause, r.next(&backoff))
			r.waits(err.Error())
		}
		if !status.Sleep(ctx, pause) {
			return context.Cause(ctx)
		}
	}
	return nil
}

// settle tells what became of events of which each has an answer of its own, and returns those that
// are to be sent again.
func (r *run) settle(events []event.Record, answers []error) (left []event.Record) {
	for i, err := range answers {
		switch v := deliver.FateOf(err); {
		case v.Accepted:
			r.became(events[i:i+1], nil)
		case v.Refused && !errors.Is(err, sinks.ErrNotJudged):
			r.became(events[i:i+1], err)
		default:
			left = append(left, events[i])
		}
	}
	return left
}

// next returns how long to wait after one more failure: as the lanes do, doubled and with jitter.
func (r *run) next(backoff *time.Duration) time.Duration {
	retry := &r.to.Cfg.Retry
	*backoff = status.NextWait(*backoff, retry.Initial, retry.Max)
	return status.RandomBetween(*backoff/10, *backoff)
}
