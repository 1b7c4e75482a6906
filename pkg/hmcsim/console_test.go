package hmcsim

import (
	"strings"
	"testing"
)

// Whatever is typed at the simulator's console is split into as many words as the command has, or
// refused in one line.
func FuzzConsole(f *testing.F) {
	for _, line := range []string{"stop PART1", `rename PART1 "my name"`, `say PART1 hello  there`, `rename "a`, "help", "  ", `status "" active x`, "restart 4 simulated-1"} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		name, rest, err := nextWord(line)
		if err != nil {
			if strings.Contains(err.Error(), "\n") && !strings.Contains(line, "\n") {
				t.Errorf("%q", err)
			}
			return
		}
		for _, cmd := range new(commandLine).commands() {
			if name != cmd.name && name != "" {
				continue
			}
			args, err := cmd.parse(rest)
			if want := len(strings.Fields(cmd.args)); err == nil && len(args) != want {
				t.Errorf("%s: %d arguments, want %d: %q", cmd.name, len(args), want, args)
			}
		}
	})
}
