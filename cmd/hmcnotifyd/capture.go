package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/alecthomas/kingpin/v2"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/capture"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/check"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/terminal"
)

type captureFlags struct {
	hmc, out, inspect, config string
	duration                  time.Duration
	plain                     bool
}

func captureCommand(app *kingpin.Application, e *environment) {
	f := &e.capture
	c := e.command(app, "capture", "Write down what an HMC says, without secrets and with names replaced, "+
		"in a session of its own that only reads; or show what such a file holds.", e.capturing, f.validate)
	c.Flag("hmc", "The HMC, by its name in the configuration.").PlaceHolder("NAME").StringVar(&f.hmc)
	c.Flag("out", "The file to write, which must not be there yet.").PlaceHolder("FILE").StringVar(&f.out)
	c.Flag("duration", "How long. Ctrl-C ends it before, and what there is then is written.").
		Default("10m").DurationVar(&f.duration)
	c.Flag("plain", "Keep names, addresses and texts as they are. Secrets are left out all the same.").BoolVar(&f.plain)
	c.Flag("inspect", "Show what is in this file, and connect to nothing.").PlaceHolder("FILE").StringVar(&f.inspect)
	c.Arg("CONFIG", "The configuration file.").StringVar(&f.config)
}

func (f *captureFlags) validate() error {
	switch {
	case f.inspect != "" && (f.config != "" || f.hmc != "" || f.out != ""):
		return errors.New("--inspect stands alone")
	case f.inspect != "":
	case f.hmc == "" || f.out == "" || f.config == "":
		return errors.New("capture needs --hmc NAME, --out FILE and the configuration file, or --inspect FILE")
	case f.duration <= 0 || f.duration > 24*time.Hour:
		return errors.New("--duration must be from 1ns to 24h")
	}
	return nil
}

func (e *environment) capturing(ctx context.Context) error {
	f := &e.capture
	if f.inspect != "" {
		return e.inspectCapture(ctx, f.inspect)
	}
	cfg, err := config.Load(f.config)
	if err != nil {
		return err
	}
	var line func()
	written, err := check.Capture(ctx, check.CaptureOptions{
		Config: cfg, HMC: f.hmc, File: f.out, Duration: f.duration, Names: f.plain, Version: version, Logger: e.log,
		Progress: func(what func() string) { line = terminal.Waiting(e.stderr, what) },
	})
	if line != nil {
		line()
	}
	if err != nil {
		err = fmt.Errorf("capture: %w", err)
	}
	if written {
		fmt.Fprintf(e.stdout, "%s is written; look at it before you give it to anybody:\n\n", f.out)
		err = errors.Join(err, e.inspectCapture(context.WithoutCancel(ctx), f.out)) // Ctrl-C has ended the capture
	}
	return err
}

// inspectCapture shows a file. ctx ends the reading of it.
func (e *environment) inspectCapture(ctx context.Context, name string) (err error) {
	in, err := capture.Open(ctx, name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	return capture.Inspect(terminal.Text{Writer: e.stdout}, in)
}
