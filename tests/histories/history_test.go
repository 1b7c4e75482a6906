package histories_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
)

// fact is one thing that happened, and that is to be told.
type fact struct {
	mark  string
	topic string // its type
	lane  string // what is in order among itself
	says  string // what is the same of those that say the same; "": it says what no other does
	nr    int    // of all facts
	at    time.Time
	logAt time.Time // of an entry of a log: its time, by the HMC's clock
	count int       // how often it happened: what is equal cannot be told apart
	again []time.Time
	// hmcs are those that tell of it, and when they did.
	hmcs map[string]time.Time
	held bool // the HMC holds it
}

// window is a time in which a fault was at work that may cost something.
type window struct {
	hmc      string // "": all
	what     string
	from, to time.Time
}

// span is a time in which nothing passed on the way to an HMC.
type span struct{ from, to time.Time }

// history is a plan that happens.
type history struct {
	*plan
	dir     string
	log     io.Writer // nil: none
	net     *network
	hmcs    []*hmc
	disk    *disk
	cfgs    [2]*config.Config
	lives   []*life
	startAt time.Time // when the daemon is started again; zero: it runs
	pending sync.WaitGroup
	other   bool // the configuration is the other one
	same    map[string]*fact

	mu      sync.Mutex
	facts   []*fact
	windows []*window
	values  [objects]int // of the property that changes
	numbers int
	begun   time.Time
	warm    time.Time
	probes  time.Time // the last facts, when all is well
	problem []string
}

// hmc is a simulated HMC, and the network to it.
type hmc struct {
	name       string
	sim        *hmcsim.HMC
	rest, link *place
	lag        time.Duration
	logged     time.Time
	spare      *hmcsim.HMC // nil: it has one host

	mu     sync.Mutex
	ahead  time.Duration // of its clock
	down   bool
	stalls []span
}

// now is what the HMC's clock says.
func (c *hmc) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.ahead)
}

// authority is the CA of all HMCs, which takes a while to make.
type authority struct {
	ca   *hmcsim.CA
	cert string
}

// play has a plan happen, within a bubble of time.
func play(p *plan, dir string, a authority, now time.Time, log io.Writer) (h *history, err error) {
	time.Sleep(time.Until(now)) // certificates are of this time
	h = &history{plan: p, dir: dir, log: log, net: newNetwork(), begun: time.Now(), same: make(map[string]*fact)}
	h.disk = &disk{rng: rand.New(rand.NewPCG(p.seed, 1)), commit: p.setup.commit}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return h, err
	}
	defer func() {
		h.end()
		for _, c := range slices.Backward(h.hmcs) {
			for _, sim := range []*hmcsim.HMC{c.spare, c.sim} {
				if sim == nil {
					continue
				}
				if err := sim.Close(); err != nil {
					h.problem = append(h.problem, err.Error())
				}
			}
		}
	}()
	if err := h.startHMCs(a); err != nil {
		return h, err
	}
	if err := h.start(); err != nil {
		return h, err
	}
	if err := h.settle(); err != nil {
		return h, err
	}
	h.warmUp()
	begin := time.Now()
	for i := range p.steps {
		h.sleepUntil(begin.Add(p.steps[i].at))
		h.do(&p.steps[i])
		time.Sleep(time.Microsecond) // no two things happen at once
	}
	h.heal()
	if err := h.settle(); err != nil {
		return h, err
	}
	time.Sleep(2 * time.Minute) // what is fetched, and gaps
	if err := h.settle(); err != nil {
		return h, err
	}
	h.probe()
	time.Sleep(30 * time.Second)
	h.disk.mu.Lock()
	h.disk.commit = 0
	h.disk.mu.Unlock()
	return h, nil
}

// life returns the daemon that runs; nil: none does.
func (h *history) life() *life {
	if !h.startAt.IsZero() {
		return nil
	}
	return h.lives[len(h.lives)-1]
}

