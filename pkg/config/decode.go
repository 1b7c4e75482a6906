package config

import (
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"math"
	"reflect"
	"regexp"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"
	"time"

	promconfig "github.com/prometheus/common/config"
	"gopkg.in/yaml.v3"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/match"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/units"
)

// maxNodes bounds how much aliases may multiply a small file ("billion laughs").
const maxNodes = 100_000

// decoder fills a Config from YAML nodes. It goes through the tree itself, because the library's
// own strict mode stops at the first problem of a mapping, has no path, and quotes values, secrets
// among them.
type decoder struct {
	file  string
	first int // line; 0: files are read again, and there is none
	// of the file: who else can read the secrets in it
	mode     fs.FileMode
	errs     Errors
	warnings Errors
	// of every value in the file, by path
	lines map[string]int
	// paths with anything in the file below them
	filled map[string]bool
	// paths that have an error already
	bad map[string]bool
	// paths with an error below them
	badBelow map[string]bool
	// paths with an unknown key
	strange map[string]bool
	// being merged, against an alias within itself
	merging []*yaml.Node
	nodes   int
	// whether it is a list of rules that another file includes, and one of the ready sets
	included, ready bool
	// the sinks that write to files, by the path of the file
	logs map[string]string
}

func newDecoder(file string, mode fs.FileMode) *decoder {
	return &decoder{
		file: file, first: 1, mode: mode, logs: map[string]string{}, lines: map[string]int{}, filled: map[string]bool{},
		bad: map[string]bool{}, badBelow: map[string]bool{}, strange: map[string]bool{},
	}
}

// defaulter is a type whose values in a list, or behind a pointer, do not start as zero.
type defaulter interface{ setDefaults() }

// fail records an error at a path. What follows from it (the same path again, or one below) is not
// reported.
func (d *decoder) fail(line int, path, format string, args ...any) {
	d.bad[path] = true
	addAbove(d.badBelow, path)
	d.report(line, path, format, args...)
}

// report records an error that nothing follows from.
func (d *decoder) report(line int, path, format string, args ...any) {
	d.errs = append(d.errs, d.newError(line, path, format, args...))
}

func (d *decoder) newError(line int, path, format string, args ...any) *Error {
	return &Error{File: d.file, Line: line, Path: path, Msg: fmt.Sprintf(format, args...)}
}

// addAbove adds everything above path to the set.
func addAbove(set map[string]bool, path string) {
	for path != "" {
		if path = parent(path); set[path] {
			return
		}
		set[path] = true
	}
}

// failed reports whether path or something above it has an error already.
func (d *decoder) failed(path string) bool {
	for ; path != ""; path = parent(path) {
		if d.bad[path] {
			return true
		}
	}
	return d.bad[""]
}

// lineOf returns the line of path, or of the nearest thing above it that is in the file.
func (d *decoder) lineOf(path string) int {
	for path != "" {
		if line, ok := d.lines[path]; ok {
			return line
		}
		path = parent(path)
	}
	return d.first
}

// has reports whether the file gives a value for path.
func (d *decoder) has(path string) bool {
	_, ok := d.lines[path]
	return ok
}

// parent cuts the last step off a path: hmcs[0].tls -> hmcs[0] -> hmcs -> "".
func parent(path string) string {
	return path[:max(strings.LastIndexAny(path, ".["), 0)]
}

func join(path, key string) string {
	if path == "" || key == "" {
		return path + key
	}
	return path + "." + key
}

