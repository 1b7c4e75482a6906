package main

import (
	"regexp"
	"strings"
	"testing"

	"github.com/alecthomas/kingpin/v2"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/cmdline"
)

// The manual page has each command and each flag, with what it says of itself, its default and its
// variable.
func TestManPage(t *testing.T) {
	status, page, stderr := call("man")
	if status != 0 || stderr != "" || !strings.HasPrefix(page, ".TH HMCNOTIFYD 1 ") {
		t.Fatalf("status %d: %s%.200s", status, stderr, page)
	}
	app, commands := newApplication(new(environment))
	model := cmdline.Model(app)
	// Read as a reader sees it: without requests, fonts and escapes.
	read := strings.NewReplacer(`\fB`, "", `\fI`, "", `\fP`, "", `\-`, "-", `\(aq`, "'", `\(ga`, "`", `\e`, `\`, `\&`, "").Replace(page)
	has := func(what, text string) {
		t.Helper()
		if text == "" || !strings.Contains(read, text) {
			t.Errorf("%s: the page lacks %q", what, text)
		}
	}
	checkFlags := func(of string, flags []*kingpin.FlagModel) {
		t.Helper()
		for _, f := range flags {
			if f.Hidden {
				continue
			}
			has(of, "--"+f.Name)
			has(of+" --"+f.Name, strings.Join(append([]string{f.Help}, cmdline.FlagNotes(f)...), " "))
		}
	}
	checkFlags("hmcnotifyd", model.Flags)
	seen := map[string]bool{}
	var check func(list []*kingpin.CmdModel)
	check = func(list []*kingpin.CmdModel) {
		for _, c := range list {
			seen[c.FullCommand] = true
			has(c.FullCommand, `.SS "`+c.FullCommand)
			has(c.FullCommand, c.Help)
			checkFlags(c.FullCommand, c.Flags)
			check(c.Commands)
		}
	}
	check(model.Commands)
	for name := range commands {
		if !seen[name] {
			t.Errorf("the definitions lack %s", name)
		}
	}
	// A line that begins with a point or an apostrophe is a request.
	for line := range strings.Lines(page) {
		if !regexp.MustCompile(`^(\.(TH|SH|SS|PP|TP|B|BR|nf|fi|in|nh|ad)\b.*|[^.'].*)\n$`).MatchString(line) {
			t.Errorf("not a line of a manual page: %q", line)
		}
	}
}
