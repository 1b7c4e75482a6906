package bridge

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
	"github.com/hmcnotifyd/hmcnotifyd/tests/soak"
)

// Several HMCs, both sinks: each notification arrives at each exactly once, in order per resource, and is counted.
func TestEverySinkGetsEachEventOnce(t *testing.T) {
	t.Parallel()
	const hmcs, partitions, each = 3, 5, 40
	var sims []*hmcsim.HMC
	text := ""
	for i := range hmcs {
		sim := hmctest.Start(t, hmcsim.Options{Partitions: -1})
		sims = append(sims, sim)
		text += hmcYAML(t, fmt.Sprintf("hmc%d", i), sim, "topics: [object]")
	}
	d := startDaemon(t, text)
	for i := range hmcs {
		d.connected(fmt.Sprintf("hmc%d", i))
	}
	for n := range each {
		for i, sim := range sims {
			for p := range partitions {
				if publish(sim, fmt.Sprintf("H%dP%d", i, p), strconv.Itoa(n)) != 1 {
					t.Fatal("nobody listens")
				}
			}
		}
	}
	total := hmcs * partitions * each
	d.eventually("all delivered", func() bool { return len(d.consumer.got()) >= total && len(d.fileEvents()) >= total })
	want := make([]string, each)
	for n := range want {
		want[n] = strconv.Itoa(n)
	}
	for name, events := range map[string][]*event.Event{"hook": d.consumer.got(), "file": d.fileEvents()} {
		got := marks(events)
		if len(got) != hmcs*partitions {
			t.Errorf("%s: %d resources", name, len(got))
		}
		for p, m := range got {
			if !slices.Equal(m, want) {
				t.Errorf("%s: %s got %v", name, p, m)
			}
		}
		ids := map[string]bool{}
		for _, e := range events {
			ids[e.ID] = true
		}
		if len(ids) != total {
			t.Errorf("%s: %d ids of %d events", name, len(ids), total)
		}
	}
	for i := range hmcs {
		for _, series := range []string{
			`hmcnotifyd_notifications_total{hmc="hmc%d",type="property-change"}`,
			`hmcnotifyd_events_total{hmc="hmc%d",origin="live",type="property-change"}`,
		} {
			if got := d.metric(fmt.Sprintf(series, i)); got != partitions*each {
				t.Errorf("%s is %v", fmt.Sprintf(series, i), got)
			}
		}
	}
	d.eventually("all counted", func() bool {
		return d.metric(`hmcnotifyd_sink_events_total{outcome="delivered",sink="hook"}`) == float64(total) &&
			d.metric(`hmcnotifyd_sink_delivery_latency_seconds{sink="file"}`) == float64(total) &&
			d.metric(`hmcnotifyd_sink_queue_events{sink="hook"}`) == 0
	})
	d.eventually("ready", func() bool { return d.bridge.Status().Ready }) // the lists may take longer
	d.lint()
	d.stop()
	for i, sim := range sims {
		if sim.Sessions() != 0 || sim.Links() != 0 || sim.Logons() != 1 {
			t.Errorf("hmc%d: %d sessions, %d links, %d logons", i, sim.Sessions(), sim.Links(), sim.Logons())
		}
	}
}

// The living estate shows all six types, with OS messages of partitions as they are followed.
func TestAllSixTypes(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{Rate: 50, StepDelay: 10 * time.Millisecond})
	d := startDaemon(t, hmcYAML(t, "a", sim, "topics: [object, job, audit, security]", `os_messages: [{cpc: ".*", partition: ".*"}]`))
	d.connected("a")
	d.eventually("all six types", func() bool {
		seen := map[string]bool{}
		for _, e := range d.consumer.got() {
			seen[e.Type] = true
		}
		for _, typ := range event.NotificationTypes() {
			if !seen[typ] {
				return false
			}
		}
		return true
	})
	for _, e := range d.consumer.got() {
		if e.TopicType == event.TopicOther || e.Summary == "" || e.Severity == "" {
			t.Errorf("event %+v", e)
		}
		if e.Type == event.TypeOSMessage && e.Resource.CPC == "" {
			t.Errorf("no CPC: %+v", e.Resource)
		}
	}
	if sim.ForbiddenCalls() != 0 {
		t.Error("a call that changes something on the HMC was made")
	}
}

