package sinks

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// gate stands before a server: it lets requests hang, or asks for patience.
type gate struct {
	server *httptest.Server
	state  atomic.Int32
	// waiting counts the requests that hang.
	waiting atomic.Int32
	close   func()
}

func newGate(t testing.TB, next http.Handler) *gate {
	t.Helper()
	g, leave := &gate{}, make(chan struct{})
	g.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch behavior(g.state.Load()) {
		case hang:
			_, _ = readBody(r)
			g.waiting.Add(1)
			select {
			case <-r.Context().Done():
			case <-leave:
			}
		case defer30:
			_, _ = readBody(r)
			w.Header().Set("Retry-After", "30")
			w.WriteHeader(http.StatusTooManyRequests)
		default:
			next.ServeHTTP(w, r)
		}
	}))
	g.close = sync.OnceFunc(func() { close(leave); g.server.Close() })
	t.Cleanup(g.close)
	return g
}

// verdict names what an error means.
func verdict(err error) string {
	if err == nil {
		return "delivered"
	}
	if reason := PauseReason(err); reason != "" {
		return "paused: " + reason
	}
	if errors.Is(err, ErrNotJudged) {
		return "not judged"
	}
	if e, ok := errors.AsType[*PermanentError](err); ok {
		return "refused: " + http.StatusText(e.Status)
	}
	return "again"
}

// verdicts are those of each of so many records.
func verdicts(n int, err error) []string {
	all := make([]string, n)
	each, ok := errors.AsType[*EventsError](err)
	for i := range all {
		if ok {
			err = each.Events[i]
		}
		all[i] = verdict(err)
	}
	return all
}

// oneOfAHundred sends a hundred events of which the destination refuses the one called bad: the others arrive, in order and
// none of them twice.
func oneOfAHundred(t *testing.T, s Sink, bad int, received func() []string) {
	t.Helper()
	rs := records(0, 100)
	attempts, refused := sendAll(t, s, rs)
	if !slices.Equal(refused, []string{rs[bad].ID}) {
		t.Errorf("refused %v", refused)
	}
	var want []string
	for i, r := range rs {
		if i != bad {
			want = append(want, r.ID)
		}
	}
	if got := received(); !slices.Equal(got, want) {
		t.Errorf("%d events have arrived:\n%s", len(got), strings.Join(got, "\n"))
	}
	if attempts > 10 {
		t.Errorf("%d attempts", attempts)
	}
}

// sendInParts sends what is refused as a whole in halves, and returns what is refused by itself.
func sendInParts(t *testing.T, s Sink, rs []event.Record) (refused []string) {
	t.Helper()
	err := s.Send(t.Context(), rs)
	switch _, permanent := errors.AsType[*PermanentError](err); {
	case permanent && len(rs) == 1:
		return []string{rs[0].ID}
	case permanent:
		return append(sendInParts(t, s, rs[:len(rs)/2]), sendInParts(t, s, rs[len(rs)/2:])...)
	case err != nil:
		t.Fatal(err)
	}
	return nil
}

// answering is a server that gives one answer.
func answering(t testing.TB, status int, body string) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = readBody(r)
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// fullEvent is an event with everything that gets a place of its own.
func fullEvent() event.Record {
	at := record(1)
	e, _ := at.Event()
	e.Summary, e.Labels = "partition PART1: active -> stopped", event.Headers{{Name: "site", Value: "DC1"}, {Name: "team", Value: "z\"os"}}
	e.Resource.CPC, e.Resource.OSName, e.Resource.OSLevel, e.Resource.Sysplex = "CPC1", "SYS1", "z/OS 3.1", "PLEX1"
	e.Runbook, e.Planned, e.SessionSequenceNr = "https://wiki.example.com/stopped", true, new(int64(12))
	return event.NewRecord(e)
}
