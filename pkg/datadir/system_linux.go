package datadir

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Available is what a directory's file system has left for this process, or -1.
func Available(dir string) int64 {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return -1
	}
	return int64(s.Bavail) * int64(s.Bsize) // the types depend on the architecture
}

// syncData puts on disk what is needed to read the file again: not the time of the last write,
// which would be a second place to write to.
func syncData(f *os.File) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	control := conn.Control(func(fd uintptr) {
		for {
			if err = unix.Fdatasync(int(fd)); !errors.Is(err, unix.EINTR) {
				return
			}
		}
	})
	if err = errors.Join(control, err); err != nil {
		return &os.PathError{Op: "sync", Path: f.Name(), Err: err}
	}
	return nil
}
