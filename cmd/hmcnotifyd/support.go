package main

import (
	"context"
	"net/http"
	"net/url"
	"os"

	"github.com/alecthomas/kingpin/v2"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/support"
)

type supportFlags struct {
	client   clientFlags
	out, log string
}

func supportCommand(app *kingpin.Application, e *environment) {
	f := &e.support
	c := e.command(app, "support",
		"Gather what goes with a report of a bug (--config.file, status, metrics, the last events and lines of the "+
			"log), without secrets and with names replaced, and say what is in it.",
		e.supporting, f.client.validate)
	c.Flag("out", "The .tar.gz to write, which must not be there yet.").Required().PlaceHolder("FILE").StringVar(&f.out)
	c.Flag("log", "The daemon's log, or - for standard input.").PlaceHolder("FILE").StringVar(&f.log)
	clientFlagsOf(c, &f.client)
}

func (e *environment) supporting(ctx context.Context) error {
	f := &e.support
	return e.withClient("support", f.client, func(c *client) error {
		return support.Bundle(ctx, f.out, e.stdout, support.Options{
			Program: versionText(), ConfigFile: e.daemon.configFile, Log: f.log, Stdin: os.Stdin,
			Get: func(ctx context.Context, path string, query url.Values) (*http.Response, error) {
				return c.do(ctx, http.MethodGet, path, query, "")
			},
		})
	})
}
