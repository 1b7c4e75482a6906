package bridge

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/check"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/cluster"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
	"github.com/hmcnotifyd/hmcnotifyd/tests/natscluster"
)

// onCluster returns where a daemon keeps its events that leads with an epoch.
func onCluster(t *testing.T, url string, epoch uint64) (*Elsewhere, *cluster.Store) {
	t.Helper()
	c, err := cluster.Connect(t.Context(), cluster.Options{URLs: []string{url}, Name: "x", Replicas: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	s := cluster.NewStore(c, cluster.StoreOptions{Epoch: epoch})
	return &Elsewhere{Store: s, Letters: func(o queue.DeadLetterOptions) (queue.Letters, error) {
		return c.OpenLetters(cluster.LettersOptions{Options: o})
	}}, s
}

// A second daemon, on a machine of its own, goes on where the first has ended, or was deposed while it
// still believed in itself: what waits for a sink is delivered with the ids it had, what was missed
// meanwhile is fetched, a status that changed is told once, and the dead letters are there.
func TestTakeOver(t *testing.T) {
	t.Parallel()
	for _, orderly := range []bool{true, false} {
		t.Run(fmt.Sprintf("orderly %v", orderly), func(t *testing.T) {
			t.Parallel()
			url := natscluster.Single(t)
			sim := hmctest.Start(t, hmcsim.Options{CPCs: 1, Partitions: 3})
			parts := sim.Partitions()
			yaml := hmcYAML(t, "a", sim, allTopics, "os_messages: [{}]")
			first := &daemon{t: t, dir: t.TempDir(), consumer: newConsumer(t), timing: testTiming()}
			var store *cluster.Store
			first.elsewhere, store = onCluster(t, url, 1)
			first.start(first.config(yaml))
			first.connected("a")
			statusTo := func(id, status string) {
				t.Helper()
				if err := sim.SetPartitionStatus(id, status); err != nil {
					t.Fatal(err)
				}
			}
			first.consumer.set(func(_ *http.Request, e *event.Event) int {
				if e.Type == event.TypePropertyChange {
					return http.StatusServiceUnavailable
				}
				return http.StatusBadRequest
			})
			for n := range 10 {
				publish(sim, "P", strconv.Itoa(n))
			}
			statusTo(parts[0].ID, "stopped")
			first.eventually("stored", func() bool { return len(marks(first.fileEvents())["P"]) == 10 })
			first.eventually("refused for good", func() bool { return first.bridge.dead.Count("hook") > 0 })
			letters, err := first.bridge.dead.List(queue.DeadLetterFilter{})
			if err != nil {
				t.Fatal(err)
			}
			if orderly {
				first.stop()
			}
			first.consumer.set(func(*http.Request, *event.Event) int { return http.StatusOK })
			statusTo(parts[1].ID, "stopped")
			if _, err := sim.OSMessages(parts[2].URI, "test while it changes"); err != nil {
				t.Fatal(err)
			}

			second := &daemon{t: t, dir: t.TempDir(), consumer: first.consumer, timing: testTiming()}
			second.elsewhere, _ = onCluster(t, url, 2)
			second.start(second.config(yaml))
			second.connected("a")
			if !orderly {
				<-store.Lost()
				if !errors.Is(store.Why(), cluster.ErrDeposed) {
					t.Errorf("why: %v", store.Why())
				}
				first.stop()
			}
			publish(sim, "P", "10")
			ids := map[string]string{}
			for _, e := range first.fileEvents() {
				ids[e.ID] = e.Summary
			}
			all := func() []*event.Event { return slices.Concat(first.fileEvents(), second.fileEvents()) }
			second.eventually("delivered", func() bool { return slices.Contains(marks(second.consumer.got())["P"], "10") })
			second.eventually("the message", func() bool { return slices.Contains(marked(all(), event.TypeOSMessage), "test while it changes") })
			told := func(part hmcsim.PartitionInfo) (events []*event.Event) {
				seen := map[string]bool{}
				for _, e := range all() {
					if e.Type == event.TypeStatusChange && e.Resource != nil && e.Resource.Name == part.Name && !seen[e.ID] {
						seen[e.ID] = true
						events = append(events, e)
					}
				}
				return events
			}
			second.eventually("the status", func() bool { return len(told(parts[1])) > 0 })
			second.stop()
			// Each once, whoever delivered it, but for what the first one delivered when it was deposed.
			delivered := map[string]int{}
			for _, e := range second.consumer.got() {
				delivered[e.ID]++
			}
			for _, e := range first.fileEvents() {
				if n := delivered[e.ID]; e.Type == event.TypePropertyChange && n != 1 && (orderly || n != 2) {
					t.Errorf("%s was delivered %d times", e.Summary, n)
				}
			}
			for _, part := range parts[:2] {
				if events := told(part); len(events) != 1 {
					for _, e := range events {
						t.Logf("%s %s %s", e.ID, e.Origin, e.Summary)
					}
					t.Errorf("the status of %s was told %d times", part.Name, len(events))
				}
			}
			if gaps := second.gapsTold(); len(gaps) != 1 || time.Since(gaps[0].From) > within {
				t.Errorf("gaps: %+v", gaps)
			}
			again, _ := onCluster(t, url, 3)
			dead, err := again.Letters(queue.DeadLetterOptions{})
			if err != nil {
				t.Fatal(err)
			}
			for _, l := range letters {
				if now, err := dead.Get(l.ID); err != nil || now.EventID != l.EventID || len(now.Data) != l.Size {
					t.Errorf("dead letter %+v is %+v, %v", l, now, err)
				}
			}
		})
	}
}

// check-config --online looks at the cluster, and makes nothing there.
func TestCheckOfACluster(t *testing.T) {
	t.Parallel()
	url := natscluster.Single(t)
	sim := hmctest.Start(t, hmcsim.Options{CPCs: 1})
	look := func(settings string) (out string, err error) {
		t.Helper()
		cfg := load(t, t.TempDir(), "hmcs:\n"+hmcYAML(t, "a", sim)+"sinks: [{name: l, log: {output: stderr}}]\n"+
			fmt.Sprintf("storage: {jetstream: {urls: [%q], name: x, %s}}\n", url, settings))
		var said strings.Builder
		err = check.Run(t.Context(), check.Options{Config: cfg, Version: "test", Out: &said})
		return said.String(), err
	}
	for range 2 { // the first one has made nothing
		out, err := look("replicas: 1")
		if want := "makes what is missing, if it may: stream hmcnotifyd-x-log, bucket hmcnotifyd-x, stream hmcnotifyd-x-dead\n"; err != nil ||
			!strings.Contains(out, want) {
			t.Errorf("%v, without %q:\n%s", err, want, out)
		}
	}
	elsewhere, _ := onCluster(t, url, 1)
	dead, err := elsewhere.Letters(queue.DeadLetterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := dead.Close(); err != nil {
		t.Error(err)
	}
	if out, err := look("replicas: 1"); err != nil || !strings.Contains(out, "storage.jetstream: can be reached, and can keep the log x\n") {
		t.Errorf("%v\n%s", err, out)
	}
	if _, err := look("replicas: 3"); err == nil || !strings.HasPrefix(err.Error(), "storage.jetstream: ") ||
		!strings.Contains(err.Error(), "it has 1 replicas and the configuration says 3") {
		t.Errorf("another number of replicas: %v", err)
	}
}
