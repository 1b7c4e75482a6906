// Package trust reads certificates, and says what is wrong where a TLS connection could not be
// made: which setting, or what on the server, to change.
package trust

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Certificates returns all certificates of a PEM file. Its errors go on after the name of the
// file.
func Certificates(data []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	data = bytes.TrimPrefix(data, []byte("\ufeff")) // it hides the first certificate
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("holds a %s: it must hold only certificates", block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			err = fmt.Errorf("holds a certificate that cannot be read (number %d): %w", len(certs)+1, err)
			if strings.Contains(err.Error(), negativeSerial) {
				err = fmt.Errorf("%w; %s", err, NegativeSerialRemedy)
			}
			return nil, err
		}
		certs = append(certs, c)
	}
	if len(certs) == 0 {
		return nil, errors.New("holds no certificate: it must be PEM, with a line -----BEGIN CERTIFICATE-----")
	}
	return certs, nil
}

// NegativeSerialRemedy is what to do about a serial number that Go has stopped to accept.
const NegativeSerialRemedy = "have a certificate made with a serial number above zero, " +
	"or set GODEBUG=x509negativeserial=1 in the environment of hmcnotifyd"

// What crypto/tls and crypto/x509 say without a type, of what they have stopped to accept. The
// environment variable GODEBUG brings it back.
const (
	negativeSerial   = "negative serial number"
	handshakeFailure = "handshake failure"
	keyExchange      = "it may have no cipher suite with ECDHE, which is what is offered: enable such ones there; " +
		"if it has suites with an RSA key exchange only, GODEBUG=tlsrsakex=1 in the environment of hmcnotifyd " +
		"offers those too; suites with DHE only cannot be used; nor can a certificate whose key is neither RSA nor " +
		"ECDSA on P-256, P-384 or P-521"
)

// Settings are what a side has set about the certificate of its peer.
type Settings struct {
	// Key names them in the configuration, and Peer who is connected to, both for people.
	Key, Peer string
	// What they say.
	CAFile, ServerName string
}

// Explain turns the error of a connection that failed over its certificate or TLS itself into a
// sentence that says what is wrong and which setting, or what on the server, to change. It returns
// "" for any other error.
func (s Settings) Explain(err error) string {
	key, peer := s.Key, s.Peer
	var (
		unknown  x509.UnknownAuthorityError
		hostname x509.HostnameError
		invalid  x509.CertificateInvalidError
		roots    x509.SystemRootsError
		record   tls.RecordHeaderError
		op       *net.OpError
	)
	switch {
	case errors.As(err, &hostname) && hostname.Certificate != nil:
		return s.explainName(hostname, key, peer)
	case errors.As(err, &invalid) && invalid.Cert != nil:
		return explainInvalid(invalid, peer)
	case errors.As(err, &unknown):
		return s.explainUnknown(unknown, leafOf(err), key, peer)
	case errors.As(err, &roots):
		return fmt.Sprintf("the certificate authorities of this system cannot be read (%v): "+
			"install them, or name a file with the %s's CA certificate in %s.ca_file", roots.Err, peer, key)
	case errors.As(err, &record):
		return fmt.Sprintf("what answers on this port does not speak TLS: check the port of the %s", peer)
	case errors.As(err, &op) && op.Op == "remote error":
		// an alert, of a type that crypto/tls keeps to itself
		if strings.Contains(op.Err.Error(), "protocol version") {
			return fmt.Sprintf("the %s refused the TLS connection (%v): enable TLS 1.2 or 1.3 there", peer, op.Err)
		}
		if strings.Contains(op.Err.Error(), handshakeFailure) {
			return fmt.Sprintf("the %s refused the TLS connection (%v): %s", peer, op.Err, keyExchange)
		}
		if strings.Contains(op.Err.Error(), "certificate required") {
			return fmt.Sprintf("the %s refused the TLS connection (%v): it wants to see a certificate of this side",
				peer, op.Err)
		}
		return fmt.Sprintf("the %s refused the TLS connection (%v)", peer, op.Err)
	case err != nil && strings.Contains(err.Error(), negativeSerial):
		return fmt.Sprintf("the certificate of the %s has a serial number below zero: %s", peer, NegativeSerialRemedy)
	case err != nil && strings.Contains(err.Error(), "server selected unsupported protocol version"):
		return fmt.Sprintf("the %s offers only TLS older than 1.2: enable TLS 1.2 or 1.3 there", peer)
	}
	return ""
}

// leafOf returns the certificate the server showed for itself; nil: it is not in the error.
func leafOf(err error) *x509.Certificate {
	e, ok := errors.AsType[*tls.CertificateVerificationError](err)
	if ok && len(e.UnverifiedCertificates) > 0 {
		return e.UnverifiedCertificates[0]
	}
	return nil
}

