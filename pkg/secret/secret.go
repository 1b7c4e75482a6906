// Package secret finds secrets in what others say. An HMC or a proxy that repeats what it was sent
// quotes it in many ways: as it was, percent-encoded as a query or a form is, escaped as in JSON,
// in a STOMP header, in HTML, or in two of these at once. None of them may reach a log.
package secret

import (
	"encoding/hex"
	"html"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

const (
	// Shortest is the length in bytes of the shortest secret that is looked for: what is shorter
	// stands in every text.
	Shortest = 4
	// Hidden stands in the place of a secret.
	Hidden = "<secret>"
	// effort bounds the steps for each byte of a text: a text of backslashes can be read in many
	// ways.
	effort = 64
)

// Set is what must not be seen. The zero value is empty.
type Set struct{ secrets []string }

// New returns the set of these secrets.
func New(secrets ...string) Set {
	var s Set
	for _, secret := range secrets {
		if len(secret) >= Shortest {
			s.secrets = append(s.secrets, secret)
		}
	}
	return s
}

// In reports whether the text holds one of the secrets, in any form.
func (s Set) In(text string) bool {
	return s.within(text) || s.nested(text)
}

// nested reports whether one of the secrets is in what the text means when the escapes of one kind
// are undone.
func (s Set) nested(text string) bool {
	for _, kind := range []byte(`%\&`) {
		if plain := unescape(text, kind); len(plain) < len(text) && s.within(plain) {
			return true
		}
	}
	return false
}

// unescape returns a text with each escape of a kind in the first of its readings.
func unescape(text string, kind byte) string {
	var out strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] == kind {
			if all := readings(kind, text[i+1:]); len(all) > 0 {
				out.WriteString(all[0].means)
				i += all[0].length
				continue
			}
		}
		out.WriteByte(text[i])
	}
	return out.String()
}

func (s Set) within(text string) bool {
	for i := range len(text) {
		if s.at(text, i) > 0 {
			return true
		}
	}
	return false
}

// Hide returns the text with Hidden in the place of each secret. A text that holds one in two forms
// at once, of which it cannot be said where it is, is hidden as a whole.
func (s Set) Hide(text string) string {
	if text = s.replace(text); s.nested(text) {
		return Hidden
	}
	return text
}

func (s Set) replace(text string) string {
	var out strings.Builder
	rest := 0 // what is not in out begins there
	for i := 0; i < len(text); {
		end := s.at(text, i)
		if end == 0 {
			i++
			continue
		}
		out.WriteString(text[rest:i])
		out.WriteString(Hidden)
		i, rest = end, end
	}
	if rest == 0 {
		return text
	}
	out.WriteString(text[rest:])
	return out.String()
}

// at returns where the longest secret ends that begins at i; 0: none does.
func (s Set) at(text string, i int) (end int) {
	for _, secret := range s.secrets {
		m := match{text: text, steps: effort * (len(secret) + 1)}
		end = max(end, m.end(i, secret))
	}
	return end
}

// match looks for a secret at one place of a text.
type match struct {
	text  string
	steps int // that are left
}

// end returns where the secret ends that begins at i; 0: it does not.
func (m *match) end(i int, secret string) int {
	for secret != "" {
		if m.steps--; m.steps < 0 {
			return len(m.text) // nobody knows: all of it
		}
		if i == len(m.text) {
			return 0
		}
		c, next := m.text[i], m.text[i+1:]
		switch c {
		case '%', '\\', '&', '+':
			for _, r := range readings(c, next) {
				if rest, ok := strings.CutPrefix(secret, r.means); ok {
					if end := m.end(i+1+r.length, rest); end > 0 {
						return end
					}
				}
			}
		}
		if c != secret[0] {
			return 0
		}
		i, secret = i+1, secret[1:]
	}
	return i
}

// reading is what an escape may mean.
type reading struct {
	means string
	// length is that of what follows the first byte.
	length int
}

