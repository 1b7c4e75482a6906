package render

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"reflect"
	"regexp"
	"regexp/syntax"
	"strconv"
	"strings"
	"text/template"
	"time"
	"unicode/utf8"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// functions are those a template may use, besides the operators and comparisons of package
// template. All that make text count it: a loop must not double a string for ever.
func (r *run) functions() template.FuncMap {
	// of is a function of the text of a value.
	of := func(f func(string) string) func(any) (string, error) {
		return func(v any) (string, error) { return r.made(f(text(v)), nil) }
	}
	return template.FuncMap{
		"json":         func(v any) (string, error) { return r.made(marshal(v)) },
		"js":           func(v any) (string, error) { return r.made(quoted(v)) },
		"upper":        of(strings.ToUpper),
		"lower":        of(strings.ToLower),
		"trim":         of(strings.TrimSpace),
		"default":      fallback,
		"date":         date,
		"truncate":     func(n int, v any) (string, error) { return r.made(truncate(n, text(v)), nil) },
		"field":        field,
		"replace":      r.replace,
		"regexReplace": r.regexReplace,
		"sha256":       of(func(s string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(s))) }),
		"join":         func(sep string, v any) (string, error) { return r.made(join(sep, v), nil) },
		"contains":     func(part string, v any) bool { return strings.Contains(text(v), part) },

		// Those of package template that make text.
		"print":    func(a ...any) (string, error) { return r.made(fmt.Sprint(a...), nil) },
		"printf":   r.printf,
		"println":  func(a ...any) (string, error) { return r.made(fmt.Sprintln(a...), nil) },
		"html":     of(template.HTMLEscapeString),
		"urlquery": of(url.QueryEscape),
	}
}

// textPerStep is how many bytes of text count as one step.
const textPerStep = 64

// made counts text that a function has made.
func (r *run) made(s string, err error) (string, error) {
	if err != nil {
		return "", err
	}
	return s, r.spend(1 + len(s)/textPerStep)
}

// wide finds widths and precisions with which a short format makes a long text.
var wide = regexp.MustCompile(`%[-+# 0-9.\[\]]*(\*|[0-9]{4})`)

func (r *run) printf(format string, a ...any) (string, error) {
	if wide.MatchString(format) {
		return "", errors.New("printf takes widths of up to 999 only, and no *")
	}
	return r.made(fmt.Sprintf(format, a...), nil)
}

// text is what a value is written as: nothing as nothing, lists and mappings as JSON.
func text(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	case fmt.Stringer:
		return v.String()
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	}
	switch reflect.TypeOf(v).Kind() {
	case reflect.Map, reflect.Slice, reflect.Struct, reflect.Pointer:
		s, err := marshal(v)
		if err != nil {
			return ""
		}
		return s
	}
	return fmt.Sprint(v)
}

// marshal returns v as JSON.
func marshal(v any) (string, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return "", errors.New("cannot be written as JSON")
	}
	return string(event.AppendEscaped(nil, bytes.TrimSuffix(b.Bytes(), []byte("\n")))), nil
}

// quoted returns v as it stands between the quotes of a JSON string.
func quoted(v any) (string, error) {
	s, err := marshal(text(v))
	if err != nil {
		return "", err
	}
	return s[1 : len(s)-1], nil
}

// fallback returns given, or other where that is nothing or empty. 0 and false are values.
func fallback(other, given any) any {
	if given == nil {
		return other
	}
	switch v := reflect.ValueOf(given); v.Kind() {
	case reflect.String, reflect.Map, reflect.Slice:
		if v.Len() == 0 {
			return other
		}
	}
	return given
}

// date writes a time of the event's JSON, or one in milliseconds since 1970 as an HMC has it, in
// UTC.
func date(layout string, v any) (string, error) {
	var at time.Time
	switch v := v.(type) {
	case nil:
		return "", nil
	case int64:
		at = time.UnixMilli(v)
	case string:
		if v == "" {
			return "", nil
		}
		t, err := time.Parse(time.RFC3339, v)
		if err != nil {
			return "", errors.New("date wants a time such as .Time, or milliseconds since 1970")
		}
		at = t
	default:
		return "", fmt.Errorf("date wants a time, not a %T", v)
	}
	switch layout {
	case "unix":
		return strconv.FormatInt(at.Unix(), 10), nil
	case "unix.000":
		return strconv.FormatFloat(float64(at.UnixMilli())/1000, 'f', 3, 64), nil
	case "unixmilli":
		return strconv.FormatInt(at.UnixMilli(), 10), nil
	case "unixnano":
		if at.Unix() > 0 {
			return fmt.Sprintf("%d%09d", at.Unix(), at.Nanosecond()), nil // UnixNano ends in 2262
		}
		return strconv.FormatInt(at.UnixNano(), 10), nil
	}
	return at.UTC().Format(layout), nil
}

