package console

import (
	"cmp"
	"encoding/binary"
	"hash/crc32"
	"maps"
	"math/bits"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/ledger"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
)

// A slot is stored under the key of the partition and its number as:
//
//	version, 1 byte
//	the numbers that slot.each goes through, as varint
//	CRC-32 of all that
//
// Each slot has the head, all that is known of the partition beside its entries. That of the newest
// one counts.
//
// Version 2 lacked what had come live, and when the last message was recorded.
const (
	osVersion  = 3
	osVersion2 = 2
)

// osSlot is a slot as it is stored.
type osSlot struct {
	start   int64 // running number of its first entry
	slots   int64 // how many there are in its version
	head    *osPartition
	entries []osEntry
}

// each writes or reads all that is stored.
func (s *osSlot) each(c *codec) {
	p := s.head
	gaps, entries := int64(len(p.gaps)), int64(len(s.entries))
	code(c, &p.epoch, &p.top, &p.host, &p.hostBefore)
	code(c, &s.start, &p.lowest, &p.highest, &p.floor, &gaps, &entries)
	if c.version == osVersion {
		code(c, &p.published, &p.recorded)
	}
	if c.reading {
		p.gaps = make(spans, min(max(gaps, 0), maxGaps))
		s.entries = make([]osEntry, min(max(entries, 0), slotEntries))
	}
	for i := range p.gaps {
		code(c, &p.gaps[i].from, &p.gaps[i].to)
	}
	var last osEntry
	for i := range s.entries {
		e := s.entries[i]
		number, time := e.number-last.number, e.time-last.time
		code(c, &number, &time)
		code(c, &e.epoch, &e.hash)
		e.number, e.time = last.number+number, last.time+time
		s.entries[i], last = e, e
	}
}

// codec appends numbers, or reads them. After the first that is not there, all are 0.
type codec struct {
	b       []byte
	version byte
	reading bool
	bad     bool
}

func code[T int64 | uint32](c *codec, numbers ...*T) {
	for _, v := range numbers {
		if c.reading {
			read, n := binary.Varint(c.b)
			*v = T(read)
			c.skip(n)
		} else {
			c.b = binary.AppendVarint(c.b, int64(*v))
		}
	}
}

func (c *codec) skip(n int) {
	if n <= 0 || n > len(c.b) {
		c.bad = true
	} else {
		c.b = c.b[n:]
	}
}

func (s *osSlot) encode() []byte {
	c := codec{b: append(make([]byte, 0, 512), osVersion), version: osVersion}
	s.each(&c)
	return binary.BigEndian.AppendUint32(c.b, crc32.ChecksumIEEE(c.b))
}

// decode reads a slot, and reports whether it is whole.
func (s *osSlot) decode(b []byte) bool {
	size := len(b) - crc32.Size
	if size < 1 || crc32.ChecksumIEEE(b[:size]) != binary.BigEndian.Uint32(b[size:]) {
		return false
	}
	c := codec{b: b[1:size], version: b[0], reading: true}
	s.head, s.slots = new(osPartition), osSlots
	switch b[0] {
	case osVersion, osVersion2:
		s.each(&c)
	case osVersion1:
		s.read1(&c)
	default:
		return false
	}
	p := s.head
	if p != nil {
		// Version 1 took for missing what no HMC could have held.
		p.gaps = slices.DeleteFunc(p.gaps, func(gap span) bool { return gap.from > gap.to || !near(gap.from, gap.to) })
	}
	return !c.bad && len(c.b) == 0 && s.start >= 0 && s.start%slotEntries == 0
}

