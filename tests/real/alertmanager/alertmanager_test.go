//go:build real

package alertmanager_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/alertmanager"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/daemon"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/program"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"))
}

const within = 5 * time.Minute

// scene is a simulated HMC, the daemon, Alertmanager and who it notifies.
type scene struct {
	*testing.T
	sim      *hmcsim.HMC
	daemon   *daemon.Daemon
	manager  *alertmanager.Server
	receiver *alertmanager.Receiver
	config   func(urls ...string) string
}

func start(t *testing.T) *scene {
	t.Helper()
	return startWith(t, hmcsim.Options{CPCs: 1, Partitions: 6}, "", "")
}

// startWith starts it with a simulator, and more of the HMC's keys and of the file.
func startWith(t *testing.T, opts hmcsim.Options, ofHMC, more string) *scene {
	t.Helper()
	sim, err := hmcsim.Start(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sim.Close() })
	s := &scene{T: t, sim: sim, receiver: alertmanager.StartReceiver(t)}
	s.manager = alertmanager.Start(t, alertmanager.Options{Receiver: s.receiver.URL})
	s.config = func(urls ...string) string {
		list, err := json.Marshal(urls)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf(`hmcs:
- name: east
  hosts: [%q]
  rest_port: %d
  stomp_port: %d
  userid: %s
  password_file: password
  tls: {ca_file: ca.pem}
  os_messages: [{cpc: .*, partition: .*, include_refresh_messages: %t}]
  hardware_messages: true
  rest_requests_per_minute: 10000
%ssinks:
- {name: alerts, alertmanager: {urls: %s, resend_interval: 1s}}
- {name: all, log: {output: events.log}}
%s`, sim.Host(), sim.RESTPort(), sim.StompPort(), hmcsim.DefaultUserid, more == "", ofHMC, list, more)
	}
	s.daemon = daemon.Start(t, daemon.Options{
		Config: s.config(s.manager.URL), Files: map[string]string{"password": hmcsim.DefaultPassword + "\n", "ca.pem": string(sim.CACertPEM())},
	})
	s.daemon.AwaitReady(t, within)
	return s
}

// running are DPM partitions that are active.
func (s *scene) running() []hmcsim.PartitionInfo {
	s.Helper()
	all := slices.DeleteFunc(s.sim.Partitions(), func(p hmcsim.PartitionInfo) bool { return p.Status != "active" && p.Status != "operating" })
	if len(all) < 2 {
		s.Fatalf("%d partitions are active", len(all))
	}
	return all
}

// firing are the alerts with these labels, names and values in turn.
func (s *scene) firing(m *alertmanager.Server, labels ...string) []alertmanager.Alert {
	s.Helper()
	return slices.DeleteFunc(m.Alerts(s), func(a alertmanager.Alert) bool { return !a.Has(labels...) })
}

func (s *scene) await(what string, cond func() bool) {
	s.Helper()
	start := time.Now()
	program.Await(s, within, func() error {
		if cond() {
			return nil
		}
		return fmt.Errorf("not yet: %s; alerts %+v", what, s.manager.Alerts(s))
	})
	s.Logf("%s after %s", what, time.Since(start).Round(10*time.Millisecond))
}