// readings returns what an escape may mean that begins with c and goes on with rest.
func readings(c byte, rest string) []reading {
	switch c {
	case '+':
		return []reading{{" ", 0}}
	case '%':
		return percent(rest)
	case '&':
		return entity(rest)
	default:
		return backslash(rest)
	}
}

// percent reads %26, and %2526, which is the same once more.
func percent(rest string) (all []reading) {
	for at := 0; ; at += 2 {
		all = append(all, hexByte(rest, at)...)
		if n := len(all); n > 0 && all[n-1].means == "+" {
			all = append(all, reading{" ", all[n-1].length})
		}
		if !strings.HasPrefix(rest[at:], "25") {
			return all
		}
	}
}

// entity reads &amp;, &#38;, &#x26;, and &amp;amp;, which is the same once more.
func entity(rest string) (all []reading) {
	const longest = 10
	for at := 0; ; at += len("amp;") {
		if end := strings.IndexByte(rest[at:min(len(rest), at+longest)], ';'); end > 0 {
			quoted := "&" + rest[at:at+end+1]
			if means := html.UnescapeString(quoted); means != quoted {
				all = append(all, reading{means, at + end + 1})
			}
		}
		if !strings.HasPrefix(rest[at:], "amp;") {
			return all
		}
	}
}

// backslash reads the escapes of JSON, Go, C and STOMP behind a backslash, and behind several,
// where what was escaped was escaped again.
func backslash(rest string) []reading {
	n := len(rest) - len(strings.TrimLeft(rest, `\`)) // further backslashes
	var all []reading
	if n > 0 {
		all = append(all, reading{`\`, 1})
		if n >= 3 {
			all = append(all, reading{`\`, 3})
		}
	}
	if n == len(rest) {
		return all
	}
	at := n + 1
	switch c := rest[n]; c {
	case 'u':
		return append(all, unicode(rest, at)...)
	case 'U':
		if isHex(rest[at:], 8) {
			n, _ := strconv.ParseUint(rest[at:at+8], 16, 32) // they are digits
			all = append(all, reading{string(rune(n)), at + 8})
		}
	case 'x':
		return append(all, hexByte(rest, at)...)
	case '"', '\'', '/':
		all = append(all, reading{string(c), at})
	case 'c':
		all = append(all, reading{":", at})
	case 'n':
		all = append(all, reading{"\n", at})
	case 'r':
		all = append(all, reading{"\r", at})
	case 't':
		all = append(all, reading{"\t", at})
	}
	return all
}

// unicode reads the four digits of \u0026, and those of the other half of a pair.
func unicode(rest string, at int) []reading {
	first, ok := unit(rest, at)
	if !ok {
		return nil
	}
	at += 4
	if !utf16.IsSurrogate(first) {
		return []reading{{string(first), at}}
	}
	behind := strings.TrimLeft(rest[at:], `\`)
	skipped := len(rest) - at - len(behind)
	if second, ok := unit(behind, 1); ok && skipped > 0 && behind[0] == 'u' {
		if r := utf16.DecodeRune(first, second); r != utf8.RuneError {
			return []reading{{string(r), at + skipped + 5}}
		}
	}
	return nil
}

func unit(s string, at int) (rune, bool) {
	if len(s) < at || !isHex(s[at:], 4) {
		return 0, false
	}
	n, err := strconv.ParseUint(s[at:at+4], 16, 16)
	return rune(n), err == nil
}

// hexByte reads two digits, which stand for a byte.
func hexByte(s string, at int) []reading {
	if !isHex(s[at:], 2) {
		return nil
	}
	b, err := hex.DecodeString(s[at : at+2])
	if err != nil {
		return nil
	}
	return []reading{{string(b), at + 2}}
}

// isHex reports whether s begins with n hexadecimal digits.
func isHex(s string, n int) bool {
	return len(s) >= n && strings.Trim(s[:n], "0123456789abcdefABCDEF") == ""
}
