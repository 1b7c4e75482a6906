package hmcsim

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-stomp/stomp/v3/frame"
	"go.uber.org/zap"
)

// lingerTime is how long a connection is read on after the broker has said its last word, so that
// the word arrives.
const lingerTime = 2 * time.Second

// link is one connection. Its reader (run) handles frames, its writer sends what waits; nothing
// else touches the socket but to close it. Locks: Broker.mu before link.mu, never the other way.
type link struct {
	b    *Broker
	no   int
	raw  net.Conn
	conn net.Conn // raw, or TLS over it
	read atomic.Int64
	done chan struct{} // closed by abort
	wake chan struct{} // tells the writer that there is something to do

	subs []*subscription // guarded by Broker.mu

	mu        sync.Mutex
	faults    []Fault
	armed     []armedFault
	timers    []*time.Timer // of faults and of the read check
	version   string        // "" before CONNECTED
	hbWrite   time.Duration // how often to send, 0: never
	pending   []byte        // whole frames, waiting for the writer
	spare     []byte
	stream    io.Reader // written after what is pending; of oversize faults
	flood     *floodSource
	messages  int64 // MESSAGE frames sent
	drip      time.Duration
	silent    bool // no MESSAGE any more
	dead      bool // nothing any more
	closing   bool // close when all is written
	ended     bool // aborted
	isLink    bool // counted in stats.links
	endReason string
}

type armedFault struct {
	fault Fault
	at    int64 // happens when messages reaches it
}

func newLink(b *Broker, raw net.Conn, no int, faults []Fault) *link {
	return &link{
		b: b, no: no, raw: raw, conn: raw, faults: faults,
		done: make(chan struct{}), wake: make(chan struct{}, 1),
	}
}

// fault returns the link's fault of the given kind.
func (l *link) fault(kind FaultKind) (Fault, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range l.faults {
		if f.Kind == kind {
			return f, true
		}
	}
	return Fault{}, false
}

// refuses returns the fault that refuses a topic, if there is one.
func (l *link) refuses(topicName string) (Fault, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range l.faults {
		if f.Kind == FaultRefuseTopic && strings.Contains(topicName, f.Topic) {
			return f, true
		}
	}
	return Fault{}, false
}

// run is the reader: it owns the connection from the accept to the end.
func (l *link) run() {
	var writer sync.WaitGroup
	defer func() {
		l.abort("ended")
		writer.Wait()
		l.b.remove(l)
		l.b.log.Debug("connection ended", zap.Int("link", l.no), zap.String("reason", l.endReason))
	}()
	if _, ok := l.fault(FaultClose); ok {
		return
	}
	if _, ok := l.fault(FaultReset); ok {
		if tcp, ok := l.raw.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		return
	}
	if _, ok := l.fault(FaultHangTLS); ok && l.b.tls != nil {
		_, _ = io.Copy(io.Discard, l.raw) // until the client or the broker ends it
		return
	}
	if err := l.raw.SetReadDeadline(time.Now().Add(l.b.opts.ConnectTimeout)); err != nil {
		return
	}
	if l.b.tls != nil {
		tlsConn := tls.Server(l.raw, l.b.tls)
		// ends by the deadline or abort
		if err := tlsConn.HandshakeContext(context.Background()); err != nil {
			l.abort("TLS: " + err.Error())
			return
		}
		l.b.stats.handshakes.Add(1)
		l.mu.Lock()
		l.conn = tlsConn
		l.mu.Unlock()
	}
	writer.Go(l.writeLoop)
	l.abort(l.readLoop().Error())
}

