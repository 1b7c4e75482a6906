package check

import (
	"errors"
	"fmt"
	"strings"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// finding gathers what a check finds out about one HMC or one sink, line by line. It is used by one
// goroutine.
type finding struct {
	// name begins each line.
	name string
	// onStep is called with what is being done now, and with "" when the check is done; nil:
	// nothing is.
	onStep func(name, step string)
	// done is closed when nothing is added any more.
	done chan struct{}

	text     strings.Builder
	problems []error
}

// step says what is being done now.
func (f *finding) step(format string, args ...any) {
	if f.onStep != nil {
		f.onStep(f.name, fmt.Sprintf(format, args...))
	}
}

// info adds what is as it should be.
func (f *finding) info(format string, args ...any) { f.add("", format, args...) }

// warn adds what is no fault, but should not stay so.
func (f *finding) warn(format string, args ...any) { f.add("warning: ", format, args...) }

func (f *finding) add(prefix, format string, args ...any) {
	for line := range strings.SplitSeq(fmt.Sprintf(format, args...), "\n") {
		f.text.WriteString(f.name + ": " + prefix + event.Printable(line) + "\n")
	}
}

// problem adds what does not work.
func (f *finding) problem(format string, args ...any) {
	for line := range strings.SplitSeq(fmt.Sprintf(format, args...), "\n") {
		f.problems = append(f.problems, errors.New(f.name+": "+event.Printable(line)))
	}
}

// String returns the lines of info and warn.
func (f *finding) String() string { return f.text.String() }

// err returns the problems, one line each; nil: there are none.
func (f *finding) err() error { return errors.Join(f.problems...) }
