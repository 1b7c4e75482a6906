package queue

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/deadletters"
)

// Whoever can write in the directory could put a link into the place of any file of the storage: the
// file that it leads to is neither read, nor written to, nor cut, nor made, and the start says what
// is in the way.
func TestLinksAreNotFollowed(t *testing.T) {
	dir := t.TempDir()
	openBoth := func() error {
		q, err := Open(Options{Dir: dir})
		if err != nil {
			return err
		}
		d, err := OpenDeadLetters(DeadLetterOptions{Dir: dir})
		if err == nil {
			err = d.Close()
		}
		return errors.Join(err, q.Close())
	}
	q := open(t, Options{Dir: dir})
	c := cursor(t, q, "c")
	mustPut(t, q, "a", "b")
	if err := errors.Join(c.Ack(next(t, c, 1)[0].Seq), q.Close(), openBoth()); err != nil {
		t.Fatal(err)
	}
	segments, err := filepath.Glob(filepath.Join(dir, segmentPrefix+"*"))
	if err != nil || len(segments) == 0 {
		t.Fatal(segments, err)
	}
	elsewhere := filepath.Join(t.TempDir(), "elsewhere")
	for _, name := range []string{"lock", cursorsName, deadletters.FileName, filepath.Base(segments[0])} {
		path := filepath.Join(dir, name)
		for _, there := range []bool{true, false} {
			if err := os.Rename(path, elsewhere); err != nil {
				t.Fatal(err)
			}
			target := elsewhere
			if !there {
				target += "-to-be-made"
			}
			if err := os.Symlink(target, path); err != nil {
				t.Fatal(err)
			}
			before, err := os.ReadFile(elsewhere)
			if err != nil {
				t.Fatal(err)
			}
			if err := openBoth(); err == nil || !strings.Contains(err.Error(), path+": it is a symbolic link") {
				t.Errorf("%s, its target there %v: %v", name, there, err)
			}
			if info, err := os.Lstat(path); err != nil || info.Mode()&os.ModeSymlink == 0 {
				t.Errorf("%s: the link is gone: %v", name, err)
			}
			after, err := os.ReadFile(elsewhere)
			if err != nil || string(after) != string(before) {
				t.Errorf("%s: the file behind the link has changed: %d bytes, then %d, %v", name, len(before), len(after), err)
			}
			if _, err := os.Lstat(elsewhere + "-to-be-made"); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s: a file was made behind the link: %v", name, err)
			}
			if err := os.Rename(elsewhere, path); err != nil {
				t.Fatal(err)
			}
		}
		if err := openBoth(); err != nil {
			t.Fatalf("%s is back: %v", name, err)
		}
	}
	// What is made under another name first, and what is tried, takes the place of a link.
	before := []byte("not of the storage")
	if err := os.WriteFile(elsewhere, before, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{cursorsName, "probe", fmt.Sprintf("%s%020d%s", segmentPrefix, 1<<40, segmentSuffix)} {
		if err := os.Symlink(elsewhere, filepath.Join(dir, name+temporarySuffix)); err != nil {
			t.Fatal(err)
		}
	}
	full := true
	refuse := func(s Store) Store {
		return refusing{s, func(g *Group) error {
			if full && !g.Empty() { // then it is tried whether a file can be written
				full = false
				return syscall.ENOSPC
			}
			return nil
		}}
	}
	q = open(t, Options{Dir: dir, Wrap: refuse})
	if err := tryPut(q, "refused"); !errors.Is(err, syscall.ENOSPC) {
		t.Error(err)
	}
	waitFor(t, "the disk to be tried", func() bool { return q.Err() == nil })
	if err := errors.Join(q.Close(), openBoth()); err != nil {
		t.Error(err)
	}
	if after, err := os.ReadFile(elsewhere); err != nil || string(after) != string(before) {
		t.Errorf("the file behind the link has changed: %q, %v", after, err)
	}
}

// A directory that others can use is used, and said to be open.
func TestOpenDirectoryIsWarnedOf(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	for _, warned := range []bool{false, true} {
		core, logs := observer.New(zap.WarnLevel)
		q := open(t, Options{Dir: dir, Logger: zap.New(core)})
		if err := q.Close(); err != nil {
			t.Fatal(err)
		}
		all := logs.FilterMessage("the storage directory is not for this user alone").All()
		if (len(all) == 1) != warned || warned && !strings.Contains(all[0].ContextMap()["trouble"].(string), "chmod 0700 "+dir) {
			t.Errorf("warned of: %v, %v", warned, all)
		}
		if err := os.Chmod(dir, 0o750); err != nil {
			t.Fatal(err)
		}
	}
}
