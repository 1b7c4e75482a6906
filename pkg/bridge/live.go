package bridge

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

const (
	// maxLiveReaders bounds how many may read along.
	maxLiveReaders = 32
	// liveEvents and liveBytes bound what waits for one of them. All wait for the newest, so that they share its memory.
	liveEvents = 4096
	liveBytes  = 4 << 20
)

// Errors of live readers.
var (
	ErrTooManyReaders = errors.New("too many readers of live events")
	ErrLiveEnded      = errors.New("the daemon is ending")
)

// LiveFilter says which events a live reader is to get; the zero value stands for all.
type LiveFilter struct {
	Type, HMC, Severity config.Patterns
	Text                string // is part of what a person reads of the event, whatever the case
	Sink                string // gets the event
}

func (f *LiveFilter) all() bool {
	return !f.Type.IsSet() && !f.HMC.IsSet() && !f.Severity.IsSet() && f.Text == "" && f.Sink == ""
}

// fanout hands what was stored to those who read along. Nobody waits for them: what a reader does not fetch in time is lost
// to it, and counted. While there are none it costs a look at a number for each batch. The zero value is ready.
type fanout struct {
	reading atomic.Int32 // how many readers there are

	mu      sync.Mutex
	readers map[*LiveReader]struct{}
	ended   bool
}

// liveBatch is what one commit stored; readers share it.
type liveBatch struct {
	records [][]byte // end to end in one piece of memory
	bytes   int
}

// gather copies records that are about to be stored, if anybody reads along; else it returns nil.
func (l *fanout) gather(records [][]byte) *liveBatch {
	if l == nil || l.reading.Load() == 0 || len(records) == 0 {
		return nil
	}
	b := &liveBatch{records: make([][]byte, len(records))}
	for _, r := range records {
		b.bytes += len(r)
	}
	if b.bytes > liveBytes {
		b.records = make([][]byte, len(records)) // too large for any reader; only their number counts
		return b
	}
	memory := make([]byte, 0, b.bytes)
	for i, r := range records {
		start := len(memory)
		memory = append(memory, r...)
		b.records[i] = memory[start:len(memory):len(memory)]
	}
	return b
}

// publish hands a batch that was stored to all readers. It never waits for one.
func (l *fanout) publish(b *liveBatch) {
	if b == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for r := range l.readers {
		r.put(b)
	}
}

// end lets the readers have what waits for them, and no more. None can come after it.
func (l *fanout) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	for r := range l.readers {
		r.mu.Lock()
		r.ended = true
		r.mu.Unlock()
		r.notify()
	}
}

// LiveReader reads along what is stored from its beginning on. Close it.
type LiveReader struct {
	bridge *Bridge
	filter LiveFilter
	wake   chan struct{} // holds one token when there may be something new

	mu      sync.Mutex
	batches []*liveBatch
	events  int
	bytes   int
	lost    int
	ended   bool
}

// Live returns a reader of the events that are stored from now on.
func (b *Bridge) Live(filter LiveFilter) (*LiveReader, error) {
	filter.Text = strings.ToLower(filter.Text)
	r := &LiveReader{bridge: b, filter: filter, wake: make(chan struct{}, 1)}
	if err := r.hasSink(); err != nil {
		return nil, err
	}
	l := &b.live
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.ended:
		return nil, ErrLiveEnded
	case len(l.readers) >= maxLiveReaders:
		return nil, ErrTooManyReaders
	case l.readers == nil:
		l.readers = make(map[*LiveReader]struct{})
	}
	l.readers[r] = struct{}{}
	l.reading.Store(int32(len(l.readers)))
	return r, nil
}

// Close ends the reading.
func (r *LiveReader) Close() {
	l := &r.bridge.live
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.readers, r)
	l.reading.Store(int32(len(l.readers)))
}