func (h *history) startHMCs(a authority) error {
	s := &h.setup
	var text strings.Builder
	text.WriteString("hmcs:\n")
	for i, name := range []string{"east", "west", "north"}[:s.hmcs] {
		rest, link := fmt.Sprintf("127.0.0.1:%d", 6794+i), fmt.Sprintf("127.0.0.1:%d", 61612+i)
		o := hmcsim.Options{
			Name: name, CPCs: 1, Partitions: objects, Seed: 2*h.seed + uint64(i) + 1, CA: a.ca, Listen: h.net.listen,
			RESTAddr: rest, StompAddr: link, MaxSessions: 1_000_000, OSMessages: s.keeps,
			RefreshOnce: s.refreshOnce, SequencePerSession: s.perSession, CutOnSessionEnd: s.cutOnEnd,
		}
		c := &hmc{name: name, rest: h.net.at(rest), link: h.net.at(link)}
		o.Now = c.now
		if i > 0 && s.grouped {
			c.lag = time.Duration(i) * s.lag / time.Duration(s.hmcs-1)
			o.EstateOf, o.Lag = h.hmcs[0].sim, c.lag
			if s.numbersDiffer {
				o.OSMessageOffset = 1000 * int64(i)
			}
		}
		sim, err := hmcsim.Start(o)
		if err != nil {
			return err
		}
		c.sim = sim
		h.hmcs = append(h.hmcs, c)
		hosts := "127.0.0.1"
		if s.hosts > 1 {
			o.EstateOf, o.Name = sim, name+"2"
			o.RESTAddr, o.StompAddr = strings.ReplaceAll(rest, hosts, "localhost"), strings.ReplaceAll(link, hosts, "localhost")
			hosts += ", localhost"
			if s.numbersDiffer {
				o.OSMessageOffset = 1000
			}
			if c.spare, err = hmcsim.Start(o); err != nil {
				return err
			}
		}
		if i == 0 || !s.grouped {
			for _, p := range sim.Partitions() {
				if err := sim.SetPartitionStatus(p.ID, "active"); err != nil {
					return err
				}
			}
		}
		c.rest.slow(s.delay)
		c.link.slow(s.delay)
		group := name
		if s.grouped {
			group = "both"
		}
		fmt.Fprintf(&text, "- {name: %s, group: %s, hosts: [%s], rest_port: %d, stomp_port: %d, userid: %s, password: %s, tls: {ca_file: %q},\n"+
			"   topics: [object, job, audit, security], os_messages: [{cpc: .*, partition: .*, include_refresh_messages: %v}], rest_requests_per_minute: %d, stomp: {connect_retries: 3}}\n",
			name, group, hosts, 6794+i, 61612+i, hmcsim.DefaultUserid, hmcsim.DefaultPassword, a.cert, s.refresh, s.budget)
	}
	text.WriteString("sinks:\n- {name: out, log: {output: stdout}}\n")
	for i, text := range []string{text.String(), strings.ReplaceAll(text.String(), "connect_retries: 3", "connect_retries: 2")} {
		path := filepath.Join(h.dir, "hmcnotifyd.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return err
		}
		var err error
		if h.cfgs[i], err = config.Load(path); err != nil {
			return err
		}
	}
	return nil
}

// cfg is the configuration that holds.
func (h *history) cfg() *config.Config {
	if h.other {
		return h.cfgs[1]
	}
	return h.cfgs[0]
}

// start starts the daemon. A start that fails is tried again, as a service manager does.
func (h *history) start() error {
	for tries := 0; ; tries++ {
		l, err := startLife(h.cfg(), h.dir, h.disk, h.net, h.log)
		if err == nil {
			h.lives, h.startAt = append(h.lives, l), time.Time{}
			time.Sleep(time.Microsecond) // it runs
			return nil
		}
		if tries > 1000 {
			return err
		}
		time.Sleep(time.Second)
	}
}

// end ends the daemon in order.
func (h *history) end() {
	h.pending.Wait()
	if len(h.lives) == 0 {
		return
	}
	l := h.lives[len(h.lives)-1]
	l.end()
	<-l.done
	if l.err != nil && !l.gone() {
		h.problem = append(h.problem, "the end: "+l.err.Error())
	}
}

