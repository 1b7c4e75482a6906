package bridge

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/ledger"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
)

const allTopics = "topics: [object, job, audit, security]"

// bridgeEvents are the events of one type about the daemon's own sight, as the log sink has them.
func (d *daemon) bridgeEvents(typ string) []*event.Event {
	d.t.Helper()
	var out []*event.Event
	for _, e := range d.eventsIn("all.log") {
		if e.Type == typ {
			out = append(out, e)
		}
	}
	return out
}

// gapsTold are the gaps that have been told.
func (d *daemon) gapsTold() []ledger.Gap {
	d.t.Helper()
	var out []ledger.Gap
	for _, e := range d.bridgeEvents(event.TypeBridgeGap) {
		var g ledger.Gap
		if err := json.Unmarshal(e.Body, &g); err != nil {
			d.t.Fatal(err)
		}
		out = append(out, g)
	}
	return out
}

func (d *daemon) awaitGaps(n int) []ledger.Gap {
	d.t.Helper()
	d.eventually(fmt.Sprintf("%d gaps told", n), func() bool { return len(d.gapsTold()) >= n })
	gaps := d.gapsTold()
	if len(gaps) != n {
		d.t.Fatalf("%d gaps told, want %d: %+v", len(gaps), n, gaps)
	}
	return gaps
}

// texts are the messages of log entries and OS messages among events, in order.
func texts(events []*event.Event, typ string) []string {
	var out []string
	for _, e := range events {
		if e.Type == typ {
			for _, name := range []string{"message-text", "event-message"} {
				if v := event.Member(e.Body, name); v != nil {
					out = append(out, strings.TrimSpace(event.String(v)))
				}
			}
		}
	}
	return out
}

// marked are those of texts that a test has written.
func marked(events []*event.Event, typ string) []string {
	return slices.DeleteFunc(texts(events, typ), func(s string) bool { return !strings.HasPrefix(s, "test ") })
}

func numbered(prefix string, from, to int) []string {
	var out []string
	for i := from; i <= to; i++ {
		out = append(out, prefix+strconv.Itoa(i))
	}
	return out
}

// A lost link is told as it happens, and afterwards as one gap that says from when to when, why, and what may be
// missing. What the HMC published meanwhile is counted where its sequence numbers tell, whatever they count.
func TestLostLinkIsAGap(t *testing.T) {
	t.Parallel()
	for _, perSession := range []bool{false, true} {
		t.Run(fmt.Sprintf("sequence per session %v", perSession), func(t *testing.T) {
			sim := hmctest.Start(t, hmcsim.Options{Partitions: -1, SequencePerSession: perSession})
			d := startDaemon(t, hmcYAML(t, "a", sim, "topics: [object]"))
			d.connected("a")
			for i := range 5 {
				publish(sim, "P", strconv.Itoa(i))
			}
			d.eventually("delivered", func() bool { return len(marks(d.consumer.got())["P"]) == 5 })
			if gaps := d.gapsTold(); len(gaps) != 0 {
				t.Fatalf("a gap at the first start: %+v", gaps)
			}

			lost := time.Now()
			sim.Broker().StopListening()
			sim.Broker().DropLinks()
			d.eventually("told", func() bool { return len(d.bridgeEvents(event.TypeBridgeDisconnected)) == 1 })
			for i := range 3 {
				publish(sim, "P", "missed "+strconv.Itoa(i))
			}
			d.eventually("blind", func() bool { return d.hmc("a").BlindSince != nil })
			back := time.Now()
			if err := sim.Broker().StartListening(); err != nil {
				t.Fatal(err)
			}
			d.connected("a")
			publish(sim, "P", "after")
			g := d.awaitGaps(1)[0]
			if g.From.After(lost.Add(time.Millisecond)) || g.To.Before(back) || g.To.After(time.Now().Add(time.Millisecond)) {
				t.Errorf("from %s to %s, it was lost at %s and back after %s", g.From, g.To, lost, back)
			}
			if !strings.Contains(fmt.Sprint(g.Causes), "the link was lost") || !strings.Contains(fmt.Sprint(g.Missing), "object notifications") {
				t.Errorf("gap: %+v", g)
			}
			d.eventually("counted", func() bool {
				return d.metric(`hmcnotifyd_notifications_missed_total{hmc="a",topic_type="object"}`)+
					d.metric(`hmcnotifyd_notifications_missed_total{hmc="a",topic_type="other"}`) == 3
			})
			if n := len(d.bridgeEvents(event.TypeBridgeConnected)); n != 2 {
				t.Errorf("%d times connected", n)
			}
			h := d.hmc("a")
			if h.BlindSince != nil || h.Gaps != 1 || h.LastGap == nil || h.Missed != 3 {
				t.Errorf("status: %+v", h)
			}
			if s := d.bridgeEvents(event.TypeBridgeGap)[0]; !strings.Contains(s.Summary, "blind for") || s.Severity != event.SeverityWarning || s.Origin != event.OriginBridge {
				t.Errorf("%+v", s)
			}
		})
	}
}

