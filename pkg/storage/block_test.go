package storage

import (
	"bytes"
	"maps"
	"testing"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/appendlog"
)

func makeBlock(chunks ...[]string) []byte {
	var block []byte
	first, before := uint64(7), int64(100)
	for _, records := range chunks {
		d := Draft{Buf: make([]byte, appendlog.HeaderSize), At: 123}
		for _, r := range records {
			d.add([]byte(r))
		}
		d.Finish(KindRecords, first, before)
		first += uint64(d.Count)
		before += d.Bytes
		block = append(block, d.Buf...)
	}
	return block
}

func TestBlock(t *testing.T) {
	t.Parallel()
	block := makeBlock([]string{"a", "", "ccc"}, []string{string(make([]byte, 300))}, []string{"x", "y"})
	chunks, err := ParseBlock(block, KindRecords)
	if err != nil || len(chunks) != 3 {
		t.Fatalf("%d chunks, %v", len(chunks), err)
	}
	if c := chunks[2]; c.First != 11 || c.Last() != 12 || c.At != 123 || c.Before != 404 || c.Bytes != 2 {
		t.Errorf("last chunk %+v", c)
	}
	if _, err := ParseBlock(block, KindState); err == nil {
		t.Error("records taken for state")
	}
	// Every single byte counts, and damage leaves the chunks in front of it.
	for i := range block {
		harmed := bytes.Clone(block)
		harmed[i] ^= 0x10
		chunks, err := ParseBlock(harmed, KindRecords)
		if err == nil {
			t.Fatalf("byte %d may be anything", i)
		}
		if want := map[bool]int{true: 1}[i >= chunks0End(block)]; i < chunks0End(block) && len(chunks) != 0 || len(chunks) < want {
			t.Fatalf("byte %d: %d chunks left", i, len(chunks))
		}
	}
	for i := range block {
		if chunks, err := ParseBlock(block[:i], KindRecords); err == nil && i != 0 && i != chunks[len(chunks)-1].End {
			t.Fatalf("cut at %d: no error", i)
		}
	}
}

func chunks0End(block []byte) int {
	c, err := parseChunk(block, KindRecords)
	if err != nil {
		return 0
	}
	return c.End
}

func FuzzParseBlock(f *testing.F) {
	f.Add(makeBlock([]string{"a", "bb"}, []string{"ccc"}))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, block []byte) {
		for _, kind := range []uint8{KindRecords, KindState} {
			chunks, _ := ParseBlock(block, kind)
			for _, c := range chunks {
				n, offset := 0, c.Start
				for offset < c.End {
					var entry []byte
					entry, offset = NextEntry(block, offset)
					_, _, _ = ParseOp(entry)
					n++
				}
				if n != c.Count || offset != c.End {
					t.Fatalf("%d entries, header says %d", n, c.Count)
				}
			}
		}
	})
}

func FuzzDecodeCheckpoint(f *testing.F) {
	c := Checkpoint{End: 5, Cursors: map[string]Position{"a": {1, 2, 3}, "b": {4, 5, 6}}}
	f.Add(c.Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := DecodeCheckpoint(b)
		if err != nil {
			return
		}
		again, err := DecodeCheckpoint(c.Encode())
		if err != nil || again.End != c.End || !maps.Equal(again.Cursors, c.Cursors) {
			t.Fatalf("%v became %v: %v", c, again, err)
		}
	})
}

// The memory of a block is used again, and that of more than one is not: whoever kept one of its records
// would keep all of that.
func TestSpares(t *testing.T) {
	t.Parallel()
	var spares Spares
	large := AddEntry(nil, make([]byte, BlockSize+1), &spares)[0].Buf
	first := AddEntry(nil, []byte("first"), &spares)[0].Buf
	for range 2 * mostSpares {
		spares.Keep(first, large)
	}
	for i := range 2 * mostSpares {
		d := AddEntry(nil, []byte("next"), &spares)[0]
		if again := &d.Buf[0] == &first[0]; again != (i < mostSpares) || cap(d.Buf) != BlockSize {
			t.Errorf("draft %d: the same memory: %v, %d bytes", i, again, cap(d.Buf))
		}
	}
}
