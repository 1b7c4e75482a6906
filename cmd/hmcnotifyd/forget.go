package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"

	"github.com/alecthomas/kingpin/v2"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/cmdline"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/units"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/web"
)

type forgetFlags struct {
	client clientFlags
	hmc    string
}

func forgetCommand(app *kingpin.Application, e *environment) {
	f := &e.forget
	c := e.command(app, "forget",
		"Delete what the running daemon knows of an HMC that is not in its configuration any more.",
		e.forgetHMC, f.client.validate)
	cmdline.Filled(c.Flag("hmc", "The HMC, by the name that it had.").Required(), &f.hmc)
	clientFlagsOf(c, &f.client)
}

func (e *environment) forgetHMC(ctx context.Context) error {
	return e.withClient("forget", e.forget.client, func(c *client) error {
		var purged web.Purged
		path := "/api/v1/removed-hmcs/" + url.PathEscape(e.forget.hmc)
		if err := c.get(ctx, http.MethodDelete, path, nil, &purged); err != nil {
			return err
		}
		fmt.Fprintf(e.stdout, "HMC %s is forgotten: %d %s\n",
			e.forget.hmc, purged.Purged, units.Plural(int(purged.Purged), "value"))
		return nil
	})
}