// sleepUntil waits, and starts the daemon when that is due.
func (h *history) sleepUntil(at time.Time) {
	for {
		if l := h.life(); l != nil && l.gone() { // by a commit
			h.mu.Lock()
			h.windows = append(h.windows, &window{what: "killed by a commit", from: l.dead, to: time.Now().Add(30 * time.Second)})
			h.mu.Unlock()
			h.down(time.Second)
		}
		if h.startAt.IsZero() || h.startAt.After(at) {
			break
		}
		time.Sleep(time.Until(h.startAt))
		<-h.lives[len(h.lives)-1].done
		if err := h.start(); err != nil {
			h.problem = append(h.problem, err.Error())
			return
		}
	}
	time.Sleep(time.Until(at))
}

// down notes that the daemon has ended, and is to be started again.
func (h *history) down(after time.Duration) {
	h.startAt = time.Now().Add(after)
}

// fault notes that a fault begins, and returns what ends it.
func (h *history) fault(hmc, what string) (end func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	w := &window{hmc: hmc, what: what, from: time.Now()}
	h.windows = append(h.windows, w)
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		w.to = time.Now()
	}
}

// during does something, and takes it back after a time.
func (h *history) during(hmc, what string, d time.Duration, begin, end func()) {
	over := h.fault(hmc, what)
	begin()
	h.pending.Go(func() {
		time.Sleep(d)
		end()
		over()
	})
}

// add notes a fact, that these HMCs tell.
func (h *history) add(f *fact, hmcs ...*hmc) *fact {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.numbers++
	f.nr, f.at, f.hmcs = h.numbers, time.Now(), make(map[string]time.Time)
	f.count = max(f.count, 1)
	for _, c := range hmcs {
		f.hmcs[c.name] = f.at.Add(c.lag)
	}
	if f.mark == "" {
		f.mark = fmt.Sprintf("fact:%d;", f.nr)
	}
	h.facts = append(h.facts, f)
	return f
}

// tellers are the HMCs that tell what happens to the machines of one.
func (h *history) tellers(c *hmc) []*hmc {
	if h.setup.grouped {
		return h.hmcs
	}
	return []*hmc{c}
}

func (h *history) account(c *hmc) string {
	if h.setup.grouped {
		return "both"
	}
	return c.name
}

func (h *history) partition(c *hmc, obj int) hmcsim.PartitionInfo { return c.sim.Partitions()[obj] }

// do does a step.
func (h *history) do(s *step) {
	c := h.hmcs[s.hmc]
	switch s.kind {
	case change:
		h.change(c, s.obj)
	case status:
		p := h.partition(c, s.obj)
		_ = c.sim.SetPartitionStatus(p.ID, []string{"active", "degraded", "paused"}[s.n%3])
	case console:
		h.messages(c, s.obj, 1+s.n/4)
	case same:
		h.sameMessage(c, s.obj)
	case cutOff:
		up := s.n%3 > 0
		if h.setup.keeps < 1_000_000 { // what is written meanwhile may be more than the HMC holds
			h.fault("", string(s.kind))()
		}
		_ = c.sim.SetCommunicating(c.sim.CPCs()[0].ID, up)
	case rename:
		_ = c.sim.RenamePartition(h.partition(c, s.obj).ID, fmt.Sprintf("NAME%d%d", s.obj, s.n%3))
	case clockSet:
		ahead := []time.Duration{0, time.Hour, -time.Hour, 90 * time.Second, -90 * time.Second, 49 * time.Hour}[s.n%6]
		c.mu.Lock()
		c.ahead = ahead
		c.mu.Unlock()
	case reload:
		if l := h.life(); l != nil && !l.gone() {
			h.other = !h.other
			h.during("", string(s.kind), 30*time.Second, func() {
				if err := l.reload(h.cfg()); err != nil && !l.gone() {
					h.problem = append(h.problem, "reload: "+err.Error())
				}
			}, func() {})
		}
	case anew:
		_ = c.sim.SetOSMessageSequence(h.partition(c, s.obj).ID, 0)
	case entries:
		h.entries(c, []string{"audit", "security"}[s.n%2], 1+s.n/8)
	case equal:
		h.equalEntries(c, []string{"audit", "security"}[s.n%2], 2+s.n/4)
	case job:
		h.job(c)
	case cut:
		h.fault(c.name, string(s.kind))()
		c.link.cut()
		if s.n < 4 {
			c.rest.cut()
		}
	case away:
		h.during(c.name, string(s.kind), s.last,
			func() { c.link.refuse(true); c.rest.refuse(true) },
			func() { c.link.refuse(false); c.rest.refuse(false) })
	case stall:
		h.stall(c, s)
	case slow:
		d := time.Duration(50*(1+s.n)) * time.Millisecond
		h.during(c.name, string(s.kind), s.last,
			func() { c.link.slow(d); c.rest.slow(d) },
			func() { c.link.slow(h.setup.delay); c.rest.slow(h.setup.delay) })
	case expire:
		h.fault(c.name, string(s.kind))()
		c.sim.ExpireSessions(s.n < 6)
	case restart:
		h.restart(c, s.last)
	case topicEnd:
		h.topicEnd(c, s)
	case rest:
		h.rest(c, s)
	case full:
		h.during("", string(s.kind), s.last, func() { h.disk.set(func(d *disk) { d.full = true }) },
			func() { h.disk.set(func(d *disk) { d.full = false }) })
	case refused:
		h.during("", string(s.kind), 10*time.Second, func() { h.disk.set(func(d *disk) { d.refuse = 1 + s.n }) }, func() {})
	case kill:
		h.kill(s)
	case stop:
		if l := h.life(); l != nil && !l.gone() {
			h.windowDown(string(s.kind), s.last)
			l.end()
			h.down(s.last)
		}
	}
}

