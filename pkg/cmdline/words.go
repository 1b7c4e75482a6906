package cmdline

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/alecthomas/kingpin/v2"
)

// Normalized returns a command line as the parser understands it, who takes some of what people
// type for something else. The value "-" behind a flag, which stands for standard input or output,
// would begin another flag. The value of a switch, as in --json=true, would be an argument, and the
// switch be on whatever it says.
func Normalized(app *kingpin.ApplicationModel, args []string) ([]string, error) {
	valued, switches := make(map[string]bool), make(map[string]bool)
	note := func(group *kingpin.FlagGroupModel) {
		for _, f := range group.Flags {
			if f.IsBoolFlag() {
				switches["--"+f.Name] = true
			} else {
				valued["--"+f.Name] = true
			}
		}
	}
	var walk func(*kingpin.CmdGroupModel)
	walk = func(group *kingpin.CmdGroupModel) {
		for _, c := range group.Commands {
			note(c.FlagGroupModel)
			walk(c.CmdGroupModel)
		}
	}
	note(app.FlagGroupModel)
	walk(app.CmdGroupModel)
	var out []string
	for i, arg := range args {
		if arg == "--" { // only arguments from here on
			return append(out, args[i:]...), nil
		}
		name, value, attached := strings.Cut(arg, "=")
		last := len(out) - 1
		switch {
		case arg == "-" && last >= 0 && valued[out[last]]:
			out[last] += "=-"
		case arg == "-": // the parser would pass it on as nothing
			return nil, errors.New(`"-", which stands for standard input, cannot be there: name a file`)
		case attached && switches[name] && !valued[name]:
			on, err := strconv.ParseBool(value)
			switch {
			case err != nil:
				return nil, fmt.Errorf("%s: %q %s", name, value, whyBad(err))
			case on:
				out = append(out, name)
			case name != "--help" && name != "--version": // those act however they are given
				out = append(out, "--no-"+name[len("--"):])
			}
		default:
			out = append(out, arg)
		}
	}
	return out, nil
}

// errEmpty is of a value that must have something in it.
var errEmpty = errors.New("must not be empty")

// filled is a text that is not empty.
type filled struct{ to *string }

// Filled makes the value of a flag or an argument a text that is not empty, if it is given at all:
// an empty one is what a script passes on of a variable that is not set.
func Filled(of interface{ SetValue(kingpin.Value) }, to *string) { of.SetValue(filled{to}) }

// Set implements kingpin.Value.
func (f filled) Set(s string) error {
	if s == "" {
		return errEmpty
	}
	*f.to = s
	return nil
}

// String implements kingpin.Value.
func (f filled) String() string { return *f.to }
