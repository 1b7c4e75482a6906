package event

import (
	"bytes"
	"encoding/json"
	"iter"
	"math"
	"strconv"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/jsontext"
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
			name, value, end := member(object, i)
			if end < 0 || !yield(name, value) {
				return
			}
			i, ok = next(object, end)
		}
	}
}

// member returns the member that begins at i, and the index behind it; -1: there is none.
func member(object []byte, i int) (name, value []byte, end int) {
	end = valueEnd(object, i)
	name = unquote(object[i:end])
	i = skipSpace(object, end)
	if i >= len(object) || object[i] != ':' {
		return nil, nil, -1
	}
	i = skipSpace(object, i+1)
	if end = valueEnd(object, i); end == i {
		return nil, nil, -1
	}
	return name, object[i:end], end
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

// Objects goes through the elements of an array, and through the members of each that is an object,
// in one pass: Elements and Members read all of an element before its first member is known. The
// zero value has none.
//
//	for o := ObjectsIn(body, "os-messages"); o.Next(); {
//		for o.Member() {
//			// o.Name, o.Value
//		}
//		// o.Raw()
//	}
type Objects struct {
	// Name and Value are those of the member, as Members has them.
	Name, Value []byte

	data   []byte
	begun  bool // there was an element
	start  int  // of the element
	at     int  // of the next member, or behind the element
	inside bool // there is a next member
}

// ObjectsIn returns the array that is the first member called name. There may be none.
func ObjectsIn(object []byte, name string) Objects {
	i, ok := enter(object, '{')
	for ok {
		end := valueEnd(object, i)
		found := string(unquote(object[i:end])) == name
		if i = skipSpace(object, end); i >= len(object) || object[i] != ':' {
			break
		}
		i++
		if found {
			return Objects{data: object[i:]}
		}
		i, ok = next(object, valueEnd(object, skipSpace(object, i)))
	}
	return Objects{}
}

// Next goes to the next element.
func (o *Objects) Next() (ok bool) {
	for o.Member() { // those that nobody has asked for
	}
	if o.begun {
		o.at, ok = next(o.data, o.at)
	} else {
		o.at, ok = enter(o.data, '[')
	}
	if o.begun, o.start = true, o.at; !ok {
		o.data = nil
		return false
	}
	if o.data[o.at] != '{' {
		o.at = valueEnd(o.data, o.at)
		return o.at > o.start
	}
	i := skipSpace(o.data, o.at+1)
	if o.inside = i < len(o.data) && o.data[i] != '}'; !o.inside {
		i++
	}
	o.at = min(i, len(o.data))
	return true
}

// Member goes to the next member of the element.
func (o *Objects) Member() bool {
	if !o.inside {
		return false
	}
	var end int
	if o.Name, o.Value, end = member(o.data, o.at); end < 0 {
		o.inside, o.at = false, len(o.data)
		return false
	}
	if o.at, o.inside = next(o.data, end); !o.inside {
		o.at = min(skipSpace(o.data, end)+1, len(o.data))
	}
	return true
}

// Raw returns the element as it stands, once Member has returned false.
func (o *Objects) Raw() []byte { return o.data[o.start:o.at] }

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
	if s, ok := unescaped(value); ok { // as almost always
		return s
	}
	var s string
	if json.Unmarshal(value, &s) != nil {
		return ""
	}
	return s
}

// unescaped returns the value of a JSON string of ASCII with none but the short escapes.
func unescaped(value []byte) (s string, ok bool) {
	var buf [512]byte // on the stack
	out, last := buf[:0], len(value)-1
	for i := 1; ; i += 2 {
		end := jsontext.NextSpecial(value, i)
		out = append(out, value[i:end]...)
		if end == last && value[end] == '"' {
			return string(out), true
		}
		if end+1 >= last || value[end] != '\\' {
			return "", false
		}
		i = end
		switch c := value[end+1]; c {
		case '"', '\\', '/':
			out = append(out, c)
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		default:
			return "", false
		}
	}
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
	if n, ok := digits(value); ok { // as almost always
		return n
	}
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

// digits returns the value of a number that is nothing but digits, and perhaps a minus, and not too
// many.
func digits(value []byte) (n int64, ok bool) {
	of := bytes.TrimPrefix(value, []byte("-"))
	if len(of) == 0 || len(of) > 18 {
		return 0, false
	}
	for _, c := range of {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = 10*n + int64(c-'0')
	}
	if len(of) < len(value) {
		n = -n
	}
	return n, true
}

// Bool returns the value of the JSON literals true and false, or of one in a string, as it may come
// where numbers do, and whether it is one of them.
func Bool(value []byte) (is, ok bool) {
	switch string(value) {
	case "true", `"true"`:
		return true, true
	case "false", `"false"`:
		return false, true
	}
	return false, false
}

// True reports whether Bool is true.
func True(value []byte) bool {
	is, _ := Bool(value)
	return is
}

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