// A fault of the first connections costs those; then the daemon is connected, and notifications arrive.
func TestLinkFaults(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		fault  hmcsim.Fault
		reason string // of receiver_connect_failures_total, where the connection does not come up
	}{
		{"close", hmcsim.Fault{Kind: hmcsim.FaultClose}, "broker"},
		{"reset", hmcsim.Fault{Kind: hmcsim.FaultReset}, "broker"},
		{"hang-tls", hmcsim.Fault{Kind: hmcsim.FaultHangTLS}, "timeout"},
		{"hang-connect", hmcsim.Fault{Kind: hmcsim.FaultHangConnect}, "timeout"},
		{"bad-login", hmcsim.Fault{Kind: hmcsim.FaultBadLogin}, "authorization"},
		{"early-eols", hmcsim.Fault{Kind: hmcsim.FaultEarlyEOLs}, ""},
		{"no-heart-beat", hmcsim.Fault{Kind: hmcsim.FaultNoHeartBeat}, ""},
		{"no-receipts", hmcsim.Fault{Kind: hmcsim.FaultNoReceipts}, ""},
		{"drop", hmcsim.Fault{Kind: hmcsim.FaultDrop, AfterFrames: 1}, ""},
		{"truncate", hmcsim.Fault{Kind: hmcsim.FaultTruncate, AfterFrames: 1}, ""},
		{"half-open", hmcsim.Fault{Kind: hmcsim.FaultHalfOpen, AfterFrames: 1}, ""},
		{"garbage", hmcsim.Fault{Kind: hmcsim.FaultGarbage, AfterFrames: 1}, ""},
		{"error and close", hmcsim.Fault{Kind: hmcsim.FaultError, AfterFrames: 1, Close: true}, ""},
		{"error", hmcsim.Fault{Kind: hmcsim.FaultError, AfterFrames: 1}, ""},
		{"oversize-header", hmcsim.Fault{Kind: hmcsim.FaultOversizeHeader, AfterFrames: 1}, ""},
		{"oversize-body", hmcsim.Fault{Kind: hmcsim.FaultOversizeBody, AfterFrames: 1}, ""},
		{"drip", hmcsim.Fault{Kind: hmcsim.FaultDrip, AfterFrames: 1, Interval: 100 * time.Microsecond}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			sim := hmctest.Start(t, hmcsim.Options{
				Partitions: -1,
				Broker:     hmcsim.BrokerOptions{Faults: [][]hmcsim.Fault{{test.fault}}},
			})
			d := startDaemon(t, strings.Replace(hmcYAML(t, "a", sim, "topics: [object]"), quickStomp, silentStomp, 1))
			// Notifications go on, as they do in a machine room: some for the fault to happen at, then one that shows that
			// the daemon has got over it.
			n := 0
			d.eventually("a notification after the fault", func() bool {
				n++
				mark := strconv.Itoa(n)
				after := sim.Broker().ScriptLeft() == 0 && d.hmc("a").Connected && (test.fault.AfterFrames == 0 || n > 5)
				up := d.hmc("a").Reconnects
				if publish(sim, "P", mark); !after {
					return false
				}
				for end := time.Now().Add(5 * time.Second); time.Now().Before(end) && d.hmc("a").Reconnects == up; time.Sleep(2 * time.Millisecond) {
					if slices.Contains(marks(d.consumer.got())["P"], mark) {
						return true
					}
				}
				return false
			})
			if test.reason != "" {
				if got := d.metric(fmt.Sprintf(`hmcnotifyd_receiver_connect_failures_total{hmc="a",reason=%q}`, test.reason)); got < 1 {
					t.Errorf("no failure for reason %s was counted", test.reason)
				}
			}
			d.stop()
			if sim.Sessions() != 0 {
				t.Errorf("%d sessions left", sim.Sessions())
			}
		})
	}
}

// A HMC that cannot be reached, or whose certificate is not good: state, metric, readiness and log say why.
func TestSaysWhyNotConnected(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		opts    hmcsim.Options
		change  func(yaml string) string
		reason  string
		problem string // part of what readiness says
	}{
		{"refused", hmcsim.Options{}, func(y string) string { return replacePort(y, "rest_port", 1) }, "refused", "refused"},
		{"dns", hmcsim.Options{}, func(y string) string { return strings.Replace(y, `"127.0.0.1"`, "hmc.invalid", 1) }, "dns", "hmc.invalid"},
		{"expired", hmcsim.Options{CertificateKind: hmcsim.CertificateExpired}, nil, "tls", "expired"},
		{"self-signed", hmcsim.Options{CertificateKind: hmcsim.CertificateSelfSigned}, nil, "tls", "tls.ca_file"},
		{"other name", hmcsim.Options{CertificateKind: hmcsim.CertificateOtherName}, nil, "tls", "tls.server_name"},
		{
			"broker's port refused",
			hmcsim.Options{},
			func(y string) string { return replacePort(y, "stomp_port", 1) },
			"refused",
			"refused",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.opts.Partitions = -1
			sim := hmctest.Start(t, test.opts)
			yaml := hmcYAML(t, "a", sim)
			if test.change != nil {
				yaml = test.change(yaml)
			}
			d := startDaemon(t, yaml)
			series := fmt.Sprintf(`hmcnotifyd_receiver_connect_failures_total{hmc="a",reason=%q}`, test.reason)
			d.eventually("two attempts", func() bool { return d.metric(series) >= 2 })
			status := d.bridge.Status()
			if status.Ready || !strings.Contains(fmt.Sprint(status.Reasons), test.problem) || status.Reasons[0].HMC != "a" {
				t.Errorf("reasons %v do not say %q", status.Reasons, test.problem)
			}
			if got := strings.Count(d.logs.String(), `"level":"warn"`); got != 1 {
				t.Errorf("%d warnings for one outage:\n%s", got, d.logs)
			}
			if d.metric(`hmcnotifyd_receiver_connected{hmc="a"}`) != 0 {
				t.Error("counts as connected")
			}
		})
	}
}

