package sinks

import (
	"cmp"
	"strings"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
)

// RequestOf sums up what a sink does with an event. Of an address it shows scheme and host: userid,
// path and query may be secret.
func RequestOf(s *config.Sink) string {
	switch {
	case s.Webhook != nil:
		return "POST " + s.Webhook.URL.String()
	case s.OTLP != nil:
		return "POST " + s.OTLP.URL.String()
	case s.Splunk != nil:
		return "POST " + strings.TrimRight(s.Splunk.URL.String(), "/") + hecEvents
	case s.Elasticsearch != nil:
		e := s.Elasticsearch
		return "POST " + strings.TrimRight(e.URL.String(), "/") + "/" + cmp.Or(e.Index, e.DataStream) + "/_bulk"
	case s.Log != nil:
		return "write to " + s.Log.Output
	}
	return s.Kind()
}
