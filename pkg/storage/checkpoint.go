package storage

import (
	"cmp"
	"errors"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/appendlog"
)

// Position is where a cursor stands: everything up to and including Acked is done. Of the segment
// that begins at Segment, whose records follow, Bytes are done.
type Position struct {
	Acked   uint64
	Segment uint64
	Bytes   int64
}

// Left returns the bytes of a segment that are behind a position in it or before it.
func (p Position) Left(s *Segment) int64 {
	if p.Segment == s.Base {
		return max(0, s.Bytes-p.Bytes)
	}
	return s.Bytes
}

// Checkpoint is what is stored of all cursors. End is the last sequence number that was stored at
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
		b = appendlog.AppendUints(appendlog.AppendSized(b, name), p.Acked, p.Segment, uint64(p.Bytes))
	}
	return b
}

var errCheckpoint = errors.New("cursor positions are unreadable")

// DecodeCheckpoint reads what Encode returned.
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

// Latest returns where the cursors are by what was saved of them, nil if that is not known, and by
// the copy in the newest group. That is older in general, but not if the group came after the last
// time that they were saved.
func Latest(saved, copied *Checkpoint) *Checkpoint {
	if saved == nil || copied == nil {
		return cmp.Or(saved, copied, &Checkpoint{Cursors: map[string]Position{}})
	}
	saved.End = max(saved.End, copied.End)
	for name, p := range saved.Cursors {
		if c := copied.Cursors[name]; c.Acked > p.Acked {
			saved.Cursors[name] = c
		}
	}
	return saved
}
