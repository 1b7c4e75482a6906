package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kingpin/v2"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
)

// completionFlag, as the first argument, makes the program print what may come next on a command line, one per line: the
// scripts below ask for it. It has the name that kingpin's own has, which cannot do with a default command, nor with the flags of the
// command above a subcommand.
const completionFlag = "--completion-bash"

// namesTimeout is how long a running daemon may take to tell its sinks and HMCs to somebody who has pressed the tab key.
const namesTimeout = time.Second

const bashCompletion = `# Completion of hmcnotifyd for bash.
_hmcnotifyd() {
    local cur="${COMP_WORDS[COMP_CWORD]}"
    [[ $cur == "=" ]] && cur=""
    local IFS=$'\n'
    COMPREPLY=($(compgen -W "$("${COMP_WORDS[0]}" --completion-bash "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)" -- "$cur"))
}
complete -o default -F _hmcnotifyd hmcnotifyd
`

const zshCompletion = `#compdef hmcnotifyd
# Completion of hmcnotifyd for zsh: a file _hmcnotifyd in a directory of $fpath.
_hmcnotifyd() {
    local -a found
    found=(${(f)"$("${words[1]}" --completion-bash "${(@)words[2,CURRENT]}" 2>/dev/null)"})
    if (( $#found )); then
        compadd -a found
    else
        _files
    fi
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _hmcnotifyd "$@"
else
    compdef _hmcnotifyd hmcnotifyd
fi
`

const fishCompletion = `# Completion of hmcnotifyd for fish.
function __hmcnotifyd_complete
    set -l words (commandline -opc)
    set -l cur (commandline -ct)
    set -l found ($words[1] --completion-bash $words[2..-1] "$cur" 2>/dev/null)
    if test (count $found) -gt 0
        printf '%s\n' $found
    else
        __fish_complete_path "$cur"
    end
end
complete -c hmcnotifyd -f -a '(__hmcnotifyd_complete)'
`

func completionCommand(app *kingpin.Application, e *environment) string {
	c := app.Command("completion", "Print the completion script for a shell: bash, zsh or fish. The packages install all three.")
	c.Arg("SHELL", "The shell.").Required().EnumVar(&e.shell, "bash", "zsh", "fish")
	return c.FullCommand()
}

func (e *environment) completion(context.Context) error {
	script := map[string]string{"bash": bashCompletion, "zsh": zshCompletion, "fish": fishCompletion}[e.shell]
	_, err := io.WriteString(e.stdout, script)
	return err
}

// flagCompleter is what kingpin knows the values of a flag by.
type flagCompleter interface {
	FlagCompletion(flagName, flagValue string) (choices []string, flagMatch, optionMatch bool)
}

// complete returns what may stand in place of the last word. Where that is a file, or anything, it returns nothing.
func complete(ctx context.Context, app *kingpin.Application, words []string) []string {
	var (
		model    = modelOf(app)
		flags    = [][]*kingpin.FlagModel{model.Flags} // of the command, and of those above it
		values   = []flagCompleter{app}
		commands = model.Commands
		depth    = 0
		pending  *kingpin.FlagModel // its value comes next
		url      = ""
		only     = false // arguments, after --
	)
	find := func(name string) *kingpin.FlagModel {
		for _, group := range slices.Backward(flags) {
			for _, f := range group {
				if f.Name == name {
					return f
				}
			}
		}
		return nil
	}
	words = withoutEquals(words)
	if len(words) == 0 {
		words = []string{""}
	}
	last := len(words) - 1
	for _, word := range words[:last] {
		name, value, attached := strings.Cut(strings.TrimPrefix(word, "--"), "=")
		switch {
		case pending != nil:
			if pending.Name == "url" {
				url = word
			}
			pending = nil
		case only:
		case word == "--":
			only = true
		case strings.HasPrefix(word, "--"):
			f := find(name)
			switch {
			case f == nil || f.IsBoolFlag():
			case !attached:
				pending = f
			case name == "url":
				url = value
			}
		default:
			i := slices.IndexFunc(commands, func(c *kingpin.CmdModel) bool { return c.Name == word })
			if i < 0 {
				commands = nil // an argument
				continue
			}
			c := commands[i]
			flags, commands = append(flags, c.Flags), c.Commands
			if clause := clauseOf(app, c.FullCommand); clause != nil {
				values = append(values, clause)
			}
			depth++
		}
	}
	cur := words[last]
	name, _, attached := strings.Cut(strings.TrimPrefix(cur, "--"), "=")
	switch {
	case pending != nil:
		return valuesOf(ctx, pending.Name, url, values)
	case !only && attached && strings.HasPrefix(cur, "--"):
		var all []string
		for _, v := range valuesOf(ctx, name, url, values) {
			all = append(all, "--"+name+"="+v)
		}
		return all
	case !only && strings.HasPrefix(cur, "-"):
		return flagNames(flags, depth)
	case only:
		return nil
	}
	var all []string
	for _, c := range commands {
		if !c.Hidden {
			all = append(all, c.Name)
		}
	}
	if len(all) == 0 {
		all = argumentsOf(model, words[:last])
	}
	return all
}

