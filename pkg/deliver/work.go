package deliver

import (
	"bytes"
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
)

// work is what the lanes of a delivery take their batches from. The events of one key are in a
// queue of their own, and no lane gets any of them while another lane is at work on one: that keeps
// their order. Which lane gets them does not matter, so that neither one busy resource nor one that
// fails holds up the others.
type work struct {
	lanes int
	// ahead says that there is somebody to go on with what is behind an event that takes long.
	ahead bool
	// maxEvents and maxBytes are what fits into a batch.
	maxEvents, maxBytes int
	// full is how many events are worth no more waiting, maxWait how long a batch may take to
	// become full.
	full    int
	maxWait time.Duration
	// wake holds a token for each lane that may have something to do.
	wake chan struct{}

	mu     sync.Mutex
	state  workState
	queues map[string]*keyQueue
	// ready are those with events that may be taken, in turn; available is how many events
	// those are, and left how many there are in all queues.
	ready           fifo[*keyQueue]
	available, left int
	// held are the bytes of those that are in memory. The others are in the queue only.
	held  int
	added uint64
	// wanted holds a token when more of them may be of use.
	wanted chan struct{}
	// since is from when on a batch waits to become full, where one event alone is not.
	since time.Time
	spare []*keyQueue
}

// workState says what the lanes may wait for. It only grows.
type workState int

const (
	growing workState = iota
	// hurried: batches need not become full.
	hurried
	// complete: nothing comes any more, and lanes end when all is done.
	complete
	// abandoned: a lane has given up, and the others end when there is nothing left that they
	// may take.
	abandoned
)

// keyQueue holds the events of one key that no lane has taken, in their order.
type keyQueue struct {
	fifo[item]
	key string
	// busy says that a lane is at work on some of its events.
	busy bool
}

// item is one event on its way.
type item struct {
	// seq is its sequence number in the queue; of a summary that of the last event in it.
	seq uint64
	// key is what its order is kept by.
	key string
	// order is in which work got it: that of the queue, but for what has waited in a stage.
	order  uint64
	record event.Record
	// stored is how many bytes of it have to be read from the queue before it is sent: its record
	// is without JSON meanwhile. Mostly 0.
	stored int
	// invalid is why the record cannot be sent at all.
	invalid error
	// members are, of a summary, the sequence numbers of the events that it stands for,
	// ascending.
	members []uint64
}

// newItem reads a stored record. What is none is an item too: it must not vanish.
func newItem(stored queue.Record) item {
	it := item{seq: stored.Seq}
	if it.record, it.invalid = event.ParseRecord(stored.Data); it.invalid != nil {
		it.record = event.Record{JSON: stored.Data}
	}
	it.record.Stored = stored.Stored
	it.key = it.record.Key
	return it
}

// appendSeqs appends the sequence numbers of the stored events that the item stands for.
func (it *item) appendSeqs(seqs []uint64) []uint64 {
	if it.members == nil {
		return append(seqs, it.seq)
	}
	return append(seqs, it.members...)
}

// size is that of its JSON.
func (it *item) size() int { return len(it.record.JSON) + it.stored }

// leave leaves what is in the queue to it until it is sent. A summary is not in there.
func (it *item) leave() {
	if it.members == nil {
		it.record.JSON, it.stored = nil, it.size()
	}
}

// left returns how many of the stored events that the item stands for have not gone by the limits
// of the queue, behind its cursor. An event that is on its way counts as one, as everywhere.
func (it *item) left(cursor *queue.Cursor) int {
	if it.members == nil {
		return 1
	}
	gone, found := slices.BinarySearch(it.members, cursor.Acked())
	if found {
		gone++
	}
	return len(it.members) - gone
}

func newWork(lanes, maxEvents, maxBytes, full int, maxWait time.Duration) *work {
	return &work{
		lanes: lanes, maxEvents: maxEvents, maxBytes: maxBytes, full: min(maxEvents, full), maxWait: maxWait,
		wake: make(chan struct{}, lanes), wanted: make(chan struct{}, 1), queues: make(map[string]*keyQueue),
	}
}

