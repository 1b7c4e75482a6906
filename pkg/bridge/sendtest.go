package bridge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/sinks"
)

// ErrNotTested says that a test cannot be sent now.
var ErrNotTested = errors.New("nothing was sent")

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

// SendTest makes one attempt to send a bridge-test event with the sink that is in use (a sinks.Tester does with it what it will): the same connections, format, signature and
// time limit as any event. It goes past the queue, so that no other sink gets it, and past match and drop; it is not tried again
// and never becomes a dead letter. report is called when it begins and when it has ended. If SendTest returns an error nothing has
// been sent.
func (b *Bridge) SendTest(ctx context.Context, sink string, report func(TestStep) error) error {
	d := b.deliveryTo(sink)
	if d == nil {
		return fmt.Errorf("%w: %q is not in the configuration, which has %s", ErrNoSuchSink, sink, strings.Join(b.sinkNames(), ", "))
	}
	if !b.testing.TryLock() {
		return fmt.Errorf("%w: another test of a sink is running; try again when it has ended", ErrNotTested)
	}
	ended := sync.OnceFunc(b.testing.Unlock)
	defer ended()
	if wait := d.health.resting(time.Now()); wait > 0 {
		return fmt.Errorf("%w: the sink asked to be left alone for another %s", ErrNotTested, max(time.Second, wait.Round(time.Second)))
	}
	e, err := b.testEvent(sink)
	if err != nil {
		return err
	}
	record := event.NewRecord(e)
	call := func(ctx context.Context) error { return d.sink.Send(ctx, []event.Record{record}) }
	if tester, ok := d.sink.(sinks.Tester); ok {
		call = func(ctx context.Context) error { return tester.Test(ctx, record) }
	} else if selector, ok := d.sink.(sinks.Selector); ok && !selector.Wants(record) {
		return fmt.Errorf("%w: a sink of the kind %s has no use for a test event", ErrNotTested, d.cfg.Kind())
	}
	step := TestStep{Sink: sink, EventID: e.ID}
	begins := step
	begins.Outcome, begins.Kind, begins.Request, begins.TimeoutSeconds = TestBegins, d.cfg.Kind(), d.cfg.Request(), d.cfg.Timeout.Seconds()
	if err := report(begins); err != nil {
		return err
	}
	start := time.Now()
	err = d.alone(ctx, call)
	step.Seconds = time.Since(start).Seconds()
	if partial, ok := errors.AsType[*sinks.PartialError](err); ok {
		step.Notes, err = []string{"not accepted everywhere: " + bounded(partial.Error(), maxReason)}, nil
	}
	step.conclude(&d.cfg, err)
	step.Notes = append(step.Notes, d.testNotes()...)
	b.log.Info("a test event was sent", zap.String("sink", sink), zap.String("outcome", step.Outcome), zap.String("id", e.ID), zap.Error(err))
	ended()          // before that is told: whoever hears it may send the next one
	_ = report(step) // whoever asked may be gone; it was sent all the same
	return nil
}

func (b *Bridge) sinkNames() []string {
	b.mu.RLock()
	defer b.mu.RUnlock()
	names := make([]string, len(b.cfg.Sinks))
	for i := range b.cfg.Sinks {
		names[i] = b.cfg.Sinks[i].Name
	}
	return names
}

// testEvent is an event that says of itself that it is a test. It bears the name of an HMC because every event does, and consumers may
// route by it.
func (b *Bridge) testEvent(sink string) (*event.Event, error) {
	body, err := json.Marshal(struct {
		Sink    string `json:"sink"`
		Version string `json:"version"`
	}{sink, b.opts.Version})
	if err != nil {
		return nil, err
	}
	b.mu.RLock()
	hmc := b.cfg.HMCs[0].Name
	b.mu.RUnlock()
	now := time.Now()
	return &event.Event{
		ID:  event.NewID(event.TypeBridgeTest, sink, strconv.FormatInt(now.UnixNano(), 10)),
		HMC: hmc, Type: event.TypeBridgeTest, Time: now, Received: now, Origin: event.OriginBridge, Severity: event.SeverityInfo,
		Summary: "test of sink " + sink + ", sent by hand with hmcnotifyd send-test: nothing has happened on any HMC", Body: body,
	}, nil
}

// conclude says how the attempt ended.
func (s *TestStep) conclude(cfg *config.Sink, err error) {
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
	s.Reason = bounded(err.Error(), maxReason)
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

// testNotes says what a person who tests the sink should know besides.
func (d *delivery) testNotes() []string {
	var notes []string
	if events, _, age := d.waiting(); events > 0 && age > 1 {
		oldest := time.Duration(age * float64(time.Second)).Round(time.Second)
		notes = append(notes, fmt.Sprintf("%d stored events wait for this sink, the oldest for %s", events, oldest))
	}
	if n := d.dead.Count(d.cfg.Name); n > 0 {
		notes = append(notes, fmt.Sprintf("%d events it refused before are kept as dead letters: hmcnotifyd dead-letters list --sink=%s", n, d.cfg.Name))
	}
	return notes
}
