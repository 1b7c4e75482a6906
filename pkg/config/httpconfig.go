package config

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	promconfig "github.com/prometheus/common/config"
	"gopkg.in/yaml.v3"
)

// HTTPConfig is the http_config of Prometheus: how requests are made and what authenticates them.
// Like a Secret it is shown by no form of printing.
//
// The files that it names are read again for each request, or connection, so that what changes in
// them counts at once. Load has seen to it that they can be used.
type HTTPConfig struct {
	client *promconfig.HTTPClientConfig // nil: defaultHTTPClient
	// what the files held when they were loaded, each with its length in front
	files Secret
	_     [0]func()
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

// String hides the settings.
func (h HTTPConfig) String() string { return hidden }

// GoString hides the settings from %#v.
func (h HTTPConfig) GoString() string { return hidden }

// Format hides the settings from every verb of package fmt.
func (h HTTPConfig) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(hidden)) }

// MarshalText hides the settings.
func (h HTTPConfig) MarshalText() ([]byte, error) { return []byte(hidden), nil }

// MarshalJSON hides the settings.
func (h HTTPConfig) MarshalJSON() ([]byte, error) { return []byte(`"` + hidden + `"`), nil }

// MarshalYAML hides the settings.
func (h HTTPConfig) MarshalYAML() (any, error) { return hidden, nil }

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
	switch to.(type) {
	case *promconfig.URL:
		if err != nil && !errors.Is(err, errReported) {
			err = errors.New("is not a valid URL") // err quotes it, with the password
		}
	case *promconfig.TLSVersion:
		if err != nil && !errors.Is(err, errReported) {
			err = fmt.Errorf("must be one of %s", strings.Join(slices.Sorted(maps.Keys(promconfig.TLSVersions)), ", "))
		}
	}
	if err != nil && !errors.Is(err, errReported) {
		d.errorf(path, "%s", err)
	}
}

