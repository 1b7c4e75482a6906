package queue

import (
	"cmp"
	"errors"
	"maps"
	"slices"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/appendlog"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/datadir"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/storage"
)

// movingKey is set while all of another queue is being copied.
const movingKey = ownKeys + "moving"

// Errors of Open: Options.From is to be copied to what is not empty, or was not copied to the end.
var (
	ErrNotEmpty   = errors.New("queue: something is stored already")
	ErrHalfCopied = errors.New("queue: only a part of another queue has been copied")
)

// copyFrom fills the queue with what another one has: records with their numbers and times, state,
// and positions. The segment that load begins then completes it.
func (q *Queue) copyFrom(from *Queue, copied func(records uint64) error) error {
	if _, half := q.state[movingKey]; !half && (q.end > 0 || len(q.state)+len(q.cursors) > 0) {
		return ErrNotEmpty
	}
	for _, s := range slices.Clone(q.segments) {
		q.remove(s)
	}
	clear(q.cursors)
	q.end = 0
	q.state = map[string]string{movingKey: "1", clockKey: from.state[clockKey], rangeKey: from.state[rangeKey]}
	q.clock.start(q.state[clockKey], nil)
	err := q.begin() // from here on it is one that is not complete
	if err == nil {
		err = copied(0)
	}
	for i := 0; i < len(from.segments) && err == nil; i++ {
		err = q.copySegment(from, from.segments[i], copied)
	}
	if err != nil {
		return err
	}
	for name, c := range from.cursors {
		p, err := q.placeOf(c.Acked() + 1)
		if err != nil {
			return err
		}
		if n := len(q.segments); p.Segment == 0 { // all of it was read
			if p.Acked = c.Acked(); n > 0 {
				p.Segment, p.Bytes = q.segments[n-1].Base, q.segments[n-1].Bytes
			}
		}
		q.cursors[name] = newCursor(q, name, p)
	}
	q.end, q.state = from.end, maps.Clone(from.state)
	return nil
}

func (q *Queue) copySegment(from *Queue, s *storage.Segment, copied func(records uint64) error) error {
	g, begun := new(group), false
	write := func(record uint64) error {
		if len(g.records) == 0 {
			return nil
		}
		if err := q.write(g); err != nil {
			return err
		}
		g = new(group)
		return copied(record)
	}
	for seq := s.Base; seq <= s.Last; {
		b, next, err := from.store.Read(*s, seq)
		if datadir.IsDamage(err) { // what is behind it is of a segment of its own
			q.log.Error("records that cannot be read are not copied", zap.Error(err))
			if err := write(seq - 1); err != nil {
				return err
			}
			next = cmp.Or(next, s.Last+1)
			from.skip(seq, min(next-1, s.Last))
			seq, begun = next, false
			continue
		}
		if err != nil {
			return err
		}
		if !begun {
			q.end = b.First() - 1
			if err := q.begin(); err != nil {
				return err
			}
			begun = true
		}
		for _, c := range b.Chunks {
			buf := slices.Clone(b.Buf[c.Start-appendlog.HeaderSize : c.End])
			g.records = append(g.records, storage.Draft{Buf: buf, Count: c.Count, Bytes: c.Bytes, At: c.At})
			g.bytes += int64(len(buf))
		}
		seq = b.Last() + 1
		if g.bytes >= commitBytes {
			if err := write(b.Last()); err != nil {
				return err
			}
		}
	}
	return write(s.Last)
}
