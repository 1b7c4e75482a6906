package deliver

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/sinks"
)

// unauthorized is the answer of a consumer that does not accept a credential.
var unauthorized = &sinks.PausedError{Status: http.StatusUnauthorized, Err: errors.New("status 401")}

// A credential that is revoked for an hour while events come costs none: the sink is paused, which readiness, status and
// metrics say; a single event is tried now and then; and all of them are there afterwards, in their order.
func TestPausedForAnHour(t *testing.T) {
	t.Parallel()
	for name, settings := range map[string]string{
		"one request":       "concurrency: 1",
		"several":           "concurrency: 8, batch: {max_events: 100}",
		"floods":            "collapse: true, concurrency: 4",
		"without retries":   "concurrency: 4, retry: {initial: 1m, max: 1m}",
		"and old after 24h": "concurrency: 4, retry: {max_age: 24h}",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { pausedForAnHour(t, settings) })
		})
	}
}

func pausedForAnHour(t *testing.T, settings string) {
	s := newFixture(t)
	registry := prometheus.NewRegistry()
	s.metrics = NewMetrics(registry)
	s.runWith(config.Flood{Window: time.Second, Min: 10}, settings)
	send := func(n int) {
		for i := range n {
			s.store(another(event.TypeOSMessage, i%40))
			time.Sleep(10 * time.Millisecond)
		}
	}
	send(100)
	s.eventually("all is well", s.settled)
	tries, largest, before := 0, 0, len(s.consumer.got())
	s.consumer.answers(func(events []*event.Event) error {
		tries, largest = tries+1, max(largest, len(events))
		return unauthorized
	})
	send(100)
	s.eventually("it is paused", func() bool { return s.delivery.Snapshot().Paused != "" })
	s.consumer.mu.Lock()
	largest = 0
	s.consumer.mu.Unlock()
	began := time.Now()
	time.Sleep(time.Hour)
	synctest.Wait()
	// At first each lane has a request in flight; then there is one after the other.
	if limit := int(time.Since(began)/time.Minute)*10 + 100; tries > limit || tries < 50 {
		t.Errorf("%d attempts in an hour", tries)
	}
	if largest != 1 {
		t.Errorf("%d events were tried at once", largest)
	}
	got := s.delivery.Snapshot()
	if got.Paused != sinks.PausedUnauthorized || !got.Stuck || got.PausedSince == nil || got.Accepting() {
		t.Errorf("%+v", got)
	}
	for _, want := range []string{"paused (unauthorized) since 2", "status 401", "what to do: the consumer does not accept who sends it"} {
		if !strings.Contains(got.NotReady, want) {
			t.Errorf("not ready because %q, which does not say %q", got.NotReady, want)
		}
	}
	if len(got.Troubles) == 0 || got.Troubles[0].Severity != event.SeverityCritical || !strings.Contains(got.Troubles[0].What, "paused") {
		t.Errorf("troubles %+v", got.Troubles)
	}
	pausedMetrics(t, registry, sinks.PausedUnauthorized)
	// A server that does not answer at all does not end the pause.
	s.consumer.answers(func(events []*event.Event) error {
		largest = max(largest, len(events))
		return unavailable
	})
	time.Sleep(10 * time.Minute)
	synctest.Wait()
	if got := s.delivery.Snapshot(); got.Paused == "" || largest != 1 {
		t.Errorf("%d events at once: %+v", largest, got)
	}

	s.consumer.answers(nil)
	s.eventually("it goes on by itself", s.settled)
	if got := s.delivery.Snapshot(); got.Paused != "" || got.Stuck || !got.Accepting() || got.NotReady != "" {
		t.Errorf("%+v", got)
	}
	pausedMetrics(t, registry, "")
	s.end()
	s.sums(200, 0, 0, 0)
	inOrder(t, s.consumer.got(), 200)
	if n := s.dead.Count("hook"); n != 0 || before != 100 {
		t.Errorf("%d dead letters, %d before", n, before)
	}
}

