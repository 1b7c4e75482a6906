package config

import (
	"net/url"
	"strings"
	"time"
)

// OTLP sends events as log records of OpenTelemetry, protobuf over HTTP.
type OTLP struct {
	// required; the whole address, such as http://collector:4318/v1/logs
	URL URL `yaml:"url"`
	// none or gzip
	Compression string `yaml:"compression"`
	// how requests are made, and what authenticates them
	HTTPConfig HTTPConfig `yaml:"http_config"`
}

func (o *OTLP) setDefaults() { o.Compression = CompressionGzip }

// batch is what a collector takes with ease at once.
func (o *OTLP) batch() Batch { return Batch{MaxEvents: 100, MaxWait: time.Second} }

func (o *OTLP) check(d *decoder, path string, _ *Sink) {
	at := under(path)
	d.oneOf(at("compression"), o.Compression, CompressionNone, CompressionGzip)
	d.httpConfig(at("http_config"), &o.HTTPConfig)
	u, err := url.Parse(o.URL.Expose())
	switch {
	case !o.URL.IsSet():
		d.errorf(at("url"), "is missing: give the address to post to, "+
			"such as http://collector.example.com:4318/v1/logs")
	case err == nil && u.User != nil:
		d.errorf(at("url"), "must not hold a userid or password: use http_config.basic_auth")
	case !d.check(at("url"), checkURL(o.URL)):
	case strings.Trim(u.Path, "/") == "":
		d.warnf(at("url"), "has no path: it is the whole address, and a collector takes logs at /v1/logs")
	case u.Port() == "4317":
		d.warnf(at("url"), "has port 4317, where collectors speak gRPC: for HTTP it is 4318")
	case u.Scheme == "http" && !isLoopback(u.Hostname()) && o.HTTPConfig.authenticates():
		d.warnf(at("url"), "is http: what http_config authenticates with travels unencrypted")
	}
}