func (d *disk) set(do func(*disk)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	do(d)
}

// windowDown notes that the daemon is down for a time.
func (h *history) windowDown(what string, d time.Duration) {
	h.during("", what, d+30*time.Second, func() {}, func() {})
}

func (h *history) kill(s *step) {
	l := h.life()
	if l == nil || l.gone() {
		return
	}
	h.windowDown(string(s.kind), s.last)
	switch s.n % 3 {
	case 0:
		l.kill()
		h.down(s.last)
	case 1:
		h.disk.set(func(d *disk) { d.kill = before })
	case 2:
		h.disk.set(func(d *disk) { d.kill = after })
	}
}

// change changes a property of an object, among few values: the same change comes again.
func (h *history) change(c *hmc, obj int) {
	p := h.partition(c, obj)
	h.mu.Lock()
	was := h.values[obj]
	now := (was + 1) % 2
	h.values[obj] = now
	h.mu.Unlock()
	all := h.tellers(c)
	f := h.add(&fact{topic: "object", lane: h.account(c) + p.ID, says: fmt.Sprint(p.ID, was, now)}, all...)
	headers := []hmcsim.Header{
		{Name: "notification-type", Value: "property-change"},
		{Name: "class", Value: p.Class},
		{Name: "name", Value: p.Name},
		{Name: "object-id", Value: p.ID},
		{Name: "object-uri", Value: p.URI},
		{Name: "property-names", Value: " description "},
		{Name: "x-fact", Value: f.mark},
	}
	body := fmt.Appendf(nil, `{"change-reports":[{"property-name":"description","old-value":"v%d","new-value":"v%d"}]}`, was, now)
	for _, c := range all {
		h.later(c.lag, func() {
			c.sim.Publish(hmcsim.TopicObject, headers, body)
			if c.spare != nil {
				c.spare.Publish(hmcsim.TopicObject, headers, body)
			}
		})
	}
}

// later does something after a time. What is later by the same time stays in its order.
func (h *history) later(d time.Duration, do func()) {
	if d == 0 {
		do()
		return
	}
	h.pending.Add(1)
	time.AfterFunc(d, func() {
		defer h.pending.Done()
		do()
	})
}

func (h *history) messages(c *hmc, obj, n int) {
	p := h.partition(c, obj)
	var texts []string
	for range n {
		f := h.add(&fact{topic: "os-message", lane: h.account(c) + p.ID + "os", held: true}, h.tellers(c)...)
		texts = append(texts, f.mark)
	}
	if _, err := c.sim.OSMessages(p.ID, texts...); err != nil {
		h.problem = append(h.problem, err.Error())
	}
}

