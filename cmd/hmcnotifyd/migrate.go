package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/alecthomas/kingpin/v2"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/cmdline"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/ha"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/terminal"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/units"
)

func migrateCommand(app *kingpin.Application, e *environment) {
	c := e.command(app, "migrate",
		"Copy what a stopped daemon has in --storage.path to the NATS cluster of a configuration, or back: events, "+
			"what is known of HMCs, positions of sinks, dead letters. What there was stays, and is marked as moved.",
		e.migrate, e.daemon.validate)
	c.Flag("to", "Where to: jetstream or directory.").Required().EnumVar(&e.migrateTo, "jetstream", "directory")
	cmdline.Filled(c.Arg("CONFIG", "The configuration file, with storage.jetstream.").Required(), &e.configFile)
}

func (e *environment) migrate(ctx context.Context) error {
	cfg, err := config.Load(e.configFile)
	if err != nil {
		return err
	}
	shown := terminal.NewProgress(e.stderr)
	m := ha.Migration{
		Config: cfg, StoragePath: e.daemon.storagePath, ToDirectory: e.migrateTo == "directory", Version: version,
		Logger:   e.log.Named("migrate"),
		Progress: func(record, of uint64) { shown.Show(false, fmt.Sprintf("copied up to event %d of %d", record, of)) },
	}
	done, err := m.Run(ctx)
	shown.Clear()
	return e.migrated(ctx, done, err)
}

// migrated says how it ended. A signal may come when all is done.
func (e *environment) migrated(ctx context.Context, done ha.Migrated, err error) error {
	switch {
	case err != nil && ctx.Err() != nil:
		return errors.Join(errors.New("migrate: interrupted: what there was is as it was; begin again"), err)
	case err != nil:
		return fmt.Errorf("migrate: %w", err)
	}
	fmt.Fprintf(e.stdout, "copied %d %s, the positions of %d %s and %d %s from %s to %s\n"+
		"%s stays, and is marked as moved\n",
		done.Events, units.Plural(int(done.Events), "event"), done.Sinks, units.Plural(done.Sinks, "sink"),
		done.Letters, units.Plural(done.Letters, "dead letter"), done.From, done.To, done.From)
	return nil
}
