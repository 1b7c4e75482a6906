package sinks

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

const (
	// syslogBatchRecords and syslogBatchBytes are what one Send should be given; it takes any number.
	syslogBatchRecords = 1024
	syslogBatchBytes   = 1 << 20

	// maxDatagram is what fits into one datagram of UDP over IPv4.
	maxDatagram = 65507
	// minDatagram is the least that is tried where a datagram is too large.
	minDatagram = 1 << 10

	// syslogSendBuffer bounds what the kernel holds of what was written: so much less is in doubt when a connection breaks.
	syslogSendBuffer = 256 << 10

	// syslogTail and syslogTailAge bound what is written again to the next connection when one breaks. On Linux a server
	// has at most 6 MiB waiting to be read, unless told otherwise. The age is more than syslogUserTimeout: what is older
	// has been acknowledged by the server's TCP, and the server had time to read it.
	syslogTail    = 8 << 20
	syslogTailAge = time.Minute

	// syslogUserTimeout is how long written data may stay unacknowledged before the connection counts as broken.
	syslogUserTimeout = 30 * time.Second

	// A server that refuses a client (by its address, or in TLS 1.3 by its certificate) says so a round trip after the
	// connection was made. So long, at least and at most, is waited for that.
	minSettle = 50 * time.Millisecond
	maxSettle = 2 * time.Second

	// syslogGoodbye is how long the end of a TLS connection may take.
	syslogGoodbye = 50 * time.Millisecond
)

// syslogSink sends messages of RFC 5424.
//
// The protocol has no acknowledgements, and what was written to a connection may be lost with it: the kernel of either side
// holds it, and the server has not read it. So the sink looks whether the connection is alive before and after each write, and
// keeps what it has written lately. When a connection turns out to be broken, that is written again, first of all, to the next.
type syslogSink struct {
	address string // for errors
	scheme  string
	target  string // HOST:PORT, or the path of a socket
	format  *syslogFormat
	tls     *tls.Config // nil: no TLS
	explain func(error) string
	timeout time.Duration
	conns   *connections

	// busy holds one value while somebody sends: a mutex that can be waited for with a context. It guards what follows.
	busy chan struct{}
	conn *syslogConn // nil: there is none

	tail      []syslogChunk // what was written lately, the oldest first
	tailBytes int
	again     int // how many chunks of the tail, the last ones, are still to be written to conn
}

// syslogChunk is what one Send has written.
type syslogChunk struct {
	data    []byte
	written time.Time
}

func newSyslog(cfg config.Sink, _ Options) (Sink, error) {
	scheme, target, err := cfg.Syslog.Target()
	if err != nil {
		return nil, fmt.Errorf("syslog: address %w", err)
	}
	format, err := newSyslogFormat(cfg.Syslog)
	if err != nil {
		return nil, fmt.Errorf("syslog: %w", err)
	}
	s := &syslogSink{
		address: scheme + "://" + target,
		scheme:  scheme,
		target:  target,
		format:  format,
		explain: cfg.Syslog.TLS.Explain,
		timeout: cmp.Or(max(cfg.Timeout, 0), defaultTimeout),
		busy:    make(chan struct{}, 1),
	}
	if scheme == config.SyslogOverTLS {
		if s.tls, err = cfg.Syslog.TLS.ClientConfig(); err != nil {
			return nil, fmt.Errorf("syslog: %w", err)
		}
		host, _, _ := net.SplitHostPort(target)
		s.tls.ServerName = cmp.Or(s.tls.ServerName, host)
	}
	// Connecting gets a little less than the whole attempt: its own error says more than "not written".
	s.conns = newConnections(s.timeout - s.timeout/8)
	return s, nil
}

// MaxBatch returns what is written at once without being configured: one write of many messages costs little more than
// that of one.
func (s *syslogSink) MaxBatch() (records, bytes int) { return syslogBatchRecords, syslogBatchBytes }

