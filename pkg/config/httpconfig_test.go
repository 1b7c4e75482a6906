package config

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	promconfig "github.com/prometheus/common/config"
)

// loadHTTP loads a configuration with an http_config, which begins behind its key.
func loadHTTP(t *testing.T, dir, httpConfig string) (*Config, error) {
	t.Helper()
	path := filepath.Join(dir, "hmcnotifyd.yaml")
	text := "hmcs: [{name: a, hosts: [h], userid: u, password: p}]\nsinks:\n  - name: s\n    webhook:\n      url: https://h\n      http_config: " + httpConfig + "\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return Load(path)
}

func mustHTTP(t *testing.T, dir, httpConfig string) *Config {
	t.Helper()
	c, err := loadHTTP(t, dir, httpConfig)
	if err != nil {
		t.Fatalf("%s:\n%v", httpConfig, err)
	}
	return c
}

// certFiles writes a certificate and its key.
func certFiles(t *testing.T, dir string) {
	t.Helper()
	c := newCert(t, certOptions{name: "hmcnotifyd", isCA: true})
	key, err := x509.MarshalECPrivateKey(c.key)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, dir, "cert.pem", string(pemOf(t, c.cert)))
	writeFile(t, dir, "key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: key})))
}

func writeFile(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestHTTPConfig(t *testing.T) {
	dir := t.TempDir()
	certFiles(t, dir)
	writeFile(t, dir, "secret", "file-secret\n")
	c := mustHTTP(t, dir, `
        oauth2: &o
          client_id: me
          client_secret_file: secret
          token_url: https://login.example.com/token
          scopes: [a, b]
          endpoint_params: {resource: hmc}
          claims: {n: 1, list: [x], deep: {y: z}}
          tls_config: {ca_file: cert.pem}
          proxy_url: http://user:pw@proxy.example.com:3128
        tls_config:
          <<: {server_name: merged.example.com}
          cert_file: cert.pem
          key_file: key.pem
          min_version: TLS13
        http_headers:
          X-Token: {values: [v], secrets: [s1, s2], files: [secret]}
        no_proxy: localhost
        proxy_url: socks5://127.0.0.1:1080
        proxy_connect_header: {X-A: [b, c]}
        enable_http2: false`)
	h := c.Sinks[0].Webhook.HTTPConfig.Client()
	o, header := h.OAuth2, h.HTTPHeaders.Headers["X-Token"]
	for name, ok := range map[string]bool{
		"oauth2":    o.ClientID == "me" && o.ClientSecretFile == filepath.Join(dir, "secret") && len(o.Scopes) == 2 && o.EndpointParams["resource"] == "hmc",
		"claims":    fmt.Sprint(o.Claims) == "map[deep:map[y:z] list:[x] n:1]",
		"oauth tls": o.TLSConfig.CAFile == filepath.Join(dir, "cert.pem") && o.ProxyURL.Host == "proxy.example.com:3128",
		"tls":       h.TLSConfig.ServerName == "merged.example.com" && h.TLSConfig.CertFile == filepath.Join(dir, "cert.pem") && h.TLSConfig.MinVersion == promconfig.TLSVersions["TLS13"],
		"headers":   header.Values[0] == "v" && len(header.Secrets) == 2 && header.Secrets[1] == "s2" && header.Files[0] == filepath.Join(dir, "secret"),
		"proxy":     h.ProxyURL.Scheme == "socks5" && h.NoProxy == "localhost" && len(h.ProxyConnectHeader["X-A"]) == 2,
		"flags":     !h.FollowRedirects && !h.EnableHTTP2,
	} {
		if !ok {
			t.Errorf("%s is wrong: %+v\n%+v", name, h, o)
		}
	}
	bearer := mustHTTP(t, dir, "{bearer_token_file: secret}").Sinks[0].Webhook.HTTPConfig.Client()
	if a := bearer.Authorization; a == nil || a.Type != "Bearer" || a.CredentialsFile != filepath.Join(dir, "secret") || bearer.BearerTokenFile != "" {
		t.Errorf("bearer_token_file: %+v", a)
	}
	for _, text := range []string{"", "{}", "{follow_redirects: false}", "{tls_config: {}}"} {
		if h := mustHTTP(t, dir, text).Sinks[0].Webhook.HTTPConfig.Client(); h.FollowRedirects || !h.EnableHTTP2 || h.Authorization != nil {
			t.Errorf("%q: %+v", text, h)
		}
	}
}

// TestHTTPConfigEqual has configurations that differ, in a key or in what a file holds.
func TestHTTPConfigEqual(t *testing.T) {
	dir := t.TempDir()
	certFiles(t, dir)
	writeFile(t, dir, "secret", "one")
	same := mustHTTP(t, dir, "")
	if other := mustHTTP(t, dir, "{enable_http2: true, tls_config: {ca_file: ''}}"); !same.Sinks[0].Equal(&other.Sinks[0]) || same.Hash() != other.Hash() {
		t.Error("the defaults differ from nothing")
	}
	loaded := []*Config{same}
	for _, text := range []string{
		"{enable_http2: false}", "{proxy_from_environment: true}",
		"{proxy_url: 'http://a:1'}", "{proxy_url: 'http://b:1'}", "{proxy_url: 'http://a:x@b:1'}", "{proxy_url: 'http://a:y@b:1'}",
		"{proxy_url: 'http://a:1', no_proxy: x}", "{proxy_url: 'http://a:1', proxy_connect_header: {X: [y]}}", "{proxy_url: 'http://a:1', proxy_connect_header: {X: [z]}}",
		"{basic_auth: {username: a, password: b}}", "{basic_auth: {username: a, password: c}}", "{basic_auth: {username: ab}}", "{basic_auth: {username: a, password_file: secret}}",
		"{bearer_token: x}", "{authorization: {type: Token, credentials: x}}", "{authorization: {credentials_file: secret}}", "{authorization: {credentials_file: ./key.pem.line}}",
		"{http_headers: {X: {values: [a]}}}", "{http_headers: {X: {values: [a, b]}}}", "{http_headers: {X: {secrets: [a]}}}", "{http_headers: {Y: {values: [a]}}}", "{http_headers: {X: {files: [secret]}}}",
		"{oauth2: {client_id: a, token_url: 'https://h'}}", "{oauth2: {client_id: a, token_url: 'https://h', scopes: [a]}}",
		"{oauth2: {client_id: a, token_url: 'https://h', endpoint_params: {a: b}}}", "{oauth2: {client_id: a, token_url: 'https://h', endpoint_params: {a: c}}}",
		"{oauth2: {client_id: a, token_url: 'https://h', claims: {a: 1}}}", "{oauth2: {client_id: a, token_url: 'https://h', claims: {a: '2'}}}",
		"{oauth2: {client_id: a, token_url: 'https://h', client_secret: x}}", "{oauth2: {client_id: a, token_url: 'https://h', client_secret_file: secret}}",
		"{oauth2: {client_id: a, token_url: 'https://h', tls_config: {ca_file: cert.pem}}}", "{oauth2: {client_id: a, token_url: 'https://h', proxy_url: 'http://a:1'}}",
		"{tls_config: {ca_file: cert.pem}}", "{tls_config: {server_name: a}}", "{tls_config: {insecure_skip_verify: true}}", "{tls_config: {min_version: TLS13}}", "{tls_config: {max_version: TLS13}}",
		"{tls_config: {cert_file: cert.pem, key_file: key.pem}}",
	} {
		if strings.Contains(text, "key.pem.line") {
			writeFile(t, dir, "key.pem.line", "one")
		}
		c := mustHTTP(t, dir, text)
		for _, other := range loaded {
			if c.Sinks[0].Equal(&other.Sinks[0]) {
				t.Errorf("%s is equal to another", text)
			}
		}
		loaded = append(loaded, c)
		again := mustHTTP(t, dir, text)
		if !c.Sinks[0].Equal(&again.Sinks[0]) {
			t.Errorf("%s differs from itself", text)
		}
	}
	for file, text := range map[string]string{
		"secret":   "{basic_auth: {username: a, password_file: secret}, http_headers: {X: {files: [secret]}}}",
		"cert.pem": "{tls_config: {ca_file: cert.pem}}",
		"key.pem":  "{oauth2: {client_id: a, token_url: 'https://h', grant_type: 'urn:ietf:params:oauth:grant-type:jwt-bearer', client_certificate_key_file: key.pem}}",
	} {
		before := mustHTTP(t, dir, text)
		data, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		if file == "secret" {
			writeFile(t, dir, file, "two")
		} else {
			writeFile(t, dir, file, string(data)+string(data))
		}
		after := mustHTTP(t, dir, text)
		if before.Sinks[0].Equal(&after.Sinks[0]) || before.Hash() == after.Hash() {
			t.Errorf("a change of the file %s goes unnoticed", file)
		}
	}
}

// TestHTTPConfigWarnings has what is allowed but probably not meant.
func TestHTTPConfigWarnings(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, dir, "secret", "x")
	if err := os.Chmod(filepath.Join(dir, "secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	c := mustHTTP(t, dir, "{tls_config: {insecure_skip_verify: true}, basic_auth: {username_file: secret, password_file: secret}}")
	if got := c.Warnings.Error(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "http_config.tls_config.insecure_skip_verify: ") ||
		!strings.Contains(got, "http_config.basic_auth.password_file: "+filepath.Join(dir, "secret")+" can be read by every user") {
		t.Errorf("%s", got)
	}
}

// TestWebhookFilesAreRead has files whose contents are part of the configuration: a change of one
// makes another sink.
func TestWebhookFilesAreRead(t *testing.T) {
	dir := t.TempDir()
	const first, second = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_YW5vdGhlciBzZWNyZXQgb2YgdGhlIHNpbms="
	files := map[string][2]string{
		"hook.tmpl": {"{{ json . }}", "{{ json .Summary }}"},
		"a.secret":  {first + "\n", second},
		"b.secret":  {"plain text of a consumer, as long as it is", "another plain text of a consumer"},
	}
	load := func() *Config {
		return mustHTTP(t, dir, "{}\n      format: template\n      template_file: hook.tmpl\n      secret_file: a.secret\n      secret_files: [b.secret]\n")
	}
	for name, texts := range files {
		writeFile(t, dir, name, texts[0])
	}
	before := load()
	w := before.Sinks[0].Webhook
	if keys := w.SigningKeys(); len(keys) != 2 || string(keys[1]) != files["b.secret"][0] || w.SigningSecrets()[0].Expose() != first || w.Template != files["hook.tmpl"][0] {
		t.Errorf("%q, %q", keys, w.Template)
	}
	for name, texts := range files {
		writeFile(t, dir, name, texts[1])
		if after := load(); before.Sinks[0].Equal(&after.Sinks[0]) || before.Hash() == after.Hash() {
			t.Errorf("a change of %s goes unnoticed", name)
		}
		writeFile(t, dir, name, texts[0])
	}
	if after := load(); !before.Sinks[0].Equal(&after.Sinks[0]) {
		t.Error("the same files make another sink")
	}
}
