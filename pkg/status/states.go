package status

import (
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

var States = []string{StateDisconnected, StateLoggingOn, StateConnecting, StateConnected, StateAuthFailed}

// ReasonLogon is the connect failure that only the REST side can have; the others are the receiver's.
const ReasonLogon = "logon"

var FailureReasons = []string{
	receiver.ReasonDNS, receiver.ReasonRefused, receiver.ReasonTimeout, receiver.ReasonTLS,
	ReasonLogon, receiver.ReasonAuthorization, receiver.ReasonBroker, receiver.ReasonOther,
}
