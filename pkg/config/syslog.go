package config

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"strings"
)

// Syslog sends events to a syslog server, as RFC 5424 says.
type Syslog struct {
	// required; tcp://HOST:PORT, tls://HOST:PORT, udp://HOST:PORT or unix:///PATH; see Target
	Address string `yaml:"address"`
	// how messages on a connection are told apart; of the Framing constants; default:
	// octet-counting, none for datagrams
	Framing string `yaml:"framing"`
	// such as local0, daemon or auth; of SyslogFacilities
	Facility string `yaml:"facility"`
	// the program that the messages name
	AppName string `yaml:"app_name"`
	// the host that the messages name; empty: this machine's name
	Hostname string `yaml:"hostname"`
	// json, text, cadf, os-forwarder, cef or leef
	Format string `yaml:"format"`
	// with the format cadf: a file that says what further entries of the logs mean, of a newer HMC
	// for example, in the form of zhmc-log-forwarder's log_message_file
	LogMessageFile string `yaml:"log_message_file"`
	// those of LogMessageFile
	LogMessages []LogMessage `yaml:"-"`
	// of a message; what is longer is cut
	MaxSize Size `yaml:"max_size"`
	// of tls:// addresses
	TLS SyslogTLS `yaml:"tls"`
}

// The values of Syslog.Format that only it has.
const (
	// Log entries as CADF events, others as JSON.
	FormatCADF = "cadf"
	// OS messages as zhmc-os-forwarder writes them, others as text.
	FormatOSForwarder = "os-forwarder"
	// The format of ArcSight, which Sentinel reads too.
	FormatCEF = "cef"
	// The format of QRadar.
	FormatLEEF = "leef"
)

// The values of Syslog.Framing.
const (
	// The length in front of each message.
	FramingOctetCounting = "octet-counting"
	// A line feed behind each message.
	FramingLF = "lf"
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
		"kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news",
		"uucp", "cron", "authpriv", "ftp", "ntp", "audit", "alert", "clock",
		"local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
	}
}

const (
	// minSyslogSize leaves room for a message behind the longest header, and maxSyslogSize
	// bounds the memory for one.
	minSyslogSize = kib
	maxSyslogSize = 64 * mib

	// defaultSyslogSize is below what rsyslog accepts of one message by default: 8096 bytes. Of a
	// longer one it makes several, of which those after the first begin with whatever stands there.
	defaultSyslogSize = 8000

	// What RFC 5424 allows.
	maxSyslogHostname = 255
	maxSyslogAppName  = 48
)

// SyslogTLS says how the certificate of a syslog server is verified, and which one to show to it.
//
// The contents of the files take part in a comparison.
type SyslogTLS struct {
	TLS `yaml:",inline"`
	// of the client, PEM, absolute
	CertFile string `yaml:"cert_file"`
	// of the client, PEM, absolute
	KeyFile string `yaml:"key_file"`

	// the contents of CertFile and KeyFile when they were loaded
	cert string
	key  Secret
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
		return "", "", errors.New("is not an address: " + forms)
	}
	wrong := ""
	wrongHost, usual := checkHost(u.Hostname()), map[string]string{
		SyslogTCP: "601 or 514", SyslogOverTLS: "6514", SyslogUDP: "514",
	}[u.Scheme]
	switch {
	case u.User != nil:
		wrong = "must not hold a userid: " + forms
	case u.RawQuery != "" || u.Fragment != "" || u.Opaque != "":
		wrong = "is not an address: " + forms
	case u.Scheme == SyslogUnix && (u.Host != "" || !filepath.IsAbs(u.Path)):
		wrong = "must hold the whole path of a socket: write unix:///dev/log"
	case u.Scheme == SyslogUnix:
		return u.Scheme, u.Path, nil
	case usual == "":
		wrong = "must begin with tcp://, tls://, udp:// or unix://"
	case strings.Trim(u.Path, "/") != "":
		wrong = "must end behind the port: " + forms
	case wrongHost != "":
		wrong = "has a host that cannot be used: it " + wrongHost
	case u.Port() == "":
		wrong = fmt.Sprintf("has no port (usual is %s): %s", usual, forms)
	case !isPort(u.Port()):
		wrong = wrongPort
	default:
		return u.Scheme, net.JoinHostPort(u.Hostname(), u.Port()), nil
	}
	return "", "", errors.New(wrong)
}

