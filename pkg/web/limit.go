package web

import (
	"net"
	"sync"
)

// MaxConnections is how many connections the web side serves at a time; others wait to be accepted.
const MaxConnections = 512

// MaxBody is how much of a request's body is read: no request here needs one.
const MaxBody = 64 << 10

// LimitListener returns a listener whose connections take one place each in room; without room the
// next one waits to be accepted. Listeners may share the room. Close ends an Accept that waits.
func LimitListener(l net.Listener, room chan struct{}) net.Listener {
	return &limited{Listener: l, room: room, closed: make(chan struct{})}
}

type limited struct {
	net.Listener
	// one token for each connection; listeners may share it
	room   chan struct{}
	closed chan struct{}
	once   sync.Once
}

// Accept implements net.Listener.
func (l *limited) Accept() (net.Conn, error) {
	select {
	case l.room <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.room
		return nil, err
	}
	return &limitedConn{Conn: c, leave: sync.OnceFunc(func() { <-l.room })}, nil
}

// Close implements net.Listener.
func (l *limited) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

type limitedConn struct {
	net.Conn
	leave func()
}

// Close implements net.Conn.
func (c *limitedConn) Close() error {
	defer c.leave()
	return c.Conn.Close()
}
