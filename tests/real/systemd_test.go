//go:build real

package realtest_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/tests/real/daemon"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/program"
)

const unitFile = "deploy/systemd/hmcnotifyd.service"

// unit returns the path of a copy of the unit that names the program where the
// test has it: systemd-analyze wants it to exist.
func unit(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(daemon.Root(t), filepath.FromSlash(unitFile)))
	if err != nil {
		t.Fatal(err)
	}
	const installed = "=/usr/bin/hmcnotifyd "
	if n := strings.Count(string(text), installed); n != 2 {
		t.Fatalf("%s names the program %d times, not in ExecStart and ExecReload", unitFile, n)
	}
	path := filepath.Join(t.TempDir(), filepath.Base(unitFile))
	text = []byte(strings.ReplaceAll(string(text), installed, "="+daemon.Binary(t)+" "))
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestSystemdUnitIsValid(t *testing.T) {
	analyze := program.Look(t, "systemd-analyze", "systemd")
	out, status := program.Output(t, 5*time.Minute, analyze, "verify", "--man=no", unit(t)) // the manual page comes with the packages
	if status != 0 || strings.TrimSpace(out) != "" {
		t.Errorf("systemd-analyze verify: exit status %d\n%s", status, out)
	}
}

func TestSystemdUnitIsHardened(t *testing.T) {
	const limit = 1.5
	analyze := program.Look(t, "systemd-analyze", "systemd")
	out, status := program.Output(t, 5*time.Minute, analyze, "security", "--no-pager", "--offline=true", unit(t))
	level := regexp.MustCompile(`Overall exposure level for \S+: ([0-9.]+)`).FindStringSubmatch(out)
	if status != 0 || level == nil {
		t.Fatalf("systemd-analyze security: exit status %d\n%s", status, out)
	}
	if exposure, err := strconv.ParseFloat(level[1], 64); err != nil || exposure > limit {
		t.Errorf("exposure level %s, want at most %v\n%s", level[1], limit, out)
	}
}
