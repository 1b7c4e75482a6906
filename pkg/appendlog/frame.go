// Package appendlog keeps frames of bytes in files that are only ever appended to. Frames are
// written in groups, of which after a crash or a loss of power all is there or nothing, with one
// sync for each. Damage costs the frames that it hits: the others are found again. What the frames
// mean is the business of whoever writes them.
package appendlog

import (
	"encoding/binary"
	"hash/crc32"
)

// A frame is a header of HeaderSize bytes, big endian,
//
//	 0  uint32     CRC-32C of everything after it, payload included
//	 4  uint8      version of this layout
//	 5  uint8      kind
//	 6  uint16     zero
//	 8  uint32     number of entries
//	12  uint32     length of the payload
//	16  4 x uint64 what the kind makes of them
//
// and the payload.
const (
	HeaderSize = 48
	version    = 1
	// maxPayload bounds what a reader believes of a length.
	maxPayload = 1 << 30
)

// The kinds of a File itself. Others are below them.
const (
	// kindCommit ends a group. Its numbers are where the group begins, and 1 if what came
	// before it was synced before it was written.
	kindCommit = 0xf0
	// kindEnd is the last frame of a file that was ended.
	kindEnd = 0xf1
)

var (
	big        = binary.BigEndian
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// Frame describes a frame.
type Frame struct {
	Kind    uint8
	Count   uint32
	Numbers [4]uint64
	// Where its header begins.
	Offset int64
	// bytes of the payload
	Length int
}

// End is where the frame ends.
func (f *Frame) End() int64 { return f.Offset + HeaderSize + int64(f.Length) }

// Seal writes the header of a frame, in front of its payload, which begins at HeaderSize.
func Seal(frame []byte, kind uint8, count uint32, numbers [4]uint64) {
	h := frame[:HeaderSize]
	h[4], h[5], h[6], h[7] = version, kind, 0, 0
	big.PutUint32(h[8:], count)
	big.PutUint32(h[12:], uint32(len(frame)-HeaderSize))
	for i, n := range numbers {
		big.PutUint64(h[16+8*i:], n)
	}
	big.PutUint32(h, crc32.Checksum(frame[4:], castagnoli))
}

// header reads a header without its checksum; room is how much there is, header included.
func header(b []byte, room int64) (f Frame, ok bool) {
	length := int64(big.Uint32(b[12:]))
	if b[4] != version || b[6] != 0 || b[7] != 0 || length > maxPayload || length > room-HeaderSize {
		return f, false
	}
	f = Frame{Kind: b[5], Count: big.Uint32(b[8:]), Length: int(length)}
	for i := range f.Numbers {
		f.Numbers[i] = big.Uint64(b[16+8*i:])
	}
	return f, true
}

// Parse reads the frame that b begins with, and checks it.
func Parse(b []byte) (f Frame, ok bool) {
	if len(b) < HeaderSize {
		return f, false
	}
	f, ok = header(b, int64(len(b)))
	return f, ok && crc32.Checksum(b[4:f.End()], castagnoli) == big.Uint32(b)
}

// Walk calls fn for the frames of b, until it returns false. It passes over what is damaged.
func Walk(b []byte, fn func(f Frame) bool) {
	for at := 0; at+HeaderSize <= len(b); {
		f, ok := Parse(b[at:])
		if !ok {
			at += nextHeader(b[at:])
			continue
		}
		f.Offset = int64(at)
		if !fn(f) {
			return
		}
		at = int(f.End())
	}
}

// nextHeader returns how far it is to what may be a header, which is not at the beginning of b.
func nextHeader(b []byte) int {
	for i := 1; i+8 <= len(b); i++ {
		if b[i+4] == version && b[i+6] == 0 && b[i+7] == 0 {
			return i
		}
	}
	return max(1, len(b)-7)
}
