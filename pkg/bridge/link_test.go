package bridge

import (
	"bytes"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
	"github.com/hmcnotifyd/hmcnotifyd/tests/soak"
)

const allOSMessages = `os_messages: [{cpc: ".*", partition: ".*"}]`

// As long as the partitions cannot be listed the HMC does not count as connected; then their consoles are followed.
func TestListingFails(t *testing.T) {
	t.Parallel()
	for _, failing := range [][]string{
		{"list-permitted-partitions", "list-permitted-logical-partitions"},
		{"list-permitted-partitions"},
		{"list-permitted-logical-partitions"},
	} {
		t.Run(strings.Join(failing, " and "), func(t *testing.T) {
			sim := hmctest.Start(t, hmcsim.Options{})
			for _, op := range failing {
				sim.FaultREST(hmcsim.RESTFault{Kind: hmcsim.RESTFaultStatus, Status: 500, Reason: 12, Operation: op})
			}
			d := startDaemon(t, hmcYAML(t, "a", sim, allOSMessages))
			d.eventually("readiness says so", func() bool {
				s := d.bridge.Status()
				return !s.Ready && strings.Contains(fmt.Sprint(s.Reasons), "could not be listed") && d.hmc("a").State == status.StateConnected
			})
			if d.metric(`hmcnotifyd_receiver_connected{hmc="a"}`) != 0 {
				t.Error("counts as connected")
			}
			publish(sim, "P", "x")
			d.eventually("the rest goes on", func() bool { return len(marks(d.consumer.got())["P"]) == 1 })
			sim.ClearRESTFaults()
			d.connected("a")
			if o := d.hmc("a").OSMessages; o.Followed == 0 || o.Followed+len(o.NotFollowed) != 8 { // some are not active
				t.Errorf("of 8 consoles %d are followed, %v not", o.Followed, o.NotFollowed)
			}
		})
	}
}

// A channel that may not be opened is a fault, and said; it is tried again.
func TestChannelsMayNotBeOpened(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{})
	sim.FaultREST(hmcsim.RESTFault{Kind: hmcsim.RESTFaultStatus, Status: 403, Reason: 1, Operation: "open-os-message-channel"})
	d := startDaemon(t, hmcYAML(t, "a", sim, allOSMessages))
	d.eventually("readiness names the partitions", func() bool {
		return strings.Count(fmt.Sprint(d.bridge.Status().Reasons), "OS messages of ") == 8
	})
	d.eventually("tried again", func() bool { return sim.RESTRequests()["open-os-message-channel"] > 16 })
	if got := strings.Count(d.logs.String(), "cannot be followed"); got != 8 {
		t.Errorf("%d warnings for 8 partitions", got)
	}
	sim.ClearRESTFaults()
	d.connected("a")
}

// A link that is made again within a session finds its channels open and does not ask for them again.
func TestChannelsStayOverALostLink(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{Partitions: 20})
	d := &daemon{t: t, dir: t.TempDir(), consumer: newConsumer(t), timing: testTiming()}
	d.timing.ChannelMin, d.timing.ChannelMax = time.Hour, time.Hour
	d.start(d.config(hmcYAML(t, "a", sim, allOSMessages)))
	d.connected("a")
	inactive := len(d.hmc("a").OSMessages.NotFollowed)
	before := sim.RESTRequests()["open-os-message-channel"]
	sim.Broker().DropLinks()
	d.eventually("connected again", func() bool { h := d.hmc("a"); return h.Connected && h.Reconnects == 1 })
	if after := sim.RESTRequests()["open-os-message-channel"]; before != 20 || int(after-before) != inactive {
		t.Errorf("%d requests to open channels, then %d; %d are not open", before, after, inactive)
	}
	info := sim.Partitions()[0]
	if n, err := sim.OSMessages(info.URI, "after the loss"); n != 1 || err != nil {
		t.Fatalf("%d subscribers, %v", n, err)
	}
	d.eventually("delivered", func() bool {
		for _, e := range d.consumer.got() {
			if strings.Contains(e.Summary, "after the loss") {
				return true
			}
		}
		return false
	})
}

