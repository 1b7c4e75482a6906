package ha

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/bridge"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/replay"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
	"github.com/hmcnotifyd/hmcnotifyd/tests/natscluster"
	"github.com/hmcnotifyd/hmcnotifyd/tests/output"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// within is how long a test waits for what takes moments.
const within = 2 * time.Minute

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(within); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within %s", what, within)
		}
	}
}

// consumer notes what webhooks bring. Requests wait while it holds them.
type consumer struct {
	mu       sync.Mutex
	open     chan struct{} // nil: at once
	refuse   string        // the mark whose request, where it was held, is answered with 503
	requests map[string]int
	got      map[string][]string // by path, the ids that were accepted
	marks    map[string][]string
}

func newConsumer() *consumer {
	return &consumer{requests: map[string]int{}, got: map[string][]string{}, marks: map[string][]string{}}
}

func (c *consumer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var e event.Event
	if err == nil {
		err = json.Unmarshal(body, &e)
	}
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	mark := markOf(&e)
	c.mu.Lock()
	c.requests[r.URL.Path]++
	open := c.open
	c.mu.Unlock()
	if open != nil && r.URL.Path == "/slow" {
		<-open
		if mark == c.refuse {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.got[r.URL.Path] = append(c.got[r.URL.Path], e.ID)
	c.marks[r.URL.Path] = append(c.marks[r.URL.Path], mark)
}

func (c *consumer) hold() (release func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open = make(chan struct{})
	return sync.OnceFunc(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		close(c.open)
		c.open = nil
	})
}

func (c *consumer) count(path string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.requests[path]
}

func (c *consumer) has(path, mark string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Contains(c.marks[path], mark)
}

func markOf(e *event.Event) string {
	var body struct {
		Reports []struct {
			New string `json:"new-value"`
		} `json:"change-reports"`
	}
	if json.Unmarshal(e.Body, &body) != nil || len(body.Reports) == 0 {
		return ""
	}
	return body.Reports[0].New
}

func publish(sim *hmcsim.HMC, i int) (mark string) {
	mark = "mark " + strconv.Itoa(i)
	describe(sim, i, mark)
	return mark
}

// describe tells of a new description of a partition.
func describe(sim *hmcsim.HMC, i int, text string) {
	parts := sim.Partitions()
	p := parts[i%len(parts)]
	sim.Publish(hmcsim.TopicObject, []hmcsim.Header{
		{Name: "notification-type", Value: "property-change"},
		{Name: "class", Value: p.Class},
		{Name: "name", Value: p.Name},
		{Name: "object-id", Value: p.ID},
		{Name: "object-uri", Value: p.URI},
		{Name: "property-names", Value: " description "},
	}, fmt.Appendf(nil, `{"change-reports":[{"property-name":"description","old-value":null,"new-value":%q}]}`, text))
}

// node is a Node that runs.
type node struct {
	*Node
	registry *prometheus.Registry
	logs     *output.Buffer
	stop     context.CancelFunc
	done     chan error
}

// start starts a daemon of its own machine.
func start(t *testing.T, text string, options ...zap.Option) *node {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "hmcnotifyd.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	n := &node{registry: prometheus.NewRegistry(), logs: new(output.Buffer), done: make(chan error, 1)}
	core := zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.AddSync(n.logs), zap.DebugLevel)
	n.Node, err = New(t.Context(), bridge.Options{
		Config: cfg, StoragePath: filepath.Join(dir, "data"), Logger: zap.New(core, options...), Version: "test", Stdout: io.Discard, Stderr: io.Discard,
	}, n.registry)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	n.stop = cancel
	ended := make(chan struct{})
	go func() { defer close(ended); n.done <- n.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-ended
		if t.Failed() {
			t.Logf("a daemon's log:\n%s", n.logs)
		}
	})
	return n
}

func (n *node) leads() bool {
	s := n.Status()
	return s.Role == status.RoleLeader && len(s.HMCs) == 1 && s.HMCs[0].Connected
}

func (n *node) standsBy() bool {
	s := n.Status()
	return s.Role == status.RoleStandby && s.Ready && s.Leader != ""
}

// pair is a simulated HMC and a configuration for two daemons.
func pair(t *testing.T, c *consumer, sinks string) (sim *hmcsim.HMC, text string) {
	t.Helper()
	return pairOn(t, natscluster.Single(t), c, sinks)
}

