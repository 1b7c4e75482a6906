//go:build real

package operations_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/certs"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/consumer"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/daemon"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/program"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/prometheus"
)

// simulate starts a simulated HMC that ends with the test, and returns it with its entry of the configuration file. The entry asks for
// heart-beats and retries faster than usual; stomp are further keys of that section.
func simulate(t *testing.T, name, stomp string, opts hmcsim.Options) (*hmcsim.HMC, string) {
	t.Helper()
	opts.Name = name
	sim := hmctest.Start(t, opts)
	return sim, entryOf(t, name, stomp, sim, sim.CACertPEM())
}

func entryOf(t *testing.T, name, stomp string, sim *hmcsim.HMC, authority []byte) string {
	t.Helper()
	ca := filepath.Join(t.TempDir(), name+".pem")
	if err := os.WriteFile(ca, authority, 0o600); err != nil {
		t.Fatal(err)
	}
	if stomp == "" {
		stomp = "heartbeat_send_cycle: 1s, heartbeat_receive_cycle: 1s, heartbeat_receive_check: 4"
	}
	return fmt.Sprintf("- {name: %s, hosts: [%q], rest_port: %d, stomp_port: %d, userid: hmcuser, password_file: %s.password, tls: {ca_file: %q}, topics: [object, job], "+
		"rest_requests_per_minute: 1000, stomp: {connect_timeout: 10s, reconnect_sleep_initial: 50ms, reconnect_sleep_max: 500ms, %s}}\n",
		name, sim.Host(), sim.RESTPort(), sim.StompPort(), name, ca, stomp)
}

// passwords are the files that entryOf names.
func passwords(names ...string) map[string]string {
	files := map[string]string{}
	for _, name := range names {
		files[name+".password"] = hmcsim.DefaultPassword + "\n"
	}
	return files
}

// hastened writes the rules with all times 60 times shorter: minutes are seconds, hours are minutes. How old something must be is 20 times
// shorter, so that a machine that is busy with other tests is not taken for an HMC that is silent; a day is 24 seconds.
func hastened(t *testing.T) string {
	t.Helper()
	text := readFile(t, inRepository(t, rulesFile))
	shorter := func(s string) string {
		d, err := time.ParseDuration(s)
		if err != nil {
			t.Fatal(err)
		}
		return strconv.Itoa(int(d.Seconds())/60) + "s"
	}
	changed := 0
	for _, pattern := range []string{`(?m)^( +for: )(\w+)()$`, `(\[)(\w+)(\])`} {
		re := regexp.MustCompile(pattern)
		text = re.ReplaceAllStringFunc(text, func(s string) string {
			changed++
			m := re.FindStringSubmatch(s)
			return m[1] + shorter(m[2]) + m[3]
		})
	}
	for from, to := range map[string]string{" * 60\n": " * 3\n", " * 3600\n": "\n"} {
		changed += strings.Count(text, from)
		text = strings.ReplaceAll(text, from, to)
	}
	if changed < 30 {
		t.Fatalf("only %d times were found in the rules", changed)
	}
	path := filepath.Join(t.TempDir(), "hmcnotifyd.rules.yml")
	writeFile(t, path, text)
	promtool(t, "check", "rules", path)
	return path
}

// trial is an alert, with what causes it.
type trial struct {
	alert   string
	labels  string // that it must have, as PromQL
	daemon  *daemon.Daemon
	prom    *prometheus.Server
	cause   func()
	mend    func() // what is outside the daemon; the rest is for the commands of the runbook
	restart func() // what "systemctl start" or "restart" of the runbook does; nil: there is none
	// names are what examples of the runbook stand for here.
	hmc, sink, sinkURL string
	sim                *hmcsim.HMC
	fails              []string // commands of the runbook that must fail while the alert fires
}

func (r *trial) selector() string {
	return fmt.Sprintf("ALERTS{alertname=%q,alertstate=%q,%s}", r.alert, "firing", r.labels)
}

