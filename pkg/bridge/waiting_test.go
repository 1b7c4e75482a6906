package bridge

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
)

// patientStomp makes pauses that no test sits out: what ends one of them is something else.
const patientStomp = "{connect_timeout: 1m, reconnect_sleep_initial: 1h, reconnect_sleep_max: 1h, heartbeat_send_cycle: 30s, heartbeat_receive_cycle: 30s}"

func patient(yaml string) string { return strings.Replace(yaml, quickStomp, patientStomp, 1) }

// twoHosts starts two HMCs of one estate that can stand in for each other: 127.0.0.1 and 127.0.0.2, with the same ports. The
// configuration names them in this order.
func twoHosts(t *testing.T, first, second hmcsim.Options, extra ...string) (one, two *hmcsim.HMC, yaml string) {
	t.Helper()
	one = hmctest.Start(t, first)
	at := func(port int) string { return net.JoinHostPort("127.0.0.2", strconv.Itoa(port)) }
	second.EstateOf, second.RESTAddr, second.StompAddr = one, at(one.RESTPort()), at(one.StompPort())
	two = hmctest.Start(t, second)
	yaml = hmcYAML(t, "a", one, extra...)
	yaml = strings.Replace(yaml, `["127.0.0.1"]`, `["127.0.0.1", "127.0.0.2"]`, 1)
	return one, two, strings.Replace(yaml, "tls: {", "tls: {server_name: localhost, ", 1)
}

// With topic_names the second host is reached, however many attempts the first one takes.
func TestSecondHostWithTopicNames(t *testing.T) {
	t.Parallel()
	for _, retries := range []int{0, 1, 2, 3, 4, 7} {
		t.Run(strconv.Itoa(retries), func(t *testing.T) {
			sim := hmctest.Start(t, hmcsim.Options{Partitions: -1})
			owner, err := sim.NewSession(hmcsim.DefaultUserid)
			if err != nil {
				t.Fatal(err)
			}
			yaml := hmcYAML(t, "a", sim, "topic_names: ["+ownTopic(t, owner, "object-notification")+"]")
			yaml = strings.Replace(yaml, "connect_timeout: 1m", fmt.Sprintf("connect_timeout: 1m, connect_retries: %d", retries), 1)
			d := startDaemon(t, strings.Replace(yaml, `["127.0.0.1"]`, `["127.0.0.2", "127.0.0.1"]`, 1))
			d.connected("a")
			if h := d.hmc("a"); h.Host != "127.0.0.1" {
				t.Errorf("host %s", h.Host)
			}
		})
	}
}

// A host whose Web Services API answers and that gives no link is left for the next one, and nothing is left on it.
func TestHostThatGivesNoLinkIsLeft(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func(*hmcsim.HMC){
		"broker does not listen": func(sim *hmcsim.HMC) { sim.Broker().StopListening() },
		"broker closes":          func(sim *hmcsim.HMC) { sim.Broker().FaultAlways(hmcsim.Fault{Kind: hmcsim.FaultClose}) },
		"broker refuses":         func(sim *hmcsim.HMC) { sim.Broker().FaultAlways(hmcsim.Fault{Kind: hmcsim.FaultBadLogin}) },
		"API is disabled":        func(sim *hmcsim.HMC) { sim.FaultREST(hmcsim.RESTFault{Kind: hmcsim.RESTFaultDisabled}) },
		"too many sessions": func(sim *hmcsim.HMC) {
			sim.FaultREST(hmcsim.RESTFault{Kind: hmcsim.RESTFaultStatus, Operation: "logon", Status: 400, Reason: 13})
		},
		"no topics": func(sim *hmcsim.HMC) {
			sim.FaultREST(hmcsim.RESTFault{Kind: hmcsim.RESTFaultStatus, Operation: "get-notification-topics", Status: 500, Reason: 1})
		},
	} {
		t.Run(name, func(t *testing.T) {
			one, two, yaml := twoHosts(t, hmcsim.Options{Partitions: -1}, hmcsim.Options{Name: "HMC2"})
			fail(one)
			d := startDaemon(t, yaml)
			d.connected("a")
			if h := d.hmc("a"); h.Host != "127.0.0.2" {
				t.Errorf("host %s", h.Host)
			}
			if one.Sessions() != 0 || two.Sessions() != 1 {
				t.Errorf("%d sessions on the first, %d on the second", one.Sessions(), two.Sessions())
			}
			// The way back is the same.
			one.ClearRESTFaults()
			one.Broker().FaultAlways()
			if err := one.Broker().StartListening(); err != nil {
				t.Fatal(err)
			}
			two.Stop()
			d.eventually("back on the first", func() bool { h := d.hmc("a"); return h.Connected && h.Host == "127.0.0.1" })
		})
	}
}