func (r *LiveReader) notify() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// put adds a batch. What waits longest goes where there is no room.
func (r *LiveReader) put(b *liveBatch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.batches = append(r.batches, b)
	r.events += len(b.records)
	r.bytes += b.bytes
	for len(r.batches) > 0 && (r.events > liveEvents || r.bytes > liveBytes) {
		r.lost += r.shift()
	}
	r.notify()
}

// shift drops the first batch and returns how many events it had. r.mu is held.
func (r *LiveReader) shift() int {
	b := r.batches[0]
	r.batches[0] = nil // its memory goes before that of the slice
	r.batches = r.batches[1:]
	r.events -= len(b.records)
	r.bytes -= b.bytes
	return len(b.records)
}

// Next waits for events that the filter lets through and returns them in the order in which they were stored. lost is how many
// events before them, of all kinds, it could not keep because they were not fetched in time. It returns ErrLiveEnded at the
// end of the daemon and ErrNoSuchSink when the filter's sink is not configured any more.
func (r *LiveReader) Next(ctx context.Context) (events []event.Record, lost int, err error) {
	for {
		r.mu.Lock()
		lost = r.lost
		r.lost = 0
		var batch *liveBatch
		if len(r.batches) > 0 {
			batch = r.batches[0]
			r.shift()
		}
		ended := r.ended
		r.mu.Unlock()
		if batch != nil {
			if events, err = r.wanted(batch.records); err != nil {
				return nil, lost, err
			}
		}
		switch {
		case lost > 0 || len(events) > 0:
			return events, lost, nil
		case batch != nil:
			if ctx.Err() != nil {
				return nil, 0, ctx.Err()
			}
			continue
		case ended:
			return nil, 0, ErrLiveEnded
		}
		select {
		case <-r.wake:
		case <-ctx.Done():
			return nil, 0, ctx.Err()
		}
	}
}

// wanted returns those of the records that the filter lets through.
func (r *LiveReader) wanted(records [][]byte) ([]event.Record, error) {
	sink, err := r.sink()
	if err != nil {
		return nil, err
	}
	var out []event.Record
	for _, data := range records {
		rec, err := event.ParseRecord(data)
		if err != nil {
			continue // the sinks say it
		}
		if r.wants(rec, sink) {
			out = append(out, rec)
		}
	}
	return out, nil
}

func (r *LiveReader) wants(rec event.Record, sink *config.Sink) bool {
	f := &r.filter
	if f.all() {
		return true
	}
	if f.Type.IsSet() && !f.Type.Match(rec.Type) {
		return false
	}
	e, err := rec.Event()
	if err != nil {
		return false
	}
	v := &view{Event: e}
	if f.HMC.IsSet() && !f.HMC.Match(e.HMC) || f.Severity.IsSet() && !f.Severity.Match(e.Severity) || !v.contains(f.Text) {
		return false
	}
	if sink == nil {
		return true
	}
	gets, _ := explain(sink, v)
	return gets
}

// contains says whether a text, in lower case, is part of what a person reads of the event.
func (v *view) contains(text string) bool {
	if text == "" {
		return true
	}
	in := func(s string) bool { return strings.Contains(strings.ToLower(s), text) }
	if in(v.Summary) || in(v.Type) || in(v.text()) {
		return true
	}
	r := v.Resource
	return r != nil && (in(r.Name) || in(r.CPC) || in(r.ElementName) || in(r.Class))
}

func (r *LiveReader) hasSink() error {
	_, err := r.sink()
	return err
}

// sink returns the configuration of the filter's sink as it is now; nil if the filter names none.
func (r *LiveReader) sink() (*config.Sink, error) {
	if r.filter.Sink == "" {
		return nil, nil //nolint:nilnil // no sink is asked for
	}
	r.bridge.mu.RLock()
	cfg := r.bridge.cfg
	r.bridge.mu.RUnlock()
	if i := sinkIndex(cfg, r.filter.Sink); i >= 0 {
		return &cfg.Sinks[i], nil
	}
	return nil, fmt.Errorf("%w: %q is not in the configuration", ErrNoSuchSink, r.filter.Sink)
}
