package sinks

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	promconfig "github.com/prometheus/common/config"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
)

// secretFile writes text to a new file.
func secretFile(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	rewrite(t, path, text+"\n")
	return path
}

func rewrite(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// tokenServer gives out tokens t0k3n-number-1, t0k3n-number-2 and so on by OAuth 2.
type tokenServer struct {
	*httptest.Server
	secret string // of the client
	given  atomic.Int32
	expire atomic.Int64 // of tokens, in seconds
	key    *rsa.PublicKey
	behave atomic.Pointer[http.HandlerFunc] // instead
}

func newTokenServer(t testing.TB) *tokenServer {
	s := &tokenServer{secret: "s3cret-of-the-client"}
	s.expire.Store(3600)
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := r.ParseForm(); err != nil {
			t.Error(err)
		}
		if h := s.behave.Load(); h != nil {
			(*h)(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		id, secret, ok := r.BasicAuth()
		if s.key != nil {
			claims := jwt.MapClaims{}
			_, err := jwt.ParseWithClaims(r.Form.Get("assertion"), claims, func(*jwt.Token) (any, error) { return s.key, nil })
			ok = err == nil && r.Form.Get("grant_type") == jwtBearer && claims["sub"] == "me" && claims["iss"] == "issuer" && claims["tenant"] == "ops"
			id, secret = "me", s.secret
		}
		if !ok || id != "me" || secret != s.secret {
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = fmt.Fprintf(w, `{"error":"invalid_client","error_description":"%s is not the secret of %s"}`, secret, id)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{
			"access_token": fmt.Sprintf("t0k3n-number-%d", s.given.Add(1)), "token_type": "Bearer", "expires_in": s.expire.Load(),
			"scope": r.Form.Get("scope") + r.Form.Get("resource"),
		})
	}))
	s.Config.ErrorLog = quiet()
	t.Cleanup(s.Close)
	return s
}

// send sends one event and returns the request that arrived.
func send(t *testing.T, s Sink, requests <-chan request) request {
	t.Helper()
	if err := s.Send(t.Context(), records(0, 1)); err != nil {
		t.Fatal(err)
	}
	return <-requests
}

func TestHTTPAuthentication(t *testing.T) {
	requests := make(chan request, 1)
	server := consumer(t, requests)
	user, password, token, header := secretFile(t, "user"), secretFile(t, "pass word"), secretFile(t, "token"), secretFile(t, "h1")
	for _, test := range []struct {
		name   string
		change func(*promconfig.HTTPClientConfig)
		key    string
		want   []string
		file   string // is changed then
		after  []string
	}{
		{
			"basic", func(c *promconfig.HTTPClientConfig) {
				c.BasicAuth = &promconfig.BasicAuth{Username: "a", Password: "b"}
			},
			"Authorization",
			[]string{"Basic YTpi"},
			"", nil,
		},
		{
			"basic from files", func(c *promconfig.HTTPClientConfig) {
				c.BasicAuth = &promconfig.BasicAuth{UsernameFile: user, PasswordFile: password}
			},
			"Authorization",
			[]string{"Basic dXNlcjpwYXNzIHdvcmQ="},
			password,
			[]string{"Basic dXNlcjpuZXc="},
		},
		{
			"bearer", func(c *promconfig.HTTPClientConfig) {
				c.Authorization = &promconfig.Authorization{Type: "Bearer", Credentials: "x"}
			},
			"Authorization",
			[]string{"Bearer x"},
			"", nil,
		},
		{
			"another type from a file", func(c *promconfig.HTTPClientConfig) {
				c.Authorization = &promconfig.Authorization{Type: "Splunk", CredentialsFile: token}
			},
			"Authorization",
			[]string{"Splunk token"},
			token,
			[]string{"Splunk new"},
		},
		{
			"headers", func(c *promconfig.HTTPClientConfig) {
				c.HTTPHeaders = &promconfig.Headers{Headers: map[string]promconfig.Header{"x-team": {Values: []string{"v"}, Secrets: []promconfig.Secret{"s"}, Files: []string{header}}}}
			},
			"X-Team",
			[]string{"v", "s", "h1"},
			header,
			[]string{"v", "s", "new"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := webhookTo(t, server.URL, withHTTP(test.change))
			check := func(want []string) {
				t.Helper()
				got := send(t, s, requests)
				if values := got.header.Values(test.key); fmt.Sprint(values) != fmt.Sprint(want) {
					t.Errorf("%s: %q, want %q", test.key, values, want)
				}
				if got.header.Get("Webhook-Id") != record(0).ID || got.header.Get("User-Agent") != "hmcnotifyd/1.2.3" {
					t.Errorf("%v", got.header)
				}
			}
			check(test.want)
			if test.file == "" {
				return
			}
			rewrite(t, test.file, "new\n")
			check(test.after)
			if err := os.Remove(test.file); err != nil {
				t.Fatal(err)
			}
			err := s.Send(t.Context(), records(0, 1))
			if _, ok := errors.AsType[*PermanentError](err); ok || err == nil || !strings.Contains(err.Error(), test.file) {
				t.Errorf("without the file: %v", err)
			}
		})
	}
}

