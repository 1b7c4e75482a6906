package deliver

import (
	"errors"
	"fmt"
	"net/http"
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
	s.Status = statusOf(err)
	_, refused := errors.AsType[*sinks.PermanentError](err)
	switch {
	case err == nil:
		s.Outcome = TestDelivered
		return
	case refused:
		s.Outcome = TestRefused
	default:
		s.Outcome = TestFailed
	}
	s.Reason = event.Bounded(err.Error(), MaxReason)
	s.Do = testAdvice(cfg, s.Status)
}

// testAdvice says what to look at after a test that was not delivered.
func testAdvice(cfg *config.Sink, status int) string {
	switch {
	case cfg.Log != nil:
		return "look whether the daemon's user may write there, and whether there is space"
	case cfg.Webhook == nil || status == 0:
		return "look whether what it sends to is up, whether this machine may reach it, and at its address; hmcnotifyd check-config --online tries that without sending anything"
	}
	secret := "the token or password in webhook.http_config, or the one in the address"
	if len(cfg.Webhook.SigningSecrets()) > 0 {
		secret = "webhook.secret, which must be the one that the consumer verifies with, or the credentials in webhook.http_config"
	}
	switch {
	case status/100 == 3:
		return "the address has moved: set webhook.url to the new one, redirects are not followed"
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return "the consumer does not accept who sends it: check " + secret
	case status == http.StatusNotFound, status == http.StatusGone, status == http.StatusMethodNotAllowed:
		return "the consumer takes no POST at this address: check webhook.url as a whole, with path and query"
	case status == http.StatusRequestEntityTooLarge:
		return "the consumer takes no request of this size: lower batch.max_events, or raise the limit there"
	case status == http.StatusUnsupportedMediaType:
		return "the consumer wants another content type: check webhook.format, content_type and compression"
	case status == http.StatusTooManyRequests:
		return "the consumer wants fewer requests: lower concurrency, or gather events with batch"
	case status/100 == 5:
		return "the consumer, or a proxy before it, is in trouble: events wait and are sent again until it accepts them"
	}
	return "the consumer does not understand what it gets: check webhook.format and template against what it documents"
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
