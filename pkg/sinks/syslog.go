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
	// syslogBatchRecords and syslogBatchBytes are what one Send should be given; it takes any
	// number.
	syslogBatchRecords = 1024
	syslogBatchBytes   = 1 << 20

	// maxDatagram is what fits into one datagram of UDP over IPv4.
	maxDatagram = 65507
	// minDatagram is the least that is tried where a datagram is too large.
	minDatagram = 1 << 10

	// syslogSendBuffer bounds what the kernel holds of what was written: so much less is in
	// doubt when a connection breaks.
	syslogSendBuffer = 256 << 10

	// syslogTail and syslogTailAge bound what is written again to the next connection when one
	// breaks. On Linux a server has at most 6 MiB waiting to be read, by default. The age is
	// more than syslogUserTimeout: what is older has been acknowledged by the server's TCP, and
	// the server had time to read it.
	syslogTail    = 8 << 20
	syslogTailAge = time.Minute

	// syslogUserTimeout is how long written data may stay unacknowledged before the connection
	// counts as broken.
	syslogUserTimeout = 30 * time.Second

	// A server that refuses a client (by its address, or in TLS 1.3 by its certificate) says so
	// a round trip after the connection was made. So long, at least and at most, is waited for
	// that.
	minSettle = 200 * time.Millisecond
	maxSettle = 2 * time.Second

	// syslogGoodbye is how long the end of a TLS connection may take.
	syslogGoodbye = 50 * time.Millisecond
)

// syslogSink sends messages of RFC 5424.
//
// The protocol has no acknowledgements, and what was written to a connection may be lost with it:
// the kernel of either side holds it, and the server has not read it. So the sink looks whether the
// connection is alive before and after each write, and keeps what it has written lately. When a
// connection turns out to be broken, that is written again, first of all, to the next.
type syslogSink struct {
	attempts
	scheme string
	// target is HOST:PORT, or the path of a socket.
	target string
	format *syslogFormat
	// nil: no TLS
	tls   *tls.Config
	conns *connections

	// busy guards what follows.
	busy mutex
	// conn is nil where there is none.
	conn *syslogConn

	// tail is what was written lately, the oldest first.
	tail      []syslogChunk
	tailBytes int
	// again is how many chunks of the tail, the last ones, are still to be written to conn.
	again int
	// sound says that the connection was alive when the sink was closed.
	sound bool
}

// syslogChunk is what one Send has written.
type syslogChunk struct {
	data    []byte
	written time.Time
}

func newSyslog(cfg config.Sink, opts Options) (Sink, error) {
	scheme, target, err := cfg.Syslog.Target()
	if err != nil {
		return nil, fmt.Errorf("syslog: address %w", err)
	}
	format, err := newSyslogFormat(cfg.Syslog, opts.Version)
	if err != nil {
		return nil, fmt.Errorf("syslog: %w", err)
	}
	s := &syslogSink{
		scheme: scheme,
		target: target,
		format: format,
		busy:   newMutex(),
	}
	timeout := timeoutOf(cfg)
	// Connecting gets a little less than the whole attempt: its own error says more than "not
	// written".
	s.conns = newConnections(timeout - timeout/8)
	s.attempts = attempts{name: "syslog: " + scheme + "://" + target, timeout: timeout, life: s.conns.lifetime}
	if scheme == config.SyslogOverTLS {
		s.explain = func(err error) error {
			if why := cfg.Syslog.TLS.Explain(err); why != "" {
				return fmt.Errorf("%s: %w", why, err)
			}
			return err
		}
		if s.tls, err = cfg.Syslog.TLS.ClientConfig(); err != nil {
			return nil, fmt.Errorf("syslog: %w", err)
		}
		host, _, _ := net.SplitHostPort(target)
		s.tls.ServerName = cmp.Or(s.tls.ServerName, host)
	}
	return s, nil
}

// MaxBatch returns what is written at once without being configured: one write of many messages
// costs little more than that of one.
func (s *syslogSink) MaxBatch() (records, bytes int) { return syslogBatchRecords, syslogBatchBytes }

