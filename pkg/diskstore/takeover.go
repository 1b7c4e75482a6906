package diskstore

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"

	bolt "go.etcd.io/bbolt"
	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/appendlog"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/boltfile"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/datadir"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/storage"
)

// Versions up to 0.1 had a bbolt file for each segment. The first start makes a segment of today of
// each, and removes the old ones when all are made; nothing is appended before. A start that ends
// in the middle leaves what is not removed to the next one, which makes those anew. A file had
// three buckets:
//
//	meta     "info": layout and base; "summary": what the segment holds; "cursors": a copy of all
//	         positions
//	records  one bucket per block, its key the sequence number of the block's first record; in it
//	         the block under "b"
//	state    the same for the changes of the state, in order
const oldSuffix = ".db"

// barrier is a file that says to version 0.1, which does not know the names of today, that the
// directory is of a newer version: that ends then, before it changes anything. It is there before
// the first of its own files goes.
const barrier = segmentPrefix + "18446744073709551615" + oldSuffix

// oldSegment is a file of an earlier version.
type oldSegment struct {
	path    string
	base    uint64
	damaged bool
}

// takeOver makes segments of those of an earlier version. taken are those of which nothing can be
// read; unsure says that the newest one may have lost its end.
func (d *Store) takeOver() (taken []storage.Span, unsure bool, err error) {
	entries, err := os.ReadDir(d.dir)
	if err != nil {
		return nil, false, err
	}
	var old []oldSegment
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), oldSuffix)
		if base, known := parseSegmentName(name + segmentSuffix); ok && known && e.Name() != barrier {
			old = append(old, oldSegment{path: filepath.Join(d.dir, e.Name()), base: base})
		}
	}
	if len(old) > 0 {
		d.log.Info("storage of an earlier version is taken over", zap.Int("segments", len(old)))
	}
	done := 0 // those before it are removed
	for i := range old {
		s := &old[i]
		clean, err := d.convert(s)
		if err != nil && datadir.IsNoSpace(err) {
			// What is made already makes room.
			if err = d.removeOld(old[done:i]); err == nil {
				done = i
				clean, err = d.convert(s)
			}
		}
		if unsure = !clean; datadir.IsDamage(err) {
			taken = append(taken, storage.Span{First: s.base, Last: s.base - 1})
			d.flagOld(s, err)
			err = nil
		}
		if err != nil {
			if datadir.IsNoSpace(err) {
				err = fmt.Errorf("the disk needs space for one more file as %s: %w", filepath.Base(s.path), err)
			}
			return nil, false, fmt.Errorf("storage of an earlier version is taken over: %w", err)
		}
	}
	return taken, unsure, d.removeOld(old[done:])
}

// removeOld removes files that were taken over. A damaged one is kept under another name.
func (d *Store) removeOld(old []oldSegment) error {
	f, err := datadir.Open(filepath.Join(d.dir, barrier), os.O_RDONLY)
	switch {
	case err == nil:
		_ = f.Close()
	case !errors.Is(err, fs.ErrNotExist):
		return err
	default:
		if err := d.raiseBarrier(); err != nil { // it is tried again at the next start
			d.log.Warn("an earlier version would not notice that this one was here", zap.Error(err))
		}
	}
	if len(old) == 0 {
		return nil
	}
	if err := d.system.Sync(d.dir); err != nil { // the names of the new ones
		return err
	}
	for _, s := range old {
		remove := d.system.Remove
		if s.damaged {
			remove = func(path string) error { return d.setAside(path, nil) }
		}
		if err := remove(s.path); err != nil {
			return err
		}
	}
	return d.system.Sync(d.dir)
}

// raiseBarrier makes the file that keeps version 0.1 out.
func (d *Store) raiseBarrier() error {
	path := filepath.Join(d.dir, barrier)
	temporary := path + temporarySuffix
	err := boltfile.Make(temporary, func(tx *bolt.Tx) error {
		for _, name := range []string{"records", "state", "meta"} {
			if _, err := tx.CreateBucket([]byte(name)); err != nil {
				return err
			}
		}
		info := segmentInfo{base: math.MaxUint64}
		return tx.Bucket([]byte("meta")).Put([]byte("info"), info.encode())
	})
	if err != nil {
		return err
	}
	return os.Rename(temporary, path)
}

// convert makes a segment of an old one.
func (d *Store) convert(s *oldSegment) (clean bool, err error) {
	// What a start has made that ended before it removed the old one takes space.
	err = d.system.Remove(filepath.Join(d.dir, segmentName(s.base)))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	return boltfile.View(s.path, func(tx *bolt.Tx) error {
		meta, records, state := tx.Bucket([]byte("meta")), tx.Bucket([]byte("records")), tx.Bucket([]byte("state"))
		if meta == nil || records == nil || state == nil {
			return datadir.Damagef(s.path, "a bucket is missing")
		}
		info, err := decodeInfo(meta.Get([]byte("info")))
		summary := storage.Segment{Base: s.base, Last: s.base - 1}
		after := summary
		if err == nil {
			err = summary.Decode(info.metaValue(meta.Get([]byte("summary"))))
		}
		if err == nil && info.base != s.base {
			err = errors.New("it is another segment")
		}
		if err != nil {
			return datadir.Damaged(s.path, err)
		}
		positions, err := storage.DecodeCheckpoint(info.metaValue(meta.Get([]byte("cursors"))))
		if err != nil {
			positions = nil // only a copy
		}
		w, err := newWriter(d.system, d.dir, info, positions, func(w *writer) error {
			err := eachBlock(state, func(block []byte) error {
				chunks, err := storage.ParseBlock(block, storage.KindState)
				d.flagOld(s, err)
				return w.append(positions, after, frames(block, chunks), nil)
			})
			if err != nil {
				return err
			}
			err = eachBlock(records, func(block []byte) error {
				chunks, err := storage.ParseBlock(block, storage.KindRecords)
				d.flagOld(s, err)
				for len(chunks) > 0 && chunks[len(chunks)-1].First > summary.Last {
					chunks = chunks[:len(chunks)-1] // never confirmed
				}
				for _, c := range chunks {
					if after.Empty() {
						after.FirstAt = c.At
					}
					after.Last, after.Bytes, after.LastAt = c.Last(), c.Before+c.Bytes, c.At
				}
				return w.append(positions, after, nil, frames(block, chunks))
			})
			if err != nil {
				return err
			}
			return w.append(positions, summary, nil, nil)
		})
		if err != nil {
			return err
		}
		return w.seal(true)
	})
}

// metaValue returns a value of the meta bucket as it was encoded; nil if it is damaged.
func (i segmentInfo) metaValue(b []byte) []byte {
	if i.version < 2 {
		return b
	}
	b, _ = appendlog.CutCRC(b)
	return b
}

// flagOld reports that an old segment is damaged, once.
func (d *Store) flagOld(s *oldSegment, err error) {
	if err != nil && !s.damaged {
		s.damaged = true
		if !datadir.IsDamage(err) {
			err = datadir.Damaged(s.path, err)
		}
		d.damaged(err)
	}
}

// eachBlock calls fn for the blocks in a bucket of an old segment.
func eachBlock(b *bolt.Bucket, fn func(block []byte) error) error {
	return b.ForEachBucket(func(key []byte) error { return fn(b.Bucket(key).Get([]byte("b"))) })
}

// frames are the chunks of a block.
func frames(block []byte, chunks []storage.Chunk) (frames [][]byte) {
	for _, c := range chunks {
		frames = append(frames, block[c.Start-appendlog.HeaderSize:c.End])
	}
	return frames
}