// decode stores the value of node n in v.
func (d *decoder) decode(n *yaml.Node, path string, v reflect.Value) {
	if d.tooMany(n) {
		return
	}
	if n.Kind == yaml.AliasNode {
		// the schema has an end, so an alias within itself leads to a wrong type
		n = n.Alias
	}
	if n.Style&yaml.TaggedStyle != 0 {
		d.fail(n.Line, path, "must not have a YAML tag: put a value that begins with ! into quotes")
		return
	}
	if _, ok := d.lines[path]; !ok || n.Kind == yaml.ScalarNode {
		d.lines[path] = n.Line
		addAbove(d.filled, path)
	}

	switch to := v.Addr().Interface().(type) {
	case *Secret:
		if s, ok := d.text(n, path); ok {
			*to = NewSecret(s)
		}
	case *URL:
		if s, ok := d.text(n, path); ok {
			*to = NewURL(s)
		}
	case *bool:
		decodeScalar(d, n, path, to, "true or false", strconv.ParseBool, "!!bool")
	case *int:
		decodeScalar(d, n, path, to, "a whole number", strconv.Atoi, "!!int")
	case *float64:
		decodeScalar(d, n, path, to, "a number", parseFloat, "!!int", "!!float")
	case *time.Duration:
		decodeText(d, n, path, to, units.ParseDuration)
	case *Size:
		decodeText(d, n, path, to, units.ParseSize)
	case *LogStart:
		decodeText(d, n, path, to, parseLogStart)
	case *Start:
		decodeText(d, n, path, to, parseStart)
	case *match.Pattern:
		decodeText(d, n, path, to, match.NewPattern)
	case *match.Patterns:
		decodeAlternatives(d, n, path, to)
	case *match.Search:
		decodeAlternatives(d, n, path, to)
	case *SeverityTable:
		d.severities(n, path, to)
	case **regexp.Regexp:
		decodeText(d, n, path, to, match.Compile)
	case *HTTPConfig:
		client := defaultHTTPClient()
		d.readSelf(n, path, &client)
		*to = HTTPConfig{client: &client}
	case *promconfig.Headers:
		d.decode(n, path, reflect.ValueOf(&to.Headers).Elem())
	case *any:
		// Of another package, which passes it on. The error may quote a value.
		if err := n.Decode(to); err != nil {
			d.fail(n.Line, path, "cannot be read")
		}
	case selfReading:
		d.readSelf(n, path, to)
	default:
		d.decodeCollection(n, path, v)
	}
}

// severities fills a table from a mapping. Its keys are whatever an HMC may send.
func (d *decoder) severities(n *yaml.Node, path string, to *SeverityTable) {
	table := SeverityTable{}
	if d.entries(n, path, ", such as {stopped: info}", func(key string) bool { return table[key] != "" },
		func(key, value *yaml.Node, at string) {
			switch {
			case d.tooMany(value):
			case value.Kind != yaml.ScalarNode || !slices.Contains(event.Severities(), value.Value):
				d.fail(value.Line, at, "must be one of %s", strings.Join(event.Severities(), ", "))
			default:
				table[key.Value], d.lines[at] = value.Value, key.Line
			}
		}) {
		*to = table
	}
}

// tooMany counts the values gone through, and reports once that there are too many. Nothing else
// matters then.
func (d *decoder) tooMany(n *yaml.Node) bool {
	d.nodes++
	if d.nodes == maxNodes+1 {
		d.fail(n.Line, "", "the file is too large: with its aliases it holds more than %d values", maxNodes)
	}
	return d.nodes > maxNodes
}

func (d *decoder) decodeCollection(n *yaml.Node, path string, v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		p := reflect.New(v.Type().Elem())
		setDefaults(p)
		v.Set(p)
		d.decode(n, path, p.Elem())
	case reflect.Struct:
		d.mapping(n, path, v)
	case reflect.Slice:
		if isNull(n) {
			v.SetZero()
			return
		}
		if n.Kind != yaml.SequenceNode {
			form := "begin each entry with \"- \""
			if v.Type().Elem().Kind() == reflect.String {
				form = "write [a, b], or one \"- \" line for each"
			}
			d.fail(n.Line, path, "must be a list: %s", form)
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
		for i, entry := range n.Content {
			setDefaults(v.Index(i).Addr())
			d.decode(entry, item(path, i), v.Index(i))
		}
	case reflect.Map:
		d.table(n, path, v)
	case reflect.String:
		if s, ok := d.text(n, path); ok {
			v.SetString(s)
		}
	default:
		// No value of a file leads here: the schema has no such type, which a test sees to.
		d.fail(n.Line, path, "cannot be set in the file")
	}
}

