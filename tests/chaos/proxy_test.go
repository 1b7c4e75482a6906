package chaos

import (
	"bufio"
	"context"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// echo starts a server that sends lines back.
func echo(t *testing.T) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	t.Cleanup(serving.Wait)
	t.Cleanup(func() { l.Close() })
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn) // ends with the connection
			})
		}
	})
	return l.Addr().String()
}

func TestProxy(t *testing.T) {
	p, err := startProxy("127.0.0.1:0", echo(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.close)
	p.addr = p.listener.Addr().String()
	dial := func() (net.Conn, error) {
		return (&net.Dialer{Timeout: 10 * time.Second}).DialContext(context.Background(), "tcp", p.addr)
	}
	say := func(conn net.Conn, within time.Duration) error {
		if _, err := io.WriteString(conn, "hello\n"); err != nil {
			return err
		}
		_ = conn.SetReadDeadline(time.Now().Add(within)) // the read tells
		_, err := bufio.NewReader(conn).ReadString('\n')
		return err
	}
	connected := func() net.Conn {
		conn, err := dial()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		if err := say(conn, 10*time.Second); err != nil {
			t.Fatal(err)
		}
		return conn
	}

	conn := connected()
	p.cut()
	if err := say(conn, 10*time.Second); err == nil {
		t.Error("a connection lives that was cut")
	}

	conn = connected()
	p.hold()
	if err := say(conn, 50*time.Millisecond); err == nil {
		t.Error("something passes while it is held")
	}
	p.release()
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second)) // the read tells
	if text, err := bufio.NewReader(conn).ReadString('\n'); err != nil || text != "hello\n" {
		t.Errorf("what was held: %q, %v", text, err)
	}

	p.slow(30 * time.Millisecond)
	begin := time.Now()
	if err := say(conn, 10*time.Second); err != nil || time.Since(begin) < 60*time.Millisecond {
		t.Errorf("both ways took %s, %v", time.Since(begin), err)
	}
	p.slow(0)

	p.refuse()
	if err := say(conn, 10*time.Second); err == nil {
		t.Error("a connection lives over a refusal")
	}
	if conn, err := dial(); err == nil {
		conn.Close()
		t.Error("a connection is accepted that is to be refused")
	}
	if err := p.accept(); err != nil {
		t.Fatal(err)
	}
	connected()
}
