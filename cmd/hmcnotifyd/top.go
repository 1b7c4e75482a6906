package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/alecthomas/kingpin/v2"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/terminal"
)

// minInterval is how often the command top may ask a daemon at most.
const minInterval = 500 * time.Millisecond

type topFlags struct {
	client   clientFlags
	interval time.Duration
}

func topCommand(app *kingpin.Application, e *environment) {
	f := &e.top
	c := e.command(app, "top",
		"Show HMCs, sinks, rates and troubles of a running daemon, what is sick first, until q or Ctrl-C; "+
			"once where the output is no terminal.",
		e.watch, f.client.validate, func() error {
			if f.interval < minInterval {
				return fmt.Errorf("--interval must be %s or more", minInterval)
			}
			return nil
		})
	clientFlagsOf(c, &f.client)
	c.Flag("interval", "How often the daemon is asked.").Default("2s").DurationVar(&f.interval)
}

// watch is the command top.
func (e *environment) watch(ctx context.Context) error {
	return e.withClient("top", e.top.client, func(c *client) error {
		c.terminal = nil
		ask := func() (s status.Status, err error) {
			err = c.get(ctx, http.MethodGet, statusPath, nil, &s)
			return s, err
		}
		first, err := ask()
		if err != nil {
			return err
		}
		width := terminal.Width(e.stdout)
		o := terminal.TopOptions{
			Ask: ask, Address: c.base.String(), Interval: e.top.interval, Color: width > 0 && terminal.WantsColor(),
		}
		if width == 0 {
			_, err := io.WriteString(e.stdout, terminal.Once(&first, o))
			return err
		}
		var keys io.Reader
		if terminal.Width(os.Stdin) > 0 {
			keys = os.Stdin
		}
		return terminal.Top(ctx, keys, e.stdout, &first, o)
	})
}
