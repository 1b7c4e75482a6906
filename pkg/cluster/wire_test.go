package cluster

import (
	"context"
	"net"
	"sync"
	"time"
)

// wire is the network between a daemon and its cluster: a dialer for the library.
type wire struct {
	mu    sync.Mutex
	conns map[*wireConn]bool
	// Refused: there are no new connections.
	refused bool
	// deaf: what the servers say does not arrive any more, and is lost when the connection is cut.
	deaf bool
}

type wireConn struct {
	net.Conn
	w      *wire
	closed chan struct{}
	once   sync.Once
}

func newWire() *wire { return &wire{conns: map[*wireConn]bool{}} }

func (w *wire) Dial(network, address string) (net.Conn, error) {
	w.mu.Lock()
	refused := w.refused
	w.mu.Unlock()
	if refused {
		return nil, net.ErrClosed
	}
	conn, err := (&net.Dialer{Timeout: patience}).DialContext(context.Background(), network, address)
	if err != nil {
		return nil, err
	}
	c := &wireConn{Conn: conn, w: w, closed: make(chan struct{})}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.conns[c] = true
	return c, nil
}

func (c *wireConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.w.mu.Lock()
	deaf := c.w.deaf
	c.w.mu.Unlock()
	if deaf && err == nil {
		<-c.closed
		return 0, net.ErrClosed
	}
	return n, err
}

func (c *wireConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	c.w.mu.Lock()
	delete(c.w.conns, c)
	c.w.mu.Unlock()
	return c.Conn.Close()
}

// set changes what happens to connections, and cuts those that there are.
func (w *wire) set(refused, deaf, cut bool) {
	w.mu.Lock()
	w.refused, w.deaf = refused, deaf
	var conns []*wireConn
	if cut {
		for c := range w.conns {
			conns = append(conns, c)
		}
	}
	w.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
	}
}

// trouble makes trouble of all kinds until stop is closed, and ends with none.
func (w *wire) trouble(stop <-chan struct{}, next func(int) int) {
	for {
		select {
		case <-stop:
			w.set(false, false, true)
			return
		case <-time.After(time.Duration(10+next(120)) * time.Millisecond):
		}
		switch next(4) {
		case 0:
			w.set(false, false, true)
		case 1: // what is on its way to the cluster arrives, and nobody hears of it
			w.set(false, true, false)
			select { // longer than the writer has patience
			case <-stop:
			case <-time.After(time.Duration(next(2)*600) * time.Millisecond):
			}
		case 2:
			w.set(true, false, true)
		case 3:
			w.set(false, false, true)
		}
	}
}
