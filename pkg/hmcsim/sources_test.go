package hmcsim

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Each operation has its public sources in docs/simulator-sources.md, and no other is there.
func TestOperationsHaveSources(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/simulator-sources.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, ok := strings.Cut(string(text), "| operation | sources |")
	if !ok {
		t.Fatal("there is no table of operations")
	}
	var documented []string
	for line := range strings.Lines(table) {
		cells := strings.Split(line, " | ")
		if len(cells) != 3 || !strings.HasPrefix(line, "| `") {
			continue
		}
		if !regexp.MustCompile(`^[BMCW](?:, [BMCW])*$`).MatchString(cells[1]) {
			t.Errorf("%s: sources %q", cells[0], cells[1])
		}
		for _, name := range regexp.MustCompile("`([a-z-]+)`").FindAllStringSubmatch(cells[0], -1) {
			documented = append(documented, name[1])
		}
	}
	slices.Sort(documented)
	if have := Operations(); !slices.Equal(documented, have) {
		t.Errorf("documented\n%v\nthere are\n%v", documented, have)
	}
}
