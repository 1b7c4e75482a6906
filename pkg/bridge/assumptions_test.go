package bridge

import (
	"bytes"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/assume"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/probe"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
)

// The daemon works with an HMC that is as it is assumed to be, and with two that are not, each in a half of the points. It says of
// these in which points: each is counted, logged once, and in the status; of the first it says nothing.
func TestAssumptionsThatDoNotHold(t *testing.T) {
	t.Parallel()
	// What cannot be otherwise while the numbers are those of the session, and what has the link made again.
	second := []string{assume.Wrap, assume.SessionEnd, assume.LiveLink, assume.BrokerKind, assume.BrokerRefusal}
	const elsewise = "otherwise, second half"
	for want, o := range map[string]hmcsim.Options{
		assume.AsAssumed: {},
		assume.Otherwise: {
			SequencePerSession: true, RefreshOnce: true, OSSequenceAtIPL: true, HardwareMessageChanges: true, HardwareMessageInventory: true,
		},
		elsewise: {
			CutOnSessionEnd: true,
			Broker: hmcsim.BrokerOptions{
				Server: "OtherMQ/1.0", Faults: [][]hmcsim.Fault{{{Kind: hmcsim.FaultBadLogin, Message: "not you"}}},
			},
		},
	} {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			otherwise := want == assume.Otherwise
			o.CPCs, o.Partitions, o.StepDelay = 2, 4, 10*time.Millisecond
			sim := hmctest.Start(t, o)
			must := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			if otherwise {
				sim.FaultREST(
					hmcsim.RESTFault{Kind: hmcsim.RESTFaultStatus, Operation: "submit-requests", Status: http.StatusNotFound, Reason: 1},
					hmcsim.RESTFault{Kind: hmcsim.RESTFaultStatus, Operation: "list-os-messages", URI: "is-held", Status: http.StatusBadRequest, Reason: 1},
				)
			}
			d := &daemon{t: t, dir: t.TempDir(), consumer: newConsumer(t), timing: testTiming()}
			d.timing.Probe = probe.Intervals{Held: 30 * time.Millisecond}
			d.start(d.config(hmcYAML(t, "a", sim, allOSMessages, "topics: [object, job, audit]", "hardware_messages: true")))
			d.connected("a")
			var part hmcsim.PartitionInfo
			for _, p := range sim.Partitions() {
				if !p.DPM && p.HasOS && part.ID == "" {
					part = p
				}
			}
			if part.ID == "" {
				t.Fatal("there is no LPAR with an operating system")
			}
			followed := func() bool {
				h := d.hmc("a")
				_, not := h.OSMessages.NotFollowed[part.Name]
				return h.Connected && h.OSMessages.Followed > 0 && !not
			}
			d.eventually("its messages are followed", followed)
			count := func(id string) float64 {
				return d.metric(fmt.Sprintf(`hmcnotifyd_hmc_assumption_violations_total{assumption=%q,hmc="a"}`, id))
			}
			held, err := sim.Partition(part.ID)
			must(err)
			_, err = sim.OSMessages(part.ID, "*17 IEF238D JOB1 - REPLY DEVICE NAME OR 'CANCEL'.")
			must(err)
			d.eventually("the question is known", func() bool { return len(d.bridge.Status().Held) > 0 })
			d.eventually("held messages are listed", func() bool {
				return slices.ContainsFunc(sim.Calls(), func(c hmcsim.Call) bool { return strings.Contains(c.URI, "is-held") })
			})
			for i := range 5 { // topics take turns
				_, err := sim.OSMessages(part.ID, fmt.Sprintf("message %d", i))
				must(err)
				must(sim.SetCPCStatus(part.CPC, "exceptions"))
				must(sim.SetCPCStatus(part.CPC, "operating"))
			}
			if otherwise {
				must(sim.AnswerOSMessage(part.ID, held.NextOSMessage, true))
				d.eventually("the answer is known", func() bool { return count(assume.Answered) > 0 })
			}
			if want == elsewise {
				last := func() int64 { return int64(d.hmc("a").Notifications["os-message"]) }
				for _, next := range []int64{9998, 0} { // the numbers end at 9999
					before := last()
					must(sim.SetOSMessageSequence(part.ID, next))
					_, err := sim.OSMessages(part.ID, fmt.Sprintf("number %d", next))
					must(err)
					d.eventually("the message", func() bool { return last() > before })
				}
				sim.SkipSequence(3)
				must(sim.SetCPCStatus(part.CPC, "exceptions"))
				d.eventually("the gap", func() bool { return count(assume.LiveLink) > 0 })
				// A request may tell of the end before the link does: then the link was still there.
				for tries := 0; count(assume.SessionEnd) == 0 && tries < 20; tries++ {
					reconnects := d.hmc("a").Reconnects
					sim.ExpireSessions(true)
					d.eventually("another session", func() bool { return d.hmc("a").Reconnects > reconnects && followed() })
				}
			}
			_, err = sim.AddHardwareMessage(part.CPC, "something is hot")
			must(err)
			sim.Publish("audit", []hmcsim.Header{{Name: "notification-type", Value: "log-entry"}},
				[]byte(`{"log-entries":[{"event-id":"1","event-time":1700000000000,"event-message":"x","event-details":[]}]}`))
			if otherwise {
				sim.Publish("audit", []hmcsim.Header{{Name: "notification-type", Value: "log-entry"}, {Name: "object-uri", Value: "/api/console"}},
					[]byte(`{"log-entries":[{"event-id":"2","event-time":1700000000000,"event-message":"y","event-details":[{"a":1}]}]}`))
				sim.Publish("os-message", []hmcsim.Header{{Name: "notification-type", Value: "os-message"}, {Name: "object-uri", Value: part.URI}},
					[]byte(`{"os-messages":[{"message-id":null,"message-text":"without an id"}]}`))
			}
			d.eventually("what tells of the hardware", func() bool { return len(d.hardwareEvents(false)) > 0 })
			sim.Broker().DropLinks()
			d.eventually("another link", func() bool { return d.hmc("a").Reconnects > 0 && d.hmc("a").Connected })
			_, err = sim.OSMessages(part.ID, "after the loss")
			must(err)
			idle := func() {
				d.eventually("it is at rest", func() bool {
					p, err := sim.Partition(part.ID)
					return err == nil && !p.Busy
				})
			}
			must(sim.StopPartition(part.ID))
			idle()
			must(sim.StartPartition(part.ID))
			idle()
			d.eventually("it goes on", func() bool {
				publish(sim, "P", "the end")
				return slices.ContainsFunc(d.consumer.got(), func(e *event.Event) bool { return bytes.Contains(e.Body, []byte("the end")) })
			})
			told := 0
			for _, q := range assume.Questions() {
				violated := want == map[bool]string{false: assume.Otherwise, true: elsewise}[slices.Contains(second, q.ID)]
				if violated {
					told++
					d.eventually(q.ID, func() bool { return count(q.ID) > 0 })
				} else if n := count(q.ID); n != 0 {
					t.Errorf("%s: %v violations of an HMC that is as assumed", q.ID, n)
				}
				line := fmt.Sprintf(`"assumption":%q`, q.ID)
				if n := strings.Count(d.logs.String(), line); n != map[bool]int{true: 1}[violated] {
					t.Errorf("%s: logged %d times", q.ID, n)
				}
			}
			if all := d.hmc("a").Violations; len(all) != told || all == nil {
				t.Errorf("the status tells of %d points, want %d: %+v", len(all), told, all)
			}
		})
	}
}
