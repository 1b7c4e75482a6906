package bridge

import (
	"context"
	"fmt"
	"strings"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/deliver"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/match"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/record"
)

// Errors of live readers.
var (
	ErrTooManyReaders = record.ErrTooManyReaders
	ErrLiveEnded      = record.ErrLiveEnded
)

// LiveFilter says which events a live reader is to get; the zero value stands for all.
type LiveFilter struct {
	Type, HMC, Severity match.Patterns
	// is part of what a person reads of the event, whatever the case
	Text string
	// gets the event
	Sink string
}

// LiveReader reads along what is stored from its beginning on. Close it.
type LiveReader struct {
	from   *record.Follower
	bridge *Bridge
	filter LiveFilter
}

// Live returns a reader of the events that are stored from now on.
func (b *Bridge) Live() (*LiveReader, error) {
	from, err := b.live.Follow()
	if err != nil {
		return nil, err
	}
	return &LiveReader{from: from, bridge: b}, nil
}

// Only makes the reader skip what filter does not let through. It comes before the first Next. It
// returns ErrNoSuchSink when the filter's sink is not configured.
func (r *LiveReader) Only(filter LiveFilter) error {
	filter.Text = strings.ToLower(filter.Text)
	r.filter = filter
	_, err := r.sink()
	return err
}

// Close ends the reading.
func (r *LiveReader) Close() { r.bridge.live.Leave(r.from) }

// Next waits for events that the filter lets through and returns them in the order in which they
// were stored. lost is how many events before them, of all kinds, it could not keep because they
// were not fetched in time. It returns ErrLiveEnded at the end of the daemon and ErrNoSuchSink when
// the filter's sink is not configured any more.
func (r *LiveReader) Next(ctx context.Context) (events []event.Record, lost int, err error) {
	for {
		batch, gone, ended := r.from.Next()
		lost = gone
		if batch != nil {
			if events, err = r.wanted(batch); err != nil {
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
		case <-r.from.Wake:
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
	if !fits(f.HMC, e.HMC) || !fits(f.Severity, e.Severity) || !v.Contains(f.Text) {
		return false
	}
	if sink == nil {
		return true
	}
	gets, _ := deliver.Explain(sink, v)
	return gets
}

// sink returns the configuration of the filter's sink as it is now; nil if the filter names none.
func (r *LiveReader) sink() (*config.Sink, error) {
	if r.filter.Sink == "" {
		return nil, nil //nolint:nilnil // no sink is asked for
	}
	cfg := r.bridge.now().cfg
	if i := sinkIndex(cfg, r.filter.Sink); i >= 0 {
		return &cfg.Sinks[i], nil
	}
	return nil, fmt.Errorf("%w: %q is not in the configuration", deliver.ErrNoSuchSink, r.filter.Sink)
}
