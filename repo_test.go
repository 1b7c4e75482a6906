// Package hmcnotifyd_test checks the rules that the repository as a whole
// keeps: who may import whom, where a process may end, which dependencies are
// explained. Each failure says why the rule is there.
package hmcnotifyd_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"unicode"

	"go.uber.org/goleak"
)

const module = "github.com/hmcnotifyd/hmcnotifyd"

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// imports says for each package which of our packages it may import, and why
// not more. The direction is strictly downward, so that each package can be
// understood, tested and used without those above it.
var imports = map[string]struct {
	may []string
	why string
}{
	"pkg/event":       {[]string{"pkg/jsontext"}, "an event is data; everything else may know it"},
	"pkg/budget":      {nil, "bytes are bytes, whatever they are of"},
	"pkg/secret":      {nil, "whoever passes on what others say needs to find secrets in it"},
	"pkg/receiver":    {[]string{"pkg/budget", "pkg/jsontext", "pkg/secret"}, "any Go program may use the receiver on its own"},
	"pkg/hmc":         {[]string{"pkg/budget", "pkg/datadir", "pkg/jsontext", "pkg/secret"}, "any Go program may use the Web Services API client on its own"},
	"pkg/estate":      {nil, "the estate is names and statuses, wherever they come from"},
	"pkg/datadir":     {nil, "who may use a file does not depend on what is in it"},
	"pkg/queue":       {[]string{"pkg/appendlog", "pkg/datadir", "pkg/deadletters", "pkg/diskstore", "pkg/storage"}, "the queue stores opaque records"},
	"pkg/storage":     {[]string{"pkg/appendlog"}, "whoever stores and whoever reads agree on a form, and on nothing else"},
	"pkg/diskstore":   {[]string{"pkg/appendlog", "pkg/boltfile", "pkg/datadir", "pkg/storage"}, "the disk keeps what a queue hands it, and knows no queue"},
	"pkg/deadletters": {[]string{"pkg/appendlog", "pkg/boltfile", "pkg/datadir"}, "what was refused is kept without knowing what there is besides"},
	"pkg/appendlog":   {[]string{"pkg/datadir"}, "frames are kept without knowing what is in them"},
	"pkg/cluster":     {[]string{"pkg/datadir", "pkg/deadletters", "pkg/storage"}, "the cluster keeps what a queue hands it, and knows no more of it than the disk does"},
	"pkg/logs":        {[]string{"pkg/event"}, "a log knows lines, and nothing of what they are about"},
	"pkg/boltfile":    {[]string{"pkg/datadir"}, "a file is checked without knowing what is in it"},
	"pkg/hmcsim":      {nil, "the simulator shares no code with what it tests"},
	"pkg/render":      {[]string{"pkg/event"}, "a template sees events and nothing else"},
	"pkg/units":       {nil, "how sizes and durations are written does not depend on where"},
	"pkg/capture":     {[]string{"pkg/assume", "pkg/hmc", "pkg/jsontext", "pkg/receiver", "pkg/secret"}, "a capture is what went over the wires, and knows nothing of who looks after an HMC"},
	"pkg/playback":    {[]string{"pkg/capture", "pkg/hmcsim"}, "a capture is played back by what simulates, over real connections"},
	"pkg/jsontext":    {nil, "whether a text is JSON, or nearly, does not depend on what it is of"},
	"pkg/assume":      {nil, "what is not known of HMCs does not depend on who finds it out"},
	"pkg/match":       {[]string{"pkg/event"}, "a matcher sees events and nothing else"},
	"pkg/config":      {[]string{"docs/rules", "pkg/event", "pkg/match", "pkg/receiver", "pkg/render", "pkg/secret", "pkg/trust", "pkg/units"}, "the configuration knows nothing of what runs"},
	"pkg/sinks":       {[]string{"pkg/config", "pkg/event", "pkg/match", "pkg/render"}, "a sink formats and sends, it knows neither queue nor HMC"},
	"pkg/trust":       {nil, "what a certificate or TLS lacks can be said without knowing who connects"},
	"pkg/ledger":      {[]string{"pkg/event", "pkg/queue"}, "what is known is pure data: it knows no HMC, no clock and no disk"},
	"pkg/console":     {[]string{"pkg/event", "pkg/ledger", "pkg/queue"}, "as pkg/ledger: a book of its own for the messages that HMCs number anew"},
	"pkg/follow":      {[]string{"pkg/console", "pkg/event", "pkg/hmc", "pkg/receiver"}, "a Go program follows a console without a configuration, a queue or a daemon"},
	"pkg/translate":   {[]string{"pkg/config", "pkg/estate", "pkg/event", "pkg/jsontext", "pkg/ledger", "pkg/match", "pkg/receiver"}, "a notification becomes events without anything being stored"},
	"pkg/status":      {[]string{"pkg/event", "pkg/receiver"}, "what may be asked is plain data"},
	"pkg/heard":       {[]string{"pkg/event", "pkg/receiver", "pkg/translate"}, "what was heard is compared with what was recorded, whoever does either"},
	"pkg/record": {
		[]string{
			"pkg/budget", "pkg/config", "pkg/console", "pkg/estate", "pkg/event", "pkg/hmc", "pkg/ledger", "pkg/queue", "pkg/receiver",
			"pkg/status", "pkg/translate",
		},
		"what is recorded comes from above, and knows no session and no link",
	},
	"pkg/probe": {
		[]string{"pkg/estate", "pkg/event", "pkg/hmc", "pkg/record", "pkg/translate"},
		"what is asked of single resources needs a session, and no link",
	},
	"pkg/logon": {
		[]string{"pkg/assume", "pkg/budget", "pkg/config", "pkg/event", "pkg/hmc", "pkg/logs", "pkg/receiver", "pkg/status", "pkg/translate"},
		"session and link of one HMC are made the same way by the daemon and by a check",
	},
	"pkg/watch": {
		[]string{
			"pkg/assume", "pkg/budget", "pkg/config", "pkg/estate", "pkg/event", "pkg/heard", "pkg/hmc", "pkg/ledger", "pkg/logon", "pkg/probe",
			"pkg/queue", "pkg/receiver", "pkg/record", "pkg/status", "pkg/translate",
		},
		"one HMC is looked after without knowing of the others, or of who gets its events",
	},
	"pkg/standby": {
		[]string{"pkg/budget", "pkg/config", "pkg/event", "pkg/record", "pkg/status", "pkg/watch"},
		"whoever stands by hears HMCs, and has no log",
	},
	"pkg/check": {
		[]string{
			"pkg/assume", "pkg/capture", "pkg/cluster", "pkg/config", "pkg/datadir", "pkg/deliver", "pkg/estate", "pkg/event", "pkg/hmc",
			"pkg/ledger", "pkg/logon", "pkg/match", "pkg/queue", "pkg/receiver", "pkg/record", "pkg/route", "pkg/sinks", "pkg/status", "pkg/translate", "pkg/watch",
		},
		"a check tries sessions, links and sinks, and knows nothing of a daemon that runs",
	},
	"pkg/route":  {[]string{"pkg/config", "pkg/event", "pkg/match"}, "why a sink gets an event can be said without sending it"},
	"docs/rules": {nil, "the ready sets of rules are files"},
	"docs":       {nil, "documents are files"},
	"pkg/support": {
		[]string{"docs", "pkg/capture", "pkg/config", "pkg/match"},
		"what goes with a report is texts, and comes from whoever has them",
	},
	"pkg/deliver": {
		[]string{"pkg/config", "pkg/event", "pkg/match", "pkg/queue", "pkg/sinks", "pkg/status"},
		"a delivery knows stored events and its sink, not where they came from",
	},
	"pkg/replay": {
		[]string{"pkg/config", "pkg/deliver", "pkg/event", "pkg/match", "pkg/queue", "pkg/route", "pkg/sinks", "pkg/status"},
		"what is stored is read once more without anybody's cursor being moved",
	},
	"pkg/bridge": {
		[]string{
			"pkg/budget", "pkg/config", "pkg/deliver", "pkg/estate", "pkg/event", "pkg/ledger", "pkg/match",
			"pkg/queue", "pkg/receiver", "pkg/record", "pkg/replay",
			"pkg/sinks", "pkg/standby", "pkg/status", "pkg/translate", "pkg/watch",
		},
		"the running daemon knows nothing of HTTP pages, flags or the simulator",
	},
	"pkg/ha":       {[]string{"pkg/bridge", "pkg/cluster", "pkg/config", "pkg/datadir", "pkg/deliver", "pkg/event", "pkg/queue", "pkg/replay", "pkg/sinks", "pkg/standby", "pkg/status"}, "who leads is settled without knowing what a leader does"},
	"pkg/cmdline":  {[]string{"pkg/event"}, "what a command line says of itself does not depend on what its commands do"},
	"pkg/terminal": {[]string{"pkg/event", "pkg/status", "pkg/units"}, "what a terminal shows is made of data, wherever that comes from"},
	"pkg/web": {
		[]string{"pkg/bridge", "pkg/config", "pkg/deliver", "pkg/event", "pkg/match", "pkg/replay", "pkg/status", "pkg/units"},
		"the web server shows the bridge's status and never reaches past it",
	},
	"cmd/hmcnotifyd": {
		[]string{
			"pkg/bridge", "pkg/budget", "pkg/capture", "pkg/check", "pkg/cmdline", "pkg/config", "pkg/deliver",
			"pkg/event", "pkg/ha", "pkg/hmc", "pkg/hmcsim", "pkg/logs", "pkg/playback", "pkg/queue",
			"pkg/receiver", "pkg/replay", "pkg/route", "pkg/sinks", "pkg/status", "pkg/support",
			"pkg/terminal", "pkg/units", "pkg/web",
		},
		"a program wires packages together and takes nothing from tests",
	},
}

