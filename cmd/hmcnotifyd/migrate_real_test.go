//go:build real

package main

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/tests/natscluster"
	"github.com/hmcnotifyd/hmcnotifyd/tests/soak"
)

// What a daemon has stored can be moved to a cluster and back to a directory, while events wait for a sink that takes nothing:
// nothing is lost, delivered twice, or told under another id. What was moved is not used any more.
func TestMigrate(t *testing.T) {
	soak.Parallel(t)
	p := newHA(t)
	clustered := fmt.Sprintf("storage: {jetstream: {urls: [%q], name: x, replicas: 1}}\nha: {lease_ttl: %s}\n", natscluster.Single(t), haTTL)
	in := p.add("a", "")
	on, back := p.add("b", clustered), p.add("c", "")
	on.path = in.path // it has sessions and the like
	migrate := func(to, path, want string, wantStatus int) {
		t.Helper()
		status, stdout, stderr := call("migrate", "--to="+to, "--storage.path="+path, on.config, "--log.level=error")
		if text := stdout + stderr; status != wantStatus || !strings.Contains(text, want) {
			t.Errorf("migrate --to %s: %d, want %q in %q", to, status, want, text)
		}
	}
	phase := func(d *haDaemon, last bool) {
		t.Helper()
		p.launch(d)
		eventually(t, "it is connected", func() bool { return p.leads(d) })
		if p.stop == nil {
			p.begin()
			p.load.answers(http.StatusBadRequest)
			eventually(t, "a dead letter", func() bool { p.load.mu.Lock(); defer p.load.mu.Unlock(); return len(p.load.dead) > 0 })
		}
		p.load.answers(http.StatusOK)
		before := p.counted(d, 0)
		eventually(t, "some are delivered", func() bool { return p.counted(d, 0) > before+50 })
		if !last {
			p.load.answers(http.StatusServiceUnavailable)
			before = p.counted(d, 0)
			eventually(t, "some wait", func() bool { return p.counted(d, 0) > before+50 })
			t.Cleanup(p.load.ledger.Begin("", "it is moved"))
		}
	}

	phase(in, false)
	migrate("jetstream", in.path, "stop the daemon first", exitFailed)
	p.end(in)
	migrate("jetstream", in.path, in.path+" stays, and is marked as moved", exitDone)
	migrate("jetstream", in.path, "was moved to", exitFailed)
	p.launch(in)
	if code := in.wait(); code != exitFailed || !strings.Contains(in.out.String(), "was moved to") {
		t.Errorf("a daemon uses what was moved: %d %s", code, in.out)
	}
	phase(on, false)
	migrate("directory", back.path, "uses the cluster", exitFailed)
	p.end(on)
	migrate("directory", in.path, "there are events already", exitFailed)
	migrate("directory", back.path, "marked as moved", exitDone)
	p.launch(on)
	if code := on.wait(); code != exitFailed || !strings.Contains(on.out.String(), "was moved to") {
		t.Errorf("a daemon uses a cluster that was left: %d %s", code, on.out)
	}
	phase(back, true)
	time.Sleep(100 * time.Millisecond) // it is published meanwhile
	p.settle()
	_, letters := get(t, p.client, http.MethodGet, "http://"+back.addr+"/api/v1/dead-letters")
	for _, l := range p.load.dead {
		if !strings.Contains(letters, l.ID) {
			t.Errorf("the dead letter of %s is missing", l.ID)
		}
	}
	p.end(back)
	c := p.judge()
	if c.Again+c.Twice+c.Lost > 0 || c.Arrived == 0 {
		t.Errorf("%+v", *c)
	}
	t.Logf("%+v, %d dead letters", *c, len(p.load.dead))
}
