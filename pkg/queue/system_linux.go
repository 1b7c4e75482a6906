package queue

import (
	"math"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// uptime returns which boot of the machine this is, and how long before now it was; "": not known.
func uptime() (boot string, now time.Time, up time.Duration) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", time.Now(), 0
	}
	// Both clocks at the same moment: of some readings the two between which least time has passed.
	for least, i := time.Duration(math.MaxInt64), 0; i < 10; i++ {
		var since unix.Timespec
		at := time.Now()
		if unix.ClockGettime(unix.CLOCK_BOOTTIME, &since) != nil {
			return "", at, 0
		}
		if took := time.Since(at); took < least {
			least, now, up = took, at, time.Duration(since.Nano())
		}
	}
	return string(id), now, up
}
