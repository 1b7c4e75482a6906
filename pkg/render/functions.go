package render

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"reflect"
	"regexp"
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
		"json":     func(v any) (string, error) { return r.made(marshal(v)) },
		"js":       func(v any) (string, error) { return r.made(quoted(v)) },
		"upper":    of(strings.ToUpper),
		"lower":    of(strings.ToLower),
		"trim":     of(strings.TrimSpace),
		"default":  fallback,
		"date":     date,
		"truncate": func(n int, v any) (string, error) { return r.made(truncate(n, text(v)), nil) },
		"field":    field,
		"replace":  r.replace,
		"join":     func(sep string, v any) (string, error) { return r.made(join(sep, v), nil) },
		"contains": func(part string, v any) bool { return strings.Contains(text(v), part) },

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
	case "unixmilli":
		return strconv.FormatInt(at.UnixMilli(), 10), nil
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
