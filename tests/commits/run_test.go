package commits_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/bridge"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/record"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/watch"
	"github.com/hmcnotifyd/hmcnotifyd/tests/oracle"
)

const (
	// within is how long a run waits for something that takes moments on a machine with nothing
	// else to do.
	within = 4 * time.Minute
	// calm is how long nothing may come after everything has.
	calm = 500 * time.Millisecond
)

// run is the run of one seed.
type run struct {
	seed     uint64
	dir      string
	scenario string

	random   *rand.Rand
	ledger   *oracle.Ledger
	faults   *faults
	hmcs     []*console
	grouped  bool
	restarts int

	hook   *hook
	bridge *bridge.Bridge
	cancel context.CancelFunc
	done   chan error
	logs   *os.File

	verdict *oracle.Verdict
}

// do does the run, and returns what is wrong.
func (r *run) do() (problems []string) {
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return []string{err.Error()}
	}
	r.plan()
	defer func() {
		if err := r.stop(); err != nil {
			problems = append(problems, err.Error())
		}
		for _, c := range slices.Backward(r.hmcs) {
			if err := c.sim.Close(); err != nil {
				problems = append(problems, err.Error())
			}
		}
		if r.hook != nil {
			r.hook.server.Close()
		}
		if r.logs != nil {
			_ = r.logs.Close() // it is for people
		}
	}()
	if err := r.live(); err != nil {
		problems = append(problems, err.Error())
	}
	return append(problems, r.judge()...)
}

// plan decides on what is tried.
func (r *run) plan() {
	r.random = rand.New(rand.NewPCG(r.seed, 10))
	r.ledger = oracle.NewLedger()
	r.faults = &faults{
		ledger: r.ledger, random: rand.New(rand.NewPCG(r.seed, 11)),
		often: 2 + r.random.IntN(14), length: 1 + r.random.IntN(12),
	}
	r.restarts = max(0, r.random.IntN(4)-2) // of one run out of four
}

// live starts everything, and ends when the daemon has done all that was to be done.
func (r *run) live() error {
	if err := r.startHMCs(); err != nil {
		return err
	}
	r.hook = newHook()
	// Before anything is stored nobody knows, after a restart, that there is something to be fetched;
	// nor is it known at once from where on a partition is followed that is not replayed.
	cold := r.restarts == 0 && !slices.ContainsFunc(r.hmcs, func(c *console) bool { return !c.refresh })
	early := cold && r.random.IntN(3) == 0
	r.scenario = fmt.Sprintf("%d HMCs, of one group: %v; commits fail in bursts of 1 to %d, one out of %d begins one, from the start on: %v; %d restarts",
		len(r.hmcs), r.grouped, r.faults.length, r.faults.often, early, r.restarts)
	if err := r.start(early); err != nil {
		return err
	}
	if err := r.await("connected", r.connected); err != nil {
		return err
	}
	if !cold {
		if err := r.warmUp(); err != nil {
			return err
		}
	}
	r.faults.arm(true)
	length := time.Duration(1000+r.random.IntN(1000)) * time.Millisecond
	for range r.restarts {
		if err := r.load(length / 2); err != nil {
			return err
		}
		// What is published while it is down is lost.
		end := r.ledger.Begin("", "restart")
		_ = r.stop() // it may well be that its last events cannot be stored
		if err := r.load(50 * time.Millisecond); err != nil {
			return err
		}
		if err := r.start(r.random.IntN(2) == 0); err != nil {
			return err
		}
		r.faults.arm(true)
		if err := r.load(length / 2); err != nil {
			return err
		}
		if err := r.await("connected", r.connected); err != nil {
			return err
		}
		end()
	}
	for wanted := r.faults.begun() + 1; ; {
		if err := r.load(length); err != nil {
			return err
		}
		if r.faults.begun() >= wanted {
			break
		}
	}
	r.faults.arm(false)
	// There are notifications after the last fault, which have to arrive.
	time.Sleep(200 * time.Millisecond)
	if err := r.load(100 * time.Millisecond); err != nil {
		return err
	}
	for _, c := range r.hmcs {
		for _, log := range logs {
			r.logEntries(c, log, 1, false)
		}
	}
	if err := r.await("complete", r.complete); err != nil {
		return err
	}
	time.Sleep(calm)
	return nil
}

