package web

import (
	"bytes"
	"crypto/sha256"
	"net"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// handshakeWait is how long a connection waits for its turn to compute.
const handshakeWait = 10 * time.Second

// Handshakes bounds how many TLS handshakes compute at a time, so that a thousand connections that
// come at once leave the processors to those who have work to do. One that waits for its client
// takes no turn. The newest goes first: who has just come is likely to wait still, and the last of
// a thousand is served as soon as the first.
type Handshakes struct {
	mu   sync.Mutex
	free int
	// the newest last
	waiting []chan struct{}
}

// NewHandshakes bounds them to a part of the processors.
func NewHandshakes() *Handshakes {
	const part = 2
	return &Handshakes{free: max(1, runtime.GOMAXPROCS(0)/part)}
}

// Listener returns a listener whose connections, which are to speak TLS, take turns. A Room has to
// be above it: what that closes does not wait any more.
func (h *Handshakes) Listener(l net.Listener) net.Listener { return &turnListener{l, h} }

type turnListener struct {
	net.Listener
	turns *Handshakes
}

// Accept implements net.Listener.
func (l *turnListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &turnConn{Conn: c, turns: l.turns, closed: make(chan struct{})}, nil
}

// take waits for a turn, and reports whether it is there.
func (h *Handshakes) take(closed <-chan struct{}, limit time.Duration) bool {
	h.mu.Lock()
	if h.free > 0 {
		h.free--
		h.mu.Unlock()
		return true
	}
	turn := make(chan struct{})
	h.waiting = append(h.waiting, turn)
	h.mu.Unlock()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-turn:
		return true
	case <-closed:
	case <-timer.C:
	}
	h.mu.Lock()
	i := slices.Index(h.waiting, turn)
	if i >= 0 {
		h.waiting = slices.Delete(h.waiting, i, i+1)
	}
	h.mu.Unlock()
	if i < 0 { // it has come in this moment
		h.leave()
	}
	return false
}

// leave gives the turn to the newest who waits.
func (h *Handshakes) leave() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if last := len(h.waiting) - 1; last >= 0 {
		close(h.waiting[last])
		h.waiting = h.waiting[:last]
		return
	}
	h.free++
}

// turnConn is below a TLS connection. What costs is done between a message of the client and the
// answer that has the server's key share and signature: it has a turn from the end of a read to the
// next call, until that answer is written.
type turnConn struct {
	net.Conn
	turns *Handshakes
	// it has a turn
	mine   atomic.Bool
	done   atomic.Bool
	closed chan struct{}
	once   sync.Once
}

// Read implements net.Conn.
func (c *turnConn) Read(p []byte) (int, error) {
	c.leave()
	n, err := c.Conn.Read(p)
	if n > 0 && !c.done.Load() {
		if !c.turns.take(c.closed, handshakeWait) {
			return 0, os.ErrDeadlineExceeded
		}
		c.mine.Store(true)
	}
	return n, err
}

// Write implements net.Conn.
func (c *turnConn) Write(p []byte) (int, error) {
	c.leave()
	if isHello(p) {
		c.done.Store(true)
	}
	return c.Conn.Write(p)
}

// Close implements net.Conn.
func (c *turnConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	c.leave()
	return c.Conn.Close()
}

func (c *turnConn) leave() {
	if c.mine.Swap(false) {
		c.turns.leave()
	}
}

// isHello reports whether a server says its hello, and does not ask for another one of the client
// (RFC 8446, 4.1.3): a handshake message in a record, whose random may have that meaning.
func isHello(p []byte) bool {
	const record, header, version = 5, 4, 2
	const handshake, serverHello, at = 22, 2, record + header + version
	random := sha256.Sum256([]byte("HelloRetryRequest"))
	return len(p) >= at+len(random) && p[0] == handshake && p[record] == serverHello &&
		!bytes.Equal(p[at:at+len(random)], random[:])
}
