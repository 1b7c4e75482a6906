package main

import (
	"cmp"
	"context"
	"embed"
	"io"
	"net/http"
	"time"

	"github.com/alecthomas/kingpin/v2"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/commandline"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
)

// completionFlag, as the first argument, makes the program print what may come next on a command
// line, one per line: the scripts ask for it. It has the name that kingpin's own has, which
// cannot do with a default command, nor with the flags of the command above a subcommand.
const completionFlag = "--completion-bash"

func (e *environment) man(context.Context) error {
	app, _ := newApplication(new(environment))
	page, err := commandline.ManPage(commandline.Model(app), version)
	if err == nil {
		_, err = io.WriteString(e.stdout, page)
	}
	return err
}

// namesTimeout is how long a running daemon may take to list its sinks and HMCs: somebody has
// pressed the tab key and waits.
const namesTimeout = time.Second

// completions are the scripts that ask for them, a file for each shell.
//
//go:embed completion.bash completion.zsh completion.fish
var completions embed.FS

func completionCommand(app *kingpin.Application, e *environment) {
	e.command(app, commandline.CompletionCommand,
		"Print the completion script for a shell: bash, zsh or fish. The packages install all three.",
		e.completion).Arg("SHELL", "The shell.").Required().EnumVar(&e.shell, commandline.Shells()...)
}

func (e *environment) completion(context.Context) error {
	script, err := completions.ReadFile("completion." + e.shell)
	if err == nil {
		_, err = e.stdout.Write(script)
	}
	return err
}

// namesKnown are those that a running daemon has for the values of a flag.
func namesKnown(ctx context.Context, url, flag string) (names []string) {
	s := askStatus(ctx, url)
	switch flag {
	case "hmc":
		for _, h := range s.HMCs {
			names = append(names, h.Name)
		}
	default:
		for _, sink := range s.Sinks {
			names = append(names, sink.Name)
		}
	}
	return names
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