// modulesOf names the only packages that may import a module, and why.
var modulesOf = map[string]struct {
	only []string
	why  string
}{
	"gopkg.in/yaml.v3":                        {[]string{"pkg/config"}, "the YAML library can be changed in one place"},
	"go.etcd.io/bbolt":                        {[]string{"pkg/boltfile", "pkg/deadletters", "pkg/diskstore"}, "only what version 0.1 has stored is in its format"},
	"github.com/go-stomp/stomp/v3/frame":      {[]string{"pkg/receiver", "pkg/hmcsim"}, "only the two ends of a link know STOMP frames"},
	"github.com/go-stomp/stomp/v3":            {nil, "go-stomp's client and server are counterparts in tests and benchmarks, not part of the daemon"},
	"github.com/coreos/go-systemd/v22/daemon": {[]string{"cmd/hmcnotifyd"}, "only the program talks to the service manager"},

	"charm.land/bubbletea/v2":   {[]string{"pkg/terminal"}, "only the screen of top needs a whole terminal"},
	"charm.land/lipgloss/v2":    {[]string{"pkg/terminal"}, "colors are for terminals"},
	"github.com/maruel/natural": {[]string{"pkg/terminal", "pkg/web"}, "names are sorted where people read them"},

	"github.com/nats-io/nats.go":                            {[]string{"pkg/cluster", "pkg/sinks"}, "only the sink nats and the log on a cluster know NATS"},
	"github.com/nats-io/nats.go/jetstream":                  {[]string{"pkg/cluster", "pkg/sinks"}, "only the sink nats and the log on a cluster know NATS"},
	"github.com/nats-io/nats-server/v2/server":              {nil, "the server of NATS is a counterpart in tests, not part of the daemon"},
	"github.com/twmb/franz-go/pkg/kgo":                      {[]string{"pkg/sinks"}, "only the sink kafka knows Kafka"},
	"github.com/twmb/franz-go/pkg/kerr":                     {[]string{"pkg/sinks"}, "only the sink kafka knows Kafka"},
	"github.com/twmb/franz-go/pkg/kmsg":                     {[]string{"pkg/sinks"}, "only the sink kafka knows Kafka"},
	"github.com/twmb/franz-go/pkg/sasl/plain":               {[]string{"pkg/sinks"}, "only the sink kafka knows Kafka"},
	"github.com/twmb/franz-go/pkg/sasl/scram":               {[]string{"pkg/sinks"}, "only the sink kafka knows Kafka"},
	"go.opentelemetry.io/proto/slim/otlp/collector/logs/v1": {[]string{"pkg/sinks"}, "only the sink otlp knows OpenTelemetry"},
	"github.com/twmb/franz-go/pkg/kfake":                    {nil, "franz-go's cluster is a counterpart in tests, not part of the daemon"},
}

