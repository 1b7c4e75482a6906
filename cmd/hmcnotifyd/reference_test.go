package main

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
)

const metricsFile = "../../docs/metrics.md"

const metricsIntro = `# Metric reference

Every metric of ` + "`/metrics`" + ` on the web port (10291). This page is made from a running daemon by ` + "`make docs`" + `; a test compares the two. An
answer comes from memory: a scrape asks no HMC.

The label ` + "`hmc`" + ` is the name of an HMC in the configuration, ` + "`sink`" + ` that of a sink. All labels have bounded values. The series of a
configured HMC or sink are there from the start, with the value 0, and go with it.

Besides these there are the metrics that Go programs have: ` + "`go_*`, `process_*` and `promhttp_*`" + `.
`

// metricGroups are the sections of the page, by how the names begin. What fits none of the others
// is in the last.
func metricGroups() []struct{ title, names string } {
	return []struct{ title, names string }{
		{"The connection to an HMC", `receiver_|hmc_`},
		{"Notifications and events", `notifications?_|events_`},
		{"CPCs and partitions", `resources?_|resources$`},
		{"Sinks", `sink_`},
		{"Storage", `storage_`},
		{"The daemon", ``},
	}
}

// descOf takes apart what a description tells of itself; there is no other way to ask it.
var descOf = regexp.MustCompile(`^Desc\{fqName: "([^"]+)", help: "(.*?)"(?:, unit: ".*")?, constLabels: \{(.*)\}, variableLabels: \{(.*)\}\}$`)

// TestReference makes docs/metrics.md of what a daemon registers, and compares. With
// HMCNOTIFYD_WRITE_DOCS, as "make docs" sets it, it writes the file.
func TestReference(t *testing.T) {
	text := metricsPage(t, runningRegistry(t))
	if os.Getenv("HMCNOTIFYD_WRITE_DOCS") != "" {
		if err := os.WriteFile(metricsFile, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(metricsFile)
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != text {
		t.Error("docs/metrics.md is not what the daemon has: run make docs, and look at what changed")
	}
}

// registered is what a daemon has registered, and what it showed while it ran.
type registered struct {
	descs  []string
	kinds  map[string]string          // by name
	values map[string]map[string]bool // by name and label
}

// runningRegistry runs a daemon with a simulated HMC until the metrics are there that come last.
func runningRegistry(t *testing.T) registered {
	t.Helper()
	dir := t.TempDir()
	sim := hmctest.Start(t, hmcsim.Options{})
	sim.SetPasswordExpires(hmcsim.DefaultUserid, 90)
	file := daemonConfig(t, dir, sim, hmcsim.DefaultPassword)
	cfg, err := config.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	e := &environment{stdout: new(bytes.Buffer), stderr: new(bytes.Buffer)}
	e.daemon = daemonFlags{configFile: file, storagePath: filepath.Join(dir, "data"), listen: []string{"127.0.0.1:0"}}
	d, err := newDaemon(t.Context(), e, cfg, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.run(ctx, nil) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()

	r := registered{kinds: map[string]string{}, values: map[string]map[string]bool{}}
	eventually(t, "the estate is known", func() bool {
		families, err := d.registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			r.kinds[f.GetName()] = strings.ToLower(f.GetType().String())
			for _, m := range f.GetMetric() {
				for _, l := range m.GetLabel() {
					key := f.GetName() + " " + l.GetName()
					if r.values[key] == nil {
						r.values[key] = map[string]bool{}
					}
					r.values[key][l.GetValue()] = true
				}
			}
		}
		return r.kinds["hmcnotifyd_resource_status"] != ""
	})
	descs := make(chan *prometheus.Desc)
	go func() {
		d.registry.Describe(descs)
		close(descs)
	}()
	for desc := range descs {
		r.descs = append(r.descs, desc.String())
	}
	return r
}

func metricsPage(t *testing.T, r registered) string {
	t.Helper()
	rows := map[string]string{} // by name
	for _, desc := range r.descs {
		m := descOf.FindStringSubmatch(desc)
		if m == nil {
			t.Fatalf("cannot be understood: %s", desc)
		}
		name, help, labels := m[1], m[2], strings.FieldsFunc(m[4], func(c rune) bool { return c == ',' })
		if !strings.HasPrefix(name, "hmcnotifyd_") {
			continue
		}
		for constant := range strings.SplitSeq(m[3], ",") {
			if label, _, ok := strings.Cut(constant, "="); ok {
				labels = append(labels, label)
			}
		}
		kind := "gauge"
		if strings.HasSuffix(name, "_total") {
			kind = "counter"
		}
		if shown := r.kinds[name]; shown != "" {
			if shown != kind && shown != "histogram" {
				t.Errorf("%s is a %s: counters, and only they, end with _total", name, shown)
			}
			kind = shown
		}
		if !strings.HasSuffix(help, ".") || strings.ContainsAny(help, "|<>\n") {
			t.Errorf("%s: the help is no sentence: %q", name, help)
		}
		for i, label := range labels {
			labels[i] = "`" + label + "`" + r.valuesOf(name, label)
		}
		rows[name] = fmt.Sprintf("| `%s` | %s | %s | %s |\n", name, kind, strings.Join(labels, ", "), help)
	}
	var page strings.Builder
	page.WriteString(metricsIntro)
	for _, group := range metricGroups() {
		begins := regexp.MustCompile("^hmcnotifyd_(?:" + group.names + ")")
		fmt.Fprintf(&page, "\n## %s\n\n| name | kind | labels | |\n|---|---|---|---|\n", group.title)
		for _, name := range slices.Sorted(maps.Keys(rows)) {
			if begins.MatchString(name) {
				page.WriteString(rows[name])
				delete(rows, name)
			}
		}
	}
	return page.String()
}

// valuesOf lists the values of a label, where all of them are there from the start.
func (r registered) valuesOf(name, label string) string {
	if !slices.Contains([]string{"state", "reason", "outcome", "topic_type", "assumption"}, label) {
		return ""
	}
	return " (" + strings.Join(slices.Sorted(maps.Keys(r.values[name+" "+label])), ", ") + ")"
}
