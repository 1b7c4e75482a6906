package main

import (
	"context"
	"fmt"

	"github.com/alecthomas/kingpin/v2"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/bridge"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
)

func checkConfigCommand(app *kingpin.Application, e *environment) string {
	c := app.Command("check-config", "Check a configuration file and print every problem, one per line.")
	c.Arg("FILE", "The configuration file.").Required().StringVar(&e.configFile)
	c.Flag("online", "Also log on to each HMC, connect its link, and probe each sink without sending an event.").BoolVar(&e.checkOnline)
	return c.FullCommand()
}

func (e *environment) checkConfig(ctx context.Context) error {
	cfg, err := config.Load(e.configFile)
	if err != nil {
		return err
	}
	for _, w := range cfg.Warnings {
		fmt.Fprintf(e.stderr, "warning: %s\n", w)
	}
	fmt.Fprintf(e.stdout, "%s is valid: %d %s, %d %s\n", e.configFile,
		len(cfg.HMCs), plural(len(cfg.HMCs), "HMC"), len(cfg.Sinks), plural(len(cfg.Sinks), "sink"))
	if e.checkOnline {
		return bridge.Check(ctx, cfg, version, e.stdout)
	}
	return nil
}

func plural(n int, noun string) string {
	if n == 1 {
		return noun
	}
	return noun + "s"
}
