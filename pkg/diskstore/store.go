package diskstore

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/datadir"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/storage"
)

// Options say where to store.
type Options struct {
	// Dir is made if it does not exist. It belongs to one Store at a time.
	Dir     string
	Logger  *zap.Logger
	Metrics Metrics

	// System is what tests have in the place of the one that there is.
	System datadir.System
}

// Metrics are told of what only this store knows. Those of a queue are such.
type Metrics interface {
	// Available says how many bytes the file system has left, -1 if it does not say.
	Available(bytes int64)
	// Damaged says that a file was found damaged, as a whole or in part.
	Damaged()
}

// Store is the store in a directory: a file for each segment, and one for the cursors.
type Store struct {
	log       *zap.Logger
	metrics   Metrics
	dir       string
	system    datadir.System
	lock      *os.File
	positions cursorFile
	// Nil after a failure, until the next Begin.
	writer  *writer
	closing chan struct{}
	loops   sync.WaitGroup

	// Those that are to go, in order: one that could not be removed goes before the next one,
	// so that what is left has no holes.
	leaveMu sync.Mutex
	leaving []leaving

	// Guards what follows, and what is found out about the damage of a segment.
	mu       sync.Mutex
	segments map[uint64]*segment
}

// Open opens the store of a directory. It fails with datadir.ErrLocked if that is in use.
func Open(o Options) (*Store, error) {
	trouble, err := datadir.Make(o.Dir)
	if err != nil {
		return nil, err
	}
	if trouble != "" {
		o.Logger.Warn("the storage directory is not for this user alone", zap.String("trouble", trouble))
	}
	lock, err := datadir.Lock(o.Dir)
	if err != nil {
		return nil, err
	}
	d := &Store{
		log: o.Logger, metrics: o.Metrics, dir: o.Dir, system: cmp.Or(o.System, datadir.Disk), lock: lock,
		closing: make(chan struct{}), segments: map[uint64]*segment{},
	}
	d.loops.Go(d.spaceLoop)
	return d, nil
}

// Load finds the segments, and what is known of cursors and state.
func (d *Store) Load() (*storage.Loaded, error) {
	positions, stored, err := openCursorFile(d.system, d.dir)
	d.positions = positions
	if datadir.IsDamage(err) {
		err = d.setAside(positions.Path(), err)
	}
	if err != nil {
		return nil, err
	}
	known := cmp.Or(stored, &storage.Checkpoint{}).End
	taken, unsure, err := d.takeOver()
	if err != nil {
		return nil, err
	}
	l := &storage.Loaded{State: map[string]string{}, Size: datadir.SlotsSize}
	segments, damaged, err := d.findSegments(l.State, known, stored == nil)
	if err != nil {
		return nil, err
	}
	taken = append(taken, damaged...)
	// The newest segment is not there, so that it is not known how far the sequence went.
	gap := slices.ContainsFunc(taken, func(t storage.Span) bool {
		return len(segments) == 0 || t.First > segments[len(segments)-1].Base
	})
	var copied *storage.Checkpoint // the copy of the positions in the newest segment
	if n := len(segments); n > 0 {
		copied = segments[n-1].positions
		// Without the cursors' file nobody knows whether what is torn was ever confirmed.
		unsure = unsure || segments[n-1].torn && stored == nil
	}
	stored = storage.Latest(stored, copied)
	l.Cursors = stored.Cursors

	// Where the sequence goes on: behind everything that anybody has seen.
	l.End = stored.End
	for i := range segments {
		s := &segments[i]
		if i+1 < len(segments) {
			if next := segments[i+1].info; next.previousBase == s.Base && next.previousLast >= s.Base-1 {
				d.expect(l, s, next.previousLast)
			}
			s.Last = min(s.Last, segments[i+1].Base-1)
		} else if s.Last < stored.End && !storage.Jumped(s.Last, stored.End) && !gap {
			d.expect(l, s, stored.End)
			gap = true
		}
		d.segments[s.Base] = s.segment
		l.Segments = append(l.Segments, &s.Segment)
		l.End = max(l.End, s.Last)
	}
	for _, p := range stored.Cursors {
		l.End = max(l.End, p.Acked)
	}
	for _, t := range taken {
		l.End = max(l.End, t.First-1)
	}
	if gap || unsure {
		l.End += storage.DamageGap
	}
	l.Lost = append(l.Lost, lostRecords(taken, segments, stored.End)...)
	return l, nil
}

