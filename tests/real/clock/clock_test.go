//go:build real

package clock_test

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/clock"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/consumer"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/daemon"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/program"
)

// TestMain builds the program with its clock once.
func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "clock")
	if err != nil {
		panic(err)
	}
	path, err := clock.Build(dir)
	if err == nil {
		err = os.Setenv(daemon.BinaryVariable, path)
	}
	if err != nil {
		_ = os.RemoveAll(dir)
		panic(err)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(dir)
		os.Exit(code)
	}))
}

// within is how long a test waits for something that takes moments on a machine with nothing else to do.
const within = 5 * time.Minute

// sets are by how much the clock of a machine is set while the daemon runs.
var sets = []time.Duration{-200 * time.Hour, -3 * time.Hour, 3 * time.Hour, 200 * time.Hour}

// world is a daemon with a clock of its own between an HMC and a consumer.
type world struct {
	sim      *hmcsim.HMC
	clock    *clock.Clock
	consumer *consumer.Consumer
	daemon   *daemon.Daemon
}

// start starts all of it. sink are further keys of the consumer's sink.
func start(t *testing.T, sink string, env ...string) *world {
	t.Helper()
	sim := hmctest.Start(t, hmcsim.Options{Name: "east", CPCs: 2, Partitions: 4, OSMessages: 200})
	w := &world{sim: sim, clock: clock.New(t), consumer: consumer.Start(t)}
	for _, p := range sim.Partitions() {
		status := "operating"
		if p.DPM {
			status = "active"
		}
		if err := sim.SetPartitionStatus(p.ID, status); err != nil {
			t.Fatal(err)
		}
	}
	// A certificate is valid by the clock, too.
	w.daemon = daemon.Start(t, daemon.Options{
		Config: fmt.Sprintf(`hmcs:
- name: east
  hosts: [%q]
  rest_port: %d
  stomp_port: %d
  userid: %s
  password: %s
  tls: {insecure_skip_verify: true}
  os_messages: [{cpc: .*, partition: .*}]
  rest_requests_per_minute: 10000
  stomp: {reconnect_sleep_initial: 20ms, reconnect_sleep_max: 200ms}
sinks:
- {name: hook, webhook: {url: %q}, concurrency: 1%s}
`, sim.Host(), sim.RESTPort(), sim.StompPort(), hmcsim.DefaultUserid, hmcsim.DefaultPassword, w.consumer.URL, sink),
		Env: append(env, w.clock.Env()),
	})
	w.daemon.AwaitReady(t, within)
	return w
}

// change publishes property changes, and returns how many there were.
func (w *world) change(from, to int) {
	for n := from; n < to; n++ {
		w.sim.Publish("object", []hmcsim.Header{
			{Name: "notification-type", Value: "property-change"},
			{Name: "class", Value: "partition"},
			{Name: "name", Value: "P"},
			{Name: "object-uri", Value: "/api/partitions/P"},
			{Name: "property-names", Value: " description "},
		}, fmt.Appendf(nil, `{"change-reports":[{"property-name":"description","old-value":null,"new-value":%q}]}`, strconv.Itoa(n)))
	}
}

// linux is a partition whose messages have no times.
func (w *world) linux() string {
	all := w.sim.Partitions()
	return all[slices.IndexFunc(all, func(p hmcsim.PartitionInfo) bool { return p.DPM })].URI
}

// followed waits until the messages of that partition come as they are written: what is replayed may come once more.
func (w *world) followed(t *testing.T) {
	t.Helper()
	program.Await(t, within, func() error {
		if _, err := w.sim.OSMessages(w.linux(), "are you there?"); err != nil {
			return err
		}
		if len(w.consumer.Events(consumer.Type("os-message"), func(e consumer.Event) bool { return e.Origin == "live" })) == 0 {
			return fmt.Errorf("no message has come live")
		}
		return nil
	})
}

// boot loads a system that writes what it always writes, under the same numbers, and without times.
func (w *world) boot(t *testing.T) {
	t.Helper()
	part := w.linux()
	if err := w.sim.SetOSMessageSequence(part, 0); err != nil {
		t.Fatal(err)
	}
	for n := range 20 {
		if _, err := w.sim.OSMessages(part, fmt.Sprintf("boot message %d", n)); err != nil {
			t.Fatal(err)
		}
	}
}

func isBoot(e consumer.Event) bool { return strings.Contains(string(e.Body), "boot message") }

// gap is the body of a bridge-gap event.
type gap struct{ From, To time.Time }

