package config

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/trust"
)

type certOptions struct {
	name                string
	dns                 []string
	ips                 []net.IP
	notBefore, notAfter time.Time
	ca                  *testCert // nil: self-signed
	isCA                bool
	algorithm           x509.SignatureAlgorithm
}

type testCert struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newCert(t *testing.T, o certOptions) *testCert {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if o.notBefore.IsZero() {
		o.notBefore = time.Now().Add(-1000 * time.Hour)
	}
	if o.notAfter.IsZero() {
		o.notAfter = time.Now().Add(1000 * time.Hour)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: o.name},
		DNSNames:     o.dns, IPAddresses: o.ips,
		NotBefore: o.notBefore, NotAfter: o.notAfter,
		IsCA: o.isCA, BasicConstraintsValid: true, SignatureAlgorithm: o.algorithm,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	parent, signer := template, key
	if o.ca != nil {
		parent, signer = o.ca.cert, o.ca.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &testCert{cert, key}
}

func pemOf(t *testing.T, c *x509.Certificate) []byte {
	t.Helper()
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

// handshake connects to a TLS server with this certificate and returns the client's error.
//
// Without a certificate the server says what it is told to, which without anything else is not TLS.
func handshake(t *testing.T, server *tls.Config, client TLS, host string, says ...byte) error {
	t.Helper()
	cfg, err := client.ClientConfig()
	if err != nil {
		t.Fatal(err)
	}
	if cfg.ServerName == "" {
		cfg.ServerName = host
	}
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		if server == nil {
			if says == nil {
				says = []byte("HTTP/1.1 400 Bad Request\r\n\r\n")
			}
			_, _ = conn.Write(says)
			_, _ = conn.Read(make([]byte, 4096))
			return
		}
		_ = tls.Server(conn, server).HandshakeContext(context.Background())
	}()
	defer func() { _ = ln.Close(); <-done }()
	conn, err := (&tls.Dialer{Config: cfg}).DialContext(t.Context(), "tcp", ln.Addr().String())
	if err == nil {
		_ = conn.Close()
	}
	return err
}

func serverConfig(c *testCert) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{{Certificate: [][]byte{c.cert.Raw}, PrivateKey: c.key}}}
}

