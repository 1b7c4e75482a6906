package bridge

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/deliver"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/replay"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/translate"
)

// ErrNotTested says that a test cannot be sent now.
var ErrNotTested = deliver.ErrNotTested

// SendTest makes one attempt to send a bridge-test event with the sink that is in use (a
// sinks.Tester does with it what it will): the same connections, format, signature and time limit
// as any event. It goes past the queue, so that no other sink gets it, and past match and drop; it
// is not tried again and never becomes a dead letter. report is called when it begins and when it
// has ended. If SendTest returns an error nothing has been sent.
func (b *Bridge) SendTest(ctx context.Context, sink string, report func(deliver.TestStep) error) error {
	d := b.deliveryTo(sink)
	if d == nil {
		var names []string
		for i := range b.now().cfg.Sinks {
			names = append(names, b.now().cfg.Sinks[i].Name)
		}
		return fmt.Errorf("%w: %q is not in the configuration, which has %s",
			replay.ErrNoSuchSink, sink, strings.Join(names, ", "))
	}
	if !b.testing.TryLock() {
		return fmt.Errorf("%w: another test of a sink is running; try again when it has ended", ErrNotTested)
	}
	ended := sync.OnceFunc(b.testing.Unlock)
	defer ended()
	e, err := b.testEvent(sink)
	if err != nil {
		return err
	}
	step, err := d.Test(ctx, e, report)
	if err != nil {
		return err
	}
	fields := []zap.Field{zap.String("sink", sink), zap.String("outcome", step.Outcome), zap.String("id", e.ID)}
	if step.Reason != "" {
		fields = append(fields, zap.String("error", step.Reason))
	}
	b.log.Info("a test event was sent", fields...)
	ended()          // before the report: whoever gets it may send the next one
	_ = report(step) // whoever asked may be gone; it was sent all the same
	return nil
}

// testEvent is an event that says of itself that it is a test. It bears the name of an HMC because
// every event does, and consumers may route by it.
func (b *Bridge) testEvent(sink string) (*event.Event, error) {
	body, err := json.Marshal(map[string]string{"sink": sink, "version": b.opts.Version})
	if err != nil {
		return nil, err
	}
	now, first := time.Now(), &b.now().cfg.HMCs[0]
	return &event.Event{
		ID:  event.NewID(event.TypeBridgeTest, sink, strconv.FormatInt(now.UnixNano(), 10)),
		HMC: first.Name, Labels: translate.Labels(first.Labels), Type: event.TypeBridgeTest, Time: now, Received: now,
		Origin: event.OriginBridge, Severity: event.SeverityInfo, Body: body,
		Summary: "test of sink " + sink + ", sent by hand with hmcnotifyd send-test: nothing has happened on any HMC",
	}, nil
}
