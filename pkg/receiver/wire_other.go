//go:build !linux

package receiver

import (
	"net"
	"time"
)

// setUserTimeout does nothing: the option is Linux's own.
func setUserTimeout(*net.TCPConn, time.Duration) error { return nil }
