// Package cmdline makes of the definitions of a command line what people get to see of it: help,
// manual page, completion, and words for what was typed wrong. It knows kingpin and no command.
package cmdline

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"text/template"

	"github.com/alecthomas/kingpin/v2"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// Model returns the definitions of the command line, with the command help, which kingpin adds
// when it begins to parse.
func Model(app *kingpin.Application) *kingpin.ApplicationModel {
	_, _ = app.ParseContext(nil)
	return app.Model()
}

// helpTemplate is kingpin's, but that a command's help has its own flags first, and of those of the
// program only what every command has.
const helpTemplate = `{{define "typed"}}{{range .Args}} {{if not .Required}}[{{end}}{{or .PlaceHolder .Name}}` +
	`{{if not .Required}}]{{end}}{{end}}{{if .Commands}} <command>{{end}}{{end -}}
{{if .Context.SelectedCommand -}}
usage: {{.App.Name}} {{.Context.SelectedCommand}}` +
	`{{if own .App .Context.SelectedCommand .Context.Flags}} [flags]{{end}}{{template "typed" .Context.SelectedCommand}}

{{.Context.SelectedCommand.Help|Wrap 0}}
{{- with own .App .Context.SelectedCommand .Context.Flags}}
Flags:
{{.|FlagsToTwoColumns|FormatTwoColumns}}{{end}}
{{- with .Context.Args}}
Arguments:
{{.|ArgsToTwoColumns|FormatTwoColumns}}{{end}}
{{- with visibleCommands .Context.SelectedCommand.Commands}}
Commands:
{{commands .|FormatTwoColumns}}{{end}}
Flags of every command:
{{common .App|FlagsToTwoColumns|FormatTwoColumns}}
{{- else -}}
usage: {{.App.Name}} [flags] [command]

{{.App.Help|Wrap 0}}
Commands:
{{commands .App.Commands|FormatTwoColumns}}
Flags of the daemon:
{{daemon .App|FlagsToTwoColumns|FormatTwoColumns}}
Flags of every command:
{{common .App|FlagsToTwoColumns|FormatTwoColumns}}
{{- end}}`

// Help makes --help of a program whose own flags are those of its default command, but for help,
// version and those that begin with log.
func Help(app *kingpin.Application) {
	names := func(m *kingpin.ApplicationModel) map[string]bool {
		set := map[string]bool{}
		for _, f := range m.Flags {
			set[f.Name] = true
		}
		return set
	}
	isCommon := func(f *kingpin.FlagModel) bool {
		return f.Name == "help" || f.Name == "version" || strings.HasPrefix(f.Name, "log.")
	}
	app.UsageTemplate(helpTemplate).UsageFuncs(template.FuncMap{
		"own": func(
			m *kingpin.ApplicationModel, c *kingpin.CmdModel, flags []*kingpin.FlagModel,
		) []*kingpin.FlagModel {
			if c.Default {
				return slices.DeleteFunc(Visible(flags), isCommon)
			}
			program := names(m)
			return slices.DeleteFunc(Visible(flags), func(f *kingpin.FlagModel) bool { return program[f.Name] })
		},
		"common": func(m *kingpin.ApplicationModel) []*kingpin.FlagModel {
			return slices.DeleteFunc(Visible(m.Flags), func(f *kingpin.FlagModel) bool { return !isCommon(f) })
		},
		"daemon": func(m *kingpin.ApplicationModel) []*kingpin.FlagModel {
			return slices.DeleteFunc(Visible(m.Flags), isCommon)
		},
		"visibleCommands": func(all []*kingpin.CmdModel) []*kingpin.CmdModel {
			return slices.DeleteFunc(slices.Clone(all), func(c *kingpin.CmdModel) bool { return c.Hidden })
		},
		"commands": func(all []*kingpin.CmdModel) (rows [][2]string) {
			for _, c := range all {
				if !c.Hidden {
					rows = append(rows, [2]string{c.Name, c.Help})
				}
			}
			return rows
		},
	})
}

