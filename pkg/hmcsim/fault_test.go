package hmcsim

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-stomp/stomp/v3"
)

// dialPlain makes a TCP connection to a broker, with a deadline.
func dialPlain(t *testing.T, b *Broker, within time.Duration) net.Conn {
	t.Helper()
	var d net.Dialer
	conn, err := d.DialContext(t.Context(), "tcp", b.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(within)); err != nil {
		t.Fatal(err)
	}
	return conn
}

func TestFaultsWhileConnecting(t *testing.T) {
	t.Parallel()
	t.Run("close", func(t *testing.T) {
		b := plainBroker(t, BrokerOptions{Faults: [][]Fault{{{Kind: FaultClose}}}})
		if n, err := dialPlain(t, b, time.Minute).Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("%d, %v", n, err)
		}
		subscribed(t, b, "") // and the next one works
	})
	t.Run("reset", func(t *testing.T) {
		b := plainBroker(t, BrokerOptions{Faults: [][]Fault{{{Kind: FaultReset}}}})
		var d net.Dialer
		conn, err := d.DialContext(t.Context(), "tcp", b.Addr())
		if err == nil { // else the reset was quicker
			_, err = conn.Read(make([]byte, 1))
			_ = conn.Close()
		}
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%v", err)
		}
	})
	t.Run("hang-tls", func(t *testing.T) {
		b := startBroker(t, BrokerOptions{Faults: [][]Fault{{{Kind: FaultHangTLS}}}})
		conn := tls.Client(dialPlain(t, b, time.Minute), &tls.Config{InsecureSkipVerify: true})
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if err := conn.HandshakeContext(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		if s := b.Stats(); s.Accepted != 1 || s.Handshakes != 0 {
			t.Errorf("stats %+v", s)
		}
	})
	t.Run("hang-connect", func(t *testing.T) {
		b := plainBroker(t, BrokerOptions{Faults: [][]Fault{{{Kind: FaultHangConnect}}}})
		conn := dialPlain(t, b, time.Minute)
		if _, err := io.WriteString(conn, connect11); err != nil {
			t.Fatal(err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if n, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%d, %v", n, err)
		}
	})
	t.Run("bad-login", func(t *testing.T) {
		b := plainBroker(t, BrokerOptions{Faults: [][]Fault{{{Kind: FaultBadLogin}}}})
		c := newWireClient(t, b.Port())
		c.send(connect11)
		if f := c.mustFrame(); f.command != "ERROR" || f.headers["message"] != "User name [hmcuser] or password is invalid." {
			t.Errorf("%s", f)
		}
		if f, ok := c.frame(); ok {
			t.Errorf("%s instead of the end", f)
		}
	})
	t.Run("early-eols", func(t *testing.T) {
		b := plainBroker(t, BrokerOptions{Faults: [][]Fault{{{Kind: FaultEarlyEOLs, Size: 3}}}})
		conn := dialPlain(t, b, time.Minute)
		if _, err := io.WriteString(conn, connect11); err != nil {
			t.Fatal(err)
		}
		p := make([]byte, 12)
		if _, err := io.ReadFull(conn, p); err != nil || string(p) != "\n\n\nCONNECTED" {
			t.Errorf("%q, %v", p, err)
		}
	})
}

func TestFaultsOfBehavior(t *testing.T) {
	t.Run("no-heart-beat", func(t *testing.T) {
		b := plainBroker(t, BrokerOptions{Faults: [][]Fault{{{Kind: FaultNoHeartBeat}}}})
		c := newWireClient(t, b.Port())
		c.send(connectWith("accept-version:1.1\nheart-beat:10,10\n"))
		if f := c.mustFrame(); f.headers["heart-beat"] != "0,0" {
			t.Errorf("%s", f)
		}
		time.Sleep(100 * time.Millisecond)
		if all := c.answers(); len(all) != 0 { // not closed, though nothing was sent
			t.Errorf("%s", all)
		}
	})
	t.Run("no-receipts", func(t *testing.T) {
		b := plainBroker(t, BrokerOptions{Faults: [][]Fault{{{Kind: FaultNoReceipts}}}})
		c := newWireClient(t, b.Port())
		c.send(connect11 + subscribeFrame("s", "u.1", "r"))
		c.mustFrame()
		eventually(t, "the subscription", func() bool { return b.Subscribers("u.1") == 1 })
		b.Publish("u.1", nil, []byte("1"))
		if f := c.mustFrame(); f.command != "MESSAGE" {
			t.Errorf("%s", f)
		}
	})
	t.Run("refuse-topic", func(t *testing.T) {
		b := plainBroker(t, BrokerOptions{Faults: [][]Fault{
			{{Kind: FaultRefuseTopic, Topic: "job"}},
			{{Kind: FaultRefuseTopic, Topic: "job", NoReceiptID: true}},
			{{Kind: FaultRefuseTopic, Close: true}},
		}})
		c := subscribed(t, b, "")
		c.send(subscribeFrame("j", "u.1job", "r"))
		if f := c.mustFrame(); f.command != "ERROR" || f.headers["receipt-id"] != "r" || !strings.Contains(f.headers["message"], `'topic\c//u.1job'`) {
			t.Errorf("%s", f)
		}
		c = subscribed(t, b, "")
		c.send(subscribeFrame("j", "u.1job", "r"))
		if f := c.mustFrame(); f.command != "ERROR" || f.headers["receipt-id"] != "" {
			t.Errorf("%s", f)
		}
		if all := c.answers(); len(all) != 0 { // the link goes on
			t.Errorf("%s", all)
		}
		c = newWireClient(t, b.Port())
		c.send(connect11 + subscribeFrame("s", "u.1", "r"))
		c.mustFrame()
		if f := c.mustFrame(); f.command != "ERROR" {
			t.Errorf("%s", f)
		}
		if f, ok := c.frame(); ok {
			t.Errorf("%s instead of the end", f)
		}
	})
}

// script makes one connection with a fault.
func withFault(t *testing.T, f Fault) (*Broker, *wireClient) {
	t.Helper()
	b := plainBroker(t, BrokerOptions{Faults: [][]Fault{{f}}})
	return b, subscribed(t, b, "heart-beat:0,20\n")
}

func TestFaultsLater(t *testing.T) {
	t.Parallel()
	publish := func(b *Broker, n int) {
		for range n {
			b.Publish("u.1", nil, []byte(`{}`))
		}
	}
	// rest reads all that comes until the connection ends.
	rest := func(t *testing.T, c *wireClient) string {
		t.Helper()
		p, err := io.ReadAll(c.r)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal("the connection does not end")
		}
		return strings.Trim(string(p), "\n")
	}
	t.Run("drop after frames", func(t *testing.T) {
		b, c := withFault(t, Fault{Kind: FaultDrop, AfterFrames: 3})
		publish(b, 5)
		for range 3 {
			c.mustFrame()
		}
		if s := rest(t, c); s != "" {
			t.Errorf("%q", s)
		}
	})
	t.Run("drop after a time", func(t *testing.T) {
		b := plainBroker(t, BrokerOptions{})
		c := subscribed(t, b, "")
		b.FaultNow(Fault{Kind: FaultDrop, After: 50 * time.Millisecond})
		if s := rest(t, c); s != "" {
			t.Errorf("%q", s)
		}
	})
	t.Run("truncate", func(t *testing.T) {
		b, c := withFault(t, Fault{Kind: FaultTruncate, AfterFrames: 1})
		publish(b, 1)
		c.mustFrame()
		if s := rest(t, c); !strings.HasPrefix(s, "MESSAGE\n") || strings.Contains(s, "\x00") {
			t.Errorf("%q", s)
		}
	})
	t.Run("silence", func(t *testing.T) {
		b, c := withFault(t, Fault{Kind: FaultSilence, AfterFrames: 1})
		publish(b, 3)
		c.mustFrame()
		if all := c.answers(); len(all) != 0 { // it still answers,
			t.Errorf("%s", all)
		}
		for range 5 { // and beats
			if ch, err := c.r.ReadByte(); err != nil || ch != '\n' {
				t.Fatalf("%q, %v", ch, err)
			}
		}
		if s := b.Stats(); s.Withheld != 2 || s.Delivered != 1 {
			t.Errorf("stats %+v", s)
		}
	})
	t.Run("half-open", func(t *testing.T) {
		b, c := withFault(t, Fault{Kind: FaultHalfOpen, AfterFrames: 1})
		b.Publish("u.1", nil, []byte("1")) // takes effect with it, so it may or may not come
		eventually(t, "the fault", func() bool { b.Publish("u.1", nil, nil); return b.Stats().Withheld > 0 })
		c.send("DISCONNECT\nreceipt:bye\n\n\x00") // nobody hears it
		time.Sleep(50 * time.Millisecond)
		for {
			_ = c.conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
			if _, err := c.r.ReadByte(); err != nil {
				if !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("%v", err)
				}
				break
			}
		}
		if b.Stats().Links != 1 {
			t.Error("the connection has ended")
		}
	})
	t.Run("garbage", func(t *testing.T) {
		b, c := withFault(t, Fault{Kind: FaultGarbage, AfterFrames: 1, Size: 100})
		publish(b, 1)
		c.mustFrame()
		p := make([]byte, 100)
		if _, err := io.ReadFull(c.r, p); err != nil || string(p[:10]) != "\x16\x03\x01GARBAGE" {
			t.Errorf("%q, %v", p, err)
		}
	})
	t.Run("error", func(t *testing.T) {
		b, c := withFault(t, Fault{Kind: FaultError, AfterFrames: 1, Message: "a: b", Close: true})
		publish(b, 1)
		c.mustFrame()
		if f := c.mustFrame(); f.command != "ERROR" || f.headers["message"] != `a\c b` {
			t.Errorf("%s", f)
		}
		if s := rest(t, c); s != "" {
			t.Errorf("%q", s)
		}
	})
	t.Run("oversize-header", func(t *testing.T) {
		b, c := withFault(t, Fault{Kind: FaultOversizeHeader, AfterFrames: 1})
		publish(b, 1)
		c.mustFrame()
		if f := c.mustFrame(); len(f.headers["name"]) != 1<<20 {
			t.Errorf("header of %d bytes", len(f.headers["name"]))
		}
	})
	t.Run("oversize-body", func(t *testing.T) {
		b, c := withFault(t, Fault{Kind: FaultOversizeBody, AfterFrames: 1, Size: 8 << 20})
		publish(b, 2)
		bodies := map[int]bool{}
		for range 3 { // between whole frames, wherever that is
			bodies[len(c.mustFrame().body)] = true
		}
		if !bodies[8<<20+2] || !bodies[2] {
			t.Errorf("bodies of %v bytes", bodies)
		}
	})
	t.Run("drip", func(t *testing.T) {
		b, c := withFault(t, Fault{Kind: FaultDrip, Interval: 10 * time.Microsecond})
		b.Publish("u.1", nil, []byte(`{"a":1}`))
		if f := c.mustFrame(); f.body != `{"a":1}` {
			t.Errorf("%s", f)
		}
	})
	t.Run("now", func(t *testing.T) {
		b := plainBroker(t, BrokerOptions{})
		c := subscribed(t, b, "")
		publish(b, 3)
		if n := b.FaultNow(Fault{Kind: FaultDrop, AfterFrames: 2}); n != 1 {
			t.Errorf("%d connections", n)
		}
		publish(b, 3)
		for range 5 {
			c.mustFrame()
		}
		if s := rest(t, c); s != "" {
			t.Errorf("%q", s)
		}
		c = subscribed(t, b, "")
		if n := b.DropLinks(); n != 1 && n != 2 {
			t.Errorf("%d connections", n)
		}
		if s := rest(t, c); s != "" {
			t.Errorf("%q", s)
		}
	})
}

