package appendlog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"go.uber.org/goleak"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/datadir"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func all(uint8) bool { return true }

// group makes frames that say which they are: "group.frame" and some more.
func group(i, n int) (frames [][]byte) {
	for j := range n {
		frames = append(frames, tableFrame(7, uint64(i), fmt.Appendf(nil, "%d.%d %s", i, j, make([]byte, i*j*37%700))))
	}
	return frames
}

// placed makes a file that has its name.
func placed(t *testing.T) (f *File, path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "log")
	f, err := Create(datadir.Disk, path)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Place(); err != nil {
		t.Fatal(err)
	}
	return f, path
}

// write makes a file with so many groups, and returns its content and where each group ends.
func write(t *testing.T, groups int, end bool) (b []byte, ends []int64) {
	t.Helper()
	f, path := placed(t)
	for i := range groups {
		if err := f.Append(fmt.Appendf(nil, "say %d", i), group(i, 1+i%3), group(i, i%2)); err != nil {
			t.Fatal(err)
		}
		ends = append(ends, f.Size())
	}
	if end {
		if err := f.End([]byte("the end")); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b, ends
}

// scanned is what Scan finds in a content: the groups that are whole, and how many are not.
func scanned(t *testing.T, b []byte) (whole []int, damaged int, found Scanned) {
	t.Helper()
	found, err := Scan(bytes.NewReader(b), int64(len(b)), all, func(g *Group) error {
		if g.Damaged && g.Unsure {
			return ErrCut
		}
		var n int
		if _, err := fmt.Sscanf(string(g.Say), "say %d", &n); err != nil || g.Damaged {
			damaged++
			return nil
		}
		want := slices.Concat(group(n, 1+n%3), group(n, n%2))
		if len(g.Frames) != len(want) {
			t.Fatalf("group %d has %d frames", n, len(g.Frames))
		}
		for i, f := range g.Frames {
			if !bytes.Equal(f.Payload, want[i][HeaderSize:]) || f.Numbers[0] != uint64(n) {
				t.Fatalf("group %d, frame %d: %.20q", n, i, f.Payload)
			}
		}
		whole = append(whole, n)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return whole, damaged, found
}

func numbers(n int) (all []int) {
	for i := range n {
		all = append(all, i)
	}
	return all
}

// A file that was cut off has the groups in front of that, and knows that there was more.
func TestCut(t *testing.T) {
	t.Parallel()
	b, ends := write(t, 12, false)
	for at := range len(b) + 1 {
		n := 0
		for n < len(ends) && ends[n] <= int64(at) {
			n++
		}
		whole, damaged, found := scanned(t, b[:at])
		if !slices.Equal(whole, numbers(n)) || damaged > 0 {
			t.Fatalf("cut at %d: %v, %d damaged, want %d groups", at, whole, damaged, n)
		}
		if end := append([]int64{0}, ends...)[n]; found.End != end || found.Rest != (int64(at) > end) {
			t.Fatalf("cut at %d: %+v", at, found)
		}
	}
}

// Each byte counts, and damage costs the groups that it is in; the last one is cut off, since nobody
// can tell it from one that was never complete, unless the file was ended.
func TestDamage(t *testing.T) {
	t.Parallel()
	for _, ended := range []bool{false, true} {
		const n = 9
		b, ends := write(t, n, ended)
		for at := range b {
			hit := 0
			for hit < n && ends[hit] <= int64(at) {
				hit++
			}
			harmed := bytes.Clone(b)
			harmed[at] ^= 1 << (at % 8)
			whole, damaged, found := scanned(t, harmed)
			// Where what ends a group is damaged, the next one says where it begins.
			for i := range n {
				if got := slices.Contains(whole, i); got == (i == hit) {
					t.Fatalf("ended %v, byte %d of group %d: whole are %v", ended, at, hit, whole)
				}
			}
			wantDamaged := 1
			if hit == n || hit == n-1 && !ended {
				wantDamaged = 0
			}
			if damaged != wantDamaged {
				t.Fatalf("ended %v, byte %d of group %d: %d damaged, whole are %v, %+v", ended, at, hit, damaged, whole, found)
			}
			_, _, ok := ReadEnd(bytes.NewReader(harmed), int64(len(harmed)))
			if ok != (ended && hit < n) {
				t.Fatalf("byte %d: the end is read: %v", at, ok)
			}
		}
	}
}

// countingReader counts the bytes that are asked for.
type countingReader struct {
	io.ReaderAt
	asked int
}

func (r *countingReader) ReadAt(b []byte, at int64) (int, error) {
	r.asked += len(b)
	return r.ReaderAt.ReadAt(b, at)
}

// Of room that was not used any byte may be damaged: nothing is lost, and nothing is called damaged. A file
// that was ended, and of which the room was not cut off on disk, has all the same what it has, and is not
// read as a whole to see that its end is not there.
func TestDamagedRoom(t *testing.T) {
	t.Parallel()
	for _, ended := range []bool{false, true} {
		const n = 6
		b, ends := write(t, n, ended)
		size, r := len(b), rand.New(rand.NewPCG(3, 4))
		b = append(b, make([]byte, 70_000)...)
		for round := range 300 {
			harmed := bytes.Clone(b)
			if round > 0 {
				for range 1 + r.IntN(3) {
					harmed[size+r.IntN([]int{100, 70_000}[r.IntN(2)])] = []byte{version, byte(r.Uint32())}[r.IntN(2)]
				}
			}
			whole, damaged, found := scanned(t, harmed)
			if !slices.Equal(whole, numbers(n)) || damaged > 0 || found.End != ends[n-1] || found.Ended != ended {
				t.Fatalf("ended %v: %v, %d damaged, %+v", ended, whole, damaged, found)
			}
		}
		file := &countingReader{ReaderAt: bytes.NewReader(b)}
		if _, _, ok := ReadEnd(file, int64(len(b))); ok || file.asked > 8 {
			t.Errorf("ended %v: %v, %d bytes were read for the end", ended, ok, file.asked)
		}
	}
}

// What cannot be read because of its length, or a lot of nothing, is passed over.
func TestGarbage(t *testing.T) {
	t.Parallel()
	b, ends := write(t, 6, true)
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		harmed := bytes.Clone(b)
		from := r.IntN(len(b))
		to := min(len(b), from+r.IntN(2000))
		for i := from; i < to; i++ {
			harmed[i] = byte(r.Uint32() * uint32(r.IntN(2)))
		}
		whole, _, _ := scanned(t, harmed)
		start := int64(0)
		for i, end := range ends {
			if untouched := end <= int64(from) || start >= int64(to); untouched && !slices.Contains(whole, i) && i < 5 {
				t.Fatalf("bytes %d to %d: group %d (%d to %d) is not found: %v", from, to, i, start, end, whole)
			}
			start = end
		}
	}
}

// A large frame, which does not fit the memory of a reader, is checked all the same.
func TestLargeFrame(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "log")
	f, err := Create(datadir.Disk, path)
	if err != nil {
		t.Fatal(err)
	}
	large := tableFrame(7, 1, bytes.Repeat([]byte("0123456789"), 100_000))
	if err := errors.Join(f.Append(nil, [][]byte{large}), f.Append(nil, group(1, 2)), f.Place(), f.Close()); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, harm := range []int{-1, 70, 500_000, 1_000_000} {
		harmed := bytes.Clone(b)
		if harm >= 0 {
			harmed[harm] ^= 1
		}
		var frames []int
		if _, err := Scan(bytes.NewReader(harmed), int64(len(b)), all, func(g *Group) error {
			for _, f := range g.Frames {
				frames = append(frames, len(f.Payload))
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if want := 3 - map[bool]int{true: 1}[harm >= 0]; len(frames) != want || harm < 0 && frames[0] != 1_000_000 {
			t.Errorf("harm at %d: frames of %v bytes", harm, frames)
		}
	}
}

// What is reserved, or written ahead, is no damage, and is where the next group goes.
func TestReserve(t *testing.T) {
	t.Parallel()
	f, path := placed(t)
	for i := range 10 {
		reserve := f.Reserve
		if i >= 5 {
			reserve = f.Ahead
		}
		if err := errors.Join(reserve(3000, 10_000), f.Append(fmt.Appendf(nil, "say %d", i), group(i, 1+i%3), group(i, i%2))); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if whole, damaged, found := scanned(t, b); len(whole) != i+1 || damaged > 0 || found.Rest || found.End != f.Size() || len(b)%10_000 != 0 {
			t.Fatalf("%v, %d, %+v of %d bytes", whole, damaged, found, len(b))
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func FuzzScan(f *testing.F) {
	f.Add(slices.Concat(group(1, 2)...), 10)
	f.Add([]byte{}, 0)
	f.Fuzz(func(t *testing.T, b []byte, at int) {
		n := 0
		found, err := Scan(bytes.NewReader(b), int64(len(b)), func(k uint8) bool { return k%2 == 0 }, func(g *Group) error {
			for _, f := range g.Frames {
				if f.Offset < g.Start || f.End() > int64(len(b)) {
					t.Errorf("a frame from %d to %d of %d", f.Offset, f.End(), len(b))
				}
				n++
			}
			return nil
		})
		if err != nil || found.End > int64(len(b)) {
			t.Errorf("%+v, %v", found, err)
		}
		walked := 0
		Walk(b, func(f Frame) bool {
			if got, ok := Parse(b[f.Offset:f.End()]); !ok || got.Kind != f.Kind {
				t.Error("a frame is none by itself")
			}
			walked++
			return true
		})
		if n > walked {
			t.Errorf("%d frames were scanned, %d walked over", n, walked)
		}
		ReadEnd(bytes.NewReader(b), int64(len(b)))
	})
}
