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