// add takes in items. Those with the same key keep their order; with a single lane all do.
func (w *work) add(items []item) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.available == 0 {
		w.wait(time.Now)
	}
	for _, it := range items {
		if w.lanes == 1 {
			it.key = ""
		}
		it.order = w.added
		w.added++
		q := w.queues[it.key]
		if q == nil {
			q = w.newQueue(it.key)
		}
		switch {
		case !q.busy || !w.ahead:
		case w.held < maxHeld: // it may wait for long: not with all that was read with it
			it.record.JSON = bytes.Clone(it.record.JSON)
		default:
			it.leave()
		}
		w.held += len(it.record.JSON)
		if q.len() == 0 && !q.busy {
			w.ready.push(q)
		}
		q.push(it)
		w.left++
		if !q.busy {
			w.available++
		}
	}
	w.wakeUp()
}

func (w *work) newQueue(key string) *keyQueue {
	q := new(keyQueue)
	if n := len(w.spare); n > 0 {
		q, w.spare = w.spare[n-1], w.spare[:n-1]
	}
	q.key = key
	w.queues[key] = q
	return q
}

// wakeUp wakes as many lanes as may find something; all of them when there may be nothing to wait
// for.
func (w *work) wakeUp() {
	n := min(w.ready.len(), w.lanes)
	if w.state > growing {
		n = w.lanes
	}
	for range n - len(w.wake) {
		notify(w.wake)
	}
}

// wait has a batch wait from now on.
func (w *work) wait(now func() time.Time) {
	if w.full > 1 {
		w.since = now()
	}
}

// has says whether there are events with this key, waiting or taken.
func (w *work) has(key string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.queues[key] != nil
}

// isHungry says whether lanes would take more than there is.
func (w *work) isHungry() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.hungry()
}

// hungry is isHungry: if possible there are batches for all lanes. w is locked.
func (w *work) hungry() bool {
	return w.held < minHeld || w.ahead &&
		(w.ready.len() < w.lanes || w.held < maxHeld && w.available < 2*w.lanes*w.full)
}

// become moves on to a state, unless it is behind that already.
func (w *work) become(state workState) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.state = max(w.state, state)
	w.wakeUp()
}

// take fills a batch. What it has had the lane is done with: more of the same keys may be taken, by
// this lane first. Where there is none, it says how long a batch that is not full still has to be
// waited for (0: until there is something new), or that there never will be one.
func (w *work) take(b *batch, now func() time.Time) (ok bool, wait time.Duration, ended bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.giveBack(b)
	if w.available == 0 {
		return false, 0, w.state == abandoned || w.state == complete && w.left == 0
	}
	if w.available < w.full && w.state == growing {
		if wait := w.maxWait - now().Sub(w.since); wait > 0 {
			return false, wait, false
		}
	}
	before := w.hungry()
	for w.ready.len() > 0 && w.takeFrom(w.ready.rest()[0], b) {
		w.ready.drop(1)
	}
	if !before && w.hungry() {
		notify(w.wanted)
	}
	if w.available > 0 {
		w.wait(now)
		w.wakeUp()
	}
	if len(b.queues) > 1 {
		b.sort()
	}
	for i := range b.items {
		b.seqs = b.items[i].appendSeqs(b.seqs)
	}
	return true, 0, false
}

// takeFrom moves what fits of a queue into the batch, and reports whether that is anything.
func (w *work) takeFrom(q *keyQueue, b *batch) bool {
	n := 0
	waiting := q.rest()
	for i := range waiting {
		it := &waiting[i]
		if !b.fits(it, w.maxEvents, w.maxBytes) {
			break
		}
		b.items = append(b.items, *it)
		b.bytes += it.size()
		w.held -= len(it.record.JSON)
		n++
	}
	if n == 0 {
		return false
	}
	w.available -= q.len()
	w.left -= n
	q.drop(n)
	q.busy = true
	b.queues = append(b.queues, q)
	return true
}

