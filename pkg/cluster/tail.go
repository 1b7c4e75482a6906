package cluster

import (
	"context"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/storage"
)

// maxGroup is what a group may have of records to be read along. A larger one, which has a record
// that is larger, is passed over.
const maxGroup = 8 << 20

// fold is what was read of the newest segment, with what that says of those before.
type fold struct {
	// The message that ends its beginning: where, of whom, and of which write.
	seq, epoch, write uint64

	loaded    *storage.Loaded // but for the segments
	known     []*segment      // the newest one is the last
	positions []byte
	whole     whole
	begun     bool   // its state is loaded
	broken    bool   // a message cannot be read
	next      uint64 // the message to read next
}

// newFold begins with the message that ends the beginning of a segment.
func newFold(newest *stored) (*fold, error) {
	if newest.err != nil {
		return nil, newest.err
	}
	known, positions, err := decodeTable(newest.head)
	if err != nil || len(known) == 0 {
		return nil, errMessage
	}
	return &fold{
		seq: newest.seq, epoch: newest.epoch, write: newest.write, loaded: storage.NewLoaded(),
		known: known, positions: slices.Clone(positions), next: known[len(known)-1].from,
	}, nil
}

// fits says whether it is of the newest segment, as the leader of the stream has it.
func (f *fold) fits(newest *stored, state streamState) bool {
	return !f.broken && newest.seq == f.seq && newest.epoch == f.epoch && newest.write == f.write &&
		f.next >= state.First && f.next <= state.Last+1
}

// take takes the next message, and tells whether a group is complete with it.
func (f *fold) take(m *stored) (group bool, err error) {
	f.next = m.seq + 1
	if m.epoch != f.epoch || !f.whole.take(&m.message) {
		return false, nil
	}
	w, last := f.whole, f.known[len(f.known)-1]
	f.whole = whole{}
	switch {
	case m.seq == f.seq:
		f.begun = true
	case m.kind != kindGroup || !f.begun:
		return false, nil
	case len(w.head) < 40:
		return false, errMessage
	default:
		last.summary, f.positions = slices.Clone(w.head[:40]), slices.Clone(w.head[40:])
		last.size += w.bytes
		group = true
	}
	last.to = m.seq
	return group, f.loaded.Change(w.state)
}

// damaged is an error of a message.
func (c *Cluster) damaged(seq uint64, err error) error {
	return fmt.Errorf("stream %s, message %d: %w", c.stream(), seq, err)
}

// Tail reads along in the log that another daemon writes: what is stored, record by record, and
// what a Store would load, so that it has only the rest to load when its turn comes.
type Tail struct {
	c      *Cluster
	record func(seq uint64, data []byte)
	fold   *fold  // nil: nothing is read yet
	group  []byte // records of the group that is being read
}

// Tail returns a Tail that has read nothing. record, which may be nil, is called with each record,
// whose memory is not to be used after that, and may be called with some once more.
func (c *Cluster) Tail(record func(seq uint64, data []byte)) *Tail {
	return &Tail{c: c, record: record}
}

// Run reads until ctx is done.
func (t *Tail) Run(ctx context.Context) {
	for failing := false; ctx.Err() == nil; {
		more, err := t.read(ctx)
		switch {
		case err != nil && ctx.Err() == nil:
			if !failing {
				t.c.log.Warn("the log cannot be read along", zap.Error(err))
			}
			_ = wait(ctx, time.Second)
		case !more:
			_ = wait(ctx, lookEvery)
		}
		failing = err != nil
	}
}

// read reads some messages, and reports whether there may be more.
func (t *Tail) read(ctx context.Context) (more bool, err error) {
	if t.fold == nil {
		newest, err := t.c.get(ctx, 0, t.c.subject("segment"))
		if newest == nil {
			return false, err
		}
		if t.fold, err = newFold(newest); err != nil {
			return false, t.c.damaged(newest.seq, err)
		}
	}
	found, err := t.c.records().batch(ctx, t.fold.next, "", readMessages, readBytes)
	for i := range found {
		m := storedOf(&found[i])
		f := t.fold
		switch {
		case m.seq != f.next: // what it was about to read is gone
			t.fold = nil
			return true, nil
		case m.err != nil:
			f.broken, f.next = true, f.next+1
			continue
		case m.seq > f.seq && m.kind == kindSegment && m.is(flagLast) && m.epoch >= f.epoch:
			if t.fold, err = newFold(&m); err != nil {
				return false, t.c.damaged(m.seq, err)
			}
			return true, nil
		}
		if err := t.take(&m); err != nil {
			f.broken = true
			return false, t.c.damaged(m.seq, err)
		}
	}
	return len(found) > 0, err
}

// take takes a message, and hands on the records of a group that is complete.
func (t *Tail) take(m *stored) error {
	if t.record != nil && m.kind == kindGroup && m.epoch == t.fold.epoch {
		if m.part == 0 {
			t.group = t.group[:0]
		}
		if len(t.group)+len(m.record) <= maxGroup {
			t.group = append(t.group, m.record...)
		}
	}
	complete, err := t.fold.take(m)
	if err != nil || !complete || t.record == nil {
		return err
	}
	for rest := t.group; len(rest) > 0; {
		var chunk []byte
		if chunk, rest, _, _ = storage.CutChunk(rest); chunk == nil || storage.Records(chunk, t.record) != nil {
			break // it is too large: whoever leads reads and delivers it
		}
	}
	if cap(t.group) > 2*readBytes {
		t.group = nil
	}
	return nil
}
