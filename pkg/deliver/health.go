package deliver

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/sinks"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
)

const (
	// stuckAfter failed attempts in a row of one lane make a sink stuck: the daemon is not
	// ready.
	stuckAfter = 3
	// stuckTime is how long a sink may fail, and accept nothing, until it is stuck too:
	// attempts may be far apart.
	stuckTime = 5 * time.Second
	// refusingAfter refused events in a row, the sink counts as one that refuses all.
	refusingAfter = 3
)

// health is what a sink's status shows: whether its lanes get on, the last error and since when.
type health struct {
	log *zap.Logger
	// limit is how long an attempt may take before it counts as failed; overdue is called then.
	limit   time.Duration
	overdue func()

	mu    sync.Mutex
	lanes []laneHealth
	// total counts the failed attempts of all lanes since failingSince.
	total        int
	failingSince time.Time
	lastError    error
	lastErrorAt  time.Time
	lastSuccess  time.Time
	// restUntil is until when the sink has asked to be left alone.
	restUntil time.Time
	// pause is nil unless the sink is paused.
	pause *pause
	// refused counts the events that were refused for good since one was last delivered.
	refused int
}

// pause says that the destination takes no event at all as it is. Only one lane tries, one event
// at a time, until one is accepted, or refused on its own account.
type pause struct {
	reason string
	since  time.Time
	// turn is the lane that tries; nil: the next one that wants to.
	turn *laneHealth
	// changed is closed when the pause is over, or nobody has the turn.
	changed chan struct{}
}

type laneHealth struct {
	// failures counts failed attempts in a row.
	failures int
	// began is when the running attempt did; zero: none runs.
	began time.Time
	// timer goes off when the running attempt may be overdue; armed says that it will. It is left
	// to go off in vain rather than set and stopped for each attempt.
	timer *time.Timer
	armed bool
	// hangs says that the running attempt is overdue and has been counted as failed.
	hangs bool
}

// begin records that an attempt begins. If it lasts longer than the limit it counts as failed.
func (h *health) begin(l *laneHealth, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	l.began = now
	if !l.armed {
		h.arm(l, h.limit)
	}
}

func (h *health) arm(l *laneHealth, wait time.Duration) {
	l.armed = true
	if l.timer == nil {
		l.timer = time.AfterFunc(wait, func() { h.expire(l) })
	} else {
		l.timer.Reset(wait)
	}
}

// expire counts the running attempt as failed, unless it began after the timer was set.
func (h *health) expire(l *laneHealth) {
	h.mu.Lock()
	defer h.mu.Unlock()
	l.armed = false
	if l.hangs || l.began.IsZero() {
		return
	}
	now := time.Now()
	if left := h.limit - now.Sub(l.began); left > 0 {
		h.arm(l, left)
		return
	}
	l.hangs = true
	h.fail(l, now, overdueError(h.limit))
	h.overdue()
}

// end records that an attempt has returned, and reports whether it has been counted as failed.
func (h *health) end(l *laneHealth) (counted bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	counted = l.hangs
	l.began, l.hangs = time.Time{}, false
	return counted
}

// hanging says whether an attempt is running that should have ended long ago.
func (h *health) hanging() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.ContainsFunc(h.lanes, func(l laneHealth) bool { return l.hangs })
}

// failed records a failed attempt, and logs it when the sink begins to fail with it. That of
// nobody, nil, says nothing about the sink, and so with answered.
func (h *health) failed(l *laneHealth, now time.Time, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if l != nil {
		h.fail(l, now, err)
	}
}

func (h *health) fail(l *laneHealth, now time.Time, err error) {
	l.failures++
	h.total++
	h.lastError, h.lastErrorAt = err, now
	reason := sinks.PauseReason(err)
	switch {
	case reason != "" && h.pause == nil:
		h.pause = &pause{reason: reason, since: now, changed: make(chan struct{})}
		if l != &h.lanes[len(h.lanes)-1] { // that of the repetitions has no events to try
			h.pause.turn = l
		}
		h.log.Error("the sink is paused: it takes no event as it is; events wait, and one is tried now and then",
			zap.String("reason", reason), zap.Error(err))
	case reason != "":
		h.pause.reason = reason
	case h.failingSince.IsZero():
		h.log.Warn("the sink does not accept events; they wait and are tried again", zap.Error(err))
	}
	if h.failingSince.IsZero() {
		h.failingSince = now
	}
}

