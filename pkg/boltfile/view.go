package boltfile

import (
	"cmp"
	"os"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/datadir"
)

// View runs fn in a transaction that reads a file, after the file was checked. clean is as that of
// Verify.
func View(path string, fn func(tx *bolt.Tx) error) (clean bool, err error) {
	if clean, err = Verify(path, ""); err != nil {
		return clean, err
	}
	var db *bolt.DB
	err = Guard(path, func() error {
		db, err = bolt.Open(path, 0o600, &bolt.Options{
			Timeout: time.Second, ReadOnly: true, NoStatistics: true,
			OpenFile: func(path string, flag int, _ os.FileMode) (*os.File, error) { return datadir.Open(path, flag) },
		})
		return err
	})
	if err != nil {
		return clean, Classify(path, err)
	}
	if err = Guard(path, func() error { return db.View(fn) }); !IsStuck(err) {
		err = cmp.Or(err, Guard(path, db.Close))
	}
	return clean, err
}
