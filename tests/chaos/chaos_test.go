//go:build real

package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
	"github.com/hmcnotifyd/hmcnotifyd/tests/oracle"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/activemq"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/certs"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/daemon"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/program"
)

// The environment variables that `make chaos` sets.
const (
	seedVariable     = "CHAOS_SEED"     // one run with this seed
	durationVariable = "CHAOS_DURATION" // of each run
	keepVariable     = "CHAOS_KEEP"     // a directory for the logs of a run that fails
	activeMQVariable = "CHAOS_ACTIVEMQ" // "optional": go on without it if it is not installed
)

const (
	shortDuration = 25 * time.Second // of each of the two runs of make test-real
	readyTimeout  = 5 * time.Minute
	settleTimeout = 5 * time.Minute
	startAgain    = 300 * time.Millisecond // between two attempts to start the daemon, as a service manager does
)

func TestChaos(t *testing.T) {
	t.Parallel()
	duration := shortDuration
	seeds := []uint64{1, 2}
	if text := os.Getenv(durationVariable); text != "" {
		var err error
		if duration, err = time.ParseDuration(text); err != nil {
			t.Fatalf("%s: %v", durationVariable, err)
		}
	}
	if text := os.Getenv(seedVariable); text != "" {
		seed, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatalf("%s: %v", seedVariable, err)
		}
		seeds = []uint64{seed}
	}
	for _, seed := range seeds {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Parallel()
			defer func() {
				if t.Failed() {
					t.Logf("repeat it by: make chaos SEED=%d DURATION=%s", seed, duration)
				}
			}()
			newRun(t, seed).do(duration)
		})
	}
}

// run is one run: the daemon, what is around it, and what became of it.
type run struct {
	*testing.T
	seed    uint64
	start   time.Time
	ledger  *oracle.Ledger
	hook    *hook
	disk    *disk // nil: none that may be filled
	dir     string
	binary  string
	storage string
	addr    string
	api     daemonAPI

	consoles map[string]*console
	brokers  map[string]*activemq.Broker
	topics   *topics
	lives    atomic.Int64 // of the daemon

	process *program.Process // of the goroutine that has the daemon's faults

	mu       sync.Mutex
	counts   map[string]int // faults, and what else happened
	problems []string       // of the daemon itself: exits
	full     bool           // the disk is
	samples  []sample
}

// worker is a testing.TB for other goroutines than the test's own, in which
// FailNow must not be called: what is fatal ends the goroutine.
type worker struct{ testing.TB }

func (w worker) FailNow() {
	w.Fail()
	runtime.Goexit()
}

func (w worker) Fatal(args ...any) {
	w.Helper()
	w.Error(args...)
	runtime.Goexit()
}

func (w worker) Fatalf(format string, args ...any) {
	w.Helper()
	w.Errorf(format, args...)
	runtime.Goexit()
}

