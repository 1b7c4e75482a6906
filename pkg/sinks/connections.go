package sinks

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
)

// connections dials for one sink and knows what it dialed. A transport gives up neither a
// connection in use nor one that it is still making when it is closed; with connections both end at
// once.
type connections struct {
	*lifetime
	dialer net.Dialer

	mu   sync.Mutex
	open map[*connection]struct{}
}

func newConnections(timeout time.Duration) *connections {
	dialer := net.Dialer{Timeout: timeout}
	return &connections{lifetime: newLifetime(), dialer: dialer, open: make(map[*connection]struct{})}
}

// dial is a DialContext function. After close its error is ErrClosed.
func (c *connections) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.ctx, cancel)() //nolint:contextcheck // both contexts end it

	raw, err := c.dialer.DialContext(ctx, network, addr)
	if err != nil {
		if c.closed() {
			err = ErrClosed
		}
		return nil, err
	}
	conn := &connection{Conn: raw, owner: c}
	c.mu.Lock()
	c.open[conn] = struct{}{}
	c.mu.Unlock()
	if c.closed() { // close may have looked before conn was there
		_ = conn.Close()
		return nil, ErrClosed
	}
	return conn, nil
}

func (c *connections) close() {
	c.end()
	c.mu.Lock()
	open := slices.Collect(maps.Keys(c.open))
	c.mu.Unlock()
	for _, conn := range open {
		_ = conn.Close()
	}
}

// connection is a net.Conn that its owner forgets when it is closed.
type connection struct {
	net.Conn
	owner *connections
}

// Close closes the connection.
func (c *connection) Close() error {
	c.owner.mu.Lock()
	delete(c.owner.open, c)
	c.owner.mu.Unlock()
	return c.Conn.Close()
}

// ReadFrom sends the body of a request. What is in pieces goes from where they are.
func (c *connection) ReadFrom(r io.Reader) (int64, error) {
	if limited, ok := r.(*io.LimitedReader); ok { // to its length, as the transport does
		if p, ok := limited.R.(*pieces); ok {
			return p.WriteTo(c.Conn)
		}
	}
	return io.Copy(c.Conn, r)
}

// pieces is a body that is read piece by piece: a large one is not put together only to be sent.
type pieces struct{ net.Buffers }

// Close has nothing to do.
func (*pieces) Close() error { return nil }

// explainTLS says what is wrong with a TLS connection, and what to do; nil: there is none, or err
// is about something else.
func explainTLS(cfg *config.TLS, err error) error {
	if cfg == nil || cfg.Explain(err) == "" {
		return nil
	}
	return because(ReasonTLS, "%s", cfg.Explain(err))
}

// tlsHint names the setting that may be wrong where a TLS connection could not be made; "" where
// err is about something else.
func tlsHint(err error) string {
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return " (http_config.tls_config.ca_file names further authorities)"
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return " (http_config.tls_config.server_name sets the name to expect)"
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return " (https to a server that speaks http?)"
	}
	return ""
}