// Send writes one message per record. nil means that all were written to a connection that the server had not closed by
// then, or, for a datagram, that the operating system has taken it.
func (s *syslogSink) Send(ctx context.Context, records []event.Record) error {
	if len(records) == 0 {
		return nil
	}
	return s.attempt(ctx, func(attempt context.Context) error {
		if err := s.acquire(attempt); err != nil {
			return err
		}
		defer func() { <-s.busy }()
		return s.send(attempt, records)
	})
}

// Probe connects, with TLS where it is configured, and waits whether the server refuses the connection. It sends nothing.
// Of UDP it says no more than that the host has an address.
func (s *syslogSink) Probe(ctx context.Context) error {
	return s.attempt(ctx, func(attempt context.Context) error {
		conn, err := s.connect(attempt)
		if err != nil {
			return err
		}
		defer conn.goodbye()
		defer conn.interruptible(attempt)()
		return conn.settle(attempt)
	})
}

// Close ends the connection and every call.
func (s *syslogSink) Close() error {
	select {
	case s.busy <- struct{}{}:
		defer func() { <-s.busy }()
		if s.conn != nil {
			s.conn.goodbye()
			s.conn = nil
		}
	default: // somebody is at it
	}
	s.conns.close()
	return nil
}

// attempt calls do with a context that ends with ctx, after the timeout or with Close.
func (s *syslogSink) attempt(ctx context.Context, do func(context.Context) error) error {
	start := time.Now()
	attempt, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	defer context.AfterFunc(s.conns.life, cancel)() //nolint:contextcheck // both contexts end it

	err := do(attempt)
	switch {
	case err == nil:
		return nil
	case s.conns.closed():
		err = ErrClosed
	case attempt.Err() != nil:
		err = ended(ctx, attempt, "not written", start)
	default:
		if why := s.explain(err); s.tls != nil && why != "" {
			err = fmt.Errorf("%s: %w", why, err)
		}
	}
	return fmt.Errorf("syslog: %s: %w", s.address, err)
}

