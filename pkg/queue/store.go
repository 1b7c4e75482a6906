package queue

import "errors"

// Store is what a Queue keeps its data in. The Queue groups batches, makes blocks of them and looks
// after state, cursors and limits; the store keeps blocks and positions, and finds them again. The
// methods are called by a Queue only. What they are handed has no exported fields: a store of
// another package keeps the bytes that message.go makes of it. A program can put one of its own
// around the one it is given (Options.Wrap), by embedding it:
//
//	type failing struct{ queue.Store }
//
//	func (f failing) Commit(g *queue.Group) error {
//		if rand.IntN(3) == 0 {
//			return syscall.ENOSPC
//		}
//		return f.Store.Commit(g)
//	}
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
	// Commit stores a group, all of it or nothing, and returns when it is durable. After an
	// error the group is not seen by anybody, in this process at least. While commits fail,
	// Commit is called every second with an empty group, which stores nothing: an error says
	// that the store still refuses.
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
	// want of space.
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
	// Its last record; base-1 while it is empty.
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

// Loaded is what is stored when a Queue is opened.
type Loaded struct {
	// in order
	Segments []*Segment
	State    map[string]string
	Cursors  map[string]Position
	// The last sequence number that may have been given out.
	End uint64
	// Records that are gone with what was found damaged.
	Lost []Span
	// What the store takes besides its segments.
	Size int64
}

// Span is a range of records, both ends included.
type Span struct{ First, Last uint64 }

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
