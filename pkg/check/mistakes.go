package check

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"strings"
	"time"
)

// utf8Mark is what some editors and shells write in front of a text.
const utf8Mark = "\ufeff"

var (
	yamlBegin    = regexp.MustCompile(`^yaml: (?:unmarshal errors:\s*)?`)
	unknownField = regexp.MustCompile(`field (\S+) not found in type .*`)
	wrongKind    = regexp.MustCompile("cannot unmarshal !!\\w+(?: `(.*)`)? into (.*)")
)

// yamlMistake says what is wrong with a YAML file without naming our own types.
func yamlMistake(err error) string {
	lines := strings.Split(yamlBegin.ReplaceAllString(err.Error(), ""), "\n")
	for i, line := range lines {
		line = wrongKind.ReplaceAllStringFunc(line, func(found string) string {
			parts := wrongKind.FindStringSubmatch(found)
			is := ""
			if parts[1] != "" {
				is = fmt.Sprintf(", not %q", parts[1])
			}
			return "must be " + kindOf(parts[2]) + is
		})
		lines[i] = strings.TrimSpace(unknownField.ReplaceAllString(line, "there is no key $1"))
	}
	return strings.Join(lines, "; ")
}

// kindOf says what a value of one of our types is in YAML.
func kindOf(goType string) string {
	switch {
	case strings.HasPrefix(goType, "[]"):
		return `a list: write "- " in front of each`
	case goType == "string":
		return "a text"
	}
	return "keys with their values"
}

// EventDecoder reads an event as JSON, behind such a mark where there is one.
func EventDecoder(r io.Reader) *json.Decoder {
	text := bufio.NewReader(r)
	if mark, _ := text.Peek(len(utf8Mark)); string(mark) == utf8Mark {
		_, _ = text.Discard(len(mark))
	}
	return json.NewDecoder(text)
}

// EventMistake says why something could not be read as the JSON of an event.
func EventMistake(err error) string {
	var kind *json.UnmarshalTypeError
	var at *time.ParseError
	switch {
	case errors.Is(err, io.EOF):
		return "is no event as JSON: it is empty"
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "is no event as JSON: it ends in the middle"
	case errors.As(err, &kind) && kind.Field == "":
		return "is no event as JSON: that is one object in braces, not of the kind " + kind.Value
	case errors.As(err, &kind):
		must := jsonKind(kind.Type)
		return fmt.Sprintf("is no event: %s must be %s, not of the kind %s", kind.Field, must, kind.Value)
	case errors.As(err, &at):
		return fmt.Sprintf("is no event: %q is no time as 2026-11-20T10:00:00Z", strings.Trim(at.Value, `"`))
	}
	return "is no event as JSON: " + strings.TrimPrefix(err.Error(), "json: ")
}

func jsonKind(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int64, reflect.Uint32:
		return "a whole number"
	case reflect.Slice:
		return "a list"
	}
	return "an object"
}