// Send writes one message per record. nil means that all were written to a connection that the
// server had not closed by then, or, for a datagram, that the operating system has taken it.
func (s *syslogSink) Send(ctx context.Context, records []event.Record) error {
	if len(records) == 0 {
		return nil
	}
	return s.do(ctx, notWritten, func(attempt context.Context) error {
		if err := s.busy.lock(attempt); err != nil {
			return err
		}
		defer s.busy.unlock()
		return s.send(attempt, records)
	})
}

// Preview returns a message without its header and without its structured data, whole.
func (s *syslogSink) Preview(record event.Record) ([]byte, error) {
	e := fieldsOf(&record)
	if s.format.siem != nil {
		return s.format.siem.append(nil, &e, s.format.max), nil
	}
	return s.format.message(&e), nil
}

// Probe connects, with TLS where it is configured, and waits whether the server refuses the
// connection. It sends nothing. Of UDP it says no more than that the host has an address.
func (s *syslogSink) Probe(ctx context.Context) error {
	return s.do(ctx, notWritten, func(attempt context.Context) error {
		conn, err := s.connect(attempt)
		if err != nil {
			return err
		}
		defer conn.goodbye()
		defer interruptible(attempt, conn.wire.SetDeadline)()
		return conn.settle(attempt)
	})
}

// Close ends the connection and every call.
func (s *syslogSink) Close() error {
	select {
	case s.busy <- struct{}{}:
		defer s.busy.unlock()
		if s.conn != nil {
			s.sound = s.again == 0 && s.conn.look() == nil
			s.conn.goodbye()
			s.conn = nil
		}
	default: // somebody is at it
	}
	s.conns.close()
	return nil
}

// Inherit takes over the tail. The server may be about to refuse the connection of the sink before
// this one, or to end: what was written last is written once more.
func (s *syslogSink) Inherit(from Sink) bool {
	before, ok := from.(*syslogSink)
	if !ok {
		return false
	}
	// Close has ended what was running.
	limit, cancel := context.WithTimeout(context.Background(), before.timeout)
	defer cancel()
	if before.busy.lock(limit) != nil {
		return false
	}
	defer before.busy.unlock()
	if before.sound {
		before.prune(time.Now(), 0)
	}
	for _, chunk := range before.tail {
		if s.format.lf != before.format.lf {
			chunk.data = reframe(chunk.data, s.format.lf)
		}
		s.tail = append(s.tail, chunk)
		s.tailBytes += len(chunk.data)
	}
	before.tail, before.tailBytes = nil, 0
	return len(s.tail) > 0
}

