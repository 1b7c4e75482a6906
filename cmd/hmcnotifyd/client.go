package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/alecthomas/kingpin/v2"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/terminal"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/web"
)

const (
	// defaultURL is where a daemon with default flags is.
	defaultURL = "http://localhost:10291"
	statusPath = "/api/v1/status"
	// answerTimeout is how long a running daemon may take to begin its answer.
	answerTimeout = time.Minute
	// paceTimeout is how long a request is repeated that the daemon has refused because there
	// were too many, and paceWait how long that waits.
	paceTimeout = 30 * time.Second
	paceWait    = 300 * time.Millisecond
	// maxErrorAnswer bounds what is read of an answer that is an error.
	maxErrorAnswer = 64 << 10
	byteOrderMark  = "\ufeff"
)

// clientFlags are how a running daemon is reached.
type clientFlags struct {
	url             string
	caFile          string
	credentialsFile string
}

// clientFlagsOf adds the flags to a command.
func clientFlagsOf(c *kingpin.CmdClause, f *clientFlags) {
	c.Flag("url", "Address of the running daemon.").Default(defaultURL).Envar("HMCNOTIFYD_URL").StringVar(&f.url)
	c.Flag("ca-file", "Certificates (PEM) to verify the daemon's with, instead of the system's authorities.").
		PlaceHolder("FILE").Envar("HMCNOTIFYD_CA_FILE").StringVar(&f.caFile)
	c.Flag("credentials-file", "File with USERID:PASSWORD in one line, for basic authentication.").
		PlaceHolder("FILE").Envar("HMCNOTIFYD_CREDENTIALS_FILE").StringVar(&f.credentialsFile)
}

// clientFlagsFromEnvironment are the flags of a command line without any.
func clientFlagsFromEnvironment() clientFlags {
	return clientFlags{
		url:    cmp.Or(os.Getenv("HMCNOTIFYD_URL"), defaultURL),
		caFile: os.Getenv("HMCNOTIFYD_CA_FILE"), credentialsFile: os.Getenv("HMCNOTIFYD_CREDENTIALS_FILE"),
	}
}

// validate checks what can be checked without reading a file.
func (f *clientFlags) validate() error {
	u, err := url.Parse(f.url)
	switch {
	case err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "":
		// err would quote it, with a password that may be in it
		return errors.New("--url must be as http://localhost:10291")
	case u.User != nil:
		return errors.New("--url must not hold a userid and a password: other users see command lines; " +
			"put them into --credentials-file")
	case u.RawQuery != "" || u.Fragment != "":
		return errors.New("--url must be an address without query and fragment")
	case f.credentialsFile != "" && u.Scheme == "http" && !loopback(u.Hostname()):
		return errors.New("--credentials-file goes with https only: anybody on the way could read the password")
	}
	return nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || (ip != nil && ip.IsLoopback())
}

// client talks to a running daemon.
type client struct {
	base             *url.URL
	http             *http.Client
	userid, password string
	// shows what is waited for, if it is one; nil: nothing does
	terminal io.Writer
}

