package sinks

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/leodido/go-syslog/v4/rfc5424"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/certs"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/program"
)

// syslogConfig is a configuration with the defaults.
func syslogConfig(address, framing string, change ...func(*config.Syslog)) config.Sink {
	c := &config.Syslog{
		Address: address, Framing: framing, Facility: "local0", AppName: "hmcnotifyd", Hostname: "bridge.example.com",
		Format: config.FormatJSON, MaxSize: 64 << 10,
	}
	for _, f := range change {
		f(c)
	}
	return config.Sink{Name: "siem", Syslog: c, Timeout: patience}
}

func syslogTo(t testing.TB, cfg config.Sink) *syslogSink {
	t.Helper()
	s, err := New(cfg, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s.(*syslogSink)
}

// syslogServer reads what sinks send: it tells messages apart by itself, and has them parsed by a library that has nothing to
// do with ours.
type syslogServer struct {
	t       testing.TB
	network string
	framing string
	tls     *tls.Config
	address string

	listener io.Closer
	paused   atomic.Bool
	ended    chan struct{}
	wg       sync.WaitGroup

	mu       sync.Mutex
	conns    []net.Conn
	accepted int
	messages []syslogMessage
	errors   []error // of what is no message, or not a whole one
}

type syslogMessage struct {
	*rfc5424.SyslogMessage
	raw []byte
}

// text is the message without its header.
func (m syslogMessage) text() string {
	if m.Message == nil {
		return ""
	}
	return *m.Message
}

// param returns a parameter of the structured data.
func (m syslogMessage) param(name string) string {
	if m.StructuredData == nil {
		return ""
	}
	return (*m.StructuredData)[syslogSDID][name]
}

// newSyslogServer listens on network: tcp, tls, unix, udp or unixgram.
func newSyslogServer(t testing.TB, network, framing string, change ...func(*syslogServer)) *syslogServer {
	t.Helper()
	s := &syslogServer{t: t, network: network, framing: framing, address: network + "://"}
	for _, f := range change {
		f(s)
	}
	s.listen("")
	t.Cleanup(s.stop)
	return s
}

// listen starts to listen at an address of its own, or on the one given.
func (s *syslogServer) listen(at string) {
	s.t.Helper()
	s.ended = make(chan struct{})
	s.paused.Store(false)
	var (
		lc       net.ListenConfig
		listener net.Listener
		packets  net.PacketConn
		err      error
	)
	ctx := context.Background()
	switch s.network {
	case "tcp", "tls":
		// A window that is small, so that a server that does not read is noticed.
		lc.Control = func(_, _ string, c syscall.RawConn) error {
			return c.Control(func(fd uintptr) { _ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 64<<10) })
		}
		listener, err = lc.Listen(ctx, "tcp", cmp.Or(at, freeAddress(s.t)))
	case "unix":
		listener, err = lc.Listen(ctx, "unix", cmp.Or(at, socketPath(s.t)))
	case "udp":
		packets, err = lc.ListenPacket(ctx, "udp", cmp.Or(at, freeAddress(s.t)))
	case "unixgram":
		s.address = "unix://"
		packets, err = lc.ListenPacket(ctx, "unixgram", cmp.Or(at, socketPath(s.t)))
	}
	if err != nil {
		s.t.Fatal(err)
	}
	if packets != nil {
		if at == "" {
			s.address += packets.LocalAddr().String()
		}
		s.listener = packets
		s.wg.Go(func() { s.packets(packets) })
		return
	}
	if at == "" {
		s.address += listener.Addr().String()
	}
	s.listener = listener
	s.wg.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns = append(s.conns, conn)
			s.accepted++
			s.mu.Unlock()
			s.wg.Go(func() { s.stream(conn) })
		}
	})
}

// freeAddress returns an address that stays free while the server is down.
func freeAddress(t testing.TB) string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(program.FreePort(t)))
}

