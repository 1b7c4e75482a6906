package sinks

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"

	"github.com/golang-jwt/jwt/v5"
	promconfig "github.com/prometheus/common/config"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
)

// tokenSource gets tokens by OAuth 2 and keeps each while it is valid, for all requests of a sink.
//
// The round tripper that prometheus/common has for this asks for a token without the context of the
// request: a token server that hangs would hold up the sink for ever. The flows themselves are
// those of the libraries.
type tokenSource struct {
	cfg *promconfig.OAuth2
	// secret is that of the client; nil: none.
	secret    promconfig.SecretReader
	conns     *connections
	userAgent string

	// mu guards what follows.
	mu   mutex
	flow func(context.Context) (*oauth2.Token, error)
	// the flow's
	credential string
	current    *oauth2.Token
}

func newTokenSource(cfg *promconfig.OAuth2, conns *connections, opts clientOptions) *tokenSource {
	s := &tokenSource{cfg: cfg, conns: conns, userAgent: opts.userAgent, mu: newMutex()}
	s.secret = secretReader(cfg.ClientSecret, cfg.ClientSecretFile)
	if cfg.GrantType == jwtBearer {
		s.secret = secretReader(cfg.ClientCertificateKey, cfg.ClientCertificateKeyFile)
	}
	return s
}

// jwtBearer is the grant type of RFC 7523.
const jwtBearer = "urn:ietf:params:oauth:grant-type:jwt-bearer" //nolint:gosec // G101: a name, no credential

// token returns a valid token. A changed secret of the client is a reason for a new one. Its error
// is a *tokenError.
func (s *tokenSource) token(ctx context.Context) (*oauth2.Token, error) {
	t, err := s.validToken(ctx)
	if err != nil {
		return nil, &tokenError{err}
	}
	return t, nil
}

func (s *tokenSource) validToken(ctx context.Context) (*oauth2.Token, error) {
	if err := s.mu.lock(ctx); err != nil {
		return nil, err
	}
	defer s.mu.unlock()
	credential := ""
	if s.secret != nil {
		var err error
		if credential, err = s.secret.Fetch(ctx); err != nil {
			return nil, fmt.Errorf("oauth2: client secret: %w", err)
		}
	}
	if s.flow == nil || credential != s.credential {
		s.flow, s.credential, s.current = s.newFlow(credential), credential, nil
	}
	if !s.current.Valid() {
		t, err := s.fetch(ctx)
		if err != nil {
			return nil, err
		}
		s.current = t
	}
	return s.current, nil
}

// forget has the next request get a new token: the server does not accept this one any more.
func (s *tokenSource) forget(ctx context.Context, t *oauth2.Token) {
	if s.mu.lock(ctx) != nil {
		return
	}
	defer s.mu.unlock()
	if s.current == t {
		s.current = nil
	}
}

// fetch asks the token server.
func (s *tokenSource) fetch(ctx context.Context) (*oauth2.Token, error) {
	tlsConfig, err := promconfig.NewTLSConfigWithContext(ctx, &s.cfg.TLSConfig)
	if err != nil {
		return nil, fmt.Errorf("oauth2: tls_config: %w", err)
	}
	// Made for each token, of which there are few: files are read again, and no connection is
	// kept.
	transport := &http.Transport{
		Proxy:                  s.cfg.Proxy(),
		ProxyConnectHeader:     s.cfg.GetProxyConnectHeader(),
		DialContext:            s.conns.dial,
		TLSClientConfig:        tlsConfig,
		DisableKeepAlives:      true,
		MaxResponseHeaderBytes: maxAnswerHeader,
	}
	client := &http.Client{
		Transport:     &boundTransport{ctx: ctx, userAgent: s.userAgent, next: transport},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	t, err := s.flow(context.WithValue(ctx, oauth2.HTTPClient, client))
	if err == nil {
		return t, nil
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	server, _ := url.Parse(s.cfg.TokenURL) // the configuration was checked
	redact := newRedactor(server, s.credential)
	if e, ok := errors.AsType[*oauth2.RetrieveError](err); ok && e.Response != nil {
		reason := statusReason(e.Response.StatusCode)
		// RFC 6749 has 400 for most of what is wrong with a client.
		if reason == ReasonContent {
			reason = ReasonAuthorization
		}
		return nil, because(reason, "oauth2: no token from %s: status %s: %s",
			server.Host, e.Response.Status, redact.excerpt(e.Body[:min(len(e.Body), maxExcerptRead)], true))
	}
	return nil, fmt.Errorf("oauth2: no token from %s: %w%s", server.Host, redact.error(withoutURL(err)), tlsHint(err))
}

// withoutURL returns the cause of an error of a http.Client, which also holds the address.
func withoutURL(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}

// newFlow returns what gets a token with the secret, or private key, of the client.
func (s *tokenSource) newFlow(credential string) func(context.Context) (*oauth2.Token, error) {
	params := url.Values{}
	for name, value := range s.cfg.EndpointParams {
		params.Set(name, value)
	}
	if s.cfg.GrantType != jwtBearer {
		flow := &clientcredentials.Config{
			ClientID: s.cfg.ClientID, ClientSecret: credential,
			TokenURL: s.cfg.TokenURL, Scopes: s.cfg.Scopes, EndpointParams: params,
		}
		return flow.Token
	}
	algorithm, ok := jwt.GetSigningMethod(s.cfg.SignatureAlgorithm).(*jwt.SigningMethodRSA)
	if !ok {
		algorithm = jwt.SigningMethodRS256
	}
	flow := &promconfig.JwtGrantTypeConfig{
		PrivateKey: []byte(credential), PrivateKeyID: s.cfg.ClientCertificateKeyID, SigningAlgorithm: algorithm,
		Iss: cmp.Or(s.cfg.Iss, s.cfg.ClientID), Subject: s.cfg.ClientID, Audience: s.cfg.Audience,
		PrivateClaims: maps.Clone(s.cfg.Claims), Scopes: s.cfg.Scopes, TokenURL: s.cfg.TokenURL, EndpointParams: params,
	}
	return func(ctx context.Context) (*oauth2.Token, error) { return flow.TokenSource(ctx).Token() }
}

// boundTransport makes requests with a context, whether or not whoever makes them has one, and
// answers within bounds.
type boundTransport struct {
	ctx       context.Context
	userAgent string
	next      http.RoundTripper
}

// RoundTrip makes the request.
func (b *boundTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(b.ctx)
	req.Header.Set("User-Agent", b.userAgent)
	resp, err := b.next.RoundTrip(req)
	if err != nil || resp.StatusCode >= 200 && resp.StatusCode <= 299 {
		return resp, err
	}
	body, _ := refusal(resp, func() { _ = resp.Body.Close() })
	_ = resp.Body.Close()
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, nil
}

// tokenError says that a request was not made, because there is no token for it.
type tokenError struct{ err error }

func (e *tokenError) Error() string { return e.err.Error() }
func (e *tokenError) Unwrap() error { return e.err }

// tokenRoundTripper adds tokens to requests.
type tokenRoundTripper struct {
	tokens *tokenSource
	next   http.RoundTripper
}

// RoundTrip makes the request.
func (t *tokenRoundTripper) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	token, err := t.tokens.token(ctx)
	if err != nil {
		return nil, err
	}
	req = req.Clone(ctx)
	token.SetAuthHeader(req)
	resp, err := t.next.RoundTrip(req)
	if err == nil && resp.StatusCode == http.StatusUnauthorized {
		t.tokens.forget(ctx, token)
	}
	return resp, err
}
