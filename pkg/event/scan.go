package event

import (
	"bytes"
	"encoding/json"
	"iter"
	"math"
	"strconv"
)

// The functions below read JSON that is known to be valid without building anything from it. They
// run for every notification, where encoding/json's reflection would cost more than all the rest of
// the supervisor's work. Given anything that is not valid JSON they end early; they never panic.

// Members ranges over the members of a JSON object: the unquoted name and the value as it stands. A
// value that is not an object has none. Names are bytes, so that comparing them allocates nothing:
// switch string(name).
func Members(object []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func([]byte, []byte) bool) {
		i, ok := enter(object, '{')
		for ok {
			end := valueEnd(object, i)
			name := unquote(object[i:end])
			i = skipSpace(object, end)
			if i >= len(object) || object[i] != ':' {
				return
			}
			i = skipSpace(object, i+1)
			end = valueEnd(object, i)
			if end == i || !yield(name, object[i:end]) {
				return
			}
			i, ok = next(object, end)
		}
	}
}

// Elements ranges over the elements of a JSON array as they stand. A value that is not an array has
// none.
func Elements(array []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		i, ok := enter(array, '[')
		for ok {
			end := valueEnd(array, i)
			if end == i || !yield(array[i:end]) {
				return
			}
			i, ok = next(array, end)
		}
	}
}

// Member returns the value of the first member called name, or nil.
func Member(object []byte, name string) []byte {
	for n, v := range Members(object) {
		if string(n) == name {
			return v
		}
	}
	return nil
}

// String returns the value of a JSON string, or "" for any other value.
func String(value []byte) string {
	if len(value) < 2 || value[0] != '"' {
		return ""
	}
	if bytes.IndexByte(value, '\\') < 0 {
		return string(value[1 : len(value)-1])
	}
	var s string
	if json.Unmarshal(value, &s) != nil {
		return ""
	}
	return s
}

// unquote is String without a copy where nothing is escaped.
func unquote(value []byte) []byte {
	if len(value) >= 2 && value[0] == '"' && bytes.IndexByte(value, '\\') < 0 {
		return value[1 : len(value)-1]
	}
	return []byte(String(value))
}

// Int returns the value of a JSON number without fraction, or of one in a string, as HMCs write
// some, or 0 for any other value.
func Int(value []byte) int64 {
	if n, err := strconv.ParseInt(Unquoted(value), 10, 64); err == nil {
		return n
	}
	// Up to where each whole number has a floating-point number of its own.
	const exact = 1 << 53
	if f, err := strconv.ParseFloat(string(value), 64); err == nil && f == math.Trunc(f) && math.Abs(f) <= exact {
		return int64(f)
	}
	return 0
}

// True reports whether the value is the JSON literal true.
func True(value []byte) bool { return string(value) == "true" }

// enter returns the index of the first member or element behind the opening bracket, and whether
// there is one.
func enter(data []byte, bracket byte) (int, bool) {
	i := skipSpace(data, 0)
	if i >= len(data) || data[i] != bracket {
		return 0, false
	}
	i = skipSpace(data, i+1)
	return i, i < len(data) && data[i] != bracket+2 // ']' is '['+2, '}' is '{'+2
}

// next returns the index of what follows the comma behind a value that ends at i, and whether there
// is one.
func next(data []byte, i int) (int, bool) {
	i = skipSpace(data, i)
	if i >= len(data) || data[i] != ',' {
		return 0, false
	}
	i = skipSpace(data, i+1)
	return i, i < len(data)
}

func skipSpace(data []byte, i int) int {
	for i < len(data) && (data[i] == ' ' || data[i] == '\n' || data[i] == '\t' || data[i] == '\r') {
		i++
	}
	return i
}

// valueEnd returns the index behind the value that begins at i.
func valueEnd(data []byte, i int) int {
	depth := 0
	for i < len(data) {
		switch data[i] {
		case '"':
			i = stringEnd(data, i+1)
		case '{', '[':
			depth++
			i++
			continue
		case '}', ']':
			if depth == 0 {
				return i // the bracket of what the value is in
			}
			depth--
			i++
		default:
			if depth == 0 && delimiter(data[i]) {
				return i
			}
			i++
			if depth == 0 && i < len(data) && !delimiter(data[i]) {
				continue // within a number or a literal
			}
		}
		if depth == 0 {
			return i
		}
	}
	return i
}

func delimiter(c byte) bool {
	switch c {
	case ',', ':', '}', ']', ' ', '\n', '\t', '\r':
		return true
	}
	return false
}
