package chaos

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

const diskSize = 128 << 20

// disk is a small file system of its own, for the daemon's storage.
type disk struct{ dir string }

// mountDisk mounts it on a directory. That takes root and the right to mount.
func mountDisk(dir string) (*disk, error) {
	if err := syscall.Mount("chaos", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", diskSize)); err != nil {
		return nil, err
	}
	return &disk{dir}, nil
}

func (d *disk) unmount() error { return syscall.Unmount(d.dir, syscall.MNT_DETACH) }

// fill takes all the space that is left, and returns what gives it back.
func (d *disk) fill() (free func() error, err error) {
	path := filepath.Join(d.dir, "filler")
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	// Down to the last page.
	for _, size := range []int{1 << 20, 4096} {
		for block := make([]byte, size); err == nil; {
			_, err = f.Write(block)
		}
		err = nil
	}
	return func() error { return os.Remove(path) }, nil
}
