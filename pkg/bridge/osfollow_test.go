package bridge

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
)

// consoleOf are the texts of a partition's OS messages, in order.
func consoleOf(events []*event.Event, uri string) []string {
	return texts(slices.DeleteFunc(slices.Clone(events), func(e *event.Event) bool {
		return e.Resource == nil || e.Resource.ObjectURI != uri || isAnswer(e)
	}), event.TypeOSMessage)
}

// isAnswer says that an event tells that a message does not wait for an answer any more.
func isAnswer(e *event.Event) bool { return event.Member(e.Body, "answered") != nil }

// followed are the URIs of partitions whose messages are followed.
func (d *daemon) followed(n int) {
	d.t.Helper()
	d.eventually(fmt.Sprintf("%d partitions are followed", n), func() bool {
		h := d.hmc("a")
		return h.OSMessages != nil && h.OSMessages.Followed == n
	})
}

// A partition that is stopped and started again shows its last messages and those of its boot at the consumer, in order and
// once, whether the CPC is in DPM mode or classic (facts 1.7, 6.1: 409.332 is not permanent).
func TestStopAndStart(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"dpm", "classic"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			sim := hmctest.Start(t, hmcsim.Options{CPCs: 2, Partitions: 4, StepDelay: 20 * time.Millisecond})
			d := startDaemon(t, hmcYAML(t, "a", sim, allOSMessages))
			d.connected("a")
			i := slices.IndexFunc(sim.Partitions(), func(p hmcsim.PartitionInfo) bool {
				return p.DPM == (mode == "dpm") && (p.Status == "active" || p.Status == "operating")
			})
			p := sim.Partitions()[i]
			idle := func(what string) {
				d.eventually(what, func() bool {
					now, err := sim.Partition(p.ID)
					return err == nil && !now.Busy
				})
			}
			d.eventually("what the HMC held", func() bool { return len(consoleOf(d.consumer.got(), p.URI)) == p.OSMessages })
			before := p.OSMessages
			for _, what := range []func(string) error{sim.StopPartition, sim.StartPartition} {
				if err := what(p.ID); err != nil {
					t.Fatal(err)
				}
				idle("done")
			}
			now, err := sim.Partition(p.ID)
			if err != nil {
				t.Fatal(err)
			}
			want := int(now.NextOSMessage - p.NextOSMessage)
			if now.NextOSMessage < p.NextOSMessage || want == 0 { // its numbers began anew
				t.Fatalf("the simulator numbers its messages from %d to %d", p.NextOSMessage, now.NextOSMessage)
			}
			d.eventually("all of them", func() bool { return len(consoleOf(d.consumer.got(), p.URI)) >= before+want })
			got := d.consumer.got()
			var numbers []int64
			for _, e := range got {
				if e.Type == event.TypeOSMessage && e.Resource.ObjectURI == p.URI && !isAnswer(e) {
					numbers = append(numbers, event.Int(event.Member(e.Body, "sequence-number")))
				}
			}
			if len(numbers) != before+want || !slices.IsSorted(numbers) || len(slices.Compact(slices.Clone(numbers))) != len(numbers) {
				t.Errorf("%d messages, want %d: %v", len(numbers), before+want, numbers)
			}
		})
	}
}

