package receiver

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"strconv"
	"testing"
	"time"

	stompclient "github.com/go-stomp/stomp/v3"
	stomp "github.com/go-stomp/stomp/v3/frame"
)

// loop is an endless stream of the same bytes.
type loop struct {
	data []byte
	at   int
}

func (l *loop) Read(p []byte) (int, error) {
	n := copy(p[:min(len(p), 16<<10)], l.data[l.at:])
	l.at = (l.at + n) % len(l.data)
	return n, nil
}

func BenchmarkFrameReader(b *testing.B) {
	frame := statusChange("sub-1")
	stream := func() io.Reader { return &loop{data: bytes.Repeat(frame, 100)} }
	b.Run("ours", func(b *testing.B) {
		limits, _ := Limits{}.withDefaults()
		fr := newFrameReader(stream(), limits)
		fr.escapes = true
		b.ReportAllocs()
		b.SetBytes(int64(len(frame)))
		for b.Loop() {
			if _, err := fr.next(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("go-stomp", func(b *testing.B) {
		fr := stomp.NewReader(stream())
		b.ReportAllocs()
		b.SetBytes(int64(len(frame)))
		for b.Loop() {
			f, err := fr.Read()
			for err == nil && f == nil { // the EOL after a frame
				f, err = fr.Read()
			}
			if err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkReceive compares the receiver, JSON check included, with go-stomp's own client, drained, over TLS from the same
// peer that sends as fast as it is read. One op is one notification for each of the two; x_go-stomp is our rate
// over theirs.
func BenchmarkReceive(b *testing.B) {
	ca := newTestCA(b)
	config := ca.server(b, time.Now().Add(time.Hour), "127.0.0.1")
	p := startPeer(b, "", func(_ int, c *peerConn) {
		if c, err := c.startTLS(config); err == nil {
			flood(c)
		}
	})
	count := b.N
	ours, theirs := time.Duration(0), time.Duration(0)
	// Turn about in slices, so that a disturbance of the machine meets both.
	for range 4 {
		n := (count + 3) / 4
		theirs += benchGoStomp(b, p, ca, n)
		ours += benchOurs(b, p, ca, n)
	}
	b.ReportMetric(float64(count)/ours.Seconds(), "ours/s")
	b.ReportMetric(float64(count)/theirs.Seconds(), "go-stomp/s")
	b.ReportMetric(theirs.Seconds()/ours.Seconds(), "x_go-stomp")
}

func benchOurs(b *testing.B, p *peer, ca *testCA, n int) time.Duration {
	b.Helper()
	o := p.options("sysprog.163")
	o.PlainText, o.TLS = false, ca.client()
	o.OnMissed = func(string) { b.Error("missed a notification") }
	r, err := New(o)
	must(b, err)
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	must(b, r.Connect(ctx))
	start := time.Now()
	got := 0
	for _, err := range r.Notifications(ctx) {
		if err != nil {
			b.Fatal(err)
		}
		if got++; got == n {
			break
		}
	}
	elapsed := time.Since(start)
	r.mu.Lock()
	l := r.link
	r.mu.Unlock()
	l.fail(net.ErrClosed) // the peer does not listen to DISCONNECT
	must(b, r.Close())
	return elapsed
}

func benchGoStomp(b *testing.B, p *peer, ca *testCA, n int) time.Duration {
	b.Helper()
	config := ca.client()
	config.ServerName = p.host
	dialer := tls.Dialer{Config: config}
	raw, err := dialer.DialContext(b.Context(), "tcp", net.JoinHostPort(p.host, strconv.Itoa(p.port)))
	must(b, err)
	conn, err := stompclient.Connect(raw, stompclient.ConnOpt.HeartBeat(0, 0), stompclient.ConnOpt.Logger(noLogger{}))
	must(b, err)
	sub, err := conn.Subscribe("/topic/sysprog.163", stompclient.AckAuto)
	must(b, err)
	start := time.Now()
	for range n {
		if m := <-sub.C; m.Err != nil {
			b.Fatal(m.Err)
		}
	}
	elapsed := time.Since(start)
	_ = raw.Close()
	for range sub.C { // its goroutines end when all it read is taken
	}
	return elapsed
}

// noLogger silences go-stomp's client.
type noLogger struct{}

func (noLogger) Debugf(string, ...any)   {}
func (noLogger) Infof(string, ...any)    {}
func (noLogger) Warningf(string, ...any) {}
func (noLogger) Errorf(string, ...any)   {}
func (noLogger) Debug(string)            {}
func (noLogger) Info(string)             {}
func (noLogger) Warning(string)          {}
func (noLogger) Error(string)            {}
