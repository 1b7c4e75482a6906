package config

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Syslog sends events to a syslog server, as RFC 5424 says.
type Syslog struct {
	// required; tcp://HOST:PORT, tls://HOST:PORT, udp://HOST:PORT or unix:///PATH; see Target
	Address string `yaml:"address"`
	// how messages on a connection are told apart; of the Framing constants; default:
	// octet-counting, none for datagrams
	Framing  string `yaml:"framing"`
	Facility string `yaml:"facility"` // such as local0, daemon or auth; of SyslogFacilities
	AppName  string `yaml:"app_name"` // the program that the messages name
	// the host that the messages name; empty: this machine's name
	Hostname string    `yaml:"hostname"`
	Format   string    `yaml:"format"`   // json, text, cadf or os-forwarder
	MaxSize  Size      `yaml:"max_size"` // of a message; what is longer is cut
	TLS      SyslogTLS `yaml:"tls"`      // of tls:// addresses
}

// The values of Syslog.Format that only it has.
const (
	FormatCADF = "cadf" // log entries as CADF events, others as JSON
	// OS messages as zhmc-os-forwarder writes them, others as text.
	FormatOSForwarder = "os-forwarder"
)

// The values of Syslog.Framing.
const (
	FramingOctetCounting = "octet-counting" // the length in front of each message
	FramingLF            = "lf"             // a line feed behind each message
)

// The schemes of Syslog.Address.
const (
	SyslogTCP     = "tcp"
	SyslogUDP     = "udp"
	SyslogOverTLS = "tls"
	SyslogUnix    = "unix"
)

// SyslogFacilities lists the names of the facilities; the index is the number of RFC 5424.
func SyslogFacilities() []string {
	return []string{
		"kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp", "ntp", "audit", "alert",
		"clock", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
	}
}

const (
	// minSyslogSize leaves room for a message behind the longest header, and maxSyslogSize
	// bounds the memory for one.
	minSyslogSize = kib
	maxSyslogSize = 64 * mib

	// defaultSyslogSize is below what rsyslog takes, unless told otherwise, of one message:
	// 8096 bytes. Of a longer one it makes several, of which those after the first begin with
	// whatever stands there.
	defaultSyslogSize = 8000

	// What RFC 5424 allows.
	maxSyslogHostname = 255
	maxSyslogAppName  = 48
)

// SyslogTLS says how the certificate of a syslog server is verified, and which one to show to it.
//
// The contents of the files take part in a comparison.
type SyslogTLS struct {
	// PEM, absolute; empty: the system's certificate authorities
	CAFile string `yaml:"ca_file"`
	// the name the certificate must have; empty: the host connected to
	ServerName         string `yaml:"server_name"`
	InsecureSkipVerify bool   `yaml:"insecure_skip_verify"` // true: no verification
	CertFile           string `yaml:"cert_file"`            // of the client, PEM, absolute
	KeyFile            string `yaml:"key_file"`             // of the client, PEM, absolute

	ca, cert string // what CAFile and CertFile held when they were loaded
	key      Secret // what KeyFile held
}

func (s *Syslog) setDefaults() {
	s.Facility = "local0"
	s.AppName = "hmcnotifyd"
	s.Format = FormatJSON
	s.MaxSize = defaultSyslogSize
}

