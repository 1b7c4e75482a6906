// Package jsontext finds out whether a text is JSON, fast enough for every notification, and mends
// what nearly is.
package jsontext

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/bits"
	"unicode/utf8"
)

// Check returns an error that says what is wrong with body, unless that is one JSON value in valid
// UTF-8, and then whether it is compact: without white space outside strings.
func Check(body []byte) (compact bool, err error) {
	valid, compact := validJSON(body)
	if valid {
		return compact, nil
	}
	if !utf8.Valid(body) {
		return false, errors.New("not valid UTF-8")
	}
	var value json.RawMessage
	if err := json.Unmarshal(body, &value); err != nil {
		return false, fmt.Errorf("not JSON: %w", err)
	}
	return false, errors.New("not JSON")
}

// Mended returns a text that is nearly JSON without what keeps it from being so: a byte order mark,
// bytes that are not UTF-8, control characters that are not escaped, and backslashes that escape
// nothing. The same text always becomes the same. nil: it would become more than twice as long.
func Mended(body []byte) []byte {
	limit := 2*len(body) + 64
	body = bytes.ToValidUTF8(bytes.TrimPrefix(body, []byte("\uFEFF")), []byte("\uFFFD"))
	out, inString := make([]byte, 0, len(body)+16), false
	for i := 0; i < len(body) && len(out) <= limit; i++ {
		switch c := body[i]; {
		case c == '"':
			inString = !inString
		case inString && c == '\\' && i+1 < len(body):
			out = append(out, c)
			if jsonEscape(body, i+1) > 0 { // else it stands for itself
				i++
			}
		case inString && c < ' ':
			out = fmt.Appendf(out, `\u%04x`, c)
			continue
		}
		out = append(out, body[i])
	}
	if len(out) > limit {
		return nil
	}
	return out
}

// maxJSONDepth is how deep encoding/json lets a value nest, so that what passes here can be read
// with it.
const maxJSONDepth = 10000

// validJSON reports whether b is exactly one JSON value (RFC 8259) in valid UTF-8. It accepts what
// json.Valid and utf8.Valid accept together, in one pass and several times as fast: every
// notification goes through it.
func validJSON(b []byte) (valid, compact bool) {
	c := checker{b: b}
	i := c.value(c.skip(0), 1)
	valid = i >= 0 && c.skip(i) == len(b)
	return valid, valid && !c.spaced
}

type checker struct {
	b      []byte
	spaced bool // there was white space
}

// skip returns the index of what follows the white space at i.
func (c *checker) skip(i int) int {
	if i < len(c.b) && c.b[i] > ' ' { // as almost always
		return i
	}
	return c.skipSpace(i)
}

func (c *checker) skipSpace(i int) int {
	for i < len(c.b) && (c.b[i] == ' ' || c.b[i] == '\n' || c.b[i] == '\t' || c.b[i] == '\r') {
		i++
		c.spaced = true
	}
	return i
}

// value and its like return the index after what begins at i, or -1.
func (c *checker) value(i, depth int) int {
	b := c.b
	if i >= len(b) {
		return -1
	}
	switch first := b[i]; {
	case first == '"':
		return jsonString(b, i+1)
	case first == '{':
		return c.container(i+1, depth, '}')
	case first == '[':
		return c.container(i+1, depth, ']')
	case first == '-' || '0' <= first && first <= '9':
		return jsonNumber(b, i)
	}
	for _, literal := range [...]string{"true", "false", "null"} {
		if end := i + len(literal); end <= len(b) && string(b[i:end]) == literal {
			return end
		}
	}
	return -1
}

// container expects i after the bracket that begins an object, or an array, and end to be its other
// bracket.
func (c *checker) container(i, depth int, end byte) int {
	if depth > maxJSONDepth {
		return -1
	}
	b := c.b
	i = c.skip(i)
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
			if i = c.skip(i); i >= len(b) || b[i] != ':' {
				return -1
			}
			i = c.skip(i + 1)
		}
		if i = c.value(i, depth+1); i < 0 {
			return -1
		}
		if i = c.skip(i); i >= len(b) {
			return -1
		}
		switch b[i] {
		case ',':
			i = c.skip(i + 1)
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
		if i = NextSpecial(b, i); i >= len(b) {
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

// NextSpecial returns the index of the next byte at or after i that is a quote, a backslash, or no
// printable ASCII character: the first that may not stand in a JSON string as it is. len(b): there
// is none.
func NextSpecial(b []byte, i int) int {
	for ; i+8 <= len(b); i += 8 {
		if found := special(binary.LittleEndian.Uint64(b[i:])); found != 0 {
			return i + bits.TrailingZeros64(found)/8
		}
	}
	for i < len(b) && ' ' <= b[i] && b[i] < 0x7f && b[i] != '"' && b[i] != '\\' {
		i++
	}
	return i
}

// Plain reports whether b is printable ASCII without a backslash, and with so many quotes.
func Plain(b []byte, quotes int) bool {
	found, i := uint64(0), 0
	for ; i+8 <= len(b); i += 8 {
		found |= unquotable(binary.LittleEndian.Uint64(b[i:]))
	}
	for _, c := range b[i:] {
		found |= unquotable(uint64(c) | ' '*(ones-1))
	}
	return found&tops == 0 && bytes.Count(b, []byte{'"'}) == quotes
}

const (
	ones = 0x0101010101010101
	tops = 0x8080808080808080
)

// special returns a number whose lowest bit is in the first of the eight bytes of v that is
// special; 0: none is.
func special(v uint64) uint64 {
	quote := v ^ ('"' * ones)
	return (unquotable(v) | (quote-ones)&^quote) & tops
}

// unquotable is special for all but quotes, in the top bits of the bytes.
func unquotable(v uint64) uint64 {
	// Where a byte of x is zero, (x - ones) &^ x has its top bit set; where it is below 0x20,
	// (x - 0x20*ones) &^ x has; where it is 0x7f, x + ones has. A carry or borrow goes from one
	// that is special to those behind it only.
	backslash := v ^ ('\\' * ones)
	return v | (v + ones) | (v - ' '*ones) | (backslash-ones)&^backslash
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
