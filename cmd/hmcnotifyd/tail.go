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
	"syscall"
	"time"

	"github.com/alecthomas/kingpin/v2"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/terminal"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/units"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/web"
)

const (
	eventsPath = "/api/v1/events"
	// tailSilence is how long a stream may say nothing, not even a heart-beat, until it is
	// given up.
	tailSilence = 3 * web.HeartBeat
	// tailPause is how long the first pause between two attempts is; each further one is twice
	// as long, up to tailPauseMax.
	tailPause    = 500 * time.Millisecond
	tailPauseMax = 15 * time.Second
)

type tailFlags struct {
	client                  clientFlags
	types, hmcs, severities []string
	text, sink              string
	json                    bool
	// tests shorten them
	silence, pause, pauseMax time.Duration
}

func tailCommand(app *kingpin.Application, e *environment) {
	f := &e.tail
	f.silence, f.pause, f.pauseMax = tailSilence, tailPause, tailPauseMax
	c := e.command(app, "tail", "Follow the events that a running daemon stores, one line for each, until Ctrl-C.",
		e.follow, f.client.validate, func() error {
			if _, err := web.ParseLiveFilter(f.query().Encode()); err != nil {
				return fmt.Errorf("--%w", err)
			}
			return nil
		})
	clientFlagsOf(c, &f.client)
	c.Flag("type", "Only events of this type, a regular expression that must match the whole; may be repeated.").
		StringsVar(&f.types)
	c.Flag("hmc", "Only events of this HMC, a regular expression; may be repeated.").StringsVar(&f.hmcs)
	c.Flag("severity", "Only events of this severity: info, warning or critical; may be repeated.").
		StringsVar(&f.severities)
	c.Flag("text", "Only events with this text in what a person reads of them, whatever the case.").StringVar(&f.text)
	c.Flag("sink", "Only events that this sink gets.").StringVar(&f.sink)
	c.Flag("json", "The whole event, one JSON object per line.").BoolVar(&f.json)
}

func (f *tailFlags) query() url.Values {
	q := url.Values{}
	for name, values := range map[string][]string{
		"type": f.types, "hmc": f.hmcs, "severity": f.severities, "text": {f.text}, "sink": {f.sink},
	} {
		for _, v := range values {
			if v != "" {
				q.Add(name, v)
			}
		}
	}
	return q
}

// errNobodyReads means that the output is closed, as after: hmcnotifyd tail | head.
var errNobodyReads = errors.New("nobody reads the output")

// follow is the command tail. A first attempt that fails is an error; a stream that is lost later
// is made again, where it ended, and said on stderr.
func (e *environment) follow(ctx context.Context) error {
	e.noteTypes(e.tail.types)
	return e.withClient("tail", e.tail.client, func(c *client) error {
		c.terminal = nil // events are printed as soon as it works
		width := terminal.Width(e.stdout)
		s := tailStream{
			environment: e, client: c, lines: terminal.NewEvents(width, width > 0 && terminal.WantsColor()),
		}
		f, pause := &e.tail, e.tail.pause
		for {
			began, err := s.once(ctx)
			_, temporary := errors.AsType[*temporaryError](err)
			switch {
			case ctx.Err() != nil || errors.Is(err, errNobodyReads):
				return nil
			case !began && (!s.connected || !temporary):
				return err
			}
			if began {
				pause = f.pause
				fmt.Fprintf(e.stderr, "hmcnotifyd: tail: the stream was lost, and is made again: %v\n", err)
			}
			s.connected = true
			select {
			case <-time.After(pause):
			case <-ctx.Done():
				return nil
			}
			pause = min(2*pause, f.pauseMax)
		}
	})
}

// tailStream is what the command tail knows from one stream to the next.
type tailStream struct {
	*environment
	client *client
	lines  *terminal.Events
	// there was a stream before, and the last event of it
	connected bool
	last      string
}

// once prints what one stream brings until it ends. began says whether there was one.
func (s *tailStream) once(ctx context.Context) (began bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	resp, err := s.client.doWith(ctx, http.MethodGet, eventsPath, s.tail.query(),
		map[string]string{"Accept": "text/event-stream", "Last-Event-ID": s.last})
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	if kind := resp.Header.Get("Content-Type"); !strings.HasPrefix(kind, "text/event-stream") {
		return false, fmt.Errorf("what answers at %s is not hmcnotifyd", s.client.base)
	}
	switch {
	case s.connected && s.last != "":
		fmt.Fprintln(s.stderr, "hmcnotifyd: tail: connected again; what was stored meanwhile follows")
	case s.connected:
		fmt.Fprintln(s.stderr, "hmcnotifyd: tail: connected again; what was stored meanwhile is not shown")
	case terminal.Width(s.stderr) > 0:
		fmt.Fprintf(s.stderr, "hmcnotifyd: tail: listening to %s; events appear as they are stored, Ctrl-C ends it\n",
			s.client.base)
	}
	// A link that is dead without a word is noticed by the missing heart-beats.
	silent := time.AfterFunc(s.tail.silence, func() { cancel(fmt.Errorf("nothing came for %s", s.tail.silence)) })
	defer silent.Stop()
	err = terminal.ReadStream(resp.Body, s.last, func() { silent.Reset(s.tail.silence) }, s.print)
	if cause := context.Cause(ctx); cause != nil && !errors.Is(err, errNobodyReads) {
		err = cause
	}
	if err == nil {
		err = errors.New("the daemon has ended it")
	}
	return true, err
}

// print prints one event of the stream.
func (s *tailStream) print(sent terminal.Sent) error {
	switch sent.Kind {
	case "":
	case "lost":
		var l struct {
			Lost    int
			Unknown bool
		}
		switch err := json.Unmarshal(sent.Data, &l); {
		case err != nil:
		case l.Unknown:
			fmt.Fprintln(s.stderr, "hmcnotifyd: tail: what was stored meanwhile is not kept any more, and not shown")
		default:
			fmt.Fprintf(s.stderr, "hmcnotifyd: tail: %d %s came faster than they were read, and are not shown\n",
				l.Lost, units.Plural(l.Lost, "event"))
		}
		return nil
	case "standby":
		var of struct{ Leader string }
		if json.Unmarshal(sent.Data, &of) == nil {
			fmt.Fprintf(s.stderr, "hmcnotifyd: tail: this daemon stands by, and shows what the one on %s stores\n",
				oneLine(of.Leader, 200))
		}
		return nil
	case "end":
		var reason string
		if json.Unmarshal(sent.Data, &reason) != nil || reason == "" {
			reason = "the daemon has ended it"
		}
		return errors.New(oneLine(reason, 200))
	default: // what a later version may send
		return nil
	}
	line := event.AppendEscaped(nil, sent.Data)
	if !s.tail.json {
		line = []byte(s.lines.Line(sent.Data))
	}
	if _, err := s.stdout.Write(append(line, '\n')); err != nil {
		if errors.Is(err, syscall.EPIPE) || errors.Is(err, io.ErrClosedPipe) {
			return errNobodyReads
		}
		return fmt.Errorf("the output: %w", err)
	}
	s.last = sent.ID
	return nil
}
