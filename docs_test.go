package hmcnotifyd_test

import (
	"go/ast"
	"go/constant"
	"go/token"
	"go/types"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// foreign are texts that users see and that do not stand in our code: those of Go's libraries.
func foreign() []string {
	return []string{
		"i/o timeout", "no such host", "no route to host", "connection refused", "server gave HTTP response to HTTPS client",
		"address already in use", "certificate signed by unknown authority", "no such file or directory",
	}
}

// TestTroubleshootingTexts wants each text that docs/troubleshooting.md explains to stand in the
// code, so that a user who sees one finds it. What stands between dots and numbers is looked for.
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

// TestDocumentsAreListed wants each document to be reached from README.md or docs/README.md: what
// nobody links to nobody reads.
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

// numbers returns what finds the value of a constant of the code, by its package and name.
func numbers(t *testing.T) func(name string) (int64, bool) {
	t.Helper()
	constants := map[string]ast.Expr{}
	sources := map[string]string{}
	for _, f := range goFiles(t) {
		if f.test || !shipped(f.pkg()) {
			continue
		}
		for _, d := range f.ast.Decls {
			decl, ok := d.(*ast.GenDecl)
			if !ok || decl.Tok != token.CONST {
				continue
			}
			for _, s := range decl.Specs {
				spec := s.(*ast.ValueSpec) // of a constant
				for i, name := range spec.Names {
					if i < len(spec.Values) {
						constants[f.pkg()+"."+name.Name], sources[f.pkg()+"."+name.Name] = spec.Values[i], f.path
					}
				}
			}
		}
	}
	return func(name string) (int64, bool) {
		expr, ok := constants[name]
		if !ok {
			return 0, false
		}
		// Each file has a set of positions of its own, which begins with 1.
		text := readFile(t, sources[name])[expr.Pos()-1 : expr.End()-1]
		for unit, n := range map[string]time.Duration{"Second": time.Second, "Millisecond": time.Millisecond, "Minute": time.Minute, "Hour": time.Hour} {
			text = regexp.MustCompile(`\btime\.`+unit+`\b`).ReplaceAllString(text, strconv.FormatInt(int64(n), 10))
		}
		value, err := types.Eval(token.NewFileSet(), nil, token.NoPos, text)
		if err != nil || value.Value == nil {
			return 0, false
		}
		return constant.Int64Val(constant.ToInt(value.Value))
	}
}

// TestSecurityBounds holds the bounds that docs/security.md lists against the constants of the code.
func TestSecurityBounds(t *testing.T) {
	number := numbers(t)
	units := map[string]int64{
		"": 1, "bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30,
		"ms": int64(time.Millisecond), "s": int64(time.Second), "min": int64(time.Minute), "h": int64(time.Hour),
	}
	rows := regexp.MustCompile("(?m)^\\| [^|]+ \\| ([0-9,]+) ?(\\w*) \\| `([\\w./]+)` \\| [^|]+ \\| [^|]+ \\|$").
		FindAllStringSubmatch(readFile(t, "docs/security.md"), -1)
	if len(rows) < 20 {
		t.Fatalf("only %d bounds", len(rows))
	}
	for _, row := range rows {
		said, err := strconv.ParseInt(strings.ReplaceAll(row[1], ",", ""), 10, 64)
		unit, ok := units[row[2]]
		if err != nil || !ok {
			t.Errorf("docs/security.md: %s %s is no bound", row[1], row[2])
		}
		if is, ok := number(row[3]); !ok || is != said*unit {
			t.Errorf("docs/security.md says that %s is %s %s, the code %d (a constant: %v)", row[3], row[1], row[2], is, ok)
		}
	}
}

// TestSinksDocumented holds what docs/sinks.md promises in numbers against the code, and wants each kind of sink where people look for
// the kinds there are.
func TestSinksDocumented(t *testing.T) {
	number := numbers(t)
	text := readFile(t, "docs/sinks.md")
	ahead := regexp.MustCompile(`at most\s+(\d+) events or (\d+) MiB beyond it`).FindStringSubmatch(text)
	if ahead == nil {
		t.Fatal("docs/sinks.md does not say how far the others go on")
	}
	for i, name := range []string{"pkg/deliver.aheadEvents", "pkg/deliver.aheadBytes"} {
		is, ok := number(name)
		if said, err := strconv.ParseInt(ahead[i+1], 10, 64); err != nil || !ok || is != said<<(20*i) {
			t.Errorf("docs/sinks.md says that %s is %s, the code %d (a constant: %v)", name, ahead[i+1], is, ok)
		}
	}
	_, said, _ := strings.Cut(readFile(t, "config.example.yaml"), " exactly one kind:")
	said, _, _ = strings.Cut(said, "\nsinks:\n")
	kinds := 0
	for _, f := range goFiles(t) {
		if f.test || f.pkg() != "pkg/config" {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok || spec.Name.Name != "Sink" {
				return true
			}
			for _, field := range spec.Type.(*ast.StructType).Fields.List {
				if _, ok := field.Type.(*ast.StarExpr); !ok {
					continue // a kind may be absent, other keys have defaults
				}
				kinds++
				kind, _ := strconv.Unquote(field.Tag.Value)
				kind = reflect.StructTag(kind).Get("yaml")
				if !strings.Contains(text, "| [`"+kind+"`](#"+kind+") |") {
					t.Errorf("the table of docs/sinks.md lacks %s", kind)
				}
				if !regexp.MustCompile(`\b` + kind + `\b`).MatchString(said) {
					t.Errorf("config.example.yaml does not say that %s is a kind of sink", kind)
				}
			}
			return false
		})
	}
	if kinds < 9 {
		t.Errorf("only %d kinds", kinds)
	}
}

