//go:build real

// Package stream_test runs the daemon with the sink nats against a real NATS server.
package stream_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/daemon"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	within    = 5 * time.Minute // for what takes moments on a machine with nothing else to do
	kills     = 10
	rate      = 1000 // notifications per second: a half of objects, a half of operating systems
	resources = 24
	password  = "p4ssw0rd-of-the-stream"
)

// startNATS starts a server with JetStream in files, and a stream for all events.
func startNATS(t *testing.T) (url string, stream jetstream.Stream) {
	t.Helper()
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true,
		JetStream: true, StoreDir: t.TempDir(), Username: "hmcnotifyd", Password: password,
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(within) {
		t.Fatal("the NATS server does not start")
	}
	addr, ok := s.Addr().(*net.TCPAddr)
	if !ok {
		t.Fatalf("%T", s.Addr())
	}
	url = fmt.Sprintf("nats://127.0.0.1:%d", addr.Port)
	nc, err := nats.Connect(url, nats.UserInfo("hmcnotifyd", password))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err = js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: "HMC", Subjects: []string{"hmc.>"}, Storage: jetstream.FileStorage, Duplicates: time.Hour,
	})
	if err != nil {
		t.Fatal(err)
	}
	return url, stream
}

// load publishes property changes, each with a number, and messages of operating systems.
type load struct {
	sim        *hmcsim.HMC
	partitions []hmcsim.PartitionInfo

	mu    sync.Mutex
	next  int
	texts []int // so far, by partition
}

func (l *load) publish(t *testing.T, i int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i%2 == 0 {
		p := i / 2 % len(l.partitions)
		l.texts[p]++
		if _, err := l.sim.OSMessages(l.partitions[p].ID, fmt.Sprintf("text %d", l.texts[p])); err != nil {
			t.Error(err)
		}
		return
	}
	l.next++
	name := fmt.Sprintf("R%d", l.next%resources)
	l.sim.Publish("object", []hmcsim.Header{
		{Name: "notification-type", Value: "property-change"},
		{Name: "class", Value: "partition"},
		{Name: "name", Value: name},
		{Name: "object-uri", Value: "/api/partitions/" + name},
		{Name: "property-names", Value: " description "},
	}, fmt.Appendf(nil, `{"change-reports":[{"property-name":"description","old-value":null,"new-value":"%d"}]}`, l.next))
}

// kept is what the test looks at of an event.
type kept struct {
	ID, Type string
	Resource struct{ Name string }
	Body     struct {
		Text    string `json:"message-text"`
		Changes []struct {
			New string `json:"new-value"`
		} `json:"change-reports"`
	}
}

