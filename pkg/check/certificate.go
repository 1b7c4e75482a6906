package check

import (
	"bytes"
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
	"syscall"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/logon"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
)

const (
	// dialTimeout is how long one address may take to answer.
	dialTimeout = 15 * time.Second
	// expiryWarning is how long before a certificate expires that is worth a word.
	expiryWarning = 30 * 24 * time.Hour
)

// shown is what answers at one address.
type shown struct {
	address string
	// err is why nothing answers, or why its certificate does not verify.
	err error
	// chain is as it was shown, its own first; nil: nothing answers. verified goes up to the
	// authority; nil: it does not verify.
	chain, verified []*x509.Certificate
}

// fine says whether the daemon could connect.
func (s *shown) fine(insecure bool) bool { return s.err == nil || insecure && s.chain != nil }

// certificates are those up to the authority where they verify, else those that were shown.
func (s *shown) certificates() []*x509.Certificate {
	if s.verified != nil {
		return s.verified
	}
	return s.chain
}

// isSelfSigned says whether a certificate was signed with its own key.
func isSelfSigned(cert *x509.Certificate) bool { return bytes.Equal(cert.RawIssuer, cert.RawSubject) }

// lookAtHosts says which hosts answer, and with which certificates. It reports whether the daemon
// can connect to one, the first of which is used.
func (c *hmcCheck) lookAtHosts(ctx context.Context) bool {
	port, what := c.cfg.RESTPort, "Web Services API"
	if !c.session.UsesREST() {
		port, what = c.cfg.StompPort, "link"
	}
	var others []shown
	found := false
	for i, host := range c.cfg.Hosts {
		seen := c.look(ctx, host, port)
		fine := seen.fine(c.cfg.TLS.InsecureSkipVerify)
		switch {
		case found && fine:
			c.info("%s answers too, and is used when those before it do not", seen.address)
			c.expiry(&seen)
		case found:
			c.warn("%s, which is used when those before it do not answer: %s", seen.address, c.why(&seen))
		case !fine:
			others = append(others, seen)
		default:
			found = true
			c.session.UseHost(i)
			for j := range others {
				c.warn("%s: %s; the next host is used", others[j].address, c.why(&others[j]))
			}
			c.info("%s answers (%s)", seen.address, what)
			c.certificate(&seen)
			if c.session.UsesREST() {
				c.linkCertificate(ctx, host, &seen)
			}
		}
	}
	for i := range others {
		if seen := &others[i]; !found {
			if seen.chain != nil {
				c.info("%s answers (%s)", seen.address, what)
				c.chain(seen)
			}
			c.problem("%s: %s", seen.address, c.why(seen))
			c.fetchHint(seen)
		}
	}
	return found
}

// why says why the daemon cannot connect.
func (c *hmcCheck) why(seen *shown) string {
	var (
		dns     *net.DNSError
		network net.Error
		err     = seen.err
		text    = logon.Explain(&c.cfg, err)
	)
	switch {
	case errors.As(err, &dns):
		text += ": look at the name under hosts, and whether this machine can resolve it"
	case errors.Is(err, syscall.ECONNREFUSED):
		text += ": nothing listens there; look at the port, and on the HMC at Customize API Settings " +
			"(Web Services API, STOMP over TLS)"
	case errors.As(err, &network) && network.Timeout():
		text += ": look whether the HMC is up, and whether a firewall lets this machine through"
	}
	return text
}

// look connects to an address and looks at its certificate. Nothing secret is sent, whoever
// answers.
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
	cfg := c.session.TLS.Clone()
	if cfg.ServerName == "" {
		cfg.ServerName, _, _ = strings.Cut(host, "%") // an address may have a zone
	}
	// it is verified below, so that one that does not verify can be shown
	cfg.InsecureSkipVerify = true
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
		seen.err = &tls.CertificateVerificationError{UnverifiedCertificates: seen.chain, Err: err}
		return seen
	}
	seen.verified = chains[0]
	return seen
}

