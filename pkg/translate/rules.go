package translate

import (
	"cmp"
	"iter"
	mathbits "math/bits"
	"regexp/syntax"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/match"
)

// Rules rate events and add labels and runbooks to them, as a configuration says. They do not
// change; nil are none. Safe for concurrent use.
//
// Hundreds of rules look for a text each. So that an event does not pay for all of them, they are
// sorted by the types of events that they can fit, and of those that look for a text only the ones
// are tried of which some part is in the text of the event.
type Rules struct {
	rules  []rule
	byType map[string]*candidates
	// of types that nobody has seen yet
	other *candidates
}

// rule is one of the configuration, with its labels in the order of their names.
type rule struct {
	*config.Rule
	labels event.Headers
}

// NewRules returns the rules of a configuration; nil: it has none.
func NewRules(list []config.Rule) *Rules {
	if len(list) == 0 {
		return nil
	}
	rs := &Rules{byType: make(map[string]*candidates)}
	for i := range list {
		rs.rules = append(rs.rules, rule{Rule: &list[i], labels: Labels(list[i].Labels)})
	}
	for _, typ := range event.Types() {
		rs.byType[typ] = rs.candidatesFor(typ)
	}
	rs.other = rs.candidatesFor("")
	return rs
}

// Labels are those of a configuration as events have them, in the order of their names.
func Labels(of map[string]string) (labels event.Headers) {
	for name, value := range of {
		labels = append(labels, event.Header{Name: name, Value: value})
	}
	slices.SortFunc(labels, byName)
	return labels
}

func byName(a, b event.Header) int { return cmp.Compare(a.Name, b.Name) }

// Apply changes an event, which may have labels, as the rules say: the first that fits and has a
// severity rates it. Those that fit before it and have none add labels and a runbook; of two that
// say something else of the same the first counts.
func (rs *Rules) Apply(e *event.Event) {
	if rs == nil {
		return
	}
	c := rs.byType[e.Type]
	if c == nil {
		c = rs.other
	}
	if !c.some {
		return
	}
	v := match.View{Event: e}
	var added event.Headers
	for i := range c.of(&v) {
		r := &rs.rules[i]
		if !v.Fits(r.Match) {
			continue
		}
		added = withLabels(added, r.labels)
		e.Runbook = cmp.Or(e.Runbook, r.Runbook)
		if r.Severity != "" {
			if !isOver(e) {
				e.Severity = r.Severity
			}
			break
		}
	}
	e.Labels = withLabels(added, e.Labels)
}

// isOver says whether an event tells that a message is over: it has the text of the message, and is
// as little worth a call as that is.
func isOver(e *event.Event) bool {
	switch e.Type {
	case event.TypeOSMessage:
		return event.Member(e.Body, "answered") != nil
	case event.TypeHardwareMessage:
		return event.True(event.Member(e.Body, "deleted"))
	}
	return false
}

// withLabels returns the labels of both, in the order of their names; of those that both have the
// first. It changes neither.
func withLabels(first, others event.Headers) event.Headers {
	switch {
	case len(others) == 0:
		return first
	case len(first) == 0:
		return others
	}
	all := slices.Clone(first)
	for _, l := range others {
		if first.Get(l.Name) == "" { // no label is empty
			all = append(all, l)
		}
	}
	slices.SortFunc(all, byName)
	return all
}

// candidates are the rules that can fit events of a type.
type candidates struct {
	some bool
	// that look for no text, or for one without a literal part: they are tried on each event
	always bits
	// those that need one of these in the text, by the first bytes of it
	literals map[uint32][]literal
	// the first bytes, hashed, so that hardly any place of a text is looked up
	first [1 << 12 / 64]uint64
	words int // of bits
}

// literal is what a rule needs in a text.
type literal struct {
	text string // in lower case
	rule int
}

// shortest is how long a literal must be to be worth looking for.
const shortest = 3

// bits is a set of rules.
type bits []uint64

func (b bits) set(i int) { b[i/64] |= 1 << (i % 64) }

