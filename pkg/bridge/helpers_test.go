// Half of a handshake is ML-KEM, which HMCs do not have.
//go:debug tlsmlkem=0
//go:debug tlssecpmlkem=0

package bridge

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/record"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/translate"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/watch"
	"github.com/hmcnotifyd/hmcnotifyd/tests/output"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

const (
	// within is how long a test waits for something that takes milliseconds on a machine with nothing else to do.
	within = 5 * time.Minute
	// testDrainTimeout is what a daemon has at its end on a machine with much else to do.
	testDrainTimeout = 4 * time.Minute
)

// testTiming waits for nothing that a test would have to sit out.
func testTiming() watch.Intervals {
	return watch.Intervals{
		AuthHold: time.Hour, Files: 5 * time.Millisecond, StableAfter: time.Hour, Ping: time.Hour,
		ChannelSoon: 20 * time.Millisecond, ChannelMin: 20 * time.Millisecond, ChannelMax: 200 * time.Millisecond, ChannelRest: 2 * time.Second, Relist: 50 * time.Millisecond,
		Recording: record.Timing{Tick: 10 * time.Millisecond, Settle: 200 * time.Millisecond, SeenEvery: 100 * time.Millisecond},
		Hardware:  100 * time.Millisecond,
	}
}

// quickStomp makes reconnects fast, and gives a busy machine time for everything else. A silentStomp finds out soon that the
// other side does nothing.
const (
	quickStomp  = "{connect_timeout: 1m, reconnect_sleep_initial: 10ms, reconnect_sleep_max: 50ms, heartbeat_send_cycle: 30s, heartbeat_receive_cycle: 30s}"
	silentStomp = "{connect_timeout: 5s, reconnect_sleep_initial: 10ms, reconnect_sleep_max: 50ms, heartbeat_send_cycle: 1s, heartbeat_receive_cycle: 1s}"
)

// daemon is a running Bridge and everything a test looks at.
type daemon struct {
	t        *testing.T
	bridge   *Bridge
	registry *prometheus.Registry
	dir      string
	logs     *output.Buffer
	consumer *consumer
	timing   watch.Intervals
	stdout   io.Writer // of log sinks; nil: none
	wrap     func(queue.Store) queue.Store
	// elsewhere, which may be nil, is where the next start keeps its events.
	elsewhere *Elsewhere
	buffers   int
	panicAt   atomic.Pointer[string]
	cancel    context.CancelFunc
	done      chan error
	// known has what was read of the files of log sinks, which tests look at again and again.
	known map[string]knownEvents
}

type knownEvents struct {
	size   int64
	events []*event.Event
}

