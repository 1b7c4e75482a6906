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
	text, status := runManifests(t, command, inRepository(t, file))
	if status != 0 {
		t.Fatalf("manifests %s %s: exit status %d\n%s", command, file, status, text)
	}
	if err := json.Unmarshal([]byte(text), out); err != nil {
		t.Fatalf("manifests %s %s: %v\n%s", command, file, err, text)
	}
}

func runManifests(t *testing.T, args ...string) (text string, status int) {
	t.Helper()
	run := func(args ...string) (string, int) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), program.Look(t, "go", "golang-go"), args...)
		cmd.Dir = inRepository(t, "tests/real/operations/manifests")
		return program.OutputOf(t, buildTime, cmd)
	}
	// Fetches what is missing, and says so.
	if text, status := run("list", "-deps", "-f=", "."); status != 0 {
		t.Fatalf("go list: exit status %d\n%s", status, text)
	}
	// The go command keeps what it has built for this.
	return run(append([]string{"run", "."}, args...)...)
}
