//go:build real

package storm_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/tests/scratch"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/daemon"
	"github.com/hmcnotifyd/hmcnotifyd/tests/soak"
)

// mount mounts a small file system in memory until the end of the test.
func mount(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); errors.Is(err, syscall.EPERM) {
		t.Skip("only root may mount a small file system")
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// window is a time.
type window struct{ from, to time.Time }

func (w window) String() string {
	const clock = "15:04:05.000"
	return w.from.UTC().Format(clock) + " to " + w.to.UTC().Format(clock)
}

// meets says whether two times have something in common, as exactly as events tell times.
func (w window) meets(other window) bool {
	return !w.from.After(other.to) && !w.to.Before(other.from.Truncate(time.Millisecond))
}

// toldGap is the body of a bridge-gap event.
type toldGap struct {
	From, To time.Time
	Causes   []string
	Missed   map[string]int
}

func (g toldGap) fullDisk() bool {
	return strings.Contains(strings.Join(g.Causes, "\n"), "no space left")
}

// TestFullDisk fills the file system of the store under a running daemon, again and again. Nothing that was counted in
// events_total is lost or harmed; what could not be stored is counted, is told in a gap event, and keeps the daemon from being
// ready; deliveries go on meanwhile, and are remembered; and when there is space again everything goes on by itself.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	rounds := soak.Count(t, "FULL", 2, 10)
	disk := mount(t, "24m")
	sim := hmctest.Start(t, hmcsim.Options{Name: "east", Partitions: -1})
	var mu sync.Mutex
	ids, repeated := map[int]string{}, 0
	missed := 0 // as the gap events say
	var gaps []window
	last := map[string]int{}
	var consumer *hook
	consumer = newHook(t, func(raw []byte, _ int64) {
		var e delivered
		if err := json.Unmarshal(raw, &e); err != nil {
			consumer.complain("corrupt: %v: %.300q", err, raw)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if e.Type == "bridge-gap" {
			var gap toldGap
			if err := json.Unmarshal(e.Body, &gap); err != nil {
				consumer.complain("gap: %v: %s", err, raw)
			}
			if gap.fullDisk() {
				gaps = append(gaps, window{gap.From, gap.To})
				missed += gap.Missed["object"]
			}
			return
		}
		n, err := strconv.Atoi(valueOf(e.Body))
		if err != nil {
			return // another event about the daemon itself
		}
		switch id := ids[n]; id {
		case "":
			if n < last[e.Resource.Name] {
				consumer.complain("%s: %d after %d", e.Resource.Name, n, last[e.Resource.Name])
			}
			last[e.Resource.Name] = n
		case e.ID:
			repeated++
		default:
			consumer.complain("%d has the ids %s and %s", n, id, e.ID)
		}
		ids[n] = e.ID
	})
	count := func() int { mu.Lock(); defer mu.Unlock(); return len(ids) }
	consumer.start(t)
	d := daemon.Start(t, daemon.Options{
		Storage: filepath.Join(disk, "data"),
		Config: "hmcs:\n" + hmctest.Entry(t, sim, ", topics: [object]") +
			fmt.Sprintf("sinks:\n- {name: hook, webhook: {url: %q}, batch: {max_events: 50}, retry: {initial: 10ms, max: 100ms}}\n", consumer.url),
	})
	connected(t, d)
	// await waits for a condition of the metrics.
	metric := func(name string, labels ...string) int { return int(d.Metric(t, "hmcnotifyd_"+name, labels...)) }
	stored := func() int { return metric("events_total", "type", "property-change") }
	await := func(what string, ok func() bool) {
		t.Helper()
		d.Process.Await(t, within, func() error {
			if !ok() {
				return errors.New(what)
			}
			return nil
		})
	}
	ready := func() (bool, string) {
		code, body := d.Get(t, "/-/ready")
		return code == http.StatusOK, body
	}
	var asked time.Time // when it was asked last whether it refuses writes
	refuses := func() bool {
		asked = time.Now()
		ok, body := ready()
		return !ok && strings.Contains(body, "no space left")
	}
	next := 0
	var received []window // by number, the first is 0
	publish := func(n int) {
		w := window{from: time.Now()}
		for range n {
			next++
			change(sim, fmt.Sprintf("R%d", next%7), strconv.Itoa(next))
		}
		await("all is received", func() bool { return metric("notifications_total") == next })
		w.to = time.Now()
		for range n {
			received = append(received, w)
		}
	}
	var full []window       // from when there was no space until there was some again
	var refused []time.Time // until when it refused writes, at least: what is delivered is room
	for round := range rounds {
		publish(300)
		await("stored", func() bool { return stored()+metric("notifications_missed_total") == next })
		// A part waits while the disk becomes full: it is delivered from a full disk.
		consumer.answer(func(*http.Request) int { return http.StatusServiceUnavailable })
		publish(300)
		await("stored", func() bool { return stored()+metric("notifications_missed_total") == next })
		before := metric("notifications_missed_total")
		blind := window{from: time.Now()}
		empty := scratch.Fill(t, disk)
		for metric("notifications_missed_total") < before+100 || !refuses() {
			scratch.Fill(t, disk) // what the daemon has given back to have room
			publish(100)
			if next > 1_000_000 {
				t.Fatal("the disk does not get full")
			}
			await("counted", func() bool { return stored()+metric("notifications_missed_total") == next })
		}
		refused = append(refused, asked)
		if delivered := count(); delivered == stored() {
			t.Fatalf("round %d: nothing waits", round)
		}
		consumer.answer(nil)
		await("delivered while the disk is full", func() bool { return count() == stored() })
		blind.to = time.Now()
		full = append(full, blind)
		empty()
		await("ready again", func() bool { ok, _ := ready(); return ok })
		publish(100)
		await("all is told", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return missed == metric("notifications_missed_total") && len(ids) == stored()
		})
	}
	if got, want := count()+metric("notifications_missed_total"), next; got != want {
		t.Errorf("%d delivered or counted as missed, %d published", got, want)
	}
	await("nothing waits", func() bool { return metric("sink_queue_events") == 0 })
	t.Logf("%d published, %d stored and delivered, %d missed and told in %d gap events, %d delivered again", next, count(), missed, len(gaps), repeated)
	mu.Lock()
	for i, w := range received {
		n := i + 1
		if ids[n] == "" && !slices.ContainsFunc(gaps, func(g window) bool { return g.meets(w) }) {
			t.Errorf("%d came in %v, was not stored, and is in none of the gaps %v", n, w, gaps)
			break
		}
	}
	for i, blind := range full {
		if !slices.ContainsFunc(gaps, func(g window) bool { return !g.to.Before(refused[i].Truncate(time.Millisecond)) && g.meets(blind) }) {
			t.Errorf("no space in %v, writes refused until %v, and no gap of %v lasts until then", blind, refused[i], gaps)
		}
	}
	for _, g := range gaps {
		if !slices.ContainsFunc(full, func(blind window) bool {
			return !g.from.Before(blind.from.Truncate(time.Millisecond)) && g.meets(blind)
		}) {
			t.Errorf("the gap %v begins while there was space: %v", g, full)
		}
	}
	mu.Unlock()
	if repeated > 0 {
		t.Errorf("%d events were delivered again without a restart", repeated)
	}
	// A daemon that is started on a full disk delivers, and remembers what it has delivered.
	consumer.answer(func(*http.Request) int { return http.StatusServiceUnavailable })
	publish(300)
	await("stored", func() bool { return stored()+metric("notifications_missed_total") == next })
	empty := scratch.Fill(t, disk)
	for range 3 { // the first delivers what waits
		d.Stop(t)
		d.Start(t)
		connected(t, d)
		consumer.answer(nil)
		await("delivered", func() bool { return metric("sink_queue_events") == 0 })
		await("not ready", func() bool { scratch.Fill(t, disk); return refuses() })
	}
	empty()
	await("ready again", func() bool { ok, _ := ready(); return ok })
	before := count()
	for range 100 {
		next++
		change(sim, fmt.Sprintf("R%d", next%7), strconv.Itoa(next))
	}
	await("delivered", func() bool { return count() == before+100 })
	mu.Lock()
	if repeated > 0 {
		t.Errorf("%d events were delivered again after an orderly end on a full disk", repeated)
	}
	mu.Unlock()
	d.Stop(t)
	if damaged, err := filepath.Glob(filepath.Join(d.Storage, "*.damaged*")); err != nil || len(damaged) > 0 {
		t.Errorf("set aside: %v (%v)", damaged, err)
	}
}