// A daemon that was down for a while fetches what it has missed: the entries of the logs and the OS messages that the HMC
// still holds, each once, in order, and says so.
func TestBackfillAfterADaemonThatWasDown(t *testing.T) {
	t.Parallel()
	for _, refresh := range []bool{true, false} {
		for _, how := range []string{"daemon down", "link lost", "session ended", "HMC restarted"} {
			t.Run(fmt.Sprintf("%s, refresh %v", how, refresh), func(t *testing.T) {
				sim := hmctest.Start(t, hmcsim.Options{CPCs: 1, Partitions: 2, RefreshOnce: refresh})
				part := sim.Partitions()[0]
				if _, err := sim.OSMessages(part.URI, "test before the daemon was there"); err != nil {
					t.Fatal(err)
				}
				d := startDaemon(t, hmcYAML(t, "a", sim, allTopics, fmt.Sprintf(`os_messages: [{cpc: ".*", partition: ".*", include_refresh_messages: %v}]`, refresh)))
				d.connected("a")
				n := 0
				write := func(count int) {
					t.Helper()
					for range count {
						n++
						for _, log := range []string{"audit", "security"} {
							sim.LogEntries(log, hmcsim.LogEntry{EventID: "1", Message: "test " + log + " " + strconv.Itoa(n), Time: time.Now().Add(time.Duration(n) * time.Millisecond)})
						}
						if _, err := sim.OSMessages(part.URI, "test os "+strconv.Itoa(n)); err != nil {
							t.Fatal(err)
						}
					}
				}
				complete := func() []*event.Event {
					t.Helper()
					events := d.fileEvents()
					for _, kind := range []string{"audit", "security", "os"} {
						typ := event.TypeLogEntry
						if kind == "os" {
							typ = event.TypeOSMessage
						}
						got := slices.DeleteFunc(marked(events, typ), func(s string) bool { return !strings.HasPrefix(s, "test "+kind+" ") })
						if want := numbered("test "+kind+" ", 1, n); !slices.Equal(got, want) {
							t.Fatalf("%s:\n got %q\nwant %q", kind, got, want)
						}
					}
					return events
				}
				count := func() int {
					return len(marked(d.fileEvents(), event.TypeLogEntry)) + len(slices.DeleteFunc(marked(d.fileEvents(), event.TypeOSMessage), func(s string) bool { return strings.Contains(s, "before") }))
				}
				write(5)
				d.eventually("delivered", func() bool { return count() >= 15 })

				switch how {
				case "daemon down":
					d.stop()
					write(10)
					d.start(d.bridge.now().cfg)
				case "link lost":
					sim.Broker().StopListening()
					sim.Broker().DropLinks()
					d.eventually("lost", func() bool { return d.hmc("a").State != status.StateConnected })
					write(10)
					if err := sim.Broker().StartListening(); err != nil {
						t.Fatal(err)
					}
				case "session ended":
					sim.Broker().StopListening()
					sim.ExpireSessions(true)
					d.eventually("lost", func() bool { return d.hmc("a").State != status.StateConnected })
					write(10)
					if err := sim.Broker().StartListening(); err != nil {
						t.Fatal(err)
					}
				case "HMC restarted":
					sim.Stop()
					d.eventually("lost", func() bool { return d.hmc("a").State != status.StateConnected })
					write(10)
					if err := sim.Resume(); err != nil {
						t.Fatal(err)
					}
				}
				d.connected("a")
				d.eventually("everything is there", func() bool { return count() >= 45 })
				g := d.awaitGaps(1)[0]
				complete()
				// The security log has the logons and logoffs of the session too.
				if g.Recovered["os-message"] != 10 || g.Recovered["audit"] != 10 || g.Recovered["security"] < 10 {
					t.Errorf("recovered %v", g.Recovered)
				}
				if text := fmt.Sprint(g.Missing); strings.Contains(text, "audit") || strings.Contains(text, "OS messages") {
					t.Errorf("may be missing: %v", g.Missing)
				}
				write(3)
				d.eventually("it goes on", func() bool { return count() >= 54 })
				complete()
				for typ, origins := range map[string][]string{event.TypeLogEntry: {event.OriginBackfill}, event.TypeOSMessage: {event.OriginBackfill, event.OriginRefresh}} {
					missed := slices.DeleteFunc(d.fileEvents(), func(e *event.Event) bool { return e.Type != typ || !slices.Contains(origins, e.Origin) })
					if len(missed) < 10 {
						t.Errorf("%d events of type %s have an origin of %v", len(missed), typ, origins)
					}
				}
			})
		}
	}
}

