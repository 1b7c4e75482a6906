package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"sync"

	"github.com/alecthomas/kingpin/v2"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/check"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/cmdline"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/route"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/terminal"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/units"
)

func checkConfigCommand(app *kingpin.Application, e *environment) {
	c := e.command(app, "check-config", "Check a configuration file and print every problem, one per line.",
		e.checkConfig)
	cmdline.Filled(c.Arg("FILE", "The configuration file.").Required(), &e.configFile)
	c.Flag("online",
		"Also look at each HMC's certificates, log on, say what the userid may see and which permissions it lacks, "+
			"connect the link and log off, and probe each sink without sending an event.").BoolVar(&e.checkOnline)
	cmdline.Filled(c.Flag("event",
		"Also say which sinks the event in this file goes to, and why: one event as JSON, as a sink gets it; "+
			"- for standard input.").PlaceHolder("FILE"), &e.checkEvent)
	cmdline.Filled(c.Flag("test",
		"Also hold events against what is expected of them: a YAML list of {event, expect}, with sinks, severity, "+
			"labels, runbook and body to expect.").PlaceHolder("FILE"), &e.checkExpectations)
}

func (e *environment) checkConfig(ctx context.Context) error {
	cfg, warnings, err := config.Check(e.configFile)
	for _, w := range warnings {
		fmt.Fprintf(e.stderr, "warning: %s\n", w)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(e.stdout, "%s is valid: %d %s, %d %s\n", e.configFile,
		len(cfg.HMCs), units.Plural(len(cfg.HMCs), "HMC"), len(cfg.Sinks), units.Plural(len(cfg.Sinks), "sink"))
	if e.checkEvent != "" {
		if err := e.printRoutes(cfg); err != nil {
			return err
		}
	}
	var failed error
	if e.checkExpectations != "" {
		failed = check.Expectations(cfg, e.checkExpectations, version, terminal.Text{Writer: e.stdout})
	}
	if e.checkOnline {
		return errors.Join(failed, e.checkOnlineOf(ctx, cfg))
	}
	return failed
}

// checkOnlineOf tries the configuration. A terminal shows meanwhile what it waits for.
func (e *environment) checkOnlineOf(ctx context.Context, cfg *config.Config) error {
	steps := &stepList{steps: make(map[string]string)}
	line := terminal.StartWaiting(e.stderr, steps.String)
	err := check.Run(ctx, check.Options{
		Config: cfg, Version: version, Out: terminal.Text{Writer: line.Above(e.stdout)}, Step: steps.set,
	})
	line.Stop()
	switch {
	case ctx.Err() != nil:
		return errors.New("interrupted; the sessions are logged off")
	case err == nil:
		fmt.Fprintln(e.stdout, "everything works")
	}
	return err
}

// stepList is what is being done, by whom it is done for.
type stepList struct {
	mu    sync.Mutex
	steps map[string]string
}

func (l *stepList) set(name, step string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if step == "" {
		delete(l.steps, name)
		return
	}
	l.steps[name] = step
}

// String names one of them, and how many others there are.
func (l *stepList) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.steps) == 0 {
		return "checking"
	}
	name := slices.Min(slices.Collect(maps.Keys(l.steps)))
	text := name + ": " + l.steps[name]
	if n := len(l.steps) - 1; n > 0 {
		text += fmt.Sprintf(", and %d more", n)
	}
	return text
}

// maxEventFile bounds the file of an event: a notification's body has 4 MiB at most.
const maxEventFile = 128 << 20

// printRoutes prints which sinks an event goes to, and why.
func (e *environment) printRoutes(cfg *config.Config) error {
	in, name := io.Reader(os.Stdin), "standard input"
	if e.checkEvent != "-" {
		f, err := os.Open(e.checkEvent)
		if err != nil {
			return fmt.Errorf("--event: %w", err)
		}
		defer func() { _ = f.Close() }()
		in, name = f, e.checkEvent
	}
	var ev event.Event
	d := check.EventDecoder(io.LimitReader(in, maxEventFile))
	if err := d.Decode(&ev); err != nil {
		return fmt.Errorf("--event: %s %s", name, check.EventMistake(err))
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("--event: %s has something behind the event", name)
	}
	if ev.Type == "" || ev.HMC == "" {
		return fmt.Errorf("--event: %s is no event: it has no type or no hmc", name)
	}
	if err := check.Rated(cfg, &ev); err != nil {
		return fmt.Errorf("--event: %s %w", name, err)
	}
	e.noteTypes([]string{ev.Type})
	if !slices.ContainsFunc(cfg.HMCs, func(h config.HMC) bool { return h.Name == ev.HMC }) {
		fmt.Fprintf(e.stderr, "no HMC of the configuration is called %q\n", ev.HMC)
	}
	for _, r := range route.All(cfg, &ev) {
		verdict := "does not get it"
		if r.Gets {
			verdict = "gets it"
		}
		if _, err := fmt.Fprintf(e.stdout, "sink %s %s: %s\n", r.Sink, verdict, r.Why); err != nil {
			return err
		}
	}
	return nil
}
