package bridge

import (
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/record"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
)

// How a job ended is asked for, and told with its completion (facts 1.11, 4.4). If it cannot be had the completion is told without.
func TestJobs(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		fault   *hmcsim.RESTFault
		summary string
		body    string
	}{
		"known":   {nil, " complete, status 200", `{"status":"complete","job-status-code":200,"job-results":{}}`},
		"refused": {&hmcsim.RESTFault{Kind: hmcsim.RESTFaultStatus, Operation: "query-job-status", Status: 404, Reason: 1}, " completed", ""},
		"hangs":   {&hmcsim.RESTFault{Kind: hmcsim.RESTFaultHang, Operation: "query-job-status"}, " completed", ""},
		"garbage": {&hmcsim.RESTFault{Kind: hmcsim.RESTFaultGarbage, Operation: "query-job-status"}, " completed", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sim := hmctest.Start(t, hmcsim.Options{Partitions: -1})
			d := startDaemon(t, hmcYAML(t, "a", sim))
			d.connected("a")
			if test.fault != nil {
				sim.FaultREST(*test.fault)
			}
			uris := sim.CompleteJobs()
			d.eventually("told", func() bool { return len(d.fileEvents()) == len(uris) })
			e := d.fileEvents()[0]
			if e.Type != event.TypeJobCompletion || e.Summary != "job "+event.LastSegment(uris[0])+test.summary || string(e.Body) != test.body || e.Headers.Get("job-uri") != uris[0] {
				t.Errorf("%s: %q %s", e.Type, e.Summary, e.Body)
			}
		})
	}
}

// Jobs are told in the order in which they ended, however long it takes to know of each.
func TestJobsKeepTheirOrder(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{Partitions: -1})
	d := startDaemon(t, hmcYAML(t, "a", sim))
	d.connected("a")
	sim.FaultREST(hmcsim.RESTFault{Kind: hmcsim.RESTFaultHang, Operation: "query-job-status", Times: 1})
	var want []string
	for range 2 * record.MaxQuestions {
		want = append(want, sim.CompleteJobs()...)
	}
	d.eventually("told", func() bool { return len(d.fileEvents()) == len(want) })
	for i, e := range d.fileEvents() {
		if e.Headers.Get("job-uri") != want[i] {
			t.Fatalf("%d is %s, want %s", i, e.Headers.Get("job-uri"), want[i])
		}
	}
}

// A job whose end is being asked for when the daemon ends, or loses the link, is told all the same; others are not held up by it.
func TestJobHeldBack(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{Partitions: -1})
	d := startDaemon(t, hmcYAML(t, "a", sim))
	d.connected("a")
	sim.FaultREST(hmcsim.RESTFault{Kind: hmcsim.RESTFaultHang, Operation: "query-job-status"})
	sim.CompleteJobs()
	publish(sim, "P", "behind it")
	d.eventually("the other is told", func() bool { return len(marks(d.fileEvents())["P"]) == 1 })
	both := time.Now() // have been received
	d.stop()
	all := d.fileEvents()
	if len(all) != 2 || all[0].Type != event.TypePropertyChange || all[1].Type != event.TypeJobCompletion {
		t.Fatalf("%d events", len(all))
	}
	if all[1].Received.After(both) {
		t.Errorf("received %s and %s", all[0].Received, all[1].Received)
	}
}

// How a job ended is not asked for when its completion is told already: that would use up requests, and the time of those that ended since.
func TestJobsAreNotAskedForTooLate(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{Partitions: -1})
	d := startDaemon(t, hmcYAML(t, "a", sim))
	d.connected("a")
	sim.FaultREST(hmcsim.RESTFault{Kind: hmcsim.RESTFaultSlow, Operation: "query-job-status", Delay: 500 * time.Millisecond})
	const atOnce = 12
	for range atOnce {
		sim.CompleteJobs()
	}
	d.eventually("told", func() bool { return len(d.fileEvents()) == atOnce })
	sim.CompleteJobs()
	d.eventually("the next one is told", func() bool { return len(d.fileEvents()) == atOnce+1 })
	if e := d.fileEvents()[atOnce]; len(e.Body) == 0 {
		t.Errorf("nobody had the time to ask: %s", e.Summary)
	}
	if n := sim.RESTRequests()["query-job-status"]; n > atOnce/2 {
		t.Errorf("it was asked for %d jobs", n)
	}
}
