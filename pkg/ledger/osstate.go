package ledger

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"hash/crc32"
	"io"
	"math"
	"math/bits"
	"slices"
	"strconv"
	"strings"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
)

// A slot is stored under the key of the partition and its number as:
//
//	version, 1 byte
//	running number of its first entry, number of entries: uvarint
//	1 and the head; 0: none, only in version 1
//	the entries: flags, epoch if it is not that of the entry before (uvarint), difference to the number
//	    before (varint), hash, difference to the time before if it has one (varint)
//	CRC-32 of all that
//
// The head is all that is known of the partition beside its entries. That of the newest slot counts.
// Version 1 has 8 slots and another head, 8 bytes of the event id in place of the hash, and entries
// that are to be ignored.
const (
	osVersion1 = 1
	osVersion  = 2
)

// Flags of a stored entry; the first two of version 1.
const (
	storedGone = 1 << iota
	storedReplayed
	storedTime
	storedEpoch
)

// Flags of a stored head. The second one says in version 1 that messages are not remembered any more.
const (
	storedBegun = 1 << iota
	storedMoved
)

func flag(set bool, bit byte) byte {
	if set {
		return bit
	}
	return 0
}

// Load replaces all that is known by what is stored. rangeState is the StateRange of the queue. It
// returns how many values could not be read: what they told is not known, and is delivered again where
// the HMC replays it.
func (o *OSMessages) Load(rangeState func(prefix string, f func(key string, value []byte) bool)) (damaged int) {
	clear(o.partitions)
	o.changed, o.pending = nil, nil
	slots := make(map[string][]osSlot)
	rangeState(o.prefix, func(key string, value []byte) bool {
		partition, number, ok := cutLast(key[len(o.prefix):], "#")
		s, whole := decodeSlot(value)
		if !ok || !whole || number != strconv.FormatUint(s.start/slotEntries%s.slots, 10) {
			damaged++
		} else {
			slots[partition] = append(slots[partition], s)
		}
		return true
	})
	for partition, of := range slots {
		if !o.partition(partition).join(of) {
			damaged++
			delete(o.partitions, partition)
		}
	}
	rangeState(o.startPrefix, func(key string, value []byte) bool {
		if len(value) == 8 {
			p := o.partition(key[len(o.startPrefix):])
			p.started, p.start = true, int64(binary.BigEndian.Uint64(value))
		}
		return true
	})
	return damaged
}

func cutLast(s, separator string) (before, after string, found bool) {
	i := strings.LastIndex(s, separator)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(separator):], true
}

// Changes appends what is to be stored since the last call. A nil value deletes.
func (o *OSMessages) Changes(dst []queue.KeyValue) []queue.KeyValue {
	dst = append(dst, o.pending...)
	o.pending = o.pending[:0]
	for _, p := range o.changed {
		dst = p.appendState(dst)
	}
	o.changed = o.changed[:0]
	return dst
}

// touch notes that the slot of an entry has to be stored.
func (p *osPartition) touch(i int) {
	if p.dirty == 0 {
		p.book.changed = append(p.book.changed, p)
	}
	p.dirty |= p.slot(i)
}

// slot returns the bit of an entry's slot.
func (p *osPartition) slot(i int) uint64 {
	return 1 << ((p.first + uint64(max(i, 0))) / slotEntries % osSlots)
}

// slots returns the bits of all slots that have entries.
func (p *osPartition) slots() (all uint64) {
	for i := 0; i < len(p.entries); i += slotEntries {
		all |= p.slot(i)
	}
	return all
}

func (p *osPartition) appendState(dst []queue.KeyValue) []queue.KeyValue {
	for i := 0; i < len(p.entries); i += slotEntries {
		if bit := p.slot(i); p.dirty&bit != 0 {
			p.dirty &^= bit
			dst = append(dst, queue.KeyValue{Key: p.slotKey(bit), Value: p.encodeSlot(i)})
		}
	}
	for ; p.dirty != 0; p.dirty &= p.dirty - 1 {
		dst = append(dst, queue.KeyValue{Key: p.slotKey(p.dirty & -p.dirty)})
	}
	return dst
}

func (p *osPartition) slotKey(bit uint64) string {
	return p.key + "#" + strconv.Itoa(bits.TrailingZeros64(bit))
}

func (p *osPartition) encodeSlot(start int) []byte {
	entries := p.entries[start:min(start+slotEntries, len(p.entries))]
	b := make([]byte, 0, 96+16*len(entries))
	b = append(b, osVersion)
	b = binary.AppendUvarint(b, p.first+uint64(start))
	b = binary.AppendUvarint(b, uint64(len(entries)))
	b = append(b, 1, flag(p.begun, storedBegun)|flag(p.moved, storedMoved))
	for _, v := range []uint64{uint64(p.epoch), uint64(p.top), uint64(p.host)} {
		b = binary.AppendUvarint(b, v)
	}
	for _, v := range []int64{p.lowest, p.highest, p.floor} {
		b = binary.AppendVarint(b, v)
	}
	b = binary.AppendUvarint(b, uint64(len(p.gaps)))
	for _, gap := range p.gaps {
		b = binary.AppendVarint(binary.AppendVarint(b, gap.from), gap.to)
	}
	var last osEntry
	for _, e := range entries {
		b = append(b, flag(e.time > 0, storedTime)|flag(e.epoch != last.epoch, storedEpoch))
		if e.epoch != last.epoch {
			b = binary.AppendUvarint(b, uint64(e.epoch))
		}
		b = binary.AppendVarint(b, e.number-last.number)
		b = binary.BigEndian.AppendUint32(b, e.hash)
		if e.time > 0 {
			b = binary.AppendVarint(b, e.time-last.time)
		} else {
			e.time = last.time
		}
		last = e
	}
	return binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
}

