package sinks

import (
	"sync"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// acceptedIDs remembers which events of a Send that failed the destination has accepted one by one.
// The next attempt then sends only the others: a batch of which a part is refused, or which takes
// longer than the timeout, comes to an end, and nothing arrives twice for its sake.
type acceptedIDs struct {
	// No more than limit are remembered: whoever sends may have given up on a batch.
	limit int

	mu  sync.Mutex
	ids map[string]struct{}
}

func newAcceptedIDs(limit int) *acceptedIDs {
	return &acceptedIDs{limit: limit, ids: make(map[string]struct{})}
}

// open returns the records that have not been accepted yet.
func (a *acceptedIDs) open(records []event.Record) []*event.Record {
	a.mu.Lock()
	defer a.mu.Unlock()
	open := make([]*event.Record, 0, len(records))
	for i := range records {
		if _, ok := a.ids[records[i].ID]; !ok {
			open = append(open, &records[i])
		}
	}
	return open
}

// keep remembers events of a Send that fails.
func (a *acceptedIDs) keep(accepted []*event.Record) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.ids)+len(accepted) > a.limit {
		clear(a.ids)
	}
	for _, r := range accepted[:min(len(accepted), a.limit)] {
		a.ids[r.ID] = struct{}{}
	}
}

// done forgets the events of a Send that is over.
func (a *acceptedIDs) done(records []event.Record) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := range records {
		delete(a.ids, records[i].ID)
	}
}
