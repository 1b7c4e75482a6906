package hmcsim

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"time"
)

// CertificateKind names what is wrong, if anything, with the certificate that REST and broker
// present.
type CertificateKind string

// The kinds of server certificates.
const (
	// by the CA, for localhost, 127.0.0.1 and ::1.
	CertificateGood    CertificateKind = ""
	CertificateExpired CertificateKind = "expired" // as good, but its time is over
	// for the right names, by nobody but itself: the default of a real HMC.
	CertificateSelfSigned CertificateKind = "self-signed"
	CertificateOtherName  CertificateKind = "other-name" // by the CA, for hmc.example.com only
)

// CA is a certificate authority in memory.
type CA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

// NewCA makes a certificate authority, valid from an hour ago for a year.
func NewCA() (*CA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("hmcsim: CA key: %w", err)
	}
	now := time.Now()
	tmpl := &x509.Certificate{
		Subject:   pkix.Name{CommonName: "hmcsim CA", Organization: []string{"hmcnotifyd simulator"}},
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(1, 0, 0), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	if tmpl.SerialNumber, err = serialNumber(); err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("hmcsim: CA certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("hmcsim: CA certificate: %w", err)
	}
	return &CA{cert: cert, key: key, pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}, nil
}

// PEM returns the CA's certificate in PEM form, as a ca_file holds it.
func (ca *CA) PEM() []byte { return append([]byte(nil), ca.pem...) }

// Pool returns a pool with the CA's certificate alone.
func (ca *CA) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	return pool
}

// ClientTLS returns a client's configuration that trusts this CA only. ServerName is left to the
// caller's dialer.
func (ca *CA) ClientTLS() *tls.Config {
	return &tls.Config{RootCAs: ca.Pool(), MinVersion: tls.VersionTLS12}
}

// Certificate issues a server certificate of the given kind. hosts are DNS names and IP addresses
// it is for; none means localhost, 127.0.0.1 and ::1. CertificateOtherName ignores them.
func (ca *CA) Certificate(kind CertificateKind, hosts ...string) (tls.Certificate, error) {
	if len(hosts) == 0 {
		hosts = []string{"localhost", "127.0.0.1", "::1"}
	}
	now := time.Now()
	tmpl := &x509.Certificate{
		Subject: pkix.Name{CommonName: "hmcsim"}, NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(0, 6, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	parent, selfSigned := ca.cert, false
	switch kind {
	case CertificateGood:
	case CertificateExpired:
		tmpl.NotBefore, tmpl.NotAfter = now.AddDate(0, -7, 0), now.AddDate(0, 0, -1)
	case CertificateSelfSigned:
		parent, selfSigned = tmpl, true
	case CertificateOtherName:
		hosts = []string{"hmc.example.com"}
	default:
		return tls.Certificate{}, fmt.Errorf("hmcsim: certificate kind %q is unknown", kind)
	}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, host)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("hmcsim: server key: %w", err)
	}
	if tmpl.SerialNumber, err = serialNumber(); err != nil {
		return tls.Certificate{}, err
	}
	signer := ca.key
	if selfSigned {
		signer = key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, signer)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("hmcsim: server certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("hmcsim: server certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}

func serialNumber() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fmt.Errorf("hmcsim: serial number: %w", err)
	}
	return n.Add(n, big.NewInt(1)), nil
}