// readLoop handles the client's frames until the connection ends, and says why it did.
func (l *link) readLoop() error {
	r := newFrameReader(bufio.NewReaderSize(countingReader{l.conn, &l.read}, maxHeaderLine+1024))
	version, login := "", ""
	for {
		f, err := r.read(version)
		if l.isDead() && err == nil {
			// for a half-open connection nobody handles what the client says
			_, _ = io.Copy(io.Discard, l.conn)
			return errors.New("half-open until its end")
		}
		var protocol *protocolError
		switch {
		case errors.As(err, &protocol):
			return l.fatal(protocol.msg, "")
		case err != nil:
			if version == "" && errors.Is(err, os.ErrDeadlineExceeded) {
				l.b.stats.connectTimeout.Add(1)
				return errors.New("no CONNECT")
			}
			return err
		case f == nil:
			continue
		case f.Command == frame.CONNECT || f.Command == frame.STOMP:
			if version != "" {
				l.protocolError("Already connected.", f)
				continue
			}
			if version, err = l.connect(f); err != nil {
				l.closeAfterFlush(err.Error())
				return l.linger()
			}
			login = f.Header.Get(frame.Login)
		case !knownCommand(f.Command):
			return l.fatal("Unknown STOMP action: "+f.Command, f.Header.Get(frame.Receipt))
		case version == "":
			l.protocolError("Not connected.", f)
		case f.Command == frame.SUBSCRIBE:
			l.subscribe(f)
		case f.Command == frame.UNSUBSCRIBE:
			l.unsubscribe(f)
		case f.Command == frame.DISCONNECT:
			l.b.stats.disconnects.Add(1)
			l.sendReceipt(f.Header.Get(frame.Receipt))
			l.closeAfterFlush("DISCONNECT")
			return l.linger()
		case f.Command == frame.SEND:
			// IBM's documentation says that the HMC refuses it, not how; this is the
			// answer of an ActiveMQ that does not authorize the user to write.
			msg := "User " + login + " is not authorized to write to: " + destinationURI(
				f.Header.Get(frame.Destination),
			)
			l.sendError(msg, msg, f.Header.Get(frame.Receipt))
		case f.Command == frame.ACK || f.Command == frame.NACK:
			l.protocolError("Unexpected "+f.Command+" received for message-id ["+f.Header.Get(frame.MessageId)+"]", f)
		default: // BEGIN, COMMIT, ABORT: transactions of a client that cannot send are empty
			l.sendReceipt(f.Header.Get(frame.Receipt))
		}
	}
}

// knownCommand says whether a client may send a command.
func knownCommand(command string) bool {
	switch command {
	case frame.CONNECT, frame.STOMP, frame.SEND, frame.SUBSCRIBE, frame.UNSUBSCRIBE, frame.ACK, frame.NACK,
		frame.BEGIN, frame.COMMIT, frame.ABORT, frame.DISCONNECT:
		return true
	default:
		return false
	}
}

// fatal answers by an ERROR and the end of the connection.
func (l *link) fatal(msg, receipt string) error {
	l.sendError(msg, javaTrace("org.apache.activemq.transport.stomp.ProtocolException: "+msg), receipt)
	l.closeAfterFlush(msg)
	return l.linger()
}

// linger reads on until the client has closed too, so that closing does not destroy what it has not
// read yet.
func (l *link) linger() error {
	_ = l.conn.SetReadDeadline(time.Now().Add(lingerTime))
	_, _ = io.Copy(io.Discard, l.conn)
	return errors.New("closed by the broker")
}

