package config

import (
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// NATS publishes events to a JetStream stream.
type NATS struct {
	// required; URLs: nats:// or tls://; of several, any that answers
	Servers []string `yaml:"servers"`
	// of the events; may hold {hmc}, {type}, {cpc}, {class}, {name} and {severity}
	Subject string `yaml:"subject"`
	// the stream that must take the events; empty: whichever takes the subject
	Stream string `yaml:"stream"`

	// At most one way to log on. The files are read again for each connection, so that a
	// renewed one counts then.

	// a JWT and its seed, as nsc writes them; at most one way to log on; absolute
	CredentialsFile string `yaml:"credentials_file"`
	NKeyFile        string `yaml:"nkey_file"` // a seed; absolute
	Userid          string `yaml:"userid"`    // to log on with, with Password
	Password        Secret `yaml:"password"`  // also when it came from PasswordFile
	PasswordFile    string `yaml:"password_file"`
	Token           Secret `yaml:"token"` // also when it came from TokenFile
	TokenFile       string `yaml:"token_file"`

	// TLS is set where the connection must be encrypted, as with a tls:// server; nil:
	// encrypted where the server asks for it.
	TLS *TLS `yaml:"tls"`

	keys Secret // what CredentialsFile and NKeyFile held when they were loaded
}

// DefaultSubject is the default of NATS.Subject.
const DefaultSubject = "hmc.{hmc}.{type}"

func (n *NATS) setDefaults() { n.Subject = DefaultSubject }

// Kafka produces events to a Kafka topic.
type Kafka struct {
	// required; HOST:PORT of some of the cluster's brokers
	Brokers []string `yaml:"brokers"`
	// of the events; may hold {hmc}, {type}, {cpc}, {class}, {name} and {severity}
	Topic    string `yaml:"topic"`
	ClientID string `yaml:"client_id"` // what the daemon calls itself
	SASL     *SASL  `yaml:"sasl"`      // how the daemon says who it is
	// how the brokers' certificates are verified; nil: unencrypted
	TLS         *TLS   `yaml:"tls"`
	Compression string `yaml:"compression"` // none, gzip, snappy, lz4 or zstd
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
	k.Topic, k.ClientID, k.Compression, k.MaxMessageBytes = DefaultTopic, DefaultClientID, CompressionNone, DefaultMaxMessageBytes
}

// The further values of Kafka.Compression.
const (
	CompressionSnappy = "snappy"
	CompressionLZ4    = "lz4"
	CompressionZstd   = "zstd"
)

// SASL is how a client says to Kafka who it is.
type SASL struct {
	Mechanism    string `yaml:"mechanism"` // required; of the SASL constants
	Userid       string `yaml:"userid"`    // required; who the daemon is
	Password     Secret `yaml:"password"`  // also when it came from PasswordFile
	PasswordFile string `yaml:"password_file"`
}

// The values of SASL.Mechanism.
const (
	SASLPlain       = "plain"
	SASLScramSHA256 = "scram-sha-256"
	SASLScramSHA512 = "scram-sha-512"
)

// The placeholders of a subject or topic: what of an event stands in their place.
const (
	FieldHMC      = "hmc"
	FieldType     = "type"
	FieldCPC      = "cpc"
	FieldClass    = "class"
	FieldName     = "name" // of the resource
	FieldSeverity = "severity"
)

// NamePart is a part of the name of a subject or topic. One of its members is set.
type NamePart struct {
	Text  string
	Field string // of the Field constants
}

// SplitName takes the name of a subject or topic apart at its placeholders, such as {hmc}.
func SplitName(name string) ([]NamePart, error) {
	fields := []string{FieldHMC, FieldType, FieldCPC, FieldClass, FieldName, FieldSeverity}
	var parts []NamePart
	for name != "" {
		text, rest, found := strings.Cut(name, "{")
		if strings.Contains(text, "}") {
			return nil, fmt.Errorf("has a } without a {")
		}
		if text != "" {
			parts = append(parts, NamePart{Text: text})
		}
		if !found {
			break
		}
		field, rest, found := strings.Cut(rest, "}")
		switch {
		case !found:
			return nil, fmt.Errorf("has a { without a }")
		case !slices.Contains(fields, field) && nearest(field, fields) != "":
			return nil, fmt.Errorf("has an unknown placeholder %s, did you mean {%s}?", quote("{"+field+"}"), nearest(field, fields))
		case !slices.Contains(fields, field):
			return nil, fmt.Errorf("has an unknown placeholder %s: there are {%s}", quote("{"+field+"}"), strings.Join(fields, "}, {"))
		}
		parts = append(parts, NamePart{Field: field})
		name = rest
	}
	return parts, nil
}

// named returns a name with a word in place of each placeholder, to be checked as a whole.
func named(parts []NamePart) string {
	var b strings.Builder
	for _, p := range parts {
		if p.Field != "" {
			b.WriteString("x")
		}
		b.WriteString(p.Text)
	}
	return b.String()
}

// checkSubject says what is wrong with a subject; "": nothing.
func checkSubject(subject string) string {
	parts, err := SplitName(subject)
	if err != nil {
		return err.Error()
	}
	name := named(parts)
	switch {
	case name == "":
		return "is empty: give a subject such as " + DefaultSubject
	case strings.ContainsFunc(name, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }):
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

// checkTopic says what is wrong with the name of a Kafka topic; "": nothing.
func checkTopic(topic string) string {
	parts, err := SplitName(topic)
	if err != nil {
		return err.Error()
	}
	name := named(parts)
	switch {
	case name == "":
		return "is empty: give the name of a topic such as " + DefaultTopic
	case strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") != "":
		return "may hold letters, digits, \".\", \"_\" and \"-\", and placeholders such as {hmc}"
	case name == "." || name == "..":
		return "cannot be the name of a topic"
	case len(name) > maxTopic:
		return fmt.Sprintf("is longer than %d characters", maxTopic)
	}
	return ""
}

func (d *decoder) nats(path string, n *NATS, mode fs.FileMode) {
	at := func(key string) string { return join(path, key) }

	if len(n.Servers) == 0 {
		d.errorf(at("servers"), "is missing: give at least one, such as [nats://nats.example.com:4222]")
	}
	local, encrypted := true, n.TLS != nil
	for i, server := range n.Servers {
		where := fmt.Sprintf("%s[%d]", at("servers"), i)
		if msg := checkServer(server); msg != "" {
			d.errorf(where, "%s", msg)
			continue
		}
		if slices.Index(n.Servers, server) < i {
			d.errorf(where, "%s is given twice", server)
		}
		u, err := url.Parse(server)
		if err != nil {
			continue // checkServer says so
		}
		local = local && isLoopback(u.Hostname())
		if u.Scheme == "tls" && n.TLS == nil {
			n.TLS, encrypted = &TLS{}, true
		}
	}
	if msg := checkSubject(n.Subject); msg != "" {
		d.errorf(at("subject"), "%s", msg)
	}
	if strings.ContainsFunc(n.Stream, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }) || strings.ContainsAny(n.Stream, ".*>/\\") {
		d.errorf(at("stream"), "is not the name of a stream: white space and . * > / \\ cannot be in one")
	}
	d.natsLogon(path, n, mode)
	d.optionalTLS(at("tls"), n.TLS)
	if !encrypted && !local && (n.Password.IsSet() || n.Token.IsSet()) {
		d.warnf(at("servers"), "without TLS the password or token may travel unencrypted: write tls:// instead of nats://, or add tls: {}")
	}
}

// natsLogon checks that there is at most one way to log on, and reads what belongs to it.
func (d *decoder) natsLogon(path string, n *NATS, mode fs.FileMode) {
	at := func(key string) string { return join(path, key) }

	d.secret(at("password"), &n.Password, &n.PasswordFile, mode)
	d.secret(at("token"), &n.Token, &n.TokenFile, mode)
	d.line(at("userid"), n.Userid)
	credentials := d.keyFile(at("credentials_file"), &n.CredentialsFile, "BEGIN NATS USER JWT", "a JWT and its seed, as nsc writes them")
	nkey := d.keyFile(at("nkey_file"), &n.NKeyFile, "SU", "the seed of a user's nkey, which begins with SU")
	n.keys = NewSecret(credentials + nkey)

	switch named := d.has(at("userid")); {
	case named && !d.has(at("password")) && !d.has(at("password_file")):
		d.errorf(at("userid"), "needs a password: name a file that holds it as password_file")
	case !named && (d.has(at("password")) || d.has(at("password_file"))):
		d.errorf(at("userid"), "is missing: give the userid that the password belongs to")
	}
	first := ""
	for _, way := range []struct {
		name string
		keys []string
	}{
		{"credentials_file", []string{"credentials_file"}},
		{"nkey_file", []string{"nkey_file"}},
		{"userid", []string{"userid", "password", "password_file"}},
		{"token", []string{"token", "token_file"}},
	} {
		i := slices.IndexFunc(way.keys, func(key string) bool { return d.has(at(key)) })
		switch {
		case i < 0:
		case first != "":
			d.errorf(at(way.keys[i]), "is a second way to log on, beside %s: keep one of them", first)
		default:
			first = way.name
		}
	}
}

// keyFile makes the path of a file with keys absolute and returns what it holds, which must have a
// certain text in it.
func (d *decoder) keyFile(path string, file *string, holds, what string) string {
	if !d.has(path) {
		return ""
	}
	if *file == "" {
		d.errorf(path, "is empty: name a file")
		return ""
	}
	absolute, shown := d.resolve(*file)
	*file = absolute
	data, mode, err := readFile(absolute, maxSecretFile)
	switch {
	case err != nil:
		d.errorf(path, "%s %s", shown, err)
		return ""
	case !strings.Contains(string(data), holds):
		d.errorf(path, "%s does not hold %s", shown, what)
		return ""
	}
	d.warnIfPublic(path, shown, mode)
	return string(data)
}

// checkServer says what is wrong with the URL of a NATS server; "": nothing. It shows nothing that
// may be secret.
func checkServer(server string) string {
	u, err := url.Parse(server)
	if err != nil {
		return "is not a valid URL: write nats://HOST:PORT" // err quotes it
	}
	port, perr := strconv.Atoi(u.Port())
	switch {
	case u.User != nil:
		return "must not hold a userid, password or token: they have keys of their own"
	case u.Scheme != "nats" && u.Scheme != "tls":
		return "must begin with nats:// or tls://"
	case u.Hostname() == "":
		return "has no host: write nats://HOST:PORT"
	case u.Port() != "" && (perr != nil || port < 1 || port > 65535):
		return "has a port that is not between 1 and 65535"
	case strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "":
		return "must end behind the port: write nats://HOST:PORT"
	}
	return checkHost(u.Hostname())
}

func (d *decoder) kafka(path string, k *Kafka, mode fs.FileMode) {
	at := func(key string) string { return join(path, key) }

	if len(k.Brokers) == 0 {
		d.errorf(at("brokers"), "is missing: give at least one, such as [kafka1.example.com:9092]")
	}
	local := true
	for i, broker := range k.Brokers {
		where := fmt.Sprintf("%s[%d]", at("brokers"), i)
		if msg := checkBroker(broker); msg != "" {
			d.errorf(where, "%s", msg)
			continue
		}
		if slices.Index(k.Brokers, broker) < i {
			d.errorf(where, "%s is given twice", broker)
		}
		host, _, err := net.SplitHostPort(broker)
		local = local && err == nil && isLoopback(host)
	}
	if msg := checkTopic(k.Topic); msg != "" {
		d.errorf(at("topic"), "%s", msg)
	}
	d.line(at("client_id"), k.ClientID)
	d.oneOf(at("compression"), k.Compression, CompressionNone, CompressionGzip, CompressionSnappy, CompressionLZ4, CompressionZstd)
	if k.MaxMessageBytes < 64*kib || k.MaxMessageBytes > 64*mib {
		d.errorf(at("max_message_bytes"), "must be between 64KiB and 64MiB, not %s", k.MaxMessageBytes)
	}
	d.optionalTLS(at("tls"), k.TLS)
	if k.SASL != nil {
		d.sasl(at("sasl"), k.SASL, mode)
		if k.TLS == nil && !local && k.SASL.Mechanism == SASLPlain {
			d.warnf(at("sasl.mechanism"), "without TLS the password travels unencrypted: add tls: {}")
		}
	}
}

// checkBroker says what is wrong with the address of a broker; "": nothing.
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
	if port, err := strconv.Atoi(text); err != nil || port < 1 || port > 65535 {
		return "has a port that is not between 1 and 65535"
	}
	return checkHost(host)
}

