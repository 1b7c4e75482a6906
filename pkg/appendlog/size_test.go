package appendlog

import (
	"bytes"
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/datadir"
	"github.com/hmcnotifyd/hmcnotifyd/tests/scratch"
)

// sized is a system that refuses operations at random, and knows which sizes of files are on disk: what a
// sync that failed was to write never is.
type sized struct {
	datadir.System
	t      *testing.T
	rand   *rand.Rand
	faults float64
	// Files have room for what is written to them.
	reserves bool
	// What is written may be behind a size that is not on disk yet.
	ahead bool
	// by path
	sizes map[string]*size
}

// size is that of a file.
type size struct {
	named   bool
	durable int64
	// since it was synced
	pending []resize
}

// resize is a write that ends there, or a cut.
type resize struct {
	to  int64
	cut bool
}

func (s *sized) refuses(errs ...error) error {
	if s.rand.Float64() >= s.faults {
		return nil
	}
	return errs[s.rand.IntN(len(errs))]
}

func (s *sized) Open(path string, flag int) (datadir.SystemFile, error) {
	if flag&os.O_CREATE != 0 {
		if err := s.refuses(syscall.ENOSPC); err != nil {
			return nil, err
		}
		s.sizes[path] = &size{}
	}
	f, err := s.System.Open(path, flag)
	if err != nil {
		return nil, err
	}
	return &sizedFile{f, s, s.sizes[path]}, nil
}

func (s *sized) Rename(from, to string) error {
	if err := s.refuses(syscall.EIO); err != nil {
		return err
	}
	s.sizes[to], s.sizes[from].named = s.sizes[from], true
	return s.System.Rename(from, to)
}

func (s *sized) Sync(dir string) error { return cmp.Or(s.refuses(syscall.EIO), s.System.Sync(dir)) }

type sizedFile struct {
	datadir.SystemFile
	s  *sized
	of *size
}

// WriteAt complains of what is written where something was cut off, or to a file without room, unless that
// is on disk. Zeros, and what is there already, are no content.
func (f *sizedFile) WriteAt(b []byte, at int64) (int, error) {
	refused := f.s.refuses(syscall.ENOSPC, syscall.EIO)
	stat, err := f.Stat()
	if err != nil {
		return 0, err
	}
	was := make([]byte, len(b))
	n, _ := f.ReadAt(was, at)
	end, content := at+int64(len(b)), !bytes.Equal(was[:n], b[:n]) || len(bytes.Trim(b[n:], "\x00")) > 0
	cut := slices.ContainsFunc(f.of.pending, func(r resize) bool { return r.cut })
	none := f.s.reserves && stat.Size() > 0 && (end > f.of.durable || f.of.durable%tableStep != 0)
	if f.of.named && (content && (cut || none || f.of.durable != stat.Size() && !f.s.ahead) || cut && end > stat.Size()) {
		f.s.t.Errorf("%d to %d is written, of %d bytes %d are on disk, was one cut off: %v", at, end, stat.Size(), f.of.durable, cut)
	}
	if refused != nil {
		b = b[:f.s.rand.IntN(len(b)+1)]
	}
	f.of.pending = append(f.of.pending, resize{at + int64(len(b)), false})
	n, err = f.SystemFile.WriteAt(b, at)
	return n, cmp.Or(refused, err)
}

func (f *sizedFile) Truncate(to int64) error {
	if err := f.s.refuses(syscall.EIO); err != nil {
		return err
	}
	f.of.pending = append(f.of.pending, resize{to, true})
	return f.SystemFile.Truncate(to)
}

func (f *sizedFile) Sync() error {
	refused := f.s.refuses(syscall.EIO)
	for _, r := range f.of.pending {
		switch {
		case refused != nil:
		case r.cut:
			f.of.durable = r.to
		default:
			f.of.durable = max(f.of.durable, r.to)
		}
	}
	f.of.pending = nil
	return refused
}

