package queue

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/datadir"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/storage"
	"github.com/hmcnotifyd/hmcnotifyd/tests/scratch"
)

// picky is a system that refuses some operations on files, by what they are ("create", "rename", "write",
// "cut") and by the name of the file.
type picky struct {
	datadir.System
	refuse atomic.Pointer[func(what, name string) error]
}

// when sets what is refused from now on.
func (s *picky) when(refuse func(what, name string) error) { s.refuse.Store(&refuse) }

func (s *picky) refuses(what, path string) error {
	if refuse := s.refuse.Load(); refuse != nil {
		return (*refuse)(what, filepath.Base(path))
	}
	return nil
}

func (s *picky) Open(path string, flag int) (datadir.SystemFile, error) {
	if flag&os.O_CREATE != 0 {
		if err := s.refuses("create", path); err != nil {
			return nil, err
		}
	}
	f, err := s.System.Open(path, flag)
	if err != nil {
		return nil, err
	}
	return pickyFile{f, s, path}, nil
}

func (s *picky) Rename(from, to string) error {
	if err := s.refuses("rename", to); err != nil {
		return err
	}
	return s.System.Rename(from, to)
}

type pickyFile struct {
	datadir.SystemFile
	s    *picky
	path string
}

// WriteAt writes a half of what it refuses.
func (f pickyFile) WriteAt(b []byte, at int64) (n int, err error) {
	if err := f.s.refuses("write", f.path); err != nil {
		n, _ := f.SystemFile.WriteAt(b[:len(b)/2], at)
		return n, err
	}
	return f.SystemFile.WriteAt(b, at)
}

func (f pickyFile) Truncate(size int64) error {
	if err := f.s.refuses("cut", f.path); err != nil {
		return err
	}
	return f.SystemFile.Truncate(size)
}

// fullOf is a disk that has no space for what is new of some files.
func fullOf(names ...string) func(what, name string) error {
	return func(what, name string) error {
		for _, n := range names {
			if strings.HasPrefix(name, n) && what == "create" {
				return syscall.ENOSPC
			}
		}
		return nil
	}
}

// Without a file of the cursors nobody could tell later whether what is torn at the end was ever
// confirmed: while there is none, nothing is stored.
func TestNothingWithoutCursors(t *testing.T) {
	t.Parallel()
	system := &picky{System: datadir.Disk}
	system.when(fullOf(cursorsName))
	q, _ := countingQueue(t, Options{Dir: scratch.Memory(t), system: system})
	stored := uint64(0)
	put := func() {
		if err := tryPut(q, "record"); err == nil {
			stored++
		} else if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
	}
	for range 3 {
		put()
	}
	if stored > 0 || q.Err() == nil {
		t.Errorf("%d records are stored, Err: %v", stored, q.Err())
	}
	// What is refused now cannot be cut off either.
	system.when(func(what, name string) error {
		if what == "cut" || what == "write" && strings.HasPrefix(name, segmentPrefix) {
			return syscall.ENOSPC
		}
		return fullOf(cursorsName)(what, name)
	})
	put()
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	system.when(fullOf(cursorsName))
	q, _ = countingQueue(t, q.opts)
	if _, last := q.Bounds(); last != stored {
		t.Errorf("the last record is %d, %d were stored", last, stored)
	}
	system.when(fullOf())
	waitFor(t, "the cursors to be stored", func() bool { return q.Err() == nil })
	mustPut(t, q, "record")
	if _, last := q.Bounds(); last != stored+1 || testutil.ToFloat64(q.metrics.damaged) > 0 {
		t.Errorf("the last record is %d, %d were stored, %v files damaged", last, stored+1, testutil.ToFloat64(q.metrics.damaged))
	}
}

