//go:build real

package operations_test

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hmcnotifyd/hmcnotifyd/tests/real/daemon"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/program"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	within = 5 * time.Minute
	// buildTime is for the program manifests, which is large.
	buildTime = 10 * time.Minute
)

// inRepository is the path of a file of the repository.
func inRepository(t *testing.T, name string) string {
	t.Helper()
	return filepath.Join(daemon.Root(t), filepath.FromSlash(name))
}

// manifests runs the program of that name, which reads a file of deploy/ as the program does that it is for, into out.
func manifests(t *testing.T, command, file string, out any) {
	t.Helper()
	run := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), program.Look(t, "go", "golang-go"), args...)
		cmd.Dir = inRepository(t, "tests/real/operations/manifests")
		text, status := program.OutputOf(t, buildTime, cmd)
		if status != 0 {
			t.Fatalf("go %q: exit status %d\n%s", args, status, text)
		}
		return text
	}
	run("list", "-deps", "-f=", ".") // fetches what is missing, and says so
	// The go command keeps what it has built for this.
	text := run("run", ".", command, inRepository(t, file))
	if err := json.Unmarshal([]byte(text), out); err != nil {
		t.Fatalf("manifests %s %s: %v\n%s", command, file, err, text)
	}
}
