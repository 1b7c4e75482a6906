//go:build real

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/tests/scratch"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
	"github.com/hmcnotifyd/hmcnotifyd/tests/natscluster"
	"github.com/hmcnotifyd/hmcnotifyd/tests/oracle"
	"github.com/hmcnotifyd/hmcnotifyd/tests/soak"
)

// haLoad publishes property changes and OS messages, and notes them in a ledger.
type haLoad struct {
	sim    *hmcsim.HMC
	ledger *oracle.Ledger
	parts  []hmcsim.PartitionInfo
	// Of so many that are published one is an OS message: ten in a second, so that the HMC holds
	// all of those that come while nobody leads.
	messageEvery int

	mu       sync.Mutex
	answer   int // status
	takes    time.Duration
	dead     []oracle.Arrival
	got      []oracle.Arrival
	seen     map[string]bool // marks that have arrived
	bad      []string
	requests map[string]int // by daemon
}

func (l *haLoad) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the daemon was killed
	}
	l.mu.Lock()
	takes := l.takes
	l.mu.Unlock()
	time.Sleep(takes)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.requests[r.URL.Path]++
	w.WriteHeader(l.answer)
	to := &l.got
	switch l.answer {
	case http.StatusServiceUnavailable:
		return
	case http.StatusBadRequest: // a batch that is refused comes again in parts
		if to = &l.dead; len(slices.Collect(event.Elements(body))) > 1 {
			return
		}
	}
	for raw := range event.Elements(body) {
		a, err := oracle.ParseArrival(raw)
		if err != nil {
			l.bad = append(l.bad, err.Error())
			continue
		}
		*to = append(*to, a)
		if a.Mark() != "" {
			l.seen[a.Mark()] = true
		}
	}
}

// answers sets the status with which it answers.
func (l *haLoad) answers(status int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.answer = status
}

func (l *haLoad) arrived(mark string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.seen[mark]
}

// publish returns the mark of what it has published.
func (l *haLoad) publish(i int) (mark string, err error) {
	p := l.parts[i%len(l.parts)]
	if l.messageEvery > 0 && i%l.messageEvery == 0 {
		n := l.ledger.Add("east", strings.ReplaceAll(p.ID, "-", "")+"os", true)
		subscribers, err := l.sim.OSMessages(p.ID, n.Mark())
		l.ledger.Sent(subscribers, n)
		return n.Mark(), err
	}
	n := l.ledger.Add("east", strings.ReplaceAll(p.ID, "-", ""), false)
	l.ledger.Sent(l.sim.Publish(hmcsim.TopicObject, []hmcsim.Header{
		{Name: "notification-type", Value: "property-change"},
		{Name: "class", Value: p.Class},
		{Name: "name", Value: p.Name},
		{Name: "object-id", Value: p.ID},
		{Name: "object-uri", Value: p.URI},
		{Name: "property-names", Value: " description "},
	}, fmt.Appendf(nil, `{"change-reports":[{"property-name":"description","old-value":null,"new-value":%q}]}`, n.Mark())), n)
	return n.Mark(), nil
}

// haDaemon is one of two machines.
type haDaemon struct {
	*program
	name, addr   string
	config, path string
	ways         *ways // to the NATS servers
	hmc          *ways // to the HMC, its ports in the order of REST and link
}

func (d *haDaemon) status(t *testing.T, client *http.Client) (s struct {
	Role  string `json:"role"`
	Ready bool   `json:"ready"`
	HMCs  []struct {
		Connected bool `json:"connected"`
	} `json:"hmcs"`
},
) {
	t.Helper()
	if code, text := get(t, client, http.MethodGet, "http://"+d.addr+"/api/v1/status"); code == http.StatusOK {
		if err := json.Unmarshal([]byte(text), &s); err != nil {
			t.Error(err)
		}
	}
	return s
}

// haPair is two daemons with one log on three NATS servers, and what they are to do.
type haPair struct {
	t        *testing.T
	load     *haLoad
	url      string // of the consumer
	dir      string
	messages string // whose are followed
	client   *http.Client
	// nil: there are none
	servers *natscluster.Cluster
	both    []*haDaemon            // the leader first
	stop    func()                 // ends the load
	last    atomic.Pointer[string] // what was published last
}

// ways lead to servers, and can be cut, or hold what goes to the servers.
type ways struct {
	addrs []string

	mu    sync.Mutex
	cut   bool
	held  bool
	goOn  sync.Cond // of held
	conns map[net.Conn]struct{}
}

