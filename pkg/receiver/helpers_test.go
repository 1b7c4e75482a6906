package receiver

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	stomp "github.com/go-stomp/stomp/v3/frame"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testCA issues certificates for the peers of the tests.
type testCA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newTestCA(tb testing.TB) *testCA {
	tb.Helper()
	key := newKey(tb)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	must(tb, err)
	cert, err := x509.ParseCertificate(der)
	must(tb, err)
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &testCA{cert, key, pool}
}

func newKey(tb testing.TB) *ecdsa.PrivateKey {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(tb, err)
	return key
}

// server returns a server configuration with a certificate for names (DNS names and addresses).
func (ca *testCA) server(tb testing.TB, notAfter time.Time, names ...string) *tls.Config {
	tb.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "hmc"},
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: notAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	key := newKey(tb)
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, &key.PublicKey, ca.key)
	must(tb, err)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: tls.VersionTLS12}
}

func (ca *testCA) client() *tls.Config {
	return &tls.Config{RootCAs: ca.pool, MinVersion: tls.VersionTLS12}
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// peer is a server whose script is a function per connection. It is what a broker does not do: byte-level faults.
type peer struct {
	tb       testing.TB
	listener net.Listener
	host     string
	port     int
	wg       sync.WaitGroup
	mu       sync.Mutex
	conns    map[net.Conn]bool
	accepted int
}

// startPeer listens on address (127.0.0.1:0 if empty) and runs script for each connection, which is closed when script returns.
func startPeer(tb testing.TB, address string, script func(n int, c *peerConn)) *peer {
	tb.Helper()
	if address == "" {
		address = "127.0.0.1:0"
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(context.Background(), "tcp", address)
	must(tb, err)
	addr := ln.Addr().(*net.TCPAddr)
	p := &peer{tb: tb, listener: ln, host: addr.IP.String(), port: addr.Port, conns: make(map[net.Conn]bool)}
	p.wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			p.mu.Lock()
			p.accepted++
			n := p.accepted
			p.conns[conn] = true
			p.mu.Unlock()
			p.wg.Go(func() {
				defer func() {
					_ = conn.Close()
					p.mu.Lock()
					delete(p.conns, conn)
					p.mu.Unlock()
				}()
				script(n, newPeerConn(conn))
			})
		}
	})
	tb.Cleanup(p.close)
	return p
}

func (p *peer) close() {
	_ = p.listener.Close()
	p.mu.Lock()
	for conn := range p.conns {
		_ = conn.Close()
	}
	p.mu.Unlock()
	p.wg.Wait()
}

func (p *peer) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.accepted
}

// options returns the options of a receiver that connects to p without TLS, with short sleeps.
func (p *peer) options(topics ...string) Options {
	config := DefaultStompRetryTimeoutConfig()
	config.ReconnectSleepInitial = time.Millisecond
	config.ReconnectSleepMax = 10 * time.Millisecond
	return Options{Topics: topics, Host: p.host, Port: p.port, Userid: "hmcuser", Password: "hmcpass", PlainText: true, Config: &config}
}

// peerConn is the server's side of a connection.
type peerConn struct {
	net.Conn
	in *stomp.Reader
	w  *bufio.Writer
}

func newPeerConn(conn net.Conn) *peerConn {
	return &peerConn{conn, stomp.NewReader(conn), bufio.NewWriter(conn)}
}

// startTLS does the server's handshake and returns the connection within.
func (c *peerConn) startTLS(config *tls.Config) (*peerConn, error) {
	conn := tls.Server(c.Conn, config)
	if err := conn.HandshakeContext(context.Background()); err != nil {
		return nil, err
	}
	return newPeerConn(conn), nil
}

// read returns the next frame, passing heart-beats over; nil at the end.
func (c *peerConn) read() *stomp.Frame {
	for {
		f, err := c.in.Read()
		if err != nil {
			return nil
		}
		if f != nil {
			return f
		}
	}
}

// expect reads frames until one has the command; nil at the end.
func (c *peerConn) expect(command string) *stomp.Frame {
	for {
		f := c.read()
		if f == nil || f.Command == command || (command == "CONNECT" && f.Command == "STOMP") {
			return f
		}
	}
}

