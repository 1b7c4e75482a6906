package check

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/capture"
)

// A capture that goes on is written beside its file, and touches no other one.
func TestCaptureLeavesOtherFiles(t *testing.T) {
	dir := t.TempDir()
	mine := filepath.Join(dir, "capture.new")
	if err := os.WriteFile(mine, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	k := &keeper{file: filepath.Join(dir, "capture"), recorder: capture.NewRecorder(0)}
	for _, partial := range []bool{true, true, false} {
		if err := k.write(partial); err != nil {
			t.Fatal(err)
		}
	}
	if text, err := os.ReadFile(mine); err != nil || string(text) != "mine" {
		t.Errorf("%q, %v", text, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("%v, %v", entries, err)
	}
	if info, err := os.Stat(k.file); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}
