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
	"strings"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
)

const (
	// maxAnswer is how much of an answer's body is read so that the connection can be used
	// again. Behind a longer one the connection is closed, which is cheaper.
	maxAnswer = 64 << 10

	// answerTimeout limits the reading of an answer's body. The status has arrived by then and
	// decides; a consumer that drips its answer must not hold up the next event for the whole
	// timeout.
	answerTimeout = time.Second

	// maxAnswerBody is how large an answer may be that says what became of each event.
	maxAnswerBody = 8 << 20

	// maxRetryAfter bounds what a consumer can ask for. A mistaken date must not stop a sink
	// for days.
	maxRetryAfter = time.Hour
)

// endpoint is a server that a sink makes requests of, and what becomes of the answers.
type endpoint struct {
	attempts
	url *url.URL
	// configured is the address that nobody may see.
	configured *url.URL
	// secrets are those of the configuration besides the address.
	secrets []string
	client  *httpClient
}

// httpURL reads the address of a server; nil: it is none. Errors must not quote it, for what it may
// hide.
func httpURL(address config.URL) *url.URL {
	u, err := url.Parse(address.Expose())
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" {
		return nil
	}
	return u
}

// newHeader is what all requests of a sink have in their header.
func newHeader(opts Options, contentType string) http.Header {
	return http.Header{
		"User-Agent":   {userAgent(opts.Version)},
		"Content-Type": {contentType},
		// An entry without a value is not sent. It shows the transport that the request may
		// be repeated on another connection when a kept one turns out to be closed, as the
		// ids make it so. Otherwise each idle timeout of a consumer would cost a failed
		// attempt and its back-off.
		"X-Idempotency-Key": nil,
	}
}

// newEndpoint makes the endpoint of a sink of a kind.
func newEndpoint(kind string, u *url.URL, timeout time.Duration, client *httpClient) *endpoint {
	name := kind + ": " + u.Scheme + "://" + u.Host
	p := &endpoint{url: u, configured: u, client: client}
	p.attempts = attempts{
		name: name, timeout: timeout, life: client.conns.lifetime, explain: p.whatHelps,
		spans: &spans{timeout: timeout},
	}
	return p
}

// below is the same server at a path below the configured address.
func (p *endpoint) below(path, query string) *endpoint {
	at, u := *p, *p.configured
	u.Path, u.RawPath, u.RawQuery = strings.TrimRight(u.Path, "/")+path, "", query
	at.url = &u
	return &at
}

// get is a GET. The header is the request's from then on.
func (p *endpoint) get(ctx context.Context, header http.Header) *http.Request {
	req := p.post(ctx, header)
	req.Method = http.MethodGet
	return req
}

// request is a POST of body. The header is the request's from then on.
func (p *endpoint) request(ctx context.Context, header http.Header, body []byte) *http.Request {
	req := p.post(ctx, header)
	setBody(req, len(body), func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil })
	return req
}

// post is a POST without a body.
func (p *endpoint) post(ctx context.Context, header http.Header) *http.Request {
	req := &http.Request{
		Method: http.MethodPost, URL: p.url, Host: p.url.Host, Header: header,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}
	return req.WithContext(ctx)
}

// setBody gives a request a body of a size, which is made again where it has to be sent again.
func setBody(req *http.Request, size int, body func() (io.ReadCloser, error)) {
	req.Body, _ = body()
	req.GetBody, req.ContentLength = body, int64(size)
}

// send makes one request. What becomes of its events judge says of the answer, where the protocol
// says more than a status, else the status alone.
func (p *endpoint) send(
	ctx context.Context, request func(context.Context) *http.Request, judge func(*httpAnswer) error,
) error {
	return p.cancelable(ctx, noAnswer, func(attempt context.Context, s *span) error {
		return p.exchange(request(attempt), s.giveUp, judge)
	})
}

// exchange makes one request within an attempt. cancel ends it.
func (p *endpoint) exchange(req *http.Request, cancel context.CancelFunc, judge func(*httpAnswer) error) error {
	if judge != nil { // there may be further requests within the attempt
		ctx, stop := context.WithCancel(req.Context())
		defer stop()
		req, cancel = req.WithContext(ctx), stop
	}
	resp, err := p.client.RoundTrip(req)
	if e, ok := errors.AsType[*proxyError](err); ok {
		err = p.statusError(e.status, e.header, "that of the proxy")
		if refused, ok := errors.AsType[*PermanentError](err); ok { // it has not seen any event
			err = &PausedError{Status: e.status, Err: refused.Err}
		}
	}
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if judge == nil {
		return p.judge(resp, cancel)
	}
	a := &httpAnswer{Status: resp.StatusCode, Header: resp.Header, from: p, sent: resp.Request.Header}
	if a.Status < 200 || a.Status > 299 {
		a.Body, a.cut = refusal(resp, cancel)
		return judge(a)
	}
	// Without all of it nothing is known, for the status is not the whole answer.
	if a.Body, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswerBody+1)); err != nil {
		return fmt.Errorf("status %d, and no whole answer: %w", a.Status, err)
	}
	if len(a.Body) > maxAnswerBody {
		return fmt.Errorf("status %d, and an answer of more than %d MiB", a.Status, maxAnswerBody>>20)
	}
	return judge(a)
}