// goFile is a parsed Go file of this module.
type goFile struct {
	path string // with slashes, from the repository's root
	test bool
	ast  *ast.File
}

func (f goFile) pkg() string { return path.Dir(f.path) }

func (f goFile) imports() []string {
	var paths []string
	for _, spec := range f.ast.Imports {
		p, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			continue // the parser would have refused it
		}
		paths = append(paths, p)
	}
	return paths
}

// repoFiles returns the files of the repository: what git knows or would add,
// or in a source archive everything but what .gitignore names.
func repoFiles(t *testing.T) []string {
	t.Helper()
	files, err := listed()
	if err != nil {
		t.Fatal(err)
	}
	return slices.Clone(files)
}

// Most tests here look at all files: they are listed and parsed once.
var (
	listed = sync.OnceValues(listFiles)
	parsed = sync.OnceValues(parseFiles)
)

func listFiles() ([]string, error) {
	out, err := exec.CommandContext(context.Background(), "git", "ls-files", "--cached", "--others", "--exclude-standard", "-z").Output()
	if err == nil {
		var files []string
		for name := range bytes.SplitSeq(out, []byte{0}) {
			// A file deleted in the work tree is listed still, and so is a link to a directory.
			if info, err := os.Stat(string(name)); err == nil && len(name) > 0 && !info.IsDir() {
				files = append(files, string(name))
			}
		}
		return files, nil
	}
	ignored := map[string]bool{".git": true, ".cache": true, "dist": true, "data": true, "hmcnotifyd": true}
	var files []string
	err = filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case ignored[name]:
			if d.IsDir() {
				return fs.SkipDir
			}
		case d.Type().IsRegular():
			files = append(files, filepath.ToSlash(name))
		}
		return nil
	})
	return files, err
}

