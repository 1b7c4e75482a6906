package queue

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// uptime returns which boot of the machine this is, and how long ago it was; "": not known.
func uptime() (boot string, up time.Duration) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	var now unix.Timespec
	if err == nil && unix.ClockGettime(unix.CLOCK_BOOTTIME, &now) == nil {
		boot, up = string(id), time.Duration(now.Nano())
	}
	return boot, up
}

// availableBytes is what a directory's file system has left for this process, or -1.
func availableBytes(dir string) int64 {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return -1
	}
	return int64(s.Bavail) * int64(s.Bsize) // the types depend on the architecture
}
