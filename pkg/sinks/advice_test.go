package sinks

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
)

// The advice follows from what happened, and never from what the text of an error happens to quote.
func TestAdvice(t *testing.T) {
	webhook := &config.Sink{Webhook: &config.Webhook{}}
	signed := &config.Sink{Webhook: &config.Webhook{Secret: config.NewSecret("whsec_x")}}
	answer := func(status int) error {
		return fmt.Errorf("webhook: POST http://127.0.0.1:47503/certificate: %w", &RetryAfterError{Status: status})
	}
	refused := func(status int) error { return &PermanentError{Status: status, Err: errors.New("refused")} }
	wrong := func(status int) error { return &PausedError{Status: status, Err: errors.New("refused")} }
	for name, test := range map[string]struct {
		cfg  *config.Sink
		err  error
		want string
	}{
		"500 from a port that ends in 503": {webhook, answer(500), "failed while it handled the request"},
		"502 of a proxy":                   {webhook, answer(502), "not the consumer behind it"},
		"503 of a dead backend":            {webhook, answer(503), "what it needs is not"},
		"530 of a proxy":                   {webhook, answer(530), "in trouble"},
		"429":                              {webhook, answer(429), "fewer requests"},
		"401":                              {webhook, wrong(401), "http_config, or the one in the address"},
		"403, signed":                      {signed, wrong(403), "webhook.secret"},
		"404":                              {webhook, wrong(404), "webhook.url"},
		"a refused certificate":            {&config.Sink{Syslog: &config.Syslog{}}, because(ReasonAuthorization, "refused"), "syslog.tls.cert_file"},
		"404 of an Alertmanager":           {&config.Sink{Alertmanager: &config.Alertmanager{}}, wrong(404), "check the address"},
		"401 of OpenTelemetry":             {&config.Sink{OTLP: &config.OTLP{}}, wrong(401), "otlp.http_config"},
		"404 of OpenTelemetry":             {&config.Sink{OTLP: &config.OTLP{}}, wrong(404), "/v1/logs"},
		"301 of OpenTelemetry":             {&config.Sink{OTLP: &config.OTLP{}}, wrong(301), "otlp.url"},
		"400 of OpenTelemetry":             {&config.Sink{OTLP: &config.OTLP{}}, refused(400), "the collector refuses"},
		"301":                              {webhook, wrong(301), "redirects"},
		"413":                              {webhook, refused(413), "max_events"},
		"415":                              {webhook, refused(415), "content type"},
		"400":                              {webhook, refused(400), "webhook.format"},
		"a name":                           {webhook, &net.DNSError{Err: "no such host", IsNotFound: true}, "resolve"},
		"nothing listens":                  {webhook, syscall.ECONNREFUSED, "nothing listens there"},
		"no route":                         {webhook, syscall.EHOSTUNREACH, "routes"},
		"no answer":                        {webhook, context.DeadlineExceeded, "in time"},
		"TLS":                              {webhook, http.ErrSchemeMismatch, "or there is no TLS at this address"},
		"407":                              {webhook, wrong(407), "proxy_url"},
		"507 of a consumer":                {webhook, answer(507), "the consumer has no space left"},
		"a full disk":                      {&config.Sink{Log: &config.Log{}}, syscall.ENOSPC, "make space"},
		"a protected file":                 {&config.Sink{Log: &config.Log{}}, syscall.EACCES, "daemon's user"},
		"no folder":                        {&config.Sink{Log: &config.Log{}}, syscall.ENOENT, "folder"},
		"403 of a collector":               {&config.Sink{Splunk: &config.Splunk{}}, wrong(403), "splunk.token"},
		"404 of a collector":               {&config.Sink{Splunk: &config.Splunk{}}, wrong(404), "splunk.index"},
		"400 of a collector":               {&config.Sink{Splunk: &config.Splunk{}}, refused(400), "acknowledge"},
		"403 of a cluster":                 {&config.Sink{Elasticsearch: &config.Elasticsearch{}}, wrong(403), "create_doc"},
		"404 of a cluster":                 {&config.Sink{Elasticsearch: &config.Elasticsearch{}}, wrong(404), "data stream"},
		"400 of an item":                   {&config.Sink{Elasticsearch: &config.Elasticsearch{}}, refused(400), "mapping"},
		"full disks of a cluster":          {&config.Sink{Elasticsearch: &config.Elasticsearch{}}, because(ReasonNoSpace, "blocked"), "the cluster's disks"},
		"anything else":                    {webhook, errors.New("status 429, certificate, timeout"), "look at the consumer"},
	} {
		reason, status := ReasonOf(test.err)
		if got := Advice(test.cfg, reason, status); !strings.Contains(got, test.want) || strings.HasSuffix(got, ".") {
			t.Errorf("%s: %q", name, got)
		}
	}
	if got := Advice(webhook, "", 0); got != "" {
		t.Errorf("without an error: %q", got)
	}
}