// pairOn is pair with a server that there is.
func pairOn(t *testing.T, url string, c *consumer, sinks string) (sim *hmcsim.HMC, text string) {
	t.Helper()
	sim = hmctest.Start(t, hmcsim.Options{Name: "east", CPCs: 1, Partitions: 4})
	server := httptest.NewServer(c)
	t.Cleanup(server.Close)
	var out bytes.Buffer
	fmt.Fprintf(&out, "hmcs:\n%s", hmctest.Entry(t, sim, ""))
	fmt.Fprintf(&out, "sinks:\n"+sinks, server.URL)
	fmt.Fprintf(&out, "storage: {retain: 1h, jetstream: {urls: [%q], name: x, replicas: 1}}\nha: {lease_ttl: 5s}\n", url)
	return sim, out.String()
}

const slowAndFast = `
- {name: slow, webhook: {url: "%[1]s/slow"}, retry: {initial: 10ms, max: 50ms}, match: [{type: [property-change]}]}
- {name: fast, webhook: {url: "%[1]s/fast"}, retry: {initial: 10ms, max: 50ms}, match: [{type: [property-change]}]}
`

// A leader that ends in order waits for no sink: the next one has its links, stores and delivers while requests of the first are
// on their way still. To their sink it brings nothing until it knows what has become of them, and what was
// accepted, in whatever order, not once more.
func TestOrderlySwitch(t *testing.T) {
	c := newConsumer()
	sim, text := pair(t, c, slowAndFast)
	first := start(t, text)
	eventually(t, "one leads", first.leads)
	second := start(t, text)
	eventually(t, "the other stands by", second.standsBy)

	release := c.hold()
	defer release()
	var marks []string
	for i := range 12 {
		marks = append(marks, publish(sim, i))
	}
	c.refuse = marks[0] // so that what is accepted is behind what is not
	eventually(t, "four are on their way", func() bool { return c.count("/slow") == 4 })
	eventually(t, "the fast sink has all", func() bool { return c.has("/fast", marks[11]) })
	first.stop()
	eventually(t, "the next one leads", second.leads)
	if n := sim.Sessions(); n != 1 {
		t.Errorf("%d sessions", n)
	}
	marks = append(marks, publish(sim, 12))
	eventually(t, "it delivers", func() bool { return c.has("/fast", marks[12]) })
	if n := c.count("/slow"); n != 4 {
		t.Errorf("%d requests to the slow sink while four are on their way", n)
	}
	select {
	case err := <-first.done:
		t.Errorf("the first has ended without knowing what has become of them: %v", err)
	default:
	}
	release()
	for _, mark := range marks {
		eventually(t, mark, func() bool { return c.has("/slow", mark) })
	}
	if err := <-first.done; err != nil {
		t.Errorf("the first: %v", err)
	}
	second.stop()
	if err := <-second.done; err != nil {
		t.Errorf("the second: %v", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for path, ids := range c.got {
		slices.Sort(ids)
		if n := len(ids); len(slices.Compact(ids)) != n || n != len(marks) {
			t.Errorf("%s: %d of %d events were accepted: %q", path, n, len(marks), c.marks[path])
		}
	}
	for _, n := range []*node{first, second} {
		if log := n.logs.String(); bytes.Contains([]byte(log), []byte(`"level":"error"`)) {
			t.Errorf("errors in an orderly switch:\n%s", log)
		}
	}
}

// A daemon that is ended at the moment when it leads has ended in order.
func TestEndedWhenItLeads(t *testing.T) {
	_, text := pair(t, newConsumer(), slowAndFast)
	stop := make(chan context.CancelFunc, 1)
	n := start(t, text, zap.Hooks(func(e zapcore.Entry) error {
		if e.Message == "this daemon leads now" {
			(<-stop)()
		}
		return nil
	}))
	stop <- n.stop
	if err := <-n.done; err != nil {
		t.Error(err)
	}
}

// A daemon that stands by shows the events of the log as they are stored, says that it is not the one that leads, and goes on where its readers
// were when it leads. What it could not lead with is refused before.
func TestStandby(t *testing.T) {
	c := newConsumer()
	sim, text := pair(t, c, slowAndFast)
	first := start(t, text)
	eventually(t, "one leads", first.leads)
	second := start(t, text)
	eventually(t, "the other stands by", second.standsBy)
	if _, err := second.Bridge(); !errors.Is(err, bridge.ErrStandby) {
		t.Errorf("what only a leader can do: %v", err)
	}
	var r *replay.LiveReader
	eventually(t, "the log can be read", func() (ok bool) {
		var err error
		r, err = second.Live()
		return err == nil
	})
	defer func() { r.Close() }()
	if _, err := r.Only(replay.LiveFilter{Last: 100}); err != nil {
		t.Fatal(err)
	}
	last := ""
	reads := func(typ, mark string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), within)
		defer cancel()
		for {
			events, lost, err := r.Next(ctx)
			if err != nil || lost > 0 {
				t.Fatalf("%s %s: %v, %d lost", typ, mark, err, lost)
			}
			for _, rec := range events {
				e, err := rec.Event()
				if err != nil {
					t.Fatal(err)
				}
				if last = e.ID; e.Type == typ && (mark == "" || markOf(e) == mark) {
					return
				}
			}
		}
	}
	reads(event.TypeBridgeConnected, "")
	reads(event.TypePropertyChange, publish(sim, 1))

	cfg := *second.config()
	cfg.Sinks = append(slices.Clone(cfg.Sinks), config.Sink{Name: "file", Log: &config.Log{Output: filepath.Join(t.TempDir(), "missing", "x.log")}})
	if err := second.Reload(&cfg); err == nil || !strings.Contains(err.Error(), "sink file: ") {
		t.Errorf("a reload with a sink that cannot be had: %v", err)
	}

	first.stop()
	if err := <-first.done; err != nil {
		t.Error(err)
	}
	eventually(t, "it leads", second.leads)
	for {
		events, _, err := r.Next(t.Context())
		if errors.Is(err, errLeads) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		for i := range events {
			last = events[i].ID
		}
	}
	mark := publish(sim, 2)
	r.Close()
	var err error
	if r, err = second.Live(); err != nil {
		t.Fatal(err)
	}
	if known, err := r.Only(replay.LiveFilter{After: last}); err != nil || !known {
		t.Errorf("behind the last event: %v, %v", known, err)
	}
	reads(event.TypePropertyChange, mark)
}