// load writes a configuration into dir and reads it as the daemon does.
func load(t *testing.T, dir, text string) *config.Config {
	t.Helper()
	path := filepath.Join(dir, "hmcnotifyd.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// startDaemon runs a Bridge with the given hmcs section, a webhook consumer as sink "hook" and a file as sink "file", which get
// what the HMCs send, and a file as sink "all", which gets the events about the daemon's own sight too.
func startDaemon(t *testing.T, hmcs string) *daemon {
	t.Helper()
	d := &daemon{t: t, dir: t.TempDir(), consumer: newConsumer(t), timing: testTiming()}
	d.start(d.config(hmcs))
	return d
}

func (d *daemon) config(hmcs string) *config.Config {
	return load(d.t, d.dir, "hmcs:\n"+hmcs+fmt.Sprintf(`
sinks:
  - {name: hook, webhook: {url: %q}, retry: {initial: 10ms, max: 50ms}, drop: [{type: ["bridge-.*"]}]}
  - {name: file, log: {output: events.log}, drop: [{type: ["bridge-.*"]}]}
  - {name: all, log: {output: all.log}}
`, d.consumer.url()))
}

func (d *daemon) start(cfg *config.Config) {
	d.t.Helper()
	d.registry, d.logs = prometheus.NewRegistry(), new(output.Buffer)
	core := zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.AddSync(d.logs), zap.DebugLevel)
	b, err := New(Options{
		Config: cfg, StoragePath: filepath.Join(d.dir, "data"), Logger: zap.New(core, zap.Hooks(d.maybePanic)), Registerer: d.registry, Version: "test",
		Stdout: cmp.Or(d.stdout, io.Discard), Stderr: io.Discard, Intervals: d.timing, DrainTimeout: testDrainTimeout, WrapStore: d.wrap, Elsewhere: d.elsewhere,
		Buffers: cmp.Or(d.buffers, 8<<20), // tests fill them up
	})
	if err != nil {
		d.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(d.t.Context()))
	d.bridge, d.cancel, d.done = b, cancel, make(chan error, 1)
	go func() { d.done <- b.Run(ctx) }()
	d.t.Cleanup(func() {
		d.stop()
		if d.t.Failed() {
			d.t.Logf("the daemon's log:\n%s", d.logs)
		}
	})
}

// panicOn makes the next log line with this message panic in the goroutine that writes it.
func (d *daemon) panicOn(message string) { d.panicAt.Store(&message) }

func (d *daemon) maybePanic(e zapcore.Entry) error {
	if at := d.panicAt.Load(); at != nil && *at == e.Message && d.panicAt.CompareAndSwap(at, nil) {
		panic("panic of a test")
	}
	return nil
}

// stop ends the daemon in good order. Calling it again does nothing.
func (d *daemon) stop() {
	d.t.Helper()
	if d.cancel == nil {
		return
	}
	d.cancel()
	d.cancel = nil
	select {
	case err := <-d.done:
		if err != nil {
			d.t.Errorf("Run: %v", err)
		}
	case <-time.After(within):
		d.t.Fatal("Run does not end")
	}
}

// hmcYAML is the configuration of a simulated HMC; extra are further keys, one per line.
func hmcYAML(t *testing.T, name string, sim *hmcsim.HMC, extra ...string) string {
	t.Helper()
	ca := filepath.Join(t.TempDir(), name+".pem")
	if err := os.WriteFile(ca, sim.CACertPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("  - name: %s\n    hosts: [%q]\n    rest_port: %d\n    stomp_port: %d\n    tls: {ca_file: %q}\n    stomp: %s\n    rest_requests_per_minute: 10000\n",
		name, sim.Host(), sim.RESTPort(), sim.StompPort(), ca, quickStomp)
	all := strings.Join(extra, "\n")
	if !strings.Contains(all, "userid:") && !strings.Contains(all, "session:") {
		text += fmt.Sprintf("    userid: %s\n    password: %s\n", hmcsim.DefaultUserid, hmcsim.DefaultPassword)
	}
	for _, e := range extra {
		text += "    " + e + "\n"
	}
	return text
}

// eventually polls: everything else here would be a guess about time. What takes long to look at is looked at less often: the
// daemon needs the time more.
func (d *daemon) eventually(what string, ok func() bool) {
	d.t.Helper()
	for end := time.Now().Add(within); ; {
		start := time.Now()
		if ok() {
			return
		}
		if time.Now().After(end) {
			d.t.Fatalf("%s: not within %s; status: %s", what, within, d.statusText())
		}
		// What takes long leaves the processor to others; one that waits itself is asked again soon.
		time.Sleep(min(max(5*time.Millisecond, 10*time.Since(start)), 500*time.Millisecond))
	}
}

func (d *daemon) statusText() string {
	data, err := json.MarshalIndent(d.bridge.Status(), "", " ")
	if err != nil {
		d.t.Fatal(err)
	}
	return string(data)
}

func (d *daemon) hmc(name string) status.HMCStatus {
	for _, h := range d.bridge.Status().HMCs {
		if h.Name == name {
			return h
		}
	}
	return status.HMCStatus{}
}

func (d *daemon) connected(name string) {
	d.t.Helper()
	d.eventually(name+" connected", func() bool { return d.hmc(name).Connected })
}

// metric returns the value of one series, for example `hmcnotifyd_receiver_connected{hmc="a"}`.
func (d *daemon) metric(series string) float64 {
	d.t.Helper()
	value, ok := d.series(series)
	if !ok {
		d.t.Fatalf("no series %s", series)
	}
	return value
}

func (d *daemon) has(series string) bool {
	d.t.Helper()
	_, ok := d.series(series)
	return ok
}

func (d *daemon) series(series string) (value float64, ok bool) {
	d.t.Helper()
	families, err := d.registry.Gather()
	if err != nil {
		d.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			name := f.GetName()
			if len(labels) > 0 {
				name += "{" + strings.Join(labels, ",") + "}"
			}
			if name != series {
				continue
			}
			switch {
			case m.GetCounter() != nil:
				return m.GetCounter().GetValue(), true
			case m.GetGauge() != nil:
				return m.GetGauge().GetValue(), true
			case m.GetHistogram() != nil:
				return float64(m.GetHistogram().GetSampleCount()), true
			}
		}
	}
	return 0, false
}

// lint says what promtool would.
func (d *daemon) lint() {
	d.t.Helper()
	problems, err := testutil.GatherAndLint(d.registry)
	if err != nil {
		d.t.Fatal(err)
	}
	for _, p := range problems {
		d.t.Errorf("metric %s: %s", p.Metric, p.Text)
	}
}

// fileEvents are the events of HMCs that a log sink has written.
func (d *daemon) fileEvents() []*event.Event {
	d.t.Helper()
	return d.eventsIn("events.log")
}

// eventsIn are the events that the log sink with this file has written.
func (d *daemon) eventsIn(file string) []*event.Event {
	d.t.Helper()
	f, err := os.Open(filepath.Join(d.dir, file))
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	known := d.known[file]
	if info, err := f.Stat(); err != nil || info.Size() < known.size {
		known = knownEvents{}
	}
	lines := bufio.NewReader(io.NewSectionReader(f, known.size, math.MaxInt64-known.size))
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			break // it is being written right now; who waits for it looks again
		}
		e := new(event.Event)
		if err := json.Unmarshal(line, e); err != nil {
			d.t.Fatalf("%v: %s", err, line)
		}
		known.size, known.events = known.size+int64(len(line)), append(known.events, e)
	}
	if d.known == nil {
		d.known = make(map[string]knownEvents)
	}
	d.known[file] = known
	return slices.Clone(known.events)
}

