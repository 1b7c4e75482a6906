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

	"github.com/alecthomas/kingpin/v2"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/cmdline"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/replay"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/terminal"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/units"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/web"
)

const (
	deadLettersPath = "/api/v1/dead-letters"
	// maxRefusedShown is how many refused letters a replay names.
	maxRefusedShown = 20
)

type deadLetterFlags struct {
	client clientFlags
	sink   string
	ids    []string
	since  string
	// the time that since stands for; zero: none
	from    time.Time
	json    bool
	all     bool
	to      string
	waiting bool
}

func deadLettersCommand(app *kingpin.Application, e *environment) {
	c := app.Command("dead-letters",
		"Look at what a sink of the running daemon refused for good, send it again, or delete it.")
	f := &e.letters
	clientFlagsOf(c, &f.client)
	cmdline.Filled(c.Flag("sink", "Only letters of this sink."), &f.sink)
	c.Flag("id", "Only the letter with this id, or of the event with this id; may be repeated.").StringsVar(&f.ids)
	cmdline.Filled(c.Flag("since",
		"Only letters since then: a duration, as 1h, or a time, as 2026-11-20T10:00:00Z."), &f.since)

	orAll := f.selects("--sink, --id, --since or --all")
	list := e.command(c, "list", "List dead letters, oldest first.", e.listDeadLetters, f.validate)
	show := e.command(c, "show", "Show dead letters as a whole, with the event.",
		e.showDeadLetters, f.validate, f.selects("--sink, --id, --since"))
	replay := e.command(c, "replay",
		"Send dead letters to their sink again, one after the other, and delete those that it accepts.",
		e.replayDeadLetters, f.validate, orAll)
	purge := e.command(c, "purge",
		"Delete dead letters, or with --waiting the events that wait for a sink that is not configured any more.",
		e.purgeDeadLetters, f.validate, f.waitsAlone, orAll)
	for _, p := range []*kingpin.CmdClause{list, show} {
		p.Flag("json", "One JSON object per line.").BoolVar(&f.json)
	}
	for _, p := range []*kingpin.CmdClause{replay, purge} {
		p.Flag("all", "All dead letters of all sinks.").BoolVar(&f.all)
	}
	cmdline.Filled(replay.Flag("to", "Send them to this sink instead, after a sink was renamed for example.").
		PlaceHolder("SINK"), &f.to)
	purge.Flag("waiting",
		"Instead of dead letters: all events that wait for the sink --sink, which is not configured any more.").
		BoolVar(&f.waiting)
}

func (f *deadLetterFlags) validate() (err error) {
	if f.since != "" {
		// Now, so that all pages mean the same.
		if f.from, err = web.ParseSince(f.since, time.Now()); err != nil {
			return fmt.Errorf("--since: %w", err)
		}
	}
	if slices.Contains(f.ids, "") {
		return errors.New("--id must not be empty")
	}
	if f.all && (f.sink != "" || f.selective()) {
		return errors.New("--all goes with no --sink, --id or --since")
	}
	return f.client.validate()
}

// selective reports whether the flags leave out letters of a sink.
func (f *deadLetterFlags) selective() bool { return len(f.ids) > 0 || f.since != "" }

// selects returns what fails where no flag selects letters.
func (f *deadLetterFlags) selects(flags string) func() error {
	return func() error {
		if f.sink == "" && !f.selective() && !f.all {
			return errors.New("say which dead letters are meant: " + flags)
		}
		return nil
	}
}

func (f *deadLetterFlags) waitsAlone() error {
	if f.waiting && (f.sink == "" || f.selective() || f.all) {
		return errors.New("--waiting goes with --sink and nothing else")
	}
	return nil
}

// query is the filter as the API has it.
func (f *deadLetterFlags) query() url.Values {
	q := url.Values{}
	if f.sink != "" {
		q.Set("sink", f.sink)
	}
	for _, id := range f.ids {
		q.Add("id", id)
	}
	if f.since != "" {
		q.Set("since", f.from.UTC().Format(time.RFC3339Nano))
	}
	if f.all {
		q.Set("all", "true")
	}
	return q
}

// found fails if one of the ids that were asked for is not among ids.
func (f *deadLetterFlags) found(ids map[string]bool) error {
	missing := slices.DeleteFunc(slices.Clone(f.ids), func(id string) bool { return ids[id] })
	if len(missing) > 0 {
		return fmt.Errorf("there is no such dead letter: %s", strings.Join(missing, ", "))
	}
	return nil
}

