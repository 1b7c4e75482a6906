package datadir

import (
	"bytes"
	"path/filepath"
	"strconv"
	"testing"
)

// What is written without a sync may be torn by a power loss: it never touches the content that is
// synced.
func TestSlotsKeepWhatIsSynced(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "slots")
	isNumber := func(b []byte) bool { _, err := strconv.Atoi(string(b)); return err == nil }
	f, none, err := OpenSlots(Disk, path, isNumber)
	if err != nil || none != nil {
		t.Fatal(none, err)
	}
	defer func() { _ = f.Close() }()
	store := func(n int, sync bool) {
		t.Helper()
		if err := f.Store([]byte(strconv.Itoa(n)), sync); err != nil {
			t.Fatal(err)
		}
	}
	stored := func() int {
		t.Helper()
		g, b, err := OpenSlots(Disk, path, isNumber)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = g.Close() }()
		n, _ := strconv.Atoi(string(b))
		return n
	}
	slot := func(i int64) []byte {
		t.Helper()
		b := make([]byte, f.slot)
		if _, err := f.file.ReadAt(b, i*f.slot); err != nil {
			t.Fatal(err)
		}
		return b
	}
	n := 0
	for range 5 {
		n++
		store(n, true)
		synced := slot(f.safe)
		for range 3 {
			n++
			store(n, false)
			if got := stored(); got != n {
				t.Errorf("%d is read, %d was written", got, n)
			}
			if !bytes.Equal(synced, slot(f.safe)) {
				t.Fatal("the synced slot was written")
			}
		}
		// The machine fails within the write.
		if _, err := f.file.WriteAt([]byte("torn"), (1-f.safe)*f.slot+slotsHeader); err != nil {
			t.Fatal(err)
		}
		if got := stored(); got != n-3 {
			t.Errorf("%d is read, %d was synced", got, n-3)
		}
	}
}
