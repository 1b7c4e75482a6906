package follow_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/follow"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmc"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// options are those for a partition of a simulated HMC, in a hurry.
func options(sim *hmcsim.HMC, p hmcsim.PartitionInfo) follow.Options {
	stomp := receiver.DefaultStompRetryTimeoutConfig()
	stomp.ReconnectSleepMax = 50 * time.Millisecond
	return follow.Options{
		Hosts: []string{sim.Host()}, RESTPort: sim.RESTPort(), StompPort: sim.StompPort(), TLS: sim.CA().ClientTLS(),
		Userid: hmcsim.DefaultUserid, Password: hmcsim.DefaultPassword, CPC: p.CPC, Partition: p.Name,
		PingEvery: 20 * time.Millisecond, Stomp: &stomp,
	}
}

// TestOSMessages has everything happen that ends a channel, a session or a link, and wants each message once, in order.
func TestOSMessages(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{StepDelay: time.Millisecond})
	p := running(sim)
	said := 0
	say := func() {
		said++
		if _, err := sim.OSMessages(p.ID, fmt.Sprintf("message %d", said)); err != nil {
			t.Error(err)
		}
	}
	must := func(err error) {
		if err != nil {
			t.Error(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	// Its last messages and those of its boot are told too: they do not count here.
	stopped := func(meanwhile func()) {
		for _, step := range []struct {
			do     func(string) error
			status string
		}{{sim.StopPartition, "stopped"}, {sim.StartPartition, "active"}} {
			for step.do(p.ID) != nil && ctx.Err() == nil { // its system is still being loaded
				time.Sleep(time.Millisecond)
			}
			for now, err := sim.Partition(p.ID); now.Status != step.status && ctx.Err() == nil; now, err = sim.Partition(p.ID) {
				must(err)
				time.Sleep(time.Millisecond)
			}
			if step.status == "stopped" {
				meanwhile()
			}
		}
		say()
	}
	// Each is done when what was said before has arrived. What is said meanwhile counts too.
	faults := []func(){
		say,
		func() { sim.ExpireSessions(false); say() },
		func() { sim.ExpireSessions(true); say() },
		func() { sim.Broker().DropLinks(); say() },
		func() { say(); must(sim.Restart(200 * time.Millisecond)); say() },
		func() { stopped(func() {}) },
		func() { stopped(func() { sim.ExpireSessions(true) }) },
		func() { stopped(func() { must(sim.Restart(100 * time.Millisecond)) }) },
		func() { say(); must(sim.SetOSMessageSequence(p.ID, 1)); say(); sim.Broker().DropLinks(); say() },
		say,
	}
	o := options(sim, p)
	o.Held = true
	say()
	var texts []string
	for m, err := range follow.OSMessages(ctx, o) {
		if err != nil {
			t.Log(err)
		}
		if !strings.HasPrefix(m.Text, "message ") {
			continue
		}
		if texts = append(texts, m.Text); len(texts) < said {
			continue
		}
		if len(faults) == 0 {
			break
		}
		faults[0]()
		faults = faults[1:]
	}
	for i, text := range texts {
		if text != fmt.Sprintf("message %d", i+1) {
			t.Fatalf("%q", texts)
		}
	}
	if ctx.Err() != nil || len(texts) != said {
		t.Errorf("%d of %d arrived: %q", len(texts), said, texts)
	}
	if sim.Sessions() != 0 {
		t.Errorf("%d sessions are left", sim.Sessions())
	}
}

func running(sim *hmcsim.HMC) hmcsim.PartitionInfo {
	return sim.Partitions()[slices.IndexFunc(sim.Partitions(), func(p hmcsim.PartitionInfo) bool { return p.Status == "active" })]
}

// TestFromNowOn wants nothing that was written before, unless that is asked for.
func TestFromNowOn(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{})
	p := running(sim)
	if _, err := sim.OSMessages(p.ID, "before"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil { // until the channel is open, nobody hears it
			_, _ = sim.OSMessages(p.ID, "now")
			time.Sleep(time.Millisecond)
		}
	}()
	for m, err := range follow.OSMessages(ctx, options(sim, p)) {
		if err != nil {
			t.Error(err)
		}
		if m.Text != "now" {
			t.Errorf("%+v", m)
		}
		break
	}
	cancel()
	<-done
	if n := sim.Sessions(); n != 0 {
		t.Errorf("%d sessions are left", n)
	}
}

// TestRefused wants an end where going on would do harm, and only there.
func TestRefused(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{})
	o := options(sim, running(sim))
	o.Password = "wrong"
	errs := 0
	for _, err := range follow.OSMessages(t.Context(), o) {
		if errs++; !hmc.LogonRefused(err) {
			t.Error(err)
		}
	}
	if errs != 1 || sim.RefusedLogons() != 1 {
		t.Errorf("%d errors, %d logons", errs, sim.RefusedLogons())
	}
	o = options(sim, running(sim))
	o.Partition = "NOBODY"
	for _, err := range follow.OSMessages(t.Context(), o) {
		if errs++; err == nil || !strings.Contains(err.Error(), "no partition NOBODY on ") {
			t.Errorf("%v", err)
		}
		if errs == 4 {
			break
		}
	}
	o.Hosts = nil
	for _, err := range follow.OSMessages(t.Context(), o) {
		if errs++; err == nil {
			t.Error("no host is taken for one")
		}
	}
	if errs != 5 {
		t.Errorf("%d errors", errs)
	}
}
