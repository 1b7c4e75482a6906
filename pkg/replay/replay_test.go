package replay

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/deliver"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/match"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
)

// idsFrom returns the ids of the events from first up to last, without it, that are wanted.
func idsFrom(first, last int, wanted func(i int) bool) (ids []string) {
	for i := first; i < last; i++ {
		if wanted == nil || wanted(i) {
			ids = append(ids, idOf(i))
		}
	}
	return ids
}

func patterns(t *testing.T, sources ...string) match.Patterns {
	t.Helper()
	p, err := match.NewPatterns(sources...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func isStatus(i int) bool { return i%4/2 == 0 }

// A replay sends exactly what was received in a time and is wanted, in order, with the ids it had, and moves no cursor.
func TestReplay(t *testing.T) {
	t.Parallel()
	q, began := stored(t)
	h := History{q}
	hook := newConsumer(t)
	at := func(i int) time.Time { return began.Add(time.Duration(i) * storedStep) }
	onlyStatus := func(i int) bool { return isStatus(i) }
	refused := ""
	failures := 0
	for i, test := range []struct {
		what    string
		sink    string
		query   Query
		want    []string
		counts  Counts
		answer  func(ids []string) int
		outcome string
	}{
		{
			"an hour in the middle", "",
			Query{Since: at(1000), Until: at(1120)},
			idsFrom(1000, 1120, nil),
			Counts{Events: 120, Delivered: 120},
			nil, Done,
		},
		{
			"all, in batches", "batch: {max_events: 100}, ",
			Query{Since: began.Add(-time.Hour)},
			idsFrom(0, storedEvents, nil),
			Counts{Events: storedEvents, Delivered: storedEvents},
			nil, Done,
		},
		{
			"between two events", "",
			Query{Since: at(500).Add(time.Second), Until: at(501).Add(time.Nanosecond)},
			idsFrom(501, 502, nil),
			Counts{Events: 1, Delivered: 1},
			nil, Done,
		},
		{
			"what match and drop leave", "match: [{type: status-change}], drop: [{name: R3}], ",
			Query{Since: at(1960)},
			idsFrom(1960, 2000, func(i int) bool { return isStatus(i) && i%5 != 3 }),
			Counts{Events: 40, Filtered: 24, Delivered: 16},
			nil, Done,
		},
		{
			"a type of an HMC", "",
			Query{Since: at(0), Until: at(40), Type: patterns(t, "status-.*"), HMC: patterns(t, "west")},
			idsFrom(0, 40, func(i int) bool { return onlyStatus(i) && i%2 == 1 }),
			Counts{Events: 10, Delivered: 10},
			nil, Done,
		},
		{
			"counted only", "", Query{Since: at(0), Until: at(40), DryRun: true}, nil, Counts{Events: 40}, nil, Done,
		},
		{
			"refused for good", "batch: {max_events: 7}, ",
			Query{Since: at(0), Until: at(40)},
			idsFrom(0, 40, func(i int) bool { return i != 11 }),
			Counts{Events: 40, Delivered: 39, Refused: 1},
			func(ids []string) int {
				if slices.Contains(ids, idOf(11)) {
					return http.StatusBadRequest
				}
				return 0
			}, Done,
		},
		{
			"not accepted for a while", "batch: {max_events: 7}, ",
			Query{Since: at(0), Until: at(40)},
			idsFrom(0, 40, nil),
			Counts{Events: 40, Delivered: 40},
			func(ids []string) int {
				if failures++; failures < 8 && failures > 2 {
					return []int{http.StatusServiceUnavailable, http.StatusUnauthorized}[failures%2]
				}
				return 0
			}, Done,
		},
	} {
		hook.answer, refused, failures = test.answer, "", 0
		name := fmt.Sprintf("s%d", i)
		d, dead := delivery(t, h, fmt.Sprintf("{name: %s, %swebhook: {url: %q}, retry: {initial: 1ms, max: 5ms}}", name, test.sink, hook.URL))
		var steps []Step
		counts, err := h.Replay(t.Context(), d, test.query, func(s Step) { steps = append(steps, s) })
		if err != nil {
			t.Fatalf("%s: %v", test.what, err)
		}
		if counts != test.counts {
			t.Errorf("%s: %+v, want %+v", test.what, counts, test.counts)
		}
		if got := hook.take(); !slices.Equal(got, test.want) {
			t.Errorf("%s: %d events came, want %d: %.300s", test.what, len(got), len(test.want), got)
		}
		waited := 0
		for _, s := range steps {
			switch s.Outcome {
			case Refused:
				refused = s.EventID
			case Waits:
				waited++
			}
		}
		if (refused == idOf(11)) != (test.counts.Refused > 0) || waited > 0 != (failures > 0) {
			t.Errorf("%s: refused %q, waited %d times", test.what, refused, waited)
		}
		first, last := steps[0], steps[len(steps)-1]
		if first.Outcome != Begins || first.Sink != name || !first.HeldFrom.Equal(began) || last.Outcome != test.outcome || *last.Counts != counts {
			t.Errorf("%s: it began with %+v and ended with %+v", test.what, first, last)
		}
		if events, _, _ := d.Cursor.Pending(); events != 0 || dead.Count(name) != 0 {
			t.Errorf("%s: %d events wait, %d dead letters", test.what, events, dead.Count(name))
		}
	}
}

// A replay that is stopped, by whoever asked for it or at the end of the delivery, says where it goes on.
func TestReplayStops(t *testing.T) {
	t.Parallel()
	q, began := stored(t)
	h := History{q}
	hook := newConsumer(t)
	for name, stop := range map[string]func(cancel func(), d *deliver.Delivery){
		"canceled": func(cancel func(), _ *deliver.Delivery) { cancel() },
		"drained":  func(_ func(), d *deliver.Delivery) { d.Drain() },
	} {
		d, _ := delivery(t, h, fmt.Sprintf("{name: %s, webhook: {url: %q}}", name, hook.URL))
		ctx, cancel := context.WithCancel(t.Context())
		n := 0
		hook.answer = func([]string) int {
			if n++; n == 300 {
				go stop(cancel, d)
			}
			return 0
		}
		var last Step
		counts, err := h.Replay(ctx, d, Query{Since: began}, func(s Step) { last = s })
		cancel()
		if err != nil || last.Outcome != Stopped || last.Reason == "" || counts.Delivered < 299 || counts.Delivered >= storedEvents {
			t.Fatalf("%s: %+v, %+v, %v", name, last, counts, err)
		}
		got := hook.take()
		hook.answer = nil
		again, _ := delivery(t, h, fmt.Sprintf("{name: %s-again, webhook: {url: %q}}", name, hook.URL))
		if _, err := h.Replay(t.Context(), again, Query{Since: *last.At}, func(Step) {}); err != nil {
			t.Fatal(err)
		}
		rest := hook.take()
		// One that was on its way when it was stopped may have arrived.
		if len(got) < counts.Delivered || len(got) > counts.Delivered+1 || rest[0] != idOf(counts.Delivered-1) ||
			rest[len(rest)-1] != idOf(storedEvents-1) || len(rest) != storedEvents-counts.Delivered+1 {
			t.Errorf("%s: %d came, %d were counted; then %d came from %s on", name, len(got), counts.Delivered, len(rest), rest[0])
		}
	}
}

// Where nothing is stored of a time it says what is; a sink that tells the present is not told the past.
func TestReplayRefuses(t *testing.T) {
	t.Parallel()
	q, began := stored(t)
	h := History{q}
	never := func(s Step) { t.Errorf("%+v", s) }
	d, _ := delivery(t, h, `{name: s, webhook: {url: "http://127.0.0.1:1"}}`)
	for _, query := range []Query{
		{Since: began.Add(-2 * time.Hour), Until: began},
		{Since: time.Now()},
		{Since: time.Now().Add(time.Hour)},
		{Since: began.Add(time.Second), Until: began.Add(2 * time.Second)},
	} {
		_, err := h.Replay(t.Context(), d, query, never)
		if !errors.Is(err, ErrNothing) || !strings.Contains(err.Error(), began.UTC().Format(time.RFC3339)) {
			t.Errorf("%+v: %v", query, err)
		}
	}
	d, _ = delivery(t, h, `{name: a, alertmanager: {urls: ["http://127.0.0.1:1"]}}`)
	if _, err := h.Replay(t.Context(), d, Query{Since: began}, never); !errors.Is(err, ErrPresent) {
		t.Error(err)
	}
	empty := History{open(t, queue.Options{Dir: t.TempDir()})}
	d, _ = delivery(t, empty, `{name: s, webhook: {url: "http://127.0.0.1:1"}}`)
	if _, err := empty.Replay(t.Context(), d, Query{Since: began}, never); !errors.Is(err, ErrNothing) {
		t.Error(err)
	}
}

// A sink that is new gets what is stored from where it is to begin, once and in order, whatever its limits say of events that
// are as old, and over a restart; one that is known goes on where it was.
func TestNewSink(t *testing.T) {
	t.Parallel()
	q, began := stored(t)
	h := History{q}
	hook := newConsumer(t)
	age := func(i int) time.Duration { return time.Since(began.Add(time.Duration(i)*storedStep)) + storedStep/2 }
	for name, test := range map[string]struct {
		start string
		first int
	}{
		"latest": {"latest", storedEvents}, "earliest": {"earliest", 0}, "before": {"1000000h", 0},
		"middle": {"", 1200}, "end": {"1ms", storedEvents},
	} {
		if test.start == "" {
			test.start = age(test.first).Round(time.Second).String()
		}
		sink := fmt.Sprintf("{name: %s, start: %s, webhook: {url: %q}, concurrency: 1, batch: {max_events: 50}, "+
			"retry: {max_age: 10m}, queue: {max_bytes: 1MiB, max_age: 1h}}", name, test.start, hook.URL)
		if _, err := h.Cursor(t.Context(), name, config.Start(test.start)); err != nil {
			t.Fatal(err)
		}
		// As after a restart: the cursor is there.
		d, dead := delivery(t, h, strings.Replace(sink, "start: "+test.start, "start: latest", 1))
		put(t, q, "last-"+name)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			d.Run(ctx)
		}()
		var got []string
		for deadline := time.Now().Add(within); !slices.Contains(got, "last-"+name) && time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
			got = append(got, hook.take()...)
		}
		d.Drain()
		<-ended
		cancel()
		got = slices.DeleteFunc(got, func(id string) bool { return strings.HasPrefix(id, "last-") && id != "last-"+name })
		if want := append(idsFrom(test.first, storedEvents, nil), "last-"+name); !slices.Equal(got, want) || dead.Count(name) != 0 {
			t.Errorf("%s: %d events came, want %d; %d dead letters", name, len(got), len(want), dead.Count(name))
		}
	}
}