func replacePort(yaml, key string, port int) string {
	start := strings.Index(yaml, key+": ")
	end := start + strings.IndexByte(yaml[start:], '\n')
	return yaml[:start] + key + ": " + strconv.Itoa(port) + yaml[end:]
}

// A refused logon is tried once: the HMC disables a userid that goes on trying. A changed password is tried at once.
func TestWrongPasswordIsTriedOnce(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{Partitions: -1})
	good := hmctest.Start(t, hmcsim.Options{Partitions: -1})
	d := startDaemon(t, hmcYAML(t, "a", sim, "userid: hmcuser", "password: wrong-horse")+hmcYAML(t, "b", good))
	d.eventually("auth_failed", func() bool { return d.hmc("a").State == status.StateAuthFailed })
	d.connected("b")
	publish(good, "P", "x")
	d.eventually("the other HMC goes on", func() bool { return len(d.consumer.got()) == 1 })
	if sim.Logons() != 0 || sim.RefusedLogons() != 1 {
		t.Errorf("%d refused logons", sim.RefusedLogons())
	}
	if d.metric(`hmcnotifyd_receiver_state{hmc="a",state="auth_failed"}`) != 1 ||
		d.metric(`hmcnotifyd_receiver_connect_failures_total{hmc="a",reason="logon"}`) != 1 {
		t.Error("the metrics do not say auth_failed")
	}
	if next := d.hmc("a").NextAttempt; next == nil || time.Until(*next) < 30*time.Minute {
		t.Errorf("next attempt at %v", next)
	}
	if strings.Contains(d.logs.String()+d.statusText(), "wrong-horse") {
		t.Error("the password was printed")
	}
	cfg := d.config(hmcYAML(t, "a", sim) + hmcYAML(t, "b", good))
	if err := d.bridge.Reload(cfg); err != nil {
		t.Fatal(err)
	}
	d.connected("a")
	if sim.RefusedLogons() != 1 || good.Logons() > 2 {
		t.Errorf("%d refused logons, %d logons to the other HMC", sim.RefusedLogons(), good.Logons())
	}
}

// With topic_names there is no REST: the broker gets userid and password, and a refusal holds as a logon's does.
func TestTopicNames(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{Partitions: -1})
	owner, err := sim.NewSession(hmcsim.DefaultUserid)
	if err != nil {
		t.Fatal(err)
	}
	topic := ownTopic(t, owner, "object-notification")
	d := startDaemon(t, hmcYAML(t, "a", sim, "topic_names: ["+topic+"]")+
		hmcYAML(t, "refused", sim, "topic_names: ["+topic+"]", "userid: hmcuser", "password: wrong"))
	d.connected("a")
	publish(sim, "P", "x")
	d.eventually("delivered", func() bool { return len(d.consumer.got()) == 1 })
	e := d.consumer.got()[0]
	if e.Topic != topic || e.TopicType != event.TopicObject {
		t.Errorf("topic %s, %s", e.Topic, e.TopicType)
	}
	d.eventually("auth_failed", func() bool { return d.hmc("refused").State == status.StateAuthFailed })
	if got := sim.Broker().Stats().RefusedLogons; got != 1 {
		t.Errorf("%d attempts with the wrong password", got)
	}
	if requests := sim.RESTRequests(); len(requests) != 0 {
		t.Errorf("REST was used: %v", requests)
	}
}

func ownTopic(t *testing.T, s hmcsim.SessionInfo, kind string) string {
	t.Helper()
	if len(s.Topics[kind]) != 1 {
		t.Fatalf("the session's topics: %v", s.Topics)
	}
	return s.Topics[kind][0]
}

