//go:build real

package otlp_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/daemon"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/program"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"))
}

const (
	within = 5 * time.Minute
	// buildTime is for the collector, which is large.
	buildTime = 10 * time.Minute
)

// startCollector starts the receiver of a real OpenTelemetry Collector.
func startCollector(t *testing.T, port int, args ...string) *program.Process {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "collector")
	build := exec.CommandContext(t.Context(), program.Look(t, "go", "golang-go"), "build", "-o", binary, ".")
	build.Dir = filepath.Join(daemon.Root(t), "tests", "real", "otlp", "collector")
	if text, status := program.OutputOf(t, buildTime, build); status != 0 {
		t.Fatalf("go build: exit status %d\n%s", status, text)
	}
	p := program.Start(t, program.Options{
		Name: "collector", Path: binary, Args: append([]string{fmt.Sprintf("-listen=127.0.0.1:%d", port)}, args...),
	})
	p.AwaitOutput(t, "listening\n", within)
	return p
}

// attribute is one of a record or resource in OTLP's JSON.
type attribute struct {
	Key   string
	Value struct{ StringValue, IntValue string }
}

type attributes []attribute

func (a attributes) text(key string) string {
	for _, one := range a {
		if one.Key == key {
			return one.Value.StringValue
		}
	}
	return ""
}

// record is a log record with the attributes of its resource.
type record struct {
	TimeUnixNano, ObservedTimeUnixNano string
	SeverityNumber                     int
	SeverityText, EventName            string
	Body                               struct{ StringValue string }
	Attributes                         attributes
	resource                           attributes
}

// received are the records that the collector has printed, by their uid; of one that came more than once the last.
func received(t *testing.T, collector *program.Process) (all map[string]record, total int) {
	t.Helper()
	all = make(map[string]record)
	lines := bufio.NewScanner(strings.NewReader(collector.Output()))
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		if !strings.HasPrefix(lines.Text(), "{") {
			continue
		}
		var request struct {
			ResourceLogs []struct {
				Resource  struct{ Attributes attributes }
				ScopeLogs []struct{ LogRecords []record }
			}
		}
		if err := json.Unmarshal(lines.Bytes(), &request); err != nil {
			continue // a line that is being written
		}
		for _, r := range request.ResourceLogs {
			for _, s := range r.ScopeLogs {
				for _, l := range s.LogRecords {
					l.resource = r.Resource.Attributes
					all[l.Attributes.text("log.record.uid")] = l
					total++
				}
			}
		}
	}
	return all, total
}