// gaps waits for so many gaps and returns the last one.
func (w *world) gaps(t *testing.T, n int) gap {
	t.Helper()
	events := w.consumer.Await(t, within, n, consumer.Type("bridge-gap"))
	if len(events) != n {
		t.Errorf("%d gaps, want %d", len(events), n)
	}
	var g gap
	if err := json.Unmarshal(events[n-1].Body, &g); err != nil {
		t.Fatal(err)
	}
	return g
}

// During, after and before the machine's clock is set by hours everything arrives, and every window without sight is told with
// a beginning that is not after its end, and as long as it was.
func TestNothingVanishesWhenTheClockIsSet(t *testing.T) {
	t.Parallel()
	for _, by := range sets {
		t.Run(by.String(), func(t *testing.T) {
			t.Parallel()
			w := start(t, ", retry: {initial: 10ms, max: 100ms}")
			w.followed(t)
			w.boot(t)
			w.change(0, 5)
			w.consumer.Await(t, within, 20, isBoot)
			began := time.Now()
			w.clock.Set(t, by)
			// No system is loaded and writes again so soon as that.
			time.Sleep(time.Until(began.Add(4 * time.Second)))
			w.boot(t)
			w.change(5, 10)
			if n := len(w.consumer.Await(t, within, 40, isBoot)); n != 40 {
				t.Errorf("%d messages of two times 20", n)
			}
			w.consumer.Await(t, within, 10, consumer.Type("property-change"))

			check := func(n int, lost, back time.Time, offset time.Duration) {
				t.Helper()
				g := w.gaps(t, n)
				if g.To.Before(g.From) {
					t.Errorf("gap %d from %s to %s", n, g.From, g.To)
				}
				// By the clock that the daemon has now.
				if earliest, latest := lost.Add(offset), back.Add(offset); g.From.After(earliest.Add(time.Second)) || g.To.After(latest.Add(time.Second)) || g.To.Before(earliest) {
					t.Errorf("gap %d from %s to %s, not from %s to %s", n, g.From, g.To, earliest, latest)
				}
			}
			lost := time.Now()
			w.sim.Broker().StopListening()
			w.sim.Broker().DropLinks()
			w.clock.Set(t, 0) // in the middle of it
			w.change(10, 12)
			if err := w.sim.Broker().StartListening(); err != nil {
				t.Fatal(err)
			}
			w.daemon.AwaitReady(t, within)
			back := time.Now()
			w.change(12, 15)
			w.consumer.Await(t, within, 13, consumer.Type("property-change"))
			check(1, lost, back, 0)

			// Killed, and the clock is set while nobody is there. The gap has just been delivered: it comes once more.
			w.daemon.Kill()
			w.clock.Set(t, by)
			w.daemon.Start(t)
			w.daemon.AwaitReady(t, within)
			back = time.Now()
			g := w.gaps(t, 2)
			if g.To.Before(g.From) || g.To.After(back.Add(by+time.Second)) {
				t.Errorf("from %s to %s after the clock was set by %s", g.From, g.To, by)
			}
			w.change(15, 18)
			w.consumer.Await(t, within, 16, consumer.Type("property-change"))

			// Killed once more, some time after: what was stored since counts.
			time.Sleep(time.Second)
			lost = time.Now()
			w.daemon.Kill()
			w.daemon.Start(t)
			w.daemon.AwaitReady(t, within)
			check(3, lost, time.Now(), by)
			if n := w.daemon.Metric(t, "hmcnotifyd_sink_events_total", "outcome", "dropped"); n != 0 {
				t.Errorf("%v events were dropped", n)
			}
		})
	}
}

// What waits for a sink is as old as it is, whatever the clock is set to: nothing of it goes by queue.max_age.
func TestNoBacklogIsTrimmedWhenTheClockIsSet(t *testing.T) {
	t.Parallel()
	for _, by := range sets {
		t.Run(by.String(), func(t *testing.T) {
			t.Parallel()
			w := start(t, ", retry: {initial: 10ms, max: 1s}, queue: {max_age: 168h}")
			var works atomic.Bool
			w.consumer.Answer(func(consumer.Request) int {
				if works.Load() {
					return http.StatusOK
				}
				return http.StatusServiceUnavailable
			})
			w.change(0, 50)
			w.daemon.AwaitMetric(t, within, 50, "hmcnotifyd_events_total", "type", "property-change")
			w.clock.Set(t, by)
			w.change(50, 60)
			w.daemon.AwaitMetric(t, within, 60, "hmcnotifyd_events_total", "type", "property-change")
			time.Sleep(11 * time.Second) // the limits of a queue are applied every ten seconds
			if age := w.daemon.Metric(t, "hmcnotifyd_sink_oldest_event_age_seconds"); age > 3600 {
				t.Errorf("the oldest event is %v seconds old", age)
			}
			w.daemon.Stop(t)
			w.daemon.Start(t) // by a clock that is still wrong
			w.daemon.AwaitMetric(t, within, 1, "hmcnotifyd_receiver_connected")
			w.clock.Set(t, 0)
			w.daemon.Kill()
			w.daemon.Start(t)
			works.Store(true)
			w.consumer.Await(t, within, 60, consumer.Type("property-change"))
			for _, outcome := range []string{"dropped", "dead_letter"} {
				if n := w.daemon.Metric(t, "hmcnotifyd_sink_events_total", "outcome", outcome); n != 0 {
					t.Errorf("%v events: %s", n, outcome)
				}
			}
		})
	}
}