func startWays(t *testing.T, to ...string) *ways {
	t.Helper()
	w := &ways{conns: map[net.Conn]struct{}{}}
	w.goOn.L = &w.mu
	for _, to := range to {
		l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		w.addrs = append(w.addrs, l.Addr().String())
		go w.serve(l, strings.TrimPrefix(to, "nats://"))
	}
	t.Cleanup(func() { w.hold(false); w.set(true) })
	return w
}

func (w *ways) serve(l net.Listener, to string) {
	for {
		from, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			server, err := new(net.Dialer).DialContext(context.Background(), "tcp", to)
			if err != nil || !w.keep(from, server) {
				_ = from.Close()
				return
			}
			go func() { _, _ = io.Copy(&gate{w, server}, from); _ = server.Close() }()
			_, _ = io.Copy(from, server)
			_ = from.Close()
		}()
	}
}

// keep notes connections, unless the ways are cut: then it closes them.
func (w *ways) keep(conns ...net.Conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range conns {
		if w.cut {
			_ = c.Close()
			continue
		}
		w.conns[c] = struct{}{}
	}
	return !w.cut
}

// gate lets pass what goes to a server, but while that is held.
type gate struct {
	*ways
	to io.Writer
}

func (g *gate) Write(p []byte) (int, error) {
	g.mu.Lock()
	for g.held {
		g.goOn.Wait()
	}
	g.mu.Unlock()
	return g.to.Write(p)
}

// hold holds what goes to the servers, for as long as it comes late. What comes back passes.
func (w *ways) hold(held bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.held = held
	w.goOn.Broadcast()
}

func (w *ways) set(cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cut = cut; cut {
		for c := range w.conns {
			_ = c.Close()
		}
		clear(w.conns)
	}
}

const haTTL = 2 * time.Second

// startPair returns when one of them leads and is connected. more is what the configuration has of
// the storage besides.
func startPair(t *testing.T, ttl time.Duration, more ...string) *haPair {
	t.Helper()
	return startPairOf(t, ttl, "cold", more...)
}

func startPairOf(t *testing.T, ttl time.Duration, standby string, more ...string) *haPair {
	t.Helper()
	p := newHA(t)
	p.servers = natscluster.Start(t, 3)
	for i := range 2 {
		d := p.add(string(rune('a'+i)), "")
		d.ways = startWays(t, p.servers.URLs()...)
		text, err := os.ReadFile(d.config)
		if err != nil {
			t.Fatal(err)
		}
		write(t, d.config, fmt.Sprintf("%sstorage: {jetstream: {urls: [%s], name: x}%s}\nha: {lease_ttl: %s, standby: %s}\n",
			text, `"nats://`+strings.Join(d.ways.addrs, `", "nats://`)+`"`, strings.Join(more, ""), ttl, standby))
		p.launch(d) // both at once: they make the streams together
	}
	eventually(t, "one leads", func() bool { return p.leads(p.both[0]) || p.leads(p.both[1]) })
	if !p.leads(p.both[0]) {
		p.swap()
	}
	p.begin()
	return p
}

// newHA has an HMC and a consumer, and no daemon yet.
func newHA(t *testing.T) *haPair {
	t.Helper()
	return newHAOf(t, hmcsim.Options{Name: "east", CPCs: 1, Partitions: 4, MaxSessions: 200})
}

func newHAOf(t *testing.T, opts hmcsim.Options) *haPair {
	t.Helper()
	sim := hmctest.Start(t, opts)
	load := &haLoad{
		sim: sim, ledger: oracle.NewLedger(), parts: sim.Partitions(), seen: make(map[string]bool),
		requests: make(map[string]int), answer: http.StatusOK,
	}
	consumer := httptest.NewServer(load)
	t.Cleanup(consumer.Close)
	return &haPair{
		t: t, load: load, url: consumer.URL, dir: t.TempDir(), messages: "[{cpc: .*, partition: .*}]",
		client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}},
	}
}