// goFiles are the Go files of the module; tools/ and bench/peers/ are modules of their own.
func goFiles(t *testing.T) []goFile {
	t.Helper()
	files, err := parsed()
	if err != nil {
		t.Error(err)
	}
	if len(files) == 0 {
		t.Fatal("no Go file found")
	}
	return slices.Clone(files)
}

func parseFiles() (files []goFile, err error) {
	names, err := listed()
	for _, name := range names {
		if !strings.HasSuffix(name, ".go") || strings.HasPrefix(name, "tools/") ||
			strings.HasPrefix(name, "bench/peers/") || strings.Contains("/"+name, "/testdata/") {
			continue
		}
		file, wrong := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments|parser.SkipObjectResolution)
		if wrong != nil {
			err = errors.Join(err, wrong)
			continue
		}
		files = append(files, goFile{path: name, test: strings.HasSuffix(name, "_test.go"), ast: file})
	}
	return files, err
}

// shipped tells whether a package is part of the product: the helpers of tests
// and the benchmark have other rules.
func shipped(pkg string) bool {
	return strings.HasPrefix(pkg, "pkg/") || strings.HasPrefix(pkg, "cmd/")
}

func TestImportDirection(t *testing.T) {
	for _, f := range goFiles(t) {
		if f.test || !shipped(f.pkg()) {
			continue
		}
		rule, known := imports[f.pkg()]
		if !known {
			t.Errorf("%s: package %s has no rule: say in the table imports what it may import and why", f.path, f.pkg())
			continue
		}
		for _, imported := range f.imports() {
			ours, ok := strings.CutPrefix(imported, module+"/")
			if ok && !slices.Contains(rule.may, ours) {
				t.Errorf("%s imports %s: %s", f.path, ours, rule.why)
			}
		}
	}
	for pkg, rule := range imports {
		for _, p := range rule.may {
			if below, ok := imports[p]; !ok || slices.Contains(below.may, pkg) {
				t.Errorf("%s and %s may import each other, or %s is unknown", pkg, p, p)
			}
		}
	}
}

func TestModuleImporters(t *testing.T) {
	for _, f := range goFiles(t) {
		if f.test || !shipped(f.pkg()) {
			continue
		}
		for _, imported := range f.imports() {
			if rule, ok := modulesOf[imported]; ok && !slices.Contains(rule.only, f.pkg()) {
				t.Errorf("%s imports %s: %s", f.path, imported, rule.why)
			}
		}
	}
}

func TestPackageComments(t *testing.T) {
	comments := map[string]int{}
	names := map[string]string{}
	for _, f := range goFiles(t) {
		if f.test {
			continue
		}
		names[f.pkg()] = f.ast.Name.Name
		if f.ast.Doc == nil {
			comments[f.pkg()] += 0
			continue
		}
		comments[f.pkg()]++
		want := "Package " + f.ast.Name.Name + " "
		if f.ast.Name.Name == "main" {
			want = "Command " + path.Base(f.pkg()) + " "
		}
		if text := f.ast.Doc.Text(); !strings.HasPrefix(text, want) {
			t.Errorf("%s: the package comment begins with %.30q, not with %q: go doc shows its first sentence in lists", f.path, text, want)
		}
	}
	for pkg, n := range comments {
		if n != 1 {
			t.Errorf("package %s (%s) has %d package comments, not one: it is where a reader starts", pkg, names[pkg], n)
		}
	}
}

