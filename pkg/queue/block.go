package queue

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// A block is the value of one key in a segment: one or more chunks, back to back. A chunk holds what one transaction added to
// the block, so a block that is still short can grow by another chunk without its older bytes being touched.
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
)

const (
	kindRecords = 1
	kindState   = 2
)

// blockSize is what a block is closed at. It is large enough that the cost per block (a key, a page rounded up, a checksum)
// disappears, and small enough that a reader in need of one record does not read much for it.
const blockSize = 64 << 10

// extendLimit is how long a block may become by adding chunks to it: a block that grows is written again with each
// transaction, so its limit bounds what a transaction of one small record writes.
const extendLimit = 32 << 10

// maxChunkPayload bounds what a reader believes of a length.
const maxChunkPayload = 1 << 30

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var errChunk = errors.New("checksum or layout of a block is wrong")

// chunkInfo describes one chunk of a block in memory.
type chunkInfo struct {
	first  uint64 // sequence number of the first record
	count  int
	at     int64 // Unix nanoseconds
	before int64 // bytes of the segment's records before this chunk
	bytes  int64 // bytes of this chunk's records
	start  int   // of the payload in the block
	end    int   // of the payload in the block
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

func newDraft(payload int, at int64) draft {
	return draft{buf: make([]byte, chunkHeaderSize, max(blockSize, chunkHeaderSize+payload)), at: at}
}

// fits tells whether an entry of n bytes still belongs into d.
func (d *draft) fits(n int) bool {
	return d.count == 0 || len(d.buf)+n <= blockSize
}

func (d *draft) add(record []byte) {
	d.buf = append(binary.AppendUvarint(d.buf, uint64(len(record))), record...)
	d.count++
	d.bytes += int64(len(record))
}

// finish writes the header in front of the payload.
func (d *draft) finish(kind uint8, first uint64, before int64) {
	h := d.buf[:chunkHeaderSize]
	h[4], h[5], h[6], h[7] = chunkVersion, kind, 0, 0
	binary.BigEndian.PutUint32(h[8:], uint32(d.count))
	binary.BigEndian.PutUint32(h[12:], uint32(len(d.buf)-chunkHeaderSize))
	binary.BigEndian.PutUint64(h[16:], first)
	binary.BigEndian.PutUint64(h[24:], uint64(d.at))
	binary.BigEndian.PutUint64(h[32:], uint64(before))
	binary.BigEndian.PutUint64(h[40:], uint64(d.bytes))
	binary.BigEndian.PutUint32(h, crc32.Checksum(d.buf[4:], castagnoli))
}

func (d *draft) info(first uint64, before int64, offset int) chunkInfo {
	return chunkInfo{
		first: first, count: d.count, at: d.at, before: before, bytes: d.bytes,
		start: offset + chunkHeaderSize, end: offset + len(d.buf),
	}
}

// parseBlock checks a block and lists its chunks. On an error the chunks in front of the damage are still returned and
// good. Every entry of a returned chunk lies within the block, so that nextEntry cannot fail on it.
func parseBlock(buf []byte, kind uint8) ([]chunkInfo, error) {
	var chunks []chunkInfo
	for offset := 0; offset < len(buf); {
		c, err := parseChunk(buf[offset:], kind)
		if err != nil {
			return chunks, fmt.Errorf("at byte %d: %w", offset, err)
		}
		if n := len(chunks); n > 0 && kind == kindRecords && c.first != chunks[n-1].last()+1 {
			return chunks, fmt.Errorf("at byte %d: %w", offset, errChunk)
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
	count, length := binary.BigEndian.Uint32(buf[8:]), binary.BigEndian.Uint32(buf[12:])
	if buf[5] != kind || length > maxChunkPayload || int(length) > len(buf)-chunkHeaderSize || count > length || count == 0 {
		return chunkInfo{}, errChunk
	}
	end := chunkHeaderSize + int(length)
	if crc32.Checksum(buf[4:end], castagnoli) != binary.BigEndian.Uint32(buf) {
		return chunkInfo{}, errChunk
	}
	c := chunkInfo{
		first:  binary.BigEndian.Uint64(buf[16:]),
		count:  int(count),
		at:     int64(binary.BigEndian.Uint64(buf[24:])),
		before: int64(binary.BigEndian.Uint64(buf[32:])),
		bytes:  int64(binary.BigEndian.Uint64(buf[40:])),
		start:  chunkHeaderSize,
		end:    end,
	}
	// The checksum says that these are the bytes that were written; this says that they can be walked.
	var bytes int64
	offset := c.start
	for range c.count {
		n, size := binary.Uvarint(buf[offset:end])
		if size <= 0 || n > uint64(end-offset-size) {
			return chunkInfo{}, errChunk
		}
		offset += size + int(n)
		bytes += int64(n)
	}
	if offset != end || bytes != c.bytes || c.before < 0 || c.first > 1<<63 {
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

// blockView is a checked block, or the committed part of one that still grows, for readers. Its memory is never written again.
type blockView struct {
	buf     []byte
	chunks  []chunkInfo
	segment uint64 // base of the segment it is in
}

func (v *blockView) first() uint64 { return v.chunks[0].first }
func (v *blockView) last() uint64  { return v.chunks[len(v.chunks)-1].last() }
func (v *blockView) holds(seq uint64) bool {
	return len(v.chunks) > 0 && seq >= v.first() && seq <= v.last()
}

// appendOp appends a change of the state as an entry's bytes: the length of the key, the key, and what is left is one byte
// that says "set" and the value, or nothing for a deletion.
func appendOp(dst []byte, key string, value []byte) []byte {
	dst = append(binary.AppendUvarint(dst, uint64(len(key))), key...)
	if value != nil {
		dst = append(append(dst, 1), value...)
	}
	return dst
}

// parseOp reads what appendOp wrote; the value is nil for a deletion.
func parseOp(entry []byte) (key string, value []byte, err error) {
	n, size := binary.Uvarint(entry)
	if size <= 0 || n > uint64(len(entry)-size) {
		return "", nil, errChunk
	}
	rest := entry[size+int(n):]
	if len(rest) > 0 {
		value = rest[1:]
	}
	return string(entry[size : size+int(n)]), value, nil
}

func uvarintLen(n int) int {
	size := 1
	for ; n >= 0x80; n >>= 7 {
		size++
	}
	return size
}
