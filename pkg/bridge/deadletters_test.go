package bridge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/deliver"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/replay"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
)

// replayed runs a replay and returns its steps and what it counted.
func (d *daemon) replayed(filter replay.DeadLetterFilter, to string) ([]replay.LettersStep, replay.LettersCounts) {
	d.t.Helper()
	var steps []replay.LettersStep
	if err := d.bridge.Replay(d.t.Context(), filter, to, func(s replay.LettersStep) error {
		steps = append(steps, s)
		return nil
	}); err != nil {
		d.t.Fatal(err)
	}
	last := steps[len(steps)-1]
	if last.Outcome != replay.LettersDone || last.Counts == nil {
		d.t.Fatalf("the last step is %+v", last)
	}
	return steps, *last.Counts
}

func (d *daemon) letters(filter replay.DeadLetterFilter) []replay.DeadLetter {
	d.t.Helper()
	letters, next, err := d.bridge.DeadLetters(filter, "", 0)
	if err != nil || next != "" {
		d.t.Fatalf("%v, next %q", err, next)
	}
	return letters
}

// refusing makes the consumer refuse the events of the partition BAD with a status.
func refusing(status int) func(*http.Request, *event.Event) int {
	return func(_ *http.Request, e *event.Event) int {
		if e.Resource != nil && e.Resource.Name == "BAD" {
			return status
		}
		return http.StatusOK
	}
}

// withLetters starts a daemon whose sink "hook" has refused n events.
func withLetters(t *testing.T, n int) (*daemon, *hmcsim.HMC) {
	t.Helper()
	sim := hmctest.Start(t, hmcsim.Options{Partitions: -1})
	d := startDaemon(t, hmcYAML(t, "a", sim))
	d.connected("a")
	d.consumer.set(refusing(http.StatusBadRequest))
	for i := range n {
		publish(sim, "BAD", strconv.Itoa(i))
	}
	d.eventually("refused", func() bool { return d.sink("hook").DeadLetters == n })
	return d, sim
}

func (d *daemon) sink(name string) status.SinkStatus {
	d.t.Helper()
	for _, s := range d.bridge.Status().Sinks {
		if s.Name == name {
			return s
		}
	}
	d.t.Fatalf("no sink %s", name)
	return status.SinkStatus{}
}