// A session made elsewhere (MFA) is used, not logged on and not logged off. Its end is said and not hammered.
func TestSessionMadeElsewhere(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{Partitions: -1, MFA: true})
	s, err := sim.NewSession(hmcsim.DefaultUserid)
	if err != nil {
		t.Fatal(err)
	}
	d := startDaemon(t, hmcYAML(t, "a", sim, fmt.Sprintf("session: {id: %q, credential: %q}", s.SessionID, s.Credential)))
	d.connected("a")
	publish(sim, "P", "x")
	d.eventually("delivered", func() bool { return len(d.consumer.got()) == 1 })
	d.stop()
	if sim.Sessions() != 1 || sim.Logoffs() != 0 {
		t.Errorf("%d sessions, %d logoffs", sim.Sessions(), sim.Logoffs())
	}
	for _, secret := range []string{s.SessionID, s.Credential} {
		if strings.Contains(d.logs.String(), secret) {
			t.Error("the session was printed")
		}
	}

	sim.ExpireSessions(true)
	d.start(d.bridge.now().cfg)
	d.eventually("auth_failed", func() bool { return d.hmc("a").State == status.StateAuthFailed })
	if !strings.Contains(d.statusText(), "session.id") {
		t.Errorf("what to do is not said: %s", d.statusText())
	}
}

// A userid that needs MFA: the logon ends half-way, is not repeated, and leaves no session.
func TestPartialLogon(t *testing.T) {
	t.Parallel()
	for _, reason := range []int{0, 50, 51} {
		t.Run(strconv.Itoa(reason), func(t *testing.T) {
			sim := hmctest.Start(t, hmcsim.Options{Partitions: -1, MFA: true, MFAReason: reason})
			d := startDaemon(t, hmcYAML(t, "a", sim))
			d.eventually("auth_failed", func() bool { return d.hmc("a").State == status.StateAuthFailed })
			if !strings.Contains(d.statusText(), "multi-factor") || sim.Sessions() != 0 {
				t.Errorf("%d sessions; %s", sim.Sessions(), d.statusText())
			}
		})
	}
}

// The HMC ends the session, says so or not, and cuts the link or not: a new session, new topics, a new link.
func TestSessionEnds(t *testing.T) {
	t.Parallel()
	for _, cut := range []bool{true, false} {
		t.Run(fmt.Sprintf("cut=%v", cut), func(t *testing.T) {
			sim := hmctest.Start(t, hmcsim.Options{Partitions: -1})
			d := &daemon{t: t, dir: t.TempDir(), consumer: newConsumer(t), timing: testTiming()}
			d.timing.Ping = 50 * time.Millisecond
			d.start(d.config(hmcYAML(t, "a", sim)))
			d.connected("a")
			before := d.hmc("a").Topics[0].Name
			sim.ExpireSessions(cut)
			d.eventually("another topic", func() bool {
				h := d.hmc("a")
				return h.Connected && h.Topics[0].Name != before && h.Reconnects == 1
			})
			publish(sim, "P", "x")
			d.eventually("delivered", func() bool { return len(d.consumer.got()) == 1 })
			if sim.Logons() != 2 || sim.Sessions() != 1 {
				t.Errorf("%d logons, %d sessions", sim.Logons(), sim.Sessions())
			}
		})
	}
}

// The HMC restarts five times: connected again each time, counted, and another HMC's link is not touched.
func TestHMCRestarts(t *testing.T) {
	t.Parallel()
	sim, other := hmctest.Start(t, hmcsim.Options{Partitions: -1}), hmctest.Start(t, hmcsim.Options{Partitions: -1})
	d := startDaemon(t, hmcYAML(t, "a", sim)+hmcYAML(t, "b", other))
	d.connected("a")
	d.connected("b")
	for n := range 5 {
		if err := sim.Restart(50 * time.Millisecond); err != nil {
			t.Fatal(err)
		}
		d.eventually("connected again", func() bool { h := d.hmc("a"); return h.Connected && h.Reconnects == n+1 })
		publish(sim, "P", strconv.Itoa(n))
		d.eventually("delivered", func() bool { return len(marks(d.consumer.got())["P"]) == n+1 })
	}
	if got := d.metric(`hmcnotifyd_receiver_reconnects_total{hmc="a"}`); got != 5 {
		t.Errorf("%v reconnects", got)
	}
	if got := d.metric(`hmcnotifyd_receiver_reconnects_total{hmc="b"}`); got != 0 || other.Logons() != 1 {
		t.Errorf("the other HMC: %v reconnects, %d logons", got, other.Logons())
	}
}

