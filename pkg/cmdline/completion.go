package cmdline

import (
	"context"
	"embed"
	"slices"
	"strings"

	"github.com/alecthomas/kingpin/v2"
)

// CompletionFlag is what, as the first argument, makes the program print what may come next on a
// command line, one per line: the scripts ask for it. It has the name that kingpin's own has, which
// cannot do with a default command, nor with the flags of the command above a subcommand.
const CompletionFlag = "--completion-bash"

// Files stands for the names of files, as the only thing that may come next.
const Files = ":files"

// scripts ask for completions, a file for each shell.
//
//go:embed completion.bash completion.zsh completion.fish
var scripts embed.FS

// Shells are those that there is a script for.
func Shells() []string { return []string{"bash", "zsh", "fish"} }

// Script is the completion script for a shell.
func Script(shell string) ([]byte, error) { return scripts.ReadFile("completion." + shell) }

// group is what has commands and flags: the program, or a command.
type group interface {
	GetCommand(name string) *kingpin.CmdClause
	FlagCompletion(flagName, flagValue string) (choices []string, flagMatch, optionMatch bool)
}

// Values lists what a flag may have where that is not part of its definition; url is the value of
// the flag of that name, "" where it is not given.
type Values func(ctx context.Context, flag, url string) []string

// level is the program or a command of it, with its flags.
type level struct {
	group
	flags []*kingpin.FlagModel
}

// Complete returns what may stand in place of the last word. Where that is a file, it returns
// Files; where it may be anything, nothing.
func Complete(ctx context.Context, app *kingpin.Application, words []string, values Values) []string {
	var (
		model   = Model(app)
		levels  = []level{{app, model.Flags}}
		current = group(app)
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
		case !slices.Contains(offered, word) || current.GetCommand(word) == nil:
			offered = nil // an argument, and whatever comes behind it
		default:
			c := current.GetCommand(word)
			m := c.Model()
			current, offered = c, namesOf(m.Commands)
			if isHelp {
				continue
			}
			levels = append(levels, level{c, m.Flags})
			switch m.FullCommand {
			case "help":
				isHelp, current, offered = true, app, namesOf(model.Commands)
			case "completion":
				offered = Shells()
			}
			if len(m.Args) > 0 && isFile(m.Args[0].Name, m.Args[0].PlaceHolder) {
				offered = []string{Files}
			}
		}
	}
	name, _, attached := strings.Cut(strings.TrimPrefix(words[last], "--"), "=")
	switch {
	case pending != nil:
		return valuesOf(ctx, pending, url, levels, values)
	case onlyArguments:
		if slices.Contains(offered, Files) {
			return offered
		}
		return nil
	case attached && strings.HasPrefix(words[last], "--"):
		var all []string
		if f := find(name); f != nil {
			for _, v := range valuesOf(ctx, f, url, levels, values) {
				if v != Files {
					v = "--" + name + "=" + v
				}
				all = append(all, v)
			}
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
		for _, f := range Visible(l.flags) {
			if i > 0 || len(levels) == 1 || f.Name == "help" || strings.HasPrefix(f.Name, "log.") {
				names = append(names, "--"+f.Name)
			}
		}
	}
	return names
}

// valuesOf lists the values that a flag may have, as far as they can be known.
func valuesOf(ctx context.Context, f *kingpin.FlagModel, url string, levels []level, values Values) []string {
	if all := values(ctx, f.Name, url); len(all) > 0 {
		return all
	}
	for _, l := range slices.Backward(levels) {
		if choices, match, _ := l.FlagCompletion(f.Name, ""); match && len(choices) > 0 {
			return choices
		}
	}
	if isFile(f.Name, f.PlaceHolder) {
		return []string{Files}
	}
	return nil
}

// isFile says whether a flag or an argument is the name of a file or directory.
func isFile(name, placeHolder string) bool {
	for _, s := range []string{name, placeHolder} {
		switch s = strings.ToLower(s[strings.LastIndexAny(s, ".-")+1:]); s {
		case "file", "dir", "path", "config", "out":
			return true
		}
	}
	return false
}
