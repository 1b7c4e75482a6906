// Package replay reads stored events once more: those of a time for one sink, those that are kept
// for a sink that is new, and for whoever looks on, from a moment in the past into the present.
package replay

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/deliver"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
)

const (
	// pageEvents and pageBytes bound what is read at once, unless an event alone is larger.
	pageEvents = 256
	pageBytes  = 1 << 20
	// lateBy is how long after its receipt an event may be stored and still be found by that. It
	// waits for the disk, and some for what the HMC is asked.
	lateBy = time.Hour
	// beganPrefix begins the keys of the state that say what was stored before a sink began: name.
	beganPrefix = "began/"
)

// History is what is stored, by when it was received.
type History struct{ Queue *queue.Queue }

// Held returns when the first and the last of the stored events were received; the zero time where
// there is none.
func (h History) Held() (from, to time.Time, err error) {
	first, last := h.Queue.Bounds()
	if from, err = h.received(first); err == nil {
		to, err = h.received(last)
	}
	return from, to, err
}

// received returns when a stored event was received.
func (h History) received(seq uint64) (time.Time, error) {
	r := h.Queue.Reader(seq, false)
	defer r.Close()
	records, err := r.Poll(1, 0)
	if err != nil || len(records) == 0 {
		return time.Time{}, err
	}
	rec, _ := event.ParseRecord(records[0].Data) // what is none says no time
	return rec.Received, nil
}

// span reads the events of a time, in the order in which they were stored.
type span struct {
	reader       *queue.Reader
	since, until time.Time
	// next is the next record, last the last one that may be of that time.
	next, last uint64
	// missing counts records that went before they could be read.
	missing int
}

// span returns what reads the events that were received at since or later, and before until. What
// it has not read does not go because of its age.
func (h History) span(since, until time.Time) (*span, error) {
	first, last, err := h.Queue.Find(since, until.Add(lateBy))
	if err != nil {
		return nil, err
	}
	return &span{reader: h.Queue.Reader(first, true), since: since, until: until, next: first, last: last}, nil
}

// page returns the next events; none at the end.
func (s *span) page() (events []event.Record, err error) {
	for len(events) == 0 && s.next <= s.last {
		records, err := s.reader.Poll(pageEvents, pageBytes)
		if err != nil {
			return nil, err
		}
		if len(records) == 0 {
			s.skipTo(s.last + 1)
		}
		for _, r := range records {
			s.skipTo(min(r.Seq, s.last+1))
			if s.next > s.last {
				break
			}
			s.next++
			rec, err := event.ParseRecord(r.Data)
			if err != nil || rec.Received.Before(s.since) || !rec.Received.Before(s.until) {
				continue // what is no event was said of when it was delivered
			}
			rec.Stored = r.Stored
			events = append(events, rec)
		}
	}
	return events, nil
}

func (s *span) skipTo(next uint64) {
	s.missing += int(next - s.next)
	s.next = next
}

// Cursor returns the cursor of a sink. That of a new one begins where start says.
func (h History) Cursor(ctx context.Context, sink string, start config.Start) (*queue.Cursor, error) {
	if start == config.StartLatest || h.Queue.Lookup(sink) != nil {
		return h.Queue.Cursor(sink)
	}
	var since time.Time
	if start != config.StartEarliest {
		since = config.LogStart(start).Since(time.Now()) // both have durations
	}
	first, last := h.Queue.Bounds()
	if !since.IsZero() {
		var err error
		if first, err = h.firstOf(since, last); err != nil {
			return nil, fmt.Errorf("the first event since %s: %w", since.UTC().Format(time.RFC3339), err)
		}
	}
	// First, because a cursor without it would take what is old for too old.
	value, err := json.Marshal(began{Last: last, Clock: h.Queue.Clock()})
	if err == nil && first <= last {
		err = h.Queue.PutState(ctx, map[string][]byte{beganPrefix + sink: value})
	}
	if err != nil {
		return nil, err
	}
	return h.Queue.CursorFrom(sink, first)
}

// firstOf returns the first record that was received at a time or later; last+1: none up to last.
func (h History) firstOf(since time.Time, last uint64) (uint64, error) {
	first, _, err := h.Queue.Find(since, since)
	if err != nil {
		return 0, err
	}
	r := h.Queue.Reader(first, false)
	defer r.Close()
	for {
		records, err := r.Poll(pageEvents, pageBytes)
		if err != nil || len(records) == 0 {
			return last + 1, err
		}
		for _, one := range records {
			if rec, err := event.ParseRecord(one.Data); err == nil && !rec.Received.Before(since) {
				return one.Seq, nil
			}
		}
	}
}

// began is what is stored of the beginning of a sink.
type began struct {
	Last  uint64 `json:"last"`
	Clock int64  `json:"clock"` // of the queue
}

// Backlog returns what was stored before a sink began.
func (h History) Backlog(sink string) (b deliver.Backlog) {
	value, ok := h.Queue.State(beganPrefix + sink)
	var stored began
	if ok && json.Unmarshal(value, &stored) == nil {
		b = deliver.Backlog{Last: stored.Last, Began: h.Queue.TimeOf(stored.Clock)}
	}
	return b
}

// Forget forgets how a sink began.
func (h History) Forget(ctx context.Context, sink string) error {
	if _, ok := h.Queue.State(beganPrefix + sink); !ok {
		return nil
	}
	return h.Queue.PutState(ctx, map[string][]byte{beganPrefix + sink: nil})
}