// TestExamples wants an example for each exported type that programs may use, where pkg.go.dev shows
// it: of the type, of a method of it, or for a package with one function, of the package.
func TestExamples(t *testing.T) {
	types, examples := map[string]bool{}, map[string]bool{}
	libraries := []string{"pkg/receiver", "pkg/hmc"}
	for _, f := range goFiles(t) {
		if !slices.Contains(libraries, f.pkg()) {
			continue
		}
		for _, d := range f.ast.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if name, ok := strings.CutPrefix(d.Name.Name, "Example"); ok && f.test {
					name, _, _ = strings.Cut(name, "_")
					examples[f.pkg()+"."+name] = true
				}
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					if s, ok := spec.(*ast.TypeSpec); ok && !f.test && s.Name.IsExported() {
						types[f.pkg()+"."+s.Name.Name] = true
					}
				}
			}
		}
	}
	if len(types) < 20 {
		t.Errorf("only %d types were looked at", len(types))
	}
	for name := range types {
		if !examples[name] {
			t.Errorf("%s has no example", name)
		}
	}
}

// TestLibraryProgram compiles the program of docs/library.md, whose main is what it promises to be: short.
func TestLibraryProgram(t *testing.T) {
	_, program, _ := strings.Cut(readFile(t, "docs/library.md"), "\n```go\n")
	program, _, found := strings.Cut(program, "\n```\n")
	_, body, _ := strings.Cut(program, "\nfunc main() {\n")
	if lines := strings.Count(body, "\n"); !found || lines == 0 || lines > 15 {
		t.Errorf("main has %d lines", lines)
	}
	file := filepath.Join(t.TempDir(), "main.go")
	if err := os.WriteFile(file, []byte(program+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "go", "vet", file).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestLeakChecks wants goleak in each package that has tests: a goroutine that
// is left behind fails the package that left it.
func TestLeakChecks(t *testing.T) {
	checked := map[string]bool{}
	for _, f := range goFiles(t) {
		if f.test {
			checked[f.pkg()] = checked[f.pkg()] || slices.Contains(f.imports(), "go.uber.org/goleak")
		}
	}
	for pkg, ok := range checked {
		if !ok {
			t.Errorf("package %s has tests but no TestMain with goleak.VerifyTestMain", pkg)
		}
	}
}

// TestNoSurprises looks for code that acts behind the reader's back: it ends
// the process, or runs because a package was imported.
func TestNoSurprises(t *testing.T) {
	ends := map[string]string{
		"os.Exit": "", "log.Fatal": "", "log.Fatalf": "", "log.Fatalln": "",
		"log.Panic": "", "log.Panicf": "", "log.Panicln": "",
	}
	for _, f := range goFiles(t) {
		if f.test {
			continue
		}
		for _, decl := range f.ast.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%s: func init: what a package does begins with a call that can be read", f.path)
			}
		}
		if strings.HasPrefix(f.path, "cmd/") || f.ast.Name.Name == "main" {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok {
				if x, ok := sel.X.(*ast.Ident); ok {
					if _, bad := ends[x.Name+"."+sel.Sel.Name]; bad {
						t.Errorf("%s: %s.%s: only cmd ends the process, others return an error", f.path, x.Name, sel.Sel.Name)
					}
				}
			}
			return true
		})
	}
}

var (
	requirement  = regexp.MustCompile(`(?m)^(?:require )?\s*([a-z0-9.-]+\.[a-z]+/\S+) v\S+$`)
	toolLine     = regexp.MustCompile(`(?m)^\t([a-z0-9.-]+\.[a-z]+/\S+)$`)
	documentedAs = regexp.MustCompile("(?m)^\\| `([^`]+)` \\|")
)

// TestDependenciesExplained compares go.mod with docs/dependencies.md, in both
// directions: each dependency is a decision, and a decision has a reason.
func TestDependenciesExplained(t *testing.T) {
	doc, _, _ := strings.Cut(readFile(t, "docs/dependencies.md"), "\n## Licenses\n")
	explained := map[string]bool{}
	for _, m := range documentedAs.FindAllStringSubmatch(doc, -1) {
		explained[m[1]] = true
	}
	used := map[string]bool{}
	// What our code imports counts, whatever go.mod marks as indirect.
	required := requirement.FindAllStringSubmatch(regexp.MustCompile(`(?m) // indirect$`).ReplaceAllString(readFile(t, "go.mod"), ""), -1)
	for _, f := range goFiles(t) {
		for _, imported := range f.imports() {
			var from string // the longest: a module may lie inside another's path
			for _, m := range required {
				if (imported == m[1] || strings.HasPrefix(imported, m[1]+"/")) && len(m[1]) > len(from) {
					from = m[1]
				}
			}
			if from != "" {
				used[from] = true
			}
		}
	}
	for _, m := range toolLine.FindAllStringSubmatch(readFile(t, "tools/go.mod"), -1) {
		used[m[1]] = true
	}
	for dependency := range used {
		if !explained[dependency] {
			t.Errorf("%s is used, but has no row in docs/dependencies.md", dependency)
		}
	}
	for dependency := range explained {
		if !used[dependency] {
			t.Errorf("docs/dependencies.md explains %s, which nothing uses", dependency)
		}
	}
}