// eachPage fetches the letters that were asked for, page by page.
func (e *environment) eachPage(
	ctx context.Context, command string, page func(*client, []replay.DeadLetter) error,
) error {
	return e.withClient(command, e.letters.client, func(c *client) error {
		q, ids := e.letters.query(), map[string]bool{}
		for {
			var list web.DeadLetterList
			if err := c.get(ctx, http.MethodGet, deadLettersPath, q, &list); err != nil {
				return err
			}
			for i := range list.DeadLetters {
				ids[list.DeadLetters[i].ID], ids[list.DeadLetters[i].EventID] = true, true
			}
			if err := page(c, list.DeadLetters); err != nil {
				return err
			}
			if list.Next == "" {
				return e.letters.found(ids)
			}
			q.Set("after", list.Next)
		}
	})
}

func (e *environment) listDeadLetters(ctx context.Context) error {
	width, n := terminal.Width(e.stdout), 0
	err := e.eachPage(ctx, "dead-letters list", func(_ *client, letters []replay.DeadLetter) error {
		var out bytes.Buffer
		if e.letters.json {
			for i := range letters {
				if err := writeJSON(&out, &letters[i]); err != nil {
					return err
				}
			}
		} else {
			writeTable(&out, letters, n == 0, width)
		}
		n += len(letters)
		_, err := e.stdout.Write(event.AppendEscaped(nil, out.Bytes()))
		return err
	})
	if err == nil && n == 0 && !e.letters.json {
		fmt.Fprintln(e.stderr, "no dead letters")
	}
	return err
}

// writeJSON writes v as JSON on one line.
func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// maxSummaryShown is how much of a summary the table has: the reason stands behind it.
const maxSummaryShown = 48

// writeTable writes letters as a table. Where the width of the terminal is known the reason ends
// there.
func writeTable(w io.Writer, letters []replay.DeadLetter, header bool, width int) {
	if len(letters) == 0 {
		return
	}
	rows := make([][]string, 0, len(letters)+1)
	// Also where it is not written, so that the pages of a list are alike.
	rows = append(rows, []string{"ID", "SINK", "TIME", "STATUS", "TYPE", "SUMMARY", "REASON"})
	for i := range letters {
		l := &letters[i]
		rows = append(rows, []string{
			l.ID, l.Sink, l.Time.Local().Format(time.DateTime), statusText(l.Status), oneLine(l.EventType, 0),
			oneLine(l.Summary, maxSummaryShown), oneLine(l.Reason, 0),
		})
	}
	widths := make([]int, len(rows[0])-1)
	for _, row := range rows {
		for i := range widths {
			widths[i] = max(widths[i], len([]rune(row[i])))
		}
	}
	if !header {
		rows = rows[1:]
	}
	for _, row := range rows {
		var line strings.Builder
		for i, n := range widths {
			fmt.Fprintf(&line, "%-*s  ", n, row[i])
		}
		reason := row[len(widths)]
		if width > 0 {
			reason = oneLine(reason, max(10, width-len([]rune(line.String()))))
		}
		fmt.Fprintln(w, strings.TrimRight(line.String()+reason, " "))
	}
}

func statusText(status int) string {
	if status == 0 {
		return "-"
	}
	return strconv.Itoa(status)
}

// oneLine is terminal.OneLine.
func oneLine(s string, limit int) string { return terminal.OneLine(s, limit) }

func (e *environment) showDeadLetters(ctx context.Context) error {
	n := 0
	return e.eachPage(ctx, "dead-letters show", func(c *client, letters []replay.DeadLetter) error {
		for i := range letters {
			var l replay.DeadLetter
			err := c.get(ctx, http.MethodGet, deadLettersPath+"/"+letters[i].ID, nil, &l)
			if err != nil {
				return err
			}
			var out bytes.Buffer
			switch {
			case e.letters.json:
				err = writeJSON(&out, &l)
			case n > 0:
				out.WriteByte('\n')
				fallthrough
			default:
				err = writeLetter(&out, &l)
			}
			if err == nil {
				_, err = e.stdout.Write(event.AppendEscaped(nil, out.Bytes()))
			}
			if err != nil {
				return err
			}
			n++
		}
		return nil
	})
}