// connect answers CONNECT. An error means that the connection must end after what was sent.
func (l *link) connect(f *frame.Frame) (version string, err error) {
	if _, ok := l.fault(FaultHangConnect); ok {
		_ = l.raw.SetReadDeadline(time.Time{})
		_, err := io.Copy(io.Discard, l.conn)
		return "", fmt.Errorf("hung: %w", err)
	}
	if f, ok := l.fault(FaultEarlyEOLs); ok {
		l.send(slices.Repeat([]byte{'\n'}, f.size()))
	}
	receipt := f.Header.Get(frame.Receipt)
	refuse := func(msg, body string) (string, error) {
		l.sendError(msg, body, receipt)
		return "", errors.New(msg)
	}
	accept, ok := f.Header.Contains(frame.AcceptVersion)
	if !ok {
		accept = version10
	}
	for v := range strings.SplitSeq(strings.TrimSpace(accept), ",") {
		if (v == version10 || v == version11 || v == version12) && v > version {
			version = v
		}
	}
	if version == "" {
		msg := "Invalid Protocol version[" + accept + "], supported versions are: [1.2, 1.1, 1.0]"
		return refuse(msg, javaTrace("org.apache.activemq.transport.stomp.ProtocolException: "+msg))
	}
	clientSends, clientWants, err := heartBeat(f.Header.Get(frame.HeartBeat))
	if err != nil {
		msg := "Invalid heart-beat header:" + f.Header.Get(frame.HeartBeat)
		return refuse(msg, javaTrace("org.apache.activemq.transport.stomp.ProtocolException: "+msg))
	}
	login := f.Header.Get(frame.Login)
	refusal, bad := l.fault(FaultBadLogin)
	if bad || !l.b.opts.Authenticate(login, f.Header.Get(frame.Passcode)) {
		l.b.stats.refusedLogons.Add(1)
		msg := cmp.Or(refusal.Message, "User name ["+login+"] or password is invalid.")
		return refuse(msg, msg)
	}
	if _, ok := l.fault(FaultNoHeartBeat); ok {
		clientSends, clientWants = 0, 0
	}
	if err := l.raw.SetReadDeadline(time.Time{}); err != nil {
		return "", err
	}
	headers := []Header{
		{"server", l.b.opts.Server},
		// mirrored, whatever it is
		{"heart-beat", strconv.Itoa(clientWants) + "," + strconv.Itoa(clientSends)},
		{"session", l.sessionID()},
		{"version", version},
	}
	if receipt != "" {
		headers = append(headers, Header{"response-id", receipt}, Header{"receipt-id", receipt})
	}
	l.mu.Lock()
	l.version = version
	l.hbWrite = time.Duration(clientWants) * time.Millisecond
	l.isLink = !l.ended
	if l.isLink {
		l.b.stats.links.Add(1)
	}
	l.mu.Unlock()
	l.b.stats.logons.Add(1)
	l.send(appendFrame(nil, frame.CONNECTED, headers, nil, false)) // CONNECTED is never escaped
	l.startReadCheck(time.Duration(clientSends) * time.Millisecond)
	l.mu.Lock()
	faults := l.faults
	l.mu.Unlock()
	l.arm(faults)
	return version, nil
}

func (l *link) sessionID() string {
	return "ID:" + l.b.opts.HostName + "-42915-" + strconv.FormatInt(
		l.b.started.UnixMilli(),
		10,
	) + "-4:" + strconv.Itoa(
		l.no,
	)
}

// startReadCheck closes the connection, without an ERROR, when two checks in a row saw nothing from
// the client, as ActiveMQ's inactivity monitor does. interval 0: the client promised nothing.
func (l *link) startReadCheck(interval time.Duration) {
	if interval <= 0 {
		return
	}
	last, quiet := l.read.Load(), false
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return
	}
	var timer *time.Timer
	check := func() {
		now := l.read.Load()
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.ended || l.dead || l.closing {
			return
		}
		if now != last {
			last, quiet = now, false
		} else if quiet {
			l.b.stats.heartBeatLost.Add(1)
			l.abortLocked("no heart-beats from the client")
			return
		} else {
			quiet = true
		}
		timer.Reset(interval)
	}
	timer = time.AfterFunc(interval, check)
	l.timers = append(l.timers, timer)
}

func (l *link) subscribe(f *frame.Frame) {
	id, ok := f.Header.Contains(frame.Id)
	if !ok && l.escapes() {
		l.protocolError("SUBSCRIBE received without a subscription id!", f)
		return
	}
	dest := f.Header.Get(frame.Destination)
	if dest == "" {
		l.protocolError("Invalid empty or 'null' Destination header", f)
		return
	}
	l.b.subscribe(l, id, dest, f.Header.Get(frame.Receipt))
}

