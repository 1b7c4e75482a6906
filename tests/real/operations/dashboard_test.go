//go:build real

package operations_test

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/consumer"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/daemon"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/prometheus"
)

// TestDashboardQueries runs each query of the dashboard, and each recording rule, in a Prometheus that scrapes a daemon: all must
// return numbers.
func TestDashboardQueries(t *testing.T) {
	t.Parallel()
	first, entry := simulate(t, "hmc1", "", hmcsim.Options{Rate: 30})
	_, twin := simulate(t, "hmc1b", "", hmcsim.Options{EstateOf: first})
	other, second := simulate(t, "hmc2", "", hmcsim.Options{Rate: 5, Seed: 2})
	entry = strings.ReplaceAll(entry+twin, ", hosts:", ", group: pair, hosts:")
	hook := consumer.Start(t)
	hook.Answer(func(r consumer.Request) int { // now and then one event is refused, so that there are retries and dead letters
		switch n := len(r.Body) % 40; n {
		case 0:
			return http.StatusBadRequest
		default:
			return http.StatusOK
		}
	})
	d := daemon.Start(t, daemon.Options{Config: "hmcs:\n" + entry + second + fmt.Sprintf("sinks:\n- {name: hook, webhook: {url: %q}}\n", hook.URL), Files: passwords("hmc1", "hmc1b", "hmc2")})
	d.AwaitReady(t, within)
	p := prometheus.Start(t, prometheus.Options{
		Jobs:      []prometheus.Job{{Name: "hmcnotifyd", Targets: []string{d.Addr()}}},
		RuleFiles: []string{inRepository(t, rulesFile)},
	})
	p.AwaitTargets(t, 1)

	number := func(samples []prometheus.Sample) bool {
		return slices.ContainsFunc(samples, func(s prometheus.Sample) bool { return !math.IsNaN(s.Value) })
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr, LegendFormat string }
		}
		Templating struct {
			List []struct {
				Name, Type string
				Definition string
			}
		}
		Annotations struct{ List []struct{ Expr string } }
	}
	if err := json.Unmarshal([]byte(readFile(t, inRepository(t, "deploy/grafana/dashboards/hmcnotifyd.json"))), &dashboard); err != nil {
		t.Fatal(err)
	}
	// As Grafana does it, with everything selected.
	replacer := strings.NewReplacer("$__rate_interval", "1m", "$__interval", "15s", "$instance", ".*", "$hmc", ".*", "$sink", ".*")
	queries := 0
	for _, panel := range dashboard.Panels {
		for _, target := range panel.Targets {
			queries++
			expr := replacer.Replace(target.Expr)
			if strings.Contains(expr, "$") {
				t.Errorf("%s: a variable is unknown: %s", panel.Title, expr)
				continue
			}
			samples := p.Await(t, within, expr, number)
			for _, label := range regexp.MustCompile(`\{\{(\w+)\}\}`).FindAllStringSubmatch(target.LegendFormat, -1) {
				if samples[0].Labels[label[1]] == "" {
					t.Errorf("%s: the legend %q names a label that %s does not return: %v", panel.Title, target.LegendFormat, expr, samples[0])
				}
			}
		}
	}
	// Two HMCs of one group have the same CPCs and partitions.
	all := 0.0
	for _, sim := range []*hmcsim.HMC{first, other} {
		all += float64(len(sim.CPCs()) + len(sim.Partitions()))
	}
	judged := map[string]bool{"CPCs and partitions": false, "Statuses of CPCs and partitions": false}
	for title := range judged {
		for _, panel := range dashboard.Panels {
			if panel.Title != title || len(panel.Targets) != 1 {
				continue
			}
			judged[title] = true
			p.Await(t, within, replacer.Replace(panel.Targets[0].Expr), func(samples []prometheus.Sample) bool {
				sum := 0.0
				for _, s := range samples {
					sum += s.Value
				}
				return sum == all
			})
		}
	}
	for title, is := range judged {
		if !is {
			t.Errorf("no panel is called %q", title)
		}
	}
	if queries < 40 {
		t.Errorf("there are only %d queries", queries)
	}
	variables := 0
	for _, v := range dashboard.Templating.List {
		if m := regexp.MustCompile(`^label_values\((.*), (\w+)\)$`).FindStringSubmatch(v.Definition); m != nil {
			variables++
			if samples := p.Await(t, within, replacer.Replace(m[1]), number); samples[0].Labels[m[2]] == "" {
				t.Errorf("the variable %s is empty: %v", v.Name, samples)
			}
		}
	}
	if variables != 3 {
		t.Errorf("%d variables are lists of label values", variables)
	}
	// There is no alert to be shown now; that the query is one is all there is to see.
	for _, a := range dashboard.Annotations.List {
		if _, err := p.Query(t.Context(), a.Expr); err != nil {
			t.Error(err)
		}
	}
	for _, r := range rules(t) {
		if r.Record != "" {
			p.Await(t, within, r.Record, number)
		}
	}
}
