package bridge

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/deliver"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/replay"
)

// deadLettersDropped says in the log that the limit of their bytes has taken dead letters away.
func (b *Bridge) deadLettersDropped(sink string, letters int) {
	if total, due := b.deadDropped.Count(time.Now(), letters); due {
		b.log.Error("dead letters were dropped, the oldest first: they are beyond storage.dead_letters_max_bytes",
			zap.String("sink", sink), zap.Int("letters", total))
	}
}

// known fails for a sink's name that is neither configured nor has dead letters: that is a slip of
// whoever asks.
func (b *Bridge) known(sink string) error {
	if sink == "" || b.dead.Count(sink) > 0 || sinkIndex(b.now().cfg, sink) >= 0 {
		return nil
	}
	return fmt.Errorf("%w: %q is not in the configuration and has no dead letters", replay.ErrNoSuchSink, sink)
}

// deliveryTo returns the running delivery of a sink, nil if there is none.
func (b *Bridge) deliveryTo(sink string) *deliver.Delivery {
	if r := find(b.now().deliveries, isTo(sink)); r != nil {
		return r.it
	}
	return nil
}

// DeadLetters returns at most limit dead letters without their events, oldest first, that are
// behind the one with the id after. If there may be more, next is what to give as after.
func (b *Bridge) DeadLetters(filter replay.DeadLetterFilter, after string, limit int) (
	letters []replay.DeadLetter, next string, err error,
) {
	if err := b.known(filter.Sink); err != nil {
		return nil, "", err
	}
	query := filter.Query()
	query.After, query.Limit = after, limit
	list, err := b.dead.List(query)
	if err != nil {
		return nil, "", letterError(err)
	}
	letters = make([]replay.DeadLetter, len(list))
	for i := range list {
		letters[i] = letterOf(&list[i])
	}
	if limit > 0 && len(letters) == limit {
		next = letters[limit-1].ID
	}
	return letters, next, nil
}

// DeadLetter returns one letter with its event.
func (b *Bridge) DeadLetter(id string) (replay.DeadLetter, error) {
	stored, err := b.dead.Get(id)
	if err != nil {
		return replay.DeadLetter{}, letterError(err)
	}
	return letterOf(&stored), nil
}

// letterOf is a stored letter as it is shown, with its event if that was read.
func letterOf(l *queue.DeadLetter) replay.DeadLetter {
	out := replay.DeadLetter{
		ID: l.ID, Sink: l.Sink, Time: l.Time.UTC(), Status: l.Status, Reason: l.Reason, Request: l.Request,
		EventID: l.EventID, EventType: l.EventType, Summary: l.Summary, Size: l.Size,
	}
	if json.Valid(l.Data) {
		out.Event = l.Data
	} else {
		out.Data = l.Data
	}
	return out
}

// letterError is an error of the stored letters as it is shown.
func letterError(err error) error {
	if errors.Is(err, queue.ErrNotFound) {
		return replay.ErrNoSuchLetter
	}
	return err
}

// logFields are a filter as the log shows it.
func logFields(f replay.DeadLetterFilter) []zap.Field {
	var fields []zap.Field
	if f.Sink != "" {
		fields = append(fields, zap.String("of_sink", f.Sink))
	}
	if len(f.IDs) > 0 {
		fields = append(fields, zap.Int("of_ids", len(f.IDs)))
	}
	if !f.Since.IsZero() {
		fields = append(fields, zap.Time("since", f.Since))
	}
	return fields
}

// PurgeDeadLetters deletes dead letters for ever and returns how many. After an error those it has
// counted are gone.
func (b *Bridge) PurgeDeadLetters(filter replay.DeadLetterFilter) (int, error) {
	if err := b.known(filter.Sink); err != nil {
		return 0, err
	}
	n, err := queue.Purge(b.dead, filter.Query())
	if n > 0 {
		b.log.Info("dead letters were purged", append(logFields(filter), zap.Int("letters", n))...)
	}
	return n, err
}

// Replay sends dead letters to the sink that refused them, or to the sink named to, one after the
// other, oldest first, sink by sink. It deletes what is accepted. What is refused again stays, with
// the new reason; at a temporary failure it stops with the letters of that sink. report is called
// at each step, the last of which is LettersDone; an error of report ends the replay. If Replay
// returns an error nothing has been reported.
func (b *Bridge) Replay(
	ctx context.Context, filter replay.DeadLetterFilter, to string, report func(replay.LettersStep) error,
) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	tell := func(s replay.LettersStep) {
		if ctx.Err() == nil && report(s) != nil {
			cancel()
		}
	}
	all, err := b.replay(ctx, filter, to, tell)
	if err == nil {
		// another one may begin as soon as this is heard
		tell(replay.LettersStep{Outcome: replay.LettersDone, Counts: &all})
	}
	return err
}

// replay is Replay but for the last step.
func (b *Bridge) replay(
	ctx context.Context, filter replay.DeadLetterFilter, to string, tell func(replay.LettersStep),
) (all replay.LettersCounts, err error) {
	if !b.replaying.TryLock() {
		return all, replay.ErrReplaying
	}
	defer b.replaying.Unlock()
	if to != "" && b.deliveryTo(to) == nil {
		return all, fmt.Errorf("%w: %q is not in the configuration", replay.ErrNoSuchSink, to)
	}
	if err := b.known(filter.Sink); err != nil {
		return all, err
	}
	query := filter.Query()
	// what is refused from now on is not for this replay
	query.Until = b.dead.Last()
	counts := map[string]int{}
	if query.Until != "" {
		if counts, err = b.dead.Matching(query); err != nil {
			return all, err
		}
	}
	for _, sink := range slices.Sorted(maps.Keys(counts)) {
		r := replay.Letters{
			LettersCounts: replay.LettersCounts{Letters: counts[sink], Left: counts[sink]},
			Dead:          b.dead, Query: query, Sink: sink, To: to, Report: tell,
		}
		r.Query.Sink, r.Query.Limit = sink, replay.LettersPage
		r.Run(ctx, b.deliveryTo(cmp.Or(to, sink)))
		all.Add(r.LettersCounts)
		b.log.Info("dead letters were replayed",
			zap.String("of_sink", sink), zap.String("to_sink", cmp.Or(to, sink)),
			zap.Int("accepted", r.Accepted), zap.Int("refused", r.Refused), zap.Int("left", r.Left))
	}
	return all, nil
}
