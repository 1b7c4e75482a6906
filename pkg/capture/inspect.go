package capture

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/assume"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/secret"
)

const (
	// shownSample is how much of an example is shown.
	shownSample = 400
	// shownKinds bounds the lines of each table, shownName the length of each name there, in bytes.
	shownKinds, shownName = 40, 100
	// maxKinds is how many kinds are told apart.
	maxKinds = 1000
)

// tally counts kinds, with an example of each. What there is of kinds that have no room any more is
// counted together, so that it stays small whatever it is given.
type tally struct {
	kinds   map[string]*kind
	further int
}

type kind struct {
	count  int
	sample string
}

func (t *tally) add(name string, member string, line []byte) {
	if len(name) > shownName {
		name = strings.ToValidUTF8(name[:shownName], "") + "..."
	}
	k := t.kinds[name]
	switch {
	case k != nil:
	case len(t.kinds) == maxKinds:
		t.further++
		return
	default:
		k = &kind{sample: sampleOf(member, line)}
		t.kinds[strings.Clone(name)] = k
	}
	k.count++
}

// sampleOf is what is shown of a line: the beginning of its member.
func sampleOf(member string, line []byte) string {
	if _, after, ok := bytes.Cut(line, []byte(`"`+member+`":`)); ok {
		line = bytes.TrimSuffix(after, []byte("}"))
	}
	more := ""
	if len(line) > shownSample {
		line, more = line[:shownSample], " ..."
	}
	return strings.ToValidUTF8(string(line), "?") + more
}

func (t *tally) print(w *strings.Builder, title string) {
	fmt.Fprintf(w, "\n%s:\n", title)
	names := slices.SortedFunc(maps.Keys(t.kinds), func(a, b string) int {
		return cmp.Or(t.kinds[b].count-t.kinds[a].count, strings.Compare(a, b))
	})
	for _, name := range names[:min(len(names), shownKinds)] {
		fmt.Fprintf(w, "%7d  %s\n         %s\n", t.kinds[name].count, name, t.kinds[name].sample)
	}
	if more := len(names) - shownKinds; more > 0 {
		fmt.Fprintf(w, "         and %d more kinds\n", more)
	}
	if t.further > 0 {
		fmt.Fprintf(w, "%7d  of further kinds\n", t.further)
	}
}

// Inspect prints for people what is in a capture: how much of what, and one example of each, so
// that its owner can judge it. It reads all of it, and returns an error where it is damaged.
func Inspect(out io.Writer, in *Reader) error {
	requests, frames := &tally{kinds: make(map[string]*kind)}, &tally{kinds: make(map[string]*kind)}
	var (
		links, lost, failed, hidden int
		last                        time.Duration
		end                         End
		answers                     = assume.NewObserver()
	)
	for {
		e, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		last = e.Time()
		observe(answers, in.Began, e)
		switch e.Kind {
		case KindRequest:
			outcome := strconv.Itoa(e.Request.Status)
			if e.Request.Status == 0 {
				outcome = e.Request.Failure
			}
			requests.add(e.Request.Operation+": "+outcome, KindRequest, in.text())
			for _, c := range []Content{e.Request.Sent, e.Request.Answer} {
				hidden += bytes.Count(c.Raw(), []byte(secret.Hidden))
			}
		case KindFrame:
			frames.add(cmp.Or(e.Frame.Get("notification-type"), e.Frame.Command), KindFrame, in.text())
		case KindLink:
			switch {
			case e.Link.Failed:
				failed++
				continue
			case e.Link.Lost != "":
				lost++
			}
			links++
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
	if failed > 0 {
		fmt.Fprintf(&w, "attempts to connect that failed: %d\n", failed)
	}
	if end.Full {
		w.WriteString("it became too large, and so it ends before its time\n")
	}
	if end.Partial {
		w.WriteString("it was killed, or the disk was full: this is what there was when it was last written\n")
	}
	if end.Omitted > 0 {
		fmt.Fprintf(&w, "%d requests or frames were larger than %d MiB, and their bodies are left out\n",
			end.Omitted, MaxLine>>20)
	}
	requests.print(&w, "requests and how they were answered, with the first of each")
	frames.print(&w, "frames, with the first of each")
	w.WriteString("\nwhat is not known of HMCs, and what this one shows:\n")
	for _, a := range answers.Answers() {
		fmt.Fprintf(&w, "  %s\n", a)
	}
	w.WriteString("\nAll of it is text, one line for each entry: zcat FILE\n")
	if _, err := io.WriteString(out, w.String()); err != nil {
		return fmt.Errorf("the output: %w", err)
	}
	return nil
}

// observe has an entry answer what is not known.
func observe(o *assume.Observer, began time.Time, e *Entry) {
	switch {
	case e.Request != nil:
		o.Request(assume.Exchange{
			Operation: e.Request.Operation, URI: e.Request.URI, Query: e.Request.Query, Status: e.Request.Status,
			Answer: e.Request.Answer.Raw(), At: began.Add(e.Time()),
		})
	case e.Link != nil && !e.Link.Failed:
		o.LinkEnded(began.Add(e.Time()), e.Link.Lost != "")
	case e.Frame != nil:
		o.Frame(e.Frame.Command, e.Frame.Get, e.Frame.Body.Raw())
	}
}

// Answers returns what a capture shows of what is not known of HMCs.
func Answers(in *Reader) ([]assume.Answer, error) {
	o := assume.NewObserver()
	for {
		e, err := in.Next()
		if errors.Is(err, io.EOF) {
			return o.Answers(), nil
		}
		if err != nil {
			return nil, err
		}
		observe(o, in.Began, e)
	}
}