// TestAlerts causes what each alert is there for, in real daemons that a real Prometheus watches by the real rules, whose times alone
// are shorter. Each alert must not fire before, must fire then, and must go away when it is mended. While it fires the commands of its
// runbook are run as they are written.
func TestAlerts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, p := range []*prometheus.Server{w.prom, w.other} {
		// Long enough for the shorter times to be over.
		p.Await(t, within, `min(count_over_time(up[5m]))`, func(s []prometheus.Sample) bool { return len(s) == 1 && s[0].Value >= 20 })
		// Who waits for the times is not asked: a scrape may come late.
		if samples, err := p.Query(t.Context(), `ALERTS{alertstate="firing"}`); err != nil || len(samples) > 0 {
			t.Fatalf("alerts fire while all is well: %v, %v", samples, err)
		}
	}

	trials := w.trials(t)
	var tried, there []string
	for i, r := range trials {
		tried = append(tried, r.alert)
		if r.prom == nil {
			trials[i].prom = w.prom
		}
		if r.labels == "" {
			trials[i].labels = fmt.Sprintf("instance=%q", r.daemon.Addr())
		}
	}
	for _, r := range rules(t) {
		// These two need several daemons and NATS servers; promtool alone tries them.
		if r.Alert != "" && r.Alert != "HmcnotifydNoLeader" && r.Alert != "HmcnotifydLeaderChanges" {
			there = append(there, r.Alert)
		}
	}
	for _, list := range []*[]string{&tried, &there} {
		slices.Sort(*list)
		*list = slices.Compact(*list)
	}
	if !slices.Equal(tried, there) {
		t.Fatalf("tried are %q, the alerts are %q", tried, there)
	}

	for stage := range 2 { // some can only be tried when others are mended
		for i := range trials {
			if r := &trials[i]; r.stage() == stage {
				t.Logf("cause of %s", r.alert)
				r.cause()
			}
		}
		for i := range trials {
			r := &trials[i]
			if r.stage() != stage {
				continue
			}
			// Some go away by themselves while another one is waited for.
			r.prom.Await(t, within, "count_over_time("+r.selector()+"[10m])", func(s []prometheus.Sample) bool { return len(s) > 0 })
			t.Logf("%s fires", r.alert)
			r.runbook(t, w, "What to look at", r.fails)
		}
		for i := range trials {
			if r := &trials[i]; r.stage() == stage {
				r.mend()
				r.runbook(t, w, "What to do", nil)
			}
		}
		for i := range trials {
			if r := &trials[i]; r.stage() == stage {
				r.prom.Await(t, within, r.selector(), func(s []prometheus.Sample) bool { return len(s) == 0 })
				t.Logf("%s is gone", r.alert)
			}
		}
	}
}

func (r *trial) stage() int {
	switch r.alert {
	case "HmcnotifydStorageDamaged", "HmcnotifydAbsent", "HmcnotifydConfigReloadFailed", "HmcnotifydStorageFailing":
		return 1
	default:
		return 0
	}
}

// world is what the alerts are tried in.
type world struct {
	prom, other *prometheus.Server // other has the targets of a file
	targets     string             // that file
	sims        map[string]*hmcsim.HMC
	entries     map[string]string
	hooks       map[string]*consumer.Consumer
	main        *daemon.Daemon // most
	disk        *daemon.Daemon // what is about the storage
	spare       *daemon.Daemon // is killed, and started again
	diskPath    string
}