// osSlot is a slot as it was read.
type osSlot struct {
	start   uint64
	slots   uint64 // how many there are in its version
	entries []osEntry
	head    *osPartition // nil: it has none
}

// decodeSlot returns what a value holds, and whether it is whole.
func decodeSlot(b []byte) (s osSlot, ok bool) {
	size := len(b) - crc32.Size
	if size < 1 || crc32.ChecksumIEEE(b[:size]) != binary.BigEndian.Uint32(b[size:]) {
		return s, false
	}
	r := &slotReader{b: bytes.NewReader(b[:size])}
	var mark uint32
	hash := make([]byte, 4, 8)
	version := r.byte()
	s.slots = osSlots
	if version == osVersion1 {
		s.slots, mark, hash = 8, byID, hash[:8]
	}
	s.start = uint64(r.number(math.MaxInt64))
	count := r.number(slotEntries)
	if r.byte() == 1 {
		s.head = r.head(version)
	}
	last := osEntry{epoch: mark}
	for range count {
		flags := r.byte()
		if version == osVersion1 && flags&storedGone != 0 {
			continue
		}
		e := last
		if flags&storedEpoch != 0 {
			e.epoch = uint32(r.number(byID|maxEpoch)) | mark
		}
		e.number += r.signed()
		r.read(hash)
		e.hash = binary.BigEndian.Uint32(hash)
		if flags&storedTime != 0 {
			e.time += r.signed()
		}
		last = e
		if flags&storedTime == 0 {
			e.time = 0
		}
		s.entries = append(s.entries, e)
	}
	known := version == osVersion1 || version == osVersion
	return s, known && r.err == nil && r.b.Len() == 0 && s.start%slotEntries == 0
}

func (r *slotReader) head(version byte) *osPartition {
	flags := r.byte()
	p := &osPartition{begun: flags&storedBegun != 0, epoch: uint32(r.number(maxEpoch)), top: uint32(r.number(maxEpoch))}
	if version == osVersion {
		p.moved, p.host = flags&storedMoved != 0, uint32(r.number(math.MaxUint32))
	}
	p.lowest, p.highest, p.floor = r.signed(), r.signed(), r.signed()
	if version == osVersion1 {
		_ = r.signed() // the latest time of what is not remembered any more
		p.first = uint64(flags&storedMoved) * slotEntries
	}
	p.gaps = r.gaps()
	if version == osVersion1 {
		for range r.number(4) { // the sequences before
			r.number(maxEpoch)
			_, _, _, _ = r.signed(), r.signed(), r.signed(), r.gaps()
		}
	}
	return p
}

// gaps leaves out what version 1 took for missing and no HMC could have held.
func (r *slotReader) gaps() (s spans) {
	for range r.number(maxGaps) {
		if gap := (span{r.signed(), r.signed()}); gap.from <= gap.to && near(gap.from, gap.to) {
			s = append(s, gap)
		}
	}
	return s
}

// slotReader reads the numbers of a slot. After the first that is not there, all are 0.
type slotReader struct {
	b   *bytes.Reader
	err error
}

func (r *slotReader) read(b []byte) {
	if _, err := io.ReadFull(r.b, b); err != nil {
		r.err = err
	}
}

func (r *slotReader) byte() byte {
	var b [1]byte
	r.read(b[:])
	return b[0]
}

func (r *slotReader) number(limit uint64) uint64 {
	v, err := binary.ReadUvarint(r.b)
	if err == nil && v > limit {
		err = strconv.ErrRange
	}
	if err != nil {
		r.err = err
		return 0
	}
	return v
}

func (r *slotReader) signed() int64 {
	v, err := binary.ReadVarint(r.b)
	if err != nil {
		r.err = err
	}
	return v
}

// join makes the partition of its slots that could be read, at least one, and reports whether it could.
// What was in those between is taken as seen. What was in the newest ones will be delivered again if the
// HMC replays it, under the same event ids.
func (p *osPartition) join(slots []osSlot) bool {
	slices.SortFunc(slots, func(a, b osSlot) int { return cmp.Compare(a.start, b.start) })
	newest := slots[len(slots)-1]
	if newest.head == nil {
		return false
	}
	head := *newest.head
	head.book, head.key, head.published = p.book, p.key, none
	*p = head
	if p.begun {
		p.published = p.highest // all of it was written before the daemon was started
	}
	slots = slices.DeleteFunc(slots, func(s osSlot) bool { return newest.start-s.start >= newest.slots*slotEntries })
	dropped := p.first > 0 || slots[0].start > 0
	p.first = slots[0].start
	whole := newest.slots == osSlots
	for _, s := range slots {
		hole := p.first+uint64(len(p.entries)) < s.start
		whole, dropped = whole && !hole, dropped || hole
		for _, e := range s.entries {
			if hole && e.of(p.epoch) {
				p.floor, hole = max(p.floor, e.number-1), false
			}
			p.entries = append(p.entries, e)
		}
	}
	p.limit = max(leastEntries, len(p.entries))
	if !whole { // all is stored anew
		if p.first = 0; dropped {
			p.first = slotEntries
		}
		p.touch(0)
		p.dirty = math.MaxUint64
	}
	return true
}
