//go:build real

package e2e_test

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/activemq"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/consumer"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/daemon"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/program"
)

// byTopicName is the entry of an HMC whose topics are known, so that the
// daemon needs nothing but the broker.
func (c *console) byTopicName(name, keys string) string {
	return fmt.Sprintf("- {name: %s, hosts: [%q], stomp_port: %d, tls: {ca_file: %q}, %s}\n",
		name, c.broker.Host(), c.broker.Port(), c.ca, keys)
}

// webhook is the sinks section with one webhook, to a consumer.
func webhook(c *consumer.Consumer) string {
	return fmt.Sprintf("sinks:\n- {name: hook, webhook: {url: %q}}\n", c.URL)
}

// notify publishes a property change on a topic, and mark is its new value.
func (c *console) notify(t testing.TB, topic, mark string) {
	t.Helper()
	if c.publisher == nil {
		c.publisher = c.broker.Publisher(t)
	}
	c.publisher.Publish(t, topic, map[string]string{
		"notification-type": "property-change", "class": "partition", "name": "P1", "object-uri": "/api/partitions/1", "property-names": " description ",
	}, fmt.Appendf(nil, `{"change-reports":[{"property-name":"description","old-value":null,"new-value":%s}]}`, quoted(mark)))
}

// marked is a filter: the event of a notification by notify.
func marked(hmc, mark string) func(consumer.Event) bool {
	return func(e consumer.Event) bool { return e.HMC == hmc && strings.Contains(string(e.Body), quoted(mark)) }
}

// connected says whether an HMC's link is up and all topics are subscribed.
func connected(name string) func(status) error {
	return func(s status) error {
		if h := s.hmc(name); !h.Connected {
			return fmt.Errorf("%s: %s, %v", name, h.State, h.Problems)
		}
		return nil
	}
}

// TestRefusedTopic has a broker refuse some topics to a userid, as an HMC
// does that has ended a session: the others go on, /-/ready names the refused
// ones, and so it is after the broker has started again.
func TestRefusedTopic(t *testing.T) {
	t.Parallel()
	const session = "hmcuser.102" // the name of the first session's topics
	c := startConsole(t, "east", consoleOptions{
		sim:    hmcsim.Options{Seed: 1, Partitions: 1},
		broker: activemq.Options{Approved: []string{session, session + "job", session + "aud", "ensadmin.145"}},
		extra:  ", topics: [object, job, audit, security], os_messages: [{cpc: .*, partition: .*}], stomp: " + quickStomp,
	})
	hook := consumer.Start(t)
	d := daemon.Start(t, daemon.Options{
		Config: "hmcs:\n" + c.entry +
			c.byTopicName("west", "userid: hmcuser, password: hmcpass, topic_names: [ensadmin.145, sysprog.1], stomp: "+quickStomp) +
			webhook(hook),
	})
	refusals := map[string][]string{"east": {session + "sec", session + "osm."}, "west": {"sysprog.1"}}
	refused := func(s status) error {
		for name, topics := range refusals {
			h := s.hmc(name)
			problems := strings.Join(h.Problems, "\n")
			for _, topic := range topics {
				if h.State != "connected" || h.Connected || !strings.Contains(problems, topic) || !strings.Contains(problems, "not authorized") {
					return fmt.Errorf("%s: %s, connected %v, %q; want %s to be refused", name, h.State, h.Connected, problems, topic)
				}
			}
			if len(h.Problems) != len(topics) {
				return fmt.Errorf("%s: %q; want nothing but %q", name, problems, topics)
			}
		}
		return nil
	}
	for round := range 2 {
		await(t, d, refused)
		if got := c.topics(t)[hmcsim.TopicObject][0]; got != session {
			t.Fatalf("the session's topic is %s, which the test does not approve", got)
		}
		for topic, name := range map[string]string{session: "east", session + "job": "east", session + "aud": "east", "ensadmin.145": "west"} {
			mark := fmt.Sprint(topic, " ", round)
			c.notify(t, topic, mark)
			hook.Await(t, within, 1, marked(name, mark))
		}
		code, body := d.Get(t, "/-/ready")
		if code != http.StatusServiceUnavailable {
			t.Errorf("/-/ready: %d", code)
		}
		for name, topics := range refusals {
			for _, topic := range topics {
				if !strings.Contains(body, topic) {
					t.Errorf("/-/ready does not name topic %s of %s: %s", topic, name, body)
				}
			}
			if got := d.Metric(t, "hmcnotifyd_receiver_connected", "hmc", name); got != 0 {
				t.Errorf("%s counts as connected", name)
			}
			if got := d.Metric(t, "hmcnotifyd_receiver_state", "hmc", name, "state", "connected"); got != 1 {
				t.Errorf("%s: the link is not up", name)
			}
			if got := d.Metric(t, "hmcnotifyd_receiver_reconnects_total", "hmc", name); got != float64(round) {
				t.Errorf("%s: %v reconnects after %d restarts: a refused topic costs the link", name, got, round)
			}
		}
		if round == 0 {
			c.broker.Kill()
			c.publisher = nil
			await(t, d, func(s status) error {
				if s.hmc("east").State == "connected" || s.hmc("west").State == "connected" {
					return fmt.Errorf("the loss is not noticed")
				}
				return nil
			})
			c.broker.Start(t)
		}
	}
	d.Stop(t)
	if c.sim.Sessions() != 0 || c.sim.Logons() != 1 {
		t.Errorf("%d sessions are left after %d logons", c.sim.Sessions(), c.sim.Logons())
	}
}

