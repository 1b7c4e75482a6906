package deliver

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// work is what the lanes of a delivery take their batches from. The events of one resource are in a queue of their own,
// and no lane gets any of them while another lane is at work on one: that keeps their order. Which lane gets them does not
// matter, so that neither one busy resource nor one that fails holds up the others.
type work struct {
	maxEvents, maxBytes int           // what fits into a batch
	full                int           // events that are worth no more waiting
	maxWait             time.Duration // for a batch to become full
	wake                chan struct{} // holds a token for each lane that may have something to do

	Mu        sync.Mutex
	queues    map[string]*keyQueue
	ready     []*keyQueue // from head: those with events that may be taken, in turn
	head      int
	available int // events in them
	Left      int // events in all queues
	added     uint64
	since     time.Time
	closed    bool // nothing comes any more
	spare     []*keyQueue
}

// keyQueue holds the events of one resource that no lane has taken, in their order.
type keyQueue struct {
	key   string
	items []item // from head
	head  int
	busy  bool // a lane is at work on some of its events
}

func (q *keyQueue) len() int { return len(q.items) - q.head }

// item is one record on its way.
type item struct {
	number  uint64 // in progress
	seq     uint64
	order   uint64 // in which add got it: that of the queue, but for what has waited in a gatherer
	record  event.Record
	invalid error      // why the record cannot be sent at all
	flood   *floodMark // nil where the sink has no collapse
}

// appendNumbers appends the numbers of the stored events that the item stands for.
func (it *item) appendNumbers(numbers []uint64) []uint64 {
	if it.flood == nil || it.flood.members == nil {
		return append(numbers, it.number)
	}
	for _, m := range it.flood.members {
		numbers = append(numbers, m.number)
	}
	return numbers
}

// left returns how many of the stored events that the item stands for have not gone by the limits of the queue. An event that is
// on its way counts as one, as everywhere.
func (it *item) left(acked uint64) int {
	if it.flood == nil || it.flood.members == nil {
		return 1
	}
	n := 0
	for _, m := range it.flood.members {
		if m.seq > acked {
			n++
		}
	}
	return n
}

// batch is what a lane has taken to be sent at once, in their order. Its memory is used again for the next one.
type batch struct {
	numbers []uint64
	seqs    []uint64
	records []event.Record
	invalid error // of its only record

	items  []item // of the records
	queues []*keyQueue
	bytes  int
}

func newWork(lanes, maxEvents, maxBytes, full int, maxWait time.Duration) *work {
	return &work{
		maxEvents: maxEvents, maxBytes: maxBytes, full: min(maxEvents, full), maxWait: maxWait,
		wake: make(chan struct{}, lanes), queues: make(map[string]*keyQueue),
	}
}

// add takes in records. Those with the same key keep their order.
func (w *work) add(key func(*item) string, items []item) {
	w.Mu.Lock()
	defer w.Mu.Unlock()
	if w.available == 0 {
		w.since = time.Now()
	}
	for i := range items {
		it := &items[i]
		it.order = w.added
		w.added++
		k := key(it)
		q := w.queues[k]
		if q == nil {
			q = w.newQueue(k)
		}
		if q.len() == 0 && !q.busy {
			w.push(q)
		}
		q.items = append(q.items, *it)
		w.Left++
		if !q.busy {
			w.available++
		}
	}
	w.wakeUp()
}

func (w *work) newQueue(key string) *keyQueue {
	var q *keyQueue
	if n := len(w.spare); n > 0 {
		q, w.spare = w.spare[n-1], w.spare[:n-1]
	} else {
		q = new(keyQueue)
	}
	q.key = key
	w.queues[key] = q
	return q
}

// push puts a queue at the end of those that are ready.
func (w *work) push(q *keyQueue) {
	if w.head > len(w.ready)/2 {
		n := copy(w.ready, w.ready[w.head:])
		clear(w.ready[n:])
		w.ready, w.head = w.ready[:n], 0
	}
	w.ready = append(w.ready, q)
}

// wakeUp wakes as many lanes as may find something.
func (w *work) wakeUp() {
	for range min(len(w.ready)-w.head, cap(w.wake)) {
		notify(w.wake)
	}
}