// An ERROR for one topic costs only that topic: the others go on, readiness names it, and it comes back by itself.
func TestRefusedTopicCostsOnlyThat(t *testing.T) {
	t.Parallel()
	for _, closes := range []bool{false, true} {
		t.Run(fmt.Sprintf("close=%v", closes), func(t *testing.T) {
			refuse := hmcsim.Fault{Kind: hmcsim.FaultRefuseTopic, Topic: "aud", Close: closes}
			sim := hmctest.Start(t, hmcsim.Options{Partitions: -1})
			sim.Broker().FaultAlways(refuse)
			d := startDaemon(t, hmcYAML(t, "a", sim, "topics: [object, audit]"))
			d.eventually("object subscribed, audit not", func() bool {
				h := d.hmc("a")
				return h.State == status.StateConnected && !h.Connected && strings.Contains(fmt.Sprint(h.Problems), "audit")
			})
			d.eventually("the others go on", func() bool {
				publish(sim, "P", "x")
				return len(d.consumer.got()) > 0
			})
			if d.metric(`hmcnotifyd_receiver_connected{hmc="a"}`) != 0 {
				t.Error("counts as connected")
			}
			sim.Broker().FaultAlways()
			sim.Broker().DropLinks()
			d.connected("a")
		})
	}
}

// A topic the userid may not have is named with the permission it needs; the rest works.
func TestTopicNotGranted(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{Partitions: -1, NoAuditLog: true})
	d := startDaemon(t, hmcYAML(t, "a", sim, "topics: [object, audit]"))
	d.eventually("link up", func() bool { return d.hmc("a").State == status.StateConnected })
	if s := d.bridge.Status(); s.Ready || !strings.Contains(fmt.Sprint(s.Reasons), "Audit and Log Management") {
		t.Errorf("reasons %v", s.Reasons)
	}
	publish(sim, "P", "x")
	d.eventually("delivered", func() bool { return len(d.consumer.got()) == 1 })
}

// A panic in the goroutine of one HMC is counted and that HMC started again; the others do not notice.
func TestPanicIsIsolated(t *testing.T) {
	t.Parallel()
	sim, other := hmctest.Start(t, hmcsim.Options{Partitions: -1}), hmctest.Start(t, hmcsim.Options{Partitions: -1})
	d := startDaemon(t, hmcYAML(t, "a", sim)+hmcYAML(t, "b", other))
	d.connected("a")
	d.connected("b")
	// The supervisor says in the log that it is connected: the place where it panics once.
	d.panicOn("connected to the HMC")
	sim.Broker().DropLinks()
	d.eventually("a panic", func() bool { return d.metric(`hmcnotifyd_receiver_panics_total{hmc="a"}`) == 1 })
	d.eventually("started again", func() bool { h := d.hmc("a"); return h.Connected && h.Reconnects == 2 })
	publish(sim, "P", "after")
	publish(other, "Q", "x")
	d.eventually("delivered", func() bool { return len(d.consumer.got()) >= 2 })
	if d.hmc("b").Reconnects != 0 {
		t.Error("the other HMC's link was touched")
	}
}

// A password with every character that STOMP, JSON or YAML treat specially works on both sides.
func TestSpecialPasswords(t *testing.T) {
	t.Parallel()
	for _, password := range []string{`p:\w`, `"quo'te"`, `pässwörd€😀`, ` lead and trail `, `a\nb\cc\\d`, `%s%d{}[]#`} {
		t.Run(password, func(t *testing.T) {
			sim := hmctest.Start(t, hmcsim.Options{Partitions: -1, Userid: hmcsim.DefaultUserid, Password: password})
			owner, err := sim.NewSession(hmcsim.DefaultUserid)
			if err != nil {
				t.Fatal(err)
			}
			credentials := []string{"userid: hmcuser", "password: " + strconv.Quote(password)}
			d := startDaemon(t, hmcYAML(t, "rest", sim, credentials...)+
				hmcYAML(t, "broker", sim, append(credentials, "topic_names: ["+ownTopic(t, owner, "object-notification")+"]")...))
			d.connected("rest")
			d.connected("broker")
			if len(password) > 6 && strings.Contains(d.logs.String(), password) {
				t.Error("the password was printed")
			}
		})
	}
}

func TestIPv6(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{Partitions: -1, RESTAddr: "[::1]:0", StompAddr: "[::1]:0"})
	d := startDaemon(t, hmcYAML(t, "a", sim))
	d.connected("a")
	publish(sim, "P", "x")
	d.eventually("delivered", func() bool { return len(d.consumer.got()) == 1 })
	if d.hmc("a").Host != "::1" {
		t.Errorf("host %s", d.hmc("a").Host)
	}
}

// Of several hosts the first that answers is used, and another one when that goes away.
func TestSeveralHosts(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{Partitions: -1})
	yaml := strings.Replace(hmcYAML(t, "a", sim), `["127.0.0.1"]`, `["127.0.0.2", "127.0.0.1"]`, 1)
	d := startDaemon(t, yaml)
	d.connected("a")
	if d.hmc("a").Host != "127.0.0.1" {
		t.Errorf("host %s", d.hmc("a").Host)
	}
}

