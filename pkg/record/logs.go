package record

import (
	"cmp"
	"context"
	"slices"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/ledger"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/translate"
)

// entry records an entry that was published.
func (t *tx) entry(p *translate.Part) {
	nth := t.logs.Published(p.TopicType, p.Entry.Time, p.ID, p.Received)
	if nth == 0 {
		t.r.metrics.duplicate(p.Type)
		return
	}
	p.Nth(nth)
	t.putKnown(p.Event)
}

// BeginFetch returns what is to be asked for of a log; false: nothing is. EndFetch has to be called
// after it.
func (r *Recorder) BeginFetch(kind string) (q ledger.LogQuery, ok bool) {
	t := r.enter()
	defer t.end()
	return t.logs.BeginFetch(kind, t.now)
}

// EndFetch notes whether all came that was asked for.
func (r *Recorder) EndFetch(kind string, q ledger.LogQuery, all bool) {
	t := r.enter()
	defer t.end()
	t.logs.EndFetch(kind, q, all)
}

// DoubtsLog says whether a time of a log is to be listed again, and nothing more.
func (r *Recorder) DoubtsLog(kind string) bool {
	t := r.enter()
	defer t.end()
	return t.logs.Doubtful(kind)
}

// fetchedAtOnce is how many entries of a list are taken up in one transaction.
const fetchedAtOnce = 1024

// FetchedEntries records the entries of a log that are new, in the order of their times, which the
// HMC does not promise. Those of one time stay in the order of the log, which an HMC may list from
// its end.
func (r *Recorder) FetchedEntries(ctx context.Context, kind, topic string, q ledger.LogQuery, entries [][]byte) {
	parsed := make([]translate.LogEntry, len(entries))
	for i, entry := range entries {
		parsed[i] = translate.ParseLogEntry(event.CompactValid(entry))
	}
	if n := len(parsed); n > 1 && parsed[0].Time > parsed[n-1].Time {
		slices.Reverse(parsed)
	}
	slices.SortStableFunc(parsed, func(a, b translate.LogEntry) int { return cmp.Compare(a.Time, b.Time) })
	ids := make([]event.ID, len(parsed))
	for i := range parsed {
		ids[i] = parsed[i].ID(r.name, kind)
	}
	f := fetchedLog{kind: kind, topic: topic, entries: parsed, ids: ids}
	for f.next < len(f.entries) || f.list == nil {
		r.take(ctx, &f, q)
	}
	r.log.Debug(
		"log entries were fetched", zap.String("log", kind), zap.Int("entries", len(entries)),
		zap.Int("new", f.recovered),
	)
}

// fetchedLog is a list of a log that is taken up.
type fetchedLog struct {
	kind, topic string
	entries     []translate.LogEntry
	ids         []event.ID
	list        *ledger.LogList
	next        int // entry
	recovered   int
}

// take takes up the next entries of a list. Between them others have their turn.
func (r *Recorder) take(ctx context.Context, f *fetchedLog, q ledger.LogQuery) {
	t := r.begin(ctx)
	defer t.end()
	if f.list == nil {
		f.list = t.logs.List(f.kind, q, t.now, f.ids)
	}
	for end := min(f.next+fetchedAtOnce, len(f.entries)); f.next < end; {
		i := f.next
		f.next++
		nth := f.list.Take(f.entries[i].Time, f.ids[i])
		if nth == 0 {
			continue
		}
		p := t.conv.LogEntry(t.conv.Fetched(event.TypeLogEntry, f.topic, f.kind, t.now), &f.entries[i])
		p.Nth(nth)
		t.putKnown(p.Event)
		t.gaps.Recovered(f.kind, t.now)
		f.recovered++
		if t.g.out.full() {
			t.flush()
		}
	}
	if f.next == len(f.entries) {
		f.list.End()
	}
	t.flush()
}
