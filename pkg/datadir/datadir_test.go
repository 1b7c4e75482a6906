package datadir_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/datadir"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// somebody is a user who is neither root nor the one that the test runs as.
const somebody = 54321

func giveTo(t *testing.T, uid int, path string) {
	t.Helper()
	if err := os.Lchown(path, uid, -1); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, []byte("untouched"), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestDirectoryForOneUser(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "above", "data")
	for range 2 { // made, then found
		trouble, err := datadir.Make(dir)
		if trouble != "" || err != nil {
			t.Fatalf("%q, %v", trouble, err)
		}
		for _, made := range []string{dir, filepath.Dir(dir)} {
			if info, err := os.Stat(made); err != nil || info.Mode() != fs.ModeDir|0o700 {
				t.Errorf("%s: %v %v", made, info.Mode(), err)
			}
		}
	}
	for mode, says := range map[fs.FileMode]string{
		0o755: "mode 0755, so that others can list what is stored: chmod 0700 " + dir,
		0o710: "list", 0o704: "list", 0o770: "delete", 0o707: "delete", 0o777: "delete",
	} {
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		if trouble, err := datadir.Make(dir); err != nil || !strings.Contains(trouble, says) {
			t.Errorf("mode %#o: %q, %v", mode, trouble, err)
		}
	}
	link := filepath.Join(t.TempDir(), "link") // as systemd has it with DynamicUser
	if err := errors.Join(os.Chmod(dir, 0o700), os.Symlink(dir, link)); err != nil {
		t.Fatal(err)
	}
	if trouble, err := datadir.Make(link); trouble != "" || err != nil {
		t.Errorf("by a link: %q, %v", trouble, err)
	}
	if _, err := datadir.Make("/proc/none"); err == nil {
		t.Error("a directory was made where none can be")
	}
}

func TestDirectoryOfSomebodyElse(t *testing.T) {
	asRoot(t)
	dir := t.TempDir()
	giveTo(t, somebody, dir)
	trouble, err := datadir.Make(dir)
	if want := dir + " belongs to the user " + strconv.Itoa(somebody); err != nil || !strings.HasPrefix(trouble, want) {
		t.Errorf("%q, %v", trouble, err)
	}
}

// asRoot leaves a test to root, who alone can give files away: CI is root.
func asRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give a file away")
	}
}

// What somebody has put into the place of a file leads nowhere, and holds up nobody.
func TestNothingButFiles(t *testing.T) {
	dir, victim := t.TempDir(), filepath.Join(t.TempDir(), "victim")
	write(t, victim)
	put := map[string]func(path string) error{
		"link":          func(path string) error { return os.Symlink(victim, path) },
		"link to none":  func(path string) error { return os.Symlink(victim+"-2", path) },
		"link to a dir": func(path string) error { return os.Symlink(dir, path) },
		"pipe":          func(path string) error { return syscall.Mkfifo(path, 0o600) },
		"directory":     func(path string) error { return os.Mkdir(path, 0o700) },
	}
	if os.Geteuid() == 0 {
		put["device"] = func(path string) error { return syscall.Mknod(path, syscall.S_IFCHR|0o600, 1<<8|3) }
	}
	for what, how := range put {
		path := filepath.Join(dir, what)
		if err := how(path); err != nil {
			t.Fatal(err)
		}
		says := "no regular file"
		if strings.HasPrefix(what, "link") {
			says = "symbolic link"
		}
		for _, flag := range []int{os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDWR | os.O_CREATE} {
			f, err := datadir.Open(path, flag)
			if pe, ok := errors.AsType[*fs.PathError](err); !ok || !strings.Contains(pe.Err.Error(), says) || pe.Path != path {
				t.Errorf("%s, flag %#x: %v", what, flag, err)
			}
			if f != nil {
				t.Errorf("%s, flag %#x: open", what, flag)
			}
		}
		if err := datadir.Truncate(path, 1); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: cut: %v", what, err)
		}
		if what == "directory" {
			continue
		}
		// A new file takes the place of whatever it is.
		f, err := datadir.WriteNew(datadir.Disk, path, []byte("new"))
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		info, err := os.Lstat(path)
		if err != nil || info.Mode() != 0o600 || info.Size() != 3 || f.Close() != nil {
			t.Errorf("%s: %v %v", what, info, err)
		}
	}
	if text, err := os.ReadFile(victim); err != nil || string(text) != "untouched" {
		t.Errorf("through a link: %q, %v", text, err)
	}
	if _, err := os.Lstat(victim + "-2"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("through a link a file was made: %v", err)
	}
}

func TestFilesOfSomebodyElse(t *testing.T) {
	asRoot(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	open := func() error {
		f, err := datadir.Open(path, os.O_RDWR)
		if err == nil {
			err = f.Close()
		}
		return err
	}
	write(t, path)
	if err := open(); err != nil {
		t.Error(err)
	}
	giveTo(t, somebody, path)
	if err := open(); err == nil || !strings.Contains(err.Error(), "belongs to the user "+strconv.Itoa(somebody)) {
		t.Errorf("a file of somebody else: %v", err)
	}
	giveTo(t, somebody, dir) // all of it is his, which Make has told
	if err := open(); err != nil {
		t.Error(err)
	}
	giveTo(t, 0, path)
	if err := open(); err != nil {
		t.Error(err)
	}
}

func TestFilesAreMade(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if _, err := datadir.Open(path, os.O_RDWR); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("opened: %v", err)
	}
	f, err := datadir.Open(path, os.O_RDWR|os.O_CREATE)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteString("12345")
	if info, serr := f.Stat(); err != nil || serr != nil || info.Mode() != 0o600 {
		t.Errorf("%v %v %v", info.Mode(), err, serr)
	}
	if err := errors.Join(f.Close(), datadir.Truncate(path, 3), datadir.Sync(filepath.Dir(path))); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "123" {
		t.Errorf("%q %v", text, err)
	}
}
