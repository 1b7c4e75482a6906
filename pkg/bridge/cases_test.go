package bridge

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
)

// topic is the name of the topic of a kind, as the daemon is subscribed to it.
func (d *daemon) topic(hmc, kind string) string {
	d.t.Helper()
	for _, topic := range d.hmc(hmc).Topics {
		if topic.Type == kind {
			return topic.Name
		}
	}
	d.t.Fatalf("no topic %s", kind)
	return ""
}

// raw publishes on the object topic what a broker adds nothing to but its own headers.
func (d *daemon) raw(sim *hmcsim.HMC, headers []hmcsim.Header, body string) {
	d.t.Helper()
	if sim.Broker().Publish(d.topic("a", event.TopicObject), headers, []byte(body)) != 1 {
		d.t.Fatal("nobody is subscribed")
	}
}

// One byte that is not UTF-8 in one of three messages hides neither the others nor the prompt in one of them, and is counted.
func TestBodyThatIsNotUTF8IsCounted(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{Partitions: -1})
	d := startDaemon(t, hmcYAML(t, "a", sim))
	d.connected("a")
	d.raw(sim, []hmcsim.Header{
		{Name: "notification-type", Value: "os-message"},
		{Name: "class", Value: "partition"},
		{Name: "name", Value: "P"},
		{Name: "object-uri", Value: "/api/partitions/P"},
	}, `{"os-messages":[{"sequence-number":1,"message-text":"A"},{"sequence-number":2,"message-text":"B`+"\xe9"+`"},`+
		`{"sequence-number":3,"message-text":"C","is-held":true}]}`)
	// Nobody knows the partition: sooner or later a fourth one says that the prompt is gone.
	d.eventually("three events", func() bool { return len(d.consumer.got()) >= 3 })
	all := d.consumer.got()
	if text := event.String(event.Member(all[1].Body, "message-text")); text != "B\uFFFD" || all[2].Severity != event.SeverityWarning {
		t.Errorf("%q, %s", text, all[2].Severity)
	}
	if n := d.metric(`hmcnotifyd_notification_parse_errors_total{hmc="a"}`); n != 1 {
		t.Errorf("%v are counted", n)
	}
}

// Numbers that no HMC could have counted up to are those of one that numbers anew: nothing is missed, and there is no gap.
func TestAbsurdNumbersCountAsNumberedAnew(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{CPCs: 1, Partitions: 2})
	d := startDaemon(t, hmcYAML(t, "a", sim, allOSMessages))
	d.connected("a")
	part := sim.Partitions()[0].URI
	n := 0
	for _, number := range []string{
		"1", "2", "-1", "9223372036854775807", "3", "9223372036854775807", "-9223372036854775808", "4611686018427387904", "99999999999999999999", "0",
		"2000000", "x", "", "1",
	} {
		n++
		d.raw(sim, []hmcsim.Header{
			{Name: "notification-type", Value: "property-change"}, {Name: "object-uri", Value: "/api/partitions/P"}, {Name: "session-sequence-nr", Value: number},
		}, fmt.Sprintf(`{"change-reports":[{"property-name":"description","old-value":null,"new-value":"%d"}]}`, n))
	}
	changes := func() (n int) {
		for _, e := range d.consumer.got() {
			if e.Type == event.TypePropertyChange {
				n++
			}
		}
		return n
	}
	d.eventually("all changes", func() bool { return changes() == n })
	for i, number := range []int64{7, 5_000_000_000, 5_000_000_001, 8, 1 << 62, -1, 1<<63 - 1, 0} {
		if err := sim.SetOSMessageSequence(part, number); err != nil {
			t.Fatal(err)
		}
		if _, err := sim.OSMessages(part, fmt.Sprintf("test %d", i)); err != nil {
			t.Fatal(err)
		}
		d.eventually("the message", func() bool { return len(marked(d.consumer.got(), event.TypeOSMessage)) == i+1 })
	}
	publish(sim, "Q", "last")
	d.eventually("what came after it", func() bool { return len(marks(d.consumer.got())["Q"]) == 1 })
	time.Sleep(2 * time.Second) // a jump is told after a second
	for _, kind := range event.TopicTypes() {
		if n := d.metric(fmt.Sprintf(`hmcnotifyd_notifications_missed_total{hmc="a",topic_type=%q}`, kind)); n != 0 {
			t.Errorf("%v of %s are missed", n, kind)
		}
	}
	if gaps := d.gapsTold(); len(gaps) != 0 {
		t.Errorf("gaps: %+v", gaps)
	}
}

