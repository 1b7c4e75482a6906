package config

import (
	"net/url"
	"strings"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/secret"
)

// Splunk sends events to Splunk's HTTP event collector (HEC).
type Splunk struct {
	// required; http:// or https://, host and port of the collector, which is 8088 unless changed
	URL URL `yaml:"url"`
	// required, here or in TokenFile; that of the collector; also when it came from TokenFile
	Token Secret `yaml:"token"`
	// a file with nothing but the token
	TokenFile string `yaml:"token_file"`
	// where the events go; empty: as the token says
	Index string `yaml:"index"`
	// of the events
	Sourcetype string `yaml:"sourcetype"`
	// whether an event is delivered only when the indexer has acknowledged it, which has to be
	// enabled for the token; then the sink's timeout is a minute by default
	Acknowledge bool `yaml:"acknowledge"`
	// none or gzip
	Compression string `yaml:"compression"`
	// how requests are made; what authenticates them is the token
	HTTPConfig HTTPConfig `yaml:"http_config"`
}

// DefaultSourcetype is the default of Splunk.Sourcetype.
const DefaultSourcetype = "hmc:event"

// acknowledgeTimeout is the default of Sink.Timeout where indexers acknowledge: they do so when an
// event is on disk.
const acknowledgeTimeout = time.Minute

func (p *Splunk) setDefaults() {
	p.Sourcetype, p.Compression = DefaultSourcetype, CompressionNone
}

func (p *Splunk) batch() Batch { return Batch{MaxEvents: 100, MaxWait: time.Second} }

func (p *Splunk) check(d *decoder, path string, s *Sink) {
	at := under(path)
	d.baseURL(at("url"), p.URL, "the collector", "https://splunk.example.com:8088", "/services/", true)
	d.secret(at("token"), &p.Token, &p.TokenFile)
	d.check(at("token"), secret.SchemeIn(p.Token.Expose(), "Splunk"))
	d.needed(at("token"), p.Token, "name a file that holds it as token_file, or give it here")
	if p.Index != "" && (strings.Trim(p.Index, nameCharacters) != "" || p.Index != strings.ToLower(p.Index) ||
		strings.ContainsAny(p.Index[:1], "_-.")) {
		d.errorf(at("index"), "is no index that events can be sent to: lower-case letters, digits, \"_\" and \"-\", "+
			"a letter or digit first, not %s", quote(p.Index))
	}
	if p.Sourcetype == "" {
		d.errorf(at("sourcetype"), "is empty: give one such as %s", DefaultSourcetype)
	}
	d.line(at("sourcetype"), p.Sourcetype)
	d.oneOf(at("compression"), p.Compression, CompressionNone, CompressionGzip)
	d.httpConfig(at("http_config"), &p.HTTPConfig)
	if p.HTTPConfig.authenticates() {
		d.errorf(at("http_config"), "must not authenticate: the token does, as token_file")
	}
	if p.Acknowledge && !d.has(join(parent(path), "timeout")) {
		s.Timeout = acknowledgeTimeout
	}
}

// baseURL checks the address of a server where the sink knows the rest: of is whose it is, without
// the beginning of the rest. secrets says that requests carry some.
func (d *decoder) baseURL(at string, address URL, of, example, without string, secrets bool) {
	u, err := url.Parse(address.Expose())
	switch msg := checkURL(address); {
	case !address.IsSet():
		d.errorf(at, "is missing: give the address of %s, such as %s", of, example)
	case err == nil && u.User != nil:
		d.errorf(at, "must not hold a userid or password: what authenticates has keys of its own")
	case msg != "":
		d.errorf(at, "%s", msg)
	case u.RawQuery != "":
		d.errorf(at, "must not have a query (?...)")
	case strings.Contains(u.Path+"/", without):
		d.errorf(at, "must be the address of %s itself, without %s...", of, without)
	case u.Scheme == "http" && !isLoopback(u.Hostname()) && secrets:
		d.warnf(at, "is http: what shows who sends the events travels unencrypted")
	}
}
