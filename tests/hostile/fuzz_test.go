package hostile_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/daemon"
	"github.com/hmcnotifyd/hmcnotifyd/tests/soak"
)

// quiet takes what servers of the tests have to say of clients that are gone.
var quiet = log.New(io.Discard, "", 0)

// fuzzing is how long the fuzzers are at work, and seed what makes them do the same again.
func fuzzing(t *testing.T) (seed int, lasting time.Duration) {
	t.Helper()
	now := int(time.Now().UnixNano() % 1_000_000_000)
	seed = soak.Count(t, "FUZZ_SEED", now, now)
	seconds := soak.Count(t, "FUZZ_SECONDS", 1, 120)
	t.Logf("make fuzz SEED=%d SECONDS=%d", seed, seconds)
	return seed, time.Duration(seconds) * time.Second
}

// growth watches what a daemon takes while it is attacked.
type growth struct {
	v *victim
	// before the attack
	goroutines, files float64
	lines             int
	// the most memory in each tenth of the attack, in bytes
	memory [10]int64
}

func (v *victim) resources(t *testing.T) (goroutines, files float64) {
	t.Helper()
	text := v.Metrics(t)
	goroutines, err := daemon.Metric(text, "go_goroutines")
	files, err2 := daemon.Metric(text, "process_open_fds")
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	return goroutines, files
}

func watchGrowth(t *testing.T, v *victim) *growth {
	t.Helper()
	g := &growth{v: v, lines: strings.Count(v.Process.Output(), "\n")}
	g.goroutines, g.files = v.resources(t)
	return g
}

// during looks at the memory until the attack is over.
func (g *growth) during(ctx context.Context, lasting time.Duration) {
	began := time.Now()
	for ctx.Err() == nil {
		tenth := min(len(g.memory)-1, int(time.Since(began)*time.Duration(len(g.memory))/lasting))
		g.memory[tenth] = max(g.memory[tenth], g.v.field("status", "VmRSS:")<<10)
		select {
		case <-ctx.Done():
		case <-time.After(lasting / 100):
		}
	}
}

// judge wants nothing of the attack to be left, and no line of log for each of so many things that were said.
func (g *growth) judge(t *testing.T, lasting time.Duration, said int64) {
	t.Helper()
	var mib []int64
	for _, bytes := range g.memory {
		mib = append(mib, bytes>>20)
	}
	t.Logf("memory in each tenth of the attack: %v MiB", mib)
	// At first it grows to what the garbage collector lets be.
	if n := len(mib); lasting >= 5*time.Minute && mib[n-1] > max(mib[n/2-1], mib[n/2])+64 {
		t.Errorf("memory grows: %v MiB", mib)
	}
	g.v.Process.Await(t, within, func() error {
		goroutines, files := g.v.resources(t)
		if goroutines > g.goroutines+20 || files > g.files+20 {
			return fmt.Errorf("%v goroutines after %v, %v files after %v", goroutines, g.goroutines, files, g.files)
		}
		return nil
	})
	output := g.v.Process.Output()
	if strings.Contains(output, "panic") {
		i := strings.Index(output, "panic")
		t.Errorf("a panic: %.4000s", output[max(0, i-500):])
	}
	kinds := map[string]int{}
	lines := 0
	for line := range strings.Lines(output) {
		if lines++; lines <= g.lines {
			continue
		}
		var of struct{ Msg string }
		if err := json.Unmarshal([]byte(line), &of); err != nil {
			t.Errorf("a line of log that is no JSON: %.300s", line)
		}
		if problem := misleading(strings.TrimSuffix(line, "\n")); problem != "" {
			t.Errorf("the log: %s", problem)
		}
		if len(line) > 16<<10 {
			t.Errorf("a line of log of %d bytes: %.300s", len(line), line)
		}
		kinds[of.Msg]++
	}
	lines -= g.lines
	t.Logf("%d things were said, %d lines of log of %d kinds came of it", said, lines, len(kinds))
	// Of each kind as many as the throttle lets through, of each HMC and sink: what comes seldom is told each time.
	for kind, n := range kinds {
		if most := 30 + int(lasting/time.Second)*3; n > most {
			t.Errorf("%d lines %q, more than %d", n, kind, most)
		}
	}
	if len(kinds) > 150 || int64(lines) > 300+said/20 {
		t.Errorf("%d lines of %d kinds after %d things that were said", lines, len(kinds), said)
	}
}

