package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/alecthomas/kingpin/v2"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/deliver"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/web"
)

const (
	deadLettersPath = "/api/v1/dead-letters"
	// maxRefusedShown is how many refused letters a replay names.
	maxRefusedShown = 20
)

type deadLetterFlags struct {
	client  clientFlags
	sink    string
	ids     []string
	since   string
	json    bool
	all     bool
	to      string
	waiting bool
}

// deadLettersCommand adds the command and returns what its parts are called and do.
func deadLettersCommand(app *kingpin.Application, e *environment) map[string]func(context.Context) error {
	c := app.Command("dead-letters", "Look at what a sink of the running daemon refused for good, send it again, or delete it.")
	f := &e.letters
	clientFlagsOf(c, &f.client)
	c.Flag("sink", "Only letters of this sink.").StringVar(&f.sink)
	c.Flag("id", "Only the letter with this id, or of the event with this id; may be repeated.").StringsVar(&f.ids)
	c.Flag("since", "Only letters since then: a duration, as 1h, or a time, as 2026-11-20T10:00:00Z.").StringVar(&f.since)
	part := func(name, help string, run func(context.Context) error, more func(*kingpin.CmdClause), validate func() error) (string, func(context.Context) error) {
		p := c.Command(name, help)
		more(p)
		p.Validate(func(*kingpin.CmdClause) error { return firstError(f.validate(), validate()) })
		return p.FullCommand(), run
	}
	commands := map[string]func(context.Context) error{}
	add := func(name string, run func(context.Context) error) { commands[name] = run }
	add(part("list", "List dead letters, oldest first.", e.listDeadLetters, func(p *kingpin.CmdClause) {
		p.Flag("json", "One JSON object per line.").BoolVar(&f.json)
	}, func() error { return nil }))
	add(part("show", "Show dead letters as a whole, with the event.", e.showDeadLetters, func(p *kingpin.CmdClause) {
		p.Flag("json", "One JSON object per line.").BoolVar(&f.json)
	}, func() error { return f.selects("") }))
	add(part("replay", "Send dead letters to their sink again, one after the other, and delete those that it accepts.", e.replayDeadLetters, func(p *kingpin.CmdClause) {
		p.Flag("all", "All dead letters of all sinks.").BoolVar(&f.all)
		p.Flag("to", "Send them to this sink instead, after a sink was renamed for example.").PlaceHolder("SINK").StringVar(&f.to)
	}, func() error { return f.selects(" or --all") }))
	add(part("purge", "Delete dead letters, or with --waiting the events that wait for a sink that is not configured any more.", e.purgeDeadLetters, func(p *kingpin.CmdClause) {
		p.Flag("all", "All dead letters of all sinks.").BoolVar(&f.all)
		p.Flag("waiting", "Instead of dead letters: all events that wait for the sink --sink, which is not configured any more.").BoolVar(&f.waiting)
	}, func() error {
		if f.waiting && (f.sink == "" || len(f.ids) > 0 || f.since != "" || f.all) {
			return errors.New("--waiting goes with --sink and nothing else")
		}
		return f.selects(" or --all")
	}))
	return commands
}

func (f *deadLetterFlags) validate() error {
	if f.since != "" {
		if _, err := web.ParseSince(f.since, time.Now()); err != nil {
			return fmt.Errorf("--since: %w", err)
		}
	}
	if slices.Contains(f.ids, "") {
		return errors.New("--id must not be empty")
	}
	if f.all && (f.sink != "" || len(f.ids) > 0 || f.since != "") {
		return errors.New("--all goes with no --sink, --id or --since")
	}
	return f.client.validate()
}

// selects fails where nothing says which letters are meant.
func (f *deadLetterFlags) selects(or string) error {
	if f.sink == "" && len(f.ids) == 0 && f.since == "" && !f.all {
		return errors.New("say which dead letters are meant: --sink, --id, --since" + or)
	}
	return nil
}

// query is the filter as the API has it. A duration becomes a time, so that all pages mean the same.
func (f *deadLetterFlags) query(now time.Time) (url.Values, error) {
	q := url.Values{}
	if f.sink != "" {
		q.Set("sink", f.sink)
	}
	for _, id := range f.ids {
		q.Add("id", id)
	}
	if f.since != "" {
		t, err := web.ParseSince(f.since, now)
		if err != nil {
			return nil, fmt.Errorf("--since: %w", err)
		}
		q.Set("since", t.UTC().Format(time.RFC3339Nano))
	}
	if f.all {
		q.Set("all", "true")
	}
	return q, nil
}

