package sinks

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

const (
	// defaultTimeout is the limit of one attempt where the configuration, which has a default of its own, was not
	// read from a file.
	defaultTimeout = 10 * time.Second

	// maxBatchBytes keeps a batch below 1 MiB, the request size that nginx and others accept unless told otherwise.
	maxBatchBytes = 1_000_000

	// maxAnswer is how much of an answer's body is read so that the connection can be used again. Behind a
	// longer one the connection is closed, which is cheaper.
	maxAnswer = 64 << 10

	// answerTimeout limits the reading of an answer's body. The status has arrived by then and decides; a
	// consumer that drips its answer must not hold up the next event for the whole timeout.
	answerTimeout = time.Second

	// maxRetryAfter bounds what a consumer can ask for. A mistaken date must not stop a sink for days.
	maxRetryAfter = time.Hour
)

// webhook posts events to an HTTP server.
type webhook struct {
	target   string // scheme and host, for errors
	timeout  time.Duration
	batch    int // records per request; above 1 the body is always that of a batch
	maxBytes int // of the records of one request
	body     func([]event.Record) ([]byte, error)
	gzip     *compressor   // nil: bodies are not compressed
	signer   *signer       // nil: requests are not signed
	template *http.Request // what all requests share, without header and body
	header   http.Header   // what all headers share
	secrets  []string      // besides the address
	client   *httpClient
}

func newWebhook(cfg config.Sink, opts Options) (Sink, error) {
	u, err := url.Parse(cfg.Webhook.URL.Expose())
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" {
		return nil, errors.New("webhook: url is not an http or https address") // err would quote it, with what it hides
	}
	if u.User != nil {
		return nil, errors.New("webhook: url must not hold a userid") // it would not be sent
	}
	keys := cfg.Webhook.SigningKeys()
	if len(keys) != len(cfg.Webhook.SigningSecrets()) {
		return nil, errors.New("webhook: secret is not whsec_ and 24 to 64 bytes in base64")
	}
	var secrets []string
	for _, s := range cfg.Webhook.SigningSecrets() {
		secrets = append(secrets, s.Expose())
	}
	w := &webhook{
		target:   u.Scheme + "://" + u.Host,
		timeout:  cmp.Or(max(cfg.Timeout, 0), defaultTimeout),
		batch:    max(cfg.Batch.MaxEvents, 1),
		maxBytes: maxBatchBytes,
		signer:   newSigner(keys),
		secrets:  secrets,
		header: http.Header{
			"User-Agent": {userAgent(opts.Version)},
			// An entry without a value is not sent. It tells the transport that the request may be repeated on another
			// connection when a kept one turns out to be closed, as the ids make it so. Otherwise each idle timeout of
			// a consumer would cost a failed attempt and its back-off.
			"X-Idempotency-Key": nil,
		},
	}
	contentType, err := w.setFormat(cfg.Webhook)
	if err != nil {
		return nil, fmt.Errorf("webhook: %w", err)
	}
	w.header["Content-Type"] = []string{contentType}
	switch c := cfg.Webhook.Compression; c {
	case "", config.CompressionNone:
	case config.CompressionGzip:
		w.gzip = &compressor{}
		w.header["Content-Encoding"] = []string{"gzip"}
	default:
		return nil, fmt.Errorf("webhook: compression %q is not available", c)
	}
	w.template = &http.Request{Method: http.MethodPost, URL: u, Host: u.Host, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}

	w.client, err = newHTTPClient(cfg.Webhook.HTTPConfig, clientOptions{
		timeout: w.timeout, concurrency: max(cfg.Concurrency, 1), userAgent: userAgent(opts.Version),
	})
	if err != nil {
		return nil, fmt.Errorf("webhook: %w", err)
	}
	return w, nil
}

