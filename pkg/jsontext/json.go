// Package jsontext finds out whether a text is JSON, fast enough for every notification.
package jsontext

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"
)

// Check returns nil if body is one JSON value in valid UTF-8, else what is wrong with it.
func Check(body []byte) error {
	if validJSON(body) {
		return nil
	}
	if !utf8.Valid(body) {
		return errors.New("not valid UTF-8")
	}
	var value json.RawMessage
	if err := json.Unmarshal(body, &value); err != nil {
		return fmt.Errorf("not JSON: %w", err)
	}
	return errors.New("not JSON")
}

// maxJSONDepth is how deep encoding/json lets a value nest, so that what passes here can be read
// with it.
const maxJSONDepth = 10000

// validJSON reports whether b is exactly one JSON value (RFC 8259) in valid UTF-8. It accepts what
// json.Valid and utf8.Valid accept together, in one pass and several times as fast: every
// notification goes through it.
func validJSON(b []byte) bool {
	i := jsonValue(b, skipSpace(b, 0), 1)
	return i >= 0 && skipSpace(b, i) == len(b)
}

func skipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\t' || b[i] == '\r') {
		i++
	}
	return i
}

// jsonValue and its like return the index after what begins at b[i], or -1.
func jsonValue(b []byte, i, depth int) int {
	if i >= len(b) {
		return -1
	}
	switch c := b[i]; {
	case c == '"':
		return jsonString(b, i+1)
	case c == '{':
		return jsonContainer(b, i+1, depth, '}')
	case c == '[':
		return jsonContainer(b, i+1, depth, ']')
	case c == '-' || '0' <= c && c <= '9':
		return jsonNumber(b, i)
	}
	for _, literal := range [...]string{"true", "false", "null"} {
		if end := i + len(literal); end <= len(b) && string(b[i:end]) == literal {
			return end
		}
	}
	return -1
}

// jsonContainer expects i after the bracket that begins an object, or an array, and end to be its
// other bracket.
func jsonContainer(b []byte, i, depth int, end byte) int {
	if depth > maxJSONDepth {
		return -1
	}
	i = skipSpace(b, i)
	if i < len(b) && b[i] == end {
		return i + 1
	}
	for {
		if end == '}' {
			if i >= len(b) || b[i] != '"' {
				return -1
			}
			if i = jsonString(b, i+1); i < 0 {
				return -1
			}
			if i = skipSpace(b, i); i >= len(b) || b[i] != ':' {
				return -1
			}
			i = skipSpace(b, i+1)
		}
		if i = jsonValue(b, i, depth+1); i < 0 {
			return -1
		}
		if i = skipSpace(b, i); i >= len(b) {
			return -1
		}
		switch b[i] {
		case ',':
			i = skipSpace(b, i+1)
		case end:
			return i + 1
		default:
			return -1
		}
	}
}

// jsonString expects i after the opening quote.
func jsonString(b []byte, i int) int {
	for {
		for i+8 <= len(b) && plainText(binary.LittleEndian.Uint64(b[i:])) {
			i += 8
		}
		if i >= len(b) {
			return -1
		}
		switch c := b[i]; {
		case c == '"':
			return i + 1
		case c == '\\':
			if i = jsonEscape(b, i+1); i < 0 {
				return -1
			}
		case c < ' ':
			return -1
		case c < utf8.RuneSelf:
			i++
		default:
			r, size := utf8.DecodeRune(b[i:])
			if r == utf8.RuneError && size == 1 {
				return -1
			}
			i += size
		}
	}
}

// plainText reports whether none of the eight bytes in v is a quote, a backslash, a control
// character or beyond ASCII.
func plainText(v uint64) bool {
	const (
		ones = 0x0101010101010101
		tops = 0x8080808080808080
	)
	// Where a byte of x is zero, (x - ones) &^ x has its top bit set; where it is below 0x20,
	// (x - 0x20*ones) &^ x has.
	quote, backslash := v^('"'*ones), v^('\\'*ones)
	return (v|(v-' '*ones)|(quote-ones)&^quote|(backslash-ones)&^backslash)&tops == 0
}

// jsonEscape expects i after the backslash.
func jsonEscape(b []byte, i int) int {
	if i >= len(b) {
		return -1
	}
	switch b[i] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return i + 1
	case 'u':
		if i+5 > len(b) {
			return -1
		}
		for _, c := range b[i+1 : i+5] {
			if (c < '0' || c > '9') && (c < 'a' || c > 'f') && (c < 'A' || c > 'F') {
				return -1
			}
		}
		return i + 5
	default:
		return -1
	}
}

func jsonNumber(b []byte, i int) int {
	if b[i] == '-' {
		i++
	}
	if i < len(b) && b[i] == '0' {
		i++
	} else if i = jsonDigits(b, i); i < 0 {
		return -1
	}
	if i < len(b) && b[i] == '.' {
		if i = jsonDigits(b, i+1); i < 0 {
			return -1
		}
	}
	if i < len(b) && (b[i] == 'e' || b[i] == 'E') {
		i++
		if i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		return jsonDigits(b, i)
	}
	return i
}

// jsonDigits expects at least one digit.
func jsonDigits(b []byte, i int) int {
	start := i
	for i < len(b) && '0' <= b[i] && b[i] <= '9' {
		i++
	}
	if i == start {
		return -1
	}
	return i
}
