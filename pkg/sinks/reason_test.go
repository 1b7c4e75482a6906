package sinks

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	promconfig "github.com/prometheus/common/config"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/tests/elastic"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hec"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/certs"
)

// The reason of each error that a sink can return.
func TestReason(t *testing.T) {
	gone := freeAddress(t)
	answering := func(status int) *httptest.Server {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
		t.Cleanup(s.Close)
		return s
	}
	tlsServer := newTLSServer(t)
	kafka := func(change func(*config.Sink), options ...kfake.Opt) Sink {
		return kafkaTo(t, startKafka(t, options...).ListenAddrs(), change)
	}
	password := func(c *config.Sink) {
		c.Kafka.SASL = &config.SASL{Mechanism: config.SASLPlain, Userid: kafkaUser, Password: config.NewSecret("wrong")}
	}
	users := kfake.Superuser("PLAIN", kafkaUser, kafkaPassword)
	certificate := certs.NewAuthority(t).Issue(t, certs.Request{}).ServerConfig(t)
	syslogTLS := newSyslogServer(t, "tls", config.FramingLF, func(s *syslogServer) { s.tls = certificate })
	missing := filepath.Join(t.TempDir(), "socket")
	full, err := New(config.Sink{Log: &config.Log{Output: "/dev/full"}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = full.Close() })
	closed := webhookTo(t, tlsServer.URL)
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	_, wrongToken := collector(t, hec.Settings{Token: "another"})
	_, otherIndex := collector(t, hec.Settings{Indexes: []string{"main"}})
	_, busyCollector := collector(t, hec.Settings{Busy: true})
	_, keyed := cluster(t, elastic.Settings{APIKey: "a-key"})
	_, flooded := cluster(t, elastic.Settings{FloodStage: 429})
	for _, test := range []struct {
		name   string
		sink   Sink
		reason Reason
		status int
	}{
		{"webhook, nothing listens", webhookTo(t, "http://"+gone), ReasonRefused, 0},
		{"webhook, no such host", webhookTo(t, "http://host.invalid"), ReasonDNS, 0},
		{"webhook, its authority is not known", webhookTo(t, tlsServer.URL), ReasonTLS, 0},
		{"webhook, no TLS", webhookTo(t, strings.Replace(answering(200).URL, "http:", "https:", 1)), ReasonTLS, 0},
		{"webhook, no answer", webhookTo(t, "http://"+rawPeer(t, func(c net.Conn) { _, _ = c.Read(make([]byte, 1)); time.Sleep(time.Second) }),
			withTimeout(100*time.Millisecond)), ReasonTimeout, 0},
		{"webhook, hung up", webhookTo(t, "http://"+rawPeer(t, closing(func(c net.Conn) { _, _ = c.Read(make([]byte, 1<<10)) }))), ReasonUnavailable, 0},
		{"webhook, closed", closed, ReasonClosed, 0},
		{"webhook, moved", webhookTo(t, answering(301).URL), ReasonMoved, 301},
		{"webhook, not understood", webhookTo(t, answering(400).URL), ReasonContent, 400},
		{"webhook, no credentials", webhookTo(t, answering(401).URL), ReasonAuthorization, 401},
		{"webhook, not found", webhookTo(t, answering(404).URL), ReasonNotFound, 404},
		{"webhook, late", webhookTo(t, answering(408).URL), ReasonTimeout, 408},
		{"webhook, too large", webhookTo(t, answering(413).URL), ReasonTooLarge, 413},
		{"webhook, other type", webhookTo(t, answering(415).URL), ReasonContent, 415},
		{"webhook, too many", webhookTo(t, answering(429).URL), ReasonOverloaded, 429},
		{"webhook, in trouble", webhookTo(t, answering(503).URL), ReasonUnavailable, 503},
		{"webhook, disk full", webhookTo(t, answering(507).URL), ReasonNoSpace, 507},
		{"webhook, no token", webhookTo(t, answering(200).URL, withOAuth2(&promconfig.OAuth2{
			ClientID: "id", ClientSecret: "secret", TokenURL: answering(400).URL,
		})), ReasonAuthorization, 0},
		{"kafka, nothing listens", kafkaTo(t, []string{gone}), ReasonRefused, 0},
		{"kafka, no topic", kafka(func(*config.Sink) {}), ReasonNotFound, 0},
		{"kafka, wrong password", kafka(password, kfake.EnableSASL(), users), ReasonAuthorization, 0},
		{"kafka, its authority is not known", kafka(func(c *config.Sink) { c.Kafka.TLS = &config.TLS{} }, kfake.TLS(certificate)), ReasonTLS, 0},
		{"nats, nothing listens", natsTo(t, startNATS(t), func(c *config.Sink) { c.NATS.Servers = []string{"nats://" + gone} }), ReasonRefused, 0},
		{"nats, no stream", natsTo(t, startNATS(t)), ReasonNotFound, 0},
		{"nats, wrong password", natsTo(t, startNATS(t), func(c *config.Sink) { c.NATS.Password = config.NewSecret("wrong") }), ReasonAuthorization, 0},
		{"nats, no JetStream", natsTo(t, startNATS(t, func(o *server.Options) { o.JetStream = false })), ReasonNotFound, 0},
		{"nats, no TLS", natsTo(t, startNATS(t), func(c *config.Sink) { c.NATS.TLS = &config.TLS{} }), ReasonTLS, 0},
		{"splunk, wrong token", splunkTo(t, wrongToken), ReasonAuthorization, 403},
		{"splunk, no such index", splunkTo(t, otherIndex, func(c *config.Sink) { c.Splunk.Index = "ibmz" }), ReasonNotFound, 400},
		{"splunk, busy", splunkTo(t, busyCollector), ReasonUnavailable, 503},
		{"splunk, nothing listens", splunkTo(t, "http://"+gone), ReasonRefused, 0},
		{"elasticsearch, no credentials", elasticsearchTo(t, keyed), ReasonAuthorization, 401},
		{"elasticsearch, disk full", elasticsearchTo(t, flooded), ReasonNoSpace, 429},
		{"elasticsearch, its authority is not known", elasticsearchTo(t, tlsServer.URL), ReasonTLS, 0},
		{"syslog, nothing listens", syslogTo(t, syslogConfig("tcp://"+gone, config.FramingLF)), ReasonRefused, 0},
		{"syslog, no socket", syslogTo(t, syslogConfig("unix://"+missing, config.FramingLF)), ReasonNotFound, 0},
		{"syslog, its authority is not known", syslogTo(t, syslogConfig(syslogTLS.address, config.FramingLF)), ReasonTLS, 0},
		{"log, disk full", full, ReasonNoSpace, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := soon(t, "Send", func() error { return test.sink.Send(t.Context(), records(0, 1)) })
			if reason, status := ReasonOf(err); reason != test.reason || status != test.status {
				t.Errorf("%q, status %d: %v", reason, status, err)
			}
		})
	}
}

