package queue

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"testing"

	bolt "go.etcd.io/bbolt"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/boltfile"
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

// FuzzVerify changes a bbolt file. What is found right must be safe to read, and to write to.
func FuzzVerify(f *testing.F) {
	path := filepath.Join(f.TempDir(), "seed.db")
	db, err := bolt.Open(path, 0o600, boltfile.Options(0))
	if err != nil {
		f.Fatal(err)
	}
	for round := range 3 {
		if err := db.Update(func(tx *bolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists([]byte("b"))
			if err != nil {
				return err
			}
			for i := range 100 {
				if err := b.Put(fmt.Appendf(nil, "%d-%d", i, round), make([]byte, 100)); err != nil {
					return err
				}
			}
			nested, err := b.CreateBucketIfNotExists([]byte("n"))
			if err != nil {
				return err
			}
			return nested.Put([]byte("k"), make([]byte, 10000))
		}); err != nil {
			f.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		f.Fatal(err)
	}
	seed, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint32(0), []byte{})
	f.Add(uint32(2*boltfile.PageSize+10), []byte{1, 2, 3})
	f.Add(uint32(5*boltfile.PageSize), []byte{6})
	f.Fuzz(func(t *testing.T, at uint32, change []byte) {
		b := bytes.Clone(seed)
		copy(b[int(at)%len(b):], change)
		path := filepath.Join(memoryDir(t), "x.db")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := boltfile.Verify(path, ""); err != nil {
			return
		}
		db, err := bolt.Open(path, 0o600, boltfile.Options(0))
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Update(func(tx *bolt.Tx) error {
			return tx.ForEach(func(_ []byte, b *bolt.Bucket) error {
				if err := b.ForEach(func(_, v []byte) error { _ = bytes.Clone(v); return nil }); err != nil {
					return err
				}
				return b.Put([]byte("new"), make([]byte, 5000))
			})
		}); err != nil {
			t.Fatal(err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	})
}
