package deliver

import "time"

// stage stands between the filter and the lanes: it may keep events for a while, and make one of
// several. It belongs to the goroutine that reads. Events of one key leave it in the order in which
// they came.
type stage interface {
	// add takes in an event that was read now, and appends to out what is to be sent now, in
	// this order. leftOut says that the event tells nothing new, and that nothing becomes of
	// it.
	add(it item, now time.Time, out []item) (_ []item, leftOut bool)

	// release appends to out what need not be kept any longer.
	release(now time.Time, w wait, out []item) []item

	// due returns when release has something to do if no event comes until then; false: it
	// keeps nothing.
	due(w wait) (at time.Time, ok bool)
}

// wait says what the reader of the events waits for.
type wait struct {
	reason waitReason
	// first is, with forRoom, the event that has to be done.
	first uint64
}

type waitReason int

const (
	// notAtAll: there may be more to be read at once.
	notAtAll waitReason = iota
	// forEvents: everything stored has been read.
	forEvents
	// forRoom: nothing more may be read until an event is done, or taken out of the stage.
	forRoom
	// forEver: nothing will be read any more.
	forEver
)

// passThrough is the stage of a sink that gets every event as it is.
type passThrough struct{}

func (passThrough) add(it item, _ time.Time, out []item) ([]item, bool) {
	return append(out, it), false
}

func (passThrough) release(_ time.Time, _ wait, out []item) []item { return out }

func (passThrough) due(wait) (at time.Time, ok bool) { return at, false }
