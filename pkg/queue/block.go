package queue

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"sort"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/appendlog"
)

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
const chunkHeaderSize = appendlog.HeaderSize

// The kinds of frames in a segment.
const (
	kindRecords = 1
	kindState   = 2
	kindHead    = 3
)

// blockSize is what a chunk is closed at. It is large enough that the cost per block (a header, a
// checksum, a place in an index) disappears, and small enough that a reader in need of one record
// does not read much for it.
const blockSize = 64 << 10

// extendLimit is how long a block in memory may become by adding chunks to it: a trickle of single
// records does not fill the cache with their memory.
const extendLimit = 32 << 10

// big is the byte order of all that is stored.
var big = binary.BigEndian

var errChunk = errors.New("checksum or layout of a block is wrong")

// chunkInfo describes one chunk of a block in memory.
type chunkInfo struct {
	// Sequence number of the first record.
	first uint64
	count int
	// Unix nanoseconds
	at int64
	// Bytes of the segment's records before this chunk.
	before int64
	// Bytes of this chunk's records.
	bytes int64
	// Where the payload is in the block.
	start, end int
}

// last returns the sequence number of the chunk's last record.
func (c *chunkInfo) last() uint64 { return c.first + uint64(c.count) - 1 }

// draft is a chunk that is being filled. Its header is written by finish.
type draft struct {
	buf   []byte // header space and payload
	count int
	bytes int64
	at    int64
}

// fits tells whether an entry still belongs into d.
func (d *draft) fits(entry []byte) bool {
	return len(d.buf)+uvarintLen(len(entry))+len(entry) <= blockSize
}

// addEntry adds an entry to the last draft, or to a new one if it does not fit. That takes the
// spare memory if it is enough.
func addEntry(drafts []draft, entry []byte, spare *[]byte) []draft {
	n := len(drafts)
	if n == 0 || !drafts[n-1].fits(entry) {
		d := draft{}
		if size := chunkHeaderSize + uvarintLen(len(entry)) + len(entry); size <= cap(*spare) {
			d.buf, *spare = (*spare)[:chunkHeaderSize], nil
		} else {
			d.buf = make([]byte, chunkHeaderSize, max(blockSize, size))
		}
		drafts = append(drafts, d)
		n++
	}
	drafts[n-1].add(entry)
	return drafts
}

func (d *draft) add(entry []byte) {
	d.buf = appendlog.AppendSized(d.buf, entry)
	d.count++
	d.bytes += int64(len(entry))
}

// finish writes the header in front of the payload.
func (d *draft) finish(kind uint8, first uint64, before int64) chunkInfo {
	appendlog.Seal(d.buf, kind, uint32(d.count), [4]uint64{first, uint64(d.at), uint64(before), uint64(d.bytes)})
	return chunkInfo{
		first: first, count: d.count, at: d.at, before: before, bytes: d.bytes, start: chunkHeaderSize, end: len(d.buf),
	}
}

// finishState writes the headers of drafts with changes of the state, and returns the chunks.
func finishState(drafts []draft) (chunks [][]byte) {
	for i := range drafts {
		drafts[i].finish(kindState, 0, 0)
		chunks = append(chunks, drafts[i].buf)
	}
	return chunks
}

// parseBlock checks a block and lists its chunks. On an error the chunks in front of the damage are
// still returned and good. Every entry of a returned chunk lies within the block, so that nextEntry
// cannot fail on it.
func parseBlock(buf []byte, kind uint8) ([]chunkInfo, error) {
	var chunks []chunkInfo
	for offset := 0; offset < len(buf); {
		c, err := parseChunk(buf[offset:], kind)
		if n := len(chunks); err == nil && n > 0 && kind == kindRecords && c.first != chunks[n-1].last()+1 {
			err = errChunk
		}
		if err != nil {
			return chunks, fmt.Errorf("at byte %d: %w", offset, err)
		}
		c.start += offset
		c.end += offset
		offset = c.end
		chunks = append(chunks, c)
	}
	return chunks, nil
}

func parseChunk(buf []byte, kind uint8) (chunkInfo, error) {
	f, ok := appendlog.Parse(buf)
	if !ok {
		return chunkInfo{}, errChunk
	}
	return describe(buf, &f, kind)
}

// describe describes the chunk that a checked frame of buf is.
func describe(buf []byte, f *appendlog.Frame, kind uint8) (chunkInfo, error) {
	c := frameInfo(f)
	// The checksum says that these are the bytes that were written; this says that they can be
	// walked.
	entries, bytes, ok := 0, int64(0), f.Kind == kind && c.count > 0 && c.before >= 0 && c.first <= 1<<63
	for rest := buf[c.start:c.end]; ok && len(rest) > 0; entries++ {
		var entry []byte
		entry, rest, ok = appendlog.CutSized(rest)
		bytes += int64(len(entry))
	}
	if !ok || entries != c.count || bytes != c.bytes {
		return chunkInfo{}, errChunk
	}
	return c, nil
}