func TestScript(t *testing.T) {
	b := plainBroker(t, BrokerOptions{})
	b.Script([]Fault{{Kind: FaultClose}}, nil, []Fault{{Kind: FaultClose}})
	works := func() bool {
		c := newWireClient(t, b.Port())
		c.send(connect11)
		_, ok := c.frame()
		return ok
	}
	var got []bool
	for range 4 {
		got = append(got, works())
	}
	if want := []bool{false, true, false, true}; !reflect.DeepEqual(got, want) || b.ScriptLeft() != 0 {
		t.Errorf("%v, want %v; %d left", got, want, b.ScriptLeft())
	}
	b.FaultAlways(Fault{Kind: FaultClose})
	for range 2 {
		if works() {
			t.Error("works")
		}
	}
	b.Script([]Fault{{Kind: FaultClose}})
	b.ClearScript()
	if !works() {
		t.Error("does not work")
	}
}

func TestParseFault(t *testing.T) {
	all := []Fault{
		{Kind: FaultDrop, AfterFrames: 7, After: 3 * time.Second},
		{Kind: FaultRefuseTopic, Topic: "aud", Close: true, NoReceiptID: true},
		{Kind: FaultError, Message: "no more", Size: 12, Interval: time.Millisecond},
	}
	for _, kind := range FaultKinds() {
		all = append(all, Fault{Kind: kind})
	}
	for _, f := range all {
		if got, err := ParseFault(f.String()); err != nil || got != f {
			t.Errorf("%s: %+v, %v", f, got, err)
		}
	}
	for _, s := range []string{"", "sink", "drop,frames", "drop,frames=x", "drop,color=red", "drop,after=9", "error,close=maybe"} {
		if f, err := ParseFault(s); err == nil {
			t.Errorf("%q: %+v", s, f)
		}
	}
	script, err := ParseScript(" hang-tls; none ;no-receipts+drop,frames=10;")
	want := [][]Fault{{{Kind: FaultHangTLS}}, {{Kind: FaultNone}}, {{Kind: FaultNoReceipts}, {Kind: FaultDrop, AfterFrames: 10}}}
	if err != nil || !reflect.DeepEqual(script, want) {
		t.Errorf("%v, %v", script, err)
	}
	if _, err := ParseScript("drop;sink"); err == nil {
		t.Error("no error")
	}
}

// go-stomp's own client sees the faults as its own kinds of errors.
func TestFaultsWithGoStompClient(t *testing.T) {
	b := startBroker(t, BrokerOptions{Topics: []string{"u.1"}, Faults: [][]Fault{{{Kind: FaultError, AfterFrames: 2, Message: "enough"}}}})
	c, err := goStomp(t, b, stomp.ConnOpt.Login("hmcuser", "hmcpass"))
	if err != nil {
		t.Fatal(err)
	}
	sub, err := c.Subscribe("/topic/u.1", stomp.AckAuto)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the subscription", func() bool { return b.Subscribers("u.1") == 1 })
	for range 2 {
		b.Publish("u.1", nil, nil)
		if m := receive(t, sub); m.Err != nil {
			t.Fatal(m.Err)
		}
	}
	m := receive(t, sub)
	if m.Err == nil || !strings.Contains(m.Err.Error(), "enough") {
		t.Errorf("error %v", m.Err)
	}
	for range sub.C {
	}
}