// A partition that offers no OS messages now (409.332) is followed as soon as it does, and its boot is not missed.
func TestOSMessagesOfAPartitionThatStarts(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{CPCs: 1, Partitions: 3, StepDelay: 20 * time.Millisecond})
	info := sim.Partitions()[0]
	if err := sim.StopPartition(info.URI); err != nil {
		t.Fatal(err)
	}
	wait := func(status string) {
		for end := time.Now().Add(within); ; time.Sleep(time.Millisecond) {
			p, err := sim.Partition(info.URI)
			if err != nil || time.Now().After(end) {
				t.Fatal(p, err)
			}
			if p.Status == status && !p.Busy {
				return
			}
		}
	}
	wait("stopped")
	d := &daemon{t: t, dir: t.TempDir(), consumer: newConsumer(t), timing: testTiming()}
	d.timing.ChannelMin, d.timing.ChannelMax = time.Hour, time.Hour // its status changes are what it is tried again at
	d.start(d.config(hmcYAML(t, "a", sim, allOSMessages)))
	d.connected("a")
	d.eventually("one partition is not followed", func() bool {
		h := d.hmc("a")
		return h.OSMessages != nil && h.OSMessages.Followed == 2 && len(h.OSMessages.NotFollowed) == 1
	})
	if !d.hmc("a").Connected {
		t.Error("a stopped partition is no fault")
	}
	if err := sim.StartPartition(info.URI); err != nil {
		t.Fatal(err)
	}
	d.eventually("its boot messages arrive", func() bool {
		for _, e := range d.consumer.got() {
			if e.Type == event.TypeOSMessage && e.Resource.ObjectURI == info.URI {
				return d.hmc("a").OSMessages.Followed == 3
			}
		}
		return false
	})
}

// The consumer fails, refuses, and recovers: nothing is lost, the order per resource is kept, refusals are put aside.
func TestWebhookTrouble(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{Partitions: -1})
	d := startDaemon(t, hmcYAML(t, "a", sim))
	d.connected("a")
	d.consumer.set(func(*http.Request, *event.Event) int { return http.StatusServiceUnavailable })
	for n := range 20 {
		publish(sim, "P"+strconv.Itoa(n%3), strconv.Itoa(n/3))
	}
	d.eventually("the sink is stuck and readiness says so", func() bool {
		s := d.bridge.Status()
		return !s.Ready && s.Reasons[0].Sink == "hook" && strings.Contains(s.Reasons[0].Reason, "503")
	})
	d.eventually("the healthy sink has all", func() bool { return len(d.fileEvents()) == 20 })
	if d.metric(`hmcnotifyd_sink_queue_events{sink="hook"}`) != 20 || d.metric(`hmcnotifyd_sink_oldest_event_age_seconds{sink="hook"}`) <= 0 {
		t.Error("the waiting events are not seen in the metrics")
	}
	d.consumer.set(func(_ *http.Request, e *event.Event) int {
		if e.Resource.Name == "P1" && slices.Contains(marks([]*event.Event{e})["P1"], "3") {
			return http.StatusUnprocessableEntity
		}
		return http.StatusOK
	})
	d.eventually("the rest arrives", func() bool { return len(d.consumer.got()) == 19 && d.bridge.Status().Ready })
	for p, want := range map[string][]string{
		"P0": {"0", "1", "2", "3", "4", "5", "6"}, "P1": {"0", "1", "2", "4", "5", "6"}, "P2": {"0", "1", "2", "3", "4", "5"},
	} {
		if got := marks(d.consumer.got())[p]; !slices.Equal(got, want) {
			t.Errorf("%s: %v", p, got)
		}
	}
	if d.metric(`hmcnotifyd_sink_events_total{outcome="dead_letter",sink="hook"}`) != 1 || d.bridge.dead.Count("hook") != 1 {
		t.Error("the refused event was not put aside")
	}
	if got := strings.Count(d.logs.String(), "the sink does not accept events"); got != 1 {
		t.Errorf("%d lines for one outage", got)
	}
	if got := strings.Count(d.logs.String(), "the sink accepts events again"); got != 1 {
		t.Errorf("%d lines for one recovery", got)
	}
}

