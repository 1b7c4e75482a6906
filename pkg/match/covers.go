package match

import (
	"regexp"
	"slices"
)

// Covers says whether m certainly fits every event that o fits. What only a look into regular
// expressions would show is taken for not covered.
func (m *Matcher) Covers(o *Matcher) bool {
	// what every event has, be it empty
	for _, key := range [...][2]Patterns{
		{m.Type, o.Type},
		{m.HMC, o.HMC},
		{m.Class, o.Class},
		{m.Name, o.Name},
		{m.CPC, o.CPC},
		{m.Origin, o.Origin},
		{m.Severity, o.Severity},
	} {
		if len(key[0]) > 0 && !key[0].all() && !key[0].covers(key[1]) {
			return false
		}
	}
	for _, key := range [...][2]Patterns{
		{m.Status, o.Status},
		{m.Property, o.Property},
		{m.Value, o.Value},
		{m.User, o.User},
		{m.EventID, o.EventID},
	} {
		if len(key[0]) > 0 && !key[0].covers(key[1]) {
			return false
		}
	}
	for name, patterns := range m.Label {
		if !patterns.all() && !patterns.covers(o.Label[name]) {
			return false
		}
	}
	return (m.Repeat == nil || o.Repeat != nil && *m.Repeat == *o.Repeat) &&
		(m.Planned == nil || o.Planned != nil && *m.Planned == *o.Planned) &&
		(len(m.Text) == 0 || m.Text.covers(o.Text))
}

// all says whether every value matches, also the empty one.
func (p Patterns) all() bool {
	return slices.ContainsFunc(p, func(p Pattern) bool { return p.source == ".*" })
}

// covers says whether whatever matches o, of which there is something, matches p as well.
func (p Patterns) covers(o Patterns) bool {
	for _, one := range o {
		if p.all() || one.Literal() && p.Match(one.source) {
			continue
		}
		if !slices.ContainsFunc(p, func(p Pattern) bool { return p.source == one.source }) {
			return false
		}
	}
	return len(o) > 0
}

func (s Search) covers(o Search) bool {
	for _, one := range o {
		if !slices.ContainsFunc(s, func(re *regexp.Regexp) bool { return re.String() == one.String() }) {
			return false
		}
	}
	return len(o) > 0
}