func (h *history) entries(c *hmc, log string, n int) {
	if c.isDown() || c.spare != nil { // each host has logs of its own
		return
	}
	var list []hmcsim.LogEntry
	for range n {
		at := c.now()
		// Of what is of one millisecond a list does not tell the order.
		if d := c.logged.Sub(at); d > -time.Millisecond && d < time.Second {
			at = c.logged.Add(time.Millisecond)
		}
		c.logged = at
		f := h.add(&fact{topic: log, lane: c.name + log, held: true, logAt: at}, c)
		list = append(list, hmcsim.LogEntry{Time: at, EventID: "3101", Name: "History", Message: f.mark})
	}
	c.sim.LogEntries(log, list...)
}

// equalEntries are the same in every respect.
func (h *history) equalEntries(c *hmc, log string, n int) {
	if c.isDown() || c.spare != nil {
		return
	}
	at := c.now()
	f := h.add(&fact{topic: log, lane: c.name + log + "equal", held: true, logAt: at, count: n}, c)
	var list []hmcsim.LogEntry
	for range n {
		list = append(list, hmcsim.LogEntry{Time: at, EventID: "3101", Name: "History", Message: f.mark})
	}
	half := n / 2 // some in one notification, the rest in another
	c.sim.LogEntries(log, list[:half]...)
	c.sim.LogEntries(log, list[half:]...)
}

// sameMessage is one that a partition's system has written before.
func (h *history) sameMessage(c *hmc, obj int) {
	p := h.partition(c, obj)
	lane := h.account(c) + p.ID + "same"
	h.mu.Lock()
	f := h.same[lane]
	if f != nil {
		f.count++
		f.again = append(f.again, time.Now())
	}
	h.mu.Unlock()
	if f == nil {
		f = h.add(&fact{topic: "os-message", lane: lane, held: true}, h.tellers(c)...)
		h.same[lane] = f
	}
	if _, err := c.sim.OSMessages(p.ID, f.mark); err != nil {
		h.problem = append(h.problem, err.Error())
	}
}

func (h *history) job(c *hmc) {
	if c.isDown() || h.setup.grouped || c.spare != nil {
		// Jobs are told to the session that has started them: in a group nobody counts on the daemon's.
		return
	}
	f := h.add(&fact{topic: "job", lane: c.name + "job"}, c)
	c.sim.Publish(hmcsim.TopicJob, []hmcsim.Header{
		{Name: "notification-type", Value: "job-completion"},
		{Name: "job-uri", Value: "/api/jobs/" + f.mark},
		{Name: "x-fact", Value: f.mark},
	}, nil)
}

func (c *hmc) isDown() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.down
}

func (h *history) stall(c *hmc, s *step) {
	begun := time.Now()
	h.during(c.name, string(s.kind), s.last, func() { c.link.stall(true); c.rest.stall(true) }, func() {
		c.link.stall(false)
		c.rest.stall(false)
		c.mu.Lock()
		c.stalls = append(c.stalls, span{begun, time.Now()})
		c.mu.Unlock()
		if s.n < 4 { // what has just come may not be read any more
			c.link.cut()
		}
	})
}

func (h *history) restart(c *hmc, d time.Duration) {
	c.mu.Lock()
	down := c.down
	c.down = true
	c.mu.Unlock()
	if down {
		return
	}
	over := h.fault(c.name, string(restart))
	h.pending.Go(func() {
		if err := c.sim.Restart(d); err != nil {
			h.problem = append(h.problem, err.Error())
		}
		c.mu.Lock()
		c.down = false
		c.mu.Unlock()
		over()
	})
}

// topicEnd has the broker take topics away for a time, which shows when the link is made again.
func (h *history) topicEnd(c *hmc, s *step) {
	kind := []string{hmcsim.TopicAudit, hmcsim.TopicSecurity, hmcsim.TopicObject, hmcsim.TopicOSMessage}[s.n%4]
	var topics []string
	for _, info := range c.sim.SessionInfos() {
		topics = append(topics, info.Topics[kind]...)
	}
	b := c.sim.Broker()
	h.during(c.name, string(s.kind), s.last+time.Second, func() {
		for _, topic := range topics {
			b.RemoveTopic(topic, s.n < 4)
		}
		c.link.cut()
	}, func() {
		for _, topic := range topics {
			b.AddTopic(topic)
		}
	})
}