// A partition follows its name: by a new one it may be selected, or not any more.
func TestRenamedPartitionIsFollowed(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{CPCs: 1, Partitions: 2})
	d := startDaemon(t, hmcYAML(t, "a", sim, `os_messages: [{cpc: ".*", partition: "PROD.*"}]`))
	d.connected("a")
	p := sim.Partitions()[0]
	say := func(text string) {
		t.Helper()
		if _, err := sim.OSMessages(p.ID, text); err != nil {
			t.Fatal(err)
		}
	}
	say("test before")
	if err := sim.RenamePartition(p.ID, "PROD1"); err != nil {
		t.Fatal(err)
	}
	d.followed(1)
	say("test while")
	d.eventually("its messages", func() bool { return slices.Contains(consoleOf(d.consumer.got(), p.URI), "test while") })
	if err := sim.RenamePartition(p.ID, "TEST1"); err != nil {
		t.Fatal(err)
	}
	d.followed(0)
	d.eventually("unsubscribed", func() bool { return sim.Broker().Stats().Subscriptions == 2 }) // object and job
	say("test after")
	if err := sim.RenamePartition(p.ID, "PROD1"); err != nil {
		t.Fatal(err)
	}
	d.followed(1)
	say("test again")
	d.eventually("its messages again", func() bool { return slices.Contains(consoleOf(d.consumer.got(), p.URI), "test again") })
	d.connected("a")
	got := marked(d.consumer.got(), event.TypeOSMessage)
	slices.Sort(got)
	if len(slices.Compact(slices.Clone(got))) != len(got) {
		t.Errorf("more than once: %q", got)
	}
}

// 500 partitions are followed over one link, and after a lost link in the same session again without opening a channel twice
// (facts 1.7: 409.331).
func TestManyPartitions(t *testing.T) {
	t.Parallel()
	const partitions = 500
	sim := hmctest.Start(t, hmcsim.Options{CPCs: 5, Partitions: partitions, OSMessages: 3})
	d := startDaemon(t, hmcYAML(t, "a", sim, `os_messages: [{cpc: ".*", partition: ".*", include_refresh_messages: false}]`))
	d.eventually("all are tried", func() bool {
		h := d.hmc("a")
		return h.Connected && h.OSMessages != nil && h.OSMessages.Followed+len(h.OSMessages.NotFollowed) == partitions
	})
	running := d.hmc("a").OSMessages.Followed
	if running < partitions/2 {
		t.Fatalf("%d are followed", running)
	}
	said := 0
	say := func(round int) {
		for _, p := range sim.Partitions() {
			n, err := sim.OSMessages(p.ID, fmt.Sprintf("test %d of %s", round, p.ID))
			if err != nil {
				t.Fatal(err)
			}
			said += n
		}
	}
	say(1)
	d.eventually("each once", func() bool { return len(marked(d.consumer.got(), event.TypeOSMessage)) == said })
	if said != running || d.hmc("a").Reconnects != 0 {
		t.Errorf("%d followed, %d messages, %d reconnects", running, said, d.hmc("a").Reconnects)
	}
	opened := func() (n int) {
		for _, c := range sim.Calls() {
			if c.Operation == "open-os-message-channel" && (c.Status == http.StatusOK || c.Reason == 331) {
				n++
			}
		}
		return n
	}
	before := opened()
	sim.Broker().DropLinks()
	d.eventually("connected again", func() bool { return d.hmc("a").Reconnects == 1 && d.hmc("a").Connected })
	d.followed(running)
	say(2)
	d.eventually("each once again", func() bool { return len(marked(d.consumer.got(), event.TypeOSMessage)) == said })
	if again := opened() - before; again > 0 {
		t.Errorf("%d channels were opened again", again)
	}
	if got := marked(d.consumer.got(), event.TypeOSMessage); len(slices.Compact(slices.Sorted(slices.Values(got)))) != said || !strings.HasPrefix(got[0], "test 1") {
		t.Errorf("%d messages, %d different", len(got), said)
	}
}

