// Package consumer is a webhook consumer that remembers what it was sent.
package consumer

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/tests/real/program"
)

// Event is an event as it was delivered: the members that tests look at, and
// all of it.
type Event struct {
	ID        string `json:"id"`
	HMC       string `json:"hmc"`
	Type      string `json:"type"`
	Topic     string `json:"topic"`
	TopicType string `json:"topic_type"`
	Origin    string `json:"origin"`
	Resource  struct {
		Class     string `json:"class"`
		Name      string `json:"name"`
		ObjectURI string `json:"object_uri"`
		CPC       string `json:"cpc"`
	} `json:"resource"`
	Headers map[string]string `json:"headers"`
	Body    json.RawMessage   `json:"body"`

	Raw     json.RawMessage `json:"-"`
	Arrived time.Time       `json:"-"`
}

// Request is a request as it arrived.
type Request struct {
	Header http.Header
	Body   []byte
}

// Consumer is a running consumer.
type Consumer struct {
	// URL is where to send to.
	URL string

	mu       sync.Mutex
	answer   func(Request) int
	events   []Event
	requests []Request
	bad      []string
}

// Start starts a consumer that answers 200. When the test ends it is closed,
// and the test fails if a request was not what a consumer may expect.
func Start(tb testing.TB) *Consumer {
	tb.Helper()
	c := &Consumer{}
	srv := httptest.NewServer(http.HandlerFunc(c.serve))
	c.URL = srv.URL + "/hmc"
	tb.Cleanup(func() {
		srv.Close()
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, problem := range c.bad {
			tb.Error("webhook consumer: " + problem)
		}
	})
	return c
}

// Answer sets the status code that each later request is answered with, as a
// function of the request; nil answers 200. Only events of requests that are
// answered with 2xx count as received.
func (c *Consumer) Answer(f func(Request) int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answer = f
}

func (c *Consumer) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		return // the sender went away
	}
	req := Request{Header: r.Header.Clone(), Body: body}
	c.requests = append(c.requests, req)
	status := http.StatusOK
	if c.answer != nil {
		status = c.answer(req)
	}
	if status/100 == 2 {
		c.take(r, body)
	}
	w.WriteHeader(status)
}

func (c *Consumer) take(r *http.Request, body []byte) {
	if r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/json" {
		c.complain("%s with content type %q", r.Method, r.Header.Get("Content-Type"))
	}
	batch := []json.RawMessage{body}
	if len(body) > 0 && body[0] == '[' {
		batch = nil
		if err := json.Unmarshal(body, &batch); err != nil {
			c.complain("body is no JSON array: %v: %.200q", err, body)
			return
		}
	}
	for _, raw := range batch {
		e := Event{Raw: slices.Clone(raw), Arrived: time.Now()}
		if err := json.Unmarshal(raw, &e); err != nil || e.ID == "" || e.Type == "" {
			c.complain("body is no event (%v): %.200q", err, raw)
			continue
		}
		if len(batch) == 1 && body[0] != '[' && r.Header.Get("Webhook-Id") != e.ID {
			c.complain("webhook-id is %q, the event's id %q", r.Header.Get("Webhook-Id"), e.ID)
		}
		c.events = append(c.events, e)
	}
}

func (c *Consumer) complain(format string, args ...any) {
	c.bad = append(c.bad, fmt.Sprintf(format, args...))
}

// Events returns the events received so far, in the order of arrival, that
// pass all filters: each as often as it was delivered.
func (c *Consumer) Events(filters ...func(Event) bool) []Event {
	c.mu.Lock()
	defer c.mu.Unlock()
	var events []Event
	for _, e := range c.events {
		if !slices.ContainsFunc(filters, func(f func(Event) bool) bool { return !f(e) }) {
			events = append(events, e)
		}
	}
	return events
}

// Requests returns all requests so far, the refused ones too.
func (c *Consumer) Requests() []Request {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.requests)
}

// Await waits until at least n different events have arrived that pass all
// filters, and returns them. One that is delivered once more, as all may be
// after a kill, is the same: it counts once, where it came first.
func (c *Consumer) Await(tb testing.TB, within time.Duration, n int, filters ...func(Event) bool) []Event {
	tb.Helper()
	var events []Event
	program.Await(tb, within, func() error {
		if events = different(c.Events(filters...)); len(events) < n {
			return fmt.Errorf("webhook consumer: %d of %d events have arrived", len(events), n)
		}
		return nil
	})
	return events
}

// different leaves out what was delivered before.
func different(events []Event) []Event {
	seen := make(map[string]bool)
	return slices.DeleteFunc(events, func(e Event) bool {
		again := seen[e.ID]
		seen[e.ID] = true
		return again
	})
}

// Type is a filter: events of one of these types.
func Type(types ...string) func(Event) bool {
	return func(e Event) bool { return slices.Contains(types, e.Type) }
}

// HMC is a filter: events of one HMC.
func HMC(name string) func(Event) bool {
	return func(e Event) bool { return e.HMC == name }
}