var (
	mainHMCs  = []string{"refused", "logon", "quiet", "silent", "jumps", "flaps", "certificate", "password"}
	mainSinks = []string{"failing", "limited", "paused", "letters"}
)

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{sims: map[string]*hmcsim.HMC{}, entries: map[string]string{}, hooks: map[string]*consumer.Consumer{}}
	for i, name := range slices.Concat(mainHMCs, []string{"disk", "spare"}) {
		stomp := ""
		if name == "quiet" { // the daemon ends a silent link otherwise
			stomp = "heartbeat_send_cycle: 1s, heartbeat_receive_cycle: 0s"
		}
		w.sims[name], w.entries[name] = simulate(t, name, stomp, hmcsim.Options{Rate: 4, Seed: uint64(i + 1)})
	}
	for _, name := range slices.Concat(mainSinks, []string{"disk"}) {
		w.hooks[name] = consumer.Start(t)
	}
	w.main = daemon.Start(t, daemon.Options{Config: w.config(), Files: passwords(mainHMCs...)})

	w.diskPath = mount(t)
	w.disk = daemon.Start(t, daemon.Options{
		Config: "hmcs:\n" + w.entries["disk"] + fmt.Sprintf("sinks:\n- {name: disk, webhook: {url: %q}, retry: {initial: 100ms, max: 500ms}}\nstorage: {max_bytes: 4MiB}\n", w.hooks["disk"].URL),
		Files:  passwords("disk"), Storage: filepath.Join(w.diskPath, "data"),
	})
	w.spare = daemon.Start(t, daemon.Options{
		Config: "hmcs:\n" + w.entries["spare"] + "sinks:\n- {name: journal, log: {output: /dev/null}}\n", Files: passwords("spare"),
	})
	for _, d := range []*daemon.Daemon{w.main, w.disk, w.spare} {
		d.AwaitReady(t, within)
	}

	file := hastened(t)
	w.targets = filepath.Join(t.TempDir(), "targets.json")
	w.target(t, w.spare.Addr())
	w.prom = prometheus.Start(t, prometheus.Options{
		Jobs: []prometheus.Job{{Name: "hmcnotifyd", Targets: []string{w.main.Addr(), w.disk.Addr(), w.spare.Addr()}}}, RuleFiles: []string{file},
	})
	w.other = prometheus.Start(t, prometheus.Options{
		Jobs: []prometheus.Job{{Name: "hmcnotifyd", Extra: fmt.Sprintf("file_sd_configs: [{files: [%q], refresh_interval: 1s}]", w.targets)}}, RuleFiles: []string{file},
	})
	w.prom.AwaitTargets(t, 3)
	w.other.AwaitTargets(t, 1)
	return w
}

// target makes these the targets of the other Prometheus.
func (w *world) target(t *testing.T, addrs ...string) {
	t.Helper()
	text, err := json.Marshal([]map[string]any{{"targets": slices.Concat([]string{}, addrs)}})
	if err != nil {
		t.Fatal(err)
	}
	next := w.targets + ".new"
	writeFile(t, next, string(text))
	if err := os.Rename(next, w.targets); err != nil {
		t.Fatal(err)
	}
}

// config is the configuration of main.
func (w *world) config() string {
	text := "hmcs:\n"
	for _, name := range mainHMCs {
		text += w.entries[name]
	}
	text += "sinks:\n"
	for _, name := range mainSinks {
		queue := ""
		if name == "limited" {
			queue = ", queue: {max_bytes: 1MiB}"
		}
		text += fmt.Sprintf("- {name: %s, webhook: {url: %q}, retry: {initial: 100ms, max: 500ms}%s}\n", name, w.hooks[name].URL, queue)
	}
	return text
}

