// Package render makes request bodies of events by the templates that a configuration holds.
//
// A template is text/template with the functions of this package. [New] tries it on samples of
// every type of event, so that what is wrong with it is found when the configuration is read and
// not when the first such event comes.
//
// However a template is written, executing it has an end: its output is at most 1 MiB, the work it
// may do is counted, and templates that call themselves are refused.
package render

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"sync"
	"text/template"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

const (
	// MaxTemplate is the largest template.
	MaxTemplate = 64 << 10
	// MaxOutput is the largest output.
	MaxOutput = 1 << 20
)

// name is that of the template itself, in errors of package template.
const name = "template"

// Options are what a template is for.
type Options struct {
	// its data is a Batch, not an Event
	Batch bool
	// of the output; what is application/json or ends with +json must be valid JSON
	ContentType string
	// Group returns the group of an HMC; nil: each is its own.
	Group func(hmc string) string
}

// Error is what is wrong with a template, or with what it makes of an event.
type Error struct {
	// of the template, counted from 1; 0: not known
	Line int
	// quotes the template only within {{ }}, and nothing of an event
	Msg string
}

// Error returns "line LINE: MSG".
func (e *Error) Error() string {
	if e.Line > 0 {
		return fmt.Sprintf("line %d: %s", e.Line, e.Msg)
	}
	return e.Msg
}

// Template makes bodies. It may be used by several goroutines at once.
type Template struct {
	parsed *template.Template
	batch  bool
	json   bool
	group  func(hmc string) string
	// of *run
	idle sync.Pool
}

// New parses a template and tries it on samples of every type of event. Its error is an [Error].
func New(text string, opts Options) (*Template, error) {
	if len(text) > MaxTemplate {
		return nil, &Error{Msg: fmt.Sprintf("is larger than %d KiB", MaxTemplate>>10)}
	}
	if strings.TrimSpace(text) == "" {
		return nil, &Error{Msg: "is empty"}
	}
	parsed, err := template.New(name).Option("missingkey=zero").Funcs((&run{}).functions()).Parse(text)
	if err != nil {
		return nil, explain(err)
	}
	if err := prepare(parsed); err != nil {
		return nil, err
	}
	t := &Template{parsed: parsed, batch: opts.Batch, json: isJSON(opts.ContentType), group: opts.Group}
	if err := t.try(); err != nil {
		return nil, err
	}
	return t, nil
}

// isJSON reports whether a body of this content type has to be one JSON value.
func isJSON(contentType string) bool {
	media, _, err := mime.ParseMediaType(contentType)
	return err == nil && (media == "application/json" || strings.HasSuffix(media, "+json"))
}

// try executes the template for all samples.
func (t *Template) try() error {
	samples := Samples()
	if t.batch {
		if _, err := t.Execute([]event.Record{samples[0].Record, samples[2].Record}); err != nil {
			return tried("a batch, which has .Events", err)
		}
	}
	for _, s := range samples {
		if _, err := t.Execute([]event.Record{s.Record}); err != nil {
			return tried(s.Name, err)
		}
	}
	return nil
}

func tried(what string, err error) error {
	e, ok := errors.AsType[*Error](err)
	if !ok {
		return err
	}
	return &Error{Line: e.Line, Msg: fmt.Sprintf("tried on %s: %s", what, e.Msg)}
}

// Execute returns what the template makes of the records: of one, or of a batch if the template is
// for batches. Its error is an [Error].
func (t *Template) Execute(records []event.Record) ([]byte, error) {
	events := make([]*Event, len(records))
	for i, r := range records {
		e, err := newEvent(r)
		if err != nil {
			// it was written by this program
			return nil, &Error{Msg: "the event cannot be read"}
		}
		e.Group = e.HMC
		if t.group != nil {
			e.Group = t.group(e.HMC)
		}
		events[i] = e
	}
	var data any = Batch{Events: events}
	if !t.batch {
		if len(events) != 1 {
			return nil, &Error{Msg: fmt.Sprintf("is for one event, not for %d", len(events))}
		}
		data = events[0]
	}
	r, err := t.run()
	if err != nil {
		return nil, err
	}
	defer t.idle.Put(r)
	if err := r.template.Execute(r, data); err != nil {
		err := explain(err)
		if n := len(r.origins); err.Line == 0 && n > 0 {
			err.Line = r.origins[n-1].line
		}
		return nil, err
	}
	if t.json {
		if err := r.checkJSON(); err != nil {
			return nil, err
		}
	}
	return bytes.Clone(r.out.Bytes()), nil
}