// admit says whether it is a lane's turn to make an attempt, and how long the sink is to be left
// alone before. changed is nil unless the sink is paused: then the attempt has a single event, and
// changed is closed when the pause is over, or the turn is free.
func (h *health) admit(l *laneHealth, now time.Time) (turn bool, wait time.Duration, changed <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	wait = h.restUntil.Sub(now)
	if h.pause == nil {
		return true, wait, nil
	}
	if h.pause.turn == nil {
		h.pause.turn = l
	}
	return h.pause.turn == l, wait, h.pause.changed
}

// leave gives back the turn of a lane that has nothing to try any more. What failed is given up, or
// has gone by the limits of the queue, unless it was accepted in the end: the lane fails with it no
// longer.
func (h *health) leave(l *laneHealth) {
	h.mu.Lock()
	defer h.mu.Unlock()
	l.failures = 0
	if p := h.pause; p != nil && p.turn == l {
		p.turn = nil
		close(p.changed)
		p.changed = make(chan struct{})
	}
}

// delivered records that the sink accepted events.
func (h *health) delivered(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lastSuccess, h.refused = now, 0
}

// refuses records that the sink has refused events for good.
func (h *health) refuses(events int, now time.Time, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.refused += events
	h.lastError, h.lastErrorAt = err, now
}

// partly records what was refused while the rest was accepted.
func (h *health) partly(err error, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lastError, h.lastErrorAt = err, now
}

// answered records that the sink is there, whether it accepted or refused, and logs it when no lane
// fails any more.
func (h *health) answered(l *laneHealth, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.pause != nil {
		close(h.pause.changed)
		h.pause = nil
	}
	if l == nil {
		return
	}
	l.failures = 0
	if h.failingSince.IsZero() || slices.ContainsFunc(h.lanes, func(l laneHealth) bool { return l.failures > 0 }) {
		return
	}
	h.log.Info("the sink accepts events again",
		zap.Int("failed_attempts", h.total), zap.Duration("after", now.Sub(h.failingSince).Round(time.Millisecond)))
	h.total, h.failingSince = 0, time.Time{}
}

// stuck says whether the sink keeps the daemon from being ready: one event, or all of them, do not
// get on. h is locked.
func (h *health) stuck(now time.Time) bool {
	return h.pause != nil ||
		slices.ContainsFunc(h.lanes, func(l laneHealth) bool { return l.failures >= stuckAfter || l.hangs }) ||
		!h.failingSince.IsZero() && now.Sub(h.failingSince) >= stuckTime && !h.lastSuccess.After(h.failingSince)
}

// rest records that the sink has asked to be left alone until then.
func (h *health) rest(until time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.restUntil = status.Later(h.restUntil, until)
}

// why is the error for which the sink does not accept events; nil: it does, as far as is known.
func (h *health) why() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.failingSince.IsZero() {
		return nil
	}
	return h.lastError
}

// pausedFor returns why the sink is paused; "": it is not.
func (h *health) pausedFor() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.pause == nil {
		return ""
	}
	return h.pause.reason
}

// Resting returns how long the sink is still to be left alone.
func (d *Delivery) Resting() time.Duration {
	d.health.mu.Lock()
	defer d.health.mu.Unlock()
	return time.Until(d.health.restUntil)
}

// show sets what the status of the sink shows of its health, troubles included.
func (h *health) show(s *status.SinkStatus, cfg *config.Sink) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s.Stuck = h.stuck(time.Now())
	s.FailingSince, s.FailedAttempts = status.TimeOrNil(h.failingSince), h.total
	s.LastErrorTime, s.LastSuccess = status.TimeOrNil(h.lastErrorAt), status.TimeOrNil(h.lastSuccess)
	reason, answer := sinks.ReasonOf(h.lastError)
	if h.lastError != nil {
		s.LastError, s.LastErrorReason, s.LastErrorStatus = h.lastError.Error(), string(reason), answer
	}
	if h.pause != nil {
		s.Paused, s.PausedSince = h.pause.reason, status.TimeOrNil(h.pause.since)
	}
	s.Refusing = h.refused >= refusingAfter || h.refused > 0 && h.lastSuccess.IsZero()
	advice := sinks.Advice(cfg, reason, answer)
	if s.Stuck {
		s.NotReady = h.notReady(advice)
	}
	s.Troubles = s.FindTroubles(advice)
}

// notReady says why the daemon is not ready because of the sink, and what to do. h is locked.
func (h *health) notReady(advice string) string {
	what := fmt.Sprintf("%d attempts failed", h.total)
	if h.total == 1 {
		what = "one attempt failed"
	}
	if h.pause != nil {
		what = fmt.Sprintf("paused (%s) since %s", h.pause.reason, h.pause.since.UTC().Format(time.RFC3339))
	}
	if h.lastError == nil {
		return what
	}
	return fmt.Sprintf("%s: %v (what to do: %s)", what, h.lastError, advice)
}