// table fills a map, whose keys are any text, from a mapping.
func (d *decoder) table(n *yaml.Node, path string, v reflect.Value) {
	table := reflect.MakeMap(v.Type())
	has := func(key string) bool { return table.MapIndex(reflect.ValueOf(key)).IsValid() }
	if d.entries(n, path, ": \"key: value\" in each line", has, func(key, value *yaml.Node, at string) {
		if key.Style&yaml.TaggedStyle != 0 {
			d.report(key.Line, path, "a key must be plain text")
			return
		}
		element := reflect.New(v.Type().Elem()).Elem()
		d.decode(value, at, element)
		table.SetMapIndex(reflect.ValueOf(key.Value), element)
	}) {
		v.Set(table)
	}
}

// entries goes through a mapping whose keys are any text. It reports whether there is one.
func (d *decoder) entries(n *yaml.Node, path, form string, has func(key string) bool,
	entry func(key, value *yaml.Node, at string),
) bool {
	if isNull(n) {
		return false
	}
	if n.Kind != yaml.MappingNode {
		d.fail(n.Line, path, "must be a mapping%s", form)
		return false
	}
	for i, key := range keys(n) {
		at := join(path, key.Value)
		switch {
		case key.Kind != yaml.ScalarNode || isMerge(key) || key.Value == "":
			d.report(key.Line, path, "a key must be plain text")
		case has(key.Value):
			d.fail(key.Line, at, "is given twice")
		default:
			entry(key, n.Content[i+1], at)
		}
	}
	return true
}

func setDefaults(p reflect.Value) {
	if dd, ok := reflect.TypeAssert[defaulter](p); ok {
		dd.setDefaults()
	}
}

// mapping fills the struct v from a mapping.
func (d *decoder) mapping(n *yaml.Node, path string, v reflect.Value) {
	if isNull(n) {
		return // a section whose keys are all commented out
	}
	if n.Kind != yaml.MappingNode {
		d.fail(n.Line, path, "must hold keys of its own: %s", strings.Join(keysOf(v.Type()), ", "))
		return
	}
	seen := map[string]int{}
	for i, key := range keys(n) {
		if key.Kind != yaml.ScalarNode || key.Style&yaml.TaggedStyle != 0 {
			d.report(key.Line, path, "a key must be plain text")
			continue
		}
		if isMerge(key) {
			continue
		}
		if first, ok := seen[key.Value]; !ok {
			seen[key.Value] = key.Line
			d.entry(n, path, v, i)
		} else if indexOf(v.Type(), key.Value) != nil {
			d.fail(key.Line, join(path, key.Value), "is given twice: the first time in line %d", first)
		}
	}
	d.mergeAll(n, path, v, seen)
}

// mergeAll merges what the keys "<<" of a mapping stand for. That comes last: it gives only what
// the mapping itself does not.
func (d *decoder) mergeAll(n *yaml.Node, path string, v reflect.Value, seen map[string]int) {
	for i, key := range keys(n) {
		if isMerge(key) {
			d.merge(n.Content[i+1], path, v, seen)
		}
	}
}

// entry decodes the value of the key at n.Content[i].
func (d *decoder) entry(n *yaml.Node, path string, v reflect.Value, i int) {
	key := n.Content[i]
	index := indexOf(v.Type(), key.Value)
	if index == nil {
		d.unknown(n, path, v.Type(), i)
		return
	}
	at := join(path, key.Value)
	d.lines[at] = key.Line
	addAbove(d.filled, at)
	d.decode(n.Content[i+1], at, v.FieldByIndex(index))
}