// inOrder checks that there are n events, each once, those of each resource in the order in which they were stored.
func inOrder(t *testing.T, events []*event.Event, n int) {
	t.Helper()
	last := make(map[string]int)
	seen := make(map[string]bool)
	for _, e := range events {
		number, err := strconv.Atoi(e.ID)
		if err != nil {
			t.Fatal(err)
		}
		key := e.Key()
		if before, ok := last[key]; ok && before >= number {
			t.Errorf("%s: %d after %d", key, number, before)
		}
		last[key], seen[e.ID] = number, true
	}
	if len(events) != n || len(seen) != n {
		t.Errorf("%d events arrived, %d different ones, of %d", len(events), len(seen), n)
	}
}

// pausedMetrics checks sink_paused: 1 for the reason, 0 for the others.
func pausedMetrics(t *testing.T, registry *prometheus.Registry, reason string) {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]float64)
	for _, f := range families {
		if f.GetName() != "hmcnotifyd_sink_paused" {
			continue
		}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == "reason" {
					got[l.GetValue()] = m.GetGauge().GetValue()
				}
			}
		}
	}
	if len(got) != 4 {
		t.Errorf("sink_paused has the reasons %v", got)
	}
	for r, value := range got {
		if want := map[bool]float64{true: 1}[r == reason]; value != want {
			t.Errorf("sink_paused{reason=%q} is %v, want %v", r, value, want)
		}
	}
}

// A test that is accepted ends a pause: whoever has mended the sink need not wait for the next attempt.
func TestPauseEndsWithATest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newFixture(t)
		s.consumer.refuses(unauthorized)
		s.runWith(config.Flood{}, "concurrency: 4, retry: {initial: 1h, max: 1h}")
		for i := range 20 {
			s.store(another(event.TypeOSMessage, i))
		}
		s.eventually("it is paused", func() bool { return s.delivery.Snapshot().Paused != "" })
		begins := func(TestStep) error { return nil }
		step, err := s.delivery.Test(t.Context(), another(event.TypeBridgeTest, 1), begins)
		if err != nil || step.Outcome != TestFailed || step.Status != http.StatusUnauthorized || step.Do == "" {
			t.Errorf("%+v, %v", step, err)
		}
		s.consumer.answers(nil)
		before := time.Now()
		if step, err = s.delivery.Test(t.Context(), another(event.TypeBridgeTest, 1), begins); err != nil || step.Outcome != TestDelivered {
			t.Errorf("%+v, %v", step, err)
		}
		s.eventually("it goes on", s.settled)
		if took := time.Since(before); took > time.Minute {
			t.Errorf("after %s", took)
		}
		s.end()
	})
}

// The lane whose turn it is may have nothing to try any more: then it is another's.
func TestTurnOfAPause(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newFixture(t)
		s.consumer.atOnce = 1
		s.consumer.refuses(unauthorized)
		s.runWith(config.Flood{}, "concurrency: 4, retry: {initial: 1s, max: 1s, max_age: 1h}")
		for i := range 8 {
			s.store(another(event.TypeOSMessage, i))
			time.Sleep(20 * time.Minute)
		}
		synctest.Wait()
		// Two are younger than an hour.
		if n := s.dead.Count("hook"); n != 6 {
			t.Errorf("%d dead letters", n)
		}
		s.consumer.answers(nil)
		s.eventually("it goes on", s.settled)
		s.end()
		s.sums(2, 0, 6, 0)
	})
}

// One that is refused among a hundred, by an answer that tells of each, is the only one that does not arrive, and arrives
// in no other attempt either.
func TestOneOfAHundredIsRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newFixture(t)
		var sizes []int
		s.consumer.each = func(events []*event.Event) []error {
			sizes = append(sizes, len(events))
			out := make([]error, len(events))
			for i, e := range events {
				if e.ID == "33" {
					out[i] = &sinks.PermanentError{Status: http.StatusBadRequest, Err: errors.New("the date of 33 is none")}
				}
			}
			return out
		}
		for i := range 100 {
			s.store(another(event.TypeOSMessage, i))
		}
		s.runWith(config.Flood{}, "batch: {max_events: 100}, concurrency: 1")
		s.eventually("all is done", s.settled)
		s.end()
		s.sums(99, 0, 1, 0)
		inOrder(t, s.consumer.got(), 99)
		if len(sizes) != 1 {
			t.Errorf("attempts with %v events", sizes)
		}
		letters, err := s.dead.List(queue.DeadLetterFilter{})
		if err != nil || len(letters) != 1 || letters[0].EventID != "33" || letters[0].Status != 400 || letters[0].Reason != "the date of 33 is none" {
			t.Errorf("%+v, %v", letters, err)
		}
	})
}

