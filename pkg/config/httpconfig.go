package config

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"

	promconfig "github.com/prometheus/common/config"
	"gopkg.in/yaml.v3"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/secret"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/trust"
)

// HTTPConfig is the http_config of Prometheus: how requests are made and what authenticates them.
// Like a Secret it is shown by no form of printing.
//
// The files that it names are read again for each request, or connection, so that what changes in
// them counts at once. Load has seen to it that they can be used.
type HTTPConfig struct {
	concealed
	// nil: defaultHTTPClient
	client *promconfig.HTTPClientConfig
	// what the files held when they were loaded, each with its length in front
	files Secret
}

// NewHTTPConfig makes an HTTPConfig of settings that did not come from a configuration file.
func NewHTTPConfig(client promconfig.HTTPClientConfig) HTTPConfig { return HTTPConfig{client: &client} }

// defaultHTTPClient are the settings where none are given: those of Prometheus, but that redirects
// are not followed.
func defaultHTTPClient() promconfig.HTTPClientConfig {
	c := promconfig.DefaultHTTPClientConfig
	c.FollowRedirects = false
	return c
}

// Client returns the settings, secrets among them. They are to be used, not to be printed.
func (h HTTPConfig) Client() promconfig.HTTPClientConfig {
	if h.client == nil {
		return defaultHTTPClient()
	}
	return *h.client
}

// authenticates says whether requests carry a secret.
func (h HTTPConfig) authenticates() bool {
	c := h.Client()
	return c.BasicAuth != nil || c.Authorization != nil || c.OAuth2 != nil || c.HTTPHeaders != nil ||
		c.BearerToken != "" || c.BearerTokenFile != ""
}

// selfReading is a type of another package that reads itself, by means of what is handed to it.
type selfReading interface {
	UnmarshalYAML(unmarshal func(any) error) error
}

// errReported is what such a type gets to see of an error that has been reported already.
var errReported = errors.New("reported")

// readSelf lets a type of another package read itself from a node: it sets its defaults, has this
// decoder fill it, which reports what is wrong with line and path, and validates itself.
func (d *decoder) readSelf(n *yaml.Node, path string, to selfReading) {
	before := len(d.errs)
	err := to.UnmarshalYAML(func(v any) error {
		d.decode(n, path, reflect.ValueOf(v).Elem())
		if len(d.errs) > before {
			return errReported
		}
		return nil
	})
	if err == nil || errors.Is(err, errReported) {
		return
	}
	switch to.(type) {
	case *promconfig.URL:
		err = errors.New("is not a valid URL") // err quotes it, with the password
	case *promconfig.TLSVersion:
		err = fmt.Errorf("must be one of %s", strings.Join(slices.Sorted(maps.Keys(promconfig.TLSVersions)), ", "))
	}
	d.errorf(path, "%s", err)
}

// httpConfig checks what the type does not check by itself, makes paths absolute, and reads the
// files.
func (d *decoder) httpConfig(path string, h *HTTPConfig) {
	if h.client == nil || d.failed(path) || d.badBelow[path] {
		return
	}
	at := under(path)
	c := h.client
	if c.FollowRedirects && d.has(at("follow_redirects")) {
		d.errorf(at("follow_redirects"), "must be false: "+
			"a redirect would take events where nobody has configured them to go")
	}
	c.FollowRedirects = false
	f := &httpFiles{decoder: d}
	if b := c.BasicAuth; b != nil {
		f.line(at("basic_auth.username"), promconfig.Secret(b.Username), &b.UsernameFile, false)
		f.line(at("basic_auth.password"), b.Password, &b.PasswordFile, true)
	}
	if a := c.Authorization; a != nil {
		key := "authorization.credentials"
		// bearer_token and its file are made an authorization when they are read
		if !d.has(at("authorization")) {
			key = "bearer_token"
		}
		d.token(at("authorization.type"), a.Type)
		d.check(at(key), secret.SchemeIn(f.line(at(key), a.Credentials, &a.CredentialsFile, true), a.Type))
	}
	if o := c.OAuth2; o != nil {
		oauth := under(at("oauth2"))
		u, err := url.Parse(o.TokenURL)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil {
			d.errorf(oauth("token_url"), "must be an http or https address without a userid")
		}
		f.line(oauth("client_secret"), o.ClientSecret, &o.ClientSecretFile, true)
		f.contentsOf(oauth("client_certificate_key_file"), &o.ClientCertificateKeyFile, true)
		f.tls(oauth("tls_config"), &o.TLSConfig)
		d.proxy(at("oauth2"), &o.ProxyConfig)
	}
	if c.HTTPHeaders != nil {
		for _, name := range slices.Sorted(maps.Keys(c.HTTPHeaders.Headers)) {
			f.header(at("http_headers."+name), name, c.HTTPHeaders.Headers[name])
		}
	}
	f.tls(at("tls_config"), &c.TLSConfig)
	d.proxy(path, &c.ProxyConfig)
	h.files = NewSecret(string(f.contents))
}

