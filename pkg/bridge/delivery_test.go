package bridge

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
)

// blockedPipe is an output that nobody reads and whose write nothing can interrupt, as a stdout that was inherited.
func blockedPipe(t *testing.T) *os.File {
	t.Helper()
	var fds [2]int
	if err := syscall.Pipe(fds[:]); err != nil {
		t.Fatal(err)
	}
	r, w := os.NewFile(uintptr(fds[0]), "reader"), os.NewFile(uintptr(fds[1]), "writer")
	t.Cleanup(func() { // the reader first: that lets whoever hangs in a write go
		if err := errors.Join(r.Close(), w.Close()); err != nil {
			t.Error(err)
		}
	})
	return w
}

// A log sink that hangs in a write keeps the daemon from being ready, and holds up neither the other sinks nor a
// reload nor the end.
func TestSinkThatHangs(t *testing.T) {
	t.Parallel() // it takes some seconds of waiting
	sim := hmctest.Start(t, hmcsim.Options{Partitions: -1})
	d := &daemon{t: t, dir: t.TempDir(), consumer: newConsumer(t), timing: testTiming(), stdout: blockedPipe(t)}
	conf := func(sinks string) *config.Config {
		return load(t, d.dir, "hmcs:\n"+hmcYAML(t, "a", sim)+fmt.Sprintf("\nsinks:\n  - {name: hook, webhook: {url: %q}}\n", d.consumer.url())+sinks)
	}
	d.start(conf("  - {name: out, log: {output: stdout}, timeout: 100ms}\n"))
	d.connected("a")
	const n = 30
	for i := range n { // more than a pipe holds
		publish(sim, "P", strconv.Itoa(i)+strings.Repeat("x", 10<<10))
	}
	stuck := func() bool {
		s := d.bridge.Status()
		return !s.Ready && len(s.Reasons) == 1 && s.Reasons[0].Sink == "out" && strings.Contains(s.Reasons[0].Reason, "has not ended")
	}
	d.eventually("the sink is stuck", stuck)
	if got := d.metric(`hmcnotifyd_sink_attempts_total{outcome="retry",sink="out"}`); got != 1 {
		t.Errorf("%v failed attempts of one that hangs", got)
	}
	d.eventually("the other sink has all", func() bool { return len(d.consumer.got()) == n })
	if err := d.bridge.Reload(conf("  - {name: out, log: {output: stdout}, timeout: 200ms}\n")); err != nil {
		t.Fatal(err)
	}
	d.eventually("the changed sink is stuck too", stuck)
	if err := d.bridge.Reload(conf("")); err != nil {
		t.Fatal(err)
	}
	d.eventually("ready without it", func() bool { return d.bridge.Status().Ready })
	if err := d.bridge.Reload(conf("  - {name: out, log: {output: stdout}, timeout: 100ms}\n")); err != nil {
		t.Fatal(err)
	}
	d.eventually("stuck again", stuck)
	d.stop()
	if got := strings.Count(d.logs.String(), "is left behind"); got != 3 {
		t.Errorf("%d lines about a sink that was left behind", got)
	}
}

// An event that always fails holds up its resource and no other, also with what arrives later. Once it is accepted
// everything is, once and in order.
func TestEventThatAlwaysFails(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{Partitions: -1})
	d := startDaemon(t, hmcYAML(t, "a", sim))
	d.connected("a")
	d.consumer.set(func(_ *http.Request, e *event.Event) int {
		if e.Resource.Name == "BAD" {
			return http.StatusInternalServerError
		}
		return http.StatusOK
	})
	publish(sim, "BAD", "0")
	d.eventually("it fails", func() bool { return d.bridge.Status().Sinks[0].FailedAttempts > 0 })
	const names, each = 20, 10
	for n := range each {
		for p := range names {
			publish(sim, "P"+strconv.Itoa(p), strconv.Itoa(n))
		}
		publish(sim, "BAD", strconv.Itoa(n+1))
	}
	d.eventually("stored", func() bool { return len(d.fileEvents()) == 1+each*(names+1) })
	d.eventually("all others are done", func() bool { return len(d.consumer.got()) == names*each })
	d.eventually("the sink counts as stuck", func() bool { return d.bridge.Status().Sinks[0].Stuck })
	d.consumer.set(func(*http.Request, *event.Event) int { return http.StatusOK })
	d.eventually("all is acknowledged", func() bool { return d.bridge.Status().Sinks[0].QueueEvents == 0 })
	for name, got := range marks(d.consumer.got()) {
		want := each
		if name == "BAD" {
			want++
		}
		for i := range got {
			if len(got) != want || got[i] != strconv.Itoa(i) {
				t.Errorf("%s: %v", name, got)
				break
			}
		}
	}
	if s := d.bridge.Status(); s.Sinks[0].Stuck || s.Sinks[0].Delivered != 1+each*(names+1) {
		t.Errorf("status %+v", s.Sinks[0])
	}
}