func newRun(t *testing.T, seed uint64) *run {
	r := &run{
		T: t, seed: seed, start: time.Now(), ledger: oracle.NewLedger(), dir: t.TempDir(), binary: daemon.Binary(t),
		addr:     net.JoinHostPort("127.0.0.1", strconv.Itoa(program.FreePort(t))),
		consoles: make(map[string]*console), brokers: make(map[string]*activemq.Broker), counts: make(map[string]int),
	}
	r.api = daemonAPI{"http://" + r.addr}
	r.storage = filepath.Join(r.dir, "data")
	if err := os.Mkdir(r.storage, 0o700); err != nil {
		t.Fatal(err)
	}
	d, err := mountDisk(r.storage)
	if err != nil {
		r.say("the disk is never full in this run: %v", err)
	} else {
		r.disk = d
		t.Cleanup(func() {
			if err := d.unmount(); err != nil {
				t.Errorf("unmount %s: %v", r.storage, err)
			}
		})
	}
	r.hook, err = startHook(net.JoinHostPort("127.0.0.1", strconv.Itoa(program.FreePort(t))))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.hook.close)

	// The HMCs behave differently where it is not known how real ones do.
	rng := rand.New(rand.NewPCG(seed, 1))
	r.addConsole(hmcEast, 10*time.Millisecond, hmcsim.Options{CutOnSessionEnd: true, RefreshOnce: rng.IntN(2) == 0})
	r.addConsole(hmcWest, 15*time.Millisecond, hmcsim.Options{SequencePerSession: true, RefreshOnce: rng.IntN(2) == 0})
	pair := hmcsim.Options{CPCs: 1, RefreshOnce: rng.IntN(2) == 0}
	lag := time.Duration(rng.IntN(200)) * time.Millisecond
	r.addConsole(hmcNorth, 15*time.Millisecond, pair)
	r.addConsole(hmcSouth, 60*time.Millisecond, hmcsim.Options{EstateOf: r.consoles[hmcNorth].sim, Lag: lag, OSMessageOffset: 1000, CutOnSessionEnd: true})
	r.topics = startTopics(t)
	if _, err := exec.LookPath("java"); err != nil && os.Getenv(activeMQVariable) == "optional" {
		r.say("ActiveMQ is not installed: this run does without it")
	} else {
		r.addConsole(hmcActiveMQ, 40*time.Millisecond, hmcsim.Options{CPCs: 1})
	}
	return r
}

// addConsole starts an HMC.
func (r *run) addConsole(name string, pause time.Duration, opts hmcsim.Options) {
	authority := certs.NewAuthority(r)
	issued := authority.Issue(r, certs.Request{})
	opts.Name, opts.Seed, opts.Certificate = name, r.seed, &issued.ServerConfig(r).Certificates[0]
	opts.Partitions, opts.OSMessages, opts.MaxSessions = 4, 1_000_000, 1_000_000
	c := &console{
		name: name, ledger: r.ledger, rng: rand.New(rand.NewPCG(r.seed, uint64(len(name)))), pause: pause,
		amq: name == hmcActiveMQ, sequence: make(map[string]int), account: name,
	}
	c.group = []*console{c}
	opts.Now = c.now
	switch name {
	case hmcNorth:
		c.account = accountPair
	case hmcSouth:
		north := r.consoles[hmcNorth]
		c.account, c.group = accountPair, []*console{north, c}
		north.group = c.group
	}
	if c.amq {
		b := activemq.Start(r, activemq.Options{Authority: authority, Certificate: &issued})
		r.brokers[name] = b
		c.out.Store(b.Publisher(r))
		opts.OnLogon = func(s hmcsim.SessionInfo) {
			b.AddUser(worker{r}, activemq.User{Name: s.SessionID, Password: s.Credential})
		}
	}
	sim := hmctest.Start(r, opts)
	c.sim = sim
	// An operating system runs in each partition, so that its messages can be
	// followed.
	for _, p := range sim.Partitions() {
		status := "operating"
		if p.DPM {
			status = "active"
		}
		if err := sim.SetPartitionStatus(p.ID, status); err != nil {
			r.Fatal(err)
		}
	}
	c.partitions = sim.Partitions()
	link := sim.StompAddr()
	if c.amq {
		link = net.JoinHostPort(r.brokers[name].Host(), strconv.Itoa(r.brokers[name].Port()))
	}
	c.rest, c.link = r.proxy(sim.RESTAddr()), r.proxy(link)
	ca := authority.WriteFile(r)
	if err := os.Rename(ca, filepath.Join(r.dir, name+".pem")); err != nil {
		r.Fatal(err)
	}
	r.consoles[name] = c
}

func (r *run) proxy(target string) *proxy {
	p, err := startProxy(net.JoinHostPort("127.0.0.1", strconv.Itoa(program.FreePort(r))), target)
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(p.close)
	return p
}

func port(addr string) string {
	_, port, _ := net.SplitHostPort(addr) // the test made it
	return port
}