// licenseSigns are words that stand in a license and in no other of these, in lower case and with
// single blanks. Those of BSD differ in one clause.
var licenseSigns = map[string]string{
	"Apache-2.0": "apache license version 2.0, january 2004",
	"MIT":        "permission is hereby granted, free of charge, to any person obtaining a copy of this software",
	"BSD":        "redistribution and use in source and binary forms, with or without modification, are permitted",
	"ISC":        "permission to use, copy, modify, and/or distribute this software for any purpose",
	"MPL-2.0":    "mozilla public license version 2.0",
	"EPL":        "eclipse public license",
	"GPL":        "gnu general public license",
	"LGPL":       "gnu lesser general public license",
	"AGPL":       "gnu affero general public license",
	"SSPL":       "server side public license",
	"BUSL":       "business source license",
	"Elastic":    "elastic license",
	"Commons":    "commons clause",
	"CC":         "creative commons",
}

// licensesOf returns which licenses a text is of; none: it is of one that is not known here.
func licensesOf(text string) []string {
	text = strings.ToLower(strings.Join(strings.FieldsFunc(text, func(r rune) bool {
		return unicode.IsSpace(r) || r == '#' || r == '*' || r == '/' // also where it stands in comments
	}), " "))
	var found []string
	for name, words := range licenseSigns {
		if !strings.Contains(text, strings.ReplaceAll(words, "/", " ")) {
			continue
		}
		if name == "BSD" {
			name = "BSD-2-Clause"
			if strings.Contains(text, "neither the name") {
				name = "BSD-3-Clause"
			}
			if strings.Contains(text, "advertising materials") {
				name = "BSD-4-Clause"
			}
		}
		found = append(found, name)
	}
	slices.Sort(found)
	return found
}

// TestLicenses wants each module of go.mod to be under licenses that docs/dependencies.md allows, by
// the texts that the modules come with: what is linked into the program binds those who pass it on.
func TestLicenses(t *testing.T) {
	_, section, found := strings.Cut(readFile(t, "docs/dependencies.md"), "\n## Licenses\n")
	section, _, _ = strings.Cut(section, "\n## ")
	allowed := map[string]bool{}
	for _, m := range documentedAs.FindAllStringSubmatch(section, -1) {
		allowed[m[1]] = false
	}
	if !found || len(allowed) == 0 {
		t.Fatal("docs/dependencies.md allows no license")
	}
	out, err := exec.CommandContext(t.Context(), "go", "mod", "download", "-json").Output()
	if err != nil {
		t.Fatalf("go mod download: %v", err)
	}
	modules := 0
	for d := json.NewDecoder(bytes.NewReader(out)); d.More(); modules++ {
		var m struct{ Path, Dir string }
		if err := d.Decode(&m); err != nil {
			t.Fatal(err)
		}
		texts, err := filepath.Glob(filepath.Join(m.Dir, "*"))
		if err != nil {
			t.Fatal(err)
		}
		licenses := 0
		for _, file := range texts {
			name := strings.ToUpper(filepath.Base(file))
			if info, err := os.Stat(file); err != nil || !info.Mode().IsRegular() || path.Ext(name) == ".GO" ||
				!strings.HasPrefix(name, "LICEN") && !strings.HasPrefix(name, "COPYING") && !strings.HasPrefix(name, "UNLICENSE") {
				continue
			}
			of := licensesOf(readFile(t, file))
			if len(of) == 0 {
				t.Errorf("%s: nobody knows of which license %s is", m.Path, filepath.Base(file))
			}
			for _, license := range of {
				if _, ok := allowed[license]; !ok {
					t.Errorf("%s: %s is %s, which docs/dependencies.md does not allow", m.Path, filepath.Base(file), license)
				}
				allowed[license] = true
			}
			licenses++
		}
		if licenses == 0 {
			t.Errorf("%s (%s) comes without a license", m.Path, m.Dir)
		}
	}
	if required := len(requirement.FindAllString(strings.ReplaceAll(readFile(t, "go.mod"), " // indirect", ""), -1)); modules != required {
		t.Errorf("%d modules were looked at, go.mod has %d", modules, required)
	}
	for license, used := range allowed {
		if !used {
			t.Errorf("docs/dependencies.md allows %s, which no module is under", license)
		}
	}
}

