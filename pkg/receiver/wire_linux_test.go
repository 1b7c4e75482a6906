package receiver

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

func checkSocket(t *testing.T, conn *net.TCPConn, on bool) {
	t.Helper()
	raw, err := conn.SyscallConn()
	must(t, err)
	want := [3]int{0, 0, 0}
	if on {
		want = [3]int{1, 30, 90000}
	}
	var got [3]int
	must(t, raw.Control(func(fd uintptr) {
		got[0], _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_KEEPALIVE)
		if on {
			got[1], _ = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_KEEPIDLE)
		}
		got[2], _ = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT)
	}))
	if got != want {
		t.Errorf("SO_KEEPALIVE, TCP_KEEPIDLE, TCP_USER_TIMEOUT are %v, want %v", got, want)
	}
}
