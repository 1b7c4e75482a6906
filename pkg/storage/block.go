package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"sort"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/appendlog"
)

// The kinds of frames in a segment.
const (
	KindRecords = 1
	KindState   = 2
	KindHead    = 3
)

// BlockSize is what a chunk is closed at. It is large enough that the cost per block (a header, a
// checksum, a place in an index) disappears, and small enough that a reader in need of one record
// does not read much for it.
const BlockSize = 64 << 10

// big is the byte order of all that is stored.
var big = binary.BigEndian

var errChunk = errors.New("checksum or layout of a block is wrong")

// A chunk holds what one transaction stores, or a part of that. It is a frame of pkg/appendlog, of
// which the numbers are, in a chunk of records,
//
//	sequence number of the first record
//	when that was appended, Unix time in nanoseconds
//	bytes of all records of the segment before this chunk, lengths not counted
//	bytes of this chunk's records, lengths not counted
//
// and zero in one of the state; in the payload each entry is its length as an unsigned varint and
// its bytes. A block is a run of chunks in memory, back to back.

// Chunk describes one chunk of a block in memory.
type Chunk struct {
	// Sequence number of the first record.
	First uint64
	Count int
	// Unix nanoseconds
	At int64
	// Bytes of the segment's records before this chunk.
	Before int64
	// Bytes of this chunk's records.
	Bytes int64
	// Where the payload is in the block.
	Start, End int
}

// Last returns the sequence number of the chunk's last record.
func (c *Chunk) Last() uint64 { return c.First + uint64(c.Count) - 1 }

// Draft is a chunk that is being filled. Its header is written by Finish.
type Draft struct {
	Buf   []byte // header space and payload
	Count int
	Bytes int64
	At    int64
}

// Fits tells whether an entry still belongs into d.
func (d *Draft) Fits(entry []byte) bool {
	return len(d.Buf)+uvarintLen(len(entry))+len(entry) <= BlockSize
}

// Spares is the memory of drafts that are done with, a block each, to be used again. The zero value
// and nil have none.
type Spares struct{ bufs [][]byte }

// mostSpares bounds what is kept: a group that waits and one that is being stored have a draft of
// records and one of the state, if they are small.
const mostSpares = 4

// Keep takes over the memory of drafts, or of chunks, that nobody reads any more. What is longer
// than a block would make a reader of one record keep so much.
func (s *Spares) Keep(bufs ...[]byte) {
	for _, b := range bufs {
		if cap(b) == BlockSize && len(s.bufs) < mostSpares {
			s.bufs = append(s.bufs, b)
		}
	}
}

// take returns memory for so many bytes, or for a whole block.
func (s *Spares) take(size int) []byte {
	if s == nil || len(s.bufs) == 0 || size > BlockSize {
		return make([]byte, 0, max(BlockSize, size))
	}
	last := len(s.bufs) - 1
	b := s.bufs[last]
	s.bufs = s.bufs[:last]
	return b[:0]
}

// AddEntry adds an entry to the last draft, or to a new one if it does not fit.
func AddEntry(drafts []Draft, entry []byte, spares *Spares) []Draft {
	n := len(drafts)
	if n == 0 || !drafts[n-1].Fits(entry) {
		size := appendlog.HeaderSize + uvarintLen(len(entry)) + len(entry)
		drafts = append(drafts, Draft{Buf: spares.take(size)[:appendlog.HeaderSize]})
		n++
	}
	drafts[n-1].add(entry)
	return drafts
}

func (d *Draft) add(entry []byte) {
	d.Buf = appendlog.AppendSized(d.Buf, entry)
	d.Count++
	d.Bytes += int64(len(entry))
}

// Finish writes the header in front of the payload.
func (d *Draft) Finish(kind uint8, first uint64, before int64) Chunk {
	appendlog.Seal(d.Buf, kind, uint32(d.Count), [4]uint64{first, uint64(d.At), uint64(before), uint64(d.Bytes)})
	return Chunk{
		First: first, Count: d.Count, At: d.At, Before: before, Bytes: d.Bytes,
		Start: appendlog.HeaderSize, End: len(d.Buf),
	}
}

// FinishState writes the headers of drafts with changes of the state, and returns the chunks.
func FinishState(drafts []Draft) (chunks [][]byte) {
	for i := range drafts {
		drafts[i].Finish(KindState, 0, 0)
		chunks = append(chunks, drafts[i].Buf)
	}
	return chunks
}

// ParseBlock checks a block and lists its chunks. On an error the chunks in front of the damage are
// still returned and good. Every entry of a returned chunk lies within the block, so that NextEntry
// cannot fail on it.
func ParseBlock(buf []byte, kind uint8) ([]Chunk, error) {
	var chunks []Chunk
	for offset := 0; offset < len(buf); {
		c, err := parseChunk(buf[offset:], kind)
		if n := len(chunks); err == nil && n > 0 && kind == KindRecords && c.First != chunks[n-1].Last()+1 {
			err = errChunk
		}
		if err != nil {
			return chunks, fmt.Errorf("at byte %d: %w", offset, err)
		}
		c.Start += offset
		c.End += offset
		offset = c.End
		chunks = append(chunks, c)
	}
	return chunks, nil
}

func parseChunk(buf []byte, kind uint8) (Chunk, error) {
	f, ok := appendlog.Parse(buf)
	if !ok {
		return Chunk{}, errChunk
	}
	return describe(buf, &f, kind)
}

