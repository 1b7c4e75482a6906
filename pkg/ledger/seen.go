package ledger

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
)

const (
	StateSeen = "seen/" // ids of notifications
)

// seenChunk is how many ids are stored under one key while few come at a time: what is stored for a new id is its chunk.
const seenChunk = 32

// SeenWindow knows the ids of the notifications that were recorded last, of all HMCs: those of a time, and no more than a
// number, give or take a chunk for each HMC. An id that is not among them is new. What it knows is stored by those who add to it, together with what they
// record, and read again at a start. Safe for concurrent use.
type SeenWindow struct {
	mu      sync.Mutex
	window  time.Duration
	maxIDs  int
	ids     map[event.ID]struct{}
	chunks  []*seenIDs // oldest first
	handles map[string]*SeenHandle
}

// seenIDs are ids that are stored under one key, of one HMC.
type seenIDs struct {
	hmc    string
	number uint64 // in the key
	at     int64  // when the last was added, Unix nanoseconds
	ids    []event.ID
	gone   bool
}

// SeenHandle is the window as one HMC's recorder uses it. The batches of one recorder are stored in the order of its calls
// of persist; those of two are not, so that each has chunks of its own.
type SeenHandle struct {
	w    *SeenWindow
	hmc  string
	next uint64     // number of the next chunk
	open *seenIDs   // has room for more
	done []*seenIDs // have left the window, and are to be deleted
}

// NewSeenWindow makes a window. Without a time, or with room for no id, nothing is recognized.
func NewSeenWindow(window time.Duration, maxIDs int) *SeenWindow {
	return &SeenWindow{window: window, maxIDs: maxIDs, ids: make(map[event.ID]struct{}), handles: make(map[string]*SeenHandle)}
}

// Configure changes the limits.
func (w *SeenWindow) Configure(window time.Duration, maxIDs int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.window, w.maxIDs = window, maxIDs
}

// Handle returns the window for an HMC. There is one for each name.
func (w *SeenWindow) Handle(hmc string) *SeenHandle {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.handleLocked(hmc)
}

func (w *SeenWindow) handleLocked(hmc string) *SeenHandle {
	h := w.handles[hmc]
	if h == nil {
		h = &SeenHandle{w: w, hmc: hmc}
		w.handles[hmc] = h
	}
	return h
}

// Load takes in what was stored. finish has to be called after the last pair. A value that cannot be read is none.
func (w *SeenWindow) Load(key string, value []byte) {
	hmc, text, ok := strings.Cut(strings.TrimPrefix(key, StateSeen), "\x00")
	number, err := strconv.ParseUint(text, 16, 64)
	if !ok || err != nil || len(value) < 8 || (len(value)-8)%len(event.ID{}) != 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	c := &seenIDs{hmc: hmc, number: number, at: int64(binary.BigEndian.Uint64(value))}
	for raw := range slices.Chunk(value[8:], len(event.ID{})) {
		id := event.ID(raw)
		c.ids = append(c.ids, id)
		w.ids[id] = struct{}{}
	}
	w.chunks = append(w.chunks, c)
	h := w.handleLocked(hmc)
	h.next = max(h.next, number+1)
}

// Finish puts what was loaded into its order.
func (w *SeenWindow) Finish() {
	w.mu.Lock()
	defer w.mu.Unlock()
	slices.SortStableFunc(w.chunks, func(a, b *seenIDs) int { return int(min(max(a.at-b.at, -1), 1)) })
}

// Add reports whether an id is in the window, and puts it there if it is not.
func (h *SeenHandle) Add(id event.ID) (known bool) {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	if _, known = h.w.ids[id]; !known && h.w.window > 0 && h.w.maxIDs > 0 {
		h.w.ids[id] = struct{}{}
	}
	return known
}

// Persist returns what has to be stored together with what the ids, which were added since the last call, are of.
func (h *SeenHandle) Persist(ids []event.ID, now time.Time) []queue.KeyValue {
	w := h.w
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []queue.KeyValue
	if len(ids) > 0 && w.window > 0 && w.maxIDs > 0 {
		c := h.open
		if c == nil || c.gone || len(c.ids)+len(ids) > seenChunk {
			c = &seenIDs{hmc: h.hmc, number: h.next}
			h.next++
			w.chunks = append(w.chunks, c)
			h.open = c
		}
		c.ids = append(c.ids, ids...)
		c.at = now.UnixNano()
		out = append(out, queue.KeyValue{Key: c.key(), Value: c.value()})
	}
	w.expire(now)
	for _, c := range h.done {
		out = append(out, queue.KeyValue{Key: c.key()})
	}
	h.done = h.done[:0]
	return out
}

// expire takes out what is too old or too much.
func (w *SeenWindow) expire(now time.Time) {
	limit := now.Add(-w.window).UnixNano()
	n := 0
	for ; n < len(w.chunks); n++ {
		c := w.chunks[n]
		// Within the limit of the number up to a chunk of it: the oldest of a chunk go together.
		if c.at >= limit && len(w.ids)-len(c.ids) < w.maxIDs {
			break
		}
		for _, id := range c.ids {
			delete(w.ids, id)
		}
		c.gone = true
		h := w.handleLocked(c.hmc)
		h.done = append(h.done, c)
	}
	w.chunks = slices.Delete(w.chunks, 0, n)
}

// Forget takes ids back whose batch could not be stored.
func (h *SeenHandle) Forget(ids []event.ID) {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	for _, id := range ids {
		delete(h.w.ids, id)
	}
	for _, c := range h.w.chunks {
		if c.hmc == h.hmc {
			c.ids = slices.DeleteFunc(c.ids, func(id event.ID) bool { _, known := h.w.ids[id]; return !known })
		}
	}
}

func (c *seenIDs) key() string { return fmt.Sprintf("%s%s\x00%016x", StateSeen, c.hmc, c.number) }

func (c *seenIDs) value() []byte {
	out := binary.BigEndian.AppendUint64(make([]byte, 0, 8+len(c.ids)*len(event.ID{})), uint64(c.at))
	for i := range c.ids {
		out = append(out, c.ids[i][:]...)
	}
	return out
}