// Target splits the address: the scheme, and HOST:PORT or the path of a socket.
func (s *Syslog) Target() (scheme, target string, err error) {
	const forms = "write tcp://HOST:PORT, tls://HOST:PORT, udp://HOST:PORT or unix:///PATH"
	u, err := url.Parse(s.Address)
	if err != nil {
		return "", "", fmt.Errorf("is not an address: %s", forms)
	}
	switch {
	case u.User != nil:
		return "", "", fmt.Errorf("must not hold a userid: %s", forms)
	case u.RawQuery != "" || u.Fragment != "" || u.Opaque != "":
		return "", "", fmt.Errorf("is not an address: %s", forms)
	case u.Scheme == SyslogUnix && (u.Host != "" || !filepath.IsAbs(u.Path)):
		return "", "", fmt.Errorf("must hold the whole path of a socket: write %s:///dev/log", SyslogUnix)
	case u.Scheme == SyslogUnix:
		return u.Scheme, u.Path, nil
	case u.Scheme != SyslogTCP && u.Scheme != SyslogOverTLS && u.Scheme != SyslogUDP:
		return "", "", fmt.Errorf("must begin with tcp://, tls://, udp:// or unix://")
	case strings.Trim(u.Path, "/") != "":
		return "", "", fmt.Errorf("must end behind the port: %s", forms)
	}
	if msg := checkHost(u.Hostname()); msg != "" {
		return "", "", fmt.Errorf("has a host that cannot be used: it %s", msg)
	}
	usual := map[string]string{SyslogTCP: "601 or 514", SyslogOverTLS: "6514", SyslogUDP: "514"}[u.Scheme]
	if u.Port() == "" {
		return "", "", fmt.Errorf("has no port (usual is %s): %s", usual, forms)
	}
	if port, err := strconv.Atoi(u.Port()); err != nil || port < 1 || port > 65535 {
		return "", "", fmt.Errorf("has a port that is not between 1 and 65535")
	}
	return u.Scheme, net.JoinHostPort(u.Hostname(), u.Port()), nil
}

// completeSyslog gives the defaults that depend on the address.
func (d *decoder) completeSyslog(path string, s *Syslog) {
	if d.has(join(path, "framing")) {
		return
	}
	switch scheme, _, _ := s.Target(); scheme {
	case SyslogTCP, SyslogOverTLS:
		s.Framing = FramingOctetCounting
	case SyslogUnix: // where it is a stream: what listens on one expects lines
		s.Framing = FramingLF
	}
}

func (d *decoder) syslog(path string, s *Syslog) {
	at := func(key string) string { return join(path, key) }

	scheme, _, err := s.Target()
	switch {
	case s.Address == "":
		d.errorf(at("address"), "is missing: give that of the syslog server, such as tls://syslog.example.com:6514")
	case err != nil:
		d.errorf(at("address"), "%s", err)
	}
	framings := []string{FramingOctetCounting, FramingLF}
	switch {
	case !d.has(at("framing")):
	case !slices.Contains(framings, s.Framing):
		d.errorf(at("framing"), "must be %s, not %s", strings.Join(framings, " or "), quote(s.Framing))
	case scheme == SyslogUDP:
		d.errorf(at("framing"), "is not for udp: each datagram is one message")
	}
	if facilities := SyslogFacilities(); !slices.Contains(facilities, s.Facility) {
		if near := nearest(s.Facility, facilities); near != "" {
			d.errorf(at("facility"), "is not a facility: %s, did you mean %q?", quote(s.Facility), near)
		} else {
			d.errorf(at("facility"), "must be one of %s, not %s", strings.Join(facilities, ", "), quote(s.Facility))
		}
	}
	d.syslogName(at("app_name"), s.AppName, maxSyslogAppName)
	if s.Hostname != "" {
		d.syslogName(at("hostname"), s.Hostname, maxSyslogHostname)
	}
	if formats := []string{FormatJSON, FormatText, FormatCADF, FormatOSForwarder}; !slices.Contains(formats, s.Format) {
		d.errorf(at("format"), "must be one of %s, not %s", strings.Join(formats, ", "), quote(s.Format))
	}
	if s.MaxSize < minSyslogSize || s.MaxSize > maxSyslogSize {
		d.errorf(at("max_size"), "must be between %s and %s, not %s", Size(minSyslogSize), Size(maxSyslogSize), s.MaxSize)
	}
	if scheme != "" && scheme != SyslogOverTLS && s.TLS.isSet() {
		d.errorf(at("tls"), "is of no use with %s://: write tls:// if the server speaks TLS", scheme)
		return
	}
	d.syslogTLS(at("tls"), &s.TLS)
}

