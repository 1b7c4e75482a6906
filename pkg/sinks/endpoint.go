package sinks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"
)

const (
	// maxAnswer is how much of an answer's body is read so that the connection can be used again. Behind a
	// longer one the connection is closed, which is cheaper.
	maxAnswer = 64 << 10

	// answerTimeout limits the reading of an answer's body. The status has arrived by then and decides; a
	// consumer that drips its answer must not hold up the next event for the whole timeout.
	answerTimeout = time.Second

	// maxRetryAfter bounds what a consumer can ask for. A mistaken date must not stop a sink for days.
	maxRetryAfter = time.Hour
)

// endpoint is a server that a sink makes requests of, and what becomes of the answers.
type endpoint struct {
	kind    string // of the sink, for errors
	url     *url.URL
	target  string // scheme and host of url, for errors
	timeout time.Duration
	secrets []string // of the configuration, besides the address
	client  *httpClient
}

// request is a POST of body. The header is the request's from then on.
func (p *endpoint) request(ctx context.Context, header http.Header, body []byte) *http.Request {
	req := (&http.Request{Method: http.MethodPost, URL: p.url, Host: p.url.Host, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}).WithContext(ctx)
	req.Header = header
	req.ContentLength = int64(len(body))
	req.Body = io.NopCloser(bytes.NewReader(body))
	req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	return req
}

// send makes a request and judges the answer. ctx is the caller's; cancel ends the attempt, whose context the request has.
func (p *endpoint) send(ctx context.Context, start time.Time, req *http.Request, cancel context.CancelFunc) error {
	resp, err := p.client.RoundTrip(req)
	if err != nil {
		return p.noAnswer(ctx, req.Context(), start, err)
	}
	defer resp.Body.Close()
	return p.judge(resp, cancel)
}

// noAnswer turns an error of the transport into that of Send. Whatever went wrong, it may be repaired: all of these are
// temporary. ctx is the caller's, attempt is that of the attempt.
func (p *endpoint) noAnswer(ctx, attempt context.Context, start time.Time, err error) error {
	hint := ""
	switch {
	case p.client.conns.closed():
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
		err = p.redactor(sent).error(err)
	}
	return fmt.Errorf("%s: %s: %w%s", p.kind, p.target, err, hint)
}

// judge reads what matters of an answer.
func (p *endpoint) judge(resp *http.Response, cancel context.CancelFunc) error {
	code := resp.StatusCode
	delivered := code >= 200 && code <= 299
	excerpt := p.read(resp, !delivered, cancel)
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
	err := fmt.Errorf("%s: %s: status %s", p.kind, p.target, text)
	switch {
	case code == http.StatusRequestTimeout, code == http.StatusTooEarly, code == http.StatusTooManyRequests,
		code >= 500 && code <= 599:
		return &RetryAfterError{Status: code, After: retryAfter(resp.Header), Err: err}
	}
	return &PermanentError{Status: code, Err: err}
}

// read reads the body of an answer, so that the connection can be used again, as far as that is worth it. If wanted, it
// returns the beginning as one line of printable text.
func (p *endpoint) read(resp *http.Response, wanted bool, cancel context.CancelFunc) string {
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
		excerpt = p.redactor(resp.Request.Header).excerpt(data)
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
func (p *endpoint) redactor(sent http.Header) *redactor {
	return newRedactor(p.url, slices.Concat(p.secrets, p.client.secrets(), p.client.secretsOf(sent))...)
}

// Probe connects, for https verifies the certificate, and for OAuth 2 gets a token, without making a request.
func (p *endpoint) Probe(ctx context.Context) error {
	start := time.Now()
	attempt, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	if err := p.client.probe(attempt, p.url); err != nil {
		return p.noAnswer(ctx, attempt, start, err)
	}
	return nil
}
