package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
)

// A daemon that is killed while a flood waits for its end loses nothing of it: the next one tells
// it whole.
func TestFloodKilled(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{CPCs: 1, Partitions: 50})
	dir := t.TempDir()
	var mu sync.Mutex
	var got []*event.Event
	consumer := startPicky(t, func(e *event.Event) int {
		mu.Lock()
		defer mu.Unlock()
		got = append(got, e)
		return http.StatusOK
	})
	path := daemonConfig(t, dir, sim, hmcsim.DefaultPassword)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head, _, _ := strings.Cut(string(text), "sinks:")
	configure := func(window string) {
		write(t, path, head+fmt.Sprintf(`sinks:
  - {name: hook, webhook: {url: %q}, collapse: true}
  - {name: file, log: {output: events.log}}
flood: {window: %s, min: 10}
`, consumer.URL, window))
	}
	// logged returns the ids of the status changes that the file has of partitions, by URI.
	logged := func() map[string][]string {
		data, err := os.ReadFile(filepath.Join(dir, "events.log"))
		if err != nil {
			t.Fatal(err)
		}
		ids := make(map[string][]string)
		for line := range strings.Lines(string(data)) {
			e := new(event.Event)
			if err := json.Unmarshal([]byte(line), e); err == nil && e.Type == event.TypeStatusChange && e.Resource.Class == "partition" {
				ids[e.Resource.ObjectURI] = append(ids[e.Resource.ObjectURI], e.ID)
			}
		}
		return ids
	}
	configure("5m")
	p, o := startDaemon(t, path, dir)
	last := sim.Partitions()[49]
	eventually(t, "the CPC of the partitions is known", func() bool {
		sim.Publish("object-notification", []hmcsim.Header{
			{Name: "notification-type", Value: "property-change"},
			{Name: "class", Value: "partition"},
			{Name: "object-uri", Value: last.URI},
		}, []byte(`{"change-reports":[{"property-name":"description","old-value":"a","new-value":"b"}]}`))
		mu.Lock()
		defer mu.Unlock()
		return len(got) > 0 && got[len(got)-1].Resource != nil && got[len(got)-1].Resource.CPC != ""
	})
	eventually(t, "all is delivered", func() bool {
		_, body := get(t, http.DefaultClient, http.MethodGet, o.url+"/metrics")
		return strings.Contains(body, `hmcnotifyd_sink_queue_events{sink="hook"} 0`)
	})
	if err := sim.SetCommunicating(last.CPC, false); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all are in the file", func() bool { return len(logged()) == 50 })
	p.signal(syscall.SIGKILL)
	<-p.exited
	mu.Lock()
	for _, e := range got {
		if e.Type == event.TypeStatusChangeSummary || e.Type == event.TypeStatusChange && e.Resource.Class == "partition" {
			t.Errorf("%s before the flood has ended", e.Summary)
		}
	}
	got = nil
	mu.Unlock()

	configure("1s")
	_, _ = startDaemon(t, path, dir)
	var summary *event.Event
	eventually(t, "the summary", func() bool {
		mu.Lock()
		defer mu.Unlock()
		for _, e := range got {
			if e.Type == event.TypeStatusChangeSummary {
				summary = e
			}
		}
		return summary != nil
	})
	var body struct {
		Count     int
		Resources []struct {
			URI string `json:"object-uri"`
			ID  string
		}
	}
	if err := json.Unmarshal(summary.Body, &body); err != nil || body.Count != 50 || len(body.Resources) != 50 {
		t.Fatalf("%v: %s", err, summary.Body)
	}
	ids := logged()
	for _, r := range body.Resources {
		if ids[r.URI][0] != r.ID {
			t.Errorf("%s: %s, in the file %v", r.URI, r.ID, ids[r.URI])
		}
	}
}