// socketPath returns a path that is short enough for a socket.
func socketPath(t testing.TB) string {
	dir, err := os.MkdirTemp("", "syslog") //nolint:usetesting // that of t.TempDir is too long
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "log")
}

// at is the address without the scheme.
func (s *syslogServer) at() string { return s.address[strings.Index(s.address, "://")+3:] }

func (s *syslogServer) stream(conn net.Conn) {
	defer conn.Close()
	var from io.Reader = &pausing{conn, s}
	if s.tls != nil {
		from = tls.Server(&pausing{conn, s}, s.tls)
	}
	r := bufio.NewReader(from)
	for {
		raw, err := s.next(r)
		if err != nil {
			if len(raw) > 0 {
				s.mu.Lock()
				s.errors = append(s.errors, fmt.Errorf("%w within %.200q", err, raw))
				s.mu.Unlock()
			}
			return
		}
		s.add(raw)
	}
}

// next reads one message, as RFC 6587 tells them apart.
func (s *syslogServer) next(r *bufio.Reader) ([]byte, error) {
	if s.framing == config.FramingLF {
		raw, err := r.ReadBytes('\n')
		return bytes.TrimSuffix(raw, []byte("\n")), err
	}
	length, err := r.ReadBytes(' ')
	if err != nil {
		return length, err
	}
	n, err := strconv.Atoi(string(length[:len(length)-1]))
	if err != nil || length[0] < '1' || length[0] > '9' || n > 32<<20 {
		return length, fmt.Errorf("not a length: %w", err)
	}
	raw := make([]byte, n)
	n, err = io.ReadFull(r, raw)
	if err != nil {
		return slices.Concat(length, raw[:n]), err
	}
	return raw, nil
}

// pausing is a connection that is not read from while the server pauses.
type pausing struct {
	net.Conn
	server *syslogServer
}

func (p *pausing) Read(b []byte) (int, error) {
	n, err := p.Conn.Read(b)
	if p.server.paused.Load() {
		<-p.server.ended
		return 0, io.EOF
	}
	return n, err
}

func (s *syslogServer) packets(conn net.PacketConn) {
	buf := make([]byte, 1<<18)
	for {
		n, _, err := conn.ReadFrom(buf)
		if err != nil {
			return
		}
		s.add(bytes.Clone(buf[:n]))
	}
}

func (s *syslogServer) add(raw []byte) {
	m, err := parseSyslog(raw)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.errors = append(s.errors, err)
		return
	}
	s.messages = append(s.messages, m)
}

func parseSyslog(raw []byte) (syslogMessage, error) {
	m, err := rfc5424.NewParser(rfc5424.WithCompliantMsg()).Parse(raw)
	if err != nil {
		return syslogMessage{}, fmt.Errorf("%w: %.1000q", err, raw)
	}
	return syslogMessage{m.(*rfc5424.SyslogMessage), raw}, nil
}

// received returns the messages so far.
func (s *syslogServer) received() []syslogMessage {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.messages)
}

// connections returns how many there have been.
func (s *syslogServer) connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.accepted
}

// broken returns what could not be parsed so far.
func (s *syslogServer) broken() []error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.errors)
}

// bodies returns the messages without their headers.
func (s *syslogServer) bodies() []json.RawMessage {
	all := []json.RawMessage{}
	for _, m := range s.received() {
		all = append(all, json.RawMessage(m.text()))
	}
	return all
}

// ids returns how often each event has arrived.
func (s *syslogServer) ids() map[string]int {
	all := make(map[string]int)
	for _, m := range s.received() {
		all[m.param("id")]++
	}
	return all
}

// restart ends the server, with what it has not read, and starts it again at the same address.
func (s *syslogServer) restart() {
	at := s.at()
	s.stop()
	s.listen(at)
}

// pause stops reading.
func (s *syslogServer) pause() {
	s.paused.Store(true)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		_ = c.SetReadDeadline(time.Unix(1, 0))
	}
}

