package ledger

import (
	"encoding/binary"
	"math/bits"
	"math/rand/v2"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// idSet is a set of ids: a table with open addressing. An id is looked for from its slot on up to
// the first that is free. Compared with a map it takes one cache miss instead of two or three,
// which for a window of many ids is nearly all that adding and removing one costs. The id of zeros,
// which a hash does not have, is never in it.
type idSet struct {
	slots []event.ID // as many as a power of two; at least half of them are free, which are zero
	n     int
	// mix is odd, and another one in each process, so that nobody can choose ids that meet.
	mix uint64
}

func newIDSet() idSet { return idSet{slots: make([]event.ID, 16), mix: rand.Uint64() | 1} }

// slot is where an id is looked for first.
func (s *idSet) slot(id *event.ID) int {
	return int(binary.LittleEndian.Uint64(id[:]) * s.mix >> (65 - bits.Len(uint(len(s.slots)))))
}

// find returns the slot that an id is in, or the free one where it would be.
func (s *idSet) find(id *event.ID) (at int, found bool) {
	for at = s.slot(id); s.slots[at] != *id; at = (at + 1) & (len(s.slots) - 1) {
		if s.slots[at] == (event.ID{}) {
			return at, false
		}
	}
	return at, *id != event.ID{}
}

// add reports whether an id was not in the set.
func (s *idSet) add(id event.ID) (added bool) {
	at, found := s.find(&id)
	if found || id == (event.ID{}) {
		return false
	}
	s.slots[at] = id
	if s.n++; 2*s.n > len(s.slots) {
		old := s.slots
		s.slots = make([]event.ID, 2*len(old))
		for i := range old {
			at, _ := s.find(&old[i])
			s.slots[at] = old[i]
		}
	}
	return true
}

// remove takes an id out. Those behind it up to the next free slot move up as far as they are still
// found.
func (s *idSet) remove(id event.ID) {
	at, found := s.find(&id)
	if !found {
		return
	}
	mask := len(s.slots) - 1
	for i := (at + 1) & mask; s.slots[i] != (event.ID{}); i = (i + 1) & mask {
		if (i-s.slot(&s.slots[i]))&mask >= (i-at)&mask {
			s.slots[at] = s.slots[i]
			at = i
		}
	}
	s.slots[at] = event.ID{}
	s.n--
}
