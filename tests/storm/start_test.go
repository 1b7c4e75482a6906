//go:build real

package storm_test

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/daemon"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/program"
	"github.com/hmcnotifyd/hmcnotifyd/tests/soak"
)

const (
	// What is promised of a start with 1,000,000 events that wait.
	startLimit, startMemory = 2 * time.Second, 150
	// noise is how much longer it may take on a machine that does other things too, until the test fails.
	noise = 5
)

// storedEvent is an event that was stored; number is what change would have published, behind what.
func storedEvent(number int, at time.Time, what string) *event.Event {
	seq := int64(number)
	uri := fmt.Sprintf("/api/partitions/e12121da-c503-3117-8e79-c46bd35%05x", number%500)
	return &event.Event{
		ID: event.NewID(fmt.Sprint(number)), HMC: "east", Type: event.TypePropertyChange, Time: at, Received: at,
		Topic: "hmcuser.100", TopicType: event.TopicObject, SessionSequenceNr: &seq, GlobalSequenceNr: &seq, Origin: event.OriginLive,
		Resource: &event.Resource{Class: "partition", Name: fmt.Sprintf("R%d", number%500), ObjectURI: uri, CPC: "CPC1"},
		Summary:  "partition: description: a -> b", Severity: event.SeverityInfo,
		Headers: event.Headers{{Name: "notification-type", Value: event.TypePropertyChange}, {Name: "class", Value: "partition"}, {Name: "object-uri", Value: uri}},
		Body:    fmt.Appendf(nil, `{"change-reports":[{"property-name":"description","old-value":null,"new-value":"%s%d"}]}`, what, number),
	}
}

// fillStore makes a store in which n events wait for a sink, and ids were seen before.
func fillStore(t testing.TB, dir, sink string, n int) {
	t.Helper()
	q, err := queue.Open(queue.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := q.Cursor(sink); err != nil {
		t.Fatal(err)
	}
	const batch = 1000
	now := time.Now()
	var buf []byte
	for i := 0; i < n; i += batch {
		var b queue.Batch
		buf = buf[:0]
		var ends []int
		for j := i; j < min(i+batch, n); j++ {
			buf = event.AppendRecord(buf, storedEvent(j, now, ""))
			ends = append(ends, len(buf))
		}
		start := 0
		for k, end := range ends {
			b.Records = append(b.Records, buf[start:end])
			id := event.IDOf(fmt.Sprint(i + k))
			b.State = append(b.State, queue.KeyValue{Key: "other/" + string(id[:]), Value: []byte("12345678")})
			start = end
		}
		if i+batch < n-100_000 {
			b.State = nil // a state of 100,000 keys is what the daemon keeps
		}
		if err := q.Append(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestStart starts the daemon on a store in which 1,000,000 events wait for a sink that is down. It prints how long that
// takes, and how much memory.
func TestStart(t *testing.T) {
	const waiting = 1_000_000
	rounds := soak.Count(t, "STARTS", 2, 5)
	sim := hmctest.Start(t, hmcsim.Options{Name: "east", Partitions: 2})
	dir, data := t.TempDir(), filepath.Join(t.TempDir(), "data")
	fillStore(t, data, "dead", waiting)
	dead := fmt.Sprintf("http://127.0.0.1:%d/", program.FreePort(t))
	addr := fmt.Sprintf("127.0.0.1:%d", program.FreePort(t))
	write(t, filepath.Join(dir, "hmcnotifyd.yaml"), "hmcs:\n"+hmctest.Entry(t, sim, "")+fmt.Sprintf("sinks:\n- {name: dead, webhook: {url: %q}, drop: [{type: bridge-.*}], retry: {initial: 100ms, max: 200ms}}\n", dead))
	get := func(path string) (string, error) {
		resp, err := http.Get("http://" + addr + path) //nolint:noctx // it answers or is refused
		if err != nil {
			return "", err
		}
		return readAll(resp)
	}
	var healthy, counted []time.Duration
	var memory float64
	for round := range rounds {
		start := time.Now()
		p := program.Start(t, program.Options{Name: "hmcnotifyd", Path: daemon.Binary(t), Dir: dir, Args: []string{
			"--config.file=hmcnotifyd.yaml", "--storage.path=" + data, "--web.listen-address=" + addr,
		}})
		p.Await(t, within, func() error { _, err := get("/-/healthy"); return err })
		healthy = append(healthy, time.Since(start))
		p.Await(t, within, func() error {
			body, err := get("/metrics")
			if err != nil {
				return err
			}
			if n, err := daemon.Metric(body, "hmcnotifyd_sink_queue_events", "sink", "dead"); err != nil || n < waiting {
				return fmt.Errorf("%v events wait, %w", n, err)
			}
			return nil
		})
		counted = append(counted, time.Since(start))
		// The sink has tried, so that the delivery has read as far as it does.
		p.Await(t, within, func() error {
			body, err := get("/metrics")
			if err != nil {
				return err
			}
			if n, err := daemon.Metric(body, "hmcnotifyd_sink_attempts_total", "outcome", "retry"); err != nil || n < 80 {
				return fmt.Errorf("%v attempts, %w", n, err)
			}
			return nil
		})
		_, peak := resident(t, p.PID())
		memory = max(memory, peak)
		if strings.Contains(p.Output(), "damaged") {
			t.Errorf("damage where there is none:\n%s", p.Output())
		}
		if round%2 == 0 { // what comes next is the start after a crash
			p.Kill()
		} else if status := p.Terminate(t, daemon.StopTimeout); status != 0 {
			t.Errorf("exit status %d after SIGTERM", status)
		}
		http.DefaultClient.CloseIdleConnections()
	}
	t.Logf("%d events waiting: healthy after %v, counted in /metrics after %v (promised: %v), at most %.0f MiB resident (promised: %d)",
		waiting, healthy, counted, startLimit, memory, startMemory)
	if took := quantile(counted, 0); took > noise*startLimit {
		t.Errorf("the fastest start took %v", took)
	}
	if memory > startMemory {
		t.Errorf("%.0f MiB resident", memory)
	}
}