// add makes a daemon, and starts nothing.
func (p *haPair) add(name, storage string) *haDaemon {
	p.t.Helper()
	sim, d := p.load.sim, &haDaemon{name: "/" + name, addr: freeAddress(p.t), config: filepath.Join(p.dir, name+".yaml")}
	address := func(port int) string { return net.JoinHostPort(sim.Host(), strconv.Itoa(port)) }
	d.hmc = startWays(p.t, address(sim.RESTPort()), address(sim.StompPort()))
	port := func(i int) string { _, port, _ := net.SplitHostPort(d.hmc.addrs[i]); return port }
	write(p.t, d.config, fmt.Sprintf(`hmcs:
- name: east
  hosts: [127.0.0.1]
  rest_port: %s
  stomp_port: %s
  userid: %s
  password: %s
  tls: {insecure_skip_verify: true}
  topics: [object]
  os_messages: %s
  rest_requests_per_minute: 10000
  stomp: {reconnect_sleep_initial: 20ms, reconnect_sleep_max: 200ms}
sinks:
- {name: hook, webhook: {url: %q}, batch: {max_events: 500}, retry: {initial: 10ms, max: 100ms}}
%s`, port(0), port(1), hmcsim.DefaultUserid, hmcsim.DefaultPassword, p.messages, p.url+d.name, storage))
	d.path = filepath.Join(p.dir, name)
	p.both = append(p.both, d)
	return d
}

// begin publishes until stop is called.
func (p *haPair) begin() {
	stop := make(chan struct{})
	var publishing sync.WaitGroup
	p.stop = sync.OnceFunc(func() { close(stop); publishing.Wait() })
	p.t.Cleanup(p.stop)
	rate := soak.Count(p.t, "HA_RATE", 300, 2000)
	p.load.messageEvery = rate / 10
	if p.messages == "[]" {
		p.load.messageEvery = 0
	}
	publishing.Go(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ; {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			for range rate / 100 {
				mark, err := p.load.publish(i)
				if err != nil {
					p.t.Error(err)
				}
				i++
				p.last.Store(&mark)
			}
		}
	})
}

func (p *haPair) launch(d *haDaemon) {
	d.program = start(p.t, nil, "--config.file="+d.config, "--storage.path="+d.path, "--web.listen-address="+d.addr)
}

func (p *haPair) swap() { p.both[0], p.both[1] = p.both[1], p.both[0] }

// leads says whether a daemon leads and has its link.
func (p *haPair) leads(d *haDaemon) bool {
	s := d.status(p.t, p.client)
	return s.Role == "leader" && len(s.HMCs) == 1 && s.HMCs[0].Connected
}

func (p *haPair) awaitStandby(d *haDaemon) {
	p.t.Helper()
	eventually(p.t, "the other stands by", func() bool {
		s := d.status(p.t, p.client)
		return s.Role == "standby" && s.Ready
	})
}

// counted are the property changes in events_total.
func (p *haPair) counted(d *haDaemon, known int) int {
	_, text := get(p.t, p.client, http.MethodGet, "http://"+d.addr+"/metrics")
	return max(known, sumOf(text, "hmcnotifyd_events_total", `type="property-change"`))
}

