package datadir

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
)

// The file has two equal slots that are written in turn, each with a generation and a checksum: a
// write that is torn leaves the other one. Both are written in full when the file is made, so that
// a small content can be stored when the disk is full. A slot is
//
//	 0  8 bytes  magic
//	 8  uint32   CRC-32C of everything after it up to the end of the content
//	12  uint32   length of the content
//	16  uint64   generation
//	24           content
const (
	slotsMagic  = "hmcncur1"
	slotsHeader = 24
	leastSlot   = 16 << 10
	largestSlot = 64 << 20
)

// SlotsSize is the size of a new file of Slots.
const SlotsSize = 2 * leastSlot

// ErrSlots is what OpenSlots returns for a file that has nothing that can be read.
var ErrSlots = errors.New("neither of its two slots can be read")

var (
	big        = binary.BigEndian
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// Slots keep one small content in a file, of which the last or the one before is there whatever
// happens to the machine. They are used by one goroutine at a time.
type Slots struct {
	system System
	path   string
	file   SystemFile
	// bytes of a slot
	slot       int64
	generation uint64
	// The slot that is synced: the other one is written until that is.
	safe int64
	// A write or sync has failed: the next one starts a new file.
	broken bool
	// The name of the file may not be on disk.
	unnamed bool
}

// OpenSlots returns the newest content of the file that fits. It is nil with ErrSlots if there is a
// file without one, and nil without an error if there is no file. The file may be written to in
// each of these cases.
func OpenSlots(system System, path string, fits func([]byte) bool) (*Slots, []byte, error) {
	f := &Slots{system: system, path: path, slot: leastSlot, broken: true} // nothing to write to yet
	file, err := system.Open(path, os.O_RDWR)
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
	var newest []byte
	slot := stat.Size() / 2
	for i := range int64(2) {
		if slot < slotsHeader || slot > largestSlot {
			break
		}
		content, generation, err := readSlot(io.NewSectionReader(file, i*slot, slot), slot)
		if err == nil && fits(content) && (newest == nil || generation > f.generation) {
			newest, f.generation, f.safe = content, generation, i
		}
	}
	if newest == nil {
		return f, nil, errors.Join(ErrSlots, file.Close())
	}
	f.file, f.slot, f.unnamed = file, slot, true
	// What a process that was killed has left may be what is read, and not be on disk, nor come
	// there with a sync if one has failed before. It has to be when the other slot is written.
	b := f.encode(newest)
	if _, err = file.WriteAt(b, f.safe*slot); err == nil {
		err = file.Sync()
	}
	f.broken = err != nil
	return f, newest, nil
}

func readSlot(r io.Reader, size int64) (content []byte, generation uint64, err error) {
	b := make([]byte, size)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, 0, err
	}
	length := big.Uint32(b[12:])
	if string(b[:8]) != slotsMagic || int64(length) > size-slotsHeader ||
		crc32.Checksum(b[12:slotsHeader+length], castagnoli) != big.Uint32(b[8:]) {
		return nil, 0, ErrSlots
	}
	return b[slotsHeader : slotsHeader+length], big.Uint64(b[16:]), nil
}

// Path is that of the file.
func (f *Slots) Path() string { return f.path }

// Store writes a content, which survives the end of the process at once and that of the machine if
// sync is set.
func (f *Slots) Store(content []byte, sync bool) error {
	f.generation++
	b := f.encode(content)
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
	return f.settle()
}

// encode returns a slot of the present generation.
func (f *Slots) encode(content []byte) []byte {
	b := make([]byte, slotsHeader, slotsHeader+len(content))
	copy(b, slotsMagic)
	big.PutUint32(b[12:], uint32(len(content)))
	big.PutUint64(b[16:], f.generation)
	b = append(b, content...)
	big.PutUint32(b[8:], crc32.Checksum(b[12:], castagnoli))
	return b
}

// settle makes the name of the file durable, if it may not be.
func (f *Slots) settle() error {
	if !f.unnamed {
		return nil
	}
	dir := filepath.Dir(f.path)
	if err := f.system.Sync(dir); err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	f.unnamed = false
	return nil
}

// renew writes b into both slots of a new file and puts that into the place of the old one.
func (f *Slots) renew(b []byte) error {
	slot := f.slot
	for int64(len(b)) > slot/2 {
		slot *= 2
	}
	temporary := f.path + ".tmp"
	content := make([]byte, 2*slot)
	copy(content, b)
	copy(content[slot:], b)
	file, err := WriteNew(f.system, temporary, content)
	if err != nil {
		return err
	}
	if err := f.system.Rename(temporary, f.path); err != nil {
		return errors.Join(err, file.Close(), f.system.Remove(temporary))
	}
	old := f.file
	f.file, f.slot, f.safe, f.broken, f.unnamed = file, slot, 0, false, true
	if old != nil {
		_ = old.Close() // replaced: nothing in it counts
	}
	return f.settle()
}

// Close ends the use of the file.
func (f *Slots) Close() error {
	if f.file == nil {
		return nil
	}
	return f.file.Close()
}
