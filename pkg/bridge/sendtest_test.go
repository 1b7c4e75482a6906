package bridge

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/deliver"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/replay"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
)

// test sends a test event and returns what was told.
func (d *daemon) test(sink string) []deliver.TestStep {
	d.t.Helper()
	var steps []deliver.TestStep
	if err := d.bridge.SendTest(d.t.Context(), sink, func(s deliver.TestStep) error {
		steps = append(steps, s)
		return nil
	}); err != nil {
		d.t.Fatal(err)
	}
	if len(steps) != 2 || steps[0].Outcome != deliver.TestBegins || steps[0].EventID == "" || steps[1].EventID != steps[0].EventID {
		d.t.Fatalf("%+v", steps)
	}
	return steps
}

// A test event takes the way of any event of its sink, and no other sink gets it.
func TestSendTest(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{Partitions: -1})
	d := startDaemon(t, hmcYAML(t, "a", sim))
	d.connected("a")
	arrived := make(chan *event.Event, 10)
	var answer atomic.Int64
	answer.Store(http.StatusNoContent)
	d.consumer.set(func(r *http.Request, e *event.Event) int {
		if e.Type != event.TypeBridgeTest {
			return http.StatusOK
		}
		if r.Header.Get("Webhook-Id") != e.ID {
			t.Errorf("webhook-id %q of event %s", r.Header.Get("Webhook-Id"), e.ID)
		}
		arrived <- e
		return int(answer.Load())
	})

	steps := d.test("hook")
	if s := steps[0]; s.Kind != "webhook" || s.Request != "POST "+d.consumer.server.URL+"/..." || s.TimeoutSeconds != 10 {
		t.Errorf("%+v", s)
	}
	if s := steps[1]; s.Outcome != deliver.TestDelivered || s.Seconds <= 0 || s.Reason != "" || s.Do != "" {
		t.Errorf("%+v", s)
	}
	e := <-arrived
	if e.ID != steps[0].EventID || e.HMC != "a" || e.Origin != event.OriginBridge || !strings.Contains(e.Summary, "test of sink hook") || e.Validate() != nil {
		t.Errorf("%+v", e)
	}
	second := d.test("hook")
	if e := <-arrived; second[0].EventID == steps[0].EventID || e.ID != second[0].EventID {
		t.Error("two tests have the same id")
	}

	for _, test := range []struct {
		status  int
		outcome string
		do      string // a part
	}{
		{http.StatusForbidden, deliver.TestFailed, "webhook.http_config"},
		{http.StatusNotFound, deliver.TestFailed, "webhook.url"},
		{http.StatusMovedPermanently, deliver.TestFailed, "redirects"},
		{http.StatusBadRequest, deliver.TestRefused, "webhook.format"},
		{http.StatusBadGateway, deliver.TestFailed, "sent again"},
	} {
		answer.Store(int64(test.status))
		s := d.test("hook")[1]
		<-arrived
		if s.Outcome != test.outcome || s.Status != test.status || !strings.Contains(s.Do, test.do) ||
			!strings.Contains(s.Reason, fmt.Sprintf("status %d", test.status)) {
			t.Errorf("%d: %+v", test.status, s)
		}
	}
	for _, e := range append(d.eventsIn("all.log"), d.fileEvents()...) {
		if e.Type == event.TypeBridgeTest {
			t.Errorf("a sink that was not tested got %s", e.ID)
		}
	}
	if s := d.sink("hook"); s.DeadLetters != 0 {
		t.Errorf("%d dead letters of tests", s.DeadLetters)
	}

	if s := d.test("all")[1]; s.Outcome != deliver.TestDelivered {
		t.Errorf("%+v", s)
	}
	// The HMC may be connected to just now.
	if !slices.ContainsFunc(d.eventsIn("all.log"), func(e *event.Event) bool { return e.Type == event.TypeBridgeTest }) {
		t.Error("the file does not have it")
	}

	// Its consumer is gone.
	d.consumer.server.Close()
	if s := d.test("hook")[1]; s.Outcome != deliver.TestFailed || s.Status != 0 || !strings.Contains(s.Do, "check-config --online") {
		t.Errorf("%+v", s)
	}
}

// A sink that makes alerts of events makes one of a test, and says which member of the cluster has not taken it.
func TestSendTestOfAlertmanager(t *testing.T) {
	t.Parallel()
	alerts := make(chan string, 1)
	member := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		alerts <- string(body)
	}))
	t.Cleanup(member.Close)
	busy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }))
	t.Cleanup(busy.Close)
	sim := hmctest.Start(t, hmcsim.Options{Partitions: -1})
	d := &daemon{t: t, dir: t.TempDir(), consumer: newConsumer(t), timing: testTiming()}
	d.start(load(t, d.dir, "hmcs:\n"+hmcYAML(t, "a", sim)+fmt.Sprintf("\nsinks:\n  - {name: am, alertmanager: {urls: [%q, %q]}}\n", member.URL, busy.URL)))
	d.connected("a")
	s := d.test("am")[1]
	if s.Outcome != deliver.TestDelivered || len(s.Notes) != 1 || !strings.Contains(s.Notes[0], "not accepted everywhere: ") || !strings.Contains(s.Notes[0], busy.URL) {
		t.Errorf("%+v", s)
	}
	if body := <-alerts; !strings.Contains(body, `"alertname":"HMCTest"`) {
		t.Errorf("got %s", body)
	}
	if got := d.metric(`hmcnotifyd_sink_attempts_total{outcome="success",sink="am"}`); got < 1 {
		t.Errorf("%v attempts were successful", got)
	}
}

// What cannot be tested now is said, and nothing is sent.
func TestSendTestRefuses(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{Partitions: -1})
	d := startDaemon(t, hmcYAML(t, "a", sim))
	d.connected("a")
	nothing := func(s deliver.TestStep) error {
		t.Errorf("told of %+v", s)
		return nil
	}
	if err := d.bridge.SendTest(t.Context(), "hok", nothing); !errors.Is(err, replay.ErrNoSuchSink) || !strings.Contains(err.Error(), "hook, file, all") {
		t.Errorf("a slip in the name: %v", err)
	}
	d.bridge.testing.Lock()
	busy := d.bridge.SendTest(t.Context(), "hook", nothing)
	d.bridge.testing.Unlock()
	if !errors.Is(busy, ErrNotTested) || !strings.Contains(busy.Error(), "another test") {
		t.Errorf("a second one: %v", busy)
	}
	gone := errors.New("gone")
	if err := d.bridge.SendTest(t.Context(), "file", func(deliver.TestStep) error { return gone }); !errors.Is(err, gone) {
		t.Errorf("nobody listens: %v", err)
	}
	for _, e := range d.fileEvents() {
		if e.Type == event.TypeBridgeTest {
			t.Error("sent although nobody listens")
		}
	}
}

// Who hears how a test ended can send the next one at once.
func TestSendTestAgain(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{Partitions: -1})
	d := startDaemon(t, hmcYAML(t, "a", sim))
	d.connected("a")
	var again []deliver.TestStep
	if err := d.bridge.SendTest(t.Context(), "hook", func(s deliver.TestStep) error {
		if s.Outcome != deliver.TestBegins {
			again = d.test("file")
		}
		return nil
	}); err != nil || len(again) != 2 {
		t.Errorf("%v, then %+v", err, again)
	}
}