// What is to come later is sent again, what was accepted is not, and what was refused is put aside.
func TestEachEventGetsWhatItsPartSays(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newFixture(t)
		attempts := make(map[string]int)
		s.consumer.each = func(events []*event.Event) []error {
			out := make([]error, len(events))
			for i, e := range events {
				attempts[e.ID]++
				switch n, _ := strconv.Atoi(e.ID); {
				case n%10 == 3 && attempts[e.ID] < 3:
					out[i] = unavailable
				case n%10 == 4 && attempts[e.ID] < 2:
					out[i] = unauthorized
				case n%10 == 5:
					out[i] = &sinks.PermanentError{Status: http.StatusBadRequest, Err: errors.New("no")}
				case n%10 == 6 && len(events) > 1:
					out[i] = sinks.ErrNotJudged
				case n%10 == 6:
					out[i] = &sinks.PermanentError{Status: http.StatusRequestEntityTooLarge, Err: errors.New("too large")}
				}
			}
			return out
		}
		for i := range 200 {
			s.store(another(event.TypeOSMessage, i))
		}
		s.runWith(config.Flood{}, "batch: {max_events: 50}, concurrency: 4")
		s.eventually("all is done", s.settled)
		s.end()
		s.sums(160, 0, 40, 0)
		inOrder(t, s.consumer.got(), 160)
		for id, n := range attempts {
			number, _ := strconv.Atoi(id)
			if limit := map[int]int{3: 3, 4: 2, 6: 10}[number%10]; n > max(1, limit) {
				t.Errorf("%s was sent %d times", id, n)
			}
		}
	})
}

// What was accepted of a batch is not sent again after the end of the daemon, though the rest was not.
func TestPartOfABatchIsAcknowledged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newFixture(t)
		s.consumer.each = func(events []*event.Event) []error {
			out := make([]error, len(events))
			out[len(out)-1] = unavailable
			return out
		}
		for i := range 100 {
			s.store(another(event.TypeOSMessage, i))
		}
		s.runWith(config.Flood{}, "batch: {max_events: 100}, concurrency: 1, retry: {initial: 1h, max: 1h}")
		s.eventually("a part is there", func() bool { return len(s.consumer.got()) == 99 })
		s.finish()
		s.consumer.each = nil
		s.runWith(config.Flood{}, "batch: {max_events: 100}, concurrency: 1")
		s.eventually("all is done", s.settled)
		s.end()
		inOrder(t, s.consumer.got(), 100)
	})
}

// What was refused is sent again after a crash like all that is behind the oldest request in flight, and may be
// accepted then: after what was accepted behind it before.
func TestRefusedBeforeACrash(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newFixture(t)
		crashed := false // what is wrong with the consumer is mended meanwhile
		s.consumer.each = func(events []*event.Event) []error {
			out := make([]error, len(events))
			for i, e := range events {
				switch {
				case crashed:
				case e.ID == "0":
					out[i] = unavailable
				case e.ID == "2":
					out[i] = &sinks.PermanentError{Status: http.StatusBadRequest, Err: errors.New("no")}
				}
			}
			return out
		}
		s.consumer.atOnce = 1
		s.store(another(event.TypeOSMessage, 1)) // the one in flight, of another resource
		for range 4 {
			s.store(another(event.TypeOSMessage, 2))
		}
		s.runWith(config.Flood{}, "concurrency: 2, retry: {initial: 1h, max: 1h}")
		s.eventually("all behind it are done", func() bool { return len(s.consumer.got()) == 3 })
		s.end()
		if letters := s.dead.Count("hook"); letters != 1 {
			t.Errorf("%d dead letters", letters)
		}
		crashed = true
		s.runWith(config.Flood{}, "concurrency: 2")
		s.eventually("all is done", s.settled)
		s.end()
		var got []string
		for _, e := range s.consumer.got() {
			if e.Resource.Name == "P2" {
				got = append(got, e.ID)
			}
		}
		if want := []string{"1", "3", "4", "1", "2", "3", "4"}; !slices.Equal(got, want) {
			t.Errorf("arrived in the order %v, want %v", got, want)
		}
	})
}