// truncate returns s with at most n characters, the last of them an ellipsis if there were more.
func truncate(n int, s string) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	for i := range s {
		if n--; n == 0 {
			return s[:i] + "…"
		}
	}
	return ""
}

// field returns what stands at a path in v, such as change-reports.0.new-status; nil where there is
// nothing, which is written as nothing, is not equal to anything and has nothing to loop over.
func field(path string, v any) any {
	for step := range strings.SplitSeq(path, ".") {
		switch x := v.(type) {
		case map[string]any:
			v = x[step]
		case map[string]string:
			value, ok := x[step]
			if v = value; !ok {
				return nil
			}
		case []any:
			i, err := strconv.Atoi(step)
			if err != nil || i < 0 || i >= len(x) {
				return nil
			}
			v = x[i]
		default:
			return nil
		}
	}
	return v
}

func (r *run) replace(old, with string, v any) (string, error) {
	s := text(v)
	if old == "" {
		return s, nil
	}
	// Counted before it is made: a short old and a long with make much of little.
	if err := r.spend(1 + (len(s)+strings.Count(s, old)*len(with))/textPerStep); err != nil {
		return "", err
	}
	return strings.ReplaceAll(s, old, with), nil
}

const (
	// maxPattern is the longest regular expression, in bytes.
	maxPattern = 1000
	// maxPatterns bounds those that are kept.
	maxPatterns = 32
	// stepsToCompile is what compiling one costs.
	stepsToCompile = 1000
)

// pattern is a compiled regular expression.
type pattern struct {
	*regexp.Regexp
	// size is how many instructions may have to be tried on each byte.
	size int
}

// regexReplace replaces what a regular expression finds, by a text in which $1 and ${1} stand for
// what was found in brackets. What it costs is counted before it is spent.
func (r *run) regexReplace(search, with string, v any) (string, error) {
	p, err := r.pattern(search)
	if err != nil {
		return "", err
	}
	s := text(v)
	if err := r.spend(1 + (len(s)+1)*p.size/textPerStep); err != nil {
		return "", err
	}
	dollars := strings.Count(with, "$")
	var out []byte
	end := 0
	for _, m := range p.FindAllStringSubmatchIndex(s, r.left+1) {
		if err := r.spend(1 + (len(with)+dollars*(m[1]-m[0]))/textPerStep); err != nil {
			return "", err
		}
		out = append(out, s[end:m[0]]...)
		out = p.ExpandString(out, with, s, m)
		end = m[1]
	}
	return string(append(out, s[end:]...)), nil
}

// pattern returns a compiled regular expression. Templates have few, and use them for each event.
func (r *run) pattern(search string) (*pattern, error) {
	if p := r.patterns[search]; p != nil {
		return p, nil
	}
	if len(search) > maxPattern {
		return nil, fmt.Errorf("a regular expression is longer than %d bytes", maxPattern)
	}
	if err := r.spend(stepsToCompile); err != nil {
		return nil, err
	}
	re, err := regexp.Compile(search)
	if err != nil {
		return nil, errors.New("regexReplace wants a regular expression; with backslashes write it between backquotes")
	}
	p := &pattern{Regexp: re}
	if parsed, err := syntax.Parse(search, syntax.Perl); err == nil {
		if prog, err := syntax.Compile(parsed.Simplify()); err == nil {
			p.size = len(prog.Inst)
		}
	}
	if len(r.patterns) >= maxPatterns {
		clear(r.patterns)
	}
	r.patterns[search] = p
	return p, nil
}

func join(sep string, v any) string {
	list := reflect.ValueOf(v)
	if !list.IsValid() || list.Kind() != reflect.Slice {
		return text(v)
	}
	parts := make([]string, list.Len())
	for i := range parts {
		parts[i] = text(list.Index(i).Interface())
	}
	return strings.Join(parts, sep)
}
