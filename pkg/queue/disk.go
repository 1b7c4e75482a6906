package queue

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/boltfile"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/datadir"
)

// damageGap is added to the sequence numbers when the newest segment is damaged, so that nobody
// knows how far they went. It is more than a segment can hold.
const damageGap = 1 << 32

// disk is the store in a directory: a bbolt file for each segment, and a file for the cursors.
type disk struct {
	reporter
	dir string
	// How much is mapped of a file that is written to.
	mapped    int
	lock      *os.File
	positions cursorFile
	// Nil after a failure, until the next Begin.
	writer  *writer
	closing chan struct{}
	loops   sync.WaitGroup

	// Guards what follows, and what is found out about the damage of a segment.
	mu       sync.Mutex
	segments map[uint64]*segment
}

func newDisk(o *Options) (*disk, error) {
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
	d := &disk{
		reporter: reporter{o.Logger, o.Metrics, "storage is damaged"},
		dir:      o.Dir, mapped: 1 << bits.Len64(uint64(2*o.SegmentBytes-1)), lock: lock,
		closing: make(chan struct{}), segments: map[uint64]*segment{},
	}
	d.loops.Go(d.spaceLoop)
	return d, nil
}

// found is what Load knows of a segment before it is used.
type found struct {
	*segment
	Segment
	info      segmentInfo
	positions *Checkpoint
	clean     bool
}

func (d *disk) Load() (*Loaded, error) {
	positions, stored, err := openCursorFile(d.dir)
	d.positions = positions
	if boltfile.IsDamage(err) {
		err = d.setAside(positions.Path(), err)
	}
	if err != nil {
		return nil, err
	}
	segments, taken, err := d.findSegments()
	if err != nil {
		return nil, err
	}
	l := &Loaded{state: map[string]string{}, size: datadir.SlotsSize}
	gap, err := d.loadState(l.state, &segments, &taken)
	if err != nil {
		return nil, err
	}
	copied := &Checkpoint{} // the copy of the positions in the newest segment that has one
	for _, s := range segments {
		if s.positions != nil {
			copied = s.positions
		}
	}
	if stored == nil {
		stored = copied
	}
	// The copy is older in general, but not if the last transaction came after the last flush.
	stored.end = max(stored.end, copied.end)
	for name, p := range stored.cursors {
		if c := copied.cursors[name]; c.acked > p.acked {
			stored.cursors[name] = c
		}
	}
	l.cursors = stored.cursors

	// Where the sequence goes on: behind everything that anybody has seen.
	l.end = stored.end
	for i := range segments {
		s := &segments[i]
		if i+1 < len(segments) {
			if next := segments[i+1].info; next.previousBase == s.base && next.previousLast >= s.base-1 {
				d.expect(s, next.previousLast)
			}
			s.last = min(s.last, segments[i+1].base-1)
		} else {
			if s.last < stored.end && stored.end-s.last < damageGap && !gap {
				d.expect(s, stored.end)
				gap = true
			}
			gap = gap || !s.clean
		}
		d.segments[s.base] = s.segment
		l.segments = append(l.segments, &s.Segment)
		l.end = max(l.end, s.last)
	}
	for _, p := range stored.cursors {
		l.end = max(l.end, p.acked)
	}
	for _, t := range taken {
		l.end = max(l.end, t.first-1)
	}
	if gap {
		l.end += damageGap
	}
	l.lost = lostRecords(taken, segments, stored.end)
	return l, nil
}

// findSegments lists the segments of the directory in order, and sets aside those that do not open.
// The last record of what it has taken away is not known.
func (d *disk) findSegments() (segments []found, taken []span, err error) {
	entries, err := os.ReadDir(d.dir)
	if err != nil {
		return nil, nil, err
	}
	for _, e := range entries { // in the order of the names, which is that of the numbers
		path := filepath.Join(d.dir, e.Name())
		if name, ok := strings.CutSuffix(e.Name(), temporarySuffix); ok {
			if _, isSegment := parseSegmentName(name); isSegment || name == cursorsName {
				if err := os.Remove(path); err != nil { // was not complete when the process ended
					return nil, nil, err
				}
			}
			continue
		}
		base, ok := parseSegmentName(e.Name())
		if !ok {
			continue
		}
		s, err := inspect(path, base)
		if boltfile.IsDamage(err) {
			taken = append(taken, span{base, base - 1})
			if err = d.setAside(path, err); err == nil {
				continue
			}
		}
		if err != nil {
			return nil, nil, err
		}
		segments = append(segments, s)
	}
	return segments, taken, nil
}

// loadState reads the state from the newest segment, or from the one before if that is damaged. gap
// tells that the newest one was damaged, so that it is not known how far the sequence went.
func (d *disk) loadState(state map[string]string, segments *[]found, taken *[]span) (gap bool, err error) {
	n := len(*segments)
	if t := len(*taken); t > 0 {
		gap = n == 0 || (*taken)[t-1].first > (*segments)[n-1].base
	}
	for ; n > 0; n-- {
		newest := (*segments)[n-1]
		clear(state)
		err := newest.loadState(state)
		if !boltfile.IsDamage(err) {
			return gap, err
		}
		if newest.verified { // some blocks of the state, not the structure of the file
			d.flag(newest.segment, &newest.flagged, err)
			return gap, nil
		}
		newest.retire()
		if err := d.setAside(newest.path, err); err != nil {
			return gap, err
		}
		*taken = append(*taken, span{newest.base, newest.last})
		*segments = (*segments)[:n-1]
		gap = true
	}
	return gap, nil
}