// valueOf is the value of a series without labels.
func valueOf(t *testing.T, metrics, name string) float64 {
	t.Helper()
	m := regexp.MustCompile(`(?m)^` + name + ` (\S+)$`).FindStringSubmatch(metrics)
	if m == nil {
		t.Fatalf("there is no %s", name)
	}
	v, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// settle ends the load, and returns when the last of it has arrived.
func (p *haPair) settle() {
	p.t.Helper()
	p.stop()
	p.catchUp()
}

// catchUp returns when what was published until now has arrived.
func (p *haPair) catchUp() {
	p.t.Helper()
	last := *p.last.Load()
	eventually(p.t, "the last one arrives", func() bool { return p.load.arrived(last) })
}

// judge returns what became of the load, when nobody runs any more: the last gap may be told at the end.
func (p *haPair) judge() *oracle.Count {
	p.t.Helper()
	p.load.mu.Lock()
	defer p.load.mu.Unlock()
	published, windows := p.load.ledger.Snapshot()
	verdict := oracle.Judge(published, windows, oracle.Deliveries{Sink: "hook", Arrivals: p.load.got, Dead: p.load.dead})
	for _, v := range append(verdict.Violations, p.load.bad...) {
		p.t.Error(v)
	}
	return verdict.Counts["hook"]["east"]
}

// finish ends both, when one of them stands by and all has arrived, and returns what became of the load.
func (p *haPair) finish() *oracle.Count {
	p.t.Helper()
	p.settle()
	p.awaitStandby(p.both[1])
	p.end(p.both[1])
	p.end(p.both[0])
	return p.judge()
}

// namesLeaders wants a gap to say that another daemon leads.
func (p *haPair) namesLeaders() {
	p.t.Helper()
	p.load.mu.Lock()
	defer p.load.mu.Unlock()
	if !slices.ContainsFunc(p.load.got, func(a oracle.Arrival) bool {
		return a.Type == event.TypeBridgeGap && strings.Contains(string(a.Body), " leads now, after the one on ")
	}) {
		p.t.Error("no gap says that another daemon leads")
	}
}

// end ends a daemon in order.
func (p *haPair) end(d *haDaemon) {
	p.t.Helper()
	d.signal(os.Interrupt)
	if code := d.wait(); code != 0 {
		p.t.Errorf("exit status %d:\n%s", code, d.out)
	}
}

// TestLeadersAreKilled kills the leader of two daemons again and again under load, with the log on three NATS servers, and
// has them change places in order at the end. What was counted has arrived, in order and under one id, and what has not
// arrived is named by a gap.
func TestLeadersAreKilled(t *testing.T) {
	soak.Parallel(t)
	p := startPair(t, haTTL)
	load, client := p.load, p.client
	total, slowest, standby := 0, time.Duration(0), 0.0
	kills := soak.Count(t, "HA_KILLS", 3, 50)
	for range kills {
		leader, other := p.both[0], p.both[1]
		p.awaitStandby(other)
		if code, text := get(t, client, http.MethodGet, "http://"+other.addr+"/metrics"); code != http.StatusOK ||
			!strings.Contains(text, "\nhmcnotifyd_leader 0\n") ||
			!strings.Contains(text, "\nhmcnotifyd_receiver_connected{hmc=\"east\"} 0\n") {
			t.Errorf("metrics of the standby: %d", code)
		} else if memory := valueOf(t, text, "process_resident_memory_bytes"); memory > 64<<20 {
			t.Errorf("the standby takes %.0f bytes of memory", memory)
		} else {
			standby = max(standby, memory)
		}
		for d, role := range map[*haDaemon]string{leader: "leader", other: "standby"} {
			if code, text := get(t, client, http.MethodGet, "http://"+d.addr+"/-/ready"); code != http.StatusOK ||
				!strings.Contains(text, `"role": "`+role+`"`) {
				t.Errorf("/-/ready of the %s: %d %s", role, code, text)
			}
		}
		if code, text := get(t, client, http.MethodGet, "http://"+other.addr+"/api/v1/dead-letters"); code != http.StatusServiceUnavailable ||
			!strings.Contains(text, "stands by") {
			t.Errorf("dead letters of the standby: %d %s", code, text)
		}
		n := 0
		for end := time.Now().Add(2 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
			n = p.counted(leader, n)
		}
		done := load.ledger.Begin("", "the leader is killed")
		leader.signal(syscall.SIGKILL)
		<-leader.exited
		total += n
		began := time.Now()
		eventually(t, "the other leads", func() bool { return other.status(t, client).Role == "leader" })
		slowest = max(slowest, time.Since(began))
		eventually(t, "and is connected", func() bool { return p.leads(other) })
		done()
		p.launch(leader)
		p.swap()
	}

	// In order: nobody waits for a lease to run out.
	leader, other := p.both[0], p.both[1]
	p.awaitStandby(other)
	total += p.counted(leader, 0)
	done := load.ledger.Begin("", "the leader ends")
	p.end(leader)
	eventually(t, "the other leads", func() bool { return p.leads(other) })
	done()
	time.Sleep(time.Second) // it is published meanwhile
	p.settle()
	total += p.counted(other, 0)
	p.end(other)
	c := p.judge()
	p.namesLeaders()

	load.mu.Lock()
	defer load.mu.Unlock()
	changes := 0
	for mark := range load.seen {
		if !strings.Contains(strings.TrimPrefix(mark, "chaos"), "os:") {
			changes++
		}
	}
	if total == 0 || changes < total {
		t.Errorf("%d changes were counted, %d arrived", total, changes)
	}
	t.Logf("%d kills, the slowest take-over after %s; %+v; %d counted; a standby takes up to %.0f MiB",
		kills, slowest.Round(time.Millisecond), *c, total, standby/(1<<20))
}

// Leaders die twice within a flood, while the sink takes nothing and much waits for it: all that was counted is delivered by the
// third, in order, and each event once.
func TestTakeOverWithABacklog(t *testing.T) {
	soak.Parallel(t)
	p := startPair(t, haTTL)
	p.load.answers(http.StatusServiceUnavailable)
	total, waiting := 0, soak.Count(t, "HA_WAITING", 2_000, 100_000)
	for range 2 {
		leader, other := p.both[0], p.both[1]
		p.awaitStandby(other)
		n := 0
		eventually(t, "much waits", func() bool { n = p.counted(leader, n); return n > waiting/2 })
		done := p.load.ledger.Begin("", "the leader is killed")
		leader.signal(syscall.SIGKILL)
		<-leader.exited
		total += n
		eventually(t, "the other leads", func() bool { return p.leads(other) })
		done()
		p.launch(leader)
		p.swap()
	}
	p.load.mu.Lock()
	early := len(p.load.got)
	p.load.mu.Unlock()
	p.load.answers(http.StatusOK)
	c := p.finish()
	if arrived := len(p.load.got) - early; arrived < total-early || c.Again > 0 {
		t.Errorf("%d were counted, %d arrived before and %d behind: %+v", total, early, arrived, *c)
	}
	t.Logf("%d counted, %+v", total, *c)
}

// A leader that was held up delivers nothing when it wakes, but what was on its way, and stands by. What it has delivered
// has the ids under which the new leader delivers it. Later it leads again.
func TestHeldUpLeaderStandsBy(t *testing.T) {
	soak.Parallel(t)
	p := startPair(t, haTTL)
	held, other := p.both[0], p.both[1]
	p.awaitStandby(other)
	time.Sleep(time.Second) // it delivers meanwhile
	done := p.load.ledger.Begin("", "the leader is held up")
	held.signal(syscall.SIGSTOP)
	eventually(t, "the other leads", func() bool { return p.leads(other) })
	done()
	time.Sleep(haTTL) // so does the other
	p.load.mu.Lock()
	before := p.load.requests[held.name]
	p.load.mu.Unlock()
	held.signal(syscall.SIGCONT)
	p.awaitStandby(held)
	time.Sleep(time.Second) // it would deliver meanwhile
	p.load.mu.Lock()
	if after := p.load.requests[held.name]; after > before+4 { // its lanes
		t.Errorf("%d requests after it was held up", after-before)
	}
	p.load.mu.Unlock()

	// It is a daemon as any other, and leads when its turn comes.
	done = p.load.ledger.Begin("", "the leader ends")
	p.end(other)
	eventually(t, "it leads again", func() bool { return p.leads(held) })
	done()
	if _, text := get(t, p.client, http.MethodGet, "http://"+held.addr+"/metrics"); !strings.Contains(text, "\nhmcnotifyd_leader 1\n") ||
		valueOf(t, text, "hmcnotifyd_log_commit_duration_seconds_count") == 0 ||
		!strings.Contains(text, "\nhmcnotifyd_leader_changes_total 3\n") || p.counted(held, -1) < 0 {
		t.Errorf("metrics of one that leads again:\n%s", text)
	}
	p.settle()
	p.end(held)
	c := p.judge()
	p.namesLeaders()
	if c.Gaps == 0 {
		t.Error("no gap tells of the change")
	}
	t.Logf("%+v", *c)
}

// A leader that cannot reach the cluster, and the HMCs as before, delivers nothing for as long as another one may lead, and stands
// by when it reaches it again. Where all servers are away and come back the leader goes on.
func TestClusterIsAway(t *testing.T) {
	soak.Parallel(t)
	const ttl = 6 * time.Second // servers that agree on a leader take their time
	p := startPair(t, ttl)
	cut, other := p.both[0], p.both[1]
	p.awaitStandby(other)
	time.Sleep(time.Second) // it delivers meanwhile
	done := p.load.ledger.Begin("", "the leader is cut off")
	cut.ways.set(true)
	eventually(t, "the other leads", func() bool { return p.leads(other) })
	done()
	delivered := func(d *haDaemon) int {
		p.load.mu.Lock()
		defer p.load.mu.Unlock()
		return p.load.requests[d.name]
	}
	before := delivered(cut)
	eventually(t, "the other delivers", func() bool { return delivered(other) > 3 })
	if code, text := get(t, p.client, http.MethodGet, "http://"+cut.addr+"/-/ready"); code != http.StatusServiceUnavailable {
		t.Errorf("/-/ready of one that is cut off: %d %s", code, text)
	}
	if _, text := get(t, p.client, http.MethodGet, "http://"+cut.addr+"/metrics"); valueOf(t, text, "hmcnotifyd_leader") != 0 {
		t.Error("two lead, by the metrics")
	}
	if after := delivered(cut); after != before {
		t.Errorf("%d requests of one that is cut off", after-before)
	}
	cut.ways.set(false)
	p.awaitStandby(cut)
	p.swap()

	done = p.load.ledger.Begin("", "servers are killed")
	leader, arrived := p.both[0], func() int { p.load.mu.Lock(); defer p.load.mu.Unlock(); return len(p.load.got) }
	for i := range soak.Count(t, "HA_SERVERS", 3, 60) { // one after the other: two are enough
		i %= 3
		p.servers.Kill(i)
		n := arrived()
		eventually(t, "it goes on with two servers", func() bool { return arrived() > n+100 })
		p.servers.StartServer(i)
		p.servers.AwaitLeader()
	}
	for i := range 3 {
		p.servers.Kill(i)
	}
	eventually(t, "nobody is ready", func() bool { return !leader.status(t, p.client).Ready && !cut.status(t, p.client).Ready })
	for i := range 3 {
		p.servers.StartServer(i)
	}
	p.servers.AwaitLeader()
	eventually(t, "one leads", func() bool { return p.leads(leader) && leader.status(t, p.client).Ready || p.leads(cut) })
	n := arrived()
	eventually(t, "it goes on", func() bool { return arrived() > n+100 })
	time.Sleep(ttl) // who could have taken over has done so
	done()
	p.settle()
	p.end(p.both[1])
	p.end(p.both[0])
	c := p.judge()
	if c.Arrived == 0 || c.Gaps == 0 {
		t.Error("nothing arrived, or no gap tells of the change")
	}
	t.Logf("%+v", *c)
}

// A leader that cannot reach the HMC goes on to lead: only it knows, and the other one has no session. It says that it is not ready,
// and is connected when the way is there again. Whoever ends it meanwhile has the other one lead, whose way is another.
func TestHMCIsAway(t *testing.T) {
	soak.Parallel(t)
	p := startPair(t, haTTL)
	leader, other := p.both[0], p.both[1]
	p.awaitStandby(other)
	time.Sleep(time.Second) // it delivers meanwhile
	cutOff := func() (done func()) {
		done = p.load.ledger.Begin("", "the HMC is cut off from the leader")
		leader.hmc.set(true)
		eventually(t, "it is not connected", func() bool {
			s := leader.status(t, p.client)
			return s.Role == "leader" && !s.Ready && len(s.HMCs) == 1 && !s.HMCs[0].Connected
		})
		return done
	}
	done := cutOff()
	time.Sleep(2 * haTTL) // who wanted to lead would
	if _, text := get(t, p.client, http.MethodGet, "http://"+leader.addr+"/metrics"); !strings.Contains(text, "\nhmcnotifyd_leader 1\n") ||
		!strings.Contains(text, "\nhmcnotifyd_receiver_connected{hmc=\"east\"} 0\n") || !strings.Contains(text, "\nhmcnotifyd_leader_changes_total 1\n") {
		t.Errorf("metrics of a leader without its HMC:\n%s", text)
	}
	if code, text := get(t, p.client, http.MethodGet, "http://"+leader.addr+"/-/ready"); code != http.StatusServiceUnavailable || !strings.Contains(text, "east") {
		t.Errorf("/-/ready of a leader without its HMC: %d %s", code, text)
	}
	if s := other.status(t, p.client); s.Role != "standby" || !s.Ready {
		t.Errorf("the other one: %+v", s)
	}
	leader.hmc.set(false)
	eventually(t, "it is connected again", func() bool { return p.leads(leader) })
	done()

	time.Sleep(time.Second) // it delivers meanwhile
	done = cutOff()
	p.end(leader)
	eventually(t, "the other leads", func() bool { return p.leads(other) })
	done()
	p.settle()
	p.end(other)
	c := p.judge()
	p.namesLeaders()
	if c.Arrived == 0 || c.Gaps < 2 {
		t.Error("nothing arrived, or no gap tells of one of the outages")
	}
	t.Logf("%+v", *c)
}

// Two daemons write into one log for ten seconds: what the one has sent to the servers comes to them when the other one leads and
// writes. None of it is taken, nothing is lost, and nothing is there twice.
func TestTwoWriters(t *testing.T) {
	soak.Parallel(t)
	p := startPair(t, haTTL, ", retain: 1h")
	began, rounds := time.Now(), 0
	arrived := func() int { p.load.mu.Lock(); defer p.load.mu.Unlock(); return len(p.load.got) }
	for ; time.Since(began) < 10*time.Second; rounds++ {
		leader, other := p.both[0], p.both[1]
		p.awaitStandby(other)
		n := arrived()
		eventually(t, "the leader writes", func() bool { return arrived() > n+50 })
		done := p.load.ledger.Begin("", "what the leader writes comes late")
		leader.ways.hold(true)
		eventually(t, "the other leads", func() bool { return p.leads(other) })
		n = arrived()
		eventually(t, "and writes", func() bool { return arrived() > n+50 })
		leader.ways.hold(false)
		p.awaitStandby(leader)
		done()
		p.swap()
	}
	p.settle()
	stored := p.stored(p.both[0], began.Add(-time.Minute)) // that ends only with all that has arrived
	p.end(p.both[1])
	p.end(p.both[0])
	c := p.judge()
	p.namesLeaders()
	p.load.mu.Lock()
	defer p.load.mu.Unlock()
	for id, times := range stored {
		if times > 1 {
			t.Errorf("the event %s is %d times in the log", id, times)
		}
	}
	t.Logf("%d rounds, %d events in the log, %+v", rounds, len(stored), *c)
}

// stored counts the events that are in the log, by their ids, when all that has arrived until now was found in it.
func (p *haPair) stored(d *haDaemon, since time.Time) map[string]int {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), within)
	defer cancel()
	url := "http://" + d.addr + "/api/v1/events?since=" + since.UTC().Format(time.RFC3339)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		p.t.Fatal(err)
	}
	resp, err := p.client.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	missing := make(map[string]string)
	p.load.mu.Lock()
	for _, a := range p.load.got {
		missing[a.ID] = a.Type
	}
	p.load.mu.Unlock()
	stored := make(map[string]int)
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 8<<20)
	for lines.Scan() {
		data, ok := bytes.CutPrefix(lines.Bytes(), []byte("data:"))
		if !ok {
			continue
		}
		a, err := oracle.ParseArrival(bytes.TrimSpace(data))
		if err != nil {
			p.t.Error(err)
			continue
		}
		stored[a.ID]++
		if delete(missing, a.ID); len(missing) == 0 {
			return stored
		}
	}
	p.t.Errorf("what has arrived is not in the log: %v; %v", missing, lines.Err())
	return stored
}