// found notes which of the ids that were asked for there are.
func (f *deadLetterFlags) found(ids map[string]bool) error {
	var missing []string
	for _, id := range f.ids {
		if !ids[id] {
			missing = append(missing, id)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("there is no such dead letter: %s", strings.Join(missing, ", "))
	}
	return nil
}

// eachDeadLetter fetches the letters that were asked for, page by page.
func (e *environment) eachDeadLetter(ctx context.Context, c *client, page func([]deliver.DeadLetter) error) error {
	q, err := e.letters.query(time.Now())
	if err != nil {
		return err
	}
	ids := map[string]bool{}
	for {
		var list web.DeadLetterList
		if err := c.get(ctx, http.MethodGet, deadLettersPath, q, &list); err != nil {
			return err
		}
		for i := range list.DeadLetters {
			ids[list.DeadLetters[i].ID], ids[list.DeadLetters[i].EventID] = true, true
		}
		if err := page(list.DeadLetters); err != nil {
			return err
		}
		if list.Next == "" {
			return e.letters.found(ids)
		}
		q.Set("after", list.Next)
	}
}

// withClient runs a part of the command with a client for the daemon.
func (e *environment) withClient(what string, run func(*client) error) error {
	c, err := newClient(e.letters.client)
	if err == nil {
		c.terminal = e.stderr
		defer c.close()
		err = run(c)
	}
	if err != nil {
		return fmt.Errorf("dead-letters %s: %w", what, err)
	}
	return nil
}

func (e *environment) listDeadLetters(ctx context.Context) error {
	return e.withClient("list", func(c *client) error {
		width, n := terminalWidth(e.stdout), 0
		err := e.eachDeadLetter(ctx, c, func(letters []deliver.DeadLetter) error {
			var out bytes.Buffer
			if e.letters.json {
				enc := json.NewEncoder(&out)
				enc.SetEscapeHTML(false)
				for i := range letters {
					if err := enc.Encode(&letters[i]); err != nil {
						return err
					}
				}
			} else {
				writeTable(&out, letters, n == 0, width)
			}
			n += len(letters)
			_, err := e.stdout.Write(out.Bytes())
			return err
		})
		if err == nil && n == 0 && !e.letters.json {
			fmt.Fprintln(e.stderr, "no dead letters")
		}
		return err
	})
}

// writeTable writes letters as a table. Where the width of the terminal is known the reason ends there.
func writeTable(w io.Writer, letters []deliver.DeadLetter, header bool, width int) {
	if len(letters) == 0 {
		return
	}
	sinkWidth := len("SINK")
	for i := range letters {
		sinkWidth = max(sinkWidth, len([]rune(letters[i].Sink)))
	}
	line := func(id, sink, at, status, reason string) {
		start := fmt.Sprintf("%-16s  %-*s  %-19s  %-6s  ", id, sinkWidth, sink, at, status)
		if width > 0 {
			reason = oneLine(reason, max(10, width-len([]rune(start))))
		}
		fmt.Fprintln(w, strings.TrimRight(start+reason, " "))
	}
	if header {
		line("ID", "SINK", "TIME", "STATUS", "REASON")
	}
	for i := range letters {
		l := &letters[i]
		line(l.ID, l.Sink, l.Time.Local().Format(time.DateTime), statusText(l.Status), oneLine(l.Reason, 0))
	}
}

func statusText(status int) string {
	if status == 0 {
		return "-"
	}
	return strconv.Itoa(status)
}

// oneLine returns s as one line that does nothing to a terminal, of at most limit characters; 0: of any length.
func oneLine(s string, limit int) string {
	line := []rune(strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s))
	if limit > 0 && len(line) > limit {
		line = append(line[:max(0, limit-3)], '.', '.', '.')
	}
	return string(line)
}

