package config

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// Error is one problem of a configuration file.
type Error struct {
	// the path given to Load
	File string
	// counted from 1; 0: no line, the file could not be read
	Line int
	// the YAML path, such as hmcs[0].tls.ca_file; empty: the file as a whole
	Path string
	// what is wrong and what to do; never holds a secret
	Msg string
}

// Error returns "FILE:LINE: PATH: MSG".
func (e *Error) Error() string {
	place := e.File
	if e.Line > 0 {
		place += ":" + strconv.Itoa(e.Line)
	}
	if e.Path != "" {
		place += ": " + e.Path
	}
	return place + ": " + e.Msg
}

// Errors is every problem of a configuration file, sorted by line, and then those of the files with
// rules that it includes.
type Errors []*Error

// Error returns all problems, one per line.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, err := range e {
		lines[i] = err.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap gives errors.Is and errors.As access to every problem.
func (e Errors) Unwrap() []error {
	errs := make([]error, len(e))
	for i, err := range e {
		errs[i] = err
	}
	return errs
}

// sort puts those of the file main first.
func (e Errors) sort(main string) {
	file := func(e *Error) string {
		if e.File == main {
			return ""
		}
		return e.File
	}
	slices.SortStableFunc(e, func(a, b *Error) int {
		return cmp.Or(strings.Compare(file(a), file(b)), cmp.Compare(a.Line, b.Line), strings.Compare(a.Path, b.Path))
	})
}
