package storage

import (
	"errors"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/appendlog"
)

// Store is what a queue keeps its data in. The queue groups batches, makes blocks of them and looks
// after state, cursors and limits; the store keeps blocks and positions, and finds them again. The
// methods are called by a queue only.
//
// What is stored is divided into segments. A segment begins with all of the state, so that those
// before it can go as soon as their records are not needed any more.
type Store interface {
	// Load reads what is stored. It is called once, before everything else but Close.
	Load() (*Loaded, error)
	// Begin makes a segment, to which the groups go from now on, and ends the one before. If
	// that is empty, the new one replaces it. It returns the bytes that it takes. After an
	// error the one before is still used.
	Begin(s *Start) (size int64, err error)
	// Commit stores a group, all of it or nothing, and returns when it is durable: then the
	// memory of its chunks is used for others. After an error the group is not seen by
	// anybody, in this process at least. While commits fail, Commit is called every second with
	// an empty group, which stores nothing: an error says that the store still refuses.
	//
	// The calls of Begin and Commit are made one after the other.
	Commit(g *Group) error
	// Read returns the block with record seq of a segment. When that cannot be read for good,
	// the error is a datadir.Damaged, and the records from seq to next-1 are lost, or with next 0
	// all of the segment. It is ErrGone after Trim.
	Read(s Segment, seq uint64) (b Block, next uint64, err error)
	// Rest says that a reader has left a segment, so that what is open for it may be closed.
	Rest(base uint64)
	// SaveCursors stores all positions in the place of those before. They survive the end of
	// the process, and with sync that of the machine. It has to work when Commit does not for
	// want of space. Before it has worked once a queue begins no segment, but for those of a
	// copy: where there are segments and no positions, these are lost.
	SaveCursors(c *Checkpoint, sync bool) error
	// Trim removes a segment. That is the oldest one, or one that could not be read.
	Trim(base uint64) error
	// Close ends all use. It is called after Load has failed, too.
	Close() error
}

// ErrGone is returned by Store.Read for a segment that is not there any more.
var ErrGone = errors.New("segment is gone")

// Segment describes a segment.
type Segment struct {
	// its first record
	Base uint64
	// Its last record; Base-1 while it is empty.
	Last uint64
	// of its records
	Bytes int64
	// What it takes in the store.
	Size int64
	// When its first and its last record were appended, in Unix nanoseconds.
	FirstAt int64
	LastAt  int64
}

// Empty says that there is no record in it.
func (s *Segment) Empty() bool { return s.Last < s.Base }

// SummarySize is the length of what Encode returns.
const SummarySize = 32

// Encode returns what a segment says of itself.
func (s *Segment) Encode() []byte {
	return appendlog.AppendUints(nil, s.Last, uint64(s.Bytes), uint64(s.FirstAt), uint64(s.LastAt))
}

// Decode reads what Encode returned.
func (s *Segment) Decode(b []byte) error {
	if len(b) != SummarySize {
		return errors.New("no summary of the segment")
	}
	last, bytes := big.Uint64(b), int64(big.Uint64(b[8:]))
	if last+1 < s.Base || bytes < 0 {
		return errors.New("summary does not fit the segment")
	}
	s.Last, s.Bytes = last, bytes
	s.FirstAt, s.LastAt = int64(big.Uint64(b[16:])), int64(big.Uint64(b[24:]))
	return nil
}

// Summary returns what a segment says of itself with its first record, for Loaded.Segment.
func (s *Segment) Summary() []byte { return append(appendlog.AppendUints(nil, s.Base), s.Encode()...) }

// Start describes a segment that is to be begun.
type Start struct {
	// Its first record.
	Base uint64
	// The segment before it that has records, and how far that really went, which after a failed
	// commit is less than it may say itself.
	PreviousBase, PreviousLast uint64
	// Of the cursors.
	Positions *Checkpoint
	// State calls put with all of the state, a few chunks at a time.
	State func(put func(chunks [][]byte) error) error
}

// Segment describes the segment as it is begun.
func (s *Start) Segment() Segment { return Segment{Base: s.Base, Last: s.Base - 1} }

// Group is what is stored in one transaction.
type Group struct {
	// chunks
	Records, State [][]byte
	// Of the cursors, for when what SaveCursors has stored is lost.
	Positions *Checkpoint
	// Of an empty group: what is to be stored next is about so large.
	Bytes int64

	// After is the segment with the group in it. Commit sets its size.
	After Segment
	// Sealed is set by Commit when it fails in a way that leaves doubt about the segment: the
	// next group needs a new one.
	Sealed bool
}

// Empty says that a group asks only whether the store would take one, of about Bytes.
func (g *Group) Empty() bool { return len(g.Records)+len(g.State) == 0 }

// Size is how many bytes of chunks a group has.
func (g *Group) Size() (bytes int64) {
	for _, chunks := range [][][]byte{g.State, g.Records} {
		for _, c := range chunks {
			bytes += int64(len(c))
		}
	}
	return bytes
}