// The disk of one of three NATS servers is full: everything goes on, also when it has room again and another one ends.
func TestDiskOfAServerIsFull(t *testing.T) {
	soak.Parallel(t)
	p := startPair(t, 6*time.Second) // servers that agree on a leader take their time
	p.awaitStandby(p.both[1])
	arrived := func() int { p.load.mu.Lock(); defer p.load.mu.Unlock(); return len(p.load.got) }
	goesOn := func(what string) {
		t.Helper()
		n := arrived()
		eventually(t, what, func() bool { return arrived() > n+300 })
	}
	done := p.load.ledger.Begin("", "a server is without its disk")
	p.servers.Kill(0)
	dir := p.servers.Dir(0)
	switch err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=64m"); {
	case errors.Is(err, syscall.EPERM):
		t.Skip("only root may mount")
	case err != nil:
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.servers.Kill(0)
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	p.servers.StartServer(0) // with an empty disk: it gets all from the others
	p.servers.AwaitLeader()
	goesOn("it goes on with a server that was empty")
	empty := scratch.Fill(t, dir)
	for range 10 {
		goesOn("it goes on with a server whose disk is full")
	}
	empty()
	p.servers.Kill(0)
	p.servers.StartServer(0)
	p.servers.AwaitLeader()
	goesOn("it goes on with room again")
	for i := 1; i < 3; i++ { // so the one that was full counts
		p.servers.Kill(i)
		goesOn("it goes on with the one that was full")
		p.servers.StartServer(i)
		p.servers.AwaitLeader()
	}
	done()
	p.settle()
	p.end(p.both[1])
	p.end(p.both[0])
	c := p.judge()
	if c.Arrived == 0 {
		t.Error("nothing arrived")
	}
	t.Logf("%+v", *c)
}