// setFormat chooses what makes bodies, and returns their content type.
func (w *webhook) setFormat(cfg *config.Webhook) (contentType string, err error) {
	batch := w.batch > 1
	switch cfg.Format {
	case "", config.FormatJSON:
		w.body = jsonBody
		if batch {
			w.body = batchBody
		}
		return "application/json", nil
	case config.FormatCloudEvents:
		w.maxBytes = maxBatchBytes / 2 // the envelope of a small event is as large as the event
		if batch {
			w.body = cloudEventsBody
			return cloudEvents, nil
		}
		w.body = cloudEventBody
		return cloudEvent, nil
	case config.FormatTemplate:
		w.maxBytes = maxBatchBytes / 2 // how much a template makes of an event is not known
		contentType = cmp.Or(cfg.ContentType, config.DefaultContentType)
		w.body, err = templateBody(cfg.Template, contentType, batch)
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

// Send makes one request and judges the answer by its status alone: once a status has arrived, whatever happens to
// the rest of the answer changes nothing.
//
// It uses the transport without an http.Client around it: no redirect is followed, and errors do not hold the URL.
func (w *webhook) Send(ctx context.Context, records []event.Record) error {
	if len(records) == 0 {
		return nil
	}
	if w.client.conns.closed() {
		return fmt.Errorf("webhook: %s: %w", w.target, ErrClosed)
	}
	if len(records) > w.batch {
		return fmt.Errorf("webhook: %s: %d events in one request, at most %d", w.target, len(records), w.batch)
	}
	id := records[0].ID
	if w.batch > 1 {
		id = batchID(records)
	}
	body, err := w.body(records)
	if err != nil {
		return err
	}
	if w.gzip != nil {
		body = w.gzip.compress(body)
	}

	start := time.Now()
	attempt, cancel := context.WithTimeout(ctx, w.timeout)
	defer cancel()
	resp, err := w.client.RoundTrip(w.request(attempt, id, body))
	if err != nil {
		return w.noAnswer(ctx, attempt, start, err)
	}
	defer resp.Body.Close()
	return w.judge(resp, cancel)
}

// request builds the request of one attempt.
func (w *webhook) request(ctx context.Context, id string, body []byte) *http.Request {
	now := strconv.FormatInt(time.Now().Unix(), 10)
	values := [3]string{id, now, ""}
	header := make(http.Header, len(w.header)+len(values))
	maps.Copy(header, w.header) // the values are shared: the transport does not change them
	header["Webhook-Id"] = values[0:1:1]
	header["Webhook-Timestamp"] = values[1:2:2]
	if w.signer != nil {
		values[2] = w.signer.sign(id, now, body)
		header["Webhook-Signature"] = values[2:3:3]
	}

	req := w.template.WithContext(ctx)
	req.Header = header
	req.ContentLength = int64(len(body))
	req.Body = io.NopCloser(bytes.NewReader(body))
	req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	return req
}

// batchID derives the webhook-id of a batch from the ids of all its events: the same batch, sent again, has the same one.
func batchID(records []event.Record) string {
	h := sha256.New()
	for i := range records {
		_, _ = io.WriteString(h, records[i].ID)
		_, _ = h.Write([]byte{0})
	}
	return "batch-" + hex.EncodeToString(h.Sum(nil)[:16])
}

// jsonBody returns the record as it is.
func jsonBody(records []event.Record) ([]byte, error) { return records[0].JSON, nil }

// batchBody returns the JSON array of the records.
func batchBody(records []event.Record) ([]byte, error) {
	size := len(records) + 1
	for i := range records {
		size += len(records[i].JSON)
	}
	body := make([]byte, 0, size)
	for i := range records {
		if i == 0 {
			body = append(body, '[')
		} else {
			body = append(body, ',')
		}
		body = append(body, records[i].JSON...)
	}
	return append(body, ']'), nil
}

// noAnswer turns an error of the transport into that of Send. Whatever went wrong, it may be repaired: all of these are
// temporary. ctx is the caller's, attempt is that of the attempt.
func (w *webhook) noAnswer(ctx, attempt context.Context, start time.Time, err error) error {
	hint := ""
	switch {
	case w.client.conns.closed():
		err = ErrClosed
	case attempt.Err() != nil:
		what := "no answer"
		if _, ok := errors.AsType[*tokenError](err); ok {
			what = "no OAuth 2 token"
		}
		err = ended(ctx, attempt, what, start)
	default:
		hint = tlsHint(err)
		// A peer that does not speak HTTP is quoted in the error, and may quote the request.
		var sent http.Header
		if e, ok := errors.AsType[*roundTripError](err); ok {
			err, sent = e.err, e.header
		}
		err = w.redactor(sent).error(err)
	}
	return fmt.Errorf("webhook: %s: %w%s", w.target, err, hint)
}

// judge reads what matters of an answer.
func (w *webhook) judge(resp *http.Response, cancel context.CancelFunc) error {
	code := resp.StatusCode
	delivered := code >= 200 && code <= 299
	excerpt := w.read(resp, !delivered, cancel)
	if delivered {
		return nil
	}

	text := strconv.Itoa(code)
	if name := http.StatusText(code); name != "" {
		text += " " + name
	}
	if code >= 300 && code <= 399 {
		text += " (redirects are not followed)"
	}
	if excerpt != "" {
		text += ": " + excerpt
	}
	err := fmt.Errorf("webhook: %s: status %s", w.target, text)
	switch {
	case code == http.StatusRequestTimeout, code == http.StatusTooEarly, code == http.StatusTooManyRequests,
		code >= 500 && code <= 599:
		return &RetryAfterError{Status: code, After: retryAfter(resp.Header), Err: err}
	}
	return &PermanentError{Status: code, Err: err}
}

// read reads the body of an answer, so that the connection can be used again, as far as that is worth it. If wanted, it
// returns the beginning as one line of printable text.
func (w *webhook) read(resp *http.Response, wanted bool, cancel context.CancelFunc) string {
	// Behind 101 comes no body but another protocol.
	if resp.Body == http.NoBody || resp.StatusCode == http.StatusSwitchingProtocols {
		return ""
	}
	if !wanted && resp.ContentLength > maxAnswer {
		return ""
	}
	defer time.AfterFunc(answerTimeout, cancel).Stop()
	body := io.LimitReader(resp.Body, maxAnswer)
	excerpt := ""
	if wanted {
		data, _ := io.ReadAll(io.LimitReader(body, maxExcerptRead))
		excerpt = w.redactor(resp.Request.Header).excerpt(data)
	}
	if resp.ContentLength <= maxAnswer {
		_, _ = io.Copy(io.Discard, body)
	}
	return excerpt
}

// retryAfter returns what the header Retry-After says, seconds or a date, at most maxRetryAfter; 0 where it says nothing.
func retryAfter(header http.Header) time.Duration {
	value := header.Get("Retry-After")
	if seconds, err := strconv.ParseUint(value, 10, 64); err == nil || errors.Is(err, strconv.ErrRange) {
		return time.Duration(min(seconds, uint64(maxRetryAfter/time.Second))) * time.Second
	}
	until, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	// By the consumer's clock, where it shows it, so that its distance to ours does not matter.
	now, err := http.ParseTime(header.Get("Date"))
	if err != nil {
		now = time.Now()
	}
	return max(0, min(until.Sub(now), maxRetryAfter))
}

// redactor hides the address, the secrets of the configuration, and those of a request that was sent, which may have come
// from files.
func (w *webhook) redactor(sent http.Header) *redactor {
	return newRedactor(w.template.URL, slices.Concat(w.secrets, w.client.secrets(), w.client.secretsOf(sent))...)
}

// Probe connects, for https verifies the certificate, and for OAuth 2 gets a token, without making a request.
func (w *webhook) Probe(ctx context.Context) error {
	start := time.Now()
	attempt, cancel := context.WithTimeout(ctx, w.timeout)
	defer cancel()
	if err := w.client.probe(attempt, w.template.URL); err != nil {
		return w.noAnswer(ctx, attempt, start, err)
	}
	return nil
}

// Close ends every connection, and with it every request.
func (w *webhook) Close() error {
	w.client.close()
	return nil
}
