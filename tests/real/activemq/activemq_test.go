//go:build real

package activemq_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-stomp/stomp/v3/frame"
	"go.uber.org/goleak"

	"github.com/hmcnotifyd/hmcnotifyd/tests/real/activemq"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/certs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// dial makes a raw TLS connection, so that tests see the broker's own frames.
func dial(t *testing.T, b *activemq.Broker) (net.Conn, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	dialer := tls.Dialer{Config: b.Authority().ClientConfig()}
	return dialer.DialContext(ctx, "tcp", net.JoinHostPort(b.Host(), strconv.Itoa(b.Port())))
}

// link is a STOMP client of nothing but go-stomp's codec.
type link struct {
	net.Conn
	r *frame.Reader
	w *frame.Writer
}

// connect logs on and returns the broker's answer.
func connect(t *testing.T, b *activemq.Broker, user, password string) (*link, *frame.Frame) {
	t.Helper()
	conn, err := dial(t, b)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	l := &link{Conn: conn, r: frame.NewReader(conn), w: frame.NewWriter(conn)}
	// CONNECT goes out unescaped, as STOMP 1.1 wants it.
	if _, err := fmt.Fprintf(conn, "CONNECT\naccept-version:1.1\nheart-beat:5000,5000\nlogin:%s\npasscode:%s\n\n\x00", user, password); err != nil {
		t.Fatal(err)
	}
	return l, l.read(t)
}

// read returns the next frame that is not a heart-beat.
func (l *link) read(t *testing.T) *frame.Frame {
	t.Helper()
	for {
		f, err := l.r.Read()
		if err != nil {
			t.Fatal(err)
		}
		if f != nil {
			return f
		}
	}
}

func (l *link) subscribe(t *testing.T, id, topic string) *frame.Frame {
	t.Helper()
	err := l.w.Write(frame.New(frame.SUBSCRIBE, "id", id, "destination", "/topic/"+topic, "ack", "auto", "receipt", "r-"+id))
	if err != nil {
		t.Fatal(err)
	}
	return l.read(t)
}

func TestPublishAndReceive(t *testing.T) {
	b := activemq.Start(t, activemq.Options{Approved: []string{"ensadmin.>"}})
	l, answer := connect(t, b, "hmcuser", "hmcpass")
	if answer.Command != frame.CONNECTED || answer.Header.Get("heart-beat") != "5000,5000" {
		t.Fatalf("answer to CONNECT: %v", answer)
	}
	if !strings.HasPrefix(answer.Header.Get("server"), "ActiveMQ/5.") {
		t.Errorf("server %q", answer.Header.Get("server"))
	}
	for _, topic := range []string{"ensadmin.145", "ensadmin.145job"} {
		if f := l.subscribe(t, topic, topic); f.Command != frame.RECEIPT {
			t.Fatalf("answer to SUBSCRIBE: %v", f)
		}
	}

	// A refused topic is answered by an ERROR and costs nothing else.
	if f := l.subscribe(t, "refused", "sysprog.1"); f.Command != frame.ERROR ||
		f.Header.Get("receipt-id") != "r-refused" || !strings.Contains(f.Header.Get("message"), "topic://sysprog.1") {
		t.Fatalf("answer to the refused SUBSCRIBE: %v", f)
	}

	p := b.Publisher(t)
	p.Publish(t, "ensadmin.145", map[string]string{"notification-type": "status-change", "name": "A:B"}, []byte(`{"change-reports":[]}`))
	p.Publish(t, "ensadmin.145job", map[string]string{"notification-type": "job-completion"}, nil)

	f := l.read(t)
	if f.Command != frame.MESSAGE || f.Header.Get("subscription") != "ensadmin.145" ||
		f.Header.Get("notification-type") != "status-change" || f.Header.Get("name") != "A:B" || string(f.Body) != `{"change-reports":[]}` {
		t.Errorf("first message: %v %q", f, f.Body)
	}
	// As from the HMC: the body ends at the NUL.
	if _, ok := f.Header.Contains("content-length"); ok {
		t.Error("the message has a content-length")
	}
	f = l.read(t)
	if f.Command != frame.MESSAGE || f.Header.Get("subscription") != "ensadmin.145job" || len(f.Body) != 0 {
		t.Errorf("second message: %v %q", f, f.Body)
	}
}

