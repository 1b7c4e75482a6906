package receiver

import (
	"slices"
	"sync"
	"unsafe"
)

// item is what goes from the reader of a link to the consumer of Notifications.
type item struct {
	notification Notification
	// err is yielded with the notification, or instead of it.
	err error
	// last says that err ends the iteration: the link was lost.
	last bool
	// size is how many bytes of memory it holds.
	size int
}

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

// handover is the buffer between the reader of a link and the consumer, bounded in bytes.
// Both sides move several items at a time, so that locking and waking cost little for each.
type handover struct {
	limit int

	mu sync.Mutex
	// items from head on are in the buffer.
	items []item
	head  int
	bytes int

	// ready wakes a consumer: there may be items.
	ready chan struct{}
	// room wakes the reader: there may be room.
	room chan struct{}
}

func newHandover(limit int) *handover {
	return &handover{limit: limit, ready: make(chan struct{}, 1), room: make(chan struct{}, 1)}
}

// push appends as many of items as there is room for, in order, and returns how many. Where force
// is set it appends all. An item larger than the whole buffer has room when that is empty.
func (h *handover) push(items []item, force bool) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.head > len(h.items)/2 {
		h.items = slices.Delete(h.items, 0, h.head)
		h.head = 0
	}
	pushed := 0
	for i := range items {
		if !force && len(h.items) > h.head && h.bytes+items[i].size > h.limit {
			break
		}
		h.items = append(h.items, items[i])
		h.bytes += items[i].size
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
	buffered := h.items[h.head:]
	if len(buffered) == 0 {
		return 0
	}
	n, bytes := 0, 0
	for n < min(len(buffered), popCount) && (n == 0 || bytes+buffered[n].size <= popBytes) {
		bytes += buffered[n].size
		n++
	}
	copy(into[:], buffered[:n])
	clear(buffered[:n])
	h.head += n
	h.bytes -= bytes
	wake(h.room)
	switch {
	case n < len(buffered):
		wake(h.ready) // there may be a second consumer
	case cap(h.items) > 4*popCount:
		h.items, h.head = nil, 0
	}
	return n
}

// unpop puts items back to the front that a consumer took and did not get to.
func (h *handover) unpop(items []item) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(items) == 0 {
		return
	}
	if h.head < len(items) {
		h.items = slices.Insert(h.items, 0, make([]item, popCount)...)
		h.head += popCount
	}
	h.head -= copy(h.items[h.head-len(items):], items)
	for i := range items {
		h.bytes += items[i].size
	}
	wake(h.ready)
}

func (h *handover) len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.items) - h.head
}

func wake(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