// A first start that ends before the cursors have a file leaves nothing that looks as if they had lost
// one.
func TestFirstStartEnds(t *testing.T) {
	t.Parallel()
	system := &picky{System: datadir.Disk}
	system.when(func(what, name string) error {
		if what == "rename" && name == cursorsName {
			return syscall.EIO
		}
		return nil
	})
	opts := Options{Dir: scratch.Memory(t), system: system}
	if _, err := Open(opts); !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	for _, name := range segmentFiles(t, opts.Dir) { // the power goes
		if stat, err := os.Stat(name); err != nil || os.Truncate(name, stat.Size()-5) != nil {
			t.Fatal(name, err)
		}
	}
	system.when(fullOf())
	q, _ := countingQueue(t, opts)
	mustPut(t, q, "record")
	if _, last := q.Bounds(); last != 1 || testutil.ToFloat64(q.metrics.damaged) > 0 {
		t.Errorf("the first record is %d", last)
	}
}

// What a start concludes from damage counts until something is stored, also where that start stores
// nothing: no number is used again, and nothing is counted that there never was.
func TestSequenceAfterStartsThatStoreNothing(t *testing.T) {
	t.Parallel()
	const records = 100
	torn := func(t *testing.T, path string) {
		b, err := os.ReadFile(path)
		if err != nil || os.Truncate(path, int64(len(bytes.TrimRight(b, "\x00")))-20) != nil {
			t.Fatal(err)
		}
	}
	lost := func(t *testing.T, path string) {
		if err := os.WriteFile(path, []byte("nothing of it is left"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for what, harm := range map[string]func(t *testing.T, segment, cursors string){
		"end and cursors": func(t *testing.T, segment, cursors string) {
			torn(t, segment)
			lost(t, cursors)
		},
		"sector and cursors": func(t *testing.T, segment, cursors string) {
			b, err := os.ReadFile(segment)
			if err != nil {
				t.Fatal(err)
			}
			at := bytes.Index(b, []byte("record 50"))
			clear(b[at : at+256])
			if err := os.WriteFile(segment, b, 0o600); err != nil {
				t.Fatal(err)
			}
			lost(t, cursors)
		},
		"segment and cursors": func(t *testing.T, segment, cursors string) {
			lost(t, segment)
			lost(t, cursors)
		},
		"segment": func(t *testing.T, segment, _ string) { lost(t, segment) },
	} {
		for how, refuse := range map[string]func(what, name string) error{
			"all": func(what, name string) error {
				if name == cursorsName && what == "write" {
					return syscall.ENOSPC
				}
				return fullOf(segmentPrefix, cursorsName)(what, name)
			},
			"segments": fullOf(segmentPrefix),
			"cursors":  fullOf(cursorsName),
		} {
			t.Run(what+", refused are "+how, func(t *testing.T) {
				t.Parallel()
				q := open(t, Options{})
				c := cursor(t, q, "c")
				mustPut(t, q, numbered(1, records)...)
				next(t, c, records)
				dir := filepath.Join(scratch.Memory(t), "killed")
				copyDir(t, q.opts.Dir, dir)
				files := segmentFiles(t, dir)
				harm(t, files[len(files)-1], filepath.Join(dir, cursorsName))
				system := &picky{System: datadir.Disk}
				opts, dropped := Options{Dir: dir, system: system}, int64(0)
				for range 2 {
					system.when(refuse)
					q, n := countingQueue(t, opts)
					if err := q.Close(); err != nil {
						t.Fatal(err)
					}
					dropped += n.Load()
				}
				system.when(fullOf())
				for range 2 {
					q, n := countingQueue(t, opts)
					cursor(t, q, "c")
					mustPut(t, q, "new")
					if _, last := q.Bounds(); last <= records || last > records+2*storage.DamageGap {
						t.Errorf("a new record is %d", last)
					}
					events, _, _ := cursor(t, q, "c").Pending()
					if damaged := testutil.ToFloat64(q.metrics.damaged); events > 2 || damaged > 0 {
						t.Errorf("%d records wait, %v files are called damaged once more", events, damaged)
					}
					if err := q.Close(); err != nil {
						t.Fatal(err)
					}
					dropped += n.Load()
				}
				if dropped > records {
					t.Errorf("%d are counted as lost", dropped)
				}
			})
		}
	}
}
