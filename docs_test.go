package hmcnotifyd_test

import (
	"go/ast"
	"go/token"
	"path"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// foreign are texts that users see and that do not stand in our code: those of Go's libraries.
func foreign() []string {
	return []string{
		"i/o timeout", "no such host", "no route to host", "connection refused", "server gave HTTP response to HTTPS client",
		"address already in use", "certificate signed by unknown authority", "no such file or directory",
	}
}

// TestTroubleshootingTexts wants each text that docs/troubleshooting.md explains to stand in the code, so that a user who sees one
// finds it. What stands between dots and numbers is looked for.
func TestTroubleshootingTexts(t *testing.T) {
	var literals []string
	for _, f := range goFiles(t) {
		if f.test || !shipped(f.pkg()) {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
				if text, err := strconv.Unquote(lit.Value); err == nil {
					literals = append(literals, text)
				}
			}
			return true
		})
	}
	all := strings.Join(append(literals, foreign()...), "\x00")
	row := regexp.MustCompile("(?m)^\\| (`[^|]+) \\|")
	changing := regexp.MustCompile(`…|\d+`)
	quoted := regexp.MustCompile("`([^`]+)`")
	texts := 0
	for _, m := range row.FindAllStringSubmatch(readFile(t, "docs/troubleshooting.md"), -1) {
		for _, q := range quoted.FindAllStringSubmatch(m[1], -1) {
			texts++
			for _, part := range changing.Split(q[1], -1) {
				if part = strings.Trim(part, " ,:()?"); part != "" && !strings.Contains(all, part) {
					t.Errorf("docs/troubleshooting.md explains %q, but the program does not say %q", q[1], part)
				}
			}
		}
	}
	if texts < 50 {
		t.Errorf("only %d texts", texts)
	}
}

// TestDocumentsAreListed wants each document to be reached from README.md or docs/README.md: what nobody links to nobody reads.
func TestDocumentsAreListed(t *testing.T) {
	start, index := readFile(t, "README.md"), readFile(t, "docs/README.md")
	for _, name := range markdownFiles(t) {
		if path.Dir(name) == "docs" && !strings.Contains(start, "]("+name+")") && !strings.Contains(index, "]("+path.Base(name)+")") {
			t.Errorf("neither README.md nor docs/README.md links to %s", name)
		}
	}
}

// TestParsersAreFuzzed compares the fuzz tests that docs/security.md lists with those there are.
func TestParsersAreFuzzed(t *testing.T) {
	listed := map[string]bool{}
	for _, m := range regexp.MustCompile("`(Fuzz\\w+)`").FindAllStringSubmatch(readFile(t, "docs/security.md"), -1) {
		listed[m[1]] = true
	}
	there := map[string]bool{}
	for _, f := range goFiles(t) {
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && f.test && strings.HasPrefix(fn.Name.Name, "Fuzz") {
				there[fn.Name.Name] = true
				if !listed[fn.Name.Name] {
					t.Errorf("docs/security.md does not list %s of %s", fn.Name.Name, f.pkg())
				}
			}
		}
	}
	for name := range listed {
		if !there[name] {
			t.Errorf("docs/security.md lists %s, which there is not", name)
		}
	}
}
