package hmcnotifyd_test

import (
	"go/ast"
	"strings"
	"testing"
	"unicode/utf8"
)

const (
	// largestRoom is how many lines a package may have, without its tests: what is larger is not
	// understood as a whole any more, and has more than one subject.
	largestRoom = 3000
	// largestStruct is how many fields a struct may have: one with more needs a map to be read, and
	// has more than one owner.
	largestStruct = 25
	// widestComment and widestCode are in columns, where a tab takes four: a comment is read as text,
	// and two files fit beside each other.
	widestComment = 100
	widestCode    = 120
)

// rooms are the packages with another limit than largestRoom, and why; 0: none.
var rooms = map[string]struct {
	lines int
	why   string
}{
	"pkg/hmcsim": {0, "a simulator is as large as what it simulates"},
	"pkg/sinks":  {0, "one file for each kind of sink, which know nothing of each other"},
	"pkg/queue":  {4500, "its stores are part of it"},
	"pkg/config": {4500, "one type, its defaults and its rules for each key"},
	"pkg/bridge": {1500, "it makes the rooms work together, and does nothing itself"},
}

func TestRoomsAreSmall(t *testing.T) {
	lines := map[string]int{}
	for _, f := range goFiles(t) {
		if !f.test && shipped(f.pkg()) {
			lines[f.pkg()] += strings.Count(readFile(t, f.path), "\n")
		}
	}
	for pkg, n := range lines {
		limit := largestRoom
		if room, ok := rooms[pkg]; ok {
			limit = room.lines
		}
		if limit > 0 && n > limit {
			t.Errorf("%s has %d lines, more than %d: it is not understood as a whole any more", pkg, n, limit)
		}
	}
	for pkg := range rooms {
		if lines[pkg] == 0 {
			t.Errorf("there is no %s any more", pkg)
		}
	}
}

// TestStructsAreSmall leaves out what lists settings, options or metrics, and the simulator's model of
// an HMC.
func TestStructsAreSmall(t *testing.T) {
	for _, f := range goFiles(t) {
		if f.test || !shipped(f.pkg()) || f.pkg() == "pkg/config" || f.pkg() == "pkg/hmcsim" {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok || strings.HasSuffix(spec.Name.Name, "Options") || strings.HasSuffix(spec.Name.Name, "Metrics") {
				return true
			}
			if s, ok := spec.Type.(*ast.StructType); ok {
				fields := 0
				for _, field := range s.Fields.List {
					fields += max(len(field.Names), 1)
				}
				if fields > largestStruct {
					t.Errorf("%s: %s has %d fields: split it by who owns what", f.path, spec.Name.Name, fields)
				}
			}
			return true
		})
	}
}

func TestLinesAreNarrow(t *testing.T) {
	for _, f := range goFiles(t) {
		if f.test || !shipped(f.pkg()) {
			continue
		}
		for i, line := range strings.Split(readFile(t, f.path), "\n") {
			columns := utf8.RuneCountInString(strings.ReplaceAll(line, "\t", "    "))
			limit, what := widestCode, "code"
			text := strings.TrimSpace(line)
			if strings.HasPrefix(text, "//") {
				limit, what = widestComment, "a comment"
			}
			directive := strings.HasPrefix(text, "//go:") || strings.Contains(text, "//nolint:")
			if columns > limit && !directive {
				t.Errorf("%s:%d: %s of %d columns, more than %d", f.path, i+1, what, columns, limit)
			}
		}
	}
}