func (s *Syslog) check(d *decoder, path string, _ *Sink) {
	at := under(path)
	scheme, _, err := s.Target()
	switch {
	case s.Address == "":
		d.errorf(at("address"), "is missing: give that of the syslog server, such as tls://syslog.example.com:6514")
	case err != nil:
		d.errorf(at("address"), "%s", err)
	}
	switch {
	case d.has(at("framing")):
		d.oneOf(at("framing"), s.Framing, FramingOctetCounting, FramingLF)
		if scheme == SyslogUDP {
			d.errorf(at("framing"), "is not for udp: each datagram is one message")
		}
	case scheme == SyslogTCP || scheme == SyslogOverTLS:
		s.Framing = FramingOctetCounting
	case scheme == SyslogUnix: // where it is a stream: what listens on one expects lines
		s.Framing = FramingLF
	}
	d.known(at("facility"), "facility", s.Facility, SyslogFacilities(), "")
	d.syslogName(at("app_name"), s.AppName, maxSyslogAppName)
	if s.Hostname != "" {
		d.syslogName(at("hostname"), s.Hostname, maxSyslogHostname)
	}
	d.oneOf(at("format"), s.Format, FormatJSON, FormatText, FormatCADF, FormatOSForwarder, FormatCEF, FormatLEEF)
	d.logMessages(at("log_message_file"), s)
	within(d, at("max_size"), s.MaxSize, minSyslogSize, maxSyslogSize)
	if scheme != "" && scheme != SyslogOverTLS && (s.TLS.TLS != TLS{} || s.TLS.CertFile+s.TLS.KeyFile != "") {
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
	at := under(path)
	d.tls(path, &t.TLS)
	switch {
	case t.CertFile == "" && t.KeyFile == "":
	case t.CertFile == "":
		d.errorf(at("key_file"), "is of no use without cert_file: give both or none")
	case t.KeyFile == "":
		d.errorf(at("cert_file"), "is of no use without key_file: give both or none")
	default:
		cert, _, read := d.read(at("cert_file"), &t.CertFile, maxCAFile, false)
		key, _, ok := d.read(at("key_file"), &t.KeyFile, maxCAFile, true)
		if read && ok && d.keyPair(at("cert_file"), t.CertFile, cert, key) {
			t.cert, t.key = cert, NewSecret(key)
		}
	}
}

// ClientConfig returns the settings for connections to the server, with TLS 1.2 as the least. It
// reads files only for a SyslogTLS that did not come from Load. Where ServerName is empty, the
// caller sets it to the host it connects to.
func (t SyslogTLS) ClientConfig() (*tls.Config, error) {
	cfg, err := t.TLS.ClientConfig()
	if err != nil || t.CertFile == "" && t.KeyFile == "" {
		return cfg, err
	}
	var pair tls.Certificate
	if t.cert != "" {
		pair, err = tls.X509KeyPair([]byte(t.cert), []byte(t.key.Expose()))
	} else {
		pair, err = tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
	}
	if err != nil {
		return nil, fmt.Errorf("tls: cert_file: %w", err)
	}
	cfg.Certificates = []tls.Certificate{pair}
	return cfg, nil
}

// Explain returns what is wrong where a connection failed over TLS, and which setting to change;
// "": it did not.
func (t SyslogTLS) Explain(err error) string {
	t.where = "tls"
	return t.TLS.Explain(err)
}
