//go:build real

package e2e_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/activemq"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/consumer"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/daemon"
	"github.com/hmcnotifyd/hmcnotifyd/tests/soak"
)

// TestBridge is the main job on real input: six HMCs with real brokers, each
// killed and started again two times, and 1,200 notifications that every sink
// has to get exactly once and in order. In full it is ten HMCs, five times, and
// 10,000.
func TestBridge(t *testing.T) {
	// With two brokers down in each step, each HMC is up in rounds*(hmcs/2-1)
	// steps: in each of them it publishes so many twice.
	const chunk = 25
	hmcs := soak.Count(t, "BRIDGED", 6, 10)
	rounds := soak.Count(t, "BROKERS", 2, 5) // kills of each broker
	start := time.Now()
	index := make([]int, hmcs)
	for i := range index {
		index[i] = i
	}
	consoles := make([]*console, hmcs)
	inParallel(t, index, func(tb testing.TB, i int) {
		consoles[i] = startConsole(tb, fmt.Sprintf("hmc%02d", i+1), consoleOptions{
			sim:    hmcsim.Options{Seed: uint64(i + 1), Partitions: 4},
			broker: activemq.Options{Approved: []string{"hmcuser.>"}},
			extra:  ", topics: [object, job, audit, security], os_messages: [{cpc: .*, partition: .*}], stomp: " + quickStomp,
		})
	})
	if t.Failed() {
		t.FailNow()
	}
	t.Logf("%v: %d brokers run", time.Since(start).Round(time.Second), hmcs)

	parallel, serial := consumer.Start(t), consumer.Start(t)
	config := "hmcs:\n"
	for _, c := range consoles {
		config += c.entry
	}
	d := daemon.Start(t, daemon.Options{Config: config + fmt.Sprintf(`sinks:
- {name: parallel, webhook: {url: %q}}
- {name: serial, webhook: {url: %q}, concurrency: 1}
- {name: file, log: {output: events.log}}
`, parallel.URL, serial.URL)})
	allUp := func(s status) error {
		for _, c := range consoles {
			if err := c.up(t, s); err != nil {
				return err
			}
		}
		return nil
	}
	await(t, d, allUp)
	d.AwaitReady(t, within)
	t.Logf("%v: connected", time.Since(start).Round(time.Second))

	for step := range rounds * hmcs / 2 {
		round, first := step/(hmcs/2), step%(hmcs/2)
		down := []*console{consoles[first], consoles[first+hmcs/2]}
		killAndRestart(t, d, consoles, down, round, chunk)
	}
	t.Logf("%v: %d brokers were killed and started again", time.Since(start).Round(time.Second), rounds*hmcs)

	published, events := 0, 0
	for _, c := range consoles {
		published += c.global
		events += len(c.expected)
	}
	if published != rounds*hmcs/2*(hmcs-2)*2*chunk {
		t.Errorf("%d notifications were published", published)
	}
	await(t, d, func(s status) error {
		for _, sink := range []string{"parallel", "serial", "file"} {
			if k := s.sink(sink); k.Delivered < events || k.QueueEvents > 0 {
				return fmt.Errorf("sink %s: %d of %d events delivered, %d wait", sink, k.Delivered, events, k.QueueEvents)
			}
		}
		return nil
	})
	await(t, d, allUp)
	d.AwaitReady(t, within)

	t.Run("delivery", func(t *testing.T) {
		file := readEvents(t, inDir(d, "events.log"))
		for _, c := range consoles {
			// In order per topic where there is one request at a time, else per
			// resource. Either order holds each event once.
			checkDelivered(t, c, "serial", serial.Events(consumer.HMC(c.name)), func(e expectation) string { return e.topic })
			checkDelivered(t, c, "file", filter(file, consumer.HMC(c.name)), func(e expectation) string { return e.topic })
			checkDelivered(t, c, "parallel", parallel.Events(consumer.HMC(c.name)), func(e expectation) string { return e.topic + " " + e.resource })
		}
	})
	t.Run("metrics", func(t *testing.T) { checkMetrics(t, d, consoles, rounds, events) })
	t.Run("log", func(t *testing.T) {
		lines := logLines(t, d)
		// A link that is lost and made again is a handful of lines, however
		// many attempts it takes, and an event is none. A listing that finds
		// something is one, and a slow machine needs more listings.
		links, listings := 0, 0
		for _, line := range slices.Concat(lines["info"], lines["warn"]) {
			if strings.Contains(line, "the estate is not as it was known") {
				listings++
			} else {
				links++
			}
		}
		if limit := hmcs*(rounds*4+2) + 10; links > limit {
			t.Errorf("%d lines of log for %d losses of %d links", links, rounds*hmcs, hmcs)
		}
		if listings > published/20 {
			t.Errorf("%d lines of log about listings for %d notifications", listings, published)
		}
		if len(lines["error"]) > 0 {
			t.Errorf("errors in the log:\n%s", strings.Join(lines["error"], ""))
		}
	})

	t.Logf("resident memory: %.0f MiB", d.Metric(t, "process_resident_memory_bytes")/(1<<20))
	end := time.Now()
	if status := d.Process.Terminate(t, 20*time.Second); status != 0 {
		t.Errorf("exit status %d after SIGTERM", status)
	}
	t.Logf("%v: ended within %v", time.Since(start).Round(time.Second), time.Since(end).Round(time.Millisecond))
	for _, c := range consoles {
		// The brokers' restarts are no reason for a new session.
		if c.sim.Sessions() != 0 || c.sim.Logons() != 1 || c.sim.Logoffs() != 1 {
			t.Errorf("%s: %d sessions are left after %d logons and %d logoffs", c.name, c.sim.Sessions(), c.sim.Logons(), c.sim.Logoffs())
		}
	}
}

