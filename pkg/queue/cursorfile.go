package queue

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/boltfile"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/datadir"
)

// The cursors are kept in a file of two equal slots that are written in turn, each with a
// generation and a checksum: a write that is torn leaves the other one. Both are written in full
// when the file is made, so that a position can be stored when the disk is full (acknowledging is
// what makes room), and one sync is enough for all cursors. A slot is
//
//	 0  8 bytes  magic
//	 8  uint32   CRC-32C of everything after it up to the end of the payload
//	12  uint32   length of the payload
//	16  uint64   generation
//	24           payload
const (
	cursorMagic      = "hmcncur1"
	cursorSlotHeader = 24
	cursorSlotSize   = 16 << 10
)

// position is where a cursor stands: everything up to and including acked is done. Of the segment
// that begins at segment, whose records follow, bytes are done.
type position struct {
	acked   uint64
	segment uint64
	bytes   int64
}

// Checkpoint is what is stored of all cursors. end is the last sequence number that was stored at
// the time, as far as known: a segment that ends before it has lost something.
type Checkpoint struct {
	end     uint64
	cursors map[string]position
}

// Encode returns the positions.
func (c *Checkpoint) Encode() []byte {
	b := big.AppendUint64(nil, c.end)
	b = big.AppendUint32(b, uint32(len(c.cursors)))
	for name, p := range c.cursors {
		b = appendUints(appendSized(b, name), p.acked, p.segment, uint64(p.bytes))
	}
	return b
}

var errCheckpoint = errors.New("cursor positions are unreadable")

func decodeCheckpoint(b []byte) (*Checkpoint, error) {
	if len(b) < 12 {
		return nil, errCheckpoint
	}
	c := &Checkpoint{end: big.Uint64(b), cursors: map[string]position{}}
	n := big.Uint32(b[8:])
	b = b[12:]
	for range n {
		name, rest, ok := cutSized(b)
		if !ok || len(rest) < 24 {
			return nil, errCheckpoint
		}
		c.cursors[string(name)] = position{
			acked: big.Uint64(rest), segment: big.Uint64(rest[8:]), bytes: int64(big.Uint64(rest[16:])),
		}
		b = rest[24:]
	}
	if len(b) != 0 {
		return nil, errCheckpoint
	}
	return c, nil
}

// cursorFile stores checkpoints. It is used by one goroutine at a time.
type cursorFile struct {
	dir  string
	file *os.File
	// bytes of a slot
	slot       int64
	generation uint64
	// The slot that is synced: the other one is written until that is.
	safe int64
	// A write or sync has failed: the next one starts a new file.
	broken bool
}

func (f *cursorFile) path() string { return filepath.Join(f.dir, cursorsName) }

// openCursorFile returns the newest checkpoint of the directory. It is nil with an error that
// isDamage if there is a file without one, and nil without an error if there is no file. The file
// is usable in each of these cases.
func openCursorFile(dir string) (*cursorFile, *Checkpoint, error) {
	f := &cursorFile{dir: dir, slot: cursorSlotSize, broken: true} // nothing to write to yet
	file, err := datadir.Open(f.path(), os.O_RDWR)
	if errors.Is(err, os.ErrNotExist) {
		return f, nil, nil
	}
	if err != nil {
		return f, nil, err
	}
	stat, err := file.Stat()
	if err != nil {
		return f, nil, errors.Join(err, file.Close())
	}
	var newest *Checkpoint
	slot := stat.Size() / 2
	for i := range int64(2) {
		if slot < cursorSlotHeader || slot > 64<<20 {
			break
		}
		c, generation, err := readSlot(io.NewSectionReader(file, i*slot, slot), slot)
		if err == nil && (newest == nil || generation > f.generation) {
			newest, f.generation, f.safe = c, generation, i
		}
	}
	if newest == nil {
		return f, nil, errors.Join(boltfile.Damagef(f.path(), "%w", errCheckpoint), file.Close())
	}
	f.file, f.slot, f.broken = file, slot, false
	return f, newest, nil
}

func readSlot(r io.Reader, size int64) (*Checkpoint, uint64, error) {
	b := make([]byte, size)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, 0, err
	}
	length := big.Uint32(b[12:])
	if string(b[:8]) != cursorMagic || int64(length) > size-cursorSlotHeader ||
		crc32.Checksum(b[12:cursorSlotHeader+length], castagnoli) != big.Uint32(b[8:]) {
		return nil, 0, errCheckpoint
	}
	c, err := decodeCheckpoint(b[cursorSlotHeader : cursorSlotHeader+length])
	return c, big.Uint64(b[16:]), err
}

// store writes c, which survives the end of the process at once and that of the machine if sync is
// set.
func (f *cursorFile) store(c *Checkpoint, sync bool) error {
	payload := c.Encode()
	f.generation++
	b := make([]byte, cursorSlotHeader, cursorSlotHeader+len(payload))
	copy(b, cursorMagic)
	big.PutUint32(b[12:], uint32(len(payload)))
	big.PutUint64(b[16:], f.generation)
	b = append(b, payload...)
	big.PutUint32(b[8:], crc32.Checksum(b[12:], castagnoli))

	if f.broken || int64(len(b)) > f.slot {
		return f.renew(b)
	}
	if _, err := f.file.WriteAt(b, (1-f.safe)*f.slot); err != nil {
		f.broken = true
		return err
	}
	if !sync {
		return nil
	}
	if err := f.file.Sync(); err != nil {
		f.broken = true // what a second sync of the same file would say is worth nothing
		return err
	}
	f.safe = 1 - f.safe
	return nil
}

// renew writes b into both slots of a new file and puts that into the place of the old one.
func (f *cursorFile) renew(b []byte) error {
	slot := f.slot
	for int64(len(b)) > slot/2 {
		slot *= 2
	}
	temporary := f.path() + temporarySuffix
	content := make([]byte, 2*slot)
	copy(content, b)
	copy(content[slot:], b)
	file, err := datadir.WriteNew(temporary, content)
	if err != nil {
		return err
	}
	if err := os.Rename(temporary, f.path()); err != nil {
		return errors.Join(err, file.Close(), os.Remove(temporary))
	}
	old := f.file
	f.file, f.slot, f.safe, f.broken = file, slot, 0, false
	if old != nil {
		_ = old.Close() // replaced: nothing in it counts
	}
	if err := datadir.Sync(f.dir); err != nil {
		return fmt.Errorf("%s: %w", f.dir, err)
	}
	return nil
}

func (f *cursorFile) close() error {
	if f.file == nil {
		return nil
	}
	return f.file.Close()
}
