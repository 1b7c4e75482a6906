package storage

// DamageGap is added to the sequence numbers when the newest segment is damaged, so that nobody
// knows how far they went. It is more than a segment can hold.
const DamageGap = 1 << 32

// Jumped says that a DamageGap lies between two numbers: what was stored in front of it tells
// nothing of what the greater one is about, nor the other way round.
func Jumped(from, to uint64) bool { return to > from && to-from >= DamageGap/2 }

// Loaded is what is stored when a queue is opened.
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

// NewLoaded returns what a store without anything has.
func NewLoaded() *Loaded { return &Loaded{State: map[string]string{}, Cursors: map[string]Position{}} }

// Segment adds a segment by its Summary, or replaces the newest one if that begins with the same
// record. It returns its first and its last record.
func (l *Loaded) Segment(summary []byte, size int64) (base, last uint64, err error) {
	if len(summary) < 8 {
		return 0, 0, errChunk
	}
	s := &Segment{Base: big.Uint64(summary), Size: size}
	if err := s.Decode(summary[8:]); err != nil || s.Base == 0 {
		return 0, 0, errChunk
	}
	if n := len(l.Segments); n > 0 && l.Segments[n-1].Base == s.Base {
		l.Segments = l.Segments[:n-1]
	}
	l.Segments, l.End = append(l.Segments, s), max(l.End, s.Last)
	return s.Base, s.Last, nil
}

// Change makes the changes of the state in chunks that follow each other.
func (l *Loaded) Change(chunks []byte) error {
	infos, err := ParseBlock(chunks, KindState)
	for _, c := range infos {
		ChangeState(l.State, chunks[c.Start:c.End])
	}
	return err
}

// Positions takes over the positions that SaveCursors has stored, nil if there are none, and those
// of the newest group or segment.
func (l *Loaded) Positions(saved, newest []byte) error {
	var both [2]*Checkpoint
	for i, b := range [][]byte{saved, newest} {
		if b == nil {
			continue
		}
		var err error
		if both[i], err = DecodeCheckpoint(b); err != nil {
			return err
		}
	}
	stored := Latest(both[0], both[1])
	l.Cursors = stored.Cursors
	switch {
	case Jumped(l.End, stored.End): // it was noticed by a start that has begun no segment
		l.End = stored.End
	case stored.End > l.End: // and how far it really went nobody knows
		l.Lost, l.End = append(l.Lost, Span{l.End + 1, stored.End}), stored.End+DamageGap
	}
	for _, p := range stored.Cursors {
		l.End = max(l.End, p.Acked)
	}
	return nil
}