func (l *link) unsubscribe(f *frame.Frame) {
	id, hasID := f.Header.Contains(frame.Id)
	dest, hasDest := f.Header.Contains(frame.Destination)
	switch {
	case !hasID && l.escapes():
		l.protocolError("UNSUBSCRIBE received without a subscription id!", f)
		return
	case !hasID && !hasDest:
		l.protocolError("Must specify the subscriptionId or the destination you are unsubscribing from", f)
		return
	}
	found := l.b.unsubscribe(l, func(s *subscription) bool {
		if hasID {
			return s.id == id && !s.replaced
		}
		return s.topic != nil && s.topic.name == topicOf(dest)
	})
	if !found {
		l.protocolError("No subscription matched.", f)
		return
	}
	l.sendReceipt(f.Header.Get(frame.Receipt))
}

// topicOf returns the topic's name of a destination, or "" if it is none.
func topicOf(destination string) string {
	name, ok := strings.CutPrefix(destination, "/topic/")
	if !ok {
		return ""
	}
	return name
}

// destinationURI is how ActiveMQ names a destination. What is no topic is a queue.
func destinationURI(destination string) string {
	if name := topicOf(destination); name != "" {
		return "topic://" + name
	}
	return "queue://" + strings.TrimPrefix(destination, "/queue/")
}

// protocolError answers a frame by an ERROR that leaves the connection open.
func (l *link) protocolError(msg string, f *frame.Frame) {
	l.sendError(
		msg, javaTrace("org.apache.activemq.transport.stomp.ProtocolException: "+msg), f.Header.Get(frame.Receipt),
	)
}

// javaTrace is the body of an ERROR frame of ActiveMQ.
func javaTrace(first string) string {
	return first + `
	at org.apache.activemq.transport.stomp.ProtocolConverter.onStompCommand(ProtocolConverter.java:300)
	at org.apache.activemq.transport.stomp.StompTransportFilter.onCommand(StompTransportFilter.java:85)
	at org.apache.activemq.transport.TransportSupport.doConsume(TransportSupport.java:83)
	at org.apache.activemq.transport.tcp.TcpTransport.doRun(TcpTransport.java:233)
	at org.apache.activemq.transport.tcp.TcpTransport.run(TcpTransport.java:215)
	at java.lang.Thread.run(Thread.java:822)
`
}

// escapes says whether header values are escaped: from STOMP 1.1 on, but not before CONNECTED.
func (l *link) escapes() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.version == version11 || l.version == version12
}

func (l *link) sendError(msg, body, receipt string) {
	headers := make([]Header, 0, 3)
	if receipt != "" {
		headers = append(headers, Header{"receipt-id", receipt})
	}
	headers = append(headers, Header{"content-type", "text/plain"}, Header{"message", msg})
	l.send(appendFrame(nil, frame.ERROR, headers, []byte(body), l.escapes()))
}

func (l *link) sendReceipt(receipt string) {
	if receipt == "" {
		return
	}
	if _, ok := l.fault(FaultNoReceipts); ok {
		return
	}
	l.send(appendFrame(nil, frame.RECEIPT, []Header{{"receipt-id", receipt}}, nil, l.escapes()))
}

// send queues bytes for the writer.
func (l *link) send(p []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sendLocked(p)
}

func (l *link) sendLocked(p []byte) {
	if l.ended || l.dead || l.closing {
		return
	}
	l.pending = append(l.pending, p...)
	l.wakeLocked()
}

func (l *link) wakeLocked() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// message queues a MESSAGE for a subscription. Broker.mu is held.
func (l *link) message(s *subscription, e *encoder) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended || l.closing {
		return
	}
	if l.dead || l.silent {
		l.b.stats.withheld.Add(1)
		return
	}
	head, tail := e.parts(l.version != version10)
	if len(l.pending)+len(head)+len(s.line)+len(tail) > l.b.opts.MaxPendingBytes {
		l.b.stats.overflows.Add(1)
		l.abortLocked("the client does not read")
		return
	}
	l.pending = append(l.pending, head...)
	l.pending = append(l.pending, s.line...)
	l.pending = append(l.pending, tail...)
	l.b.stats.delivered.Add(1)
	l.countMessagesLocked(1)
	l.wakeLocked()
}