// frameInfo describes the chunk that a frame is, if it is one.
func frameInfo(f *appendlog.Frame) chunkInfo {
	return chunkInfo{
		first: f.Numbers[0], count: int(f.Count), at: int64(f.Numbers[1]), before: int64(f.Numbers[2]),
		bytes: int64(f.Numbers[3]), start: int(f.Offset) + chunkHeaderSize, end: int(f.End()),
	}
}

// nextEntry returns the entry at offset of a checked block and the offset of the one behind it.
func nextEntry(buf []byte, offset int) ([]byte, int) {
	n, size := binary.Uvarint(buf[offset:])
	start := offset + size
	end := start + int(n)
	return buf[start:end:end], end
}

// Block is a checked block, or the committed part of one that still grows, for readers. Its memory
// is never written again.
type Block struct {
	buf    []byte
	chunks []chunkInfo
	// Base of the segment it is in.
	segment uint64
}

// grow adds a chunk that follows, while the block is short. Who has the block as it was does not
// see that.
func (b *Block) grow(chunk []byte, c chunkInfo) bool {
	n := len(b.buf)
	if n+len(chunk) > extendLimit {
		return false
	}
	c.start += n
	c.end += n
	b.buf, b.chunks = append(b.buf, chunk...), append(b.chunks, c)
	return true
}

func (b *Block) empty() bool   { return len(b.chunks) == 0 }
func (b *Block) first() uint64 { return b.chunks[0].first }
func (b *Block) last() uint64  { return b.chunks[len(b.chunks)-1].last() }
func (b *Block) holds(seq uint64) bool {
	return !b.empty() && seq >= b.first() && seq <= b.last()
}

// chunkOf returns the first chunk that does not end before record seq.
func (b *Block) chunkOf(seq uint64) int {
	return sort.Search(len(b.chunks), func(i int) bool { return b.chunks[i].last() >= seq })
}

// findRecord checks a part of a segment, which should hold record seq, and returns the chunks
// around that.
func findRecord(buf []byte, s Segment, seq uint64) (Block, error) {
	b := Block{buf: buf, segment: s.base}
	appendlog.Walk(buf, func(f appendlog.Frame) bool {
		if f.Kind != kindRecords {
			return true
		}
		c, err := describe(buf, &f, kindRecords)
		switch {
		case err != nil:
			return true
		case c.first > s.last:
			return false // a commit that failed may have left more behind than was confirmed
		case !b.empty() && c.first != b.last()+1:
			if b.holds(seq) {
				return false
			}
			b.chunks = b.chunks[:0]
		}
		b.chunks = append(b.chunks, c)
		return true
	})
	if !b.holds(seq) {
		return Block{}, errChunk
	}
	return b, nil
}

// recordAfter returns the first record behind seq that can be read in a part of a segment, 0 if
// there is none.
func recordAfter(buf []byte, seq uint64) (first uint64) {
	appendlog.Walk(buf, func(f appendlog.Frame) bool {
		if f.Kind == kindRecords && f.Numbers[0] > seq {
			first = f.Numbers[0]
		}
		return first == 0
	})
	return first
}

// changeState makes the changes of the state in the payload of a chunk.
func changeState(state map[string]string, payload []byte) {
	for len(payload) > 0 {
		entry, rest, ok := appendlog.CutSized(payload)
		if !ok {
			return // it cannot be: the checksum was right
		}
		if k, v, err := parseOp(entry); err == nil {
			setState(state, k, v)
		}
		payload = rest
	}
}

// setState changes the state in memory. Key and value share their memory, which is a copy.
func setState(state map[string]string, key string, value []byte) {
	if value == nil {
		delete(state, key)
		return
	}
	both := key + string(value)
	state[both[:len(key)]] = both[len(key):]
}

// appendOp appends a change of the state as an entry's bytes: the length of the key, the key, and
// what is left is one byte that says "set" and the value, or nothing for a deletion.
func appendOp(dst []byte, key string, value []byte) []byte {
	dst = appendlog.AppendSized(dst, key)
	if value != nil {
		dst = append(append(dst, 1), value...)
	}
	return dst
}

// parseOp reads what appendOp wrote; the value is nil for a deletion.
func parseOp(entry []byte) (key string, value []byte, err error) {
	k, rest, ok := appendlog.CutSized(entry)
	if !ok {
		return "", nil, errChunk
	}
	if len(rest) > 0 {
		value = rest[1:]
	}
	return string(k), value, nil
}

// appendUints appends numbers of eight bytes each.
func appendUints(b []byte, values ...uint64) []byte {
	for _, v := range values {
		b = big.AppendUint64(b, v)
	}
	return b
}

func uvarintLen(n int) int { return (bits.Len(uint(n)|1) + 6) / 7 }