// What the sequence numbers say is missing while the link is up becomes a gap, and what can be fetched is.
func TestSequenceJumpIsAGap(t *testing.T) {
	t.Parallel()
	for _, perSession := range []bool{false, true} {
		t.Run(fmt.Sprintf("sequence per session %v", perSession), func(t *testing.T) {
			sim := hmctest.Start(t, hmcsim.Options{CPCs: 1, Partitions: 2, SequencePerSession: perSession})
			d := startDaemon(t, hmcYAML(t, "a", sim, allTopics))
			d.connected("a")
			for i := range 4 { // so that it is known what the numbers count
				publish(sim, "P", strconv.Itoa(i))
				sim.LogEntries("audit", hmcsim.LogEntry{EventID: "1", Message: "test " + strconv.Itoa(i)})
			}
			d.eventually("delivered", func() bool {
				return len(marks(d.consumer.got())["P"]) == 4 && len(marked(d.consumer.got(), event.TypeLogEntry)) == 4
			})
			sim.SkipSequence(7)
			publish(sim, "P", "after")
			g := d.awaitGaps(1)[0]
			if !strings.Contains(fmt.Sprint(g.Causes), "sequence numbers") || g.Missed["object"]+g.Missed["other"] != 7 {
				t.Errorf("gap: %+v", g)
			}
			if n := d.metric(`hmcnotifyd_notifications_missed_total{hmc="a",topic_type="object"}`) + d.metric(`hmcnotifyd_notifications_missed_total{hmc="a",topic_type="other"}`); n != 7 {
				t.Errorf("%v are counted", n)
			}
		})
	}
}

// An IPL makes the sequence numbers of a partition's messages begin anew. Nothing of the new life is taken for something
// old, also when it was not seen to begin.
func TestIPLIsNoRepetition(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{CPCs: 1, Partitions: 2, OSMessages: 20})
	part := sim.Partitions()[0]
	d := startDaemon(t, hmcYAML(t, "a", sim, allOSMessages))
	d.connected("a")
	boot := func(life, count int) {
		t.Helper()
		if err := sim.SetOSMessageSequence(part.URI, 0); err != nil {
			t.Fatal(err)
		}
		for i := range count {
			text := "test boot " + strconv.Itoa(i)
			if i > 30 {
				text += " life " + strconv.Itoa(life)
			}
			if _, err := sim.OSMessages(part.URI, text); err != nil {
				t.Fatal(err)
			}
		}
	}
	boot(1, 50)
	d.eventually("first life", func() bool { return len(marked(d.consumer.got(), event.TypeOSMessage)) == 50 })
	sim.Broker().StopListening()
	sim.Broker().DropLinks()
	d.eventually("lost", func() bool { return d.hmc("a").State != status.StateConnected })
	boot(2, 15) // the same texts, and the HMC holds some of the first life
	if err := sim.Broker().StartListening(); err != nil {
		t.Fatal(err)
	}
	d.connected("a")
	d.eventually("second life", func() bool { return len(marked(d.consumer.got(), event.TypeOSMessage)) >= 65 })
	d.awaitGaps(1)
	ids := make(map[string]bool)
	for _, e := range d.consumer.got() {
		if ids[e.ID] {
			t.Errorf("id %s twice: %s", e.ID, e.Summary)
		}
		ids[e.ID] = true
	}
	if n := len(marked(d.consumer.got(), event.TypeOSMessage)); n != 65 {
		t.Errorf("%d messages", n)
	}
}

// An HMC that cannot be reached from the start is told once, and a refused logon is told as such.
func TestNeverConnectedIsTold(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{Partitions: -1})
	sim.Stop()
	d := startDaemon(t, hmcYAML(t, "a", sim, "password: wrong", "userid: hmcuser"))
	d.eventually("told", func() bool { return len(d.bridgeEvents(event.TypeBridgeDisconnected)) == 1 })
	d.eventually("tried again", func() bool {
		return d.metric(`hmcnotifyd_receiver_connect_failures_total{hmc="a",reason="refused"}`) > 3
	})
	if err := sim.Resume(); err != nil {
		t.Fatal(err)
	}
	d.eventually("refused", func() bool { return len(d.bridgeEvents(event.TypeBridgeDisconnected)) == 2 })
	events := d.bridgeEvents(event.TypeBridgeDisconnected)
	if events[0].Severity != event.SeverityWarning || events[1].Severity != event.SeverityCritical ||
		!strings.Contains(string(events[1].Body), `"state":"auth_failed"`) || !strings.Contains(events[1].Summary, "refused") {
		t.Errorf("%+v\n%+v", events[0], events[1])
	}
}

