package queue

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	bolt "go.etcd.io/bbolt"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/boltfile"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/datadir"
)

// A segment is one bbolt file with three buckets:
//
//	meta     "info": layout and base, written once; "summary": what the segment holds;
//	         "cursors": a copy of all positions
//	records  one bucket per block, its key the sequence number of the block's first record;
//	         in it the block under "b"
//	state    the same for the changes of the state, keys counted from 1, beginning with all that
//	         was set when the segment was made
//
// A bucket per block, because bbolt keeps up to four large values in one page and would write the
// older ones again with each new one. The meta bucket is small enough for bbolt to keep it inside
// the root page, which every transaction writes anyway.
//
// Only a file that this process has made is ever written to. A start begins a new segment, and one
// whose commit fails in a way that leaves doubt is closed: what a damaged or half synced file makes
// of a write is not worth finding out.
var (
	metaBucket    = []byte("meta")
	recordsBucket = []byte("records")
	stateBucket   = []byte("state")
	infoKey       = []byte("info")
	summaryKey    = []byte("summary")
	cursorsKey    = []byte("cursors")
	blockKey      = []byte("b")
)

// segmentVersion is the layout. Before 2 the values of the meta bucket had no checksums.
const segmentVersion = 2

// A reader that works through a segment maps it page by page, and what is mapped counts as memory
// of the process. Opening a file again costs a fraction of reading this much of it.
const remapBytes = 8 << 20

var errVersion = errors.New("written by a newer version of this program")