func (l *link) countMessagesLocked(n int64) {
	l.messages += n
	if len(l.armed) == 0 {
		return
	}
	var due []Fault
	l.armed = slices.DeleteFunc(l.armed, func(a armedFault) bool {
		if l.messages < a.at {
			return false
		}
		due = append(due, a.fault)
		return true
	})
	for i := range due {
		l.happenLocked(&due[i])
	}
}

// addFaults gives faults to a link that is CONNECTED, and says whether it is.
func (l *link) addFaults(faults []Fault) bool {
	l.mu.Lock()
	if l.version == "" || l.ended || l.closing {
		l.mu.Unlock()
		return false
	}
	l.faults = append(slices.Clone(l.faults), faults...)
	l.mu.Unlock()
	l.arm(faults)
	return true
}

// arm makes the timed faults happen when they say.
func (l *link) arm(faults []Fault) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range faults {
		switch {
		case !f.timed() || l.ended:
		case f.AfterFrames > 0:
			l.armed = append(l.armed, armedFault{f, l.messages + int64(f.AfterFrames)})
		case f.After > 0:
			l.timers = append(l.timers, time.AfterFunc(f.After, func() {
				l.mu.Lock()
				defer l.mu.Unlock()
				l.happenLocked(&f)
			}))
		default:
			l.happenLocked(&f)
		}
	}
}

// happenLocked does what a timed fault says.
func (l *link) happenLocked(f *Fault) {
	if l.ended {
		return
	}
	l.b.log.Debug("fault", zap.Int("link", l.no), zap.String("fault", f.String()))
	// An oversize or truncated MESSAGE needs no subscription: a client that reads it must not
	// come so far as to look.
	messageHead := "MESSAGE\ndestination:/topic/fault\nsubscription:fault\nmessage-id:fault\n"
	switch f.Kind {
	case FaultDrop:
		l.closeAfterFlushLocked("fault " + f.String())
	case FaultTruncate:
		l.sendLocked([]byte(messageHead + "\n{\"change-reports\":[{\"old-status\":"))
		l.closeAfterFlushLocked("fault " + f.String())
	case FaultSilence:
		l.silent = true
	case FaultHalfOpen:
		l.dead = true
		l.pending, l.stream, l.flood = nil, nil, nil
	case FaultGarbage:
		l.sendLocked(garbage(f.size()))
	case FaultError:
		msg := f.Message
		if msg == "" {
			msg = "The broker is in trouble."
		}
		headers := []Header{{"content-type", "text/plain"}, {"message", msg}}
		l.sendLocked(
			appendFrame(
				nil, frame.ERROR, headers, []byte(javaTrace("java.io.IOException: "+msg)), l.version != version10,
			),
		)
		if f.Close {
			l.closeAfterFlushLocked("fault " + f.String())
		}
	case FaultOversizeHeader:
		l.stream = io.MultiReader(
			strings.NewReader(messageHead+"name:"), repeat('x', f.size()), strings.NewReader("\n\n{}\x00\n"),
		)
	case FaultOversizeBody:
		l.stream = io.MultiReader(
			strings.NewReader(messageHead+"\n\""), repeat('x', f.size()), strings.NewReader("\"\x00\n"),
		)
	case FaultDrip:
		l.drip = max(f.Interval, 0)
		if l.drip == 0 {
			l.drip = time.Millisecond
		}
	default:
	}
	l.wakeLocked()
}

// garbage returns bytes that are no frame: the first line is no command.
func garbage(n int) []byte {
	p := make([]byte, n)
	x := uint32(2463534242)
	for i := range p {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		p[i] = byte(x)
	}
	copy(p, "\x16\x03\x01GARBAGE")
	if n > 0 {
		p[n-1] = '\n'
	}
	return p
}

type repeatReader byte

func (r repeatReader) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(r)
	}
	return len(p), nil
}

