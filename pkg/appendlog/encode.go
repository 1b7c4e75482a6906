package appendlog

import (
	"encoding/binary"
	"hash/crc32"
)

// The encodings that what is in frames is made of.

// AppendSized appends the length of v and v.
func AppendSized[T []byte | string](b []byte, v T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(v))), v...)
}

// AppendUints appends numbers of eight bytes each.
func AppendUints(b []byte, values ...uint64) []byte {
	for _, v := range values {
		b = big.AppendUint64(b, v)
	}
	return b
}

// CutSized reads what AppendSized wrote.
func CutSized(b []byte) (v, rest []byte, ok bool) {
	n, size := binary.Uvarint(b)
	if size <= 0 || n > uint64(len(b)-size) {
		return nil, nil, false
	}
	end := size + int(n)
	return b[size:end:end], b[end:], true
}

// AppendCRC appends a CRC-32C of b, or of the key before it for a value that means another thing
// under another key.
func AppendCRC(b []byte, key ...byte) []byte {
	return big.AppendUint32(b, checksum(key, b))
}

// CutCRC removes what AppendCRC has appended, and tells whether it is right.
func CutCRC(b []byte, key ...byte) ([]byte, bool) {
	n := len(b) - 4
	if n < 0 || checksum(key, b[:n]) != big.Uint32(b[n:]) {
		return nil, false
	}
	return b[:n], true
}

func checksum(key, b []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, b)
}