// segment is the file of a segment.
type segment struct {
	path string

	// Guarded by disk.mu.
	// Part of it is damaged: the file is kept under another name when it is done with.
	flagged bool
	// all of it is damaged
	condemned bool

	// Guards what follows and the use of db.
	mu sync.Mutex
	db *bolt.DB
	// db is the writer's
	writing  bool
	verified bool
	gone     bool
	// see boltfile.IsStuck
	stuck bool
	// Bytes since it was opened.
	read int64
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

func (i segmentInfo) encode() []byte {
	return appendCRC(appendUints([]byte{segmentVersion}, i.base, i.previousBase, i.previousLast))
}

func decodeInfo(b []byte) (segmentInfo, error) {
	const size = 25
	i := segmentInfo{version: 1}
	if len(b) != size || b[0] != 1 {
		whole, ok := cutCRC(b)
		if ok && len(whole) > 0 && whole[0] > segmentVersion {
			return segmentInfo{}, errVersion
		}
		if !ok || len(whole) != size {
			return segmentInfo{}, errors.New("no information about the segment")
		}
		b, i.version = whole, whole[0]
	}
	i.base, i.previousBase, i.previousLast = big.Uint64(b[1:]), big.Uint64(b[9:]), big.Uint64(b[17:])
	return i, nil
}

// metaValue returns a value of the meta bucket as it was encoded; nil if it is damaged.
func (i segmentInfo) metaValue(b []byte) []byte {
	if i.version < 2 {
		return b
	}
	b, _ = cutCRC(b)
	return b
}

// encode returns what a segment says of itself.
func (s *Segment) encode() []byte {
	return appendUints(nil, s.last, uint64(s.bytes), uint64(s.firstAt), uint64(s.lastAt))
}

// decode reads what encode returned.
func (s *Segment) decode(b []byte) error {
	if len(b) != 32 {
		return errors.New("no summary of the segment")
	}
	s.last = big.Uint64(b)
	for i, v := range []*int64{&s.bytes, &s.firstAt, &s.lastAt} {
		*v = int64(big.Uint64(b[8+8*i:]))
	}
	return nil
}

func sequenceKey(seq uint64) []byte { return big.AppendUint64(nil, seq) }

// inspect reads a segment's description without looking at its blocks.
func inspect(path string, base uint64) (f found, err error) {
	f = found{segment: &segment{path: path}}
	if f.clean, err = boltfile.Verify(path, string(metaBucket)); err != nil {
		return f, err
	}
	db, err := boltfile.OpenReadOnly(path)
	if err != nil {
		return f, err
	}
	err = boltfile.View(db, path, func(tx *bolt.Tx) error {
		meta := tx.Bucket(metaBucket)
		if meta == nil || tx.Bucket(recordsBucket) == nil || tx.Bucket(stateBucket) == nil {
			return boltfile.Damagef(path, "a bucket is missing")
		}
		var err error
		if f.info, err = decodeInfo(meta.Get(infoKey)); err != nil {
			if errors.Is(err, errVersion) {
				return fmt.Errorf("%s: %w", path, err)
			}
			return boltfile.Damaged(path, err)
		}
		err = f.decode(f.info.metaValue(meta.Get(summaryKey)))
		if err == nil && (f.info.base != base || f.last+1 < base || f.bytes < 0) {
			err = errors.New("summary does not fit the segment")
		}
		if err != nil {
			return boltfile.Damaged(path, err)
		}
		f.positions, _ = decodeCheckpoint(f.info.metaValue(meta.Get(cursorsKey))) // only a copy
		f.base, f.size = base, tx.Size()
		return nil
	})
	return f, cmp.Or(err, boltfile.Close(db, path, err))
}

// open makes s.db usable for reading. s.mu is held.
func (s *segment) open() error {
	switch {
	case s.gone:
		return ErrGone
	case s.stuck:
		return boltfile.Stuck(s.path, errors.New("it could not be read before"))
	case s.db != nil:
		return s.complete()
	}
	if !s.verified {
		if _, err := boltfile.Verify(s.path, ""); err != nil {
			return err
		}
		s.verified = true
	}
	db, err := boltfile.OpenReadOnly(s.path)
	s.db, s.read = db, 0
	return err
}

// complete checks that the file has not become too short for bbolt to read its first two pages. It
// would do so with a lock held, which a memory fault would leave locked for everybody who uses the
// handle.
func (s *segment) complete() error {
	stat, err := os.Stat(s.path)
	if err != nil {
		return boltfile.Classify(s.path, err)
	}
	if stat.Size() < 2*boltfile.PageSize {
		return boltfile.Damagef(s.path, "it was cut off while in use")
	}
	return nil
}

// block returns a copy of the block with record seq, and the first record of the block behind it, 0
// if there is none.
func (s *segment) block(seq uint64) (buf []byte, next uint64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.open(); err != nil {
		return nil, 0, err
	}
	err = boltfile.View(s.db, s.path, func(tx *bolt.Tx) error {
		records := tx.Bucket(recordsBucket)
		if records == nil {
			return boltfile.Damagef(s.path, "no records")
		}
		c := records.Cursor()
		key, _ := c.Seek(sequenceKey(seq))
		switch {
		case key == nil:
			key, _ = c.Last()
		case len(key) == 8 && big.Uint64(key) > seq:
			key, _ = c.Prev()
		}
		if len(key) != 8 {
			return boltfile.Damagef(s.path, "no block for record %d", seq)
		}
		if b := records.Bucket(key); b != nil {
			buf = append([]byte(nil), b.Get(blockKey)...)
		}
		if key, _ := c.Next(); len(key) == 8 {
			next = big.Uint64(key)
		}
		return nil
	})
	if s.read += int64(len(buf)); err != nil || s.read >= remapBytes {
		s.closeLocked(err)
	}
	if err != nil {
		return nil, 0, err
	}
	return buf, next, nil
}

// closeLocked closes the file for readers; the next one opens it again. err is the outcome of the
// last use. s.mu is held.
func (s *segment) closeLocked(err error) {
	s.stuck = s.stuck || boltfile.IsStuck(err)
	if s.db == nil || s.writing {
		return
	}
	_ = boltfile.Close(s.db, s.path, err) // it was only read
	s.db = nil
}

// retire ends all reading, and tells whether the file is written to. The file stays.
func (s *segment) retire() (writing bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closeLocked(nil)
	s.gone = true
	return s.writing
}

// loadState makes all changes of the state that the segment holds, in order. It passes over blocks
// that are damaged and returns the first such error at the end.
func (s *segment) loadState(state map[string]string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.open(); err != nil {
		return err
	}
	var damage error
	err := boltfile.View(s.db, s.path, func(tx *bolt.Tx) error {
		bucket := tx.Bucket(stateBucket)
		if bucket == nil {
			return boltfile.Damagef(s.path, "no state")
		}
		return bucket.ForEachBucket(func(key []byte) error {
			if err := readState(state, bucket.Bucket(key).Get(blockKey)); err != nil && damage == nil {
				damage = boltfile.Damagef(s.path, "state: %w", err)
			}
			return nil
		})
	})
	s.closeLocked(err)
	return cmp.Or(err, damage)
}

// writer is the segment that is written to. Only the committer uses it.
type writer struct {
	*segment
	bolt *bolt.DB
	// Bytes of the file that are in use.
	size int64

	// The number that bbolt gave to the last one that was committed.
	transaction int
}

// newWriter makes a segment.
func newWriter(dir string, mapped int, start *Start) (_ *writer, err error) {
	path := filepath.Join(dir, segmentName(start.base))
	temporary := path + temporarySuffix
	if err := os.Remove(temporary); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	w := &writer{segment: &segment{path: path, writing: true, verified: true}}
	defer func() {
		if err != nil {
			_ = boltfile.Close(w.bolt, temporary, err) // the error in hand is the one that counts
			_ = os.Remove(temporary)
		}
	}()
	if w.bolt, err = boltfile.Open(temporary, boltfile.Options(mapped)); err != nil {
		return nil, err
	}
	err = boltfile.Guard(temporary, func() error {
		w.bolt.NoSync = true // until it is complete nobody will read this file after a crash
		if err := w.bolt.Update(func(tx *bolt.Tx) error {
			for _, name := range [][]byte{metaBucket, recordsBucket, stateBucket} {
				if _, err := tx.CreateBucket(name); err != nil {
					return err
				}
			}
			put := tx.Bucket(metaBucket).Put(infoKey, start.encode())
			return errors.Join(put, putMeta(tx, start.positions, &Segment{last: start.base - 1}))
		}); err != nil {
			return err
		}
		if err := start.state(func(p plan) error {
			return w.bolt.Update(func(tx *bolt.Tx) error { return put(tx, stateBucket, p) })
		}); err != nil {
			return err
		}
		w.bolt.NoSync = false
		return w.bolt.Sync()
	})
	if err != nil {
		return nil, err
	}
	if err := os.Rename(temporary, path); err != nil {
		return nil, err
	}
	temporary = path
	if err := datadir.Sync(dir); err != nil {
		return nil, err
	}
	w.db = w.bolt
	w.committed()
	return w, nil
}

// committed notes the transaction that the file is at, and returns the bytes of the file that are
// in use. An error would only matter for metrics and the size of a segment.
func (w *writer) committed() int64 {
	_ = boltfile.View(w.bolt, w.path, func(tx *bolt.Tx) error {
		w.transaction, w.size = tx.ID(), tx.Size()
		return nil
	})
	return w.size
}

// unchanged tells whether the file is still at the transaction that was noted.
func (w *writer) unchanged() (same bool) {
	err := boltfile.View(w.bolt, w.path, func(tx *bolt.Tx) error {
		same = tx.ID() == w.transaction
		return nil
	})
	return err == nil && same
}

func put(tx *bolt.Tx, name []byte, p plan) error {
	bucket := tx.Bucket(name)
	bucket.FillPercent = 1 // keys only grow
	for i := range p {
		b, err := bucket.CreateBucketIfNotExists(sequenceKey(p[i].key))
		if err != nil {
			return err
		}
		if err := b.Put(blockKey, p[i].buf); err != nil {
			return err
		}
	}
	return nil
}

func putMeta(tx *bolt.Tx, positions *Checkpoint, s *Segment) error {
	meta := tx.Bucket(metaBucket)
	return errors.Join(meta.Put(cursorsKey, appendCRC(positions.Encode())), meta.Put(summaryKey, appendCRC(s.encode())))
}

// commit stores a group in one transaction.
func (w *writer) commit(g *Group) error {
	if err := w.complete(); err != nil {
		return err
	}
	return boltfile.Update(w.bolt, w.path, func(tx *bolt.Tx) error {
		records, state := put(tx, recordsBucket, g.records), put(tx, stateBucket, g.state)
		return errors.Join(records, state, putMeta(tx, g.positions, &g.after))
	})
}

// seal ends writing; readers open the file again when they need it. err is the outcome of the last
// use: after a failure it is not known which pages are in use.
func (w *writer) seal(err error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.db, w.writing, w.verified = nil, false, false
	if w.stuck = w.stuck || boltfile.IsStuck(err); w.stuck {
		return nil
	}
	if err := boltfile.Close(w.bolt, w.path, err); err != nil {
		return err
	}
	// bbolt lets a file grow in large steps; what is behind its last page takes no space, but
	// looks like it.
	if err != nil || w.size == 0 {
		return nil
	}
	return datadir.Truncate(w.path, w.size)
}
