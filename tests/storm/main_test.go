//go:build real

// Package storm_test holds the daemon to what docs/delivery.md promises, at the scale at which it is hard: hundreds of kill -9
// under load, hundreds of thousands of events that wait, a full disk, damaged files. The daemon is the program that users
// run, a child process; the HMC is a simulated one in the test's own process. What measures the daemon runs before the others,
// by itself, and is in files that have no other tests.
//
// `make test-real` runs a short form of each test, and those that measure when all others have ended; `make storm` the
// figures that are promised.
package storm_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/daemon"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/program"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// within is how long a test waits for something that takes moments on a machine with nothing else to do.
const within = 5 * time.Minute

// connected waits until the daemon follows everything it wants to of all HMCs.
func connected(t testing.TB, d *daemon.Daemon) {
	t.Helper()
	d.AwaitMetric(t, within, 1, "hmcnotifyd_receiver_connected")
}

// change publishes a property change of a resource, with the value that tells it from others, and returns how many
// subscriptions it went to. No list has the resource.
func change(sim *hmcsim.HMC, resource, value string) int {
	return changeOf(sim, "partition", resource, value)
}

func changeOf(sim *hmcsim.HMC, class, resource, value string) int {
	return sim.Publish("object", []hmcsim.Header{
		{Name: "notification-type", Value: "property-change"},
		{Name: "class", Value: class},
		{Name: "name", Value: resource},
		{Name: "object-uri", Value: "/api/" + class + "s/" + resource},
		{Name: "property-names", Value: " description "},
	}, fmt.Appendf(nil, `{"change-reports":[{"property-name":"description","old-value":null,"new-value":%q}]}`, value))
}

// valueOf is what change has published.
func valueOf(body []byte) string {
	for report := range event.Elements(event.Member(body, "change-reports")) {
		return event.String(event.Member(report, "new-value"))
	}
	return ""
}

// pace calls do n times, at a rate per second, unless stop is closed before. What a busy machine delays is made up for.
func pace(rate float64, n int, stop <-chan struct{}, do func(i int)) {
	start := time.Now()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for i := 0; i < n; {
		for due := min(int(time.Since(start).Seconds()*rate), n); i < due; i++ {
			do(i)
		}
		select {
		case <-tick.C:
		case <-stop:
			return
		}
	}
}

// delivered is an event as a sink got it: what the tests look at.
type delivered struct {
	ID       string          `json:"id"`
	Type     string          `json:"type"`
	Origin   string          `json:"origin"`
	Body     json.RawMessage `json:"body"`
	Resource struct {
		Name string `json:"name"`
	} `json:"resource"`
}

// hook is a webhook consumer that hands what it accepts to a function, one event at a time.
type hook struct {
	url  string
	addr string

	mu     sync.Mutex
	take   func(raw []byte, arrived int64) // in Unix nanoseconds
	status func(r *http.Request) int       // nil: 200
	bad    []string

	server *http.Server
	served chan struct{}
}

// newHook makes a consumer that does not listen yet.
func newHook(t testing.TB, take func(raw []byte, arrived int64)) *hook {
	t.Helper()
	h := &hook{take: take, addr: fmt.Sprintf("127.0.0.1:%d", program.FreePort(t))}
	h.url = "http://" + h.addr + "/hmc"
	t.Cleanup(func() {
		h.stop(t)
		for _, problem := range h.bad {
			t.Error("webhook consumer: " + problem)
		}
	})
	return h
}

// start makes the consumer listen.
func (h *hook) start(t testing.TB) {
	t.Helper()
	l, err := listen(t, h.addr)
	if err != nil {
		t.Fatal(err)
	}
	h.server, h.served = &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}, make(chan struct{})
	go func() {
		defer close(h.served)
		_ = h.server.Serve(l) // ends with Close
	}()
}

// stop makes connections be refused.
func (h *hook) stop(t testing.TB) {
	t.Helper()
	if h.server == nil {
		return
	}
	if err := h.server.Close(); err != nil {
		t.Error(err)
	}
	<-h.served
	h.server = nil
}

// answer sets the status that requests are answered with; nil: 200.
func (h *hook) answer(status func(r *http.Request) int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.status = status
}

func (h *hook) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the sender has gone
	}
	arrived := time.Now().UnixNano()
	h.mu.Lock()
	status := http.StatusOK
	if h.status != nil {
		status = h.status(r)
	}
	if status == http.StatusOK {
		if len(body) > 0 && body[0] == '[' {
			for raw := range event.Elements(body) {
				h.take(raw, arrived)
			}
		} else {
			h.take(body, arrived)
		}
	}
	h.mu.Unlock()
	w.WriteHeader(status)
}

// complain makes the test fail at its end. It is for take.
func (h *hook) complain(format string, args ...any) {
	if len(h.bad) < 20 {
		h.bad = append(h.bad, fmt.Sprintf(format, args...))
	}
}

// resident returns the resident memory of a process, now and at most, in MiB.
func resident(t testing.TB, pid int) (now, peak float64) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("needs /proc")
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		var kb float64
		if _, err := fmt.Sscanf(line, "VmRSS: %f kB", &kb); err == nil {
			now = kb / 1024
		}
		if _, err := fmt.Sscanf(line, "VmHWM: %f kB", &kb); err == nil {
			peak = kb / 1024
		}
	}
	if now == 0 || peak == 0 {
		t.Fatalf("no memory in %s", b)
	}
	return now, peak
}

// quantile returns a quantile of values, which it sorts.
func quantile(values []time.Duration, q float64) time.Duration {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	return values[min(int(q*float64(len(values))), len(values)-1)]
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// readAll returns the body of an answer, which has to be a good one.
func readAll(resp *http.Response) (string, error) {
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d: %s", resp.StatusCode, body)
	}
	return string(body), err
}