func TestReplayNamesNoSecretAndBoundsReasons(t *testing.T) {
	t.Parallel()
	var steps []Step
	q, began := stored(t)
	h := History{q}
	hook := newConsumer(t)
	hook.answer = func([]string) int { return http.StatusBadRequest }
	d, _ := delivery(t, h, fmt.Sprintf("{name: s, webhook: {url: %q}}", hook.URL+"/token-"+strings.Repeat("s", 2000)))
	counts, err := h.Replay(t.Context(), d, Query{Since: began, Until: began.Add(50 * storedStep)}, func(s Step) { steps = append(steps, s) })
	if err != nil || counts.Refused != 50 {
		t.Fatal(counts, err)
	}
	named := 0
	for _, s := range steps {
		if strings.Contains(s.Reason, "token-") || len(s.Reason) > maxReason+100 {
			t.Errorf("%q", s.Reason)
		}
		if s.Outcome == Refused {
			named++
		}
	}
	if named != maxRefused {
		t.Errorf("%d are named", named)
	}
}

// The limit of bytes takes what a replay has not read, and the replay says how much that was.
func TestReplayCountsWhatIsGone(t *testing.T) {
	t.Parallel()
	q := open(t, queue.Options{Dir: t.TempDir(), SegmentBytes: 64 << 10, MaxBytes: 1 << 20, Retain: time.Hour, CacheBytes: 1})
	store := func(n int) {
		var b queue.Batch
		for i := range n {
			e := &event.Event{ID: idOf(i), HMC: "east", Type: event.TypeStatusChange, Received: time.Now(), BodyText: strings.Repeat("x", 2000)}
			b.Records = append(b.Records, event.AppendRecord(nil, e))
		}
		if err := errors.Join(q.Append(t.Context(), b), q.Flush()); err != nil {
			t.Fatal(err)
		}
	}
	for range 10 {
		store(10)
	}
	s, err := History{q}.span(time.Now().Add(-time.Hour), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	defer s.reader.Close()
	for first, _ := q.Bounds(); first < 50; first, _ = q.Bounds() {
		store(10)
	}
	got := 0
	for {
		page, err := s.page()
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		got += len(page)
	}
	if s.missing < 49 || got+s.missing != 100 {
		t.Errorf("%d came and %d are missing, of 100", got, s.missing)
	}
}
