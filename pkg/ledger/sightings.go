package ledger

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
)

const (
	sightingsPrefix = "told/" // group, NUL, kind, number of a chunk
	// maxSightings bounds how many reports of a kind are remembered.
	maxSightings = 50_000
	// sightingsChunk is how many of them are stored under one key.
	sightingsChunk = 16
	// longAgo is before what one HMC may still be about to report that another one has.
	longAgo = 5 * time.Second
)

// Sightings is the Book of what the HMCs of a group have reported lately, to recognize what another
// HMC of the group reports too. Each HMC reports a change once, so what one has reported twice has
// happened twice.
type Sightings struct {
	prefix  string
	keep    time.Duration
	members int

	byKey   map[event.ID][]*sighting
	chunks  []*sightings // the oldest first
	n       int
	next    uint64
	changed []*sightings // chunks that are to be stored
	gone    []uint64     // chunks that are to be deleted
}

// sighting is one thing that happened, and who has reported it.
type sighting struct {
	key event.ID
	at  time.Time
	by  []string
	in  *sightings
}

// sightings are those that are stored under one key.
type sightings struct {
	number  uint64
	list    []*sighting
	changed bool
	deleted bool
}

// NewSightings returns the book of one kind of reports of a group, which remembers them for a time.
func NewSightings(group, kind string, keep time.Duration) *Sightings {
	return &Sightings{
		prefix: sightingsPrefix + group + "\x00" + kind + "/", keep: keep, byKey: make(map[event.ID][]*sighting),
	}
}

// SetMembers says how many HMCs the group has. Where there is one, nothing is remembered.
func (s *Sightings) SetMembers(n int) {
	s.members = n
	for !s.Shared() && len(s.chunks) > 0 {
		s.dropOldest()
	}
}

// Shared reports whether there is another HMC that could report the same.
func (s *Sightings) Shared() bool { return s.members > 1 }

// Report notes that an HMC reports something, and returns whether that is a repetition of what
// another HMC of the group has reported. same says whether a report of another HMC, of the time
// given, can be of the same happening.
func (s *Sightings) Report(
	key event.ID, hmc string, at time.Time, same func(first string, reported time.Time) bool,
) (repetition bool) {
	if !s.Shared() {
		return false
	}
	s.expire(at)
	for _, o := range s.byKey[key] {
		if slices.Contains(o.by, hmc) || !same(o.by[0], o.at) {
			continue
		}
		o.by = append(o.by, hmc)
		if s.touch(o.in); len(o.by) >= s.members {
			s.remove(o)
		}
		return true
	}
	s.add(&sighting{key: key, at: at, by: []string{hmc}})
	return false
}

func (s *Sightings) add(o *sighting) {
	if len(s.chunks) == 0 || len(s.chunks[len(s.chunks)-1].list) >= sightingsChunk {
		s.chunks = append(s.chunks, &sightings{number: s.next})
		s.next++
	}
	o.in = s.chunks[len(s.chunks)-1]
	o.in.list = append(o.in.list, o)
	s.touch(o.in)
	s.byKey[o.key] = append(s.byKey[o.key], o)
	s.n++
}

// touch notes that a chunk has to be stored.
func (s *Sightings) touch(c *sightings) {
	if !c.changed {
		c.changed = true
		s.changed = append(s.changed, c)
	}
}

// remove forgets a report that all HMCs have made, and its chunk once that is empty.
func (s *Sightings) remove(o *sighting) {
	c := o.in
	c.list = without(c.list, o)
	s.touch(c)
	s.forget(o)
	if len(c.list) == 0 {
		i := slices.Index(s.chunks, c)
		s.chunks = slices.Delete(s.chunks, i, i+1)
		s.delete(c)
	}
}

func (s *Sightings) forget(o *sighting) {
	s.n--
	if list := without(s.byKey[o.key], o); len(list) > 0 {
		s.byKey[o.key] = list
	} else {
		delete(s.byKey, o.key)
	}
}

func without(list []*sighting, o *sighting) []*sighting {
	i := slices.Index(list, o)
	return slices.Delete(list, i, i+1)
}