// TestCrashOnFullDisk kills the daemon, and starts it again where nothing can be written: what waits is delivered, what comes is
// counted and told later, and when there is space everything goes on, without another start.
func TestCrashOnFullDisk(t *testing.T) {
	t.Parallel()
	disk := mount(t, "24m")
	sim := hmctest.Start(t, hmcsim.Options{Name: "east", Partitions: -1})
	var mu sync.Mutex
	got := map[string]int{}
	var told []toldGap
	var consumer *hook
	consumer = newHook(t, func(raw []byte, _ int64) {
		var e delivered
		if err := json.Unmarshal(raw, &e); err != nil {
			consumer.complain("corrupt: %v: %.300q", err, raw)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		switch e.Type {
		case "property-change":
			got[valueOf(e.Body)]++
		case "bridge-gap":
			var gap toldGap
			if err := json.Unmarshal(e.Body, &gap); err != nil {
				consumer.complain("gap: %v: %s", err, raw)
			}
			if gap.fullDisk() {
				told = append(told, gap)
			}
		}
	})
	arrived := func(kind string, n int) int {
		mu.Lock()
		defer mu.Unlock()
		found := 0
		for i := range n {
			if got[kind+strconv.Itoa(i)] > 0 {
				found++
			}
		}
		return found
	}
	consumer.answer(func(*http.Request) int { return http.StatusServiceUnavailable })
	consumer.start(t)
	d := daemon.Start(t, daemon.Options{
		Storage: filepath.Join(disk, "data"),
		Config: "hmcs:\n" + hmctest.Entry(t, sim, ", topics: [object]") +
			fmt.Sprintf("sinks:\n- {name: hook, webhook: {url: %q}, batch: {max_events: 50}, retry: {initial: 10ms, max: 100ms}}\n", consumer.url),
	})
	connected(t, d)
	await := func(what string, ok func() bool) {
		t.Helper()
		d.Process.Await(t, within, func() error {
			if !ok() {
				return errors.New(what)
			}
			return nil
		})
	}
	const n = 500
	for i := range n {
		change(sim, fmt.Sprintf("R%d", i%7), "before "+strconv.Itoa(i))
	}
	d.AwaitMetric(t, within, n, "hmcnotifyd_events_total", "type", "property-change")
	d.Kill()
	empty := scratch.Fill(t, disk)
	start := time.Now()
	d.Start(t)
	connected(t, d)
	await("not ready", func() bool {
		code, body := d.Get(t, "/-/ready")
		return code == http.StatusServiceUnavailable && strings.Contains(body, "no space left")
	})
	// More than the space that is left in the store's own files, if there is any.
	missed := func() int { return int(d.Metric(t, "hmcnotifyd_notifications_missed_total")) }
	published := 0
	for missed() < 100 {
		for range 100 {
			change(sim, fmt.Sprintf("R%d", published%7), "full "+strconv.Itoa(published))
			published++
		}
		await("counted", func() bool {
			return int(d.Metric(t, "hmcnotifyd_events_total", "type", "property-change"))+missed() == published
		})
		if published > 100_000 {
			t.Fatal("the disk does not get full")
		}
	}
	consumer.answer(nil)
	await("what waited is delivered from a full disk", func() bool { return arrived("before ", n) == n })
	end := time.Now()
	empty()
	d.AwaitReady(t, within)
	for i := range n {
		change(sim, fmt.Sprintf("R%d", i%7), "after "+strconv.Itoa(i))
	}
	await("what comes afterwards is delivered", func() bool { return arrived("after ", n) == n })
	lost := missed()
	await("the gap is told", func() bool {
		mu.Lock()
		defer mu.Unlock()
		sum := 0
		for _, gap := range told {
			sum += gap.Missed["object"]
		}
		return sum == lost
	})
	mu.Lock()
	first, last := told[0], told[len(told)-1]
	mu.Unlock()
	if first.From.After(end) || last.To.Before(end.Truncate(time.Millisecond)) || last.To.After(time.Now()) {
		t.Errorf("no space from %v to %v, told %+v", start, end, told)
	}
	if kept := arrived("full ", published); kept+lost != published {
		t.Errorf("%d published on a full disk, %d delivered, %d counted as missed", published, kept, lost)
	}
	d.AwaitMetric(t, within, 0, "hmcnotifyd_sink_queue_events")
	t.Logf("%d missed, told in %d gap events: %+v", lost, len(told), told)
	d.Stop(t)
}
