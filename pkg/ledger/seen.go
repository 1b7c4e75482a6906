package ledger

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
)

const (
	seenPrefix = "seen/" // HMC, NUL, number of a chunk
	// seenChunk is how many ids are stored under one key while few come at a time: a new id
	// costs its chunk.
	seenChunk = 8
)

// SeenWindow knows the ids of the notifications that were recorded last, of all HMCs: those of a
// time, and no more than a number, give or take a chunk for each HMC. An id that is not among them
// is new. Safe for concurrent use, for HMCs share the limit.
type SeenWindow struct {
	mu     sync.Mutex
	window time.Duration
	maxIDs int
	ids    idSet
	chunks []*seenIDs // oldest first
}

// seenIDs are ids that are stored under one key.
type seenIDs struct {
	of     *Seen
	number uint64    // in the key
	at     time.Time // when the last was added
	ids    []event.ID
	gone   bool
}

// Seen is the Book of the ids of one HMC's notifications.
type Seen struct {
	w      *SeenWindow
	prefix string
	next   uint64     // number of the next chunk
	open   *seenIDs   // has room for more
	done   []*seenIDs // have left the window, and are to be deleted
	added  []event.ID // since Changes
	at     time.Time  // when the last was added
}

// NewSeenWindow makes a window. Without a time, or with room for no id, nothing is recognized.
func NewSeenWindow(window time.Duration, maxIDs int) *SeenWindow {
	return &SeenWindow{window: window, maxIDs: maxIDs, ids: newIDSet()}
}

// Configure changes the limits.
func (w *SeenWindow) Configure(window time.Duration, maxIDs int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.window, w.maxIDs = window, maxIDs
}

// Of returns the book of an HMC. There is one at a time for each name.
func (w *SeenWindow) Of(hmc string) *Seen { return &Seen{w: w, prefix: seenPrefix + hmc + "\x00"} }

// Load implements Book.
func (s *Seen) Load(stored Stored) (damaged int) {
	w := s.w
	w.mu.Lock()
	defer w.mu.Unlock()
	w.drop(func(c *seenIDs) bool { return c.of.prefix == s.prefix })
	for _, id := range s.added {
		w.ids.remove(id)
	}
	s.open, s.done, s.added, s.next = nil, nil, nil, 0
	stored(s.prefix, func(key string, value []byte) bool {
		number, err := strconv.ParseUint(key[len(s.prefix):], 16, 64)
		if err != nil || len(value) < 8 || (len(value)-8)%len(event.ID{}) != 0 {
			damaged++
			return true
		}
		c := &seenIDs{of: s, number: number, at: time.Unix(0, int64(binary.BigEndian.Uint64(value)))}
		for raw := range slices.Chunk(value[8:], len(event.ID{})) {
			c.ids = append(c.ids, event.ID(raw))
			w.ids.add(event.ID(raw))
		}
		w.chunks = append(w.chunks, c)
		s.next = max(s.next, number+1)
		return true
	})
	slices.SortStableFunc(w.chunks, func(a, b *seenIDs) int { return a.at.Compare(b.at) })
	return damaged
}

// Anchor makes the times that were loaded those of the clock that now was read from.
func (s *Seen) Anchor(now time.Time) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	for _, c := range s.w.chunks {
		if c.of == s {
			c.at = event.Anchored(c.at, now)
		}
	}
}

// drop takes chunks out of the window.
func (w *SeenWindow) drop(which func(c *seenIDs) bool) {
	w.chunks = slices.DeleteFunc(w.chunks, func(c *seenIDs) bool {
		if !which(c) {
			return false
		}
		for _, id := range c.ids {
			w.ids.remove(id)
		}
		c.gone = true
		return true
	})
}

// Add reports whether an id is in the window, and puts it there if it is not.
func (s *Seen) Add(id event.ID, now time.Time) (known bool) {
	w := s.w
	w.mu.Lock()
	defer w.mu.Unlock()
	s.at = now
	if w.window <= 0 || w.maxIDs <= 0 {
		_, known = w.ids.find(&id)
		return known
	}
	if !w.ids.add(id) {
		return true
	}
	s.added = append(s.added, id)
	return false
}

// Changes implements Book.
func (s *Seen) Changes(dst []queue.KeyValue) []queue.KeyValue {
	w := s.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(s.added) > 0 {
		c := s.open
		if c == nil || c.gone || len(c.ids)+len(s.added) > seenChunk {
			c = &seenIDs{of: s, number: s.next}
			s.next++
			w.chunks = append(w.chunks, c)
			s.open = c
		}
		c.ids = append(c.ids, s.added...)
		c.at = s.at
		s.added = s.added[:0]
		dst = append(dst, queue.KeyValue{Key: c.key(), Value: c.value()})
	}
	w.expire(s.at)
	for _, c := range s.done {
		dst = append(dst, queue.KeyValue{Key: c.key()})
	}
	s.done = s.done[:0]
	return dst
}

// expire takes out what is too old or too much, the oldest first.
func (w *SeenWindow) expire(now time.Time) {
	n := 0
	for ; n < len(w.chunks); n++ {
		c := w.chunks[n]
		// Within the limit of the number up to a chunk of it: the oldest of a chunk go
		// together.
		if now.Sub(c.at) <= w.window && w.ids.n-len(c.ids) < w.maxIDs {
			break
		}
		for _, id := range c.ids {
			w.ids.remove(id)
		}
		c.gone = true
		c.of.done = append(c.of.done, c)
	}
	w.chunks = slices.Delete(w.chunks, 0, n)
}

func (c *seenIDs) key() string { return fmt.Sprintf("%s%016x", c.of.prefix, c.number) }

func (c *seenIDs) value() []byte {
	out := binary.BigEndian.AppendUint64(make([]byte, 0, 8+len(c.ids)*len(event.ID{})), uint64(c.at.UnixNano()))
	for i := range c.ids {
		out = append(out, c.ids[i][:]...)
	}
	return out
}