// acquire waits until nobody else sends.
func (s *syslogSink) acquire(ctx context.Context) error {
	select {
	case s.busy <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := ctx.Err(); err != nil { // select does not prefer
		<-s.busy
		return err
	}
	return nil
}

func (s *syslogSink) send(ctx context.Context, records []event.Record) error {
	if s.conn != nil && s.conn.look() != nil {
		s.drop()
	}
	fresh := s.conn == nil
	if fresh {
		conn, err := s.connect(ctx)
		if err != nil {
			return err
		}
		s.conn, s.again = conn, len(s.tail)
	}
	err := s.write(ctx, records, fresh)
	if err != nil && !errors.Is(err, errAgain) {
		s.drop()
	}
	return err
}

func (s *syslogSink) drop() {
	_ = s.conn.wire.Close()
	s.conn = nil
}

// errAgain says that the connection is fine, but that there was no time left for the records of this Send.
var errAgain = because(ReasonTimeout, errors.New("what was written before the connection broke is being written again"))

// write writes the records to s.conn. After an error other than errAgain, that is of no use any more.
func (s *syslogSink) write(ctx context.Context, records []event.Record, fresh bool) error {
	defer s.conn.interruptible(ctx)()
	if s.conn.datagrams {
		return s.writeDatagrams(records)
	}
	if err := s.writeTail(); err != nil {
		return err
	}
	data := s.format.stream(records)
	if _, err := s.conn.Write(data); err != nil {
		return s.conn.reason(err)
	}
	var err error
	if fresh {
		err = s.conn.settle(ctx)
	} else {
		err = s.conn.look()
	}
	if err != nil {
		return err
	}
	s.keep(data)
	return nil
}

// writeTail writes again what may have been lost with the connection before. It takes half of an attempt's time, and goes on
// with the next one: otherwise a slow connection would never come to the end.
func (s *syslogSink) writeTail() error {
	start := time.Now()
	for s.again > 0 {
		if time.Since(start) > s.timeout/2 {
			return errAgain
		}
		chunk := &s.tail[len(s.tail)-s.again]
		if _, err := s.conn.Write(chunk.data); err != nil {
			return s.conn.reason(err)
		}
		chunk.written = time.Now()
		s.again--
	}
	return nil
}

// keep adds data to the tail, and removes what the server must have read by now: the connection is alive still.
func (s *syslogSink) keep(data []byte) {
	now := time.Now()
	s.tail = append(s.tail, syslogChunk{data: data, written: now})
	s.tailBytes += len(data)
	gone := 0
	for gone < len(s.tail)-1 && (s.tailBytes > syslogTail || now.Sub(s.tail[gone].written) > syslogTailAge) {
		s.tailBytes -= len(s.tail[gone].data)
		s.tail[gone] = syslogChunk{}
		gone++
	}
	s.tail = s.tail[gone:]
}

// writeDatagrams writes a datagram for each record. One that is too large for the system is cut further.
func (s *syslogSink) writeDatagrams(records []event.Record) error {
	var buf []byte
	for i := range records {
		for limit := min(s.format.max, maxDatagram); ; limit /= 2 {
			buf = s.format.append(buf[:0], &records[i], limit)
			_, err := s.conn.Write(buf)
			if err == nil {
				break
			}
			if !errors.Is(err, syscall.EMSGSIZE) || limit/2 < minDatagram {
				return s.conn.reason(err)
			}
		}
	}
	return s.conn.look()
}

// stream returns the messages of the records with what separates them.
func (f *syslogFormat) stream(records []event.Record) []byte {
	size := 0
	for i := range records {
		size += min(len(records[i].JSON), f.max) + 512
	}
	data := make([]byte, 0, size)
	for i := range records {
		start := len(data)
		data = f.append(data, &records[i], f.max)
		if f.lf {
			data = append(data, '\n')
			continue
		}
		// The length goes in front, and is known only now.
		var length [16]byte
		prefix := append(strconv.AppendInt(length[:0], int64(len(data)-start), 10), ' ')
		data = append(data, prefix...)
		copy(data[start+len(prefix):], data[start:])
		copy(data[start:], prefix)
	}
	return data
}

// connect makes a connection.
func (s *syslogSink) connect(ctx context.Context) (*syslogConn, error) {
	start := time.Now()
	var (
		raw net.Conn
		err error
	)
	network := "tcp"
	switch s.scheme {
	case config.SyslogUDP:
		network = "udp"
	case config.SyslogUnix:
		network = "unixgram"
	}
	raw, err = s.conns.dial(ctx, network, s.target)
	if errors.Is(err, syscall.EPROTOTYPE) && network == "unixgram" { // a stream listens there
		network = "unix"
		raw, err = s.conns.dial(ctx, network, s.target)
	}
	if err != nil {
		return nil, err
	}
	w := newWire(raw)
	c := &syslogConn{Conn: w, wire: w, datagrams: network == "udp" || network == "unixgram"}
	if !c.datagrams {
		w.tune()
	}
	if s.tls != nil {
		conn := tls.Client(w, s.tls)
		if err := conn.HandshakeContext(ctx); err != nil {
			_ = w.Close()
			return nil, err
		}
		c.Conn, c.nameless = conn, len(s.tls.Certificates) == 0
	}
	// At least one round trip, more with TLS or a name to resolve.
	c.patience = min(max(2*time.Since(start), minSettle), maxSettle)
	return c, nil
}

// syslogConn is a connection to a syslog server.
type syslogConn struct {
	net.Conn        // what messages are written to: the TLS connection, or wire
	wire      *wire // what is below it
	datagrams bool  // each write is a message
	nameless  bool  // TLS without a certificate of our own
	patience  time.Duration
	first     [5]byte // what the server sent first, which it should not ...
	sent      int     // ... and how much, as far as that matters
}

// errServerClosed is the end of a connection that the server closed.
var errServerClosed = because(ReasonUnavailable, errors.New("the server closed the connection"))

// look takes what the server has sent so far, and says why the connection is over; nil: it is not, as far as that is known here.
func (c *syslogConn) look() error {
	c.wire.nowait = true
	defer func() { c.wire.nowait = false }()
	return c.drain()
}

// settle is look for a new connection: it waits until the server must have refused it if it wants to.
func (c *syslogConn) settle(ctx context.Context) error {
	if c.datagrams {
		return c.look()
	}
	_ = c.SetReadDeadline(time.Now().Add(c.patience))
	defer func() { _ = c.SetReadDeadline(time.Time{}) }()
	if err := ctx.Err(); err != nil { // interruptible may have set its deadline before this one
		return err
	}
	err := c.drain()
	if c.nameless && (errors.Is(err, errServerClosed) || errors.Is(err, syscall.ECONNRESET)) {
		return because(ReasonTLS, fmt.Errorf("%w after the handshake: it may want a certificate (tls.cert_file)", err))
	}
	if err == nil {
		err = ctx.Err() // the wait may have been cut short
	}
	return err
}

// drain reads until there is nothing more to read. Nothing is expected: a syslog server does not answer. But TLS has things
// of its own to tell, and the end of a connection stands behind what was sent before.
func (c *syslogConn) drain() error {
	const enough = 1 << 10
	var scratch [1024]byte
	for range enough {
		n, err := c.Read(scratch[:])
		if c.sent < len(c.first) {
			c.sent += copy(c.first[c.sent:], scratch[:n])
		}
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil
		case errors.Is(err, io.EOF) && !c.datagrams:
			return c.reason(errServerClosed)
		case err != nil && !errors.Is(err, io.EOF):
			return c.reason(err)
		}
	}
	return errors.New("the server sends and sends, which is not syslog")
}