// findSegments lists the segments of the directory in order, and sets aside those of which nothing
// can be read. The last record of what it has taken away is not known. The state comes from the
// newest one. What is torn there is left while the cursors' file is lost: what follows from that is
// not stored yet.
func (d *Store) findSegments(state map[string]string, end uint64, lost bool) (
	segments []found, taken []storage.Span, err error,
) {
	entries, err := os.ReadDir(d.dir)
	if err != nil {
		return nil, nil, err
	}
	aside := uint64(0)
	for _, e := range slices.Backward(entries) { // in the order of the names, which is that of the numbers
		path := filepath.Join(d.dir, e.Name())
		if name, ok := strings.CutSuffix(e.Name(), temporarySuffix); ok {
			if _, isSegment := parseSegmentName(name); isSegment || name == cursorsName || name == probeName {
				if err := d.system.Remove(path); err != nil { // was not complete when the process ended
					return nil, nil, err
				}
			}
			continue
		}
		base, ok := parseSegmentName(e.Name())
		if !ok {
			aside = max(aside, parseAsideName(e.Name()))
			continue
		}
		var s found
		least := end
		if storage.Jumped(base, end) {
			least = 0
		}
		if n := len(segments); n == 0 {
			clear(state)
			s, err = scan(d.system, path, base, confirmed{least, math.MaxUint64}, state)
		} else {
			limit := uint64(math.MaxUint64)
			if next := segments[n-1].info; next.previousBase == base {
				limit = next.previousLast
			}
			s, err = inspect(d.system, path, base, confirmed{least, limit})
		}
		if datadir.IsDamage(err) {
			taken = append(taken, storage.Span{First: base, Last: base - 1})
			if err = d.setAside(path, err); err == nil {
				continue
			}
		}
		if err != nil {
			return nil, nil, err
		}
		if s.damage != nil {
			d.flag(s.segment, s.damage)
		}
		if err := s.finish(lost && s.torn && len(segments) == 0); err != nil {
			return nil, nil, err
		}
		s.index = nil // it is read when it is needed
		segments = append(segments, s)
	}
	slices.Reverse(segments)
	slices.Reverse(taken)
	// The newest one may have been set aside by a process that has stored nothing after that.
	if n := len(segments); aside > 0 && (n == 0 || aside > segments[n-1].Base) && !storage.Jumped(aside, end) {
		taken = append(taken, storage.Span{First: aside, Last: aside - 1})
	}
	return segments, taken, nil
}

// expect compares how far a segment goes with how far it is known to have gone. A shorter one has
// lost its end; what is behind it was never confirmed and may have been given out again.
func (d *Store) expect(l *storage.Loaded, s *found, last uint64) {
	if s.Last < last {
		d.flag(s.segment, datadir.Damagef(s.path, "it ends with record %d instead of %d", s.Last, last))
		l.Lost = append(l.Lost, storage.Span{First: s.Last + 1, Last: last})
		return
	}
	s.Last = last
}

// lostRecords returns what went with the segments that were set aside. How far such a segment went
// says the one behind it, or the stored end of the queue; where neither does, nothing is counted.
func lostRecords(taken []storage.Span, segments []found, end uint64) (lost []storage.Span) {
	for _, t := range taken {
		next := uint64(math.MaxUint64)
		for _, s := range segments {
			if s.Base > t.First {
				next = s.Base
				if s.info.previousBase == t.First {
					t.Last = max(t.Last, s.info.previousLast)
				}
				break
			}
		}
		for _, other := range taken {
			if other.First > t.First {
				next = min(next, other.First)
			}
		}
		switch {
		case next == math.MaxUint64:
			t.Last = max(t.Last, end)
		case !storage.Jumped(t.First, next):
			t.Last = max(t.Last, next-1)
		}
		if t.Last >= t.First && !storage.Jumped(t.First, t.Last) {
			lost = append(lost, t)
		}
	}
	return lost
}

// Begin makes the file of a segment.
func (d *Store) Begin(s *storage.Start) (size int64, err error) {
	info := segmentInfo{base: s.Base, previousBase: s.PreviousBase, previousLast: s.PreviousLast}
	w, err := newWriter(d.system, d.dir, info, s.Positions, func(w *writer) error {
		return s.State(func(chunks [][]byte) error { return w.append(s.Positions, w.summary, chunks, nil) })
	})
	if err != nil {
		return 0, err
	}
	d.mu.Lock()
	old := d.segments[s.Base]
	d.segments[s.Base] = w.segment
	d.mu.Unlock()
	if old != nil { // it was empty, and the new file has taken its name
		old.retire()
	}
	d.seal(old == nil)
	d.writer = w
	d.leaveMu.Lock()
	d.leaving = slices.DeleteFunc(d.leaving, func(l leaving) bool { return l.path == w.path })
	d.leaveMu.Unlock()
	return w.log.Size(), nil
}

// seal ends writing to the present file; whole tells that there is nothing wrong with it.
func (d *Store) seal(whole bool) {
	w := d.writer
	if w == nil {
		return
	}
	d.writer = nil
	if err := w.seal(whole); err != nil {
		d.log.Warn("segment did not close", zap.String("file", w.path), zap.Error(err))
	}
}

// Commit appends a group to the newest segment and syncs that.
func (d *Store) Commit(g *storage.Group) error {
	w := d.writer
	if g.Empty() {
		return errors.Join(w.log.Settle(), d.probe(max(64<<10, g.Bytes)))
	}
	err := w.commit(g)
	if err == nil {
		g.After.Size = w.log.Size()
		return nil
	}
	// If a write was refused, what it has left was cut off and nothing is in doubt; the usual
	// case is a full disk. After anything else, above all a failed sync, it is not known what
	// is on disk.
	changed := errors.Is(err, errShortened) || errors.Is(err, fs.ErrNotExist)
	if changed {
		d.flag(w.segment, datadir.Damaged(w.path, err))
	}
	if changed || w.log.Doubtful() {
		d.seal(false)
		g.Sealed = true
	}
	return err
}