// A self-signed certificate that was renewed is to be put into the file as it is.
func TestExplainRenewed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ca.pem")
	before, now := newCert(t, certOptions{name: "hmc1", dns: []string{"hmc1"}}), newCert(t, certOptions{name: "hmc1", dns: []string{"hmc1"}})
	if err := os.WriteFile(file, pemOf(t, before.cert), 0o600); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("the certificate of hmc1 is self-signed (SHA-256 fingerprint %X) and not in tls.ca_file (%s): ", sha256.Sum256(now.cert.Raw), file)
	if got := (TLS{CAFile: file}).Explain(handshake(t, serverConfig(now), TLS{CAFile: file}, "hmc1")); !strings.HasPrefix(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestExplain(t *testing.T) {
	ca := newCert(t, certOptions{name: "Example CA", isCA: true})
	caFile := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(caFile, pemOf(t, ca.cert), 0o600); err != nil {
		t.Fatal(err)
	}
	trust := TLS{CAFile: caFile}
	now := time.Now().UTC()

	good := newCert(t, certOptions{name: "hmc1", dns: []string{"hmc1", "hmc1.example.com"}, ips: []net.IP{net.IPv4(10, 0, 0, 1)}, ca: ca})
	self := newCert(t, certOptions{name: "hmc1", dns: []string{"hmc1"}})
	expired := newCert(t, certOptions{name: "hmc1", dns: []string{"hmc1"}, ca: ca, notAfter: now.Add(-time.Hour)})
	future := newCert(t, certOptions{name: "hmc1", dns: []string{"hmc1"}, ca: ca, notBefore: now.Add(time.Hour)})
	nameless := newCert(t, certOptions{name: "hmc1", ca: ca})
	var many []string
	for i := range 15 {
		many = append(many, fmt.Sprintf("n%d", i))
	}
	crowded := newCert(t, certOptions{name: "hmc1", dns: many, ca: ca})
	fingerprint := fmt.Sprintf("%X", sha256.Sum256(self.cert.Raw))
	tls11 := serverConfig(good)
	tls11.MinVersion, tls11.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	mutual := serverConfig(good)
	mutual.MaxVersion, mutual.ClientAuth = tls.VersionTLS12, tls.RequireAnyClientCert

	for name, tc := range map[string]struct {
		server *tls.Config
		client TLS
		host   string
		want   string
	}{
		"good":          {serverConfig(good), trust, "hmc1.example.com", ""},
		"good address":  {serverConfig(good), trust, "10.0.0.1", ""},
		"not verified":  {serverConfig(self), TLS{InsecureSkipVerify: true}, "other", ""},
		"server name":   {serverConfig(good), TLS{CAFile: caFile, ServerName: "hmc1"}, "192.0.2.1", ""},
		"unknown":       {serverConfig(good), TLS{}, "hmc1", "the certificate of hmc1 is signed by an unknown authority (Example CA): put the HMC's CA certificate into a file and name it in tls.ca_file"},
		"self-signed":   {serverConfig(self), TLS{}, "hmc1", "the certificate of hmc1 is self-signed (SHA-256 fingerprint " + fingerprint + "): if the fingerprint is the one the HMC shows, put this certificate into a file and name it in tls.ca_file"},
		"other CA":      {serverConfig(self), trust, "hmc1", "the certificate of hmc1 is self-signed (SHA-256 fingerprint " + fingerprint + ") and not in tls.ca_file (" + caFile + "): if the fingerprint is the one the HMC shows, put this certificate into that file"},
		"expired":       {serverConfig(expired), trust, "hmc1", "the certificate of hmc1 expired on " + now.Add(-time.Hour).Format(time.DateOnly) + ": renew it on the HMC"},
		"not yet valid": {serverConfig(future), trust, "hmc1", "the certificate of hmc1 is not valid before " + now.Add(time.Hour).Format("2006-01-02 15:04 UTC") + ", and here it is "},
		"other name":    {serverConfig(good), trust, "hmc2", "the certificate is not for hmc2 but for hmc1, hmc1.example.com, 10.0.0.1: connect to one of these names, or set tls.server_name to it"},
		"other address": {serverConfig(good), trust, "10.0.0.2", "the certificate is not for 10.0.0.2 but for hmc1, hmc1.example.com, 10.0.0.1: connect to one of these names, or set tls.server_name to it"},
		"wrong setting": {serverConfig(good), TLS{CAFile: caFile, ServerName: "hmc7"}, "hmc1", "the certificate is not for hmc7, which tls.server_name asks for, but for hmc1, hmc1.example.com, 10.0.0.1: set tls.server_name to one of these"},
		"no names":      {serverConfig(nameless), trust, "hmc1", "the certificate of hmc1 holds no name or address that could be compared with hmc1 (a common name alone does not count): create a new one on the HMC with subject alternative names"},
		"many names":    {serverConfig(crowded), trust, "hmc1", "the certificate is not for hmc1 but for n0, n1, n2, n3, n4, n5, n6, n7, n8, n9, and 5 more: connect"},
		"webhook":       {serverConfig(self), TLS{where: "http_config.tls_config"}, "hmc1", "the certificate of hmc1 is self-signed (SHA-256 fingerprint " + fingerprint + "): if the fingerprint is the one the server shows, put this certificate into a file and name it in http_config.tls_config.ca_file"},
		"old TLS":       {tls11, trust, "hmc1", "the HMC refused the TLS connection (tls: protocol version not supported): enable TLS 1.2 or 1.3 there"},
		"mutual TLS":    {mutual, trust, "hmc1", "the HMC refused the TLS connection (tls: "},
		"no TLS":        {nil, trust, "hmc1", "what answers on this port does not speak TLS: check the port of the HMC"},
	} {
		t.Run(name, func(t *testing.T) {
			err := handshake(t, tc.server, tc.client, tc.host)
			if (err == nil) != (tc.want == "") {
				t.Fatalf("handshake: %v", err)
			}
			got := tc.client.Explain(fmt.Errorf("wrapped: %w", err))
			if tc.want == "" && got != "" || !strings.HasPrefix(got, tc.want) {
				t.Errorf("error %v\n got %q\nwant %q", err, got, tc.want)
			}
		})
	}
	if got := trust.Explain(errors.New("connection refused")); got != "" {
		t.Errorf("explains what has nothing to do with TLS: %q", got)
	}
	if got := trust.Explain(nil); got != "" {
		t.Errorf("explains no error: %q", got)
	}
	if got := trust.Explain(x509.SystemRootsError{Err: errors.New("no file")}); !strings.Contains(got, "tls.ca_file") {
		t.Errorf("system roots: %q", got)
	}
	if got := trust.Explain(x509.UnknownAuthorityError{}); !strings.Contains(got, "tls.ca_file") {
		t.Errorf("unknown authority without a certificate: %q", got)
	}
	if got := trust.Explain(x509.CertificateInvalidError{Cert: good.cert, Reason: x509.TooManyIntermediates}); !strings.Contains(got, "create a new one on the HMC") {
		t.Errorf("invalid certificate: %q", got)
	}
}

// Where the CA file has a certificate of the right name, its text does not say that it is missing.
func TestExplainCandidates(t *testing.T) {
	ca := newCert(t, certOptions{name: "Example CA", isCA: true})
	later := newCert(t, certOptions{name: "Example CA", isCA: true})
	none := newCert(t, certOptions{name: "Example CA"})
	leaf := certOptions{name: "hmc1", dns: []string{"hmc1"}, ca: ca}
	of := func(change func(o *certOptions)) *testCert {
		o := leaf
		change(&o)
		return newCert(t, o)
	}
	for name, tc := range map[string]struct {
		in, server *testCert
		want       string
	}{
		"SHA-1":           {ca, of(func(o *certOptions) { o.algorithm = x509.ECDSAWithSHA1 }), "but is signed with ECDSA-SHA1, which nobody accepts any more: have a certificate made for the HMC that is signed with SHA-256 or better"},
		"later authority": {ca, of(func(o *certOptions) { o.ca = later }), ""},
		"no authority":    {none, of(func(o *certOptions) { o.ca = none }), "but that certificate is not of an authority"},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "ca.pem")
			if err := os.WriteFile(file, pemOf(t, tc.in.cert), 0o600); err != nil {
				t.Fatal(err)
			}
			trust := TLS{CAFile: file}
			err := handshake(t, serverConfig(tc.server), trust, "hmc1")
			want := "the certificate of hmc1 leads to Example CA, which is in tls.ca_file (" + file + "), " + tc.want
			if tc.want == "" {
				want = "the certificate of hmc1 is signed by an unknown authority (Example CA) and not by the one of that name in tls.ca_file (" + file + "), which may be an earlier one: put the HMC's CA certificate into that file"
			}
			if got := trust.Explain(err); !strings.HasPrefix(got, want) {
				t.Errorf("%v\n got %q\nwant %q", err, got, want)
			}
		})
	}
}

