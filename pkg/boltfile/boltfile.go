// Package boltfile reads the bbolt files of version 0.1, which may be damaged: it checks them
// before bbolt sees them, and turns a panic of bbolt into an error.
package boltfile

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"runtime/debug"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/datadir"
)

// PageSize is that of the files, whatever that of the machine is.
const PageSize = 4096

// View runs fn in a transaction that reads a file, after the file was checked. clean is as that of
// Verify.
func View(path string, fn func(tx *bolt.Tx) error) (clean bool, err error) {
	if clean, err = Verify(path); err != nil {
		return clean, err
	}
	var db *bolt.DB
	_, err = guard(path, func() error {
		db, err = bolt.Open(path, 0o600, &bolt.Options{
			Timeout: time.Second, ReadOnly: true, NoStatistics: true,
			OpenFile: func(path string, flag int, _ os.FileMode) (*os.File, error) { return datadir.Open(path, flag) },
		})
		return err
	})
	if errors.Is(err, berrors.ErrTimeout) {
		return clean, err // somebody else has it open
	}
	if err != nil {
		return clean, datadir.Classify(path, err)
	}
	stuck, err := guard(path, func() error { return db.View(fn) })
	if !stuck {
		_, closing := guard(path, db.Close)
		err = cmp.Or(err, closing)
	}
	return clean, err
}

// guard runs fn, which uses bbolt on the file at path, and turns a panic, also that of a memory
// fault in a mapped file that has become shorter, into damage. After one bbolt may hold its locks
// for good: it is stuck, and must not even be closed, which would wait for ever. It is left to the
// end of the process, with its descriptor and mapping.
func guard(path string, fn func() error) (stuck bool, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			stuck, err = true, datadir.Damagef(path, "panic: %v", p)
		}
	}()
	return false, fn()
}

// Make makes a file with what fn puts into it, in the place of one of the same name.
func Make(path string, fn func(tx *bolt.Tx) error) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	db, err := bolt.Open(path, 0o600, &bolt.Options{
		PageSize: PageSize, NoStatistics: true,
		OpenFile: func(path string, flag int, _ os.FileMode) (*os.File, error) { return datadir.Open(path, flag) },
	})
	if err != nil {
		return err
	}
	db.NoSync = true
	return errors.Join(db.Update(fn), db.Sync(), db.Close())
}