// send writes raw text.
func (c *peerConn) send(format string, args ...any) error {
	_, err := fmt.Fprintf(c.Conn, format, args...)
	return err
}

const (
	connected11 = "CONNECTED\nserver:ActiveMQ/5.17.2\nheart-beat:5000,5000\nsession:ID:host-1-2-3:4\nversion:1.1\n\n\x00\n"
	connected00 = "CONNECTED\nversion:1.1\nheart-beat:0,0\n\n\x00\n"
)

// logon answers CONNECT.
func (c *peerConn) logon(connected string) bool {
	return c.expect("CONNECT") != nil && c.send("%s", connected) == nil
}

// confirm answers a frame that asks for a receipt.
func (c *peerConn) confirm(f *stomp.Frame) {
	if id := f.Header.Get("receipt"); id != "" {
		_ = c.send("RECEIPT\nreceipt-id:%s\n\n\x00\n", id)
	}
}

// serve is an obedient broker: it logs on, confirms everything, and calls each (if any) for every SUBSCRIBE. It returns
// when the client leaves.
func (c *peerConn) serve(connected string, each func(c *peerConn, sub *stomp.Frame)) {
	if !c.logon(connected) {
		return
	}
	for {
		f := c.read()
		if f == nil {
			return
		}
		c.confirm(f)
		switch {
		case f.Command == "DISCONNECT":
			return
		case f.Command == "SUBSCRIBE" && each != nil:
			each(c, f)
		}
	}
}

// message is a MESSAGE frame as an HMC sends it: no content-length, NUL and LF.
func message(id, topic, body string, headers ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "MESSAGE\ndestination:/topic/%s\nsubscription:%s\nmessage-id:ID\\cHMC-1-2\\c1\n", topic, id)
	for i := 0; i+1 < len(headers); i += 2 {
		fmt.Fprintf(&b, "%s:%s\n", headers[i], headers[i+1])
	}
	return b.String() + "\n" + body + "\x00\n"
}

// newReceiver returns a receiver that is closed with the test.
func newReceiver(tb testing.TB, o Options) *Receiver {
	tb.Helper()
	r, err := New(o)
	must(tb, err)
	tb.Cleanup(func() { _ = r.Close() })
	return r
}

// next returns what the iterator yields next.
func next(tb testing.TB, pull func() (Notification, error, bool)) (Notification, error) {
	tb.Helper()
	n, err, ok := pull()
	if !ok {
		tb.Fatal("the iteration ended")
	}
	return n, err
}

// eventually waits for a condition.
func eventually(tb testing.TB, what string, condition func() bool) {
	tb.Helper()
	const within = 2 * time.Minute // it only ends a hang
	deadline := time.Now().Add(within)
	for !condition() {
		if time.Now().After(deadline) {
			tb.Fatalf("not within %s: %s", within, what)
		}
		time.Sleep(time.Millisecond)
	}
}

func reasonIn(err error) string {
	if e, ok := errors.AsType[*ConnectionError](err); ok {
		return e.Reason
	}
	return ""
}

// statusChange is a realistic status-change notification, with the headers of a capture from a real HMC.
func statusChange(id string) []byte {
	return []byte(message(id, "sysprog.163",
		`{"change-reports":[{"old-status":"communications-not-active","old-additional-status":null,"new-status":"stopped","new-additional-status":null}]}`,
		"expires", "0", "priority", "4", "timestamp", "1557755398299", "global-sequence-nr", "6399", "session-sequence-nr", "1",
		"notification-type", "status-change", "class", "logical-partition", "name", "LP41",
		"object-id", "e12121da-c503-3117-8e79-c46bd3531b90",
		"object-uri", "/api/logical-partitions/e12121da-c503-3117-8e79-c46bd3531b90"))
}

// flood answers SUBSCRIBE and then sends status changes as fast as they are read, until the client leaves.
func flood(c *peerConn) {
	if !c.logon(connected00) {
		return
	}
	sub := c.expect("SUBSCRIBE")
	if sub == nil {
		return
	}
	c.confirm(sub)
	frames := bytes.Repeat(statusChange(sub.Header.Get("id")), 400)
	for {
		if _, err := c.Write(frames); err != nil {
			return
		}
	}
}