func (r *run) writeConfig() {
	var b strings.Builder
	b.WriteString("hmcs:\n")
	for _, name := range slices.Sorted(maps.Keys(r.consoles)) {
		c := r.consoles[name]
		group := name
		if c.account == accountPair {
			group = accountPair
		}
		fmt.Fprintf(&b, "- {name: %s, group: %s, hosts: [127.0.0.1], rest_port: %s, stomp_port: %s, userid: hmcuser, password: hmcpass, tls: {ca_file: %s.pem},\n"+
			"   topics: [object, job, audit, security], os_messages: [{cpc: .*, partition: .*, include_refresh_messages: %v}], rest_requests_per_minute: 10000,\n"+
			"   stomp: {connect_timeout: 5s, reconnect_sleep_initial: 50ms, reconnect_sleep_max: 1s, heartbeat_send_cycle: 2s, heartbeat_receive_cycle: 2s}}\n",
			name, group, port(c.rest.addr), port(c.link.addr), name, !c.amq)
	}
	fmt.Fprintf(&b, "sinks:\n- {name: journal, log: {output: events.log}}\n"+
		"- {name: hook, webhook: {url: %q}, timeout: 2s, retry: {initial: 50ms, max: 1s}}\n"+
		"- {name: batches, webhook: {url: %q}, timeout: 2s, retry: {initial: 50ms, max: 1s}, concurrency: 2, batch: {max_events: 20, max_wait: 100ms}}\n",
		r.hook.url("hook"), r.hook.url("batches"))
	b.WriteString(r.topics.yaml())
	if err := os.WriteFile(filepath.Join(r.dir, "hmcnotifyd.yaml"), []byte(b.String()), 0o600); err != nil {
		r.Fatal(err)
	}
}

// say prints a line of the run's story.
func (r *run) say(format string, args ...any) {
	fmt.Printf("chaos %6.2fs  %s\n", time.Since(r.start).Seconds(), fmt.Sprintf(format, args...))
}

func (r *run) count(what string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts[what]++
}

func (r *run) problem(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	r.say("PROBLEM: %s", text)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.problems = append(r.problems, text)
}

// do does the run and judges it.
func (r *run) do(duration time.Duration) {
	r.say("seed %d, %s", r.seed, duration)
	r.writeConfig()
	r.process = r.startDaemon(r)
	r.process.Await(r, readyTimeout, func() error { return r.api.settled(r.Context()) })
	r.start = time.Now()

	loading, stopLoad := context.WithCancel(r.Context())
	defer stopLoad()
	var load, faults sync.WaitGroup
	for _, c := range r.consoles {
		load.Go(func() {
			if err := c.load(loading); err != nil {
				r.Error(err)
			}
		})
	}
	load.Go(func() { r.watchFlat(loading) })
	byTarget := make(map[string][]fault)
	for _, f := range plan(r.seed, duration) {
		byTarget[f.Target] = append(byTarget[f.Target], f)
	}
	ended := make(chan struct{})
	for target, list := range byTarget {
		if target == targetDaemon || target == targetDisk && r.disk == nil || r.missing(target) {
			continue
		}
		faults.Go(func() {
			for _, f := range list {
				time.Sleep(f.At - time.Since(r.start))
				r.say("%s", f)
				r.count(kindOfCount(f))
				r.play(f)
			}
		})
	}
	go func() {
		defer close(ended)
		time.Sleep(duration - time.Since(r.start))
		faults.Wait()
	}()
	r.tendDaemon(byTarget[targetDaemon], ended)
	<-ended
	r.say("all faults are over")
	r.report(r.settle(stopLoad, load.Wait))
}

func (r *run) missing(target string) bool {
	return target == hmcActiveMQ && r.consoles[target] == nil
}

func kindOfCount(f fault) string {
	switch f.Target {
	case targetDaemon, targetConsumer, targetDisk, targetTopic:
		return f.Target + " " + f.Kind
	}
	return "HMC " + f.Kind
}

