package receiver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	stomp "github.com/go-stomp/stomp/v3/frame"
)

// pull returns a function for the next notification, which ends with the test.
func pull(t *testing.T, r *Receiver) func() (Notification, error, bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	get, stop := iter.Pull2(r.Notifications(ctx))
	t.Cleanup(func() {
		stop()
		cancel()
	})
	return get
}

func TestNew(t *testing.T) {
	good := Options{Host: "hmc1", Userid: "u", Password: "p"}
	for name, test := range map[string]struct {
		set func(*Options)
		err string
	}{
		"good":                {func(*Options) {}, ""},
		"session":             {func(o *Options) { o.Userid, o.Password, o.SessionID, o.SessionCredential = "", "", "s", "c" }, ""},
		"IPv4":                {func(o *Options) { o.Host = "192.0.2.1" }, ""},
		"IPv6":                {func(o *Options) { o.Host = "fe80::1%eth0" }, ""},
		"IPv6 in brackets":    {func(o *Options) { o.Host = "[2001:db8::1]" }, ""},
		"special characters":  {func(o *Options) { o.Password = `a:b\c"d é` }, ""},
		"no host":             {func(o *Options) { o.Host = "" }, "host is not set"},
		"host with port":      {func(o *Options) { o.Host = "hmc1:61612" }, `host "hmc1:61612": neither a name nor an address (a port is set by Port)`},
		"URL":                 {func(o *Options) { o.Host = "https://hmc1" }, `host "https://hmc1": neither a name nor an address (a port is set by Port)`},
		"path":                {func(o *Options) { o.Host = "hmc1/" }, `host "hmc1/": neither a name nor an address`},
		"name in brackets":    {func(o *Options) { o.Host = "[hmc1]" }, `host "[hmc1]": only an IPv6 address can be in brackets`},
		"half a bracket":      {func(o *Options) { o.Host = "[::1" }, `host "[::1": a bracket is missing`},
		"port":                {func(o *Options) { o.Port = 65536 }, "port 65536: not from 1 to 65535"},
		"negative port":       {func(o *Options) { o.Port = -1 }, "port -1: not from 1 to 65535"},
		"no credentials":      {func(o *Options) { o.Userid, o.Password = "", "" }, "neither userid and password nor session id and session credential are set"},
		"no password":         {func(o *Options) { o.Password = "" }, "password is not set"},
		"no userid":           {func(o *Options) { o.Userid = "" }, "userid is not set"},
		"both":                {func(o *Options) { o.SessionID = "s" }, "both userid and session are set"},
		"half a session":      {func(o *Options) { o.Userid, o.Password, o.SessionID = "", "", "s" }, "session credential is not set"},
		"newline in password": {func(o *Options) { o.Password = "topsecret\n" }, "password contains a line end or a NUL, which STOMP cannot send"},
		"NUL in userid":       {func(o *Options) { o.Userid = "a\x00b" }, "userid contains a line end or a NUL, which STOMP cannot send"},
		"TLS and plain text":  {func(o *Options) { o.PlainText, o.TLS = true, newTestCA(t).client() }, "both TLS and PlainText are set"},
		"config":              {func(o *Options) { o.Config = new(StompRetryTimeoutConfig) }, "reconnect_sleep_initial must be greater than 0, not 0s\nreconnect_sleep_max must be greater than 0, not 0s"},
		"limit":               {func(o *Options) { o.Limits.Body = -1 }, "a limit is negative"},
		"wait":                {func(o *Options) { o.Limits.HandoverWait = -1 }, "a limit is negative"},
		"empty topic":         {func(o *Options) { o.Topics = []string{""} }, "the name of a topic is empty"},
		"topic with newline":  {func(o *Options) { o.Topics = []string{"a\nb"} }, `topic "a\nb": a line end or a NUL in the name`},
		"destination":         {func(o *Options) { o.Topics = []string{"/topic/a"} }, `topic "/topic/a": give the name without "/topic/"`},
	} {
		t.Run(name, func(t *testing.T) {
			o := good
			test.set(&o)
			r, err := New(o)
			if test.err == "" {
				must(t, err)
				must(t, r.Close())
				return
			}
			if err == nil || err.Error() != test.err {
				t.Errorf("got %v\nwant receiver: %s", err, test.err)
			}
			if err != nil && strings.Contains(err.Error(), "topsecret") {
				t.Error("the error shows a secret")
			}
		})
	}
	r, err := New(Options{Host: "[::1]", Userid: "u", Password: "p", Topics: []string{"b", "a", "b"}})
	must(t, err)
	if r.address != "[::1]:61612" || r.tls.ServerName != "::1" || !slices.Equal(r.Topics(), []string{"b", "a"}) {
		t.Errorf("address %s, server name %s, topics %v", r.address, r.tls.ServerName, r.Topics())
	}
	must(t, r.Close())
}