func repeat(c byte, n int) io.Reader { return io.LimitReader(repeatReader(c), int64(n)) }

// closeAfterFlush ends the connection after what is pending has been written. Nothing can be queued
// any more.
func (l *link) closeAfterFlush(reason string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closeAfterFlushLocked(reason)
}

func (l *link) closeAfterFlushLocked(reason string) {
	if l.endReason == "" {
		l.endReason = reason
	}
	l.closing = true
	l.wakeLocked()
}

// hasEnded says whether the connection is cut, which its reader may still have to notice.
func (l *link) hasEnded() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ended
}

// abort cuts the connection at once.
func (l *link) abort(reason string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.abortLocked(reason)
}

func (l *link) abortLocked(reason string) {
	if l.ended {
		return
	}
	l.ended = true
	if l.endReason == "" {
		l.endReason = reason
	}
	for _, t := range l.timers {
		t.Stop()
	}
	l.timers, l.armed, l.pending, l.spare, l.stream, l.flood = nil, nil, nil, nil, nil, nil
	if l.isLink {
		l.b.stats.links.Add(-1)
	}
	close(l.done)
	_ = l.raw.Close()
}

// writeLoop is the writer: it sends what is pending, and a LF when nothing was sent since its last
// check.
func (l *link) writeLoop() {
	var (
		beat    *time.Ticker
		beats   <-chan time.Time
		written bool // since the last check
	)
	defer func() {
		if beat != nil {
			beat.Stop()
		}
	}()
	for {
		l.mu.Lock()
		if beat == nil && l.hbWrite > 0 {
			beat = time.NewTicker(l.hbWrite)
			beats = beat.C
		}
		buf, stream, flood, drip, closing := l.pending, l.stream, l.flood, l.drip, l.closing
		l.pending, l.spare, l.stream = l.spare, nil, nil
		l.mu.Unlock()

		var err error
		switch {
		case len(buf) > 0:
			err = l.write(buf, drip)
			written = true
			if cap(buf) <= 1<<20 {
				l.mu.Lock()
				l.spare = buf[:0]
				l.mu.Unlock()
			}
			if err == nil && stream != nil {
				_, err = io.Copy(writerOnly{l.conn}, stream)
			}
		case stream != nil:
			_, err = io.Copy(writerOnly{l.conn}, stream)
			written = true
		case closing:
			l.closeWrite()
			return
		case flood != nil:
			err = flood.writeBlock(l)
			written = true
		default:
			select {
			case <-l.wake:
			case <-l.done:
				return
			case <-beats:
				if !written && !l.isDead() {
					err = l.write([]byte{'\n'}, drip)
				}
				written = false
			}
		}
		if err != nil {
			l.abort("write: " + err.Error())
			return
		}
	}
}

// writerOnly hides ReadFrom, which would take the stream in one go.
type writerOnly struct{ io.Writer }

func (l *link) isDead() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dead
}

// write writes p, or with drip one byte at a time.
func (l *link) write(p []byte, drip time.Duration) error {
	if drip == 0 {
		_, err := l.conn.Write(p)
		return err
	}
	timer := time.NewTimer(drip)
	defer timer.Stop()
	for i := range p {
		if _, err := l.conn.Write(p[i : i+1]); err != nil {
			return err
		}
		select {
		case <-timer.C:
			timer.Reset(drip)
		case <-l.done:
			return net.ErrClosed
		}
	}
	return nil
}

// closeWrite says the last word. The reader ends the connection when the client has answered by
// closing, or after a little while.
func (l *link) closeWrite() {
	_ = l.conn.SetReadDeadline(time.Now().Add(lingerTime))
	if c, ok := l.conn.(*tls.Conn); ok {
		_ = c.CloseWrite()
	}
	if tcp, ok := l.raw.(*net.TCPConn); ok {
		_ = tcp.CloseWrite()
	}
}

// countingReader counts what is read, for the read check.
type countingReader struct {
	r io.Reader
	n *atomic.Int64
}

func (c countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n.Add(int64(n))
	return n, err
}
