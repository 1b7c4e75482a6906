//go:build real

package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/tests/natscluster"
	"github.com/hmcnotifyd/hmcnotifyd/tests/soak"
)

// blind are the times that gaps have told, and whether one of them says that changes may be missing.
func (p *haPair) blind() (gaps []time.Duration, missing bool) {
	p.load.mu.Lock()
	defer p.load.mu.Unlock()
	for _, a := range p.load.got {
		var gap struct {
			From, To time.Time
			Missing  []string `json:"may_be_missing"`
		}
		if a.Type == event.TypeBridgeGap && json.Unmarshal(a.Body, &gap) == nil {
			gaps = append(gaps, gap.To.Sub(gap.From).Round(time.Millisecond))
			missing = missing || strings.Contains(strings.Join(gap.Missing, "; "), "object notifications")
		}
	}
	return gaps, missing
}

// Leaders change places in order under load, while the sink takes its time: each time the next one is connected while requests of the
// one before are on their way, nothing is sent twice, and what nobody saw is named.
func TestOrderlySwitches(t *testing.T) {
	soak.Parallel(t)
	p := startPair(t, haTTL)
	p.load.mu.Lock()
	p.load.takes = 700 * time.Millisecond
	p.load.mu.Unlock()
	rounds := soak.Count(t, "HA_SWITCHES", 3, 30)
	var slowest time.Duration
	before := 0
	for range rounds {
		leader, other := p.both[0], p.both[1]
		p.awaitStandby(other)
		time.Sleep(time.Second) // it delivers meanwhile
		done := p.load.ledger.Begin("", "the leader ends")
		leader.signal(os.Interrupt)
		began := time.Now()
		eventually(t, "the other leads", func() bool { return p.leads(other) })
		slowest = max(slowest, time.Since(began))
		done()
		select {
		case <-leader.exited:
		default:
			before++
		}
		if code := leader.wait(); code != 0 {
			t.Errorf("exit status %d:\n%s", code, leader.out)
		}
		p.launch(leader)
		p.swap()
	}
	c := p.finish()
	if c.Again > 0 {
		t.Errorf("%d were sent twice", c.Again)
	}
	p.namesLeaders()
	gaps, _ := p.blind()
	t.Logf("%d switches, the slowest one after %s, in %d the one before was still delivering; blind for %v; %+v",
		rounds, slowest.Round(time.Millisecond), before, gaps, *c)
}

// A daemon that stands by takes little memory, also where the HMC manages as much as a daemon takes, and does not load all of it when it
// has to lead. No other test of the package runs meanwhile: the more has to wait for the processor, the later memory is collected.
func TestStandbyOfManyResources(t *testing.T) {
	resources := soak.Count(t, "HA_RESOURCES", 10_000, 10_000)
	p := newHAOf(t, hmcsim.Options{Name: "east", CPCs: 20, Partitions: resources - 20, MaxSessions: 200})
	p.messages = "[]"
	storage := fmt.Sprintf("storage: {jetstream: {urls: [%q], name: x, replicas: 1}}\nha: {lease_ttl: %s}\n", natscluster.Single(t), haTTL)
	for _, name := range []string{"a", "b"} {
		p.launch(p.add(name, storage))
		if name == "a" {
			eventually(t, "it leads", func() bool { return p.leads(p.both[0]) })
		}
	}
	leader, other := p.both[0], p.both[1]
	metrics := func(d *haDaemon) string {
		_, text := get(t, p.client, http.MethodGet, "http://"+d.addr+"/metrics")
		return text
	}
	known := func(d *haDaemon) int { return strings.Count(metrics(d), "\nhmcnotifyd_resource_status{") }
	want := len(p.load.sim.Partitions()) + len(p.load.sim.CPCs())
	eventually(t, "all are known", func() bool { return known(leader) == want })
	p.begin()
	total := 0
	eventually(t, "much is stored", func() bool { total = p.counted(leader, total); return total > 5000 })
	p.awaitStandby(other)
	memory := valueOf(t, metrics(other), "process_resident_memory_bytes")
	if memory > 64<<20 {
		t.Errorf("the standby takes %.0f bytes of memory", memory)
	}
	done := p.load.ledger.Begin("", "the leader is killed")
	leader.signal(syscall.SIGKILL)
	<-leader.exited
	began := time.Now()
	eventually(t, "the other leads", func() bool { return other.status(t, p.client).Role == "leader" })
	leads := time.Since(began)
	eventually(t, "and is connected", func() bool { return p.leads(other) })
	done()
	if n := known(other); n != want {
		t.Errorf("it knows %d of %d", n, want)
	}
	p.settle()
	p.end(other)
	p.judge()
	t.Logf("%d resources: a standby takes %.0f MiB, leads after %s", want, memory/(1<<20), leads.Round(time.Millisecond))
}

// With a connected standby nothing is lost of what was published when the leader is killed under load, again and again, and nothing is
// told under two ids; unless a gap says that something may be, where this machine takes longer than it is kept.
func TestNothingPublishedIsLost(t *testing.T) {
	soak.Parallel(t)
	p := startPairOf(t, haTTL, "connected")
	kills := soak.Count(t, "HA_KILLS_CONNECTED", 3, 50)
	var slowest time.Duration
	for range kills {
		leader, other := p.both[0], p.both[1]
		eventually(t, "the other stands by, and hears", func() bool {
			s := other.status(t, p.client)
			return s.Role == "standby" && s.Ready && len(s.HMCs) == 1 && s.HMCs[0].Connected
		})
		if n := p.load.sim.Links(); n < 2 {
			t.Errorf("%d links", n)
		}
		time.Sleep(6 * time.Second) // it hears for longer than clocks of two machines may be apart
		p.catchUp()                 // what came before that nobody else has heard
		done := p.load.ledger.Begin("", "the leader is killed")
		leader.signal(syscall.SIGKILL)
		<-leader.exited
		began := time.Now()
		eventually(t, "the other leads", func() bool { return p.leads(other) })
		slowest = max(slowest, time.Since(began))
		done()
		p.launch(leader)
		p.swap()
	}
	c := p.finish()
	p.namesLeaders()
	gaps, missing := p.blind()
	if c.Named > 0 && !missing {
		t.Errorf("%d were lost, and no gap says that something may be missing", c.Named)
	}
	t.Logf("%d kills, the slowest take-over after %s; blind for %v, perhaps missing: %v; %+v", kills, slowest.Round(time.Millisecond), gaps, missing, *c)
}
