package config

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"unicode"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/render"
)

// NATS publishes events to a JetStream stream.
type NATS struct {
	// required; URLs: nats:// or tls://; of several, any that answers
	Servers []string `yaml:"servers"`
	// of the events; may hold {hmc}, {type}, {cpc}, {class}, {name} and {severity}
	Subject string `yaml:"subject"`
	// the stream that must take the events; empty: whichever takes the subject
	Stream string `yaml:"stream"`

	NATSLogon `yaml:",inline"`
}

// NATSLogon says how to log on to a NATS server.
type NATSLogon struct {
	// The files are read again for each connection.

	// a JWT and its seed, as nsc writes them; at most one way to log on; absolute
	CredentialsFile string `yaml:"credentials_file"`
	// a seed; absolute
	NKeyFile string `yaml:"nkey_file"`
	// to log on with, with Password
	Userid string `yaml:"userid"`
	// also when it came from PasswordFile
	Password     Secret `yaml:"password"`
	PasswordFile string `yaml:"password_file"`
	// also when it came from TokenFile
	Token     Secret `yaml:"token"`
	TokenFile string `yaml:"token_file"`

	// TLS is set where the connection must be encrypted, as with a tls:// server; nil:
	// encrypted where the server asks for it.
	TLS *TLS `yaml:"tls"`

	// what CredentialsFile and NKeyFile held when they were loaded
	keys Secret
}

// DefaultSubject is the default of NATS.Subject.
const DefaultSubject = "hmc.{hmc}.{type}"

func (n *NATS) setDefaults() { n.Subject = DefaultSubject }

// Kafka produces events to a Kafka topic.
type Kafka struct {
	// required; HOST:PORT of some of the cluster's brokers
	Brokers []string `yaml:"brokers"`
	// of the events; may hold {hmc}, {type}, {cpc}, {class}, {name} and {severity}
	Topic string `yaml:"topic"`
	// what the daemon calls itself
	ClientID string `yaml:"client_id"`
	// how the daemon says who it is
	SASL *SASL `yaml:"sasl"`
	// how the brokers' certificates are verified; nil: unencrypted
	TLS *TLS `yaml:"tls"`
	// none, gzip, snappy, lz4 or zstd
	Compression string `yaml:"compression"`
	// what the topic takes: its max.message.bytes
	MaxMessageBytes Size `yaml:"max_message_bytes"`
}

// The defaults of Kafka.
const (
	DefaultTopic    = "hmc-events"
	DefaultClientID = "hmcnotifyd"
	// a little less than max.message.bytes of a topic is by default.
	DefaultMaxMessageBytes = 1_000_000
)

func (k *Kafka) setDefaults() {
	k.Topic, k.ClientID = DefaultTopic, DefaultClientID
	k.Compression, k.MaxMessageBytes = CompressionNone, DefaultMaxMessageBytes
}

// The further values of Kafka.Compression.
const (
	CompressionSnappy = "snappy"
	CompressionLZ4    = "lz4"
	CompressionZstd   = "zstd"
)

// SASL is how a client says to Kafka who it is.
type SASL struct {
	// required; of the SASL constants
	Mechanism string `yaml:"mechanism"`
	// required; who the daemon is
	Userid string `yaml:"userid"`
	// also when it came from PasswordFile
	Password     Secret `yaml:"password"`
	PasswordFile string `yaml:"password_file"`
}

// The values of SASL.Mechanism.
const (
	SASLPlain       = "plain"
	SASLScramSHA256 = "scram-sha-256"
	SASLScramSHA512 = "scram-sha-512"
)

// named returns a name with a word in place of each placeholder, to be checked as a whole.
func named(name string) (string, error) {
	parts, err := render.SplitName(name)
	var b strings.Builder
	for _, p := range parts {
		if p.Field != "" {
			b.WriteString("x")
		}
		b.WriteString(p.Text)
	}
	return b.String(), err
}

// checkSubject returns what is wrong with a subject; "": nothing.
func checkSubject(subject string) string {
	name, err := named(subject)
	switch {
	case err != nil:
		return err.Error()
	case name == "":
		return "is empty: give a subject such as " + DefaultSubject
	case strings.ContainsFunc(name, isBlank):
		return "must not hold white space"
	case strings.ContainsAny(name, "*>"):
		return "must not hold the wildcards * and >: each event is published to one subject"
	case slices.Contains(strings.Split(name, "."), ""):
		return "has an empty part: there must be something before, between and behind its dots"
	case strings.HasPrefix(name, "$") || strings.HasPrefix(name, "_INBOX."):
		return "belongs to the server: choose one that does not begin with $ or _INBOX"
	}
	return ""
}

