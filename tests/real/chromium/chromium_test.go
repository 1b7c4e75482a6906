//go:build real

// Package chromium_test looks at the status page with a browser: the daemon is the program that users run, the HMCs are
// simulated, the browser is Debian's Chromium.
package chromium_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/heapprofiler"
	"github.com/chromedp/cdproto/memory"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"go.uber.org/goleak"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/daemon"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/program"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// within is how long a test waits for what takes moments on a machine with nothing else to do.
const within = 5 * time.Minute

// screenshotsVariable names a directory that keeps the pictures which the tests take, for people to look at.
const screenshotsVariable = "HMCNOTIFYD_SCREENSHOTS"

// site is a daemon with two simulated HMCs.
type site struct {
	*daemon.Daemon
	east, west *hmcsim.HMC
}

func startSite(t *testing.T) *site {
	t.Helper()
	s := &site{
		east: hmctest.Start(t, hmcsim.Options{Name: "EAST", CPCs: 2, Partitions: 8}), west: hmctest.Start(t, hmcsim.Options{Name: "WEST", CPCs: 1, Partitions: 3, Seed: 2}),
	}
	entry := func(name string, sim *hmcsim.HMC) string {
		return fmt.Sprintf("  - {name: %s, hosts: [\"127.0.0.1\"], rest_port: %d, stomp_port: %d, userid: hmcuser, password: hmcpass, tls: {ca_file: %s.pem}, "+
			"topics: [object, job, audit, security], rest_requests_per_minute: 6000, stomp: {reconnect_sleep_max: 200ms}}\n", name, sim.RESTPort(), sim.StompPort(), name)
	}
	s.Daemon = daemon.Start(t, daemon.Options{
		// Few ids are remembered, so that all that there is room for is soon there.
		Config: "dedup: {max_ids: 10000}\nhmcs:\n" + entry("hmc-east", s.east) + entry("hmc-west", s.west) + "sinks:\n  - {name: journal, log: {output: events.log}}\n" +
			"  - {name: warnings, log: {output: warnings.log}, match: [{severity: warning}]}\n",
		Files: map[string]string{"hmc-east.pem": string(s.east.CACertPEM()), "hmc-west.pem": string(s.west.CACertPEM())},
	})
	s.AwaitReady(t, within)
	return s
}

// browser is a tab of Chromium.
type browser struct {
	t   *testing.T
	ctx context.Context //nolint:containedctx // chromedp's contexts are its tabs

	mu       sync.Mutex
	messages []chromedp.ConsoleMessage
}

// open starts a browser. At the end of the test nothing may be on its console but what allowed says.
func open(t *testing.T, allowed ...string) *browser {
	t.Helper()
	opts := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(program.Look(t, "chromium", "chromium")), chromedp.WindowSize(1280, 900),
		chromedp.UserDataDir(t.TempDir()))
	if os.Getuid() == 0 {
		opts = append(opts, chromedp.NoSandbox) // Chromium has none for root
	}
	ctx, cancelBrowser := chromedp.NewExecAllocator(context.WithoutCancel(t.Context()), opts...)
	ctx, cancelTab := chromedp.NewContext(ctx)
	b := &browser{t: t, ctx: ctx}
	messages := chromedp.Console(ctx)
	var listening sync.WaitGroup
	listening.Go(func() {
		for m, err := range messages {
			if err != nil {
				return
			}
			b.mu.Lock()
			b.messages = append(b.messages, m)
			b.mu.Unlock()
		}
	})
	t.Cleanup(func() {
		if err := chromedp.Cancel(ctx); err != nil {
			t.Error(err)
		}
		cancelTab()
		cancelBrowser()
		listening.Wait()
		for _, m := range b.messages {
			text := fmt.Sprintf("%s %s %s %s", m.Type, m.Source, m.Text, m.URL)
			fine := false
			for _, a := range allowed {
				fine = fine || strings.Contains(text, a)
			}
			if !fine {
				t.Errorf("console: %s", text)
			}
		}
	})
	return b
}

