package sinks

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync/atomic"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// maxBatchBytes keeps a batch below 1 MiB, the request size that nginx and others accept by
// default.
const maxBatchBytes = 1_000_000

// webhook posts events to an HTTP server.
type webhook struct {
	*endpoint
	// batch is how many records a request may have; above 1 the body is always that of a batch.
	batch int
	// maxBytes is the size of the records of one request.
	maxBytes int
	body     func([]event.Record) ([]byte, error)
	// asStored says that a body has nothing but the records as they are stored.
	asStored bool
	// gzip says that bodies are compressed.
	gzip bool
	// keys sign the requests; none: they are not signed.
	keys [][]byte
	// header is what all headers share.
	header http.Header
	// again says that a form may be filled in again: with HTTP/2 that is not known in time.
	again bool
	// groups are those of the HMCs.
	groups atomic.Pointer[map[string]string]
}

// Follow says of which groups HMCs are, for templates.
func (w *webhook) Follow(groups map[string]string) { w.groups.Store(&groups) }

// groupOf returns the group of an HMC; one that is not configured any more is its own.
func (w *webhook) groupOf(hmc string) string {
	if groups := w.groups.Load(); groups != nil {
		return cmp.Or((*groups)[hmc], hmc)
	}
	return hmc
}

func newWebhook(cfg config.Sink, opts Options) (Sink, error) {
	u := httpURL(cfg.Webhook.URL)
	if u == nil {
		return nil, errors.New("webhook: url is not an http or https address")
	}
	if u.User != nil {
		// It would not be sent.
		return nil, errors.New("webhook: url must not hold a userid")
	}
	keys := cfg.Webhook.SigningKeys()
	if len(keys) != len(cfg.Webhook.SigningSecrets()) {
		return nil, errors.New("webhook: secret is not whsec_ and 24 to 64 bytes in base64")
	}
	w := &webhook{batch: max(cfg.Batch.MaxEvents, 1), maxBytes: maxBatchBytes, keys: keys}
	contentType, err := w.setFormat(cfg.Webhook)
	if err != nil {
		return nil, fmt.Errorf("webhook: %w", err)
	}
	w.header = newHeader(opts, contentType)
	switch c := cfg.Webhook.Compression; c {
	case "", config.CompressionNone:
	case config.CompressionGzip:
		w.gzip = true
		w.header["Content-Encoding"] = []string{"gzip"}
	default:
		return nil, fmt.Errorf("webhook: compression %q is not available", c)
	}
	client, err := newHTTPClient(cfg.Webhook.HTTPConfig, clientOptions{
		timeout: timeoutOf(cfg), concurrency: max(cfg.Concurrency, 1), userAgent: userAgent(opts.Version),
	})
	if err != nil {
		return nil, fmt.Errorf("webhook: %w", err)
	}
	w.endpoint = newEndpoint("webhook", u, timeoutOf(cfg), client)
	w.again = u.Scheme == "http" || !client.cfg.EnableHTTP2
	for _, s := range cfg.Webhook.SigningSecrets() {
		w.secrets = append(w.secrets, s.Expose())
	}
	return w, nil
}

// setFormat chooses what makes bodies, and returns their content type.
func (w *webhook) setFormat(cfg *config.Webhook) (contentType string, err error) {
	batch := w.batch > 1
	switch cfg.Format {
	case "", config.FormatJSON:
		w.asStored = true
		if !batch {
			w.body = func(records []event.Record) ([]byte, error) { return records[0].JSON, nil }
			return "application/json", nil
		}
		w.body = bodyOf(batch, 0, func(dst []byte, r event.Record) []byte { return append(dst, r.JSON...) })
		return "application/json", nil
	case config.FormatCloudEvents:
		// The envelope of a small event is as large as the event.
		w.maxBytes = maxBatchBytes / 2
		w.body = bodyOf(batch, cloudEventEnvelope, appendCloudEvent)
		if batch {
			return cloudEvents, nil
		}
		return cloudEvent, nil
	case config.FormatTemplate:
		// How much a template makes of an event is not known.
		w.maxBytes = maxBatchBytes / 2
		contentType = cmp.Or(cfg.ContentType, config.DefaultContentType)
		w.body, err = templateBody(cfg.Template, contentType, batch, w.groupOf)
		return contentType, err
	}
	return "", fmt.Errorf("format %q is not available", cfg.Format)
}