// maxTopic is the longest name of a Kafka topic.
const maxTopic = 249

// checkTopic returns what is wrong with the name of a Kafka topic; "": nothing.
func checkTopic(topic string) string {
	name, err := named(topic)
	switch {
	case err != nil:
		return err.Error()
	case name == "":
		return "is empty: give the name of a topic such as " + DefaultTopic
	case strings.Trim(name, nameCharacters) != "":
		return "may hold letters, digits, \".\", \"_\" and \"-\", and placeholders such as {hmc}"
	case name == "." || name == "..":
		return "cannot be the name of a topic"
	case len(name) > maxTopic:
		return fmt.Sprintf("is longer than %d characters", maxTopic)
	}
	return ""
}

func (n *NATS) check(d *decoder, path string, _ *Sink) {
	at := under(path)
	d.natsServers(path, "servers", n.Servers, &n.NATSLogon)
	d.check(at("subject"), checkSubject(n.Subject))
	if strings.ContainsFunc(n.Stream, isBlank) || strings.ContainsAny(n.Stream, ".*>/\\") {
		d.errorf(at("stream"), "is not the name of a stream: white space and . * > / \\ cannot be in one")
	}
}

// natsServers checks the addresses of NATS servers, and how to log on to them.
func (d *decoder) natsServers(path, key string, servers []string, n *NATSLogon) {
	at := under(path)
	local, encrypted := true, n.TLS != nil
	d.servers(at(key), servers, "nats://nats.example.com:4222", checkServer, func(server string) {
		// always: checkServer has parsed it
		if u, err := url.Parse(server); err == nil {
			local = local && isLoopback(u.Hostname())
			if u.Scheme == "tls" && n.TLS == nil {
				n.TLS, encrypted = &TLS{}, true
			}
		}
	})
	d.natsLogon(path, n)
	d.optionalTLS(at("tls"), n.TLS)
	if !encrypted && !local && (n.Password.IsSet() || n.Token.IsSet()) {
		d.warnf(at(key), "without TLS the password or token may travel unencrypted: "+
			"write tls:// instead of nats://, or add tls: {}")
	}
}

func isBlank(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }

// servers checks the addresses of servers, of which there must be one, and hands on those that can
// be used.
func (d *decoder) servers(path string, servers []string, example string, check func(string) string, use func(string)) {
	if len(servers) == 0 {
		d.errorf(path, "is missing: give at least one, such as [%s]", example)
	}
	for i, server := range servers {
		if at := item(path, i); d.check(at, check(server)) {
			if slices.Index(servers, server) < i {
				d.errorf(at, "%s is given twice", server)
			}
			use(server)
		}
	}
}

// natsLogon checks that there is at most one way to log on, and reads what belongs to it.
func (d *decoder) natsLogon(path string, n *NATSLogon) {
	at := under(path)
	d.secret(at("password"), &n.Password, &n.PasswordFile)
	d.secret(at("token"), &n.Token, &n.TokenFile)
	d.line(at("userid"), n.Userid)
	d.natsKeys(path, n)
	switch named, password := d.has(at("userid")), d.has(at("password")) || d.has(at("password_file")); {
	case named && !password:
		d.errorf(at("userid"), "needs a password: name a file that holds it as password_file")
	case !named && password:
		d.errorf(at("userid"), "is missing: give the userid that the password belongs to")
	}
	first := ""
	for _, way := range [][]string{
		{"credentials_file"}, {"nkey_file"}, {"userid", "password", "password_file"}, {"token", "token_file"},
	} {
		i := slices.IndexFunc(way, func(key string) bool { return d.has(at(key)) })
		switch {
		case i < 0:
		case first != "":
			d.errorf(at(way[i]), "is a second way to log on, beside %s: keep one of them", first)
		default:
			first = way[0]
		}
	}
}

// natsKeys reads the files with keys.
func (d *decoder) natsKeys(path string, n *NATSLogon) {
	at := under(path)
	n.keys = NewSecret(
		d.keyFile(at("credentials_file"), &n.CredentialsFile, "BEGIN NATS USER JWT",
			"a JWT and its seed, as nsc writes them") +
			d.keyFile(at("nkey_file"), &n.NKeyFile, "SU", "the seed of a user's nkey, which begins with SU"))
}

