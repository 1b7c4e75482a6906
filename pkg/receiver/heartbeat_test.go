package receiver

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	stomp "github.com/go-stomp/stomp/v3/frame"
)

func TestHeartBeatNegotiation(t *testing.T) {
	for _, test := range []struct {
		send, receive time.Duration // ours
		server        string
		wantSend      time.Duration
		wantReceive   time.Duration
	}{
		{5 * time.Second, 5 * time.Second, "5000,5000", 5 * time.Second, 5 * time.Second},
		{5 * time.Second, 5 * time.Second, "1000,2000", 5 * time.Second, 5 * time.Second},
		{5 * time.Second, 5 * time.Second, "10000,20000", 20 * time.Second, 10 * time.Second},
		{5 * time.Second, 5 * time.Second, " 10000 , 20000 ", 20 * time.Second, 10 * time.Second},
		{5 * time.Second, 5 * time.Second, "0,0", 0, 0},
		{5 * time.Second, 5 * time.Second, "", 0, 0},
		{5 * time.Second, 5 * time.Second, "0,3000", 5 * time.Second, 0},
		{5 * time.Second, 5 * time.Second, "3000,0", 0, 5 * time.Second},
		{0, 5 * time.Second, "3000,3000", 0, 5 * time.Second},
		{5 * time.Second, 0, "3000,3000", 5 * time.Second, 0},
		{0, 0, "3000,3000", 0, 0},
	} {
		t.Run(fmt.Sprintf("%v,%v with %q", test.send, test.receive, test.server), func(t *testing.T) {
			offered := make(chan string, 1)
			p := startPeer(t, "", func(_ int, c *peerConn) {
				f := c.expect("CONNECT")
				offered <- f.Header.Get("heart-beat")
				header := "heart-beat:" + test.server + "\n"
				if test.server == "" {
					header = ""
				}
				_ = c.send("CONNECTED\nversion:1.1\n%s\n\x00", header)
				c.confirm(c.expect("DISCONNECT"))
			})
			o := p.options()
			o.Config.HeartbeatSendCycle, o.Config.HeartbeatReceiveCycle = test.send, test.receive
			r := newReceiver(t, o)
			if send, receive := r.HeartBeat(); send != 0 || receive != 0 {
				t.Errorf("%v,%v without a link", send, receive)
			}
			must(t, r.Connect(t.Context()))
			if got, want := <-offered, fmt.Sprintf("%d,%d", test.send.Milliseconds(), test.receive.Milliseconds()); got != want {
				t.Errorf("offered %s, want %s", got, want)
			}
			if send, receive := r.HeartBeat(); send != test.wantSend || receive != test.wantReceive {
				t.Errorf("agreed on %v,%v, want %v,%v", send, receive, test.wantSend, test.wantReceive)
			}
			must(t, r.Close())
		})
	}
}

// beats is CONNECTED with heart-beats of the given number of milliseconds both ways.
func beats(ms int) string {
	return fmt.Sprintf("CONNECTED\nversion:1.1\nheart-beat:%d,%d\n\n\x00\n", ms, ms)
}

// withCycle sets our own cycle.
func withCycle(o Options, cycle time.Duration) Options {
	o.Config.HeartbeatSendCycle, o.Config.HeartbeatReceiveCycle = cycle, cycle
	return o
}

// TestHeartBeatsAreSent counts heart-beats while the consumer is stuck and the hand-over buffer full.
func TestHeartBeatsAreSent(t *testing.T) {
	enough := make(chan bool)
	p := startPeer(t, "", func(_ int, c *peerConn) {
		if !c.logon("CONNECTED\nversion:1.1\nheart-beat:0,20\n\n\x00\n") {
			return
		}
		sub := c.expect("SUBSCRIBE")
		c.confirm(sub)
		for range 50 {
			_ = c.send("%s", message(sub.Header.Get("id"), "u.1", "1"))
		}
		beat := make([]byte, 1)
		for range 10 {
			if _, err := io.ReadFull(c.Conn, beat); err != nil || beat[0] != '\n' {
				t.Errorf("read %q, %v, want a heart-beat", beat, err)
				return
			}
		}
		close(enough)
	})
	o := withCycle(p.options("u.1"), 20*time.Millisecond)
	o.Limits.Handover, o.Limits.HandoverWait = 1000, time.Hour
	r := newReceiver(t, o)
	for _, err := range r.Notifications(t.Context()) {
		must(t, err)
		<-enough
		break
	}
}

