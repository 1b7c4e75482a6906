package web

import (
	"errors"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strings"
)

// ExternalURL checks what --web.external-url says, the address under which people reach the web
// side; "": nothing. What it returns ends with a slash.
func ExternalURL(flag string) (string, error) {
	u, err := url.Parse(flag)
	switch {
	case flag == "":
		return "", nil
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		return "", errors.New("must be an http or https address, such as https://hmcnotifyd.example.com/")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return "", errors.New("must have no userid, no query (?...) and no fragment (#...)")
	}
	return strings.TrimRight(flag, "/") + "/", nil
}

// LocalURL is the address of a web side that listens there, with the name of the machine where that
// is every address; "": that cannot be told.
func LocalURL(listens net.Addr, encrypted bool) string {
	host, port, err := net.SplitHostPort(listens.String())
	if err != nil {
		return ""
	}
	if addr, err := netip.ParseAddr(host); err == nil && addr.IsUnspecified() {
		if host, err = os.Hostname(); err != nil {
			return ""
		}
	}
	u := url.URL{Scheme: "http", Host: net.JoinHostPort(host, port), Path: "/"}
	if encrypted {
		u.Scheme = "https"
	}
	return u.String()
}