// merge applies "<<": the mapping, or the list of mappings, that value stands for.
func (d *decoder) merge(value *yaml.Node, path string, v reflect.Value, seen map[string]int) {
	if d.tooMany(value) {
		return
	}
	target := value
	if target.Kind == yaml.AliasNode {
		if slices.Contains(d.merging, target.Alias) {
			d.fail(value.Line, path, "the alias *%s is used within itself", value.Value)
			return
		}
		d.merging = append(d.merging, target.Alias)
		defer func() { d.merging = d.merging[:len(d.merging)-1] }()
		target = target.Alias
	}
	switch target.Kind {
	case yaml.SequenceNode:
		for _, item := range target.Content {
			d.merge(item, path, v, seen)
		}
	case yaml.MappingNode:
		for i, key := range keys(target) {
			if _, ok := seen[key.Value]; ok || isMerge(key) || key.Kind != yaml.ScalarNode {
				continue
			}
			seen[key.Value] = key.Line
			d.entry(target, path, v, i)
		}
		d.mergeAll(target, path, v, seen)
	default:
		d.fail(value.Line, path, "<< must name a mapping (*anchor), or a list of them")
	}
}

// keys ranges over the keys of a mapping, each with its place: its value is in the next one.
func keys(n *yaml.Node) iter.Seq2[int, *yaml.Node] {
	return func(yield func(int, *yaml.Node) bool) {
		for i := 0; i+1 < len(n.Content) && yield(i, n.Content[i]); i += 2 {
		}
	}
}

func isMerge(key *yaml.Node) bool { return key.Kind == yaml.ScalarNode && key.Tag == "!!merge" }

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

// unknown reports the key at n.Content[i], which a struct of type t does not have.
func (d *decoder) unknown(n *yaml.Node, path string, t reflect.Type, i int) {
	key, value := n.Content[i], n.Content[i+1]
	d.strange[path] = true
	// {password: ab,cd} has a key cd without a value. It may be half of a secret: it is not shown.
	if n.Style&yaml.FlowStyle != 0 && isNull(value) && value.Value == "" {
		what := "unknown key"
		if i >= 2 {
			what = fmt.Sprintf("unknown key after %q", n.Content[i-2].Value)
		}
		d.report(key.Line, path, "%s: put a value with a comma or a brace into quotes", what)
		return
	}
	known := keysOf(t)
	if near := event.Nearest(key.Value, known); near != "" {
		d.bad[join(path, near)] = true // so that it is not missed as well
		d.report(key.Line, path, "unknown key %q, did you mean %q?", key.Value, near)
		return
	}
	for _, k := range known {
		field := t.FieldByIndex(indexOf(t, k)).Type
		if field.Kind() == reflect.Pointer {
			field = field.Elem()
		}
		if field.Kind() == reflect.Struct && slices.Contains(keysOf(field), key.Value) {
			d.report(key.Line, path, "unknown key %q: it belongs under %q", key.Value, k)
			return
		}
	}
	d.report(key.Line, path, "unknown key %q: known here are %s", key.Value, strings.Join(known, ", "))
}

// text returns the value of a scalar as it is written. A number or a date is text too: passwords
// look like everything.
func (d *decoder) text(n *yaml.Node, path string) (string, bool) {
	switch {
	case isNull(n):
		d.fail(n.Line, path, "has no value: give one, or remove the key")
	case n.Kind != yaml.ScalarNode:
		d.fail(n.Line, path, "must be text: put a value that begins with [ or { into quotes")
	default:
		return n.Value, true
	}
	return "", false
}

// decodeScalar stores what parse makes of a scalar that YAML sees as one of the types.
func decodeScalar[T any](d *decoder, n *yaml.Node, path string, to *T, what string,
	parse func(string) (T, error), tags ...string,
) {
	v, err := parse(n.Value)
	switch {
	case isNull(n):
		d.fail(n.Line, path, "has no value: it must be %s", what)
	case n.Kind != yaml.ScalarNode:
		d.fail(n.Line, path, "must be %s", what)
	case err != nil || !slices.Contains(tags, n.Tag): // it is shown: no secret has such a type
		d.fail(n.Line, path, "must be %s, not %s", what, quote(n.Value))
	default:
		*to = v
	}
}

