package main

import (
	"bufio"
	"bytes"
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
	// maxStreamLine is how long a line of the stream may be: more than the daemon holds for one
	// reader.
	maxStreamLine = 8 << 20
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
// is made again, and said on stderr.
func (e *environment) follow(ctx context.Context) error {
	return e.withClient("tail", e.tail.client, func(c *client) error {
		c.terminal = nil // events are printed as soon as it works
		f, connected, pause := &e.tail, false, e.tail.pause
		for {
			began, err := e.followOnce(ctx, c, connected)
			_, temporary := errors.AsType[*temporaryError](err)
			switch {
			case ctx.Err() != nil || errors.Is(err, errNobodyReads):
				return nil
			case !began && (!connected || !temporary):
				return err
			}
			if began {
				pause = f.pause
			}
			if began || !connected {
				fmt.Fprintf(e.stderr, "hmcnotifyd: tail: the stream was lost, and is made again: %v\n", err)
			}
			connected = true
			select {
			case <-time.After(pause):
			case <-ctx.Done():
				return nil
			}
			pause = min(2*pause, f.pauseMax)
		}
	})
}

// followOnce prints what one stream brings until it ends. began says whether there was one.
func (e *environment) followOnce(ctx context.Context, c *client, again bool) (began bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	resp, err := c.do(ctx, http.MethodGet, eventsPath, e.tail.query(), "text/event-stream")
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	if kind := resp.Header.Get("Content-Type"); !strings.HasPrefix(kind, "text/event-stream") {
		return false, fmt.Errorf("what answers at %s is not hmcnotifyd", c.base)
	}
	if again {
		fmt.Fprintln(e.stderr, "hmcnotifyd: tail: connected again; what was stored meanwhile is not shown")
	}
	// A link that is dead without a word is noticed by the missing heart-beats.
	silent := time.AfterFunc(e.tail.silence, func() { cancel(fmt.Errorf("nothing came for %s", e.tail.silence)) })
	defer silent.Stop()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(make([]byte, 64<<10), maxStreamLine)
	kind, data := "", []byte(nil)
	for lines.Scan() {
		silent.Reset(e.tail.silence)
		line := lines.Bytes()
		field, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch {
		case len(line) == 0: // the end of an event
			if data != nil {
				if err := e.printStreamed(kind, data); err != nil {
					return true, err
				}
			}
			kind, data = "", nil
		case string(field) == "event":
			kind = string(value)
		case string(field) == "data":
			data = append(make([]byte, 0, len(value)), value...)
		}
	}
	err = lines.Err()
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	if err == nil {
		err = errors.New("the daemon has ended it")
	}
	return true, err
}

// printStreamed prints one event of the stream.
func (e *environment) printStreamed(kind string, data []byte) error {
	switch kind {
	case "":
	case "lost":
		var l struct{ Lost int }
		if json.Unmarshal(data, &l) == nil {
			fmt.Fprintf(e.stderr, "hmcnotifyd: tail: %d %s came faster than they were read, and are not shown\n",
				l.Lost, plural(l.Lost, "event"))
		}
		return nil
	case "end":
		var reason string
		if json.Unmarshal(data, &reason) != nil || reason == "" {
			reason = "the daemon has ended it"
		}
		return errors.New(oneLine(reason, 200))
	default: // what a later version may send
		return nil
	}
	line := event.AppendEscaped(nil, data)
	if !e.tail.json {
		line = []byte(tailLine(data))
	}
	if _, err := e.stdout.Write(append(line, '\n')); err != nil {
		if errors.Is(err, syscall.EPIPE) || errors.Is(err, io.ErrClosedPipe) {
			return errNobodyReads
		}
		return fmt.Errorf("the output: %w", err)
	}
	return nil
}

// tailLine is an event as a person reads it.
func tailLine(data []byte) string {
	var ev event.Event
	if err := json.Unmarshal(data, &ev); err != nil {
		return oneLine(string(data), 0)
	}
	at := ev.Time.Local().Format("2006-01-02 15:04:05.000")
	line := fmt.Sprintf("%s  %-8s  %-19s  %-12s  %s", at, ev.Severity, ev.Type, ev.HMC, ev.Summary)
	return oneLine(strings.TrimRight(line, " "), 0)
}
