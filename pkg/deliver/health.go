package deliver

import (
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
)

// health is what a sink's status shows: whether its lanes get on, the last error and since when.
type health struct {
	log *zap.Logger

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
}

type laneHealth struct {
	// failures counts failed attempts in a row.
	failures int
	// hangs says that the running attempt is overdue and has been counted as failed.
	hangs bool
}

// follow is called when an attempt begins. It counts as failed when it lasts longer than limit;
// overdue is called then. ended is called when it has returned, and reports whether it has been
// counted.
func (h *health) follow(l *laneHealth, limit time.Duration, overdue func()) (ended func() (counted bool)) {
	over, counted := false, false
	timer := time.AfterFunc(limit, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if !over {
			l.hangs, counted = true, true
			h.fail(l, time.Now(), overdueError(limit))
			overdue()
		}
	})
	return func() bool {
		timer.Stop()
		h.mu.Lock()
		defer h.mu.Unlock()
		l.hangs, over = false, true
		return counted
	}
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
	if h.failingSince.IsZero() {
		h.failingSince = now
		h.log.Warn("the sink does not accept events; they wait and are tried again", zap.Error(err))
	}
}

// delivered records that the sink accepted events.
func (h *health) delivered(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lastSuccess = now
}

// partly records what a part of the destination has refused while the rest accepts.
func (h *health) partly(err *sinks.PartialError, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lastError, h.lastErrorAt = err, now
}

// answered records that the sink is there, whether it accepted or refused, and logs it when no lane
// fails any more.
func (h *health) answered(l *laneHealth, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if l == nil || l.failures == 0 {
		return
	}
	l.failures = 0
	if slices.ContainsFunc(h.lanes, func(l laneHealth) bool { return l.failures > 0 }) {
		return
	}
	h.log.Info("the sink accepts events again",
		zap.Int("failed_attempts", h.total), zap.Duration("after", now.Sub(h.failingSince).Round(time.Millisecond)))
	h.total, h.failingSince = 0, time.Time{}
}

// stuck says whether the sink keeps the daemon from being ready: one event, or all of them, do not
// get on. h is locked.
func (h *health) stuck(now time.Time) bool {
	return slices.ContainsFunc(h.lanes, func(l laneHealth) bool { return l.failures >= stuckAfter || l.hangs }) ||
		!h.failingSince.IsZero() && now.Sub(h.failingSince) >= stuckTime && !h.lastSuccess.After(h.failingSince)
}

// rest records that the sink has asked to be left alone until then.
func (h *health) rest(until time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.restUntil = status.Later(h.restUntil, until)
}

// resting returns how long the sink is still to be left alone.
func (h *health) resting(now time.Time) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.restUntil.Sub(now)
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
	s.Troubles = s.FindTroubles(sinks.Advice(cfg, reason, answer))
}