func (h *history) rest(c *hmc, s *step) {
	f := []hmcsim.RESTFault{
		{Kind: hmcsim.RESTFaultSlow, Delay: 2 * time.Second},
		{Kind: hmcsim.RESTFaultSlow, Delay: 25 * time.Second},
		{Kind: hmcsim.RESTFaultSlow, Delay: 60 * time.Second},
		{Kind: hmcsim.RESTFaultBusy},
		{Kind: hmcsim.RESTFaultDrop},
		{Kind: hmcsim.RESTFaultTruncate},
		{Kind: hmcsim.RESTFaultGarbage},
		{Kind: hmcsim.RESTFaultEmpty, Operation: "list-permitted-partitions"},
		{Kind: hmcsim.RESTFaultEmpty, Operation: "list-cpcs"},
		{Kind: hmcsim.RESTFaultHang, Times: 2},
		{Kind: hmcsim.RESTFaultStatus, Status: 500, Reason: 0},
		{Kind: hmcsim.RESTFaultStatus, Status: 500, Reason: 0, Operation: "list-os-messages"},
	}[s.n]
	h.during(c.name, string(s.kind), s.last+time.Second, func() { c.sim.FaultREST(f) }, c.sim.ClearRESTFaults)
}

// heal ends all faults, and has the daemon run.
func (h *history) heal() {
	if !h.startAt.IsZero() {
		h.sleepUntil(h.startAt)
	}
	h.pending.Wait()
	h.disk.set(func(d *disk) { d.refuse, d.kill = 0, never })
	for _, c := range h.hmcs {
		_ = c.sim.SetCommunicating(c.sim.CPCs()[0].ID, true)
	}
	h.sleepUntil(time.Now().Add(time.Second))
	h.sleepUntil(time.Now().Add(2 * time.Second))
}

// settle waits until everything is followed, and delivered.
func (h *history) settle() error {
	var err error
	for end := time.Now().Add(2 * time.Hour); ; {
		if err = h.settled(); err == nil {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("not settled: %w", err)
		}
		time.Sleep(time.Second)
		if l := h.life(); l == nil || l.gone() {
			h.sleepUntil(time.Now().Add(time.Second))
		}
	}
}

func (h *history) settled() error {
	l := h.life()
	if l == nil || l.gone() {
		return fmt.Errorf("the daemon does not run")
	}
	st := l.bridge.Status()
	if len(st.HMCs) < len(h.hmcs) {
		return fmt.Errorf("%d HMCs are looked after", len(st.HMCs))
	}
	for _, s := range st.HMCs {
		if !s.Connected || s.OSMessages == nil || s.OSMessages.Followed != objects || s.BlindSince != nil || len(s.Problems) > 0 {
			return fmt.Errorf("HMC %s: %v %+v blind since %v", s.Name, s.Problems, s.OSMessages, s.BlindSince)
		}
	}
	for _, s := range st.Sinks {
		if s.QueueEvents > 0 {
			return fmt.Errorf("%d events wait", s.QueueEvents)
		}
	}
	return nil
}

// warmUp has something told of everything, and stored.
func (h *history) warmUp() {
	time.Sleep(5 * time.Second) // replays settle
	if !h.setup.cold || !h.setup.refresh {
		h.oneOfEach()
		time.Sleep(35 * time.Second)
	}
	h.warm = time.Now()
}

func (h *history) oneOfEach() {
	for i, c := range h.hmcs {
		for obj := range objects {
			if i == 0 || !h.setup.grouped {
				h.messages(c, obj, 1)
				h.change(c, obj)
				time.Sleep(time.Millisecond)
			}
		}
		h.entries(c, "audit", 1)
		h.entries(c, "security", 1)
		h.job(c)
	}
}

// probe has something told of everything, when all is well again.
func (h *history) probe() {
	h.probes = time.Now()
	h.oneOfEach()
}
