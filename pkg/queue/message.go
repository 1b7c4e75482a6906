package queue

// What stores of other packages need, which keep groups and segments as messages: chunks are bytes
// with a checksum of their own, and so are what Summary and Positions return to be handed back.

func (s *Segment) Summary() []byte { return append(AppendUints(nil, s.Base), s.Encode()...) }

// CutChunk cuts the first chunk from chunks of records that follow each other, and returns its
// first and its last record. It is nil where there is none.
func CutChunk(b []byte) (chunk, rest []byte, first, last uint64) {
	if len(b) < HeaderSize {
		return nil, nil, 0, 0
	}
	first, last = big.Uint64(b[16:]), big.Uint64(b[16:])+uint64(big.Uint32(b[8:]))-1
	end := uint64(HeaderSize) + uint64(big.Uint32(b[12:]))
	if end > uint64(len(b)) {
		return nil, nil, 0, 0
	}
	return b[:end:end], b[end:], first, last
}

// Records calls fn with the records of a chunk, in whose memory they are.
func Records(chunk []byte, fn func(seq uint64, data []byte)) error {
	c, err := parseChunk(chunk, KindRecords)
	for seq, offset := c.First, c.Start; err == nil && offset < c.End; seq++ {
		var data []byte
		data, offset = NextEntry(chunk, offset)
		fn(seq, data)
	}
	return err
}

// NewLoaded returns what a store without anything has.
func NewLoaded() *Loaded { return &Loaded{State: map[string]string{}, Cursors: map[string]Position{}} }

// Segment adds a segment by its Summary, or replaces the newest one if that begins with the same
// record. It returns its first and its last record.
func (l *Loaded) Segment(summary []byte, size int64) (base, last uint64, err error) {
	if len(summary) < 8 {
		return 0, 0, errChunk
	}
	s := &Segment{Base: big.Uint64(summary), Size: size}
	if err := s.Decode(summary[8:]); err != nil || s.Base == 0 || s.Last+1 < s.Base {
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

// Cursors takes over the positions that SaveCursors has stored, nil if there are none, and those of
// the newest group or segment, which may be further.
func (l *Loaded) Positions(saved, newest []byte) error {
	copied, err := DecodeCheckpoint(newest)
	if err != nil && newest != nil {
		return err
	}
	stored := copied
	if saved != nil {
		if stored, err = DecodeCheckpoint(saved); err != nil {
			return err
		}
	}
	if stored == nil {
		return nil
	}
	l.Cursors = stored.Cursors
	if stored.End > l.End { // and how far it really went nobody knows
		l.Lost, l.End = append(l.Lost, Span{l.End + 1, stored.End}), stored.End+DamageGap
	}
	for name, p := range stored.Cursors {
		if copied != nil && copied.Cursors[name].Acked > p.Acked {
			p = copied.Cursors[name]
			l.Cursors[name] = p
		}
		l.End = max(l.End, p.Acked)
	}
	return nil
}
