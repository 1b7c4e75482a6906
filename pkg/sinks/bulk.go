package sinks

import (
	"errors"
	"fmt"
	"maps"
	"net/http"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
)

// bulk is what sinks have in common whose requests have many events, each of which the answer
// judges. Its endpoint is that of the configured address.
type bulk struct {
	*endpoint
	// batch is how many records a request may have.
	batch int
	// gzip says that bodies are compressed.
	gzip bool
	// header is what all headers share.
	header http.Header
}

func newBulk(
	kind string, address config.URL, http config.HTTPConfig, compression string, cfg config.Sink, opts Options,
) (*bulk, error) {
	u := httpURL(address)
	if u == nil || u.User != nil {
		return nil, errors.New("url is not an http or https address without a userid")
	}
	client, err := newHTTPClient(http, clientOptions{
		timeout: timeoutOf(cfg), concurrency: max(cfg.Concurrency, 1), userAgent: userAgent(opts.Version),
	})
	if err != nil {
		return nil, err
	}
	b := &bulk{batch: max(cfg.Batch.MaxEvents, 1), endpoint: newEndpoint(kind, u, timeoutOf(cfg), client)}
	switch compression {
	case "", config.CompressionNone:
	case config.CompressionGzip:
		b.gzip = true
	default:
		return nil, fmt.Errorf("compression %q is not available", compression)
	}
	return b, nil
}

// newHeader is the header of one request.
func (b *bulk) newHeader(more int) http.Header {
	header := make(http.Header, len(b.header)+1+more)
	maps.Copy(header, b.header) // the values are shared: the transport does not change them
	return header
}

// encoded compresses a body where that is configured, and says so in the header.
func (b *bulk) encoded(header http.Header, body []byte) []byte {
	if !b.gzip {
		return body
	}
	header["Content-Encoding"] = []string{"gzip"}
	return compress(body)
}

// MaxBatch returns the configured size of a batch. The form of an event may be twice as large as
// the event.
func (b *bulk) MaxBatch() (records, bytes int) { return b.batch, maxBatchBytes / 2 }

// Close ends every connection, and with it every request.
func (b *bulk) Close() error {
	b.client.close()
	return nil
}