// limited is the tab with a time limit.
func (b *browser) limited() (context.Context, context.CancelFunc) {
	return context.WithTimeout(b.ctx, within)
}

func (b *browser) do(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, cancel := b.limited()
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		b.t.Fatal(err)
	}
}

// value evaluates an expression in the page.
func value[T any](b *browser, expression string) T {
	b.t.Helper()
	ctx, cancel := b.limited()
	defer cancel()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		b.t.Fatalf("%s: %v", expression, err)
	}
	return v
}

// await waits until an expression is true and returns how long that took.
func (b *browser) await(expression string) time.Duration {
	b.t.Helper()
	start := time.Now()
	for !value[bool](b, expression) {
		if time.Since(start) > within {
			b.t.Fatalf("not within %v: %s\n%s", within, expression, value[string](b, "document.body.innerText"))
		}
		time.Sleep(10 * time.Millisecond)
	}
	return time.Since(start)
}

// show sets the size and the color scheme of the window.
func (b *browser) show(width, height int64, scheme string) {
	b.t.Helper()
	ctx, cancel := b.limited()
	defer cancel()
	_, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
		{Name: "prefers-color-scheme", Value: scheme}, {Name: "prefers-reduced-motion", Value: "reduce"},
	}})
	if err == nil {
		_, err = chromedp.Call(ctx, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{
			Width: width, Height: height, DeviceScaleFactor: 1, Mobile: width < 600,
		})
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

// picture takes a picture of the whole page, where somebody wants to see it.
func (b *browser) picture(name string) {
	b.t.Helper()
	dir := os.Getenv(screenshotsVariable)
	if dir == "" {
		return
	}
	ctx, cancel := b.limited()
	defer cancel()
	png, err := chromedp.Run(ctx, chromedp.FullScreenshot(100))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, name+".png"), png, 0o600)
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

func stateIs(hmc, state string) string {
	return fmt.Sprintf(`document.querySelector('[data-hmc=%q]')?.dataset.state === %q`, hmc, state)
}

func rowWith(text string) string {
	return fmt.Sprintf(`[...document.querySelectorAll("#tail-rows summary")].some(r => r.textContent.includes(%q))`, text)
}

// publish sends property changes of a partition.
func publish(t *testing.T, sim *hmcsim.HMC, name string, n int) {
	t.Helper()
	for range n {
		if sim.Publish(hmcsim.TopicObject, []hmcsim.Header{
			{Name: "notification-type", Value: "property-change"},
			{Name: "class", Value: "partition"},
			{Name: "name", Value: name},
			{Name: "object-uri", Value: "/api/partitions/test"},
			{Name: "property-names", Value: " description "},
		}, []byte(`{"change-reports":[{"property-name":"description","old-value":null,"new-value":"x"}]}`)) == 0 {
			t.Fatal("nobody listens")
		}
	}
}