func (rs *Rules) candidatesFor(typ string) *candidates {
	words := (len(rs.rules) + 63) / 64
	c := &candidates{literals: make(map[uint32][]literal), words: words, always: make(bits, words)}
	for i := range rs.rules {
		var needs []string
		fits, always := false, false
		for j := range rs.rules[i].Match {
			m := &rs.rules[i].Match[j]
			if typ != "" && !m.CanFit(typ) {
				continue
			}
			fits = true
			if of := literalsOf(m.Text); len(of) > 0 {
				needs = append(needs, of...)
			} else {
				always = true
			}
		}
		c.some = c.some || fits
		switch {
		case always:
			c.always.set(i)
		case fits:
			for _, text := range needs {
				key := keyOf(text)
				c.literals[key] = append(c.literals[key], literal{text, i})
				h := hashOf(key)
				c.first[h/64] |= 1 << (h % 64)
			}
		}
	}
	return c
}

// of ranges over the rules that may fit an event, in their order.
func (c *candidates) of(v *match.View) iter.Seq[int] {
	return func(yield func(int) bool) {
		var few [8]uint64 // so that up to 512 rules need no memory
		found := append(bits(few[:0]), c.always...)
		if len(c.literals) > 0 {
			c.find(v.Text(), found)
		}
		for w, word := range found {
			for ; word != 0; word &= word - 1 {
				if !yield(w*64 + mathbits.TrailingZeros64(word)) {
					return
				}
			}
		}
	}
}

// find adds the rules of which a literal is in the text.
func (c *candidates) find(text string, found bits) {
	var key uint32
	for i := range len(text) {
		b := lower(text[i])
		if b >= utf8.RuneSelf { // it may be another form of a letter, for which a rule asks
			for _, all := range c.literals {
				for _, l := range all {
					found.set(l.rule)
				}
			}
			return
		}
		if key = (key<<8 | uint32(b)) & 0xffffff; i < shortest-1 {
			continue
		}
		if h := hashOf(key); c.first[h/64]&(1<<(h%64)) == 0 {
			continue
		}
		for _, l := range c.literals[key] {
			if begins(text[i-shortest+1:], l.text) {
				found.set(l.rule)
			}
		}
	}
}

// begins says whether a text begins with another one, which is in lower case.
func begins(text, with string) bool {
	if len(text) < len(with) {
		return false
	}
	for i := range len(with) {
		if lower(text[i]) != with[i] {
			return false
		}
	}
	return true
}

func lower(b byte) byte {
	if 'A' <= b && b <= 'Z' {
		return b + 'a' - 'A'
	}
	return b
}

func keyOf(text string) uint32 { return uint32(text[0])<<16 | uint32(text[1])<<8 | uint32(text[2]) }

func hashOf(key uint32) uint32 { return key * 0x9e3779b1 >> 20 }

// literalsOf returns texts, in lower case, of which one is in each text that any of the expressions
// matches; none: there are no such.
func literalsOf(search match.Search) []string {
	var all []string
	for _, re := range search {
		parsed, err := syntax.Parse(re.String(), syntax.Perl)
		if err != nil {
			return nil
		}
		needs := needsOf(parsed)
		if len(needs) == 0 {
			return nil
		}
		all = append(all, needs...)
	}
	return all
}

func needsOf(re *syntax.Regexp) []string {
	switch re.Op {
	case syntax.OpLiteral:
		text := strings.ToLower(string(re.Rune))
		if len(text) < shortest || strings.ContainsFunc(text, func(r rune) bool { return r >= utf8.RuneSelf }) {
			return nil
		}
		return []string{text}
	case syntax.OpCapture, syntax.OpPlus:
		return needsOf(re.Sub[0])
	case syntax.OpRepeat:
		if re.Min > 0 {
			return needsOf(re.Sub[0])
		}
	case syntax.OpConcat:
		var best []string
		for _, sub := range re.Sub {
			if needs := needsOf(sub); len(needs) > 0 && (best == nil || length(needs) > length(best)) {
				best = needs
			}
		}
		return best
	case syntax.OpAlternate:
		var all []string
		for _, sub := range re.Sub {
			needs := needsOf(sub)
			if len(needs) == 0 {
				return nil
			}
			all = append(all, needs...)
		}
		return all
	}
	return nil
}

// length is how long the shortest of some texts is.
func length(texts []string) int {
	n := len(texts[0])
	for _, t := range texts {
		n = min(n, len(t))
	}
	return n
}
