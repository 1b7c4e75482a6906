package match

import (
	"errors"
	"regexp/syntax"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A pattern of a few bytes does not become hundreds of MiB, wherever it stands; what people write
// fits.
func TestPatternSteps(t *testing.T) {
	for source, fits := range map[string]bool{
		`(?i)\pL{0,1000}`: false, strings.Repeat("a{1000}", 11): false, strings.Repeat("a.", 5100): false, `((\w+[^,]{1,99}){4}x){2}`: true,
		`([^a-z]{1,99}(.|[\w,;]){5}){2}([^a-z].[^b]?){1000}`: false,
		`[\p{L}\p{N} _-]{1,8}`:                               true, `(?i)panic|(oops|abend) [0-9A-F]{4}`: true, strings.Repeat("LPAR0123|", 500): true, `.{0,1000}`: true,
	} {
		if _, err := NewPattern(source); (err == nil) != fits || err != nil && !errors.Is(err, ErrTooLarge) {
			t.Errorf("%.40s: %v", source, err)
		}
		if _, err := Compile(source); (err == nil) != fits {
			t.Errorf("%.40s anywhere: %v", source, err)
		}
	}
	// The count is what it compiles to, or more.
	for _, source := range []string{`(?i)\pL{0,5}x`, `(a|b){3,}`, `a{4,9}b*c+(d?){7}`, `^(?s:.*)$|[^\d]`} {
		n, err := steps(source)
		if err != nil {
			t.Fatal(err)
		}
		re, err := syntax.Parse(source, syntax.Perl)
		if err != nil {
			t.Fatal(err)
		}
		prog, err := syntax.Compile(re.Simplify())
		if err != nil {
			t.Fatal(err)
		}
		if got := len(prog.Inst); n < got-2 || n > 10_000 { // fail and match are the same two in all
			t.Errorf("%s: %d steps, %d instructions", source, n, got)
		}
	}
	half := strings.Repeat("a.", 2600)
	if _, err := NewPatterns(half, half); !errors.Is(err, ErrTooLarge) {
		t.Errorf("together: %v", err)
	}
	if p, err := NewPatterns("a.*", "b"); err != nil || !p.Match("b") || !p.Match("ax") || p.Match("c") {
		t.Errorf("%v, %v", p, err)
	}
}

func TestPattern(t *testing.T) {
	for _, tc := range []struct {
		pattern string
		match   []string
		not     []string
	}{
		{"PROD1", []string{"PROD1"}, []string{"PROD", "PROD11", "xPROD1", "prod1", ""}},
		{"PROD.*", []string{"PROD", "PROD1", "PROD\n1"}, []string{"xPROD", "prod"}},
		{"a|b", []string{"a", "b"}, []string{"ab", "a|b", "xa", "bx"}},
		{"(?i)prod", []string{"PROD", "Prod"}, []string{"PRODs"}},
		{"(?m)^a$", []string{"a"}, []string{"a\nb", "b\na"}},
		{"", []string{""}, []string{"a"}},
		{`a\.b`, []string{"a.b"}, []string{"axb"}},
		{".*", []string{"", "a\nb"}, nil},
	} {
		p, err := NewPattern(tc.pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range tc.match {
			if !p.Match(s) {
				t.Errorf("%q does not match %q", tc.pattern, s)
			}
		}
		for _, s := range tc.not {
			if p.Match(s) {
				t.Errorf("%q matches %q", tc.pattern, s)
			}
		}
		if p.String() != tc.pattern {
			t.Errorf("%q is printed as %q", tc.pattern, p)
		}
	}
	for _, s := range []string{"(", "a)(b", "[", "*", `\`, "(?P<"} {
		if _, err := NewPattern(s); err == nil {
			t.Errorf("%q compiles", s)
		}
	}
	all, err := NewPattern(".*")
	if err != nil || All().re.String() != all.re.String() {
		t.Error("All is not what .* compiles to")
	}
}