// publish sends a notification that names itself, on the object topic of every session.
func publish(sim *hmcsim.HMC, partition, mark string) int {
	return sim.Publish("object-notification", []hmcsim.Header{
		{Name: "notification-type", Value: "property-change"},
		{Name: "class", Value: "partition"},
		{Name: "name", Value: partition},
		{Name: "object-uri", Value: "/api/partitions/" + partition},
		{Name: "property-names", Value: " description "},
	}, fmt.Appendf(nil, `{"change-reports":[{"property-name":"description","old-value":null,"new-value":%q}]}`, mark))
}

// consumer is a webhook consumer that keeps what it gets and answers what it is told to.
type consumer struct {
	server *httptest.Server

	mu     sync.Mutex
	events []*event.Event
	answer func(r *http.Request, e *event.Event) int
}

func newConsumer(t *testing.T) *consumer {
	c := &consumer{answer: func(*http.Request, *event.Event) int { return http.StatusNoContent }}
	c.server = httptest.NewServer(c)
	t.Cleanup(c.server.Close)
	return c
}

func (c *consumer) url() string { return c.server.URL + "/hmc" }

func (c *consumer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e := new(event.Event)
	if err := json.NewDecoder(r.Body).Decode(e); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	answer := c.answer
	c.mu.Unlock()
	status := answer(r, e)
	if status/100 == 2 {
		c.mu.Lock()
		c.events = append(c.events, e)
		c.mu.Unlock()
	}
	w.WriteHeader(status)
}

func (c *consumer) set(answer func(r *http.Request, e *event.Event) int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answer = answer
}

// got returns the events that were accepted and are not the daemon's own.
func (c *consumer) got() []*event.Event {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []*event.Event
	for _, e := range c.events {
		if e.Origin != event.OriginBridge {
			out = append(out, e)
		}
	}
	return out
}

// marks are the texts that publish sent, in the order of their arrival, by partition.
func marks(events []*event.Event) map[string][]string {
	out := make(map[string][]string)
	for _, e := range events {
		for report := range event.Elements(event.Member(e.Body, "change-reports")) {
			if e.Type == event.TypePropertyChange && e.Resource != nil {
				out[e.Resource.Name] = append(out[e.Resource.Name], event.String(event.Member(report, "new-value")))
			}
		}
	}
	return out
}

// notificationOf is the notification that an event was made of.
func notificationOf(e *event.Event) *translate.Notification {
	n := &receiver.Notification{Topic: e.Topic, Body: e.Body, Received: time.Now()}
	for _, h := range e.Headers {
		n.Headers = append(n.Headers, receiver.Header{Name: h.Name, Value: h.Value})
	}
	parsed := new(translate.Notification)
	parsed.Parse(n, true)
	return parsed
}
