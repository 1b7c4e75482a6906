package config

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
)

// errNoCertificates is the answer to a CA file without a single certificate.
var errNoCertificates = errors.New("holds no PEM certificate")

// ClientConfig returns the settings for connections to a server. It reads CAFile only for a TLS that did not come from
// Load. Where ServerName is empty, the caller sets it to the host it connects to (net/http and pkg/receiver do).
func (t TLS) ClientConfig() (*tls.Config, error) {
	cfg := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		ServerName:         t.ServerName,
		InsecureSkipVerify: t.InsecureSkipVerify, //nolint:gosec // G402: the operator asked for it in so many words, and is warned
	}
	if t.CAFile == "" {
		return cfg, nil
	}
	ca := t.ca
	if ca == "" {
		data, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, fmt.Errorf("tls: ca_file: %w", err)
		}
		ca = string(data)
	}
	cfg.RootCAs = x509.NewCertPool()
	if !cfg.RootCAs.AppendCertsFromPEM([]byte(ca)) {
		return nil, fmt.Errorf("tls: ca_file: %s %w", t.CAFile, errNoCertificates)
	}
	return cfg, nil
}
