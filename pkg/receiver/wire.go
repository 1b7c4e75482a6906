package receiver

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"time"
)

// wire is the network connection below TLS. It is where bytes are seen as they arrive, within a TLS
// record and within a frame, so it is where silence is noticed.
type wire struct {
	net.Conn
	lastByte *moment // for Receiver.LastFrame
	// received is when Read last returned bytes; for the reading goroutine only.
	received time.Time

	// silence is how long the peer may send nothing at all, 0 for ever. It is set before the
	// goroutine that reads starts.
	silence time.Duration
	// armed is when the read deadline was last set.
	armed time.Time
}

// moment is when something happened last. It tells how long ago that was also where the machine's
// clock has been set since.
type moment struct {
	began time.Time    // before anything has happened
	since atomic.Int64 // nanoseconds after that; 0: nothing has happened yet
}

func (m *moment) set(at time.Time) {
	if !at.IsZero() {
		m.since.Store(max(int64(at.Sub(m.began)), 1))
	}
}

// get returns the time by the clock as it is set now; the zero time: nothing has happened yet.
func (m *moment) get() time.Time {
	since := time.Duration(m.since.Load())
	if since == 0 {
		return time.Time{}
	}
	now := time.Now()
	return now.Add(since - now.Sub(m.began))
}

// lastLook is how long bytes that are there already are given when silence has lasted too long: a
// process that was stopped for a while finds its deadline passed and its bytes waiting.
const lastLook = 100 * time.Millisecond

// Read reads from the network. Time counts only while it waits: a reader that does not read does
// not blame the peer. To keep timers cheap the deadline is not moved at every read, which adds
// between a sixteenth and an eighth to silence.
func (w *wire) Read(p []byte) (int, error) {
	if w.silence > 0 {
		if now := time.Now(); now.Sub(w.armed) > w.silence/16 {
			if err := w.SetReadDeadline(now.Add(w.silence + w.silence/8)); err != nil {
				return 0, err
			}
			w.armed = now
		}
	}
	n, err := w.Conn.Read(p)
	if w.silence > 0 && n == 0 && errors.Is(err, os.ErrDeadlineExceeded) {
		w.armed = time.Time{}
		if err := w.SetReadDeadline(time.Now().Add(lastLook)); err != nil {
			return 0, err
		}
		if n, err = w.Conn.Read(p); n == 0 && errors.Is(err, os.ErrDeadlineExceeded) {
			// Not even a heart-beat came, for longer than was agreed.
			text := fmt.Sprintf("heart-beats lost: no byte from the HMC for more than %v", w.silence)
			err = &linkError{ReasonTimeout, text, err}
		}
	}
	if n > 0 {
		w.received = time.Now()
		w.lastByte.set(w.received)
	}
	return n, err
}

// keepalive are the timers of TCP keep-alive: a peer that vanished without a word is noticed within
// a minute and a half also where no heart-beats are agreed upon. The operating system's own
// defaults take more than two hours.
var keepalive = net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 10 * time.Second, Count: 6}

// setKeepalive sets up TCP's own means to notice a dead peer, or turns them off.
func setKeepalive(conn net.Conn, on bool) error {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return nil // from a Dial of the caller's: not TCP, or not ours to know
	}
	config := keepalive
	config.Enable = on
	if err := tcp.SetKeepAliveConfig(config); err != nil {
		return fmt.Errorf("set TCP keep-alive: %w", err)
	}
	if !on {
		return nil
	}
	return setUserTimeout(tcp, config.Idle+time.Duration(config.Count)*config.Interval)
}
