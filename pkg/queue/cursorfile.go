package queue

import (
	"errors"
	"path/filepath"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/appendlog"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/datadir"
)

// position is where a cursor stands: everything up to and including acked is done. Of the segment
// that begins at segment, whose records follow, bytes are done.
type position struct {
	acked   uint64
	segment uint64
	bytes   int64
}

// Checkpoint is what is stored of all cursors. end is the last sequence number that was stored at
// the time, as far as known: a segment that ends before it has lost something.
type Checkpoint struct {
	end     uint64
	cursors map[string]position
}

// Encode returns the positions.
func (c *Checkpoint) Encode() []byte {
	b := big.AppendUint64(nil, c.end)
	b = big.AppendUint32(b, uint32(len(c.cursors)))
	for name, p := range c.cursors {
		b = appendUints(appendlog.AppendSized(b, name), p.acked, p.segment, uint64(p.bytes))
	}
	return b
}

var errCheckpoint = errors.New("cursor positions are unreadable")

func decodeCheckpoint(b []byte) (*Checkpoint, error) {
	if len(b) < 12 {
		return nil, errCheckpoint
	}
	c := &Checkpoint{end: big.Uint64(b), cursors: map[string]position{}}
	n := big.Uint32(b[8:])
	b = b[12:]
	for range n {
		name, rest, ok := appendlog.CutSized(b)
		if !ok || len(rest) < 24 {
			return nil, errCheckpoint
		}
		c.cursors[string(name)] = position{
			acked: big.Uint64(rest), segment: big.Uint64(rest[8:]), bytes: int64(big.Uint64(rest[16:])),
		}
		b = rest[24:]
	}
	if len(b) != 0 {
		return nil, errCheckpoint
	}
	return c, nil
}

// cursorFile stores checkpoints in the directory: a position can be stored when the disk is full
// (acknowledging is what makes room), and one sync is enough for all cursors.
type cursorFile struct{ *datadir.Slots }

// openCursorFile returns the newest checkpoint of the directory. It is nil with an error that
// isDamage if there is a file without one, and nil without an error if there is no file. The file
// is usable in each of these cases.
func openCursorFile(system datadir.System, dir string) (cursorFile, *Checkpoint, error) {
	slots, content, err := datadir.OpenSlots(system, filepath.Join(dir, cursorsName), func(b []byte) bool {
		_, err := decodeCheckpoint(b)
		return err == nil
	})
	f := cursorFile{slots}
	if errors.Is(err, datadir.ErrSlots) {
		err = datadir.Damagef(f.Path(), "%w", errCheckpoint)
	}
	if err != nil || content == nil {
		return f, nil, err
	}
	c, err := decodeCheckpoint(content)
	return f, c, err
}

func (f cursorFile) store(c *Checkpoint, sync bool) error { return f.Store(c.Encode(), sync) }