// killAndRestart kills the brokers of some HMCs and starts them again, while
// the others publish: chunk notifications each while nothing of the killed
// ones is left, and chunk more while they start.
func killAndRestart(t *testing.T, d *daemon.Daemon, all, down []*console, round, chunk int) {
	t.Helper()
	before := getStatus(t, d)
	for _, c := range down {
		c.broker.Kill()
		c.publisher = nil
	}
	await(t, d, func(s status) error {
		for _, c := range down {
			if h := s.hmc(c.name); h.Connected {
				return fmt.Errorf("%s is still connected", h.Name)
			}
		}
		return nil
	})

	others := slices.DeleteFunc(slices.Clone(all), func(c *console) bool { return slices.Contains(down, c) })
	flow := func() {
		t.Helper()
		for _, c := range others {
			c.publish(t, chunk)
		}
		await(t, d, func(s status) error {
			for _, c := range others {
				if err := c.received(s); err != nil {
					return err
				}
			}
			return nil
		})
	}
	flow()
	code, body := d.Get(t, "/-/ready")
	var reasons []struct{ HMC string }
	if err := json.Unmarshal([]byte(body), &reasons); err != nil || code != http.StatusServiceUnavailable {
		t.Errorf("/-/ready while %s and %s are down: %d, %v: %s", down[0].name, down[1].name, code, err, body)
	}
	for _, r := range reasons {
		if !slices.ContainsFunc(down, func(c *console) bool { return c.name == r.HMC }) {
			t.Errorf("/-/ready while %s and %s are down: %s", down[0].name, down[1].name, body)
		}
	}

	started := make(chan struct{})
	go func() {
		defer close(started)
		inParallel(t, down, func(tb testing.TB, c *console) { c.broker.Start(tb) })
	}()
	flow()
	<-started
	if t.Failed() {
		t.FailNow()
	}
	after := await(t, d, func(s status) error {
		for _, c := range down {
			if err := c.up(t, s); err != nil {
				return err
			}
			if n := s.hmc(c.name).Reconnects; n != round+1 {
				return fmt.Errorf("%s: %d reconnects, want %d", c.name, n, round+1)
			}
		}
		return nil
	})
	for _, c := range others {
		was, is := before.hmc(c.name), after.hmc(c.name)
		if !is.Connected || is.Reconnects != was.Reconnects || !is.Since.Equal(was.Since) {
			t.Errorf("%s: %s since %v after %d reconnects, was %s since %v after %d",
				c.name, is.State, is.Since, is.Reconnects, was.State, was.Since, was.Reconnects)
		}
	}
	if t.Failed() {
		t.FailNow()
	}
}

