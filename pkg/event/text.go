package event

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// ListOrNone returns a list with commas between, and "none" for an empty one.
func ListOrNone(list []string) string {
	if len(list) == 0 {
		return "none"
	}
	return strings.Join(list, ", ")
}

// FirstLine returns the first line of a text that is not blank, without the space around the text.
func FirstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	line, _, _ = strings.Cut(line, "\r")
	return line
}

// Bounded returns s, or its beginning and "..." where it is longer than limit.
func Bounded(s string, limit int) string { return Cut(strings.ToValidUTF8(s, "\uFFFD"), limit) }

const (
	// MaxValue bounds a property value in a summary, in bytes.
	MaxValue = 80
	// MaxSummary bounds a summary, in bytes.
	MaxSummary = 300
)

// OneLine makes a text fit for one line: without control characters, and bounded.
func OneLine(s string) string { return Cut(Printable(s), MaxSummary) }

// OneLineWith is OneLine for a text whose end must be there, however long the text is.
func OneLineWith(s, end string) string {
	end = Cut(Printable(end), MaxValue)
	return Cut(Printable(s), MaxSummary-len(end)) + end
}

// Printable replaces what would break a line, or steer a terminal, by blanks, and by U+FFFD what is
// no text and what is not seen but changes how the rest looks.
func Printable(s string) string {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] >= 0x7f {
			return strings.Map(PrintableRune, s)
		}
	}
	return s
}

// PrintableRune is Printable for one character.
func PrintableRune(r rune) rune {
	switch {
	case !misleads(r):
		return r
	case unicode.Is(unicode.Cf, r):
		return utf8.RuneError
	}
	return ' '
}

// misleads says that a character does not show itself but does something to what is shown: it
// controls a terminal, ends a line, or is a format character, such as those that turn the direction
// of what follows.
func misleads(r rune) bool {
	if r < utf8.RuneSelf {
		return r < ' ' || r == 0x7f
	}
	return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp)
}

// Cut cuts a text to a length in bytes, between two characters, and shows that it did.
func Cut(s string, length int) string {
	const mark = "..."
	if len(s) <= length {
		return s
	}
	return Beginning(s, length-len(mark)) + mark
}

// Beginning returns the beginning of a text, at most n bytes and no half characters.
func Beginning[T string | []byte](s T, n int) T {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// LastSegment returns what follows the last slash of a URI: the object's id.
func LastSegment(uri string) string { return uri[strings.LastIndexByte(uri, '/')+1:] }

// Unquoted returns a JSON string's value, and any other JSON value as it stands.
func Unquoted(raw []byte) string {
	if len(raw) > 0 && raw[0] == '"' {
		return String(raw)
	}
	return string(raw)
}