// TestHTTPSecretsAreHidden has peers that show the request in their answers.
func TestHTTPSecretsAreHidden(t *testing.T) {
	const inline, file, token = "s3cret-inline", "s3cret-in-a-file", "t0k3n-in-the-path"
	echo := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		w.WriteHeader(http.StatusForbidden)
		_, _ = fmt.Fprintf(w, "%s %s %s %q", user, password, r.URL, r.Header)
	}))
	defer echo.Close()
	raw := "http://" + rawPeer(t, func(conn net.Conn) { _, _ = io.Copy(conn, conn) })
	for name, change := range map[string]func(*promconfig.HTTPClientConfig){
		"basic": func(c *promconfig.HTTPClientConfig) {
			c.BasicAuth = &promconfig.BasicAuth{Username: "u", PasswordFile: secretFile(t, file)}
		},
		"bearer": func(c *promconfig.HTTPClientConfig) {
			c.Authorization = &promconfig.Authorization{Type: "Bearer", Credentials: inline}
		},
		"headers": func(c *promconfig.HTTPClientConfig) {
			c.HTTPHeaders = &promconfig.Headers{Headers: map[string]promconfig.Header{"X-A": {Secrets: []promconfig.Secret{inline}, Files: []string{secretFile(t, file)}}}}
		},
	} {
		for _, address := range []string{echo.URL, raw} {
			s := webhookTo(t, address+"/"+token, withHTTP(change))
			err := s.Send(t.Context(), records(0, 1))
			if err == nil {
				t.Fatal("no error")
			}
			for _, secret := range []string{inline, file, token, "dTpzM2NyZXQtaW4tYS1maWxl"} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("%s: %v", name, err)
				}
			}
		}
	}
}

func TestHTTPEnableHTTP2(t *testing.T) {
	for _, enable := range []bool{false, true} {
		requests := make(chan string, 1)
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { requests <- r.Proto }))
		server.EnableHTTP2 = true
		server.StartTLS()
		defer server.Close()
		s := webhookTo(t, server.URL, withHTTP(func(c *promconfig.HTTPClientConfig) {
			c.EnableHTTP2, c.TLSConfig.InsecureSkipVerify = enable, true
		}))
		if err := s.Send(t.Context(), records(0, 1)); err != nil {
			t.Fatal(err)
		}
		if got := <-requests; (got == "HTTP/2.0") != enable {
			t.Errorf("enable_http2 %v: %s", enable, got)
		}
	}
}

// proxy is an HTTP proxy that counts what goes through it.
type proxy struct {
	*httptest.Server
	requests, connects atomic.Int32
	header             atomic.Pointer[http.Header]
	wg                 sync.WaitGroup
}

func newProxy(t *testing.T) *proxy {
	p := &proxy{}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.header.Store(&r.Header)
		if r.Method != http.MethodConnect {
			p.requests.Add(1)
			w.WriteHeader(http.StatusNoContent)
			return
		}
		p.connects.Add(1)
		to, err := (&net.Dialer{}).DialContext(r.Context(), "tcp", r.Host)
		if err != nil {
			t.Error(err)
			return
		}
		from, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.WriteString(from, "HTTP/1.1 200 OK\r\n\r\n")
		p.wg.Go(func() { _, _ = io.Copy(to, from); _ = to.Close() })
		p.wg.Go(func() { _, _ = io.Copy(from, to); _ = from.Close() })
	}))
	t.Cleanup(func() { p.Close(); p.wg.Wait() })
	return p
}

