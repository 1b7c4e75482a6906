//go:build real

// Package e2e_test runs the daemon as its users do, a process with a
// configuration file, between real programs: Apache ActiveMQ behind the
// Web Services API of a simulated HMC on the one side, webhook consumers and
// log files on the other.
package e2e_test

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/activemq"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/certs"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/daemon"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// within is how long a test waits for something that takes moments on a
// machine with nothing else to do.
const within = 5 * time.Minute

// quickStomp makes reconnects follow a loss soon.
const quickStomp = "{connect_timeout: 10s, reconnect_sleep_initial: 50ms, reconnect_sleep_max: 500ms}"

// worker is a testing.TB for other goroutines than the test's own, in which
// FailNow must not be called: what is fatal ends the goroutine.
type worker struct{ testing.TB }

func (w worker) FailNow() {
	w.Fail()
	runtime.Goexit()
}

func (w worker) Fatal(args ...any) {
	w.Helper()
	w.Error(args...)
	runtime.Goexit()
}

func (w worker) Fatalf(format string, args ...any) {
	w.Helper()
	w.Errorf(format, args...)
	runtime.Goexit()
}

// inParallel calls do for each item, two at a time, because what is started
// are Java programs, which keep a core busy while they start. Afterwards the
// test may have failed.
func inParallel[T any](t *testing.T, items []T, do func(tb testing.TB, item T)) {
	t.Helper()
	slots := make(chan struct{}, 2)
	var all sync.WaitGroup
	for _, item := range items {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			do(worker{t}, item)
		})
	}
	all.Wait()
}

// console is an HMC for the daemon: the Web Services API is hmcsim's, the
// broker is Apache ActiveMQ. Both have one certificate, as on a real HMC.
type console struct {
	name   string
	sim    *hmcsim.HMC
	broker *activemq.Broker
	entry  string // of the configuration file
	ca     string // file

	certificate *tls.Certificate // of the Web Services API and the broker alike

	publisher *activemq.Publisher
	sequence  map[string]int  // session-sequence-nr, by topic
	global    int             // global-sequence-nr
	degraded  map[string]bool // by object id
	sent      map[string]int  // notifications by type
	expected  []expectation
}

// expectation is an event that has to be delivered.
type expectation struct{ topic, resource, identity string }

// consoleOptions describe a console; the zero value is a good one.
type consoleOptions struct {
	sim    hmcsim.Options
	broker activemq.Options
	extra  string // further keys of the configuration entry, ", key: value"
}

// startConsole starts an HMC. It ends with the test.
func startConsole(t testing.TB, name string, o consoleOptions) *console {
	t.Helper()
	authority := certs.NewAuthority(t)
	issued := authority.Issue(t, certs.Request{})
	o.broker.Authority, o.broker.Certificate = authority, &issued
	o.sim.Name = name
	if o.sim.Userid == "" {
		o.sim.Userid, o.sim.Password = hmcsim.DefaultUserid, hmcsim.DefaultPassword
	}
	c := &console{
		name: name, broker: activemq.Start(t, o.broker), ca: authority.WriteFile(t), certificate: &issued.ServerConfig(t).Certificates[0],
		sequence: map[string]int{}, degraded: map[string]bool{}, sent: map[string]int{},
	}
	o.sim.Certificate = c.certificate
	o.sim.OnLogon = func(s hmcsim.SessionInfo) {
		c.broker.AddUser(worker{t}, activemq.User{Name: s.SessionID, Password: s.Credential})
	}
	sim := hmctest.Start(t, o.sim)
	c.sim = sim
	// An operating system runs in each, so that its messages can be followed.
	for _, p := range sim.Partitions() {
		status := "operating"
		if p.DPM {
			status = "active"
		}
		if err := sim.SetPartitionStatus(p.ID, status); err != nil {
			t.Fatal(err)
		}
	}
	c.entry = fmt.Sprintf("- {name: %s, hosts: [%q], rest_port: %d, stomp_port: %d, userid: %s, password: %s, tls: {ca_file: %q}, rest_requests_per_minute: 1000%s}\n",
		name, sim.Host(), sim.RESTPort(), c.broker.Port(), o.sim.Userid, strconv.Quote(o.sim.Password), c.ca, o.extra)
	return c
}

