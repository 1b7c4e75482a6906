package bridge

import (
	"context"
	"fmt"
	"sync"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/replay"
)

// Live returns a reader of the events that are stored from now on. Close it.
func (b *Bridge) Live() (*replay.LiveReader, error) { return b.live.Read() }

// ReplayStored sends stored events once more through a sink, as replay.History.Replay does; an
// error of report ends it. If ReplayStored returns an error nothing has been sent or reported.
func (b *Bridge) ReplayStored(
	ctx context.Context, sink string, query replay.Query, report func(replay.Step) error,
) error {
	d := b.deliveryTo(sink)
	if d == nil {
		return fmt.Errorf("%w: %q is not in the configuration", replay.ErrNoSuchSink, sink)
	}
	if !b.replaying.TryLock() {
		return replay.ErrReplaying
	}
	free := sync.OnceFunc(b.replaying.Unlock)
	defer free()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	counts, err := b.live.Replay(ctx, d, query, func(s replay.Step) {
		if s.Outcome == replay.Begins && !query.DryRun {
			b.log.Info("stored events are replayed",
				zap.String("sink", sink), zap.Timep("since", s.Since), zap.Timep("until", s.Until))
		}
		if s.Outcome == replay.Done || s.Outcome == replay.Stopped {
			free() // another one may begin as soon as this is heard
		}
		if ctx.Err() == nil && report(s) != nil {
			cancel()
		}
	})
	if err == nil && !query.DryRun {
		b.log.Info("the replay of stored events has ended",
			zap.String("sink", sink), zap.Int("events", counts.Events), zap.Int("filtered", counts.Filtered),
			zap.Int("delivered", counts.Delivered), zap.Int("refused", counts.Refused))
	}
	return err
}
