package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/tests/natscluster"
)

// acquired acquires in the background.
func acquired(ctx context.Context, t *testing.T, c *Cluster, opts LeaseOptions) <-chan *Lease {
	t.Helper()
	got := make(chan *Lease, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if l, err := c.Acquire(ctx, opts, nil); err == nil {
			got <- l
		}
	}()
	t.Cleanup(func() { <-done })
	return got
}

// One that renews keeps the lease, one that does not loses it after the TTL and not before, and
// believes that it has it for two thirds of that only.
func TestLease(t *testing.T) {
	t.Parallel()
	url := natscluster.Single(t)
	a, b := connect(t, "x", 1, url), connect(t, "x", 1, url)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	first, err := a.Acquire(ctx, LeaseOptions{TTL: shortTTL, Host: "a"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !first.Valid() {
		t.Error("a lease is not valid when it is acquired")
	}
	keeping, stop := context.WithCancel(ctx)
	kept := make(chan struct{})
	go func() { defer close(kept); first.Keep(keeping) }()
	second := acquired(ctx, t, b, LeaseOptions{TTL: shortTTL, Host: "b"})
	select {
	case <-second:
		// Where this machine was held up for as long as that, it is right.
		if first.Valid() {
			t.Fatal("two lead at once")
		}
		t.Skip("the machine is too slow to keep a lease")
	case <-time.After(3 * shortTTL):
	}
	before, err := first.Renew(ctx)
	if err != nil {
		t.Fatal(err)
	}
	stop()
	<-kept
	next := <-second
	if first.Valid() {
		t.Error("the first believes that it leads when the second does")
	}
	after, err := next.Renew(ctx)
	if err != nil || after <= before {
		t.Errorf("epochs %d and %d, %v", before, after, err)
	}
	if _, err := first.Renew(ctx); !errors.Is(err, ErrDeposed) {
		t.Errorf("the first has renewed what it has lost: %v", err)
	}
	select {
	case <-first.Lost():
	default:
		t.Error("the first is not told that it has lost it")
	}
	if err := first.Release(ctx); err != nil {
		t.Errorf("releasing what is lost: %v", err)
	}
	if _, err := next.Renew(ctx); err != nil {
		t.Errorf("the second has lost it by that: %v", err)
	}
}

// What was released another one has at once, whatever the TTL; who leads is told with what it says
// of itself.
func TestLeaseReleased(t *testing.T) {
	t.Parallel()
	url := natscluster.Single(t)
	a, b := connect(t, "x", 1, url), connect(t, "x", 1, url)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	const ttl = 24 * time.Hour
	first, err := a.Acquire(ctx, LeaseOptions{TTL: ttl, Host: "a", Config: "1"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	seen := make(chan Holder, 10)
	got := make(chan *Lease, 1)
	go func() {
		l, _ := b.Acquire(ctx, LeaseOptions{TTL: ttl, Host: "b"}, func(h Holder) { seen <- h })
		got <- l
	}()
	if h := <-seen; h.Host != "a" || h.Config != "1" || h.ID != first.self.ID || h.Released {
		t.Errorf("the holder is %+v", h)
	}
	// The answer to a renewal was lost.
	entry, err := json.Marshal(first.self)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.kv.Update(ctx, leaseKey, entry, first.revision); err != nil {
		t.Fatal(err)
	}
	if err := first.Release(ctx); err != nil {
		t.Fatal(err)
	}
	if l := <-got; l == nil || !l.Valid() || first.Valid() {
		t.Error("the lease is not the other's")
	}
	if _, err := b.Acquire(ended(), LeaseOptions{TTL: ttl}, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("acquiring after the end: %v", err)
	}
}

// Of several who wait one gets it, each time.
func TestLeaseOfMany(t *testing.T) {
	t.Parallel()
	url := natscluster.Single(t)
	const many = 5
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	got := make(chan *Lease, many)
	for range many {
		c := connect(t, "x", 1, url)
		go func() {
			l, _ := c.Acquire(ctx, LeaseOptions{TTL: 24 * time.Hour}, nil)
			got <- l
		}()
	}
	for range many {
		l := <-got
		if l == nil {
			t.Fatal("not acquired")
		}
		select {
		case <-got:
			t.Fatal("two lead at once")
		case <-time.After(300 * time.Millisecond):
		}
		if err := l.Release(ctx); err != nil {
			t.Fatal(err)
		}
	}
}
