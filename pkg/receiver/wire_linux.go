package receiver

import (
	"cmp"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// setUserTimeout limits how long what we sent (a heart-beat, say) may stay unacknowledged.
// Keep-alive probes are sent on idle connections only; without this limit Linux repeats
// unacknowledged data for a quarter of an hour.
func setUserTimeout(conn *net.TCPConn, limit time.Duration) error {
	raw, err := conn.SyscallConn()
	if err == nil {
		var failed error
		err = raw.Control(func(fd uintptr) {
			failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(limit.Milliseconds()))
		})
		err = cmp.Or(err, failed)
	}
	if err != nil {
		return fmt.Errorf("set TCP user timeout: %w", err)
	}
	return nil
}
