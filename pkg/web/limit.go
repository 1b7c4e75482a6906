package web

import (
	"cmp"
	"context"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

const (
	// MaxConnections is how many connections the web side serves at a time.
	MaxConnections = 512
	// MaxHeader is how much of a request's header is read, in bytes.
	MaxHeader = 32 << 10
	// MaxBody is how much of a request's body is read: no request here needs one.
	MaxBody = 64 << 10
	// MaxStreams is how many requests an HTTP/2 connection may have under way.
	MaxStreams = 16
	// WriteTimeout is how long a client may take to read an answer, or a part of one that
	// lasts.
	WriteTimeout = 30 * time.Second

	// newFor is how long a connection does not give way, and giveWayPerSecond how many do that:
	// so each has half a second to be served, however many come.
	newFor           = 500 * time.Millisecond
	giveWayPerSecond = MaxConnections * int(time.Second/newFor)
	giveWayAtOnce    = 32

	// largeAnswers is how many answers that take memory are made and written at a time.
	largeAnswers = 4
	// largeTime is how long one of them keeps its place where another one wants it, and
	// largeWait how long that waits.
	largeTime = time.Second
	largeWait = 10 * time.Second

	// writePiece is how much is written before it counts as a sign of life.
	writePiece = 64 << 10
)

// Room holds the connections of listeners, a bounded number. Where it is full, the connection over
// which nothing has gone for longest gives way to the new one, whoever has it: somebody who holds
// all places shuts nobody out, not even from his own address. Only where all are new the first of
// them goes.
type Room struct {
	places int
	newFor time.Duration
	since  time.Time
	pace   *rate.Limiter

	mu    sync.Mutex
	conns map[*roomConn]struct{}
}

// NewRoom makes a room.
func NewRoom(places int) *Room {
	return &Room{
		places: places, newFor: newFor, since: time.Now(), conns: make(map[*roomConn]struct{}),
		pace: rate.NewLimiter(rate.Limit(giveWayPerSecond), giveWayAtOnce),
	}
}

// Listener returns a listener whose connections take one place each.
func (r *Room) Listener(l net.Listener) net.Listener { return &roomListener{l, r} }

type roomListener struct {
	net.Listener
	room *Room
}

// Accept implements net.Listener.
func (l *roomListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	conn := &roomConn{Conn: c, room: l.room, came: time.Since(l.room.since)}
	conn.touch()
	if gives := l.room.enter(conn); gives != nil {
		go func() { _ = gives.Close() }()          // it waits for who reads or writes, and others wait to be accepted
		_ = l.room.pace.Wait(context.Background()) // nothing ends it
	}
	return conn, nil
}

// enter takes a place and returns who has to give it up; nil: nobody.
func (r *Room) enter(c *roomConn) (gives *roomConn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.conns) >= r.places {
		var quiet, first *roomConn
		for other := range r.conns {
			if first == nil || other.came < first.came {
				first = other
			}
			if c.came-other.came >= r.newFor && (quiet == nil || other.moved.Load() < quiet.moved.Load()) {
				quiet = other
			}
		}
		gives = cmp.Or(quiet, first)
		delete(r.conns, gives)
	}
	r.conns[c] = struct{}{}
	return gives
}

// roomConn is a connection with a place.
type roomConn struct {
	net.Conn
	room *Room
	// came is when it was accepted, since the room was made.
	came time.Duration
	// moved is when something last went over it, in nanoseconds since the room was made.
	moved atomic.Int64
}

func (c *roomConn) touch() { c.moved.Store(int64(time.Since(c.room.since))) }

// Read implements net.Conn.
func (c *roomConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.touch()
	}
	return n, err
}

// Write implements net.Conn.
func (c *roomConn) Write(p []byte) (written int, err error) {
	for piece := range slices.Chunk(p, writePiece) {
		n, err := c.Conn.Write(piece)
		written += n
		if err != nil {
			return written, err
		}
		c.touch()
	}
	return written, nil
}

// Close implements net.Conn.
func (c *roomConn) Close() error {
	c.room.mu.Lock()
	delete(c.room.conns, c)
	c.room.mu.Unlock()
	return c.Conn.Close()
}

// desk serves answers that take memory, a few at a time. One that its client does not read gives
// its place to the next.
type desk struct {
	mu sync.Mutex
	// the one that came first, first
	served []*served
	// holds a token when a place may be free
	left chan struct{}
}

type served struct {
	control *http.ResponseController
	since   time.Time
	cut     bool // it has had its time, and somebody waits for its place
}

func newDesk() *desk { return &desk{left: make(chan struct{}, 1)} }

// serving returns next with a place at the desk, or 503.
func (d *desk) serving(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := &served{control: http.NewResponseController(w)}
		if !d.take(r.Context(), s) {
			w.Header().Set("Retry-After", "5")
			http.Error(w, "too many large answers are under way", http.StatusServiceUnavailable)
			return
		}
		defer d.leave(s)
		next.ServeHTTP(w, r)
	})
}

func (d *desk) take(ctx context.Context, s *served) bool {
	ctx, cancel := context.WithTimeout(ctx, largeWait)
	defer cancel()
	for {
		wait := d.tryTake(s)
		if wait <= 0 {
			return true
		}
		timer := time.NewTimer(wait)
		select {
		case <-d.left:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return false
		}
	}
}

// tryTake takes a place, or says how long to wait for one.
func (d *desk) tryTake(s *served) (wait time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.served) >= largeAnswers {
		for _, first := range d.served {
			if first.cut {
				continue // it is about to leave
			}
			if left := largeTime - time.Since(first.since); left > 0 {
				return left
			}
			first.cut = true
			_ = first.control.SetWriteDeadline(time.Now()) // what it still writes fails
			break
		}
		return largeTime // or until one has left: there are never more than that
	}
	s.since = time.Now()
	d.served = append(d.served, s)
	return 0
}

func (d *desk) leave(s *served) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if i := slices.Index(d.served, s); i >= 0 {
		d.served = slices.Delete(d.served, i, i+1)
	}
	select {
	case d.left <- struct{}{}:
	default:
	}
}

// shared makes something for all who ask: one at a time, and never one that was begun before it was
// asked for. A thousand who ask at once cost no more than two.
type shared[T any] struct {
	mu sync.Mutex
	// nil: nothing is under way
	last *made[T]
}

type made[T any] struct {
	begun bool
	done  chan struct{}
	value T
}

func (s *shared[T]) get(how func() T) T {
	s.mu.Lock()
	before, m := s.last, s.last
	if m != nil && !m.begun {
		s.mu.Unlock()
		<-m.done
		return m.value
	}
	m = &made[T]{done: make(chan struct{})}
	s.last = m
	s.mu.Unlock()
	if before != nil {
		<-before.done
	}
	s.mu.Lock()
	m.begun = true
	s.mu.Unlock()
	defer func() {
		close(m.done)
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.last == m {
			s.last = nil
		}
	}()
	m.value = how()
	return m.value
}

// sharing makes a function's result shared.
func sharing[T any](how func() (T, error)) func() (T, error) {
	type result struct {
		value T
		err   error
	}
	var all shared[result]
	return func() (T, error) {
		r := all.get(func() (r result) {
			r.value, r.err = how()
			return r
		})
		return r.value, r.err
	}
}

// pace allows so many in each second.
type pace struct {
	mu sync.Mutex
	// of those allowed last, the next to be replaced
	last [changesPerSecond]time.Time
	next int
}

func (p *pace) allows(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	at := &p.last[p.next]
	if now.Sub(*at) < time.Second {
		return false
	}
	*at, p.next = now, (p.next+1)%len(p.last)
	return true
}
