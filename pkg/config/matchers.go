package config

import (
	"regexp"
	"slices"
	"strings"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/match"
)

// sources is what matchers are held against: what the HMCs of the file are asked to send.
type sources struct {
	hmcs       []HMC
	heartbeats bool
	// false: there are mistakes in the HMCs, and nothing is known of them
	known bool
}

func (s *sources) names() []string {
	names := make([]string, len(s.hmcs))
	for i := range s.hmcs {
		names[i] = s.hmcs[i].Name
	}
	return names
}

// sent says whether events of a type come from any of some HMCs.
func (s *sources) sent(typ string, hmcs match.Patterns) bool {
	if typ == event.TypeBridgeHeartbeat {
		return s.heartbeats
	}
	return slices.ContainsFunc(s.hmcs, func(h HMC) bool {
		if hmcs.IsSet() && !hmcs.Match(h.Name) {
			return false
		}
		return len(h.TopicNames) > 0 && typ != event.TypeHardwareMessage || h.asksFor(typ)
	})
}

// asksFor says whether an HMC is asked for events of a type. Status changes are also found by
// comparing lists.
func (h *HMC) asksFor(typ string) bool {
	switch typ {
	case event.TypeLogEntry:
		return h.followsLogs()
	case event.TypeOSMessage:
		return len(h.OSMessages) > 0
	case event.TypeHardwareMessage:
		return h.HardwareMessages
	case event.TypeJobCompletion:
		return slices.Contains(h.Topics, TopicJob)
	case event.TypePropertyChange, event.TypeInventoryChange:
		return slices.Contains(h.Topics, TopicObject)
	}
	return true
}

func (h *HMC) followsLogs() bool {
	return slices.Contains(h.Topics, TopicAudit) || slices.Contains(h.Topics, TopicSecurity)
}

// howToGet says what makes events of a type come.
var howToGet = map[string]string{
	event.TypeLogEntry:        "add audit or security to the topics of an HMC",
	event.TypeOSMessage:       "name partitions under os_messages of an HMC",
	event.TypeHardwareMessage: "set hardware_messages: true of an HMC",
	event.TypeJobCompletion:   "add job to the topics of an HMC",
	event.TypePropertyChange:  "add object to the topics of an HMC",
	event.TypeInventoryChange: "add object to the topics of an HMC",
	event.TypeBridgeHeartbeat: "set heartbeat_interval",
}

// unsent returns the types that a matcher can fit, and what makes events of them come, if none of
// these comes; "": one does, or it can fit no type that is known.
func (s *sources) unsent(m *match.Matcher) string {
	var all []string
	for _, typ := range event.Types() {
		if m.CanFit(typ) {
			if s.sent(typ, m.HMC) {
				return ""
			}
			all = append(all, typ+" ("+howToGet[typ]+")")
		}
	}
	return strings.Join(all, ", ")
}

// unsent warns of matchers for events that nobody sends, once for each type; told has those of
// which it was said.
func (d *decoder) unsent(path string, matchers []match.Matcher, from *sources, told map[string]string) {
	for i := range matchers {
		m, at := &matchers[i], item(path, i)
		if !from.known || d.ready || d.failed(at) || d.badBelow[at] || d.strange[at] {
			continue
		}
		if types := from.unsent(m); types != "" {
			if told[types] == "" {
				told[types] = at
				d.warnf(at, "fits only events that its HMCs are not asked for: %s", types)
			}
			continue
		}
		for j, p := range m.Type {
			typ := p.String()
			if p.Literal() && howToGet[typ] != "" && told[typ] == "" && !from.sent(typ, m.HMC) {
				told[typ] = at
				d.warnf(element(join(at, "type"), m.Type, j), "its HMCs are not asked for %s events: %s",
					typ, howToGet[typ])
			}
		}
	}
}

// selection checks what a sink gets and what not.
func (d *decoder) selection(path string, s *Sink, from *sources) {
	at := under(path)
	d.matchers(at("match"), s.Match, from)
	d.matchers(at("drop"), s.Drop, from)
	d.unsent(at("match"), s.Match, from, map[string]string{})
	if d.badBelow[path] {
		return
	}
	dropped := func(m match.Matcher) bool {
		return slices.ContainsFunc(s.Drop, func(drop match.Matcher) bool { return drop.Covers(&m) })
	}
	all := append([]match.Matcher{}, s.Match...)
	if len(all) == 0 {
		all = []match.Matcher{{}}
	}
	if !slices.ContainsFunc(all, func(m match.Matcher) bool { return !dropped(m) }) {
		d.warnf(at("drop"), "leaves nothing of what match selects: the sink gets no event")
	}
	if s.Collapse && !slices.ContainsFunc(all, func(m match.Matcher) bool { return m.CanFit(event.TypeStatusChange) }) {
		d.warnf(at("collapse"), "is of %s events, which match leaves out", event.TypeStatusChange)
	}
}

func (d *decoder) matchers(path string, matchers []match.Matcher, from *sources) {
	for i := range matchers {
		d.matcher(item(path, i), &matchers[i], from)
	}
}