// Each lane fills batches of its own, however long that takes; the end sends what there is.
func TestBatchesAreFull(t *testing.T) {
	t.Parallel()
	const size, n = 10, 200
	sim := hmctest.Start(t, hmcsim.Options{Partitions: -1})
	var mu sync.Mutex
	var sizes []int
	c := newConsumer(t)
	c.server.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var events []json.RawMessage
		if err := json.NewDecoder(r.Body).Decode(&events); err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		sizes = append(sizes, len(events))
		w.WriteHeader(http.StatusNoContent)
	})
	d := &daemon{t: t, dir: t.TempDir(), consumer: c, timing: testTiming()}
	d.start(load(t, d.dir, "hmcs:\n"+hmcYAML(t, "a", sim)+fmt.Sprintf(`
sinks:
  - {name: hook, webhook: {url: %q}, batch: {max_events: %d, max_wait: 1h}, drop: [{type: bridge-connected}, {type: bridge-disconnected}]}
`, c.url(), size)))
	d.connected("a")
	for i := range n {
		publish(sim, "P"+strconv.Itoa(i%50), strconv.Itoa(i))
	}
	d.eventually("all full batches", func() bool { return sum(&mu, &sizes) > n-4*size })
	mu.Lock()
	for _, s := range sizes {
		if s != size {
			t.Errorf("a batch of %d", s)
		}
	}
	mu.Unlock()
	d.stop()
	if got := sum(&mu, &sizes); got != n {
		t.Errorf("%d of %d events", got, n)
	}
}

// A batch that does not become full is sent when its time has come, with all that is there.
func TestBatchesAreSentInTime(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{Partitions: -1})
	var mu sync.Mutex
	var sizes []int
	c := newConsumer(t)
	c.server.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var events []json.RawMessage
		if err := json.NewDecoder(r.Body).Decode(&events); err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		sizes = append(sizes, len(events))
		w.WriteHeader(http.StatusNoContent)
	})
	d := &daemon{t: t, dir: t.TempDir(), consumer: c, timing: testTiming()}
	d.start(load(t, d.dir, "hmcs:\n"+hmcYAML(t, "a", sim)+fmt.Sprintf(`
sinks:
  - {name: hook, webhook: {url: %q}, batch: {max_events: 1000, max_wait: 3s}, drop: [{type: ["bridge-.*"]}]}
`, c.url())))
	d.connected("a")
	const n = 20
	start := time.Now()
	for i := range n {
		publish(sim, "P"+strconv.Itoa(i), "x")
	}
	d.eventually("all events", func() bool { return sum(&mu, &sizes) == n })
	if took := time.Since(start); took < 3*time.Second {
		t.Errorf("sent after %s", took)
	}
	d.stop()
	if len(sizes) != 1 {
		t.Errorf("batches of %v", sizes)
	}
}