// topics returns the topics that the HMC's one session has, by type.
func (c *console) topics(t testing.TB) map[string][]string {
	t.Helper()
	sessions := c.sim.SessionInfos()
	if len(sessions) != 1 {
		t.Fatalf("%s: %d sessions, want 1", c.name, len(sessions))
	}
	return sessions[0].Topics
}

// publish publishes the next n of a mix of all types of notifications, as
// the HMC's own program does.
func (c *console) publish(t testing.TB, n int) {
	t.Helper()
	if c.publisher == nil {
		c.publisher = c.broker.Publisher(t)
	}
	topics := c.topics(t)
	partitions := c.sim.Partitions()
	for range n {
		p := partitions[c.global%len(partitions)]
		headers := map[string]string{
			"class": p.Class, "name": p.Name, "object-id": p.ID, "object-uri": p.URI,
		}
		topic, body := topics[hmcsim.TopicObject][0], ""
		parts := []string{}
		// The seventh of the mix is prime to the number of partitions, so that
		// each has notifications of each type.
		kind := []string{"status-change", "property-change", "log-entry", "inventory-change", "os-message", "job-completion", "log-entry"}[c.global%7]
		switch kind {
		case "status-change":
			from, to := "operating", "exceptions"
			if p.DPM {
				from, to = "active", "degraded"
			}
			if c.degraded[p.ID] {
				from, to = to, from
			}
			c.degraded[p.ID] = !c.degraded[p.ID]
			body = fmt.Sprintf(`{"change-reports":[{"old-status":%q,"old-additional-status":null,"new-status":%q,"new-additional-status":null}]}`, from, to)
		case "property-change":
			headers["property-names"] = " description "
			body = fmt.Sprintf(`{"change-reports":[{"property-name":"description","old-value":null,"new-value":%s}]}`,
				quoted(fmt.Sprintf("%s #%d: \"ä\\€\"\t\x00", c.name, c.global)))
		case "inventory-change":
			headers["action"] = []string{"add", "remove"}[c.global%2]
		case "job-completion":
			topic = topics[hmcsim.TopicJob][0]
			headers = map[string]string{"job-uri": fmt.Sprintf("/api/jobs/%08x", c.global)}
		case "os-message":
			// An HMC often sends several in one notification.
			topic = channelOf(topics[hmcsim.TopicOSMessage], p)
			// It also holds them, and lists them after a link was lost.
			var texts []string
			for i := range 1 + c.global%3 {
				texts = append(texts, fmt.Sprintf("message %d of %d\n", i, c.global))
			}
			held, err := c.sim.Partition(p.ID)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.sim.OSMessages(p.ID, texts...); err != nil {
				t.Fatal(err)
			}
			for i, text := range texts {
				parts = append(parts, fmt.Sprintf(`{"sequence-number":%d,"message-id":"0","message-text":%q,"os-name":null,"timestamp":-1,`+
					`"sound-alarm":false,"is-priority":false,"is-held":false,"is-refresh":false,"prompt-text":""}`, held.NextOSMessage+int64(i), text))
			}
			body = `{"os-messages":[` + strings.Join(parts, ",") + `]}`
		case "log-entry":
			topic = topics[[]string{hmcsim.TopicAudit, hmcsim.TopicSecurity}[c.global%2]][0]
			headers = map[string]string{}
			for i := range 1 + c.global%2 {
				parts = append(parts, fmt.Sprintf(`{"event-time":%d,"event-id":"1941","event-name":"","event-message":"User hmcuser has logged on to session %d from location 10.1.1.1",`+
					`"userid":"hmcuser","user-uri":null,"event-data-items":[],"event-details":[]}`, time.Now().UnixMilli(), 10*c.global+i))
			}
			body = `{"log-entries":[` + strings.Join(parts, ",") + `]}`
		}
		if len(parts) == 0 {
			parts = []string{body}
		}
		headers["notification-type"] = kind
		headers["session-sequence-nr"] = strconv.Itoa(c.sequence[topic])
		headers["global-sequence-nr"] = strconv.Itoa(c.global)
		for _, part := range parts {
			c.expected = append(c.expected, expectation{topic, headers["object-uri"], strconv.Itoa(c.global) + " " + kind + " " + part})
		}
		c.publisher.Publish(t, topic, headers, []byte(body))
		c.sent[kind]++
		c.sequence[topic]++
		c.global++
	}
}

