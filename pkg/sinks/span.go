package sinks

import (
	"context"
	"sync"
	"time"
)

// span is the context of one attempt after the other, as long as each is made within the same
// context and none fails: to make one costs as much as a good part of a request.
type span struct {
	context.Context
	parent context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
	// began is when the attempt did.
	began time.Time
	// form is what is kept for the next request; nil: nothing.
	form *form
}

// Err is DeadlineExceeded where the time of the attempt is over.
func (s *span) Err() error {
	if s.Context.Err() == nil {
		return nil
	}
	return context.Cause(s.Context)
}

// giveUp ends the attempt.
func (s *span) giveUp() {
	s.cancel(context.Canceled)
	s.timer.Stop()
}

// spans are those in which no attempt is made now. They end with the context they were made within,
// and by themselves: what stops their timers is only the next attempt.
type spans struct {
	timeout time.Duration

	mu   sync.Mutex
	idle []*span
}

// begin begins an attempt, whose context is that of the span.
func (all *spans) begin(parent context.Context) (context.Context, *span) {
	var s *span
	all.mu.Lock()
	if last := len(all.idle) - 1; last >= 0 {
		s, all.idle = all.idle[last], all.idle[:last]
	}
	all.mu.Unlock()
	switch {
	case s == nil:
	case s.parent == parent && s.timer.Reset(all.timeout): // it has not gone off meanwhile
		s.began = time.Now()
		return s, s
	default:
		s.giveUp()
	}
	s = &span{parent: parent, began: time.Now()}
	s.Context, s.cancel = context.WithCancelCause(parent)
	s.timer = time.AfterFunc(all.timeout, func() { s.cancel(context.DeadlineExceeded) })
	return s, s
}

// end ends an attempt. After an error something of it may go on until the context ends.
func (all *spans) end(s *span, err error) {
	if err != nil || s.Err() != nil {
		s.giveUp()
		return
	}
	all.mu.Lock()
	all.idle = append(all.idle, s)
	all.mu.Unlock()
}
