package web

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"slices"
	"sync"
	"testing"
	"time"
)

// turnstile is a TLS server whose handshakes stop where they compute, until they are let on.
type turnstile struct {
	addr string
	// a handshake computes; the server's name that the client asked for
	computing chan string
	goOn      chan struct{}
}

func startTurnstile(t *testing.T, turns int, curves ...tls.CurveID) (*turnstile, *Handshakes) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	s := &turnstile{computing: make(chan string, 100), goOn: make(chan struct{})}
	cfg := &tls.Config{
		CurvePreferences: curves,
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			s.computing <- hello.ServerName
			<-s.goOn
			return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
		},
	}
	inner, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = inner.Addr().String()
	h := NewHandshakes()
	h.free = turns
	l := NewRoom(100).Listener(h.Listener(inner))
	var serving sync.WaitGroup
	t.Cleanup(serving.Wait)
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer c.Close()
				server := tls.Server(c, cfg)
				if server.HandshakeContext(t.Context()) == nil {
					_, _ = server.Read(make([]byte, 1)) // until the client goes: it has no turn
				}
			})
		}
	})
	t.Cleanup(func() { _ = l.Close() })
	return s, h
}

// greet begins a handshake, and reports how it ended.
func (s *turnstile) greet(t *testing.T, name string) (net.Conn, <-chan error) {
	t.Helper()
	c := dial(t, s.addr)
	done := make(chan error, 1)
	go func() {
		done <- tls.Client(c, &tls.Config{ServerName: name, InsecureSkipVerify: true}).HandshakeContext(t.Context())
	}()
	return c, done
}

func (h *Handshakes) queue() (free, waiting int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.free, len(h.waiting)
}

// awaitQueue waits until so many wait for a turn.
func awaitQueue(t *testing.T, h *Handshakes, want int) {
	t.Helper()
	for start := time.Now(); ; time.Sleep(time.Millisecond) {
		if _, n := h.queue(); n == want {
			return
		} else if time.Since(start) > time.Minute {
			t.Fatalf("%d wait, want %d", n, want)
		}
	}
}

// awaitFree waits until all turns are free again.
func awaitFree(t *testing.T, h *Handshakes, want int) {
	t.Helper()
	for start := time.Now(); ; time.Sleep(time.Millisecond) {
		if free, n := h.queue(); free == want && n == 0 {
			return
		} else if time.Since(start) > time.Minute {
			t.Fatalf("%d turns are free, %d wait", free, n)
		}
	}
}

// So many handshakes compute at a time, and the newest is next; whoever says nothing takes no turn, before his handshake or
// after it.
func TestHandshakesTakeTurns(t *testing.T) {
	t.Parallel()
	s, h := startTurnstile(t, 2)
	for range 5 {
		dial(t, s.addr)
	}
	var ends []<-chan error
	begin := func(name string) net.Conn {
		c, end := s.greet(t, name)
		ends = append(ends, end)
		return c
	}
	begin("a")
	begin("b")
	if got := []string{<-s.computing, <-s.computing}; !slices.Contains(got, "a") || !slices.Contains(got, "b") {
		t.Fatalf("%v", got)
	}
	begin("c")
	awaitQueue(t, h, 1)
	gone := begin("gone")
	awaitQueue(t, h, 2)
	begin("d")
	awaitQueue(t, h, 3)
	if len(s.computing) > 0 {
		t.Fatalf("%s computes, and two do already", <-s.computing)
	}
	_ = gone.Close()
	for _, want := range []string{"d", "gone", "c"} { // that a client has gone is not seen before his turn
		s.goOn <- struct{}{}
		if got := <-s.computing; got != want {
			t.Errorf("%s is next, not %s", got, want)
		}
	}
	close(s.goOn)
	for i, end := range ends {
		if err := <-end; (err != nil) != (i == 3) {
			t.Errorf("handshake %d: %v", i, err)
		}
	}
	awaitFree(t, h, 2)
}

// Whoever is asked for another hello takes his turn with that one as well.
func TestSecondHelloTakesATurn(t *testing.T) {
	t.Parallel()
	s, h := startTurnstile(t, 1, tls.CurveP521)
	_, first := s.greet(t, "a")
	<-s.computing
	_, second := s.greet(t, "b")
	awaitQueue(t, h, 1)
	if free, _ := h.queue(); free != 0 || len(s.computing) > 0 {
		t.Errorf("%d turns are free, %d compute", free, len(s.computing))
	}
	close(s.goOn)
	for _, end := range []<-chan error{first, second} {
		if err := <-end; err != nil {
			t.Error(err)
		}
	}
	awaitFree(t, h, 1)
}

// A connection that has to give way waits no more.
func TestHandshakeThatIsClosed(t *testing.T) {
	t.Parallel()
	h := &Handshakes{}
	closed := make(chan struct{})
	done := make(chan bool)
	go func() { done <- h.take(closed, time.Hour) }()
	awaitQueue(t, h, 1)
	close(closed)
	if <-done {
		t.Error("it has a turn")
	}
	if h.take(nil, time.Millisecond) {
		t.Error("it has a turn that nobody gave")
	}
	if free, n := h.queue(); free != 0 || n != 0 {
		t.Errorf("%d free, %d wait", free, n)
	}
}