// TestMakeDocsDocumented wants CONTRIBUTING.md to name each document that `make docs` writes.
func TestMakeDocsDocumented(t *testing.T) {
	_, said, _ := strings.Cut(readFile(t, "CONTRIBUTING.md"), "`make docs` writes ")
	said, _, _ = strings.Cut(said, " anew")
	written := regexp.MustCompile(`"HMCNOTIFYD_WRITE_DOCS"`)
	named := regexp.MustCompile(`\bdocs/([\w-]+\.(?:md|json|yaml))`)
	files := 0
	for _, f := range goFiles(t) {
		text := readFile(t, f.path)
		if !f.test || f.path == "docs_test.go" || !written.MatchString(text) {
			continue
		}
		files++
		m := named.FindStringSubmatch(text)
		if m == nil {
			t.Errorf("%s writes a document and does not name it", f.path)
		} else if !strings.Contains(said, m[1]) {
			t.Errorf("CONTRIBUTING.md does not say that make docs writes %s, as %s does", m[1], f.path)
		}
	}
	if files < 5 {
		t.Errorf("only %d tests write documents", files)
	}
}

// TestSecurityTests wants each test that docs/security.md names to be there.
func TestSecurityTests(t *testing.T) {
	tests := map[string]bool{}
	for _, f := range goFiles(t) {
		for name := range functionsIn(f) {
			tests[name] = tests[name] || f.test
		}
	}
	named := regexp.MustCompile(`\bTest[A-Z]\w+\b`).FindAllString(readFile(t, "docs/security.md"), -1)
	if len(named) < 40 {
		t.Fatalf("only %d tests", len(named))
	}
	for _, name := range named {
		if !tests[name] {
			t.Errorf("docs/security.md names %s, which there is not", name)
		}
	}
}

