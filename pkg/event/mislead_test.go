package event

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode"
)

// nasty has a character of each kind that misleads who reads it.
const nasty = "a\u009b2J\u0085\u2028\u2029\u202e\u2066\u200b\u00ad\ufeff\U000e0041\x7f\x1b[31mz"

// misleading returns the first character of a text that misleads; -1: there is none. Between the tokens of JSON, and at
// the end of lines, a line feed does not.
func misleading(text string) rune {
	for _, r := range text {
		if unicode.IsControl(r) && r != '\n' || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp) {
			return r
		}
	}
	return -1
}

// What an HMC, or whoever writes on a console, has sent shows itself in an event's JSON, wherever it stands, and is the same
// when it is read.
func TestNothingMisleadsInJSON(t *testing.T) {
	body, err := json.Marshal(map[string]string{"message-text": nasty, nasty: ""})
	if err != nil {
		t.Fatal(err)
	}
	e := Event{
		ID: nasty, HMC: nasty, Type: nasty, Topic: nasty, TopicType: nasty, Origin: nasty, Summary: nasty, Severity: nasty,
		SeenBy: []string{nasty}, Headers: Headers{{nasty, nasty}}, Body: body, BodyText: nasty, Time: time.Unix(1, 0), Received: time.Unix(2, 0),
		Resource: &Resource{nasty, nasty, nasty, nasty, nasty, nasty, nasty, nasty, nasty, nasty, nasty},
	}
	text := e.AppendJSON(nil)
	if r := misleading(string(text)); r >= 0 {
		t.Errorf("%U in %q", r, text)
	}
	var back Event
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	back.Body, e.Time, e.Received, back.Time, back.Received = e.Body, time.Time{}, time.Time{}, time.Time{}, time.Time{}
	if !reflect.DeepEqual(back, e) {
		t.Errorf("%+v\nis not\n%+v", back, e)
	}
	if p := Printable(nasty); misleading(p) >= 0 || strings.Count(p, "\ufffd") != 6 {
		t.Errorf("%q", p)
	}
}

// Text that is escaped is no less JSON than before, and has the same value.
func FuzzAppendEscaped(f *testing.F) {
	quoted, err := json.Marshal(nasty)
	if err != nil {
		f.Fatal(err)
	}
	for _, text := range []string{string(quoted), `"` + nasty[:len(nasty)-7] + `"`, `{"a": [1, "` + "\u202e" + `"]}`, "x\u0085\x80\xff", strings.Repeat("abcdefgh", 5) + "\u202e" + strings.Repeat("i", 9)} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		got := AppendEscaped([]byte("> "), text)[2:]
		for _, r := range string(got) {
			if r >= 0x7f && misleading(string(r)) >= 0 {
				t.Fatalf("%U in %q", r, got)
			}
		}
		if json.Valid(text) && !json.Valid(got) {
			t.Fatalf("%q became %q", text, got)
		}
		var before, after any
		if json.Unmarshal(text, &before) == nil && (json.Unmarshal(got, &after) != nil || fmt.Sprintf("%#v", before) != fmt.Sprintf("%#v", after)) {
			t.Fatalf("%q became %q", text, got)
		}
		if bytes.IndexFunc(text, misleads) < 0 && !bytes.Equal(text, got) {
			t.Fatalf("%q became %q without need", text, got)
		}
	})
}

func BenchmarkAppendEscaped(b *testing.B) {
	body := []byte(strings.Repeat(`{"change-reports":[{"old-status":"active","new-status":"stopped"}]} `, 4))
	var dst []byte
	for b.Loop() {
		dst = AppendEscaped(dst[:0], body)
	}
}