// startDaemon starts the daemon and waits for nothing.
func (r *run) startDaemon(tb testing.TB) *program.Process {
	r.lives.Add(1)
	return program.Start(tb, program.Options{
		Name: "hmcnotifyd", Path: r.binary, Dir: r.dir, Log: filepath.Join(r.dir, "daemon.log"),
		Args: []string{
			"--config.file=" + filepath.Join(r.dir, "hmcnotifyd.yaml"), "--storage.path=" + r.storage,
			"--web.listen-address=" + r.addr,
		},
	})
}

// tendDaemon has the daemon's faults, and starts it again when it ends, until
// ended is closed. It is the test's own goroutine.
func (r *run) tendDaemon(faults []fault, ended <-chan struct{}) {
	for {
		due := time.Hour
		if len(faults) > 0 {
			due = faults[0].At - time.Since(r.start)
		}
		timer := time.NewTimer(due)
		select {
		case <-ended:
			timer.Stop()
			if len(faults) > 0 {
				r.Errorf("%d faults of the daemon were not played", len(faults))
			}
			return
		case <-r.process.Exited():
			timer.Stop()
			r.mu.Lock()
			full := r.full
			r.mu.Unlock()
			if !full {
				r.problem("the daemon has ended by itself")
			}
			r.count("daemon starts that failed")
			done := r.ledger.Begin("", "daemon down")
			time.Sleep(startAgain)
			r.process = r.startDaemon(r)
			done()
		case <-timer.C:
			f := faults[0]
			faults = faults[1:]
			r.say("%s", f)
			r.count(kindOfCount(f))
			done := r.ledger.Begin("", f.Kind)
			r.end(f)
			time.Sleep(f.For)
			r.process = r.startDaemon(r)
			done()
		}
	}
}

// end ends the daemon.
func (r *run) end(f fault) {
	if f.Kind == kindKill {
		r.process.Kill()
		return
	}
	r.process.Signal(r, syscall.SIGTERM)
	limit := daemon.StopTimeout
	if f.Kind == kindTermKill {
		limit = f.Delay
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-r.process.Exited():
		if status := r.process.Wait(r, time.Second); status != 0 && status != -1 {
			r.mu.Lock()
			full := r.full
			r.mu.Unlock()
			if !full {
				r.problem("exit status %d after SIGTERM", status)
			}
		}
	case <-timer.C:
		if f.Kind == kindTerm {
			r.problem("the daemon still runs %v after SIGTERM", limit)
		}
		r.process.Kill()
	}
}

// play does one fault of anything but the daemon, and returns when it is over.
func (r *run) play(f fault) {
	switch f.Target {
	case targetConsumer:
		r.playConsumer(f)
	case targetDisk:
		r.playDisk(f)
	case targetTopic:
		if err := r.topics.remake(r.Context(), f.For); err != nil {
			r.Errorf("%s: %v", f, err)
		}
	default:
		c := r.consoles[f.Target]
		defer r.ledger.Begin(f.Target, f.Kind)()
		if c.account != f.Target {
			defer r.ledger.Begin(c.account, f.Kind)()
		}
		r.playHMC(f, c)
	}
}

func (r *run) playConsumer(f fault) {
	if f.Kind == kindDie {
		r.hook.die()
		time.Sleep(f.For)
		if err := r.hook.listen(); err != nil {
			r.Error(err)
		}
		return
	}
	end := r.hook.misbehave(f.Kind)
	time.Sleep(f.For)
	end()
}

func (r *run) playDisk(f fault) {
	defer r.ledger.Begin("", "disk full")()
	set := func(full bool) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.full = full
	}
	set(true)
	free, err := r.disk.fill()
	if err != nil {
		r.Error(err)
		return
	}
	time.Sleep(f.For)
	if err := free(); err != nil {
		r.Error(err)
	}
	time.Sleep(startAgain) // of a start that failed
	set(false)
}