// Load replaces all that is known by what is stored. It keeps when each message came, which is not
// stored. It returns how many values could not be read: what they told is not known, and is
// delivered again where the HMC replays it.
func (o *OSMessages) Load(stored ledger.Stored) (damaged int) {
	before := maps.Clone(o.partitions)
	clear(o.partitions)
	o.changed, o.pending = nil, nil
	slots := make(map[string][]osSlot)
	stored(o.prefix, func(key string, value []byte) bool {
		var s osSlot
		partition := key[len(o.prefix):]
		i := strings.LastIndexByte(partition, '#')
		if i < 0 || !s.decode(value) || partition[i+1:] != strconv.FormatInt(s.start/slotEntries%s.slots, 10) {
			damaged++
			return true
		}
		slots[partition[:i]] = append(slots[partition[:i]], s)
		return true
	})
	for partition, of := range slots {
		p := o.partition(partition)
		if !p.join(of) {
			damaged++
		}
		if was := before[partition]; was != nil {
			p.recall(was)
		}
	}
	stored(o.startPrefix, func(key string, value []byte) bool {
		if n := len(value); n == 8 || n == binary.Size(osStart{}) { // earlier versions: the number alone
			p, value := o.partition(key[len(o.startPrefix):]), append(value, make([]byte, 16)...)
			_, err := binary.Decode(value, binary.BigEndian, &p.start)
			p.started = err == nil
		}
		return true
	})
	return damaged
}

// Anchor says at what time the state was loaded. What was replayed shortly before it was stored may
// not have come live yet.
func (o *OSMessages) Anchor(now time.Time) {
	at := o.clock(now)
	for _, p := range o.partitions {
		if p.recalled {
			continue
		}
		// The clock may have been set back.
		age := max(now.Sub(time.UnixMilli(p.recorded)), 0)
		if age >= replayRace {
			p.published = p.highest // all of it was published before the daemon was started
			continue
		}
		for i := range p.entries {
			if e := &p.entries[i]; e.received == 0 && e.of(p.epoch) && e.number > p.published {
				e.received = max(at-age, 1) // at the latest
			}
		}
	}
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
	return 1 << ((p.first + int64(max(i, 0))) / slotEntries % osSlots)
}

func (p *osPartition) appendState(dst []queue.KeyValue) []queue.KeyValue {
	for i := 0; i < len(p.entries); i += slotEntries {
		if bit := p.slot(i); p.dirty&bit != 0 {
			p.dirty &^= bit
			s := osSlot{start: p.first + int64(i), head: p, entries: p.entries[i:min(i+slotEntries, len(p.entries))]}
			dst = append(dst, queue.KeyValue{Key: p.slotKey(bit), Value: s.encode()})
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

// join makes the partition of its slots that could be read, at least one, and reports whether it
// could. What was in those between is taken as seen. What was in the newest ones will be delivered
// again if the HMC replays it, under the same event ids.
func (p *osPartition) join(slots []osSlot) bool {
	slices.SortFunc(slots, func(a, b osSlot) int { return cmp.Compare(a.start, b.start) })
	newest := slots[len(slots)-1]
	if newest.head == nil { // only in version 1; what is left of it goes
		p.touch(0)
		p.dirty = 1<<(newest.slots+1) - 1
		return false
	}
	head := *newest.head
	head.book, head.key = p.book, p.key
	*p = head
	slots = slices.DeleteFunc(slots, func(s osSlot) bool { return newest.start-s.start >= newest.slots*slotEntries })
	dropped := p.first > 0 || slots[0].start > 0
	p.first = slots[0].start
	whole := newest.slots == osSlots
	for _, s := range slots {
		hole := p.first+int64(len(p.entries)) < s.start
		whole, dropped = whole && !hole, dropped || hole
		for _, e := range s.entries {
			if hole && e.of(p.epoch) {
				p.floor, hole = max(p.floor, e.number-1), false
			}
			p.entries = append(p.entries, e)
		}
	}
	p.begun, p.limit = len(p.entries) > 0, max(leastEntries, len(p.entries))
	if !whole { // all is stored anew
		if p.first = 0; dropped {
			p.first = slotEntries
		}
		p.touch(0)
		p.dirty = 1<<(newest.slots+1) - 1
	}
	return true
}

// recall completes what was loaded after a commit failed: when a message came is not stored, but
// was known before.
func (p *osPartition) recall(was *osPartition) {
	for i := range p.entries {
		e, at := &p.entries[i], p.first+int64(i)-was.first
		if at < 0 || at >= int64(len(was.entries)) {
			continue
		}
		if old := &was.entries[at]; old.number == e.number && old.hash == e.hash {
			e.received = old.received
			if e.number == p.highest && e.of(p.epoch) {
				p.highestAt = e.received
			}
		}
	}
	p.recalled = true
	if p.epoch == was.epoch {
		p.began, p.published = was.began, min(was.published, p.highest)
	}
}
