package bridge

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/deliver"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/replay"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
)

// floodDaemon is a daemon that watches a CPC of 50 active partitions. Its sink "hook" has collapse, its sink "file" has not.
func floodDaemon(t *testing.T) (d *daemon, sim *hmcsim.HMC, hmcs string) {
	t.Helper()
	sim = hmctest.Start(t, hmcsim.Options{CPCs: 1, Partitions: 50})
	for _, p := range sim.Partitions() {
		if err := sim.SetPartitionStatus(p.URI, "active"); err != nil {
			t.Fatal(err)
		}
	}
	d = &daemon{t: t, dir: t.TempDir(), consumer: newConsumer(t), timing: testTiming()}
	hmcs = hmcYAML(t, "a", sim)
	d.start(d.floodConfig(hmcs, 10))
	d.connected("a")
	last := sim.Partitions()[49]
	d.eventually("the CPC of the partitions is known", func() bool {
		sim.Publish("object-notification", []hmcsim.Header{
			{Name: "notification-type", Value: "property-change"},
			{Name: "class", Value: "partition"},
			{Name: "object-uri", Value: last.URI},
		}, []byte(`{"change-reports":[{"property-name":"description","old-value":"a","new-value":"b"}]}`))
		events := d.consumer.got()
		return len(events) > 0 && events[len(events)-1].Resource.CPC != ""
	})
	// What is on its way of a partition from before its CPC was known keeps it out of a flood.
	d.eventually("all is delivered", func() bool { return d.sink("hook").QueueEvents == 0 && d.sink("file").QueueEvents == 0 })
	return d, sim, hmcs
}

func (d *daemon) floodConfig(hmcs string, minimum int) *config.Config {
	return load(d.t, d.dir, "hmcs:\n"+hmcs+fmt.Sprintf(`
sinks:
  - {name: hook, webhook: {url: %q}, retry: {initial: 10ms, max: 50ms}, drop: [{type: ["bridge-.*"]}], collapse: true}
  - {name: file, log: {output: events.log}, drop: [{type: ["bridge-.*"]}]}
flood: {window: 2s, min: %d}
`, d.consumer.url(), minimum))
}

// statusChanges are the events of status changes, and the summaries of them.
func statusChanges(events []*event.Event) (singles, summaries []*event.Event) {
	for _, e := range events {
		switch e.Type {
		case event.TypeStatusChange:
			singles = append(singles, e)
		case event.TypeStatusChangeSummary:
			summaries = append(summaries, e)
		}
	}
	return singles, summaries
}

// uris counts events by resource.
func uris(events []*event.Event) map[string]int {
	counts := make(map[string]int)
	for _, e := range events {
		counts[e.Resource.ObjectURI]++
	}
	return counts
}

// sameSums waits until both sinks are done, and checks that as much has become of what was stored for the one as for the other.
func (d *daemon) sameSums() {
	d.t.Helper()
	d.eventually("both are done", func() bool { return d.sink("hook").QueueEvents == 0 && d.sink("file").QueueEvents == 0 })
	sum := func(sink string) (n float64) {
		for _, outcome := range []string{"delivered", "filtered", "dead_letter", "dropped"} {
			n += d.metric(fmt.Sprintf(`hmcnotifyd_sink_events_total{outcome=%q,sink=%q}`, outcome, sink))
		}
		return n
	}
	if hook, file := sum("hook"), sum("file"); hook != file || file < 50 {
		d.t.Errorf("something became of %v and %v events", hook, file)
	}
}

func (d *daemon) must(err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatal(err)
	}
}

