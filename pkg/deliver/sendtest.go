package deliver

import (
	"errors"
	"fmt"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/sinks"
)

// The outcomes of a TestStep.
const (
	TestBegins    = "begins"
	TestDelivered = "delivered"
	TestRefused   = "refused" // for good: an event of an HMC would become a dead letter
	TestFailed    = "failed"  // for now: an event of an HMC would wait and be sent again
)

// TestStep is what a test of a sink tells of: that it begins, and how it ended. It holds no secret.
type TestStep struct {
	Outcome string `json:"outcome"`
	Sink    string `json:"sink"`
	EventID string `json:"event_id"`

	// When it begins.
	Kind           string  `json:"kind,omitempty"`
	Request        string  `json:"request,omitempty"`
	TimeoutSeconds float64 `json:"timeout_seconds,omitempty"`

	// When it has ended.
	Seconds float64 `json:"seconds,omitempty"` // that the attempt took
	Status  int     `json:"status,omitempty"`  // of the answer; absent where there was none
	Reason  string  `json:"reason,omitempty"`  // why it was not delivered
	Do      string  `json:"do,omitempty"`      // what to do about it
	// Notes are what else is worth knowing about the sink, one sentence each.
	Notes []string `json:"notes,omitempty"`
}

// Conclude says how the attempt ended.
func (s *TestStep) Conclude(cfg *config.Sink, err error) {
	if err == nil {
		s.Outcome = TestDelivered
		return
	}
	s.Outcome = TestFailed
	if _, refused := errors.AsType[*sinks.PermanentError](err); refused {
		s.Outcome = TestRefused
	}
	var reason sinks.Reason
	reason, s.Status = sinks.ReasonOf(err)
	s.Reason = event.Bounded(err.Error(), MaxReason)
	s.Do = sinks.Advice(cfg, reason, s.Status)
	switch {
	case s.Status/100 == 5:
		s.Do += "; events wait and are sent again until it accepts them"
	case s.Status == 0 && cfg.Log == nil:
		s.Do += "; hmcnotifyd check-config --online tries it without sending anything"
	}
}

// TestNotes says what a person who tests the sink should know besides.
func (d *Delivery) TestNotes() []string {
	var notes []string
	if events, _, age := d.Waiting(); events > 0 && age > 1 {
		oldest := time.Duration(age * float64(time.Second)).Round(time.Second)
		notes = append(notes, fmt.Sprintf("%d stored events wait for this sink, the oldest for %s", events, oldest))
	}
	if n := d.dead.Count(d.Cfg.Name); n > 0 {
		notes = append(notes, fmt.Sprintf("%d events it refused before are kept as dead letters: hmcnotifyd dead-letters list --sink=%s", n, d.Cfg.Name))
	}
	return notes
}
