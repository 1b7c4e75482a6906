package bridge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/deliver"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/record"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/replay"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
)

// Errors of ForgetHMC.
var (
	ErrNotGone    = record.ErrNotGone
	ErrUnknownHMC = record.ErrUnknownHMC
)

const (
	// limitsPrefix begins the keys of the limits that the queues of sinks have: name.
	limitsPrefix = "limits/"
	// orphansEvery is how often those are applied to sinks that are not configured any more.
	orphansEvery = 10 * time.Second
	// goneEvery is how often it is looked for HMCs that have not been configured for long.
	goneEvery = time.Hour
)

// keepLimits stores the limits of a sink's queue, for when it is renamed or removed.
func (b *Bridge) keepLimits(cfg config.Sink) {
	value, err := json.Marshal(cfg.Queue)
	if stored, _ := b.queue.State(limitsPrefix + cfg.Name); err == nil && string(stored) != string(value) {
		// Nobody waits for it: it is stored with the next events at the latest.
		state := []queue.KeyValue{{Key: limitsPrefix + cfg.Name, Value: value}}
		err = b.queue.Append(b.deliverLife, queue.Batch{State: state})
	}
	if err != nil {
		b.log.Warn("the limits of a sink's queue could not be stored", zap.String("sink", cfg.Name), zap.Error(err))
	}
}

// trimOrphans applies to the queues of sinks that are not configured any more the limits that they
// had, so that nobody's events fill the disk for the others.
func (b *Bridge) trimOrphans(now time.Time) {
	for name, cursor := range b.orphans() {
		limits := config.DefaultQueue()
		if stored, ok := b.queue.State(limitsPrefix + name); ok {
			_ = json.Unmarshal(stored, &limits) // as it was written
		}
		dropped, err := deliver.Trim(cursor, limits, now)
		switch {
		case err != nil:
			b.log.Error("the limits of a removed sink's queue could not be applied",
				zap.String("sink", name), zap.Error(err))
		case dropped > 0:
			b.log.Warn("events were dropped that waited for a sink which is not configured any more: "+
				"they are beyond the limits that it had", zap.String("sink", name), zap.Int("events", dropped))
		}
	}
}

// groupsOf returns the group of each HMC that is configured.
func groupsOf(cfg *config.Config) map[string]string {
	groups := make(map[string]string, len(cfg.HMCs))
	for i := range cfg.HMCs {
		groups[cfg.HMCs[i].Name] = cfg.HMCs[i].Group
	}
	return groups
}

// forgetGone forgets what is known of HMCs that have not been configured for long.
func (b *Bridge) forgetGone(now time.Time) {
	if !b.reloading.TryLock() {
		return // there is time
	}
	defer b.reloading.Unlock()
	if err := b.gone.Look(b.life, groupsOf(b.now().cfg), now); err != nil && b.life.Err() == nil {
		b.log.Warn("what is known of HMCs that are not configured any more could not be forgotten", zap.Error(err))
	}
}

// ForgetHMC forgets what is known of an HMC that is not configured any more, and returns how many
// values that were.
func (b *Bridge) ForgetHMC(ctx context.Context, name string) (int, error) {
	b.reloading.Lock()
	defer b.reloading.Unlock()
	n, err := b.gone.Forget(ctx, name, groupsOf(b.now().cfg))
	if err != nil {
		return 0, fmt.Errorf("%s: %w", name, err)
	}
	return n, nil
}

// removedSinks are the sinks that are not configured any more and for which events wait.
func (b *Bridge) removedSinks() []status.RemovedSink {
	removed := []status.RemovedSink{}
	for name, cursor := range b.orphans() {
		if waiting := deliver.WaitingBehind(cursor); waiting.QueueEvents > 0 {
			removed = append(removed, status.RemovedSink{Name: name, Waiting: waiting})
		}
	}
	return removed
}

// PurgeRemovedSink gives up the events that wait for a sink which is not configured any more, and
// returns how many there were.
func (b *Bridge) PurgeRemovedSink(name string) (int64, error) {
	b.reloading.Lock() // the sink must not come back meanwhile
	defer b.reloading.Unlock()
	if sinkIndex(b.now().cfg, name) >= 0 {
		return 0, fmt.Errorf("%s: %w", name, replay.ErrConfigured)
	}
	cursor := b.queue.Lookup(name)
	if cursor == nil {
		return 0, fmt.Errorf("%w: no events wait for %q", replay.ErrNoSuchSink, name)
	}
	events, _, _ := cursor.Pending()
	if err := b.forgetSink(name); err != nil {
		return 0, err
	}
	b.log.Info("the events that waited for a removed sink were purged",
		zap.String("sink", name), zap.Int64("events", events))
	return events, nil
}

// retire forgets the cursor of a sink that is not configured any more, unless events still wait for
// it.
func (b *Bridge) retire(name string, cursor *queue.Cursor) {
	if waiting, _, _ := cursor.Pending(); waiting > 0 {
		b.log.Warn("events wait for a sink that is not configured any more; "+
			"they are kept, and what comes in is kept with them, "+
			"until a sink of that name comes back or until hmcnotifyd dead-letters purge --waiting --sink="+name,
			zap.String("sink", name), zap.Int64("events", waiting))
		return
	}
	if err := b.forgetSink(name); err != nil {
		b.log.Warn("the place of a removed sink in the queue could not be forgotten",
			zap.String("sink", name), zap.Error(err))
	}
}

// forgetSink removes the cursor of a sink, and what was kept for it.
func (b *Bridge) forgetSink(name string) error {
	return errors.Join(deliver.Kept(b.queue, name).Forget(b.deliverLife),
		b.live.Forget(b.deliverLife, name),
		b.queue.PutState(b.deliverLife, map[string][]byte{limitsPrefix + name: nil}), b.queue.RemoveCursor(name))
}

// retireOrphans deals with cursors of sinks that were removed while the daemon was down.
func (b *Bridge) retireOrphans() {
	for name, cursor := range b.orphans() {
		b.retire(name, cursor)
	}
}

// orphans ranges over the cursors of sinks that are not configured.
func (b *Bridge) orphans() iter.Seq2[string, *queue.Cursor] {
	return func(yield func(string, *queue.Cursor) bool) {
		for _, name := range b.queue.Cursors() {
			cursor := b.queue.Lookup(name)
			if cursor != nil && sinkIndex(b.now().cfg, name) < 0 && !yield(name, cursor) {
				return
			}
		}
	}
}
