package diskstore

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"sort"
	"sync"
	"syscall"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/appendlog"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/datadir"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/storage"
)

// A segment is a file of pkg/appendlog. It begins with a frame that says which segment it is, and
// with all of the state; then each commit is a group of chunks. With each group goes a summary of
// the segment and a copy of all positions, and at the end, when the next segment has been begun, an
// index. Where that is missing, after a crash, the file is read once.
//
// Only a file that this process has made is ever appended to. A start begins a new segment, and one
// whose commit fails in a way that leaves doubt is closed: what a half synced file makes of a write
// is not worth finding out.

// segmentVersion is the layout. Before 3 it was a bbolt file, of which the values had no checksums
// before 2.
const segmentVersion = 3

// big is the byte order of all that is stored.
var big = binary.BigEndian

var errVersion = errors.New("written by a newer version of this program")

// segment is the file of a segment.
type segment struct {
	system datadir.System
	path   string

	// It is damaged: the file is kept under another name when it is done with. Guarded by
	// disk.mu.
	flagged bool

	// Guards what follows.
	mu   sync.Mutex
	file datadir.SystemFile
	// file is the writer's
	writing bool
	gone    bool
	index   []place
	// Where what may be read ends.
	end int64
}

// place is where the chunk is that begins with a record. An index has one about every blockSize.
type place struct {
	first  uint64
	offset int64
}

// addPlace adds the place of a chunk, which ends at end, if it is time for one.
func addPlace(index []place, first uint64, offset, end int64) []place {
	if n := len(index); n > 0 && end-index[n-1].offset <= storage.BlockSize {
		return index
	}
	return append(index, place{first, offset})
}

type segmentInfo struct {
	// as it was read
	version byte
	base    uint64
	// previousBase and previousLast are the segment before this one and how far it really went,
	// which after a failed commit is less than it may say itself.
	previousBase uint64
	previousLast uint64
}

const infoSize = 25 + 4

func (i segmentInfo) encode() []byte {
	return appendlog.AppendCRC(appendlog.AppendUints([]byte{segmentVersion}, i.base, i.previousBase, i.previousLast))
}

func decodeInfo(b []byte) (segmentInfo, error) {
	i := segmentInfo{version: 1}
	if len(b) != infoSize-4 || b[0] != 1 {
		whole, ok := appendlog.CutCRC(b)
		if ok && len(whole) > 0 && whole[0] > segmentVersion {
			return segmentInfo{}, errVersion
		}
		if !ok || len(whole) != infoSize-4 {
			return segmentInfo{}, errors.New("no information about the segment")
		}
		b, i.version = whole, whole[0]
	}
	i.base, i.previousBase, i.previousLast = big.Uint64(b[1:]), big.Uint64(b[9:]), big.Uint64(b[17:])
	return i, nil
}

// found is what Load knows of a segment before it is used.
type found struct {
	*segment
	storage.Segment
	info      segmentInfo
	positions *storage.Checkpoint
	// Something of the file cannot be read.
	damage error
	// The last group is not whole, and nothing says that it ever was.
	torn bool
	// What was found of the file. Not if it says at its end what is in it.
	scanned appendlog.Scanned
	// It says so.
	ended bool
}

// confirmed is what is known of the records that were confirmed: those up to least were, and none
// of the segment above most.
type confirmed struct{ least, most uint64 }

// scan reads a segment from its beginning to its end, with the changes of the state if that is not
// nil.
func scan(
	system datadir.System, path string, base uint64, known confirmed, state map[string]string,
) (f found, err error) {
	f = found{
		segment: &segment{system: system, path: path, index: []place{}},
		Segment: storage.Segment{Base: base, Last: base - 1},
	}
	file, size, err := f.openFile()
	if err != nil {
		return f, err
	}
	defer func() { err = cmp.Or(err, file.Close()) }()
	want := func(kind uint8) bool { return kind == storage.KindHead || kind == storage.KindState && state != nil }
	var say []byte
	rest, err := appendlog.Scan(file, size, want, func(g *appendlog.Group) error {
		after := f.Segment
		ok := len(g.Say) >= storage.SummarySize && after.Decode(g.Say[:storage.SummarySize]) == nil
		torn := g.Damaged && (!ok || after.Last <= f.Last || after.Last > known.least)
		if g.Unsure && (torn || ok && after.Last > known.most) {
			return appendlog.ErrCut
		}
		if g.Damaged && f.damage == nil {
			f.damage = datadir.Damagef(path, "bytes from %d to %d", g.Start, g.End)
		}
		for i := range g.Frames {
			if err := f.add(&g.Frames[i], state); err != nil {
				return err
			}
		}
		if ok {
			f.Last, f.Bytes, f.FirstAt, f.LastAt = after.Last, after.Bytes, after.FirstAt, after.LastAt
			say = g.Say
		}
		f.end = g.End
		return nil
	})
	f.Size, f.scanned, f.ended, f.torn = size, rest, rest.Ended, rest.Rest
	if say != nil {
		f.positions, _ = storage.DecodeCheckpoint(say[storage.SummarySize:]) // only a copy
	}
	switch {
	case errors.Is(err, errVersion):
		return f, fmt.Errorf("%s: %w", path, err)
	case f.end == 0:
		return f, datadir.Damagef(path, "nothing of it can be read")
	case f.info.base != base && f.damage == nil:
		f.damage = datadir.Damagef(path, "it does not say which segment it is")
	}
	return f, nil
}

