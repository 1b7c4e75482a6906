package queue

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/bits"
	"sort"
)

// A block is the value of one key in a segment: one or more chunks, back to back. A chunk holds
// what one transaction added to the block, so a block that is still short can grow by another chunk
// without its older bytes being touched.
//
// A chunk is a header of chunkHeaderSize bytes, big endian,
//
//	 0  uint32  CRC-32C of everything after it, payload included
//	 4  uint8   version of this layout
//	 5  uint8   kind: records or state
//	 6  uint16  zero
//	 8  uint32  number of entries
//	12  uint32  length of the payload
//	16  uint64  sequence number of the first record (of a state chunk: zero)
//	24  int64   when the first entry was appended, Unix time in nanoseconds
//	32  int64   bytes of all records of the segment before this chunk, lengths not counted
//	40  int64   bytes of this chunk's records, lengths not counted
//
// and the payload: each entry is its length as an unsigned varint and its bytes.
const (
	chunkHeaderSize = 48
	chunkVersion    = 1
	kindRecords     = 1
	kindState       = 2
	// blockSize is what a block is closed at: the cost per block (a key, a page rounded up, a
	// checksum) disappears, and a reader in need of one record does not read much for it.
	blockSize = 64 << 10
	// extendLimit is how long a block may become by adding chunks to it: it is written again with
	// each of them, which bounds what a transaction of one small record writes.
	extendLimit = 32 << 10
	// maxChunkPayload bounds what a reader believes of a length.
	maxChunkPayload = 1 << 30
)

var (
	big        = binary.BigEndian // of all that is not bbolt's own
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	errChunk   = errors.New("checksum or layout of a block is wrong")
)

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
	d.buf = appendSized(d.buf, entry)
	d.count++
	d.bytes += int64(len(entry))
}

// finish writes the header in front of the payload.
func (d *draft) finish(kind uint8, first uint64, before int64) chunkInfo {
	h := d.buf[:chunkHeaderSize]
	h[4], h[5], h[6], h[7] = chunkVersion, kind, 0, 0
	big.PutUint32(h[8:], uint32(d.count))
	big.PutUint32(h[12:], uint32(len(d.buf)-chunkHeaderSize))
	big.PutUint64(h[16:], first)
	big.PutUint64(h[24:], uint64(d.at))
	big.PutUint64(h[32:], uint64(before))
	big.PutUint64(h[40:], uint64(d.bytes))
	big.PutUint32(h, crc32.Checksum(d.buf[4:], castagnoli))
	return chunkInfo{
		first: first, count: d.count, at: d.at, before: before, bytes: d.bytes, start: chunkHeaderSize, end: len(d.buf),
	}
}

// tail is a block that still grows: its key, which is the number of its first entry, and what is in
// it.
type tail struct {
	key uint64
	buf []byte
}

// blockWrite is a block that a transaction writes: a new one, or an old one that has become longer
// by the chunks.
type blockWrite struct {
	tail
	chunks []chunkInfo
}

// plan is the blocks that a transaction writes.
type plan []blockWrite

// tail returns the block that grows after the plan was carried out.
func (p plan) tail(before tail) tail {
	if len(p) == 0 {
		return before
	}
	return p[len(p)-1].tail
}

// add puts a finished chunk into the last block if that is short, else into one of its own. It
// tells whether the draft's memory is free again.
func (p *plan) add(before tail, key uint64, d *draft, c chunkInfo) (copied bool) {
	t := p.tail(before)
	if len(t.buf) == 0 || len(t.buf)+len(d.buf) > extendLimit {
		*p = append(*p, blockWrite{tail{key, d.buf}, []chunkInfo{c}})
		return false
	}
	c.start += len(t.buf)
	c.end += len(t.buf)
	t.buf = append(t.buf, d.buf...)
	if len(*p) == 0 {
		*p = plan{{}}
	}
	last := &(*p)[len(*p)-1]
	last.tail, last.chunks = t, append(last.chunks, c)
	return true
}