// Flush writes what was inherited, unless a Send has done that.
func (s *syslogSink) Flush(ctx context.Context) error {
	return s.do(ctx, notWritten, func(attempt context.Context) error {
		if err := s.busy.lock(attempt); err != nil {
			return err
		}
		defer s.busy.unlock()
		return s.send(attempt, nil)
	})
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

// errAgain says that the connection is fine, but that there was no time left for the records of
// this Send.
var errAgain = because(ReasonTimeout, "what was written before the connection broke is being written again")

// write writes the records to s.conn. After an error other than errAgain, that is of no use any
// more.
func (s *syslogSink) write(ctx context.Context, records []event.Record, fresh bool) error {
	defer interruptible(ctx, s.conn.wire.SetDeadline)()
	if s.conn.datagrams {
		return s.writeDatagrams(records)
	}
	if err := s.writeTail(); err != nil {
		return err
	}
	data := s.format.stream(records)
	if len(data) > 0 {
		if _, err := s.conn.Write(data); err != nil {
			return s.conn.reason(err)
		}
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

// writeTail writes again what may have been lost with the connection before. It takes half of an
// attempt's time, and goes on with the next one: otherwise a slow connection would never come to
// the end.
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

// keep adds data to the tail, and removes what the server must have read by now: the connection is
// alive still.
func (s *syslogSink) keep(data []byte) {
	if len(data) == 0 {
		return
	}
	now := time.Now()
	s.tail = append(s.tail, syslogChunk{data: data, written: now})
	s.tailBytes += len(data)
	s.prune(now, 1)
}

// prune removes from the tail what the server must have read by now, but for so many chunks.
func (s *syslogSink) prune(now time.Time, left int) {
	gone := 0
	for gone < len(s.tail)-left && (s.tailBytes > syslogTail || now.Sub(s.tail[gone].written) > syslogTailAge) {
		s.tailBytes -= len(s.tail[gone].data)
		s.tail[gone] = syslogChunk{}
		gone++
	}
	s.tail = s.tail[gone:]
}

// writeDatagrams writes a datagram for each record. One that is too large for the system is cut
// further.
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

// reframe has the messages in data separated otherwise: by line feeds, or by their lengths.
func reframe(data []byte, lf bool) []byte {
	out := make([]byte, 0, len(data)+len(data)/8)
	for len(data) > 0 {
		var message []byte
		if lf {
			length, rest, _ := bytes.Cut(data, []byte(" "))
			n, _ := strconv.Atoi(string(length))
			message, data = rest[:n], rest[n:]
			out = append(append(out, message...), '\n')
		} else {
			message, data, _ = bytes.Cut(data, []byte("\n"))
			out = append(strconv.AppendInt(out, int64(len(message)), 10), ' ')
			out = append(out, message...)
		}
	}
	return out
}

// connect makes a connection.
func (s *syslogSink) connect(ctx context.Context) (*syslogConn, error) {
	start := time.Now()
	network := "tcp"
	switch s.scheme {
	case config.SyslogUDP:
		network = "udp"
	case config.SyslogUnix:
		network = "unixgram"
	}
	raw, err := s.conns.dial(ctx, network, s.target)
	// A stream listens there.
	if errors.Is(err, syscall.EPROTOTYPE) && network == "unixgram" {
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
	// Conn is what messages are written to: the TLS connection, or wire.
	net.Conn
	// wire is what is below Conn.
	wire *wire
	// datagrams says that each write is a message.
	datagrams bool
	// nameless says that there is TLS without a certificate of our own.
	nameless bool
	patience time.Duration
	// first is what the server sent first, which it should not.
	first [5]byte
	// sent is how much of first that is.
	sent int
}

// errServerClosed is the end of a connection that the server closed.
var errServerClosed = because(ReasonUnavailable, "the server closed the connection")

// look takes what the server has sent so far, and says why the connection is over; nil: it is not,
// as far as that is known here.
func (c *syslogConn) look() error {
	c.wire.nowait = true
	defer func() { c.wire.nowait = false }()
	return c.drain()
}

// settle is look for a new connection: it waits until the server must have refused it if it wants
// to.
func (c *syslogConn) settle(ctx context.Context) error {
	if c.datagrams {
		return c.look()
	}
	_ = c.SetReadDeadline(time.Now().Add(c.patience))
	defer func() { _ = c.SetReadDeadline(time.Time{}) }()
	// interruptible may have set its deadline before this one.
	if err := ctx.Err(); err != nil {
		return err
	}
	err := c.drain()
	if c.nameless && (errors.Is(err, errServerClosed) || errors.Is(err, syscall.ECONNRESET)) {
		return because(ReasonTLS, "%w after the handshake: it may want a certificate (tls.cert_file)", err)
	}
	if err == nil {
		err = ctx.Err() // the wait may have been cut short
	}
	return err
}

// drain reads until there is nothing more to read. Nothing is expected: a syslog server does not
// answer. But TLS has things of its own to send, and the end of a connection stands behind what was
// sent before.
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
	// That is an alert of TLS.
	if c.Conn == net.Conn(c.wire) && c.sent >= 3 && bytes.HasPrefix(c.first[:], []byte{0x15, 3}) {
		return because(ReasonTLS, "%w: it speaks TLS, so write tls:// in the address", err)
	}
	return err
}

// goodbye closes a connection at which nothing is written. TLS wants to inform the server; it does
// not get long for it.
func (c *syslogConn) goodbye() {
	c.wire.hasty = true
	_ = c.Close()
}

// wire is a connection whose Read can be kept from waiting.
type wire struct {
	net.Conn
	// nil: it cannot
	raw syscall.RawConn
	// nowait has Read take what is there, or fail with os.ErrDeadlineExceeded.
	nowait bool
	// hasty makes each deadline one of syslogGoodbye.
	hasty bool
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

// tune bounds what the kernel holds, and for how long. Where that fails, the connection works
// without.
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