// certificate says all about the certificate of an address that the daemon connects to.
func (c *hmcCheck) certificate(seen *shown) {
	c.chain(seen)
	if c.cfg.TLS.InsecureSkipVerify {
		if seen.err == nil {
			c.warn("tls.insecure_skip_verify is set, and not needed: the certificate verifies")
		} else {
			c.warn("the certificate is not verified, because tls.insecure_skip_verify is set: "+
				"whoever is on the way can read the password. Without it: %s", c.why(seen))
			c.fetchHint(seen)
		}
	}
	c.expiry(seen)
}

// chain shows the certificates, up to the authority where they verify.
func (c *hmcCheck) chain(seen *shown) {
	chain := seen.certificates()
	for i, cert := range chain {
		first, last := i == 0, i == len(chain)-1
		selfSigned := first && isSelfSigned(cert)
		text := "signed by " + named(cert)
		if first {
			text = "certificate of " + named(cert)
			if names := certificateNames(cert); names != "" {
				text += ", for " + names
			}
		}
		if selfSigned {
			text += ", self-signed"
		}
		switch trusted := seen.verified != nil; {
		case trusted && (selfSigned || last && !first):
			text += ", " + c.trusted()
		case !trusted && last && !selfSigned:
			text += ", signed by " + nameOf(&cert.Issuer)
		}
		text += fmt.Sprintf("; valid until %s (%s)", day(cert.NotAfter), daysUntil(cert.NotAfter))
		if first && seen.verified == nil {
			text += fmt.Sprintf("; SHA-256 fingerprint %X", sha256.Sum256(cert.Raw))
		}
		c.info("%s: %s", seen.address, text)
	}
}

// trusted says why an authority counts.
func (c *hmcCheck) trusted() string {
	if c.cfg.TLS.CAFile != "" {
		return "which is in tls.ca_file"
	}
	return "which this system trusts"
}

// linkCertificate looks at the other port of the host in use, which on an HMC has the same
// certificate.
func (c *hmcCheck) linkCertificate(ctx context.Context, host string, rest *shown) {
	seen := c.look(ctx, host, c.cfg.StompPort)
	if seen.chain == nil {
		if c.noLink = ctx.Err() == nil; c.noLink {
			text := c.why(&seen)
			if c.cfg.StompPort != receiver.DefaultPort {
				text += fmt.Sprintf("; stomp_port is %d, on HMCs it is %d", c.cfg.StompPort, receiver.DefaultPort)
			}
			c.problem("the link cannot be made: %s: %s", seen.address, text)
		}
		return
	}
	if seen.chain[0].Equal(rest.chain[0]) {
		c.info("%s answers (link) with the same certificate", seen.address)
		return
	}
	c.info("%s answers (link)", seen.address)
	c.certificate(&seen)
}

// expiry warns of a certificate of the chain that is about to expire.
func (c *hmcCheck) expiry(seen *shown) {
	for _, cert := range seen.certificates() {
		when, do := "expired on "+day(cert.NotAfter), "renew it on the HMC, in Certificate Management"
		switch left := time.Until(cert.NotAfter); {
		case left >= expiryWarning:
			continue
		case left > 0:
			when = fmt.Sprintf("expires on %s (%s)", day(cert.NotAfter), daysUntil(cert.NotAfter))
			do += "; if another authority signs the new one, add that to tls.ca_file before"
		}
		c.warn("%s: the certificate of %s %s: %s", seen.address, named(cert), when, do)
	}
}

// fetchHint says how a self-signed certificate gets into a file, where that is what is missing.
func (c *hmcCheck) fetchHint(seen *shown) {
	if unknown, ok := errors.AsType[x509.UnknownAuthorityError](seen.err); !ok || unknown.Cert == nil ||
		!isSelfSigned(seen.chain[0]) {
		return
	}
	c.info("%s: to get the certificate into a file: "+
		"openssl s_client -connect %[1]s </dev/null 2>/dev/null | openssl x509 > hmc-ca.pem; "+
		"compare the fingerprint with what the HMC shows in Certificate Management", seen.address)
}

func day(t time.Time) string { return t.UTC().Format(time.DateOnly) }

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
