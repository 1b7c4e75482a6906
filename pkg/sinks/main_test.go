package sinks

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for something that should happen at once: it only ends a hang, so that no machine
// is too slow for it.
const patience = 2 * time.Minute

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

// left returns the records that are to be sent again after a Send which ended with err, and the ids of those that were
// refused for good.
func left(rs []event.Record, err error) (again []event.Record, refused []string) {
	events, ok := errors.AsType[*EventsError](err)
	for i := range rs {
		each := err
		if ok {
			each = events.Events[i]
		}
		if _, permanent := errors.AsType[*PermanentError](each); permanent && !errors.Is(each, ErrNotJudged) {
			refused = append(refused, rs[i].ID)
		} else if each != nil {
			again = append(again, rs[i])
		}
	}
	return again, refused
}

// sendAll sends the records as a lane does that never pauses, in smaller parts where that is asked for, and returns how
// many attempts that took and what was refused.
func sendAll(t testing.TB, s Sink, rs []event.Record) (attempts int, refused []string) {
	t.Helper()
	pause := time.Duration(0)
	for size := len(rs); len(rs) > 0; attempts++ {
		part := rs[:min(size, len(rs))]
		err := s.Send(t.Context(), part)
		again, bad := left(part, err)
		refused = append(refused, bad...)
		rs = append(slices.Clone(again), rs[len(part):]...)
		size = len(part) * 2
		if errors.Is(err, ErrNotJudged) {
			size = (len(again) + 1) / 2
		} else if len(again) > 0 {
			pause = 10 * time.Millisecond
		}
		select {
		case <-time.After(pause):
		case <-t.Context().Done():
			return attempts, refused
		}
		if attempts == 100_000 {
			t.Fatal("no end")
		}
		pause = 0
	}
	return attempts, refused
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

// leaksNothing makes the test fail if a goroutine that it has started is left at its end. It is called first, so that
// it looks last.
func leaksNothing(t *testing.T) {
	t.Helper()
	t.Cleanup(goroutinesOf(t))
}

// goroutinesOf returns a function that fails the test if a goroutine that this one has started since, or that one of
// those has started, is still there. A label, which goroutines inherit, tells them from those of tests that run at the
// same time.
func goroutinesOf(t *testing.T) (ended func()) {
	t.Helper()
	const limit = 5 * time.Second // for those that are about to end
	label := t.Name() + " " + strconv.FormatInt(time.Now().UnixNano(), 36)
	pprof.SetGoroutineLabels(pprof.WithLabels(context.Background(), pprof.Labels("of", label)))
	return func() {
		left := goroutinesLabelled(t, label)
		for deadline, pause := time.Now().Add(limit), time.Millisecond; len(left) > 0 && time.Now().Before(deadline); pause *= 2 {
			time.Sleep(pause)
			left = goroutinesLabelled(t, label)
		}
		if len(left) > 0 {
			t.Errorf("goroutines are left:\n%s", strings.Join(left, "\n\n"))
		}
	}
}

// goroutinesLabelled returns the stacks of all goroutines with a label but the one that calls it.
func goroutinesLabelled(t *testing.T, label string) []string {
	var profile bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&profile, 1); err != nil {
		t.Fatal(err)
	}
	var stacks []string
	for stack := range strings.SplitSeq(profile.String(), "\n\n") {
		if strings.Contains(stack, strconv.Quote(label)) && !strings.Contains(stack, ".goroutinesLabelled") {
			stacks = append(stacks, stack)
		}
	}
	return stacks
}

// quiet is where test servers log what their peers did wrong.
func quiet() *log.Logger { return log.New(io.Discard, "", 0) }