// alertmanager notes how alerts begin and end.
type alertmanager struct {
	mu sync.Mutex
	// of each resource: when its alert ended, by what was posted
	fires map[string]bool
	ended map[string][]time.Time
	posts map[string]int
}

func (a *alertmanager) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	var alerts []struct {
		Labels map[string]string `json:"labels"`
		EndsAt time.Time         `json:"endsAt"`
	}
	if json.NewDecoder(r.Body).Decode(&alerts) != nil {
		return // the daemon was killed
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, one := range alerts {
		if one.Labels["alertname"] != "HMCResourceStatus" {
			continue
		}
		name := one.Labels["resource"]
		a.posts[name]++
		if a.fires[name] = one.EndsAt.After(time.Now()); a.fires[name] || slices.ContainsFunc(a.ended[name], one.EndsAt.Equal) {
			continue
		}
		a.ended[name] = append(a.ended[name], one.EndsAt)
	}
}

func (a *alertmanager) are(fires bool, names ...string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return !slices.ContainsFunc(names, func(name string) bool {
		is, known := a.fires[name]
		return !known || is != fires
	})
}

// An alert that fired before leaders changed, in whichever way, resolves after it, once: also where what ended it happened while
// nobody led. One that goes on is neither ended nor begun anew.
func TestAlertsOutliveLeaders(t *testing.T) {
	soak.Parallel(t)
	p := newHA(t)
	am := &alertmanager{fires: map[string]bool{}, ended: map[string][]time.Time{}, posts: map[string]int{}}
	server := httptest.NewServer(am)
	t.Cleanup(server.Close)
	more := fmt.Sprintf("- {name: alerts, alertmanager: {urls: [%q], statuses: [stopped, not-operating], resend_interval: 10s}}\n"+
		"storage: {jetstream: {urls: [%q], name: x, replicas: 1}}\nha: {lease_ttl: %s}\n", server.URL, natscluster.Single(t), haTTL)
	for _, name := range []string{"a", "b"} {
		p.launch(p.add(name, more))
		if name == "a" {
			eventually(t, "it leads", func() bool { return p.leads(p.both[0]) })
		}
	}
	stay, after, meanwhile := p.load.parts[0], p.load.parts[1], p.load.parts[2]
	set := func(down bool, parts ...hmcsim.PartitionInfo) {
		t.Helper()
		for _, part := range parts {
			status := map[bool]string{true: "stopped", false: "active"}[down]
			if !part.DPM {
				status = map[bool]string{true: "not-operating", false: "operating"}[down]
			}
			if err := p.load.sim.SetPartitionStatus(part.ID, status); err != nil {
				t.Fatal(err)
			}
		}
	}
	eventually(t, "the partitions are known", func() bool {
		_, text := get(t, p.client, http.MethodGet, "http://"+p.both[0].addr+"/metrics")
		return strings.Count(text, "\nhmcnotifyd_resource_status{") > 4
	})
	set(false, stay, after, meanwhile)
	rounds := soak.Count(t, "HA_ALERTS", 3, 20)
	set(true, stay)
	for round := range rounds {
		leader, other := p.both[0], p.both[1]
		p.awaitStandby(other)
		set(true, after, meanwhile)
		eventually(t, "the alerts fire", func() bool { return am.are(true, stay.Name, after.Name, meanwhile.Name) })
		if round%2 == 0 {
			leader.signal(syscall.SIGKILL)
			<-leader.exited
		} else {
			p.end(leader)
		}
		set(false, meanwhile)
		eventually(t, "the other leads", func() bool { return p.leads(other) })
		set(false, after)
		eventually(t, "they resolve", func() bool { return am.are(false, after.Name, meanwhile.Name) })
		p.launch(leader)
		p.swap()
	}
	p.awaitStandby(p.both[1])
	p.end(p.both[1])
	p.end(p.both[0])
	am.mu.Lock()
	defer am.mu.Unlock()
	if !am.fires[stay.Name] || len(am.ended[stay.Name]) > 0 || am.posts[stay.Name] < rounds {
		t.Errorf("the alert that goes on ended %v, was posted %d times", am.ended[stay.Name], am.posts[stay.Name])
	}
	for _, part := range []hmcsim.PartitionInfo{after, meanwhile} {
		if n := len(am.ended[part.Name]); n != rounds {
			t.Errorf("the alert of %s ended %d times in %d rounds: %v", part.Name, n, rounds, am.ended[part.Name])
		}
	}
}