// The page of two HMCs, one of which is restarted, and the events as they come.
func TestLivePage(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	b := open(t)
	b.show(1280, 900, "light")
	b.do(chromedp.Navigate(s.URL + "/"))
	b.await(stateIs("hmc-east", "connected"))
	b.await(stateIs("hmc-west", "connected"))
	b.await(`document.getElementById("headline").textContent === "All HMCs and sinks work"`)
	b.await(`document.getElementById("tail-state").textContent.startsWith("Listening")`)

	// A status change is in the tail, and in the estate.
	partition := s.east.Partitions()[0]
	status := map[bool]string{true: "degraded", false: "exceptions"}[partition.DPM]
	start := time.Now()
	if err := s.east.SetPartitionStatus(partition.ID, status); err != nil {
		t.Fatal(err)
	}
	b.await(rowWith("-> " + status))
	t.Logf("a status change was in the tail after %v", time.Since(start)) // a second is what it may take, on a quiet machine
	b.await(fmt.Sprintf(`[...document.querySelectorAll(".estate tr")].some(r => r.textContent.includes(%q) && r.textContent.includes(%q))`, partition.Name, status))

	// Its detail on a click, and away on the next.
	b.do(chromedp.Click(chromedp.CSS("#tail-rows summary")))
	b.await(`(document.querySelector("#tail-rows pre")?.textContent || "").includes('"notification-type": "status-change"')`)
	b.do(chromedp.Click(chromedp.CSS("#tail-rows summary")))
	b.await(`!document.querySelector("#tail-rows pre")`)

	// An HMC is restarted. What is opened meanwhile stays open.
	b.do(chromedp.Click(chromedp.CSS("#hmc-1 details summary")))
	start = time.Now()
	s.east.Stop()
	b.await(`document.querySelector('[data-hmc="hmc-east"]').dataset.state !== "connected"`)
	t.Logf("the page showed the loss after %v", time.Since(start)) // three seconds
	b.await(`(document.querySelector("#overview .wrong .do")?.textContent || "").includes("It is tried again by itself.")`)
	b.await(`document.querySelector("#overview").classList.contains("critical") && document.title.startsWith("(1)")`)
	b.await(`document.querySelector(".estate tr.stale") !== null`)
	if err := s.east.Resume(); err != nil {
		t.Fatal(err)
	}
	s.AwaitReady(t, within)
	t.Logf("the page showed the new link after %v", b.await(stateIs("hmc-east", "connected"))) // three seconds
	b.await(rowWith("bridge-connected"))
	b.await(`document.getElementById("headline").textContent === "All HMCs and sinks work"`)
	b.await(`document.querySelector("#hmc-0").textContent.includes("1 outage, the last")`)
	if !value[bool](b, `document.querySelector("#hmc-1 details").open`) {
		t.Error("what was opened was closed")
	}
}

// The filters, the pause and the search; and what an HMC sends is text.
func TestFilters(t *testing.T) {
	t.Parallel()
	const evil = `<img src=x onerror="document.title='hacked'"><script>document.title='hacked'</script>`
	s := startSite(t)
	b := open(t)
	b.do(chromedp.Navigate(s.URL + "/"))
	b.await(`document.getElementById("tail-state").textContent.startsWith("Listening")`)
	publish(t, s.east, evil, 1)
	b.await(rowWith(evil))
	b.do(chromedp.Navigate(s.URL + "/")) // a page that is opened later begins with what was there before
	b.await(rowWith(evil))

	// As a person does: choose, type, press.
	set := func(name, to string) {
		t.Helper()
		value[any](b, fmt.Sprintf(`(() => { const e = document.getElementById("tail-filter").elements[%q]; e.value = %q; e.dispatchEvent(new Event("input", {bubbles: true})); })()`, name, to))
	}
	follows := func(query string) {
		t.Helper()
		b.await(fmt.Sprintf(`document.getElementById("tail").dataset.from === %q`, "api/v1/events"+query))
	}
	set("hmc", "hmc-west")
	set("text", "seen-")
	follows("?hmc=hmc-west&text=seen-")
	if value[bool](b, rowWith(evil)) {
		t.Error("what does not fit the new filter stayed")
	}
	publish(t, s.east, "seen-east", 1)
	publish(t, s.west, "UNSEEN", 1)
	publish(t, s.west, "seen-west", 1)
	b.await(rowWith("seen-west"))
	if n := value[int](b, `document.getElementById("tail-rows").childElementCount`); n != 1 {
		t.Errorf("%d rows", n)
	}
	set("text", "")
	set("hmc", "")
	set("severity", "warning critical")
	follows("?severity=warning&severity=critical")
	p := s.west.Partitions()[0]
	for _, status := range []string{"degraded", "active", "stopped"} {
		if err := s.west.SetPartitionStatus(p.ID, status); err != nil {
			t.Fatal(err)
		}
	}
	b.await(rowWith("-> stopped"))
	if n := value[int](b, `document.getElementById("tail-rows").childElementCount`); n != 2 || value[bool](b, rowWith("-> active")) {
		t.Errorf("%d rows", n)
	}
	set("severity", "")
	set("sink", "warnings")
	follows("?sink=warnings")
	publish(t, s.east, "INFO", 1)
	if err := s.west.SetPartitionStatus(p.ID, "paused"); err != nil {
		t.Fatal(err)
	}
	b.await(rowWith("-> paused"))
	if value[bool](b, rowWith("INFO")) {
		t.Error("the sink would not get it")
	}
	set("sink", "")
	follows("")

	b.do(chromedp.Click(chromedp.CSS("#tail-pause")))
	publish(t, s.east, "LATER", 1)
	b.await(`/^Paused\. [1-9]/.test(document.getElementById("tail-state").textContent)`)
	if value[bool](b, rowWith("LATER")) {
		t.Error("it was shown during the pause")
	}
	b.do(chromedp.Click(chromedp.CSS("#tail-pause")))
	b.await(rowWith("LATER"))
	b.do(chromedp.Click(chromedp.CSS("#tail-clear")))
	b.await(`document.getElementById("tail-rows").childElementCount === 0`)

	// The estate, while one types.
	name := s.west.Partitions()[1].Name
	if err := s.west.RenamePartition(s.west.Partitions()[1].ID, evil[:20]); err != nil {
		t.Fatal(err)
	}
	b.do(chromedp.SendKeys(chromedp.CSS("#estate-form input[name=q]"), "img hmc-west"))
	b.await(`document.querySelectorAll(".estate tbody tr").length === 1`)
	if text := value[string](b, `document.querySelector(".estate tbody th").firstChild.textContent.trim()`); text != evil[:20] {
		t.Errorf("%q instead of %q", text, name)
	}
	b.do(chromedp.Click(chromedp.CSS("#estate-live .chip")))
	b.await(`location.search.includes("status=") && document.querySelector(".chip.selected") !== null`)
	if title := value[string](b, "document.title"); strings.Contains(title, "hacked") {
		t.Error("what an HMC sent was run")
	}
}

