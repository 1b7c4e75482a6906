package hostile_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/hmcnotifyd/hmcnotifyd/tests/real/daemon"
	"github.com/hmcnotifyd/hmcnotifyd/tests/soak"
)

// attackers open more connections than there are places, and open new ones in the place of those that are cut, until the
// function that it returns is called, at the latest when the daemon has ended. What each does is up to the test. They leave some
// of the processors to the daemon and to its probe.
func attackers(t *testing.T, v *victim, attack func(c net.Conn)) (stop func()) {
	t.Helper()
	var all sync.WaitGroup
	var over atomic.Bool
	for range 700 {
		all.Go(func() {
			for !over.Load() {
				c, err := new(net.Dialer).DialContext(t.Context(), "tcp", v.Addr())
				if err == nil {
					_ = c.SetDeadline(time.Now().Add(within))
					attack(c)
					_ = c.Close()
				}
				time.Sleep(200 * time.Millisecond) // also where nobody listens any more: 700 that try again at once take a processor
			}
		})
	}
	return func() {
		over.Store(true)
		all.Wait()
	}
}

// lasting is how long an attack lasts.
func lasting(t *testing.T) time.Duration {
	return time.Duration(soak.Count(t, "ATTACK_MS", 150, 60_000)) * time.Millisecond
}

// Clients that hold connections, however they do that, shut nobody out: /-/healthy is answered (which start sees to), and so
// are readiness and metrics. 512 that did not read were enough.
func TestHeldConnections(t *testing.T) {
	pipelined := bytes.Repeat([]byte("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"), 1000)
	large := "GET /metrics HTTP/1.1\r\nHost: localhost\r\n" + strings.Repeat("A: "+strings.Repeat("x", 1000)+"\r\n", 28)
	zeros := make([]byte, 1<<20)
	drip := time.Duration(soak.Count(t, "DRIP_MS", 100, 20)) * time.Millisecond
	wait := func(c net.Conn) { _, _ = io.ReadFull(c, make([]byte, 1)) }
	for name, attack := range map[string]func(c net.Conn){
		"pipelined and never read": func(c net.Conn) {
			_ = c.(*net.TCPConn).SetReadBuffer(4096) // full soon
			_, _ = c.Write(pipelined)
			time.Sleep(500 * time.Millisecond)
			_, _ = c.Write(pipelined) // fails once it was cut
		},
		"nothing sent":         wait,
		"the beginning of one": func(c net.Conn) { _, _ = io.WriteString(c, large); wait(c) },
		"a byte now and then": func(c net.Conn) {
			for _, b := range []byte(large) {
				if _, err := c.Write([]byte{b}); err != nil {
					return
				}
				time.Sleep(drip)
			}
		},
		"live events never read": func(c net.Conn) {
			_, _ = io.WriteString(c, "GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
			wait(c)
		},
		"a body that is announced": func(c net.Conn) {
			_, _ = io.WriteString(c, "POST /-/reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\n")
			_, _ = c.Write(zeros)
			wait(c)
		},
		"opened and closed": func(net.Conn) {},
		"no HTTP": func(c net.Conn) {
			_, _ = io.WriteString(c, "\x16\x03\x01\x00\xff\r\n\r\n")
			_, _ = io.Copy(io.Discard, c)
		},
	} {
		t.Run(name, func(t *testing.T) {
			v := start(t, daemon.Options{Config: idle})
			lines := strings.Count(v.Process.Output(), "\n")
			var served sync.WaitGroup
			end, began := make(chan struct{}), time.Now()
			answers := 0
			served.Go(func() {
				client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: within}
				for {
					select {
					case <-end:
						if answers > 0 || time.Since(began) > within {
							return
						}
					default:
					}
					// Between two newcomers there is time enough for an answer; where it was cut, again.
					if status, body, err := ask(t.Context(), client, http.MethodGet, v.URL+"/-/ready", nil); err == nil {
						if status != http.StatusServiceUnavailable || !strings.Contains(body, "reason") { // no HMC is there
							t.Errorf("/-/ready: %d %s", status, body)
						}
						answers++
					}
				}
			})
			stop := attackers(t, v, attack)
			time.Sleep(lasting(t))
			close(end)
			served.Wait()
			if answers == 0 {
				t.Error("/-/ready was never answered")
			}
			if n := strings.Count(v.Process.Output(), "\n") - lines; n > 100 {
				t.Errorf("%d lines of log", n)
			}
			t.Logf("%d answers of /-/ready", answers)
			v.end(t) // while they go on
			stop()
		})
	}
}

// The same with TLS and passwords: whoever has no password takes no more than others.
func TestHeldConnectionsWithPassword(t *testing.T) {
	const password = "correct-horse"
	hash, err := bcrypt.GenerateFromPassword([]byte(password), 10)
	if err != nil {
		t.Fatal(err)
	}
	crt, key := certificate(t)
	v := start(t, daemon.Options{
		Config: idle, Client: &http.Client{Transport: operator{password}}, Flags: []string{"--web.config.file=web.yaml"},
		Files: map[string]string{"web.crt": crt, "web.key": key, "web.yaml": fmt.Sprintf(
			"tls_server_config: {cert_file: web.crt, key_file: web.key}\nbasic_auth_users: {ops: %q}\n", hash)},
	})
	lines := strings.Count(v.Process.Output(), "\n")
	// What a handshake takes of a processor is the same for both sides: some at a time leave the daemon its part.
	handshakes := make(chan struct{}, 8)
	stop := attackers(t, v, func(c net.Conn) {
		secure := tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
		handshakes <- struct{}{}
		err := secure.HandshakeContext(t.Context())
		<-handshakes
		if err != nil {
			return
		}
		wrong := base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "ops:%d", time.Now().UnixNano()))
		guess := "GET /metrics HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic " + wrong + "\r\n\r\n"
		_, _ = io.WriteString(secure, strings.Repeat(guess, 100))
		_, _ = io.Copy(io.Discard, c)
	})
	time.Sleep(lasting(t))
	if n := strings.Count(v.Process.Output(), "\n") - lines; n > 100 {
		t.Errorf("%d lines of log", n)
	}
	v.end(t)
	stop()
}

// certificate makes one for the web side, and its key.
func certificate(t *testing.T) (crt, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
}