// Nothing is written to a table that has not had its room on disk before, nor behind what was cut off, so
// that what is torn is known from what is damaged: whatever is refused, and whenever the process ends.
func TestTableHasRoom(t *testing.T) {
	t.Parallel()
	dir := scratch.Memory(t)
	for seed := range uint64(12) {
		r := rand.New(rand.NewPCG(seed, 5))
		system := &sized{System: datadir.Disk, t: t, rand: r, reserves: true, sizes: map[string]*size{}}
		options := TableOptions{
			System: system, Path: filepath.Join(dir, fmt.Sprint(seed)),
			Describe: func(uint64, []byte) (string, int64, error) { return "class", 1, nil },
			Damaged:  func(err error) { t.Error(err) }, Failed: func(error) {},
		}
		refused, number := 0, uint64(1)
		var table *Table
		for step := range 400 {
			system.faults = []float64{0, 0.02, 0.2}[step/20%3]
			if table == nil {
				system.faults /= 4
				var err error
				if table, err = OpenTable(options); err != nil {
					refused++
					continue
				}
			}
			var err error
			known := table.Class("class")
			switch n := r.IntN(20); {
			case n < 11:
				e := Addition{Class: "class", Number: number, Cost: 1, Shown: []byte("shown"), Data: bytes.Repeat([]byte("data"), r.IntN(6_000))}
				err = table.Add([]Addition{e}, nil)
				number++
			case n < 14 && len(known) > 0:
				err = table.Change(known[0].Number, []byte("changed"), 1)
			case n < 18 && len(known) > 0:
				_, err = table.Remove([]uint64{known[len(known)-1].Number})
			case n == 18:
				var all []uint64
				for _, e := range known {
					all = append(all, e.Number)
				}
				_, err = table.Remove(all)
			case n == 19:
				_ = table.Close()
				table = nil
			}
			if err != nil {
				refused++
				switch r.IntN(6) {
				case 0: // the process is killed
					_ = table.file.Close()
					table = nil
				case 1:
					_ = table.Close()
					table = nil
				}
			}
		}
		if table != nil {
			_ = table.Close()
		}
		if t.Failed() || refused == 0 {
			t.Fatalf("seed %d, %d refused", seed, refused)
		}
	}
}

// What was refused is cut off on disk before the next group is written: else, where the power goes, what
// is left of the one behind the other looks as a group that came later.
func TestCutBeforeNext(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(7, 8))
	system := &sized{System: datadir.Disk, t: t, rand: r, sizes: map[string]*size{}}
	after := 0
	dir := scratch.Memory(t)
	for round := range 200 {
		system.faults = 0
		f, err := Create(system, filepath.Join(dir, fmt.Sprint(round)))
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Place(); err != nil {
			t.Fatal(err)
		}
		failed := false
		for i := range 30 {
			system.faults, system.ahead = 0.1, round%2 == 0
			if system.ahead {
				_ = f.Ahead(5_000, 20_000) // what is refused of that costs nothing
			}
			err := f.Append(nil, group(i, 1+i%3))
			if after += map[bool]int{true: 1}[failed && err == nil]; f.Doubtful() {
				break
			}
			failed = err != nil
		}
		if err := f.Close(); err != nil || t.Failed() {
			t.Fatal(err)
		}
	}
	if after == 0 {
		t.Error("nothing was appended after what was refused")
	}
}

// A table that has been emptied when the power goes has nothing, or a part of what was to be its room, and
// takes its first change as any other: one that is torn is not there, and no damage.
func TestEmptiedTable(t *testing.T) {
	t.Parallel()
	for _, size := range []int{0, 48, 512, tableStep, 3 * 512 * 100} {
		options := TableOptions{
			System: datadir.Disk, Path: filepath.Join(scratch.Memory(t), "table"),
			Describe: func(uint64, []byte) (string, int64, error) { return "class", 1, nil },
			Damaged:  func(err error) { t.Errorf("%d bytes: %v", size, err) }, Failed: func(err error) { t.Error(err) },
		}
		if err := os.WriteFile(options.Path, make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			table, err := OpenTable(options)
			if err != nil {
				t.Fatalf("%d bytes: %v", size, err)
			}
			table.Each("", 0, math.MaxUint64, func(e *Entry) bool {
				t.Errorf("%d bytes: there is entry %d", size, e.Number)
				return true
			})
			e := Addition{Class: "class", Number: 1, Cost: 1, Shown: []byte("shown"), Data: bytes.Repeat([]byte("data"), 300)}
			if err := table.Add([]Addition{e}, nil); err != nil {
				t.Fatal(err)
			}
			if _, err := table.file.WriteAt(make([]byte, 512), table.file.Size()-512); err != nil {
				t.Fatal(err)
			}
			if err := table.file.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}
