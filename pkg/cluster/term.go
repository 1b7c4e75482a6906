package cluster

import (
	"context"
	"sync"
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

// NewStore returns a store for this term. Each has an epoch of its own, above those before.
func (t *Term) NewStore(ctx context.Context, o StoreOptions) (*Store, error) {
	epoch, err := t.Renew(ctx)
	if err != nil {
		return nil, err
	}
	o.Epoch = epoch
	return NewStore(t.c, o), nil
}
