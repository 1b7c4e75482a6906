//go:build !linux

package queue

import (
	"os"
	"time"
)

// What there is no call for, or is not known.
func adviseWillNeed(*os.File)                 {}
func availableBytes(string) int64             { return -1 }
func uptime() (boot string, up time.Duration) { return "", 0 }
