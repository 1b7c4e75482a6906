package console

import "encoding/binary"

// Version 1 has 8 slots, a head in the newest one only, 8 bytes of the event id in place of a hash,
// entries that are to be ignored, and unsigned numbers as uvarint.
const osVersion1 = 1

// Flags of a head and of an entry of version 1.
const (
	dropped1 = 2
	gone1    = 1
	time1    = 4
	epoch1   = 8
)

func (s *osSlot) read1(c *codec) {
	s.slots = 8
	s.start = int64(c.unsigned())
	count := min(c.unsigned(), slotEntries)
	if c.byte() == 1 {
		s.head.read1(c)
	} else {
		s.head = nil
	}
	last := osEntry{epoch: byID}
	for range count {
		flags := c.byte()
		if flags&gone1 != 0 {
			continue
		}
		if flags&epoch1 != 0 {
			last.epoch = uint32(c.unsigned()) | byID
		}
		last.number += c.signed()
		if len(c.b) >= 4 {
			last.hash = binary.BigEndian.Uint32(c.b)
		}
		c.skip(8)
		e := last
		if e.time = 0; flags&time1 != 0 {
			last.time += c.signed()
			e.time = last.time
		}
		s.entries = append(s.entries, e)
	}
}

func (p *osPartition) read1(c *codec) {
	p.first = int64(c.byte()&dropped1) * slotEntries
	p.epoch, p.top = uint32(c.unsigned()), uint32(c.unsigned())
	p.lowest, p.highest, p.floor, _ = c.signed(), c.signed(), c.signed(), c.signed()
	p.gaps = c.gaps1()
	for range min(c.unsigned(), 4) { // the sequences before
		c.unsigned()
		_, _, _, _ = c.signed(), c.signed(), c.signed(), c.gaps1()
	}
}

func (c *codec) gaps1() (s spans) {
	for range min(c.unsigned(), maxGaps) {
		s = append(s, span{c.signed(), c.signed()})
	}
	return s
}

func (c *codec) signed() (v int64) {
	code(c, &v)
	return v
}

func (c *codec) unsigned() uint64 {
	v, n := binary.Uvarint(c.b)
	c.skip(n)
	return v
}

func (c *codec) byte() (b byte) {
	if len(c.b) > 0 {
		b = c.b[0]
	}
	c.skip(1)
	return b
}
