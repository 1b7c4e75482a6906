package hmcsim

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/go-stomp/stomp/v3"
)

// goStomp connects go-stomp's own client to a broker: a counterpart that shares nothing with it but the codec.
func goStomp(t *testing.T, b *Broker, opts ...func(*stomp.Conn) error) (*stomp.Conn, error) {
	t.Helper()
	d := tls.Dialer{NetDialer: &net.Dialer{Timeout: 10 * time.Second}, Config: b.CA().ClientTLS()}
	conn, err := d.DialContext(t.Context(), "tcp", b.Addr())
	if err != nil {
		return nil, err
	}
	sc, err := stomp.Connect(conn, opts...)
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	t.Cleanup(func() { _ = conn.Close() })
	return sc, nil
}

// eventually waits until cond holds.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func startBroker(t *testing.T, opts BrokerOptions) *Broker {
	t.Helper()
	b, err := StartBroker(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

func receive(t *testing.T, sub *stomp.Subscription) *stomp.Message {
	t.Helper()
	select {
	case m, ok := <-sub.C:
		if !ok {
			t.Fatal("subscription closed")
		}
		return m
	case <-time.After(20 * time.Second):
		t.Fatal("no message within 20 s")
		return nil
	}
}

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
	if err := sub.Unsubscribe(); err != nil {
		t.Error(err)
	}
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