// Without JavaScript the page says the same, and the search works.
func TestWithoutJavaScript(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	b := open(t)
	ctx, cancel := b.limited()
	defer cancel()
	if _, err := chromedp.Call(ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true}); err != nil {
		t.Fatal(err)
	}
	b.do(chromedp.Navigate(s.URL + "/"))
	text, err := chromedp.Run(ctx, chromedp.Text(chromedp.CSS("main")))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"All HMCs and sinks work", "hmc-east", "hmc-west", "journal", "Live events need JavaScript", s.west.Partitions()[0].Name} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	b.do(chromedp.SetAttributeValue(chromedp.CSS("#estate-form input[name=q]"), "value", "lpar"), chromedp.Click(chromedp.CSS("#estate-form button")))
	for start := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		address, err := chromedp.Run(ctx, chromedp.Location())
		if err == nil && strings.Contains(address, "q=lpar") {
			break
		}
		if time.Since(start) > within {
			t.Fatalf("%s, %v", address, err)
		}
	}
	b.do(chromedp.WaitReady(chromedp.CSS("#estate-live table")))
}

// What the page's policy forbids is not done, and is on the console, where all these tests look.
func TestPolicy(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	b := open(t, "Content Security Policy")
	b.do(chromedp.Navigate(s.URL + "/"))
	value[any](b, `(() => { const s = document.createElement("script"); s.textContent = "document.title = 'hacked'"; document.body.append(s) })()`)
	program.Await(t, within, func() error {
		b.mu.Lock()
		defer b.mu.Unlock()
		if len(b.messages) == 0 {
			return errors.New("nothing is on the console")
		}
		return nil
	})
	if title := value[string](b, "document.title"); strings.Contains(title, "hacked") {
		t.Error("a script was run that is not the page's")
	}
}

// usage is what a page and its daemon need.
type usage struct {
	heap, nodes, listeners float64 // of the page
	live                   float64 // bytes of the daemon's heap that were in use at its last garbage collection
	collected              float64 // when that was
	goroutines, resident   float64
}