func (s *scene) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// The alert of a partition fires, stays over kills of the daemon and longer than it lasts by itself, and resolves when the
// partition returns. Of one that is deleted none is left.
func TestPartition(t *testing.T) {
	t.Parallel()
	s := start(t)
	p := s.running()
	back, gone := p[0], p[1]
	of := func(p hmcsim.PartitionInfo) []string {
		return []string{"alertname", "HMCResourceStatus", "hmc", "east", "cpc", p.CPC, "resource", p.Name, "severity", "warning"}
	}
	s.must(s.sim.SetPartitionStatus(back.ID, "terminated"))
	s.await("the alert fires", func() bool { return len(s.firing(s.manager, of(back)...)) == 1 })
	s.await("somebody is told", func() bool { return s.receiver.Count("firing", of(back)...) == 1 })
	first := s.firing(s.manager, of(back)...)[0]

	for range 3 {
		s.daemon.Process.Kill()
		s.daemon.Start(t)
	}
	s.await("it lasts", func() bool {
		now := s.firing(s.manager, of(back)...)
		return len(now) == 1 && now[0].StartsAt.Equal(first.StartsAt) && now[0].EndsAt.After(first.EndsAt.Add(5*time.Second))
	})
	if n := s.receiver.Count("resolved"); n > 0 {
		t.Errorf("it was resolved %d times meanwhile", n)
	}

	s.must(s.sim.SetPartitionStatus(gone.ID, "terminated"))
	s.await("another one fires", func() bool { return s.receiver.Count("firing", of(gone)...) == 1 })
	s.must(s.sim.DeletePartition(gone.ID))
	s.await("it is gone", func() bool { return s.receiver.Count("resolved", of(gone)...) == 1 })
	s.must(s.sim.SetPartitionStatus(back.ID, back.Status))
	s.await("resolved", func() bool { return s.receiver.Count("resolved", of(back)...) == 1 })
	s.await("no alert is left", func() bool { return len(s.manager.Alerts(s)) == 0 })
	if n := s.receiver.Count("firing", of(back)...); n != 1 {
		t.Errorf("it was told %d times", n)
	}
}

// What happens while the daemon is down fires and resolves after its start; so does a deletion.
func TestWhileTheDaemonIsDown(t *testing.T) {
	t.Parallel()
	s := start(t)
	p := s.running()
	s.must(s.sim.SetPartitionStatus(p[0].ID, "terminated"))
	s.await("the alert fires", func() bool { return s.receiver.Count("firing", "resource", p[0].Name) == 1 })
	if code := s.daemon.Process.Terminate(t, daemon.StopTimeout); code != 0 {
		t.Fatalf("exit status %d", code)
	}
	s.must(s.sim.SetPartitionStatus(p[1].ID, "terminated"))
	s.must(s.sim.DeletePartition(p[0].ID))
	s.daemon.Start(t)
	s.await("the second fires", func() bool { return s.receiver.Count("firing", "resource", p[1].Name) >= 1 })
	s.await("the first is gone", func() bool { return len(s.firing(s.manager, "resource", p[0].Name)) == 0 })
	if n := s.receiver.Count("firing", "alertname", "HMCConnectionLost"); n > 0 {
		t.Error("that the daemon was stopped has fired")
	}
}

// A lost HMC fires, as do hardware messages and OS messages that wait for an answer; and a member that joins the cluster
// later gets what fires.
func TestOtherAlerts(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.sim.Stop()
	s.await("the HMC is lost", func() bool { return s.receiver.Count("firing", "alertname", "HMCConnectionLost", "hmc", "east") == 1 })
	s.must(s.sim.Resume())
	s.await("it is back", func() bool { return s.receiver.Count("resolved", "alertname", "HMCConnectionLost", "hmc", "east") == 1 })
	s.daemon.AwaitReady(t, within)

	uri, err := s.sim.AddHardwareMessage("", "fan 3 is broken")
	s.must(err)
	s.await("a hardware message", func() bool { return s.receiver.Count("firing", "alertname", "HMCHardwareMessage") == 1 })

	second := alertmanager.Start(t, alertmanager.Options{Peers: []string{s.manager.ClusterAddr}})
	s.daemon.WriteConfig(t, s.config(s.manager.URL, second.URL))
	if status, text := s.daemon.Reload(t); status != 200 {
		t.Fatalf("reload: %d %s", status, text)
	}
	s.await("the second member knows it", func() bool { return len(s.firing(second, "alertname", "HMCHardwareMessage")) == 1 })
	s.must(s.sim.DeleteHardwareMessage(uri))
	s.await("resolved", func() bool {
		return s.receiver.Count("resolved", "alertname", "HMCHardwareMessage") == 1 && len(second.Alerts(t)) == 0
	})
	// One member is enough.
	s.manager.Process.Kill()
	p := s.running()[0]
	s.must(s.sim.SetPartitionStatus(p.ID, "terminated"))
	program.Await(t, within, func() error {
		if len(s.firing(second, "resource", p.Name)) != 1 {
			return fmt.Errorf("alerts %+v", second.Alerts(t))
		}
		return nil
	})
	s.daemon.AwaitReady(t, within)
}

