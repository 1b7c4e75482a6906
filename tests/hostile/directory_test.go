package hostile_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hmcnotifyd/hmcnotifyd/tests/real/daemon"
	"github.com/hmcnotifyd/hmcnotifyd/tests/soak"
)

// The storage directory is for the daemon's user alone: made so, or warned of. Whoever has got at it makes the daemon write to no
// other file.
func TestStorageDirectory(t *testing.T) {
	soak.Parallel(t)
	v := start(t, daemon.Options{Config: idle})
	info, err := os.Stat(v.Storage)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	v.end(t)
	if strings.Contains(v.Process.Output(), "chmod 0700") {
		t.Error("its own directory is warned of")
	}
	if err := os.Chmod(v.Storage, 0o755); err != nil {
		t.Fatal(err)
	}
	v.Start(t)
	v.Stop(t)
	if !strings.Contains(v.Process.Output(), "chmod 0700 "+v.Storage) {
		t.Errorf("no warning: %s", v.Process.Output())
	}

	config := filepath.Join(v.Dir, "hmcnotifyd.yaml")
	entries, err := os.ReadDir(v.Storage)
	if err != nil {
		t.Fatal(err)
	}
	files := 0
	for _, e := range entries {
		path, kept := filepath.Join(v.Storage, e.Name()), filepath.Join(t.TempDir(), e.Name())
		if !e.Type().IsRegular() {
			continue
		}
		if err := os.Rename(path, kept); errors.Is(err, fs.ErrNotExist) {
			continue // a segment that a start before has trimmed
		} else if err != nil {
			t.Fatal(err)
		}
		files++
		before, err := os.ReadFile(kept)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(kept, path); err != nil {
			t.Fatal(err)
		}
		out, status := daemon.Run(t, within, "--config.file="+config, "--storage.path="+v.Storage, "--web.listen-address=127.0.0.1:0")
		if after, err := os.ReadFile(kept); err != nil || string(after) != string(before) {
			t.Errorf("what %s leads to is changed: %v", e.Name(), err)
		}
		if status != 1 || !strings.Contains(out, path+": it is a symbolic link") {
			t.Errorf("%s is a link: exit status %d, %s", e.Name(), status, out)
		}
		if err := os.Rename(kept, path); err != nil {
			t.Fatal(err)
		}
	}
	if files < 2 {
		t.Errorf("only %d files: %v", files, entries)
	}
	v.Start(t) // with all as it was
	v.Stop(t)
}

// A log sink whose output is a directory is a mistake of the file, and no file of a name nobody chose.
func TestOutputIsDirectory(t *testing.T) {
	soak.Parallel(t)
	path := filepath.Join(t.TempDir(), "hmcnotifyd.yaml")
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(idle, "/dev/null", "/etc/")), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, status := daemon.Run(t, within, "check-config", path); status != 1 || !strings.Contains(out, "is a directory: name a file in it") {
		t.Errorf("exit status %d: %s", status, out)
	}
}
