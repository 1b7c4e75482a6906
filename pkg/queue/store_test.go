package queue

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

// refusing is a store that refuses commits when its function says so.
type refusing struct {
	Store
	refuse func(g *Group) error
}

func (s refusing) Commit(g *Group) error {
	if err := s.refuse(g); err != nil {
		return err
	}
	return s.Store.Commit(g)
}

func openRefusing(t *testing.T, opts Options, refuse func(g *Group) error) *Queue {
	t.Helper()
	opts.Wrap = func(s Store) Store { return refusing{s, refuse} }
	return open(t, opts)
}

// A store that refuses looks like a full disk: Done, Chain and Err say so until a commit works again.
func TestStoreRefuses(t *testing.T) {
	t.Parallel()
	var full atomic.Bool
	q := openRefusing(t, Options{}, func(*Group) error {
		if full.Load() {
			return syscall.ENOSPC
		}
		return nil
	})
	c := cursor(t, q, "c")
	set := func(value string) Batch { return Batch{State: []KeyValue{{Key: "k", Value: []byte(value)}}} }
	if err := store(q, set("stored")); err != nil {
		t.Fatal(err)
	}
	full.Store(true)
	b := set("refused")
	b.Records, b.Chain = [][]byte{[]byte("refused")}, new(Chain)
	if err := store(q, b); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("Done got %v", err)
	}
	if !b.Chain.Failed() || !errors.Is(q.Err(), syscall.ENOSPC) {
		t.Errorf("chain failed: %v, Err: %v", b.Chain.Failed(), q.Err())
	}
	if err := store(q, b); !errors.Is(err, ErrChain) {
		t.Errorf("one more of the chain: %v", err)
	}
	if v, _ := q.State("k"); string(v) != "stored" {
		t.Errorf("the state is %q", v)
	}
	expectEmpty(t, c)
	full.Store(false)
	waitFor(t, "the store to be tried", func() bool { return q.Err() == nil })
	mustPut(t, q, numbered(1, 3)...)
	expectRecords(t, c, 1, 3)
}

// Writers whose state builds on itself load it after a failure, and find what was confirmed and nothing else.
func TestLoadAfterRefusal(t *testing.T) {
	t.Parallel()
	const workers, wanted = 4, 150
	var on atomic.Bool
	q := openRefusing(t, Options{SegmentBytes: 64 << 10}, func(*Group) error {
		if on.Load() && rand.IntN(4) == 0 {
			return syscall.ENOSPC
		}
		return nil
	})
	c := cursor(t, q, "c")
	on.Store(true)
	var group sync.WaitGroup
	var confirmed [workers]int // the last number of each worker
	for w := range workers {
		group.Go(func() {
			key, chain := fmt.Sprintf("worker/%d", w), new(Chain)
			var mu sync.Mutex
			last, failures := 0, 0
			var flying sync.WaitGroup
			for n := 1; n <= wanted || chain.Failed(); n++ {
				flying.Add(1)
				b := Batch{
					Records: [][]byte{fmt.Appendf(nil, "%d %d", w, n)}, Chain: chain,
					State: []KeyValue{{Key: key, Value: strconv.AppendInt(nil, int64(n), 10)}, {Key: key + "/twice", Value: strconv.AppendInt(nil, int64(2*n), 10)}},
					Done: func(err error) {
						mu.Lock()
						defer mu.Unlock()
						if err == nil {
							if last != n-1 {
								t.Errorf("worker %d: %d is stored after %d", w, n, last)
							}
							last = n
						}
						flying.Done()
					},
				}
				if err := q.Append(context.Background(), b); err != nil {
					if !errors.Is(err, ErrChain) {
						t.Error(err)
					}
					flying.Done()
				}
				if n >= wanted || n%10 == 0 {
					flying.Wait() // else one that fails at the end is not noticed
				}
				if !chain.Failed() {
					continue
				}
				flying.Wait()
				failures++
				n, chain = last, new(Chain)
				values := map[string]string{}
				q.StateRange(key, func(key string, value []byte) bool {
					values[key] = string(value)
					return true
				})
				v, _ := q.State(key)
				if want := strconv.Itoa(last); last > 0 && (string(v) != want || values[key] != want || values[key+"/twice"] != strconv.Itoa(2*last)) {
					t.Errorf("worker %d: confirmed is %d, the state is %q and %v", w, last, v, values)
				} else if last == 0 && (v != nil && len(v) > 0 || len(values) > 0) {
					t.Errorf("worker %d: nothing is confirmed, the state is %q and %v", w, v, values)
				}
			}
			confirmed[w] = last
			t.Logf("worker %d: %d failures", w, failures)
		})
	}
	group.Wait()
	on.Store(false)
	check := func(q *Queue, c *Cursor) {
		t.Helper()
		var read [workers]int
		for _, r := range next(t, c, workers*wanted) {
			var w, n int
			if _, err := fmt.Sscanf(string(r.Data), "%d %d", &w, &n); err != nil || n != read[w]+1 {
				t.Fatalf("record %d is %q after %d: %v", r.Seq, r.Data, read[w], err)
			}
			read[w] = n
		}
		for w, n := range confirmed {
			if v, _ := q.State(fmt.Sprintf("worker/%d", w)); n != wanted || string(v) != strconv.Itoa(n) {
				t.Errorf("worker %d: %d confirmed, %q stored", w, n, v)
			}
		}
	}
	check(q, c)
	q = reopen(t, q)
	check(q, cursor(t, q, "c"))
}
