package receiver

import (
	"slices"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/budget"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/jsontext"
)

// item is what goes from the reader of a link to the consumer of Notifications.
type item struct {
	notification Notification
	// err is yielded instead of the notification.
	err error
	// invalid is yielded with the notification, once that is checked: its body is not JSON.
	invalid error
	checked bool
	// last says that err ends the iteration: the link was lost.
	last bool
	// size is how many bytes of memory it holds; charged are those that the Budget counts.
	size, charged int
}

// check finds out whether the body of a notification is JSON.
func (it *item) check() {
	n := &it.notification
	if it.checked || n.Body == nil {
		return
	}
	it.checked = true
	compact, err := jsontext.Check(n.Body)
	if n.compact = compact; err != nil {
		it.invalid = &ParseError{Body: n.Body, Err: err}
	}
}

// own is what counts against the limit of the buffer.
func (it *item) own() int { return it.size - it.charged }

// itemSize is the memory of an item and its frame.
func itemSize(f *frame) int {
	return f.size + len(f.headers)*int(unsafe.Sizeof(Header{})) + int(unsafe.Sizeof(item{}))
}

// popCount and popBytes are how much a consumer takes at a time: enough to make the lock cheap,
// little enough that what it holds does not count against the limit of the buffer.
const (
	popCount = 64
	popBytes = 256 << 10
)

// handover is the buffer between the reader of a link and the consumer, a ring bounded in bytes.
// Both sides move several items at a time, so that locking and waking cost little for each.
type handover struct {
	limit  int
	budget *budget.Budget  // nil: there is none
	held   *atomic.Int64   // what is taken of it
	common <-chan struct{} // says when there may be room in it; for the reader

	mu sync.Mutex
	// The length of ring is a power of two.
	ring    []item
	head, n int
	bytes   int
	// spill says that the reader has waited for room, and takes of the budget until there is some.
	spill bool

	// ready wakes a consumer: there may be items.
	ready chan struct{}
	// room wakes the reader: there may be room.
	room chan struct{}
}

func newHandover(limit int) *handover {
	return &handover{
		limit: limit, held: new(atomic.Int64), ready: make(chan struct{}, 1), room: make(chan struct{}, 1),
	}
}

// take takes so much of the Budget, if there is room.
func (h *handover) take(n int) bool {
	if h.common = h.budget.Take(n); h.common == nil {
		h.held.Add(int64(n))
	}
	return h.common == nil
}

// give gives back what an item took of it.
func (h *handover) give(it *item) {
	if it.charged > 0 {
		h.held.Add(-int64(it.charged))
		h.budget.Give(it.charged)
		it.charged = 0
	}
}

// fits reports whether there is room for an item; beyond the limit it takes of the Budget, where
// the reader has waited or nothing will make room. Without a Budget, an item larger than the whole
// buffer has room when that is empty. h.mu is held.
func (h *handover) fits(it *item) bool {
	switch need := it.own(); {
	case h.bytes+need <= h.limit:
	case h.budget == nil:
		return h.n == 0
	case h.n > 0 && !h.spill:
		return false
	case !h.take(need):
		return false
	default:
		it.charged += need
	}
	return true
}

// overflow has items take of the Budget until there is room, and returns false if they do already.
func (h *handover) overflow() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.budget == nil || h.spill {
		return false
	}
	h.spill = true
	return true
}

// push appends as many of items as there is room for, in order, and returns how many. Where force
// is set it appends all.
func (h *handover) push(items []item, force bool) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	pushed := 0
	for i := range items {
		if !force && !h.fits(&items[i]) {
			break
		}
		if h.n == len(h.ring) {
			h.grow()
		}
		h.ring[(h.head+h.n)&(len(h.ring)-1)] = items[i]
		h.n++
		h.bytes += items[i].own()
		pushed++
	}
	if pushed > 0 {
		wake(h.ready)
	}
	return pushed
}

// pop moves the oldest items to the start of into and returns how many. Where that is 0, ready says
// when to try again.
func (h *handover) pop(into *[popCount]item) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.n == 0 {
		return 0
	}
	n, bytes := 0, 0 // that the consumer then holds
	for h.n > 0 && n < popCount && (n == 0 || bytes+h.ring[h.head].size <= popBytes) {
		at := &h.ring[h.head]
		into[n] = *at
		*at = item{}
		bytes += into[n].size
		h.bytes -= into[n].own()
		n++
		h.head = (h.head + 1) & (len(h.ring) - 1)
		h.n--
	}
	if h.bytes <= h.limit/2 {
		h.spill = false
	}
	if h.n == 0 && len(h.ring) > 4*popCount {
		h.ring, h.head = nil, 0
	}
	wake(h.room)
	if h.n > 0 {
		wake(h.ready) // there may be a second consumer
	}
	return n
}

// unpop puts items back to the front that a consumer took and did not get to.
func (h *handover) unpop(items []item) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, it := range slices.Backward(items) {
		if h.n == len(h.ring) {
			h.grow()
		}
		h.head = (h.head - 1) & (len(h.ring) - 1)
		h.ring[h.head] = it
		h.n++
		h.bytes += it.own()
	}
	if len(items) > 0 {
		wake(h.ready)
	}
}

func (h *handover) len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.n
}

func (h *handover) empty() bool { return h.len() == 0 }

func (h *handover) grow() {
	ring := make([]item, max(popCount, 2*len(h.ring)))
	n := copy(ring, h.ring[h.head:])
	copy(ring[n:], h.ring[:h.head])
	h.ring, h.head = ring, 0
}

func wake(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
