package deliver

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
)

// reader brings the events of a delivery from the queue through filter and stage to the lanes. It
// is used by one goroutine.
type reader struct {
	*Delivery

	entries []entry // memory that is used again
	items   []item
	// old says that some of them are too old to be sent.
	old bool
}

// run reads until ctx is done or, while draining, there is nothing more to read.
func (r *reader) run(ctx context.Context) {
	reading, stop := context.WithCancel(ctx)
	defer stop()
	defer r.whenDraining(stop)()
	for r.awaitRoom(ctx) {
		records, err := r.next(reading)
		switch {
		case err == nil:
			r.handOn(r.read(records))
		case reading.Err() != nil || errors.Is(err, queue.ErrClosed):
			if ctx.Err() == nil {
				r.release(wait{reason: forEver})
			}
			return
		case errors.Is(err, context.DeadlineExceeded):
			r.release(wait{reason: forEvents})
		default:
			r.log.Error("stored events cannot be read", zap.Error(err))
			status.Sleep(reading, time.Second)
		}
	}
}

// next returns what is stored, also when ctx is done. Where there is nothing, it waits, but with
// context.DeadlineExceeded only until the stage has something to do.
func (r *reader) next(ctx context.Context) ([]queue.Record, error) {
	if at, ok := r.stage.due(wait{reason: forEvents}); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, at)
		defer cancel()
	}
	return r.Cursor.Next(ctx, readEvents, readBytes)
}

// awaitRoom waits until more may be read, and is of use. It returns false when ctx is done.
func (r *reader) awaitRoom(ctx context.Context) bool {
	for ctx.Err() == nil {
		ok, first := r.progress.hasRoom()
		if ok && r.work.isHungry() {
			return true
		}
		w := wait{forRoom, first} // what the stage keeps may be what there has to be room for
		r.release(w)
		var due <-chan time.Time
		if at, ok := r.stage.due(w); ok {
			due = time.After(time.Until(at))
		}
		wake := r.progress.room
		if ok {
			wake = r.work.wanted
		}
		select {
		case <-wake:
		case <-due:
		case <-ctx.Done():
		}
	}
	return false
}

// read passes records through filter and stage, and returns what is to be sent now.
func (r *reader) read(records []queue.Record) []item {
	now, unwanted, earlier := time.Now(), 0, r.progress.earlier()
	for _, stored := range records {
		it, done, before := newItem(stored), false, earlier.has(stored.Seq)
		switch {
		case before:
		case it.invalid != nil:
			r.items = append(r.items, it)
		case r.Wants(it.record):
			r.items, done = r.stage.add(it, now, r.items)
			r.old = r.old || r.untilOld(&it, now) <= 0
		default:
			done = true
		}
		if done {
			unwanted++
		}
		r.entries = append(r.entries, entry{seq: stored.Seq, bytes: len(stored.Data), done: done || before})
	}
	if unwanted > 0 {
		r.metrics.filtered.AddN(unwanted)
	}
	r.progress.add(r.entries)
	r.entries = r.entries[:0]
	return r.stage.release(now, wait{}, r.items)
}

func (r *reader) release(w wait) { r.handOn(r.stage.release(time.Now(), w, r.items)) }

// handOn gives items, which share the memory of r.items, to the lanes.
func (r *reader) handOn(items []item) {
	if len(items) > 0 {
		r.work.add(items)
		clear(items)
		if r.old {
			r.old = false
			notify(r.overdue)
		}
	}
	r.items = items[:0]
}
