package capture

import (
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// What a program says stays as far as it is public, and nothing else does.
func TestTexts(t *testing.T) {
	texts := NewTexts([]string{"s3cret pass"}, "the link to host was lost: refused after attempts at quokka")
	for _, name := range []string{"Quokka", "hmc-1"} {
		texts.Name(name)
	}
	all := []string{
		"the link to quokka was lost: QUOKKA refused", "dial tcp 10.1.2.3:6794: refused after 30s, 3 attempts at 12:30:15",
		"[fe80::1c2:3]:61612 and fe80::1c2:3 and 10.1.2.3", "https://hooks.bank.example/the/host?at=10.1.2.3",
		"/api/partitions/2e1b6f0a-8a3c-11ee-9d2f-00106f0d81cb serial 0200001234", "pass it on: s3cret%20pass", "127.0.0.1:1 ::1",
	}
	for _, s := range all {
		texts.Note(s)
	}
	texts.Noted()
	var out strings.Builder
	for _, s := range all {
		out.WriteString(texts.Clean(s) + "\n")
	}
	got := out.String()
	for _, never := range []string{"10.1.2.3", "/the/"} {
		if strings.Contains(got, never) {
			t.Errorf("%q is left:\n%s", never, got)
		}
	}
	// A short word may be within one that replaces another.
	for word := range strings.FieldsFuncSeq(strings.ToLower(got), func(r rune) bool { return r >= utf8.RuneSelf || !isWordByte(byte(r)) }) {
		if slices.Contains([]string{"quokka", "fe80", "1c2", "bank", "hooks", "2e1b6f0a", "0200001234", "s3cret", "tcp"}, word) {
			t.Errorf("%q is left:\n%s", word, got)
		}
	}
	for _, want := range []string{"the link to ", " was lost: ", " refused after 30s, 3 attempts at 12:30:15", "127.0.0.1:1 ::1", "https://", "]:61612"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not left:\n%s", want, got)
		}
	}
	if n := strings.Count(got, "<address 1>"); n != 3 {
		t.Errorf("an address is not the same throughout, %d times:\n%s", n, got)
	}
	if strange := texts.Strange("the link was lost"); strings.HasPrefix(strange, "the ") || len(strange) != len("the link was lost") {
		t.Errorf("a text of somebody else: %q", strange)
	}
}
