package web

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	toolkit "github.com/prometheus/exporter-toolkit/web"
	"go.uber.org/zap"
	"golang.org/x/crypto/bcrypt"
	"golang.org/x/time/rate"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
)

const (
	// maxChecks is how many passwords wait to be checked, which takes one processor a tenth of
	// a second each.
	maxChecks = 8
	// maxKnown is how many logons that were right are remembered.
	maxKnown = 100
	// nobody is checked where there is no such userid, so that the time tells nothing.
	nobody = "$2y$10$QOauhQNbBCuQDKes6eFzPeMqBSjb7Mr5DUmpZ/VcEd00UAV/LDeSi"
)

// Protection is TLS and basic authentication by a --web.config.file, which is read again whenever
// it has changed. The toolkit that defines the file has a handler of its own, whose checks of wrong
// passwords queue without limit.
type Protection struct {
	file string
	log  *zap.Logger
	// one place for each check that is under way or waits, and the turn of one of them
	places, turn chan struct{}

	mu        sync.Mutex
	config    ofFiles[*toolkit.Config]
	tlsConfig ofFiles[*tls.Config]
	limiter   *rate.Limiter
	// logons that were right, with the hash that they were checked against
	known map[[sha256.Size]byte]bool
}

// NewProtection checks the file; "": there is no protection.
func NewProtection(file string, log *zap.Logger) (*Protection, error) {
	p := &Protection{
		file: file, log: log, places: make(chan struct{}, maxChecks), turn: make(chan struct{}, 1),
		known: make(map[[sha256.Size]byte]bool),
	}
	c, err := p.now()
	if err == nil {
		for _, user := range slices.Sorted(maps.Keys(c.Users)) {
			if _, err := bcrypt.Cost([]byte(c.Users[user])); err != nil { // Validate does not say whose
				return nil, fmt.Errorf("%s: basic_auth_users: what %q has is no hash of bcrypt, "+
					"as htpasswd -nBC 10 %s makes one", file, user, user)
			}
		}
	}
	if err := toolkit.Validate(file); err != nil {
		return nil, withoutValues(err)
	}
	return p, err
}

// ofFiles is what was made of files, for as long as they do not change.
type ofFiles[T any] struct {
	stamp string
	value T
	err   error
}

// get makes it anew where a file has changed since.
func (c *ofFiles[T]) get(how func() (T, error), files ...string) (T, error) {
	var stamp []byte
	for _, name := range files {
		if name == "" {
			continue
		}
		info, err := os.Stat(name)
		if err != nil {
			return c.value, err
		}
		if time.Since(info.ModTime()) < 2*time.Second { // a clock has ticks: it may change within one
			stamp = strconv.AppendInt(stamp, time.Now().UnixNano(), 10)
		}
		stamp = fmt.Appendf(stamp, "%s %d %d;", name, info.ModTime().UnixNano(), info.Size())
	}
	if string(stamp) != c.stamp {
		c.stamp = string(stamp)
		c.value, c.err = how()
	}
	return c.value, c.err
}

// now is what the file says now.
func (p *Protection) now() (*toolkit.Config, error) {
	if p.file == "" {
		return new(toolkit.Config), nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.config.get(func() (*toolkit.Config, error) { return loadWeb(p.file) }, p.file)
}

// TLS returns the configuration of a server; nil: it has no TLS. Each connection has that of the
// files as they are then.
func (p *Protection) TLS() (*tls.Config, error) {
	c, err := p.now()
	if err != nil || !c.TLSConfig.IsEnabled() {
		return nil, err
	}
	server, err := p.nowTLS()
	if err != nil {
		return nil, err
	}
	server = server.Clone()
	server.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return p.nowTLS() }
	return server, nil
}

func (p *Protection) nowTLS() (*tls.Config, error) {
	c, err := p.now()
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	of := &c.TLSConfig
	return p.tlsConfig.get(func() (*tls.Config, error) {
		made, err := toolkit.ConfigToTLSConfig(of)
		if err != nil {
			return nil, err
		}
		certificate, err := made.GetCertificate(nil)
		if err != nil {
			return nil, err
		}
		made.Certificates, made.GetCertificate = []tls.Certificate{*certificate}, nil
		if made.NextProtos = []string{"h2", "http/1.1"}; !c.HTTPConfig.HTTP2 {
			made.NextProtos = made.NextProtos[1:]
		}
		return made, nil
	}, p.file, of.TLSCertPath, of.TLSKeyPath, of.ClientCAs)
}

