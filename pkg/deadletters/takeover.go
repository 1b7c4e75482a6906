package deadletters

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	bolt "go.etcd.io/bbolt"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/appendlog"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/boltfile"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/datadir"
)

// oldFileName is the bbolt file of versions up to 0.1. It has two buckets, in which the key is the
// number of the letter: "letters" what List shows, "data" the records.
const oldFileName = "dead-letters.db"

// takeOver makes the file of the letters of that of an earlier version.
func (d *File) takeOver() error {
	old := filepath.Join(d.opts.Dir, oldFileName)
	if _, err := os.Lstat(old); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	unreadable, clean, damage := 0, true, error(nil)
	// It is made anew if it was made and the old one not removed: nothing was changed meanwhile.
	fill := func(add func(id uint64, shown, data []byte) error) (err error) {
		clean, err = boltfile.View(old, func(tx *bolt.Tx) error {
			letters, data := tx.Bucket([]byte("letters")), tx.Bucket([]byte("data"))
			if letters == nil || data == nil {
				return datadir.Damagef(old, "a bucket is missing")
			}
			return letters.ForEach(func(key, value []byte) error {
				if _, err := decodeLetter(key, value); err != nil {
					unreadable++
					return nil
				}
				record, _ := appendlog.CutCRC(data.Get(key), key...)
				return add(big.Uint64(key), value, record)
			})
		})
		if datadir.IsDamage(err) {
			damage, err = err, nil
		}
		return err
	}
	err := d.opts.System.Remove(d.path)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		err = appendlog.MakeTable(d.opts.System, d.path, fill)
	}
	if err == nil {
		err = d.opts.System.Sync(d.opts.Dir) // its name, before the old one goes
	}
	if err != nil {
		return err
	}
	switch {
	case unreadable > 0:
		d.damaged(datadir.Damagef(old, "%d letters are passed over", unreadable))
	case !clean && damage == nil:
		d.damaged(datadir.Damagef(old, "the last change may be missing"))
	}
	if damage != nil {
		return d.setAside(old, damage)
	}
	return errors.Join(d.opts.System.Remove(old), d.opts.System.Sync(d.opts.Dir))
}