// warmUp has something stored of each HMC, and of each partition whose messages are not replayed.
func (r *run) warmUp() error {
	for _, c := range r.hmcs {
		for _, p := range c.sim.Partitions() {
			r.propertyChange(c, p)
			if c.refresh {
				continue
			}
			if err := r.osMessages(c, p, 1); err != nil {
				return err
			}
		}
	}
	return r.await("warm", r.complete)
}

// start starts the daemon. early says that commits fail from its start on.
func (r *run) start(early bool) error {
	var text strings.Builder
	text.WriteString("hmcs:\n")
	for _, c := range r.hmcs {
		text.WriteString(c.entry)
	}
	fmt.Fprintf(&text, "sinks:\n- {name: journal, log: {output: events.log}}\n"+
		"- {name: hook, webhook: {url: %q}, batch: {max_events: 20, max_wait: 20ms}, concurrency: 2}\n", r.hook.server.URL)
	path := filepath.Join(r.dir, "hmcnotifyd.yaml")
	if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
		return err
	}
	cfg, err := config.Load(path)
	if err != nil {
		return err
	}
	if r.logs == nil {
		if r.logs, err = os.Create(filepath.Join(r.dir, "log")); err != nil {
			return err
		}
	}
	core := zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.Lock(r.logs), zap.DebugLevel)
	r.faults.arm(false)
	r.bridge, err = bridge.New(bridge.Options{
		Config: cfg, StoragePath: filepath.Join(r.dir, "data"), Logger: zap.New(core), Version: "test", Stdout: io.Discard, Stderr: io.Discard,
		WrapStore: func(s queue.Store) queue.Store { return failing{s, r.faults} },
		// What a daemon waits for is not the subject, and what is fetched again would wait most.
		Intervals: watch.Intervals{
			Recording:  record.Timing{Tick: 100 * time.Millisecond, Settle: 500 * time.Millisecond},
			ChannelMin: 500 * time.Millisecond, ChannelMax: 2 * time.Second, ChannelSoon: 200 * time.Millisecond, Relist: time.Second,
		},
	})
	if err != nil {
		return err
	}
	r.faults.arm(early)
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel, r.done = cancel, make(chan error, 1)
	go func() { r.done <- r.bridge.Run(ctx) }()
	return nil
}

// stop ends the daemon. Calling it again does nothing.
func (r *run) stop() error {
	if r.cancel == nil {
		return nil
	}
	r.cancel()
	r.cancel = nil
	return <-r.done
}