const newOSMessages = `os_messages: [{cpc: ".*", partition: ".*", include_refresh_messages: false}]`

// Another host may number the OS messages otherwise. What both hold is delivered once, what is new all of it.
func TestOSMessagesOfAnotherHost(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		offset int64
		keys   string
		held   int // of the first 20, which were there before, how many are delivered
	}{
		{0, allOSMessages, 20},
		{1, allOSMessages, 20},
		{1000, allOSMessages, 20},
		{-20, allOSMessages, 20},
		{0, newOSMessages, 0},
		{1, newOSMessages, 0},
		{1000, newOSMessages, 0},
		{-20, newOSMessages, 0},
	} {
		t.Run(fmt.Sprintf("%d %d", test.offset, test.held), func(t *testing.T) {
			one, two, yaml := twoHosts(t, hmcsim.Options{CPCs: 1, Partitions: 1}, hmcsim.Options{Name: "HMC2", OSMessageOffset: test.offset}, test.keys)
			partition := one.Partitions()[0].URI
			say := func(from, to int) {
				for i := from; i <= to; i++ {
					if _, err := one.OSMessages(partition, fmt.Sprint("message ", i)); err != nil {
						t.Fatal(err)
					}
				}
			}
			said := func(d *daemon) (n int) {
				for _, text := range texts(d.consumer.got(), event.TypeOSMessage) {
					if strings.HasPrefix(text, "message ") {
						n++
					}
				}
				return n
			}
			say(1, 20)
			d := startDaemon(t, yaml)
			d.connected("a")
			say(21, 41)
			d.eventually("the messages", func() bool { return said(d) == test.held+21 })
			before := len(texts(d.consumer.got(), event.TypeOSMessage))
			one.Stop()
			d.eventually("on the other host", func() bool { h := d.hmc("a"); return h.Connected && h.Host == "127.0.0.2" })
			// Live ones, behind all that the host has replayed.
			if _, err := two.OSMessages(partition, "message 42", "message 43"); err != nil {
				t.Fatal(err)
			}
			d.eventually("what is new", func() bool { return said(d) >= test.held+23 })
			d.awaitGaps(1)
			seen := map[string]int{}
			all := texts(d.consumer.got(), event.TypeOSMessage)
			for _, text := range all {
				if seen[text]++; strings.HasPrefix(text, "message ") && seen[text] > 1 {
					t.Errorf("%q was delivered %d times", text, seen[text])
				}
			}
			if len(all) != before+2 {
				t.Errorf("%d OS messages before the change of host, %d after it and two more", before, len(all))
			}
		})
	}
}

// Only a refused userid or password is left alone for long. Whatever else keeps a logon from working is tried again
// within two minutes, and by itself.
func TestLogonThatFailsForAnotherReason(t *testing.T) {
	t.Parallel()
	answer := func(status, reason int) hmcsim.RESTFault {
		return hmcsim.RESTFault{Kind: hmcsim.RESTFaultStatus, Operation: "logon", Status: status, Reason: reason}
	}
	for name, fault := range map[string]hmcsim.RESTFault{
		"too many sessions":       answer(400, 13),
		"another 400":             answer(400, 8),
		"the resource is unknown": answer(404, 1),
		"the method":              answer(405, 0),
		"a conflict":              answer(409, 2),
		"an answer of a proxy":    answer(429, 0),
		"disabled":                {Kind: hmcsim.RESTFaultDisabled},
		"disabled, at the logon":  {Kind: hmcsim.RESTFaultDisabled, Operation: "logon"},
		"busy":                    {Kind: hmcsim.RESTFaultBusy, Operation: "logon"},
	} {
		t.Run(name, func(t *testing.T) {
			sim := hmctest.Start(t, hmcsim.Options{Partitions: -1})
			sim.FaultREST(fault)
			// With the pauses that there are where nothing is configured.
			d := startDaemon(t, strings.Replace(hmcYAML(t, "a", sim), quickStomp, "{}", 1))
			d.eventually("it waits", func() bool {
				h := d.hmc("a")
				if h.State == status.StateAuthFailed {
					t.Fatal("is held like a wrong password")
				}
				return h.NextAttempt != nil
			})
			if next := d.hmc("a").NextAttempt; next != nil && time.Until(*next) > 2*time.Minute {
				t.Errorf("tried again after %s", time.Until(*next))
			}
			sim.ClearRESTFaults()
			d.connected("a")
		})
	}
}

