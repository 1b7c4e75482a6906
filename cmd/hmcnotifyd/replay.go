package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/alecthomas/kingpin/v2"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/cmdline"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/replay"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/terminal"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/units"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/web"
)

type replayFlags struct {
	client       clientFlags
	sink         string
	since, until string
	types, hmcs  []string
	dryRun       bool
	// what since and until stand for
	from, to time.Time
}

func replayCommand(app *kingpin.Application, e *environment) {
	f := &e.replay
	c := e.command(app, "replay", "Send stored events once more through a sink of a running daemon, "+
		"with the ids they had, until all are sent or Ctrl-C.", e.replayStored, f.validate)
	clientFlagsOf(c, &f.client)
	cmdline.Filled(c.Flag("sink", "The sink; what its match and drop leave out is left out.").Required(), &f.sink)
	cmdline.Filled(c.Flag("since",
		"Events received since then: a duration before now, as 1h, or a time, as 2026-11-20T10:00:00Z.").
		Required(), &f.since)
	cmdline.Filled(c.Flag("until", "Only events received before then: a duration before now, or a time."), &f.until)
	c.Flag("type", "Only events of this type, a regular expression that must match the whole; may be repeated.").
		StringsVar(&f.types)
	c.Flag("hmc", "Only events of this HMC, a regular expression; may be repeated.").StringsVar(&f.hmcs)
	c.Flag("dry-run", "Only count them.").BoolVar(&f.dryRun)
}

func (f *replayFlags) validate() error {
	q, err := web.ParseReplay(f.query().Encode())
	if err != nil {
		return fmt.Errorf("--%w", err)
	}
	f.from, f.to = q.Since, q.Until
	return f.client.validate()
}

// query is what the API is asked: where times are known, with these, so that a duration counts from
// when the command was given.
func (f *replayFlags) query() url.Values {
	q := url.Values{"since": {f.since}, "type": f.types, "hmc": f.hmcs}
	if f.until != "" {
		q.Set("until", f.until)
	}
	if !f.from.IsZero() {
		q.Set("since", f.from.UTC().Format(time.RFC3339Nano))
	}
	if !f.to.IsZero() {
		q.Set("until", f.to.UTC().Format(time.RFC3339Nano))
	}
	if f.dryRun {
		q.Set("dry_run", "true")
	}
	return q
}

func (e *environment) replayStored(ctx context.Context) error {
	e.noteTypes(e.replay.types)
	return e.withClient("replay", e.replay.client, func(c *client) error {
		path := "/api/v1/sinks/" + url.PathEscape(e.replay.sink) + "/replay"
		resp, err := c.do(ctx, http.MethodPost, path, e.replay.query(), "")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		r := storedReport{out: e.stdout, dryRun: e.replay.dryRun, progress: terminal.NewProgress(e.stderr)}
		return r.read(ctx, json.NewDecoder(resp.Body))
	})
}

// storedReport shows a person the progress of a replay of stored events.
type storedReport struct {
	out      io.Writer
	dryRun   bool
	progress terminal.Progress
	// what was reported last
	begins replay.Step
	counts replay.Counts
	at     *time.Time
}

func (r *storedReport) read(ctx context.Context, steps *json.Decoder) error {
	for {
		var s replay.Step
		if err := steps.Decode(&s); err != nil {
			r.progress.Clear()
			why := "the connection to the daemon was lost"
			if ctx.Err() != nil {
				why = "interrupted"
			}
			return fmt.Errorf("%s: %s%s", why, r.text(), r.goesOn())
		}
		if s.Counts != nil {
			r.counts = *s.Counts
		}
		if s.At != nil {
			r.at = s.At
		}
		note := ""
		switch s.Outcome {
		case replay.Begins:
			r.begins = s
			if s.HeldFrom != nil && s.Since.Before(*s.HeldFrom) {
				fmt.Fprintf(r.out, "what is stored begins at %s\n", timeText(*s.HeldFrom))
			}
		case replay.Refused:
			r.progress.Clear()
			fmt.Fprintf(r.out, "%s %s  refused: %s\n",
				oneLine(s.EventType, 0), oneLine(s.EventID, 0), oneLine(s.Reason, 0))
		case replay.Waits:
			note = ", waits: " + oneLine(s.Reason, 0)
		case replay.Stopped, replay.Done:
			r.progress.Clear()
			return r.done(&s)
		}
		r.progress.Show(note != "", r.part()+r.text()+note)
	}
}

func timeText(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05.000 -07:00") }

// part is how much of the time is done with.
func (r *storedReport) part() string {
	b := &r.begins
	if r.at == nil || b.Since == nil || b.Until == nil {
		return ""
	}
	from := *b.Since
	if b.HeldFrom != nil && b.HeldFrom.After(from) {
		from = *b.HeldFrom
	}
	whole := b.Until.Sub(from)
	if whole <= 0 {
		return ""
	}
	return fmt.Sprintf("%d%%: ", max(0, min(100, int(100*r.at.Sub(from)/whole))))
}

// text is what became of the events.
func (r *storedReport) text() string {
	c := &r.counts
	if r.dryRun {
		return fmt.Sprintf("%d %s would be sent, %d left out by match and drop",
			c.Events-c.Filtered, units.Plural(c.Events-c.Filtered, "event"), c.Filtered)
	}
	return fmt.Sprintf("%d %s delivered, %d refused, %d left out by match and drop",
		c.Delivered, units.Plural(c.Delivered, "event"), c.Refused, c.Filtered)
}

// goesOn says how a replay that was stopped goes on.
func (r *storedReport) goesOn() string {
	if r.dryRun || r.at == nil {
		return ""
	}
	return "; --since " + r.at.UTC().Format(time.RFC3339Nano) + " goes on from there"
}

func (r *storedReport) done(s *replay.Step) error {
	fmt.Fprintf(r.out, "sink %s: %s\n", s.Sink, r.text())
	var problems []string
	if s.Outcome == replay.Stopped {
		problems = append(problems, "stopped: "+oneLine(s.Reason, 0)+r.goesOn())
	}
	if n := r.counts.Refused; n > 0 {
		problems = append(problems, fmt.Sprintf("%d %s refused", n, units.Plural(n, "event")))
	}
	if n := r.counts.Missing; n > 0 {
		problems = append(problems, fmt.Sprintf("%d stored %s went before their turn came, by storage.max_bytes",
			n, units.Plural(n, "event")))
	}
	if len(problems) > 0 {
		return errors.New(strings.Join(problems, "; "))
	}
	return nil
}