// checkDelivered compares what a sink got from one HMC with what was
// published: the sequence of events within each group.
func checkDelivered(t *testing.T, c *console, sink string, got []consumer.Event, group func(expectation) string) {
	t.Helper()
	want, have := map[string][]string{}, map[string][]string{}
	for _, e := range c.expected {
		want[group(e)] = append(want[group(e)], e.identity)
	}
	for _, e := range got {
		if e.Origin != "live" {
			continue // what the daemon has found out by itself
		}
		g := group(expectation{topic: e.Topic, resource: e.Headers["object-uri"]})
		have[g] = append(have[g], e.Headers["global-sequence-nr"]+" "+e.Type+" "+string(e.Body))
		if e.Resource.ObjectURI != "" && e.Resource.CPC == "" {
			t.Errorf("%s, sink %s: no CPC in %s", c.name, sink, e.Raw)
		}
	}
	for _, g := range slices.Sorted(maps.Keys(want)) {
		if i, ok := firstDifference(want[g], have[g]); !ok {
			t.Errorf("%s, sink %s, %s: %d events, want %d; from number %d on\n got %q\nwant %q", c.name, sink, g, len(have[g]), len(want[g]), i,
				have[g][i:min(i+3, len(have[g]))], want[g][i:min(i+3, len(want[g]))])
		}
	}
	for g := range have {
		if want[g] == nil {
			t.Errorf("%s, sink %s: %d events of %s, where nothing was published", c.name, sink, len(have[g]), g)
		}
	}
}

func firstDifference(a, b []string) (index int, equal bool) {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i, false
		}
	}
	return min(len(a), len(b)), len(a) == len(b)
}

// checkMetrics compares the daemon's metrics with what the test has done.
func checkMetrics(t *testing.T, d *daemon.Daemon, consoles []*console, rounds, events int) {
	t.Helper()
	text := d.Metrics(t)
	check := func(want float64, name string, labels ...string) {
		t.Helper()
		if got, err := daemon.Metric(text, name, labels...); err != nil || got != want {
			t.Errorf("%s%v: %v, %v, want %v", name, labels, got, err, want)
		}
	}
	for _, c := range consoles {
		check(float64(rounds), "hmcnotifyd_receiver_reconnects_total", "hmc", c.name)
		check(1, "hmcnotifyd_receiver_connected", "hmc", c.name)
		check(1, "hmcnotifyd_receiver_state", "hmc", c.name, "state", "connected")
		for kind, n := range c.sent {
			check(float64(n), "hmcnotifyd_notifications_total", "hmc", c.name, "type", kind)
		}
		check(float64(c.global), "hmcnotifyd_notifications_total", "hmc", c.name)
		check(float64(len(c.expected)), "hmcnotifyd_events_total", "hmc", c.name, "origin", "live")
		check(0, "hmcnotifyd_notifications_missed_total", "hmc", c.name)
		check(0, "hmcnotifyd_notification_parse_errors_total", "hmc", c.name)
		// OS messages and log entries are fetched after each loss, and most of those were delivered before it.
		for _, typ := range []string{"status-change", "property-change", "inventory-change", "job-completion"} {
			check(0, "hmcnotifyd_events_duplicate_total", "hmc", c.name, "type", typ)
		}
		// A broker that is away refuses or ends connections, and nothing else.
		for _, reason := range []string{"dns", "tls", "logon", "authorization", "other"} {
			check(0, "hmcnotifyd_receiver_connect_failures_total", "hmc", c.name, "reason", reason)
		}
		check(1, "hmcnotifyd_hmc_rest_requests_total", "hmc", c.name, "operation", "logon")
	}
	for _, sink := range []string{"parallel", "serial", "file"} {
		if got := d.Metric(t, "hmcnotifyd_sink_events_total", "sink", sink, "outcome", "delivered"); got < float64(events) {
			t.Errorf("sink %s: %v events delivered, want %d", sink, got, events)
		}
		for _, outcome := range []string{"filtered", "dead_letter", "dropped"} {
			check(0, "hmcnotifyd_sink_events_total", "sink", sink, "outcome", outcome)
		}
		for _, outcome := range []string{"retry", "permanent"} {
			check(0, "hmcnotifyd_sink_attempts_total", "sink", sink, "outcome", outcome)
		}
		// What the daemon says of its own sight may come at any time.
		d.Process.Await(t, within, func() error {
			if n := d.Metric(t, "hmcnotifyd_sink_queue_events", "sink", sink); n != 0 {
				return fmt.Errorf("%v events wait for the sink %s", n, sink)
			}
			return nil
		})
	}
}

// readEvents reads what a log sink has written.
func readEvents(t *testing.T, path string) []consumer.Event {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var events []consumer.Event
	for line := range strings.Lines(string(data)) {
		e := consumer.Event{Raw: json.RawMessage(line)}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%s: %v: %s", path, err, line)
		}
		events = append(events, e)
	}
	return events
}

func filter(events []consumer.Event, pass func(consumer.Event) bool) []consumer.Event {
	var passed []consumer.Event
	for _, e := range events {
		if pass(e) {
			passed = append(passed, e)
		}
	}
	return passed
}
