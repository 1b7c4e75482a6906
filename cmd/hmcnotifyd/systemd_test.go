package main

import (
	"testing"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
)

func TestStatusLine(t *testing.T) {
	up, down := status.HMCStatus{Name: "east", Connected: true}, status.HMCStatus{Name: "west"}
	for _, test := range []struct {
		status status.Status
		want   string
	}{
		{status.Status{Ready: true, HMCs: []status.HMCStatus{up, up}}, "2 of 2 HMCs connected"},
		{status.Status{Reasons: []status.Reason{{Reason: "the daemon is starting"}}}, "0 of 0 HMCs connected; the daemon is starting"},
		{
			status.Status{HMCs: []status.HMCStatus{up, down}, Reasons: []status.Reason{{HMC: "west", Reason: "refused\nREADY=1"}, {Sink: "ops", Reason: "x"}}},
			"1 of 2 HMCs connected; west: refused READY=1 (and 1 more)", // a line of its own would be taken for a state
		},
	} {
		if got := statusLine(test.status); got != test.want {
			t.Errorf("%q, not %q", got, test.want)
		}
	}
}