// run returns a new execution.
func (t *Template) run() (*run, error) {
	r, ok := t.idle.Get().(*run)
	if !ok {
		clone, err := t.parsed.Clone()
		if err != nil { // of an executed html/template only
			return nil, &Error{Msg: err.Error()}
		}
		r = &run{patterns: make(map[string]*pattern)}
		r.template = clone.Funcs(r.functions()).Funcs(r.instrumentation())
	}
	r.left = maxSteps
	r.out.Reset()
	r.origins = r.origins[:0]
	return r, nil
}

// run is one execution of a template. It is the writer of the output.
type run struct {
	template *template.Template
	// steps
	left    int
	out     bytes.Buffer
	origins []origin
	// patterns are compiled once for many executions.
	patterns map[string]*pattern
}

// origin is the line of the template that the output from an offset on comes from.
type origin struct{ offset, line int }

var (
	errOutput = fmt.Errorf("the output is larger than %d MiB", MaxOutput>>20)
	errSteps  = errors.New("it does too much: what it loops over is too long")
)

// Write accepts output up to its limit.
func (r *run) Write(p []byte) (int, error) {
	if r.out.Len()+len(p) > MaxOutput {
		return 0, errOutput
	}
	return r.out.Write(p)
}

// checkJSON fails, with the line of the template, where the output is not valid JSON.
func (r *run) checkJSON() error {
	out := r.out.Bytes()
	if json.Valid(out) {
		return nil
	}
	var v any
	err := json.Unmarshal(out, &v)
	offset := len(out)
	if e, ok := errors.AsType[*json.SyntaxError](err); ok {
		offset = int(e.Offset) - 1
	}
	// The last value before the place: it, or the text behind it, is what is wrong.
	line := 0
	if i := sort.Search(len(r.origins), func(i int) bool { return r.origins[i].offset > offset }); i > 0 {
		line = r.origins[i-1].line
	}
	return &Error{Line: line, Msg: fmt.Sprintf(
		"the output is not valid JSON there or in what follows (%v): "+
			"write {{ json .Summary }} for a whole string, or \"{{ js .Summary }}\" within one", err)}
}

// The two forms of the errors of package template: of parsing and of executing.
var (
	place   = regexp.MustCompile(`(?s)^template: [^:]*:(\d+)(?::\d+)?: (.*)$`)
	running = regexp.MustCompile(`(?s)^executing "[^"]*" at (<.*?>): (.*)$`)
	calling = regexp.MustCompile(`^error calling \w+: `)
	noField = regexp.MustCompile(`^can't evaluate field (\S+) in type \S+$`)
	nothing = regexp.MustCompile(`^nil pointer evaluating .*$`)
	noIndex = regexp.MustCompile(`^index of untyped nil$|^error calling index: .*$`)
)

// explain turns an error of package template into one for people.
func explain(err error) *Error {
	msg, line := err.Error(), 0
	if m := place.FindStringSubmatch(msg); m != nil {
		line, _ = strconv.Atoi(m[1])
		msg = m[2]
	}
	for _, limit := range []error{errOutput, errSteps} {
		if errors.Is(err, limit) {
			return &Error{Line: line, Msg: limit.Error()}
		}
	}
	at := ""
	if m := running.FindStringSubmatch(msg); m != nil {
		at, msg = m[1]+": ", m[2]
	}
	switch m := noField.FindStringSubmatch(msg); {
	case m != nil:
		msg = fmt.Sprintf("there is no field %s", m[1])
	case nothing.MatchString(msg), noIndex.MatchString(msg):
		msg = `not every event has that: write {{ field "change-reports.0.new-status" .Body }}, which is empty then`
	default:
		msg = calling.ReplaceAllString(msg, "")
	}
	return &Error{Line: line, Msg: strings.Join(strings.Fields(at+msg), " ")}
}
