package queue

import (
	"cmp"
	"context"
	"math"
	"sort"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/storage"
)

// Reader reads what is stored, beside the cursors: it has no name, nothing waits for it, and it
// begins where it is told to. What it has read it cannot read again. One goroutine uses it.
type Reader struct{ c *Cursor }

// Reader returns one that begins with record first, or with the first one after it that is stored.
// With hold nothing is removed for its age (Options.Retain) that it has not read; the limit of
// bytes takes it all the same. Numbers that are missing in what it returns are of records that are
// gone. Close it.
func (q *Queue) Reader(first uint64, hold bool) *Reader {
	r := &Reader{newCursor(q, "", storage.Position{Acked: max(first, 1) - 1})}
	q.mu.Lock()
	q.readers[r.c] = hold
	q.mu.Unlock()
	return r
}

// Close ends the reading. Next returns ErrClosed.
func (r *Reader) Close() {
	q := r.c.q
	q.mu.Lock()
	hold := q.readers[r.c]
	delete(q.readers, r.c)
	q.mu.Unlock()
	r.c.remove()
	if hold {
		notify(q.dirty) // for the segments that it has held
	}
}

// Next is as that of a Cursor. Where there is nothing to read, it returns nothing as soon as ctx is
// done.
func (r *Reader) Next(ctx context.Context, maxRecords, maxBytes int) ([]Record, error) {
	records, err := r.Poll(maxRecords, maxBytes)
	if err == nil && len(records) == 0 {
		records, err = r.c.Next(ctx, maxRecords, maxBytes)
		r.passed(records)
	}
	return records, err
}

// Poll is Next for what is there, which may be nothing.
func (r *Reader) Poll(maxRecords, maxBytes int) ([]Record, error) {
	if r.c.q.isClosing() {
		return nil, ErrClosed
	}
	records, err := r.c.take(cmp.Or(maxRecords, DefaultNextRecords), cmp.Or(maxBytes, DefaultNextBytes))
	r.passed(records)
	return records, err
}

// passed forgets what was returned.
func (r *Reader) passed(records []Record) {
	if n := len(records); n > 0 {
		r.c.mu.Lock()
		r.c.moveTo(records[n-1].Seq)
		r.c.mu.Unlock()
	}
}

// Bounds returns the first and the last record that are stored; where there is none, first is the
// one behind last.
func (q *Queue) Bounds() (first, last uint64) {
	q.mu.RLock()
	defer q.mu.RUnlock()
	for _, s := range q.segments {
		if !s.Empty() {
			return s.Base, q.end
		}
	}
	return q.end + 1, q.end
}

// clockSlack is by how much the clocks of machine and queue may differ from what is noted.
const clockSlack = 2 * time.Second

// Find returns the first and the last of the records that may have been appended when the machine's
// clock showed a time from since to until. Some before and behind these may be among them, since
// what it looks at are chunks; none is missing, also where the clock was set meanwhile. Where there
// is none, first is above last. It reads about twenty blocks, and keeps none.
func (q *Queue) Find(since, until time.Time) (first, last uint64, err error) {
	first, last = q.Bounds()
	q.mu.RLock()
	low, high := aheadRange(q.state, first)
	q.mu.RUnlock()
	from, _, err := q.around(unixNano(since), low-clockSlack)
	if err != nil {
		return 0, 0, err
	}
	_, behind, err := q.around(unixNano(until), high+clockSlack)
	return max(first, from), min(last, behind-1), err
}

// unixNano is a time as Unix nanoseconds, also where these do not reach so far.
func unixNano(t time.Time) int64 {
	switch {
	case t.Year() < 1700:
		return math.MinInt64
	case t.Year() > 2200:
		return math.MaxInt64
	}
	return t.UnixNano()
}

// around returns the first record of the last chunk that was begun at a time or before it, and that
// of the first chunk that was begun later.
func (q *Queue) around(at int64, ahead time.Duration) (first, behind uint64, err error) {
	switch sum := at + int64(ahead); {
	case ahead < 0 && sum > at:
		at = math.MinInt64
	case ahead > 0 && sum < at:
		at = math.MaxInt64
	default:
		at = sum
	}
	c := newCursor(q, "", storage.Position{})
	defer c.use(0)
	q.mu.RLock()
	// The next records to look at, from low to high; those before are no later.
	low, high := q.end+1, q.end
	// Only the last one may be empty.
	i := sort.Search(len(q.segments), func(i int) bool { s := q.segments[i]; return s.Empty() || s.LastAt >= at })
	if i < len(q.segments) && !q.segments[i].Empty() {
		low, high = q.segments[i].Base, q.segments[i].Last
	}
	q.mu.RUnlock()
	first, behind = low-1, low
	for low <= high {
		mid := low + (high-low)/2
		b, err := c.locate(mid)
		switch {
		case err != nil:
			return 0, 0, err
		case !b.Empty() && b.Chunks[0].At <= at:
			n := sort.Search(len(b.Chunks), func(i int) bool { return b.Chunks[i].At > at })
			first, behind, low = b.Chunks[n-1].First, b.Chunks[n-1].Last()+1, b.Last()+1
			if n < len(b.Chunks) {
				low = high + 1 // found
			}
		case !b.Empty() && b.First() < mid:
			high = b.First() - 1
		default: // it is not there any more, or cannot be read
			high = mid - 1
		}
	}
	// The end of the segment before may be later than its beginning.
	if b, err := c.locate(first); err != nil {
		return 0, 0, err
	} else if b.Holds(first) {
		first = b.Chunks[b.ChunkOf(first)].First
	}
	return first, behind, nil
}

// placeOf returns the position before record first, or the first one after it that is stored. It is
// the zero one where that is the end.
func (q *Queue) placeOf(first uint64) (p storage.Position, err error) {
	c := newCursor(q, "", storage.Position{})
	defer c.use(0)
	b, err := c.locate(first)
	if err != nil || b.Empty() {
		return p, err
	}
	first = max(first, b.First())
	ch := &b.Chunks[b.ChunkOf(first)]
	p = storage.Position{Acked: first - 1, Segment: b.Segment, Bytes: ch.Before}
	for offset, seq := ch.Start, ch.First; seq < first; seq++ {
		var data []byte
		data, offset = storage.NextEntry(b.Buf, offset)
		p.Bytes += int64(len(data))
	}
	return p, nil
}

// Clock returns the time by a clock that is not set while that of the machine may be, in
// nanoseconds. It goes on from one opening to the next.
func (q *Queue) Clock() int64 { return q.clock.now() }

// TimeOf returns a time of Clock as the machine's clock has it as it is set now.
func (q *Queue) TimeOf(at int64) time.Time { return q.clock.time(at) }
