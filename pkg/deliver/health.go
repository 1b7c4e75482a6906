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
	// stuckAfter failed attempts in a row of one lane make a sink stuck: the daemon is not ready.
	stuckAfter = 3
	// stuckTime is how long a sink may fail, and accept nothing, until it is stuck too: attempts may be far
	// apart.
	stuckTime = 5 * time.Second
)

// health is what a sink's status shows: whether its lanes get on, the last error and since when. Its methods
// ignore a lane that it does not have.
type health struct {
	log *zap.Logger

	mu           sync.Mutex
	lanes        []laneHealth
	total        int // failed attempts since the sink started failing, all lanes together
	failingSince time.Time
	lastError    error
	lastErrorAt  time.Time
	lastSuccess  time.Time
	restUntil    time.Time // the sink has asked to be left alone until then
}

type laneHealth struct {
	failures int       // attempts in a row
	sending  time.Time // when the running attempt began; zero: none runs
	hangs    bool      // the running attempt is overdue and has been counted as failed
}

// of returns a lane while h is locked, and what unlocks it.
func (h *health) of(lane int) (l *laneHealth, unlock func()) {
	h.mu.Lock()
	if lane < 0 {
		return new(laneHealth), h.mu.Unlock
	}
	return &h.lanes[lane], h.mu.Unlock
}

// began notes that an attempt begins.
func (h *health) began(lane int, now time.Time) {
	l, unlock := h.of(lane)
	defer unlock()
	l.sending = now
}

// ended notes that the attempt has returned, and reports whether it has been counted as failed already.
func (h *health) ended(lane int) (counted bool) {
	l, unlock := h.of(lane)
	defer unlock()
	counted = l.hangs
	l.sending, l.hangs = time.Time{}, false
	return counted
}

// overdue counts the attempt that began at start as failed if it still runs, and reports whether it does.
func (h *health) overdue(lane int, start time.Time, err error) bool {
	l, unlock := h.of(lane)
	defer unlock()
	if l.hangs || !l.sending.Equal(start) {
		return false
	}
	l.hangs = true
	h.fail(l, time.Now(), err)
	return true
}

// hanging says whether an attempt is running that should have ended long ago.
func (h *health) hanging() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.ContainsFunc(h.lanes, func(l laneHealth) bool { return l.hangs })
}

// failed notes a failed attempt, and logs it when the sink begins to fail with it.
func (h *health) failed(lane int, now time.Time, err error) {
	l, unlock := h.of(lane)
	defer unlock()
	if lane >= 0 {
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

// delivered notes that the sink accepted events.
func (h *health) delivered(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lastSuccess = now
}

// partly notes what a part of the destination has refused while the rest accepts.
func (h *health) partly(err *sinks.PartialError, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lastError, h.lastErrorAt = err, now
}

// answered notes that the sink is there, whether it accepted or refused, and logs it when no lane fails any
// more.
func (h *health) answered(lane int, now time.Time) {
	l, unlock := h.of(lane)
	defer unlock()
	if l.failures == 0 {
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

// stuck says whether the sink keeps the daemon from being ready: one event, or all of them, do not get on. h
// is locked.
func (h *health) stuck(now time.Time) bool {
	return slices.ContainsFunc(h.lanes, func(l laneHealth) bool { return l.failures >= stuckAfter || l.hangs }) ||
		!h.failingSince.IsZero() && now.Sub(h.failingSince) >= stuckTime && !h.lastSuccess.After(h.failingSince)
}

// rest notes that the sink has asked to be left alone until then.
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