func (e *environment) showDeadLetters(ctx context.Context) error {
	return e.withClient("show", func(c *client) error {
		n := 0
		return e.eachDeadLetter(ctx, c, func(letters []deliver.DeadLetter) error {
			for i := range letters {
				var l deliver.DeadLetter
				if err := c.get(ctx, http.MethodGet, deadLettersPath+"/"+letters[i].ID, nil, &l); err != nil {
					return err
				}
				var out bytes.Buffer
				if e.letters.json {
					enc := json.NewEncoder(&out)
					enc.SetEscapeHTML(false)
					if err := enc.Encode(&l); err != nil {
						return err
					}
				} else {
					if n > 0 {
						fmt.Fprintln(&out)
					}
					if err := writeLetter(&out, &l); err != nil {
						return err
					}
				}
				n++
				if _, err := e.stdout.Write(out.Bytes()); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// writeLetter writes a letter for people.
func writeLetter(out *bytes.Buffer, l *deliver.DeadLetter) error {
	line := func(name, value string) { fmt.Fprintf(out, "%-9s %s\n", name+":", oneLine(value, 0)) }
	line("letter", l.ID)
	line("sink", l.Sink)
	line("time", l.Time.Local().Format("2006-01-02 15:04:05.000 -07:00"))
	line("request", l.Request)
	line("status", statusText(l.Status))
	line("reason", l.Reason)
	if l.Event == nil {
		line("data", strconv.Itoa(l.Size)+" bytes that are not an event, as Go writes them:")
		fmt.Fprintf(out, "%q\n", l.Data)
		return nil
	}
	line("event", l.EventType+" "+l.EventID)
	if err := json.Indent(out, l.Event, "", "  "); err != nil {
		return fmt.Errorf("the event of %s: %w", l.ID, err)
	}
	out.WriteByte('\n')
	return nil
}

func (e *environment) purgeDeadLetters(ctx context.Context) error {
	return e.withClient("purge", func(c *client) error {
		var purged web.Purged
		if e.letters.waiting {
			err := c.get(ctx, http.MethodDelete, "/api/v1/removed-sinks/"+url.PathEscape(e.letters.sink), nil, &purged)
			if err == nil {
				fmt.Fprintf(e.stdout, "%d %s that waited for sink %s purged\n", purged.Purged, plural(int(purged.Purged), "event"), e.letters.sink)
			}
			return err
		}
		q, err := e.letters.query(time.Now())
		if err != nil {
			return err
		}
		if err := c.get(ctx, http.MethodDelete, deadLettersPath, q, &purged); err != nil {
			return err
		}
		fmt.Fprintf(e.stdout, "%d dead %s purged\n", purged.Purged, plural(int(purged.Purged), "letter"))
		if purged.Purged == 0 && len(e.letters.ids) > 0 {
			return e.letters.found(nil)
		}
		return nil
	})
}

func (e *environment) replayDeadLetters(ctx context.Context) error {
	return e.withClient("replay", func(c *client) error {
		q, err := e.letters.query(time.Now())
		if err != nil {
			return err
		}
		if e.letters.to != "" {
			q.Set("to", e.letters.to)
		}
		resp, err := c.do(ctx, http.MethodPost, deadLettersPath+"/replay", q)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		r := replayReport{out: e.stdout, ids: map[string]bool{}, progress: newProgress(e.stderr)}
		return r.read(ctx, e, json.NewDecoder(resp.Body))
	})
}

// replayReport tells a person what a replay does.
type replayReport struct {
	out      io.Writer
	progress progress
	ids      map[string]bool
	seen     deliver.ReplayCounts // so far, of all sinks
	stopped  []error
}

func (r *replayReport) read(ctx context.Context, e *environment, steps *json.Decoder) error {
	for {
		var s deliver.ReplayStep
		if err := steps.Decode(&s); err != nil {
			r.progress.clear()
			counts := fmt.Sprintf("%d were accepted and %d refused again; the rest stays", r.seen.Accepted, r.seen.Refused)
			if ctx.Err() != nil {
				return fmt.Errorf("interrupted after %s", counts)
			}
			return fmt.Errorf("the connection to the daemon was lost after %s, and the last accepted ones may be sent once more", counts)
		}
		if s.Outcome == deliver.ReplayDone {
			r.progress.clear()
			return r.done(e, s.Counts)
		}
		r.take(&s)
	}
}

// take takes in one step.
func (r *replayReport) take(s *deliver.ReplayStep) {
	note := ""
	switch s.Outcome {
	case deliver.ReplayBegins:
		r.seen.Letters += s.Counts.Letters
	case deliver.ReplayAccepted:
		r.seen.Accepted++
	case deliver.ReplayRefused:
		r.seen.Refused++
		r.progress.clear()
		switch {
		case r.seen.Refused <= maxRefusedShown:
			fmt.Fprintf(r.out, "%s  refused again: %s\n", s.ID, oneLine(s.Reason, 0))
		case r.seen.Refused == maxRefusedShown+1:
			fmt.Fprintln(r.out, "more were refused again; dead-letters list shows them")
		}
	case deliver.ReplayWaits:
		note = ", " + s.Reason
	case deliver.ReplayEnded, deliver.ReplayStopped:
		r.progress.clear()
		to := ""
		if s.To != "" {
			to = " to sink " + s.To
		}
		fmt.Fprintf(r.out, "sink %s: %d accepted%s, %d refused again, %d not tried\n", s.Sink, s.Counts.Accepted, to, s.Counts.Refused, s.Counts.Left)
		if s.Outcome == deliver.ReplayStopped {
			r.stopped = append(r.stopped, fmt.Errorf("stopped at sink %s: %s", s.Sink, oneLine(s.Reason, 0)))
		}
	}
	if s.ID != "" {
		r.ids[s.ID], r.ids[s.EventID] = true, true
	}
	r.progress.show(note != "", fmt.Sprintf("%d of %d sent, %d refused again%s", r.seen.Accepted+r.seen.Refused, r.seen.Letters, r.seen.Refused, note))
}

// done says how it ended: well if all letters were accepted.
func (r *replayReport) done(e *environment, all *deliver.ReplayCounts) error {
	if all.Letters == 0 && len(e.letters.ids) == 0 {
		fmt.Fprintln(r.out, "no dead letters")
		return nil
	}
	errs := r.stopped
	if len(errs) == 0 {
		if err := e.letters.found(r.ids); err != nil {
			errs = append(errs, err)
		}
	}
	if all.Refused > 0 {
		errs = append(errs, fmt.Errorf("%d %s refused again", all.Refused, plural(all.Refused, "letter")))
	}
	if len(errs) == 0 {
		return nil
	}
	texts := make([]string, len(errs))
	for i, err := range errs {
		texts[i] = err.Error()
	}
	return errors.New(strings.Join(texts, "; "))
}
