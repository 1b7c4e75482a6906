package hmcnotifyd_test

import (
	"go/ast"
	"go/token"
	"slices"
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

// variableMessages are lines of log whose message is no constant where it is written: it is one of a
// few constants, chosen above.
var variableMessages = map[string]string{
	"pkg/bridge/orphans.go: " + `"events wait for a sink that is not configured any more; "+` + "\n\t\t\t" +
		`"they are kept, and what comes in is kept with them, "+` + "\n\t\t\t" +
		`"until a sink of that name comes back or until hmcnotifyd dead-letters purge --waiting --sink="+name`: "a command to copy: the sink is one that was configured",
	`pkg/deliver/age.go: what+", but could not be put aside; they stay in the queue"`:        "what is a constant of the caller",
	`pkg/deliver/age.go: what+" and put aside as dead letters"`:                              "as above",
	"pkg/queue/append.go: failing":                                                           "a constant of the caller",
	"pkg/queue/append.go: works":                                                             "as above",
	"pkg/record/tx.go: text":                                                                 "one of two constants",
	"pkg/watch/supervisor.go: text":                                                          "a constant of the caller",
	`pkg/watch/hardware.go: "hardware messages could not be listed"+logon.HardwareHint(err)`: "one of two hints",
}

// TestLinesOfLogAreThrottled holds the rule by which nobody outside fills the log: every line goes
// through the one logger, which writes so many of a kind and counts the others (see throttle.go of
// cmd/hmcnotifyd). A kind is a message, and so the message is a constant: what an HMC, a sink or a
// client says is in the fields of a line.
func TestLinesOfLogAreThrottled(t *testing.T) {
	loggers, lines := 0, 0
	found := map[string]bool{}
	for _, f := range goFiles(t) {
		if f.test || !shipped(f.pkg()) || f.pkg() == "pkg/hmcsim" {
			continue
		}
		constants := map[string]bool{}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if decl, ok := n.(*ast.GenDecl); ok && decl.Tok == token.CONST {
				for _, s := range decl.Specs {
					for _, name := range s.(*ast.ValueSpec).Names {
						constants[name.Name] = true
					}
				}
			}
			return true
		})
		ast.Inspect(f.ast, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CompositeLit:
				// The demo's is for its own client alone.
				if nameOf(n.Type) == "http.Server" && f.path != "cmd/hmcnotifyd/demo.go" && !slices.ContainsFunc(n.Elts, func(e ast.Expr) bool {
					pair, ok := e.(*ast.KeyValueExpr)
					return ok && nameOf(pair.Key) == "ErrorLog"
				}) {
					t.Errorf("%s: an http.Server without an ErrorLog writes to the standard error by itself", f.path)
				}
			case *ast.SelectorExpr:
				if name := nameOf(n); name == "os.Stderr" && f.path != "cmd/hmcnotifyd/main.go" && f.path != "pkg/sinks/log.go" {
					t.Errorf("%s: os.Stderr is for the log, and for the sink that is told so", f.path)
				}
			case *ast.CallExpr:
				name := nameOf(n.Fun)
				switch {
				case strings.HasPrefix(name, "zap.New") && name != "zap.NewNop" && name != "zap.NewProductionEncoderConfig":
					core, ok := n.Args[0].(*ast.CallExpr)
					if loggers++; !ok || nameOf(core.Fun) != "newThrottled" {
						t.Errorf("%s: a logger that is not throttled", f.path)
					}
				case name == "print" || name == "println":
					t.Errorf("%s: %s", f.path, name)
				case messageOf(n) != nil:
					message := messageOf(n)
					if lines++; !isConstant(message, constants) {
						where := f.path + ": " + readFile(t, f.path)[message.Pos()-1:message.End()-1]
						found[where] = true
						if variableMessages[where] == "" {
							t.Errorf("%q: the message of a line of log is no constant, so that it is not throttled as one kind", where)
						}
					}
				}
			}
			return true
		})
	}
	if loggers != 1 || lines < 80 {
		t.Errorf("%d loggers are made, %d lines are written", loggers, lines)
	}
	for where := range variableMessages {
		if !found[where] {
			t.Errorf("there is no %s any more", where)
		}
	}
}

// nameOf returns an identifier, or package.Name.
func nameOf(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		if x, ok := e.X.(*ast.Ident); ok {
			return x.Name + "." + e.Sel.Name
		}
	}
	return ""
}

// messageOf returns the message of a call that writes a line of log; nil: it is none.
func messageOf(call *ast.CallExpr) ast.Expr {
	method, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return nil
	}
	at, ok := map[string]int{"Info": 0, "Warn": 0, "Error": 0, "DPanic": 0, "Panic": 0, "Fatal": 0, "Log": 1, "Check": 1}[method.Sel.Name]
	if !ok || len(call.Args) <= at {
		return nil
	}
	for x := method.X; ; {
		name := ""
		switch e := x.(type) {
		case *ast.CallExpr: // With, Named
			fun, ok := e.Fun.(*ast.SelectorExpr)
			if !ok {
				return nil
			}
			x = fun.X
			continue
		case *ast.SelectorExpr:
			name = e.Sel.Name
		case *ast.Ident:
			name = e.Name
		}
		if name = strings.ToLower(name); strings.HasSuffix(name, "log") || strings.HasSuffix(name, "logger") {
			return call.Args[at]
		}
		return nil
	}
}

// isConstant tells whether an expression is made of literals and constants of its file.
func isConstant(e ast.Expr, constants map[string]bool) bool {
	switch e := e.(type) {
	case *ast.BasicLit:
		return true
	case *ast.BinaryExpr:
		return isConstant(e.X, constants) && isConstant(e.Y, constants)
	case *ast.ParenExpr:
		return isConstant(e.X, constants)
	case *ast.Ident:
		return constants[e.Name]
	}
	return false
}
