package deliver

import (
	"context"
	"strings"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
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

// Put keeps values, nil removes one, and waits until that is on disk.
func (s SinkStore) Put(ctx context.Context, values map[string][]byte) error {
	whole := make(map[string][]byte, len(values))
	for key, value := range values {
		whole[s.prefix()+key] = value
	}
	return s.Queue.PutState(ctx, whole)
}

// Forget removes everything.
func (s SinkStore) Forget(ctx context.Context) error {
	values := make(map[string][]byte)
	s.Range(func(key string, _ []byte) bool {
		values[key] = nil
		return true
	})
	return s.Put(ctx, values)
}