// Mistake says what is wrong with a command line that could not be parsed.
func Mistake(app *kingpin.Application, args []string, err error) error {
	if bad := badValue(app, args, err); bad != nil {
		return bad
	}
	text := err.Error()
	if flag, ok := strings.CutSuffix(text, " cannot be repeated"); ok {
		return fmt.Errorf("--%s may be given only once", strings.Trim(strings.TrimPrefix(flag, "flag "), "'"))
	}
	if word, ok := strings.CutPrefix(text, "unexpected "); ok {
		return unknown(app, strings.Trim(word, "'"))
	}
	if word, ok := strings.CutPrefix(text, "expected command but got "); ok {
		return unknown(app, strings.Trim(word, `"`))
	}
	if flag, ok := strings.CutPrefix(text, "expected argument for flag "); ok {
		return fmt.Errorf("%s needs a value", strings.Trim(flag, "'"))
	}
	if arg, ok := strings.CutPrefix(text, "required argument "); ok {
		return fmt.Errorf("the argument %s is missing", strings.Trim(strings.TrimSuffix(arg, " not provided"), "'"))
	}
	if flags, ok := strings.CutPrefix(text, "required flag(s) "); ok {
		return fmt.Errorf("%s is missing", strings.ReplaceAll(strings.TrimSuffix(flags, " not provided"), "'", ""))
	}
	if command, ok := strings.CutPrefix(text, "must select a subcommand of "); ok {
		return fmt.Errorf("%s needs one of its commands behind it", strings.Trim(command, "'"))
	}
	for _, kind := range []string{"unknown long flag ", "unknown short flag "} {
		if flag, ok := strings.CutPrefix(text, kind); ok {
			return unknownFlag(app, strings.Trim(flag, "'"))
		}
	}
	return err
}

// badValue names the flag or argument with the value that an error is about; nil: it is about none.
// The parser does not say which it was.
func badValue(app *kingpin.Application, args []string, err error) error {
	words, _ := app.ParseContext(args)
	if words == nil {
		return nil
	}
	for _, word := range words.Elements {
		var name string
		var value kingpin.Value
		switch clause := word.Clause.(type) {
		case *kingpin.FlagClause:
			name, value = "--"+clause.Model().Name, clause.Model().Value
		case *kingpin.ArgClause:
			name, value = clause.Model().Name, clause.Model().Value
		}
		if value == nil || word.Value == nil {
			continue
		}
		again := value.Set(*word.Value)
		switch {
		case again == nil || again.Error() != err.Error():
		case errors.Is(err, errEmpty):
			return fmt.Errorf("%s %w", name, err)
		default:
			return fmt.Errorf("%s: %q %s", name, *word.Value, whyBad(err))
		}
	}
	return nil
}

// whyBad says what is wrong with a value, in other words than those of the language's library.
func whyBad(err error) string {
	number, isNumber := errors.AsType[*strconv.NumError](err)
	_, among, isWord := strings.Cut(err.Error(), "must be one of ")
	switch {
	case isNumber && errors.Is(err, strconv.ErrRange):
		return "is too large or too small a number"
	case isNumber && number.Func == "ParseBool":
		return "is neither true nor false"
	case isNumber && number.Func == "ParseUint":
		return "is not a whole number, 0 or above"
	case isNumber && number.Func == "ParseInt":
		return "is not a whole number"
	case isNumber:
		return "is not a number"
	case isWord:
		among, _, _ = strings.Cut(among, ", got ")
		return "is none of " + strings.ReplaceAll(among, ",", ", ")
	case strings.HasPrefix(err.Error(), "time: "):
		return "is not a duration, as 90s, 10m or 1h30m are"
	}
	return "cannot be: " + err.Error()
}

// unknown is the mistake of a word that is no command, or behind one that takes none.
func unknown(app *kingpin.Application, word string) error {
	names := namesOf(Model(app).Commands)
	if slices.Contains(names, word) {
		return fmt.Errorf("the command %q stands in the wrong place: one command at a time", word)
	}
	if near := event.Nearest(word, names); near != "" {
		return fmt.Errorf("there is no command %q: did you mean %q?", word, near)
	}
	return fmt.Errorf("there is no command %q, and no argument is expected there", word)
}

func unknownFlag(app *kingpin.Application, flag string) error {
	var names []string
	var walk func(*kingpin.CmdGroupModel)
	add := func(flags []*kingpin.FlagModel) {
		for _, f := range Visible(flags) {
			names = append(names, "--"+f.Name)
		}
	}
	walk = func(g *kingpin.CmdGroupModel) {
		for _, c := range g.Commands {
			add(c.Flags)
			walk(c.CmdGroupModel)
		}
	}
	m := Model(app)
	add(m.Flags)
	walk(m.CmdGroupModel)
	switch near := event.Nearest(flag, names); {
	case slices.Contains(names, flag):
		return fmt.Errorf("%s is a flag of another command", flag)
	case near != "":
		return fmt.Errorf("there is no flag %s: did you mean %s?", flag, near)
	}
	return errors.New("there is no flag " + flag)
}