func (r *run) playHMC(f fault, c *console) {
	both := func(do func(p *proxy)) {
		do(c.rest)
		do(c.link)
	}
	switch f.Kind {
	case kindCut:
		both((*proxy).cut)
	case kindRefuse:
		both((*proxy).refuse)
		time.Sleep(f.For)
		both(func(p *proxy) {
			if err := p.accept(); err != nil {
				r.Error(err)
			}
		})
	case kindStall:
		both((*proxy).hold)
		time.Sleep(f.For)
		both((*proxy).release)
	case kindSlow:
		both(func(p *proxy) { p.slow(f.Delay) })
		time.Sleep(f.For)
		both(func(p *proxy) { p.slow(0) })
	case kindExpire:
		c.sim.ExpireSessions(true)
	case kindSilent:
		c.sim.ExpireSessions(false)
		time.Sleep(f.For)
	case kindRestart:
		c.down.Store(true)
		if err := c.sim.Restart(f.For); err != nil {
			r.Error(err)
		}
		c.down.Store(false)
	case kindClock:
		c.ahead.Store(int64(f.Delay))
	case kindTruncate:
		c.sim.Broker().FaultNow(hmcsim.Fault{Kind: hmcsim.FaultTruncate})
	case kindGarbage:
		c.sim.Broker().FaultNow(hmcsim.Fault{Kind: hmcsim.FaultGarbage})
	case kindRESTDown, kindRESTBusy:
		kind := hmcsim.RESTFaultDrop
		if f.Kind == kindRESTBusy {
			kind = hmcsim.RESTFaultBusy
		}
		c.sim.FaultREST(hmcsim.RESTFault{Kind: kind})
		time.Sleep(f.For)
		c.sim.ClearRESTFaults()
	case kindKill, kindTerm: // of the broker
		b := r.brokers[c.name]
		c.out.Store(nil)
		if f.Kind == kindKill {
			b.Kill()
		} else {
			b.Stop(worker{r})
		}
		time.Sleep(f.For)
		b.Start(worker{r})
		c.out.Store(b.Publisher(worker{r}))
	default:
		r.Errorf("unknown fault: %s", f)
	}
}

// settle lets the load go on until the daemon has put everything in order,
// ends it, and judges when nothing is under way any more.
func (r *run) settle(stopLoad, waitLoad func()) *oracle.Verdict {
	deadline := time.Now().Add(settleTimeout)
	await := func(what string, ok func() error) {
		for {
			err := ok()
			if err == nil {
				r.say("%s", what)
				return
			}
			if time.Now().After(deadline) {
				r.problem("not %s: %v", what, err)
				return
			}
			time.Sleep(time.Second)
		}
	}
	await("ready again", func() error {
		code, body, err := r.api.get(r.Context(), "/-/ready")
		if err == nil && code != 200 {
			err = errors.New(string(body))
		}
		return err
	})
	time.Sleep(time.Second) // of load after the last fault
	stopLoad()
	waitLoad()
	await("all delivered", func() error { return r.api.settled(r.Context()) })
	var v *oracle.Verdict
	await("complete", func() error {
		v = r.judge()
		if len(v.Violations) > 0 {
			return errors.New(v.Violations[0])
		}
		return nil
	})
	letters := r.letters()
	r.process.Signal(r, syscall.SIGTERM)
	if status := r.process.Wait(r, daemon.StopTimeout); status != 0 {
		r.problem("exit status %d at the end", status)
	}
	return r.judgeWith(letters)
}

func (r *run) judge() *oracle.Verdict { return r.judgeWith(r.letters()) }