// As a z systems programmer would try it: a sysplex of four LPARs, one of which goes into a disabled wait, and is loaded again; a test
// system that is switched off, which is acceptable; a message that waits for an answer.
func TestSysplex(t *testing.T) {
	t.Parallel()
	s := startWith(t, hmcsim.Options{CPCs: 2, Partitions: 16, StepDelay: 20 * time.Millisecond}, "  topics: [object, audit]\n", "rules:\n- include: zos\n")
	s.must(s.sim.StartPartition("M90/LP07"))
	members := []string{"LP01", "LP03", "LP05", "LP07"}
	s.await("it is known who runs where", func() bool {
		text := s.daemon.Metrics(t)
		return !slices.ContainsFunc(members, func(name string) bool {
			return !strings.Contains(text, fmt.Sprintf(`hmcnotifyd_resource_info{class="logical-partition",cpc="M90",hmc="east",name=%q,os_level="z/OS V2.5",os_name="SY%s",sysplex="PLEX1"} 1`, name, name[2:]))
		})
	})
	events := func() string {
		text, err := os.ReadFile(filepath.Join(s.daemon.Dir, "events.log"))
		s.must(err)
		return string(text)
	}

	began := time.Now()
	s.must(s.sim.DisabledWait("M90/LP03", 0x0a2, 0x17c))
	s.await("the event is there", func() bool { return strings.Contains(events(), "0A2, reason 017C") })
	t.Logf("told %v after it happened", time.Since(began).Round(time.Millisecond))
	down := []string{"alertname", "HMCResourceStatus", "severity", "critical", "resource", "LP03", "os_name", "SY03", "sysplex", "PLEX1"}
	s.await("Alertmanager fires", func() bool { return s.receiver.Count("firing", down...) == 1 })
	s.must(s.sim.StartPartition("M90/LP03"))
	s.await("it resolves", func() bool { return s.receiver.Count("resolved", down...) == 1 })
	s.await("the IPL is told", func() bool {
		return strings.Contains(events(), "LP03 on M90: IPL of SY03 (z/OS V2.5) from 00A86, parameter 0A8600M1, after ")
	})

	s.must(s.sim.SetAcceptableStatus("M90/LP05", "operating", "not-activated"))
	s.sim.LogEntries(hmcsim.TopicAudit, hmcsim.LogEntry{EventID: "9999", User: "SYSPROG2", Message: "Deactivate was performed on {0}", Items: []string{"LP05"}})
	s.await("the entry is there", func() bool { return strings.Contains(events(), "Deactivate was performed on LP05") })
	s.must(s.sim.StopPartition("M90/LP05"))
	s.await("it is told", func() bool { return strings.Contains(events(), "operating -> not-activated") })
	for l := range strings.Lines(events()) {
		if strings.Contains(l, "operating -> not-activated") {
			for _, part := range []string{`"severity":"info"`, `"unacceptable":false`, `"planned":true`, "; deactivated by SYSPROG2"} {
				if !strings.Contains(l, part) {
					t.Errorf("%s lacks %s", l, part)
				}
			}
		}
	}

	p, err := s.sim.Partition("M90/LP01")
	s.must(err)
	_, err = s.sim.OSMessages("M90/LP01", "*17 ABC999D REPLY U TO GO ON")
	s.must(err)
	waits := []string{"alertname", "HMCOSMessage", "resource", "LP01", "os_name", "SY01"}
	s.await("a message that waits fires", func() bool { return s.receiver.Count("firing", waits...) == 1 })
	if _, page := s.daemon.Get(t, "/"); !strings.Contains(page, "ABC999D") || !strings.Contains(page, "R 17,") {
		t.Error("the page does not list it")
	}
	s.must(s.sim.AnswerOSMessage("M90/LP01", p.NextOSMessage, false))
	s.await("it resolves when it is answered", func() bool { return s.receiver.Count("resolved", waits...) == 1 })
	for _, of := range [][]string{{"resource", "LP05"}, append([]string{"alertname", "HMCResourceStatus"}, "resource", "LP01")} {
		if n := s.receiver.Count("firing", of...); n > 0 {
			t.Errorf("%v has fired %d times", of, n)
		}
	}
	if n := s.receiver.Count("firing", down...); n != 1 {
		t.Errorf("the system that waits has fired %d times", n)
	}
}
