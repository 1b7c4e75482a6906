package histories_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// network is a network in memory, in which time is the bubble's: what is sent arrives after the delay of its
// place, and places can be cut off. Nothing in it ever waits for room: what would be held up by that is
// held up by a stall.
type network struct {
	mu     sync.Mutex
	places map[string]*place // by address, host:port
}

func newNetwork() *network { return &network{places: make(map[string]*place)} }

// place is where somebody listens, and all connections that were made to it.
type place struct {
	n       *network
	addr    string
	listens *listener // nil: nobody does

	refuses bool
	stalled chan struct{} // closed when nothing is held up any more; nil: nothing is
	delay   time.Duration
	pipes   map[*pipe]struct{}
}

// at returns a place.
func (n *network) at(addr string) *place {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.atLocked(addr)
}

func (n *network) atLocked(addr string) *place {
	p := n.places[addr]
	if p == nil {
		p = &place{n: n, addr: addr, pipes: make(map[*pipe]struct{})}
		n.places[addr] = p
	}
	return p
}

// cut ends all connections, as a network that fails: what is on its way is lost.
func (p *place) cut() {
	p.n.mu.Lock()
	pipes := make([]*pipe, 0, len(p.pipes))
	for c := range p.pipes {
		pipes = append(pipes, c)
	}
	clear(p.pipes)
	p.n.mu.Unlock()
	for _, c := range pipes {
		c.reset()
	}
}

// refuse ends all connections, and has none made until accept.
func (p *place) refuse(yes bool) {
	p.n.mu.Lock()
	p.refuses = yes
	p.n.mu.Unlock()
	if yes {
		p.cut()
	}
}

// stall holds up all that is on its way, and what tries to connect, until it is called with false.
func (p *place) stall(yes bool) {
	p.n.mu.Lock()
	defer p.n.mu.Unlock()
	switch {
	case yes && p.stalled == nil:
		p.stalled = make(chan struct{})
	case !yes && p.stalled != nil:
		close(p.stalled)
		p.stalled = nil
	}
	for c := range p.pipes {
		c.change(func() { c.stalled = yes })
	}
}

// slow sets how long everything takes on its way from now on.
func (p *place) slow(delay time.Duration) {
	p.n.mu.Lock()
	defer p.n.mu.Unlock()
	p.delay = delay
	for c := range p.pipes {
		c.change(func() { c.delay = delay })
	}
}

// state says how it stands with a place.
func (p *place) state() (delay time.Duration, stalled chan struct{}) {
	p.n.mu.Lock()
	defer p.n.mu.Unlock()
	return p.delay, p.stalled
}

// dialer returns a Dial for one client, which can be cut off from everything.
func (n *network) dialer() *client { return &client{n: n} }

// client is one who makes connections.
type client struct {
	n *network

	mu   sync.Mutex
	gone bool
	made []*pipe
}

// dial is as net.Dialer.DialContext.
func (c *client) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	p := c.n.at(addr)
	for {
		_, stalled := p.state()
		if stalled == nil {
			break
		}
		select {
		case <-ctx.Done():
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: ctx.Err()}
		case <-stalled:
		}
	}
	if delay, _ := p.state(); delay > 0 {
		select {
		case <-ctx.Done():
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: ctx.Err()}
		case <-time.After(2 * delay):
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	p.n.mu.Lock()
	defer p.n.mu.Unlock()
	if c.gone || p.refuses || p.listens == nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	}
	link := &pipe{p: p, delay: p.delay}
	link.cond = sync.NewCond(&link.mu)
	p.pipes[link] = struct{}{}
	c.made = append(c.made, link)
	p.listens.put(link)
	return &conn{pipe: link, side: 0}, nil
}

// die cuts a client off for good, as the end of its process does: its peers read what was on its way, and
// the end.
func (c *client) die() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gone = true
	for _, p := range c.made {
		p.close(0)
	}
	c.made = nil
}

// listener is a net.Listener.
type listener struct {
	p *place

	mu      sync.Mutex
	cond    *sync.Cond
	waiting []*pipe
	closed  bool
}

// listen listens at an address whose port is given.
func (n *network) listen(addr string) (net.Listener, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	p := n.atLocked(addr)
	if p.listens != nil {
		return nil, &net.OpError{Op: "listen", Net: "tcp", Err: syscall.EADDRINUSE}
	}
	l := &listener{p: p}
	l.cond = sync.NewCond(&l.mu)
	p.listens = l
	return l, nil
}

func (l *listener) put(c *pipe) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		c.close(1)
		return
	}
	l.waiting = append(l.waiting, c)
	l.cond.Signal()
}

func (l *listener) Accept() (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.waiting) == 0 && !l.closed {
		l.cond.Wait()
	}
	if l.closed {
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: net.ErrClosed}
	}
	c := l.waiting[0]
	l.waiting = l.waiting[1:]
	return &conn{pipe: c, side: 1}, nil
}

