//go:build !linux

package queue

import (
	"os"
	"time"
)

// adviseWillNeed does nothing where the call does not exist.
func adviseWillNeed(*os.File) {}

// uptime is not known here.
func uptime() (boot string, up time.Duration) { return "", 0 }

// availableBytes is not known here.
func availableBytes(string) int64 { return -1 }