func TestHTTPProxy(t *testing.T) {
	p := newProxy(t)
	secure := newTLSServer(t)
	address, err := url.Parse(strings.Replace(p.URL, "http://", "http://me:pr0xy-password@", 1))
	if err != nil {
		t.Fatal(err)
	}
	via := func(c *promconfig.HTTPClientConfig) {
		c.ProxyURL = promconfig.URL{URL: address}
		c.TLSConfig.InsecureSkipVerify = true
	}
	const basic = "Basic bWU6cHIweHktcGFzc3dvcmQ="

	s := webhookTo(t, "http://consumer.invalid/hook", withHTTP(via))
	for _, do := range []func(context.Context) error{s.Probe, func(ctx context.Context) error { return s.Send(ctx, records(0, 1)) }} {
		if err := do(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if p.requests.Load() != 1 || p.header.Load().Get("Proxy-Authorization") != basic {
		t.Errorf("%d requests, %v", p.requests.Load(), p.header.Load())
	}

	s = webhookTo(t, secure.URL, withHTTP(func(c *promconfig.HTTPClientConfig) {
		via(c)
		c.ProxyConnectHeader = promconfig.ProxyHeader{"X-Team": {"ops"}}
	}))
	if err := s.Send(t.Context(), records(0, 1)); err != nil {
		t.Error(err)
	}
	if p.connects.Load() != 1 || p.header.Load().Get("X-Team") != "ops" || p.header.Load().Get("Proxy-Authorization") != basic {
		t.Errorf("%d connects, %v", p.connects.Load(), p.header.Load())
	}
	_ = s.Close()

	s = webhookTo(t, secure.URL, withHTTP(func(c *promconfig.HTTPClientConfig) { via(c); c.NoProxy = "127.0.0.1" }))
	if err := s.Send(t.Context(), records(0, 1)); err != nil || p.connects.Load() != 1 {
		t.Errorf("no_proxy: %v, %d connects", err, p.connects.Load())
	}

	t.Setenv("HTTP_PROXY", p.URL)
	t.Setenv("NO_PROXY", "")
	s = webhookTo(t, "http://consumer.invalid/hook")
	if err := s.Send(t.Context(), records(0, 1)); err == nil {
		t.Error("the environment counts without proxy_from_environment")
	}
	s = webhookTo(t, "http://consumer.invalid/hook", withHTTP(func(c *promconfig.HTTPClientConfig) { c.ProxyFromEnvironment = true }))
	if err := s.Send(t.Context(), records(0, 1)); err != nil || p.requests.Load() != 2 {
		t.Errorf("proxy_from_environment: %v, %d requests", err, p.requests.Load())
	}

	p.Close()
	s = webhookTo(t, "http://consumer.invalid/hook", withHTTP(via))
	for _, err := range []error{s.Probe(t.Context()), s.Send(t.Context(), records(0, 1))} {
		if err == nil || !strings.Contains(err.Error(), "proxy") || strings.Contains(err.Error(), "pr0xy-password") {
			t.Errorf("a proxy that is gone: %v", err)
		}
	}
}

// TestHTTPProxyHangs has a proxy that never answers.
func TestHTTPProxyHangs(t *testing.T) {
	t.Parallel()
	address, err := url.Parse("http://" + rawPeer(t, func(net.Conn) {}))
	if err != nil {
		t.Fatal(err)
	}
	ended := goroutinesOf(t)
	for _, target := range []string{"http://consumer.invalid", "https://consumer.invalid"} {
		s := webhookTo(t, target, withTimeout(300*time.Millisecond), withHTTP(func(c *promconfig.HTTPClientConfig) { c.ProxyURL = promconfig.URL{URL: address} }))
		if err := soon(t, "Send", func() error { return s.Send(t.Context(), records(0, 1)) }); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		_ = s.Close()
	}
	ended()
}

// certificate makes a certificate, signed by parent or by itself, and returns it and its key as PEM.
func certificate(t *testing.T, name string, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (cert *x509.Certificate, key *ecdsa.PrivateKey, certPEM, keyPEM string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: parent == nil, BasicConstraintsValid: true,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	signer := parentKey
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	if cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}))
}