func (d *decoder) sasl(path string, s *SASL, mode fs.FileMode) {
	at := func(key string) string { return join(path, key) }

	mechanisms := []string{SASLPlain, SASLScramSHA256, SASLScramSHA512}
	if s.Mechanism == "" {
		d.errorf(at("mechanism"), "is missing: give one of %s", strings.Join(mechanisms, ", "))
	} else {
		d.oneOf(at("mechanism"), s.Mechanism, mechanisms...)
	}
	d.secret(at("password"), &s.Password, &s.PasswordFile, mode)
	d.line(at("userid"), s.Userid)
	if s.Userid == "" {
		d.errorf(at("userid"), "is missing: give the userid to log on with")
	}
	if !s.Password.IsSet() && !d.failed(at("password_file")) {
		d.errorf(at("password"), "is missing: name a file that holds it as password_file, or give it here")
	}
}

// optionalTLS is tls for settings that need not be there.
func (d *decoder) optionalTLS(path string, t *TLS) {
	if t != nil {
		t.key = path[strings.LastIndex(path, ".")+1:]
		d.tls(path, t)
	}
}

// oneOf checks a value of which there are only some.
func (d *decoder) oneOf(path, value string, values ...string) {
	if !slices.Contains(values, value) {
		d.errorf(path, "must be one of %s, not %s", strings.Join(values, ", "), quote(value))
	}
}
