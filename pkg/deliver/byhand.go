package deliver

import (
	"context"
	"errors"
	"time"
)

// ErrLeaving is why what is sent by hand stops when the sink does.
var ErrLeaving = errors.New("the sink ends: the daemon ends, or its configuration was changed")

// ByHand runs fn, which sends beside the lanes, as long as the delivery does not end: ctx is done
// then.
func (d *Delivery) ByHand(ctx context.Context, fn func(context.Context) error) error {
	select {
	case d.sending <- struct{}{}:
	default:
		return ErrLeaving
	}
	defer func() { <-d.sending }()
	if d.draining.Err() != nil {
		return ErrLeaving
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer d.whenDraining(func() { cancel(ErrLeaving) })()
	return fn(ctx)
}

// EndByHand ends the replay that uses the sink, and waits at most limit for that. No other begins.
func (d *Delivery) EndByHand(limit time.Duration) {
	d.drain()
	select {
	case d.sending <- struct{}{}:
		<-d.sending
	case <-time.After(limit):
	}
}
