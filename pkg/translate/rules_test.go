package translate

import (
	"bufio"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hmcnotifyd/hmcnotifyd/docs/rules"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/match"
)

// loadRules loads a configuration with these rules.
func loadRules(t testing.TB, yaml string) []config.Rule {
	t.Helper()
	file := filepath.Join(t.TempDir(), "c.yaml")
	text := "hmcs: [{name: h, hosts: [h1], userid: u, password: p}]\nsinks: [{name: s, log: {}}]\nrules:\n" + yaml
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	return cfg.Rules
}

func osMessage(text string) *event.Event {
	e := &event.Event{HMC: "h", Type: event.TypeOSMessage, Origin: event.OriginLive, Severity: event.SeverityInfo}
	body, _ := event.Headers{{Name: "message-text", Value: text}}.MarshalJSON()
	e.Body = body
	return e
}

// Each rule of the ready sets that looks at messages fits an example as it may stand on a console, with the severity that is meant.
func TestReadyRulesOfMessages(t *testing.T) {
	t.Parallel()
	for _, set := range []string{"zos", "linux"} {
		list := loadRules(t, "- include: "+set)
		rs := NewRules(list)
		f, err := os.Open("testdata/rules/" + set + ".txt")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		used := make(map[int]bool)
		for lines := bufio.NewScanner(f); lines.Scan(); {
			line := lines.Text()
			if strings.HasPrefix(line, "#") {
				continue
			}
			severity, rest, _ := strings.Cut(line, " ")
			area, text, _ := strings.Cut(rest, " ")
			e := osMessage(text + " \n")
			e.Severity = "none"
			rs.Apply(e)
			got := e.Severity + " " + e.Labels.Get("area")
			if want := strings.Replace(severity+" "+area, "- -", "none ", 1); got != want {
				t.Errorf("%s: %q is %s, want %s", set, text, got, want)
			}
			v := match.View{Event: osMessage(text)}
			if i := slices.IndexFunc(list, func(r config.Rule) bool { return v.Fits(r.Match) }); i >= 0 {
				used[i] = true
			}
		}
		for i := range list {
			if !used[i] {
				t.Errorf("%s: no example for rule %d, %v", set, i, list[i].Match[0].Text)
			}
		}
	}
}

