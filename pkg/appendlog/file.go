package appendlog

import (
	"bufio"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/datadir"
)

const (
	bufferSize = 64 << 10
	// temporarySuffix is that of a file which is not complete yet.
	temporarySuffix = ".tmp"
)

var errDoubtful = errors.New("appendlog: what is on disk of the file is not known")

// File is a log that is open. One goroutine at a time writes to it; ReadAt may be called from any.
type File struct {
	datadir.SystemFile
	system datadir.System
	path   string
	buffer *bufio.Writer
	// behind the last group
	end int64
	// of the file, when something is reserved behind that
	size int64
	// What is written has its place: it is synced group by group.
	placed bool
	// The name, or the size, may not be on disk.
	unnamed, resized bool
	doubt            bool
	frame            []byte
}

// Create makes a file that gets its name with Place. Until then it is written to without a sync.
func Create(system datadir.System, path string) (*File, error) {
	temporary := path + temporarySuffix
	if err := system.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	f, err := system.Open(temporary, os.O_RDWR|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return nil, err
	}
	return &File{SystemFile: f, system: system, path: path}, nil
}

// Abandon removes a file that was not placed.
func (f *File) Abandon() {
	_ = f.Close() // nothing in it counts
	_ = f.system.Remove(f.path + temporarySuffix)
}

// Place syncs what was written to a new file, and gives it its name, in the place of a file that
// has that. From now on each group is synced. After an error there is the file of before.
func (f *File) Place() error {
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.system.Rename(f.path+temporarySuffix, f.path); err != nil {
		return err
	}
	// The one of before is gone: nothing can be undone if this fails, and only what is appended
	// has to wait until it works.
	f.placed, f.unnamed, f.resized = true, true, false
	_ = f.Settle()
	return nil
}

// Settle makes name and size durable, if they may not be. Append does so first: a group that is
// torn has had its room, and nothing of one that was cut off is behind it.
func (f *File) Settle() error {
	if err := f.settleSize(); err != nil || !f.unnamed {
		return err
	}
	err := f.system.Sync(filepath.Dir(f.path))
	f.unnamed = err != nil
	return err
}

// settleSize makes the size durable. If that fails nobody knows it any more.
func (f *File) settleSize() error {
	if !f.resized || !f.placed || f.doubt {
		return nil
	}
	err := f.Sync()
	f.resized, f.doubt = err != nil, err != nil
	return err
}

