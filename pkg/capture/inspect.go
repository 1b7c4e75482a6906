package capture

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/assume"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/secret"
)

const (
	// shownSample is how much of an example is shown.
	shownSample = 400
	// shownKinds bounds the lines of each table.
	shownKinds = 40
)

// Inspect prints for people what is in a capture: how much of what, and one example of each, so
// that its owner can judge it. It reads all of it, and returns an error where it is damaged.
func Inspect(out io.Writer, r io.Reader) error {
	in, err := NewReader(r)
	if err != nil {
		return err
	}
	var (
		requests, notifications = make(map[string]int), make(map[string]int)
		samples                 = make(map[string]string)
		links, lost             int
		hidden                  int
		last                    time.Duration
		end                     End
		answers                 = assume.NewObserver()
	)
	sample := func(key string, what any) {
		if _, ok := samples[key]; !ok {
			var b bytes.Buffer
			enc := json.NewEncoder(&b)
			enc.SetEscapeHTML(false)
			_ = enc.Encode(what) // it was JSON
			text := bytes.TrimSpace(b.Bytes())
			if len(text) > shownSample {
				text = append(text[:shownSample:shownSample], " ..."...)
			}
			samples[key] = strings.ToValidUTF8(string(text), "?")
		}
	}
	for {
		e, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		last = e.Time()
		observe(answers, e)
		switch e.Kind {
		case KindRequest:
			key := fmt.Sprintf("%s: %d", e.Request.Operation, e.Request.Status)
			if e.Request.Status == 0 {
				key = e.Request.Operation + ": " + e.Request.Failure
			}
			requests[key]++
			sample(key, e.Request)
			hidden += strings.Count(string(e.Request.Sent.Raw())+string(e.Request.Answer.Raw()), secret.Hidden)
		case KindFrame:
			key := cmp.Or(e.Frame.Get("notification-type"), e.Frame.Command)
			notifications[key]++
			sample(key, e.Frame)
		case KindLink:
			links++
			if e.Link.Lost != "" {
				lost++
			}
		case KindEnd:
			end = *e.End
		}
	}
	var w strings.Builder
	names := fmt.Sprintf("replaced (%d different words)", end.Words)
	if in.Names {
		names = "as they are: do not give this file to anybody who is not to know them"
	}
	fmt.Fprintf(&w, "a capture of %s, begun %s, by hmcnotifyd %s\n", last.Round(time.Second),
		in.Began.Format(time.RFC3339), in.Program)
	fmt.Fprintf(&w, "names, addresses and texts: %s\nsecrets: none; %d were there and are left out\n", names, hidden)
	fmt.Fprintf(&w, "links: %d, of which the HMC or the network ended %d\n", links, lost)
	if end.Full {
		w.WriteString("it became too large, and so it ends before its time\n")
	}
	table := func(title string, counts map[string]int) {
		fmt.Fprintf(&w, "\n%s:\n", title)
		keys := slices.SortedFunc(maps.Keys(counts), func(a, b string) int {
			return cmp.Or(counts[b]-counts[a], strings.Compare(a, b))
		})
		for _, key := range keys[:min(len(keys), shownKinds)] {
			fmt.Fprintf(&w, "%7d  %s\n         %s\n", counts[key], key, samples[key])
		}
		if more := len(keys) - shownKinds; more > 0 {
			fmt.Fprintf(&w, "         and %d more kinds\n", more)
		}
	}
	table("requests and how they were answered, with the first of each", requests)
	table("frames, with the first of each", notifications)
	w.WriteString("\nwhat is not known of HMCs, and what this one shows:\n")
	for _, a := range answers.Answers() {
		fmt.Fprintf(&w, "  %s\n", a)
	}
	w.WriteString("\nAll of it is text, one line for each entry: zcat FILE\n")
	if _, err := io.WriteString(out, w.String()); err != nil {
		return fmt.Errorf("capture: %w", err)
	}
	return nil
}

// observe has an entry answer what is not known.
func observe(o *assume.Observer, e *Entry) {
	switch {
	case e.Request != nil:
		o.Request(e.Request.Operation, e.Request.Query, e.Request.Status)
	case e.Frame != nil:
		topic, _ := strings.CutPrefix(e.Frame.Get("destination"), "/topic/")
		switch e.Frame.Command {
		case Subscribe:
			o.Subscribe(topic)
		case Message:
			o.Message(topic, e.Frame.Get, e.Frame.Body.Raw())
		}
	}
}

// Answers returns what a capture shows of what is not known of HMCs.
func Answers(file string) ([]assume.Answer, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("capture: %w", err)
	}
	defer func() { _ = f.Close() }()
	in, err := NewReader(f)
	if err != nil {
		return nil, err
	}
	o := assume.NewObserver()
	for {
		e, err := in.Next()
		if errors.Is(err, io.EOF) {
			return o.Answers(), nil
		}
		if err != nil {
			return nil, err
		}
		observe(o, e)
	}
}
