package sinks

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	cloudevents "github.com/cloudevents/sdk-go/v2"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

func asCloudEvents(c *config.Sink) { c.Webhook.Format = config.FormatCloudEvents }

// checkCloudEvent compares a CloudEvent, as the SDK has read it, with the record it was made of.
func checkCloudEvent(t *testing.T, got cloudevents.Event, r event.Record) {
	t.Helper()
	if err := got.Validate(); err != nil {
		t.Errorf("the SDK does not accept it: %v\n%s", err, got)
	}
	e, err := r.Event()
	if err != nil {
		t.Fatal(err)
	}
	subject := ""
	if e.Resource != nil {
		subject = e.Resource.Name
		if subject == "" {
			subject = e.Resource.ObjectURI
		}
	}
	for what, pair := range map[string][2]string{
		"specversion":     {got.SpecVersion(), "1.0"},
		"id":              {got.ID(), e.ID},
		"source":          {got.Source(), "/hmcnotifyd/" + e.HMC},
		"type":            {got.Type(), "hmcnotifyd." + e.Type},
		"subject":         {got.Subject(), subject},
		"datacontenttype": {got.DataContentType(), "application/json"},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s is %q, want %q", what, pair[0], pair[1])
		}
	}
	if !got.Time().Equal(e.Time.Truncate(time.Millisecond)) {
		t.Errorf("time %s, want %s", got.Time(), e.Time)
	}
	if !bytes.Equal(got.Data(), r.JSON) {
		t.Errorf("data\n%s\nwant\n%s", got.Data(), r.JSON)
	}
	if extensions := got.Extensions(); len(extensions) != 0 {
		t.Errorf("extensions %v", extensions)
	}
}

// cloudEventRecords are events of each shape that matters to a CloudEvent.
func cloudEventRecords() []event.Record {
	at := time.Date(2026, 11, 20, 10, 0, 0, 5e6, time.UTC)
	return []event.Record{
		record(0),
		event.NewRecord(&event.Event{ID: "1", HMC: "h", Type: "of \"tomorrow\"\\\n", Time: at, Resource: &event.Resource{ObjectURI: "/api/cpcs/1"}}),
		event.NewRecord(&event.Event{ID: "2", HMC: "h", Type: event.TypeBridgeGap, Time: at}),
		event.NewRecord(&event.Event{ID: "3", HMC: "h", Type: event.TypeLogEntry, Time: at, Resource: &event.Resource{Name: "a \"ü\"\t\u2028"}}),
		largeRecord(4, 10_000),
	}
}

func TestCloudEvent(t *testing.T) {
	requests := make(chan request, 1)
	s := webhookTo(t, consumer(t, requests).URL, asCloudEvents)
	for _, r := range cloudEventRecords() {
		if err := s.Send(t.Context(), []event.Record{r}); err != nil {
			t.Fatal(err)
		}
		got := <-requests
		if c := got.header.Get("Content-Type"); c != "application/cloudevents+json" {
			t.Errorf("content type %q", c)
		}
		if id := got.header.Get("Webhook-Id"); id != r.ID {
			t.Errorf("webhook-id %q", id)
		}
		var e cloudevents.Event
		if err := json.Unmarshal(got.body, &e); err != nil {
			t.Fatalf("%v\n%s", err, got.body)
		}
		checkCloudEvent(t, e, r)
	}
}

// TestCloudEventsReceiver has the SDK's own HTTP receiver on the other side, which knows the mode by the headers.
func TestCloudEventsReceiver(t *testing.T) {
	requests := make(chan request, 1)
	s := webhookTo(t, consumer(t, requests).URL, asCloudEvents)
	b := webhookTo(t, consumer(t, requests).URL, asCloudEvents, func(c *config.Sink) { c.Batch.MaxEvents = 10 })
	rs := cloudEventRecords()
	if err := s.Send(t.Context(), rs[:1]); err != nil {
		t.Fatal(err)
	}
	got := <-requests
	e, err := cloudevents.NewEventFromHTTPRequest(got.http(t))
	if err != nil {
		t.Fatal(err)
	}
	checkCloudEvent(t, *e, rs[0])

	for _, n := range []int{1, len(rs)} {
		if err := b.Send(t.Context(), rs[:n]); err != nil {
			t.Fatal(err)
		}
		got = <-requests
		if c := got.header.Get("Content-Type"); c != "application/cloudevents-batch+json" {
			t.Errorf("content type %q", c)
		}
		events, err := cloudevents.NewEventsFromHTTPRequest(got.http(t))
		if err != nil || len(events) != n {
			t.Fatalf("%d events: %v", len(events), err)
		}
		for i := range events {
			checkCloudEvent(t, events[i], rs[i])
		}
	}
}

// TestCloudEventsBatchSize shows that a full batch of the smallest events stays below the 1 MiB that consumers take.
func TestCloudEventsBatchSize(t *testing.T) {
	s := webhookTo(t, "http://127.0.0.1:1", asCloudEvents, func(c *config.Sink) { c.Batch.MaxEvents = 10_000 })
	limit, size := s.MaxBatch()
	small := event.NewRecord(&event.Event{
		ID: event.NewID("x"), HMC: strings.Repeat("h", 64), Type: event.TypeStatusChangeSummary, Origin: event.OriginLive,
		Severity: event.SeverityCritical, Resource: &event.Resource{Name: "PARTITION"},
	})
	var rs []event.Record
	for total := 0; total+len(small.JSON) <= size && len(rs) < limit; total += len(small.JSON) {
		rs = append(rs, small)
	}
	body, err := s.body(rs)
	if err != nil {
		t.Fatal(err)
	}
	if len(rs) < 100 || len(body) > 1<<20 {
		t.Errorf("%d events are %d bytes", len(rs), len(body))
	}
}
