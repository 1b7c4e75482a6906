// Package cmdline makes of the definitions of a command line what people get to see of it: help,
// manual page, completion, and words for what was typed wrong. It knows kingpin and no command.
package cmdline

import (
	"errors"
	"fmt"
	"slices"
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
func Mistake(app *kingpin.Application, err error) error {
	text := err.Error()
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