// When a support element loses contact, and when it has it again, the sink with collapse gets one event, the other one all.
func TestFloodOfACPC(t *testing.T) {
	t.Parallel() // it takes some seconds of waiting
	d, sim, hmcs := floodDaemon(t)
	cpc := sim.CPCs()[0]
	for round, text := range []string{
		"CPC " + cpc.Name + ": 50 partitions active -> communications-not-active", "CPC " + cpc.Name + ": 50 partitions communications-not-active -> active",
	} {
		d.must(sim.SetCommunicating(cpc.Name, round == 1))
		d.eventually("the summary", func() bool {
			_, summaries := statusChanges(d.consumer.got())
			return len(summaries) > round
		})
		singles, summaries := statusChanges(d.consumer.got())
		if len(summaries) != round+1 || len(uris(singles)) != 1 || uris(singles)[cpc.URI] <= round {
			t.Fatalf("%d summaries, single changes of %v", len(summaries), uris(singles))
		}
		e := summaries[round]
		b := floodBody(t, e)
		if e.Summary != text || b.Count != 50 || len(b.Resources) != 50 || e.Resource.ObjectURI != cpc.URI || e.Resource.Name != cpc.Name || e.HMC != "a" {
			t.Errorf("%s: %+v, %+v", e.Summary, e.Resource, b)
		}
		// The file has each of them, by the ids that the summary lists.
		all := make(map[string]*event.Event)
		logged, none := statusChanges(d.fileEvents())
		for _, e := range logged {
			all[e.ID] = e
		}
		counts := uris(logged)
		if len(none) != 0 || len(counts) != 51 {
			t.Errorf("changes of %d resources and %d summaries in the file", len(counts), len(none))
		}
		for _, p := range sim.Partitions() {
			if counts[p.URI] < []int{1, 3}[round] { // at the return each comes twice
				t.Errorf("%s: %d changes in the file", p.Name, counts[p.URI])
			}
		}
		for i, r := range b.Resources {
			if single := all[r.ID]; single == nil || single.Resource.ObjectURI != r.ObjectURI || single.Resource.Name != r.Name || r.Name == "" {
				t.Errorf("resource %d: %+v, %+v", i, r, single)
			}
		}
	}
	d.sameSums()
	if got := d.metric(`hmcnotifyd_sink_events_total{outcome="delivered",sink="hook"}`); got < 2+100 {
		t.Errorf("%v delivered", got)
	}
	if got := d.metric(`hmcnotifyd_sink_events_total{outcome="filtered",sink="hook"}`); got < 50 { // the repeats
		t.Errorf("%v filtered", got)
	}

	// Nine are no flood, and come one by one. With another minimum they are one: the sink is made anew at the reload.
	nine := sim.Partitions()[20:29]
	before := len(d.consumer.got())
	for _, p := range nine {
		d.must(sim.SetPartitionStatus(p.URI, "stopped"))
	}
	d.eventually("nine changes", func() bool { return len(d.consumer.got()) >= before+9 && d.sink("hook").QueueEvents == 0 })
	for i, e := range d.consumer.got()[before:] {
		if i >= 9 || e.Type != event.TypeStatusChange || e.Resource.Class != "partition" {
			t.Errorf("event %d: %+v", i, e)
		}
	}
	d.must(d.bridge.Reload(d.floodConfig(hmcs, 9)))
	for _, p := range nine {
		d.must(sim.SetPartitionStatus(p.URI, "active"))
	}
	d.eventually("a summary of nine", func() bool {
		_, summaries := statusChanges(d.consumer.got())
		return len(summaries) == 3 && floodBody(t, summaries[2]).Count == 9
	})
	d.sameSums()
	d.lint()
}

// A summary that is refused is one dead letter, and can be sent again. It counts as all the events it stands for.
func TestFloodRefused(t *testing.T) {
	t.Parallel() // it takes some seconds of waiting
	d, sim, _ := floodDaemon(t)
	d.consumer.set(func(_ *http.Request, e *event.Event) int {
		if e.Type == event.TypeStatusChangeSummary {
			return http.StatusBadRequest
		}
		return http.StatusOK
	})
	d.must(sim.SetCommunicating(sim.CPCs()[0].Name, false))
	d.eventually("refused", func() bool { return d.sink("hook").DeadLetters == 1 })
	d.sameSums()
	if got := d.metric(`hmcnotifyd_sink_events_total{outcome="dead_letter",sink="hook"}`); got != 50 {
		t.Errorf("%v dead letters are counted", got)
	}
	letters := d.letters(replay.DeadLetterFilter{})
	if len(letters) != 1 || letters[0].EventType != event.TypeStatusChangeSummary || letters[0].Status != http.StatusBadRequest {
		t.Fatalf("%+v", letters)
	}
	d.consumer.set(func(*http.Request, *event.Event) int { return http.StatusOK })
	if _, got := d.replayed(replay.DeadLetterFilter{}, ""); got != (replay.LettersCounts{Letters: 1, Accepted: 1}) {
		t.Errorf("%+v", got)
	}
	if _, summaries := statusChanges(d.consumer.got()); len(summaries) != 1 || summaries[0].ID != letters[0].EventID || floodBody(t, summaries[0]).Count != 50 {
		t.Errorf("%+v", summaries)
	}
}

// An end in good order while a group waits sends it.
func TestFloodAtTheEnd(t *testing.T) {
	t.Parallel()
	d, sim, _ := floodDaemon(t)
	d.must(sim.SetCommunicating(sim.CPCs()[0].Name, false))
	d.eventually("all in the file", func() bool {
		singles, _ := statusChanges(d.fileEvents())
		return len(uris(singles)) == 51
	})
	d.stop()
	if _, summaries := statusChanges(d.consumer.got()); len(summaries) != 1 || floodBody(t, summaries[0]).Count != 50 {
		t.Errorf("%d summaries", len(summaries))
	}
}

func floodBody(t *testing.T, e *event.Event) deliver.FloodSummary {
	t.Helper()
	var s deliver.FloodSummary
	if err := json.Unmarshal(e.Body, &s); err != nil {
		t.Fatalf("%v: %s", err, e.Body)
	}
	return s
}
