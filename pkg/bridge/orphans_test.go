package bridge

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/record"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
)

// A sink that is renamed leaves its events behind, and a queue that has the limits it had: what comes in does not pile up
// there until the storage is full. Also after a restart.
func TestRenamedSinkKeepsItsLimits(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{Partitions: -1})
	d := &daemon{t: t, dir: t.TempDir(), consumer: newConsumer(t), timing: testTiming()}
	d.consumer.set(func(*http.Request, *event.Event) int { return http.StatusServiceUnavailable })
	yaml := hmcYAML(t, "a", sim)
	config := func(name string) string {
		return "hmcs:\n" + yaml + fmt.Sprintf(`
sinks:
  - {name: %s, webhook: {url: %q}, queue: {max_bytes: 1MiB, max_age: 0s}, drop: [{type: ["bridge-.*"]}]}
  - {name: file, log: {output: events.log}, drop: [{type: ["bridge-.*"]}]}
`, name, d.consumer.url())
	}
	d.start(load(t, d.dir, config("old")))
	d.connected("a")
	publish(sim, "P", "x")
	d.eventually("it waits", func() bool { return d.sink("old").FailedAttempts > 0 })
	if err := d.bridge.Reload(load(t, d.dir, config("new"))); err != nil {
		t.Fatal(err)
	}
	fill := func(mark string) {
		t.Helper()
		before := len(d.fileEvents())
		for i := range 40 {
			publish(sim, "P", mark+strings.Repeat("x", 50_000))
			if i%10 == 9 { // as fast as they are taken
				d.eventually("it is stored", func() bool { return len(d.fileEvents()) == before+i+1 })
			}
		}
	}
	removed := func() status.RemovedSink {
		t.Helper()
		all := d.bridge.Status().Removed
		if len(all) != 1 || all[0].Name != "old" {
			t.Fatalf("%+v", all)
		}
		return all[0]
	}
	fill("1")
	d.bridge.trimOrphans(time.Now())
	if r := removed(); r.QueueBytes > 1<<20 || r.QueueEvents == 0 {
		t.Errorf("%+v", r)
	}
	d.stop()
	d.start(load(t, d.dir, config("new")))
	d.connected("a")
	fill("2")
	d.bridge.trimOrphans(time.Now())
	if r := removed(); r.QueueBytes > 1<<20 || r.QueueEvents == 0 {
		t.Errorf("after a restart: %+v", r)
	}
	// The sinks that there are have their own.
	if s := d.sink("new"); s.Dropped != 0 && s.QueueBytes < 1<<19 {
		t.Errorf("%+v", s)
	}
	if n, err := d.bridge.PurgeRemovedSink("old"); err != nil || n == 0 {
		t.Errorf("%d purged, %v", n, err)
	}
	if _, ok := d.bridge.queue.State(limitsPrefix + "old"); ok {
		t.Error("its limits are kept")
	}
}

// What is known of an HMC that is gone from the configuration is forgotten after 30 days without it, or when that is asked for;
// the others keep all of theirs, and one that comes back in time has everything.
func TestGoneHMCIsForgotten(t *testing.T) {
	t.Parallel()
	sims := map[string]*hmcsim.HMC{
		"a": hmctest.Start(t, hmcsim.Options{Partitions: 2}), "b": hmctest.Start(t, hmcsim.Options{Partitions: 2}), "c": hmctest.Start(t, hmcsim.Options{Partitions: 2}),
	}
	yaml := func(names ...string) (text string) {
		for _, name := range names {
			text += hmcYAML(t, name, sims[name], "topics: [object, audit, security]\n    os_messages: [{cpc: \".*\", partition: \".*\"}]\n    hardware_messages: true") + "\n"
		}
		return text
	}
	d := startDaemon(t, yaml("a", "b", "c"))
	for name, sim := range sims {
		d.connected(name)
		publish(sim, "P", name)
	}
	d.eventually("all have told", func() bool { return len(d.fileEvents()) >= 3 })
	known := func() map[string]int {
		n := make(map[string]int)
		d.bridge.queue.StateRange("", func(key string, _ []byte) bool {
			kind, rest, _ := strings.Cut(key, "/")
			name, _, _ := strings.Cut(rest, "\x00")
			if kind != "gone" && kind != "limits" && kind != "sink" {
				n[name]++
			}
			return true
		})
		return n
	}
	d.eventually("something is known of each", func() bool { n := known(); return n["a"] > 3 && n["b"] > 3 && n["c"] > 3 })
	if err := d.bridge.Reload(d.config(yaml("a"))); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	d.bridge.forgetGone(now)
	before := known()
	if before["b"] == 0 || before["c"] == 0 {
		t.Errorf("forgotten at once: %v", before)
	}
	d.bridge.forgetGone(now.Add(record.KeepGone - time.Minute))
	if got := known(); got["b"] != before["b"] {
		t.Errorf("forgotten too early: %v, before %v", got, before)
	}
	// One of them comes back, and goes again: its time begins anew.
	if err := d.bridge.Reload(d.config(yaml("a", "b"))); err != nil {
		t.Fatal(err)
	}
	d.connected("b")
	d.bridge.forgetGone(now.Add(record.KeepGone - time.Minute))
	if err := d.bridge.Reload(d.config(yaml("a"))); err != nil {
		t.Fatal(err)
	}
	d.bridge.forgetGone(now.Add(record.KeepGone))
	d.bridge.forgetGone(now.Add(record.KeepGone + time.Minute))
	got := known()
	if got["c"] != 0 || got["b"] == 0 || got["a"] == 0 {
		t.Errorf("after 30 days: %v", got)
	}
	if text := d.logs.String(); !strings.Contains(text, "is forgotten") || strings.Count(text, `"hmc":"c","values"`) != 1 {
		t.Error("the log does not say it, or says it twice")
	}
	if _, err := d.bridge.ForgetHMC(t.Context(), "a"); !errors.Is(err, ErrNotGone) {
		t.Errorf("a configured one: %v", err)
	}
	if n, err := d.bridge.ForgetHMC(t.Context(), "b"); err != nil || n == 0 {
		t.Errorf("%d values, %v", n, err)
	}
	if _, err := d.bridge.ForgetHMC(t.Context(), "b"); !errors.Is(err, ErrUnknownHMC) {
		t.Errorf("a second time: %v", err)
	}
	if got := known(); len(got) != 1 || got["a"] == 0 {
		t.Errorf("when it was asked for: %v", got)
	}
	d.bridge.queue.StateRange("gone/", func(key string, _ []byte) bool {
		t.Errorf("%q is left", key)
		return true
	})
	// Whoever comes back begins anew.
	if err := d.bridge.Reload(d.config(yaml("a", "c"))); err != nil {
		t.Fatal(err)
	}
	d.connected("c")
	events := len(d.fileEvents())
	publish(sims["c"], "P", "again")
	d.eventually("it tells again", func() bool { return len(d.fileEvents()) > events })
}
