package config

import (
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/hmcnotifyd/hmcnotifyd/docs/rules"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/match"
)

const (
	// maxRules bounds all rules of a configuration, with those of its includes.
	maxRules = 10_000
	// maxCompared is how many rules are compared with each other.
	maxCompared  = 2000
	maxRunbook   = 2048
	maxRuleLabel = 256
)

// placedRule is a rule, and where it stands.
type placedRule struct {
	Rule
	at    *Error // without a message
	ready bool   // it is of a ready set
}

// allRules checks the rules of a configuration, and puts in the place of each include what it
// names.
func (d *decoder) allRules(list []Rule, from *sources) []Rule {
	placed := d.rules("rules", list, from, map[string]string{})
	if len(placed) > maxRules {
		d.errorf("rules", "are %d with those of its includes: more than %d", len(placed), maxRules)
	}
	if len(placed) <= maxCompared {
		d.hidden(placed)
	}
	all := make([]Rule, len(placed))
	for i := range placed {
		all[i] = placed[i].Rule
	}
	return all
}

// rules checks a list of rules. seen has what is included, and the types of events of which was
// said that nobody sends them, with the place of the first.
func (d *decoder) rules(path string, list []Rule, from *sources, seen map[string]string) []placedRule {
	all := make([]placedRule, 0, len(list))
	for i := range list {
		r, at := &list[i], item(path, i)
		if d.has(join(at, "include")) {
			if first := seen["include "+r.Include]; first != "" {
				d.errorf(join(at, "include"), "%s is included by %s already: the first rule that fits counts, "+
					"and a second time changes nothing", quote(r.Include), first)
				continue
			}
			all = append(all, d.include(at, r, from, seen)...)
			seen["include "+r.Include] = fmt.Sprintf("%s (%s:%d)", at, d.file, d.lineOf(at))
			continue
		}
		d.rule(at, r, from)
		d.unsent(join(at, "match"), r.Match, from, seen)
		all = append(all, placedRule{*r, d.newError(d.lineOf(at), at, ""), d.ready})
	}
	return all
}

// hidden warns of rules that can never come to count, because those before them fit whatever they
// fit. A site may well hide one of a ready set.
func (d *decoder) hidden(rules []placedRule) {
	for i := range rules {
		r := &rules[i]
		if r.ready || len(r.Match) == 0 {
			continue
		}
		var by *placedRule
		for j := range r.Match {
			if by = hiding(rules[:i], &r.Match[j]); by == nil {
				break
			}
		}
		if by != nil {
			e := *r.at
			e.Msg = fmt.Sprintf("never counts: %s (%s:%d) comes first, and fits whatever it fits",
				by.at.Path, by.at.File, by.at.Line)
			d.warnings = append(d.warnings, &e)
		}
	}
}

// hiding returns the first of the rules that rates every event that a matcher fits; nil: there is
// none.
func hiding(rules []placedRule, m *match.Matcher) *placedRule {
	for i := range rules {
		if rules[i].Severity == "" {
			continue
		}
		for j := range rules[i].Match {
			if rules[i].Match[j].Covers(m) {
				return &rules[i]
			}
		}
	}
	return nil
}

func (d *decoder) rule(path string, r *Rule, from *sources) {
	at := under(path)
	if len(r.Match) == 0 && !d.strange[path] {
		d.errorf(at("match"), "is missing: say which events the rule is about, "+
			"such as [{text: \"^IXC101I\"}]; [{type: .*}] is all")
	}
	d.matchers(at("match"), r.Match, from)
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
func (d *decoder) include(path string, r *Rule, from *sources, seen map[string]string) []placedRule {
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
	in.included, in.ready = true, slices.Contains(rules.Sets(), r.Include)
	var list []Rule
	if root := in.document(data); root != nil {
		in.decode(root, "rules", reflect.ValueOf(&list).Elem())
	}
	if len(list) == 0 && len(in.errs) == 0 {
		in.fail(in.first, "", "is empty: write a list of rules, each beginning with \"- match: \"")
	}
	placed := in.rules("rules", list, from, seen)
	if in.ready && from.known && !slices.ContainsFunc(placed, func(r placedRule) bool {
		return slices.ContainsFunc(r.Match, func(m match.Matcher) bool { return from.unsent(&m) == "" })
	}) {
		d.warnf(at, "%s fits only events that no HMC is asked for: %s", shown, from.unsent(&placed[0].Match[0]))
	}
	d.errs = append(d.errs, in.errs...)
	d.warnings = append(d.warnings, in.warnings...)
	return placed
}

// severity checks the severities of statuses and log entries.
func (d *decoder) severity(s *Severity, from *sources) {
	at := under("severity")
	d.oneOf(at("acceptable_status"), s.AcceptableStatus, AcceptableHonor, AcceptableIgnore)
	for _, key := range slices.Sorted(maps.Keys(s.Status)) {
		d.ratedStatus(join(at("status"), key), key)
	}
	for _, id := range slices.Sorted(maps.Keys(s.EventID)) {
		d.eventID(join(at("event_id"), id), id)
	}
	if len(s.EventID) > 0 && from.known && !from.sent(event.TypeLogEntry, nil) {
		d.warnf(at("event_id"), "is of %s events, and no HMC is asked for any: %s", event.TypeLogEntry,
			howToGet[event.TypeLogEntry])
	}
}

// wordOfHMC is the form of the names of classes and statuses.
var wordOfHMC = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)

// ratedStatus checks a key of severity.status: STATUS, or CLASS/STATUS.
func (d *decoder) ratedStatus(path, key string) {
	class, status, both := strings.Cut(key, "/")
	if !both {
		class, status = "", key
	}
	if both && !wordOfHMC.MatchString(class) || !wordOfHMC.MatchString(status) {
		d.errorf(path, "is no status: write STATUS or CLASS/STATUS, in lower case and with dashes, "+
			"such as not-operating or cpc/not-operating")
		return
	}
	known := slices.Clone(event.Statuses[class])
	switch class {
	case "":
		for _, class := range event.Classes {
			known = append(known, event.Statuses[class]...)
		}
		fallthrough
	case "adapter", "network-port", "storage-port":
		known = append(known, event.LinkStatuses...)
	}
	near := event.Nearest(status, known)
	switch {
	case both && !slices.Contains(event.Classes, class):
		d.warnf(path, "%s is no class of resources that HMCs are known to have%s",
			quote(class), meant(nearestClass(class)))
	case slices.Contains(known, status), known == nil:
	case both && near == "":
		d.warnf(path, "%s is no status of the class %s: known are %s",
			quote(status), class, strings.Join(known, ", "))
	default:
		d.warnf(path, "%s is no status that HMCs are known to have%s", quote(status), meant(near))
	}
}