// channelOf returns the topic of a partition's OS message channel, whose name
// ends with the object id without its dashes.
func channelOf(topics []string, p hmcsim.PartitionInfo) string {
	i := slices.IndexFunc(topics, func(topic string) bool { return strings.HasSuffix(topic, strings.ReplaceAll(p.ID, "-", "")) })
	if i < 0 {
		return "no channel for " + p.Name
	}
	return topics[i]
}

// quoted returns s as a JSON string.
func quoted(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// status is what the tests look at in /api/v1/status.
type status struct {
	Ready   bool
	Reasons []struct{ HMC, Sink, Reason string }
	HMCs    []hmcStatus
	Sinks   []sinkStatus
}

type hmcStatus struct {
	Name, State   string
	Since         time.Time
	Connected     bool
	Problems      []string
	Reconnects    int
	Notifications map[string]int
	Missed        int `json:"notifications_missed"`
	Topics        []struct {
		Name, Type, Problem string
		Subscribed          bool
	}
}

type sinkStatus struct {
	Name        string
	QueueEvents int `json:"queue_events"`
	Delivered   int
}

func (h hmcStatus) subscribed(topic string) bool {
	for _, t := range h.Topics {
		if t.Name == topic {
			return t.Subscribed
		}
	}
	return false
}

func (h hmcStatus) received() int {
	n := 0
	for v := range maps.Values(h.Notifications) {
		n += v
	}
	return n
}

func getStatus(t testing.TB, d *daemon.Daemon) status {
	t.Helper()
	code, body := d.Get(t, "/api/v1/status")
	var s status
	if err := json.Unmarshal([]byte(body), &s); err != nil || code != http.StatusOK {
		t.Fatalf("status: %d, %v: %s", code, err, body)
	}
	return s
}

func (s status) hmc(name string) hmcStatus {
	i := slices.IndexFunc(s.HMCs, func(h hmcStatus) bool { return h.Name == name })
	if i < 0 {
		return hmcStatus{Name: name, State: "unknown"}
	}
	return s.HMCs[i]
}

func (s status) sink(name string) sinkStatus {
	i := slices.IndexFunc(s.Sinks, func(k sinkStatus) bool { return k.Name == name })
	if i < 0 {
		return sinkStatus{}
	}
	return s.Sinks[i]
}

// await waits until the daemon's status pleases; ok returns what is missing.
func await(t testing.TB, d *daemon.Daemon, ok func(s status) error) status {
	t.Helper()
	var s status
	d.Process.Await(t, within, func() error {
		s = getStatus(t, d)
		return ok(s)
	})
	return s
}

// up says what keeps an HMC from being connected and subscribed to all topics
// of its session.
func (c *console) up(t testing.TB, s status) error {
	t.Helper()
	h := s.hmc(c.name)
	if !h.Connected {
		return fmt.Errorf("%s: %s, %v", c.name, h.State, h.Problems)
	}
	if len(c.sim.SessionInfos()) != 1 {
		return fmt.Errorf("%s: %d sessions", c.name, len(c.sim.SessionInfos()))
	}
	following := 0
	for kind, topics := range c.topics(t) {
		for _, topic := range topics {
			if !h.subscribed(topic) {
				return fmt.Errorf("%s: not subscribed to %s", c.name, topic)
			}
			if kind == hmcsim.TopicOSMessage {
				following++
			}
		}
	}
	// A channel can be opened where an operating system runs; all of these do.
	if n := len(c.sim.Partitions()); following != n {
		return fmt.Errorf("%s: messages of %d of %d partitions are followed", c.name, following, n)
	}
	return nil
}

// received says whether the daemon has received all that was published.
func (c *console) received(s status) error {
	if got := s.hmc(c.name).received(); got != c.global {
		return fmt.Errorf("%s: %d of %d notifications received", c.name, got, c.global)
	}
	return nil
}

// logLines returns the lines of the daemon's log by level.
func logLines(t testing.TB, d *daemon.Daemon) map[string][]string {
	t.Helper()
	lines := map[string][]string{}
	for line := range strings.Lines(d.Process.Output()) {
		var entry struct{ Level string }
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Errorf("not a log line: %s", line)
			continue
		}
		lines[entry.Level] = append(lines[entry.Level], line)
	}
	return lines
}

// inDir returns the path of a file beside the daemon's configuration file.
func inDir(d *daemon.Daemon, name string) string { return filepath.Join(d.Dir, name) }