// expect compares how far a segment goes with how far it is known to have gone. A shorter one has
// lost its end; what is behind it was never confirmed and may have been given out again.
func (d *disk) expect(s *found, last uint64) {
	if s.last < last {
		d.flag(s.segment, &s.flagged, boltfile.Damagef(s.path, "it ends with record %d instead of %d", s.last, last))
	}
	s.last = last
}

// lostRecords returns what went with the segments that were set aside. How far such a segment went
// says the one behind it, or the stored end of the queue; where neither does, nothing is counted.
func lostRecords(taken []span, segments []found, end uint64) (lost []span) {
	for _, t := range taken {
		next := uint64(math.MaxUint64)
		for _, s := range segments {
			if s.base > t.first {
				next = s.base
				if s.info.previousBase == t.first {
					t.last = max(t.last, s.info.previousLast)
				}
				break
			}
		}
		for _, other := range taken {
			if other.first > t.first {
				next = min(next, other.first)
			}
		}
		switch {
		case next == math.MaxUint64:
			t.last = max(t.last, end)
		case next-t.first < damageGap:
			t.last = max(t.last, next-1)
		}
		if t.last >= t.first && t.last-t.first < damageGap {
			lost = append(lost, t)
		}
	}
	return lost
}

func (d *disk) Begin(s *Start) (size int64, err error) {
	w, err := newWriter(d.dir, d.mapped, s)
	if err != nil {
		return 0, err
	}
	d.mu.Lock()
	old := d.segments[s.base]
	d.segments[s.base] = w.segment
	d.mu.Unlock()
	if old != nil { // it was empty, and the new file has taken its name
		old.retire()
		err = ErrGone
	}
	d.seal(err)
	d.writer = w
	return w.size, nil
}

// seal ends writing to the present file; reason is the outcome of its last use.
func (d *disk) seal(reason error) {
	w := d.writer
	if w == nil {
		return
	}
	d.writer = nil
	if err := w.seal(reason); err != nil {
		d.log.Warn("segment did not close", zap.String("file", w.path), zap.Error(err))
	}
}

func (d *disk) Commit(g *Group) error {
	if g.Empty() {
		return probeDisk(d.dir, max(64<<10, min(g.bytes, commitBytes)))
	}
	w := d.writer
	err := w.commit(g)
	if err == nil {
		g.after.size = w.committed()
		return nil
	}
	// If a write of data was refused, bbolt has taken everything back and nothing is in doubt;
	// the usual case is a full disk. After anything else, above all a failed sync, it is not
	// known what is on disk.
	if perr, ok := errors.AsType[*os.PathError](err); ok && perr.Op == "write" && w.unchanged() {
		return err
	}
	if boltfile.IsDamage(err) {
		d.flag(w.segment, &w.condemned, err)
	}
	d.seal(err)
	g.sealed = true
	return err
}

// probeDisk writes size bytes to a file and removes it.
func probeDisk(dir string, size int64) error {
	path := filepath.Join(dir, "probe"+temporarySuffix)
	f, err := datadir.WriteNew(path, make([]byte, size))
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), os.Remove(path))
}

func (d *disk) segment(base uint64) *segment {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.segments[base]
}

func (d *disk) Read(at Segment, seq uint64) (b Block, next uint64, err error) {
	s := d.segment(at.base)
	if s == nil {
		return Block{}, 0, ErrGone
	}
	buf, next, err := s.block(seq)
	if err != nil {
		if boltfile.IsDamage(err) {
			d.flag(s, &s.condemned, err)
		}
		return Block{}, 0, fmt.Errorf("read %s: %w", s.path, err)
	}
	if b, err = findRecord(buf, at, seq); err == nil {
		return b, 0, nil
	}
	if next <= seq || next > at.last {
		next = at.last + 1
	}
	err = boltfile.Damagef(s.path, "records %d to %d: %w", seq, next-1, err)
	d.flag(s, &s.flagged, err)
	return Block{}, next, err
}

// flag notes damage of a segment, so that its file is kept, and reports it if it is not known.
func (d *disk) flag(s *segment, known *bool, err error) {
	d.mu.Lock()
	before := *known
	*known, s.flagged = true, true
	d.mu.Unlock()
	if before {
		d.log.Debug("storage is damaged in one more place", zap.Error(err))
		return
	}
	d.damaged(err)
}

func (d *disk) Rest(base uint64) {
	if s := d.segment(base); s != nil {
		s.mu.Lock()
		s.closeLocked(nil)
		s.mu.Unlock()
	}
}

func (d *disk) SaveCursors(c *Checkpoint, sync bool) error { return d.positions.store(c, sync) }

func (d *disk) Trim(base uint64) error {
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
		d.seal(boltfile.Damagef(s.path, "reading it has failed"))
	}
	if flagged {
		return d.setAside(s.path, nil)
	}
	return errors.Join(os.Remove(s.path), datadir.Sync(d.dir))
}

func (d *disk) Close() error {
	close(d.closing)
	d.loops.Wait()
	var errs []error
	if d.writer != nil {
		errs = append(errs, d.writer.seal(nil))
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
func (d *disk) spaceLoop() {
	tick := time.NewTicker(spaceEvery)
	defer tick.Stop()
	for {
		d.metrics.available.Set(float64(datadir.Available(d.dir)))
		select {
		case <-tick.C:
		case <-d.closing:
			return
		}
	}
}

// reporter logs and counts damaged files.
type reporter struct {
	log     *zap.Logger
	metrics *Metrics
	message string
}

func (r *reporter) damaged(err error) {
	r.metrics.damaged.Inc()
	r.log.Error(r.message, zap.Error(err))
}