// keyFile makes the path of a file with keys absolute and returns its contents, which must include
// a certain text.
func (d *decoder) keyFile(path string, file *string, holds, what string) string {
	text, shown, ok := d.read(path, file, maxSecretFile, true)
	if ok && !strings.Contains(text, holds) {
		d.errorf(path, "%s does not hold %s", shown, what)
	}
	return text
}

// checkServer returns what is wrong with the URL of a NATS server; "": nothing. It shows nothing
// that may be secret.
func checkServer(server string) string {
	u, err := url.Parse(server)
	if err != nil {
		return "is not a valid URL: write nats://HOST:PORT" // err quotes it
	}
	switch {
	case u.User != nil:
		return "must not hold a userid, password or token: they have keys of their own"
	case u.Scheme != "nats" && u.Scheme != "tls":
		return "must begin with nats:// or tls://"
	case u.Hostname() == "":
		return "has no host: write nats://HOST:PORT"
	case u.Port() != "" && !isPort(u.Port()):
		return wrongPort
	case strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
		return "must end behind the port: write nats://HOST:PORT"
	}
	return checkHost(u.Hostname())
}

func (k *Kafka) check(d *decoder, path string, _ *Sink) {
	at := under(path)
	local := true
	d.servers(at("brokers"), k.Brokers, "kafka1.example.com:9092", checkBroker, func(broker string) {
		host, _, err := net.SplitHostPort(broker)
		local = local && err == nil && isLoopback(host)
	})
	d.check(at("topic"), checkTopic(k.Topic))
	d.line(at("client_id"), k.ClientID)
	d.oneOf(at("compression"), k.Compression,
		CompressionNone, CompressionGzip, CompressionSnappy, CompressionLZ4, CompressionZstd)
	within(d, at("max_message_bytes"), k.MaxMessageBytes, 64*kib, 64*mib)
	d.optionalTLS(at("tls"), k.TLS)
	if k.SASL != nil {
		d.sasl(at("sasl"), k.SASL)
		if k.TLS == nil && !local && k.SASL.Mechanism == SASLPlain {
			d.warnf(at("sasl.mechanism"), "without TLS the password travels unencrypted: add tls: {}")
		}
	}
}

// checkBroker returns what is wrong with the address of a broker; "": nothing.
func checkBroker(broker string) string {
	// not shown: it may hold a password
	if strings.Contains(broker, "://") || strings.Contains(broker, "@") {
		return "must be only HOST:PORT, not a URL"
	}
	if _, err := netip.ParseAddr(strings.Trim(broker, "[]")); err == nil {
		return "has no port: write HOST:9092, and an IPv6 address as [2001:db8::1]:9092"
	}
	host, text, err := net.SplitHostPort(broker)
	if err != nil {
		return "must be HOST:PORT, such as kafka1.example.com:9092"
	}
	if !isPort(text) {
		return wrongPort
	}
	return checkHost(host)
}

func (d *decoder) sasl(path string, s *SASL) {
	at := under(path)
	mechanisms := []string{SASLPlain, SASLScramSHA256, SASLScramSHA512}
	if s.Mechanism == "" {
		d.errorf(at("mechanism"), "is missing: give one of %s", strings.Join(mechanisms, ", "))
	} else {
		d.oneOf(at("mechanism"), s.Mechanism, mechanisms...)
	}
	d.secret(at("password"), &s.Password, &s.PasswordFile)
	d.line(at("userid"), s.Userid)
	if s.Userid == "" {
		d.errorf(at("userid"), "is missing: give the userid to log on with")
	}
	d.passwordNeeded(path, s.Password)
}

// optionalTLS is tls for settings that need not be there.
func (d *decoder) optionalTLS(path string, t *TLS) {
	if t != nil {
		t.where = lastKey(path)
		d.tls(path, t)
	}
}

// oneOf checks a value of which there are only some.
func (d *decoder) oneOf(path, value string, values ...string) {
	list := "one of " + strings.Join(values, ", ")
	if len(values) == 2 {
		list = strings.Join(values, " or ")
	}
	if !slices.Contains(values, value) {
		d.errorf(path, "must be %s, not %s", list, quote(value))
	}
}