// A connected standby has a session and a link of its own, of which status and metrics tell, and logs off when it ends. What the HMC says
// between two leaders is told by the second one, once, and the gap says what that one has heard.
func TestConnectedStandby(t *testing.T) {
	c := newConsumer()
	sim, text := pair(t, c, slowAndFast+`- {name: gaps, webhook: {url: "%[1]s/gaps"}, match: [{type: [bridge-gap]}]}
`)
	text = strings.Replace(text, "lease_ttl: 5s", "lease_ttl: 5s, standby: connected", 1)
	first := start(t, text)
	eventually(t, "one leads", first.leads)
	second := start(t, text)
	hears := func(n *node) func() bool {
		return func() bool {
			s := n.Status()
			return n.standsBy() && len(s.HMCs) == 1 && s.HMCs[0].Connected
		}
	}
	eventually(t, "the other hears", hears(second))
	if n := sim.Sessions(); n != 2 {
		t.Errorf("%d sessions", n)
	}
	if text := gathered(t, second.registry); !strings.Contains(text, `hmcnotifyd_receiver_connected{hmc="east"} 1`) || !strings.Contains(text, "hmcnotifyd_leader 0") {
		t.Errorf("metrics of a connected standby:\n%s", text)
	}
	var marks []string
	say := func() {
		marks = append(marks, publish(sim, len(marks)))
	}
	for range 10 {
		say()
	}
	eventually(t, "they are delivered", func() bool { return c.has("/fast", marks[9]) })

	// What is said between the log-off of one and the time when the other one leads has nobody but that one heard.
	release := c.hold()
	first.stop()
	for sim.Sessions() == 2 {
		say()
		time.Sleep(time.Millisecond)
	}
	for range 10 {
		say()
	}
	eventually(t, "the next one leads", second.leads)
	for range 10 {
		say()
	}
	release()
	for _, mark := range marks {
		eventually(t, mark, func() bool { return c.has("/fast", mark) && c.has("/slow", mark) })
	}
	if err := <-first.done; err != nil {
		t.Error(err)
	}
	eventually(t, "a gap tells of the change", func() bool { return c.count("/gaps") > 0 })
	if n := sim.Sessions(); n != 1 {
		t.Errorf("%d sessions of one daemon", n)
	}

	third := start(t, text)
	eventually(t, "a third hears", hears(third))
	if err := third.Reload(third.config()); err != nil || !hears(third)() {
		t.Errorf("a reload that changes nothing: %v", err)
	}
	third.stop()
	if err := <-third.done; err != nil {
		t.Error(err)
	}
	if n := sim.Sessions(); n != 1 {
		t.Errorf("%d sessions when the standby has ended", n)
	}
	second.stop()
	if err := <-second.done; err != nil {
		t.Error(err)
	}
	if n := sim.Sessions(); n != 0 {
		t.Errorf("%d sessions at the end", n)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, path := range []string{"/fast", "/slow"} {
		got := slices.Clone(c.marks[path])
		slices.Sort(got)
		if n := len(got); n != len(marks) || len(slices.Compact(got)) != n {
			t.Errorf("%s: %d of %d were accepted: %q", path, n, len(marks), c.marks[path])
		}
	}
}

// gathered are metrics as text.
func gathered(t *testing.T, registry *prometheus.Registry) string {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(&out, f); err != nil {
			t.Fatal(err)
		}
	}
	return out.String()
}