// A list that lacks a partition for once, as while a CPC does not communicate, is no reason to forget what was told of its
// messages: what the HMC replays later would be told again.
func TestPartitionThatIsNotListedForOnce(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{CPCs: 1, Partitions: 2, OSMessages: 5})
	d := startDaemon(t, hmcYAML(t, "a", sim, allOSMessages))
	d.connected("a")
	d.followed(2)
	p := sim.Partitions()[0]
	held := func() []string { return consoleOf(d.consumer.got(), p.URI) }
	d.eventually("what the HMC held", func() bool { return len(held()) == p.OSMessages })
	lists := func() int64 { return sim.RESTRequests()["list-permitted-partitions"] }
	before := lists()
	sim.FaultREST(hmcsim.RESTFault{Kind: hmcsim.RESTFaultEmpty, Operation: "list-permitted-partitions", Times: 1})
	sim.Publish("object", []hmcsim.Header{
		{Name: "notification-type", Value: "inventory-change"}, {Name: "class", Value: "partition"}, {Name: "object-uri", Value: p.URI}, {Name: "action", Value: "add"},
	}, nil)
	d.eventually("listed again", func() bool { return lists() >= before+2 })
	d.followed(2)
	if _, err := sim.OSMessages(p.ID, "test live"); err != nil {
		t.Fatal(err)
	}
	d.eventually("followed", func() bool { return slices.Contains(held(), "test live") })
	sim.Broker().DropLinks()
	d.awaitGaps(1)
	d.stop()
	if got := held(); len(got) != p.OSMessages+1 {
		t.Errorf("%d messages, want %d: %q", len(got), p.OSMessages+1, got)
	}
}

// One that no list has any more is not followed any more, although nothing told that it is gone.
func TestPartitionThatIsNotListedAnyMore(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{CPCs: 1, Partitions: 2})
	d := startDaemon(t, hmcYAML(t, "a", sim, allOSMessages))
	d.connected("a")
	d.followed(2)
	d.estateKnown("a", 3)
	p := sim.Partitions()[0]
	sim.FaultREST(hmcsim.RESTFault{Kind: hmcsim.RESTFaultEmpty, Operation: "list-permitted-partitions"})
	sim.Publish("object", []hmcsim.Header{
		{Name: "notification-type", Value: "inventory-change"}, {Name: "class", Value: "partition"}, {Name: "object-uri", Value: p.URI}, {Name: "action", Value: "add"},
	}, nil)
	d.followed(0)
	d.estateKnown("a", 1)
}

// What was missed of many partitions takes long to fetch within the budget. What changed in the estate is not told only after that.
func TestFetchingManyHoldsUpNothing(t *testing.T) {
	t.Parallel()
	const partitions = 40
	sim := hmctest.Start(t, hmcsim.Options{CPCs: 1, Partitions: partitions, OSMessages: 1})
	d := startDaemon(t, hmcYAML(t, "a", sim, `os_messages: [{cpc: ".*", partition: ".*", include_refresh_messages: false}]`))
	d.connected("a")
	d.estateKnown("a", 1+partitions)
	active := 0
	for _, p := range sim.Partitions() {
		if p.Status == "active" {
			active++
		}
	}
	fetched := func() int64 { return sim.RESTRequests()["list-os-messages"] }
	d.eventually("it is known where each begins", func() bool { return fetched() >= int64(active) })
	d.followed(active)
	p := sim.Partitions()[slices.IndexFunc(sim.Partitions(), func(p hmcsim.PartitionInfo) bool { return p.Status == "active" })]
	sim.FaultREST(hmcsim.RESTFault{Kind: hmcsim.RESTFaultSlow, Operation: "list-os-messages", Delay: 200 * time.Millisecond})
	sim.Broker().StopListening()
	sim.Broker().DropLinks()
	d.eventually("noticed", func() bool { return !d.hmc("a").Connected })
	if err := sim.RenamePartition(p.ID, "OTHER"); err != nil {
		t.Fatal(err)
	}
	since := time.Now()
	if err := sim.Broker().StartListening(); err != nil {
		t.Fatal(err)
	}
	told := func() *event.Event {
		for _, e := range d.fileEvents() {
			if e.Origin == event.OriginReconcile {
				return e
			}
		}
		return nil
	}
	d.eventually("told", func() bool { return told() != nil })
	before := 0
	for _, c := range sim.Calls() {
		if c.Operation == "list-os-messages" && c.Time.After(since) && c.Time.Before(told().Received) {
			before++
		}
	}
	if before >= active/2 {
		t.Errorf("told after the messages of %d of %d partitions were asked for", before, active)
	}
	sim.ClearRESTFaults()
	d.awaitGaps(1)
}
