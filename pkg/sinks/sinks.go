// Package sinks holds the destinations of events.
//
// A sink formats and sends, nothing else: it does not retry, log, count or keep a goroutine of its
// own. Whoever calls Send decides from the error what happens next: a [PermanentError] is refused
// for good, with a [PausedError] nothing is accepted until somebody has mended something, an
// [EventsError] has an error for each event, everything else may be tried again.
//
// Sinks over HTTP make their requests with an endpoint, which judges the answer by its status, or
// has the sink judge it by what its body says (httpAnswer).
//
// A new kind of sink is one file with its type and its test, one field in [config.Sink], one case
// in [New] and one line in the table of the contract test.
package sinks

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// Sink is one destination. All methods may be called from several goroutines at once.
type Sink interface {
	// Send delivers one event, or one batch within what [MaxBatch] says, in one attempt, which
	// ends within the timeout of the sink's configuration. It returns nil only when the
	// destination has accepted every record; no records are accepted at once.
	//
	// The error is a *PausedError where the destination takes nothing at all as it is, a
	// *PermanentError where it refused for good what was sent (it may take a part of a batch by
	// itself, if the status is about what was sent), the error of ctx where that ended first,
	// ErrClosed after Close, and else something temporary (a *RetryAfterError where the
	// destination named a time or a status). Where it judged the records one by one it is an
	// *EventsError with one of these for each, and a *RejectedError where it told a number
	// only. It never holds a secret. After an error the records may have arrived nevertheless:
	// whoever sends again sends the same ids.
	//
	// Send does not change the records. It may return before the last read of their memory, so
	// that must not be written to again.
	Send(ctx context.Context, records []event.Record) error

	// Probe reports whether the destination can be reached, as far as that is possible without
	// sending an event.
	Probe(ctx context.Context) error

	// Close ends connections and running calls of Send; it does not wait for a destination.
	// Further calls do nothing.
	Close() error
}

// Batcher is a sink that takes several records per Send.
type Batcher interface {
	// MaxBatch returns how many records, and how many bytes of their JSON together, one Send
	// takes. A single record may be larger than that. Both are at least 1 and do not change.
	MaxBatch() (records, bytes int)
}

// Reopener is a sink that writes to a file which something else may have moved away, as log
// rotation does.
type Reopener interface {
	// Reopen opens the file anew under its name. After an error the sink goes on with the one
	// it has.
	Reopen() error
}

// Selector is a sink that chooses among the events by itself.
type Selector interface {
	// Wants says whether Send has any use for the record. The match and drop of the sink do not
	// keep it from a Selector, which asks Options.Selects about them.
	Wants(record event.Record) bool
}

// Repeater is a sink that has to send again and again what it has sent, because the destination
// forgets it.
type Repeater interface {
	// Repeat sends everything again, in one attempt. Its error is like that of Send; a
	// *PartialError where enough of the destination has accepted it.
	Repeat(ctx context.Context) error

	// RepeatInterval returns how often that has to be done. It does not change. The first time
	// is when the sink begins to work.
	RepeatInterval() time.Duration
}

// Heir is a sink that takes over from one before it what it has accepted and may not have arrived.
type Heir interface {
	// Inherit takes that over from the sink that this one replaces, which is closed. It is called
	// before the first Send, and reports whether there was something.
	Inherit(from Sink) bool

	// Flush sends what was taken over, in one attempt, unless a Send has done it, which sends that
	// first. Its error is like that of Send.
	Flush(ctx context.Context) error
}

// Follower is a sink that keeps something about HMCs which is void without them.
type Follower interface {
	// Follow says which HMCs are configured from now on, each with its group. It is called
	// before the first Send, and when that changes.
	Follow(groups map[string]string)
}

// Previewer is a sink that can say what it would send.
type Previewer interface {
	// Preview returns what Send gives the destination for one record, without what is around it or
	// is another in each attempt: the body of a request, a message without its header, a line.
	Preview(record event.Record) ([]byte, error)
}

// Store keeps what a sink has to remember over a restart.
type Store interface {
	// Range calls fn for everything that is kept, until it returns false.
	Range(fn func(key string, value []byte) bool)

	// Put keeps these values, nil removes one. It returns nil when they are on disk.
	Put(ctx context.Context, values map[string][]byte) error
}

// MaxBatch returns how many records, and how many bytes of their JSON together, one Send of s
// takes: what it says as a Batcher, else one record of any size.
func MaxBatch(s Sink) (records, bytes int) {
	if b, ok := s.(Batcher); ok {
		return b.MaxBatch()
	}
	return 1, 1
}

// ErrClosed is the error of a sink that has been closed.
var ErrClosed = errors.New("sink is closed")

// Options are what sinks get from the program rather than from the configuration.
type Options struct {
	// Version is that of the program, for User-Agent.
	Version string
	// ExternalURL is the address of the daemon's web side, as people reach it; "": it is not known.
	ExternalURL string
	// Stdout is where a log sink's "stdout" goes; nil: os.Stdout.
	Stdout io.Writer
	// Stderr is where a log sink's "stderr" goes; nil: os.Stderr.
	Stderr io.Writer

	// Store is that of this sink alone; nil: nothing is remembered.
	Store Store
	// Selects is what the sink's match and drop say, for a Selector; nil: all.
	Selects func(rec event.Record) bool
}

// New makes the sink that cfg describes. It opens files, but makes no connection. The caller knows
// which sink an error is about: it does not hold the name.
func New(cfg config.Sink, opts Options) (Sink, error) {
	switch {
	case cfg.Webhook != nil:
		return newWebhook(cfg, opts)
	case cfg.Log != nil:
		return newLog(cfg, opts)
	case cfg.Alertmanager != nil:
		return newAlertmanager(cfg, opts)
	case cfg.NATS != nil:
		return newNATS(cfg, opts)
	case cfg.Kafka != nil:
		return newKafka(cfg, opts)
	case cfg.Syslog != nil:
		return newSyslog(cfg, opts)
	case cfg.OTLP != nil:
		return newOTLP(cfg, opts)
	case cfg.Splunk != nil:
		return newSplunk(cfg, opts)
	case cfg.Elasticsearch != nil:
		return newElasticsearch(cfg, opts)
	}
	return nil, errNoKind
}

var errNoKind = errors.New("no kind of sink is set")