// authenticated is the key of the context of requests from somebody who has proved who he is.
type authenticated struct{}

// isAuthenticated says that whoever makes a request has proved who he is.
func isAuthenticated(r *http.Request) bool {
	known, _ := r.Context().Value(authenticated{}).(bool)
	return known || r.TLS != nil && len(r.TLS.VerifiedChains) > 0
}

// Handler lets those requests through to next that the file lets through.
func (p *Protection) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := p.now()
		if err != nil {
			p.log.Error("--web.config.file cannot be read, so nobody is let through", zap.Error(err))
			http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
			return
		}
		for name, value := range c.HTTPConfig.Header {
			w.Header().Set(name, value)
		}
		if !p.allows(c) {
			w.Header().Set("Retry-After", "1")
			http.Error(w, http.StatusText(http.StatusTooManyRequests), http.StatusTooManyRequests)
			return
		}
		if len(c.Users) > 0 {
			userid, password, ok := r.BasicAuth()
			known, err := false, error(nil)
			if ok {
				known, err = p.check(r.Context(), string(c.Users[userid]), userid, password)
			}
			switch {
			case err != nil:
				w.Header().Set("Retry-After", "1")
				http.Error(w, err.Error(), http.StatusServiceUnavailable)
				return
			case !known:
				w.Header().Set("WWW-Authenticate", "Basic")
				http.Error(w, http.StatusText(http.StatusUnauthorized), http.StatusUnauthorized)
				return
			}
			r = r.WithContext(context.WithValue(r.Context(), authenticated{}, true))
		}
		next.ServeHTTP(w, r)
	})
}

// allows applies rate_limit.
func (p *Protection) allows(c *toolkit.Config) bool {
	limit := c.RateLimiterConfig
	if limit.Interval == 0 {
		return true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	every := rate.Every(limit.Interval)
	if p.limiter == nil || p.limiter.Limit() != every || p.limiter.Burst() != limit.Burst {
		p.limiter = rate.NewLimiter(every, limit.Burst)
	}
	return p.limiter.Allow()
}

var errTooManyChecks = errors.New("too many passwords are being checked")

// check says whether a password fits the hash; "": there is no such userid. A logon that was right
// before costs nothing, so that guesses do not shut out those who know it. They wait for a place or
// are refused.
func (p *Protection) check(ctx context.Context, hash, userid, password string) (bool, error) {
	key := sha256.Sum256([]byte(strconv.Quote(userid) + strconv.Quote(password) + hash))
	p.mu.Lock()
	known := p.known[key]
	p.mu.Unlock()
	if known && hash != "" {
		return true, nil
	}
	select {
	case p.places <- struct{}{}:
		defer func() { <-p.places }()
	default:
		return false, errTooManyChecks
	}
	select {
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
	case <-ctx.Done():
		return false, errTooManyChecks
	}
	against := hash
	if hash == "" {
		against = nobody
	}
	if bcrypt.CompareHashAndPassword([]byte(against), []byte(password)) != nil || hash == "" {
		return false, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.known) >= maxKnown {
		clear(p.known)
	}
	p.known[key] = true
	return true, nil
}

// yamlValue finds what errors of the YAML library quote of a file.
var yamlValue = regexp.MustCompile("(?s) (?:`.*?`|'.*?') (into|referenced)\\b")

// withoutValues makes an error one line that does not show the values of a file: one of them may be
// a password in the wrong place.
func withoutValues(err error) error {
	text := yamlValue.ReplaceAllString(err.Error(), " $1")
	return errors.New(strings.Join(strings.Fields(text), " "))
}

// loadWeb reads a --web.config.file, which has the form of Prometheus's exporter toolkit.
func loadWeb(file string) (*toolkit.Config, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	web := &toolkit.Config{
		TLSConfig:  toolkit.TLSConfig{MinVersion: tls.VersionTLS12, MaxVersion: tls.VersionTLS13},
		HTTPConfig: toolkit.HTTPConfig{HTTP2: true},
	}
	if err := config.Strict(data, web); err != nil {
		return nil, fmt.Errorf("%s: %w", file, withoutValues(err))
	}
	web.TLSConfig.SetDirectory(filepath.Dir(file))
	return web, nil
}
