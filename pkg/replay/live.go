package replay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/match"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/route"
)

const (
	// MaxLiveReaders bounds how many may read along.
	MaxLiveReaders = 32
	// lookBack is how many records are looked through for the last event that a reader had, and
	// lastBack for the last ones that its filter lets through.
	lookBack = 100_000
	lastBack = 2_000
	// MaxLast is how many of those there are at most, and lastBytes how large they are together.
	MaxLast   = 1000
	lastBytes = 4 << 20
)

// Errors of those who read along.
var (
	ErrTooManyReaders = errors.New("too many readers of live events")
	ErrLiveEnded      = errors.New("the daemon is ending")
)

// Log is what is read along.
type Log interface {
	// Bounds returns the first and the last record that can be read; where there is none, first is
	// the one behind last.
	Bounds() (first, last uint64)
	// Reader returns one that begins with record first, or with the first one after it.
	Reader(first uint64) Reader
	// Find returns the first and the last of the records that may have been stored in a time. It
	// may return too much, and never too little.
	Find(since, until time.Time) (first, last uint64, err error)
}

// Reader reads a Log as a queue.Reader does.
type Reader interface {
	Next(ctx context.Context, maxRecords, maxBytes int) ([]queue.Record, error)
	Poll(maxRecords, maxBytes int) ([]queue.Record, error)
	Close()
}

// queueLog is the Log of a queue.
type queueLog struct{ *queue.Queue }

// Reader implements Log.
func (q queueLog) Reader(first uint64) Reader { return q.Queue.Reader(first, false) }

// Live is where those are who read along.
type Live struct {
	History

	log Log
	// Config is the configuration that is in use.
	Config func() *config.Config
	// ended is done when no more is to come.
	ended context.Context
	end   context.CancelCauseFunc

	mu      sync.Mutex
	readers map[*LiveReader]struct{}
	// holds a token when one has left
	left chan struct{}
}

// NewLive returns one without readers.
func NewLive(h History, cfg func() *config.Config) *Live {
	l := NewLiveOf(queueLog{h.Queue}, cfg)
	l.History = h
	return l
}

// NewLiveOf returns one of a log that has no history besides.
func NewLiveOf(log Log, cfg func() *config.Config) *Live {
	l := &Live{log: log, Config: cfg, readers: make(map[*LiveReader]struct{}), left: make(chan struct{}, 1)}
	l.ended, l.end = context.WithCancelCause(context.Background())
	return l
}

// End lets the readers have what is stored, and no more. None can come after it.
func (l *Live) End() { l.EndBecause(ErrLiveEnded) }

// EndBecause is End with what the readers are told.
func (l *Live) EndBecause(why error) { l.end(why) }

// Left waits, after End, until the readers have had what is stored and are closed, but no longer
// than that.
func (l *Live) Left(limit time.Duration) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		l.mu.Lock()
		n := len(l.readers)
		l.mu.Unlock()
		if n == 0 {
			return
		}
		select {
		case <-l.left:
		case <-timer.C:
			return
		}
	}
}

// LiveFilter says which events a live reader is to get, and from when on; the zero value stands for
// all that come.
type LiveFilter struct {
	Type, HMC, Severity match.Patterns
	// is part of what a person reads of the event, whatever the case
	Text string
	// gets the event
	Sink string

	// From where on, the first of these that is set: the event with this id, which is left out;
	After string
	// the first that was received at this time or later;
	Since time.Time
	// the last so many, as far as they are among those stored last.
	Last int
}

// LiveReader reads what is stored. Close it.
type LiveReader struct {
	live   *Live
	from   Reader
	next   uint64 // the record that comes next, if none is lost
	filter LiveFilter
	// first are those that come before what from reads.
	first []event.Record
	// those up to stored have to be received since filter.Since
	stored uint64
}

// Read returns a reader of the events that are stored from now on.
func (l *Live) Read() (*LiveReader, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.ended.Err() != nil:
		return nil, context.Cause(l.ended)
	case len(l.readers) >= MaxLiveReaders:
		return nil, ErrTooManyReaders
	}
	r := &LiveReader{live: l}
	_, last := l.log.Bounds()
	r.begin(last + 1)
	l.readers[r] = struct{}{}
	return r, nil
}

// begin has the reader begin with a record.
func (r *LiveReader) begin(seq uint64) {
	if r.from != nil {
		r.from.Close()
	}
	r.from, r.next = r.live.log.Reader(seq), seq
}

// Close ends the reading.
func (r *LiveReader) Close() {
	r.live.mu.Lock()
	delete(r.live.readers, r)
	r.live.mu.Unlock()
	r.from.Close()
	select {
	case r.live.left <- struct{}{}:
	default:
	}
}

// Only makes the reader skip what filter does not let through, and begin where that says. It comes
// before the first Next. It returns ErrNoSuchSink when the filter's sink is not configured. known
// is false where the event filter.After is not among the last that are stored.
func (r *LiveReader) Only(filter LiveFilter) (known bool, err error) {
	filter.Text = strings.ToLower(filter.Text)
	r.filter = filter
	if _, err := r.sink(); err != nil {
		return true, err
	}
	first, end := r.live.log.Bounds()
	switch {
	case filter.After != "":
		known := false
		r.begin(max(first, end-min(end, lookBack)))
		err := r.upTo(end, func(rec event.Record) bool {
			known = rec.ID == filter.After
			return !known
		})
		if err == nil && !known {
			r.begin(end + 1)
		}
		return known, err
	case !filter.Since.IsZero():
		seq, _, err := r.live.log.Find(filter.Since, filter.Since)
		r.begin(seq)
		r.stored = end
		return true, err
	case filter.Last > 0:
		r.begin(max(first, end-min(end, lastBack)))
		return true, r.last(end)
	}
	return true, nil
}

