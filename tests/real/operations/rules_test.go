//go:build real

package operations_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/hmcnotifyd/hmcnotifyd/tests/real/program"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/prometheus"
)

const rulesFile = "deploy/prometheus/hmcnotifyd.rules.yml"

func promtool(t *testing.T, args ...string) {
	t.Helper()
	if text, status := prometheus.Promtool(t, args...); status != 0 {
		t.Errorf("promtool %q: exit status %d\n%s", args, status, text)
	}
}

func amtool(t *testing.T, args ...string) {
	t.Helper()
	if text, status := program.Output(t, within, program.Look(t, "amtool", "prometheus-alertmanager"), args...); status != 0 {
		t.Errorf("amtool %q: exit status %d\n%s", args, status, text)
	}
}

type rule struct {
	Alert, Record, Expr string
	Labels, Annotations map[string]string
}

// rules returns the rules of the rule file.
func rules(t *testing.T) []rule {
	t.Helper()
	var file struct {
		Groups []struct{ Rules []rule }
	}
	manifests(t, "json", rulesFile, &file)
	var all []rule
	for _, g := range file.Groups {
		all = append(all, g.Rules...)
	}
	return all
}

// TestRules lets promtool check the rules and run their tests, which have to show of each alert that it does not fire before its time, fires
// and goes away, and of each recording rule its value.
func TestRules(t *testing.T) {
	t.Parallel()
	promtool(t, "check", "rules", "--lint=all", "--lint-fatal", inRepository(t, rulesFile))
	promtool(t, "test", "rules", inRepository(t, "deploy/prometheus/hmcnotifyd.rules_test.yml"))

	var file struct {
		Tests []struct {
			AlertRuleTest []struct {
				AlertName string `json:"alertname"`
				ExpAlerts []any  `json:"exp_alerts"`
			} `json:"alert_rule_test"`
			PromQLExprTest []struct{ Expr string } `json:"promql_expr_test"`
		}
	}
	manifests(t, "json", "deploy/prometheus/hmcnotifyd.rules_test.yml", &file)
	course := map[string]string{} // of each alert: "." does not fire, "!" does
	var expressions string
	for _, group := range file.Tests {
		for _, a := range group.AlertRuleTest {
			if len(a.ExpAlerts) == 0 {
				course[a.AlertName] += "."
			} else {
				course[a.AlertName] += "!"
			}
		}
		for _, e := range group.PromQLExprTest {
			expressions += e.Expr + "\n"
		}
	}
	severities := []string{"critical", "warning", "info"}
	for _, r := range rules(t) {
		if r.Record != "" {
			if !regexp.MustCompile(`\b` + regexp.QuoteMeta(r.Record) + `\b`).MatchString(expressions) {
				t.Errorf("the recording rule %s has no test", r.Record)
			}
			continue
		}
		if c := course[r.Alert]; !regexp.MustCompile(`^\.+!+(\.+|!*)$`).MatchString(c) || c[len(c)-1] != '.' && r.Alert != "HmcnotifydCertificateExpiring" {
			t.Errorf("the tests of %s do not show that it does not fire, fires and goes away: %q", r.Alert, c)
		}
		if !slices.Contains(severities, r.Labels["severity"]) || r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
			t.Errorf("%s lacks a severity, a summary or a description: %v, %v", r.Alert, r.Labels, r.Annotations)
		}
	}
}

// TestExamplesOfPrometheus has promtool and amtool read the examples.
func TestExamplesOfPrometheus(t *testing.T) {
	t.Parallel()
	dir := t.TempDir() // prometheus.example.yml names the rules by a relative path, as its users will
	if err := os.CopyFS(dir, os.DirFS(inRepository(t, "deploy/prometheus"))); err != nil {
		t.Fatal(err)
	}
	promtool(t, "check", "config", filepath.Join(dir, "prometheus.example.yml"))
	amtool(t, "check-config", filepath.Join(dir, "alertmanager.example.yml"))
	// Where alerts go.
	for severity, receiver := range map[string]string{"critical": "at-any-time", "warning": "daytime", "info": "nobody"} {
		amtool(t, "config", "routes", "test", "--config.file="+filepath.Join(dir, "alertmanager.example.yml"), "--verify.receivers="+receiver, "severity="+severity)
	}
}

// TestInhibition lets Alertmanager say which alerts are worth a message when several have one cause.
func TestInhibition(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(program.FreePort(t)))
	p := program.Start(t, program.Options{
		Name: "alertmanager", Path: program.Look(t, "prometheus-alertmanager", "prometheus-alertmanager"), Dir: dir,
		Args: []string{
			"--config.file=" + inRepository(t, "deploy/prometheus/alertmanager.example.yml"), "--storage.path=" + dir,
			"--web.listen-address=" + addr, "--cluster.listen-address=",
		},
	})
	request := func(method string, body string, answer any) error {
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+addr+"/api/v2/alerts", strings.NewReader(body))
		if err != nil {
			return err
		}
		req.Close = true // nothing stays open for the leak check to find
		req.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return errors.New(resp.Status)
		}
		if answer == nil {
			return nil
		}
		return json.NewDecoder(resp.Body).Decode(answer)
	}
	alert := func(name, severity, label, value string) map[string]map[string]string {
		return map[string]map[string]string{"labels": {"alertname": name, "severity": severity, "instance": "mon:10291", label: value}}
	}
	alerts, err := json.Marshal([]any{
		alert("HmcnotifydAuthFailed", "critical", "hmc", "east"), alert("HmcnotifydLinkDown", "critical", "hmc", "east"),
		alert("HmcnotifydLinkFlapping", "warning", "hmc", "east"), alert("HmcnotifydLinkFlapping", "warning", "hmc", "west"),
		alert("HmcnotifydCertificateExpiring", "critical", "hmc", "west"), alert("HmcnotifydCertificateExpiring", "warning", "hmc", "west"),
		alert("HmcnotifydCertificateExpiring", "warning", "hmc", "east"),
		alert("HmcnotifydSinkFailing", "critical", "sink", "ops"), alert("HmcnotifydSinkLate", "warning", "sink", "ops"),
		alert("HmcnotifydSinkLate", "warning", "sink", "journal"), alert("HmcnotifydDeadLetters", "warning", "sink", "ops"),
	})
	if err != nil {
		t.Fatal(err)
	}
	p.Await(t, within, func() error { return request(http.MethodPost, string(alerts), nil) })
	want := []string{
		"HmcnotifydAuthFailed critical east", "HmcnotifydCertificateExpiring critical west", "HmcnotifydCertificateExpiring warning east",
		"HmcnotifydDeadLetters warning ops", "HmcnotifydLinkFlapping warning west", "HmcnotifydSinkFailing critical ops", "HmcnotifydSinkLate warning journal",
	}
	p.Await(t, within, func() error {
		var told []struct {
			Labels map[string]string
			Status struct{ State string }
		}
		if err := request(http.MethodGet, "", &told); err != nil {
			return err
		}
		var active []string
		for _, a := range told {
			if a.Status.State == "active" {
				active = append(active, a.Labels["alertname"]+" "+a.Labels["severity"]+" "+a.Labels["hmc"]+a.Labels["sink"])
			}
		}
		slices.Sort(active)
		if !slices.Equal(active, want) {
			return fmt.Errorf("there is a message for %q, not for %q", active, want)
		}
		return nil
	})
}
