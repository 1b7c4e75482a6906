package sinks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
)

// lifetime is the time until a sink is closed.
type lifetime struct {
	ctx context.Context
	end context.CancelFunc
}

func newLifetime() *lifetime {
	ctx, end := context.WithCancel(context.Background())
	return &lifetime{ctx, end}
}

func (l *lifetime) closed() bool { return l.ctx.Err() != nil }

// attempts makes the attempts of a sink: each ends in time, and none outlives the sink.
type attempts struct {
	// name is what errors begin with: the kind of the sink, and where it sends to.
	name    string
	timeout time.Duration
	life    *lifetime
	// explain adds to an error what to do about it, and takes out what must not be seen; nil:
	// nothing.
	explain func(error) error
	// spans are those of attempts that may give up by themselves; nil: there are none.
	spans *spans
	// precise says that an attempt which is out of time fails with the error of its context,
	// and that any other error then is worth more.
	precise bool
}

// defaultTimeout is the limit of one attempt where the configuration, which has a default of its
// own, was not read from a file.
const defaultTimeout = 10 * time.Second

func timeoutOf(cfg config.Sink) time.Duration { return cmp.Or(max(cfg.Timeout, 0), defaultTimeout) }

// do calls f with a context that ends with ctx, after the timeout or with Close, and makes its
// error that of the sink. An answer of the destination has its text already. late is what did not
// happen where time was over.
func (a *attempts) do(ctx context.Context, late string, f func(context.Context) error) error {
	start := time.Now()
	attempt, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	return a.make(attempt, late, start, func() error {
		defer context.AfterFunc(a.life.ctx, cancel)() //nolint:contextcheck // both contexts end it
		return f(attempt)
	})
}

// cancelable is do for what may have to give up before its time is over, and ends by itself with
// Close, as do connections. Where f returns nil, nothing that it has begun goes on.
func (a *attempts) cancelable(ctx context.Context, late string, f func(context.Context, *span) error) error {
	attempt, s := a.spans.begin(ctx)
	err := a.make(attempt, late, s.began, func() error { return f(attempt, s) })
	a.spans.end(s, err)
	return err
}

// make makes an attempt that began at start.
func (a *attempts) make(attempt context.Context, late string, start time.Time, f func() error) error {
	err := attempt.Err()
	switch {
	case a.life.closed():
		err = ErrClosed
	case err == nil:
		err = f()
	}
	if err == nil {
		return nil
	}
	each, ok := err.(*EventsError) //nolint:errorlint // as f has made it
	if !ok {
		return a.errorOf(attempt, late, start, err)
	}
	for i, err := range each.Events {
		if err != nil && err != ErrNotJudged { //nolint:errorlint // as f has made it
			each.Events[i] = a.errorOf(attempt, late, start, err)
		}
	}
	return each
}

// errorOf makes an error of an attempt that of the sink.
func (a *attempts) errorOf(attempt context.Context, late string, start time.Time, err error) error {
	switch {
	case isAnswer(err):
		return err
	case a.life.closed():
		err = ErrClosed
	case attempt.Err() != nil && (isEnd(err) || !a.precise):
		if _, ok := errors.AsType[*tokenError](err); ok {
			late = "no OAuth 2 token"
		}
		err = ended(attempt, late, start)
	case a.explain != nil:
		err = a.explain(err)
	}
	return ifPausing(fmt.Errorf("%s: %w", a.name, err))
}

// ended returns the error of an attempt that was cut off.
func ended(attempt context.Context, late string, start time.Time) error {
	err := attempt.Err()
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%s after %s: %w", late, time.Since(start).Round(time.Millisecond), err)
	}
	return err
}

// isEnd reports whether an error is about nothing but the end of a context.
func isEnd(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
}

// isAnswer reports whether the destination has answered.
func isAnswer(err error) bool {
	_, refused := errors.AsType[*PermanentError](err)
	_, paused := errors.AsType[*PausedError](err)
	_, later := errors.AsType[*RetryAfterError](err)
	_, rejected := errors.AsType[*RejectedError](err)
	return refused || paused || later || rejected
}

// What is said where time was over.
const (
	noAnswer          = "no answer"
	noAcknowledgement = "no acknowledgement"
	notWritten        = "not written"
)

// mutex is a lock that is waited for no longer than a context lasts.
type mutex chan struct{}

func newMutex() mutex { return make(mutex, 1) }

func (m mutex) lock(ctx context.Context) error {
	select {
	case m <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := ctx.Err(); err != nil { // select does not prefer
		m.unlock()
		return err
	}
	return nil
}

func (m mutex) unlock() { <-m }

// interruptible makes reads and writes fail when ctx ends, by a deadline that is over. The function
// it returns ends that.
func interruptible(ctx context.Context, setDeadline func(time.Time) error) func() {
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = setDeadline(time.Unix(1, 0))
		close(interrupted)
	})
	return func() {
		if !stop() {
			<-interrupted
			_ = setDeadline(time.Time{})
		}
	}
}