// addState plans drafts with changes of the state.
func (p *plan) addState(before tail, drafts []draft) {
	for i := range drafts {
		d := &drafts[i]
		p.add(before, p.tail(before).key+1, d, d.finish(kindState, 0, 0))
	}
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
	if len(buf) < chunkHeaderSize {
		return chunkInfo{}, errChunk
	}
	if buf[4] != chunkVersion {
		return chunkInfo{}, fmt.Errorf("block layout %d, this program reads %d: %w", buf[4], chunkVersion, errChunk)
	}
	count, length := big.Uint32(buf[8:]), big.Uint32(buf[12:])
	if buf[5] != kind || length > maxChunkPayload || int(length) > len(buf)-chunkHeaderSize ||
		count > length || count == 0 {
		return chunkInfo{}, errChunk
	}
	end := chunkHeaderSize + int(length)
	if crc32.Checksum(buf[4:end], castagnoli) != big.Uint32(buf) {
		return chunkInfo{}, errChunk
	}
	c := chunkInfo{
		first:  big.Uint64(buf[16:]),
		count:  int(count),
		at:     int64(big.Uint64(buf[24:])),
		before: int64(big.Uint64(buf[32:])),
		bytes:  int64(big.Uint64(buf[40:])),
		start:  chunkHeaderSize,
		end:    end,
	}
	// The checksum says that these are the bytes that were written; this says that they can be
	// walked.
	entries, bytes, ok := 0, int64(0), true
	for rest := buf[c.start:end]; ok && len(rest) > 0; entries++ {
		var entry []byte
		entry, rest, ok = cutSized(rest)
		bytes += int64(len(entry))
	}
	if !ok || entries != c.count || bytes != c.bytes || c.before < 0 || c.first > 1<<63 {
		return chunkInfo{}, errChunk
	}
	return c, nil
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

// findRecord checks a block of a segment, which should hold record seq.
func findRecord(buf []byte, s Segment, seq uint64) (Block, error) {
	chunks, err := parseBlock(buf, kindRecords)
	// A commit that failed may have left more behind than was confirmed.
	for len(chunks) > 0 && chunks[len(chunks)-1].first > s.last {
		chunks = chunks[:len(chunks)-1]
	}
	b := Block{buf: buf, chunks: chunks, segment: s.base}
	if b.holds(seq) {
		return b, nil
	}
	return b, cmp.Or(err, errChunk)
}

// readState makes the changes of the state in a block, as far as that is whole.
func readState(state map[string]string, block []byte) error {
	chunks, err := parseBlock(block, kindState)
	for _, c := range chunks {
		for offset := c.start; offset < c.end; {
			var entry []byte
			entry, offset = nextEntry(block, offset)
			if k, v, err := parseOp(entry); err == nil { // it cannot fail: the checksum was right
				setState(state, k, v)
			}
		}
	}
	return err
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
	dst = appendSized(dst, key)
	if value != nil {
		dst = append(append(dst, 1), value...)
	}
	return dst
}

// parseOp reads what appendOp wrote; the value is nil for a deletion.
func parseOp(entry []byte) (key string, value []byte, err error) {
	k, rest, ok := cutSized(entry)
	if !ok {
		return "", nil, errChunk
	}
	if len(rest) > 0 {
		value = rest[1:]
	}
	return string(k), value, nil
}

// appendSized appends the length of v and v.
func appendSized[T []byte | string](b []byte, v T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(v))), v...)
}

// cutSized reads what appendSized wrote.
func cutSized(b []byte) (v, rest []byte, ok bool) {
	n, size := binary.Uvarint(b)
	if size <= 0 || n > uint64(len(b)-size) {
		return nil, nil, false
	}
	end := size + int(n)
	return b[size:end:end], b[end:], true
}

// appendUints appends numbers of eight bytes each.
func appendUints(b []byte, values ...uint64) []byte {
	for _, v := range values {
		b = big.AppendUint64(b, v)
	}
	return b
}

// appendCRC appends a CRC-32C of b, or of the key before it for a value that means another thing
// under another key.
func appendCRC(b []byte, key ...byte) []byte {
	return big.AppendUint32(b, checksum(key, b))
}

// cutCRC removes what appendCRC has appended, and tells whether it is right.
func cutCRC(b []byte, key ...byte) ([]byte, bool) {
	n := len(b) - 4
	if n < 0 || checksum(key, b[:n]) != big.Uint32(b[n:]) {
		return nil, false
	}
	return b[:n], true
}

func checksum(key, b []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, b)
}

func uvarintLen(n int) int { return (bits.Len(uint(n)|1) + 6) / 7 }
