package bridge

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
)

// A partition's stop is seen by one HMC of a group and its start by the other, and so are the ends of their links: what a pager
// has opened it resolves.
func TestPagerOfAGroupOfTwo(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	open, paged := make(map[string]bool), make(map[string]int)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // the sender has gone
		}
		mu.Lock()
		defer mu.Unlock()
		key := event.String(event.Member(body, "dedup_key"))
		switch action := event.String(event.Member(body, "event_action")); action {
		case "trigger":
			if !open[key] {
				paged[key]++
			}
			open[key] = true
		case "resolve":
			delete(open, key)
		default:
			t.Errorf("event_action %q: %s", action, body)
		}
	}))
	t.Cleanup(server.Close)
	template, err := os.ReadFile(filepath.Join("..", "..", "docs", "templates", "pagerduty.tmpl"))
	if err != nil {
		t.Fatal(err)
	}
	a, b := startPair(t, 0, hmcsim.Options{CPCs: 1, Partitions: 2})
	p := dpm(t, a, 1)[0]
	if err := a.SetPartitionStatus(p.ID, "active"); err != nil {
		t.Fatal(err)
	}
	d := &daemon{t: t, dir: t.TempDir(), consumer: newConsumer(t), timing: testTiming()}
	if err := os.WriteFile(filepath.Join(d.dir, "pagerduty.tmpl"), template, 0o600); err != nil {
		t.Fatal(err)
	}
	d.start(load(t, d.dir, "hmcs:\n"+pairYAML(t, a, b)+fmt.Sprintf(`
sinks:
  - name: pager
    webhook: {url: %q, format: template, template_file: pagerduty.tmpl}
    match: [{type: [status-change, bridge-disconnected, bridge-connected]}]
`, server.URL)))
	d.connected("a")
	d.connected("b")
	d.estateKnown("a", 3)
	d.estateKnown("b", 3)
	is := func(what string, keys ...string) {
		t.Helper()
		d.eventually(what, func() bool {
			mu.Lock()
			defer mu.Unlock()
			for _, key := range keys {
				if !open[key] {
					return false
				}
			}
			return len(open) == len(keys)
		})
	}
	down := func(sim *hmcsim.HMC) {
		sim.Broker().StopListening()
		sim.Broker().DropLinks()
	}
	up := func(sim *hmcsim.HMC) {
		t.Helper()
		if err := sim.Broker().StartListening(); err != nil {
			t.Fatal(err)
		}
	}
	status := func(to string) {
		t.Helper()
		if err := a.SetPartitionStatus(p.ID, to); err != nil {
			t.Fatal(err)
		}
	}
	partition := "east:" + p.URI
	down(b)
	is("the link of b", "b:link")
	status("terminated")
	is("the partition, told by a", "b:link", partition)
	up(b)
	is("the link of b is there again", partition)
	down(a)
	is("the link of a", "a:link", partition)
	status("active")
	is("the partition is well again, told by b", "a:link")
	up(a)
	is("all is well")
	d.stop() // which is planned
	mu.Lock()
	defer mu.Unlock()
	if len(open) > 0 || len(paged) != 3 || paged[partition] != 1 || paged["a:link"] != 1 || paged["b:link"] != 1 {
		t.Errorf("open %v, paged %v", open, paged)
	}
}
