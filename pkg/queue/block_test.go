package queue

import (
	"bytes"
	"maps"
	"testing"
)

func makeBlock(chunks ...[]string) []byte {
	var block []byte
	first, before := uint64(7), int64(100)
	for _, records := range chunks {
		d := draft{buf: make([]byte, chunkHeaderSize), at: 123}
		for _, r := range records {
			d.add([]byte(r))
		}
		d.finish(kindRecords, first, before)
		first += uint64(d.count)
		before += d.bytes
		block = append(block, d.buf...)
	}
	return block
}

func TestBlock(t *testing.T) {
	t.Parallel()
	block := makeBlock([]string{"a", "", "ccc"}, []string{string(make([]byte, 300))}, []string{"x", "y"})
	chunks, err := parseBlock(block, kindRecords)
	if err != nil || len(chunks) != 3 {
		t.Fatalf("%d chunks, %v", len(chunks), err)
	}
	if c := chunks[2]; c.first != 11 || c.last() != 12 || c.at != 123 || c.before != 404 || c.bytes != 2 {
		t.Errorf("last chunk %+v", c)
	}
	if _, err := parseBlock(block, kindState); err == nil {
		t.Error("records taken for state")
	}
	// Every single byte counts, and damage leaves the chunks in front of it.
	for i := range block {
		harmed := bytes.Clone(block)
		harmed[i] ^= 0x10
		chunks, err := parseBlock(harmed, kindRecords)
		if err == nil {
			t.Fatalf("byte %d may be anything", i)
		}
		if want := map[bool]int{true: 1}[i >= chunks0End(block)]; i < chunks0End(block) && len(chunks) != 0 || len(chunks) < want {
			t.Fatalf("byte %d: %d chunks left", i, len(chunks))
		}
	}
	for i := range block {
		if chunks, err := parseBlock(block[:i], kindRecords); err == nil && i != 0 && i != chunks[len(chunks)-1].end {
			t.Fatalf("cut at %d: no error", i)
		}
	}
}

func chunks0End(block []byte) int {
	c, err := parseChunk(block, kindRecords)
	if err != nil {
		return 0
	}
	return c.end
}

func FuzzParseBlock(f *testing.F) {
	f.Add(makeBlock([]string{"a", "bb"}, []string{"ccc"}))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, block []byte) {
		for _, kind := range []uint8{kindRecords, kindState} {
			chunks, _ := parseBlock(block, kind)
			for _, c := range chunks {
				n, offset := 0, c.start
				for offset < c.end {
					var entry []byte
					entry, offset = nextEntry(block, offset)
					_, _, _ = parseOp(entry)
					n++
				}
				if n != c.count || offset != c.end {
					t.Fatalf("%d entries, header says %d", n, c.count)
				}
			}
		}
	})
}

func FuzzDecodeCheckpoint(f *testing.F) {
	c := Checkpoint{end: 5, cursors: map[string]position{"a": {1, 2, 3}, "b": {4, 5, 6}}}
	f.Add(c.Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := decodeCheckpoint(b)
		if err != nil {
			return
		}
		again, err := decodeCheckpoint(c.Encode())
		if err != nil || again.end != c.end || !maps.Equal(again.cursors, c.cursors) {
			t.Fatalf("%v became %v: %v", c, again, err)
		}
	})
}
