package check

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/route"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/sinks"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/translate"
)

const (
	// maxExpectations bounds a file of expectations, and maxEventFile that of one event.
	maxExpectations = 16 << 20
	maxEventFile    = 64 << 20
)

// expectation is an event and what is expected of it. What is not named is not compared.
type expectation struct {
	// for people
	Name   string    `yaml:"name"`
	Event  yamlValue `yaml:"event"`
	Expect expected  `yaml:"expect"`
}

type expected struct {
	Sinks    []string             `yaml:"sinks"`
	Severity *string              `yaml:"severity"`
	Labels   map[string]string    `yaml:"labels"`
	Runbook  *string              `yaml:"runbook"`
	Body     map[string]yamlValue `yaml:"body"`
}

func (w *expected) isEmpty() bool {
	return w.Sinks == nil && w.Severity == nil && len(w.Labels) == 0 && w.Runbook == nil && len(w.Body) == 0
}

// Expectations holds what a configuration does with events against what a file expects of it. Each
// event gets its severity, labels and runbook anew. What differs is written to out; the error says
// how many events are not as expected, or what is wrong with the file.
func Expectations(cfg *config.Config, file, version string, out io.Writer) error {
	data, err := readBounded(file, maxExpectations)
	if err != nil {
		return err
	}
	var list []expectation
	if err := config.Strict(data, &list); err != nil {
		return fmt.Errorf("%s: %s", file, yamlMistake(err))
	}
	if len(list) == 0 {
		return fmt.Errorf("%s: holds no test: list {event: ..., expect: ...}", file)
	}
	x := &examiner{
		cfg: cfg, file: file, version: version,
		rater: translate.NewRater(cfg), sinks: make(map[string]sinks.Sink),
	}
	defer x.close()
	wrong := 0
	var said strings.Builder
	defer func() { _, _ = io.WriteString(out, said.String()) }()
	for i := range list {
		title := fmt.Sprintf("test %d", i+1)
		if list[i].Name != "" {
			title += " (" + list[i].Name + ")"
		}
		differences, err := x.examine(&list[i])
		if err != nil {
			return fmt.Errorf("%s: %s: %w", file, title, err)
		}
		if len(differences) == 0 {
			continue
		}
		wrong++
		fmt.Fprintf(&said, "%s: %s is not as expected:\n", file, title)
		for _, d := range differences {
			fmt.Fprintf(&said, "  %s\n", strings.ReplaceAll(d, "\n", "\n    "))
		}
	}
	switch {
	case wrong == 1 && len(list) == 1:
		return fmt.Errorf("%s: the event is not as expected", file)
	case wrong > 0:
		return fmt.Errorf("%s: of %d events %d are not as expected", file, len(list), wrong)
	case len(list) == 1:
		fmt.Fprintf(&said, "%s: 1 event, as expected\n", file)
	default:
		fmt.Fprintf(&said, "%s: %d events, all as expected\n", file, len(list))
	}
	return nil
}

// Rated rates an event that has no severity, for sinks get none without. The error says of one that
// it has that there is no such severity.
func Rated(cfg *config.Config, e *event.Event) error {
	switch known := event.Severities(); {
	case e.Severity == "":
		translate.NewRater(cfg).Rate(e)
	case !slices.Contains(known, e.Severity):
		return fmt.Errorf("has the severity %q, which is none of %s", e.Severity, strings.Join(known, ", "))
	}
	return nil
}

// examiner knows a configuration, and makes its sinks as they are needed.
type examiner struct {
	cfg           *config.Config
	file, version string
	rater         *translate.Rater
	sinks         map[string]sinks.Sink
	created       []func()
}

func (x *examiner) close() {
	for _, s := range x.sinks {
		_ = s.Close()
	}
	for _, remove := range x.created {
		remove()
	}
}

