package secret

import (
	"encoding/json"
	"fmt"
	"html"
	"net/url"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sample has what every form of writing treats in its own way.
const sample = `p&ss:wörd %41"<\u0026/😀>'+`

// A secret is found in whichever form it is quoted, and what stands around it stays.
func TestForms(t *testing.T) {
	asJSON := func(s string) string {
		quoted, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Trim(string(quoted), `"`)
	}
	everyUnit := func(format string) string {
		var out strings.Builder
		for _, b := range []byte(sample) {
			fmt.Fprintf(&out, format, b)
		}
		return out.String()
	}
	for name, form := range map[string]string{
		"as it is":                         sample,
		"percent-encoded, query":           url.QueryEscape(sample),
		"percent-encoded, path":            url.PathEscape(sample),
		"percent-encoded, each byte":       everyUnit("%%%02x"),
		"percent-encoded twice":            url.QueryEscape(url.QueryEscape(sample)),
		"JSON":                             strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(sample),
		"JSON of Go, with \\u0026":         asJSON(sample),
		"JSON in JSON":                     asJSON(asJSON(sample)),
		"JSON with escaped slashes":        strings.ReplaceAll(asJSON(sample), "/", `\/`),
		"JSON in ASCII, with a pair":       strings.NewReplacer("ö", `\u00F6`, "😀", `\uD83D\uDE00`).Replace(asJSON(sample)),
		"JSON in ASCII, in JSON":           asJSON(strings.NewReplacer("ö", `\u00F6`, "😀", `\uD83D\uDE00`).Replace(asJSON(sample))),
		"Go, quoted":                       strings.Trim(fmt.Sprintf("%+q", sample), `"`),
		"C, each byte":                     everyUnit(`\x%02x`),
		"STOMP":                            strings.NewReplacer(`\`, `\\`, ":", `\c`).Replace(sample),
		"HTML":                             html.EscapeString(sample),
		"HTML twice":                       html.EscapeString(html.EscapeString(sample)),
		"HTML in numbers":                  strings.NewReplacer("&", "&#38;", "<", "&#x3C;", ">", "&#62;").Replace(sample),
		"HTML in JSON":                     asJSON(html.EscapeString(sample)),
		"percent-encoded HTML":             url.PathEscape(sample[:8]) + strings.ReplaceAll(url.QueryEscape(html.EscapeString(sample[8:])), "+", "%20"),
		"percent-encoded in JSON, by part": url.PathEscape(sample[:8]) + asJSON(sample[8:]),
	} {
		t.Run(name, func(t *testing.T) {
			s := New("another", sample, "p&s")
			for _, text := range []string{"%s", "before %s after", `\%s`, "%%25%s", "&%s;"} {
				text = fmt.Sprintf(text, form)
				want := strings.Replace(text, form, Hidden, 1)
				if strings.HasPrefix(form, `\`) && strings.HasPrefix(text, `\\`) {
					continue // they may be one
				}
				if name == "HTML in JSON" || name == "percent-encoded HTML" {
					want = Hidden
				}
				if got := s.Hide(text); !s.In(text) || got != want {
					t.Errorf("%q: %q, want %q", text, got, want)
				}
			}
			if part := form[:len(form)-1]; strings.Contains(New(sample).Hide(part), Hidden) {
				t.Errorf("%q is not all of it", part)
			}
		})
	}
}

// What is no secret stays as it is.
func TestNoSecrets(t *testing.T) {
	for _, text := range []string{
		"", "the session has ended", "100%", `C:\users\`, "a&b", "&amp", "%4", `\u12`, `\ud83d\u0041`, `\ud83d`, "Passwort", "passwor",
	} {
		for _, s := range []Set{{}, New(), New("password"), New("abc", "", "a")} {
			if s.In(text) || s.Hide(text) != text {
				t.Errorf("%q: %q of %q", text, s.Hide(text), s.secrets)
			}
		}
	}
	if got, want := New("abcd").Hide("abcdabcd ABCD abcabcd"), Hidden+Hidden+" ABCD abc"+Hidden; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := New("abcd", "abcdef").Hide("abcdefg"); got != Hidden+"g" {
		t.Errorf("%q: the longest is not hidden", got)
	}
}

// A text that can be read in many ways ends the search, and is not shown.
func TestEffort(t *testing.T) {
	secret := strings.Repeat(`\`, 100) + "x"
	text := strings.Repeat(`\`, 10_000)
	if got := New(secret).Hide(text); len(got) > 1000 {
		t.Errorf("%d bytes of it are shown", len(got))
	}
}

func FuzzHide(f *testing.F) {
	for _, text := range []string{sample, url.QueryEscape(sample), html.EscapeString(sample), `\u00`, "%2", "&#x26", `\\\`} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s := New(sample)
		got := s.Hide(text)
		if strings.Contains(got, sample) || s.In(text) != (got != text) {
			t.Errorf("%q: %q", text, got)
		}
	})
}
