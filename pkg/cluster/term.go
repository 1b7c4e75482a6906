package cluster

import (
	"context"
	"errors"
	"sync"
	"time"
)

// Term is the time for which a daemon leads: it has the lease, which it renews, and may write.
type Term struct {
	*Lease
	cancel context.CancelFunc
	kept   sync.WaitGroup
}

// Lead waits until nobody else leads and begins a term. seen is that of Acquire. End it.
func (c *Cluster) Lead(ctx context.Context, opts LeaseOptions, seen func(Holder)) (*Term, error) {
	l, err := c.Acquire(ctx, opts, seen)
	if err != nil {
		return nil, err
	}
	keeping, cancel := context.WithCancel(context.WithoutCancel(ctx))
	t := &Term{Lease: l, cancel: cancel}
	t.kept.Go(func() { l.Keep(keeping) })
	return t, nil
}

// End ends the term, so that another daemon may lead at once. What writes has ended before that.
// ctx bounds it.
func (t *Term) End(ctx context.Context) error {
	t.cancel()
	t.kept.Wait()
	return t.Release(ctx)
}

// Open opens what use makes of a store, for as long as the log goes on by the hand of the one who
// has led before: what it has still written counts, and is to be read too. Each store has an epoch
// of its own. It gives up when the lease is lost or ctx is done.
func (t *Term) Open(ctx context.Context, patience time.Duration, use func(*Store) error) error {
	for {
		epoch, err := t.Renew(ctx)
		if err == nil {
			err = use(NewStore(t.c, StoreOptions{Epoch: epoch, Patience: patience, Life: ctx}))
		}
		if !errors.Is(err, ErrMoved) {
			return err
		}
		if wait(ctx, retryWait) != nil {
			return err
		}
	}
}