// TestBadLogin has a real broker refuse a password. It is tried once; what to
// do is said; and it is tried again when the password has been changed.
func TestBadLogin(t *testing.T) {
	t.Parallel()
	c := startConsole(t, "unused", consoleOptions{})
	hook := consumer.Start(t)
	// The daemon tries this one again and again: a clock for the other.
	nothing := fmt.Sprintf("- {name: nothing, hosts: [%q], stomp_port: %d, userid: hmcuser, password: hmcpass, topic_names: [x], stomp: {reconnect_sleep_initial: 10ms, reconnect_sleep_max: 10ms}}\n",
		c.broker.Host(), program.FreePort(t))
	d := daemon.Start(t, daemon.Options{
		Config: "hmcs:\n" + nothing +
			c.byTopicName("wrong", "userid: hmcuser, password_file: password, topic_names: [ensadmin.145], stomp: {reconnect_sleep_initial: 10ms, reconnect_sleep_max: 10ms}") +
			c.byTopicName("right", "userid: hmcuser, password: hmcpass, topic_names: [ensadmin.145]") +
			webhook(hook),
		Files: map[string]string{"password": "wrong\n"},
	})
	attempts := func(n int) {
		t.Helper()
		before := d.Metric(t, "hmcnotifyd_receiver_connect_failures_total", "hmc", "nothing", "reason", "refused")
		d.Process.Await(t, within, func() error {
			if got := d.Metric(t, "hmcnotifyd_receiver_connect_failures_total", "hmc", "nothing", "reason", "refused"); got < before+float64(n) {
				return fmt.Errorf("%v of %d attempts", got-before, n)
			}
			return nil
		})
	}
	s := await(t, d, func(s status) error {
		if s.hmc("wrong").State != "auth_failed" {
			return fmt.Errorf("wrong: %s, %v", s.hmc("wrong").State, s.hmc("wrong").Problems)
		}
		return connected("right")(s)
	})
	if problem := strings.Join(s.hmc("wrong").Problems, ""); !strings.Contains(problem, "refused") || !strings.Contains(problem, "User name [hmcuser] or password is invalid") {
		t.Errorf("the problem is said to be %q", problem)
	}
	attempts(50)
	refused := func(want int) {
		t.Helper()
		attempts(50)
		if got := d.Metric(t, "hmcnotifyd_receiver_connect_failures_total", "hmc", "wrong"); got != float64(want) {
			t.Errorf("%v failures were counted, want %d", got, want)
		}
		if got := strings.Count(c.broker.Process().Output(), "Failed to add Connection"); got != want {
			t.Errorf("the broker tells of %d refused logons, want %d", got, want)
		}
	}
	refused(1)
	// Whoever reloads wants it tried, once.
	if code, body := d.Reload(t); code != http.StatusOK {
		t.Errorf("reload: %d %s", code, body)
	}
	refused(2)
	if got := d.Metric(t, "hmcnotifyd_receiver_state", "hmc", "wrong", "state", "auth_failed"); got != 1 {
		t.Error("the state is not auth_failed")
	}

	d.WriteFile(t, "password", "hmcpass\n")
	await(t, d, connected("wrong"))
	c.notify(t, "ensadmin.145", "hello")
	hook.Await(t, within, 1, marked("wrong", "hello"))
	hook.Await(t, within, 1, marked("right", "hello"))
	if got := d.Metric(t, "hmcnotifyd_receiver_reconnects_total", "hmc", "right"); got != 0 {
		t.Errorf("the other HMC's link was made again %v times", got)
	}
	d.Stop(t)
}