// Open opens a file that there is, of which Scan has found this, to be written to behind its last
// group. That is written once more: what a process has left which was killed may be what is read,
// and not be on disk, nor come there with a sync if one has failed before.
func Open(system datadir.System, path string, found Scanned) (*File, error) {
	file, err := system.Open(path, os.O_RDWR)
	if err != nil {
		return nil, err
	}
	f := &File{SystemFile: file, system: system, path: path, end: found.End, placed: true, unnamed: true}
	stat, err := file.Stat()
	if err == nil {
		f.size = stat.Size()
		to := f.end
		if !found.Rest {
			to = f.size // there is nothing behind the last group but what is reserved
		}
		err = f.rewrite(found.Last, to)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return f, nil
}

// rewrite puts what is read between two offsets on disk.
func (f *File) rewrite(from, to int64) error {
	b := make([]byte, bufferSize)
	for at := from; at < to; {
		n, err := f.ReadAt(b[:min(bufferSize, to-at)], at)
		if n == 0 {
			return err
		}
		if n, err = f.WriteAt(b[:n], at); err != nil {
			return err
		}
		at += int64(n)
	}
	return f.Sync()
}

// Cut cuts off what is behind the last group.
func (f *File) Cut() error {
	f.size, f.resized = f.end, true
	return f.Truncate(f.end)
}

// Reserve makes the file larger, to a multiple of step, until there is so much room behind the last
// group. A group that fits is stored when the disk is full, and a file of another size with
// something torn behind its last group was cut off.
func (f *File) Reserve(room, step int64) error {
	if f.Room() >= room {
		return nil
	}
	if err := f.settleSize(); err != nil {
		return err
	}
	f.resized = true
	before := max(f.size, f.end)
	err := f.extend(room, step)
	if err != nil {
		back := f.Truncate(before)
		f.size, f.doubt = before, f.doubt || back != nil
		err = errors.Join(err, back)
	}
	return err
}

// Ahead is Reserve for groups that do not depend on it: the size becomes durable with the next one,
// and after an error there may be less room.
func (f *File) Ahead(room, step int64) error {
	if f.Room() >= room || f.resized {
		return nil
	}
	return f.extend(room, step)
}

var zeros [bufferSize]byte

// extend writes zeros behind the file, up to a multiple of step.
func (f *File) extend(room, step int64) error {
	to := (f.end + room + step - 1) / step * step
	for f.size = max(f.size, f.end); f.size < to; {
		n, err := f.WriteAt(zeros[:min(bufferSize-f.size%bufferSize, to-f.size)], f.size)
		f.size += int64(n)
		if err != nil {
			return err
		}
	}
	return nil
}

// Room returns how many bytes are reserved.
func (f *File) Room() int64 { return f.size - f.end }

// Size returns where the next group goes.
func (f *File) Size() int64 { return f.end }

// Doubtful says that nobody knows what is on disk of the last group, which has failed: no more may
// be appended. Those before it are there.
func (f *File) Doubtful() bool { return f.doubt }

// Append stores a group of frames, all of it or nothing, and what is said of it. It is on disk when
// Append returns. After an error the next group takes the place of this one, unless Doubtful.
func (f *File) Append(say []byte, groups ...[][]byte) error {
	var synced uint64
	if f.placed {
		synced = 1
	}
	if f.doubt {
		return errDoubtful
	}
	if err := f.Settle(); err != nil {
		return err
	}
	end := f.end
	err := f.write(kindCommit, [4]uint64{uint64(end), synced}, say, groups...)
	if err != nil || !f.placed {
		return err
	}
	if err = f.Sync(); err != nil {
		// What could not be written is still what is read, until the power goes; the next
		// sync would say nothing of it. A start before that is not to find it.
		f.end, f.doubt = end, true
		_ = f.Cut()
	}
	return err
}

// Clear removes all groups.
func (f *File) Clear() error {
	f.end = 0
	err := errors.Join(f.Cut(), f.Sync())
	f.resized, f.doubt = err != nil, err != nil
	return err
}

// End writes the last frame of the file, which says what is in it. It is a help for who opens the
// file, and not synced: without it the file is scanned.
func (f *File) End(say []byte) error {
	return f.write(kindEnd, [4]uint64{uint64(f.end)}, append(say, big.AppendUint64(nil, uint64(f.end))...))
}

// write writes frames behind those that there are, and one of its own.
func (f *File) write(kind uint8, numbers [4]uint64, say []byte, groups ...[][]byte) (err error) {
	out := &offsetWriter{f.SystemFile, f.end}
	if f.buffer == nil {
		f.buffer = bufio.NewWriterSize(out, bufferSize/2)
	}
	f.buffer.Reset(out)
	size := int64(0)
	for _, frames := range groups {
		for _, frame := range frames {
			if len(frame) > f.buffer.Size() { // then it is written from where it is
				_ = f.buffer.Flush()
			}
			_, _ = f.buffer.Write(frame) // Flush returns the first error
			size += int64(len(frame))
		}
	}
	f.frame = append(append(f.frame[:0], make([]byte, HeaderSize)...), say...)
	Seal(f.frame, kind, 0, numbers)
	_, _ = f.buffer.Write(f.frame)
	if err := f.buffer.Flush(); err != nil {
		f.doubt = f.Cut() != nil || !datadir.IsNoSpace(err)
		return err
	}
	f.end += size + int64(len(f.frame))
	return nil
}

// offsetWriter writes to a file from an offset on.
type offsetWriter struct {
	file io.WriterAt
	at   int64
}

func (w *offsetWriter) Write(b []byte) (int, error) {
	n, err := w.file.WriteAt(b, w.at)
	w.at += int64(n)
	return n, err
}