// TestArchitecturePaths follows the two lists of docs/architecture.md, the files that a
// notification passes, in the code: each function that is named is there, and every file but the
// first is joined by a call to one that stands before it, so that a reader who goes from call to
// call sees the same.
func TestArchitecturePaths(t *testing.T) {
	code := map[string]goFile{}
	for _, f := range goFiles(t) {
		code[f.path] = f
	}
	text := readFile(t, "docs/architecture.md")
	item := regexp.MustCompile("(?m)^\\d+\\. \\[([^\\]]+)\\]\\(\\.\\./([^)]+)\\) ((?:`[\\w.]+`(?:, )?)+):")
	for title, most := range map[string]int{"From the socket to the queue": 10, "From the queue to the webhook": 6} {
		_, section, found := strings.Cut(text, "\n### "+title+"\n")
		section, _, _ = strings.Cut(section, "\n#")
		items := item.FindAllStringSubmatch(section, -1)
		numbered := len(regexp.MustCompile(`(?m)^\d+\. `).FindAllString(section, -1))
		if !found || len(items) < 3 || len(items) > most || numbered != len(items) {
			t.Errorf("%s: %d files, %d of them with a function, want at most %d", title, numbered, len(items), most)
		}
		var before []pathFile
		for _, m := range items {
			f, ok := code[m[2]]
			if !ok || m[1] != m[2] {
				t.Errorf("%s: there is no %s, or the link to it has another name", title, m[2])
				continue
			}
			this := pathFile{calls: callsIn(f), named: map[string]bool{}}
			declared := functionsIn(f)
			for name := range strings.SplitSeq(m[3], ", ") {
				name = strings.Trim(name, "`")
				if !declared[name] {
					t.Errorf("%s: %s has no function %s", title, m[2], name)
				}
				this.named[name[strings.LastIndexByte(name, '.')+1:]] = true
			}
			joined := slices.ContainsFunc(before, func(b pathFile) bool { return b.joins(this) || this.joins(b) })
			if len(before) > 0 && !joined {
				t.Errorf("%s: nothing named of %s is called by a file before it, nor calls one", title, m[2])
			}
			before = append(before, this)
		}
	}
}

// pathFile is a file of a path: the methods that the list names, and those that it calls.
type pathFile struct{ named, calls map[string]bool }

// joins says whether f calls a method that is named of g.
func (f pathFile) joins(g pathFile) bool {
	for name := range g.named {
		if f.calls[name] {
			return true
		}
	}
	return false
}

// functionsIn returns the functions of a file, methods as Type.Name.
func functionsIn(f goFile) map[string]bool {
	names := map[string]bool{}
	for _, d := range f.ast.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok {
			continue
		}
		name := fn.Name.Name
		if fn.Recv != nil {
			typ := fn.Recv.List[0].Type
			if star, ok := typ.(*ast.StarExpr); ok {
				typ = star.X
			}
			if ident, ok := typ.(*ast.Ident); ok {
				name = ident.Name + "." + name
			}
		}
		names[name] = true
	}
	return names
}

// callsIn returns the names of the methods that a file calls.
func callsIn(f goFile) map[string]bool {
	names := map[string]bool{}
	ast.Inspect(f.ast, func(n ast.Node) bool {
		if call, ok := n.(*ast.CallExpr); ok {
			if method, ok := call.Fun.(*ast.SelectorExpr); ok {
				names[method.Sel.Name] = true
			}
		}
		return true
	})
	return names
}

// TestArchitecturePackages compares the table of packages in docs/architecture.md with the one that
// TestImportDirection enforces.
func TestArchitecturePackages(t *testing.T) {
	text := readFile(t, "docs/architecture.md")
	rows := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^\| ((?:pkg|cmd|docs)/\w+|docs) \| [^|]* \| (.*) \|$`).FindAllStringSubmatch(text, -1) {
		rows[m[1]] = m[2]
	}
	for pkg, rule := range imports {
		may := "-"
		if len(rule.may) > 0 {
			may = strings.ReplaceAll(strings.Join(slices.Sorted(slices.Values(rule.may)), ", "), "pkg/", "")
		}
		if want := may + " | " + rule.why; rows[pkg] != want {
			t.Errorf("docs/architecture.md says of %s\n\t%s\nand not\n\t%s", pkg, rows[pkg], want)
		}
		delete(rows, pkg)
	}
	for pkg := range rows {
		t.Errorf("docs/architecture.md lists %s, which is no package", pkg)
	}
}