// A refused event becomes a letter that says what happened. A replay sends it as it was the first time, and deletes it.
func TestDeadLetterAndReplay(t *testing.T) {
	t.Parallel()
	d, sim := withLetters(t, 3)
	letters := d.letters(replay.DeadLetterFilter{})
	if len(letters) != 3 {
		t.Fatalf("%+v", letters)
	}
	for i, l := range letters {
		if l.Sink != "hook" || l.Status != 400 || !strings.Contains(l.Reason, "status 400 Bad Request") || l.Request != "POST "+d.consumer.server.URL+"/..." ||
			l.EventType != event.TypePropertyChange || time.Since(l.Time) > time.Minute || l.Event != nil || l.Size == 0 {
			t.Errorf("letter %d: %+v", i, l)
		}
	}
	whole, err := d.bridge.DeadLetter(letters[1].ID)
	if err != nil {
		t.Fatal(err)
	}
	e := new(event.Event)
	if err := json.Unmarshal(whole.Event, e); err != nil || e.ID != whole.EventID || marks([]*event.Event{e})["BAD"][0] != "1" {
		t.Errorf("%v: %+v", err, e)
	}
	if _, err := d.bridge.DeadLetter("x"); !errors.Is(err, replay.ErrNoSuchLetter) {
		t.Error(err)
	}
	if got := d.metric(`hmcnotifyd_sink_dead_letters{sink="hook"}`); got != 3 {
		t.Errorf("the gauge says %v", got)
	}
	if got := d.metric(`hmcnotifyd_sink_dead_letters{sink="file"}`); got != 0 {
		t.Errorf("the gauge of the other sink says %v", got)
	}

	// Refused again: they stay where they are, with the new reason.
	d.consumer.set(refusing(http.StatusConflict))
	if _, got := d.replayed(replay.DeadLetterFilter{Sink: "hook"}, ""); got != (replay.LettersCounts{Letters: 3, Refused: 3}) {
		t.Errorf("%+v", got)
	}
	for i, l := range d.letters(replay.DeadLetterFilter{}) {
		if l.ID != letters[i].ID || l.Status != 409 || !strings.Contains(l.Reason, "409") || l.Time.Before(letters[i].Time) {
			t.Errorf("letter %d: %+v", i, l)
		}
	}

	// Accepted, while live events flow: with the webhook-id and the body of the first time.
	var mu sync.Mutex
	ids := map[string]string{}
	d.consumer.set(func(r *http.Request, e *event.Event) int {
		mu.Lock()
		defer mu.Unlock()
		ids[r.Header.Get("Webhook-Id")] = e.ID
		return http.StatusOK
	})
	publish(sim, "GOOD", "live")
	steps, got := d.replayed(replay.DeadLetterFilter{IDs: []string{letters[0].ID, letters[2].EventID}}, "")
	if got != (replay.LettersCounts{Letters: 2, Accepted: 2}) || steps[0].Outcome != replay.LettersBegins || steps[1].Outcome != replay.LettersAccepted ||
		steps[1].ID != letters[0].ID || steps[2].EventID != letters[2].EventID || steps[3].Outcome != replay.LettersEnded || len(steps) != 5 {
		t.Errorf("%+v: %+v", got, steps)
	}
	if left := d.letters(replay.DeadLetterFilter{}); len(left) != 1 || left[0].ID != letters[1].ID {
		t.Errorf("left: %+v", left)
	}
	d.eventually("the live one has come", func() bool { return len(marks(d.consumer.got())["GOOD"]) == 1 })
	if got := marks(d.consumer.got())["BAD"]; !slices.Equal(got, []string{"0", "2"}) {
		t.Errorf("arrived: %v", got)
	}
	for _, l := range []replay.DeadLetter{letters[0], letters[2]} {
		if ids[l.EventID] != l.EventID {
			t.Errorf("event %s did not come with its id: %v", l.EventID, ids)
		}
	}
	// An event that was refused is never counted as delivered too; the attempts are.
	d.eventually("the live ones are acknowledged", func() bool { return d.sink("hook").QueueEvents == 0 })
	d.consumer.mu.Lock()
	arrived := float64(len(d.consumer.events))
	d.consumer.mu.Unlock()
	for series, want := range map[string]float64{
		`hmcnotifyd_sink_events_total{outcome="dead_letter",sink="hook"}`: 3, `hmcnotifyd_sink_events_total{outcome="delivered",sink="hook"}`: arrived - 2,
		`hmcnotifyd_sink_attempts_total{outcome="permanent",sink="hook"}`: 6, `hmcnotifyd_sink_attempts_total{outcome="success",sink="hook"}`: arrived,
		`hmcnotifyd_sink_dead_letters{sink="hook"}`: 1,
	} {
		if got := d.metric(series); got != want {
			t.Errorf("%s is %v, not %v", series, got, want)
		}
	}
	d.lint()

	if _, _, err := d.bridge.DeadLetters(replay.DeadLetterFilter{Sink: "hok"}, "", 0); !errors.Is(err, replay.ErrNoSuchSink) {
		t.Errorf("a slip in the name: %v", err)
	}
	if _, err := d.bridge.PurgeDeadLetters(replay.DeadLetterFilter{Sink: "hok"}); !errors.Is(err, replay.ErrNoSuchSink) {
		t.Errorf("a slip in the name: %v", err)
	}
	if n, err := d.bridge.PurgeDeadLetters(replay.DeadLetterFilter{Since: time.Now().Add(time.Hour)}); n != 0 || err != nil {
		t.Errorf("%d purged, %v", n, err)
	}
	if n, err := d.bridge.PurgeDeadLetters(replay.DeadLetterFilter{}); n != 1 || err != nil {
		t.Errorf("%d purged, %v", n, err)
	}
	if _, got := d.replayed(replay.DeadLetterFilter{}, ""); got != (replay.LettersCounts{}) {
		t.Errorf("%+v of nothing", got)
	}
}

