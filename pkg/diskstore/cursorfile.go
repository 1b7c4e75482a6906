package diskstore

import (
	"errors"
	"path/filepath"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/datadir"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/storage"
)

// cursorFile stores checkpoints in the directory: a position can be stored when the disk is full
// (acknowledging is what makes room), and one sync is enough for all cursors.
type cursorFile struct{ *datadir.Slots }

// openCursorFile returns the newest checkpoint of the directory. It is nil with an error that
// isDamage if there is a file without one, and nil without an error if there is no file. The file
// is usable in each of these cases.
func openCursorFile(system datadir.System, dir string) (cursorFile, *storage.Checkpoint, error) {
	slots, content, err := datadir.OpenSlots(system, filepath.Join(dir, cursorsName), func(b []byte) bool {
		_, err := storage.DecodeCheckpoint(b)
		return err == nil
	})
	f := cursorFile{slots}
	if errors.Is(err, datadir.ErrSlots) {
		err = datadir.Damagef(f.Path(), "cursor positions are unreadable")
	}
	if err != nil || content == nil {
		return f, nil, err
	}
	c, err := storage.DecodeCheckpoint(content)
	return f, c, err
}

func (f cursorFile) store(c *storage.Checkpoint, sync bool) error { return f.Store(c.Encode(), sync) }