// candidate is what crypto/x509 says of a certificate of an authority that has the right name.
var candidate = regexp.MustCompile(
	`possibly because of "(.*)" while trying to verify candidate authority certificate "(.*)"`)

// whyNot says why such a certificate does not count, by what crypto/x509 says; "": it is another
// authority's.
func whyNot(problem, peer string) string {
	switch {
	case strings.Contains(problem, "insecure algorithm"):
		_, algorithm, _ := strings.Cut(problem, "insecure algorithm ")
		return fmt.Sprintf("is signed with %s, which nobody accepts any more: have a certificate made for the %s "+
			"that is signed with SHA-256 or better", cmp.Or(algorithm, "an old algorithm"), peer)
	case strings.Contains(problem, "cannot sign"):
		return "that certificate is not of an authority (basic constraints, key usage), and may not sign others: " +
			"have the authority's made anew"
	}
	return ""
}

func (s Settings) explainUnknown(unknown x509.UnknownAuthorityError, leaf *x509.Certificate, key, peer string) string {
	leaf = cmp.Or(leaf, unknown.Cert)
	where := "into a file and name it in " + key + ".ca_file"
	if leaf == nil {
		return fmt.Sprintf("the %s's certificate is signed by an unknown authority: "+
			"put the %s's CA certificate %s", peer, peer, where)
	}
	selfSigned, not := leaf.Subject.String() == leaf.Issuer.String(), ""
	if s.CAFile != "" {
		where, not = "into that file", " and not by one"
		if selfSigned {
			not = " and not"
		}
		not += fmt.Sprintf(" in %s.ca_file (%s)", key, s.CAFile)
	}
	if found := candidate.FindStringSubmatch(unknown.Error()); found != nil && s.CAFile != "" && !selfSigned {
		if problem := whyNot(found[1], peer); problem != "" {
			return fmt.Sprintf("the certificate of %s leads to %s, which is in %s.ca_file (%s), but %s",
				Subject(leaf), found[2], key, s.CAFile, problem)
		}
		not = fmt.Sprintf(" and not by the one of that name in %s.ca_file (%s), which may be an earlier one",
			key, s.CAFile)
	}
	if selfSigned {
		return fmt.Sprintf("the certificate of %s is self-signed (SHA-256 fingerprint %X)%s: "+
			"if the fingerprint is the one the %s shows, put this certificate %s",
			Subject(leaf), sha256.Sum256(leaf.Raw), not, peer, where)
	}
	return fmt.Sprintf("the certificate of %s is signed by an unknown authority (%s)%s: put the %s's CA certificate %s",
		Subject(leaf), issuer(leaf), not, peer, where)
}

func (s Settings) explainName(e x509.HostnameError, key, peer string) string {
	names := names(e.Certificate)
	if len(names) == 0 {
		return fmt.Sprintf("the certificate of %s holds no name or address that could be compared with %s (a common "+
			"name alone does not count): create a new one on the %s with subject alternative names",
			Subject(e.Certificate), e.Host, peer)
	}
	list := strings.Join(names, ", ")
	if s.ServerName != "" {
		return fmt.Sprintf("the certificate is not for %s, which %s.server_name asks for, but for %s: "+
			"set %s.server_name to one of these", e.Host, key, list, key)
	}
	return fmt.Sprintf("the certificate is not for %s but for %s: "+
		"connect to one of these names, or set %s.server_name to it", e.Host, list, key)
}

func explainInvalid(e x509.CertificateInvalidError, peer string) string {
	if e.Reason == x509.Expired {
		if now := time.Now(); now.Before(e.Cert.NotBefore) {
			return fmt.Sprintf("the certificate of %s is not valid before %s, and here it is %s: "+
				"check the clocks of this machine and of the %s",
				Subject(e.Cert), instant(e.Cert.NotBefore), instant(now), peer)
		}
		return fmt.Sprintf("the certificate of %s expired on %s: renew it on the %s",
			Subject(e.Cert), Day(e.Cert.NotAfter), peer)
	}
	return fmt.Sprintf("the certificate of %s cannot be used (%v): create a new one on the %s",
		Subject(e.Cert), e, peer)
}

// names lists what a certificate is valid for.
func names(c *x509.Certificate) []string {
	list := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		list = append(list, ip.String())
	}
	const limit = 10
	if len(list) > limit {
		list = append(list[:limit], fmt.Sprintf("and %d more", len(list)-limit))
	}
	return list
}

// Subject names a certificate for people.
func Subject(c *x509.Certificate) string {
	first := strings.Join(names(c)[:min(len(names(c)), 1)], "")
	return cmp.Or(c.Subject.CommonName, first, c.Subject.String(), "the server")
}

func issuer(c *x509.Certificate) string { return cmp.Or(c.Issuer.CommonName, c.Issuer.String()) }

// Day writes a day of the end of a certificate.
func Day(t time.Time) string { return t.UTC().Format(time.DateOnly) }

func instant(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }
