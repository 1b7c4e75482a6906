package boltfile

import (
	"os"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/datadir"
)

const (
	openTimeout = time.Second // for bbolt's own lock on a file: nobody else should have it
	allocSize   = 4 << 20     // by how much a file grows, unwritten
)

// View runs fn in a transaction that only reads, behind Guard.
func View(db *bolt.DB, path string, fn func(tx *bolt.Tx) error) error {
	return Guard(path, func() error { return db.View(fn) })
}

// Update runs fn in a transaction, behind Guard.
func Update(db *bolt.DB, path string, fn func(tx *bolt.Tx) error) error {
	return Guard(path, func() error { return db.Update(fn) })
}

// Options are those for Open; so many bytes are mapped at first.
func Options(mapped int) *bolt.Options {
	return &bolt.Options{
		Timeout: openTimeout, PageSize: PageSize, InitialMmapSize: mapped, NoStatistics: true,
		// The list of free pages is stored with every transaction, else bbolt would read
		// the whole tree to rebuild it, in a goroutine of its own whose panics nobody can
		// catch.
		NoFreelistSync: false, FreelistType: bolt.FreelistArrayType,
		OpenFile: func(path string, flag int, _ os.FileMode) (*os.File, error) {
			return datadir.Open(path, flag)
		},
	}
}

// Open opens a file, or makes it. Where there is one it must have been verified.
func Open(path string, options *bolt.Options) (db *bolt.DB, err error) {
	err = Guard(path, func() error {
		db, err = bolt.Open(path, 0o600, options)
		return err
	})
	if err != nil {
		return nil, Classify(path, err)
	}
	db.AllocSize = allocSize
	return db, nil
}

// OpenReadOnly opens a file that is not written to.
func OpenReadOnly(path string) (*bolt.DB, error) {
	options := Options(0)
	options.ReadOnly = true
	return Open(path, options)
}

// Close closes a handle, nil for none, that has no transaction open, unless it is stuck; err is the
// outcome of its last use.
func Close(db *bolt.DB, path string, err error) error {
	if db == nil || IsStuck(err) {
		return nil
	}
	return Guard(path, db.Close)
}
