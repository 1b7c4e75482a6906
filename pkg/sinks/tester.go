package sinks

import (
	"context"
	"maps"
	"net/http"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// Tester is a sink for which a test event is not just one more event.
type Tester interface {
	// Test does with a test event, in one attempt, what shows that events arrive. Its error is
	// like that of Send; a *PartialError where enough of the destination has accepted.
	Test(ctx context.Context, record event.Record) error
}

const (
	// AlertTest is the name of the alert that a test makes.
	AlertTest = "HMCTest"
	// testLasts is how long that fires: longer than Alertmanager waits for others to report
	// together.
	testLasts = 2 * time.Minute
)

// Test makes an alert fire for a short time, with the labels of all alerts, so that it takes their
// way. It ends by itself, and is not remembered.
func (s *alertmanager) Test(ctx context.Context, record event.Record) error {
	if err := s.usable(ctx); err != nil {
		return err
	}
	e, err := record.Event()
	if err != nil {
		return &PermanentError{Status: http.StatusBadRequest, Err: err}
	}
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	labels := map[string]string{"alertname": AlertTest, "severity": e.Severity, "hmc": e.HMC}
	s.mu.Lock()
	maps.Copy(labels, s.book.labels)
	s.mu.Unlock()
	for _, l := range e.Labels {
		labels[l.Name] = l.Value
	}
	partial, err := s.postAll(ctx, []snapshot{{wire: wireAlert{
		Labels: labels, Annotations: map[string]string{"summary": e.Summary, "description": describe(e)},
		StartsAt: start, EndsAt: start.Add(testLasts),
	}}}, make(map[*endpoint]bool))
	if err != nil {
		return err
	}
	return partial
}