// What is given up after retry.max_age says with which status.
func TestDeadLetterOfMaxAge(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{Partitions: -1})
	d := &daemon{t: t, dir: t.TempDir(), consumer: newConsumer(t), timing: testTiming()}
	d.start(load(t, d.dir, "hmcs:\n"+hmcYAML(t, "a", sim)+fmt.Sprintf(
		"\nsinks:\n  - {name: hook, webhook: {url: %q}, retry: {initial: 1ms, max: 5ms, max_age: 1s}}\n", d.consumer.url())))
	d.connected("a")
	d.consumer.set(refusing(http.StatusServiceUnavailable))
	publish(sim, "BAD", "x")
	d.eventually("given up", func() bool { return len(d.letters(replay.DeadLetterFilter{})) == 1 })
	if l := d.letters(replay.DeadLetterFilter{})[0]; l.Status != 503 || !strings.HasPrefix(l.Reason, "given up after 1s: ") {
		t.Errorf("%+v", l)
	}
}

// A temporary failure stops a replay, and what was accepted before is done with.
func TestReplayStops(t *testing.T) {
	t.Parallel()
	d, _ := withLetters(t, 5)
	var mu sync.Mutex
	n := 0
	d.consumer.set(func(*http.Request, *event.Event) int {
		mu.Lock()
		defer mu.Unlock()
		if n++; n > 2 {
			return http.StatusBadGateway
		}
		return http.StatusOK
	})
	steps, got := d.replayed(replay.DeadLetterFilter{}, "")
	if got != (replay.LettersCounts{Letters: 5, Accepted: 2, Left: 3}) {
		t.Errorf("%+v", got)
	}
	if s := steps[len(steps)-2]; s.Outcome != replay.LettersStopped || s.Sink != "hook" || !strings.Contains(s.Reason, "502") || *s.Counts != got {
		t.Errorf("%+v", s)
	}
	for _, l := range d.letters(replay.DeadLetterFilter{}) {
		if l.Status != 400 {
			t.Errorf("a letter that was not refused again has changed: %+v", l)
		}
	}
	if n := len(d.letters(replay.DeadLetterFilter{})); n != 3 {
		t.Errorf("%d left", n)
	}
	// The sink is ready all the same, whether or not the HMC is by now.
	reasons := d.bridge.Status().Reasons
	if slices.ContainsFunc(reasons, func(r status.Reason) bool { return r.Sink != "" }) {
		t.Errorf("not ready: %v", reasons)
	}
}

// A consumer that asks for a pause gets it, from the replay and from the lanes; one that asks for a long one stops the replay.
func TestReplayHonoursRetryAfter(t *testing.T) {
	t.Parallel()
	d, _ := withLetters(t, 2)
	var mu sync.Mutex
	var times []time.Time
	after := "1"
	d.consumer.server.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if times = append(times, time.Now()); len(times) == 1 || after != "1" {
			w.Header().Set("Retry-After", after)
			w.WriteHeader(http.StatusTooManyRequests)
		}
	})
	steps, got := d.replayed(replay.DeadLetterFilter{}, "")
	if got != (replay.LettersCounts{Letters: 2, Accepted: 2}) || steps[1].Outcome != replay.LettersWaits || len(times) != 3 || times[1].Sub(times[0]) < 990*time.Millisecond {
		t.Errorf("%+v %v %+v", got, times, steps)
	}

	mu.Lock()
	after = "3600"
	mu.Unlock()
	if err := d.bridge.dead.Put(queue.DeadLetter{Sink: "hook", Data: []byte(`{"id":"1","hmc":"a","type":"t"}`)}); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second one does not even ask
		steps, got = d.replayed(replay.DeadLetterFilter{}, "")
		if s := steps[len(steps)-2]; got != (replay.LettersCounts{Letters: 1, Left: 1}) || s.Outcome != replay.LettersStopped || !strings.Contains(s.Reason, "left alone for 1h0m0s") && !strings.Contains(s.Reason, "left alone for 59m") {
			t.Errorf("%+v %+v", got, s)
		}
	}
	if len(times) != 4 {
		t.Errorf("%d requests", len(times))
	}
}

// What is refused while a replay runs is not for this replay, which would never end else.
func TestReplayLeavesWhatComes(t *testing.T) {
	t.Parallel()
	d, _ := withLetters(t, 0)
	letter := queue.DeadLetter{Sink: "hook", Data: []byte(`{"id":"1","hmc":"a","type":"t"}`)}
	if err := d.bridge.dead.Put(slices.Repeat([]queue.DeadLetter{letter}, replay.LettersPage)...); err != nil {
		t.Fatal(err)
	}
	var came atomic.Int64
	d.consumer.set(func(*http.Request, *event.Event) int {
		if came.Add(1) <= 2 {
			if err := d.bridge.dead.Put(letter); err != nil {
				t.Error(err)
			}
		}
		return http.StatusOK
	})
	if _, got := d.replayed(replay.DeadLetterFilter{Sink: "hook"}, ""); got != (replay.LettersCounts{Letters: replay.LettersPage, Accepted: replay.LettersPage}) {
		t.Errorf("%+v", got)
	}
	if left := len(d.letters(replay.DeadLetterFilter{})); left != 2 {
		t.Errorf("%d letters", left)
	}
}

