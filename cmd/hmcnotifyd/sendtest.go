package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/alecthomas/kingpin/v2"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/cmdline"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/deliver"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/terminal"
)

type sendTestFlags struct {
	client clientFlags
	sink   string
}

func sendTestCommand(app *kingpin.Application, e *environment) {
	f := &e.test
	c := e.command(app, "send-test",
		"Send one event of the type bridge-test through a sink of the running daemon, and say what happened.",
		e.sendTest, f.client.validate)
	cmdline.Filled(c.Flag("sink", "The sink.").Required(), &f.sink)
	clientFlagsOf(c, &f.client)
}

func (e *environment) sendTest(ctx context.Context) error {
	return e.withClient("send-test", e.test.client, func(c *client) error {
		resp, err := c.do(ctx, http.MethodPost, "/api/v1/sinks/"+url.PathEscape(e.test.sink)+"/test", nil, "")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		steps := json.NewDecoder(resp.Body)
		var begins, ended deliver.TestStep
		if err := steps.Decode(&begins); err != nil {
			return c.noAnswer(ctx, fmt.Errorf("what came is not its JSON: %w", err))
		}
		what := fmt.Sprintf("sink %s (%s)", begins.Sink, oneLine(begins.Request, 0))
		done := terminal.Waiting(e.stderr, func() string {
			return fmt.Sprintf("sink %s: waiting for an answer, %s at most",
				begins.Sink, seconds(begins.TimeoutSeconds))
		})
		err = steps.Decode(&ended)
		done()
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return errors.New("interrupted; the event may have arrived")
		default:
			return fmt.Errorf("the connection to the daemon was lost; the event may have arrived: %w", err)
		}
		return e.printTest(what, &ended)
	})
}

// printTest prints how the test ended, and below that what else is worth knowing.
func (e *environment) printTest(what string, ended *deliver.TestStep) error {
	var below strings.Builder
	line := func(name, text string) { fmt.Fprintf(&below, "\n%s: %s", name, oneLine(text, 0)) }
	if ended.Do != "" {
		line("what to do", ended.Do)
	}
	for _, note := range ended.Notes {
		line("note", note)
	}
	verdict := "not delivered"
	switch ended.Outcome {
	case deliver.TestDelivered:
		fmt.Fprintf(e.stdout, "%s: delivered in %s, event %s%s\n",
			what, seconds(ended.Seconds), ended.EventID, below.String())
		return nil
	case deliver.TestRefused:
		verdict = "refused"
	}
	return fmt.Errorf("%s: %s after %s: %s%s",
		what, verdict, seconds(ended.Seconds), oneLine(ended.Reason, 0), below.String())
}

// seconds writes a time for people: 1.2 ms, 830 ms, 10 s.
func seconds(s float64) string {
	d := time.Duration(s * float64(time.Second))
	switch {
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.1f ms", d.Seconds()*1000)
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%.3g s", d.Seconds())
}
