package deliver

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/sinks"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
)

// stateSink begins the keys of what sinks remember: sink, and a key of its own.
const stateSink = "sink/"

// SinkStore keeps what one sink remembers in the state of the queue.
type SinkStore struct {
	Queue *queue.Queue
	Name  string
}

func (s SinkStore) prefix() string { return stateSink + s.Name + "\x00" }

// Range calls fn for everything that is kept.
func (s SinkStore) Range(fn func(key string, value []byte) bool) {
	s.Queue.StateRange(s.prefix(), func(key string, value []byte) bool {
		return fn(strings.TrimPrefix(key, s.prefix()), value)
	})
}

// Put keeps values, and waits until they are on disk.
func (s SinkStore) Put(ctx context.Context, values map[string][]byte) error {
	batch := queue.Batch{}
	for _, key := range slices.Sorted(maps.Keys(values)) {
		batch.State = append(batch.State, queue.KeyValue{Key: s.prefix() + key, Value: values[key]})
	}
	done := make(chan error, 1)
	batch.Done = func(err error) { done <- err }
	if err := s.Queue.Append(ctx, batch); err != nil {
		return err
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Forget removes everything.
func (s SinkStore) Forget(ctx context.Context) error {
	values := make(map[string][]byte)
	s.Range(func(key string, _ []byte) bool {
		values[key] = nil
		return true
	})
	if len(values) == 0 {
		return nil
	}
	return s.Put(ctx, values)
}

// repeat has a sink say again what it has said, for as long as ctx lasts.
func (d *Delivery) repeat(ctx context.Context, r sinks.Repeater) {
	own := len(d.Health.lanes) - 1
	partly := false
	for {
		start := time.Now()
		attempt, cancel := context.WithTimeout(ctx, d.Cfg.Timeout)
		err := r.Repeat(attempt)
		cancel()
		if ctx.Err() != nil || errors.Is(err, sinks.ErrClosed) {
			return
		}
		now := time.Now()
		d.Metrics.duration.Observe(now.Sub(start).Seconds())
		partial, some := errors.AsType[*sinks.PartialError](err)
		if err != nil && !some {
			d.Metrics.retry.Inc()
			d.Health.failed(own, now, err)
		} else {
			d.Metrics.success.Inc()
			d.Health.answered(own, now)
			d.Health.partly(partial, now)
			if some && !partly {
				d.log.Warn("not all members of the sink accept what one of them does; they are told again", zap.Error(partial))
			} else if partly && !some {
				d.log.Info("all members of the sink accept again")
			}
			partly = some
		}
		wait := r.RepeatInterval()
		if err != nil && !some {
			wait = min(wait, d.Cfg.Retry.Max)
		}
		if !status.Sleep(ctx, wait) {
			return
		}
	}
}