func pool(t *testing.T, pem ...[]byte) *x509.CertPool {
	t.Helper()
	p := x509.NewCertPool()
	for _, data := range pem {
		if !p.AppendCertsFromPEM(data) {
			t.Fatal("no certificate")
		}
	}
	return p
}

// negative returns a certificate with the serial number -5, validly signed by itself.
func negative(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(5), Subject: pkix.Name{CommonName: "hmc1"}, DNSNames: []string{"hmc1"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	var parts struct {
		TBS       asn1.RawValue
		Algorithm asn1.RawValue
		Signature asn1.BitString
	}
	if _, err := asn1.Unmarshal(der, &parts); err != nil {
		t.Fatal(err)
	}
	serial := []byte{0x02, 0x01, 5}
	tbs := bytes.Replace(parts.TBS.FullBytes, serial, []byte{0x02, 0x01, 0xfb}, 1)
	sum := sha256.Sum256(tbs)
	signature, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
	if err != nil || bytes.Equal(tbs, parts.TBS.FullBytes) {
		t.Fatal(err)
	}
	parts.TBS, parts.Signature = asn1.RawValue{FullBytes: tbs}, asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)}
	der, err = asn1.Marshal(parts)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// What Go has stopped to accept of servers is explained with the way to have it accepted, which works.
