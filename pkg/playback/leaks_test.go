package playback

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/secret"
)

// unicodeEscaped is a text as JSON may have it, with each character escaped.
func unicodeEscaped(s string) string {
	var b strings.Builder
	for _, u := range utf16.Encode([]rune(s)) {
		fmt.Fprintf(&b, `\u%04x`, u)
	}
	return b.String()
}

func percentEscaped(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		fmt.Fprintf(&b, "%%%02x", c)
	}
	return b.String()
}

// within3 is what of the base64 of a text that has this one somewhere is the same whatever is around it, for each of the places
// where it may begin.
func within3(s string, e *base64.Encoding) []string {
	var all []string
	for before := range 3 {
		text := e.EncodeToString([]byte(strings.Repeat("\x00", before) + s))
		from := (before*8 + 5) / 6
		to := (before + len(s)) * 8 / 6
		all = append(all, text[from:to])
	}
	return all
}

func zipped(s string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = io.WriteString(w, s)
	_ = w.Close()
	return b.String()
}

// escapes are the ways to write a text, each of which a capture must not have of a name.
func escapes(s string) []string {
	marshaled, _ := json.Marshal(s)
	all := []string{
		s, strings.ToLower(s), strings.ToUpper(s), strings.ReplaceAll(s, "-", ""), strings.Trim(string(marshaled), `"`),
		unicodeEscaped(s), strings.ToUpper(unicodeEscaped(s)), url.QueryEscape(s), url.PathEscape(s), percentEscaped(s), strings.ToUpper(percentEscaped(s)),
		html.EscapeString(s), hex.EncodeToString([]byte(s)), strings.ToUpper(hex.EncodeToString([]byte(s))),
	}
	all = append(all, within3(s, base64.StdEncoding)...)
	all = append(all, within3(s, base64.URLEncoding)...)
	return slices.DeleteFunc(all, func(form string) bool { return len(form) < 4 }) // what is that short is everywhere
}

var (
	base64Run = regexp.MustCompile(`[A-Za-z0-9+/_-]{16,}`)
	hexRun    = regexp.MustCompile(`[0-9A-Fa-f]{16,}`)
)

// hidden are the texts that are within a text by hexadecimal digits, base64 or gzip, to some depth.
func hidden(text string, depth int) []string {
	all := []string{text}
	if depth == 0 {
		return all
	}
	decoded := func(b []byte) {
		if r, err := gzip.NewReader(bytes.NewReader(b)); err == nil {
			b, _ = io.ReadAll(r) // as much as there is
		}
		if len(b) > 0 {
			all = append(all, hidden(string(b), depth-1)...)
		}
	}
	for _, run := range base64Run.FindAllString(text, -1) {
		run = strings.NewReplacer("-", "+", "_", "/").Replace(run)
		b, _ := base64.RawStdEncoding.DecodeString(run[:len(run)/4*4])
		decoded(b)
		if rest := len(run) % 4; rest > 1 {
			b, _ = base64.RawStdEncoding.DecodeString(run)
			decoded(b)
		}
	}
	for _, run := range hexRun.FindAllString(text, -1) {
		b, _ := hex.DecodeString(run[:len(run)/2*2])
		decoded(b)
	}
	return all
}

// leaks returns each of the words that a file holds, in whatever form.
func leaks(t *testing.T, file string, words []string) []string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	zip, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(zip)
	if err != nil {
		t.Fatal(err)
	}
	// What is within one string may be spread by its escapes.
	var unescaped strings.Builder
	d := json.NewDecoder(bytes.NewReader(plain))
	for {
		token, err := d.Token()
		if err != nil {
			break
		}
		if s, ok := token.(string); ok {
			unescaped.WriteString(s + "\n")
		}
	}
	texts := slices.Concat([]string{string(data)}, hidden(string(plain), 2), hidden(unescaped.String(), 2))
	var found []string
	for _, word := range words {
		forms := escapes(word)
		if slices.ContainsFunc(texts, func(text string) bool {
			return slices.ContainsFunc(forms, func(form string) bool { return strings.Contains(text, form) }) || secret.New(word).In(text)
		}) {
			found = append(found, word)
		}
	}
	return found
}

// TestLeaksAreFound hides a name in each way in which it must not be in a capture.
func TestLeaksAreFound(t *testing.T) {
	const name = "QUOKKA-<7>é"
	ways := []string{
		base64.StdEncoding.EncodeToString([]byte(zipped("it is " + name))), hex.EncodeToString([]byte(zipped(name))),
		base64.URLEncoding.EncodeToString([]byte("x" + name + "y")), base64.StdEncoding.EncodeToString([]byte(hex.EncodeToString([]byte(name)))),
	}
	for _, way := range slices.Concat(ways, escapes(name)) {
		file := t.TempDir() + "/capture"
		line, err := json.Marshal(map[string]string{"text": "before " + way + " behind"})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(zipped(string(line))), 0o600); err != nil {
			t.Fatal(err)
		}
		if len(leaks(t, file, []string{name})) == 0 {
			t.Errorf("%s is not found", way)
		}
		if len(leaks(t, file, []string{"WOMBAT-<8>é"})) != 0 {
			t.Errorf("%s is another name", way)
		}
	}
}
