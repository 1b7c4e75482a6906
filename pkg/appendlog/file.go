package appendlog

import (
	"bufio"
	"errors"
	"io"
	"io/fs"
	"os"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/datadir"
)

// System is what a log needs of the system.
type System interface {
	// Open is as datadir.Open.
	Open(path string, flag int) (SystemFile, error)
	Rename(from, to string) error
	Remove(path string) error
	// Sync makes the names in a directory durable.
	Sync(dir string) error
}

// SystemFile is an open file.
type SystemFile interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
	Truncate(size int64) error
	Stat() (fs.FileInfo, error)
	Close() error
}

// Disk is the System that there is.
var Disk System = disk{}

type disk struct{}

func (disk) Open(path string, flag int) (SystemFile, error) {
	f, err := datadir.Open(path, flag)
	if err != nil {
		return nil, err
	}
	return f, nil
}

func (disk) Rename(from, to string) error { return os.Rename(from, to) }
func (disk) Remove(path string) error     { return os.Remove(path) }
func (disk) Sync(dir string) error        { return datadir.Sync(dir) }

const bufferSize = 64 << 10

// File is a log that is open. One goroutine at a time writes to it; ReadAt may be called from any.
type File struct {
	SystemFile
	buffer *bufio.Writer
	// behind the last group
	end int64
	// of the file, when something is reserved behind that
	size int64
	// What is written has its place: it is synced group by group.
	placed bool
	doubt  bool
	frame  []byte
}

// Create makes a file, in the place of one of the same name. It is written to without a sync before
// Place is called.
func Create(system System, path string) (*File, error) {
	if err := system.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	f, err := system.Open(path, os.O_RDWR|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return nil, err
	}
	return &File{SystemFile: f}, nil
}

// Open opens a file that there is, to be written to behind its last group; end is what Scan has
// returned.
func Open(system System, path string, end int64) (*File, error) {
	f, err := system.Open(path, os.O_RDWR)
	if err != nil {
		return nil, err
	}
	stat, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &File{SystemFile: f, end: end, size: stat.Size(), placed: true}, nil
}

// Cut cuts off what is behind the last group.
func (f *File) Cut() error {
	f.size = f.end
	return f.Truncate(f.end)
}

// Reserve makes the file larger, to a multiple of step, until there is so much room behind the last
// group. A group that fits is stored when the disk is full, and a file of another size was cut off.
func (f *File) Reserve(room, step int64) error {
	if f.size-f.end >= room {
		return nil
	}
	size := max(f.size, f.end)
	for to := (f.end + room + step - 1) / step * step; size < to; {
		n, err := f.WriteAt(make([]byte, min(bufferSize, to-size)), size)
		if err != nil {
			return errors.Join(err, f.Truncate(max(f.size, f.end)))
		}
		size += int64(n)
	}
	f.size = size
	return nil
}

// Place syncs what was written to a new file; from now on each group is synced.
func (f *File) Place() error {
	f.placed = true
	return f.Sync()
}

// Size returns where the next group goes.
func (f *File) Size() int64 { return f.end }

// Doubtful says that nobody knows what of the last group, which has failed, is on disk: no more may
// be appended.
func (f *File) Doubtful() bool { return f.doubt }

// Append stores a group of frames, all of it or nothing, and what is said of it. It is on disk when
// Append returns. After an error the next group takes the place of this one, unless Doubtful.
func (f *File) Append(say []byte, groups ...[][]byte) error {
	var synced uint64
	if f.placed {
		synced = 1
	}
	err := f.write(kindCommit, [4]uint64{uint64(f.end), synced}, say, groups...)
	if err == nil && f.placed {
		if err = f.Sync(); err != nil {
			f.doubt = true
		}
	}
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
		f.buffer = bufio.NewWriterSize(out, bufferSize)
	}
	f.buffer.Reset(out)
	size := int64(0)
	for _, frames := range groups {
		for _, frame := range frames {
			_, _ = f.buffer.Write(frame) // Flush returns the first error
			size += int64(len(frame))
		}
	}
	f.frame = append(append(f.frame[:0], make([]byte, HeaderSize)...), say...)
	Seal(f.frame, kind, 0, numbers)
	_, _ = f.buffer.Write(f.frame)
	if err := f.buffer.Flush(); err != nil {
		f.doubt = f.Cut() != nil
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