// TestHTTPClientCertificate has a server that wants certificates, all of which change while the sink runs.
func TestHTTPClientCertificate(t *testing.T) {
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	ca, caKey, caPEM, _ := certificate(t, "ca", nil, nil)
	var serving atomic.Pointer[tls.Certificate]
	serve := func(signer *x509.Certificate, key *ecdsa.PrivateKey) {
		_, _, cert, certKey := certificate(t, "server", signer, key)
		pair, err := tls.X509KeyPair([]byte(cert), []byte(certKey))
		if err != nil {
			t.Fatal(err)
		}
		serving.Store(&pair)
	}
	serve(ca, caKey)
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	who := make(chan string, 10)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		who <- r.TLS.PeerCertificates[0].Subject.CommonName
	}))
	server.TLS = &tls.Config{
		ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return &tls.Config{SessionTicketsDisabled: true, Certificates: []tls.Certificate{*serving.Load()}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}, nil
		},
	}
	server.Config.ErrorLog = quiet()
	server.StartTLS()
	defer server.Close()

	use := func(name string) {
		_, _, cert, key := certificate(t, name, ca, caKey)
		rewrite(t, file("cert.pem"), cert)
		rewrite(t, file("key.pem"), key)
	}
	use("one")
	rewrite(t, file("ca.pem"), caPEM)
	s := webhookTo(t, server.URL, withTLS(promconfig.TLSConfig{CAFile: file("ca.pem"), CertFile: file("cert.pem"), KeyFile: file("key.pem")}))
	expect := func(name string) {
		t.Helper()
		if err := s.Probe(t.Context()); err != nil {
			t.Error(err)
		}
		if err := s.Send(t.Context(), records(0, 1)); err != nil {
			t.Fatal(err)
		}
		if got := <-who; got != name {
			t.Errorf("the server saw %q, want %q", got, name)
		}
	}
	expect("one")
	expect("one")
	use("two")
	expect("two")

	// Another authority: refused until the file names it.
	other, otherKey, otherPEM, _ := certificate(t, "other ca", nil, nil)
	serve(other, otherKey)
	server.CloseClientConnections()
	if err := s.Send(t.Context(), records(0, 1)); err == nil || !strings.Contains(err.Error(), "ca_file") {
		t.Errorf("an unknown authority: %v", err)
	}
	rewrite(t, file("ca.pem"), otherPEM)
	expect("two")

	rewrite(t, file("key.pem"), "nothing")
	if err := s.Send(t.Context(), records(0, 1)); err == nil {
		t.Error("a broken key is no error")
	}
	use("three")
	expect("three")

	without := webhookTo(t, server.URL, withTLS(promconfig.TLSConfig{CAFile: file("ca.pem")}))
	if err := without.Send(t.Context(), records(0, 1)); err == nil {
		t.Error("accepted without a certificate")
	} else if _, ok := errors.AsType[*PermanentError](err); ok {
		t.Errorf("%v is permanent", err)
	}
}

func withOAuth2(o *promconfig.OAuth2) func(*config.Sink) {
	return withHTTP(func(c *promconfig.HTTPClientConfig) { c.OAuth2 = o })
}

func TestOAuth2(t *testing.T) {
	requests := make(chan request, 10)
	server := consumer(t, requests)
	tokens := newTokenServer(t)
	file := secretFile(t, tokens.secret)
	s := webhookTo(t, server.URL, withOAuth2(&promconfig.OAuth2{
		ClientID: "me", ClientSecretFile: file, TokenURL: tokens.URL + "/token", Scopes: []string{"a"}, EndpointParams: map[string]string{"resource": "hmc"},
	}))
	expect := func(n int) {
		t.Helper()
		if got := send(t, s, requests).header.Get("Authorization"); got != fmt.Sprintf("Bearer t0k3n-number-%d", n) {
			t.Errorf("Authorization %q, want number %d", got, n)
		}
	}
	expect(1)
	expect(1)
	if err := s.Probe(t.Context()); err != nil {
		t.Error(err)
	}
	expect(1)

	// A changed secret takes effect with the next request.
	tokens.secret = "n3w-secret-of-the-client"
	rewrite(t, file, tokens.secret)
	expect(2)

	// A token is not used longer than it is valid; the library counts ten seconds less.
	tokens.expire.Store(5)
	tokens.secret = "an0ther-secret"
	rewrite(t, file, tokens.secret)
	expect(3)
	expect(4)
	tokens.expire.Store(3600)
	expect(5)
	expect(5)

	// What the server says of a wrong secret is told, the secret is not.
	rewrite(t, file, "wr0ng-secret-of-the-client")
	for _, err := range []error{s.Send(t.Context(), records(0, 1)), s.Probe(t.Context())} {
		if _, ok := errors.AsType[*PermanentError](err); ok || err == nil || !strings.Contains(err.Error(), "status 401 Unauthorized") ||
			!strings.Contains(err.Error(), "invalid_client") || strings.Contains(err.Error(), "wr0ng") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v", err)
		}
	}
	if len(requests) != 0 {
		t.Error("sent without a token")
	}
}

