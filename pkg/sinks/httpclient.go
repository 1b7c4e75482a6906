package sinks

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	promconfig "github.com/prometheus/common/config"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
)

const (
	// maxAnswerHeader limits the header of an answer.
	maxAnswerHeader = 64 << 10

	// writeBuffer takes the header and an ordinary event in one write.
	writeBuffer = 16 << 10
)

// httpClient makes requests of one sink as an http_config says. What that means is left to
// prometheus/common: the round trippers are its own. The transport below them is ours: it knows its
// connections and has limits.
//
// It is no http.Client: no redirect is followed, and errors do not hold the URL.
type httpClient struct {
	cfg   promconfig.HTTPClientConfig
	conns *connections
	rt    http.RoundTripper
	// tokens is nil without OAuth 2.
	tokens *tokenSource
}

// clientOptions are what a client needs besides the http_config.
type clientOptions struct {
	// of one attempt
	timeout time.Duration
	// concurrency is how many requests there are at a time.
	concurrency int
	userAgent   string
}

// roundTripError is the error of a request that got no answer.
type roundTripError struct {
	err error
	// header is that of the request as it was sent.
	header http.Header
}

func (e *roundTripError) Error() string { return e.err.Error() }
func (e *roundTripError) Unwrap() error { return e.err }

func newHTTPClient(cfg config.HTTPConfig, opts clientOptions) (*httpClient, error) {
	c := &httpClient{cfg: cfg.Client()}
	tlsConfig, err := promconfig.NewTLSConfig(&c.cfg.TLSConfig)
	if err != nil {
		return nil, fmt.Errorf("http_config.tls_config: %w", err)
	}
	// Connecting gets a little less than the whole attempt: its own error says more than "no
	// answer".
	connectTimeout := opts.timeout - opts.timeout/8
	c.conns = newConnections(connectTimeout)
	transport := func(tlsConfig *tls.Config) (http.RoundTripper, error) {
		// It is shared with what reads the files again.
		tlsConfig = tlsConfig.Clone()
		tlsConfig.ClientSessionCache = tls.NewLRUClientSessionCache(opts.concurrency)
		return &witness{&http.Transport{
			Proxy:                  c.cfg.Proxy(),
			ProxyConnectHeader:     c.cfg.GetProxyConnectHeader(),
			OnProxyConnectResponse: refusedByProxy,
			DialContext:            c.conns.dial,
			TLSClientConfig:        tlsConfig,
			TLSHandshakeTimeout:    connectTimeout,
			ForceAttemptHTTP2:      c.cfg.EnableHTTP2,
			HTTP2:                  &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 15 * time.Second},
			MaxIdleConnsPerHost:    opts.concurrency,
			IdleConnTimeout:        90 * time.Second,
			DisableCompression:     true, // answers are hardly read
			MaxResponseHeaderBytes: maxAnswerHeader,
			WriteBufferSize:        writeBuffer,
		}}, nil
	}

	if files := tlsFiles(&c.cfg.TLSConfig); files != (promconfig.TLSRoundTripperSettings{}) {
		c.rt, err = promconfig.NewTLSRoundTripper(tlsConfig, files, transport)
	} else {
		c.rt, err = transport(tlsConfig)
	}
	if err != nil {
		return nil, fmt.Errorf("http_config.tls_config: %w", err)
	}
	c.authenticate(opts)
	return c, nil
}

// proxyError is the answer of a proxy that does not connect to the server.
type proxyError struct {
	status int
	header http.Header
}

func (e *proxyError) Error() string { return "the proxy answers with status " + strconv.Itoa(e.status) }

func refusedByProxy(_ context.Context, _ *url.URL, _ *http.Request, resp *http.Response) error {
	if resp.StatusCode == http.StatusOK {
		return nil
	}
	return &proxyError{resp.StatusCode, resp.Header}
}

// tlsFiles returns what is read from files, and read again when they change.
func tlsFiles(t *promconfig.TLSConfig) promconfig.TLSRoundTripperSettings {
	return promconfig.TLSRoundTripperSettings{
		CA: secretReader("", t.CAFile), Cert: secretReader("", t.CertFile), Key: secretReader("", t.KeyFile),
	}
}

// secretReader returns what reads a secret that stands in the configuration or in a file; nil:
// there is none.
func secretReader(inline promconfig.Secret, file string) promconfig.SecretReader {
	switch {
	case inline != "":
		return promconfig.NewInlineSecret(string(inline))
	case file != "":
		return promconfig.NewFileSecret(file)
	}
	return nil
}

