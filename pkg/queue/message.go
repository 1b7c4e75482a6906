package queue

// What stores of other packages need, which keep groups and segments as messages: chunks are bytes
// with a checksum of their own, and so are what Summary and Positions return to be handed back.

// Empty says that a group asks only whether the store would take one, of about Size bytes.
func (g *Group) Empty() bool { return len(g.records)+len(g.state) == 0 }

// Size is how many bytes are to be stored next, for an empty group.
func (g *Group) Size() int64 { return g.bytes }

// Chunks returns what the group changes of the state, and its records. They are not to be changed.
func (g *Group) Chunks() (state, records [][]byte) { return g.state, g.records }

// Summary describes the segment with the group in it.
func (g *Group) Summary() []byte { return g.after.summary() }

// Positions are those of the cursors.
func (g *Group) Positions() []byte { return g.positions.Encode() }

// Stored says by how many bytes the segment has grown.
func (g *Group) Stored(bytes int64) { g.after.size += bytes }

// InDoubt says that nobody knows whether the group, or a part of it, is stored: the next one needs
// a new segment.
func (g *Group) InDoubt() { g.sealed = true }

// Base is the first record of the segment.
func (s *Start) Base() uint64 { return s.base }

// Summary describes the new segment.
func (s *Start) Summary() []byte { return (&Segment{base: s.base, last: s.base - 1}).summary() }

// Positions are those of the cursors.
func (s *Start) Positions() []byte { return s.positions.Encode() }

// Chunks calls put with all of the state, a few chunks at a time.
func (s *Start) Chunks(put func(chunks [][]byte) error) error { return s.state(put) }

// Base is the first record of the segment.
func (s *Segment) Base() uint64 { return s.base }

// Last is the last record of the segment, Base()-1 while it is empty.
func (s *Segment) Last() uint64 { return s.last }

func (s *Segment) summary() []byte { return append(appendUints(nil, s.base), s.encode()...) }

// CutChunk cuts the first chunk from chunks of records that follow each other, and returns its
// first and its last record. It is nil where there is none.
func CutChunk(b []byte) (chunk, rest []byte, first, last uint64) {
	if len(b) < chunkHeaderSize {
		return nil, nil, 0, 0
	}
	first, last = big.Uint64(b[16:]), big.Uint64(b[16:])+uint64(big.Uint32(b[8:]))-1
	end := uint64(chunkHeaderSize) + uint64(big.Uint32(b[12:]))
	if end > uint64(len(b)) {
		return nil, nil, 0, 0
	}
	return b[:end:end], b[end:], first, last
}

// Records calls fn with the records of a chunk, in whose memory they are.
func Records(chunk []byte, fn func(seq uint64, data []byte)) error {
	c, err := parseChunk(chunk, kindRecords)
	for seq, offset := c.first, c.start; err == nil && offset < c.end; seq++ {
		var data []byte
		data, offset = nextEntry(chunk, offset)
		fn(seq, data)
	}
	return err
}

// NewBlock returns the block with a chunk, which should hold record seq of the segment.
func NewBlock(chunk []byte, s Segment, seq uint64) (Block, error) { return findRecord(chunk, s, seq) }

// NewLoaded returns what a store without anything has.
func NewLoaded() *Loaded { return &Loaded{state: map[string]string{}, cursors: map[string]position{}} }

// Segment adds a segment by its Summary, or replaces the newest one if that begins with the same
// record. It returns its first and its last record.
func (l *Loaded) Segment(summary []byte, size int64) (base, last uint64, err error) {
	if len(summary) < 8 {
		return 0, 0, errChunk
	}
	s := &Segment{base: big.Uint64(summary), size: size}
	if err := s.decode(summary[8:]); err != nil || s.base == 0 || s.last+1 < s.base {
		return 0, 0, errChunk
	}
	if n := len(l.segments); n > 0 && l.segments[n-1].base == s.base {
		l.segments = l.segments[:n-1]
	}
	l.segments, l.end = append(l.segments, s), max(l.end, s.last)
	return s.base, s.last, nil
}

// Change makes the changes of the state in chunks that follow each other.
func (l *Loaded) Change(chunks []byte) error {
	infos, err := parseBlock(chunks, kindState)
	for _, c := range infos {
		changeState(l.state, chunks[c.start:c.end])
	}
	return err
}

// Cursors takes over the positions that SaveCursors has stored, nil if there are none, and those of
// the newest group or segment, which may be further.
func (l *Loaded) Cursors(saved, newest []byte) error {
	copied, err := decodeCheckpoint(newest)
	if err != nil && newest != nil {
		return err
	}
	stored := copied
	if saved != nil {
		if stored, err = decodeCheckpoint(saved); err != nil {
			return err
		}
	}
	if stored == nil {
		return nil
	}
	l.cursors = stored.cursors
	if stored.end > l.end { // and how far it really went nobody knows
		l.lost, l.end = append(l.lost, span{l.end + 1, stored.end}), stored.end+damageGap
	}
	for name, p := range stored.cursors {
		if copied != nil && copied.cursors[name].acked > p.acked {
			p = copied.cursors[name]
			l.cursors[name] = p
		}
		l.end = max(l.end, p.acked)
	}
	return nil
}