// judgeWith judges what has arrived so far.
func (r *run) judgeWith(letters map[string][]oracle.Arrival) *oracle.Verdict {
	r.mu.Lock()
	kills := r.counts[targetDaemon+" "+kindKill] + r.counts[targetDaemon+" "+kindTermKill]
	r.mu.Unlock()
	journal, err := oracle.ReadLog("journal", filepath.Join(r.dir, "events.log"), kills)
	sinks := []oracle.Deliveries{journal}
	var wrong []string
	for _, name := range slices.Sorted(maps.Keys(letters)) {
		var got oracle.Deliveries
		got, wrong = r.hook.deliveries(name)
		got.Dead = letters[name]
		sinks = append(sinks, got)
	}
	for _, name := range []string{"topic", "stream"} {
		got, more := r.topics.deliveries(name)
		sinks, wrong = append(sinks, got), append(wrong, more...)
	}
	for i := range sinks {
		sinks[i].Arrivals = oracle.Share(sinks[i].Arrivals, accountPair, hmcNorth, hmcSouth)
		sinks[i].Dead = oracle.Share(sinks[i].Dead, accountPair, hmcNorth, hmcSouth)
	}
	published, windows := r.ledger.Snapshot()
	v := oracle.Judge(published, windows, sinks...)
	if err != nil {
		v.Violations = append(v.Violations, err.Error())
	}
	v.Violations = append(v.Violations, wrong...)
	return v
}

// letters returns the dead letters of the two webhooks.
func (r *run) letters() map[string][]oracle.Arrival {
	return map[string][]oracle.Arrival{"hook": r.deadLetters("hook"), "batches": r.deadLetters("batches")}
}

// deadLetters asks the daemon as a person does.
func (r *run) deadLetters(sink string) []oracle.Arrival {
	ctx, cancel := context.WithTimeout(r.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, r.binary, "dead-letters", "show", "--sink="+sink, "--json", "--url="+r.api.url)
	out, err := cmd.Output()
	if err != nil {
		r.say("dead-letters show: %v: %s", err, out)
		return nil
	}
	var letters []oracle.Arrival
	for line := range strings.Lines(string(out)) {
		var letter struct {
			Event json.RawMessage `json:"event"`
		}
		if err := json.Unmarshal([]byte(line), &letter); err != nil {
			r.Errorf("dead-letters show: %v: %s", err, line)
			continue
		}
		a, err := oracle.ParseArrival(letter.Event)
		if err != nil {
			r.Errorf("dead-letters show: %v", err)
			continue
		}
		letters = append(letters, a)
	}
	return letters
}

// report prints the table, and fails the test if something is wrong.
func (r *run) report(v *oracle.Verdict) {
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 8, 2, ' ', tabwriter.AlignRight)
	rows := []string{"sink\tHMC\tpublished\tarrived\trecovered\tdead letters\tlost and named\tlost\tsent again\ttwice\tgaps\t"}
	for _, sink := range slices.Sorted(maps.Keys(v.Counts)) {
		for _, hmc := range slices.Sorted(maps.Keys(v.Counts[sink])) {
			c := v.Counts[sink][hmc]
			rows = append(rows, fmt.Sprintf("%s\t%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t", sink, hmc, c.Published, c.Arrived, c.Recovered, c.Dead, c.Named, c.Lost, c.Again, c.Twice, c.Gaps))
		}
	}
	_, err := io.WriteString(w, strings.Join(rows, "\n")+"\n")
	if err := errors.Join(err, w.Flush()); err != nil {
		r.Error(err)
	}
	fmt.Print(table.String())
	var counts []string
	for _, what := range slices.Sorted(maps.Keys(r.counts)) {
		counts = append(counts, fmt.Sprintf("%s %d", what, r.counts[what]))
	}
	r.say("faults: %s", strings.Join(counts, ", "))
	text, grown := flat(r.samples)
	r.say("%s", text)
	r.problems = append(r.problems, grown...)
	for _, text := range slices.Concat(v.Violations, r.problems) {
		r.Error(text)
	}
	if dir := os.Getenv(keepVariable); r.Failed() && dir != "" {
		for _, name := range []string{"daemon.log", "events.log"} {
			data, err := os.ReadFile(filepath.Join(r.dir, name))
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d-%s", r.seed, name)), data, 0o600)
			}
			if err != nil {
				r.Error(err)
			}
		}
	}
}