// authenticate has each request carry what shows who sends it.
func (c *httpClient) authenticate(opts clientOptions) {
	if a := c.cfg.Authorization; a != nil {
		credentials := secretReader(a.Credentials, a.CredentialsFile)
		c.rt = promconfig.NewAuthorizationCredentialsRoundTripper(a.Type, credentials, c.rt)
	}
	if b := c.cfg.BasicAuth; b != nil {
		c.rt = promconfig.NewBasicAuthRoundTripper(
			secretReader(promconfig.Secret(b.Username), b.UsernameFile), secretReader(b.Password, b.PasswordFile), c.rt)
	}
	if o := c.cfg.OAuth2; o != nil {
		c.tokens = newTokenSource(o, c.conns, opts)
		c.rt = &tokenRoundTripper{tokens: c.tokens, next: c.rt}
	}
	if h := c.cfg.HTTPHeaders; h != nil {
		c.rt = promconfig.NewHeadersRoundTripper(h, c.rt)
	}
}

// RoundTrip makes one request. If it fails after the request was complete, the error is a
// *roundTripError.
func (c *httpClient) RoundTrip(req *http.Request) (*http.Response, error) { return c.rt.RoundTrip(req) }

// probe connects to the server at address, or to the proxy on the way to it.
func (c *httpClient) probe(ctx context.Context, address *url.URL) error {
	if c.tokens != nil {
		if _, err := c.tokens.token(ctx); err != nil {
			return err
		}
	}
	if proxy := c.cfg.Proxy(); proxy != nil {
		via, err := proxy(&http.Request{URL: address})
		if err != nil {
			return err
		}
		if via != nil {
			// As far as to the proxy: what is behind it, only a request can find out.
			conn, err := c.conns.dial(ctx, "tcp", hostPort(via))
			if err != nil {
				return fmt.Errorf("proxy: %w", err)
			}
			return conn.Close()
		}
	}
	conn, err := c.conns.dial(ctx, "tcp", hostPort(address))
	if err != nil {
		return err
	}
	defer conn.Close()
	if address.Scheme != "https" {
		return nil
	}
	tlsConfig, err := promconfig.NewTLSConfigWithContext(ctx, &c.cfg.TLSConfig)
	if err != nil {
		return err
	}
	tlsConfig.ServerName = cmp.Or(tlsConfig.ServerName, address.Hostname())
	return tls.Client(conn, tlsConfig).HandshakeContext(ctx)
}

// hostPort returns what to dial for u.
func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443", "socks5": "1080", "socks5h": "1080"}[u.Scheme]
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// close ends every connection, and with it every request.
func (c *httpClient) close() { c.conns.close() }

// secrets are those that the configuration itself holds, in no place of a request that secretsOf
// finds.
func (c *httpClient) secrets() []string {
	var all []string
	proxy := func(p *promconfig.ProxyConfig) {
		if p.ProxyURL.URL != nil {
			password, _ := p.ProxyURL.User.Password()
			all = append(all, password)
		}
		for _, values := range p.ProxyConnectHeader {
			for _, v := range values {
				all = append(all, string(v))
			}
		}
	}
	proxy(&c.cfg.ProxyConfig)
	if o := c.cfg.OAuth2; o != nil {
		proxy(&o.ProxyConfig)
		all = append(all, string(o.ClientSecret))
		for _, v := range o.EndpointParams {
			all = append(all, v)
		}
	}
	return all
}

// secretsOf returns the secrets in the header of a request.
func (c *httpClient) secretsOf(header http.Header) []string {
	all := header.Values("Authorization")
	for _, value := range header.Values("Authorization") {
		kind, credentials, _ := strings.Cut(value, " ")
		all = append(all, credentials)
		if plain, err := base64.StdEncoding.DecodeString(credentials); err == nil && strings.EqualFold(kind, "Basic") {
			_, password, _ := strings.Cut(string(plain), ":")
			all = append(all, string(plain), password)
		}
	}
	if c.cfg.HTTPHeaders != nil {
		for name := range c.cfg.HTTPHeaders.Headers {
			all = append(all, header.Values(name)...)
		}
	}
	return all
}

// witness keeps what was sent with the error of a request.
type witness struct{ *http.Transport }

// RoundTrip makes the request.
func (w *witness) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := w.Transport.RoundTrip(req)
	if err != nil {
		return nil, &roundTripError{err: err, header: req.Header}
	}
	return resp, nil
}
