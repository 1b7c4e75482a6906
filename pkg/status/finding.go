package status

import (
	"errors"
	"fmt"
	"strings"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// Finding gathers what a check finds out about one HMC or one sink, line by line. It is used by one
// goroutine.
type Finding struct {
	// Name begins each line.
	Name string
	// OnStep is called with what is being done now, and with "" when the check is done; nil:
	// nothing is.
	OnStep func(name, step string)

	text     strings.Builder
	problems []error
}

// Step says what is being done now.
func (f *Finding) Step(format string, args ...any) {
	if f.OnStep != nil {
		f.OnStep(f.Name, fmt.Sprintf(format, args...))
	}
}

// Info adds what is as it should be.
func (f *Finding) Info(format string, args ...any) { f.add("", format, args...) }

// Warn adds what is no fault, but should not stay so.
func (f *Finding) Warn(format string, args ...any) { f.add("warning: ", format, args...) }

func (f *Finding) add(prefix, format string, args ...any) {
	for line := range strings.SplitSeq(fmt.Sprintf(format, args...), "\n") {
		f.text.WriteString(f.Name + ": " + prefix + event.Printable(line) + "\n")
	}
}

// Problem adds what does not work.
func (f *Finding) Problem(format string, args ...any) {
	for line := range strings.SplitSeq(fmt.Sprintf(format, args...), "\n") {
		f.problems = append(f.problems, errors.New(f.Name+": "+event.Printable(line)))
	}
}

// String returns the lines of Info and Warn.
func (f *Finding) String() string { return f.text.String() }

// Err returns the problems, one line each; nil: there are none.
func (f *Finding) Err() error { return errors.Join(f.problems...) }