// TestOAuth2Refused has a consumer that does not accept a token any more: the next event gets a new one.
func TestOAuth2Refused(t *testing.T) {
	var seen []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = append(seen, r.Header.Get("Authorization"))
		if strings.HasSuffix(r.Header.Get("Authorization"), "-1") {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	defer server.Close()
	tokens := newTokenServer(t)
	s := webhookTo(t, server.URL, withOAuth2(&promconfig.OAuth2{ClientID: "me", ClientSecret: promconfig.Secret(tokens.secret), TokenURL: tokens.URL}))
	if err := s.Send(t.Context(), records(0, 1)); err == nil {
		t.Error("no error")
	}
	if err := s.Send(t.Context(), records(1, 1)); err != nil {
		t.Error(err)
	}
	if fmt.Sprint(seen) != "[Bearer t0k3n-number-1 Bearer t0k3n-number-2]" {
		t.Errorf("%q", seen)
	}
}

// TestOAuth2JWT has the client sign for itself.
func TestOAuth2JWT(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	file := secretFile(t, string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})))
	tokens := newTokenServer(t)
	tokens.key = &key.PublicKey
	requests := make(chan request, 1)
	server := consumer(t, requests)
	for i, algorithm := range []string{"", "RS256", "RS384", "RS512"} {
		s := webhookTo(t, server.URL, withOAuth2(&promconfig.OAuth2{
			ClientID: "me", Iss: "issuer", GrantType: jwtBearer, ClientCertificateKeyFile: file, SignatureAlgorithm: algorithm,
			Claims: map[string]any{"tenant": "ops"}, TokenURL: tokens.URL, EndpointParams: map[string]string{"resource": "hmc"},
		}))
		for range 2 {
			if got := send(t, s, requests).header.Get("Authorization"); got != fmt.Sprintf("Bearer t0k3n-number-%d", i+1) {
				t.Errorf("%s: %q", algorithm, got)
			}
		}
	}
	rewrite(t, file, "no key")
	s := webhookTo(t, server.URL, withOAuth2(&promconfig.OAuth2{ClientID: "me", GrantType: jwtBearer, ClientCertificateKeyFile: file, TokenURL: tokens.URL}))
	if err := s.Send(t.Context(), records(0, 1)); err == nil || strings.Contains(err.Error(), "no key") {
		t.Errorf("%v", err)
	}
}

// TestOAuth2BrokenServers has token servers that break the rules. Each Send ends in time, and nothing is left.
func TestOAuth2BrokenServers(t *testing.T) {
	t.Parallel()
	for name, serve := range map[string]func(net.Conn){
		"silent":       func(net.Conn) {},
		"closes":       closing(func(net.Conn) {}),
		"no HTTP":      answer("220 mail.example.com ESMTP\r\n"),
		"no JSON":      answer("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"),
		"no token":     answer("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"),
		"redirects":    answer("HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"),
		"endless body": endless("HTTP/1.1 200 OK\r\n\r\n", strings.Repeat("x", 1<<10), 0),
		"drips":        endless("HTTP/1.1 200 OK\r\n\r\n", "a", time.Millisecond),
		"endless head": endless("HTTP/1.1 200 OK\r\n", "X-A: "+strings.Repeat("x", 1<<10)+"\r\n", 0),
		"echoes":       func(conn net.Conn) { _, _ = io.Copy(conn, conn) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			leaksNothing(t)
			const secret = "s3cret-of-the-client"
			s := webhookTo(t, "http://127.0.0.1:1", withTimeout(500*time.Millisecond), withOAuth2(&promconfig.OAuth2{
				ClientID: "me", ClientSecret: secret, TokenURL: "http://" + rawPeer(t, serve) + "/" + secret,
			}))
			err := soon(t, "Send", func() error { return s.Send(t.Context(), records(0, 1)) })
			if _, ok := errors.AsType[*PermanentError](err); ok || err == nil || strings.Contains(err.Error(), secret) || len(err.Error()) > 700 {
				t.Errorf("%v", err)
			}
			if timeout := errors.Is(err, context.DeadlineExceeded); timeout && !strings.Contains(err.Error(), "no OAuth 2 token after") {
				t.Errorf("the error does not say what hangs: %v", err)
			}
			t.Logf("%v", err)
		})
	}
}