func (b *browser) usage(s *site) usage {
	b.t.Helper()
	ctx, cancel := b.limited()
	defer cancel()
	for range 3 { // what is freed by one may free something else
		if _, err := chromedp.Call(ctx, heapprofiler.CollectGarbage, cdp.Empty{}); err != nil {
			b.t.Fatal(err)
		}
	}
	heap, err := chromedp.Call(ctx, runtime.GetHeapUsage, cdp.Empty{})
	if err != nil {
		b.t.Fatal(err)
	}
	dom, err := chromedp.Call(ctx, memory.GetDOMCounters, cdp.Empty{})
	if err != nil {
		b.t.Fatal(err)
	}
	return usage{
		heap: heap.UsedSize, nodes: float64(dom.Nodes), listeners: float64(dom.JsEventListeners),
		live: s.Metric(b.t, "go_memstats_next_gc_bytes") / 2, collected: s.Metric(b.t, "go_memstats_last_gc_time_seconds"),
		goroutines: s.Metric(b.t, "go_goroutines"), resident: s.Metric(b.t, "process_resident_memory_bytes"),
	}
}

// Ten thousand events later the memory of the page and of the daemon are what they were.
func TestMemoryIsFlat(t *testing.T) {
	t.Parallel()
	const events = 10_000
	s := startSite(t)
	b := open(t)
	b.do(chromedp.Navigate(s.URL + "/"))
	b.await(`document.getElementById("tail-state").textContent.startsWith("Listening")`)
	shown := 0.0
	send := func() {
		t.Helper()
		shown = value[float64](b, `Number(document.getElementById("tail").dataset.shown || 0)`)
		publish(t, s.east, "LOAD", events)
		b.await(fmt.Sprintf(`Number(document.getElementById("tail").dataset.shown) >= %v`, shown+events))
		s.AwaitMetric(t, within, 0, "hmcnotifyd_sink_queue_events")
	}
	// collected sends until the daemon's memory was collected five times: only then it is known what it needs. What was on its way
	// at that moment counts too, so the least of them tells.
	collected := func() (least usage) {
		last := b.usage(s).collected
		for n := 0; n < 5; {
			send()
			u := b.usage(s)
			if u.collected == last {
				continue
			}
			n, last = n+1, u.collected
			if least.live > 0 {
				u.live, u.heap, u.nodes, u.listeners = min(u.live, least.live), min(u.heap, least.heap), min(u.nodes, least.nodes), min(u.listeners, least.listeners)
			}
			least = u
		}
		return least
	}
	collected() // so that everything has the size that it needs
	before, after := collected(), collected()
	t.Logf("before %+v, after %+v", before, after)
	for _, m := range []struct {
		what                 string
		before, after, grows float64
	}{
		{"the page's heap", before.heap, after.heap, 1 << 20},
		{"the page's nodes", before.nodes, after.nodes, 500},
		{"the page's listeners", before.listeners, after.listeners, 10},
		{"the daemon's heap", before.live, after.live, 6 << 20},
		{"the daemon's goroutines", before.goroutines, after.goroutines, 10},
	} {
		if m.after > m.before+m.grows {
			t.Errorf("%s grew from %v to %v", m.what, m.before, m.after)
		}
	}
	if rows := value[float64](b, `document.getElementById("tail-rows").childElementCount`); rows > 200 {
		t.Errorf("%v rows", rows)
	}
}

// The daemon goes away and comes back: the page says so, and goes on.
func TestDaemonGone(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	b := open(t, "network") // that the daemon does not answer is said on the console
	b.do(chromedp.Navigate(s.URL + "/"))
	b.await(`document.getElementById("tail-state").textContent.startsWith("Listening")`)
	s.Stop(t)
	b.await(`!document.getElementById("lost").hidden && document.getElementById("lost").textContent.startsWith("No answer from the daemon since")`)
	b.await(`document.getElementById("tail-state").textContent.startsWith("Not connected")`)
	s.Start(t)
	s.AwaitReady(t, within)
	b.await(`document.getElementById("lost").hidden`)
	b.await(`document.getElementById("tail-state").textContent.startsWith("Listening")`)
	publish(t, s.east, "AGAIN", 1)
	b.await(rowWith("AGAIN"))
}