func TestSilenceEndsTheLink(t *testing.T) {
	t.Parallel()
	for name, script := range map[string]func(c *peerConn){
		"from the start": func(c *peerConn) { c.serve(beats(20), nil) },
		"within a frame": func(c *peerConn) {
			c.serve(beats(20), func(c *peerConn, _ *stomp.Frame) { _ = c.send("MESSAGE\nsubscription:sub-1\n\nabc") })
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := startPeer(t, "", func(_ int, c *peerConn) { script(c) })
			r := newReceiver(t, withCycle(p.options("u.1"), 20*time.Millisecond))
			_, err := next(t, pull(t, r))
			if reasonIn(err) != ReasonTimeout || !strings.Contains(err.Error(), "heart-beats lost: no byte from the HMC for more than 40ms") {
				t.Errorf("got %v", err)
			}
		})
	}
}

// TestSilenceIsAllowed checks that without heart-beats from the server silence means nothing.
func TestSilenceIsAllowed(t *testing.T) {
	t.Parallel()
	for name, connected := range map[string]string{
		"0,0":        "CONNECTED\nversion:1.1\nheart-beat:0,0\n\n\x00\n",
		"no header":  "CONNECTED\nversion:1.1\n\n\x00\n",
		"only wants": "CONNECTED\nversion:1.1\nheart-beat:0,10\n\n\x00\n",
	} {
		t.Run(name, func(t *testing.T) {
			p := startPeer(t, "", func(_ int, c *peerConn) {
				c.serve(connected, func(c *peerConn, sub *stomp.Frame) {
					time.Sleep(300 * time.Millisecond)
					_ = c.send("%s", message(sub.Header.Get("id"), "u.1", "1"))
				})
			})
			r := newReceiver(t, withCycle(p.options("u.1"), 10*time.Millisecond))
			if n, err := next(t, pull(t, r)); err != nil || string(n.Body) != "1" {
				t.Errorf("got %s, %v", n.Body, err)
			}
		})
	}
}

// TestEveryByteCounts sends one frame so slowly that it takes longer than the silence that is allowed.
func TestEveryByteCounts(t *testing.T) {
	t.Parallel()
	p := startPeer(t, "", func(_ int, c *peerConn) {
		c.serve(beats(50), func(c *peerConn, sub *stomp.Frame) {
			frame := message(sub.Header.Get("id"), "u.1", "1")
			for len(frame) > 0 {
				time.Sleep(100 * time.Millisecond)
				n := min(len(frame), 7)
				_ = c.send("%s", frame[:n])
				frame = frame[n:]
			}
		})
	})
	o := withCycle(p.options("u.1"), 50*time.Millisecond)
	o.Config.HeartbeatReceiveCheck = 19 // 1 s
	r := newReceiver(t, o)
	start := time.Now()
	if n, err := next(t, pull(t, r)); err != nil || string(n.Body) != "1" || time.Since(start) < time.Second {
		t.Errorf("got %s, %v after %v", n.Body, err, time.Since(start))
	}
}

// TestBlockedWrite has a peer that sends heart-beats but takes no bytes.
func TestBlockedWrite(t *testing.T) {
	t.Parallel()
	client, server := net.Pipe() // without any buffer
	done := make(chan bool)
	go func() {
		defer close(done)
		c := newPeerConn(server)
		if !c.logon(beats(20)) {
			return
		}
		for c.send("\n") == nil {
			time.Sleep(5 * time.Millisecond)
		}
	}()
	o := Options{
		Host: "hmc1", Userid: "u", Password: "p", PlainText: true, Config: new(DefaultStompRetryTimeoutConfig()),
		Dial: func(context.Context, string, string) (net.Conn, error) { return client, nil },
	}
	o = withCycle(o, 20*time.Millisecond)
	o.Config.HeartbeatReceiveCheck = 49
	r := newReceiver(t, o)
	_, err := next(t, pull(t, r))
	if reasonIn(err) != ReasonTimeout || !strings.Contains(err.Error(), "the HMC took no bytes within 1s") {
		t.Errorf("got %v", err)
	}
	<-done
}
