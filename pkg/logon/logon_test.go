package logon

import (
	"errors"
	"fmt"
	"net/http"
	"testing"

	"go.uber.org/goleak"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmc"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// What the metrics call a failure, whether another attempt would do harm, and what people read.
func TestFailures(t *testing.T) {
	refused := &hmc.HTTPError{Status: http.StatusForbidden, Message: "the password is wrong"}
	for _, test := range []struct {
		err    error
		reason string
		hold   bool
	}{
		{hold(receiver.ReasonAuthorization, refused), receiver.ReasonAuthorization, true},
		{fmt.Errorf("at the second host: %w", hold(status.ReasonLogon, refused)), status.ReasonLogon, true},
		{refused, status.ReasonLogon, false},
		{&receiver.ConnectionError{Reason: receiver.ReasonTLS, Err: errors.New("x")}, receiver.ReasonTLS, false},
		{&hmc.ConnectError{Reason: hmc.ReasonTimeout, Err: errors.New("x")}, hmc.ReasonTimeout, false},
		{errors.New("x"), receiver.ReasonOther, false},
	} {
		if reason := FailureReason(test.err); reason != test.reason || IsHold(test.err) != test.hold {
			t.Errorf("%v: reason %s, hold %v", test.err, reason, IsHold(test.err))
		}
		if text := Explain(&config.HMC{}, test.err); text == "" {
			t.Errorf("%v: nothing is said of it", test.err)
		}
	}
	if !IsStatus(refused, http.StatusForbidden) || IsStatus(refused, http.StatusNotFound) {
		t.Error("the status of an answer is not known")
	}
}
