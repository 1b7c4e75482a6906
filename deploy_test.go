package hmcnotifyd_test

import (
	"encoding/json"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const rulesFile = "deploy/prometheus/hmcnotifyd.rules.yml"

var (
	alertRule  = regexp.MustCompile(`(?m)^ +- alert: (\S+)$`)
	runbookURL = regexp.MustCompile(`(?m)^ +runbook_url: https://github\.com/hmcnotifyd/hmcnotifyd/blob/main/(docs/runbooks/(\S+)\.md)$`)
)

// alerts returns the names of the alerts, each once.
func alerts(t *testing.T) []string {
	t.Helper()
	var names []string
	for _, m := range alertRule.FindAllStringSubmatch(readFile(t, rulesFile), -1) {
		names = append(names, m[1])
	}
	if len(names) < 12 {
		t.Fatalf("%s has only %d alerts", rulesFile, len(names))
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// TestRunbooks wants a page for each alert, which the alert names, and an alert for each page.
func TestRunbooks(t *testing.T) {
	names := alerts(t)
	var named []string
	for _, m := range runbookURL.FindAllStringSubmatch(readFile(t, rulesFile), -1) {
		named = append(named, m[2])
	}
	slices.Sort(named)
	if named = slices.Compact(named); !slices.Equal(names, named) {
		t.Errorf("the alerts are %q, their runbooks %q", names, named)
	}
	pages, err := filepath.Glob("docs/runbooks/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range pages {
		if name := strings.TrimSuffix(filepath.Base(page), ".md"); !slices.Contains(names, name) {
			t.Errorf("%s is the page of no alert", page)
		}
	}
	for _, name := range names {
		page := "docs/runbooks/" + name + ".md"
		text := readFile(t, page)
		if !strings.HasPrefix(text, "# "+name+"\n") {
			t.Errorf("%s does not begin with the name of the alert", page)
		}
		var sections []string
		for _, m := range heading.FindAllStringSubmatch(codeBlock.ReplaceAllString(text, ""), -1) {
			sections = append(sections, m[1])
		}
		if want := []string{name, "What it means", "What to look at", "What to do", "When it goes away"}; !slices.Equal(sections, want) {
			t.Errorf("%s has the sections %q, want %q", page, sections, want)
		}
	}
}

// TestAlertsDocumented wants docs/monitoring.md to list each alert, with its runbook.
func TestAlertsDocumented(t *testing.T) {
	text := readFile(t, "docs/monitoring.md")
	names := alerts(t)
	for _, name := range names {
		if !strings.Contains(text, "| ["+name+"](runbooks/"+name+".md) |") {
			t.Errorf("docs/monitoring.md does not list the alert %s", name)
		}
	}
	for _, m := range regexp.MustCompile(`\bHmcnotifyd[A-Z]\w+`).FindAllString(text, -1) {
		if !slices.Contains(names, m) {
			t.Errorf("docs/monitoring.md names the alert %s, which does not exist", m)
		}
	}
}

// TestPrometheusRule compares the rules for the Prometheus Operator with the others: kustomize cannot make one of the other.
func TestPrometheusRule(t *testing.T) {
	groups := func(name string) string {
		_, after, ok := strings.Cut(readFile(t, name), "groups:\n")
		if !ok {
			t.Fatalf("%s has no groups", name)
		}
		return after
	}
	want := regexp.MustCompile(`(?m)^(.)`).ReplaceAllString(groups(rulesFile), "  $1")
	if got := groups("deploy/kubernetes/monitoring/prometheusrule.yaml"); got != want {
		t.Errorf("deploy/kubernetes/monitoring/prometheusrule.yaml has other rules than %s; indented by two more they are\n%s", rulesFile, want)
	}
}

// TestDashboard looks at what Grafana would not complain about.
func TestDashboard(t *testing.T) {
	const name = "deploy/grafana/dashboards/hmcnotifyd.json"
	var dashboard struct {
		UID    string
		Panels []struct {
			ID      int
			Title   string
			Type    string
			GridPos struct{ X, Y, W, H int }
			Targets []struct{ RefID, Expr string }
		}
	}
	if err := json.Unmarshal([]byte(readFile(t, name)), &dashboard); err != nil {
		t.Fatal(err)
	}
	if dashboard.UID != "hmcnotifyd" {
		t.Errorf("the uid, which is part of the address, is %q", dashboard.UID)
	}
	taken := map[[2]int]string{}
	ids := map[int]bool{}
	for _, p := range dashboard.Panels {
		if ids[p.ID] {
			t.Errorf("two panels have the id %d", p.ID)
		}
		ids[p.ID] = true
		if p.Title == "" || p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("panel %d (%q) has no title, or no query", p.ID, p.Title)
		}
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other := taken[[2]int{x, y}]; other != "" || x >= 24 {
					t.Errorf("panel %q lies outside, or over %q", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
	}
}

// The manifests have no ids of users or groups but in the overlay that is for clusters which give none,
// and ask for nothing of the node.
func TestManifestsHaveNoIDs(t *testing.T) {
	ids := regexp.MustCompile(`(?i)\b(runAsUser|runAsGroup|fsGroup|supplementalGroups)"?\s*:`)
	host := regexp.MustCompile(`(?i)\b(hostNetwork|hostPID|hostIPC|hostPath|hostPort|privileged|serviceAccountToken)"?\s*:`)
	overlay := 0
	for _, name := range repoFiles(t) {
		if !strings.HasPrefix(name, "deploy/kubernetes/") {
			continue
		}
		text := readFile(t, name)
		if strings.HasPrefix(name, "deploy/kubernetes/ids/") {
			overlay += len(ids.FindAllString(text, -1))
		} else if m := ids.FindString(text); m != "" {
			t.Errorf("%s has %s OpenShift's profile restricted-v2 does not admit the pod with it", name, m)
		}
		if m := host.FindString(text); m != "" {
			t.Errorf("%s has %s", name, m)
		}
	}
	if overlay != 3 {
		t.Errorf("deploy/kubernetes/ids has %d ids, not user, group and the volume's group", overlay)
	}
	if text := readFile(t, "deploy/kubernetes/example/kustomization.yaml"); !strings.Contains(text, "\n  - ../ids ") {
		t.Error("deploy/kubernetes/example does not use ../ids")
	}
}

// TestDeployDocumented wants each directory of deploy to be named where its users look.
func TestDeployDocumented(t *testing.T) {
	readme, monitoring := readFile(t, "README.md"), readFile(t, "docs/monitoring.md")
	for _, name := range repoFiles(t) {
		if dir, ok := strings.CutPrefix(path.Dir(name), "deploy/"); ok {
			dir, _, _ = strings.Cut(dir, "/")
			if !strings.Contains(readme+monitoring, "deploy/"+dir) {
				t.Errorf("neither README.md nor docs/monitoring.md names deploy/%s", dir)
			}
		}
	}
}
