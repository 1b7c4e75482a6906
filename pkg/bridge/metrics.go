package bridge

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
)

// The values of the label state of receiver_state.
const (
	StateDisconnected = "disconnected"
	StateLoggingOn    = "logging_on"
	StateConnecting   = "connecting"
	StateConnected    = "connected"
	StateAuthFailed   = "auth_failed"
)

var states = []string{StateDisconnected, StateLoggingOn, StateConnecting, StateConnected, StateAuthFailed}

// reasonLogon is the connect failure that only the REST side can have; the others are the receiver's.
const reasonLogon = "logon"

var failureReasons = []string{
	receiver.ReasonDNS, receiver.ReasonRefused, receiver.ReasonTimeout, receiver.ReasonTLS,
	reasonLogon, receiver.ReasonAuthorization, receiver.ReasonBroker, receiver.ReasonOther,
}

// tally is a counter that can be read back for the status page.
type tally struct {
	prometheus.Counter
	n atomic.Int64
}

func newTally(c prometheus.Counter) *tally { return &tally{Counter: c} }

func (t *tally) add(n int) {
	t.Add(float64(n))
	t.n.Add(int64(n))
}

// unixSeconds is t as the metrics show it: 0 for the zero time.
func unixSeconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}
