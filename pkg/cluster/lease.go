package cluster

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
)

const leaseKey = "lease"

const (
	// DefaultTTL is the default of LeaseOptions.TTL.
	DefaultTTL = 15 * time.Second
	// lookEvery is how often who waits for the lease looks at it, at least: while nobody leads
	// there is no link to any HMC.
	lookEvery = 150 * time.Millisecond
)

// LeaseOptions say who wants to lead.
type LeaseOptions struct {
	// TTL is how long a leader is believed to lead that says nothing; 0: DefaultTTL. Each who asks
	// goes by its own.
	TTL time.Duration
	// Host is what people call the machine.
	Host string
	// Config tells configurations apart that are not the same.
	Config string
	Logger *zap.Logger
}

// Holder is what a lease says of its holder.
type Holder struct {
	// ID is another one for each process.
	ID string `json:"id"`
	// Host and Config are those of its LeaseOptions.
	Host   string `json:"host,omitempty"`
	Config string `json:"config,omitempty"`
	// Released says that it does not lead any more, HandsOver that it has left a note for whoever
	// leads next.
	Released  bool `json:"released,omitempty"`
	HandsOver bool `json:"hands_over,omitempty"`
}

// Lease is the right to lead. It keeps the peace between daemons; that no two of them write is what
// the expected sequence of the log is for.
type Lease struct {
	c    *Cluster
	opts LeaseOptions
	log  *zap.Logger
	self Holder
	// before had it, as far as is known.
	before Holder

	// Held while the entry is written.
	writing  sync.Mutex
	revision uint64

	mu sync.Mutex
	// When the last renewal that has succeeded was begun, by a clock that is not set.
	renewed time.Time
	lost    chan struct{}
	ended   bool
}

// Acquire waits until nobody else leads, and takes the lease. seen, which may be nil, is called
// with whoever leads meanwhile, at each change. The lease is to be renewed by Keep.
func (c *Cluster) Acquire(ctx context.Context, opts LeaseOptions, seen func(Holder)) (*Lease, error) {
	opts.TTL = cmp.Or(opts.TTL, DefaultTTL)
	l := &Lease{
		c: c, opts: opts, log: cmp.Or(opts.Logger, zap.NewNop()), lost: make(chan struct{}),
		self: Holder{ID: rand.Text(), Host: opts.Host, Config: opts.Config},
	}
	var last Holder
	var since, looked time.Time // when the entry of that revision was seen first, and the last look
	revision := ^uint64(0)
	for {
		holder, now, err := l.look(ctx)
		if err == nil {
			at := time.Now()
			if now != revision {
				revision, since = now, at
				if seen != nil && holder != last {
					seen(holder)
				}
				last = holder
			}
			// Where the cluster was away, whoever leads could not renew it either, and has
			// the time to do so.
			if at.Sub(looked) > opts.TTL/2 {
				since = at
			}
			looked = at
		}
		// Whoever leads has renewed the entry before it was seen: where nothing has come for as
		// long as it believes itself, and more, it does not lead.
		free := err == nil &&
			(now == 0 || holder.Released || holder.ID == l.self.ID || time.Since(since) >= opts.TTL)
		if free && l.write(ctx, now, l.self) == nil {
			l.before = holder
			l.log.Info("this daemon leads now", zap.String("before", holder.Host))
			return l, nil
		}
		if err := wait(ctx, min(opts.TTL/10, lookEvery)); err != nil {
			return nil, err
		}
	}
}

// look reads the entry; its revision is 0 where there is none. A replica may answer that is behind,
// so that what is taken for free is not: write says so.
func (l *Lease) look(ctx context.Context) (h Holder, revision uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	e, err := l.c.kv.Get(ctx, leaseKey)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return h, 0, nil
	}
	if err != nil {
		return h, 0, fmt.Errorf("bucket %s: %s: %w", Bucket(l.c.opts.Name), leaseKey, err)
	}
	if err := json.Unmarshal(e.Value(), &h); err != nil {
		l.log.Warn("the lease is unreadable and counts as one of nobody", zap.Error(err))
	}
	return h, e.Revision(), nil
}