// A reload tries an HMC that waits at once, whatever has changed, and disturbs none that is connected.
func TestReloadTriesAWaitingHMC(t *testing.T) {
	t.Parallel()
	t.Run("after a refused logon", func(t *testing.T) {
		sim, other := hmctest.Start(t, hmcsim.Options{Partitions: -1, Password: "other", Userid: hmcsim.DefaultUserid}), hmctest.Start(t, hmcsim.Options{Partitions: -1})
		d := startDaemon(t, hmcYAML(t, "a", sim)+hmcYAML(t, "b", other))
		d.connected("b")
		d.eventually("refused", func() bool { return d.hmc("a").State == status.StateAuthFailed })
		sim.SetPassword(hmcsim.DefaultUserid, hmcsim.DefaultPassword) // on the HMC: the file is as it was
		if err := d.bridge.Reload(d.bridge.now().cfg); err != nil {
			t.Fatal(err)
		}
		d.connected("a")
		if h := d.hmc("b"); h.Reconnects != 0 || sim.RefusedLogons() != 1 || other.Logons() != 1 {
			t.Errorf("%d reconnects of the other, %d refused logons, %d logons", h.Reconnects, sim.RefusedLogons(), other.Logons())
		}
	})
	t.Run("in a pause", func(t *testing.T) {
		sim := hmctest.Start(t, hmcsim.Options{Partitions: -1})
		sim.Stop()
		d := startDaemon(t, patient(hmcYAML(t, "a", sim)))
		d.eventually("it waits", func() bool { return d.hmc("a").NextAttempt != nil })
		if err := sim.Resume(); err != nil {
			t.Fatal(err)
		}
		if err := d.bridge.Reload(d.bridge.now().cfg); err != nil {
			t.Fatal(err)
		}
		d.connected("a")
	})
}