// Letters of a sink that was renamed are sent through another one; what is not an event stays.
func TestReplayTo(t *testing.T) {
	t.Parallel()
	d, _ := withLetters(t, 1)
	if err := d.bridge.dead.Put(
		queue.DeadLetter{Sink: "old", Data: []byte(`{"id":"1","hmc":"a","type":"bridge-test","origin":"bridge","severity":"info"}`)},
		queue.DeadLetter{Sink: "old", Data: []byte("no JSON"), Reason: "unreadable"},
		queue.DeadLetter{Sink: "old", Data: []byte(`{"id":"2"}`)},
	); err != nil {
		t.Fatal(err)
	}
	steps, got := d.replayed(replay.DeadLetterFilter{Sink: "old"}, "")
	if got != (replay.LettersCounts{Letters: 3, Left: 3}) || steps[1].Outcome != replay.LettersStopped || !strings.Contains(steps[1].Reason, `"old" is not in the configuration`) {
		t.Errorf("%+v %+v", got, steps)
	}
	if err := d.bridge.Replay(t.Context(), replay.DeadLetterFilter{}, "nobody", nil); !errors.Is(err, replay.ErrNoSuchSink) {
		t.Error(err)
	}
	if got := d.metric(`hmcnotifyd_sink_dead_letters{sink="old"}`); got != 3 {
		t.Errorf("the gauge of a sink that is gone says %v", got)
	}
	d.consumer.set(func(*http.Request, *event.Event) int { return http.StatusOK })
	if _, got := d.replayed(replay.DeadLetterFilter{Sink: "old"}, "hook"); got != (replay.LettersCounts{Letters: 3, Accepted: 1, Refused: 2}) {
		t.Errorf("%+v", got)
	}
	for _, l := range d.letters(replay.DeadLetterFilter{Sink: "old"}) {
		if !strings.Contains(l.Reason, "not an event") {
			t.Errorf("%+v", l)
		}
		if whole, err := d.bridge.DeadLetter(l.ID); err != nil || (string(whole.Data) == "no JSON") == (whole.Event != nil) {
			t.Errorf("%+v, %v", whole, err)
		}
	}
	if len(d.letters(replay.DeadLetterFilter{Sink: "hook"})) != 1 {
		t.Error("the letter of the other sink is gone")
	}
}

// A replay ends with whoever asked for it, with its sink, and with the daemon; nothing is lost by that.
func TestReplayIsEnded(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(d *daemon, cancel func()){
		"by its caller":  func(_ *daemon, cancel func()) { cancel() },
		"by the daemon":  func(d *daemon, _ func()) { d.stop() },
		"by its reading": nil,
		"by a reload": func(d *daemon, _ func()) {
			cfg := *d.bridge.now().cfg
			cfg.Sinks = slices.Clone(cfg.Sinks)
			cfg.Sinks[0].Timeout = time.Minute
			if err := d.bridge.Reload(&cfg); err != nil {
				d.t.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			d, _ := withLetters(t, 3)
			arrived, release := make(chan struct{}, 9), make(chan struct{})
			var once sync.Once
			unblock := func() { once.Do(func() { close(release) }) }
			defer unblock()
			n := 0
			d.consumer.set(func(r *http.Request, _ *event.Event) int {
				if n++; n > 1 {
					arrived <- struct{}{}
					select {
					case <-release:
					case <-r.Context().Done():
					}
				}
				return http.StatusOK
			})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			done := make(chan error, 1)
			var steps []replay.LettersStep
			go func() {
				done <- d.bridge.Replay(ctx, replay.DeadLetterFilter{}, "", func(s replay.LettersStep) error {
					steps = append(steps, s)
					if end == nil && s.Outcome == replay.LettersAccepted {
						return errors.New("nobody reads")
					}
					return nil
				})
			}()
			if end != nil {
				<-arrived
				if err := d.bridge.Replay(t.Context(), replay.DeadLetterFilter{}, "", nil); !errors.Is(err, replay.ErrReplaying) {
					t.Errorf("a second replay: %v", err)
				}
				end(d, cancel)
			}
			select {
			case err := <-done:
				if err != nil {
					t.Error(err)
				}
			case <-time.After(within):
				t.Fatal("the replay does not end")
			}
			unblock()
			if name == "by the daemon" || name == "by a reload" {
				if s := steps[len(steps)-2]; s.Outcome != replay.LettersStopped || s.Reason != deliver.ErrLeaving.Error() || s.Counts.Left != 2 {
					t.Errorf("%+v", s)
				}
			}
			if name == "by the daemon" {
				d.start(d.bridge.opts.Config)
			}
			if left := len(d.letters(replay.DeadLetterFilter{})); left != 2 {
				t.Errorf("%d letters are left", left)
			}
		})
	}
}

