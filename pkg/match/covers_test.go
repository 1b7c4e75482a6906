package match

import (
	"regexp"
	"testing"
)

func TestCovers(t *testing.T) {
	patterns := func(sources ...string) Patterns {
		p, err := NewPatterns(sources...)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	search := func(sources ...string) (s Search) {
		for _, source := range sources {
			s = append(s, regexp.MustCompile(source))
		}
		return s
	}
	yes, no := true, false
	for name, test := range map[string]struct {
		m, o Matcher
		want bool
	}{
		"all":                    {Matcher{}, Matcher{Name: patterns("A")}, true},
		"all of a type":          {Matcher{Type: patterns(".*")}, Matcher{Name: patterns("A")}, true},
		"the same":               {Matcher{Name: patterns("A.*"), Text: search("x")}, Matcher{Name: patterns("A.*"), Text: search("x")}, true},
		"one more":               {Matcher{Name: patterns("A", "B"), Text: search("x", "y")}, Matcher{Name: patterns("B"), Text: search("y")}, true},
		"one less":               {Matcher{Name: patterns("A")}, Matcher{Name: patterns("A", "B")}, false},
		"a value of a pattern":   {Matcher{Name: patterns("A.*")}, Matcher{Name: patterns("A1", "A2")}, true},
		"another value":          {Matcher{Name: patterns("A.*")}, Matcher{Name: patterns("A1", "B2")}, false},
		"patterns unlike":        {Matcher{Name: patterns("A.*")}, Matcher{Name: patterns("A1.*")}, false},
		"fewer keys":             {Matcher{Status: patterns("stopped")}, Matcher{Status: patterns("stopped"), CPC: patterns("P1")}, true},
		"more keys":              {Matcher{Status: patterns("stopped"), CPC: patterns("P1")}, Matcher{Status: patterns("stopped")}, false},
		"any status is a status": {Matcher{Status: patterns(".*")}, Matcher{Name: patterns("A")}, false},
		"any status":             {Matcher{Status: patterns(".*")}, Matcher{Status: patterns("stopp.*")}, true},
		"value of a property": {
			Matcher{Property: patterns("p"), Value: patterns("v")},
			Matcher{Property: patterns("p"), Value: patterns("v", "w")},
			false,
		},
		"value of any property": {Matcher{Value: patterns("v")}, Matcher{Property: patterns("p"), Value: patterns("v")}, true},
		"text of any":           {Matcher{}, Matcher{Text: search("x")}, true},
		"text of none":          {Matcher{Text: search("x")}, Matcher{}, false},
		"label":                 {Matcher{Label: map[string]Patterns{"a": patterns("x|y")}}, Matcher{Label: map[string]Patterns{"a": patterns("x")}}, true},
		"label missing":         {Matcher{Label: map[string]Patterns{"a": patterns("x")}}, Matcher{}, false},
		"label of nothing":      {Matcher{Label: map[string]Patterns{"a": nil}}, Matcher{Label: map[string]Patterns{"a": patterns("x")}}, false},
		"planned":               {Matcher{Planned: &yes}, Matcher{Planned: &yes, Repeat: &no}, true},
		"not planned":           {Matcher{Planned: &no}, Matcher{Planned: &yes}, false},
		"planned or not":        {Matcher{Planned: &no}, Matcher{}, false},
		"repeat or not":         {Matcher{}, Matcher{Repeat: &no}, true},
	} {
		if got := test.m.Covers(&test.o); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