// upTo calls fn for the records up to end, until it returns false. The next record is the one
// behind the last that fn was called with.
func (r *LiveReader) upTo(end uint64, fn func(event.Record) bool) error {
	for r.next <= end {
		records, err := r.from.Poll(pageEvents, pageBytes)
		if err != nil || len(records) == 0 {
			return err
		}
		for _, one := range records {
			if one.Seq > end {
				r.begin(one.Seq)
				return nil
			}
			r.next = one.Seq + 1
			rec, err := event.ParseRecord(one.Data)
			if err == nil && !fn(rec) {
				r.begin(one.Seq + 1)
				return nil
			}
		}
	}
	return nil
}

// last gathers the last events that the filter lets through.
func (r *LiveReader) last(end uint64) error {
	sink, err := r.sink()
	if err != nil {
		return err
	}
	bytes := 0
	return r.upTo(end, func(rec event.Record) bool {
		if !r.wants(rec, sink) {
			return true
		}
		r.first, bytes = append(r.first, rec), bytes+len(rec.JSON)
		for len(r.first) > min(r.filter.Last, MaxLast) || bytes > lastBytes {
			bytes -= len(r.first[0].JSON)
			r.first = r.first[1:]
		}
		return true
	})
}

// Next waits for events that the filter lets through and returns them in the order in which they
// were stored. lost is how many events before them, of all kinds, were gone when their turn came.
// It returns ErrLiveEnded, or what EndBecause says, at the end, and ErrNoSuchSink when the filter's
// sink is not configured any more.
func (r *LiveReader) Next(ctx context.Context) (events []event.Record, lost int, err error) {
	if events, r.first = r.first, nil; len(events) > 0 {
		return events, 0, nil
	}
	waiting, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(r.live.ended, stop)() //nolint:contextcheck // it ends all of them
	for {
		records, err := r.from.Next(waiting, pageEvents, pageBytes)
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return nil, 0, ctx.Err()
		case r.live.ended.Err() != nil:
			return nil, 0, context.Cause(r.live.ended) //nolint:contextcheck // as above
		case errors.Is(err, queue.ErrClosed):
			return nil, 0, ErrLiveEnded
		default:
			return nil, 0, err
		}
		events, lost, err := r.wanted(records)
		switch {
		case err != nil || lost > 0 || len(events) > 0:
			return events, lost, err
		case ctx.Err() != nil:
			return nil, 0, ctx.Err()
		}
	}
}

// wanted returns those of the records that the filter lets through, and how many are missing.
func (r *LiveReader) wanted(records []queue.Record) (out []event.Record, lost int, err error) {
	sink, err := r.sink()
	if err != nil {
		return nil, 0, err
	}
	for _, one := range records {
		lost += int(one.Seq - r.next)
		r.next = one.Seq + 1
		rec, err := event.ParseRecord(one.Data)
		if err != nil {
			continue // the sinks say it
		}
		if one.Seq <= r.stored && rec.Received.Before(r.filter.Since) {
			continue
		}
		if r.wants(rec, sink) {
			out = append(out, rec)
		}
	}
	return out, lost, nil
}

func (r *LiveReader) wants(rec event.Record, sink *config.Sink) bool {
	f := &r.filter
	if !f.Type.IsSet() && !f.HMC.IsSet() && !f.Severity.IsSet() && f.Text == "" && f.Sink == "" {
		return true
	}
	fits := func(p match.Patterns, value string) bool { return !p.IsSet() || p.Match(value) }
	if !fits(f.Type, rec.Type) {
		return false
	}
	e, err := rec.Event()
	if err != nil {
		return false
	}
	v := &match.View{Event: e}
	if !fits(f.HMC, e.HMC) || !fits(f.Severity, e.Severity) || !contains(v, f.Text) {
		return false
	}
	if sink == nil {
		return true
	}
	gets, _ := route.Explain(sink, v)
	return gets
}

// contains says whether a text, in lower case, is part of what a person reads of an event.
func contains(v *match.View, text string) bool {
	r := cmp.Or(v.Resource, &event.Resource{})
	return slices.ContainsFunc([]string{v.Summary, v.Type, v.Text(), r.Name, r.CPC, r.ElementName, r.Class},
		func(s string) bool { return strings.Contains(strings.ToLower(s), text) })
}

// sink returns the configuration of the filter's sink as it is now; nil if the filter names none.
func (r *LiveReader) sink() (*config.Sink, error) {
	if r.filter.Sink == "" {
		return nil, nil //nolint:nilnil // no sink is asked for
	}
	cfg := r.live.Config()
	for i := range cfg.Sinks {
		if cfg.Sinks[i].Name == r.filter.Sink {
			return &cfg.Sinks[i], nil
		}
	}
	return nil, fmt.Errorf("%w: %q is not in the configuration", ErrNoSuchSink, r.filter.Sink)
}
