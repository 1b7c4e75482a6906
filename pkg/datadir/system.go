package datadir

import (
	"io"
	"io/fs"
	"os"
)

// System is what keeping data in a directory needs of the system. Tests have one that fails, and
// loses what was not synced.
type System interface {
	// Open is as the function Open.
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
	// Sync puts on disk what is read of the file from now on.
	Sync() error
	Truncate(size int64) error
	Stat() (fs.FileInfo, error)
	Close() error
}

// Disk is the System that there is.
var Disk System = disk{}

type disk struct{}

func (disk) Open(path string, flag int) (SystemFile, error) {
	f, err := Open(path, flag)
	if err != nil {
		return nil, err
	}
	return diskFile{f}, nil
}

// diskFile is a file that is there to be read again.
type diskFile struct{ *os.File }

func (f diskFile) Sync() error { return syncData(f.File) }

func (disk) Rename(from, to string) error { return os.Rename(from, to) }
func (disk) Remove(path string) error     { return os.Remove(path) }
func (disk) Sync(dir string) error        { return Sync(dir) }