func TestExplainWhatGoRefuses(t *testing.T) {
	odd := negative(t)
	caFile := filepath.Join(t.TempDir(), "ca.pem")
	oddPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: odd.Certificate[0]})
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(5), Subject: pkix.Name{CommonName: "hmc1"}, DNSNames: []string{"hmc1"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	rsaOnly := &tls.Config{
		MinVersion: tls.VersionTLS12, MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_RSA_WITH_AES_128_GCM_SHA256},
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
	}
	if err := os.WriteFile(caFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		server *tls.Config
		pem    []byte
		godebug,
		want string
	}{
		"serial number -5": {
			&tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{odd}}, oddPEM,
			"x509negativeserial=1", "the certificate of the HMC has a serial number below zero: have a certificate made with a serial number above zero, or set GODEBUG=x509negativeserial=1 in the environment of hmcnotifyd",
		},
		"RSA key exchange only": {
			rsaOnly, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
			"tlsrsakex=1", "the HMC refused the TLS connection (tls: handshake failure): it may have no cipher suite with ECDHE, which is what is offered: enable such ones there; " +
				"if it has suites with an RSA key exchange only, GODEBUG=tlsrsakex=1 in the environment of hmcnotifyd offers those too; suites with DHE only cannot be used; " +
				"nor can a certificate whose key is neither RSA nor ECDSA on P-256, P-384 or P-521",
		},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "ca.pem")
			trust := TLS{CAFile: caFile}
			err := handshake(t, tc.server, trust, "hmc1")
			if got := trust.Explain(fmt.Errorf("wrapped: %w", err)); err == nil || got != tc.want {
				t.Errorf("error %v\n got %q\nwant %q", err, got, tc.want)
			}
			if err := os.WriteFile(file, tc.pem, 0o600); err != nil {
				t.Fatal(err)
			}
			t.Setenv("GODEBUG", tc.godebug)
			if err := handshake(t, tc.server, TLS{CAFile: file}, "hmc1"); err != nil {
				t.Errorf("with GODEBUG=%s: %v", tc.godebug, err)
			}
		})
	}
	t.Run("DHE only", func(t *testing.T) {
		err := handshake(t, nil, TLS{}, "hmc1", 0x15, 3, 3, 0, 2, 2, 40) // the alert of a server that knows nothing else
		if got := (TLS{}).Explain(err); !strings.Contains(got, "suites with DHE only cannot be used") {
			t.Errorf("%v: %q", err, got)
		}
	})
	t.Run("in a CA file", func(t *testing.T) {
		if _, err := trust.Certificates(oddPEM); err == nil || !strings.HasSuffix(err.Error(), "; "+trust.NegativeSerialRemedy) {
			t.Errorf("%v", err)
		}
		t.Setenv("GODEBUG", "x509negativeserial=1")
		if _, err := trust.Certificates(oddPEM); err != nil {
			t.Error(err)
		}
	})
}

// A byte order mark in front of a CA file does not hide its first certificate.
func TestByteOrderMarkOfACAFile(t *testing.T) {
	one := pemOf(t, newCert(t, certOptions{name: "one", isCA: true}).cert)
	two := pemOf(t, newCert(t, certOptions{name: "two", isCA: true}).cert)
	certs, err := trust.Certificates(append([]byte("\ufeff"), append(one, two...)...))
	if err != nil || len(certs) != 2 {
		t.Errorf("%d certificates, %v", len(certs), err)
	}
}

// The contents of the CA file are read by Load: a file that changes or goes later does not matter,
// and a changed file makes a changed configuration.
func TestCAFileIsReadOnce(t *testing.T) {
	one := pemOf(t, newCert(t, certOptions{name: "one", isCA: true}).cert)
	two := pemOf(t, newCert(t, certOptions{name: "two", isCA: true}).cert)
	path := filepath.Join(t.TempDir(), "c.yaml")
	ca := filepath.Join(filepath.Dir(path), "ca.pem")
	write := func(path string, data []byte) {
		t.Helper()
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(path, []byte("hmcs: [{name: a, hosts: [h], userid: u, password: p, tls: {ca_file: ca.pem}}]\nsinks: [{name: s, log: {}}]"))
	write(ca, one)
	load := func() *Config {
		t.Helper()
		c, err := Load(path)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	before, same := load(), load()
	write(ca, append(one, two...))
	after := load()
	if err := os.Remove(ca); err != nil {
		t.Fatal(err)
	}
	if before.HMCs[0].TLS != same.HMCs[0].TLS || !before.HMCs[0].Equal(&same.HMCs[0]) || before.Hash() != same.Hash() {
		t.Error("the same file makes another configuration")
	}
	if before.HMCs[0].TLS == after.HMCs[0].TLS || before.HMCs[0].Equal(&after.HMCs[0]) || before.Hash() == after.Hash() {
		t.Error("a changed CA file goes unnoticed")
	}
	for _, c := range []*Config{before, after} {
		cfg, err := c.HMCs[0].TLS.ClientConfig()
		if err != nil || cfg.RootCAs == nil || cfg.MinVersion != tls.VersionTLS12 || cfg.InsecureSkipVerify {
			t.Errorf("%+v, %v", cfg, err)
		}
	}
	if _, err := (TLS{CAFile: ca}).ClientConfig(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file without Load: %v", err)
	}
	if cfg, err := (TLS{}).ClientConfig(); err != nil || cfg.RootCAs != nil {
		t.Errorf("the zero TLS: %v, %v", cfg, err)
	}
}