// hangUp closes the connections: with what was not read by a reset, as the kernel does it.
func (s *syslogServer) hangUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		_ = c.Close()
	}
	s.conns = nil
}

func (s *syslogServer) stop() {
	if s.listener == nil {
		return
	}
	_ = s.listener.Close()
	s.listener = nil
	close(s.ended)
	s.hangUp()
	s.wg.Wait()
}

// syslogPeer is the far side for the contract.
func syslogPeer(t *testing.T, network, framing string) *peer {
	t.Helper()
	var (
		ca     *certs.Authority
		strict atomic.Bool // wants a certificate
	)
	server := newSyslogServer(t, network, framing, func(s *syslogServer) {
		if network == "tls" {
			ca = certs.NewAuthority(t)
			s.tls = ca.Issue(t, certs.Request{}).ServerConfig(t)
			wanting := s.tls.Clone()
			wanting.ClientAuth = tls.RequireAnyClientCert
			s.tls.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
				if strict.Load() {
					return wanting, nil
				}
				return nil, nil
			}
		}
	})
	t.Cleanup(func() {
		if server.paused.Load() { // what it had read by then may end anywhere
			return
		}
		for _, err := range server.broken() {
			t.Errorf("not syslog: %v", err)
		}
	})
	cfg := syslogConfig(server.address, framing, func(c *config.Syslog) {
		c.MaxSize = 16 << 20
		if ca != nil {
			c.TLS.CAFile = ca.WriteFile(t)
		}
	})
	can := []behavior{hang}
	if ca != nil {
		can = append(can, pause)
	}
	return &peer{
		cfg: cfg,
		can: can,
		behave: func(b behavior) {
			strict.Store(b == pause)
			if b == hang {
				server.pause()
			}
		},
		received: server.bodies,
		leave:    server.stop,
	}
}

// syslogTest makes a server, and a sink that sends to it.
func syslogTest(t *testing.T, network, framing string, change ...func(*config.Syslog)) (*syslogServer, *syslogSink) {
	t.Helper()
	var files func(*config.Syslog)
	server := newSyslogServer(t, network, framing, func(s *syslogServer) {
		if network == "tls" {
			ca := certs.NewAuthority(t)
			s.tls = ca.Issue(t, certs.Request{}).ServerConfig(t)
			files = func(c *config.Syslog) { c.TLS.CAFile = ca.WriteFile(t) }
		}
	})
	if files != nil {
		change = append(change, files)
	}
	return server, syslogTo(t, syslogConfig(server.address, framing, change...))
}

// syslogStreams are the ways to send over a connection.
var syslogStreams = []struct{ network, framing string }{
	{"tcp", config.FramingOctetCounting},
	{"tcp", config.FramingLF},
	{"tls", config.FramingOctetCounting},
	{"tls", config.FramingLF},
	{"unix", config.FramingOctetCounting},
	{"unix", config.FramingLF},
}

// broken waits until the end of the connection has arrived at the sink's side.
func (s *syslogSink) broken(t *testing.T) {
	t.Helper()
	eventually(t, "the connection is over", func() bool { return s.conn.look() != nil })
}

func TestSyslogTransports(t *testing.T) {
	t.Parallel()
	for _, test := range append(syslogStreams, []struct{ network, framing string }{{"udp", ""}, {"unixgram", config.FramingLF}}...) {
		t.Run(test.network+" "+test.framing, func(t *testing.T) {
			server, s := syslogTest(t, test.network, test.framing)
			rs := records(0, 50)
			if err := s.Send(t.Context(), rs[:49]); err != nil {
				t.Fatal(err)
			}
			if err := s.Send(t.Context(), rs[49:]); err != nil {
				t.Fatal(err)
			}
			eventually(t, "all events", func() bool { return len(server.received()) >= len(rs) })
			for i, m := range server.received() {
				if m.text() != string(rs[i].JSON) {
					t.Errorf("message %d is\n%.300s\nnot\n%.300s", i, m.text(), rs[i].JSON)
				}
			}
			if errs := server.broken(); len(errs) > 0 {
				t.Error(errs)
			}
			if n := server.connections(); n > 1 {
				t.Errorf("%d connections", n)
			}
		})
	}
}

