//go:build real

package main

import (
	"encoding/json"
	"os"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/tests/soak"
)

// blind are the times that gaps have told.
func (p *haPair) blind() (gaps []time.Duration) {
	p.load.mu.Lock()
	defer p.load.mu.Unlock()
	for _, a := range p.load.got {
		var gap struct{ From, To time.Time }
		if a.Type == event.TypeBridgeGap && json.Unmarshal(a.Body, &gap) == nil {
			gaps = append(gaps, gap.To.Sub(gap.From).Round(time.Millisecond))
		}
	}
	return gaps
}

// Leaders change places in order under load, while the sink takes its time: each time the next one is connected while requests of the
// one before are on their way, nothing is sent twice, and what nobody saw is named.
func TestOrderlySwitches(t *testing.T) {
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
	p.settle()
	p.awaitStandby(p.both[1])
	p.end(p.both[1])
	p.end(p.both[0])
	c := p.judge()
	if c.Again > 0 {
		t.Errorf("%d were sent twice", c.Again)
	}
	p.namesLeaders()
	t.Logf("%d switches, the slowest one after %s, in %d the one before was still delivering; blind for %v; %+v",
		rounds, slowest.Round(time.Millisecond), before, p.blind(), *c)
}
