package config

import (
	"io/fs"
	"maps"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/hmcnotifyd/hmcnotifyd/docs/rules"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

const (
	// maxRules bounds all rules of a configuration, with those of its includes.
	maxRules     = 10_000
	maxRunbook   = 2048
	maxRuleLabel = 256
)

// rules checks a list of rules, and puts in the place of each include what it names. hmcs are the
// names of the HMCs.
func (d *decoder) rules(path string, list []Rule, hmcs []string) []Rule {
	all := make([]Rule, 0, len(list))
	for i := range list {
		r, at := &list[i], item(path, i)
		if d.has(join(at, "include")) {
			all = append(all, d.include(at, r, hmcs)...)
			continue
		}
		d.rule(at, r, hmcs)
		all = append(all, *r)
	}
	if len(all) > maxRules {
		d.errorf(path, "are %d with those of its includes: more than %d", len(all), maxRules)
	}
	return all
}

func (d *decoder) rule(path string, r *Rule, hmcs []string) {
	at := under(path)
	if len(r.Match) == 0 && !d.strange[path] {
		d.errorf(at("match"), "is missing: say which events the rule is about, "+
			"such as [{text: \"^IXC101I\"}]; [{type: .*}] is all")
	}
	d.matchers(at("match"), r.Match, hmcs)
	if r.Severity != "" || d.has(at("severity")) {
		d.oneOf(at("severity"), r.Severity, event.Severities()...)
	}
	if r.Severity == "" && len(r.Labels) == 0 && r.Runbook == "" && !d.strange[path] {
		d.errorf(path, "does nothing: give it a severity, labels or a runbook")
	}
	d.eventLabels(at("labels"), r.Labels)
	if u, err := url.Parse(r.Runbook); r.Runbook != "" {
		switch {
		case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
			d.errorf(at("runbook"), "must be the address of a page, such as https://wiki.example.com/IXC101I")
		case u.User != nil:
			d.errorf(at("runbook"), "must not hold a userid or password: everybody who gets the event sees it")
		case len(r.Runbook) > maxRunbook:
			d.errorf(at("runbook"), "is longer than %d characters", maxRunbook)
		}
	}
}

// eventLabel is the form of the name of a label.
var eventLabel = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)

// eventLabels checks labels that events get.
func (d *decoder) eventLabels(path string, labels map[string]string) {
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		switch at := join(path, name); {
		case !eventLabel.MatchString(name) || len(name) > maxName:
			d.errorf(at, "is no name of a label: a-z, 0-9 and _, a letter first, up to %d characters", maxName)
		case reservedLabel(name):
			d.errorf(at, "is a name that events or metrics have of their own")
		case labels[name] == "":
			d.errorf(at, "is empty")
		case len(labels[name]) > maxRuleLabel:
			d.errorf(at, "is longer than %d characters", maxRuleLabel)
		case checkLine(labels[name]) != "":
			d.errorf(at, "%s", checkLine(labels[name]))
		}
	}
}

// reservedLabel says whether a label would hide what events, metrics or alerts have under its name.
func reservedLabel(name string) bool {
	return slices.Contains(event.FieldNames(), name) || slices.Contains(AlertLabels(), name) ||
		slices.Contains([]string{
			"sink", "reason", "state", "status", "group", "outcome", "operation", "code", "name", "instance", "job",
		}, name)
}

// include returns the rules that an include names.
func (d *decoder) include(path string, r *Rule, hmcs []string) []Rule {
	at := join(path, "include")
	if len(r.Match) > 0 || r.Severity != "" || len(r.Labels) > 0 || r.Runbook != "" {
		d.errorf(path, "has include and other keys: an include stands alone")
		return nil
	}
	if r.Include == "" {
		d.errorf(at, "is empty: name one of %s, or a file", strings.Join(rules.Sets(), ", "))
		return nil
	}
	shown := "the ready set " + r.Include
	data, err := rules.Files.ReadFile(r.Include + ".yaml")
	mode := fs.FileMode(0)
	if !slices.Contains(rules.Sets(), r.Include) {
		if d.included {
			d.errorf(at, "%s is no ready set (%s): a file that is included itself includes no files",
				quote(r.Include), strings.Join(rules.Sets(), ", "))
			return nil
		}
		var file string
		file, shown = d.resolve(r.Include)
		data, mode, err = readFile(file, maxConfigFile)
	}
	if err != nil {
		d.errorf(at, "%s %s (the ready sets are %s)", shown, err, strings.Join(rules.Sets(), ", "))
		return nil
	}
	in := newDecoder(shown, mode)
	in.included = true
	var list []Rule
	if root := in.document(data); root != nil {
		in.decode(root, "rules", reflect.ValueOf(&list).Elem())
		list = in.rules("rules", list, hmcs)
	}
	d.errs = append(d.errs, in.errs...)
	d.warnings = append(d.warnings, in.warnings...)
	return list
}
