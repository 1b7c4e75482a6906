package hmcsim

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-stomp/stomp/v3"
)

func TestBrokerWithGoStompClient(t *testing.T) {
	b := startBroker(t, BrokerOptions{Topics: []string{"u.1", "u.1job"}})
	c, err := goStomp(t, b, stomp.ConnOpt.Login("hmcuser", "hmcpass"), stomp.ConnOpt.HeartBeat(5*time.Second, 5*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	if c.Version() != stomp.V12 || c.Server() != "ActiveMQ/5.17.2" {
		t.Errorf("version %s, server %q", c.Version(), c.Server())
	}
	sub, err := c.Subscribe("/topic/u.1", stomp.AckAuto)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the subscription", func() bool { return b.Subscribers("u.1") == 1 })
	for i := range 10 {
		body := fmt.Sprintf(`{"n":%d}`, i)
		headers := []Header{{"name", `a:b\c` + "\n"}, {"property-names", " x y "}, {"notification-type", "status-change"}}
		if n := b.Publish("u.1", headers, []byte(body)); n != 1 {
			t.Fatalf("Publish: %d subscribers", n)
		}
		m := receive(t, sub)
		if m.Err != nil {
			t.Fatal(m.Err)
		}
		if string(m.Body) != body {
			t.Errorf("body %q, want %q", m.Body, body)
		}
		for _, h := range headers {
			if got := m.Header.Get(h.Name); got != h.Value {
				t.Errorf("header %s = %q, want %q", h.Name, got, h.Value)
			}
		}
		if m.ContentType != "" || m.Header.Get("content-length") != "" {
			t.Error("an HMC's MESSAGE has neither content-type nor content-length")
		}
	}
	if b.Publish("u.1job", nil, nil) != 0 || b.Publish("nobody", nil, nil) != 0 {
		t.Error("Publish to nobody")
	}
	// Not its Unsubscribe: it may miss the receipt, since it is woken up without its lock, and waits for 30 s. How the broker takes the
	// frame is compared with ActiveMQ's way in TestBrokerAnswersAsActiveMQ.
	if err := c.Disconnect(); err != nil {
		t.Error(err)
	}
	eventually(t, "the link's end", func() bool { return b.Stats().Links == 0 })
}

func TestBrokerRefusesLogon(t *testing.T) {
	b := startBroker(t, BrokerOptions{})
	_, err := goStomp(t, b, stomp.ConnOpt.Login("hmcuser", "wrong"))
	var serr stomp.Error
	if !errors.As(err, &serr) || serr.Message != "User name [hmcuser] or password is invalid." {
		t.Fatalf("error %v", err)
	}
	if s := b.Stats(); s.RefusedLogons != 1 || s.Logons != 0 {
		t.Errorf("stats %+v", s)
	}
}

// plainBroker starts a broker without TLS, for tests that look at bytes.
func plainBroker(t *testing.T, opts BrokerOptions) *Broker {
	t.Helper()
	opts.PlainText = true
	if opts.Topics == nil {
		opts.Topics = []string{"u.1", "u.1job"}
	}
	return startBroker(t, opts)
}

// subscribed returns a client that is connected and subscribed to u.1.
func subscribed(t *testing.T, b *Broker, headers string) *wireClient {
	t.Helper()
	c := newWireClient(t, b.Port())
	c.send(connectWith("accept-version:1.2\n" + headers))
	if f := c.mustFrame(); f.command != "CONNECTED" {
		t.Fatalf("%s", f)
	}
	c.send(subscribeFrame("s", "u.1", "sub"))
	if f := c.mustFrame(); f.command != "RECEIPT" || f.headers["receipt-id"] != "sub" {
		t.Fatalf("%s", f)
	}
	return c
}

// The logon is compared byte for byte: CONNECT is not escaped, whatever is in it.
func TestBrokerLogonIsNotUnescaped(t *testing.T) {
	for _, password := range []string{`a:b`, `a\cb`, `\\`, `p\nq`, `"'; ` + "wörd€\U0001F511", `:`, ` blank `} {
		b := plainBroker(t, BrokerOptions{Userid: `DOM\user`, Password: password})
		for _, version := range []string{"accept-version:1.0\n", "accept-version:1.1\n", "accept-version:1.2\n", ""} {
			c := newWireClient(t, b.Port())
			c.send("CONNECT\n" + version + `login:DOM\user` + "\npasscode:" + password + "\n\n\x00")
			if f := c.mustFrame(); f.command != "CONNECTED" {
				t.Errorf("password %q, %q: %s", password, version, f)
			}
		}
	}
}

func TestBrokerRefusesUnknownTopic(t *testing.T) {
	b := plainBroker(t, BrokerOptions{})
	c := subscribed(t, b, "")
	c.send(subscribeFrame("x", "ensadmin.145sec", "r-x"))
	f := c.mustFrame()
	want := `  remote addConsumer failed because the specified destination, 'topic\c//ensadmin.145sec', is not a known or approved topic.`
	if f.command != "ERROR" || f.headers["message"] != want || f.headers["receipt-id"] != "r-x" || f.headers["content-type"] != "text/plain" {
		t.Errorf("%s", f)
	}
	if !strings.HasPrefix(f.body, "java.lang.SecurityException:   remote addConsumer failed") || !strings.Contains(f.body, "\n\tat org.apache.activemq.") {
		t.Errorf("body %q", f.body)
	}
	// The connection and its other subscription live on.
	b.Publish("u.1", nil, []byte("{}"))
	if f := c.mustFrame(); f.command != "MESSAGE" || f.headers["subscription"] != "s" {
		t.Errorf("%s", f)
	}
	if s := b.Stats(); s.RefusedTopics != 1 || s.Subscribes != 1 || s.Subscriptions != 1 {
		t.Errorf("stats %+v", s)
	}
}

func TestBrokerClosesAfterRefusal(t *testing.T) {
	b := plainBroker(t, BrokerOptions{CloseAfterRefusal: true})
	c := subscribed(t, b, "")
	c.send(subscribeFrame("x", "u.9", "r-x"))
	if f := c.mustFrame(); f.command != "ERROR" {
		t.Errorf("%s", f)
	}
	if f, ok := c.frame(); ok {
		t.Errorf("%s instead of the end", f)
	}
}

// Heart-beats are what the client asked for, a LF when nothing else was sent since the last check.
func TestBrokerHeartBeats(t *testing.T) {
	t.Parallel()
	b := plainBroker(t, BrokerOptions{})
	c := newWireClient(t, b.Port())
	c.send(connectWith("accept-version:1.2\nheart-beat:60000,20\n"))
	if f := c.mustFrame(); f.headers["heart-beat"] != "20,60000" {
		t.Errorf("heart-beat %q", f.headers["heart-beat"])
	}
	for range 5 {
		if ch, err := c.r.ReadByte(); err != nil || ch != '\n' {
			t.Fatalf("%q, %v", ch, err)
		}
	}
}

func TestBrokerLimits(t *testing.T) {
	b := plainBroker(t, BrokerOptions{})
	var many strings.Builder
	for i := range 1002 {
		fmt.Fprintf(&many, "h%d:x\n", i)
	}
	for want, frame := range map[string]string{
		"The maximum header length was exceeded":     "SUBSCRIBE\nid:" + strings.Repeat("x", 10<<10) + "\n\n\x00",
		"The maximum number of headers was exceeded": "SUBSCRIBE\n" + many.String() + "\n\x00",
		"The maximum command length was exceeded":    strings.Repeat("X", 1100) + "\n\n\x00",
		"The maximum data length was exceeded":       "SEND\ncontent-length:104857601\n\n",
	} {
		c := newWireClient(t, b.Port())
		c.send(connect11)
		c.mustFrame()
		c.send(frame)
		f := c.mustFrame()
		if f.command != "ERROR" || f.headers["message"] != want {
			t.Errorf("%s, want %s", f, want)
		}
		if f, ok := c.frame(); ok {
			t.Errorf("%s instead of the end", f)
		}
	}
}

// What is published does not wait for a client that does not read, and is kept for it up to the limit.
func TestBrokerSlowClient(t *testing.T) {
	b := plainBroker(t, BrokerOptions{MaxPendingBytes: 8 << 20})
	slow, quick := subscribed(t, b, ""), subscribed(t, b, "")
	body := []byte(`"` + strings.Repeat("x", 50<<10) + `"`)
	for i := range 100 {
		if n := b.Publish("u.1", nil, body); n != 2 {
			t.Fatalf("message %d: %d subscribers", i, n)
		}
		quick.mustFrame()
	}
	for range 100 {
		if f := slow.mustFrame(); f.body != string(body) {
			t.Fatal("the slow client lost something")
		}
	}
	for b.Stats().Overflows == 0 {
		b.Publish("u.1", nil, body)
		quick.mustFrame()
	}
	eventually(t, "the slow client dropped", func() bool { return b.Stats().Links == 1 })
	b.Publish("u.1", nil, []byte("{}"))
	quick.mustFrame()
}

func TestBrokerKeepsNothingForTheDisconnected(t *testing.T) {
	b := plainBroker(t, BrokerOptions{})
	c := subscribed(t, b, "")
	c.send("DISCONNECT\nreceipt:bye\n\n\x00")
	if f := c.mustFrame(); f.headers["receipt-id"] != "bye" {
		t.Errorf("%s", f)
	}
	if f, ok := c.frame(); ok {
		t.Errorf("%s instead of the end", f)
	}
	_ = c.conn.Close()
	eventually(t, "no subscription", func() bool { return b.Subscribers("u.1") == 0 })
	b.Publish("u.1", nil, []byte("1"))
	c = subscribed(t, b, "")
	b.Publish("u.1", nil, []byte("2"))
	if f := c.mustFrame(); f.body != "2" {
		t.Errorf("%s", f)
	}
}

func TestBrokerTopicEnds(t *testing.T) {
	for _, cut := range []bool{false, true} {
		b := plainBroker(t, BrokerOptions{})
		c := subscribed(t, b, "")
		b.RemoveTopic("u.1", cut)
		if b.Publish("u.1", nil, nil) != 0 {
			t.Error("delivered")
		}
		if cut {
			if f, ok := c.frame(); ok {
				t.Errorf("%s instead of the end", f)
			}
			continue
		}
		if all := c.answers(); len(all) != 0 {
			t.Errorf("%s", all)
		}
		c.send(subscribeFrame("again", "u.1", "r"))
		if f := c.mustFrame(); f.command != "ERROR" {
			t.Errorf("%s", f)
		}
		if s := b.Stats(); s.Subscriptions != 0 {
			t.Errorf("stats %+v", s)
		}
	}
}

func TestBrokerRestart(t *testing.T) {
	b := plainBroker(t, BrokerOptions{})
	c := subscribed(t, b, "")
	b.Publish("u.1", nil, nil)
	before, port := c.mustFrame().headers["message-id"], b.Port()
	if err := b.Restart(0, "u.1"); err != nil {
		t.Fatal(err)
	}
	if f, ok := c.frame(); ok {
		t.Errorf("%s instead of the end", f)
	}
	if b.Port() != port {
		t.Errorf("port %d, was %d", b.Port(), port)
	}
	c = subscribed(t, b, "")
	b.Publish("u.1", nil, nil)
	if after := c.mustFrame().headers["message-id"]; after == before {
		t.Errorf("message-id %s twice", after)
	}
}

func TestBrokerStopListening(t *testing.T) {
	b := plainBroker(t, BrokerOptions{})
	c := subscribed(t, b, "")
	b.StopListening()
	var d net.Dialer
	if conn, err := d.DialContext(t.Context(), "tcp", b.Addr()); err == nil {
		_ = conn.Close()
		t.Error("connected")
	}
	b.Publish("u.1", nil, []byte("{}"))
	c.mustFrame()
	if err := b.StartListening(); err != nil {
		t.Fatal(err)
	}
	subscribed(t, b, "")
}

func TestBrokerAddresses(t *testing.T) {
	b := startBroker(t, BrokerOptions{Addrs: []string{"127.0.0.1:0", "[::1]:0"}})
	addrs := b.Addrs()
	if len(addrs) != 2 || addrPort(addrs[0]) != addrPort(addrs[1]) || addrHost(addrs[1]) != "::1" || b.Host() != "127.0.0.1" {
		t.Fatalf("addresses %q", addrs)
	}
	for _, addr := range addrs {
		d := tls.Dialer{Config: b.CA().ClientTLS()}
		conn, err := d.DialContext(t.Context(), "tcp", addr)
		if err != nil {
			t.Errorf("%s: %v", addr, err)
			continue
		}
		_ = conn.Close()
	}
}

func TestBrokerCertificates(t *testing.T) {
	t.Parallel()
	for _, kind := range []CertificateKind{CertificateGood, CertificateExpired, CertificateSelfSigned, CertificateOtherName} {
		b := startBroker(t, BrokerOptions{CertificateKind: kind})
		d := tls.Dialer{Config: b.CA().ClientTLS()}
		conn, err := d.DialContext(t.Context(), "tcp", b.Addr())
		if err == nil {
			_ = conn.Close()
		}
		var (
			invalid x509.CertificateInvalidError
			unknown x509.UnknownAuthorityError
			name    x509.HostnameError
		)
		right := map[CertificateKind]bool{
			CertificateGood:       err == nil,
			CertificateExpired:    errors.As(err, &invalid) && invalid.Reason == x509.Expired,
			CertificateSelfSigned: errors.As(err, &unknown),
			CertificateOtherName:  errors.As(err, &name),
		}
		if !right[kind] {
			t.Errorf("%q: %v", kind, err)
		}
	}
	if _, err := StartBroker(BrokerOptions{CertificateKind: "rusty"}); err == nil {
		t.Error("kind of certificate that does not exist")
	}
	ca, err := NewCA()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.Certificate(CertificateGood, "hmc.test", "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	b := startBroker(t, BrokerOptions{Certificate: &cert, CA: ca})
	conf := ca.ClientTLS()
	conf.ServerName = "hmc.test"
	d := tls.Dialer{Config: conf}
	conn, err := d.DialContext(t.Context(), "tcp", b.Addr())
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
}

// Each message may have its headers in another order; names and values stay.
func TestBrokerHeaderOrder(t *testing.T) {
	b := plainBroker(t, BrokerOptions{})
	c := subscribed(t, b, "")
	orders := map[string]bool{}
	for range 20 {
		b.Publish("u.1", []Header{{"class", "cpc"}, {"name", "CPC1"}}, nil)
		text, err := c.r.ReadString(0)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for line := range strings.SplitSeq(strings.TrimSpace(text), "\n") {
			if name, _, ok := strings.Cut(line, ":"); ok {
				names = append(names, name)
			}
		}
		if len(names) != 8 {
			t.Errorf("headers %q", names)
		}
		orders[strings.Join(names, " ")] = true
	}
	if len(orders) < 3 {
		t.Errorf("orders %v", orders)
	}
}

func TestFlood(t *testing.T) {
	t.Parallel()
	for _, frames := range []int64{1, 1000, 20_000} {
		b := startBroker(t, BrokerOptions{Topics: []string{"u.1"}})
		c, err := goStomp(t, b, stomp.ConnOpt.Login("hmcuser", "hmcpass"), stomp.ConnOpt.HeartBeat(0, 0))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.Flood(t.Context(), FloodOptions{Topic: "u.1", Frames: frames}); err == nil {
			t.Error("a flood for nobody")
		}
		sub, err := c.Subscribe("/topic/u.1", stomp.AckAuto)
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, "the subscription", func() bool { return b.Subscribers("u.1") == 1 })
		done := make(chan error, 1)
		go func() {
			n, err := b.Flood(t.Context(), FloodOptions{Topic: "u.1", Frames: frames})
			if err == nil && n != frames {
				err = fmt.Errorf("%d frames", n)
			}
			done <- err
		}()
		ids := make(map[string]bool, frames)
		types := map[string]bool{}
		for i := range frames {
			m := receive(t, sub)
			if m.Err != nil {
				t.Fatal(m.Err)
			}
			ids[m.Header.Get("message-id")] = true
			types[m.Header.Get("notification-type")] = true
			if want := fmt.Sprint(floodBase + i); m.Header.Get("session-sequence-nr") != want {
				t.Fatalf("session-sequence-nr %s, want %s", m.Header.Get("session-sequence-nr"), want)
			}
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		if int64(len(ids)) != frames || (frames > 3 && len(types) != 4) {
			t.Errorf("%d ids of %d frames, types %v", len(ids), frames, types)
		}
		// What is published afterwards comes too.
		b.Publish("u.1", nil, []byte("last"))
		if m := receive(t, sub); string(m.Body) != "last" {
			t.Errorf("body %q", m.Body)
		}
		_ = c.MustDisconnect()
	}
}

func TestFloodEnds(t *testing.T) {
	b := plainBroker(t, BrokerOptions{})
	c := subscribed(t, b, "")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	flood := func(ctx context.Context) {
		_, err := b.Flood(ctx, FloodOptions{Topic: "u.1", Frames: 1e9})
		done <- err
	}
	go flood(ctx)
	c.mustFrame()
	if _, err := b.Flood(ctx, FloodOptions{Topic: "u.1", Frames: 1}); err == nil {
		t.Error("two floods at once")
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	go flood(t.Context())
	eventually(t, "the flood", func() bool { _, ok := c.frame(); return ok })
	_ = c.conn.Close()
	if err := <-done; err == nil {
		t.Error("the connection has gone")
	}
}

// A broker closes at once, whatever its clients do.
func TestBrokerCloses(t *testing.T) {
	b, err := StartBroker(BrokerOptions{Topics: []string{"u.1"}, PlainText: true})
	if err != nil {
		t.Fatal(err)
	}
	reading, waiting := subscribed(t, b, "heart-beat:1000,1000\n"), newWireClient(t, b.Port())
	for range 200 { // more than sockets hold, so that the writer is stuck
		b.Publish("u.1", nil, make([]byte, 100<<10))
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	for _, c := range []*wireClient{reading, waiting} {
		if _, err := io.Copy(io.Discard, c.conn); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error("connection is still open")
		}
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if err := b.StartListening(); err == nil {
		t.Error("listens again")
	}
}