// Each rule of the set hmc fits an event of its kind.
func TestReadyRulesOfHMCs(t *testing.T) {
	t.Parallel()
	list := loadRules(t, "- include: hmc")
	used := make(map[int]bool)
	apply := func(e *event.Event, want string) {
		t.Helper()
		v := match.View{Event: e}
		if i := slices.IndexFunc(list, func(r config.Rule) bool { return v.Fits(r.Match) }); i >= 0 {
			used[i] = true
		}
		e.Severity = "none"
		NewRules(list).Apply(e)
		if got := e.Severity + " " + e.Labels.Get("area"); got != want {
			t.Errorf("%s %s is %s, want %s", e.Type, e.Body, got, want)
		}
	}
	for ids, want := range map[string]string{
		"151 675 676 677 678 679 680 681 682 1268 6002": "warning call-home",

		"191 192 193 859 1324 1286 1287 2031": "warning user-locked",

		"136 137 138 363 522 1285 1340 1691 1692 6051 6052 6053 6054 6055": "warning access",

		"5012 5013 5014 5015 5016 5017 5250 5251 5410 5412": "warning crypto",

		"864 6060 1330 3318": "warning security",
		"34 1237 6061":       "warning code",

		"28 152 673 674 734 1325 1333 1941 1942 2033 6001 6063 67": "none ",
	} {
		for id := range strings.FieldsSeq(ids) {
			apply(&event.Event{Type: event.TypeLogEntry, Body: []byte(`{"event-id":"` + id + `","event-message":"SSLv3 protocol support has been enabled by U"}`)}, want)
		}
	}
	apply(&event.Event{Type: event.TypeLogEntry, Body: []byte(`{"event-id":"3319","event-message":"RC4 cipher support has been disabled by U"}`)}, "none ")
	change := func(class, property, value, want string) {
		t.Helper()
		apply(&event.Event{
			Type: event.TypePropertyChange, Resource: &event.Resource{Class: class},
			Body: []byte(`{"change-reports":[{"property-name":"x","new-value":"y"},{"property-name":"` + property + `","new-value":` + value + `}]}`),
		}, want)
	}
	change("user", "disabled", "true", "warning user-locked")
	change("user", "disabled", "false", "none ")
	change("partition", "disabled", "true", "none ")
	change("capacity-record", "anything", "1", "warning capacity")
	change("cpc", "software-model-permanent-plus-temporary", `"706"`, "warning capacity")
	change("cpc", "msu-permanent", `706`, "warning capacity")
	change("cpc", "software-model-purchased", `"706"`, "none ")
	change("storage-volume", "fulfillment-state", `"configuration-error"`, "warning storage")
	change("storage-volume", "fulfillment-state", `"complete"`, "none ")
	removed := func(class, summary, want string) {
		t.Helper()
		apply(&event.Event{Type: event.TypeInventoryChange, Resource: &event.Resource{Class: class}, Summary: summary}, want)
	}
	removed("adapter", "adapter OSA1: removed", "warning storage")
	removed("adapter", "adapter OSA1: added", "none ")
	removed("partition", "partition P: removed", "none ")
	hardware := func(text, want string) {
		t.Helper()
		apply(&event.Event{Type: event.TypeHardwareMessage, Body: []byte(`{"text":"x"}`), Summary: "hardware message on CPC C: " + text}, want)
	}
	hardware("The On/Off CoD record CR1234 will expire in 5 days", "critical capacity")
	hardware("Temporary capacity is deactivated", "critical capacity")
	hardware("Expiration of the capacity backup upgrade (CBU)", "critical capacity")
	hardware("Capacity on Demand: a record was installed", "warning capacity")
	hardware("Power supply 2 failed", "none ")
	for i := range list {
		if !used[i] {
			t.Errorf("no example for rule %d, %+v", i, list[i].Match)
		}
	}
}

