package sinks

import (
	"bytes"
	"encoding/json"
	"io"
	"log"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for something that should happen at once.
const patience = 20 * time.Second

// record returns an event as it comes out of the queue. Equal numbers give equal records.
func record(n int) event.Record {
	return recordWithBody(n, `{"change-reports":[{"old-status":"active","new-status":"stopped"}]}`)
}

func recordWithBody(n int, body string) event.Record {
	at := time.Date(2026, 11, 20, 10, 0, 0, n, time.UTC)
	return event.NewRecord(&event.Event{
		ID:       event.NewID("test", strconv.Itoa(n)),
		HMC:      "hmc-east",
		Type:     event.TypeStatusChange,
		Time:     at,
		Received: at,
		Origin:   event.OriginLive,
		Severity: event.SeverityWarning,
		Resource: &event.Resource{Class: "partition", Name: "PART" + strconv.Itoa(n), ObjectURI: "/api/partitions/" + strconv.Itoa(n)},
		Headers:  event.Headers{{Name: "notification-type", Value: event.TypeStatusChange}, {Name: "name", Value: "PÄRT\n\u2028"}},
		Body:     json.RawMessage(body),
	})
}

// largeRecord returns an event whose body has at least size bytes.
func largeRecord(n, size int) event.Record {
	return recordWithBody(n, `{"text":"`+strings.Repeat("HWSM ", size/5+1)+`"}`)
}

func records(from, n int) []event.Record {
	all := make([]event.Record, n)
	for i := range all {
		all[i] = record(from + i)
	}
	return all
}

// clone returns a deep copy, to see that nothing has changed the original.
func clone(rs []event.Record) []event.Record {
	out := make([]event.Record, len(rs))
	for i, r := range rs {
		r.JSON = bytes.Clone(r.JSON)
		out[i] = r
	}
	return out
}

// eventually waits until ok returns true.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", patience, what)
		}
	}
}

// soon returns what do returns, and fails the test if that takes too long.
func soon(t testing.TB, what string, do func() error) error {
	t.Helper()
	result := make(chan error, 1)
	go func() { result <- do() }()
	select {
	case err := <-result:
		return err
	case <-time.After(patience):
		t.Fatalf("not within %s: %s", patience, what)
		return nil
	}
}

// quiet is where test servers log what their peers did wrong.
func quiet() *log.Logger { return log.New(io.Discard, "", 0) }