// TestFramesSent looks at the bytes on the wire.
func TestFramesSent(t *testing.T) {
	const password = `a:b\x"d é`
	for name, test := range map[string]struct{ connected, topic, sentTopic string }{
		"1.1": {connected11, `u:1\`, `u\c1\\`},
		"1.2": {strings.ReplaceAll(connected11, "1.1", "1.2"), `u:1\`, `u\c1\\`},
		"1.0": {"CONNECTED\nsession:x\n\n\x00\n", `u:1\`, `u:1\`},
	} {
		t.Run(name, func(t *testing.T) {
			sent := make(chan string, 1)
			p := startPeer(t, "", func(_ int, c *peerConn) {
				var seen bytes.Buffer
				c.in = stomp.NewReader(io.TeeReader(c.Conn, &seen))
				c.serve(test.connected, nil)
				sent <- seen.String()
			})
			o := p.options(test.topic)
			o.Password = password
			r := newReceiver(t, o)
			must(t, r.Connect(t.Context()))
			must(t, r.Close())
			want := "CONNECT\naccept-version:1.1\nhost:127.0.0.1\nheart-beat:5000,5000\nlogin:hmcuser\npasscode:" + password + "\n\n\x00" +
				"SUBSCRIBE\nid:sub-1\ndestination:/topic/" + test.sentTopic + "\nack:auto\nreceipt:receipt-1\n\n\x00" +
				"UNSUBSCRIBE\nid:sub-1\n\n\x00DISCONNECT\nreceipt:receipt-2\n\n\x00"
			if got := <-sent; got != want {
				t.Errorf("got %q\nwant %q", got, want)
			}
		})
	}
}

func TestNotifications(t *testing.T) {
	p := startPeer(t, "", func(_ int, c *peerConn) {
		c.serve(connected11, func(c *peerConn, sub *stomp.Frame) {
			id := sub.Header.Get("id")
			_ = c.send("%s", message(id, "u.1", `{"a":1}`, "notification-type", "status-change", "x", `a\cb`))
			_ = c.send("%s", message(id, "u.1", "", "notification-type", "inventory-change"))
			_ = c.send("%s", message(id, "u.1", "{oops"))
			_ = c.send("%s", message(id, "u.1", "\"\xff\""))
			_ = c.send("%s", message("sub-77", "u.1", `"a subscription nobody has"`))
			_ = c.send("MESSAGE\ndestination:/topic/u.1\n\n\"no subscription\"\x00")
			_ = c.send("MESSAGE\ndestination:/topic/other\n\n\"no subscription, no topic of ours\"\x00")
			_ = c.send("MESSAGE\n\n\"neither\"\x00")
			_ = c.send("MESSAGE\nsubscription:%s\ncontent-length:4\n\n\"b\"\n\x00", id)
		})
	})
	r := newReceiver(t, p.options("u.1"))
	if !r.LastFrame().IsZero() || !r.LastNotification().IsZero() || r.Connected() || r.Subscribed("u.1") {
		t.Error("connected before Connect")
	}
	start := time.Now()
	get := pull(t, r)
	n, err := next(t, get)
	must(t, err)
	if n.Topic != "u.1" || string(n.Body) != `{"a":1}` || n.Headers.Get("notification-type") != "status-change" || n.Headers.Get("x") != "a:b" || n.Headers.Get("message-id") != "ID:HMC-1-2:1" {
		t.Errorf("got %+v", n)
	}
	if n.Received.Before(start) || n.Received.After(time.Now()) || r.LastFrame().Before(start.Add(-time.Second)) || r.LastNotification().IsZero() {
		t.Errorf("received at %v, last frame %v, last notification %v", n.Received, r.LastFrame(), r.LastNotification())
	}
	if !r.Connected() || !r.Subscribed("u.1") || r.Subscribed("u.2") {
		t.Error("not connected and subscribed")
	}
	n, err = next(t, get)
	if err != nil || n.Body != nil || n.Headers.Get("notification-type") != "inventory-change" {
		t.Errorf("got %+v, %v, want an empty body", n, err)
	}
	for _, body := range []string{"{oops", "\"\xff\""} {
		n, err = next(t, get)
		var parse *ParseError
		if !errors.As(err, &parse) || string(parse.Body) != body || string(n.Body) != body || n.Topic != "u.1" {
			t.Errorf("got %+v, %v, want a ParseError of %q", n, err, body)
		}
	}
	for _, body := range []string{`"no subscription"`, "\"b\"\n"} {
		n, err = next(t, get)
		if err != nil || string(n.Body) != body || n.Topic != "u.1" {
			t.Errorf("got %+v, %v, want %s", n, err, body)
		}
		if n.Compact() != !strings.HasSuffix(body, "\n") {
			t.Errorf("%q is compact: %v", body, n.Compact())
		}
	}
}

// TestLogonRefused checks that a refused logon is tried once, and that nothing secret comes back.
func TestLogonRefused(t *testing.T) {
	for name, answer := range map[string]string{
		"ActiveMQ":         "ERROR\ncontent-type:text/plain\nmessage:User name [SECRETID] or password is invalid.\n\njava.lang.SecurityException: User name [SECRETID] or password SECRETCRED is invalid.\n\tat org.apache\x00\n",
		"older":            "ERROR\nmessage:null\n\njava.lang.SecurityException\x00\n",
		"in other words":   "\nERROR\nmessage:Authentication failed\n\n\x00",
		"in the body only": "ERROR\n\nLogin failed for SECRETID.\x00",
	} {
		t.Run(name, func(t *testing.T) {
			p := startPeer(t, "", func(_ int, c *peerConn) {
				if c.expect("CONNECT") != nil {
					_ = c.send("%s", answer)
				}
			})
			o := p.options("u.1")
			o.Userid, o.Password, o.SessionID, o.SessionCredential = "", "", "SECRETID", "SECRETCRED"
			o.Config.ConnectRetries = -1
			r := newReceiver(t, o)
			err := r.Connect(t.Context())
			var (
				connection *ConnectionError
				jms        *JMSError
			)
			if !errors.As(err, &connection) || connection.Reason != ReasonAuthorization || connection.Attempts != 1 || !errors.As(err, &jms) {
				t.Fatalf("got %#v, want a ConnectionError for authorization with a JMSError", err)
			}
			if p.count() != 1 {
				t.Errorf("%d attempts", p.count())
			}
			if text := err.Error() + jms.Message + string(jms.Body) + fmt.Sprint(jms.Headers); strings.Contains(text, "SECRET") {
				t.Errorf("a secret comes back: %s", text)
			}
		})
	}
}

func TestConnectErrors(t *testing.T) {
	answer := func(text string) func(int, *peerConn) {
		return func(_ int, c *peerConn) {
			if c.expect("CONNECT") != nil {
				_ = c.send("%s", text)
			}
		}
	}
	for name, test := range map[string]struct {
		script func(int, *peerConn)
		reason string
		text   string
	}{
		"closed at once":    {func(int, *peerConn) {}, ReasonBroker, "link during the STOMP logon"},
		"closed later":      {answer(""), ReasonBroker, "the HMC closed the link during the STOMP logon"},
		"half a frame":      {answer("CONNEC"), ReasonBroker, "in the middle of a frame"},
		"protocol version":  {answer("ERROR\nmessage:Invalid Protocol version[9.9], supported versions are: [1.2, 1.1, 1.0]\n\norg.apache.activemq.transport.stomp.ProtocolException: ... login ...\x00"), ReasonBroker, "Invalid Protocol version[9.9]"},
		"a web server":      {answer("HTTP/1.1 400 Bad Request\r\n\r\n"), ReasonBroker, `"HTTP/1.1 400 Bad Request"`},
		"MESSAGE":           {answer("MESSAGE\n\n\x00"), ReasonBroker, "neither CONNECTED nor ERROR"},
		"version 2.0":       {answer("CONNECTED\nversion:2.0\n\n\x00"), ReasonBroker, `STOMP version "2.0"`},
		"odd heart-beat":    {answer("CONNECTED\nversion:1.1\nheart-beat:a,b\n\n\x00"), ReasonBroker, `malformed heart-beat "a,b"`},
		"half a heart-beat": {answer("CONNECTED\nversion:1.1\nheart-beat:5\n\n\x00"), ReasonBroker, `malformed heart-beat "5"`},
		"no CONNECTED":      {func(_ int, c *peerConn) { c.expect("nothing") }, ReasonTimeout, "no CONNECTED within 400ms"},
		"slow drip": {func(_ int, c *peerConn) {
			for c.send("\n") == nil {
				time.Sleep(time.Millisecond)
			}
		}, ReasonTimeout, "no CONNECTED within 400ms"},
		"no receipts": {func(_ int, c *peerConn) {
			c.logon(connected00)
			c.expect("nothing")
		}, ReasonTimeout, `no receipt for the subscription to topic "u.1" within 400ms`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := startPeer(t, "", test.script)
			o := p.options("u.1")
			o.Config.ConnectRetries = 2
			o.Config.ConnectTimeout = 400 * time.Millisecond
			if test.reason != ReasonTimeout {
				o.Config.ConnectTimeout = 20 * time.Second
			}
			r := newReceiver(t, o)
			err := r.Connect(t.Context())
			var connection *ConnectionError
			if !errors.As(err, &connection) || connection.Reason != test.reason || connection.Attempts != 3 || !strings.Contains(err.Error(), test.text) {
				t.Errorf("got %v (reason %q), want reason %q, 3 attempts, and %q", err, reasonIn(err), test.reason, test.text)
			}
			if p.count() != 3 || r.Connected() {
				t.Errorf("%d attempts of 3; connected: %v", p.count(), r.Connected())
			}
		})
	}
}

func TestDialErrors(t *testing.T) {
	refusedPort := startPeer(t, "", func(int, *peerConn) {})
	refusedPort.close()
	dialer := func(f func(ctx context.Context) error) func(context.Context, string, string) (net.Conn, error) {
		return func(ctx context.Context, _, _ string) (net.Conn, error) { return nil, f(ctx) }
	}
	for name, test := range map[string]struct {
		dial   func(context.Context, string, string) (net.Conn, error)
		reason string
		text   string
	}{
		"refused": {nil, ReasonRefused, "connection refused"},
		"dns": {dialer(func(context.Context) error {
			return &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "hmc1", IsNotFound: true}}
		}), ReasonDNS, "no such host"},
		"timeout": {dialer(func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }), ReasonTimeout, "no TCP connection to 127.0.0.1:"},
		"other":   {dialer(func(context.Context) error { return errors.New("a proxy's words") }), ReasonOther, "a proxy's words"},
	} {
		t.Run(name, func(t *testing.T) {
			o := refusedPort.options()
			o.Dial = test.dial
			o.Config.ConnectRetries = 0
			o.Config.ConnectTimeout = 100 * time.Millisecond
			r := newReceiver(t, o)
			err := r.Connect(t.Context())
			var connection *ConnectionError
			if !errors.As(err, &connection) || connection.Reason != test.reason || connection.Attempts != 1 || !strings.Contains(err.Error(), test.text) {
				t.Errorf("got %v (reason %q), want reason %q, 1 attempt, and %q", err, reasonIn(err), test.reason, test.text)
			}
			// The iterator connects too, and that is its last word.
			count := 0
			for _, err := range r.Notifications(t.Context()) {
				count++
				if reasonIn(err) != test.reason {
					t.Errorf("Notifications yields %v", err)
				}
			}
			if count != 1 {
				t.Errorf("Notifications yielded %d times", count)
			}
		})
	}
}

// TestContextEndsEveryPhase checks that Connect returns at once when its context ends, without any timeout of its own, and
// that the socket is closed.
func TestContextEndsEveryPhase(t *testing.T) {
	ca := newTestCA(t)
	server := ca.server(t, time.Now().Add(time.Hour), "127.0.0.1")
	for name, test := range map[string]struct {
		tls    bool
		script func(c *peerConn, reached func())
	}{
		"TLS handshake": {true, func(c *peerConn, reached func()) {
			_, _ = io.ReadFull(c.Conn, make([]byte, 5))
			reached()
		}},
		"CONNECTED": {false, func(c *peerConn, reached func()) {
			c.expect("CONNECT")
			reached()
		}},
		"CONNECTED over TLS": {true, func(c *peerConn, reached func()) {
			if c, err := c.startTLS(server); err == nil {
				c.expect("CONNECT")
				reached()
			}
		}},
		"receipts": {false, func(c *peerConn, reached func()) {
			c.logon(connected11)
			c.expect("SUBSCRIBE")
			reached()
		}},
	} {
		for _, how := range []string{"cancel", "close"} {
			t.Run(name+"/"+how, func(t *testing.T) {
				reached := make(chan bool, 1)
				ended := make(chan bool, 1)
				p := startPeer(t, "", func(_ int, c *peerConn) {
					test.script(c, func() { reached <- true })
					_, _ = io.Copy(io.Discard, c.Conn) // until the client closes
					ended <- true
				})
				o := p.options("u.1")
				o.Config.ConnectTimeout = 0
				if test.tls {
					o.PlainText, o.TLS = false, ca.client()
				}
				r := newReceiver(t, o)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				result := make(chan error, 1)
				go func() { result <- r.Connect(ctx) }()
				<-reached
				want := context.Canceled
				if how == "cancel" {
					cancel()
				} else {
					want = ErrClosed
					_ = r.Close()
				}
				if err := <-result; !errors.Is(err, want) {
					t.Errorf("Connect returned %v, want %v", err, want)
				}
				<-ended
			})
		}
	}
	t.Run("dial", func(t *testing.T) {
		o := Options{Host: "hmc1", Userid: "u", Password: "p", Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}}
		r := newReceiver(t, o)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		if err := r.Connect(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Connect returned %v", err)
		}
	})
	t.Run("between attempts", func(t *testing.T) {
		p := startPeer(t, "", func(int, *peerConn) {})
		o := p.options("u.1")
		o.Config.ConnectRetries = -1
		o.Config.ReconnectSleepInitial, o.Config.ReconnectSleepMax = time.Hour, time.Hour
		r := newReceiver(t, o)
		ctx, cancel := context.WithCancel(t.Context())
		result := make(chan error, 1)
		go func() { result <- r.Connect(ctx) }()
		eventually(t, "an attempt", func() bool { return p.count() == 1 })
		cancel()
		if err := <-result; !errors.Is(err, context.Canceled) {
			t.Errorf("Connect returned %v", err)
		}
	})
}

func TestRetriesWithoutEnd(t *testing.T) {
	p := startPeer(t, "", func(n int, c *peerConn) {
		if n > 20 {
			c.serve(connected11, nil)
		}
	})
	o := p.options("u.1")
	o.Config.ConnectRetries = -1
	r := newReceiver(t, o)
	must(t, r.Connect(t.Context()))
	must(t, r.Connect(t.Context())) // connected already
	if p.count() != 21 {
		t.Errorf("%d attempts", p.count())
	}
}

// TestRefusedTopic has a broker refuse one of three topics in every way brokers do that.
func TestRefusedTopic(t *testing.T) {
	const text = `  remote addConsumer failed because the specified destination, 'topic\c//u.1', is not a known or approved topic.`
	for name, test := range map[string]struct {
		answer func(c *peerConn, sub *stomp.Frame)
		closes bool
	}{
		"with receipt-id": {func(c *peerConn, sub *stomp.Frame) {
			_ = c.send("ERROR\nreceipt-id:%s\nmessage:no\n\n\x00\n", sub.Header.Get("receipt"))
		}, false},
		"by name": {func(c *peerConn, _ *stomp.Frame) {
			_ = c.send("ERROR\ncontent-type:text/plain\nmessage:%s\n\njava.lang.SecurityException\x00\n", text)
		}, false},
		"by name in the body": {func(c *peerConn, _ *stomp.Frame) {
			_ = c.send("ERROR\nmessage:refused\n\njava.lang.SecurityException: topic://u.1.\n\tat\x00\n")
		}, false},
		"with receipt-id, closing": {func(c *peerConn, sub *stomp.Frame) {
			_ = c.send("ERROR\nreceipt-id:%s\nmessage:no\n\n\x00\n", sub.Header.Get("receipt"))
		}, true},
		"by name, closing": {func(c *peerConn, _ *stomp.Frame) { _ = c.send("ERROR\nmessage:%s\n\n\x00\n", text) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			p := startPeer(t, "", func(_ int, c *peerConn) {
				if !c.logon(connected11) {
					return
				}
				for f := c.read(); f != nil; f = c.read() {
					if f.Header.Get("destination") == "/topic/u.1" {
						test.answer(c, f)
						if test.closes {
							return
						}
						continue
					}
					c.confirm(f)
					if topic, ok := strings.CutPrefix(f.Header.Get("destination"), "/topic/"); ok {
						_ = c.send("%s", message(f.Header.Get("id"), topic, "1"))
					}
				}
			})
			o := p.options("u.12", "u.1", "u.1job") // names that begin with each other
			o.Config.ConnectRetries = 0             // the loss of a link over a refused topic does not count
			r := newReceiver(t, o)
			must(t, r.Connect(t.Context()))
			if !r.Connected() || r.Subscribed("u.1") || !r.Subscribed("u.12") || !r.Subscribed("u.1job") || !slices.Equal(r.Topics(), []string{"u.12", "u.1job"}) {
				t.Errorf("connected: %v, topics %v", r.Connected(), r.Topics())
			}
			if want := 1 + btoi(test.closes); p.count() != want {
				t.Errorf("%d links, want %d", p.count(), want)
			}
			get := pull(t, r)
			refused, got := 0, map[string]bool{}
			for refused == 0 || len(got) < 2 {
				n, err := next(t, get)
				if err == nil {
					got[n.Topic] = true
					continue
				}
				var (
					subscription *SubscriptionError
					jms          *JMSError
				)
				if !errors.As(err, &subscription) || subscription.Topic != "u.1" || !errors.As(err, &jms) {
					t.Fatalf("got %v, want a SubscriptionError with a JMSError for u.1", err)
				}
				refused++
			}
			if refused != 1 {
				t.Errorf("the refusal was yielded %d times", refused)
			}
		})
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func TestErrorFrames(t *testing.T) {
	stopping := make(chan bool)
	p := startPeer(t, "", func(_ int, c *peerConn) {
		c.serve(connected11, func(c *peerConn, sub *stomp.Frame) {
			_ = c.send("ERROR\nmessage:about nothing\nx:y\n\nthe body\x00\n")
			_ = c.send("ERROR\nmessage:about another topic\\c 'topic\\c//u.1.more'\n\n\x00\n")
			_ = c.send("ERROR\nreceipt-id:unknown\n\nfirst line\nsecond line\x00\n")
			_ = c.send("%s", message(sub.Header.Get("id"), "u.1", "1"))
			<-stopping
			_ = c.send("ERROR\nmessage:broker is stopping\n\n\x00\n")
			_ = c.Close()
		})
	})
	r := newReceiver(t, p.options("u.1"))
	get := pull(t, r)
	for _, want := range []string{"about nothing", "about another topic: 'topic://u.1.more'", "first line"} {
		_, err := next(t, get)
		var jms *JMSError
		if !errors.As(err, &jms) || jms.Message != want {
			t.Fatalf("got %v, want a JMSError %q", err, want)
		}
		if want == "about nothing" && (jms.Headers.Get("x") != "y" || string(jms.Body) != "the body") {
			t.Errorf("got headers %v and body %q", jms.Headers, jms.Body)
		}
	}
	if n, err := next(t, get); err != nil || string(n.Body) != "1" {
		t.Errorf("got %+v, %v: the link does not go on", n, err)
	}
	close(stopping)
	_, err := next(t, get)
	var jms *JMSError
	if !errors.As(err, &jms) || jms.Message != "broker is stopping" {
		t.Errorf("got %v", err)
	}
	_, err = next(t, get)
	var lost *ConnectionError
	if !errors.As(err, &lost) || lost.Reason != ReasonBroker || lost.Attempts != 0 || !errors.As(err, &jms) {
		t.Errorf("got %#v, want a loss with the JMSError", err)
	}
	if _, err, ok := get(); ok {
		t.Errorf("the iteration goes on after a loss: %v", err)
	}
}

func TestSubscribeOnLiveLink(t *testing.T) {
	confirm := make(chan bool)
	p := startPeer(t, "", func(_ int, c *peerConn) {
		if !c.logon(connected00) {
			return
		}
		for f := c.read(); f != nil; f = c.read() {
			switch f.Header.Get("destination") {
			case "/topic/late":
				<-confirm
				c.confirm(f)
			case "/topic/message-only":
				_ = c.send("%s", message(f.Header.Get("id"), "message-only", "1"))
			case "/topic/refused":
				_ = c.send("ERROR\nmessage:no\nreceipt-id:%s\n\n\x00", f.Header.Get("receipt"))
			case "/topic/silent":
			default:
				c.confirm(f)
			}
		}
	})
	o := p.options()
	o.Config.ConnectTimeout = 20 * time.Second
	r := newReceiver(t, o)
	must(t, r.Connect(t.Context()))

	result := make(chan error, 2)
	go func() { result <- r.Subscribe(t.Context(), "late") }()
	eventually(t, "wanted", func() bool { return len(r.Topics()) == 1 })
	go func() { result <- r.Subscribe(t.Context(), "late") }() // joins the wait
	select {
	case err := <-result:
		t.Fatalf("Subscribe did not wait for the receipt: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	if r.Subscribed("late") {
		t.Error("subscribed before the receipt")
	}
	close(confirm)
	must(t, <-result)
	must(t, <-result)
	must(t, r.Subscribe(t.Context(), "late"))
	if !r.Subscribed("late") {
		t.Error("not subscribed after the receipt")
	}
	must(t, r.Subscribe(t.Context(), "message-only"))

	err := r.Subscribe(t.Context(), "refused")
	var (
		subscription *SubscriptionError
		jms          *JMSError
	)
	if !errors.As(err, &subscription) || subscription.Topic != "refused" || !errors.As(err, &jms) || slices.Contains(r.Topics(), "refused") {
		t.Errorf("got %v, topics %v", err, r.Topics())
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := r.Subscribe(ctx, "silent"); !errors.Is(err, context.DeadlineExceeded) || !slices.Contains(r.Topics(), "silent") || r.Subscribed("silent") {
		t.Errorf("got %v, topics %v", err, r.Topics())
	}
	if err := r.Subscribe(t.Context(), ""); !errors.As(err, &subscription) {
		t.Errorf("got %v for an empty name", err)
	}
	ids := map[string]bool{}
	for _, topic := range r.Topics() {
		id, err := r.SubscriptionID(topic)
		must(t, err)
		ids[id] = true
	}
	if len(ids) != 3 {
		t.Errorf("ids %v", ids)
	}
	var notFound *SubscriptionNotFoundError
	if _, err := r.SubscriptionID("refused"); !errors.As(err, &notFound) || notFound.Topic != "refused" {
		t.Errorf("got %v", err)
	}
}

func TestSubscribeTimeout(t *testing.T) {
	t.Parallel()
	p := startPeer(t, "", func(_ int, c *peerConn) {
		c.logon(connected00)
		c.expect("nothing")
	})
	o := p.options()
	o.Config.ConnectTimeout = 500 * time.Millisecond
	r := newReceiver(t, o)
	must(t, r.Connect(t.Context()))
	var subscription *SubscriptionError
	if err := r.Subscribe(t.Context(), "u.1"); !errors.As(err, &subscription) || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Subscribe: %v", err)
	}
	if err := r.Unsubscribe(t.Context(), "u.1"); !errors.As(err, &subscription) || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Unsubscribe: %v", err)
	}
}

func TestUnsubscribe(t *testing.T) {
	p := startPeer(t, "", func(_ int, c *peerConn) {
		if !c.logon(connected11) {
			return
		}
		for f := c.read(); f != nil; f = c.read() {
			id := f.Header.Get("id")
			switch {
			case f.Command == "UNSUBSCRIBE" && id == "sub-2":
				_ = c.send("ERROR\nreceipt-id:%s\nmessage:who\n\njava.lang.IllegalStateException\x00\n", f.Header.Get("receipt"))
				continue
			case f.Command == "UNSUBSCRIBE": // a late message
				_ = c.send("%s", message(id, "a", `"late"`))
			}
			c.confirm(f)
			if f.Command == "SUBSCRIBE" {
				_ = c.send("%s", message(id, "a", fmt.Sprintf("%q", id)))
			}
		}
	})
	r := newReceiver(t, p.options("a", "b"))
	var notFound *SubscriptionNotFoundError
	if err := r.Unsubscribe(t.Context(), "c"); !errors.As(err, &notFound) || notFound.Topic != "c" {
		t.Errorf("got %v", err)
	}
	must(t, r.Subscribe(t.Context(), "c")) // without a link
	must(t, r.Unsubscribe(t.Context(), "c"))
	get := pull(t, r)
	for _, want := range []string{`"sub-1"`, `"sub-2"`} {
		if n, err := next(t, get); err != nil || string(n.Body) != want {
			t.Errorf("got %s, %v, want %s", n.Body, err, want)
		}
	}
	must(t, r.Unsubscribe(t.Context(), "a"))
	if r.Subscribed("a") {
		t.Error("still subscribed")
	}
	var (
		subscription *SubscriptionError
		jms          *JMSError
	)
	if err := r.Unsubscribe(t.Context(), "b"); !errors.As(err, &subscription) || subscription.Topic != "b" || !errors.As(err, &jms) {
		t.Errorf("got %v", err)
	}
	must(t, r.Subscribe(t.Context(), "a")) // under a new id
	if n, err := next(t, get); err != nil || string(n.Body) != `"sub-4"` {
		t.Errorf("got %s, %v: the late message, or the error of Unsubscribe", n.Body, err)
	}
}

// TestReconnect loses links and checks that everything wanted is subscribed to again, that what was received before a loss
// comes before it, and that ranging again connects again.
func TestReconnect(t *testing.T) {
	var mu sync.Mutex
	subscribed := map[int][]string{} // by link
	lose := make(chan bool)
	p := startPeer(t, "", func(n int, c *peerConn) {
		go func() {
			<-lose
			_ = c.Close()
		}()
		c.serve(connected11, func(c *peerConn, sub *stomp.Frame) {
			topic := strings.TrimPrefix(sub.Header.Get("destination"), "/topic/")
			mu.Lock()
			subscribed[n] = append(subscribed[n], topic)
			mu.Unlock()
			_ = c.send("%s", message(sub.Header.Get("id"), topic, fmt.Sprintf(`"%d %s"`, n, topic)))
		})
	})
	r := newReceiver(t, p.options("a", "b"))
	topics := []string{"a", "b"}
	for link, added := range []string{"c", "d", "e"} {
		link++
		var got []string
		var last error
		for n, err := range r.Notifications(t.Context()) {
			if err != nil {
				last = err
				continue
			}
			got = append(got, string(n.Body))
			switch len(got) {
			case len(topics):
				must(t, r.Subscribe(t.Context(), added)) // while ranging
			case len(topics) + 1:
				lose <- true
			}
		}
		if reasonIn(last) != ReasonBroker || !strings.Contains(last.Error(), "connection lost") {
			t.Errorf("link %d ended with %v", link, last)
		}
		topics = append(topics, added)
		var want []string
		for _, topic := range topics {
			want = append(want, fmt.Sprintf(`"%d %s"`, link, topic))
		}
		if !slices.Equal(got, want) {
			t.Errorf("link %d: got %v, want %v", link, got, want)
		}
		mu.Lock()
		if !slices.Equal(subscribed[link], topics) {
			t.Errorf("link %d: subscribed to %v, want %v", link, subscribed[link], topics)
		}
		mu.Unlock()
	}
	close(lose)
}

// TestLossWhileWaiting checks that nobody who waits for a receipt waits for ever when the link is lost, and that the topic
// comes with the next link.
func TestLossWhileWaiting(t *testing.T) {
	p := startPeer(t, "", func(n int, c *peerConn) {
		if n > 1 {
			c.serve(connected11, nil)
			return
		}
		c.logon(connected11)
		c.expect("SUBSCRIBE")
	})
	o := p.options()
	o.Config.ConnectTimeout = 0
	r := newReceiver(t, o)
	must(t, r.Connect(t.Context()))
	var lost *ConnectionError
	if err := r.Subscribe(t.Context(), "u.1"); !errors.As(err, &lost) || lost.Reason != ReasonBroker {
		t.Fatalf("got %v, want the loss", err)
	}
	must(t, r.Connect(t.Context()))
	if !r.Subscribed("u.1") {
		t.Error("not subscribed on the new link")
	}
}

// TestBreakLosesNothing leaves the loop again and again, by break and by the end of the context.
func TestBreakLosesNothing(t *testing.T) {
	const count = 1000
	lose := make(chan bool)
	p := startPeer(t, "", func(_ int, c *peerConn) {
		c.serve(connected11, func(c *peerConn, sub *stomp.Frame) {
			for i := range count {
				_ = c.send("%s", message(sub.Header.Get("id"), "u.1", fmt.Sprint(i)))
			}
			<-lose
			_ = c.Close()
		})
	})
	r := newReceiver(t, p.options("u.1"))
	got := 0
	for round := 0; got < count; round++ {
		ctx, cancel := context.WithCancel(t.Context())
		var last error
		for n, err := range r.Notifications(ctx) {
			if last = err; err != nil {
				continue
			}
			if string(n.Body) != fmt.Sprint(got) {
				t.Fatalf("got %s, want %d", n.Body, got)
			}
			got++
			if got%7 == 0 {
				break
			}
			if got%5 == 0 {
				cancel()
			}
		}
		cancel()
		if last != nil && !errors.Is(last, context.Canceled) {
			t.Fatalf("after %d: %v", got, last)
		}
	}
	close(lose)
	_, err := next(t, pull(t, r))
	if reasonIn(err) != ReasonBroker {
		t.Errorf("got %v, want the loss", err)
	}
	if r.Buffered() != 0 {
		t.Errorf("%d are buffered", r.Buffered())
	}
}

func TestBuffered(t *testing.T) {
	p := startPeer(t, "", func(_ int, c *peerConn) {
		c.serve(connected11, func(c *peerConn, sub *stomp.Frame) {
			_ = c.send("%s", strings.Repeat(message(sub.Header.Get("id"), "u.1", "1"), 200))
		})
	})
	r := newReceiver(t, p.options("u.1"))
	must(t, r.Connect(t.Context()))
	eventually(t, "200 buffered", func() bool { return r.Buffered() == 200 })
	left := 200
	for _, err := range r.Notifications(t.Context()) {
		must(t, err)
		left--
		if got := r.Buffered(); got != left {
			t.Fatalf("%d are buffered, want %d", got, left)
		}
		if left == 50 {
			break
		}
	}
	if got := r.Buffered(); got != left {
		t.Errorf("%d are buffered after the loop, want %d", got, left)
	}
}

// mixed is the ith of bodies of which every third is not JSON.
func mixed(i int) string {
	if i%3 == 2 {
		return fmt.Sprintf("no %d", i)
	}
	return fmt.Sprint(i)
}

// isMixed says whether that is what was yielded.
func isMixed(i int, n Notification, err error) bool {
	return string(n.Body) == mixed(i) && is[*ParseError](err) == (i%3 == 2) && (err == nil) == (i%3 != 2)
}

// TestFullBuffer has nobody take what comes: the sender is held up once, then notifications are dropped and counted, while the
// link and its receipts go on. The reader has found out by then which of those that are kept are not JSON, and which are not.
func TestFullBuffer(t *testing.T) {
	t.Parallel()
	for name, hold := range map[string]bool{"held": true, "not held": false} {
		t.Run(name, func(t *testing.T) {
			const count = 500
			p := startPeer(t, "", func(_ int, c *peerConn) {
				c.serve("CONNECTED\nversion:1.1\nheart-beat:10,10\n\n\x00\n", func(c *peerConn, sub *stomp.Frame) {
					for i := range count {
						_ = c.send("%s", message(sub.Header.Get("id"), "u.1", mixed(i)))
					}
				})
			})
			var missed atomic.Int64
			o := p.options("u.1")
			o.Config.HeartbeatReceiveCycle = 0 // the peer sends none
			o.Limits.Handover = 20000
			o.Limits.HandoverWait = 50 * time.Millisecond
			o.OnMissed = func(string) { missed.Add(1) }
			if !hold {
				o.Limits.HandoverWait = time.Hour
				o.HandoverHold = func() bool { return false }
			}
			r := newReceiver(t, o)
			must(t, r.Connect(t.Context()))
			must(t, r.Subscribe(t.Context(), "u.2")) // its receipt comes after all of the first topic's notifications
			eventually(t, "all received or missed", func() bool { return r.Buffered()+int(missed.Load()) == 2*count })
			if missed.Load() < count || r.Buffered() < 10 {
				t.Errorf("%d missed, %d buffered", missed.Load(), r.Buffered())
			}
			get := pull(t, r)
			for i := range r.Buffered() { // the oldest are kept
				if n, err := next(t, get); !isMixed(i, n, err) {
					t.Fatalf("got %s, %v, want %s", n.Body, err, mixed(i))
				}
			}
			before := missed.Load()
			must(t, r.Subscribe(t.Context(), "u.3")) // and it goes on
			if n, err := next(t, get); n.Topic != "u.3" && n.Topic != "u.1" {
				t.Errorf("got %+v, %v after %d missed", n, err, before)
			}
		})
	}
}

// TestBackPressure has a slow consumer and a patient sender: nothing is lost, and a reader that waits for room does not take its
// own silence for the peer's.
func TestBackPressure(t *testing.T) {
	t.Parallel()
	const count = 2000
	p := startPeer(t, "", func(_ int, c *peerConn) {
		c.serve("CONNECTED\nversion:1.1\nheart-beat:20,20\n\n\x00\n", func(c *peerConn, sub *stomp.Frame) {
			for i := range count {
				_ = c.send("%s", message(sub.Header.Get("id"), "u.1", fmt.Sprint(i)))
			}
			for c.send("\n") == nil {
				time.Sleep(10 * time.Millisecond)
			}
		})
	})
	o := p.options("u.1")
	o.Config.HeartbeatSendCycle, o.Config.HeartbeatReceiveCycle = 20*time.Millisecond, 20*time.Millisecond
	o.Config.HeartbeatReceiveCheck = 49 // 1 s
	o.Limits.Handover = 10000
	o.Limits.HandoverWait = 20 * time.Second
	o.OnMissed = func(string) { t.Error("missed a notification") }
	r := newReceiver(t, o)
	got := 0
	for n, err := range r.Notifications(t.Context()) {
		must(t, err)
		if string(n.Body) != fmt.Sprint(got) {
			t.Fatalf("got %s, want %d", n.Body, got)
		}
		if got++; got == count {
			break
		}
		if got == 1 {
			time.Sleep(1500 * time.Millisecond) // longer than the HMC may be silent
		}
	}
}

func TestClose(t *testing.T) {
	t.Parallel()
	var frames sync.Map
	p := startPeer(t, "", func(n int, c *peerConn) {
		if !c.logon(connected11) {
			return
		}
		for f := c.read(); f != nil; f = c.read() {
			frames.Store(fmt.Sprint(n, f.Command), true)
			c.confirm(f)
			if f.Command == "SUBSCRIBE" {
				_ = c.send("%s", message(f.Header.Get("id"), "u.1", "1"))
			}
			if f.Command == "DISCONNECT" {
				return
			}
		}
	})
	t.Run("from another goroutine", func(t *testing.T) {
		r, err := New(p.options("u.1"))
		must(t, err)
		got := make(chan error, 10)
		done := make(chan bool)
		go func() {
			defer close(done)
			for _, err := range r.Notifications(t.Context()) {
				got <- err
			}
		}()
		must(t, <-got)
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if err := r.Close(); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		<-done
		if len(got) != 0 {
			t.Errorf("the iteration ended with %v", <-got)
		}
		for _, command := range []string{"UNSUBSCRIBE", "DISCONNECT"} {
			if _, ok := frames.Load("1" + command); !ok {
				t.Errorf("%s was not sent", command)
			}
		}
		for _, err := range []error{r.Connect(t.Context()), r.Subscribe(t.Context(), "u.2"), r.Unsubscribe(t.Context(), "u.1"), r.Close()} {
			if err != nil && !errors.Is(err, ErrClosed) {
				t.Errorf("got %v, want ErrClosed", err)
			}
		}
		count := 0
		for _, err := range r.Notifications(t.Context()) {
			if count++; !errors.Is(err, ErrClosed) {
				t.Errorf("got %v, want ErrClosed", err)
			}
		}
		if count != 1 || r.Connected() {
			t.Errorf("%d yields, connected %v", count, r.Connected())
		}
	})
	t.Run("within the loop", func(t *testing.T) {
		r, err := New(p.options("u.1"))
		must(t, err)
		for _, err := range r.Notifications(t.Context()) {
			must(t, err)
			must(t, r.Close())
		}
	})
	t.Run("never connected", func(t *testing.T) {
		r, err := New(p.options("u.1"))
		must(t, err)
		must(t, r.Close())
		must(t, r.Close())
	})
	t.Run("after a loss", func(t *testing.T) {
		p := startPeer(t, "", func(_ int, c *peerConn) { c.logon(connected11) })
		r, err := New(p.options())
		must(t, err)
		must(t, r.Connect(t.Context()))
		eventually(t, "lost", func() bool { return !r.Connected() })
		must(t, r.Close())
	})
	t.Run("no receipt", func(t *testing.T) {
		p := startPeer(t, "", func(_ int, c *peerConn) {
			c.logon(connected11)
			c.expect("nothing")
		})
		r, err := New(p.options())
		must(t, err)
		must(t, r.Connect(t.Context()))
		if err := r.Close(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("while the buffer is full", func(t *testing.T) {
		p := startPeer(t, "", func(_ int, c *peerConn) { flood(c) })
		o := p.options("sysprog.163")
		o.Limits.Handover, o.Limits.HandoverWait = 10000, time.Hour
		r, err := New(o)
		must(t, err)
		must(t, r.Connect(t.Context()))
		eventually(t, "full", func() bool { return r.Buffered() > 1 })
		_ = r.Close() // the peer does not listen to DISCONNECT
		left := 0
		for n, err := range r.Notifications(t.Context()) {
			if err == nil && n.Topic == "sysprog.163" {
				left++
			}
		}
		if left == 0 {
			t.Error("what was received is lost")
		}
	})
}

// Nothing is lost that came before the HMC confirmed the DISCONNECT, where somebody goes on with it; and where nobody does, and so
// the link is held up until it is given up, there is no hole in what is yielded.
func TestCloseLosesNothing(t *testing.T) {
	t.Parallel()
	const first, most = 300, 2000
	for name, test := range map[string]struct {
		close  func(r *Receiver)
		leave  bool // the loop
		heldUp bool
	}{
		"from elsewhere":        {close: func(r *Receiver) { go func() { _ = r.Close() }() }},
		"and read on":           {close: (*Receiver).BeginClose},
		"in another iteration":  {close: (*Receiver).BeginClose, leave: true},
		"within the loop":       {close: func(r *Receiver) { _ = r.Close() }, heldUp: true},
		"and read what is left": {close: func(r *Receiver) { _ = r.Close() }, leave: true, heldUp: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := startPeer(t, "", func(_ int, c *peerConn) {
				c.serve(connected11, func(c *peerConn, sub *stomp.Frame) {
					asked := make(chan *stomp.Frame)
					go func() {
						f := c.read()
						for f != nil && f.Command != stomp.DISCONNECT {
							f = c.read()
						}
						asked <- f
					}()
					for n := range most {
						_ = c.send("%s", message(sub.Header.Get("id"), "u.1", fmt.Sprint(n)))
					}
					if f := <-asked; f != nil {
						c.confirm(f)
					}
				})
			})
			o := p.options("u.1")
			o.Limits.Handover, o.Limits.HandoverWait = 10000, time.Hour
			o.OnMissed = func(string) { t.Error("missed a notification") }
			r, err := New(o)
			must(t, err)
			got := 0
			iterate := func() {
				for n, err := range r.Notifications(t.Context()) {
					if errors.Is(err, ErrClosed) {
						return
					}
					must(t, err)
					if string(n.Body) != fmt.Sprint(got) {
						t.Fatalf("got %s, want %d", n.Body, got)
					}
					if got++; got == first {
						if test.close(r); test.leave {
							return
						}
					}
				}
			}
			if iterate(); test.leave {
				iterate()
			}
			if err := r.Close(); err != nil && !test.heldUp {
				t.Error(err)
			}
			if got != most && !test.heldUp || got <= first {
				t.Errorf("got %d of %d", got, most)
			}
		})
	}
}

// TestNoHang has the HMC close at every moment around the logon and the subscription, a thousand times, and checks that nothing
// hangs, and that no goroutine and no descriptor is left.
func TestNoHang(t *testing.T) {
	p := startPeer(t, "", func(n int, c *peerConn) {
		switch n % 5 {
		case 0: // right after CONNECTED
			c.logon(connected11)
		case 1: // after CONNECTED, with SUBSCRIBE unread or read
			if c.logon(connected11) {
				c.expect("SUBSCRIBE")
			}
		case 2: // after the receipt
			if c.logon(connected11) {
				c.confirm(c.expect("SUBSCRIBE"))
			}
		case 3: // after a notification
			if c.logon(connected11) {
				if sub := c.expect("SUBSCRIBE"); sub != nil {
					c.confirm(sub)
					_ = c.send("%s", message(sub.Header.Get("id"), "u.1", "1"))
				}
			}
		case 4: // in the middle of one
			if c.logon(connected11) {
				_ = c.send("MESSAGE\nsubscription:sub-1\n")
			}
		}
	})
	o := p.options("u.1")
	o.Config.ConnectRetries = 0
	o.Config.ReconnectSleepInitial = time.Nanosecond
	r, err := New(o)
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	files := openFiles(t)
	for p.count() < 1000 {
		for _, err := range r.Notifications(ctx) {
			if errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("hung after %d links", p.count())
			}
		}
		_ = r.Subscribe(ctx, "u.1")
	}
	must(t, r.Close())
	p.close()
	// Goroutines are goleak's; the listener is closed too.
	eventually(t, "descriptors closed", func() bool { return openFiles(t) <= files })
}

func openFiles(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0 // not Linux
	}
	return len(entries)
}

// TestConcurrentUse calls everything at once, for the race detector and against deadlocks.
func TestConcurrentUse(t *testing.T) {
	p := startPeer(t, "", func(_ int, c *peerConn) {
		lifetime := time.AfterFunc(20*time.Millisecond, func() { _ = c.Close() })
		defer lifetime.Stop()
		c.serve(connected11, func(c *peerConn, sub *stomp.Frame) {
			_ = c.send("%s", message(sub.Header.Get("id"), "u", "1"))
		})
	})
	o := p.options("u.0")
	o.Config.ConnectRetries = -1
	r := newReceiver(t, o)
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				topic := fmt.Sprintf("u.%d", (i+worker)%5)
				_ = r.Subscribe(ctx, topic)
				_, _ = r.SubscriptionID(topic)
				_ = r.Subscribed(topic)
				_ = r.Unsubscribe(ctx, topic)
				_ = r.Topics()
				_, _ = r.HeartBeat()
				_ = r.Connected()
				_ = r.Connect(ctx)
			}
		})
	}
	for range 2 {
		wg.Go(func() {
			for ctx.Err() == nil {
				for _, err := range r.Notifications(ctx) {
					_ = err
					_ = r.Buffered()
				}
			}
		})
	}
	wg.Go(func() {
		<-ctx.Done()
		_ = r.Close()
	})
	wg.Wait()
}

// TestSpellings logs on with passwords that ActiveMQ and a broker that follows STOMP to the letter read differently.
func TestSpellings(t *testing.T) {
	for _, test := range []struct {
		password string
		sent     []string // in this order, until one is accepted
	}{
		{`a:b"é`, []string{`a:b"é`}},
		{`a\x:\`, []string{`a\x:\`}},
		{`a\c\x`, []string{`a\\c\\x`, `a\c\x`}},
		{`\n`, []string{`\\n`, `\n`}},
		{`\\`, []string{`\\\\`, `\\`}},
	} {
		for accepted := range len(test.sent) + 1 { // len: none
			t.Run(fmt.Sprintf("%s/%d", test.password, accepted), func(t *testing.T) {
				var sent []string
				p := startPeer(t, "", func(n int, c *peerConn) {
					b := make([]byte, 1000)
					count, _ := c.Read(b)
					_, passcode, _ := strings.Cut(string(b[:count]), "\npasscode:")
					passcode, _, _ = strings.Cut(passcode, "\n")
					sent = append(sent, passcode)
					if n-1 != accepted {
						_ = c.send("ERROR\nmessage:User name [hmcuser] or password is invalid.\n\n\x00\n")
						return
					}
					_ = c.send(connected11)
					_, _ = io.Copy(io.Discard, c.Conn)
				})
				o := p.options()
				o.Password = test.password
				r := newReceiver(t, o)
				err := r.Connect(t.Context())
				want := test.sent[:min(accepted+1, len(test.sent))]
				if ok := accepted < len(test.sent); ok != (err == nil) || !ok && reasonIn(err) != ReasonAuthorization {
					t.Errorf("Connect: %v", err)
				}
				if r.Connected() {
					r.mu.Lock()
					l := r.link
					r.mu.Unlock()
					l.fail(io.EOF) // this peer does not listen to DISCONNECT
				}
				must(t, r.Close())
				p.close()
				if !slices.Equal(sent, want) {
					t.Errorf("sent %q, want %q", sent, want)
				}
			})
		}
	}
}
