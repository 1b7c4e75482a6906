package queue

import (
	"context"
	"strings"
)

// Scope is the part of a queue's state whose keys begin with Prefix: for whoever uses it they do
// not.
type Scope struct {
	Queue  *Queue
	Prefix string
}

// Range calls fn for all that is set, in order, until it returns false.
func (s Scope) Range(fn func(key string, value []byte) bool) {
	s.Queue.StateRange(s.Prefix, func(key string, value []byte) bool {
		return fn(strings.TrimPrefix(key, s.Prefix), value)
	})
}

// Put sets values, nil removes one, and waits until that is on disk.
func (s Scope) Put(ctx context.Context, values map[string][]byte) error {
	whole := make(map[string][]byte, len(values))
	for key, value := range values {
		whole[s.Prefix+key] = value
	}
	return s.Queue.PutState(ctx, whole)
}

// Forget removes everything.
func (s Scope) Forget(ctx context.Context) error {
	values := make(map[string][]byte)
	s.Range(func(key string, _ []byte) bool {
		values[key] = nil
		return true
	})
	return s.Put(ctx, values)
}