func parseFloat(s string) (float64, error) {
	f, err := strconv.ParseFloat(s, 64)
	if math.IsNaN(f) || math.IsInf(f, 0) {
		err = strconv.ErrRange
	}
	return f, err
}

// decodeText stores what parse makes of a scalar.
func decodeText[T any](d *decoder, n *yaml.Node, path string, to *T, parse func(string) (T, error)) {
	s, ok := d.text(n, path)
	if !ok {
		return
	}
	v, err := parse(s)
	if err != nil {
		d.fail(n.Line, path, "%s", explainValue(s, err))
		return
	}
	*to = v
}

// decodeAlternatives reads a list, or one scalar in place of a list of one.
func decodeAlternatives[S ~[]T, T any](d *decoder, n *yaml.Node, path string, to *S) {
	switch {
	case n.Kind != yaml.SequenceNode:
		*to = make(S, 1)
		d.decode(n, path, reflect.ValueOf(to).Elem().Index(0))
	case len(n.Content) == 0:
		d.fail(n.Line, path, "is empty and would never match: give a value, or remove the key")
	default:
		d.decodeCollection(n, path, reflect.ValueOf(to).Elem())
	}
}

// explainValue returns what is wrong with a value.
func explainValue(s string, err error) string {
	var re *syntax.Error
	switch {
	case errors.As(err, &re):
		return fmt.Sprintf("is not a regular expression: %s: %s", re.Code, quote(re.Expr))
	case errors.Is(err, match.ErrTooLarge):
		return fmt.Sprintf("%s: %s", err, quote(s))
	case errors.Is(err, units.ErrNegative):
		return fmt.Sprintf("%s, but is %s", err, quote(s))
	}
	return fmt.Sprintf("%s, not %s", err, quote(s))
}

// quote shows a value of the file, shortened.
func quote(s string) string {
	const limit = 60
	if r := []rune(s); len(r) > limit {
		s = string(r[:limit]) + "..."
	}
	return strconv.Quote(s)
}

// indexOf returns where the field of a key is; nil: there is none.
func indexOf(t reflect.Type, key string) []int {
	for f := range t.Fields() {
		if isInline(f) {
			if rest := indexOf(f.Type, key); rest != nil {
				return append(f.Index, rest...)
			}
		} else if key != "" && keyOf(f) == key {
			return f.Index
		}
	}
	return nil
}

// keysOf lists the keys a struct has in the file, in the order of its fields.
func keysOf(t reflect.Type) []string {
	var keys []string
	for f := range t.Fields() {
		if isInline(f) {
			keys = append(keys, keysOf(f.Type)...)
		} else if k := keyOf(f); k != "" {
			keys = append(keys, k)
		}
	}
	return keys
}

// isInline reports whether the keys of a field's type are keys of the struct itself.
func isInline(f reflect.StructField) bool {
	return f.Type.Kind() == reflect.Struct && f.Tag.Get("yaml") == ",inline"
}

// keyOf returns the key a field has in the file, or "". A field of another package may have no tag:
// there, ConnectTimeout is connect_timeout.
func keyOf(f reflect.StructField) string {
	if !f.IsExported() {
		return ""
	}
	if tag, ok := f.Tag.Lookup("yaml"); ok {
		key, _, _ := strings.Cut(tag, ",")
		// Prometheus' references to a manager of secrets, which there is none of here.
		if key == "-" || strings.HasSuffix(key, "_ref") {
			return ""
		}
		return key
	}
	return strings.ToLower(wordStart.ReplaceAllString(f.Name, "${1}_$2"))
}

var wordStart = regexp.MustCompile(`(.)([A-Z])`)
