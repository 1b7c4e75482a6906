//go:build !linux

package queue

import "time"

// There is no call for it.
func uptime() (boot string, now time.Time, up time.Duration) { return "", time.Now(), 0 }