func (w *world) trials(t *testing.T) []trial {
	t.Helper()
	answer := func(hook string, status int) func() {
		return func() { w.hooks[hook].Answer(func(consumer.Request) int { return status }) }
	}
	nothing := func() {}
	links := func(name string) func() {
		return func() { w.sims[name].Broker().DropLinks() }
	}
	hmc := func(name string) string { return fmt.Sprintf("hmc=%q", name) }
	sink := func(name string) string { return fmt.Sprintf("sink=%q", name) }
	reload := func(d *daemon.Daemon, config string, want int) {
		t.Helper()
		d.WriteConfig(t, config)
		if status, body := d.Reload(t); status != want {
			t.Fatalf("reload: status %d, want %d: %s", status, want, body)
		}
	}
	return []trial{
		{
			alert: "HmcnotifydLinkDown", labels: hmc("refused"), daemon: w.main, hmc: "refused", sim: w.sims["refused"],
			cause: func() { w.sims["refused"].Broker().StopListening(); links("refused")() },
			mend: func() {
				if err := w.sims["refused"].Broker().StartListening(); err != nil {
					t.Fatal(err)
				}
			},
			fails: []string{fmt.Sprintf("openssl s_client -connect %s </dev/null", w.sims["refused"].StompAddr())},
		},
		{
			alert: "HmcnotifydLinkFlapping", labels: hmc("flaps"), daemon: w.main, hmc: "flaps",
			cause: func() {
				for i := range 14 {
					links("flaps")()
					w.main.AwaitMetric(t, within, float64(i+1), "hmcnotifyd_receiver_reconnects_total", "hmc", "flaps")
				}
			},
			mend: nothing,
		},
		{alert: "HmcnotifydGap", labels: hmc("flaps"), daemon: w.main, hmc: "flaps", cause: nothing, mend: nothing},
		{
			alert: "HmcnotifydAuthFailed", labels: hmc("logon"), daemon: w.main, hmc: "logon",
			cause: func() {
				w.main.WriteFile(t, "logon.password", "wrong-password\n")
				reload(w.main, w.config(), http.StatusOK)
			},
			mend: func() { w.main.WriteFile(t, "logon.password", hmcsim.DefaultPassword+"\n") },
		},
		{
			alert: "HmcnotifydNoFrames", labels: hmc("quiet"), daemon: w.main, hmc: "quiet",
			cause: func() { w.sims["quiet"].Broker().FaultNow(hmcsim.Fault{Kind: hmcsim.FaultHalfOpen}) },
			mend: func() {
				_, w.entries["quiet"] = w.sims["quiet"], entryOf(t, "quiet", "", w.sims["quiet"], w.sims["quiet"].CACertPEM())
				w.main.WriteConfig(t, w.config())
			},
		},
		{
			alert: "HmcnotifydNoNotifications", labels: hmc("silent"), daemon: w.main, hmc: "silent",
			cause: func() { w.sims["silent"].Broker().FaultNow(hmcsim.Fault{Kind: hmcsim.FaultSilence}) },
			mend:  links("silent"),
		},
		{
			alert: "HmcnotifydCertificateExpiring", labels: hmc("certificate") + `,severity="warning"`, daemon: w.main, hmc: "certificate",
			cause: func() {
				authority := certs.NewAuthority(t)
				pair := authority.Issue(t, certs.Request{NotAfter: time.Now().Add(time.Hour)}).ServerConfig(t).Certificates[0]
				sim, _ := simulate(t, "certificate", "", hmcsim.Options{Rate: 4, Certificate: &pair})
				w.entries["certificate before"] = w.entries["certificate"]
				w.sims["certificate"], w.entries["certificate"] = sim, entryOf(t, "certificate", "", sim, authority.PEM())
				reload(w.main, w.config(), http.StatusOK)
			},
			mend: func() {
				w.entries["certificate"] = w.entries["certificate before"]
				w.main.WriteConfig(t, w.config())
			},
		},
		{alert: "HmcnotifydCertificateExpiring", labels: hmc("certificate") + `,severity="critical"`, daemon: w.main, hmc: "certificate", cause: nothing, mend: nothing},
		{
			alert: "HmcnotifydPasswordExpiring", labels: hmc("password") + `,severity="warning"`, daemon: w.main, hmc: "password",
			cause: func() {
				w.sims["password"].SetPasswordExpires(hmcsim.DefaultUserid, 2)
				w.sims["password"].ExpireSessions(true)
			},
			mend: func() { w.sims["password"].SetPassword(hmcsim.DefaultUserid, hmcsim.DefaultPassword) },
		},
		{alert: "HmcnotifydPasswordExpiring", labels: hmc("password") + `,severity="critical"`, daemon: w.main, hmc: "password", cause: nothing, mend: nothing},
		{alert: "HmcnotifydSinkFailing", labels: sink("failing"), daemon: w.main, sink: "failing", sinkURL: w.hooks["failing"].URL, cause: answer("failing", http.StatusInternalServerError), mend: nothing},
		{alert: "HmcnotifydSinkLate", labels: sink("failing"), daemon: w.main, sink: "failing", cause: nothing, mend: nothing},
		{
			alert: "HmcnotifydEventsDropped", labels: sink("limited"), daemon: w.main, sink: "limited",
			cause: func() {
				answer("limited", http.StatusServiceUnavailable)()
				w.fill(t, w.main, "jumps", func() bool { return w.main.Metric(t, "hmcnotifyd_sink_queue_bytes", "sink", "limited") > 1.3*(1<<20) })
			},
			mend: answer("limited", http.StatusOK),
		},
		// These two after it, so that its queue has been filled and it takes nothing.
		{alert: "HmcnotifydQueueNearlyFull", labels: sink("limited"), daemon: w.main, sink: "limited", cause: nothing, mend: nothing},
		{alert: "HmcnotifydQueueGrowing", labels: sink("failing"), daemon: w.main, sink: "failing", cause: nothing, mend: answer("failing", http.StatusOK)},
		{
			alert: "HmcnotifydSinkPaused", labels: sink("paused") + `,reason="unauthorized"`, daemon: w.main, sink: "paused",
			cause: answer("paused", http.StatusUnauthorized), mend: answer("paused", http.StatusOK), fails: []string{"hmcnotifyd send-test --sink paused"},
		},
		{alert: "HmcnotifydDeadLetters", labels: sink("letters"), daemon: w.main, sink: "letters", cause: answer("letters", http.StatusBadRequest), mend: answer("letters", http.StatusOK)},
		{
			alert: "HmcnotifydDown", daemon: w.spare, cause: w.spare.Kill, mend: nothing,
			restart: func() { w.spare.Start(t) },
			fails:   []string{"systemctl status hmcnotifyd"},
		},
		{
			alert: "HmcnotifydStorageNearlyFull", daemon: w.disk, sink: "disk",
			cause: func() {
				answer("disk", http.StatusServiceUnavailable)()
				w.fill(t, w.disk, "disk", func() bool { return w.disk.Metric(t, "hmcnotifyd_storage_bytes") > 0.85*(4<<20) })
			},
			mend: answer("disk", http.StatusOK),
		},
		{alert: "HmcnotifydDiskNearlyFull", daemon: w.disk, cause: func() { w.resize(t, "100m") }, mend: func() { w.resize(t, "1g") }},
		{
			alert: "HmcnotifydNotificationsMissed", labels: hmc("jumps"), daemon: w.main, hmc: "jumps",
			cause: func() { w.sims["jumps"].SkipSequence(7) }, mend: nothing,
		},
		{
			alert: "HmcnotifydStorageFailing", daemon: w.disk,
			cause: func() {
				w.resize(t, strconv.FormatInt(used(t, w.diskPath), 10))
				w.fill(t, w.disk, "disk", func() bool { return w.disk.Metric(t, "hmcnotifyd_storage_errors_total") > 0 })
			},
			mend: func() { w.resize(t, "1g") },
		},
		{
			alert: "HmcnotifydConfigReloadFailed", daemon: w.main,
			cause: func() { reload(w.main, w.config()+"no_such_key: 1\n", http.StatusInternalServerError) },
			mend:  func() { w.main.WriteConfig(t, w.config()) },
			fails: []string{"hmcnotifyd check-config " + filepath.Join(w.main.Dir, "hmcnotifyd.yaml")},
		},
		{
			alert: "HmcnotifydStorageDamaged", daemon: w.spare,
			cause: func() {
				w.spare.Stop(t)
				files, err := filepath.Glob(filepath.Join(w.spare.Storage, "segment-*.log"))
				if err != nil || len(files) == 0 {
					t.Fatalf("%q, %v", files, err)
				}
				writeFile(t, files[0], strings.Repeat("damaged ", 10000))
				w.spare.Start(t)
			},
			mend:    nothing,
			restart: func() { w.spare.Stop(t); w.spare.Start(t) },
		},
		{
			alert: "HmcnotifydAbsent", labels: `job="hmcnotifyd"`, prom: w.other, daemon: w.spare,
			cause: func() { w.target(t) }, mend: func() { w.target(t, w.spare.Addr()) },
		},
	}
}

