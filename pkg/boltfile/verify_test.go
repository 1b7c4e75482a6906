package boltfile

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	bolt "go.etcd.io/bbolt"
)

// asWritten is how versions that kept bbolt files wrote them.
var asWritten = &bolt.Options{PageSize: PageSize, NoStatistics: true, FreelistType: bolt.FreelistArrayType}

// TestVerify has bbolt write files of many shapes, all of which must be found right.
func TestVerify(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	path := filepath.Join(t.TempDir(), "x.db")
	db, err := bolt.Open(path, 0o600, asWritten)
	if err != nil {
		t.Fatal(err)
	}
	for round := range 60 {
		if err := db.Update(func(tx *bolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists(fmt.Appendf(nil, "bucket %d", r.IntN(5)))
			if err != nil {
				return err
			}
			for range r.IntN(300) {
				key := fmt.Appendf(nil, "%d", r.IntN(10000))
				switch r.IntN(4) {
				case 0, 1:
					err = b.Put(key, make([]byte, r.IntN(50)))
				case 2:
					err = b.Delete(key)
				case 3:
					var nested *bolt.Bucket
					if nested, err = b.CreateBucketIfNotExists(append(key, 'b')); err == nil {
						err = nested.Put([]byte("k"), make([]byte, r.IntN(3)*r.IntN(10000)))
					}
				}
				if err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if clean, err := Verify(path); err != nil || !clean {
			t.Fatalf("round %d: %v, %v", round, clean, err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

// FuzzVerify changes a bbolt file. What is found right must be safe to read, and to write to.
func FuzzVerify(f *testing.F) {
	path := filepath.Join(f.TempDir(), "seed.db")
	db, err := bolt.Open(path, 0o600, asWritten)
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
	f.Add(uint32(2*PageSize+10), []byte{1, 2, 3})
	f.Add(uint32(5*PageSize), []byte{6})
	f.Fuzz(func(t *testing.T, at uint32, change []byte) {
		b := bytes.Clone(seed)
		copy(b[int(at)%len(b):], change)
		path := filepath.Join(t.TempDir(), "x.db")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Verify(path); err != nil {
			return
		}
		db, err := bolt.Open(path, 0o600, asWritten)
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