func TestLicensesAreRecognized(t *testing.T) {
	for text, want := range map[string]string{
		"                    GNU GENERAL PUBLIC LICENSE\n                       Version 3":                               "[GPL]",
		"GNU AFFERO GENERAL PUBLIC LICENSE":                                                                              "[AGPL]",
		"// Redistribution and use in source and binary\n// forms, with or without modification, are permitted provided": "[BSD-2-Clause]",
		"Business Source License 1.1":                                                                                    "[BUSL]", "You may use this on Sundays.": "[]",
		"# MIT License\n\nPermission is hereby granted, free of charge, to any person obtaining\na copy of this software\n\"Commons Clause\" License": "[Commons MIT]",
	} {
		if got := fmt.Sprint(licensesOf(text)); got != want {
			t.Errorf("%.40q: %s, want %s", text, got, want)
		}
	}
}

// TestNothingPrivate looks for what must not be published: keys, and paths of
// the machine somebody happened to work on.
func TestNothingPrivate(t *testing.T) {
	private := map[string]*regexp.Regexp{
		"a private key":             regexp.MustCompile(`-----BEGIN [A-Z ]*PRIVATE` + ` KEY-----\s+[A-Za-z0-9+/]`),
		"an access token":           regexp.MustCompile(`\b(gh[pousr]_[A-Za-z0-9]{30,}|xox[abps]-[0-9]{8,}-[A-Za-z0-9-]+|AKIA[0-9A-Z]{16})\b`),
		"a path of a build machine": regexp.MustCompile(`(^|[\s"'` + "`" + `(=:])/(work|root|home/[a-z]+)/[A-Za-z0-9.]`),
	}
	for _, name := range repoFiles(t) {
		text := readFile(t, name)
		if strings.Contains(text, "\x00") {
			continue // a picture or other binary file
		}
		for what, pattern := range private {
			if what == "a private key" && strings.Contains(name, "/testdata/") {
				continue // of a certificate that only tests know
			}
			if loc := pattern.FindStringIndex(text); loc != nil {
				t.Errorf("%s:%d: %s", name, 1+strings.Count(text[:loc[0]], "\n"), what)
			}
		}
	}
}

// TestNothingUnfinished wants an issue or working code, not a note in a
// comment that only one person reads.
func TestNothingUnfinished(t *testing.T) {
	unfinished := regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X)\b`)
	for _, f := range goFiles(t) {
		for _, group := range f.ast.Comments {
			if word := unfinished.FindString(group.Text()); word != "" {
				t.Errorf("%s: a comment says %s", f.path, word)
			}
		}
	}
}

var (
	markdownLink = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading      = regexp.MustCompile(`(?m)^#+ (.+)$`)
	codeBlock    = regexp.MustCompile("(?ms)^```.*?^```")
	makeTarget   = regexp.MustCompile(`(?m)^([a-z0-9-]+):`)
	makeCommand  = regexp.MustCompile("(?m)(?:`make|^\\s+make|^step) ([a-z0-9-]+)")
)

// TestDocumentLinks follows the links between the Markdown files, headings
// included.
func TestDocumentLinks(t *testing.T) {
	for _, name := range markdownFiles(t) {
		text := codeBlock.ReplaceAllString(readFile(t, name), "")
		for _, m := range markdownLink.FindAllStringSubmatch(text, -1) {
			if strings.Contains(m[1], "://") || strings.HasPrefix(m[1], "mailto:") {
				continue
			}
			file, fragment, _ := strings.Cut(m[1], "#")
			target := name
			if file != "" {
				target = path.Join(path.Dir(name), file)
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s links to %s: %v", name, m[1], err)
				continue
			}
			if fragment != "" && !slices.Contains(anchors(readFile(t, target)), fragment) {
				t.Errorf("%s links to %s: no such heading", name, m[1])
			}
		}
	}
}

// TestDocumentedTargets wants each `make x` of the documents to be a target.
func TestDocumentedTargets(t *testing.T) {
	targets := map[string]bool{}
	for _, m := range makeTarget.FindAllStringSubmatch(readFile(t, "Makefile"), -1) {
		targets[m[1]] = true
	}
	for _, name := range append(markdownFiles(t), ".ci/run") {
		for _, m := range makeCommand.FindAllStringSubmatch(readFile(t, name), -1) {
			if !targets[m[1]] {
				t.Errorf("%s says make %s; the targets are %v", name, m[1], slices.Sorted(maps.Keys(targets)))
			}
		}
	}
}