// violation is what axe-core finds.
type violation struct {
	ID, Impact, Help string
	Nodes            []struct {
		HTML           string
		FailureSummary string
	}
}

// estate is a daemon with so many simulated HMCs, of which the first one's names are long.
type estate struct {
	*daemon.Daemon
	hmcs []*hmcsim.HMC
}

func startEstate(t *testing.T, hmcs int) *estate {
	t.Helper()
	e := &estate{}
	files, entries, sinks := map[string]string{}, "", ""
	for i := range hmcs {
		name := fmt.Sprintf("hmc-%d", i+1)
		if i == 1 {
			name = "hmc-with-a-name-that-somebody-has-made-of-its-place-and-purpose"
		}
		sim := hmctest.Start(t, hmcsim.Options{Name: "HMC", CPCs: 2, Partitions: 4, Seed: uint64(i + 1)})
		e.hmcs = append(e.hmcs, sim)
		files[name+".pem"] = string(sim.CACertPEM())
		entries += fmt.Sprintf("  - {name: %s, hosts: [\"127.0.0.1\"], rest_port: %d, stomp_port: %d, userid: hmcuser, password: hmcpass, tls: {ca_file: %s.pem}, "+
			"topics: [object, job, audit, security], rest_requests_per_minute: 6000, stomp: {reconnect_sleep_max: 1s}}\n", name, sim.RESTPort(), sim.StompPort(), name)
	}
	for i := range min(hmcs, 15) {
		sinks += fmt.Sprintf("  - {name: file-%d, log: {output: events-%d.log}}\n", i+1, i+1)
	}
	e.Daemon = daemon.Start(t, daemon.Options{Config: "hmcs:\n" + entries + "sinks:\n" + sinks, Files: files})
	e.AwaitReady(t, within)
	return e
}

// live lets something happen on the first HMCs.
func (e *estate) live(t *testing.T) {
	t.Helper()
	for _, sim := range e.hmcs[:min(len(e.hmcs), 20)] {
		for i, p := range sim.Partitions() {
			status := []string{"degraded", "stopped", "active"}[i%3]
			if !p.DPM {
				status = []string{"exceptions", "not-activated", "operating"}[i%3]
			}
			if err := sim.SetPartitionStatus(p.ID, status); err != nil {
				t.Fatal(err)
			}
		}
	}
	p := e.hmcs[0].Partitions()[0]
	if err := e.hmcs[0].RenamePartition(p.ID, "PART-OF-A-LONG-NAME-"+strings.Repeat("X", 44)); err != nil {
		t.Fatal(err)
	}
}

// Everybody can use the page, in each form of it, of one HMC and of many: axe-core finds nothing serious, nothing is wider than the
// window or cut off in it, nothing is on the console.
func TestAccessible(t *testing.T) {
	t.Parallel()
	axe, err := os.ReadFile(filepath.Join(daemon.Root(t), ".cache/npm/node_modules/axe-core/axe.min.js"))
	if err != nil {
		t.Fatalf("%v: tests/real/install brings it", err)
	}
	sizes := []int{1, 200}
	if os.Getenv(screenshotsVariable) != "" {
		sizes = []int{1, 30, 200}
	}
	for _, hmcs := range sizes {
		t.Run(fmt.Sprint(hmcs), func(t *testing.T) {
			t.Parallel()
			testAccessible(t, startEstate(t, hmcs), string(axe))
		})
	}
}

