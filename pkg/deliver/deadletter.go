package deliver

import (
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/sinks"
)

const (
	// maxReason bounds the reason that a dead letter keeps.
	maxReason = 1000
	// refusedForGood is what the log says of events that the sink has refused.
	refusedForGood = "refused for good"
)

// Refusal is what a dead letter keeps of why the sink refused.
func (d *Delivery) Refusal(cause error) queue.DeadLetter {
	_, status := sinks.ReasonOf(cause)
	return queue.DeadLetter{
		Sink: d.Cfg.Name, Time: time.Now(), Status: status, Reason: event.Bounded(cause.Error(), maxReason),
		Request: sinks.RequestOf(&d.Cfg),
	}
}