// TestChangelog wants the version being built to be described.
func TestChangelog(t *testing.T) {
	version := strings.TrimSpace(readFile(t, "VERSION"))
	if !regexp.MustCompile(`^\d+\.\d+\.\d+$`).MatchString(version) {
		t.Errorf("VERSION is %q, not MAJOR.MINOR.PATCH", version)
	}
	changelog := readFile(t, "CHANGELOG.md")
	if !strings.Contains(changelog, fmt.Sprintf("\n## [%s]", version)) && !strings.Contains(changelog, "\n## [Unreleased]") {
		t.Errorf("CHANGELOG.md has no section for %s and none for what is unreleased", version)
	}
}

// TestUpgradesAreTested wants docs/upgrading.md to have a section for each version that CHANGELOG.md
// has, and tests/upgrade to open what that version has written, killed and stopped.
func TestUpgradesAreTested(t *testing.T) {
	versions := regexp.MustCompile(`(?m)^## (?:From )?\[?(\d+\.\d+\.\d+)\b`)
	documented, tested := map[string]bool{}, map[string]bool{}
	for _, m := range versions.FindAllStringSubmatch(readFile(t, "docs/upgrading.md"), -1) {
		documented[m[1]] = true
	}
	for _, m := range versions.FindAllStringSubmatch(readFile(t, "CHANGELOG.md"), -1) {
		if m[1] != strings.TrimSpace(readFile(t, "VERSION")) && !documented[m[1]] {
			t.Errorf("docs/upgrading.md says nothing of an upgrade from %s", m[1])
		}
	}
	for _, name := range repoFiles(t) {
		if v, ok := strings.CutSuffix(strings.TrimPrefix(name, "tests/upgrade/testdata/"), "-kill.tar.gz"); ok {
			tested[v] = slices.Contains(repoFiles(t), "tests/upgrade/testdata/"+v+"-term.tar.gz")
		}
	}
	if len(documented) == 0 || !maps.Equal(documented, tested) {
		t.Errorf("docs/upgrading.md has the versions %v, tests/upgrade %v", documented, tested)
	}
}

func markdownFiles(t *testing.T) []string {
	t.Helper()
	return slices.DeleteFunc(repoFiles(t), func(name string) bool { return path.Ext(name) != ".md" })
}

// anchors returns the fragments that GitHub makes of a document's headings.
func anchors(text string) []string {
	var all []string
	for _, m := range heading.FindAllStringSubmatch(codeBlock.ReplaceAllString(text, ""), -1) {
		anchor := strings.ToLower(strings.TrimSpace(m[1]))
		anchor = regexp.MustCompile(`[^\p{L}\p{N}\s_-]`).ReplaceAllString(anchor, "")
		all = append(all, strings.ReplaceAll(anchor, " ", "-"))
	}
	return all
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.FromSlash(name))
	if errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("%s is missing", name)
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// docs/hmc-behavior.md says of each fact about HMCs what it rests on, and which test shows what the program does with it.
func TestBehaviorHasBasisAndTests(t *testing.T) {
	text, err := os.ReadFile("docs/hmc-behavior.md")
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]bool{}
	for _, f := range goFiles(t) {
		for _, d := range f.ast.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && f.test {
				tests[fn.Name.Name] = true
			}
		}
	}
	bases := map[string]bool{}
	for _, row := range regexp.MustCompile(`(?m)^\| ([a-z]+) \| [^|]* \|$`).FindAllSubmatch(text, -1) {
		bases[string(row[1])] = true
	}
	rows := regexp.MustCompile(`(?m)^\| [0-9.]+ \|.*\| ([^|]*) \| ([^|]*) \|$`).FindAllSubmatch(text, -1)
	if statements := regexp.MustCompile(`(?m)^\| [0-9.]+ \|`).FindAll(text, -1); len(rows) < 20 || len(rows) != len(statements) {
		t.Fatalf("%d rows of %d statements", len(rows), len(statements))
	}
	for _, row := range rows {
		for basis := range strings.SplitSeq(string(row[1]), ", ") {
			if !bases[basis] {
				t.Errorf("it rests on %q, which is none of %v: %.60s...", basis, slices.Sorted(maps.Keys(bases)), row[0])
			}
		}
		for name := range strings.SplitSeq(string(row[2]), ", ") {
			if !tests[name] {
				t.Errorf("there is no test %q: %.60s...", name, row[0])
			}
		}
	}
}
