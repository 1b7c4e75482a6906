package queue

import (
	"syscall"
	"testing"
)

// mountMemory mounts a small file system in memory at dir until the end of the test.
func mountMemory(t *testing.T, dir, size string) error {
	t.Helper()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		return err
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return nil
}