// What waits for a sink that is not configured any more is shown and kept, until somebody purges it.
func TestRemovedSinkIsKept(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{Partitions: -1})
	yaml := hmcYAML(t, "a", sim)
	d := startDaemon(t, yaml)
	d.connected("a")
	d.consumer.set(func(*http.Request, *event.Event) int { return http.StatusServiceUnavailable })
	publish(sim, "P", "x")
	d.eventually("it waits", func() bool { return d.sink("hook").FailedAttempts > 0 })
	if removed := d.bridge.Status().Removed; len(removed) != 0 {
		t.Errorf("%+v", removed)
	}
	if _, err := d.bridge.PurgeRemovedSink("hook"); !errors.Is(err, replay.ErrConfigured) {
		t.Errorf("purge of a configured sink: %v", err)
	}
	cfg := d.config(yaml)
	cfg.Sinks = cfg.Sinks[1:]
	if err := d.bridge.Reload(cfg); err != nil {
		t.Fatal(err)
	}
	check := func() {
		t.Helper()
		removed := d.bridge.Status().Removed
		if len(removed) != 1 || removed[0].Name != "hook" || removed[0].QueueEvents < 1 || removed[0].QueueBytes == 0 || removed[0].OldestEventAgeSeconds <= 0 {
			t.Fatalf("%+v", removed)
		}
		if !strings.Contains(d.logs.String(), "dead-letters purge --waiting --sink=hook") {
			t.Error("the log does not say it")
		}
	}
	check()
	d.stop()
	d.start(cfg)
	d.eventually("reported", func() bool { return strings.Contains(d.logs.String(), "not configured any more") })
	check()
	if _, err := d.bridge.PurgeRemovedSink("file"); !errors.Is(err, replay.ErrConfigured) {
		t.Errorf("purge of a configured sink: %v", err)
	}
	if n, err := d.bridge.PurgeRemovedSink("hook"); n < 1 || err != nil {
		t.Errorf("%d purged, %v", n, err)
	}
	if removed := d.bridge.Status().Removed; len(removed) != 0 || slices.Contains(d.bridge.queue.Cursors(), "hook") {
		t.Errorf("%+v", removed)
	}
	if _, err := d.bridge.PurgeRemovedSink("hook"); !errors.Is(err, replay.ErrNoSuchSink) {
		t.Error(err)
	}
}

func TestBounded(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ in, want string }{
		{"short", "short"}, {"0123456789", "0123456789"}, {"01234567890", "0123456..."}, {"012345é89x", "012345..."}, {"a\xffb", "a\uFFFDb"},
	} {
		if got := event.Bounded(test.in, 10); got != test.want {
			t.Errorf("%q: %q, not %q", test.in, got, test.want)
		}
	}
}

// The log says what happens, not each time that it happens.
func TestThrottle(t *testing.T) {
	t.Parallel()
	var th status.Throttle
	now := time.Now()
	for _, test := range []struct {
		at    time.Duration
		n     int
		total int
		due   bool
	}{{0, 1, 1, true}, {time.Second, 2, 0, false}, {59 * time.Second, 1, 0, false}, {time.Minute, 1, 4, true}, {61 * time.Second, 1, 0, false}} {
		if total, due := th.Count(now.Add(test.at), test.n); total != test.total || due != test.due {
			t.Errorf("after %s: %d, %v", test.at, total, due)
		}
	}
}
