package deliver

import (
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/sinks"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
)

const (
	// stuckAfter failed attempts in a row of one lane make a sink stuck: the daemon is not ready.
	stuckAfter = 3
	// stuckTime is how long a sink may fail, and accept nothing, until it is stuck too: attempts may be far apart.
	stuckTime = 5 * time.Second
)

// health is what a sink's status shows: whether its lanes get on, the last error and since when.
type health struct {
	log *zap.Logger

	Mu           sync.Mutex
	lanes        []laneHealth
	failing      int // lanes whose last attempt failed
	total        int // failed attempts since the sink started failing, all lanes together
	failingSince time.Time
	lastError    string
	lastErrorAt  time.Time
	lastSuccess  time.Time
	RestUntil    time.Time // the sink has asked to be left alone until then
}

type laneHealth struct {
	failures int       // attempts in a row
	sending  time.Time // when the running attempt began; zero: none runs
	hangs    bool      // the running attempt is overdue and has been counted as failed
}

// began notes that an attempt begins.
func (h *health) began(lane int, now time.Time) {
	h.Mu.Lock()
	defer h.Mu.Unlock()
	h.lanes[lane].sending = now
}

// ended notes that the attempt has returned, and reports whether it has been counted as failed already.
func (h *health) ended(lane int) (counted bool) {
	h.Mu.Lock()
	defer h.Mu.Unlock()
	l := &h.lanes[lane]
	counted = l.hangs
	l.sending, l.hangs = time.Time{}, false
	return counted
}

// overdue counts running attempts that should have ended long ago as failed, once each, and returns how many those are.
func (h *health) overdue(now time.Time, limit time.Duration, err error) int {
	h.Mu.Lock()
	defer h.Mu.Unlock()
	n := 0
	for i := range h.lanes {
		if l := &h.lanes[i]; !l.hangs && !l.sending.IsZero() && now.Sub(l.sending) >= limit {
			l.hangs = true
			h.noteFailure(l, now, err)
			n++
		}
	}
	return n
}

// Hanging says whether an attempt is running that should have ended long ago.
func (h *health) Hanging() bool {
	h.Mu.Lock()
	defer h.Mu.Unlock()
	for i := range h.lanes {
		if h.lanes[i].hangs {
			return true
		}
	}
	return false
}

// failed notes a failed attempt, and says so when the sink begins to fail with it.
func (h *health) failed(lane int, now time.Time, err error) {
	h.Mu.Lock()
	defer h.Mu.Unlock()
	h.noteFailure(&h.lanes[lane], now, err)
}

func (h *health) noteFailure(l *laneHealth, now time.Time, err error) {
	if l.failures == 0 {
		h.failing++
	}
	l.failures++
	h.total++
	h.lastError, h.lastErrorAt = err.Error(), now
	if h.failingSince.IsZero() {
		h.failingSince = now
		h.log.Warn("the sink does not accept events; they wait and are tried again", zap.Error(err))
	}
}

// succeeded notes accepted events.
func (h *health) succeeded(lane int, now time.Time) {
	h.Mu.Lock()
	defer h.Mu.Unlock()
	h.lastSuccess = now
	h.recovered(lane, now)
}

// answered notes that the sink is there, though it refused.
func (h *health) answered(lane int, now time.Time) {
	h.Mu.Lock()
	defer h.Mu.Unlock()
	h.recovered(lane, now)
}

// partly notes what a part of the destination has to say while the rest accepts; nil: nothing.
func (h *health) partly(err *sinks.PartialError, now time.Time) {
	h.Mu.Lock()
	defer h.Mu.Unlock()
	if err != nil {
		h.lastError, h.lastErrorAt = err.Error(), now
	}
}

// recovered says so when it was the last lane that failed.
func (h *health) recovered(lane int, now time.Time) {
	l := &h.lanes[lane]
	if l.failures == 0 {
		return
	}
	l.failures = 0
	if h.failing--; h.failing > 0 {
		return
	}
	h.log.Info("the sink accepts events again",
		zap.Int("failed_attempts", h.total), zap.Duration("after", now.Sub(h.failingSince).Round(time.Millisecond)))
	h.total, h.failingSince = 0, time.Time{}
}

// stuck says whether the sink keeps the daemon from being ready: one event, or all of them, do not get on.
func (h *health) stuck(now time.Time) bool {
	h.Mu.Lock()
	defer h.Mu.Unlock()
	for i := range h.lanes {
		if l := &h.lanes[i]; l.failures >= stuckAfter || l.hangs {
			return true
		}
	}
	return !h.failingSince.IsZero() && now.Sub(h.failingSince) >= stuckTime && !h.lastSuccess.After(h.failingSince)
}

// rest notes that the sink has asked all lanes to leave it alone until then.
func (h *health) rest(until time.Time) {
	h.Mu.Lock()
	defer h.Mu.Unlock()
	h.RestUntil = status.Later(h.RestUntil, until)
}

// Resting returns how long the sink is still to be left alone.
func (h *health) Resting(now time.Time) time.Duration {
	h.Mu.Lock()
	defer h.Mu.Unlock()
	return h.RestUntil.Sub(now)
}