func (l *listener) Close() error {
	l.p.n.mu.Lock()
	if l.p.listens == l {
		l.p.listens = nil
	}
	l.p.n.mu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for _, c := range l.waiting {
		c.close(1)
	}
	l.waiting = nil
	l.cond.Broadcast()
	return nil
}

func (l *listener) Addr() net.Addr { return address(l.p.addr) }

type address string

func (address) Network() string  { return "tcp" }
func (a address) String() string { return string(a) }

// pipe is a connection, which has two sides: 0 has made it, 1 has accepted it.
type pipe struct {
	p *place

	mu      sync.Mutex
	cond    *sync.Cond
	sides   [2]side
	broken  bool
	stalled bool
	delay   time.Duration
}

// side is what one side has to read, and when its calls end.
type side struct {
	chunks      []chunk
	closed      bool // by its owner
	read, write deadline
	timer       *time.Timer // when the first chunk arrives
	timerAt     time.Time
}

type chunk struct {
	data []byte
	due  time.Time
}

type deadline struct {
	at    time.Time
	timer *time.Timer
}

// change changes something of the pipe.
func (c *pipe) change(do func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	do()
	c.cond.Broadcast()
}

func (c *pipe) wake() { c.change(func() {}) }

// reset ends the connection for both sides at once.
func (c *pipe) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.broken = true
	for i := range c.sides {
		c.sides[i].chunks = nil
		c.sides[i].stop()
	}
	c.cond.Broadcast()
}

func (s *side) stop() {
	for _, t := range []*time.Timer{s.timer, s.read.timer, s.write.timer} {
		if t != nil {
			t.Stop()
		}
	}
}

// close ends what one side does.
func (c *pipe) close(of int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sides[of].closed = true
	c.sides[of].chunks = nil
	c.sides[of].stop()
	c.cond.Broadcast()
}

// conn is one side of a pipe.
type conn struct {
	*pipe
	side int
}

func (c *conn) fails(op string, err error) error { return &net.OpError{Op: op, Net: "tcp", Err: err} }

func (c *conn) Read(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := &c.sides[c.side]
	for ; ; c.cond.Wait() {
		now := time.Now()
		switch {
		case s.closed:
			return 0, c.fails("read", net.ErrClosed)
		case c.broken:
			return 0, c.fails("read", syscall.ECONNRESET)
		case !s.read.at.IsZero() && !now.Before(s.read.at):
			return 0, c.fails("read", os.ErrDeadlineExceeded)
		case c.stalled:
		case len(s.chunks) == 0 && c.sides[1-c.side].closed:
			return 0, io.EOF
		case len(s.chunks) == 0:
		case !now.Before(s.chunks[0].due):
			first := &s.chunks[0]
			n := copy(b, first.data)
			if first.data = first.data[n:]; len(first.data) == 0 {
				s.chunks = s.chunks[1:]
			}
			return n, nil
		default:
			if due := s.chunks[0].due; !s.timerAt.Equal(due) {
				s.timerAt = due
				s.timer = time.AfterFunc(due.Sub(now), c.wake)
			}
		}
	}
}

func (c *conn) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	own, other := &c.sides[c.side], &c.sides[1-c.side]
	now := time.Now()
	switch {
	case own.closed:
		return 0, c.fails("write", net.ErrClosed)
	case c.broken:
		return 0, c.fails("write", syscall.ECONNRESET)
	case other.closed:
		return 0, c.fails("write", syscall.EPIPE)
	case !own.write.at.IsZero() && !now.Before(own.write.at):
		return 0, c.fails("write", os.ErrDeadlineExceeded)
	case len(b) == 0:
		return 0, nil
	}
	due := now.Add(c.delay)
	if n := len(other.chunks); n > 0 && other.chunks[n-1].due.After(due) {
		due = other.chunks[n-1].due // nothing overtakes
	}
	other.chunks = append(other.chunks, chunk{append([]byte(nil), b...), due})
	c.cond.Broadcast()
	return len(b), nil
}

func (c *conn) Close() error {
	c.close(c.side)
	c.p.n.mu.Lock()
	defer c.p.n.mu.Unlock()
	if c.bothClosed() {
		delete(c.p.pipes, c.pipe)
	}
	return nil
}

func (c *conn) bothClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sides[0].closed && c.sides[1].closed
}

func (c *conn) LocalAddr() net.Addr  { return address("127.0.0.1:1") }
func (c *conn) RemoteAddr() net.Addr { return address(c.p.addr) }

func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

func (c *conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.set(&c.sides[c.side].read, t)
	return nil
}

func (c *conn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	// Writes never wait.
	c.sides[c.side].write.at = t
	return nil
}

// set sets a deadline. c.mu is held.
func (c *conn) set(d *deadline, t time.Time) {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.at = t
	if !t.IsZero() && !c.sides[c.side].closed && !c.broken {
		d.timer = time.AfterFunc(time.Until(t), c.wake)
	}
	c.cond.Broadcast()
}
