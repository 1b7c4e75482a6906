package main

import (
	"cmp"
	"context"
	"embed"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kingpin/v2"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
)

// completionFlag, as the first argument, makes the program print what may come next on a command
// line, one per line: the scripts ask for it. It has the name that kingpin's own has, which
// cannot do with a default command, nor with the flags of the command above a subcommand.
const completionFlag = "--completion-bash"

// namesTimeout is how long a running daemon may take to list its sinks and HMCs: somebody has
// pressed the tab key and waits.
const namesTimeout = time.Second

// completions are the scripts that ask for them, a file for each shell.
//
//go:embed completion.bash completion.zsh completion.fish
var completions embed.FS

func completionCommand(app *kingpin.Application, e *environment) {
	e.command(app, "completion",
		"Print the completion script for a shell: bash, zsh or fish. The packages install all three.",
		e.completion).Arg("SHELL", "The shell.").Required().EnumVar(&e.shell, shells()...)
}

func shells() []string { return []string{"bash", "zsh", "fish"} }

func (e *environment) completion(context.Context) error {
	script, err := completions.ReadFile("completion." + e.shell)
	if err == nil {
		_, err = e.stdout.Write(script)
	}
	return err
}

// level is the program or a command of it, with its flags.
type level struct {
	commandGroup
	flags []*kingpin.FlagModel
}

// complete returns what may stand in place of the last word. Where that is a file, or anything, it
// returns nothing.
func complete(ctx context.Context, app *kingpin.Application, words []string) []string {
	var (
		model   = modelOf(app)
		levels  = []level{{app, model.Flags}}
		group   = commandGroup(app)
		offered = namesOf(model.Commands)
		// its value comes next
		pending *kingpin.FlagModel
		url     string
		// after --, and after the command help
		onlyArguments, isHelp bool
	)
	find := func(name string) *kingpin.FlagModel {
		for _, l := range slices.Backward(levels) {
			for _, f := range l.flags {
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
		case onlyArguments:
		case word == "--":
			onlyArguments = true
		case strings.HasPrefix(word, "--"):
			f := find(name)
			switch {
			case f == nil || f.IsBoolFlag():
			case !attached:
				pending = f
			case name == "url":
				url = value
			}
		case !slices.Contains(offered, word) || group.GetCommand(word) == nil:
			offered = nil // an argument
		default:
			c := group.GetCommand(word)
			m := c.Model()
			group, offered = c, namesOf(m.Commands)
			if isHelp {
				continue
			}
			levels = append(levels, level{c, m.Flags})
			switch m.FullCommand {
			case "help":
				isHelp, group, offered = true, app, namesOf(model.Commands)
			case "completion":
				offered = shells()
			}
		}
	}
	name, _, attached := strings.Cut(strings.TrimPrefix(words[last], "--"), "=")
	switch {
	case pending != nil:
		return valuesOf(ctx, pending.Name, url, levels)
	case onlyArguments:
		return nil
	case attached && strings.HasPrefix(words[last], "--"):
		var all []string
		for _, v := range valuesOf(ctx, name, url, levels) {
			all = append(all, "--"+name+"="+v)
		}
		return all
	case strings.HasPrefix(words[last], "-"):
		return flagNames(levels)
	}
	return offered
}

func namesOf(commands []*kingpin.CmdModel) (names []string) {
	for _, c := range commands {
		if !c.Hidden {
			names = append(names, c.Name)
		}
	}
	return names
}

// withoutEquals puts --flag, = and value together again, which bash takes for three words; the last
// one stays alone.
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

// flagNames lists the flags of a command and of those above it. Those of the program as a whole are
// the daemon's, but for the log.
func flagNames(levels []level) (names []string) {
	for i, l := range slices.Backward(levels) {
		for _, f := range visible(l.flags) {
			if i > 0 || len(levels) == 1 || f.Name == "help" || strings.HasPrefix(f.Name, "log.") {
				names = append(names, "--"+f.Name)
			}
		}
	}
	return names
}

// valuesOf lists the values that a flag may have, as far as they can be known.
func valuesOf(ctx context.Context, name, url string, levels []level) (values []string) {
	switch name {
	case "sink", "to":
		for _, s := range askStatus(ctx, url).Sinks {
			values = append(values, s.Name)
		}
		return values
	case "hmc":
		for _, h := range askStatus(ctx, url).HMCs {
			values = append(values, h.Name)
		}
		return values
	}
	for _, l := range slices.Backward(levels) {
		if choices, match, _ := l.FlagCompletion(name, ""); match {
			return choices
		}
	}
	return nil
}

// askStatus asks a running daemon. Without one there is nothing to offer.
func askStatus(ctx context.Context, url string) (s status.Status) {
	ctx, cancel := context.WithTimeout(ctx, namesTimeout)
	defer cancel()
	f := clientFlagsFromEnvironment()
	f.url = cmp.Or(url, f.url)
	if f.validate() != nil {
		return s
	}
	c, err := newClient(f)
	if err != nil {
		return s
	}
	defer c.close()
	if c.get(ctx, http.MethodGet, "/api/v1/status", nil, &s) != nil {
		return status.Status{}
	}
	return s
}