// syslogName checks a field of the header, which is printable ASCII without blanks.
func (d *decoder) syslogName(path, name string, longest int) {
	switch {
	case name == "":
		d.errorf(path, "is empty")
	case strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' }):
		d.errorf(path, "may hold only printable ASCII characters without blanks, not %s", quote(name))
	case len(name) > longest:
		d.errorf(path, "is longer than %d characters", longest)
	}
}

// syslogTLS makes paths absolute, and reads and checks the files.
func (d *decoder) syslogTLS(path string, t *SyslogTLS) {
	at := func(key string) string { return join(path, key) }

	server := t.server()
	d.tls(path, &server)
	t.CAFile, t.ca = server.CAFile, server.ca
	switch {
	case t.CertFile == "" && t.KeyFile == "":
		return
	case t.CertFile == "":
		d.errorf(at("key_file"), "is of no use without cert_file: give both or none")
		return
	case t.KeyFile == "":
		d.errorf(at("cert_file"), "is of no use without key_file: give both or none")
		return
	}
	var shownCert, shownKey string
	t.CertFile, shownCert = d.resolve(t.CertFile)
	t.KeyFile, shownKey = d.resolve(t.KeyFile)
	cert, _, err := readFile(t.CertFile, maxCAFile)
	if err != nil {
		d.errorf(at("cert_file"), "%s %s", shownCert, err)
	}
	key, keyMode, keyErr := readFile(t.KeyFile, maxCAFile)
	if keyErr != nil {
		d.errorf(at("key_file"), "%s %s", shownKey, keyErr)
	}
	if err != nil || keyErr != nil {
		return
	}
	d.warnIfPublic(at("key_file"), shownKey, keyMode)
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil { // says what is wrong, and shows nothing of either
		d.errorf(at("cert_file"), "cannot be used with its key: %s", strings.TrimPrefix(err.Error(), "tls: "))
		return
	}
	if pair.Leaf != nil && time.Now().After(pair.Leaf.NotAfter) {
		d.warnf(at("cert_file"), "the certificate of %s in %s expired on %s", subject(pair.Leaf), filepath.Base(shownCert), day(pair.Leaf.NotAfter))
	}
	t.cert, t.key = string(cert), NewSecret(string(key))
}

func (t SyslogTLS) isSet() bool {
	return t.server() != SyslogTLS{}.server() || t.CertFile != "" || t.KeyFile != ""
}

// server is the part of the settings that is about the server's certificate.
func (t SyslogTLS) server() TLS {
	return TLS{CAFile: t.CAFile, ServerName: t.ServerName, InsecureSkipVerify: t.InsecureSkipVerify, ca: t.ca, key: "tls"}
}

// ClientConfig returns the settings for connections to the server, with TLS 1.2 as the least. It
// reads files only for a SyslogTLS that did not come from Load. Where ServerName is empty, the
// caller sets it to the host it connects to.
func (t SyslogTLS) ClientConfig() (*tls.Config, error) {
	cfg, err := t.server().ClientConfig()
	if err != nil {
		return nil, err
	}
	var pair tls.Certificate
	switch {
	case t.CertFile == "" && t.KeyFile == "":
		return cfg, nil
	case t.cert != "":
		pair, err = tls.X509KeyPair([]byte(t.cert), []byte(t.key.Expose()))
	default:
		pair, err = tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
	}
	if err != nil {
		return nil, fmt.Errorf("tls: cert_file: %w", err)
	}
	cfg.Certificates = []tls.Certificate{pair}
	return cfg, nil
}

// Explain says what is wrong where a connection failed over TLS, and which setting to change; "":
// it did not.
func (t SyslogTLS) Explain(err error) string { return t.server().Explain(err) }
