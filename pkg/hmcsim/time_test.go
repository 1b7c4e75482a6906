package hmcsim

import (
	"bufio"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// The tests in this file have their own time: what they say of it is exact.

// pipe connects a client to a broker that does not listen, and returns what comes from the broker byte by byte, with
// the time since the start of each. The channel is closed at the end of the connection.
func pipe(t *testing.T, b *Broker) (net.Conn, <-chan stamped) {
	t.Helper()
	client, server := net.Pipe()
	b.mu.Lock()
	b.serveLocked(server, nil)
	b.mu.Unlock()
	start := time.Now()
	bytes := make(chan stamped, 1<<16)
	go func() {
		defer close(bytes)
		r := bufio.NewReader(client)
		for {
			c, err := r.ReadByte()
			if err != nil {
				if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrClosedPipe) {
					t.Error(err)
				}
				return
			}
			bytes <- stamped{c, time.Since(start)}
		}
	}()
	t.Cleanup(func() { _ = client.Close() })
	return client, bytes
}

type stamped struct {
	byte
	at time.Duration
}

// connectPipe logs on and reads CONNECTED.
func connectPipe(t *testing.T, client net.Conn, bytes <-chan stamped, heartBeat string) {
	t.Helper()
	if _, err := io.WriteString(client, connectWith("accept-version:1.2\nheart-beat:"+heartBeat+"\n")); err != nil {
		t.Fatal(err)
	}
	for c := range bytes {
		if c.byte == 0 {
			break
		}
	}
	<-bytes // the LF after it
}

func pipeBroker(t *testing.T) *Broker {
	t.Helper()
	b, err := newBroker(BrokerOptions{PlainText: true, Topics: []string{"u.1"}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Without a CONNECT the connection is closed after 30 s, without a word.
func TestConnectTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := pipeBroker(t)
		start := time.Now()
		_, bytes := pipe(t, b)
		if c, ok := <-bytes; ok {
			t.Errorf("%q", c.byte)
		}
		if d := time.Since(start); d != 30*time.Second || b.Stats().ConnectTimeout != 1 {
			t.Errorf("after %s, %+v", d, b.Stats())
		}
		_ = b.Close()
	})
}

// The broker looks each interval whether it has sent something, and sends a LF if not: an idle link gets one each
// interval, and after a message it may be up to two intervals.
func TestHeartBeatsSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := pipeBroker(t)
		client, bytes := pipe(t, b)
		connectPipe(t, client, bytes, "0,1000")
		if c := <-bytes; c.byte != '\n' || c.at != 2*time.Second { // CONNECTED was sent within the first interval
			t.Errorf("%q after %s", c.byte, c.at)
		}
		for i := range 3 {
			if c := <-bytes; c.byte != '\n' || c.at != time.Duration(3+i)*time.Second {
				t.Errorf("%q after %s", c.byte, c.at)
			}
		}
		if _, err := io.WriteString(client, subscribeFrame("s", "u.1", "")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		time.Sleep(100 * time.Millisecond)
		b.Publish("u.1", nil, nil) // after 5.1 s
		var last stamped
		for c := range bytes {
			if last = c; c.byte == 0 {
				break
			}
		}
		<-bytes
		if c := <-bytes; c.byte != '\n' || last.at != 5100*time.Millisecond || c.at != 7*time.Second {
			t.Errorf("%q after %s, the message was sent after %s", c.byte, c.at, last.at)
		}
		_ = b.Close()
	})
}

// A client that promised heart-beats may be late once: the connection is closed, without a word, when two checks in
// a row saw nothing.
func TestHeartBeatsWanted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := pipeBroker(t)
		client, bytes := pipe(t, b)
		connectPipe(t, client, bytes, "1000,0")
		for range 100 {
			time.Sleep(1500 * time.Millisecond) // late each time, but never for two checks
			if _, err := io.WriteString(client, "\n"); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		start := time.Now() // 150 s: the check at this time may come before or after
		if c, ok := <-bytes; ok {
			t.Errorf("%q", c.byte)
		}
		if d := time.Since(start); d != 2*time.Second && d != 3*time.Second {
			t.Errorf("after %s", d)
		}
		if s := b.Stats(); s.HeartBeatLost != 1 || s.Links != 0 {
			t.Errorf("%+v", s)
		}
		_ = b.Close()
	})
}

// A session ends when it has not been used for its idle timeout, and not before.
func TestSessionExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, err := newHMC(Options{SessionIdleTimeout: 6 * time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		h.world.start()
		logon := func() *session {
			h.mu.Lock()
			defer h.mu.Unlock()
			return h.newSessionLocked("hmcuser")
		}
		used := logon()
		time.Sleep(time.Hour)
		logon()
		for range 4 {
			time.Sleep(time.Hour)
			h.mu.Lock()
			used.lastUsed = time.Now()
			h.mu.Unlock()
		}
		sessions := func(want int) {
			t.Helper()
			synctest.Wait()
			if n := h.Sessions(); n != want {
				t.Errorf("%d sessions, want %d", n, want)
			}
		}
		time.Sleep(2*time.Hour - time.Second) // the second one is 6 h old
		sessions(2)
		time.Sleep(2 * time.Second)
		sessions(1)
		time.Sleep(4*time.Hour - 2*time.Second)
		sessions(1)
		time.Sleep(2 * time.Second)
		sessions(0)
		if h.ExpiredSessions() != 2 || h.Broker().Subscribers("x") != 0 {
			t.Errorf("%d expired", h.ExpiredSessions())
		}
		time.Sleep(24 * time.Hour) // nothing to watch
		logon()
		time.Sleep(6*time.Hour + time.Second)
		sessions(0)
		h.world.stop()
	})
}

// Life keeps its rate, whatever happens in it.
func TestLifeKeepsItsRate(t *testing.T) {
	for _, rate := range []float64{0.5, 5, 20, 2000} {
		synctest.Test(t, func(t *testing.T) {
			h, err := newHMC(Options{Rate: rate})
			if err != nil {
				t.Fatal(err)
			}
			h.world.start()
			time.Sleep(100 * time.Second)
			synctest.Wait()
			h.mu.Lock()
			n := float64(h.world.happened)
			h.mu.Unlock()
			if want := rate * 100; n < want-rate-1 || n > want+15 { // the last thing that happened may be a dozen
				t.Errorf("%v notifications in 100 s at %v per second", n, rate)
			}
			h.world.stop()
		})
	}
}

// An operation's steps are StepDelay apart.
func TestSteps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, err := newHMC(Options{StepDelay: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		h.world.start()
		if err := h.StopPartition("PART1"); err != nil {
			t.Fatal(err)
		}
		var statuses []string
		for range 6 {
			synctest.Wait()
			p, err := h.Partition("PART1")
			if err != nil {
				t.Fatal(err)
			}
			if p.Busy {
				p.Status += " busy"
			}
			statuses = append(statuses, p.Status)
			time.Sleep(time.Second)
		}
		if got, want := strings.Join(statuses, ", "), "stopping busy, stopping busy, stopping busy, stopped busy, stopped, stopped"; got != want {
			t.Errorf("%s, want %s", got, want)
		}
		h.world.stop()
	})
}