func userAgent(version string) string {
	if version == "" {
		return "hmcnotifyd"
	}
	return "hmcnotifyd/" + version
}

// MaxBatch returns the configured size of a batch.
func (w *webhook) MaxBatch() (records, bytes int) { return w.batch, w.maxBytes }

// Send makes one request and judges the answer by its status alone: once a status has arrived,
// whatever happens to the rest of the answer changes nothing.
//
// It uses the transport without an http.Client around it: no redirect is followed, and errors do
// not hold the URL.
func (w *webhook) Send(ctx context.Context, records []event.Record) error {
	if len(records) == 0 {
		return nil
	}
	if len(records) > w.batch {
		return fmt.Errorf("%s: %d events in one request, at most %d", w.name, len(records), w.batch)
	}
	id := records[0].ID
	if w.batch > 1 {
		id = batchID(records)
	}
	if size := sizeOf(records); size > writeBuffer && w.asStored && w.batch > 1 && !w.gzip && len(w.keys) == 0 {
		body := arrayOf(records)
		return w.cancelable(ctx, noAnswer, func(attempt context.Context, s *span) error {
			f := w.newForm(attempt, false)
			setBody(f.fill(id, s.began, nil), size, body)
			return w.exchange(f.Request, s.giveUp, nil)
		})
	}
	body, err := w.body(records)
	if err != nil {
		return err
	}
	if w.gzip {
		body = compress(body)
	}
	return w.cancelable(ctx, noAnswer, func(attempt context.Context, s *span) error {
		f := s.form
		if s.form = nil; f == nil {
			f = w.newForm(attempt, w.again)
		}
		err := w.exchange(f.fill(id, s.began, body), s.giveUp, nil)
		if err == nil && w.again && f.blank() {
			s.form = f
		}
		return err
	})
}

// Preview returns the body of a request.
func (w *webhook) Preview(record event.Record) ([]byte, error) { return w.body([]event.Record{record}) }

// arrayOf returns what makes the body that is an array of records, in pieces, and sizeOf how large
// it is. The transport may read it for longer than a request takes, when the memory of the records
// themselves is another's; that of their JSON is never written to.
func arrayOf(records []event.Record) func() (io.ReadCloser, error) {
	all := make(net.Buffers, 0, 2*len(records)+1)
	for i := range records {
		all = append(all, arrayBegin[min(i, 1)], records[i].JSON)
	}
	all = append(all, arrayEnd)
	return func() (io.ReadCloser, error) { return &pieces{slices.Clone(all)}, nil }
}

func sizeOf(records []event.Record) int {
	size := len(records) + 1
	for i := range records {
		size += len(records[i].JSON)
	}
	return size
}

// What is before the first element of an array, before each other one, and behind the last.
var (
	arrayBegin = [2][]byte{[]byte("["), []byte(",")}
	arrayEnd   = []byte("]")
)

// batchID derives the webhook-id of a batch from the ids of all its events: the same batch, sent
// again, has the same one.
func batchID(records []event.Record) string {
	ids := make([]byte, 0, 40*len(records))
	for i := range records {
		ids = append(append(ids, records[i].ID...), 0)
	}
	sum := sha256.Sum256(ids)
	return "batch-" + hex.EncodeToString(sum[:16])
}

// bodyOf returns what makes bodies of what add appends for each record, which is more than its JSON
// by about so many bytes: an array of it for a batch, else that of the only record.
func bodyOf(
	batch bool, more int, add func(dst []byte, r event.Record) []byte,
) func([]event.Record) ([]byte, error) {
	return func(records []event.Record) ([]byte, error) {
		body := make([]byte, 0, sizeOf(records)+more*len(records))
		if !batch {
			return add(body, records[0]), nil
		}
		for i := range records {
			body = add(append(body, "[,"[min(i, 1)]), records[i])
		}
		return append(body, ']'), nil
	}
}

// Close ends every connection, and with it every request.
func (w *webhook) Close() error {
	w.client.close()
	return nil
}
