package cluster

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
)

// A message of the log is a part of what one call of the store writes: of a group, or of a segment
// that is begun. What is written is stored when its last part is. A message is, big endian,
//
//	 0  uint32  CRC-32C of everything after it
//	 4  uint8   version of this layout
//	 5  uint8   kind: group, segment or void
//	 6  uint8   flags
//	 7  uint8   zero
//	 8  uint64  epoch of the writer
//	16  uint64  number of the write, which the writer counts
//	24  uint32  number of the part, from 0 on
//	28  uint32  length of what describes the whole, which only the last part has
//	32  uint32  length of the changes of the state
//	36  uint64  its first record; where it has none, the one that comes next
//	44          description, changes of the state, records
//
// State and records are chunks of pkg/queue with checksums of their own. A part has whole chunks;
// one that is too long for a message takes several parts, each a fragment.
const (
	headerSize     = 44
	messageVersion = 1

	kindGroup   = 1
	kindSegment = 2
	// kindVoid stores nothing: somebody has asked whether it would be stored.
	kindVoid = 3

	// flagLast is the last part.
	flagLast = 1
	// flagMore says that the chunk goes on in the next part, flagRest that it has begun before.
	flagMore = 2
	flagRest = 4
)

var (
	big        = binary.BigEndian
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	errMessage = errors.New("checksum or layout of a message is wrong")
)

// message is a part.
type message struct {
	kind, flags   uint8
	epoch, write  uint64
	part          uint32
	first         uint64
	head          []byte
	state, record []byte
}

func (m *message) is(flag uint8) bool { return m.flags&flag != 0 }

func (m *message) encode() []byte {
	b := make([]byte, headerSize, headerSize+len(m.head)+len(m.state)+len(m.record))
	b[4], b[5], b[6] = messageVersion, m.kind, m.flags
	big.PutUint64(b[8:], m.epoch)
	big.PutUint64(b[16:], m.write)
	big.PutUint32(b[24:], m.part)
	big.PutUint32(b[28:], uint32(len(m.head)))
	big.PutUint32(b[32:], uint32(len(m.state)))
	big.PutUint64(b[36:], m.first)
	b = append(append(append(b, m.head...), m.state...), m.record...)
	big.PutUint32(b, crc32.Checksum(b[4:], castagnoli))
	return b
}

func decode(b []byte) (m message, err error) {
	if len(b) < headerSize || crc32.Checksum(b[4:], castagnoli) != big.Uint32(b) || b[4] != messageVersion {
		return m, errMessage
	}
	head, state := uint64(big.Uint32(b[28:])), uint64(big.Uint32(b[32:]))
	if head+state > uint64(len(b)-headerSize) {
		return m, errMessage
	}
	m = message{
		kind: b[5], flags: b[6], epoch: big.Uint64(b[8:]), write: big.Uint64(b[16:]),
		part: big.Uint32(b[24:]), first: big.Uint64(b[36:]),
	}
	b = b[headerSize:]
	m.head, m.state, m.record = b[:head:head], b[head:head+state:head+state], b[head+state:]
	return m, nil
}

// parts divides chunks into messages.
type parts struct {
	message // what all of them have
	// size is what a part has of chunks, when there is no need for more, and most what it may have.
	size, most int
	done       []message
}

// next ends a part.
func (p *parts) next(flags uint8) {
	m := p.message
	m.flags, m.part = flags, uint32(len(p.done))
	p.done = append(p.done, m)
	p.state, p.record = nil, nil
}

// add adds a chunk to one of the two kinds.
func (p *parts) add(to *[]byte, chunk []byte) {
	if n := len(p.state) + len(p.record); n > 0 && n+len(chunk) > p.size {
		p.next(0)
	}
	if len(chunk) <= p.most {
		*to = append(*to, chunk...)
		return
	}
	for flags := uint8(0); ; flags = flagRest {
		n := min(p.most, len(chunk))
		*to, chunk = append(*to, chunk[:n]...), chunk[n:]
		if len(chunk) == 0 {
			p.next(flags)
			return
		}
		p.next(flags | flagMore)
	}
}

func (p *parts) addState(chunks [][]byte) {
	for _, c := range chunks {
		p.add(&p.state, c)
	}
}

// end ends the last part.
func (p *parts) end(head []byte) []message {
	if len(p.state)+len(p.record) > p.size {
		p.next(0)
	}
	p.head = head
	p.next(flagLast)
	return p.done
}

// whole puts the parts of a write together again, as they come.
type whole struct {
	write       uint64
	parts       uint32
	bytes       int64 // of state and records
	state, head []byte
}

// take takes the next message of an epoch, and tells whether it was the last of its write.
func (w *whole) take(m *message) bool {
	if m.part == 0 {
		*w = whole{write: m.write}
	}
	if m.write != w.write || m.part != w.parts {
		*w = whole{} // of a write that has failed
		return false
	}
	w.parts++
	w.state = append(w.state, m.state...)
	w.head, w.bytes = m.head, w.bytes+int64(len(m.state)+len(m.record))
	return m.is(flagLast)
}