// A refused event that cannot be put aside is not lost, though the ones behind it are delivered.
func TestRefusedEventStaysWhereItCannotBePutAside(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{Partitions: -1})
	d := startDaemon(t, hmcYAML(t, "a", sim))
	d.connected("a")
	if err := d.bridge.dead.Close(); err != nil {
		t.Fatal(err)
	}
	d.consumer.set(func(_ *http.Request, e *event.Event) int {
		if e.Resource.Name == "BAD" {
			return http.StatusUnprocessableEntity
		}
		return http.StatusOK
	})
	publish(sim, "BAD", "x")
	for n := range 20 {
		publish(sim, "P"+strconv.Itoa(n), "x")
	}
	d.eventually("the sink is stuck, other lanes go on", func() bool {
		s := d.bridge.Status()
		return !s.Ready && s.Reasons[0].Sink == "hook" && len(d.consumer.got()) > 0
	})
	if got := d.metric(`hmcnotifyd_sink_attempts_total{outcome="permanent",sink="hook"}`); got != 1 {
		t.Errorf("the consumer was asked %v times", got)
	}
	for name, got := range marks(d.consumer.got()) {
		if len(got) != 1 {
			t.Errorf("%s arrived %d times", name, len(got))
		}
	}
	if d.metric(`hmcnotifyd_sink_events_total{outcome="dead_letter",sink="hook"}`) != 0 {
		t.Error("counted as put aside")
	}
	d.stop()
	d.consumer.set(func(*http.Request, *event.Event) int { return http.StatusOK })
	d.start(d.bridge.now().cfg)
	d.eventually("delivered after all", func() bool { return len(marks(d.consumer.got())["BAD"]) == 1 })
}

// What was not delivered before the end is delivered after the next start, with the same id.
func TestUndeliveredEventsSurviveARestart(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{Partitions: -1})
	d := startDaemon(t, hmcYAML(t, "a", sim))
	d.connected("a")
	d.consumer.set(func(*http.Request, *event.Event) int { return http.StatusServiceUnavailable })
	for n := range 10 {
		publish(sim, "P", strconv.Itoa(n))
	}
	d.eventually("stored", func() bool { return len(d.fileEvents()) == 10 })
	d.stop()
	if len(d.consumer.got()) != 0 {
		t.Fatal("delivered all the same")
	}
	d.consumer.set(func(*http.Request, *event.Event) int { return http.StatusOK })
	d.start(d.bridge.now().cfg)
	d.eventually("delivered", func() bool { return len(d.consumer.got()) == 10 })
	for i, e := range d.consumer.got() {
		if stored := d.fileEvents()[i]; e.ID != stored.ID {
			t.Errorf("event %d: id %s, stored as %s", i, e.ID, stored.ID)
		}
	}
}

// At the end everything received is stored and delivered first.
func TestDrain(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{Partitions: -1})
	d := startDaemon(t, hmcYAML(t, "a", sim))
	d.connected("a")
	d.consumer.set(func(*http.Request, *event.Event) int {
		time.Sleep(5 * time.Millisecond)
		return http.StatusOK
	})
	const n = 200
	for i := range n {
		publish(sim, "P"+strconv.Itoa(i%10), strconv.Itoa(i))
	}
	d.eventually("received", func() bool { return d.hmc("a").Notifications["property-change"] == n })
	d.stop()
	if got := len(d.consumer.got()); got != n {
		t.Errorf("%d of %d delivered", got, n)
	}
}

// match and drop decide what a sink gets; what it does not get is counted.
func TestRouting(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{Partitions: -1})
	d := &daemon{t: t, dir: t.TempDir(), consumer: newConsumer(t), timing: testTiming()}
	d.start(load(t, d.dir, "hmcs:\n"+hmcYAML(t, "a", sim)+fmt.Sprintf(`
sinks:
  - {name: hook, webhook: {url: %q}, match: [{type: property-change, name: "P.*"}, {type: os-message}], drop: [{name: PTEST}]}
  - {name: file, log: {output: events.log}, drop: [{type: bridge-connected}]}
`, d.consumer.url())))
	d.connected("a")
	for _, name := range []string{"P1", "PTEST", "Q1", "P2"} {
		publish(sim, name, "x")
	}
	d.eventually("all seen", func() bool {
		return len(d.fileEvents()) == 4 && d.metric(`hmcnotifyd_sink_events_total{outcome="filtered",sink="hook"}`) == 3 && len(d.consumer.got()) == 2
	})
	if got := slices.Sorted(maps.Keys(marks(d.consumer.got()))); !slices.Equal(got, []string{"P1", "P2"}) {
		t.Errorf("got %v", got)
	}
}

