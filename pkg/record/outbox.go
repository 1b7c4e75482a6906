package record

import (
	"cmp"
	"errors"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
)

// One append to the queue holds at most about this much.
const (
	outboxBytes  = 256 << 10
	outboxEvents = 1024
)

var errNotStored = errors.New("what it builds on could not be stored")

// outbox gathers the encoded events of a group until the queue takes them, so that the queue is
// asked once for many. There is one for all of its HMCs, so that what is known of the group is
// never stored before the events that tell it.
type outbox struct {
	buf       []byte   // the records, end to end; reused, since the queue copies
	ends      []int    // where each ends in buf
	records   [][]byte // reused
	counts    []count  // what the records are; handed to the queue's commit goroutine
	maxRecord int      // 0: what the queue takes
}

// count is how many events of one kind go into one append.
type count struct {
	of *Recorder
	typeOrigin
	topicType string    // to be counted as missed there if the storage refuses them
	first     time.Time // when the first of them was received
	n         int
}

// add encodes an event of an HMC into the outbox.
func (o *outbox) add(r *Recorder, e *event.Event) {
	start := len(o.buf)
	o.buf = event.AppendRecord(o.buf, e)
	if size := len(o.buf) - start; size > cmp.Or(o.maxRecord, queue.MaxRecordBytes) {
		// The queue would refuse everything else along with it.
		o.buf = slices.Clone(o.buf[:start])
		r.watcher.Missed(e.TopicType, 1)
		r.log.Error("an event is too large to be stored and is lost",
			zap.String("id", e.ID), zap.String("type", e.Type), zap.Int("bytes", size))
		return
	}
	o.ends = append(o.ends, len(o.buf))
	for i := range o.counts {
		if c := &o.counts[i]; c.of == r && c.typ == e.Type && c.origin == e.Origin && c.topicType == e.TopicType {
			c.n++
			return
		}
	}
	o.counts = append(o.counts, count{r, typeOrigin{e.Type, e.Origin}, e.TopicType, e.Received, 1})
}

func (o *outbox) empty() bool { return len(o.ends) == 0 }

func (o *outbox) full() bool { return len(o.buf) >= outboxBytes || len(o.ends) >= outboxEvents }

// take empties the outbox. The records are valid until the next event is added.
func (o *outbox) take() (records [][]byte, counts []count) {
	o.records = o.records[:0]
	start := 0
	for _, end := range o.ends {
		o.records = append(o.records, o.buf[start:end])
		start = end
	}
	counts = o.counts
	o.buf, o.ends, o.counts = o.buf[:0], o.ends[:0], nil
	if cap(o.buf) > 2*outboxBytes {
		o.buf = nil // one huge notification is no reason to keep its memory
	}
	return o.records, counts
}

// stored counts what a commit has stored. The queue calls it, one call at a time.
func stored(counts []count) {
	for _, c := range counts {
		c.of.refused.Store(false)
		c.of.metrics.stored(c.typeOrigin, c.n)
	}
}

// refused counts what could not be stored, and returns it. What nobody sent is not missed, nor are
// hardware messages, which are listed again.
func refused(err error, counts []count) failures {
	missed := make(failures)
	for _, c := range counts {
		if c.origin == event.OriginBridge || c.typ == event.TypeHardwareMessage {
			continue
		}
		c.of.watcher.Missed(c.topicType, c.n)
		if !c.of.refused.Swap(true) {
			c.of.log.Error("events could not be stored and are lost", zap.Error(err))
		}
		missed.add(c.of, &failure{from: c.first, cause: err.Error(), missed: map[string]int{c.topicType: c.n}})
	}
	return missed
}

// failures are what could not be stored, by HMC.
type failures map[*Recorder]*failure

// failure is what could not be stored of an HMC.
type failure struct {
	from   time.Time // when the first of it was received
	cause  string
	missed map[string]int // by topic type
}

func (all failures) add(r *Recorder, f *failure) {
	was := all[r]
	if was == nil {
		all[r] = f
		return
	}
	if f.from.Before(was.from) {
		was.from = f.from
	}
	for kind, n := range f.missed {
		was.missed[kind] += n
	}
}
