package logon

import (
	"github.com/hmcnotifyd/hmcnotifyd/pkg/assume"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmc"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
)

// ObserveExchange has an observer see a request.
func ObserveExchange(o *assume.Observer, x hmc.Exchange) {
	o.Request(assume.Exchange{
		Operation: x.Operation, URI: x.URI, Query: x.Query, Status: x.Status, Answer: x.Answer, At: x.Began,
	})
}

// ObserveTraffic has an observer see a frame, or the end of a link.
func ObserveTraffic(o *assume.Observer, t receiver.Traffic) {
	if t.Command == "" {
		o.LinkEnded(t.At, t.Lost != "")
		return
	}
	o.Frame(t.Command, t.Headers.Get, t.Body)
}
