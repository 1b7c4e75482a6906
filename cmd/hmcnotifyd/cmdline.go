package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"time"

	"github.com/alecthomas/kingpin/v2"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/cmdline"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
)

// namesTimeout is how long a running daemon may take to list its sinks and HMCs: somebody has
// pressed the tab key and waits.
const namesTimeout = time.Second

func completionCommand(app *kingpin.Application, e *environment) {
	e.command(app, "completion",
		"Print the completion script for a shell: bash, zsh or fish. The packages install all three.",
		e.completion).Arg("SHELL", "The shell.").Required().EnumVar(&e.shell, cmdline.Shells()...)
}

func (e *environment) completion(context.Context) error {
	script, err := cmdline.Script(e.shell)
	if err == nil {
		_, err = e.stdout.Write(script)
	}
	return err
}

// man prints the manual page.
func (e *environment) man(context.Context) error {
	app, _ := newApplication(new(environment))
	page, err := cmdline.ManPage(cmdline.Model(app), version)
	if err == nil {
		_, err = io.WriteString(e.stdout, page)
	}
	return err
}

// flagValues lists what a flag may have that is not part of its definition.
func flagValues(ctx context.Context, flag, url string) (values []string) {
	switch flag {
	case "sink", "to":
		for _, s := range askStatus(ctx, url).Sinks {
			values = append(values, s.Name)
		}
	case "hmc":
		for _, h := range askStatus(ctx, url).HMCs {
			values = append(values, h.Name)
		}
	case "type":
		return event.Types()
	case "severity":
		return event.Severities()
	}
	return values
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
	if c.get(ctx, http.MethodGet, statusPath, nil, &s) != nil {
		return status.Status{}
	}
	return s
}

// noteTypes says which types of events nobody has heard of. There may be others one day.
func (e *environment) noteTypes(types []string) {
	known := event.Types()
	for _, t := range types {
		if near := event.Nearest(t, known); near != "" && !slices.Contains(known, t) && regexp.QuoteMeta(t) == t {
			fmt.Fprintf(e.stderr, "no event of the type %q is known, did you mean %q?\n", t, near)
		}
	}
}
