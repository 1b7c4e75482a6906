package bridge

import (
	"context"

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
// It belongs to one goroutine.
type outbox struct {
	queue   *queue.Queue
	metrics *hmcMetrics
	log     *zap.Logger

	buf   []byte // the records, end to end
	ends  []int  // where each ends in buf
	kinds map[typeOrigin]int
	topic map[string]int // events by topic type, to be counted as missed if the storage refuses them

	failing bool // of the queue's commit goroutine
}

// add encodes e into the outbox.
func (o *outbox) add(e *event.Event) {
	if o.kinds == nil {
		o.kinds, o.topic = make(map[typeOrigin]int, 4), make(map[string]int, 2)
	}
	o.buf = event.AppendRecord(o.buf, e)
	o.ends = append(o.ends, len(o.buf))
	o.kinds[typeOrigin{e.Type, e.Origin}]++
	o.topic[e.TopicType]++
}

func (o *outbox) full() bool { return len(o.buf) >= outboxBytes || len(o.ends) >= outboxEvents }

// flush hands everything to the queue. It blocks while the queue's own buffer is full, which holds up the receiver
// and, through TCP, the sender.
func (o *outbox) flush(ctx context.Context) {
	if len(o.ends) == 0 {
		return
	}
	records := make([][]byte, len(o.ends))
	start := 0
	for i, end := range o.ends {
		records[i] = o.buf[start:end:end]
		start = end
	}
	kinds, topic := o.kinds, o.topic
	done := func(err error) { o.committed(err, kinds, topic) }
	size := len(o.buf)
	o.buf, o.ends, o.kinds, o.topic = make([]byte, 0, min(2*size, outboxBytes+outboxBytes/4)), o.ends[:0], nil, nil
	// What was received is stored even when the daemon is about to end: the queue closes after the supervisors.
	if err := o.queue.Append(context.WithoutCancel(ctx), queue.Batch{Records: records, Done: done}); err != nil {
		done(err)
	}
}

// committed counts what a commit did. The queue calls it, one call at a time.
func (o *outbox) committed(err error, kinds map[typeOrigin]int, topic map[string]int) {
	if err != nil {
		for kind, n := range topic {
			o.metrics.missedOn(kind, n)
		}
		if !o.failing {
			o.failing = true
			o.log.Error("events could not be stored and are lost", zap.Error(err))
		}
		return
	}
	if o.failing {
		o.failing = false
		o.log.Info("events are stored again")
	}
	for kind, n := range kinds {
		o.metrics.stored(kind, n)
	}
}