// token checks a word of a header.
func (d *decoder) token(path, word string) {
	if word == "" || strings.ContainsFunc(word, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || strings.ContainsRune("\"(),/:;<=>?@[\\]{}", r)
	}) {
		d.errorf(path, "is not a word that a header may hold")
	}
}

// proxy checks the address of a proxy. Errors do not show it: it may contain a password.
func (d *decoder) proxy(path string, p *promconfig.ProxyConfig) {
	for name := range p.ProxyConnectHeader {
		d.token(join(path, "proxy_connect_header"), name)
	}
	if u := p.ProxyURL.URL; u != nil && u.String() != "" {
		if !slices.Contains([]string{"http", "https", "socks5", "socks5h"}, u.Scheme) || u.Hostname() == "" {
			d.errorf(join(path, "proxy_url"), "must begin with http://, https:// or socks5:// and name a host")
		}
	}
}

// httpFiles reads the files that an http_config names.
type httpFiles struct {
	*decoder
	contents []byte
}

// contentsOf makes the path of a file absolute and returns its contents; "": there is no file, or
// an error was reported.
func (f *httpFiles) contentsOf(at string, file *string, secret bool) (text, shown string) {
	text, shown, ok := f.read(at, file, maxSecretFile, secret)
	if ok && strings.TrimSpace(text) == "" {
		f.errorf(at, "%s is empty", shown)
		return "", shown
	}
	if ok {
		f.contents = appendText(f.contents, text)
	}
	return text, shown
}

// line checks a text of one line, which stands in the configuration, under the path, or in a file,
// and returns it.
func (f *httpFiles) line(path string, inline promconfig.Secret, file *string, secret bool) string {
	switch {
	case inline == "":
	case secret:
		f.inlineSecret(path, NewSecret(string(inline)), lastKey(path)+"_file")
	default:
		f.decoder.line(path, string(inline))
	}
	return cmp.Or(string(inline), f.lineFile(path+"_file", file, secret))
}

// lineFile checks a file of one line, and returns it. White space around it does not belong to it.
func (f *httpFiles) lineFile(at string, file *string, secret bool) string {
	text, shown := f.contentsOf(at, file, secret)
	text = strings.TrimSpace(text)
	if msg := checkLine(text); msg != "" {
		f.errorf(at, "%s: %s", shown, msg)
	}
	f.doubtFile(at, shown, text)
	return text
}

func (f *httpFiles) header(at, name string, h promconfig.Header) {
	f.token(at, name)
	if strings.HasPrefix(http.CanonicalHeaderKey(name), "Webhook-") {
		f.errorf(at, "is a header of the daemon's own")
	}
	if len(h.Values)+len(h.Secrets)+len(h.Files) == 0 {
		f.errorf(at, "has no value: give values, secrets or files")
	}
	for i, v := range h.Values {
		f.decoder.line(item(at+".values", i), v)
	}
	for i, s := range h.Secrets {
		f.inlineSecret(item(at+".secrets", i), NewSecret(string(s)), "files")
	}
	for i := range h.Files {
		f.lineFile(item(at+".files", i), &h.Files[i], true)
	}
}

// tls checks the certificates and keys of a tls_config.
func (f *httpFiles) tls(path string, t *promconfig.TLSConfig) {
	at := under(path)
	ours := TLS{CAFile: t.CAFile, ServerName: t.ServerName, InsecureSkipVerify: t.InsecureSkipVerify}
	f.decoder.tls(path, &ours)
	t.CAFile = ours.CAFile
	if ours.ca != "" {
		f.contents = appendText(f.contents, ours.ca)
	}
	if t.CA != "" {
		if _, err := trust.Certificates([]byte(t.CA)); err != nil {
			f.errorf(at("ca"), "%s", err)
		}
	}
	if t.MinVersion != 0 && t.MaxVersion != 0 && t.MaxVersion < t.MinVersion {
		f.errorf(at("max_version"), "is below min_version")
	}
	if t.Key != "" {
		f.warnInline(at("key"), "key_file")
	}
	cert, key, where := t.Cert, string(t.Key), at("cert")
	if t.CertFile != "" || f.has(at("cert_file")) {
		where = at("cert_file")
		cert, _ = f.contentsOf(where, &t.CertFile, false)
	}
	if t.KeyFile != "" || f.has(at("key_file")) {
		key, _ = f.contentsOf(at("key_file"), &t.KeyFile, true)
	}
	if cert != "" && key != "" {
		f.keyPair(where, t.CertFile, cert, key)
	}
}