// TestOddPasswords logs on to the Web Services API and to a real broker, over
// IPv6, with what userids and passwords may hold.
func TestOddPasswords(t *testing.T) {
	t.Parallel()
	passwords := map[string]string{
		"ops@example.com": `a:b\c"d'e é€😀#{}[]%,&*!|>@` + "`=~",
		"escapes":         `\n\c\\\r`,
		"blanks":          `two  words`,
		"péter":           `-`,
	}
	var users []activemq.User
	for userid, password := range passwords {
		users = append(users, activemq.User{Name: userid, Password: password})
	}
	c := startConsole(t, "unused", consoleOptions{
		sim:    hmcsim.Options{RESTAddr: "[::1]:0", Users: passwords, Partitions: -1},
		broker: activemq.Options{Host: "::1", Users: users},
	})
	config, files := "hmcs:\n", map[string]string{}
	hmcs := map[string]string{} // the userid of each
	for i, userid := range slices.Sorted(maps.Keys(passwords)) {
		name := strconv.Itoa(i)
		login := "userid: " + quoted(userid)
		files[name] = passwords[userid] + "\n"
		hmcs["rest"+name], hmcs["inline"+name], hmcs["file"+name] = userid, userid, userid
		config += fmt.Sprintf("- {name: rest%s, hosts: [%q], rest_port: %d, stomp_port: %d, tls: {ca_file: %q}, %s, password_file: %q}\n",
			name, c.sim.Host(), c.sim.RESTPort(), c.broker.Port(), c.ca, login, name) +
			c.byTopicName("inline"+name, login+", password: "+quoted(passwords[userid])+", topic_names: [ensadmin.145]") +
			c.byTopicName("file"+name, login+fmt.Sprintf(", password_file: %q, topic_names: [ensadmin.145]", name))
	}
	hook := consumer.Start(t)
	d := daemon.Start(t, daemon.Options{Config: config + webhook(hook), Files: files})
	d.AwaitReady(t, within)
	for _, session := range c.sim.SessionInfos() {
		c.notify(t, session.Topics[hmcsim.TopicObject][0], "hello")
	}
	c.notify(t, "ensadmin.145", "hello")
	for hmc, userid := range hmcs {
		hook.Await(t, within, 1, marked(hmc, "hello"))
		if got := d.Metric(t, "hmcnotifyd_receiver_connect_failures_total", "hmc", hmc); got != 0 {
			t.Errorf("%s, userid %s: %v failed attempts", hmc, userid, got)
		}
	}
	d.Stop(t)
	if strings.Contains(c.broker.Process().Output(), "Failed to add Connection") {
		t.Error("a logon was refused before another was accepted")
	}
	if c.sim.Sessions() != 0 || c.sim.RefusedLogons() != 0 {
		t.Errorf("%d sessions are left, %d logons were refused", c.sim.Sessions(), c.sim.RefusedLogons())
	}
}

// TestHalfOpenLink stops the broker's process without ending it: its kernel
// goes on to acknowledge what is sent. That is noticed by the silence, and the
// link is made again when the broker goes on.
func TestHalfOpenLink(t *testing.T) {
	t.Parallel()
	c := startConsole(t, "east", consoleOptions{
		sim: hmcsim.Options{Partitions: -1},
		extra: ", stomp: {connect_timeout: 3s, reconnect_sleep_max: 200ms, " +
			"heartbeat_send_cycle: 1s, heartbeat_receive_cycle: 1s, heartbeat_receive_check: 2.0}",
	})
	other := startConsole(t, "west", consoleOptions{sim: hmcsim.Options{Partitions: -1}})
	hook := consumer.Start(t)
	d := daemon.Start(t, daemon.Options{Config: "hmcs:\n" + c.entry + other.entry + webhook(hook)})
	d.AwaitReady(t, within)
	topic, elsewhere := c.topics(t)[hmcsim.TopicObject][0], other.topics(t)[hmcsim.TopicObject][0]

	for round := range 2 {
		mark := strconv.Itoa(round)
		c.notify(t, topic, "before "+mark)
		hook.Await(t, within, 1, marked("east", "before "+mark))
		c.broker.Process().Signal(t, syscall.SIGSTOP)
		s := await(t, d, func(s status) error {
			if h := s.hmc("east"); h.State == "connected" {
				return fmt.Errorf("east: %s", h.State)
			}
			return nil
		})
		if problem := strings.Join(s.hmc("east").Problems, ""); round == 0 && !strings.Contains(problem, "heart-beats lost") && !strings.Contains(problem, "within") {
			t.Errorf("the problem is said to be %q", problem)
		}
		// An attempt at a broker that accepts and says nothing ends too.
		d.Process.Await(t, within, func() error {
			if got := d.Metric(t, "hmcnotifyd_receiver_connect_failures_total", "hmc", "east", "reason", "timeout"); got < float64(round+1) {
				return fmt.Errorf("%v attempts have timed out", got)
			}
			return nil
		})
		other.notify(t, elsewhere, "meanwhile "+mark)
		hook.Await(t, within, 1, marked("west", "meanwhile "+mark))

		c.broker.Process().Signal(t, syscall.SIGCONT)
		await(t, d, connected("east"))
		if got := d.Metric(t, "hmcnotifyd_receiver_reconnects_total", "hmc", "east"); got < float64(round+1) {
			t.Errorf("%v reconnects were counted after %d losses", got, round+1)
		}
		// The publisher's own link may have been ended by the broker.
		c.publisher = nil
		c.notify(t, topic, "after "+mark)
		hook.Await(t, within, 1, marked("east", "after "+mark))
	}
	if got := d.Metric(t, "hmcnotifyd_receiver_reconnects_total", "hmc", "west"); got != 0 {
		t.Errorf("the other HMC's link was made again %v times", got)
	}
	if !strings.Contains(d.Process.Output(), "heart-beats lost") {
		t.Error("the log does not tell of lost heart-beats")
	}
	d.Stop(t)
	for _, c := range []*console{c, other} {
		if c.sim.Sessions() != 0 || c.sim.Logons() != 1 {
			t.Errorf("%s: %d sessions are left after %d logons", c.name, c.sim.Sessions(), c.sim.Logons())
		}
	}
}
