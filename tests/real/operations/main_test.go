//go:build real

package operations_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hmcnotifyd/hmcnotifyd/tests/real/daemon"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/program"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(tool.dir)
		os.Exit(code)
	}))
}

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
	return program.Output(t, within, manifestsProgram(t), args...)
}

// tool is the program manifests, once a test has needed it.
var tool struct {
	sync.Mutex
	dir, path string
}

func manifestsProgram(t *testing.T) string {
	t.Helper()
	tool.Lock()
	defer tool.Unlock()
	if tool.path != "" {
		return tool.path
	}
	dir, err := os.MkdirTemp("", "manifests") //nolint:usetesting // it is for all tests
	if err != nil {
		t.Fatal(err)
	}
	tool.dir = dir
	path := filepath.Join(dir, "manifests")
	for _, args := range [][]string{
		{"list", "-deps", "-f=", "."}, // fetches what is missing, and says so
		{"build", "-o", path, "."},
	} {
		cmd := exec.CommandContext(t.Context(), program.Look(t, "go", "golang-go"), args...)
		cmd.Dir = inRepository(t, "tests/real/operations/manifests")
		if text, status := program.OutputOf(t, buildTime, cmd); status != 0 {
			t.Fatalf("%s: exit status %d\n%s", cmd, status, text)
		}
	}
	tool.path = path
	return path
}