// examine returns in which ways an event is not as expected. The error says what is wrong with the
// expectation itself.
func (x *examiner) examine(want *expectation) (differences []string, err error) {
	if want.Expect.isEmpty() {
		return nil, errors.New("expects nothing: give it expect, with sinks, severity, labels, runbook or body")
	}
	e, err := x.event(want.Event.is)
	if err != nil {
		return nil, err
	}
	x.rater.Rate(e)
	differ := func(format string, args ...any) { differences = append(differences, fmt.Sprintf(format, args...)) }
	if s := want.Expect.Severity; s != nil && *s != e.Severity {
		if !slices.Contains(event.Severities(), *s) {
			return nil, fmt.Errorf("severity must be one of %s, not %q", strings.Join(event.Severities(), ", "), *s)
		}
		differ("severity: expected %s, is %s", *s, e.Severity)
	}
	if s := want.Expect.Runbook; s != nil && *s != e.Runbook {
		differ("runbook: expected %s, is %s", orNone(*s), orNone(e.Runbook))
	}
	for _, name := range slices.Sorted(maps.Keys(want.Expect.Labels)) {
		if value, is := want.Expect.Labels[name], e.Labels.Get(name); value != is {
			differ("label %s: expected %s, is %s", name, orNone(value), orNone(is))
		}
	}
	if want.Expect.Sinks != nil {
		if differences, err = x.compareSinks(differences, e, want.Expect.Sinks); err != nil {
			return nil, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(want.Expect.Body)) {
		sink, err := x.sink(name)
		if err != nil {
			return nil, err
		}
		body, err := sink.Preview(event.NewRecord(e))
		if err != nil {
			differ("body of %s: %v", name, err)
			continue
		}
		if found := compareBodies(want.Expect.Body[name].is, body); len(found) > 0 {
			differ("body of %s:\n%s", name, strings.Join(found, "\n"))
		}
	}
	return differences, nil
}

func orNone(s string) string { return cmp.Or(s, "none") }

// event returns the event that is given, or in the file that is named. What it leaves out and needs
// it gets.
func (x *examiner) event(given any) (*event.Event, error) {
	var data []byte
	switch given := given.(type) {
	case nil:
		return nil, errors.New("has no event: give one, or the name of a file with one as JSON")
	case string:
		path := given
		if !filepath.IsAbs(path) {
			path = filepath.Join(filepath.Dir(x.file), path)
		}
		var err error
		if data, err = readBounded(path, maxEventFile); err != nil {
			return nil, fmt.Errorf("event: %w", err)
		}
	case map[string]any:
		data = marshal(given)
	default:
		return nil, errors.New("event must be an event, or the name of a file with one as JSON")
	}
	e := new(event.Event)
	d := EventDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(e); err != nil {
		return nil, fmt.Errorf("event: %s", EventMistake(err))
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("event: something stands behind it")
	}
	if e.Type == "" {
		return nil, errors.New("event: has no type")
	}
	if near := event.Nearest(e.Type, event.Types()); near != "" && !slices.Contains(event.Types(), e.Type) {
		return nil, fmt.Errorf("event: no event of the type %q is known, did you mean %q?", e.Type, near)
	}
	e.HMC = cmp.Or(e.HMC, x.cfg.HMCs[0].Name)
	e.ID = cmp.Or(e.ID, event.NewID("test"))
	e.Origin = cmp.Or(e.Origin, event.OriginLive)
	at := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	if e.Time.IsZero() {
		e.Time = cmp.Or(e.Received, at)
	}
	if e.Received.IsZero() {
		e.Received = e.Time
	}
	return e, nil
}

// compareSinks adds which sinks get an event and should not, and the other way round.
func (x *examiner) compareSinks(differences []string, e *event.Event, want []string) ([]string, error) {
	for _, name := range want {
		if x.configured(name) == nil {
			return nil, x.noSink(name)
		}
	}
	for _, r := range route.All(x.cfg, e) {
		switch expected := slices.Contains(want, r.Sink); {
		case expected && !r.Gets:
			differences = append(differences, "sink "+r.Sink+": expected to get it, does not: "+r.Why)
		case !expected && r.Gets:
			differences = append(differences, "sink "+r.Sink+": expected not to get it, does: "+r.Why)
		}
	}
	return differences, nil
}

func (x *examiner) configured(name string) *config.Sink {
	if i := slices.IndexFunc(x.cfg.Sinks, func(s config.Sink) bool { return s.Name == name }); i >= 0 {
		return &x.cfg.Sinks[i]
	}
	return nil
}

func (x *examiner) noSink(name string) error {
	names := make([]string, len(x.cfg.Sinks))
	for i := range x.cfg.Sinks {
		names[i] = x.cfg.Sinks[i].Name
	}
	return fmt.Errorf("there is no sink %q: the sinks are %s", name, strings.Join(names, ", "))
}

// sink returns a sink that can say what it sends.
func (x *examiner) sink(name string) (sinks.Previewer, error) {
	c := x.configured(name)
	if c == nil {
		return nil, x.noSink(name)
	}
	sink := x.sinks[name]
	if sink == nil {
		x.created = append(x.created, leaveNoFile(c))
		var err error
		sink, err = sinks.New(*c, sinks.Options{Version: x.version, Stdout: io.Discard, Stderr: io.Discard})
		if err != nil {
			return nil, fmt.Errorf("sink %s: %w", name, err)
		}
		x.sinks[name] = sink
		if f, ok := sink.(sinks.Follower); ok {
			groups := make(map[string]string, len(x.cfg.HMCs))
			for i := range x.cfg.HMCs {
				groups[x.cfg.HMCs[i].Name] = x.cfg.HMCs[i].Group
			}
			f.Follow(groups)
		}
	}
	p, ok := sink.(sinks.Previewer)
	if !ok {
		return nil, fmt.Errorf("body of %s: what a sink of this kind sends cannot be compared", name)
	}
	return p, nil
}

// compareBodies says how a body differs from what is expected: JSON by value, where what is not
// named is not compared, anything else as text. A line end at the end does not count.
func compareBodies(want any, body []byte) (differences []string) {
	got, isJSON := decode(body)
	if text, ok := want.(string); ok {
		other, ok := decode([]byte(text))
		_, isObject := other.(map[string]any)
		_, isList := other.([]any)
		if !ok || !isJSON || !isObject && !isList {
			return compareTexts(strings.TrimSuffix(text, "\n"), strings.TrimSuffix(string(body), "\n"))
		}
		want = other
	}
	if !isJSON {
		return append([]string{"expected JSON, is text:"}, compareTexts("", string(body))...)
	}
	// The same types as those of what was sent.
	want, _ = decode(marshal(want))
	compareValues("", want, got, func(at, expected, is string) {
		differences = append(differences, fmt.Sprintf("%s: expected %s, is %s", cmp.Or(at, "all of it"), expected, is))
	})
	return differences
}

// compareTexts returns the lines in which two texts differ, those expected with - in front, those
// that are with +.
func compareTexts(want, got string) (lines []string) {
	if want == got {
		return nil
	}
	a, b := strings.Split(want, "\n"), strings.Split(got, "\n")
	for len(a) > 0 && len(b) > 0 && a[0] == b[0] {
		a, b = a[1:], b[1:]
	}
	for len(a) > 0 && len(b) > 0 && a[len(a)-1] == b[len(b)-1] {
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	for _, line := range a {
		lines = append(lines, "- "+line)
	}
	for _, line := range b {
		lines = append(lines, "+ "+line)
	}
	return lines
}

// compareValues calls differ for each place in which got is not what want has there.
func compareValues(at string, want, got any, differ func(at, expected, is string)) {
	switch w := want.(type) {
	case map[string]any:
		g, ok := got.(map[string]any)
		if !ok {
			differ(at, "an object", brief(got))
			return
		}
		for _, key := range slices.Sorted(maps.Keys(w)) {
			value, has := g[key]
			if !has && w[key] != nil {
				differ(strings.TrimPrefix(at+"."+key, "."), brief(w[key]), "missing")
				continue
			}
			compareValues(strings.TrimPrefix(at+"."+key, "."), w[key], value, differ)
		}
	case []any:
		g, ok := got.([]any)
		if !ok || len(g) != len(w) {
			differ(at, fmt.Sprintf("a list of %d", len(w)), brief(got))
			return
		}
		for i := range w {
			compareValues(fmt.Sprintf("%s[%d]", at, i), w[i], g[i], differ)
		}
	default:
		if !same(want, got) {
			differ(at, brief(want), brief(got))
		}
	}
}

// same compares values that are neither objects nor lists.
func same(a, b any) bool {
	x, ok := a.(json.Number)
	y, also := b.(json.Number)
	if !ok || !also || x == y {
		return a == b || fmt.Sprintf("%T %v", a, a) == fmt.Sprintf("%T %v", b, b)
	}
	m, err := x.Float64()
	n, other := y.Float64()
	return err == nil && other == nil && m == n
}

// brief is a value for a line.
func brief(v any) string {
	const limit = 300
	return event.Cut(string(marshal(v)), limit)
}

func decode(data []byte) (v any, ok bool) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if d.Decode(&v) != nil {
		return nil, false
	}
	_, err := d.Token()
	return v, errors.Is(err, io.EOF)
}

// marshal returns a value of YAML or JSON as JSON.
func marshal(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if e.Encode(v) != nil { // an infinite number
		return []byte("null")
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%s: is larger than %d MiB", path, limit>>20)
	}
	return data, err
}

// yamlValue is any value of YAML, as JSON has it: a time is the text that stands there.
type yamlValue struct{ is any }

// UnmarshalYAML reads the value.
func (v *yamlValue) UnmarshalYAML(unmarshal func(any) error) error {
	if err := unmarshal(&v.is); err != nil {
		return err
	}
	switch v.is.(type) {
	case time.Time:
		var text string
		if err := unmarshal(&text); err != nil {
			return err
		}
		v.is = text
	case []any:
		var list []yamlValue
		if err := unmarshal(&list); err != nil {
			return err
		}
		all := make([]any, len(list))
		for i := range list {
			all[i] = list[i].is
		}
		v.is = all
	case map[string]any, map[any]any:
		var mapping map[string]yamlValue
		if err := unmarshal(&mapping); err != nil {
			return err
		}
		all := make(map[string]any, len(mapping))
		for key := range mapping {
			all[key] = mapping[key].is
		}
		v.is = all
	}
	return nil
}