// await waits until ok returns nil.
func (r *run) await(what string, ok func() error) error {
	err := ok()
	for end := time.Now().Add(within); err != nil; err = ok() {
		if time.Now().After(end) {
			return fmt.Errorf("not %s: %w", what, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
	return nil
}

// connected says whether all is followed.
func (r *run) connected() error {
	hmcs := r.bridge.Status().HMCs
	if len(hmcs) != len(r.hmcs) {
		return fmt.Errorf("%d HMCs are looked after", len(hmcs))
	}
	for _, h := range hmcs {
		if !h.Connected || h.OSMessages == nil || h.OSMessages.Followed != partitions {
			return fmt.Errorf("HMC %s: %v %+v", h.Name, h.Problems, h.OSMessages)
		}
	}
	return nil
}

// complete says whether there is nothing more to be done, and nothing is wrong.
func (r *run) complete() error {
	if err := r.connected(); err != nil {
		return err
	}
	for _, s := range r.bridge.Status().Sinks {
		if s.QueueEvents > 0 {
			return fmt.Errorf("%d events wait for %s", s.QueueEvents, s.Name)
		}
	}
	if problems := r.judge(); len(problems) > 0 {
		return fmt.Errorf("%s", problems[0])
	}
	return nil
}

// judge says what is wrong with what has arrived so far.
func (r *run) judge() []string {
	journal, err := oracle.ReadLog("journal", filepath.Join(r.dir, "events.log"), 0)
	if err != nil {
		return []string{err.Error()}
	}
	hooked, problems := r.hook.deliveries()
	if r.grouped {
		journal.Arrivals = oracle.Share(journal.Arrivals, both, r.hmcs[0].name, r.hmcs[1].name)
		hooked.Arrivals = oracle.Share(hooked.Arrivals, both, r.hmcs[0].name, r.hmcs[1].name)
	}
	published, windows := r.ledger.Snapshot()
	for _, name := range []string{r.hmcs[0].name, r.hmcs[len(r.hmcs)-1].name, r.account(r.hmcs[0])} {
		if _, ok := published[name]; !ok {
			published[name] = nil // it is known, and has published nothing
		}
	}
	r.verdict = oracle.Judge(published, windows, journal, hooked)
	problems = append(problems, r.verdict.Violations...)
	for sink, counts := range r.verdict.Counts {
		for hmc, c := range counts {
			// A webhook that does not answer in time gets the same event again.
			if c.Again > 0 && sink == "journal" || c.Twice > 0 {
				problems = append(problems, fmt.Sprintf("%s: of %s %d arrived again, %d came twice", sink, hmc, c.Again, c.Twice))
			}
		}
	}
	return append(problems, r.statuses(journal)...)
}

// statuses says of which partitions the last status that was reported is not the one they have.
func (r *run) statuses(journal oracle.Deliveries) (problems []string) {
	last := make(map[string]string)
	for i := range journal.Arrivals {
		a := &journal.Arrivals[i]
		if a.Type != event.TypeStatusChange || a.Resource == nil {
			continue
		}
		for report := range event.Elements(event.Member(a.Body, "change-reports")) {
			last[a.Resource.ObjectURI] = event.String(event.Member(report, "new-status"))
		}
	}
	for _, c := range r.hmcs {
		for _, p := range c.sim.Partitions() {
			if was := last[p.URI]; was != "" && was != p.Status {
				problems = append(problems, fmt.Sprintf("the status of %s on %s is %s, and was last reported to be %s", p.Name, c.name, p.Status, was))
			}
		}
	}
	return problems
}

// hook is a webhook consumer.
type hook struct {
	server *httptest.Server

	mu       sync.Mutex
	arrivals []oracle.Arrival
	problems []string
}

func newHook() *hook {
	h := new(hook)
	h.server = httptest.NewServer(h)
	return h
}

func (h *hook) ServeHTTP(_ http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return // the sender has gone
	}
	var records []json.RawMessage
	err = json.Unmarshal(body, &records)
	h.mu.Lock()
	defer h.mu.Unlock()
	if err != nil {
		h.problems = append(h.problems, err.Error())
	}
	for _, raw := range records {
		a, err := oracle.ParseArrival(raw)
		if err != nil {
			h.problems = append(h.problems, err.Error())
			continue
		}
		h.arrivals = append(h.arrivals, a)
	}
}

func (h *hook) deliveries() (oracle.Deliveries, []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return oracle.Deliveries{Sink: "hook", Arrivals: slices.Clone(h.arrivals)}, slices.Clone(h.problems)
}

// totals are the figures of all runs.
type totals struct {
	mu                                                         sync.Mutex
	failed, bursts, published, arrived, recovered, named, gaps int
}

func (t *totals) add(r *run) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r.faults.mu.Lock()
	t.failed += r.faults.failed
	t.bursts += r.faults.bursts
	r.faults.mu.Unlock()
	if r.verdict == nil {
		return
	}
	for _, c := range r.verdict.Counts["hook"] {
		t.published += c.Published
		t.arrived += c.Arrived
		t.recovered += c.Recovered
		t.named += c.Named
		t.gaps += c.Gaps
	}
}

func (t *totals) String() string {
	return fmt.Sprintf("%d commits failed in %d bursts; of %d notifications %d arrived, %d of them recovered, %d were named by %d gaps",
		t.failed, t.bursts, t.published, t.arrived, t.recovered, t.named, t.gaps)
}