// matcher checks that a matcher can match at all: one that cannot is a mistake.
func (d *decoder) matcher(path string, m *match.Matcher, from *sources) {
	at := under(path)
	if !d.filled[path] && !d.strange[path] {
		d.errorf(path, "has no keys: give at least one, such as type: [status-change]")
		return
	}
	d.closedSet(at("origin"), m.Origin, []string{
		event.OriginLive, event.OriginRefresh, event.OriginBackfill, event.OriginReconcile, event.OriginBridge,
	})
	d.closedSet(at("severity"), m.Severity, event.Severities())
	d.classes(at("class"), m.Class)
	d.statuses(at("status"), m.Status, m.Class)
	for i, p := range m.EventID {
		if p.Literal() {
			d.eventID(element(at("event_id"), m.EventID, i), p.String())
		}
	}
	if from.known {
		d.closedSet(at("hmc"), m.HMC, from.names())
	}
	types := event.Types()
	for i, p := range m.Type {
		at := element(at("type"), m.Type, i)
		switch near := event.Nearest(p.String(), types); {
		case slices.ContainsFunc(types, p.Match):
		case !p.Literal():
			d.warnf(at, "%s matches no type of events that is known", quote(p.String()))
		case near != "":
			d.warnf(at, "no event of the type %s is known, did you mean %q?", quote(p.String()), near)
		}
		if p.Literal() && p.String() == event.TypeStatusChangeSummary {
			d.errorf(at, "is made for a sink with collapse of the %s events that it wants: select those",
				event.TypeStatusChange)
		}
	}
	d.onlyIn(path, m)
}

// onlyIn checks that the keys of a matcher can be in one event: some are of events of one type
// only.
func (d *decoder) onlyIn(path string, m *match.Matcher) {
	// the type of the keys so far, and the first of them
	var only, before string
	for _, key := range m.KeysOfOneType() {
		switch at := join(path, key.Name); {
		case !key.Set:
		case only != "" && only != key.Type:
			d.errorf(at, "is of %s events and %s of %s events: no event has both", key.Type, before, only)
		case m.Type.IsSet() && !m.Type.Match(key.Type):
			d.errorf(at, "is of %s events, which type leaves out: nothing matches", key.Type)
		default:
			only, before = key.Type, key.Name
		}
	}
}

// element is the path of pattern i: a single one may stand without brackets.
func element(path string, p match.Patterns, i int) string {
	if len(p) == 1 {
		return path
	}
	return item(path, i)
}

// classes warns of a pattern that matches no class that HMCs are known to have. There may be
// others.
func (d *decoder) classes(path string, patterns match.Patterns) {
	for i, p := range patterns {
		if !slices.ContainsFunc(event.Classes, p.Match) {
			d.warnf(element(path, patterns, i), "%s matches no class of resources that HMCs are known to have%s",
				quote(p.String()), meant(nearestClass(p.String())))
		}
	}
}

// nearestClass is the class that a name is probably meant for; "": none.
func nearestClass(name string) string {
	if strings.EqualFold(name, "lpar") {
		return "logical-partition"
	}
	return event.Nearest(name, event.Classes)
}

// meant asks whether what is near was meant, if there is anything.
func meant(near string) string {
	if near == "" {
		return ""
	}
	return "; is " + near + " meant?"
}

// statuses warns of a pattern that matches no status that resources of some classes are known to
// have, and none of some more. There may be others.
func (d *decoder) statuses(path string, patterns, classes match.Patterns, more ...string) {
	all, here := slices.Clone(more), slices.Clone(more)
	for _, class := range event.Classes {
		all = append(all, event.Statuses[class]...)
		if !classes.IsSet() || classes.Match(class) {
			if here = append(here, event.Statuses[class]...); event.Statuses[class] == nil && classes.IsSet() {
				return // of this one they are not known
			}
		}
	}
	for i, p := range patterns {
		at := element(path, patterns, i)
		switch {
		case slices.ContainsFunc(here, p.Match):
		case slices.ContainsFunc(all, p.Match):
			d.warnf(at, "%s matches statuses of other classes than those that class selects", quote(p.String()))
		default:
			d.warnf(at, "%s matches no status that HMCs are known to have%s", quote(p.String()),
				meant(event.Nearest(p.String(), here)))
		}
	}
}

// idOfEvent is the form of the id of a log entry.
var idOfEvent = regexp.MustCompile(`^[0-9]+$`)

// eventID checks the id of a log entry. Which ids there are only the help of each HMC says.
func (d *decoder) eventID(path, id string) {
	switch {
	case !idOfEvent.MatchString(id):
		d.errorf(path, "%s is no id of a log entry: these are digits, such as 1941", quote(id))
	case len(id) > 1 && id[0] == '0':
		d.warnf(path, "HMCs write ids without zeros in front: is %s meant?",
			strings.TrimLeft(id[:len(id)-1], "0")+id[len(id)-1:])
	}
}

// closedSet checks that every pattern matches one of the values there can be.
func (d *decoder) closedSet(path string, patterns match.Patterns, values []string) {
	for i, p := range patterns {
		if !slices.ContainsFunc(values, p.Match) {
			d.errorf(element(path, patterns, i), "%s matches none of %s", quote(p.String()), strings.Join(values, ", "))
		}
	}
}