func TestStopAndStart(t *testing.T) {
	b := activemq.Start(t, activemq.Options{})
	for i, stop := range []func(){b.Kill, func() { b.Stop(t) }, nil} {
		l, answer := connect(t, b, "hmcuser", "hmcpass")
		if answer.Command != frame.CONNECTED {
			t.Fatalf("round %d: %v", i, answer)
		}
		if f := l.subscribe(t, "1", "ensadmin.145"); f.Command != frame.RECEIPT {
			t.Fatalf("round %d: answer to SUBSCRIBE: %v", i, f)
		}
		b.Publisher(t).Publish(t, "ensadmin.145", nil, []byte(strconv.Itoa(i)))
		if f := l.read(t); string(f.Body) != strconv.Itoa(i) {
			t.Fatalf("round %d: body %q", i, f.Body)
		}
		if stop == nil {
			break
		}
		stop()
		if conn, err := dial(t, b); err == nil {
			_ = conn.Close()
			t.Fatalf("round %d: the stopped broker answers", i)
		}
		b.Start(t)
	}
}

func TestUsers(t *testing.T) {
	odd := activemq.User{Name: "odd user", Password: `p:w\x"y =#!` + "\u00e4\u20ac\U0001F600"}
	b := activemq.Start(t, activemq.Options{Users: []activemq.User{odd}})
	logon := func(user, password string) bool {
		l, answer := connect(t, b, user, password)
		defer l.Close()
		switch answer.Command {
		case frame.CONNECTED:
			return true
		case frame.ERROR:
			if want := "User name [" + user + "] or password is invalid."; answer.Header.Get("message") != want {
				t.Errorf("message %q, want %q", answer.Header.Get("message"), want)
			}
			return false
		default:
			t.Fatalf("answer to CONNECT: %v", answer)
			return false
		}
	}
	check := func(user, password string, want bool) {
		t.Helper()
		if got := logon(user, password); got != want {
			t.Errorf("logon of %q with %q: %v, want %v", user, password, got, want)
		}
	}
	check(odd.Name, odd.Password, true)
	check(odd.Name, "wrong", false)
	// Session ids come and go while the broker runs.
	for i := range 5 {
		session := activemq.User{Name: fmt.Sprint("session", i), Password: fmt.Sprint("credential", i)}
		check(session.Name, session.Password, false)
		b.AddUser(t, session)
		check(session.Name, session.Password, true)
		b.RemoveUser(t, session.Name)
		check(session.Name, session.Password, false)
	}
}

func TestCertificates(t *testing.T) {
	ca := certs.NewAuthority(t)
	expired := ca.Issue(t, certs.Request{NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(-time.Hour)})
	b := activemq.Start(t, activemq.Options{Authority: ca, Certificate: &expired})
	conn, err := dial(t, b)
	if err == nil {
		_ = conn.Close()
	}
	if bad, ok := errors.AsType[x509.CertificateInvalidError](err); !ok || bad.Reason != x509.Expired {
		t.Errorf("expired certificate: %v", err)
	}
}

func TestIPv6(t *testing.T) {
	b := activemq.Start(t, activemq.Options{Host: "::1"})
	if _, answer := connect(t, b, "hmcuser", "hmcpass"); answer.Command != frame.CONNECTED {
		t.Errorf("answer to CONNECT: %v", answer)
	}
	b.Publisher(t).Publish(t, "x", nil, nil)
}

// TestOrderAndCompleteness shows what tests of the daemon rely on: a
// subscriber gets all that a publisher sends, in order.
func TestOrderAndCompleteness(t *testing.T) {
	const n = 5000
	b := activemq.Start(t, activemq.Options{})
	l, _ := connect(t, b, "hmcuser", "hmcpass")
	if f := l.subscribe(t, "1", "ensadmin.145"); f.Command != frame.RECEIPT {
		t.Fatalf("answer to SUBSCRIBE: %v", f)
	}
	p := b.Publisher(t)
	start := time.Now()
	for i := range n {
		p.Publish(t, "ensadmin.145", map[string]string{"notification-type": "property-change"}, fmt.Appendf(nil, `{"i":%d}`, i))
	}
	t.Logf("%d published in %v", n, time.Since(start))
	for i := range n {
		if f := l.read(t); string(f.Body) != fmt.Sprintf(`{"i":%d}`, i) {
			t.Fatalf("message %d: %v %q", i, f, f.Body)
		}
	}
}
