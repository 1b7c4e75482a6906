// Package bounded keeps regular expressions from taking more memory and time than they are worth.
package bounded

import (
	"fmt"
	"regexp"
	"regexp/syntax"
)

// MaxSteps bounds what a regular expression compiles to, wherever it comes from: a hundred
// bytes may become hundreds of MiB.
const MaxSteps = 10_000

// ErrTooLarge is the error of one that compiles to more than MaxSteps.
var ErrTooLarge = fmt.Errorf("is too large a regular expression, it compiles to more than %d steps: "+
	"repeat less, or give several", MaxSteps)

// Compile is regexp.Compile within MaxSteps.
func Compile(source string) (*regexp.Regexp, error) {
	if _, err := Steps(source); err != nil {
		return nil, err
	}
	return regexp.Compile(source)
}

// Steps says what an expression compiles to without compiling it.
func Steps(source string) (int, error) {
	if len(source) > MaxSteps {
		return 0, ErrTooLarge // to parse it would take the memory already
	}
	re, err := syntax.Parse(source, syntax.Perl)
	if err != nil {
		return 0, err
	}
	n := stepsOf(re)
	if n > MaxSteps {
		return n, ErrTooLarge
	}
	return n, nil
}

// stepsOf counts instructions, and the ranges of each class that is one. A repetition is as many
// copies of what it repeats. Beyond MaxSteps it need not be exact.
func stepsOf(re *syntax.Regexp) int {
	n := 1
	switch re.Op { //nolint:exhaustive // the others are one step
	case syntax.OpLiteral:
		return len(re.Rune)
	case syntax.OpCharClass:
		return 1 + len(re.Rune)/2
	}
	for _, sub := range re.Sub {
		n = min(n+stepsOf(sub), MaxSteps+1)
	}
	if re.Op == syntax.OpRepeat {
		n *= max(re.Min+1, re.Max)
	}
	return min(n, MaxSteps+1)
}