// delete has the chunk deleted where it is stored.
func (s *Sightings) delete(c *sightings) {
	c.deleted = true
	s.gone = append(s.gone, c.number)
}

// expire forgets what is too old, and the oldest of what is too much.
func (s *Sightings) expire(now time.Time) {
	for s.n > 0 {
		// What one HMC has reported waits longer to be recorded than what another one has.
		last := slices.MaxFunc(s.chunks[0].list, func(a, b *sighting) int { return a.at.Compare(b.at) })
		if now.Sub(last.at) <= s.keep && s.n < maxSightings {
			return
		}
		s.dropOldest()
	}
}

// dropOldest forgets the oldest chunk, with what is in it.
func (s *Sightings) dropOldest() {
	c := s.chunks[0]
	s.chunks = s.chunks[1:]
	s.delete(c)
	for _, o := range c.list {
		s.forget(o)
	}
}

func (s *Sightings) key(number uint64) string { return fmt.Sprintf("%s%016x", s.prefix, number) }

// Changes implements Book.
func (s *Sightings) Changes(dst []queue.KeyValue) []queue.KeyValue {
	for _, number := range s.gone {
		dst = append(dst, queue.KeyValue{Key: s.key(number)})
	}
	s.gone = s.gone[:0]
	for _, c := range s.changed {
		if c.changed = false; !c.deleted {
			dst = append(dst, queue.KeyValue{Key: s.key(c.number), Value: c.value()})
		}
	}
	s.changed = s.changed[:0]
	return dst
}

// value is what is stored of a chunk: of each report its key, its time, and by whom it came.
func (c *sightings) value() (out []byte) {
	for _, o := range c.list {
		out = append(out, o.key[:]...)
		out = binary.BigEndian.AppendUint64(out, uint64(o.at.UnixNano()))
		out = append(out, byte(min(len(o.by), 255)))
		for _, hmc := range o.by[:min(len(o.by), 255)] {
			out = binary.AppendUvarint(out, uint64(len(hmc)))
			out = append(out, hmc...)
		}
	}
	return out
}

// Load implements Book.
func (s *Sightings) Load(stored Stored) (damaged int) {
	clear(s.byKey)
	s.chunks, s.changed, s.gone, s.n, s.next = nil, nil, nil, 0, 0
	stored(s.prefix, func(key string, value []byte) bool {
		number, err := strconv.ParseUint(key[len(s.prefix):], 16, 64)
		if err != nil {
			damaged++
			return true
		}
		s.next = max(s.next, number+1)
		list, ok := parseSightings(value)
		if !ok {
			damaged++
		}
		if len(list) == 0 {
			s.gone = append(s.gone, number)
			return true
		}
		c := &sightings{number: number, list: list}
		for _, o := range list {
			o.in = c
			s.byKey[o.key] = append(s.byKey[o.key], o)
			s.n++
		}
		s.chunks = append(s.chunks, c)
		return true
	})
	slices.SortFunc(s.chunks, func(a, b *sightings) int { return cmp.Compare(a.number, b.number) })
	return damaged
}

// Anchor makes the times that were loaded those of the clock that now was read from. What that
// clock is behind of was reported before it was set back: not at the moment.
func (s *Sightings) Anchor(now time.Time) {
	for _, c := range s.chunks {
		for _, o := range c.list {
			if o.at.After(now) {
				o.at = now.Add(-min(s.keep, longAgo))
			}
			o.at = event.Anchored(o.at, now)
		}
	}
}

func parseSightings(value []byte) (list []*sighting, ok bool) {
	const fixed = len(event.ID{}) + 8 + 1
	for len(value) > 0 {
		if len(value) < fixed {
			return list, false
		}
		o := &sighting{key: event.ID(value), at: time.Unix(0, int64(binary.BigEndian.Uint64(value[len(event.ID{}):])))}
		n := int(value[fixed-1])
		value = value[fixed:]
		for range n {
			size, read := binary.Uvarint(value)
			if read <= 0 || size > uint64(len(value)-read) {
				return list, false
			}
			o.by = append(o.by, string(value[read:read+int(size)]))
			value = value[read+int(size):]
		}
		if n == 0 {
			return list, false
		}
		list = append(list, o)
	}
	return list, true
}