// consumer takes what the daemon delivers, looks at it, and refuses some of it for good.
type consumer struct {
	*httptest.Server
	t        *testing.T
	accepted atomic.Int64
}

func newConsumer(t *testing.T) *consumer {
	c := &consumer{t: t}
	c.Server = httptest.NewServer(c)
	t.Cleanup(c.Close)
	return c
}

func (c *consumer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	var events []struct{ ID, Type string }
	if err := json.Unmarshal(body, &events); err != nil {
		c.t.Errorf("an event that is no JSON: %v: %.500q", err, body)
	}
	if problem := misleading(string(body)); problem != "" {
		c.t.Errorf("an event: %s", problem)
	}
	for _, e := range events {
		if strings.HasPrefix(e.ID, "00") {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
	}
	c.accepted.Add(int64(len(events)))
}

// An HMC that says what comes to its mind, to a grammar and against it, on the link and in its answers: nothing of it ends the
// daemon or makes it grow, no line of log comes of each, and all that was counted is delivered.
func TestFuzzingHMC(t *testing.T) {
	soak.Parallel(t)
	seed, lasting := fuzzing(t)
	sim := hmctest.Start(t, hmcsim.Options{Name: "east", CPCs: 2, Partitions: 6, Rate: 5, MaxSessions: 100_000})
	m := newMiddle(t, sim)
	var uris []string
	for _, p := range sim.Partitions() {
		uris = append(uris, p.URI)
	}
	for _, c := range sim.CPCs() {
		uris = append(uris, c.URI)
	}
	uris = append(uris, "/api/console", "/api/partitions/"+strings.Repeat("x", 600), "", "/", "/api/partitions/none")

	var said, mutated atomic.Int64
	var attacking atomic.Bool
	var mu sync.Mutex
	answers := newGrammar(seed, 1, uris)
	m.answer = func(r *http.Response, body []byte) []byte {
		if !attacking.Load() {
			return body
		}
		mu.Lock()
		defer mu.Unlock()
		mutated.Add(1)
		return answers.answer(r, body)
	}
	out := newConsumer(t)
	v := start(t, daemon.Options{Config: "hmcs:\n" + m.entry(t, `, topics: [object, job, audit, security], os_messages: [{cpc: ".*", partition: ".*"}], hardware_messages: true`) +
		"sinks:\n- {name: ops, webhook: {url: \"" + out.URL + "\"}, batch: {max_events: 100, max_wait: 100ms}, concurrency: 4}\n"})
	v.AwaitReady(t, within)
	g := watchGrowth(t, v)

	ctx, cancel := context.WithTimeout(t.Context(), lasting)
	defer cancel()
	var attack sync.WaitGroup
	attacking.Store(true)
	attack.Go(func() {
		frames := newGrammar(seed, 2, uris)
		for ctx.Err() == nil {
			n := m.say(frames.frame)
			said.Add(int64(n))
			if n == 0 {
				time.Sleep(5 * time.Millisecond) // there is no link
			}
			if frames.in(20_000) {
				m.cut()
			}
			// As many as the daemon takes are no better than some thousand per second.
			time.Sleep(time.Duration(frames.IntN(1000)) * time.Microsecond)
		}
	})
	attack.Go(func() { g.during(ctx, lasting) })
	attack.Wait()
	attacking.Store(false)

	t.Logf("%d frames and %d answers, %v links", said.Load(), mutated.Load(), v.Metric(t, "hmcnotifyd_receiver_reconnects_total")+1)
	if said.Load() < int64(lasting/time.Second) || mutated.Load() < int64(lasting/time.Minute) {
		t.Error("hardly anything was said")
	}
	m.cut()
	v.AwaitMetric(t, within, 1, "hmcnotifyd_receiver_connected") // it has come to no harm
	g.judge(t, lasting, said.Load()+mutated.Load())
	out.all(t, v)
	v.end(t)
}

// all waits until something has become of everything that the daemon counts as stored, and wants the consumer to have seen it.
func (c *consumer) all(t *testing.T, v *victim) {
	t.Helper()
	var stored float64
	count := func(text, name string, labels ...string) float64 {
		n, err := daemon.Metric(text, name, labels...)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	v.Process.Await(t, within, func() error {
		text := v.Metrics(t)
		stored = count(text, "hmcnotifyd_events_total")
		delivered, dead := count(text, "hmcnotifyd_sink_events_total", "outcome", "delivered"), count(text, "hmcnotifyd_sink_events_total", "outcome", "dead_letter")
		if accepted := c.accepted.Load(); delivered+dead < stored || float64(accepted) < delivered {
			return fmt.Errorf("%v events are stored, %v delivered, %v dead letters; the consumer has accepted %d", stored, delivered, dead, accepted)
		}
		return nil
	})
	t.Logf("%v events stored and delivered, %v notifications counted as missed, %v that were no JSON", stored,
		v.Metric(t, "hmcnotifyd_notifications_missed_total"), v.Metric(t, "hmcnotifyd_notification_parse_errors_total"))
	if stored == 0 {
		t.Error("nothing was stored")
	}
}

// Somebody who says to the web side what comes to his mind, to a grammar and against it, in many connections at a time.
func TestFuzzingWebClient(t *testing.T) {
	soak.Parallel(t)
	seed, lasting := fuzzing(t)
	sim := hmctest.Start(t, hmcsim.Options{Name: "east", Rate: 20})
	out := newConsumer(t)
	v := start(t, daemon.Options{Config: "hmcs:\n" + hmctest.Entry(t, sim, "") +
		"sinks:\n- {name: ops, webhook: {url: \"" + out.URL + "\"}, batch: {max_events: 100, max_wait: 100ms}}\n"})
	v.AwaitReady(t, within)
	g := watchGrowth(t, v)

	ctx, cancel := context.WithTimeout(t.Context(), lasting)
	defer cancel()
	var said, answered atomic.Int64
	var attack sync.WaitGroup
	for worker := range 16 {
		attack.Go(func() {
			requests := newGrammar(seed, uint64(worker), []string{"/api/partitions/x"})
			for ctx.Err() == nil {
				var data []byte
				n := 1
				if requests.in(5) {
					n = 1 + requests.IntN(50)
				}
				for range n {
					data = append(data, requests.request(v.Addr())...)
				}
				said.Add(int64(n))
				status, err := converse(ctx, v.Addr(), data, time.Duration(requests.IntN(300))*time.Millisecond)
				if err == nil {
					answered.Add(1)
				}
				if status == http.StatusInternalServerError {
					t.Errorf("status 500 for %.2000q", data)
				}
			}
		})
	}
	attack.Go(func() { g.during(ctx, lasting) })
	attack.Wait()

	t.Logf("%d requests, %d conversations answered", said.Load(), answered.Load())
	if answered.Load() < int64(lasting/time.Second) {
		t.Error("hardly anything was answered")
	}
	g.judge(t, lasting, said.Load())
	out.all(t, v)
	v.end(t)
}

// converse sends bytes, reads for a time, and returns the first status.
func converse(ctx context.Context, addr string, data []byte, reading time.Duration) (status int, err error) {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Write(data); err != nil {
		return 0, err
	}
	buf := make([]byte, 4096)
	n, err := c.Read(buf)
	if err != nil {
		return 0, err
	}
	if fields := bytes.Fields(buf[:n]); len(fields) > 1 && bytes.HasPrefix(fields[0], []byte("HTTP/")) {
		status, _ = strconv.Atoi(string(fields[1]))
	}
	_ = c.SetDeadline(time.Now().Add(reading))
	_, _ = io.CopyN(io.Discard, c, 1<<20)
	return status, nil
}