// TestSyslogIdle has the server end the connection while nothing is sent. The next Send notices, and connects anew.
func TestSyslogIdle(t *testing.T) {
	t.Parallel()
	for _, test := range syslogStreams {
		t.Run(test.network+" "+test.framing, func(t *testing.T) {
			t.Parallel()
			server, s := syslogTest(t, test.network, test.framing)
			for i := range 3 {
				if err := s.Send(t.Context(), records(i, 1)); err != nil {
					t.Fatal(err)
				}
				id := record(i).ID
				eventually(t, "the event", func() bool { return server.ids()[id] > 0 })
				server.hangUp()
				s.broken(t)
			}
			eventually(t, "a connection for each", func() bool { return server.connections() == 3 })
		})
	}
}

// TestSyslogRestart restarts the server while it has not read what was sent, which is lost with the connection; the sink has
// it, and sends it again.
func TestSyslogRestart(t *testing.T) {
	t.Parallel()
	for _, test := range syslogStreams {
		t.Run(test.network+" "+test.framing, func(t *testing.T) {
			t.Parallel()
			server, s := syslogTest(t, test.network, test.framing)
			if err := s.Send(t.Context(), records(0, 10)); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the first", func() bool { return len(server.received()) == 10 })
			for round := 1; round <= 3; round++ {
				server.pause()
				from := 10 * round
				for i := range 10 {
					if err := s.Send(t.Context(), records(from+i, 1)); err != nil {
						t.Fatal(err)
					}
				}
				server.restart()
				s.broken(t)
				if err := s.Send(t.Context(), records(from+9, 1)); err != nil {
					t.Fatal(err)
				}
				eventually(t, "each event", func() bool { return len(server.ids()) == from+10 })
			}
			for i, r := range records(0, 40) {
				if server.ids()[r.ID] == 0 {
					t.Errorf("event %d is lost", i)
				}
			}
			// In the order they were sent in, but for what came again.
			last := -1
			seen := make(map[string]bool)
			order := make(map[string]int)
			for i, r := range records(0, 40) {
				order[r.ID] = i
			}
			for _, m := range server.received() {
				id := m.param("id")
				if seen[id] {
					continue
				}
				seen[id] = true
				if order[id] < last {
					t.Errorf("event %d comes after %d", order[id], last)
				}
				last = order[id]
			}
		})
	}
}

// TestSyslogTail bounds what is kept to be sent again.
func TestSyslogTail(t *testing.T) {
	t.Parallel()
	server, s := syslogTest(t, "tcp", config.FramingOctetCounting, func(c *config.Syslog) { c.MaxSize = 16 << 20 })
	for i := range 30 {
		if err := s.Send(t.Context(), []event.Record{largeRecord(i, 1<<20)}); err != nil {
			t.Fatal(err)
		}
		if s.tailBytes > syslogTail {
			t.Fatalf("%d bytes are kept", s.tailBytes)
		}
	}
	if err := s.Send(t.Context(), []event.Record{largeRecord(30, 10<<20)}); err != nil {
		t.Fatal(err)
	}
	if len(s.tail) != 1 {
		t.Errorf("%d chunks are kept with one that is larger than all may be", len(s.tail))
	}
	for i := range s.tail {
		s.tail[i].written = time.Now().Add(-2 * syslogTailAge)
	}
	if err := s.Send(t.Context(), records(31, 1)); err != nil {
		t.Fatal(err)
	}
	if len(s.tail) != 1 || s.tailBytes != len(s.tail[0].data) {
		t.Errorf("%d chunks of %d bytes are kept", len(s.tail), s.tailBytes)
	}
	eventually(t, "all events", func() bool { return len(server.ids()) == 32 })
}

