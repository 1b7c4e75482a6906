package watch

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
)

const (
	// dialTimeout is how long one address may take to answer.
	dialTimeout = 15 * time.Second
	// expiryWarning is how long before a certificate expires that is worth a word.
	expiryWarning = 30 * 24 * time.Hour
)

// shown is what answers at one address.
type shown struct {
	address  string
	err      error               // why nothing answers that could be looked at; nil: something does
	chain    []*x509.Certificate // as it was shown, its own first
	verified []*x509.Certificate // up to the authority; nil: it does not verify
	invalid  error               // why it does not verify
}

// fine says whether the daemon could connect.
func (s *shown) fine(insecure bool) bool { return s.err == nil && (insecure || s.invalid == nil) }

// lookAtHosts says which hosts answer, and with which certificates. It returns the place of the first that the daemon can connect to.
func (c *hmcCheck) lookAtHosts(ctx context.Context) (index int, ok bool) {
	port, what := c.cfg.RESTPort, "Web Services API"
	if !c.s.usesREST() {
		port, what = c.cfg.StompPort, "link"
	}
	var others []shown
	for i, host := range c.cfg.Hosts {
		seen := c.look(ctx, host, port)
		if !seen.fine(c.cfg.TLS.InsecureSkipVerify) {
			others = append(others, seen)
			continue
		}
		for j := range others {
			c.warn("%s: %s; the next host is used", others[j].address, c.why(&others[j]))
		}
		c.say("%s answers (%s)", seen.address, what)
		c.certificate(&seen)
		if c.s.usesREST() {
			c.linkCertificate(ctx, host, &seen)
		}
		c.lookAtStandbys(ctx, c.cfg.Hosts[i+1:], port)
		return i, true
	}
	for i := range others {
		seen := &others[i]
		if seen.err == nil {
			c.say("%s answers (%s)", seen.address, what)
			c.chain(seen)
		}
		c.problem("%s: %s", seen.address, c.why(seen))
		c.fetchHint(seen)
	}
	return 0, false
}

// lookAtStandbys says whether the hosts that would be used next answer as well.
func (c *hmcCheck) lookAtStandbys(ctx context.Context, hosts []string, port int) {
	for _, host := range hosts {
		seen := c.look(ctx, host, port)
		if !seen.fine(c.cfg.TLS.InsecureSkipVerify) {
			c.warn("%s, which is used when those before it do not answer: %s", seen.address, c.why(&seen))
			continue
		}
		c.say("%s answers too, and is used when those before it do not", seen.address)
		c.expiry(&seen)
	}
}

// why says why the daemon cannot connect.
func (c *hmcCheck) why(seen *shown) string {
	err := seen.err
	if err == nil {
		err = seen.invalid
	}
	if text := c.cfg.TLS.Explain(err); text != "" {
		return text
	}
	text := err.Error()
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns):
		text += ": look at the name under hosts, and whether this machine can resolve it"
	case strings.Contains(text, "connection refused"):
		text += ": nothing listens there; look at the port, and on the HMC at Customize API Settings (Web Services API, STOMP over TLS)"
	case strings.Contains(text, "timeout"), errors.Is(err, context.DeadlineExceeded):
		text += ": look whether the HMC is up, and whether a firewall lets this machine through"
	}
	return text
}

// look connects to an address and looks at its certificate. Nothing secret is sent, whoever answers.
func (c *hmcCheck) look(ctx context.Context, host string, port int) shown {
	seen := shown{address: net.JoinHostPort(host, strconv.Itoa(port))}
	c.step("connecting to %s", seen.address)
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", seen.address)
	if err != nil {
		seen.err = err
		return seen
	}
	defer raw.Close()
	cfg := c.s.tls.Clone()
	if cfg.ServerName == "" {
		cfg.ServerName, _, _ = strings.Cut(host, "%") // an address may have a zone
	}
	cfg.InsecureSkipVerify = true // it is verified below, so that one that does not verify can be shown
	conn := tls.Client(raw, cfg)
	if err := conn.HandshakeContext(ctx); err != nil {
		seen.err = err
		return seen
	}
	seen.chain = conn.ConnectionState().PeerCertificates
	verify := x509.VerifyOptions{Roots: cfg.RootCAs, DNSName: cfg.ServerName, Intermediates: x509.NewCertPool()}
	for _, cert := range seen.chain[1:] {
		verify.Intermediates.AddCert(cert)
	}
	chains, err := seen.chain[0].Verify(verify)
	if err != nil {
		seen.invalid = &tls.CertificateVerificationError{UnverifiedCertificates: seen.chain, Err: err}
		return seen
	}
	seen.verified = chains[0]
	return seen
}

