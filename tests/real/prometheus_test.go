//go:build real

package realtest_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/daemon"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/prometheus"
)

// simulate starts a simulated HMC that ends with the test, and returns it with
// its entry of the configuration file.
func simulate(t *testing.T, name string, opts hmcsim.Options) (*hmcsim.HMC, string) {
	t.Helper()
	opts.Name = name
	sim := hmctest.Start(t, opts)
	ca := filepath.Join(t.TempDir(), name+".pem")
	if err := os.WriteFile(ca, sim.CACertPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	return sim, fmt.Sprintf("- {name: %s, hosts: [%q], rest_port: %d, stomp_port: %d, userid: hmcuser, password: hmcpass, tls: {ca_file: %q}, "+
		"rest_requests_per_minute: 10000, topics: [object, job, audit, security], os_messages: [{cpc: .*, partition: .*}]}\n", name, sim.Host(), sim.RESTPort(), sim.StompPort(), ca)
}

// TestPrometheus lets a real Prometheus watch the daemon, and compares the
// notification rates it computes with what the simulated HMC has sent.
func TestPrometheus(t *testing.T) {
	t.Parallel()
	const (
		window = 60 * time.Second
		// Prometheus extrapolates from the scrapes inside the window to its
		// ends, and the simulator's count is read a moment earlier or later.
		tolerance = 0.15
	)
	sim, entry := simulate(t, "hmc1", hmcsim.Options{Rate: 50, Partitions: 8})
	other, quiet := simulate(t, "hmc2", hmcsim.Options{})
	other.SetPasswordExpires(hmcsim.DefaultUserid, 90) // so that there is a metric of it
	d := daemon.Start(t, daemon.Options{
		Config: "hmcs:\n" + entry + quiet + "sinks:\n- {name: journal, log: {output: /dev/null}}\n",
	})
	d.AwaitReady(t, 5*time.Minute)
	prometheus.CheckMetrics(t, d.Metrics(t))

	p := prometheus.Start(t, prometheus.Options{Jobs: []prometheus.Job{{Name: "hmcnotifyd", Targets: []string{d.Addr()}}}})
	p.AwaitTargets(t, 1)
	// A rate over a window needs the whole window, this is no wait for an
	// event.
	begin, before := time.Now(), sim.Delivered()
	<-time.After(window)
	after, elapsed := sim.Delivered(), time.Since(begin)
	samples, err := p.Query(t.Context(), `sum by (type) (rate(hmcnotifyd_notifications_total{hmc="hmc1"}[1m]))`)
	if err != nil {
		t.Fatal(err)
	}
	rates := map[string]float64{}
	for _, s := range samples {
		rates[s.Labels["type"]] = s.Value
	}
	compared := 0
	for kind := range maps.Keys(after) {
		sent := float64(after[kind]-before[kind]) / elapsed.Seconds()
		t.Logf("%s: %.2f/s sent, %.2f/s according to Prometheus", kind, sent, rates[kind])
		if after[kind]-before[kind] < 100 {
			continue // too few for a rate
		}
		compared++
		if low, high := sent*(1-tolerance), sent*(1+tolerance); rates[kind] < low || rates[kind] > high {
			t.Errorf("%s: %.2f/s according to Prometheus, %.2f/s sent", kind, rates[kind], sent)
		}
	}
	if compared < 3 {
		t.Errorf("only %d types of notification were sent often enough", compared)
	}
	for expr, want := range map[string]float64{
		`sum(hmcnotifyd_receiver_connected)`:                                  2,
		`sum(hmcnotifyd_receiver_state{state="connected"})`:                   2,
		`sum(hmcnotifyd_receiver_reconnects_total)`:                           0,
		`count(hmcnotifyd_notifications_total{hmc="hmc2"})`:                   7, // the six types and "other" exist from the start
		`count(hmcnotifyd_build_info)`:                                        1,
		`time() - min(hmcnotifyd_receiver_last_frame_timestamp_seconds) < 30`: -1,
	} {
		samples, err := p.Query(t.Context(), expr)
		if err != nil || len(samples) != 1 || want >= 0 && samples[0].Value != want {
			t.Errorf("%s: %v, %v, want %v", expr, samples, err, want)
		}
	}

	// So that there is a metric of it, too.
	all := other.Partitions()
	zos := slices.IndexFunc(all, func(p hmcsim.PartitionInfo) bool { return !p.DPM && p.Status == "operating" })
	if _, err := other.OSMessages(all[zos].ID, "*17 ABC999D REPLY U TO GO ON"); err != nil {
		t.Fatal(err)
	}
	d.AwaitMetric(t, 5*time.Minute, 1, "hmcnotifyd_os_messages_held", "hmc", "hmc2")
	t.Run("documented metrics", func(t *testing.T) {
		documentedMetrics(t, d.Metrics(t))
	})
	d.Stop(t)
	if n := sim.Sessions(); n != 0 {
		t.Errorf("%d sessions are left on the HMC", n)
	}
}

// documentedMetrics checks that each metric a document names exists.
func documentedMetrics(t *testing.T, metrics string) {
	root := daemon.Root(t)
	var documents []string
	for _, pattern := range []string{"docs/*.md", "docs/runbooks/*.md"} {
		found, err := filepath.Glob(filepath.Join(root, filepath.FromSlash(pattern)))
		if err != nil {
			t.Fatal(err)
		}
		documents = append(documents, found...)
	}
	// Behind a colon it is part of the name of a recording rule.
	name := regexp.MustCompile(`(?:^|[^:\w])(hmcnotifyd_[a-z_]+[a-z])\b`)
	for _, document := range append(documents, filepath.Join(root, "README.md")) {
		text, err := os.ReadFile(document)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range name.FindAllStringSubmatch(string(text), -1) {
			metric := strings.TrimSuffix(strings.TrimSuffix(m[1], "_sum"), "_count") // of a histogram
			if !strings.Contains(metrics, "# TYPE "+metric+" ") {
				t.Errorf("%s names the metric %s, which does not exist", filepath.Base(document), metric)
			}
		}
	}
}