// add takes over a frame that scan has found.
func (f *found) add(frame *appendlog.ScannedFrame, state map[string]string) (err error) {
	switch frame.Kind {
	case storage.KindHead:
		info, err := decodeInfo(frame.Payload)
		if errors.Is(err, errVersion) {
			return err
		}
		if err == nil {
			f.info = info
		}
	case storage.KindState:
		if state != nil {
			storage.ChangeState(state, frame.Payload)
		}
	case storage.KindRecords:
		c := storage.FrameChunk(&frame.Frame)
		if f.Empty() {
			f.FirstAt = c.At
		}
		f.Last, f.Bytes, f.LastAt = c.Last(), c.Before+c.Bytes, c.At
		f.index = addPlace(f.index, c.First, frame.Offset, frame.End())
	}
	return nil
}

// finish makes a segment that was not ended one that is: it puts on disk what a process that was
// killed has left of it, since more is built on that from now on, cuts off what was never complete,
// and says at the end what is in it. A damaged file is left as it is, and read in full each time;
// so is one to be kept.
func (f *found) finish(keep bool) error {
	if f.ended {
		return nil
	}
	file, err := appendlog.Open(f.system, f.path, f.scanned)
	if err == nil && f.damage == nil && !keep {
		if err = file.Cut(); err == nil {
			err = file.Sync()
		}
		if err == nil && file.End(f.say(f.info, &f.Segment)) == nil { // a help only
			f.Size = file.Size()
		}
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", f.path, err)
	}
	if file != nil {
		err = errors.Join(err, file.Close())
	}
	return err
}

// say is what is said of a segment when it is ended.
func (s *segment) say(info segmentInfo, summary *storage.Segment) []byte {
	b := append(info.encode(), summary.Encode()...)
	for _, p := range s.index {
		b = appendlog.AppendUints(b, p.first, uint64(p.offset))
	}
	return b
}

// inspect reads what is said at the end of a segment; without it the segment is scanned.
func inspect(system datadir.System, path string, base uint64, known confirmed) (f found, err error) {
	f = found{segment: &segment{system: system, path: path}, Segment: storage.Segment{Base: base, Last: base - 1}}
	file, size, err := f.openFile()
	if err != nil {
		return f, err
	}
	defer func() { err = cmp.Or(err, file.Close()) }()
	say, _, ok := appendlog.ReadEnd(file, size)
	if ok && len(say) >= infoSize+storage.SummarySize {
		f.info, err = decodeInfo(say[:infoSize])
		if errors.Is(err, errVersion) {
			return f, fmt.Errorf("%s: %w", path, err)
		}
		if err == nil && f.info.base == base && f.Decode(say[infoSize:infoSize+storage.SummarySize]) == nil {
			f.Size, f.ended = size, true
			return f, nil
		}
	}
	return scan(system, path, base, known, nil)
}

// openFile opens the file to be read.
func (s *segment) openFile() (datadir.SystemFile, int64, error) {
	file, err := s.system.Open(s.path, os.O_RDONLY)
	if err != nil {
		return nil, 0, datadir.Classify(s.path, err)
	}
	stat, err := file.Stat()
	if err != nil {
		return nil, 0, errors.Join(datadir.Classify(s.path, err), file.Close())
	}
	return file, stat.Size(), nil
}

// open makes s.file usable for reading. s.mu is held.
func (s *segment) open() error {
	switch {
	case s.gone:
		return storage.ErrGone
	case s.file != nil:
		return nil
	}
	file, size, err := s.openFile()
	if err != nil {
		return err
	}
	if s.index == nil {
		say, at, ok := appendlog.ReadEnd(file, size)
		if ok = ok && len(say) >= infoSize+storage.SummarySize; ok {
			for b := say[infoSize+storage.SummarySize:]; len(b) >= 16; b = b[16:] {
				s.index = append(s.index, place{big.Uint64(b), int64(big.Uint64(b[8:]))})
			}
			s.end = at
		} else {
			f, err := scan(s.system, s.path, 1, confirmed{math.MaxUint64, math.MaxUint64}, nil)
			if err != nil {
				return errors.Join(err, file.Close())
			}
			s.index, s.end = f.index, f.end
		}
	}
	s.file = file
	return nil
}