// certificate says all about the certificate of an address that the daemon connects to.
func (c *hmcCheck) certificate(seen *shown) {
	c.chain(seen)
	if c.cfg.TLS.InsecureSkipVerify {
		if seen.invalid == nil {
			c.warn("tls.insecure_skip_verify is set, and not needed: the certificate verifies")
		} else {
			c.warn("the certificate is not verified, because tls.insecure_skip_verify is set: whoever is on the way can read the password. Without it: %s", c.why(seen))
			c.fetchHint(seen)
		}
	}
	c.expiry(seen)
}

// chain shows the certificates, up to the authority where they verify.
func (c *hmcCheck) chain(seen *shown) {
	chain := seen.verified
	if chain == nil {
		chain = seen.chain
	}
	for i, cert := range chain {
		text := "certificate of " + named(cert)
		if i == 0 {
			if names := certificateNames(cert); names != "" {
				text += ", for " + names
			}
		} else {
			text = "signed by " + named(cert)
			if i == len(chain)-1 && seen.verified != nil {
				text += ", " + c.trusted()
			}
		}
		switch {
		case string(cert.RawIssuer) == string(cert.RawSubject) && i == 0:
			text += ", self-signed"
			if seen.verified != nil {
				text += ", " + c.trusted()
			}
		case i == len(chain)-1 && seen.verified == nil:
			text += ", signed by " + nameOf(&cert.Issuer)
		}
		text += fmt.Sprintf("; valid until %s (%s)", cert.NotAfter.UTC().Format(time.DateOnly), daysUntil(cert.NotAfter))
		if i == 0 && seen.verified == nil {
			text += fmt.Sprintf("; SHA-256 fingerprint %X", sha256.Sum256(cert.Raw))
		}
		c.say("%s: %s", seen.address, text)
	}
}

// trusted says why an authority counts.
func (c *hmcCheck) trusted() string {
	if c.cfg.TLS.CAFile != "" {
		return "which is in tls.ca_file"
	}
	return "which this system trusts"
}

// linkCertificate looks at the other port of the host in use, which on an HMC has the same certificate.
func (c *hmcCheck) linkCertificate(ctx context.Context, host string, rest *shown) {
	seen := c.look(ctx, host, c.cfg.StompPort)
	if seen.err != nil {
		return // the link itself says so below
	}
	if seen.chain[0].Equal(rest.chain[0]) {
		c.say("%s answers (link) with the same certificate", seen.address)
		return
	}
	c.say("%s answers (link)", seen.address)
	c.certificate(&seen)
}

// expiry warns of a certificate of the chain that is about to expire.
func (c *hmcCheck) expiry(seen *shown) {
	chain := seen.verified
	if chain == nil {
		chain = seen.chain
	}
	for _, cert := range chain {
		switch left := time.Until(cert.NotAfter); {
		case left <= 0:
			c.warn("%s: the certificate of %s expired on %s: renew it on the HMC, in Certificate Management", seen.address, named(cert), cert.NotAfter.UTC().Format(time.DateOnly))
		case left < expiryWarning:
			c.warn("%s: the certificate of %s expires on %s (%s): renew it on the HMC, in Certificate Management; if another authority signs the new one, add that to tls.ca_file before",
				seen.address, named(cert), cert.NotAfter.UTC().Format(time.DateOnly), daysUntil(cert.NotAfter))
		}
	}
}

// fetchHint says how a self-signed certificate gets into a file, where that is what is missing.
func (c *hmcCheck) fetchHint(seen *shown) {
	if unknown, ok := errors.AsType[x509.UnknownAuthorityError](seen.invalid); !ok || unknown.Cert == nil ||
		string(seen.chain[0].RawIssuer) != string(seen.chain[0].RawSubject) {
		return
	}
	c.say("%s: to get the certificate into a file: openssl s_client -connect %s </dev/null 2>/dev/null | openssl x509 > hmc-ca.pem; "+
		"compare the fingerprint with what the HMC shows in Certificate Management", seen.address, seen.address)
}

func named(cert *x509.Certificate) string { return nameOf(&cert.Subject) }

func nameOf(name *pkix.Name) string {
	return cmp.Or(name.CommonName, name.String(), "(no name)")
}

// certificateNames lists what a certificate is for, as far as a line has room.
func certificateNames(cert *x509.Certificate) string {
	names := append([]string(nil), cert.DNSNames...)
	for _, ip := range cert.IPAddresses {
		names = append(names, ip.String())
	}
	const most = 8
	if len(names) > most {
		names = append(names[:most], fmt.Sprintf("and %d more", len(names)-most))
	}
	return strings.Join(names, ", ")
}

func daysUntil(t time.Time) string {
	days := int(time.Until(t) / (24 * time.Hour))
	switch {
	case time.Until(t) < 0:
		return "expired"
	case days == 1:
		return "1 day left"
	}
	return strconv.Itoa(days) + " days left"
}
