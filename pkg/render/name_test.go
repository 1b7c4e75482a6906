package render

import (
	"slices"
	"testing"
)

func TestSplitName(t *testing.T) {
	parts, err := SplitName("a.{hmc}-{type}.b")
	want := []NamePart{{Text: "a."}, {Field: "hmc"}, {Text: "-"}, {Field: "type"}, {Text: ".b"}}
	if err != nil || !slices.Equal(parts, want) {
		t.Errorf("%v %v, want %v", parts, err, want)
	}
	for _, name := range []string{"{", "}", "a}b{hmc}", "{}", "{hmc", "{{hmc}}", "{HMC}"} {
		if parts, err := SplitName(name); err == nil {
			t.Errorf("%s is taken as %v", name, parts)
		}
	}
	if parts, err := SplitName(""); err != nil || len(parts) > 0 {
		t.Errorf("%v %v", parts, err)
	}
}