// Of two HMCs that see the same machines each says what happens. A connected standby hears both, and what the leader has stored as one event it
// does not tell once more, whoever of the two the leader has it from.
func TestConnectedStandbyOfAGroup(t *testing.T) {
	c := newConsumer()
	url := natscluster.Single(t)
	east := hmctest.Start(t, hmcsim.Options{Name: "east", CPCs: 2, Partitions: 60})
	west := hmctest.Start(t, hmcsim.Options{Name: "west", EstateOf: east})
	server := httptest.NewServer(c)
	t.Cleanup(server.Close)
	text := fmt.Sprintf("hmcs:\n%s%ssinks: [{name: fast, webhook: {url: %q}, match: [{type: [status-change]}], drop: [{repeat: true}]}]\n"+
		"storage: {jetstream: {urls: [%q], name: x, replicas: 1}}\nha: {lease_ttl: 5s, standby: connected}\n",
		hmctest.Entry(t, east, ", group: room"), hmctest.Entry(t, west, ", group: room"), server.URL+"/fast", url)
	connected := func(n *node, role string) func() bool {
		return func() bool {
			s := n.Status()
			return s.Role == role && len(s.HMCs) == 2 && s.HMCs[0].Connected && s.HMCs[1].Connected && s.Ready
		}
	}
	first := start(t, text)
	eventually(t, "one leads", connected(first, status.RoleLeader))
	second := start(t, text)
	eventually(t, "the other hears both", connected(second, status.RoleStandby))
	parts := east.Partitions()
	n := 0
	change := func() {
		p := parts[n]
		to := "stopped"
		if !p.DPM {
			to = "not-operating"
		}
		if p.Status == to {
			to = map[bool]string{true: "active", false: "operating"}[p.DPM]
		}
		if err := east.SetPartitionStatus(p.ID, to); err != nil {
			t.Fatal(err)
		}
		n++
	}
	for n < 20 {
		change()
	}
	eventually(t, "they are delivered", func() bool { return c.count("/fast") >= 20 })
	first.stop()
	for east.Sessions()+west.Sessions() > 2 && n < 40 {
		change()
	}
	eventually(t, "the next one leads", connected(second, status.RoleLeader))
	for n < 50 {
		change()
	}
	eventually(t, "all are delivered", func() bool { return c.count("/fast") >= n })
	if err := <-first.done; err != nil {
		t.Error(err)
	}
	second.stop()
	if err := <-second.done; err != nil {
		t.Error(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	ids := slices.Clone(c.got["/fast"])
	slices.Sort(ids)
	if got := len(slices.Compact(ids)); got != n || len(c.got["/fast"]) != n {
		t.Errorf("%d changes were told as %d events in %d requests", n, got, len(c.got["/fast"]))
	}
}