// describe describes the chunk that a checked frame of buf is.
func describe(buf []byte, f *appendlog.Frame, kind uint8) (Chunk, error) {
	c := FrameChunk(f)
	// The checksum says that these are the bytes that were written; this says that they can be
	// walked.
	entries, bytes, ok := 0, int64(0), f.Kind == kind && c.Count > 0 && c.Before >= 0 && c.First <= 1<<63
	for rest := buf[c.Start:c.End]; ok && len(rest) > 0; entries++ {
		var entry []byte
		entry, rest, ok = appendlog.CutSized(rest)
		bytes += int64(len(entry))
	}
	if !ok || entries != c.Count || bytes != c.Bytes {
		return Chunk{}, errChunk
	}
	return c, nil
}

// FrameChunk describes the chunk that a frame is, if it is one.
func FrameChunk(f *appendlog.Frame) Chunk {
	return Chunk{
		First: f.Numbers[0], Count: int(f.Count), At: int64(f.Numbers[1]), Before: int64(f.Numbers[2]),
		Bytes: int64(f.Numbers[3]), Start: int(f.Offset) + appendlog.HeaderSize, End: int(f.End()),
	}
}

// NextEntry returns the entry at offset of a checked block and the offset of the one behind it.
func NextEntry(buf []byte, offset int) ([]byte, int) {
	n, size := binary.Uvarint(buf[offset:])
	start := offset + size
	end := start + int(n)
	return buf[start:end:end], end
}

// Block is a checked block, or the committed part of one that still grows, for readers. Its memory
// is never written again.
type Block struct {
	Buf    []byte
	Chunks []Chunk
	// Base of the segment it is in.
	Segment uint64
}

// Empty says that it has no record.
func (b *Block) Empty() bool { return len(b.Chunks) == 0 }

// First returns its first record.
func (b *Block) First() uint64 { return b.Chunks[0].First }

// Last returns its last record.
func (b *Block) Last() uint64 { return b.Chunks[len(b.Chunks)-1].Last() }

// Holds tells whether record seq is in it.
func (b *Block) Holds(seq uint64) bool {
	return !b.Empty() && seq >= b.First() && seq <= b.Last()
}

// ChunkOf returns the first chunk that does not end before record seq.
func (b *Block) ChunkOf(seq uint64) int {
	return sort.Search(len(b.Chunks), func(i int) bool { return b.Chunks[i].Last() >= seq })
}

// NewBlock checks a part of a segment, which should hold record seq, and returns the chunks around
// that.
func NewBlock(buf []byte, s Segment, seq uint64) (Block, error) {
	b := Block{Buf: buf, Segment: s.Base}
	appendlog.Walk(buf, func(f appendlog.Frame) bool {
		if f.Kind != KindRecords {
			return true
		}
		c, err := describe(buf, &f, KindRecords)
		switch {
		case err != nil:
			return true
		case c.First > s.Last:
			return false // a commit that failed may have left more behind than was confirmed
		case !b.Empty() && c.First != b.Last()+1:
			if b.Holds(seq) {
				return false
			}
			b.Chunks = b.Chunks[:0]
		}
		b.Chunks = append(b.Chunks, c)
		return true
	})
	if !b.Holds(seq) {
		return Block{}, errChunk
	}
	return b, nil
}

// RecordAfter returns the first record behind seq that can be read in a part of a segment, 0 if
// there is none.
func RecordAfter(buf []byte, seq uint64) (first uint64) {
	appendlog.Walk(buf, func(f appendlog.Frame) bool {
		if f.Kind == KindRecords && f.Numbers[0] > seq {
			first = f.Numbers[0]
		}
		return first == 0
	})
	return first
}

// CutChunk cuts the first chunk from chunks of records that follow each other, and returns its
// first and its last record. It is nil where there is none.
func CutChunk(b []byte) (chunk, rest []byte, first, last uint64) {
	if len(b) < appendlog.HeaderSize {
		return nil, nil, 0, 0
	}
	first, last = big.Uint64(b[16:]), big.Uint64(b[16:])+uint64(big.Uint32(b[8:]))-1
	end := uint64(appendlog.HeaderSize) + uint64(big.Uint32(b[12:]))
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

// ChangeState makes the changes of the state in the payload of a chunk.
func ChangeState(state map[string]string, payload []byte) {
	for len(payload) > 0 {
		entry, rest, ok := appendlog.CutSized(payload)
		if !ok {
			return // it cannot be: the checksum was right
		}
		if k, v, err := ParseOp(entry); err == nil {
			SetState(state, k, v)
		}
		payload = rest
	}
}

// SetState changes the state in memory. Key and value share their memory, which is a copy.
func SetState(state map[string]string, key string, value []byte) {
	if value == nil {
		delete(state, key)
		return
	}
	both := key + string(value)
	state[both[:len(key)]] = both[len(key):]
}

// AppendOp appends a change of the state as an entry's bytes: the length of the key, the key, and
// what is left is one byte that says "set" and the value, or nothing for a deletion.
func AppendOp(dst []byte, key string, value []byte) []byte {
	dst = appendlog.AppendSized(dst, key)
	if value != nil {
		dst = append(append(dst, 1), value...)
	}
	return dst
}

// ParseOp reads what AppendOp wrote; the value is nil for a deletion.
func ParseOp(entry []byte) (key string, value []byte, err error) {
	k, rest, ok := appendlog.CutSized(entry)
	if !ok {
		return "", nil, errChunk
	}
	if len(rest) > 0 {
		value = rest[1:]
	}
	return string(k), value, nil
}

func uvarintLen(n int) int { return (bits.Len(uint(n)|1) + 6) / 7 }