// refusal reads the body of an answer that refuses, as far as that is worth it. The status decides,
// and must not be lost because the rest does not come; but with 400 it may be the body that says
// what is wrong. cut says that this is not all of it.
func refusal(resp *http.Response, cancel context.CancelFunc) (body []byte, cut bool) {
	switch resp.StatusCode {
	case http.StatusSwitchingProtocols: // another protocol
		return nil, true
	case http.StatusBadRequest:
	default:
		defer time.AfterFunc(answerTimeout, cancel).Stop()
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	return body, err != nil || len(body) == maxAnswer
}

// httpAnswer is what a server has answered, for a sink whose protocol says what became of each
// event.
type httpAnswer struct {
	Status int
	Header http.Header
	Body   []byte

	// cut says that there is more of the body than was read; never with 2xx.
	cut  bool
	from *endpoint
	// sent is the header of the request.
	sent http.Header
}

// judge is what a status means, that of the answer or of a part of it: the error that Send returns
// of what it is about, nil for 2xx. text is what the server says about it, which may quote
// anything; its beginning gets into the error.
func (a *httpAnswer) judge(status int, text []byte) error {
	if status >= 200 && status <= 299 {
		return nil
	}
	return a.from.statusError(status, a.Header, a.excerpt(text))
}

// paused is an error about the destination, whatever the status is a word for.
func (a *httpAnswer) paused(status int, reason Reason, text []byte, help string) error {
	err := because(reason, "%s: status %d: %s (%s)", a.from.name, status, a.excerpt(text), help)
	return &PausedError{Status: status, Err: err}
}

// rejected is the error of a Send of so many records of which the server has refused some for good
// without saying which: a *PermanentError if those are all, nil if there are none.
func (a *httpAnswer) rejected(events, sent int, text []byte) error {
	if events <= 0 {
		return nil
	}
	err := fmt.Errorf("%s: %d of %d events refused: %s", a.from.name, min(events, sent), sent, a.excerpt(text))
	if events >= sent {
		return &PermanentError{Err: err}
	}
	return &RejectedError{Events: events, Err: err}
}

// excerpt is the beginning of what the server says as one line of printable text, without secrets.
func (a *httpAnswer) excerpt(text []byte) string {
	return a.from.redactor(a.sent).excerpt(text[:min(len(text), maxExcerptRead)], a.cut)
}

// whatHelps adds to an error of the transport what may help. Whatever went wrong, it may be
// repaired: all of these are temporary.
func (p *endpoint) whatHelps(err error) error {
	hint := tlsHint(err)
	// A peer that does not speak HTTP is quoted in the error, and may quote the request.
	var sent http.Header
	if e, ok := errors.AsType[*roundTripError](err); ok {
		err, sent = e.err, e.header
	}
	return fmt.Errorf("%w%s", p.redactor(sent).error(err), hint)
}

// judge judges an answer by its status alone.
func (p *endpoint) judge(resp *http.Response, cancel context.CancelFunc) error {
	delivered := resp.StatusCode >= 200 && resp.StatusCode <= 299
	excerpt := p.read(resp, !delivered, cancel)
	if delivered {
		return nil
	}
	return p.statusError(resp.StatusCode, resp.Header, excerpt)
}

// statusError is the one place that says what a status other than 2xx means.
func (p *endpoint) statusError(code int, header http.Header, excerpt string) error {
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
	err := fmt.Errorf("%s: status %s", p.name, text)
	switch code {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return &RetryAfterError{Status: code, After: retryAfter(header), Err: err}
	case http.StatusUnauthorized, http.StatusPaymentRequired, http.StatusForbidden, http.StatusNotFound,
		http.StatusMethodNotAllowed, http.StatusProxyAuthRequired, http.StatusGone, http.StatusMisdirectedRequest:
		return &PausedError{Status: code, Err: err}
	}
	switch code / 100 {
	case 3:
		return &PausedError{Status: code, Err: err}
	case 5:
		return &RetryAfterError{Status: code, After: retryAfter(header), Err: err}
	}
	return &PermanentError{Status: code, Err: err}
}

// read reads the body of an answer, so that the connection can be used again, as far as that is
// worth it. If wanted, it returns the beginning as one line of printable text.
func (p *endpoint) read(resp *http.Response, wanted bool, cancel context.CancelFunc) string {
	// Behind 101 comes no body but another protocol.
	if resp.Body == http.NoBody || resp.StatusCode == http.StatusSwitchingProtocols {
		return ""
	}
	if !wanted && resp.ContentLength > maxAnswer {
		return ""
	}
	late := time.AfterFunc(answerTimeout, cancel)
	defer func() {
		if !late.Stop() {
			cancel()
		}
	}()
	body := io.LimitReader(resp.Body, maxAnswer)
	excerpt := ""
	if wanted {
		data, err := io.ReadAll(io.LimitReader(body, maxExcerptRead))
		excerpt = p.redactor(resp.Request.Header).excerpt(data, err != nil)
	}
	if resp.ContentLength <= maxAnswer {
		_, _ = io.Copy(io.Discard, body)
	}
	return excerpt
}

// retryAfter returns what the header Retry-After says, seconds or a date, at most maxRetryAfter; 0
// where it says nothing.
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

// redactor hides the address, the secrets of the configuration, and those of a request that was
// sent, which may have come from files.
func (p *endpoint) redactor(sent http.Header) *redactor {
	return newRedactor(p.configured, slices.Concat(p.secrets, p.client.secrets(), p.client.secretsOf(sent))...)
}

// Probe connects, for https verifies the certificate, and for OAuth 2 gets a token, without making
// a request.
func (p *endpoint) Probe(ctx context.Context) error {
	return p.do(ctx, noAnswer, func(attempt context.Context) error { return p.client.probe(attempt, p.url) })
}
