package receiver

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	stomp "github.com/go-stomp/stomp/v3/frame"
)

// tlsPeer is an obedient broker over TLS that sends one notification for each SUBSCRIBE.
func tlsPeer(t *testing.T, address string, config *tls.Config) *peer {
	t.Helper()
	return startPeer(t, address, func(_ int, c *peerConn) {
		if c, err := c.startTLS(config); err == nil {
			c.serve(connected11, func(c *peerConn, sub *stomp.Frame) {
				_ = c.send("%s", message(sub.Header.Get("id"), "u.1", "1"))
			})
		}
	})
}

func (p *peer) tlsOptions(config *tls.Config, topics ...string) Options {
	o := p.options(topics...)
	o.PlainText, o.TLS = false, config
	return o
}

func TestTLS(t *testing.T) {
	ca := newTestCA(t)
	for name, test := range map[string]struct{ address, host, serverName, certName string }{
		"IPv4":             {"127.0.0.1:0", "127.0.0.1", "", "127.0.0.1"},
		"IPv6":             {"[::1]:0", "::1", "", "::1"},
		"IPv6 in brackets": {"[::1]:0", "[::1]", "", "::1"},
		"name":             {"127.0.0.1:0", "localhost", "", "localhost"},
		"server name":      {"127.0.0.1:0", "127.0.0.1", "hmc1.example.com", "hmc1.example.com"},
	} {
		t.Run(name, func(t *testing.T) {
			p := tlsPeer(t, test.address, ca.server(t, time.Now().Add(time.Hour), test.certName))
			config := ca.client()
			config.ServerName = test.serverName
			o := p.tlsOptions(config, "u.1")
			o.Host = test.host
			r := newReceiver(t, o)
			if n, err := next(t, pull(t, r)); err != nil || string(n.Body) != "1" {
				t.Errorf("got %s, %v", n.Body, err)
			}
			if certs := r.PeerCertificates(); len(certs) != 1 || certs[0].Subject.CommonName != "hmc" {
				t.Errorf("certificates %v", certs)
			}
			if config.ServerName != test.serverName {
				t.Error("the caller's configuration was changed")
			}
			must(t, r.Close())
		})
	}
}

func TestTLSErrors(t *testing.T) {
	t.Parallel()
	ca, otherCA := newTestCA(t), newTestCA(t)
	good := time.Now().Add(time.Hour)
	for name, test := range map[string]struct {
		server *tls.Config
		client *tls.Config
		is     func(error) bool
	}{
		"expired": {ca.server(t, time.Now().Add(-time.Hour), "127.0.0.1"), ca.client(), func(err error) bool {
			var e x509.CertificateInvalidError
			return errors.As(err, &e) && e.Reason == x509.Expired
		}},
		"unknown authority": {otherCA.server(t, good, "127.0.0.1"), ca.client(), func(err error) bool {
			var e x509.UnknownAuthorityError
			return errors.As(err, &e)
		}},
		"system roots": {ca.server(t, good, "127.0.0.1"), nil, func(err error) bool {
			var e x509.UnknownAuthorityError
			return errors.As(err, &e)
		}},
		"other name": {ca.server(t, good, "hmc.example.com"), ca.client(), func(err error) bool {
			var e x509.HostnameError
			return errors.As(err, &e)
		}},
		"no common version": {
			func() *tls.Config {
				config := ca.server(t, good, "127.0.0.1")
				config.MaxVersion = tls.VersionTLS12
				return config
			}(),
			&tls.Config{RootCAs: ca.pool, MinVersion: tls.VersionTLS13},
			func(err error) bool { return strings.Contains(err.Error(), "protocol version") },
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := tlsPeer(t, "", test.server)
			o := p.tlsOptions(test.client, "u.1")
			o.Config.ConnectRetries = 1
			r := newReceiver(t, o)
			err := r.Connect(t.Context())
			if reasonIn(err) != ReasonTLS || !test.is(err) {
				t.Errorf("got %v (reason %q)", err, reasonIn(err))
			}
			if certs := r.PeerCertificates(); (name != "no common version") != (len(certs) == 1) {
				t.Errorf("%d certificates are known", len(certs))
			}
		})
	}
	t.Run("no TLS at all", func(t *testing.T) {
		p := startPeer(t, "", func(_ int, c *peerConn) { _ = c.send("ERROR\nmessage:who are you\n\n\x00\n") })
		o := p.tlsOptions(ca.client(), "u.1")
		o.Config.ConnectRetries = 0
		r := newReceiver(t, o)
		err := r.Connect(t.Context())
		var record tls.RecordHeaderError
		if reasonIn(err) != ReasonTLS || !errors.As(err, &record) {
			t.Errorf("got %v (reason %q)", err, reasonIn(err))
		}
	})
	t.Run("alert on a link", func(t *testing.T) {
		config := ca.server(t, good, "127.0.0.1")
		config.ClientAuth = tls.RequireAnyClientCert // TLS 1.3 says so after the handshake is done for us
		p := tlsPeer(t, "", config)
		o := p.tlsOptions(ca.client(), "u.1")
		o.Config.ConnectRetries = 0
		r := newReceiver(t, o)
		if err := r.Connect(t.Context()); reasonIn(err) != ReasonTLS || !strings.Contains(err.Error(), "certificate required") {
			t.Errorf("got %v (reason %q)", err, reasonIn(err))
		}
	})
	for name, script := range map[string]func(c *peerConn){
		"closed during the handshake": func(*peerConn) {},
		"hanging handshake":           func(c *peerConn) { _, _ = io.Copy(io.Discard, c.Conn) },
	} {
		t.Run(name, func(t *testing.T) {
			p := startPeer(t, "", func(_ int, c *peerConn) { script(c) })
			o := p.tlsOptions(ca.client(), "u.1")
			o.Config.ConnectRetries = 0
			want, text := ReasonBroker, "link during the TLS handshake"
			if name == "hanging handshake" {
				o.Config.ConnectTimeout = 400 * time.Millisecond
				want, text = ReasonTimeout, "no TLS handshake with 127.0.0.1:"
			}
			r := newReceiver(t, o)
			if err := r.Connect(t.Context()); reasonIn(err) != want || !strings.Contains(err.Error(), text) {
				t.Errorf("got %v (reason %q)", err, reasonIn(err))
			}
		})
	}
}

// TestKeepalive checks what the operating system was told.
func TestKeepalive(t *testing.T) {
	for _, on := range []bool{true, false} {
		p := startPeer(t, "", func(_ int, c *peerConn) { c.serve(connected11, nil) })
		var conn net.Conn
		o := p.options("u.1")
		o.Config.Keepalive = on
		o.Dial = func(ctx context.Context, network, address string) (c net.Conn, err error) {
			conn, err = new(net.Dialer).DialContext(ctx, network, address)
			return conn, err
		}
		r := newReceiver(t, o)
		must(t, r.Connect(t.Context()))
		checkSocket(t, conn.(*net.TCPConn), on)
		must(t, r.Close())
	}
}
