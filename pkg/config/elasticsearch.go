package config

import (
	"strings"
	"time"
	"unicode"
)

// Elasticsearch sends events to Elasticsearch or OpenSearch.
type Elasticsearch struct {
	// required; http:// or https://, host and port of the cluster
	URL URL `yaml:"url"`
	// where the events go: TYPE-DATASET-NAMESPACE; of no use with Index
	DataStream string `yaml:"data_stream"`
	// an index or the alias of one, in the place of DataStream
	Index string `yaml:"index"`
	// none or gzip
	Compression string `yaml:"compression"`
	// how requests are made, and what authenticates them
	HTTPConfig HTTPConfig `yaml:"http_config"`
}

// DefaultDataStream is the default of Elasticsearch.DataStream.
const DefaultDataStream = "logs-hmc-default"

func (e *Elasticsearch) setDefaults() {
	e.DataStream, e.Compression = DefaultDataStream, CompressionNone
}

func (e *Elasticsearch) batch() Batch { return Batch{MaxEvents: 100, MaxWait: time.Second} }

func (e *Elasticsearch) check(d *decoder, path string, _ *Sink) {
	at := under(path)
	d.baseURL(at("url"), e.URL, "the cluster", "https://es.example.com:9200", "/_", e.HTTPConfig.authenticates())
	switch {
	case d.has(at("index")) && d.has(at("data_stream")):
		d.errorf(at("index"), "and data_stream are both given: keep one of them")
	case d.has(at("index")):
		e.DataStream = ""
		d.check(at("index"), checkIndex(e.Index))
	default:
		d.check(at("data_stream"), checkIndex(e.DataStream))
	}
	d.oneOf(at("compression"), e.Compression, CompressionNone, CompressionGzip)
	d.httpConfig(at("http_config"), &e.HTTPConfig)
}

// checkIndex returns what is wrong with the name of an index or data stream; "": nothing. See
// https://www.elastic.co/docs/api/doc/elasticsearch/operation/operation-indices-create.
func checkIndex(name string) string {
	const maxIndex = 255
	switch {
	case name == "":
		return "is empty: give a name such as " + DefaultDataStream
	case strings.ContainsFunc(name, unicode.IsUpper):
		return "must be in lower case: " + quote(name)
	case strings.ContainsAny(name, `\/*?"<>|,#:`) || strings.ContainsFunc(name, isBlank):
		return "is not the name of one: white space and \\ / * ? \" < > | , # : cannot be in it"
	case strings.ContainsAny(name[:1], "-_+") || name == "." || name == "..":
		return "is not the name of one: it cannot begin with - _ or +, nor be . or .."
	case len(name) > maxIndex:
		return "is longer than 255 bytes"
	}
	return ""
}