// The document of the ready sets names each, with all of its areas.
func TestReadyRulesAreDocumented(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/rules/README.md")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("../../docs/rules/*.yaml")
	if err != nil || len(files) != len(rules.Sets()) {
		t.Errorf("%d files and %d sets, %v", len(files), len(rules.Sets()), err)
	}
	for _, set := range rules.Sets() {
		i := strings.Index(string(text), "| [`"+set+"`]("+set+".yaml) |")
		if i < 0 {
			t.Errorf("nothing is said of %s", set)
			continue
		}
		row, _, _ := strings.Cut(string(text)[i:], "\n")
		cells := strings.Split(row, "|")
		areas := make(map[string]bool)
		for _, r := range loadRules(t, "- include: "+set) {
			areas["`"+r.Labels["area"]+"`"] = true
			if r.Severity == "" {
				t.Errorf("%s: a rule has no severity", set)
			}
		}
		said := strings.Split(strings.TrimSpace(cells[3]), ", ")
		if slices.Sort(said); !slices.Equal(said, slices.Sorted(maps.Keys(areas))) {
			t.Errorf("%s: %v are documented, and there are %v", set, said, slices.Sorted(maps.Keys(areas)))
		}
	}
}

// The first rule with a severity rates; labels and runbooks of those before it are kept, and win over labels of the HMC.
func TestRulesInOrder(t *testing.T) {
	t.Parallel()
	rs := NewRules(loadRules(t, `
- match: [{type: [os-message], text: X}, {type: [status-change], status: stopped}]
  labels: {team: a, first: "1"}
  runbook: https://w/1
- match: [{text: 'X1'}]
  severity: critical
  labels: {team: b, second: "2"}
  runbook: https://w/2
- match: [{type: .*}]
  severity: warning
  labels: {team: c}
- match: [{text: 'X1'}]
  severity: info
`))
	for text, want := range map[string]string{
		"X1": "critical [{first 1} {second 2} {site DC1} {team a}] https://w/1",
		"X2": "warning [{first 1} {site DC1} {team a}] https://w/1",
		"Y":  "warning [{site DC1} {team c}] ",
	} {
		e := osMessage(text)
		own := event.Headers{{Name: "site", Value: "DC1"}, {Name: "team", Value: "hmc"}}
		e.Labels = own
		rs.Apply(e)
		if got := fmt.Sprint(e.Severity, " ", e.Labels, " ", e.Runbook); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
		if own[1].Value != "hmc" || len(own) != 2 {
			t.Errorf("the labels of the HMC became %v", own)
		}
	}
	for typ, body := range map[string]string{event.TypeOSMessage: `{"message-text":"X1","answered":"id"}`, event.TypeHardwareMessage: `{"text":"X1","deleted":true}`} {
		e := &event.Event{Type: typ, Body: []byte(body), Summary: "X1", Severity: event.SeverityInfo}
		if rs.Apply(e); e.Severity != event.SeverityInfo || e.Labels.Get("second") != "2" {
			t.Errorf("%s is %s, %v", body, e.Severity, e.Labels)
		}
	}
	e := osMessage("X1")
	e.Labels = event.Headers{{Name: "site", Value: "DC1"}}
	var none *Rules
	none.Apply(e)
	NewRules(nil).Apply(e)
	if e.Severity != event.SeverityInfo || len(e.Labels) != 1 || e.Runbook != "" {
		t.Errorf("no rules made %+v", e)
	}
	e = &event.Event{Type: "of-tomorrow", Summary: "X1"}
	if rs.Apply(e); e.Severity != event.SeverityCritical {
		t.Errorf("an event of an unknown type is %s", e.Severity)
	}
}

// Sorting the rules changes nothing: at random, what they say is what trying one after the other says.
func TestRulesModel(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	pick := func(of ...string) string { return of[rng.IntN(len(of))] }
	word := func() string {
		return pick("IXC101I", "ixc101i", "panic", "oom", "K", "\u212aernel", "kernel", "Straße", "ſhort", "short", "ab", "abc", "IEA1", "01")
	}
	expression := func() string {
		a, b := word(), word()
		return pick(a, "^"+a, `\b`+a+`\b`, "(?i)"+a, "(?:"+a+"|"+b+")", a+".*"+b, "(?i)(?:"+a+")+"+b, a+"{2}", a+"?"+b, "[a-c]"+a, `\d+`, "(?i:"+a+")"+b, a+"|"+b)
	}
	for range 300 {
		var yaml strings.Builder
		for range 1 + rng.IntN(90) {
			fmt.Fprintf(&yaml, "- match: [{text: ['%s'%s]%s}%s]\n  severity: %s\n  labels: {l%d: x}\n", expression(),
				pick("", "", ", '"+expression()+"'"), pick("", ", type: [os-message]", ", hmc: h"), pick("", ", {type: log-entry, text: '"+expression()+"'}"),
				pick("critical", "warning", "info"), rng.IntN(100))
		}
		list := loadRules(t, yaml.String())
		rs := NewRules(list)
		for range 20 {
			text := ""
			for range rng.IntN(5) {
				text += word() + pick("", " ", "\n", "*")
			}
			e, want := osMessage(text), osMessage(text)
			e.Type = pick(event.TypeOSMessage, event.TypeLogEntry, "of-tomorrow")
			want.Type = e.Type
			for i := range list {
				if v := (match.View{Event: want}); v.Fits(list[i].Match) {
					want.Severity = list[i].Severity
					for name, value := range list[i].Labels {
						want.Labels = event.Headers{{Name: name, Value: value}}
					}
					break
				}
			}
			if rs.Apply(e); e.Severity != want.Severity || !slices.Equal(e.Labels, want.Labels) {
				t.Fatalf("%q is %s %v, want %s %v, with\n%s", text, e.Severity, e.Labels, want.Severity, want.Labels, yaml.String())
			}
		}
	}
}