// takeOld takes at most limit items that have become too old to be sent, of those that no lane has
// taken.
func (w *work) takeOld(isOld func(*item) bool, limit int) (old []item) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, q := range w.queues {
		n := 0
		for items := q.rest(); n < len(items) && len(old) < limit && isOld(&items[n]); n++ {
			old = append(old, items[n])
			w.held -= len(items[n].record.JSON)
		}
		if n == 0 {
			continue
		}
		q.drop(n)
		w.left -= n
		if !q.busy {
			w.available -= n
		}
	}
	if len(old) == 0 {
		return nil
	}
	var ready fifo[*keyQueue]
	for _, q := range w.ready.rest() {
		if q.len() > 0 {
			ready.push(q)
		} else {
			delete(w.queues, q.key)
		}
	}
	w.ready = ready
	notify(w.wanted)
	if w.left == 0 {
		w.wakeUp() // there may be nothing to wait for any more
	}
	return old
}

// giveBack empties a batch. w is locked.
func (w *work) giveBack(b *batch) {
	for _, q := range b.queues {
		q.busy = false
		if q.len() == 0 {
			delete(w.queues, q.key)
			if len(w.spare) < w.lanes && cap(q.all) <= readEvents {
				w.spare = append(w.spare, q)
			}
			continue
		}
		if w.available == 0 {
			w.wait(time.Now)
		}
		w.ready.push(q)
		w.available += q.len()
	}
	if len(b.queues) > 0 && w.state > growing {
		w.wakeUp() // others may wait for the end
	}
	b.clear()
}

// batch is what a lane has taken to be sent at once, in order. Its memory is used again for the
// next one.
type batch struct {
	items   []item
	records []event.Record
	// seqs are those of all stored events that the items stood for when they were taken.
	seqs []uint64
	// queues are those that the items were taken from.
	queues []*keyQueue
	bytes  int
	// memory of sort
	places [][2]uint64
	spare  []item
}

// sort brings the items in the order of the queue. They are large: what is sorted are their places.
func (b *batch) sort() {
	b.places = b.places[:0]
	for i := range b.items {
		b.places = append(b.places, [2]uint64{b.items[i].order, uint64(i)})
	}
	slices.SortFunc(b.places, func(x, y [2]uint64) int { return cmp.Compare(x[0], y[0]) })
	sorted := b.spare[:0]
	for _, p := range b.places {
		sorted = append(sorted, b.items[p[1]])
	}
	clear(b.items)
	b.items, b.spare = sorted, b.items
}

// fits says whether an item may be sent with what is in the batch: what cannot be sent at all is
// alone.
func (b *batch) fits(it *item, maxEvents, maxBytes int) bool {
	return len(b.items) == 0 || len(b.items) < maxEvents && b.bytes+it.size() <= maxBytes &&
		it.invalid == nil && b.items[0].invalid == nil
}

// remove takes out the items that are done with. The sink may still be reading what it was given:
// that memory is not written to.
func (b *batch) remove(done func(i int) bool) (removed []item) {
	var left []item
	for i := range b.items {
		if done(i) {
			if removed == nil {
				left = slices.Clone(b.items[:i])
			}
			removed = append(removed, b.items[i])
		} else if removed != nil {
			left = append(left, b.items[i])
		}
	}
	if removed != nil {
		b.records = nil
		b.set(left)
	}
	return removed
}

// set has the batch be of these items.
func (b *batch) set(items []item) {
	b.items, b.records = items, slices.Grow(b.records[:0], len(items))
	for i := range items {
		b.records = append(b.records, items[i].record)
	}
}

func (b *batch) clear() {
	clear(b.items)
	clear(b.records)
	clear(b.queues)
	b.items, b.records, b.seqs, b.queues, b.bytes = b.items[:0], b.records[:0], b.seqs[:0], b.queues[:0], 0
}