func newClient(f clientFlags) (*client, error) {
	base, err := url.Parse(strings.TrimRight(f.url, "/"))
	if err != nil {
		return nil, errors.New("--url is malformed")
	}
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, ResponseHeaderTimeout: answerTimeout, TLSHandshakeTimeout: 10 * time.Second,
		DialContext: (&net.Dialer{Timeout: 10 * time.Second}).DialContext, ForceAttemptHTTP2: true,
	}
	if f.caFile != "" {
		pem, err := os.ReadFile(f.caFile)
		if err != nil {
			return nil, fmt.Errorf("--ca-file: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(bytes.TrimPrefix(pem, []byte(byteOrderMark))) { // it hides the first one
			return nil, fmt.Errorf("--ca-file: %s holds no certificate", f.caFile)
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	c := &client{base: base, http: &http.Client{
		Transport: transport,
		// The credentials are for this address and no other.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	if f.credentialsFile != "" {
		text, err := os.ReadFile(f.credentialsFile)
		if err != nil {
			return nil, fmt.Errorf("--credentials-file: %w", err)
		}
		var ok bool
		c.userid, c.password, ok = strings.Cut(strings.TrimRight(string(text), "\r\n"), ":")
		if strings.HasPrefix(c.userid, byteOrderMark) {
			return nil, fmt.Errorf("--credentials-file: %s begins with a byte order mark (EF BB BF): "+
				"save it as UTF-8 without one", f.credentialsFile)
		}
		if !ok || strings.ContainsAny(c.userid+c.password, "\r\n") {
			return nil, fmt.Errorf("--credentials-file: %s must hold USERID:PASSWORD in one line", f.credentialsFile)
		}
	}
	return c, nil
}

// withClient does what a command does with the daemon that its flags name.
func (e *environment) withClient(command string, f clientFlags, do func(*client) error) error {
	c, err := newClient(f)
	if err == nil {
		c.terminal = e.stderr
		defer c.close()
		err = do(c)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	return nil
}

// close ends connections that are kept.
func (c *client) close() { c.http.CloseIdleConnections() }

// temporaryError is a failure that may pass.
type temporaryError struct{ error }

// do makes a request and returns the answer if it is a success.
func (c *client) do(ctx context.Context, method, path string, query url.Values, accept string) (*http.Response, error) {
	return c.doWith(ctx, method, path, query, map[string]string{"Accept": accept})
}

// doWith is do with headers; one that is empty is not sent.
func (c *client) doWith(
	ctx context.Context, method, path string, query url.Values, headers map[string]string,
) (*http.Response, error) {
	u := c.base.JoinPath(path)
	u.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, method, u.String(), http.NoBody)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "hmcnotifyd/"+version)
	for name, value := range headers {
		if value != "" {
			req.Header.Set(name, value)
		}
	}
	if c.userid != "" || c.password != "" {
		req.SetBasicAuth(c.userid, c.password)
	}
	answered := terminal.Waiting(c.terminal, func() string { return "waiting for the daemon at " + c.base.String() })
	resp, err := c.send(req)
	answered()
	if err != nil {
		return nil, &temporaryError{c.noAnswer(ctx, err)}
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorAnswer))
	if err != nil {
		return nil, &temporaryError{c.noAnswer(ctx, err)}
	}
	err = c.refused(resp.StatusCode, body)
	if resp.StatusCode/100 == 5 || resp.StatusCode == http.StatusTooManyRequests {
		err = &temporaryError{err}
	}
	return nil, err
}

// send makes a request, again while the daemon says that there were too many in this second.
func (c *client) send(req *http.Request) (*http.Response, error) {
	for start := time.Now(); ; {
		resp, err := c.http.Do(req)
		if err != nil || resp.StatusCode != http.StatusTooManyRequests || time.Since(start) > paceTimeout ||
			!status.Sleep(req.Context(), paceWait) {
			return resp, err
		}
		_ = resp.Body.Close()
	}
}

// noAnswer is the error of a daemon that did not answer, in one line.
func (c *client) noAnswer(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err // without the address, which is named below
	}
	do := "--url names another address"
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		do = "--ca-file names what to verify it with"
	}
	return fmt.Errorf("no answer from a daemon at %s: %w (%s)", c.base, err, do)
}

// refused is the error for an answer that is not a success.
func (c *client) refused(status int, body []byte) error {
	var answer web.Error
	switch {
	case json.Unmarshal(body, &answer) == nil && answer.Error != "":
		return errors.New(answer.Error)
	case status == http.StatusUnauthorized && c.userid+c.password != "":
		return fmt.Errorf("the daemon at %s does not accept the userid and password of --credentials-file", c.base)
	case status == http.StatusUnauthorized:
		return fmt.Errorf("the daemon at %s wants a userid and a password: --credentials-file", c.base)
	case status == http.StatusNotFound:
		return fmt.Errorf("what answers at %s is not hmcnotifyd, or one of before it had this command", c.base)
	}
	text := cmp.Or(string(bytes.TrimSpace(body)), http.StatusText(status))
	return fmt.Errorf("the daemon at %s answers %d: %s", c.base, status, oneLine(text, 200))
}

// get reads a JSON answer into v.
func (c *client) get(ctx context.Context, method, path string, query url.Values, v any) error {
	resp, err := c.do(ctx, method, path, query, "")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(v); err != nil {
		return c.noAnswer(ctx, fmt.Errorf("what came is not its JSON: %w", err))
	}
	return nil
}