// The text of an error is no reason for anything.
func TestReasonOfText(t *testing.T) {
	address := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 47503}
	dial := &net.OpError{Op: "dial", Net: "tcp", Addr: address, Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	secret := newRedactor(&url.URL{}, "certificate-of-503")
	for _, test := range []struct {
		err    error
		reason Reason
		status int
	}{
		{nil, "", 0},
		{errors.New("certificate 503: timeout, no such host"), ReasonOther, 0},
		{dial, ReasonRefused, 0},
		{secret.error(fmt.Errorf("certificate-of-503: %w", dial)), ReasonRefused, 0},
		{&PartialError{Err: errors.Join(&RetryAfterError{Status: 503, Err: dial})}, ReasonUnavailable, 503},
		{&PermanentError{Err: errors.New("the template failed")}, ReasonContent, 0},
		{fmt.Errorf("%w (%w)", context.DeadlineExceeded, dial), ReasonRefused, 0},
		{context.DeadlineExceeded, ReasonTimeout, 0},
		{worst([]error{dial, &PermanentError{Status: 400, Err: dial}}), ReasonRefused, 0},
	} {
		if reason, status := ReasonOf(test.err); reason != test.reason || status != test.status {
			t.Errorf("%q, status %d: %v", reason, status, test.err)
		}
	}
}
