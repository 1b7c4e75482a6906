package config

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/trust"
)

// ClientConfig returns the settings for connections to a server, with TLS 1.2 as the least. It
// reads CAFile only for a TLS that did not come from Load. Where ServerName is empty, the caller
// sets it to the host it connects to (net/http and pkg/receiver do).
func (t TLS) ClientConfig() (*tls.Config, error) {
	cfg := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		ServerName:         t.ServerName,
		InsecureSkipVerify: t.InsecureSkipVerify, //nolint:gosec // G402: asked for by this name, with a warning
	}
	if t.CAFile == "" {
		return cfg, nil
	}
	data := []byte(t.ca)
	if t.ca == "" {
		var err error
		if data, err = os.ReadFile(t.CAFile); err != nil {
			return nil, fmt.Errorf("tls: ca_file: %w", err)
		}
	}
	certs, err := trust.Certificates(data)
	if err != nil {
		return nil, fmt.Errorf("tls: ca_file: %s %w", t.CAFile, err)
	}
	cfg.RootCAs = x509.NewCertPool()
	for _, c := range certs {
		cfg.RootCAs.AddCert(c)
	}
	return cfg, nil
}

// Explain turns the error of a connection that failed over its certificate or TLS itself into a
// sentence that says what is wrong and which setting, or what on the server, to change. It returns
// "" for any other error.
func (t TLS) Explain(err error) string {
	s := trust.Settings{Key: t.where, Peer: "server", CAFile: t.CAFile, ServerName: t.ServerName}
	if s.Key == "" {
		s.Key, s.Peer = "tls", "HMC"
	}
	return s.Explain(err)
}