// has says whether there are events with this key, waiting or taken.
func (w *work) has(key string) bool {
	w.Mu.Lock()
	defer w.Mu.Unlock()
	return w.queues[key] != nil
}

// close says that nothing comes any more: batches need not become full, and lanes end when all is done.
func (w *work) close() {
	w.Mu.Lock()
	defer w.Mu.Unlock()
	w.closed = true
	w.wakeAll()
}

func (w *work) wakeAll() {
	for range cap(w.wake) {
		notify(w.wake)
	}
}

// take fills a batch. Where there is none, it says how long a batch that is not full still has to be waited for (0: until
// there is something new), or that there never will be one. hurry: also one that is not full is wanted.
func (w *work) take(b *batch, now time.Time, hurry bool) (ok bool, wait time.Duration, ended bool) {
	w.Mu.Lock()
	defer w.Mu.Unlock()
	if w.available == 0 {
		return false, 0, w.closed && w.Left == 0
	}
	if w.available < w.full && !w.closed && !hurry {
		if wait := w.maxWait - now.Sub(w.since); wait > 0 {
			return false, wait, false
		}
	}
	b.clear()
	for w.head < len(w.ready) && w.takeFrom(w.ready[w.head], b) {
		w.ready[w.head] = nil
		w.head++
	}
	if w.available > 0 {
		w.since = now
		w.wakeUp()
	}
	if len(b.queues) > 1 {
		slices.SortFunc(b.items, func(x, y item) int { return cmp.Compare(x.order, y.order) })
	}
	for i := range b.items {
		b.numbers = b.items[i].appendNumbers(b.numbers)
		b.seqs = append(b.seqs, b.items[i].seq)
		b.records = append(b.records, b.items[i].record)
	}
	b.invalid = b.items[0].invalid
	return true, 0, false
}

// takeFrom moves what fits of a queue into the batch, and reports whether that is anything.
func (w *work) takeFrom(q *keyQueue, b *batch) bool {
	n := 0
	for ; q.head+n < len(q.items); n++ {
		it := &q.items[q.head+n]
		size := len(it.record.JSON)
		if have := len(b.items); have > 0 && (it.invalid != nil || b.items[0].invalid != nil || have >= w.maxEvents || b.bytes+size > w.maxBytes) {
			break
		}
		b.items = append(b.items, *it)
		b.bytes += size
	}
	if n == 0 {
		return false
	}
	w.available -= q.len()
	w.Left -= n
	clear(q.items[q.head : q.head+n]) // the memory of a record is that of its neighbors too
	q.head += n
	q.busy = true
	b.queues = append(b.queues, q)
	return true
}

// done says that the lane is done with the batch: more of the same resources may be taken.
func (w *work) done(b *batch) {
	w.Mu.Lock()
	defer w.Mu.Unlock()
	for _, q := range b.queues {
		q.busy = false
		if q.len() == 0 {
			q.items, q.head = q.items[:0], 0
			delete(w.queues, q.key)
			if len(w.spare) < cap(w.wake) && cap(q.items) <= readEvents {
				w.spare = append(w.spare, q)
			}
			continue
		}
		if q.head > len(q.items)/2 {
			n := copy(q.items, q.items[q.head:])
			clear(q.items[n:])
			q.items, q.head = q.items[:n], 0
		}
		if w.available == 0 {
			w.since = time.Now()
		}
		w.push(q)
		w.available += q.len()
	}
	b.clear()
	if w.closed {
		w.wakeAll()
	} else {
		w.wakeUp()
	}
}

// drop takes out what has gone by the limits of the queue, from the record at index from on.
func (b *batch) drop(from int, acked uint64) {
	n := from
	for i := from; i < len(b.records); i++ {
		if b.seqs[i] <= acked {
			continue
		}
		b.items[n], b.seqs[n], b.records[n] = b.items[i], b.seqs[i], b.records[i]
		n++
	}
	clear(b.items[n:])
	clear(b.records[n:])
	b.items, b.seqs, b.records = b.items[:n], b.seqs[:n], b.records[:n]
}

func (b *batch) clear() {
	clear(b.items)
	clear(b.records)
	clear(b.queues)
	b.numbers, b.seqs, b.records, b.items, b.queues = b.numbers[:0], b.seqs[:0], b.records[:0], b.items[:0], b.queues[:0]
	b.invalid, b.bytes = nil, 0
}
