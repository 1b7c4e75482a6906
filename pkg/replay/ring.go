package replay

import (
	"context"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
)

// Ring is a Log in memory: the newest records of one that is elsewhere. Its zero value is empty.
type Ring struct {
	// MaxBytes bounds what it has.
	MaxBytes int

	mu      sync.Mutex
	records []queue.Record
	bytes   int
	last    uint64
	// closed, and replaced, when there is more
	more chan struct{}
}

// Add adds the next record, which is copied. One that is not behind the last one is left out.
func (r *Ring) Add(seq uint64, data []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if seq <= r.last {
		return
	}
	r.last = seq
	r.records = append(r.records, queue.Record{Seq: seq, Data: slices.Clone(data), Stored: time.Now()})
	r.bytes += len(data)
	gone := 0
	for ; r.bytes > r.MaxBytes; gone++ {
		r.bytes -= len(r.records[gone].Data)
		r.records[gone] = queue.Record{}
	}
	r.records = r.records[gone:]
	if r.more != nil {
		close(r.more)
		r.more = nil
	}
}

// Bounds implements Log.
func (r *Ring) Bounds() (first, last uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.records) == 0 {
		return r.last + 1, r.last
	}
	return r.records[0].Seq, r.last
}

// Find implements Log: when a record was stored it does not know.
func (r *Ring) Find(time.Time, time.Time) (first, last uint64, err error) {
	first, last = r.Bounds()
	return first, last, nil
}

// Reader implements Log.
func (r *Ring) Reader(first uint64) Reader { return &ringReader{ring: r, next: first} }

// ringReader reads a Ring.
type ringReader struct {
	ring *Ring
	next uint64
}

// Close implements Reader.
func (*ringReader) Close() {}

// Poll implements Reader.
func (r *ringReader) Poll(maxRecords, maxBytes int) ([]queue.Record, error) {
	out, _ := r.take(maxRecords, maxBytes)
	return out, nil
}

// Next implements Reader.
func (r *ringReader) Next(ctx context.Context, maxRecords, maxBytes int) ([]queue.Record, error) {
	for {
		out, more := r.take(maxRecords, maxBytes)
		if len(out) > 0 {
			return out, nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// take returns what there is, and what is closed when there is more.
func (r *ringReader) take(maxRecords, maxBytes int) (out []queue.Record, more <-chan struct{}) {
	r.ring.mu.Lock()
	defer r.ring.mu.Unlock()
	all := r.ring.records
	i := sort.Search(len(all), func(i int) bool { return all[i].Seq >= r.next })
	for _, one := range all[i:] {
		if maxBytes -= len(one.Data); len(out) >= maxRecords || maxBytes < 0 && len(out) > 0 {
			break
		}
		out = append(out, one)
		r.next = one.Seq + 1
	}
	if r.ring.more == nil {
		r.ring.more = make(chan struct{})
	}
	return out, r.ring.more
}
