//go:build real

package storm_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/daemon"
	"github.com/hmcnotifyd/hmcnotifyd/tests/soak"
)

// TestLargeEstate watches 20 CPCs with 3,000 partitions: the first events come before the names are known, all names are known
// soon, the HMC gets no more requests than the budget allows, and the daemon stays small. With every partition's OS messages
// wanted, those of some come before the budget has let all channels be opened.
func TestLargeEstate(t *testing.T) {
	t.Parallel()
	const cpcs, partitions, budget, memory = 20, 3000, 60, 128
	sim := hmctest.Start(t, hmcsim.Options{Name: "east", CPCs: cpcs, Partitions: partitions})
	var first, messages atomic.Int64
	var mu sync.Mutex
	var reconciled []string
	consumer := newHook(t, func(raw []byte, arrived int64) {
		switch {
		case strings.Contains(string(raw), `"type":"property-change"`):
			first.CompareAndSwap(0, arrived)
		case strings.Contains(string(raw), `"type":"os-message"`):
			messages.Add(1)
		}
		if strings.Contains(string(raw), `"origin":"reconcile"`) {
			mu.Lock()
			reconciled = append(reconciled, event.String(event.Member(raw, "summary")))
			mu.Unlock()
		}
	})
	consumer.start(t)
	start := time.Now()
	d := daemon.Start(t, daemon.Options{
		Config: strings.Replace("hmcs:\n"+hmctest.Entry(t, sim, `, os_messages: [{cpc: ".*", partition: ".*"}]`), "rest_requests_per_minute: 10000", fmt.Sprintf("rest_requests_per_minute: %d", budget), 1) +
			fmt.Sprintf("sinks:\n- {name: hook, webhook: {url: %q}, drop: [{type: bridge-.*}]}\n", consumer.url),
	})
	d.AwaitMetric(t, within, 1, "hmcnotifyd_receiver_state", "state", "connected")
	connectedAfter := time.Since(start)
	published := time.Now()
	change(sim, "R1", "the first")
	d.Process.Await(t, within, func() error {
		if first.Load() == 0 {
			return fmt.Errorf("no event has arrived")
		}
		return nil
	})
	d.Process.Await(t, within, func() error {
		text := d.Metrics(t)
		if n := strings.Count(text, "\nhmcnotifyd_resource_status{"); n != cpcs+partitions {
			return fmt.Errorf("%d of %d are known", n, cpcs+partitions)
		}
		return nil
	})
	known := time.Since(start)
	d.Process.Await(t, within, func() error {
		if messages.Load() == 0 {
			return fmt.Errorf("no OS message has arrived")
		}
		return nil
	})
	// Whatever else there is to do, the budget is kept. In full: also when it is used up.
	requests := soak.Count(t, "REQUESTS", budget/2, budget+budget/4)
	d.Process.Await(t, within, func() error {
		if n := len(sim.Calls()); n < requests {
			return fmt.Errorf("%d requests", n)
		}
		return nil
	})
	current, peak := resident(t, d.Process.PID())
	t.Logf("connected after %v, the first event %v after it was published, all %d names after %v, at most %d requests in a minute, %.0f MiB resident, at most %.0f",
		connectedAfter, time.Duration(first.Load()-published.UnixNano()), cpcs+partitions, known, slices.Max(sim.RequestsPerMinute()), current, peak)
	if n := sim.BusiestMinute(); n > budget {
		t.Errorf("%d requests in a minute", n)
	}
	if peak > memory {
		t.Errorf("%.0f MiB resident", peak)
	}

	// What happens while the daemon is down is told by one event each.
	d.Kill()
	p := sim.Partitions()
	for _, err := range []error{sim.RenamePartition(p[0].ID, "NEWNAME"), sim.SetPartitionStatus(p[1].ID, "degraded"), sim.DeletePartition(p[2].ID)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	start = time.Now()
	d.Start(t)
	const said = " (no notification of it was received)"
	want := []string{
		fmt.Sprintf("%s NEWNAME on %s: name %q -> \"NEWNAME\"", p[0].Class, p[0].CPC, p[0].Name) + said,
		fmt.Sprintf("%s %s on %s: %s -> degraded", p[1].Class, p[1].Name, p[1].CPC, p[1].Status) + said,
		fmt.Sprintf("%s %s on %s: removed", p[2].Class, p[2].Name, p[2].CPC) + said,
	}
	d.Process.Await(t, within, func() error {
		mu.Lock()
		defer mu.Unlock()
		if len(reconciled) < len(want) {
			return fmt.Errorf("told: %q", reconciled)
		}
		return nil
	})
	t.Logf("told after %v", time.Since(start))
	d.Stop(t)
	slices.Sort(want)
	slices.Sort(reconciled)
	if !slices.Equal(reconciled, want) {
		t.Errorf("told %q, want %q", reconciled, want)
	}
	if n := sim.BusiestMinute(); n > 2*budget { // a daemon that was killed does not know what it has asked
		t.Errorf("%d requests in a minute", n)
	}
}
