package bridge

import (
	"context"
	"strings"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
)

// stateSink begins the keys of what sinks remember: sink, and a key of its own.
const stateSink = "sink/"

// sinkStore keeps what one sink remembers in the state of the queue.
type sinkStore struct {
	queue *queue.Queue
	name  string
}

func (s sinkStore) prefix() string { return stateSink + s.name + "\x00" }

// Range calls fn for everything that is kept.
func (s sinkStore) Range(fn func(key string, value []byte) bool) {
	s.queue.StateRange(s.prefix(), func(key string, value []byte) bool {
		return fn(strings.TrimPrefix(key, s.prefix()), value)
	})
}

// Put keeps values, nil removes one, and waits until that is on disk.
func (s sinkStore) Put(ctx context.Context, values map[string][]byte) error {
	whole := make(map[string][]byte, len(values))
	for key, value := range values {
		whole[s.prefix()+key] = value
	}
	return s.queue.PutState(ctx, whole)
}

// forget removes everything.
func (s sinkStore) forget(ctx context.Context) error {
	values := make(map[string][]byte)
	s.Range(func(key string, _ []byte) bool {
		values[key] = nil
		return true
	})
	return s.Put(ctx, values)
}