// write writes the entry over the one with a revision.
func (l *Lease) write(ctx context.Context, over uint64, h Holder) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	return l.writeLocked(ctx, over, h)
}

func (l *Lease) writeLocked(ctx context.Context, over uint64, h Holder) error {
	value, err := json.Marshal(h)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	begun := time.Now() // before it is sent: nobody else sees it earlier
	revision, err := l.c.kv.Update(ctx, leaseKey, value, over)
	if err != nil {
		return err
	}
	l.revision = revision
	l.mu.Lock()
	defer l.mu.Unlock()
	l.renewed = begun
	return nil
}

// Renew renews the lease and returns its revision, which is above all that anybody has had before.
// It fails with ErrDeposed where another one leads.
func (l *Lease) Renew(ctx context.Context) (epoch uint64, err error) {
	l.writing.Lock()
	defer l.writing.Unlock()
	if l.isLost() {
		return 0, ErrDeposed
	}
	switch err := l.replaceLocked(ctx, l.self); {
	case err == nil:
		return l.revision, nil
	case errors.Is(err, ErrDeposed):
		l.lose()
		return 0, err
	default:
		return 0, fmt.Errorf("the lease could not be renewed: %w", err)
	}
}

// replaceLocked writes over the entry that is this lease's own. It may be another than that of the
// last answer: one may have been lost, as where a renewal was cut short.
func (l *Lease) replaceLocked(ctx context.Context, h Holder) error {
	err := l.writeLocked(ctx, l.revision, h)
	if err == nil {
		return nil
	}
	holder, revision, unknown := l.look(ctx)
	switch {
	case unknown != nil || revision <= l.revision:
		return err
	case holder.ID != l.self.ID:
		l.log.Error("another daemon has taken the lease", zap.String("host", holder.Host))
		return ErrDeposed
	}
	l.revision = revision
	return l.writeLocked(ctx, revision, h)
}

// Keep renews the lease until ctx is done or it is lost.
func (l *Lease) Keep(ctx context.Context) {
	failing := false
	for {
		pause := l.opts.TTL / 3
		if failing {
			pause = min(pause, time.Second)
		}
		select {
		case <-ctx.Done():
			return
		case <-l.lost:
			return
		case <-time.After(pause):
		}
		_, err := l.Renew(ctx)
		switch now := err != nil && ctx.Err() == nil; {
		case now && !failing:
			l.log.Warn("the lease could not be renewed", zap.Error(err))
			failing = true
		case failing && err == nil:
			l.log.Info("the lease is renewed again")
			failing = false
		}
	}
}

// Valid tells whether nobody else can lead yet: less than two thirds of the TTL have passed since a
// renewal that has succeeded was begun.
func (l *Lease) Valid() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.ended && time.Since(l.renewed) < l.opts.TTL*2/3
}

// Before returns who has had the lease before; the zero value: nobody, as far as is known.
func (l *Lease) Before() Holder { return l.before }

// Lost is closed when another daemon has the lease, or after Release.
func (l *Lease) Lost() <-chan struct{} { return l.lost }

func (l *Lease) isLost() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ended
}

func (l *Lease) lose() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.ended {
		l.ended = true
		close(l.lost)
	}
}

// Release gives the lease up, so that another daemon may have it at once. Nothing is to be written
// after that.
func (l *Lease) Release(ctx context.Context) error { return l.release(ctx, false) }

func (l *Lease) release(ctx context.Context, handsOver bool) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	if l.isLost() {
		return nil
	}
	l.lose()
	released := l.self
	released.Released, released.HandsOver = true, handsOver
	if err := l.replaceLocked(ctx, released); !errors.Is(err, ErrDeposed) {
		return err
	}
	return nil // another one has it already
}