// TestSyslogAgain has no time to send everything again in one attempt: it goes on with the next one.
func TestSyslogAgain(t *testing.T) {
	server, s := syslogTest(t, "tcp", config.FramingOctetCounting)
	for i := range 5 {
		if err := s.Send(t.Context(), records(i, 1)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "all events", func() bool { return len(server.received()) == 5 })
	server.restart()
	s.timeout = 1
	s.busy <- struct{}{}
	conn, err := s.connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s.conn, s.again = conn, len(s.tail)
	if err := s.write(t.Context(), records(5, 1), true); !errors.Is(err, errAgain) || s.again == 0 {
		t.Fatalf("%v, and %d are to be sent again", err, s.again)
	}
	s.timeout = patience
	<-s.busy
	if err := s.Send(t.Context(), records(5, 1)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all events", func() bool { return len(server.received()) == 11 })
	if s.conn != conn {
		t.Error("the connection was given up")
	}
}

// TestSyslogInherit has a server of TLS 1.3 refuse a client's certificate only when the sink has been replaced by one with another:
// what the first one has written, to a connection that seemed to be fine, is written by the second.
func TestSyslogInherit(t *testing.T) {
	t.Parallel()
	for _, framing := range []string{config.FramingOctetCounting, config.FramingLF} {
		t.Run(framing, func(t *testing.T) {
			t.Parallel()
			ca := certs.NewAuthority(t)
			replaced := make(chan struct{})
			var first atomic.Bool
			server := newSyslogServer(t, "tls", config.FramingOctetCounting, func(s *syslogServer) {
				s.tls = ca.Issue(t, certs.Request{}).ServerConfig(t)
				s.tls.MinVersion, s.tls.ClientAuth, s.tls.ClientCAs = tls.VersionTLS13, tls.RequireAndVerifyClientCert, ca.Pool()
				s.tls.VerifyConnection = func(tls.ConnectionState) error {
					if first.CompareAndSwap(false, true) {
						<-replaced
						return errors.New("no longer")
					}
					return nil
				}
			})
			configure := func(c *config.Syslog) {
				c.TLS.CAFile = ca.WriteFile(t)
				c.TLS.CertFile, c.TLS.KeyFile = ca.Issue(t, certs.Request{}).WriteFiles(t, t.TempDir())
			}
			before := syslogTo(t, syslogConfig(server.address, framing, configure))
			for i := range 3 {
				if err := before.Send(t.Context(), records(2*i, 2)); err != nil {
					t.Fatal(err)
				}
			}
			if err := before.Close(); err != nil {
				t.Fatal(err)
			}
			var s Sink = syslogTo(t, syslogConfig(server.address, config.FramingOctetCounting, configure))
			if !s.(Heir).Inherit(before) {
				t.Fatal("there is nothing to take over")
			}
			close(replaced)
			for range 2 {
				if err := s.(Heir).Flush(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.Send(t.Context(), records(6, 1)); err != nil {
				t.Fatal(err)
			}
			eventually(t, "all events", func() bool { return len(server.received()) == 7 })
			for i, m := range server.received() {
				if want := records(i, 1)[0].ID; m.param("id") != want {
					t.Errorf("%d: %s, want %s", i, m.param("id"), want)
				}
			}
			if broken := server.broken(); len(broken) > 0 {
				t.Error(broken)
			}
		})
	}
}

// What is old was read by a server that was there to the end, and may not have been by one that was not.
func TestSyslogInheritsWhatIsInDoubt(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		gone  bool // the server
		age   time.Duration
		again bool
	}{
		{"it was just written", false, 0, true},
		{"the server has read it", false, 2 * syslogTailAge, false},
		{"the server has gone", true, 2 * syslogTailAge, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			server, before := syslogTest(t, "tcp", config.FramingOctetCounting)
			if err := before.Send(t.Context(), records(0, 3)); err != nil {
				t.Fatal(err)
			}
			eventually(t, "all events", func() bool { return len(server.received()) == 3 })
			before.tail[0].written = time.Now().Add(-test.age)
			if test.gone {
				server.restart()
				before.broken(t)
			}
			if err := before.Close(); err != nil {
				t.Fatal(err)
			}
			s := syslogTo(t, syslogConfig(server.address, config.FramingLF))
			if got := s.Inherit(before); got != test.again {
				t.Errorf("it has something to send: %v", got)
			}
			if s.Inherit(before) != test.again || len(before.tail) != 0 {
				t.Error("it is taken over twice")
			}
			if s.Inherit(nil) {
				t.Error("it has something of nobody")
			}
		})
	}
}

// TestSyslogUnreachable has nothing listen, for as long as it takes to see the error, and then a server.
func TestSyslogUnreachable(t *testing.T) {
	t.Parallel()
	for _, network := range []string{"tcp", "unix", "unixgram"} {
		t.Run(network, func(t *testing.T) {
			server, s := syslogTest(t, network, config.FramingLF)
			at := server.at()
			server.stop()
			err := s.Send(t.Context(), records(0, 1))
			if _, permanent := errors.AsType[*PermanentError](err); err == nil || permanent || !strings.Contains(err.Error(), at) {
				t.Errorf("%v", err)
			}
			if err := s.Probe(t.Context()); err == nil {
				t.Error("Probe: no error")
			}
			if network != "tcp" {
				_ = os.Remove(at)
			}
			server.listen(at)
			if err := s.Send(t.Context(), records(0, 1)); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the event", func() bool { return len(server.received()) == 1 })
		})
	}
}

// TestSyslogDatagramServerGone has the server of a datagram socket go: the send that notices is an error, the next is not.
func TestSyslogDatagramServerGone(t *testing.T) {
	for _, network := range []string{"udp", "unixgram"} {
		t.Run(network, func(t *testing.T) {
			server, s := syslogTest(t, network, "")
			if err := s.Send(t.Context(), records(0, 1)); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the event", func() bool { return len(server.received()) == 1 })
			at := server.at()
			server.stop()
			// UDP learns of it by the answer to a datagram, which may be one later.
			eventually(t, "an error", func() bool { return s.Send(t.Context(), records(1, 1)) != nil })
			if network == "unixgram" {
				_ = os.Remove(at)
			}
			server.listen(at)
			if err := s.Send(t.Context(), records(2, 1)); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the event", func() bool { return server.ids()[record(2).ID] == 1 })
		})
	}
}

// TestSyslogLargeDatagram cuts what the system does not take.
func TestSyslogLargeDatagram(t *testing.T) {
	for _, network := range []string{"udp", "unixgram"} {
		t.Run(network, func(t *testing.T) {
			server, s := syslogTest(t, network, "", func(c *config.Syslog) { c.MaxSize = 1 << 20 })
			if err := s.Send(t.Context(), records(0, 1)); err != nil {
				t.Fatal(err)
			}
			if c, ok := inner(s.conn.wire.Conn).(*net.UnixConn); ok {
				if err := c.SetWriteBuffer(10_000); err != nil {
					t.Fatal(err)
				}
			}
			large := largeRecord(1, 200_000)
			if err := s.Send(t.Context(), []event.Record{large, record(2)}); err != nil {
				t.Fatal(err)
			}
			eventually(t, "all events", func() bool { return len(server.received()) == 3 })
			m := server.received()[1]
			if m.param("cut_from") != strconv.Itoa(len(large.JSON)) || m.param("id") != large.ID {
				t.Errorf("%v", *m.StructuredData)
			}
			if n := len(m.raw); n > maxDatagram || n < 5_000 {
				t.Errorf("%d bytes arrived", n)
			}
		})
	}
}

func TestSyslogTLS(t *testing.T) {
	t.Parallel()
	ca, other := certs.NewAuthority(t), certs.NewAuthority(t)
	client := ca.Issue(t, certs.Request{})
	certFile, keyFile := client.WriteFiles(t, t.TempDir())
	caFile, otherFile := ca.WriteFile(t), other.WriteFile(t)
	for _, test := range []struct {
		name   string
		server certs.Certificate
		asks   bool // for a certificate of the client
		max    uint16
		change func(*config.Syslog)
		err    string // part of it; "": it works
	}{
		{"its authority is known", ca.Issue(t, certs.Request{}), false, 0, func(c *config.Syslog) { c.TLS.CAFile = caFile }, ""},
		{"TLS 1.2", ca.Issue(t, certs.Request{}), false, tls.VersionTLS12, func(c *config.Syslog) { c.TLS.CAFile = caFile }, ""},
		{"TLS 1.1", ca.Issue(t, certs.Request{}), false, tls.VersionTLS11, func(c *config.Syslog) { c.TLS.CAFile = caFile }, "protocol version"},
		{"its authority is not known", ca.Issue(t, certs.Request{}), false, 0, func(c *config.Syslog) { c.TLS.CAFile = otherFile }, "tls.ca_file"},
		{"of another name", ca.Issue(t, certs.Request{Hosts: []string{"syslog.example.com"}}), false, 0, func(c *config.Syslog) { c.TLS.CAFile = caFile }, "tls.server_name"},
		{"of another name that is given", ca.Issue(t, certs.Request{Hosts: []string{"syslog.example.com"}}), false, 0, func(c *config.Syslog) {
			c.TLS.CAFile, c.TLS.ServerName = caFile, "syslog.example.com"
		}, ""},
		{"not verified", other.Issue(t, certs.Request{}), false, 0, func(c *config.Syslog) { c.TLS.InsecureSkipVerify = true }, ""},
		{"it wants a certificate", ca.Issue(t, certs.Request{}), true, 0, func(c *config.Syslog) { c.TLS.CAFile = caFile }, "certificate required"},
		{"TLS 1.2, it wants a certificate", ca.Issue(t, certs.Request{}), true, tls.VersionTLS12, func(c *config.Syslog) { c.TLS.CAFile = caFile }, "handshake failure"},
		{"it gets a certificate", ca.Issue(t, certs.Request{}), true, 0, func(c *config.Syslog) {
			c.TLS.CAFile, c.TLS.CertFile, c.TLS.KeyFile = caFile, certFile, keyFile
		}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			server := newSyslogServer(t, "tls", config.FramingOctetCounting, func(s *syslogServer) {
				s.tls = test.server.ServerConfig(t)
				if test.max > 0 {
					s.tls.MinVersion, s.tls.MaxVersion = tls.VersionTLS10, test.max
				}
				if test.asks {
					s.tls.ClientAuth, s.tls.ClientCAs = tls.RequireAndVerifyClientCert, ca.Pool()
				}
			})
			s := syslogTo(t, syslogConfig(server.address, config.FramingOctetCounting, test.change))
			for name, err := range map[string]error{"Probe": s.Probe(t.Context()), "Send": s.Send(t.Context(), records(0, 1))} {
				if test.err == "" && err != nil || test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)) {
					t.Errorf("%s: %v, want %q", name, err, test.err)
				}
			}
			if reason := PauseReason(s.Send(t.Context(), records(0, 1))); test.err != "" && reason != map[bool]string{true: PausedUnauthorized, false: PausedOther}[test.err == "certificate required"] {
				t.Errorf("paused for %q", reason)
			}
			if test.err == "" {
				eventually(t, "the event", func() bool { return len(server.received()) >= 1 })
			} else if len(server.received()) > 0 {
				t.Error("the event was sent")
			}
		})
	}
}

