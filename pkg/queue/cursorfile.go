package queue

import (
	"errors"
	"path/filepath"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/appendlog"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/datadir"
)

// position is where a cursor stands: everything up to and including acked is done. Of the segment
// that begins at segment, whose records follow, bytes are done.
type Position struct {
	Acked   uint64
	Segment uint64
	Bytes   int64
}

// Checkpoint is what is stored of all cursors. end is the last sequence number that was stored at
// the time, as far as known: a segment that ends before it has lost something.
type Checkpoint struct {
	End     uint64
	Cursors map[string]Position
}

// Encode returns the positions.
func (c *Checkpoint) Encode() []byte {
	b := big.AppendUint64(nil, c.End)
	b = big.AppendUint32(b, uint32(len(c.Cursors)))
	for name, p := range c.Cursors {
		b = AppendUints(appendlog.AppendSized(b, name), p.Acked, p.Segment, uint64(p.Bytes))
	}
	return b
}

var errCheckpoint = errors.New("cursor positions are unreadable")

func DecodeCheckpoint(b []byte) (*Checkpoint, error) {
	if len(b) < 12 {
		return nil, errCheckpoint
	}
	c := &Checkpoint{End: big.Uint64(b), Cursors: map[string]Position{}}
	n := big.Uint32(b[8:])
	b = b[12:]
	for range n {
		name, rest, ok := appendlog.CutSized(b)
		if !ok || len(rest) < 24 {
			return nil, errCheckpoint
		}
		c.Cursors[string(name)] = Position{
			Acked: big.Uint64(rest), Segment: big.Uint64(rest[8:]), Bytes: int64(big.Uint64(rest[16:])),
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
		_, err := DecodeCheckpoint(b)
		return err == nil
	})
	f := cursorFile{slots}
	if errors.Is(err, datadir.ErrSlots) {
		err = datadir.Damagef(f.Path(), "%w", errCheckpoint)
	}
	if err != nil || content == nil {
		return f, nil, err
	}
	c, err := DecodeCheckpoint(content)
	return f, c, err
}

func (f cursorFile) store(c *Checkpoint, sync bool) error { return f.Store(c.Encode(), sync) }