// A sink that fails and one that is well again is one line in the log each, with counts; its status says the last
// error, and since when it fails.
func TestFailingIsSaid(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{Partitions: -1})
	d := startDaemon(t, hmcYAML(t, "a", sim))
	d.connected("a")
	lines := func(message string) (found []string) {
		for line := range strings.Lines(d.logs.String()) {
			if strings.Contains(line, message) {
				found = append(found, line)
			}
		}
		return found
	}
	const failing, well = "the sink does not accept events", "the sink accepts events again"
	for round := range 2 {
		d.consumer.set(func(*http.Request, *event.Event) int { return http.StatusServiceUnavailable })
		before := time.Now().Add(-time.Millisecond)
		const n = 30
		for i := range n {
			publish(sim, "P"+strconv.Itoa(i), strconv.Itoa(round))
		}
		var s status.SinkStatus
		d.eventually("failing", func() bool {
			s = d.bridge.Status().Sinks[0]
			return s.FailedAttempts >= 20
		})
		if s.FailingSince == nil || s.FailingSince.Before(before) || !strings.Contains(s.LastError, "503") || s.LastErrorTime == nil || s.LastErrorTime.Before(*s.FailingSince) {
			t.Errorf("status %+v", s)
		}
		if got := lines(failing); len(got) != round+1 || !strings.Contains(got[round], `"level":"warn"`) || !strings.Contains(got[round], "503") || !strings.Contains(got[round], `"sink":"hook"`) {
			t.Errorf("lines: %q", got)
		}
		d.consumer.set(func(*http.Request, *event.Event) int { return http.StatusOK })
		d.eventually("well again", func() bool {
			s = d.bridge.Status().Sinks[0]
			return s.FailingSince == nil && s.QueueEvents == 0
		})
		if s.FailedAttempts != 0 || !strings.Contains(s.LastError, "503") || s.LastSuccess == nil {
			t.Errorf("status %+v", s)
		}
		got := lines(well)
		if len(got) != round+1 {
			t.Fatalf("lines: %q", got)
		}
		var line struct {
			Level  string
			Failed int `json:"failed_attempts"`
		}
		if err := json.Unmarshal([]byte(got[round]), &line); err != nil || line.Level != "info" || line.Failed < 20 {
			t.Errorf("%v: %s", err, got[round])
		}
	}
}

func sum(mu *sync.Mutex, all *[]int) (n int) {
	mu.Lock()
	defer mu.Unlock()
	for _, x := range *all {
		n += x
	}
	return n
}

// Of a batch that is refused because of what is in it only those events become dead letters that are refused by
// themselves; the others are delivered, in order. A refusal that has nothing to do with what was sent is not tried in parts.
func TestBatchRefusedInPart(t *testing.T) {
	t.Parallel()
	const size, n = 64, 256
	bad := func(mark string) bool { return strings.HasSuffix(mark, "77") }
	for _, test := range []struct {
		name     string
		answer   func(marks []string) int
		refused  int // events
		requests int // at most
	}{
		{"one event is bad", func(marks []string) int {
			if slices.ContainsFunc(marks, bad) {
				return http.StatusUnprocessableEntity
			}
			return http.StatusOK
		}, 2, n/size + 2*3*7},
		{"too many at once", func(marks []string) int {
			if len(marks) > 10 {
				return http.StatusRequestEntityTooLarge
			}
			return http.StatusOK
		}, 0, n / 2},
		{"all are bad", func([]string) int { return http.StatusBadRequest }, n, 2*n + n/size*7},
		{"of no use", func([]string) int { return http.StatusUnsupportedMediaType }, n, n / size},
		{"bad, and down now and then", func() func(marks []string) int {
			requests := 0
			return func(marks []string) int {
				if requests++; requests%3 != 0 {
					return http.StatusServiceUnavailable
				}
				if slices.ContainsFunc(marks, bad) {
					return http.StatusBadRequest
				}
				return http.StatusOK
			}
		}(), 2, 3 * (n/size + 2*3*7)},
	} {
		t.Run(test.name, func(t *testing.T) {
			sim := hmctest.Start(t, hmcsim.Options{Partitions: -1})
			var mu sync.Mutex
			var got []string
			requests := 0
			c := newConsumer(t)
			c.server.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				var events []*event.Event
				if err := json.NewDecoder(r.Body).Decode(&events); err != nil {
					t.Error(err)
				}
				sent := marks(events)["P"]
				mu.Lock()
				defer mu.Unlock()
				requests++
				status := test.answer(sent)
				if status == http.StatusOK {
					got = append(got, sent...)
				}
				w.WriteHeader(status)
			})
			d := &daemon{t: t, dir: t.TempDir(), consumer: c, timing: testTiming()}
			d.start(load(t, d.dir, "hmcs:\n"+hmcYAML(t, "a", sim)+fmt.Sprintf(`
sinks:
  - {name: hook, webhook: {url: %q}, batch: {max_events: %d, max_wait: 1h}, retry: {initial: 1ms, max: 2ms}, drop: [{type: ["bridge-.*"]}]}
`, c.url(), size)))
			d.connected("a")
			for i := range n {
				publish(sim, "P", strconv.Itoa(i))
			}
			var s status.SinkStatus
			d.eventually("all is done", func() bool {
				s = d.bridge.Status().Sinks[0]
				return int(s.Delivered)+s.DeadLetters == n && s.QueueEvents == 0
			})
			if s.DeadLetters != test.refused || int(s.Delivered) != n-test.refused || len(got) != n-test.refused {
				t.Errorf("%d dead letters, %d delivered, %d arrived", s.DeadLetters, s.Delivered, len(got))
			}
			if requests > test.requests {
				t.Errorf("%d requests, want at most %d", requests, test.requests)
			}
			last := -1
			for _, mark := range got {
				i, err := strconv.Atoi(mark)
				if err != nil || i <= last {
					t.Fatalf("%s after %d", mark, last)
				}
				last = i
			}
			letters, err := d.bridge.dead.List(queue.DeadLetterFilter{Sink: "hook"})
			if err != nil {
				t.Fatal(err)
			}
			for _, l := range letters {
				letter, err := d.bridge.dead.Get(l.ID)
				if err != nil {
					t.Fatal(err)
				}
				e := new(event.Event)
				if err := json.Unmarshal(letter.Data, e); err != nil {
					t.Fatal(err)
				}
				if mark := marks([]*event.Event{e})["P"][0]; test.refused < n && !bad(mark) {
					t.Errorf("%s became a dead letter: %s", mark, l.Reason)
				}
			}
		})
	}
}

