package deliver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/sinks"
)

func TestJudge(t *testing.T) {
	t.Parallel()
	refusal := func(status int) error {
		return fmt.Errorf("x: %w", &sinks.PermanentError{Status: status, Err: errors.New("no")})
	}
	for _, test := range []struct {
		err  error
		want verdict
	}{
		{nil, accepted},
		{&sinks.PartialError{Err: errors.New("one member is down")}, accepted},
		{errors.New("down"), again},
		{context.DeadlineExceeded, again},
		{unavailable, again},
		{refusal(0), refused},
		{refusal(http.StatusUnsupportedMediaType), refused},
		{fmt.Errorf("x: %w", unauthorized), paused},
		{&sinks.PartialError{Err: errors.Join(unauthorized, refusal(400))}, accepted},
		{&sinks.RejectedError{Events: 1, Err: refusal(400)}, accepted},
		{&sinks.EventsError{Events: []error{nil, refusal(400), unavailable, unauthorized}}, paused},
		{&sinks.EventsError{Events: []error{nil, refusal(400), unavailable, sinks.ErrNotJudged}}, again},
		{&sinks.EventsError{Events: []error{nil, refusal(500), sinks.ErrNotJudged}}, refused},
		{&sinks.EventsError{Events: []error{nil, sinks.ErrNotJudged}}, refusedContent},
		{refusal(http.StatusBadRequest), refusedContent},
		{refusal(http.StatusRequestEntityTooLarge), refusedContent},
		{refusal(http.StatusUnprocessableEntity), refusedContent},
	} {
		if got := judge(test.err); got != test.want {
			t.Errorf("%v: %d, want %d", test.err, got, test.want)
		}
	}
}

// A consumer that asks to be left alone is left alone by all lanes, and by a test.
func TestRetryAfterHoldsForAllLanes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, retryAfterHoldsForAllLanes)
}

func retryAfterHoldsForAllLanes(t *testing.T) {
	s := newFixture(t)
	requests := 0
	s.consumer.answers(func([]*event.Event) error {
		requests++
		return &sinks.RetryAfterError{Status: http.StatusTooManyRequests, After: time.Hour, Err: errors.New("status 429")}
	})
	s.consumer.atOnce = 1
	s.runWith(config.Flood{}, "concurrency: 4")
	s.store(another(event.TypeOSMessage, 1000))
	s.eventually("it has asked", func() bool { return s.delivery.Snapshot().FailedAttempts == 1 })
	if got := s.delivery.Snapshot(); got.FailingSince == nil || got.LastErrorReason != "overloaded" || got.LastErrorStatus != 429 {
		t.Errorf("%+v", got)
	}
	const n = 80
	for i := range n {
		s.store(another(event.TypeOSMessage, i))
	}
	s.eventually("each lane has an event to send", func() bool { return s.left() == n+1-len(s.delivery.lanes) })
	_, err := s.delivery.Test(t.Context(), another(event.TypeBridgeTest, 1), func(TestStep) error {
		t.Error("a test begins")
		return nil
	})
	if !errors.Is(err, ErrNotTested) || !strings.Contains(err.Error(), "left alone for another ") {
		t.Errorf("a test: %v", err)
	}
	s.end()
	if requests != 1 {
		t.Errorf("%d requests", requests)
	}
}

// An attempt that does not end counts as failed while it lasts, and once.
func TestOverdue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, overdue)
}

func overdue(t *testing.T) {
	s := newFixture(t)
	release := make(chan struct{})
	s.consumer.answers(func([]*event.Event) error {
		<-release // whatever becomes of the context
		return errors.New("interrupted")
	})
	s.runWith(config.Flood{}, "timeout: 3s, retry: {initial: 1m, max: 1m}")
	s.store(another(event.TypeOSMessage, 1))
	time.Sleep(3 * time.Second)
	synctest.Wait()
	if got := s.delivery.Snapshot(); got.Stuck || got.FailedAttempts != 0 || s.delivery.Hanging() {
		t.Errorf("before: %+v", got)
	}
	time.Sleep(overdueAfter)
	synctest.Wait()
	got := s.delivery.Snapshot()
	if !got.Stuck || got.FailedAttempts != 1 || !s.delivery.Hanging() || got.LastErrorReason != "timeout" || got.LastError != "an attempt has not ended after 4s" {
		t.Errorf("after: %+v", got)
	}
	if v, err := s.delivery.alone(t.Context(), func(context.Context) error { <-release; return nil }); v != again || err == nil {
		t.Errorf("beside it: %d, %v", v, err)
	}
	close(release)
	synctest.Wait()
	if got := s.delivery.Snapshot(); got.Stuck || got.FailedAttempts != 1 || s.delivery.Hanging() {
		t.Errorf("when it has ended: %+v", got)
	}
}

// repeater is a consumer that has to be told again.
type repeater struct {
	*collected
	repeat func() error
}

func (r *repeater) Repeat(context.Context) error { return r.repeat() }

func (r *repeater) RepeatInterval() time.Duration { return time.Minute }

// A consumer that asks to be left alone is not told again either, whoever it has said that to.
func TestRetryAfterHoldsForRepetitions(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newFixture(t)
		later := &sinks.RetryAfterError{Status: http.StatusTooManyRequests, After: 10 * time.Minute, Err: errors.New("status 429")}
		var repeats atomic.Int32
		var well atomic.Bool
		s.to = &repeater{s.consumer, func() error {
			repeats.Add(1)
			if !well.Load() {
				return later
			}
			return nil
		}}
		s.runWith(config.Flood{}, "concurrency: 2")
		time.Sleep(9 * time.Minute)
		synctest.Wait()
		if n := repeats.Load(); n != 1 {
			t.Errorf("%d repetitions", n)
		}
		well.Store(true)
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		s.consumer.refuses(later)
		s.store(another(event.TypeOSMessage, 1))
		s.eventually("an event is tried", func() bool { return s.delivery.Snapshot().FailedAttempts == 1 })
		before := repeats.Load()
		time.Sleep(9 * time.Minute)
		synctest.Wait()
		if n := repeats.Load(); before < 2 || n != before {
			t.Errorf("%d repetitions, then %d", before, n)
		}
		s.end()
	})
}
