package main

import (
	"testing"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/bridge"
)

func TestStatusLine(t *testing.T) {
	up, down := bridge.HMCStatus{Name: "east", Connected: true}, bridge.HMCStatus{Name: "west"}
	for _, test := range []struct {
		status bridge.Status
		want   string
	}{
		{bridge.Status{Ready: true, HMCs: []bridge.HMCStatus{up, up}}, "2 of 2 HMCs connected"},
		{bridge.Status{Reasons: []bridge.Reason{{Reason: "the daemon is starting"}}}, "0 of 0 HMCs connected; the daemon is starting"},
		{
			bridge.Status{HMCs: []bridge.HMCStatus{up, down}, Reasons: []bridge.Reason{{HMC: "west", Reason: "refused\nREADY=1"}, {Sink: "ops", Reason: "x"}}},
			// a line of its own would be taken for a state
			"1 of 2 HMCs connected; west: refused READY=1 (and 1 more)",
		},
	} {
		if got := statusLine(test.status); got != test.want {
			t.Errorf("%q, not %q", got, test.want)
		}
	}
}