// probe writes so many bytes to a file and removes it.
func (d *Store) probe(size int64) error {
	path := filepath.Join(d.dir, probeName+temporarySuffix)
	f, err := datadir.WriteNew(d.system, path, make([]byte, size))
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), d.system.Remove(path))
}

func (d *Store) segment(base uint64) *segment {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.segments[base]
}

// Read reads the part of a segment with a record.
func (d *Store) Read(at storage.Segment, seq uint64) (b storage.Block, next uint64, err error) {
	s := d.segment(at.Base)
	if s == nil {
		return storage.Block{}, 0, storage.ErrGone
	}
	buf, behind, err := s.read(seq)
	if err == nil {
		if b, err = storage.NewBlock(buf, at, seq); err == nil {
			return b, 0, nil
		}
		next = d.nextReadable(s, at, buf, seq, behind)
		if next > at.Last && d.nextReadable(s, at, nil, at.Base-1, at.Base) >= seq {
			next = 0 // nor is there anything in front of it
		}
		err = datadir.Damagef(s.path, "records from %d: %w", seq, err)
	} else {
		err = fmt.Errorf("read %s: %w", s.path, err)
	}
	if datadir.IsDamage(err) {
		d.flag(s, err)
	}
	return storage.Block{}, next, err
}

// nextReadable returns the first record behind seq that can be read, given the part of the segment
// with that and where the next part begins. It is the one behind the segment if there is none.
func (d *Store) nextReadable(s *segment, at storage.Segment, buf []byte, seq, behind uint64) uint64 {
	for {
		if next := storage.RecordAfter(buf, seq); next != 0 {
			return min(next, at.Last+1)
		}
		if behind == 0 || behind > at.Last {
			return at.Last + 1
		}
		var err error
		if buf, behind, err = s.read(behind); err != nil {
			return at.Last + 1
		}
	}
}

// flag notes damage of a segment, so that its file is kept, and reports it if it is not known.
func (d *Store) flag(s *segment, err error) {
	d.mu.Lock()
	before := s.flagged
	s.flagged = true
	d.mu.Unlock()
	if before {
		d.log.Debug("storage is damaged in one more place", zap.Error(err))
		return
	}
	d.damaged(err)
}

// Rest closes the file of a segment.
func (d *Store) Rest(base uint64) {
	if s := d.segment(base); s != nil {
		s.rest()
	}
}

// SaveCursors writes the positions to a file of their own.
func (d *Store) SaveCursors(c *storage.Checkpoint, sync bool) error {
	return d.positions.store(c, sync)
}

// Trim removes the file of a segment, or sets it aside if it is damaged.
func (d *Store) Trim(base uint64) error {
	d.mu.Lock()
	s := d.segments[base]
	delete(d.segments, base)
	flagged := s != nil && s.flagged
	d.mu.Unlock()
	if s == nil {
		return nil
	}
	// only Commit and Begin are followed by the removal of what is written to, in the same
	// goroutine
	if s.retire() {
		d.seal(false)
	}
	d.leaveMu.Lock()
	defer d.leaveMu.Unlock()
	d.leaving = append(d.leaving, leaving{s.path, flagged})
	// What is behind it, with the state, has its name on disk before this one goes.
	if err := d.system.Sync(d.dir); err != nil {
		return err
	}
	for len(d.leaving) > 0 {
		path, remove := d.leaving[0].path, d.system.Remove
		if d.leaving[0].flagged {
			remove = func(path string) error { return d.setAside(path, nil) }
		}
		if err := remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		d.leaving = d.leaving[1:]
	}
	return d.system.Sync(d.dir)
}

// leaving is a file that is to go.
type leaving struct {
	path    string
	flagged bool
}

// Close ends the newest segment and releases the directory.
func (d *Store) Close() error {
	close(d.closing)
	d.loops.Wait()
	var errs []error
	if d.writer != nil {
		errs = append(errs, d.writer.seal(true))
	}
	d.mu.Lock()
	for _, s := range d.segments {
		s.retire()
	}
	d.mu.Unlock()
	if d.positions.Slots != nil {
		errs = append(errs, d.positions.Close())
	}
	return errors.Join(append(errs, d.lock.Close())...)
}

// spaceEvery is how often the space that is left is looked at. A scrape must not do it: a file
// system that hangs would hold it up.
const spaceEvery = 5 * time.Second

// spaceLoop looks at what the disk has left.
func (d *Store) spaceLoop() {
	tick := time.NewTicker(spaceEvery)
	defer tick.Stop()
	for {
		d.metrics.Available(datadir.Available(d.dir))
		select {
		case <-tick.C:
		case <-d.closing:
			return
		}
	}
}

// damaged logs and counts a damaged file.
func (d *Store) damaged(err error) {
	d.metrics.Damaged()
	d.log.Error("storage is damaged", zap.Error(err))
}
