package commandline

import (
	"slices"
	"strings"

	"github.com/alecthomas/kingpin/v2"
)

// CompletionCommand is the command that prints a completion script, for one of Shells.
const CompletionCommand = "completion"

// Shells are those that there is a script for.
func Shells() []string { return []string{"bash", "zsh", "fish"} }

// Group is what has commands and flags: the program, or a command.
type Group interface {
	Command(name, help string) *kingpin.CmdClause
	GetCommand(name string) *kingpin.CmdClause
	FlagCompletion(flagName, flagValue string) (choices []string, flagMatch, optionMatch bool)
}

// level is the program or a command of it, with its flags.
type level struct {
	Group
	flags []*kingpin.FlagModel
}

// Complete returns what may stand in place of the last word. Where that is a file, or anything, it
// returns nothing. names lists what a running daemon, that at the value of --url, has for the
// values of the flags sink, to and hmc.
func Complete(app *kingpin.Application, words []string, names func(url, flag string) []string) []string {
	var (
		model   = Model(app)
		levels  = []level{{app, model.Flags}}
		group   = Group(app)
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
			case CompletionCommand:
				offered = Shells()
			}
		}
	}
	name, _, attached := strings.Cut(strings.TrimPrefix(words[last], "--"), "=")
	switch {
	case pending != nil:
		return valuesOf(names, pending.Name, url, levels)
	case onlyArguments:
		return nil
	case attached && strings.HasPrefix(words[last], "--"):
		var all []string
		for _, v := range valuesOf(names, name, url, levels) {
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
		for _, f := range Visible(l.flags) {
			if i > 0 || len(levels) == 1 || f.Name == "help" || strings.HasPrefix(f.Name, "log.") {
				names = append(names, "--"+f.Name)
			}
		}
	}
	return names
}

// valuesOf lists the values that a flag may have, as far as they can be known.
func valuesOf(names func(url, flag string) []string, name, url string, levels []level) []string {
	switch name {
	case "sink", "to", "hmc":
		return names(url, name)
	}
	for _, l := range slices.Backward(levels) {
		if choices, match, _ := l.FlagCompletion(name, ""); match {
			return choices
		}
	}
	return nil
}
