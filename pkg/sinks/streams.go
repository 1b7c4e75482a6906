package sinks

import (
	"fmt"
	"strings"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// streamBatch is how many events one Send of a sink for NATS or Kafka takes unless more are
// configured. Each event is a message of its own: a batch is only what is on its way at once.
const streamBatch = 256

// stream is what the sinks for NATS and Kafka have in common.
type stream struct {
	attempts
	// naming makes the name of the subject or topic.
	naming naming
	batch  int
	// inFlight is how many messages of all Sends together are on their way.
	inFlight int
	// connect is the limit of connecting to one server.
	connect time.Duration
	conns   *connections
	// tls is nil where it is not configured.
	tls *config.TLS
}

// newStream makes the common part of a sink. hosts are its servers, and place is what the
// configuration calls the name.
func newStream(kind string, hosts []string, place, name string, cfg config.Sink) (stream, error) {
	timeout, batch := timeoutOf(cfg), max(cfg.Batch.MaxEvents, streamBatch)
	s := stream{batch: batch, inFlight: batch * max(cfg.Concurrency, 1)}
	// Less than the whole attempt, so that the second server has its turn when the first hangs,
	// and that what keeps from connecting is reported rather than that time is over.
	s.connect = (timeout - timeout/8) / time.Duration(len(hosts))
	s.conns = newConnections(s.connect)
	s.attempts = attempts{timeout: timeout, life: s.conns.lifetime, precise: true}
	s.name = kind + ": " + strings.Join(hosts, ", ")
	var err error
	if s.naming, err = newNaming(name, "-_"); err != nil {
		return s, fmt.Errorf("%s: %s: %w", kind, place, err)
	}
	return s, nil
}

// MaxBatch returns what may be on its way at once for one Send.
func (s *stream) MaxBatch() (records, bytes int) { return s.batch, maxBatchBytes }

// refused says that one event is refused, and nothing else, which HTTP has a status for: those that
// were sent with it may be fine.
func (s *stream) refused(status int, what string, r *event.Record, err error) error {
	err = fmt.Errorf("%s: %sevent of %d bytes: %w", s.name, what, len(r.JSON), err)
	return &PermanentError{Status: status, Err: err}
}