// A partition that is deleted is not missed; one that is created is followed without a restart.
func TestPartitionsComeAndGo(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{CPCs: 1, Partitions: 2})
	d := startDaemon(t, hmcYAML(t, "a", sim, allOSMessages))
	d.connected("a")
	info, err := sim.CreatePartition(sim.CPCs()[0].Name, "NEW1")
	if err != nil {
		t.Fatal(err)
	}
	d.eventually("the new one is known, and not active", func() bool {
		return strings.Contains(fmt.Sprint(d.hmc("a").OSMessages.NotFollowed), "NEW1")
	})
	if err := sim.DeletePartition(info.URI); err != nil {
		t.Fatal(err)
	}
	d.eventually("it is forgotten", func() bool {
		h := d.hmc("a")
		return h.Connected && h.OSMessages.Followed == 2 && len(h.OSMessages.NotFollowed) == 0
	})
}

// What the HMC sends until the link has ended is stored, delivered and counted all the same, also where it is more than there is
// room for.
func TestNothingReceivedVanishesAtTheEnd(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{Partitions: -1})
	d := &daemon{t: t, dir: t.TempDir(), consumer: newConsumer(t), timing: testTiming(), buffers: 64 << 10}
	d.start(d.config(hmcYAML(t, "a", sim)))
	d.connected("a")
	rcv := d.bridge.now().supervisors[0].it.Link()
	for i := range soak.Count(t, "BUFFERED", 3_000, 20_000) {
		publish(sim, "P", fmt.Sprint(i))
	}
	d.stop()
	if n := rcv.Buffered(); n != 0 {
		t.Errorf("%d notifications were left in the receiver", n)
	}
	stored := 0
	for _, e := range d.fileEvents() {
		if e.Type != event.TypePropertyChange {
			continue
		}
		if want := fmt.Appendf(nil, `"new-value":"%d"`, stored); !bytes.Contains(e.Body, want) {
			t.Fatalf("%s is stored where %s is missing", e.Body, want)
		}
		stored++
	}
	if h := d.hmc("a"); int(h.Notifications["property-change"]) != stored || h.Missed != 0 {
		t.Errorf("%d notifications are stored, %d were counted, and %d missed", stored, h.Notifications["property-change"], h.Missed)
	}
}

// A panic while notifications are handled leaves nothing running behind.
func TestPanicsLeaveNoGoroutine(t *testing.T) {
	sim := hmctest.Start(t, hmcsim.Options{Partitions: -1})
	d := startDaemon(t, hmcYAML(t, "a", sim, "topics: [object, job]"))
	d.connected("a")
	for n := range 3 {
		d.panicOn("the HMC's broker sent an error")
		sim.Broker().FaultNow(hmcsim.Fault{Kind: hmcsim.FaultError})
		d.eventually("a panic, and connected again", func() bool {
			h := d.hmc("a")
			return d.metric(`hmcnotifyd_receiver_panics_total{hmc="a"}`) == float64(n+1) && h.Connected && h.Reconnects == n+1
		})
	}
	d.eventually("one keeper", func() bool {
		buf := make([]byte, 1<<20)
		return strings.Count(string(buf[:runtime.Stack(buf, true)]), "(*keeper).run(") == 1
	})
}

// connect_retries are attempts at the link alone: the Web Services API is asked again only after them.
func TestConnectRetries(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{
		Partitions: -1,
		Broker:     hmcsim.BrokerOptions{Faults: [][]hmcsim.Fault{{{Kind: hmcsim.FaultClose}}, {{Kind: hmcsim.FaultClose}}, {{Kind: hmcsim.FaultClose}}}},
	})
	d := startDaemon(t, hmcYAML(t, "a", sim))
	d.connected("a")
	if requests := sim.RESTRequests(); requests["query-api-version"] != 1 || requests["get-notification-topics"] != 1 {
		t.Errorf("requests: %v", requests)
	}
	if got := d.metric(`hmcnotifyd_receiver_connect_failures_total{hmc="a",reason="broker"}`); got != 3 {
		t.Errorf("%v failures were counted", got)
	}
}

// A long attempt to connect is no hanging loop: the watchdog must not end what all other HMCs have.
func TestAliveWhileConnecting(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{Partitions: -1, Broker: hmcsim.BrokerOptions{Faults: [][]hmcsim.Fault{{{Kind: hmcsim.FaultHangTLS}}}}})
	d := startDaemon(t, strings.Replace(hmcYAML(t, "a", sim), "connect_timeout: 1m", "connect_timeout: 10m", 1))
	d.eventually("it connects", func() bool { return d.hmc("a").State == status.StateConnecting && sim.Broker().Stats().Accepted == 1 })
	s := d.bridge.now().supervisors[0].it
	if !s.Alive(time.Now().Add(time.Hour), time.Minute) {
		t.Error("counts as hanging")
	}
}