// A reload that fails leaves no trace: no place in the queue, no series, no other state.
func TestFailedReloadChangesNothing(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{Partitions: -1})
	d := startDaemon(t, hmcYAML(t, "a", sim))
	d.connected("a")
	before := d.bridge.queue.Cursors()
	breakSink := func(cfg *config.Config) {
		bad := cfg.Sinks[1]
		bad.Name, bad.Log = "bad", &config.Log{Output: "/nonexistent/x/y"}
		cfg.Sinks = append(cfg.Sinks, bad)
	}
	breakHMC := func(cfg *config.Config) {
		bad := cfg.HMCs[0]
		bad.Name, bad.Hosts = "bad", nil
		cfg.HMCs = append(cfg.HMCs, bad)
	}
	for name, breakIt := range map[string]func(*config.Config){"sink": breakSink, "hmc": breakHMC} {
		t.Run(name, func(t *testing.T) {
			cfg := d.config(hmcYAML(t, "a", sim, "topics: [object]") + hmcYAML(t, "newhmc", sim))
			extra := cfg.Sinks[1]
			extra.Name = "extra"
			cfg.Sinks = append(cfg.Sinks, extra)
			breakIt(cfg)
			if err := d.bridge.Reload(cfg); err == nil {
				t.Fatal("no error")
			}
			if got := d.bridge.queue.Cursors(); !slices.Equal(got, before) {
				t.Errorf("cursors %v", got)
			}
			families, err := d.registry.Gather()
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{`"extra"`, `"bad"`, `"newhmc"`} {
				if strings.Contains(fmt.Sprint(families), name) {
					t.Errorf("series of %s", name)
				}
			}
			for _, series := range []string{`hmcnotifyd_receiver_state{hmc="a",state="connected"}`, `hmcnotifyd_receiver_connected{hmc="a"}`} {
				if got := d.metric(series); got != 1 {
					t.Errorf("%s is %v", series, got)
				}
			}
		})
	}
}

// The counts of a sink go on when its configuration changes.
func TestCountsSurviveAReload(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{Partitions: -1})
	yaml := hmcYAML(t, "a", sim)
	d := startDaemon(t, yaml)
	d.connected("a")
	publish(sim, "P", "x")
	d.eventually("delivered", func() bool { return d.bridge.Status().Sinks[0].Delivered == 1 })
	cfg := d.config(yaml)
	cfg.Sinks[0].Timeout = time.Minute
	if err := d.bridge.Reload(cfg); err != nil {
		t.Fatal(err)
	}
	publish(sim, "P", "y")
	d.eventually("counted on", func() bool {
		for _, s := range d.bridge.Status().Sinks {
			if s.Name == "hook" && s.Delivered == 2 {
				return true
			}
		}
		return false
	})
}
