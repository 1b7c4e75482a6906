//go:build !linux

package queue

import "time"

// There is no call for it.
func uptime() (boot string, up time.Duration) { return "", 0 }