// TestSyslogWithoutTLS sends to a server that speaks TLS as if it did not.
func TestSyslogWithoutTLS(t *testing.T) {
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer l.Close()
	wg.Go(func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = io.ReadFull(conn, make([]byte, 100))
		_, _ = conn.Write([]byte{0x15, 3, 3, 0, 2, 2, 70}) // as OpenSSL does it: an alert
	})
	s := syslogTo(t, syslogConfig("tcp://"+l.Addr().String(), config.FramingOctetCounting))
	if err := s.Send(t.Context(), records(0, 1)); err == nil || !strings.Contains(err.Error(), "tls://") {
		t.Errorf("%v", err)
	}
}

// TestSyslogChatter has servers that answer, which none should.
func TestSyslogChatter(t *testing.T) {
	for _, endless := range []bool{false, true} {
		t.Run(fmt.Sprint("endless ", endless), func(t *testing.T) {
			l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			var wg sync.WaitGroup
			defer wg.Wait()
			defer l.Close()
			wg.Go(func() {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				defer conn.Close()
				wg.Go(func() {
					answer := []byte("hello\n")
					if endless {
						answer = make([]byte, 1<<20)
					}
					for first := true; first || endless; first = false {
						if _, err := conn.Write(answer); err != nil {
							return
						}
					}
				})
				_, _ = io.Copy(io.Discard, conn)
			})
			s := syslogTo(t, syslogConfig("tcp://"+l.Addr().String(), config.FramingLF))
			defer s.Close()
			err = soon(t, "Send", func() error { return s.Send(t.Context(), records(0, 1)) })
			if endless != (err != nil) {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestSyslogHandshakeHangs has a server that accepts connections and says nothing.
func TestSyslogHandshakeHangs(t *testing.T) {
	t.Parallel()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cfg := syslogConfig("tls://"+l.Addr().String(), config.FramingOctetCounting)
	cfg.Timeout = 200 * time.Millisecond
	s := syslogTo(t, cfg)
	for name, do := range map[string]func(context.Context) error{
		"Probe": s.Probe,
		"Send":  func(ctx context.Context) error { return s.Send(ctx, records(0, 1)) },
	} {
		if err := soon(t, name, func() error { return do(t.Context()) }); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", name, err)
		}
	}
	cfg.Timeout = time.Hour
	s = syslogTo(t, cfg)
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 2)
	go func() { result <- s.Send(ctx, records(0, 1)) }()
	go func() { result <- s.Probe(ctx) }()
	conn, err := l.Accept() // there are more in the queue
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	cancel()
	for range 2 {
		if err := soon(t, "the end", func() error { return <-result }); !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
	}
}

// TestSyslogGoodbye ends a TLS connection in the way that tells the server that nothing is missing.
func TestSyslogGoodbye(t *testing.T) {
	server, s := syslogTest(t, "tls", config.FramingOctetCounting)
	if err := s.Send(t.Context(), records(0, 1)); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the event", func() bool { return len(server.received()) == 1 })
	server.stop()
	if errs := server.broken(); len(errs) > 0 {
		t.Error(errs)
	}
}

func TestSyslogBadConfig(t *testing.T) {
	for name, change := range map[string]func(*config.Syslog){
		"address":  func(c *config.Syslog) { c.Address = "tcp://user:secret@127.0.0.1:1" },
		"facility": func(c *config.Syslog) { c.Facility = "local9" },
		"format":   func(c *config.Syslog) { c.Format = "xml" },
		"max_size": func(c *config.Syslog) { c.MaxSize = 100 },
		"ca_file":  func(c *config.Syslog) { c.TLS.CAFile = "/nowhere" },
	} {
		t.Run(name, func(t *testing.T) {
			_, err := New(syslogConfig("tls://127.0.0.1:6514", config.FramingLF, change), Options{})
			if err == nil || !strings.Contains(err.Error(), name) || strings.Contains(err.Error(), "secret") {
				t.Errorf("%v", err)
			}
		})
	}
}