// A changed password file is noticed without a reload, and one that has not changed is no reason to ask again. The link
// that was made with it stays over a reload.
func TestChangedPasswordFileIsNoticed(t *testing.T) {
	t.Parallel()
	for name, keys := range map[string]func(*hmcsim.HMC) string{
		"logon": func(*hmcsim.HMC) string { return "topics: [object]" },
		"topic_names": func(sim *hmcsim.HMC) string {
			owner, err := sim.NewSession(hmcsim.DefaultUserid)
			if err != nil {
				t.Fatal(err)
			}
			return "topic_names: [" + ownTopic(t, owner, "object-notification") + "]"
		},
	} {
		t.Run(name, func(t *testing.T) {
			sim := hmctest.Start(t, hmcsim.Options{Partitions: -1})
			file := filepath.Join(t.TempDir(), "password")
			write := func(text string) {
				if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			write("old\n")
			d := startDaemon(t, hmcYAML(t, "a", sim, "userid: "+hmcsim.DefaultUserid, fmt.Sprintf("password_file: %q", file), keys(sim)))
			d.eventually("refused", func() bool { return d.hmc("a").State == status.StateAuthFailed })
			refused := d.metric(`hmcnotifyd_receiver_connect_failures_total{hmc="a",reason="logon"}`) + d.metric(`hmcnotifyd_receiver_connect_failures_total{hmc="a",reason="authorization"}`)
			write("old\n") // another file with the same in it
			write("")      // as while it is written
			write(hmcsim.DefaultPassword + "\n")
			d.connected("a")
			if again := d.metric(`hmcnotifyd_receiver_connect_failures_total{hmc="a",reason="logon"}`) + d.metric(`hmcnotifyd_receiver_connect_failures_total{hmc="a",reason="authorization"}`); refused != 1 || again != 1 {
				t.Errorf("refused %v times, then %v times", refused, again)
			}
			links := sim.Broker().Stats().Accepted
			if err := d.bridge.Reload(load(t, d.dir, readFile(t, filepath.Join(d.dir, "hmcnotifyd.yaml")))); err != nil {
				t.Fatal(err)
			}
			if now := sim.Broker().Stats().Accepted; now != links || !d.hmc("a").Connected {
				t.Errorf("%d links, then %d: the reload made one that was not needed", links, now)
			}
			// It is not in use yet, and a reload is how to find out whether it works.
			write("wrong\n")
			if err := d.bridge.Reload(load(t, d.dir, readFile(t, filepath.Join(d.dir, "hmcnotifyd.yaml")))); err != nil {
				t.Fatal(err)
			}
			d.eventually("refused", func() bool { return d.hmc("a").State == status.StateAuthFailed })
		})
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// A changed CA file is noticed without a reload, by both connections, and the pause before the next attempt ends with it.
func TestChangedCAFileIsNoticed(t *testing.T) {
	t.Parallel()
	for name, keys := range map[string]func(*hmcsim.HMC) string{
		"logon": func(*hmcsim.HMC) string { return "topics: [object]" },
		"topic_names": func(sim *hmcsim.HMC) string {
			owner, err := sim.NewSession(hmcsim.DefaultUserid)
			if err != nil {
				t.Fatal(err)
			}
			return "topic_names: [" + ownTopic(t, owner, "object-notification") + "]"
		},
	} {
		t.Run(name, func(t *testing.T) {
			sim := hmctest.Start(t, hmcsim.Options{Partitions: -1})
			old, err := hmcsim.NewCA()
			if err != nil {
				t.Fatal(err)
			}
			yaml := hmcYAML(t, "a", sim, keys(sim))
			_, file, _ := strings.Cut(yaml, `ca_file: "`)
			file, _, _ = strings.Cut(file, `"`)
			if err := os.WriteFile(file, old.PEM(), 0o600); err != nil {
				t.Fatal(err)
			}
			d := startDaemon(t, patient(yaml))
			d.eventually("the certificate is refused", func() bool {
				return d.hmc("a").NextAttempt != nil && strings.Contains(d.statusText(), "signed by an unknown authority")
			})
			if err := os.WriteFile(file, sim.CACertPEM(), 0o600); err != nil {
				t.Fatal(err)
			}
			d.connected("a")
			// And again while nobody is connected: the HMC gets another certificate, the file the authority of it.
			if name == "topic_names" {
				return
			}
			publish(sim, "P", "x")
			d.eventually("delivered", func() bool { return len(marks(d.consumer.got())["P"]) == 1 })
		})
	}
}

// A session of the configuration that has ended is replaced through its files, without a reload.
func TestChangedSessionFilesAreNoticed(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{Partitions: -1, MFA: true})
	dir := t.TempDir()
	write := func() {
		s, err := sim.NewSession(hmcsim.DefaultUserid)
		if err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{"credential": s.Credential, "id": s.SessionID} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	write()
	sim.ExpireSessions(false)
	d := startDaemon(t, patient(hmcYAML(t, "a", sim, fmt.Sprintf("session: {id_file: %q, credential_file: %q}", filepath.Join(dir, "id"), filepath.Join(dir, "credential")))))
	d.eventually("it has ended", func() bool { return strings.Contains(d.statusText(), "make a new one") })
	write()
	d.connected("a")
}

// An HMC that takes its time for lists is followed where rest_timeout lets it; where not, readiness says that no CPC could be
// read.
func TestListsThatTakeLong(t *testing.T) {
	t.Parallel()
	slow := func(t *testing.T) *hmcsim.HMC {
		sim := hmctest.Start(t, hmcsim.Options{})
		for _, op := range []string{"list-cpcs", "list-permitted-partitions", "list-permitted-logical-partitions"} {
			sim.FaultREST(hmcsim.RESTFault{Kind: hmcsim.RESTFaultSlow, Operation: op, Delay: 3 * time.Second})
		}
		return sim
	}
	t.Run("followed", func(t *testing.T) {
		sim := slow(t)
		d := startDaemon(t, hmcYAML(t, "a", sim, "rest_timeout: 5m", allOSMessages))
		d.eventually("not read yet", func() bool {
			s := d.bridge.Status()
			return d.hmc("a").State == status.StateConnected && !s.Ready && strings.Contains(fmt.Sprint(s.Reasons), "not listed yet")
		})
		d.connected("a")
		d.eventually("ready", func() bool { return d.bridge.Status().Ready && len(d.bridge.Units()) == 10 })
	})
	t.Run("said", func(t *testing.T) {
		sim := slow(t)
		d := startDaemon(t, hmcYAML(t, "a", sim, "rest_timeout: 1s"))
		d.eventually("the link is up, and no CPC was read", func() bool {
			s := d.bridge.Status()
			return d.hmc("a").Connected && !s.Ready && strings.Contains(fmt.Sprint(s.Reasons), "not all CPCs and partitions could be listed")
		})
		if got := fmt.Sprint(d.hmc("a").Troubles); !strings.Contains(got, "rest_timeout") {
			t.Errorf("what to do is not said: %s", got)
		}
		sim.ClearRESTFaults()
		d.eventually("ready", func() bool { return d.bridge.Status().Ready })
	})
	// What to do is the same where it keeps OS messages from being followed, or the link from being made.
	for name, extra := range map[string]string{"OS messages": allOSMessages, "topics": "hardware_messages: false"} {
		t.Run("said, "+name, func(t *testing.T) {
			sim := slow(t)
			if name == "topics" {
				sim.FaultREST(hmcsim.RESTFault{Kind: hmcsim.RESTFaultSlow, Operation: "get-notification-topics", Delay: 3 * time.Second})
			}
			d := startDaemon(t, hmcYAML(t, "a", sim, "rest_timeout: 1s", extra))
			d.eventually("what to do is said", func() bool {
				return strings.Contains(fmt.Sprint(d.hmc("a").Troubles), "than rest_timeout, make that longer")
			})
			sim.ClearRESTFaults()
			d.eventually("ready", func() bool { return d.bridge.Status().Ready })
		})
	}
}

// What logons tell of the password's end is a metric, and from 14 days on a warning and a trouble.
func TestPasswordThatExpires(t *testing.T) {
	t.Parallel()
	const series = `hmcnotifyd_hmc_password_expires_timestamp_seconds{hmc="a"}`
	for days, warned := range map[int]bool{-1: false, 0: true, 2: true, 14: true, 15: false, 90: false} {
		t.Run(strconv.Itoa(days), func(t *testing.T) {
			sim := hmctest.Start(t, hmcsim.Options{Partitions: -1})
			sim.SetPasswordExpires(hmcsim.DefaultUserid, days)
			before := time.Now()
			d := startDaemon(t, hmcYAML(t, "a", sim))
			d.connected("a")
			if days < 0 {
				if d.has(series) {
					t.Error("there is a series, though the password never expires")
				}
			} else if at, from := time.Unix(int64(d.metric(series)), 0), before.AddDate(0, 0, days).Add(-25*time.Hour); at.Before(from) || at.After(time.Now().AddDate(0, 0, days).Add(25*time.Hour)) {
				t.Errorf("expires at %s", at)
			}
			if got := strings.Contains(fmt.Sprint(d.hmc("a").Troubles), "password that the daemon logs on with expires"); got != warned {
				t.Errorf("troubles: %v", d.hmc("a").Troubles)
			}
			warnings := func() int { return strings.Count(d.logs.String(), `"msg":"the password of the userid expires soon`) }
			want := 0
			if warned {
				want = 1
			}
			if warnings() != want {
				t.Errorf("%d warnings", warnings())
			}
			// Each logon tells it anew.
			sim.ExpireSessions(true)
			d.eventually("logged on again", func() bool { return sim.Logons() == 2 && d.hmc("a").Connected })
			if warnings() != 2*want {
				t.Errorf("%d warnings after two logons", warnings())
			}
			// A password that was changed has another end: the HMC tells that it was, the next logon the end.
			sim.SetPassword(hmcsim.DefaultUserid, hmcsim.DefaultPassword)
			d.eventually("the end is not known any more", func() bool { return !d.has(series) })
			sim.Broker().DropLinks()
			d.eventually("connected again", func() bool { h := d.hmc("a"); return h.Connected && h.Reconnects == 2 })
			if d.has(series) || sim.Logons() != 2 {
				t.Error("the end of a password that is not used any more is told")
			}
			sim.SetPasswordExpires(hmcsim.DefaultUserid, 80)
			sim.ExpireSessions(true)
			d.eventually("logged on once more", func() bool { return sim.Logons() == 3 && d.hmc("a").Connected })
			if at := time.Unix(int64(d.metric(series)), 0); time.Until(at) < 79*24*time.Hour || time.Until(at) > 81*24*time.Hour {
				t.Errorf("expires at %s", at)
			}
		})
	}
}

// A password that has expired is said to have, and held as a refused one: however the HMC says it.
func TestExpiredPassword(t *testing.T) {
	t.Parallel()
	for _, asWrong := range []bool{false, true} {
		t.Run(strconv.FormatBool(asWrong), func(t *testing.T) {
			sim := hmctest.Start(t, hmcsim.Options{Partitions: -1, ExpiredIsWrong: asWrong})
			sim.ExpirePassword(hmcsim.DefaultUserid)
			d := startDaemon(t, hmcYAML(t, "a", sim))
			d.eventually("held", func() bool { return d.hmc("a").State == status.StateAuthFailed })
			want := "the password of userid hmcuser has expired"
			if asWrong {
				want = "the password has expired"
			}
			if text := d.statusText(); !strings.Contains(text, want) {
				t.Errorf("does not say %q: %s", want, text)
			}
			if n := sim.RefusedLogons(); n != 1 {
				t.Errorf("tried %d times", n)
			}
		})
	}
}