func testAccessible(t *testing.T, e *estate, axe string) {
	b := open(t)
	b.do(chromedp.Navigate(e.URL + "/"))
	b.await(`document.getElementById("tail-state").textContent.startsWith("Listening")`)
	e.live(t)
	b.await(rowWith("-> degraded"))
	many := len(e.hmcs) > 1
	for _, wrong := range []bool{false, true} {
		if wrong {
			e.hmcs[0].Stop()
			for _, sim := range e.hmcs[max(1, len(e.hmcs)-2):] {
				sim.Stop()
			}
			b.await(`document.querySelector("#overview .wrong li.critical") !== null`)
			value[any](b, `document.querySelectorAll(".card details, .rows li:nth-child(3) details, .tail li:first-child details").forEach(d => { d.open = true })`)
		}
		for _, form := range []struct {
			name          string
			width, height int64
			scheme        string
			// also with many HMCs: it takes long
			axe bool
		}{
			{"wide", 1440, 900, "light", true},
			{"wide-dark", 1440, 900, "dark", false},
			{"middle", 1024, 768, "light", false},
			{"middle-dark", 1024, 768, "dark", false},
			{"phone", 390, 844, "light", false},
			{"phone-dark", 390, 844, "dark", true},
			{"narrow", 320, 640, "light", false},
		} {
			t.Run(fmt.Sprintf("%s/wrong=%v", form.name, wrong), func(t *testing.T) {
				b.show(form.width, form.height, form.scheme)
				if w := value[float64](b, "document.documentElement.scrollWidth"); w > float64(form.width) {
					t.Errorf("the page is %v wide in a window of %d", w, form.width)
				}
				if cut := value[[]string](b, cutOff); len(cut) > 0 {
					t.Errorf("cut off: %q", cut)
				}
				if broken := value[[]string](b, brokenWords); len(broken) > 0 {
					t.Errorf("in two lines: %q", broken)
				}
				b.picture(fmt.Sprintf("%d-%s-wrong-%v", len(e.hmcs), form.name, wrong))
				if !many || wrong && form.axe {
					checkAxe(t, b, axe)
				}
			})
		}
	}
	if !many { // what the page had when it could ask for nothing more is all that there is to read
		value[any](b, `document.querySelector(".lost").hidden = false`)
		checkAxe(t, b, axe)
	}
}

// cutOff finds texts that reach beyond what they are in, where nobody can scroll to them.
const cutOff = `[...document.querySelectorAll("main *, header *, footer *")].filter(e => {
	if (e.childElementCount || !e.textContent.trim() || !e.getClientRects().length) return false
	for (let p = e, inner = e.getBoundingClientRect(); p && p !== document.body; p = p.parentElement) {
		const style = getComputedStyle(p), outer = p.getBoundingClientRect()
		if (style.overflowX === "auto" || style.position === "absolute") return false
		if (inner.right > outer.right + 1 && style.display !== "inline" && p !== e) return true
	}
	return false
}).map(e => e.textContent.trim().slice(0, 60))`

// brokenWords finds words of lists and tables, none of them long, that do not stand in one line.
const brokenWords = `[...document.querySelectorAll(".estate th, .estate td, .rows summary > span")].slice(0, 400).flatMap(e => {
	const walker = document.createTreeWalker(e, NodeFilter.SHOW_TEXT), found = []
	for (let node; node = walker.nextNode();) {
		for (const word of node.data.matchAll(/[^\s\u202f-]{2,20}/g)) {
			const range = document.createRange()
			range.setStart(node, word.index)
			range.setEnd(node, word.index + word[0].length)
			if (new Set([...range.getClientRects()].map(r => r.top)).size > 1 && !/[^\s-]{21}/.test(e.textContent)) found.push(word[0] + " of " + e.textContent.trim())
		}
	}
	return found
})`

// checkAxe has axe-core look at the page as it is now.
func checkAxe(t *testing.T, b *browser, axe string) {
	t.Helper()
	value[any](b, axe+";0")
	ctx, cancel := b.limited()
	defer cancel()
	out, err := chromedp.Run(ctx, chromedp.Evaluate[string](`axe.run(document, {resultTypes: ["violations"]}).then(r => JSON.stringify(r.violations))`, chromedp.EvalAwaitPromise))
	if err != nil {
		t.Fatal(err)
	}
	var found []violation
	if err := json.Unmarshal([]byte(out), &found); err != nil {
		t.Fatal(err)
	}
	for _, v := range found {
		for _, n := range v.Nodes {
			say := t.Logf
			if v.Impact == "serious" || v.Impact == "critical" {
				say = t.Errorf
			}
			say("%s (%s): %s\n%s\n%s", v.ID, v.Impact, v.Help, n.HTML, n.FailureSummary)
		}
	}
}