// An answer that ends within a secret, which it repeats, does not show the first part of it.
func TestHTTPSecretsAreHiddenWhereAnAnswerIsCutOff(t *testing.T) {
	t.Parallel()
	const secret = "t0k3n-that-nobody-may-see"
	for _, serve := range []func(net.Conn){
		closing(answer("HTTP/1.1 401 No\r\nContent-Length: 1000\r\n\r\nnot for Bearer " + secret[:20])),
		answer("HTTP/1.1 401 No\r\nContent-Length: 1000\r\n\r\nnot for Bearer " + secret[:20]),
	} {
		address := "http://" + rawPeer(t, serve)
		client := promconfig.HTTPClientConfig{Authorization: &promconfig.Authorization{Type: "Bearer", Credentials: secret}}
		for _, s := range []Sink{
			webhookTo(t, address, withTimeout(time.Hour), withHTTP(func(c *promconfig.HTTPClientConfig) { *c = client })),
			elasticsearchTo(t, address, withTimeout(time.Hour), func(c *config.Sink) { c.Elasticsearch.HTTPConfig = config.NewHTTPConfig(client) }),
		} {
			err := soon(t, "Send", func() error { return s.Send(t.Context(), records(0, 1)) })
			if PauseReason(err) != PausedUnauthorized || strings.Contains(err.Error(), secret[:4]) || !strings.Contains(err.Error(), "not for") {
				t.Errorf("%v", err)
			}
		}
	}
}

// That a token server refuses is not lost because the rest of its answer does not come.
func TestOAuth2RefusedInPart(t *testing.T) {
	t.Parallel()
	leaksNothing(t)
	const secret = "s3cret-of-the-client"
	s := webhookTo(t, "http://127.0.0.1:1", withTimeout(time.Hour), withOAuth2(&promconfig.OAuth2{
		ClientID: "me", ClientSecret: secret,
		TokenURL: "http://" + rawPeer(t, answer("HTTP/1.1 401 No\r\nContent-Length: 100\r\n\r\nnot with "+secret[:10])) + "/token",
	}))
	err := soon(t, "Send", func() error { return s.Send(t.Context(), records(0, 1)) })
	if PauseReason(err) != PausedUnauthorized || !strings.Contains(err.Error(), "status 401") || strings.Contains(err.Error(), secret[:10]) {
		t.Errorf("%v", err)
	}
}

// TestOAuth2Hangs shows that a token server which hangs holds up neither a canceled Send nor Close.
func TestOAuth2Hangs(t *testing.T) {
	t.Parallel()
	for _, end := range []string{"cancel", "close"} {
		t.Run(end, func(t *testing.T) {
			t.Parallel()
			leaksNothing(t)
			asked := make(chan struct{}, 10)
			s := webhookTo(t, "http://127.0.0.1:1", withTimeout(time.Hour), withOAuth2(&promconfig.OAuth2{
				ClientID: "me", TokenURL: "http://" + rawPeer(t, func(net.Conn) { asked <- struct{}{} }),
			}))
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			const senders = 3
			results := make(chan error, senders)
			for range senders {
				go func() { results <- s.Send(ctx, records(0, 1)) }()
			}
			<-asked
			want := context.Canceled
			if end == "close" {
				want = ErrClosed
				_ = s.Close()
			} else {
				cancel()
			}
			for range senders {
				if err := soon(t, "Send", func() error { return <-results }); !errors.Is(err, want) {
					t.Errorf("%v", err)
				}
			}
		})
	}
}
