package record

import (
	"cmp"
	"context"
	"slices"
	"sync/atomic"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
)

// One append to the queue holds at most this much.
const (
	outboxBytes  = 256 << 10
	outboxEvents = 1024
)

// outbox gathers the encoded events of one HMC until the queue takes them, so that the queue is asked once for many.
// Its owner guards it.
type outbox struct {
	queue   *queue.Queue
	metrics *HMCMetrics
	log     *zap.Logger

	buf     []byte   // the records, end to end; reused, since the queue copies
	ends    []int    // where each ends in buf
	records [][]byte // reused
	counts  []count  // what the records are; handed to the queue's commit goroutine

	Live      *Fanout                                             // of those who read along; nil: there are none
	onMissed  func(topicType string, n int)                       // told of events that are lost; from any goroutine
	onResult  func(err error, notes notes, missed map[string]int) // told of each batch; from any goroutine
	maxRecord int                                                 // 0: what the queue takes

	failing atomic.Bool // the last append failed
}

// count is how many events of one kind go into one append.
type count struct {
	typeOrigin
	topicType string // to be counted as missed there if the storage refuses them
	n         int
}

// add encodes e into the outbox.
func (o *outbox) add(e *event.Event) {
	start := len(o.buf)
	o.buf = event.AppendRecord(o.buf, e)
	if size := len(o.buf) - start; size > cmp.Or(o.maxRecord, queue.MaxRecordBytes) {
		// The queue would refuse everything else along with it.
		o.buf = slices.Clone(o.buf[:start])
		o.onMissed(e.TopicType, 1)
		o.log.Error("an event is too large to be stored and is lost", zap.String("id", e.ID), zap.String("type", e.Type), zap.Int("bytes", size))
		return
	}
	o.ends = append(o.ends, len(o.buf))
	for i := range o.counts {
		if c := &o.counts[i]; c.typ == e.Type && c.origin == e.Origin && c.topicType == e.TopicType {
			c.n++
			return
		}
	}
	o.counts = append(o.counts, count{typeOrigin{e.Type, e.Origin}, e.TopicType, 1})
}

func (o *outbox) empty() bool { return len(o.ends) == 0 }

func (o *outbox) full() bool { return len(o.buf) >= outboxBytes || len(o.ends) >= outboxEvents }

// send hands everything to the queue, with state in the same transaction. It blocks while the queue's own buffer is
// full, which holds up the receiver and, through TCP, the sender.
func (o *outbox) send(ctx context.Context, state []queue.KeyValue, chain *queue.Chain, n notes) {
	o.records = o.records[:0]
	start := 0
	for _, end := range o.ends {
		o.records = append(o.records, o.buf[start:end])
		start = end
	}
	counts, along := o.counts, o.Live.Gather(o.records)
	done := func(err error) {
		o.committed(err, counts, n)
		if err == nil {
			o.Live.Publish(along)
		}
	}
	// What was received is stored even when the daemon is about to end: the queue closes after the supervisors.
	if err := o.queue.Append(context.WithoutCancel(ctx), queue.Batch{Records: o.records, State: state, Done: done, Chain: chain}); err != nil {
		done(err)
	}
	o.buf, o.ends, o.counts = o.buf[:0], o.ends[:0], nil
	if cap(o.buf) > 2*outboxBytes {
		o.buf = nil // one huge notification is no reason to keep its memory
	}
}

// committed counts what a commit did. The queue calls it, one call at a time; send calls it for an append that the
// queue has refused.
func (o *outbox) committed(err error, counts []count, n notes) {
	if err == nil {
		o.failing.Store(false)
		for _, c := range counts {
			o.metrics.stored(c.typeOrigin, c.n)
		}
		o.onResult(nil, n, nil)
		return
	}
	missed := make(map[string]int)
	for _, c := range counts {
		if c.origin == event.OriginBridge || c.typ == event.TypeHardwareMessage {
			continue // nobody sent it; hardware messages are listed again
		}
		o.onMissed(c.topicType, c.n)
		missed[c.topicType] += c.n
	}
	if len(missed) > 0 && !o.failing.Swap(true) {
		o.log.Error("events could not be stored and are lost", zap.Error(err))
	}
	o.onResult(err, n, missed)
}
