package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/alecthomas/kingpin/v2"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/cmdline"
)

// updateDocs makes the tests write what is generated of the code into docs/, instead of comparing.
const updateDocs = "HMCNOTIFYD_WRITE_DOCS"

const cliHead = `# Commands and flags

<!-- Generated of the program's definitions by a test in cmd/hmcnotifyd; to bring it up to date:
make docs -->

` + "`hmcnotifyd [flags] [command]`" + `; without a command it runs the daemon. Errors go to standard error, one line each. The exit status is 0 when it is
done, 1 when it failed, 2 for a wrong command line. The packages install this as the manual page hmcnotifyd(1), which
` + "`hmcnotifyd man | man -l -`" + ` shows too, and completion for bash, zsh and fish (` + "`hmcnotifyd completion SHELL`" + `).
`

// docs/cli.md has every command and flag, as they are defined.
func TestCommandReference(t *testing.T) {
	app, _ := newApplication(new(environment))
	model := cmdline.Model(app)
	var b strings.Builder
	b.WriteString(cliHead)
	flags := func(list []*kingpin.FlagModel) {
		if len(cmdline.Visible(list)) == 0 {
			return
		}
		b.WriteString("\n| flag | |\n|---|---|\n")
		for _, f := range cmdline.Visible(list) {
			name := "--" + f.Name
			if !f.IsBoolFlag() {
				name += "=" + cmdline.ValueName(f)
			}
			text := f.Help
			if f.Required {
				text += " Required."
			}
			if len(f.Default) > 0 && f.Default[0] != "" {
				text += " Default: `" + strings.Join(f.Default, ", ") + "`."
			}
			if f.Envar != "" {
				text += " Environment: `" + f.Envar + "`."
			}
			fmt.Fprintf(&b, "| `%s` | %s |\n", name, strings.ReplaceAll(text, "|", `\|`))
		}
	}
	b.WriteString("\n## Flags\n\nOf the daemon, but for `--help`, `--version` and those that begin with `--log`, which every command has.\n")
	flags(model.Flags)
	var commands func(list []*kingpin.CmdModel)
	commands = func(list []*kingpin.CmdModel) {
		for _, c := range list {
			if c.Hidden {
				continue
			}
			fmt.Fprintf(&b, "\n## %s\n\n%s\n", c.FullCommand, c.Help)
			flags(c.Flags)
			commands(c.Commands)
		}
	}
	commands(model.Commands)

	path := filepath.Join("..", "..", "docs", "cli.md")
	if os.Getenv(updateDocs) != "" {
		if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != b.String() {
		t.Errorf("%s is not what the program has (%v); to bring it up to date: make docs", path, err)
	}
}