// A broker that was started again and uses its ids once more: two changes of two objects, without a body, have two ids.
func TestUsedMessageIDsOfOtherObjects(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{Partitions: -1})
	d := startDaemon(t, hmcYAML(t, "a", sim))
	d.connected("a")
	for _, object := range []string{"1", "2", "1"} {
		d.raw(sim, []hmcsim.Header{
			// The first of each name counts, wherever the broker's own come.
			{Name: "notification-type", Value: "inventory-change"},
			{Name: "class", Value: "partition"},
			{Name: "action", Value: "add"},
			{Name: "session-sequence-nr", Value: "1"},
			{Name: "global-sequence-nr", Value: "1"},
			{Name: "object-uri", Value: "/api/partitions/" + object},
		}, "")
	}
	d.eventually("three events", func() bool { return len(d.consumer.got()) == 3 })
	rec, events := d.bridge.watched()[0].Rec, d.consumer.got()
	of := func(object string) *event.Event { // those of several resources arrive in any order
		return events[slices.IndexFunc(events, func(e *event.Event) bool { return e.Resource.ObjectURI == "/api/partitions/"+object })]
	}
	first, second := notificationOf(of("1")), *of("2")
	for _, e := range []*event.Event{of("1"), &second} { // with the numbers of the broker that the first one has
		for i, h := range e.Headers {
			if own := first.Headers.Get(h.Name); h.Name == "message-id" || h.Name == "timestamp" {
				e.Headers[i].Value = own
			}
		}
	}
	rec.Notification(t.Context(), first)
	rec.Notification(t.Context(), notificationOf(&second))
	rec.Flush(t.Context())
	d.eventually("the fourth event", func() bool { return len(d.consumer.got()) == 4 })
	ids := make(map[string]bool)
	for _, e := range d.consumer.got() {
		ids[e.ID] = true
	}
	if len(ids) != 4 || d.metric(`hmcnotifyd_events_duplicate_total{hmc="a",type="inventory-change"}`) != 1 {
		t.Errorf("%d ids of 4 events", len(ids))
	}
}

// gate lets commits through, one for each token, or all.
type gate struct {
	queue.Store
	closed atomic.Bool
	tokens chan struct{}
}

func (g *gate) Commit(group *queue.Group) error {
	for g.closed.Load() {
		select {
		case <-g.tokens:
			return g.Store.Commit(group)
		case <-time.After(time.Millisecond):
		}
	}
	return g.Store.Commit(group)
}

// startGated starts a daemon whose commits pass a gate, and waits for its link.
func startGated(t *testing.T, hmcs string) (*daemon, *gate) {
	t.Helper()
	g := &gate{tokens: make(chan struct{})}
	d := &daemon{t: t, dir: t.TempDir(), consumer: newConsumer(t), timing: testTiming()}
	d.wrap = func(s queue.Store) queue.Store { g.Store = s; return g }
	d.start(d.config(hmcs))
	d.connected("a")
	return d, g
}

// flood closes the gate and publishes more than the queue takes before it holds up the loop, and more than one commit makes room
// for.
func (g *gate) flood(t *testing.T, sim *hmcsim.HMC) {
	t.Helper()
	g.closed.Store(true)
	t.Cleanup(func() { g.closed.Store(false) })
	for i := range 1000 {
		publish(sim, "P", strings.Repeat("x", 16<<10)+fmt.Sprint(i))
	}
}

// A loop that is at work on what comes, and never gets to the end of it, turns all the same: systemd must not end the daemon in
// the middle of a storm.
func TestBusyLoopIsAlive(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{Partitions: -1})
	d, g := startGated(t, hmcYAML(t, "a", sim))
	s := d.bridge.watched()[0]
	g.flood(t, sim)
	buffered := func() int {
		if link := s.Link(); link != nil {
			return link.Buffered()
		}
		return 0
	}
	// As long as nothing is committed the loop stands still, with much to do.
	last := -1
	d.eventually("it is held up", func() bool {
		n := buffered()
		still := n > 0 && n == last
		last = n
		time.Sleep(50 * time.Millisecond)
		return still
	})
	before := time.Now()
	if s.Alive(before, 0) {
		t.Fatal("a loop that stands still counts as one that turns")
	}
	g.tokens <- struct{}{}
	d.eventually("it has turned, and there is more to do", func() bool { return buffered() > 0 && s.Alive(before, 0) })
	g.closed.Store(false)
	d.eventually("it is at the end", func() bool { return buffered() == 0 })
}