// Where an answer tells only how many it refused, so many count as dead letters, and nothing is sent again.
func TestRejectedByNumber(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newFixture(t)
		attempts := 0
		s.consumer.answers(func(events []*event.Event) error {
			attempts++
			return &sinks.RejectedError{Events: 3, Err: errors.New("3 are too old")}
		})
		for i := range 50 {
			s.store(another(event.TypeOSMessage, i))
		}
		s.runWith(config.Flood{}, "batch: {max_events: 100}, concurrency: 1")
		s.eventually("all is done", s.settled)
		s.end()
		s.sums(47, 0, 3, 0)
		if got := s.delivery.Snapshot(); attempts != 1 || got.LastError != "3 are too old" {
			t.Errorf("%d attempts: %+v", attempts, got)
		}
	})
}

// A sink that refuses every event is not one that accepts, whatever its queue looks like.
func TestRefusesEveryEvent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newFixture(t)
		refuse := func([]*event.Event) error {
			return &sinks.PermanentError{Status: http.StatusBadRequest, Err: errors.New("status 400")}
		}
		s.consumer.answers(refuse)
		s.runWith(config.Flood{}, "concurrency: 1")
		s.store(another(event.TypeOSMessage, 0))
		s.eventually("it is refused", s.settled)
		got := s.delivery.Snapshot()
		if !got.Refusing || got.Accepting() || got.Stuck || got.LastErrorStatus != 400 || !strings.Contains(got.Troubles[0].What, "refuses every event") {
			t.Errorf("%+v", got)
		}
		s.consumer.answers(nil)
		s.store(another(event.TypeOSMessage, 1))
		s.eventually("it is delivered", s.settled)
		s.consumer.answers(refuse)
		s.store(another(event.TypeOSMessage, 2))
		s.eventually("it is refused", s.settled)
		if got := s.delivery.Snapshot(); got.Refusing || !got.Accepting() {
			t.Errorf("one of several: %+v", got)
		}
		s.store(another(event.TypeOSMessage, 3), another(event.TypeOSMessage, 4))
		s.eventually("they are refused", s.settled)
		if got := s.delivery.Snapshot(); !got.Refusing {
			t.Errorf("three in a row: %+v", got)
		}
		s.end()
	})
}

// A replay of dead letters stops at a sink that is paused: what is not accepted stays as it is.
func TestReplayToAPausedSink(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newFixture(t)
		s.consumer.refuses(unauthorized)
		s.runWith(config.Flood{}, "concurrency: 1")
		letter := event.NewRecord(another(event.TypeOSMessage, 1))
		v, err := s.delivery.Resend(t.Context(), []event.Record{letter})
		if v != (Fate{Paused: true}) || !errors.Is(err, unauthorized) {
			t.Errorf("%+v, %v", v, err)
		}
		s.end()
	})
}

// Of an attempt that the repetitions make, a pause is the sink's too, and events get their turn.
func TestPausedByARepetition(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newFixture(t)
		s.runWith(config.Flood{}, "concurrency: 2, retry: {initial: 1s, max: 10s}")
		answer := error(unauthorized)
		v, _, err := s.delivery.attempt(t.Context(), s.delivery.repetitions(), time.Now(), func(context.Context) error { return answer })
		if v != paused || err == nil || s.delivery.Snapshot().Paused == "" {
			t.Errorf("%d, %v", v, err)
		}
		s.store(another(event.TypeOSMessage, 1))
		s.eventually("it is delivered", s.settled)
		if got := s.delivery.Snapshot(); got.Paused != "" {
			t.Errorf("%+v", got)
		}
		s.end()
	})
}
