package sinks

import (
	"net/http"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
)

// Advice says what to do about an error of a sink, by what [ReasonOf] said of it: words that follow
// "what to do: ", without a full stop. It is "" without a reason.
func Advice(cfg *config.Sink, reason Reason, status int) string {
	switch reason {
	case "":
		return ""
	case ReasonDNS:
		return "look at the address, and whether this machine can resolve its name"
	case ReasonRefused:
		return "nothing listens there: look whether the consumer is up, and at the address"
	case ReasonUnreachable:
		return "this machine has no way to it: look at the address, at routes and at firewalls"
	case ReasonTimeout:
		return "the consumer does not answer in time: look at its load and at firewalls; " +
			"timeout sets how long it may take"
	case ReasonTLS:
		return "the consumer's certificate is not trusted, or does not fit its name, or there is no TLS at this " +
			"address: look at the sink's TLS settings, and whether scheme and port are right"
	case ReasonAuthorization:
		if status == http.StatusProxyAuthRequired {
			return "the proxy wants to know who sends: put its userid and password into proxy_url of http_config"
		}
		return "the consumer does not accept who sends it: check " + credentials(cfg)
	case ReasonMoved:
		return "the address has moved: set " + address(cfg) + " to the new one, redirects are not followed"
	case ReasonNotFound:
		return notFound(cfg)
	case ReasonTooLarge:
		return "the consumer takes no request of this size: lower batch.max_events, or raise the limit there"
	case ReasonContent:
		return content(cfg, status)
	case ReasonOverloaded:
		return "the consumer wants fewer requests: lower concurrency, or gather events with batch"
	case ReasonUnavailable:
		return unavailable(status)
	case ReasonNoSpace:
		if cfg.Elasticsearch != nil {
			return "nothing may be written to the index: make space on the cluster's disks, or lift its block"
		}
		if cfg.NATS != nil {
			return "the stream, or the disk of its server, is full: raise the stream's limits, " +
				"or have it discard old messages"
		}
		if status != 0 {
			return "the consumer has no space left: make some there"
		}
		return "make space on that disk"
	case ReasonPermission:
		return "let the daemon's user write there"
	}
	return "look at the consumer"
}

// unavailable is what to do about a destination that is in trouble.
func unavailable(status int) string {
	switch status {
	case http.StatusInternalServerError:
		return "the consumer failed while it handled the request: its own log says why"
	case http.StatusBadGateway, http.StatusGatewayTimeout:
		return "a proxy answers, but not the consumer behind it: look whether that is up"
	case http.StatusServiceUnavailable:
		return "the consumer is not up, or what it needs is not: look at it, and at the proxy before it"
	}
	return "the consumer, or a proxy before it, is in trouble: its own log may say why"
}

// credentials names the settings that say who sends.
func credentials(cfg *config.Sink) string {
	switch {
	case cfg.Webhook != nil && len(cfg.Webhook.SigningSecrets()) > 0:
		return "webhook.secret, which must be the one that the consumer verifies with, " +
			"or the credentials in webhook.http_config"
	case cfg.Webhook != nil:
		return "the token or password in webhook.http_config, or the one in the address"
	case cfg.Alertmanager != nil:
		return "the credentials in alertmanager.http_config"
	case cfg.OTLP != nil:
		return "the credentials in otlp.http_config"
	case cfg.Splunk != nil:
		return "splunk.token, and whether the token is enabled"
	case cfg.Elasticsearch != nil:
		return "the credentials in elasticsearch.http_config, and whether they may write to " +
			"the index (create_doc, auto_configure)"
	case cfg.Kafka != nil:
		return "kafka.sasl, and what the cluster allows that user"
	case cfg.NATS != nil:
		return "the credentials in nats, and the subjects that they allow"
	case cfg.Syslog != nil:
		return "the certificate in syslog.tls.cert_file, and the authorities that the server accepts"
	}
	return "the credentials of the sink"
}

// address names the setting that says where events go.
func address(cfg *config.Sink) string {
	switch {
	case cfg.Webhook != nil:
		return "webhook.url"
	case cfg.OTLP != nil:
		return "otlp.url"
	}
	return "the address"
}

func notFound(cfg *config.Sink) string {
	switch {
	case cfg.Webhook != nil:
		return "the consumer takes no POST at this address: check webhook.url as a whole, with path and query"
	case cfg.OTLP != nil:
		return "nothing takes logs at this address: check otlp.url as a whole, a collector has them at /v1/logs"
	case cfg.Log != nil:
		return "look whether there is a folder for log.output"
	case cfg.Splunk != nil:
		return "check splunk.url, which is that of the collector (port 8088 unless changed), and splunk.index, " +
			"which must be there and allowed to the token"
	case cfg.Elasticsearch != nil:
		return "check elasticsearch.url, and whether there can be an index or data stream of that name"
	case cfg.Kafka != nil:
		return "look whether the cluster has the topic"
	case cfg.NATS != nil:
		return "look whether JetStream is enabled, and a stream takes the subject"
	}
	return "nothing takes events there: check the address as a whole"
}

func content(cfg *config.Sink, status int) string {
	switch {
	case cfg.OTLP != nil:
		return "the collector refuses what it gets: its own log says why, and which limits it has"
	case cfg.Splunk != nil:
		return "the collector says what is wrong; acknowledge must be as it is set for the token"
	case cfg.Elasticsearch != nil:
		return "the event does not fit the mapping of the index, or the request what answers: its answer says why"
	case cfg.Webhook == nil:
		return "the consumer does not understand what it gets: its own log may say why"
	case status == http.StatusUnsupportedMediaType:
		return "the consumer wants another content type: check webhook.format, content_type and compression"
	}
	return "the consumer does not understand what it gets: check webhook.format and template against what it documents"
}
