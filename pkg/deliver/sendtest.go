package deliver

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/sinks"
)

// ErrNotTested says that a test cannot be sent now.
var ErrNotTested = errors.New("nothing was sent")

// The outcomes of a TestStep.
const (
	TestBegins    = "begins"
	TestDelivered = "delivered"
	// TestRefused is for good: an event of an HMC would become a dead letter.
	TestRefused = "refused"
	// TestFailed is for now: an event of an HMC would wait and be sent again.
	TestFailed = "failed"
)

// TestStep is what a test of a sink reports: that it begins, and how it ended. It holds no secret.
type TestStep struct {
	Outcome string `json:"outcome"`
	Sink    string `json:"sink"`
	EventID string `json:"event_id"`

	// When it begins.
	Kind           string  `json:"kind,omitempty"`
	Request        string  `json:"request,omitempty"`
	TimeoutSeconds float64 `json:"timeout_seconds,omitempty"`

	// When it has ended. Seconds is how long the attempt took, Status that of the answer,
	// absent where there was none; Reason says why the event was not delivered, and Do what to
	// do about it.
	Seconds float64 `json:"seconds,omitempty"`
	Status  int     `json:"status,omitempty"`
	Reason  string  `json:"reason,omitempty"`
	Do      string  `json:"do,omitempty"`
	// Notes are what else is worth knowing about the sink, one sentence each.
	Notes []string `json:"notes,omitempty"`
}

// Test makes one attempt to send e beside the lanes, and returns how it ended. begins is called
// before. The event is not tried again and never becomes a dead letter. If Test returns an error
// nothing has been sent.
func (d *Delivery) Test(ctx context.Context, e *event.Event, begins func(TestStep) error) (TestStep, error) {
	step := TestStep{Sink: d.Cfg.Name, EventID: e.ID}
	if wait := d.Resting(); wait > 0 {
		return step, fmt.Errorf("%w: the sink asked to be left alone for another %s",
			ErrNotTested, max(time.Second, wait.Round(time.Second)))
	}
	record := event.NewRecord(e)
	call := func(ctx context.Context) error { return d.Sink.Send(ctx, []event.Record{record}) }
	if tester, ok := d.Sink.(sinks.Tester); ok {
		call = func(ctx context.Context) error { return tester.Test(ctx, record) }
	} else if selector, ok := d.Sink.(sinks.Selector); ok && !selector.Wants(record) {
		return step, fmt.Errorf("%w: a sink of the kind %s has no use for a test event", ErrNotTested, d.Cfg.Kind())
	}
	first := step
	first.Outcome, first.Kind, first.Request = TestBegins, d.Cfg.Kind(), sinks.RequestOf(&d.Cfg)
	first.TimeoutSeconds = d.Cfg.Timeout.Seconds()
	if err := begins(first); err != nil {
		return step, err
	}
	start := time.Now()
	v, err := d.alone(ctx, call)
	step.Seconds = time.Since(start).Seconds()
	switch v {
	case accepted:
		step.Outcome = TestDelivered
		if err != nil {
			step.Notes = append(step.Notes, "not accepted everywhere: "+event.Bounded(err.Error(), maxReason))
		}
	case again, paused:
		step.Outcome = TestFailed
		step.explain(d, err)
	default:
		step.Outcome = TestRefused
		step.explain(d, err)
	}
	if w := WaitingBehind(d.Cursor); w.OldestEventAgeSeconds > 1 {
		oldest := time.Duration(w.OldestEventAgeSeconds * float64(time.Second)).Round(time.Second)
		step.Notes = append(step.Notes,
			fmt.Sprintf("%d stored events wait for this sink, the oldest for %s", w.QueueEvents, oldest))
	}
	if n := d.dead.Count(d.Cfg.Name); n > 0 {
		step.Notes = append(step.Notes, fmt.Sprintf(
			"%d events it refused before are kept as dead letters: hmcnotifyd dead-letters list --sink=%s",
			n, d.Cfg.Name))
	}
	return step, nil
}

// explain says why the event was not delivered, and what to do.
func (s *TestStep) explain(d *Delivery, err error) {
	why := d.Refusal(err)
	reason, _ := sinks.ReasonOf(err)
	s.Status, s.Reason, s.Do = why.Status, why.Reason, sinks.Advice(&d.Cfg, reason, why.Status)
	switch {
	case sinks.PauseReason(err) != "":
		s.Do += "; events wait until that is mended"
	case s.Status/100 == 5:
		s.Do += "; events wait and are sent again until it accepts them"
	case s.Status == 0 && d.Cfg.Log == nil:
		s.Do += "; hmcnotifyd check-config --online tries it without sending anything"
	}
}
