package certs_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hmcnotifyd/hmcnotifyd/tests/real/certs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestIssue(t *testing.T) {
	ca := certs.NewAuthority(t)
	hour := func(n int) time.Time { return time.Now().Add(time.Duration(n) * time.Hour) }
	for _, tc := range []struct {
		name string
		req  certs.Request
		want any // the kind of verification error
	}{
		{"good", certs.Request{}, nil},
		{"expired", certs.Request{NotBefore: hour(-5), NotAfter: hour(-2)}, new(x509.CertificateInvalidError)},
		{"other name", certs.Request{Hosts: []string{"hmc.example.com"}}, new(x509.HostnameError)},
		{"self-signed", certs.Request{SelfSigned: true}, new(x509.UnknownAuthorityError)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := handshake(t, ca.Issue(t, tc.req).ServerConfig(t), ca.ClientConfig())
			if tc.want == nil && err != nil || tc.want != nil && !errors.As(err, tc.want) {
				t.Errorf("handshake: %v, want a %T", err, tc.want)
			}
		})
	}
}

func handshake(t *testing.T, server, client *tls.Config) error {
	l, err := tls.Listen("tcp", "127.0.0.1:0", server)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	served := make(chan struct{})
	defer func() { <-served }()
	go func() {
		defer close(served)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = io.Copy(io.Discard, conn) // its error is the client's, seen there
	}()
	dialer := tls.Dialer{NetDialer: &net.Dialer{Timeout: 10 * time.Second}, Config: client}
	conn, err := dialer.DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		return err
	}
	return conn.Close()
}
