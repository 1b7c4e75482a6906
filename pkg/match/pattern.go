package match

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
)

// Pattern is a regular expression (RE2) that must match the whole value, as in Prometheus. Without
// special characters it is an exact value. The zero Pattern matches only the empty value.
type Pattern struct {
	source string
	// nil: source is a literal
	re *regexp.Regexp
}

// NewPattern compiles an anchored regular expression.
func NewPattern(source string) (Pattern, error) {
	p := Pattern{source: source}
	if regexp.QuoteMeta(source) == source {
		return p, nil
	}
	// Parsed alone first: an error then shows what was written, and "a)(b" cannot break out of
	// the anchors.
	if _, err := steps(source); err != nil {
		return Pattern{}, err
	}
	re, err := regexp.Compile("^(?s:" + source + ")$")
	if err != nil {
		return Pattern{}, err
	}
	p.re = re
	return p, nil
}

// NewPatterns compiles alternatives that come from outside, which together are no larger than one
// pattern may be.
func NewPatterns(sources ...string) (Patterns, error) {
	var (
		all   = make(Patterns, len(sources))
		total int
	)
	for i, source := range sources {
		n, err := steps(source)
		if err != nil {
			return nil, err
		}
		if total += n; total > MaxPatternSteps {
			return nil, ErrTooLarge
		}
		if all[i], err = NewPattern(source); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// MaxPatternSteps bounds what a regular expression compiles to, wherever it comes from: a hundred
// bytes may become hundreds of MiB.
const MaxPatternSteps = 10_000

// ErrTooLarge is the error of an expression that compiles to more than MaxPatternSteps.
var ErrTooLarge = fmt.Errorf("is too large a regular expression, it compiles to more than %d steps: "+
	"repeat less, or give several", MaxPatternSteps)

// Compile is regexp.Compile within MaxPatternSteps.
func Compile(source string) (*regexp.Regexp, error) {
	if _, err := steps(source); err != nil {
		return nil, err
	}
	return regexp.Compile(source)
}

// steps says what an expression compiles to without compiling it.
func steps(source string) (int, error) {
	if len(source) > MaxPatternSteps {
		return 0, ErrTooLarge // to parse it would take the memory already
	}
	re, err := syntax.Parse(source, syntax.Perl)
	if err != nil {
		return 0, err
	}
	n := stepsOf(re)
	if n > MaxPatternSteps {
		return n, ErrTooLarge
	}
	return n, nil
}

// stepsOf counts instructions, and the ranges of each class that is one. A repetition is as many
// copies of what it repeats. Beyond MaxPatternSteps it need not be exact.
func stepsOf(re *syntax.Regexp) int {
	n := 1
	switch re.Op { //nolint:exhaustive // the others are one step
	case syntax.OpLiteral:
		return len(re.Rune)
	case syntax.OpCharClass:
		return 1 + len(re.Rune)/2
	}
	for _, sub := range re.Sub {
		n = min(n+stepsOf(sub), MaxPatternSteps+1)
	}
	if re.Op == syntax.OpRepeat {
		n *= max(re.Min+1, re.Max)
	}
	return min(n, MaxPatternSteps+1)
}

// All returns the pattern ".*".
func All() Pattern { return Pattern{source: ".*", re: regexp.MustCompile("^(?s:.*)$")} }

// Match reports whether the whole of s matches.
func (p Pattern) Match(s string) bool {
	if p.re == nil {
		return p.source == s
	}
	return p.re.MatchString(s)
}

// Literal says whether the pattern is one exact value.
func (p Pattern) Literal() bool { return p.re == nil }

// String returns the pattern as it was written.
func (p Pattern) String() string { return p.source }

// MarshalText returns the pattern as it was written.
func (p Pattern) MarshalText() ([]byte, error) { return []byte(p.source), nil }

// Patterns is a list of alternatives. In the file a single one may stand without the brackets.
type Patterns []Pattern

// IsSet reports whether there is anything to match.
func (p Patterns) IsSet() bool { return len(p) > 0 }

// Match reports whether any pattern matches the whole of s.
func (p Patterns) Match(s string) bool {
	return slices.ContainsFunc(p, func(p Pattern) bool { return p.Match(s) })
}

// allow reports whether there is nothing to match, or s matches.
func (p Patterns) allow(s string) bool { return len(p) == 0 || p.Match(s) }

// Search is a list of alternative regular expressions (RE2) that may match anywhere in a text. In
// the file a single one may stand without the brackets.
type Search []*regexp.Regexp

// IsSet reports whether there is anything to look for.
func (s Search) IsSet() bool { return len(s) > 0 }

// Match reports whether any of the expressions is found in text.
func (s Search) Match(text string) bool {
	return slices.ContainsFunc(s, func(re *regexp.Regexp) bool { return re.MatchString(text) })
}
