package sinks

import (
	"errors"
	"io"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// readNow reads what is there. If there is nothing, its error is os.ErrDeadlineExceeded, after
// which crypto/tls can read on.
func readNow(raw syscall.RawConn, p []byte) (int, error) {
	var (
		n   int
		err error
	)
	control := raw.Read(func(fd uintptr) bool {
		n, err = unix.Read(int(fd), p)
		for errors.Is(err, unix.EINTR) {
			n, err = unix.Read(int(fd), p)
		}
		return true // done, also where there is nothing: no waiting
	})
	switch {
	case control != nil:
		return 0, control
	case errors.Is(err, unix.EAGAIN):
		return 0, os.ErrDeadlineExceeded
	case err != nil:
		return 0, os.NewSyscallError("read", err)
	case n == 0 && len(p) > 0:
		return 0, io.EOF
	}
	return n, nil
}

// setUserTimeout limits how long what was written may stay unacknowledged. Keep-alive probes are
// sent on idle connections only; without this limit Linux repeats unacknowledged data for a quarter
// of an hour.
func setUserTimeout(raw syscall.RawConn, limit time.Duration) {
	if raw == nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(limit.Milliseconds()))
	})
}
