package playback

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/capture"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
)

// hour writes a capture of an hour, with so many notifications a second of about 2 KiB each.
func hour(t *testing.T, perSecond int) (file string, messages int) {
	t.Helper()
	const second = int64(time.Second / time.Microsecond)
	file = made(t, func(write func(capture.Entry)) {
		for messages = range 3600 * perSecond {
			write(capture.Entry{At: int64(messages) * second / int64(perSecond), Kind: capture.KindFrame, Frame: &capture.Frame{
				Command: capture.Message,
				Headers: capture.Pairs{
					{"destination", "/topic/u.1"},
					{"message-id", "ID:x-1:1:" + strconv.Itoa(messages)},
					{"notification-type", "property-change"},
					{"session-sequence-nr", strconv.Itoa(messages)},
				},
				Body: capture.Content{JSON: fmt.Appendf(nil, `{"n":%d,"text":"%s"}`, messages, strings.Repeat("abcdefgh ", 220))},
			}})
		}
	})
	return file, messages + 1
}

// following plays a capture as fast as it goes to a receiver, which is connected. Of what it does not read the kernel keeps little:
// by itself that may be as much as a whole capture.
func following(t *testing.T, file string, limits receiver.Limits) (*HMC, *receiver.Receiver, context.Context) {
	t.Helper()
	h, err := Start(t.Context(), Options{File: file, Speed: 100_000})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })
	r, err := receiver.New(receiver.Options{
		Topics: []string{"u.1"}, Host: "127.0.0.1", Port: h.StompPort(), TLS: h.ca.ClientTLS(),
		Userid: hmcsim.DefaultUserid, Password: hmcsim.DefaultPassword, Limits: limits,
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return conn, conn.(*net.TCPConn).SetReadBuffer(1 << 20)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), within)
	t.Cleanup(cancel)
	if err := r.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return h, r, ctx
}

// heap is what is in use of it.
func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestHour plays an hour of 35 MiB as fast as it goes: all of it arrives, in order, and it is never in
// memory as a whole. It has the process for itself, as it looks at the heap.
func TestHour(t *testing.T) {
	file, messages := hour(t, 5)
	next, before, highest := 0, heap(), uint64(0)
	h, r, ctx := following(t, file, receiver.Limits{})
	for n, err := range r.Notifications(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		if got := n.Headers.Get("session-sequence-nr"); got != strconv.Itoa(next) {
			t.Fatalf("notification %s comes where %d should", got, next)
		}
		if next++; next == messages {
			break
		}
		if next%1000 == 0 {
			highest = max(highest, heap())
		}
	}
	played(t, h)
	highest -= min(before, highest)
	t.Logf("%d KiB of heap at most", highest>>10)
	if limit := uint64(24 << 20); highest > limit {
		t.Errorf("%d MiB of heap at most, more than %d", highest>>20, limit>>20)
	}
}