// writeLetter writes a letter for people.
func writeLetter(out *bytes.Buffer, l *replay.DeadLetter) error {
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
	return e.withClient("dead-letters purge", e.letters.client, func(c *client) error {
		path, what, q := deadLettersPath, "dead letter", e.letters.query()
		if e.letters.waiting {
			path, what, q = "/api/v1/removed-sinks/"+url.PathEscape(e.letters.sink), "event", nil
		}
		var purged web.Purged
		if err := c.get(ctx, http.MethodDelete, path, q, &purged); err != nil {
			return err
		}
		what = units.Plural(int(purged.Purged), what)
		if e.letters.waiting {
			what += " that waited for sink " + e.letters.sink
		}
		fmt.Fprintf(e.stdout, "%d %s purged\n", purged.Purged, what)
		if purged.Purged == 0 && !e.letters.waiting {
			return e.letters.found(nil)
		}
		return nil
	})
}

func (e *environment) replayDeadLetters(ctx context.Context) error {
	return e.withClient("dead-letters replay", e.letters.client, func(c *client) error {
		q := e.letters.query()
		if e.letters.to != "" {
			q.Set("to", e.letters.to)
		}
		resp, err := c.do(ctx, http.MethodPost, deadLettersPath+"/replay", q, "")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		r := replayReport{out: e.stdout, ids: map[string]bool{}, progress: terminal.NewProgress(e.stderr)}
		return r.read(ctx, e, json.NewDecoder(resp.Body))
	})
}

// replayReport shows a person the progress of a replay.
type replayReport struct {
	out      io.Writer
	progress terminal.Progress
	ids      map[string]bool
	// so far, of all sinks
	seen    replay.LettersCounts
	stopped []string
}

func (r *replayReport) read(ctx context.Context, e *environment, steps *json.Decoder) error {
	for {
		var s replay.LettersStep
		if err := steps.Decode(&s); err != nil {
			r.progress.Clear()
			counts := fmt.Sprintf("%d were accepted and %d refused again; the rest stays",
				r.seen.Accepted, r.seen.Refused)
			if ctx.Err() != nil {
				return fmt.Errorf("interrupted after %s", counts)
			}
			return fmt.Errorf("the connection to the daemon was lost after %s, "+
				"and the last accepted ones may be sent once more", counts)
		}
		if s.Outcome == replay.LettersDone {
			r.progress.Clear()
			return r.done(e, s.Counts)
		}
		r.add(&s)
	}
}

// add adds one step to what is known, and shows what it means.
func (r *replayReport) add(s *replay.LettersStep) {
	note := ""
	switch s.Outcome {
	case replay.LettersBegins:
		r.seen.Letters += s.Counts.Letters
	case replay.LettersAccepted:
		r.seen.Accepted++
	case replay.LettersRefused:
		r.seen.Refused++
		r.progress.Clear()
		switch {
		case r.seen.Refused <= maxRefusedShown:
			fmt.Fprintf(r.out, "%s  refused again: %s\n", s.ID, oneLine(s.Reason, 0))
		case r.seen.Refused == maxRefusedShown+1:
			fmt.Fprintln(r.out, "more were refused again; dead-letters list shows them")
		}
	case replay.LettersWaits:
		note = ", " + s.Reason
	case replay.LettersEnded, replay.LettersStopped:
		r.progress.Clear()
		to := ""
		if s.To != "" {
			to = " to sink " + s.To
		}
		fmt.Fprintf(r.out, "sink %s: %d accepted%s, %d refused again, %d not tried\n",
			s.Sink, s.Counts.Accepted, to, s.Counts.Refused, s.Counts.Left)
		if s.Outcome == replay.LettersStopped {
			r.stopped = append(r.stopped, fmt.Sprintf("stopped at sink %s: %s", s.Sink, oneLine(s.Reason, 0)))
		}
	}
	if s.ID != "" {
		r.ids[s.ID], r.ids[s.EventID] = true, true
	}
	r.progress.Show(note != "", fmt.Sprintf("%d of %d sent, %d refused again%s",
		r.seen.Accepted+r.seen.Refused, r.seen.Letters, r.seen.Refused, note))
}

// done reports how the replay ended: without an error if all letters were accepted.
func (r *replayReport) done(e *environment, all *replay.LettersCounts) error {
	if all.Letters == 0 && len(e.letters.ids) == 0 {
		fmt.Fprintln(r.out, "no dead letters")
		return nil
	}
	texts := r.stopped
	if len(texts) == 0 {
		if err := e.letters.found(r.ids); err != nil {
			texts = append(texts, err.Error())
		}
	}
	if all.Refused > 0 {
		texts = append(texts, fmt.Sprintf("%d %s refused again", all.Refused, units.Plural(all.Refused, "letter")))
	}
	if len(texts) > 0 {
		return errors.New(strings.Join(texts, "; "))
	}
	return nil
}