// TestKilled kills the daemon with SIGKILL again and again while notifications come in. At the end the stream holds each
// event once, whatever the daemon sent again after its starts: all that was stored, which a log sink tells, and all
// messages of operating systems, which the HMC held all the time. What is in the stream is in order for each resource.
func TestKilled(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	url, stream := startNATS(t)
	sim := hmctest.Start(t, hmcsim.Options{Name: "east", Partitions: 4, OSMessages: 10_000})
	l := &load{sim: sim, partitions: sim.Partitions()}
	l.texts = make([]int, len(l.partitions))
	for _, p := range l.partitions {
		status := "operating"
		if p.DPM {
			status = "active"
		}
		if err := sim.SetPartitionStatus(p.ID, status); err != nil {
			t.Fatal(err)
		}
	}
	d := daemon.Start(t, daemon.Options{
		Files: map[string]string{"ca.pem": string(sim.CACertPEM()), "nats.password": password + "\n"},
		Config: fmt.Sprintf(`hmcs:
- {name: east, hosts: [%q], rest_port: %d, stomp_port: %d, userid: %s, password: %s, tls: {ca_file: ca.pem}, rest_requests_per_minute: 10000,
   topics: [object], os_messages: [{}], stomp: {reconnect_sleep_initial: 20ms, reconnect_sleep_max: 200ms}}
sinks:
- name: stream
  nats: {servers: [%q], stream: HMC, userid: hmcnotifyd, password_file: nats.password}
  retry: {initial: 10ms, max: 100ms}
- {name: file, log: {output: events.log}}
`, sim.Host(), sim.RESTPort(), sim.StompPort(), hmcsim.DefaultUserid, hmcsim.DefaultPassword, url),
	})
	stop := make(chan struct{})
	var loading sync.WaitGroup
	loading.Go(func() {
		start, tick := time.Now(), time.NewTicker(2*time.Millisecond)
		defer tick.Stop()
		for i := 0; ; {
			for due := int(time.Since(start).Seconds() * rate); i < due; i++ {
				l.publish(t, i)
			}
			select {
			case <-tick.C:
			case <-stop:
				return
			}
		}
	})
	endLoad := sync.OnceFunc(func() { close(stop); loading.Wait() })
	t.Cleanup(endLoad)

	delivered := func() float64 {
		n, err := daemon.Metric(d.Metrics(t), "hmcnotifyd_sink_events_total", "sink", "stream", "outcome", "delivered")
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	for range kills {
		d.Process.Await(t, within, func() error {
			if n := delivered(); n < 200 {
				return fmt.Errorf("%v events are delivered", n)
			}
			return nil
		})
		time.Sleep(time.Duration(random.Int64N(int64(300 * time.Millisecond)))) // at any moment
		d.Kill()
		d.Start(t)
	}
	endLoad()
	d.AwaitMetric(t, within, 1, "hmcnotifyd_receiver_connected")
	// The messages that came while nobody was there are fetched soon after the connection.
	d.Process.Await(t, within, func() error {
		if missing := l.missing(events(t, stream)); len(missing) > 0 {
			return fmt.Errorf("%d messages of operating systems are missing", len(missing))
		}
		return nil
	})
	d.AwaitMetric(t, within, 0, "hmcnotifyd_sink_queue_events")
	again := d.Metric(t, "hmcnotifyd_sink_events_total", "outcome", "dead_letter")
	d.Stop(t)
	if again != 0 {
		t.Errorf("%v dead letters", again)
	}

	all := events(t, stream)
	last := make(map[string]int)
	in := make(map[string]bool)
	for _, e := range all {
		if in[e.ID] {
			t.Errorf("%s is in the stream twice", e.ID)
		}
		in[e.ID] = true
		if e.Type == "property-change" {
			n, err := strconv.Atoi(e.Body.Changes[0].New)
			if err != nil {
				t.Fatal(err)
			}
			if n < last[e.Resource.Name] {
				t.Errorf("%s: %d comes after %d", e.Resource.Name, n, last[e.Resource.Name])
			}
			last[e.Resource.Name] = n
		}
	}
	text, err := os.ReadFile(filepath.Join(d.Dir, "events.log"))
	if err != nil {
		t.Fatal(err)
	}
	stored := make(map[string]bool)
	lines, halves := 0, 0
	for line := range bytes.Lines(text) {
		var e kept
		if err := json.Unmarshal(line, &e); err != nil {
			// A kill may leave half a line, whose event is written again.
			if halves++; halves > kills || bytes.HasSuffix(line, []byte("}\n")) {
				t.Errorf("%v: %.200s", err, line)
			}
			continue
		}
		lines++
		if !in[e.ID] {
			t.Errorf("missing in the stream: %.200s", line)
		}
		stored[e.ID] = true
	}
	if len(stored) != len(in) {
		t.Errorf("the stream holds %d events, the file %d", len(in), len(stored))
	}
	if missing := l.missing(all); len(missing) > 0 {
		t.Errorf("missing: %s", strings.Join(missing, ", "))
	}
	if strings.Contains(d.Process.Output(), password) {
		t.Error("the password is in the log")
	}
	t.Logf("%d events after %d kills; the file, which is at-least-once, has %d lines", len(all), kills, lines)
}

// missing lists the messages of operating systems that are not among the events.
func (l *load) missing(all []kept) []string {
	got := make(map[string]bool)
	for _, e := range all {
		if e.Type == "os-message" {
			got[e.Resource.Name+" "+e.Body.Text] = true
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	var missing []string
	for i, p := range l.partitions {
		for n := 1; n <= l.texts[i]; n++ {
			if text := fmt.Sprintf("%s text %d", p.Name, n); !got[text] {
				missing = append(missing, text)
			}
		}
	}
	return missing
}

// events reads the whole stream.
func events(t *testing.T, stream jetstream.Stream) []kept {
	t.Helper()
	info, err := stream.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	consumer, err := stream.OrderedConsumer(t.Context(), jetstream.OrderedConsumerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	var all []kept
	for uint64(len(all)) < info.State.Msgs {
		batch, err := consumer.Fetch(1000, jetstream.FetchMaxWait(time.Second))
		if err != nil {
			t.Fatal(err)
		}
		for m := range batch.Messages() {
			var e kept
			if err := json.Unmarshal(m.Data(), &e); err != nil {
				t.Fatalf("%v: %.200s", err, m.Data())
			}
			if id := m.Headers().Get(jetstream.MsgIDHeader); id != e.ID {
				t.Errorf("the message of %s has the id %s", e.ID, id)
			}
			all = append(all, e)
		}
		if err := batch.Error(); err != nil {
			t.Fatal(err)
		}
	}
	return all
}