// httpConfig checks what the type does not check by itself, makes paths absolute, and reads the
// files.
func (d *decoder) httpConfig(path string, h *HTTPConfig, mode fs.FileMode) {
	if h.client == nil || d.failed(path) || d.badBelow[path] {
		return
	}
	at := func(key string) string { return join(path, key) }
	c := h.client
	if c.FollowRedirects && d.has(at("follow_redirects")) {
		d.errorf(at("follow_redirects"), "must be false: a redirect would take events where nobody has configured them to go")
	}
	c.FollowRedirects = false
	f := &httpFiles{d: d, mode: mode}

	if b := c.BasicAuth; b != nil {
		f.line(at("basic_auth.username"), promconfig.Secret(b.Username), &b.UsernameFile, false)
		f.line(at("basic_auth.password"), b.Password, &b.PasswordFile, true)
	}
	if a := c.Authorization; a != nil {
		key := at("authorization.credentials")
		if !d.has(at("authorization")) { // these two are made an authorization when they are read
			key = at("bearer_token")
		}
		d.token(at("authorization.type"), a.Type)
		f.line(key, a.Credentials, &a.CredentialsFile, true)
	}
	if o := c.OAuth2; o != nil {
		oauth := func(key string) string { return at("oauth2." + key) }
		if u, err := url.Parse(o.TokenURL); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil {
			d.errorf(oauth("token_url"), "must be an http or https address without a userid")
		}
		f.line(oauth("client_secret"), o.ClientSecret, &o.ClientSecretFile, true)
		f.file(oauth("client_certificate_key_file"), &o.ClientCertificateKeyFile, true)
		f.tls(oauth("tls_config"), &o.TLSConfig)
		d.proxy(at("oauth2"), &o.ProxyConfig)
	}
	if c.HTTPHeaders != nil {
		for _, name := range slices.Sorted(maps.Keys(c.HTTPHeaders.Headers)) {
			header := c.HTTPHeaders.Headers[name]
			f.header(at("http_headers."+name), name, header)
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

// proxy checks the address of a proxy. It does not show it: it may hold a password.
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
	d        *decoder
	mode     fs.FileMode // of the configuration
	contents []byte
}

// file makes the path of a file absolute and returns what it holds; nil: there is none, or it was
// reported.
func (f *httpFiles) file(at string, file *string, secret bool) []byte {
	if *file == "" {
		if f.d.has(at) {
			f.d.errorf(at, "is empty: name a file")
		}
		return nil
	}
	absolute, shown := f.d.resolve(*file)
	*file = absolute
	data, mode, err := readFile(absolute, maxSecretFile)
	switch {
	case err != nil:
		f.d.errorf(at, "%s %s", shown, err)
		return nil
	case len(strings.TrimSpace(string(data))) == 0:
		f.d.errorf(at, "%s is empty", shown)
		return nil
	}
	if secret {
		f.d.warnIfPublic(at, shown, mode)
	}
	f.contents = appendText(f.contents, string(data))
	return data
}

// line checks a text of one line, which stands in the configuration, under the path, or in a file.
func (f *httpFiles) line(path string, inline promconfig.Secret, file *string, secret bool) {
	if inline != "" {
		if s := NewSecret(string(inline)); secret {
			f.d.inlineSecret(path, s, path[strings.LastIndex(path, ".")+1:]+"_file", f.mode)
		} else {
			f.d.line(path, string(inline))
		}
	}
	f.lineFile(path+"_file", file, secret)
}

// lineFile checks a file of one line. White space around it does not belong to it.
func (f *httpFiles) lineFile(at string, file *string, secret bool) {
	named := *file
	if data := f.file(at, file, secret); data != nil {
		if msg := checkLine(strings.TrimSpace(string(data))); msg != "" {
			_, shown := f.d.resolve(named)
			f.d.errorf(at, "%s: %s", shown, msg)
		}
	}
}

func (f *httpFiles) header(at, name string, h promconfig.Header) {
	f.d.token(at, name)
	if strings.HasPrefix(http.CanonicalHeaderKey(name), "Webhook-") {
		f.d.errorf(at, "is a header of the daemon's own")
	}
	if len(h.Values)+len(h.Secrets)+len(h.Files) == 0 {
		f.d.errorf(at, "has no value: give values, secrets or files")
	}
	for i, v := range h.Values {
		f.d.line(fmt.Sprintf("%s.values[%d]", at, i), v)
	}
	for i, s := range h.Secrets {
		f.d.inlineSecret(fmt.Sprintf("%s.secrets[%d]", at, i), NewSecret(string(s)), "files", f.mode)
	}
	for i := range h.Files {
		f.lineFile(fmt.Sprintf("%s.files[%d]", at, i), &h.Files[i], true)
	}
}

// tls checks the certificates and keys of a tls_config.
func (f *httpFiles) tls(path string, t *promconfig.TLSConfig) {
	at := func(key string) string { return join(path, key) }

	ours := TLS{CAFile: t.CAFile, ServerName: t.ServerName, InsecureSkipVerify: t.InsecureSkipVerify}
	f.d.tls(path, &ours)
	t.CAFile = ours.CAFile
	if ours.ca != "" {
		f.contents = appendText(f.contents, ours.ca)
	}
	if t.CA != "" {
		if _, err := parseCertificates([]byte(t.CA)); err != nil {
			f.d.errorf(at("ca"), "%s", err)
		}
	}
	if t.MinVersion != 0 && t.MaxVersion != 0 && t.MaxVersion < t.MinVersion {
		f.d.errorf(at("max_version"), "is below min_version")
	}
	if t.Key != "" {
		// A key has several lines.
		if f.mode&0o004 != 0 {
			f.d.warnf(at("key"), "stands in a file that every user of this machine can read: chmod o-r %s, or use key_file", f.d.file)
		}
	}
	cert, key, where := []byte(t.Cert), []byte(t.Key), at("cert")
	if t.CertFile != "" || f.d.has(at("cert_file")) {
		where = at("cert_file")
		cert = f.file(where, &t.CertFile, false)
	}
	if t.KeyFile != "" || f.d.has(at("key_file")) {
		key = f.file(at("key_file"), &t.KeyFile, true)
	}
	if len(cert) == 0 || len(key) == 0 {
		return
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil { // says what is wrong, and shows nothing of either
		f.d.errorf(where, "cannot be used with its key: %s", strings.TrimPrefix(err.Error(), "tls: "))
		return
	}
	if leaf := pair.Leaf; leaf != nil && time.Now().After(leaf.NotAfter) {
		f.d.warnf(where, "the certificate of %s in %s expired on %s", subject(leaf), filepath.Base(t.CertFile), day(leaf.NotAfter))
	}
}