// A reload touches only what changed: links and places in the queue of the rest stay. What cannot be built changes
// nothing.
func TestReload(t *testing.T) {
	t.Parallel()
	a, b, c := hmctest.Start(t, hmcsim.Options{Partitions: -1}), hmctest.Start(t, hmcsim.Options{Partitions: -1}), hmctest.Start(t, hmcsim.Options{Partitions: -1})
	yamlA, yamlB, yamlC := hmcYAML(t, "a", a), hmcYAML(t, "b", b), hmcYAML(t, "c", c)
	d := startDaemon(t, yamlA+yamlB)
	d.connected("a")
	d.connected("b")
	if err := d.bridge.Reload(d.config(yamlA + yamlC)); err != nil {
		t.Fatal(err)
	}
	d.connected("c")
	if a.Logons() != 1 || d.hmc("a").Reconnects != 0 {
		t.Error("the unchanged HMC was connected anew")
	}
	if b.Sessions() != 0 || b.Links() != 0 {
		t.Errorf("the removed HMC has %d sessions", b.Sessions())
	}
	if d.hmc("b").Name != "" {
		t.Error("the removed HMC is still shown")
	}
	if families, err := d.registry.Gather(); err != nil || strings.Contains(fmt.Sprint(families), `"b"`) {
		t.Errorf("the removed HMC still has series (%v)", err)
	}
	broken := d.config(yamlA)
	broken.Sinks[1].Log.Output = "/nonexistent/directory/events.log"
	if err := d.bridge.Reload(broken); err == nil || !strings.Contains(err.Error(), "file") {
		t.Errorf("a sink that cannot be built: %v", err)
	}
	publish(a, "P", "x")
	publish(c, "Q", "x")
	d.eventually("all goes on", func() bool { return len(d.consumer.got()) == 2 && len(d.fileEvents()) == 2 })
}

// Many reconnects leave nothing behind: no goroutine, descriptor or session.
func TestManyReconnects(t *testing.T) {
	sim := hmctest.Start(t, hmcsim.Options{Partitions: -1})
	yaml := strings.Replace(hmcYAML(t, "a", sim), quickStomp, "{reconnect_sleep_initial: 1ms, reconnect_sleep_max: 1ms}", 1)
	d := startDaemon(t, yaml)
	d.connected("a")
	reconnect := func(n int) {
		for range n {
			before := d.hmc("a").Reconnects
			sim.Broker().DropLinks()
			d.eventually("connected again", func() bool { h := d.hmc("a"); return h.Connected && h.Reconnects > before })
		}
	}
	reconnect(20)
	goroutines, descriptors := runtime.NumGoroutine(), openFiles(t)
	reconnect(soak.Count(t, "RECONNECTS", 20, 1000))
	d.eventually("as many goroutines and descriptors as before", func() bool {
		return runtime.NumGoroutine() <= goroutines+2 && openFiles(t) <= descriptors+2
	})
	if sim.Sessions() != 1 || sim.Logons() != 1 {
		t.Errorf("%d sessions, %d logons", sim.Sessions(), sim.Logons())
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// An error in the middle of New leaves nothing open: a second try works.
func TestNewFailsCleanly(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{Partitions: -1})
	d := startDaemon(t, hmcYAML(t, "a", sim))
	_, err := New(Options{Config: d.bridge.opts.Config, StoragePath: d.dir + "/data"})
	if err == nil || !strings.Contains(err.Error(), "storage") {
		t.Errorf("a second daemon on the same storage: %v", err)
	}
	d.stop()
	b, err := New(Options{Config: d.bridge.now().cfg, StoragePath: d.dir + "/data"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.Run(ctx); err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// The limits that the alert rules compare with are metrics, and what a counter counts the first time is seen as a rise.
func TestMetricsForAlerts(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{})
	d := &daemon{t: t, dir: t.TempDir(), consumer: newConsumer(t), timing: testTiming()}
	with := func(limit string) *config.Config {
		return d.config(hmcYAML(t, "a", sim) + "storage: {max_bytes: " + limit + "}\n")
	}
	d.start(with("64MiB"))
	d.connected("a")
	for series, want := range map[string]float64{
		`hmcnotifyd_storage_max_bytes`:                                                64 << 20,
		`hmcnotifyd_sink_queue_max_bytes{sink="hook"}`:                                1 << 30,
		`hmcnotifyd_events_total{hmc="a",origin="bridge",type="bridge-gap"}`:          0,
		`hmcnotifyd_events_total{hmc="a",origin="bridge",type="bridge-disconnected"}`: 0,
	} {
		if got := d.metric(series); got != want {
			t.Errorf("%s is %v, want %v", series, got, want)
		}
	}
	d.stop()
	d.start(with("0"))
	if got := d.metric(`hmcnotifyd_storage_max_bytes`); got != 0 {
		t.Errorf("storage.max_bytes: 0, which is no limit, is one of %v bytes", got)
	}
}

// What a reload cannot change it says.
func TestReloadOfStorage(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{CPCs: 1, Partitions: 1})
	d := startDaemon(t, hmcYAML(t, "a", sim))
	d.connected("a")
	const text = "takes effect when the daemon is started anew"
	cfg := d.config(hmcYAML(t, "a", sim))
	if err := d.bridge.Reload(cfg); err != nil || strings.Contains(d.logs.String(), text) {
		t.Errorf("nothing was changed: %v, %s", err, d.logs)
	}
	changed := *cfg
	changed.Storage.MaxBytes++
	if err := d.bridge.Reload(&changed); err != nil || !strings.Contains(d.logs.String(), text) {
		t.Errorf("the storage section was changed: %v, %s", err, d.logs)
	}
}
