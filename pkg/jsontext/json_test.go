package jsontext

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var jsonSeeds = []string{
	`{"change-reports":[{"old-status":"communications-not-active","old-additional-status":null,"new-status":"stopped","new-additional-status":null}]}`,
	`{"os-messages":[{"sequence-number":1564,"message-id":"0","message-text":" \n","os-name":null,"timestamp":-1,"sound-alarm":false,"is-priority":true,"prompt-text":""}]}`,
	`{}`, `[]`, `[[],{}]`, ` { "a" : [ 1 , 2 ] , "b" : { } } `, `"x"`, `null`, `true`, `false`, `0`, `-0.5e+10`, `1E-2`, `12345678901234567890`,
	`"\"\\\/\b\f\n\r\t\u00e9\ud834\udd1e"`, `"äöü€𝄞"`, `"0123456701234567"`, `"0123456701234\"67"`,
	``, ` `, `{`, `}`, `[`, `[1`, `[1,`, `[1,]`, `{"a"`, `{"a":`, `{"a":1`, `{"a":1,`, `{"a":1,}`, `{a:1}`, `{"a" 1}`, `{1:1}`, `[1 2]`, `{"a":1 "b":2}`,
	`nul`, `nulL`, `tru`, `falsy`, `+1`, `-`, `01`, `1.`, `.5`, `1e`, `1e+`, `--1`, `0x1`, `1a`,
	`"`, `"a`, `"\`, `"\x"`, `"\u12"`, `"\u12g4"`, "\"a\tb\"", "\"\x00\"", "\"\x1f\"", "\"\x7f\"", "\"\xff\"", "\"\xc3\"", "\"aaaaaaaa\xed\xa0\x80\"",
	`{} {}`, `{}x`, "\ufeff{}", "{}\x00", "\"\u2028\"", "\v1",
}

// checkAgainstLibrary compares our validator with the standard library's.
func checkAgainstLibrary(t *testing.T, body []byte) {
	t.Helper()
	want := json.Valid(body) && utf8.Valid(body)
	if got, _ := validJSON(body); got != want {
		t.Errorf("validJSON(%q) = %v, encoding/json and utf8 say %v", body, got, want)
	}
	compact, err := Check(body)
	if (err == nil) != want {
		t.Errorf("Check(%q) = %v, encoding/json and utf8 say %v", body, err, want)
	}
	var shortest bytes.Buffer
	if want && json.Compact(&shortest, body) == nil && compact != bytes.Equal(shortest.Bytes(), body) || compact && !want {
		t.Errorf("Check(%q) says that it is compact: %v", body, compact)
	}
}

func TestValidJSON(t *testing.T) {
	for _, s := range jsonSeeds {
		checkAgainstLibrary(t, []byte(s))
	}
	for _, depth := range []int{maxJSONDepth - 1, maxJSONDepth, maxJSONDepth + 1} {
		checkAgainstLibrary(t, []byte(strings.Repeat("[", depth)+strings.Repeat("]", depth)))
		checkAgainstLibrary(t, []byte(strings.Repeat(`{"a":`, depth)+"1"+strings.Repeat("}", depth)))
	}
	// Every byte at every place of a string longer than the eight bytes that are looked at together.
	for at := range 20 {
		for c := range 256 {
			text := []byte(`"` + strings.Repeat("a", 20) + `"`)
			text[1+at] = byte(c)
			checkAgainstLibrary(t, text)
		}
	}
}

func TestPlain(t *testing.T) {
	for at := range 20 {
		for c := range 256 {
			text := []byte(strings.Repeat("a", 20))
			text[at] = byte(c)
			quotes := strings.Count(string(text), `"`)
			if want := ' ' <= c && c < 0x7f && c != '\\'; Plain(text, quotes) != want || Plain(text, quotes+1) {
				t.Errorf("Plain(%q) is not %v", text, want)
			}
		}
	}
}

func TestCheckJSONErrors(t *testing.T) {
	for body, want := range map[string]string{
		"{":        "not JSON: unexpected end of JSON input",
		"hello":    "not JSON: invalid character 'h' looking for beginning of value",
		"\"\xff\"": "not valid UTF-8",
	} {
		if _, err := Check([]byte(body)); err == nil || err.Error() != want {
			t.Errorf("Check(%q) = %v, want %s", body, err, want)
		}
	}
}

func FuzzValidJSON(f *testing.F) {
	for _, s := range jsonSeeds {
		f.Add([]byte(s))
	}
	f.Fuzz(checkAgainstLibrary)
}

func BenchmarkValidJSON(b *testing.B) {
	body := []byte(jsonSeeds[0])
	b.Run("ours", func(b *testing.B) {
		b.SetBytes(int64(len(body)))
		for b.Loop() {
			if valid, _ := validJSON(body); !valid {
				b.Fatal("not valid")
			}
		}
	})
	b.Run("library", func(b *testing.B) {
		b.SetBytes(int64(len(body)))
		for b.Loop() {
			if !json.Valid(body) || !utf8.Valid(body) {
				b.Fatal("not valid")
			}
		}
	})
}