// reason adds to an error what the server had to say about it.
func (c *syslogConn) reason(err error) error {
	if c.Conn == net.Conn(c.wire) && c.sent >= 3 && bytes.HasPrefix(c.first[:], []byte{0x15, 3}) { // an alert
		return because(ReasonTLS, fmt.Errorf("%w: it speaks TLS, so write tls:// in the address", err))
	}
	return err
}

// interruptible makes reads and writes fail when ctx ends. The function it returns ends that.
func (c *syslogConn) interruptible(ctx context.Context) func() {
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = c.wire.SetDeadline(time.Unix(1, 0))
		close(interrupted)
	})
	return func() {
		if !stop() {
			<-interrupted
			_ = c.wire.SetDeadline(time.Time{})
		}
	}
}

// goodbye closes a connection at which nothing is written. TLS wants to tell the server; it does not get long for it.
func (c *syslogConn) goodbye() {
	c.wire.hasty = true
	_ = c.Close()
}

// wire is a connection whose Read can be kept from waiting.
type wire struct {
	net.Conn
	raw    syscall.RawConn // nil: it cannot
	nowait bool            // Read takes what is there, else fails with os.ErrDeadlineExceeded
	hasty  bool            // deadlines are syslogGoodbye
}

func newWire(conn net.Conn) *wire {
	w := &wire{Conn: conn}
	if c, ok := inner(conn).(syscall.Conn); ok {
		w.raw, _ = c.SyscallConn()
	}
	return w
}

// inner returns the connection of package net in one that connections has dialed.
func inner(conn net.Conn) net.Conn {
	if c, ok := conn.(*connection); ok {
		return c.Conn
	}
	return conn
}

// tune bounds what the kernel holds, and for how long. Where that fails, the connection works without.
func (w *wire) tune() {
	switch c := inner(w.Conn).(type) {
	case *net.TCPConn:
		_ = c.SetWriteBuffer(syslogSendBuffer)
		setUserTimeout(w.raw, syslogUserTimeout)
	case *net.UnixConn:
		_ = c.SetWriteBuffer(syslogSendBuffer)
	}
}

// Read reads, without waiting where nowait is set.
func (w *wire) Read(p []byte) (int, error) {
	if !w.nowait {
		return w.Conn.Read(p)
	}
	if w.raw == nil {
		return 0, os.ErrDeadlineExceeded
	}
	return readNow(w.raw, p)
}

// SetWriteDeadline is that of the connection, unless there is no time for it.
func (w *wire) SetWriteDeadline(t time.Time) error {
	if w.hasty {
		t = time.Now().Add(syslogGoodbye)
	}
	return w.Conn.SetWriteDeadline(t)
}