// A consumer that wants to know that the daemon lives gets a heart-beat per HMC, also of one that is not connected.
func TestHeartbeat(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{Partitions: -1})
	gone := hmctest.Start(t, hmcsim.Options{Partitions: -1})
	gone.Stop()
	d := &daemon{t: t, dir: t.TempDir(), consumer: newConsumer(t), timing: testTiming()}
	cfg := d.config(hmcYAML(t, "a", sim) + hmcYAML(t, "b", gone))
	cfg.HeartbeatInterval = 50 * time.Millisecond
	d.start(cfg)
	said := func(hmc, what string) int {
		n := 0
		for _, e := range d.bridgeEvents(event.TypeBridgeHeartbeat) {
			if e.HMC == hmc && strings.Contains(string(e.Body), what) {
				n++
			}
		}
		return n
	}
	d.eventually("both", func() bool { return said("a", `"connected":true`) > 3 && said("b", `"connected":false`) > 3 })
	cfg = d.config(hmcYAML(t, "a", sim) + hmcYAML(t, "b", gone))
	if err := d.bridge.Reload(cfg); err != nil {
		t.Fatal(err)
	}
	d.eventually("it ends with the configuration", func() bool {
		n := said("a", "")
		time.Sleep(200 * time.Millisecond) // four of them
		return said("a", "") == n
	})
}

// A notification that the broker sends twice is delivered once, and counted.
func TestSameNotificationTwice(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{Partitions: -1})
	d := startDaemon(t, hmcYAML(t, "a", sim))
	d.connected("a")
	rec := d.bridge.now().supervisors[0].it.Rec
	publish(sim, "P", "1")
	d.eventually("delivered", func() bool { return len(d.consumer.got()) == 1 })
	e := d.consumer.got()[0]
	n := notificationOf(e)
	rec.Notification(t.Context(), n)
	rec.Flush(t.Context())
	if got := d.metric(`hmcnotifyd_events_duplicate_total{hmc="a",type="property-change"}`); got != 1 {
		t.Errorf("%v duplicates", got)
	}
	publish(sim, "P", "2")
	d.eventually("delivered", func() bool { return len(d.consumer.got()) == 2 })
	// A restart does not forget it.
	d.stop()
	d.start(d.bridge.now().cfg)
	d.connected("a")
	rec = d.bridge.now().supervisors[0].it.Rec
	rec.Notification(t.Context(), n)
	publish(sim, "P", "3")
	d.eventually("delivered", func() bool { return len(d.consumer.got()) == 3 })
	if got := d.metric(`hmcnotifyd_events_duplicate_total{hmc="a",type="property-change"}`); got != 1 {
		t.Errorf("%v duplicates after the restart", got)
	}
}

// A partition that had written nothing since it is followed has not written before either: what it writes while the daemon is
// away is fetched, and what it had written before it was followed is not.
func TestBackfillOfAQuietPartition(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{CPCs: 1, Partitions: 2})
	part := sim.Partitions()[0]
	if _, err := sim.OSMessages(part.URI, "test before"); err != nil {
		t.Fatal(err)
	}
	d := startDaemon(t, hmcYAML(t, "a", sim, `os_messages: [{cpc: ".*", partition: ".*", include_refresh_messages: false}]`))
	d.connected("a")
	rec := d.bridge.watched()[0].Rec
	d.eventually("it is known where it begins", func() bool {
		return !slices.ContainsFunc(sim.Partitions(), func(p hmcsim.PartitionInfo) bool { return rec.NeedsStart(p.URI) })
	})
	if got := sim.RESTRequests()["list-os-messages"]; got != 2 {
		t.Errorf("%d lists of messages", got)
	}
	d.stop()
	if _, err := sim.OSMessages(part.URI, "test 1", "test 2"); err != nil {
		t.Fatal(err)
	}
	d.start(d.bridge.now().cfg)
	d.awaitGaps(1)
	if got := marked(d.fileEvents(), event.TypeOSMessage); !slices.Equal(got, []string{"test 1", "test 2"}) {
		t.Errorf("got %q", got)
	}
}