// read returns the part of the segment that should hold record seq, and the first record of the
// part behind it, 0 if there is none.
func (s *segment) read(seq uint64) (buf []byte, next uint64, err error) {
	for {
		s.mu.Lock()
		if err := s.open(); err != nil {
			s.mu.Unlock()
			return nil, 0, err
		}
		i := sort.Search(len(s.index), func(i int) bool { return s.index[i].first > seq })
		next = 0
		from, to := s.end, s.end
		if i > 0 {
			from = s.index[i-1].offset
		}
		if i < len(s.index) {
			next, to = s.index[i].first, s.index[i].offset
		}
		file := s.file
		s.mu.Unlock()
		if from >= to {
			return nil, next, nil
		}
		buf = make([]byte, to-from)
		n, err := file.ReadAt(buf, from)
		switch {
		case errors.Is(err, fs.ErrClosed):
			continue // another reader has left the segment
		case n == len(buf) || isShort(err):
			return buf[:n], next, nil // what cannot be read is damaged
		}
		return nil, 0, err
	}
}

// rest closes the file for readers; the next one opens it again.
func (s *segment) rest() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closeLocked()
}

func (s *segment) closeLocked() {
	if s.file != nil && !s.writing {
		_ = s.file.Close() // it was only read
		s.file, s.index = nil, nil
	}
}

// retire ends all reading, and tells whether the file is written to. The file stays.
func (s *segment) retire() (writing bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closeLocked()
	s.gone = true
	return s.writing
}

// writer is the segment that is written to. Only the committer uses it.
type writer struct {
	*segment
	log  *appendlog.File
	info segmentInfo
	// with the last group
	summary storage.Segment
	// There is no room ahead, and none is made.
	full bool
}

// newWriter makes a segment that begins with what fill puts into it.
func newWriter(
	system datadir.System, dir string, info segmentInfo, positions *storage.Checkpoint, fill func(w *writer) error,
) (_ *writer, err error) {
	path := filepath.Join(dir, segmentName(info.base))
	log, err := appendlog.Create(system, path)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			log.Abandon()
		}
	}()
	w := &writer{
		segment: &segment{system: system, path: path, file: log, writing: true, index: []place{}},
		log:     log, info: info,
	}
	head := append(make([]byte, appendlog.HeaderSize), info.encode()...)
	appendlog.Seal(head, storage.KindHead, 1, [4]uint64{info.base})
	empty := storage.Segment{Base: info.base, Last: info.base - 1}
	if err := w.append(positions, empty, [][]byte{head}, nil); err != nil {
		return nil, err
	}
	if err := fill(w); err != nil {
		return nil, err
	}
	return w, log.Place()
}

// append stores chunks of the state and of records, and what the segment is with them.
func (w *writer) append(positions *storage.Checkpoint, after storage.Segment, state, records [][]byte) error {
	say := after.Encode()
	if positions != nil {
		say = append(say, positions.Encode()...)
	}
	at := w.log.Size()
	if err := w.log.Append(say, state, records); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, chunk := range state {
		at += int64(len(chunk))
	}
	for _, chunk := range records {
		end := at + int64(len(chunk))
		w.index = addPlace(w.index, big.Uint64(chunk[16:]), at, end)
		at = end
	}
	w.end, w.summary = w.log.Size(), after
	return nil
}

// commit stores a group.
func (w *writer) commit(g *storage.Group) error {
	// A file that has become shorter, or another one, is not written to.
	if stat, err := os.Stat(w.path); err != nil || stat.Size() < w.log.Size() {
		return fmt.Errorf("%s: %w", w.path, cmp.Or(err, errShortened))
	}
	w.ahead(g.Size())
	return w.append(g.Positions, g.After, g.State, g.Records)
}

// Groups of up to smallGroup bytes, of which there are many, go where zeros have been written
// before: to sync them the file system need not write to its journal as well.
const (
	smallGroup = 16 << 10
	aheadStep  = 64 << 10
)

// ahead makes room for a group of so many bytes, if it is a small one.
func (w *writer) ahead(group int64) {
	if group <= smallGroup && !w.full {
		w.full = w.log.Ahead(group+smallGroup, aheadStep) != nil // without room the file becomes larger each time
	}
}

var errShortened = errors.New("it was cut off while in use")

// seal ends writing; readers open the file again when they need it. With end it is said what is in
// it.
func (w *writer) seal(end bool) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	var err error
	if end && !w.log.Doubtful() {
		if err = w.log.Cut(); err == nil {
			err = w.log.End(w.say(w.info, &w.summary))
		}
	}
	w.writing, w.file, w.index = false, nil, nil
	if err != nil && datadir.IsNoSpace(err) {
		err = nil // without it the file is read once more
	}
	return errors.Join(err, w.log.Close())
}

// isShort tells that a part of a file cannot be read for good.
func isShort(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, syscall.EIO) }