// What a daemon sends arrives in a real collector, whole, once, and with what the collector makes of its fields; one that is
// busy first costs nothing, and what it refuses for good is one dead letter.
func TestCollector(t *testing.T) {
	port := program.FreePort(t)
	collector := startCollector(t, port, "-busy=2", "-refuse=hmcnotifyd.inventory-change")
	sim, err := hmcsim.Start(hmcsim.Options{CPCs: 1, Partitions: 4})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sim.Close() })
	d := daemon.Start(t, daemon.Options{
		Config: fmt.Sprintf(`hmcs:
- {name: east, hosts: [%q], rest_port: %d, stomp_port: %d, userid: %s, password_file: password, tls: {ca_file: ca.pem}, rest_requests_per_minute: 10000, labels: {site: DC1}}
sinks:
- {name: collector, otlp: {url: "http://127.0.0.1:%d/v1/logs"}, drop: [{type: "bridge-.*"}], retry: {initial: 10ms, max: 100ms}}
- {name: all, log: {output: events.log}, drop: [{type: "bridge-.*"}]}
`, sim.Host(), sim.RESTPort(), sim.StompPort(), hmcsim.DefaultUserid, port),
		Files: map[string]string{"password": hmcsim.DefaultPassword + "\n", "ca.pem": string(sim.CACertPEM())},
	})
	d.AwaitReady(t, within)
	const changes = 300
	for i := range changes {
		name := "P" + strconv.Itoa(i%7)
		sim.Publish("object-notification", []hmcsim.Header{
			{Name: "notification-type", Value: "status-change"},
			{Name: "class", Value: "partition"},
			{Name: "name", Value: name},
			{Name: "object-uri", Value: "/api/partitions/" + name},
		}, fmt.Appendf(nil, `{"change-reports":[{"old-status":"active","new-status":"n%d \u00fc","has-unacceptable-status":true}]}`, i))
		if i == changes/2 {
			sim.Publish("object-notification", []hmcsim.Header{
				{Name: "notification-type", Value: "inventory-change"},
				{Name: "action", Value: "add"},
				{Name: "class", Value: "partition"},
				{Name: "object-uri", Value: "/api/partitions/new"},
			}, nil)
		}
	}
	program.Await(t, within, func() error {
		if all, _ := received(t, collector); len(all) != changes {
			return fmt.Errorf("%d of %d events have arrived", len(all), changes)
		}
		return nil
	})
	d.AwaitMetric(t, within, 0, "hmcnotifyd_sink_queue_events", "sink", "collector")
	all, total := received(t, collector)
	if total != changes {
		t.Errorf("%d events arrived, %d of them different", total, len(all))
	}
	if n := d.Metric(t, "hmcnotifyd_sink_events_total", "sink", "collector", "outcome", "dead_letter"); n != 1 {
		t.Errorf("%v dead letters", n)
	}
	events := 0
	for line := range strings.Lines(readFile(t, d, "events.log")) {
		var e struct {
			ID, Summary, Severity string
			Time, Received        time.Time
			Type                  string
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		if e.Type != "status-change" {
			continue
		}
		events++
		got, ok := all[e.ID]
		if !ok {
			t.Errorf("event %s has not arrived", e.ID)
			continue
		}
		if original := got.Attributes.text("log.record.original"); original+"\n" != line {
			t.Errorf("the event\n%sarrived as\n%s", line, original)
		}
		// It is received at a time that JSON has without its microseconds.
		observed, err := strconv.ParseInt(got.ObservedTimeUnixNano, 10, 64)
		if got.TimeUnixNano != strconv.FormatInt(e.Time.UnixNano(), 10) || err != nil || time.Unix(0, observed).UnixMilli() != e.Received.UnixMilli() ||
			got.Body.StringValue != e.Summary || got.EventName != "hmcnotifyd.status-change" || got.SeverityText != e.Severity ||
			got.SeverityNumber != map[string]int{"info": 9, "warning": 13, "critical": 17}[e.Severity] {
			t.Fatalf("%s arrived as %+v", line, got)
		}
		if got.Attributes.text("hmcnotifyd.label.site") != "DC1" || got.resource.text("hmc") != "east" || got.resource.text("service.name") != "hmcnotifyd" {
			t.Fatalf("%+v of %+v", got.Attributes, got.resource)
		}
	}
	if events != changes {
		t.Errorf("%d events in the file", events)
	}
	if text, status := daemon.Run(t, within, "send-test", "--sink=collector", "--url=http://"+d.Addr()); status != 0 || !strings.Contains(text, "delivered") {
		t.Errorf("send-test: %d, %s", status, text)
	}
	names := make(map[string]bool)
	all, _ = received(t, collector)
	for _, r := range all {
		names[r.EventName] = true
	}
	if got := slices.Sorted(maps.Keys(names)); !slices.Equal(got, []string{"hmcnotifyd.bridge-test", "hmcnotifyd.status-change"}) {
		t.Errorf("event names %v", got)
	}

	// At another path there is nothing: the sink is paused.
	d.WriteConfig(t, strings.Replace(readFile(t, d, "hmcnotifyd.yaml"), "/v1/logs", "/v1/log", 1))
	if status, text := d.Reload(t); status != 200 {
		t.Fatalf("%d %s", status, text)
	}
	text, status := daemon.Run(t, within, "send-test", "--sink=collector", "--url=http://"+d.Addr())
	if status == 0 || !strings.Contains(text, "/v1/logs") {
		t.Errorf("send-test: %d, %s", status, text)
	}
}

func readFile(t *testing.T, d *daemon.Daemon, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(d.Dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