// withoutEquals puts --flag, = and value together again, which bash takes for three words; the last one stays alone.
func withoutEquals(words []string) []string {
	var all []string
	for i, word := range words {
		if word != "=" || len(all) == 0 {
			all = append(all, word)
			continue
		}
		if i == len(words)-1 { // the value has not begun
			all = append(all, "")
		}
	}
	return all
}

// flagNames lists the flags of a command and of those above it. Those of the program as a whole are the daemon's, but for the log.
func flagNames(groups [][]*kingpin.FlagModel, depth int) []string {
	var all []string
	for level, group := range slices.Backward(groups) {
		for _, f := range group {
			if f.Hidden || (depth > 0 && level == 0 && f.Name != "help" && !strings.HasPrefix(f.Name, "log.")) {
				continue
			}
			all = append(all, "--"+f.Name)
		}
	}
	return all
}

// valuesOf lists the values that a flag may have, as far as they can be known.
func valuesOf(ctx context.Context, name, url string, values []flagCompleter) []string {
	switch name {
	case "sink", "to":
		return namesOf(ctx, url, func(s *status.Status) (all []string) {
			for i := range s.Sinks {
				all = append(all, s.Sinks[i].Name)
			}
			return all
		})
	case "hmc":
		return namesOf(ctx, url, func(s *status.Status) (all []string) {
			for i := range s.HMCs {
				all = append(all, s.HMCs[i].Name)
			}
			return all
		})
	}
	for _, v := range slices.Backward(values) {
		if choices, match, _ := v.FlagCompletion(name, ""); match {
			return choices
		}
	}
	return nil
}

// namesOf asks a running daemon. Without one there is nothing to offer.
func namesOf(ctx context.Context, url string, names func(*status.Status) []string) []string {
	ctx, cancel := context.WithTimeout(ctx, namesTimeout)
	defer cancel()
	f := clientFlagsFromEnvironment()
	if url != "" {
		f.url = url
	}
	if f.validate() != nil {
		return nil
	}
	c, err := newClient(f)
	if err != nil {
		return nil
	}
	defer c.close()
	var status status.Status
	if c.get(ctx, http.MethodGet, "/api/v1/status", nil, &status) != nil {
		return nil
	}
	return names(&status)
}

// clauseOf returns the definition of a command.
func clauseOf(app *kingpin.Application, fullCommand string) *kingpin.CmdClause {
	var clause *kingpin.CmdClause
	for i, name := range strings.Fields(fullCommand) {
		if i == 0 {
			clause = app.GetCommand(name)
		} else if clause != nil {
			clause = clause.GetCommand(name)
		}
	}
	return clause
}

// argumentsOf lists what may be the argument of the two commands that have one with a fixed choice.
func argumentsOf(model *kingpin.ApplicationModel, words []string) []string {
	switch {
	case slices.Equal(words, []string{"completion"}):
		return []string{"bash", "zsh", "fish"}
	case len(words) > 0 && words[0] == "help":
		commands := model.Commands
		for _, word := range words[1:] {
			i := slices.IndexFunc(commands, func(c *kingpin.CmdModel) bool { return c.Name == word })
			if i < 0 {
				return nil
			}
			commands = commands[i].Commands
		}
		var all []string
		for _, c := range commands {
			if !c.Hidden {
				all = append(all, c.Name)
			}
		}
		return all
	}
	return nil
}

// printCompletions writes what complete returns.
func printCompletions(ctx context.Context, w io.Writer, app *kingpin.Application, words []string) {
	for _, word := range complete(ctx, app, words) {
		fmt.Fprintln(w, word)
	}
}
