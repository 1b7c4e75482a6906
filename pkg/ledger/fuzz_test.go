package ledger

import (
	"encoding/binary"
	"hash/crc32"
	"slices"
	"testing"
)

// What is stored of an HMC may be damaged in any way: it is read as far as it can be, and never becomes more than its limits.
func FuzzRestore(f *testing.F) {
	f.Add([]byte{}, uint8(0))
	f.Add(make([]byte, 8+logEntrySize), uint8(1))
	f.Add([]byte{markVersion, 0, 2, 1, 0xff, 1, 1, 2, 3, 4, 5}, uint8(0))
	f.Add(append([]byte{markVersion, 0, 3, 0}, make([]byte, 64)...), uint8(3))
	f.Fuzz(func(t *testing.T, value []byte, slot uint8) {
		if m := LoadLogMark(value); len(m.recent) > len(value)/logEntrySize {
			t.Fatalf("%d log entries of %d bytes", len(m.recent), len(value))
		}
		// A value whose checksum is wrong goes no further; the rest is to be tried too.
		sealed := binary.BigEndian.AppendUint32(slices.Clip(value), crc32.ChecksumIEEE(value))
		keys := []string{"os/P" + markKeySeparator + "0", "os/P" + markKeySeparator + string(rune('0'+slot%8)), "os/no-separator"}
		marks, damaged := LoadPartitionMarks("os/", func(_ string, fn func(key string, value []byte) bool) {
			for _, key := range keys {
				fn(key, value)
				fn(key, sealed)
			}
		})
		if len(marks) > 1 || damaged > 2*len(keys) || len(marks) == 0 && damaged == 0 {
			t.Fatalf("%d partitions, %d damaged", len(marks), damaged)
		}
		for _, m := range marks {
			if m == nil || len(m.entries) > 2*markEntries {
				t.Fatalf("%d messages", len(m.entries))
			}
			m.AppendState(nil, "os/P") // what was read can be stored again
		}
	})
}
