package record

import (
	"cmp"
	"context"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/translate"
)

// isNew reports whether an entry of a log was not recorded before.
func (t *tx) isNew(p *translate.Part) bool {
	if t.logs.Add(p.TopicType, p.Entry.Time, p.ID) {
		t.r.metrics.duplicate(p.Type)
		return false
	}
	return true
}

// BeginFetch returns the time from which on the entries of a log are to be fetched; the zero time:
// there is nothing to be fetched.
func (r *Recorder) BeginFetch(kind string) time.Time {
	t := r.enter()
	defer t.end()
	return t.logs.BeginFetch(kind)
}

// EndFetch notes what has become of a fetch: all came, or what is before begin.
func (r *Recorder) EndFetch(kind string, begin time.Time, all bool) {
	t := r.enter()
	defer t.end()
	t.logs.EndFetch(kind, begin, all)
}

// FetchedEntries records the entries of a log that are new, in the order of their times, which the
// HMC does not promise. Those of one time stay in the order of the log, which an HMC may list from
// its end.
func (r *Recorder) FetchedEntries(ctx context.Context, kind, topic string, entries [][]byte) {
	parsed := make([]translate.LogEntry, len(entries))
	for i, entry := range entries {
		parsed[i] = translate.ParseLogEntry(event.CompactValid(entry))
	}
	if n := len(parsed); n > 1 && parsed[0].Time > parsed[n-1].Time {
		slices.Reverse(parsed)
	}
	slices.SortStableFunc(parsed, func(a, b translate.LogEntry) int { return cmp.Compare(a.Time, b.Time) })
	t := r.begin(ctx)
	defer t.end()
	recovered := 0
	for i := range parsed {
		p := t.conv.LogEntry(t.conv.Fetched(event.TypeLogEntry, topic, kind, t.now), &parsed[i])
		if !t.isNew(p) {
			continue
		}
		t.put(p.Event)
		t.gaps.Recovered(kind, t.now)
		if recovered++; t.g.out.full() {
			t.flush()
		}
	}
	t.flush()
	r.log.Debug(
		"log entries were fetched", zap.String("log", kind), zap.Int("entries", len(entries)),
		zap.Int("new", recovered),
	)
}