// A wait is as long as it is: it does not end when the clock is set forward, and does end where it was set back.
func TestNoWaitEndsWhenTheClockIsSet(t *testing.T) {
	t.Parallel()
	for _, by := range sets {
		t.Run(by.String(), func(t *testing.T) {
			t.Parallel()
			w := start(t, ", collapse: true")
			var first, second atomic.Int64
			began := time.Now()
			rest := 8 * time.Second
			busy := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
				if first.CompareAndSwap(0, int64(time.Since(began))) {
					rw.Header().Set("Retry-After", strconv.Itoa(int(rest/time.Second)))
					rw.WriteHeader(http.StatusServiceUnavailable)
					return
				}
				second.CompareAndSwap(0, int64(time.Since(began)))
			})}
			l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			served := make(chan struct{})
			go func() { defer close(served); _ = busy.Serve(l) }()
			t.Cleanup(func() { _ = busy.Close(); <-served })
			w.daemon.WriteConfig(t, configWith(t, w, fmt.Sprintf("- {name: busy, concurrency: 1, webhook: {url: %q}, drop: [{type: [\"bridge-.*\"]}]}\n", "http://"+l.Addr().String())))
			if code, body := w.daemon.Reload(t); code != http.StatusOK {
				t.Fatalf("reload: %d %s", code, body)
			}
			// One status change is held for a while, because many may follow.
			if err := w.sim.SetPartitionStatus(w.sim.Partitions()[0].ID, statusAfter(w)); err != nil {
				t.Fatal(err)
			}
			program.Await(t, within, func() error {
				if first.Load() == 0 {
					return fmt.Errorf("the first attempt has not come")
				}
				return nil
			})
			w.clock.Set(t, by)
			w.consumer.Await(t, within, 1, consumer.Type("status-change"))
			program.Await(t, within, func() error {
				if second.Load() == 0 {
					return fmt.Errorf("the second attempt has not come")
				}
				return nil
			})
			if waited := time.Duration(second.Load() - first.Load()); waited < rest-time.Second {
				t.Errorf("tried again after %s, though asked for %s", waited, rest)
			}
		})
	}
}

func statusAfter(w *world) string {
	if w.sim.Partitions()[0].DPM {
		return "stopped"
	}
	return "not-operating"
}

// configWith is the configuration with one more sink.
func configWith(t *testing.T, w *world, sink string) string {
	t.Helper()
	text, err := readFile(filepath.Join(w.daemon.Dir, "hmcnotifyd.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return text + sink
}

// The watchdog is fed while the clock is set, for the loops turn.
func TestWatchdogIsFedWhenTheClockIsSet(t *testing.T) {
	t.Parallel()
	for _, by := range sets {
		t.Run(by.String(), func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "n")
			socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = socket.Close() })
			w := start(t, "", "NOTIFY_SOCKET="+path, "WATCHDOG_USEC=2000000")
			fed := func(times int) {
				t.Helper()
				if err := socket.SetReadDeadline(time.Now().Add(within)); err != nil {
					t.Fatal(err)
				}
				buf := make([]byte, 4096)
				for n := 0; n < times; {
					size, err := socket.Read(buf)
					if err != nil {
						t.Fatal(err)
					}
					if strings.Contains(string(buf[:size]), "WATCHDOG=1") {
						n++
					}
				}
			}
			fed(1)
			w.clock.Set(t, by)
			fed(3)
			if out := w.daemon.Process.Output(); strings.Contains(out, "the watchdog is not fed") {
				t.Error("the watchdog was not fed")
			}
		})
	}
}

func readFile(path string) (string, error) {
	data, err := os.ReadFile(path)
	return string(data), err
}
