//go:build !linux

package queue

import "time"

// What there is no call for, or is not known.
func availableBytes(string) int64             { return -1 }
func uptime() (boot string, up time.Duration) { return "", 0 }
