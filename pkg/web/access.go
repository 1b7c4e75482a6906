package web

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// changesPerSecond bounds what changes something, and reloads.
const changesPerSecond = 10

// Errors of requests that are not served.
var (
	errOtherSite = errors.New("this request comes from a page of another site")
	errOtherHost = errors.New("this address is for the machine itself: " +
		"the request must name it as localhost, 127.0.0.1 or [::1]")
	errNoAdmin = errors.New("changes are for requests from the machine itself, over loopback; for others " +
		"with --web.enable-admin-api, or where --web.config.file demands authentication")
	errTooFast = fmt.Errorf("too many changes: at most %d in a second", changesPerSecond)
)

// loopbackListener is the key of the context of requests to a listener on a loopback address.
type loopbackListener struct{}

// BaseContext tells the handler which listener a request came to, as http.Server.BaseContext.
func BaseContext(l net.Listener) context.Context {
	return context.WithValue(context.Background(), loopbackListener{}, isLoopback(l.Addr().String()))
}

// ownHost refuses what a browser sends to a loopback listener for a page whose name was made to
// resolve to it (DNS rebinding): the page could read everything, and change it.
func (h handler) ownHost(next http.Handler) http.Handler {
	return h.failing(func(w http.ResponseWriter, r *http.Request) error {
		loopback, _ := r.Context().Value(loopbackListener{}).(bool)
		if loopback && r.Host != "" && !isLoopback(r.Host) { // without a Host it is no browser
			return errOtherHost
		}
		next.ServeHTTP(w, r)
		return nil
	})
}

// sameSite refuses a request that a browser makes for a page of another site.
func (h handler) sameSite(next http.HandlerFunc) http.HandlerFunc {
	return h.failing(func(w http.ResponseWriter, r *http.Request) error {
		if otherSite(r) {
			return errOtherSite
		}
		next(w, r)
		return nil
	})
}

// otherSite says that a browser makes the request for a page of another site, which a page cannot
// hide: Sec-Fetch-Site says so, or where that is missing, as it is over plain HTTP, Origin or
// Referer. Programs that are no browsers send none of them.
func otherSite(r *http.Request) bool {
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" {
		return site != "same-origin" && site != "none"
	}
	for _, name := range []string{"Origin", "Referer"} {
		if from := r.Header.Get(name); from != "" {
			if u, err := url.Parse(from); err != nil || u.Host != r.Host {
				return true
			}
		}
	}
	return false
}

// trusted serves those who may change something.
func (h handler) trusted(next http.HandlerFunc) http.HandlerFunc {
	return h.sameSite(h.failing(func(w http.ResponseWriter, r *http.Request) error {
		if !h.EnableAdminAPI && !overLoopback(r) && !isAuthenticated(r) {
			return errNoAdmin
		}
		next(w, r)
		return nil
	}))
}

// changing serves what changes something.
func (h handler) changing(next http.HandlerFunc) http.HandlerFunc {
	return h.trusted(h.paced(h.changes, next))
}

// paced serves no more than what the pace allows.
func (h handler) paced(p *pace, next http.HandlerFunc) http.HandlerFunc {
	return h.failing(func(w http.ResponseWriter, r *http.Request) error {
		if !p.allows(time.Now()) {
			return errTooFast
		}
		next(w, r)
		return nil
	})
}

// overLoopback says that a request was made on this machine, and not for somebody else.
func overLoopback(r *http.Request) bool {
	for name := range r.Header {
		// A proxy on this machine connects over loopback, too.
		if name == "Forwarded" || name == "Via" || name == "X-Real-Ip" || strings.HasPrefix(name, "X-Forwarded-") {
			return false
		}
	}
	return isLoopback(r.RemoteAddr) && isLoopback(r.Host)
}

// isLoopback says that a host, with a port or without, is this machine's own.
func isLoopback(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.TrimSuffix(strings.ToLower(strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")), ".")
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.Unmap().IsLoopback()
}
