package datadir

import "golang.org/x/sys/unix"

// Available is what a directory's file system has left for this process, or -1.
func Available(dir string) int64 {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return -1
	}
	return int64(s.Bavail) * int64(s.Bsize) // the types depend on the architecture
}