// fill publishes large notifications on an HMC until it is enough.
func (w *world) fill(t *testing.T, d *daemon.Daemon, hmc string, enough func() bool) {
	t.Helper()
	body := []byte(`{"change-reports":[{"property-name":"description","old-value":null,"new-value":"` + strings.Repeat("x", 20<<10) + `"}]}`)
	n := 0
	d.Process.Await(t, within, func() error {
		if enough() {
			return nil
		}
		n++
		w.sims[hmc].Publish(hmcsim.TopicObject, []hmcsim.Header{
			{Name: "notification-type", Value: "property-change"},
			{Name: "class", Value: "partition"},
			{Name: "name", Value: "P" + strconv.Itoa(n%16)},
			{Name: "object-uri", Value: "/api/partitions/" + strconv.Itoa(n%16)},
			{Name: "property-names", Value: " description "},
		}, body)
		return fmt.Errorf("not enough after %d notifications", n)
	})
}

// mount mounts a file system in memory that ends with the test.
func mount(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1g"); err != nil {
		t.Fatalf("only root may mount a file system, which the alerts about a full disk need: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// resize makes another disk of that of the daemon disk.
func (w *world) resize(t *testing.T, size string) {
	t.Helper()
	if err := syscall.Mount("tmpfs", w.diskPath, "tmpfs", syscall.MS_REMOUNT, "size="+size); err != nil {
		t.Fatal(err)
	}
}

// used is how much of a file system is in use.
func used(t *testing.T, dir string) int64 {
	t.Helper()
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		t.Fatal(err)
	}
	return int64(s.Blocks-s.Bfree) * s.Bsize
}

// runbook runs the commands of a section of the runbook, line by line, as an operator would who has the daemon under systemd. What
// stands for something else in the examples is replaced; systemctl and journalctl do for the daemon at hand what they would do.
func (r *trial) runbook(t *testing.T, w *world, section string, fails []string) {
	t.Helper()
	text := readFile(t, inRepository(t, "docs/runbooks/"+r.alert+".md"))
	_, text, ok := strings.Cut(text, "\n## "+section+"\n")
	if !ok {
		t.Fatalf("the runbook of %s has no section %q", r.alert, section)
	}
	text, _, _ = strings.Cut(text, "\n## ")
	bin := t.TempDir()
	log := filepath.Join(bin, "log")
	writeFile(t, log, r.daemon.Process.Output())
	script := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	pid := strconv.Itoa(r.daemon.Process.PID()) // before a restart, after which no command asks for it
	script("journalctl", fmt.Sprintf("cat %q\n", log))
	script("systemctl", fmt.Sprintf("case $1 in status) kill -0 %[1]s;; reload) kill -HUP %[1]s;; *) exit 2;; esac\n", pid))
	if err := os.Symlink(daemon.Binary(t), filepath.Join(bin, "hmcnotifyd")); err != nil {
		t.Fatal(err)
	}
	pairs := []string{
		"localhost:10291", r.daemon.Addr(), "localhost:9090", strings.TrimPrefix(r.prom.URL, "http://"),
		"/etc/hmcnotifyd/hmcnotifyd.yaml", filepath.Join(r.daemon.Dir, "hmcnotifyd.yaml"), "/var/lib/hmcnotifyd", r.daemon.Storage,
	}
	if r.hmc != "" {
		sim := w.sims[r.hmc]
		pairs = append(pairs, "hmc-east", r.hmc, "hmc1.example.com:6794", sim.RESTAddr(), "hmc1.example.com:61612", sim.StompAddr())
	}
	if r.sink != "" {
		pairs = append(pairs, `"ops"`, strconv.Quote(r.sink), "--sink ops", "--sink "+r.sink)
	}
	if r.sinkURL != "" {
		pairs = append(pairs, "https://hooks.example.com/", r.sinkURL)
	}
	replacer := strings.NewReplacer(pairs...)
	failed := map[string]bool{}
	for _, block := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(text, -1) {
		for line := range strings.Lines(block[1]) {
			line = replacer.Replace(strings.TrimSpace(line))
			if line == "systemctl start hmcnotifyd" || line == "systemctl restart hmcnotifyd" {
				r.restart()
				continue
			}
			if strings.Contains(line, "example.com") || strings.Contains(line, "hmc-east") || strings.Contains(line, "ops") && !strings.Contains(line, "hmcnotifyd-ops") {
				t.Errorf("%s: an example is left in %s", r.alert, line)
			}
			// With pipefail a command that finds nothing fails, wherever it stands.
			cmd := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", line)
			cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "HMCNOTIFYD_URL="+r.daemon.URL)
			out, status := program.OutputOf(t, within, cmd)
			switch {
			case slices.Contains(fails, line):
				failed[line] = true
				if status == 0 {
					t.Errorf("%s: %s has succeeded:\n%s", r.alert, line, out)
				}
			case status != 0:
				t.Errorf("%s: %s: exit status %d\n%s", r.alert, line, status, out)
			case out == "" && !strings.HasPrefix(line, "systemctl"):
				t.Errorf("%s: %s has said nothing", r.alert, line)
			}
		}
	}
	if len(failed) != len(fails) {
		t.Errorf("%s: that these commands fail was not seen: %q, only %q", r.alert, fails, slices.Collect(maps.Keys(failed)))
	}
}
