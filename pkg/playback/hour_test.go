package playback

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
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
	file = filepath.Join(t.TempDir(), "hour")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	w, err := capture.NewWriter(f, capture.Header{Program: "test", Began: time.Now().Add(-2 * time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	add := func(e capture.Entry) {
		if err := w.Write(&e); err != nil {
			t.Fatal(err)
		}
	}
	add(capture.Entry{Kind: capture.KindFrame, Frame: &capture.Frame{
		Command: capture.Subscribe, Headers: [][2]string{{"destination", "/topic/u.1"}},
	}})
	const second = int64(time.Second / time.Microsecond)
	for messages = range 3600 * perSecond {
		add(capture.Entry{At: int64(messages) * second / int64(perSecond), Kind: capture.KindFrame, Frame: &capture.Frame{
			Command: capture.Message,
			Headers: [][2]string{
				{"destination", "/topic/u.1"},
				{"message-id", "ID:x-1:1:" + strconv.Itoa(messages)},
				{"notification-type", "property-change"},
				{"session-sequence-nr", strconv.Itoa(messages)},
			},
			Body: capture.Content{JSON: fmt.Appendf(nil, `{"n":%d,"text":"%s"}`, messages, strings.Repeat("abcdefgh ", 220))},
		}})
	}
	messages++
	add(capture.Entry{At: 3600 * second, Kind: capture.KindEnd, End: &capture.End{Frames: messages + 1}})
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return file, messages
}

// TestHour plays an hour of 35 MiB as fast as it goes: all of it arrives, in order, and it is never in
// memory as a whole.
func TestHour(t *testing.T) {
	file, messages := hour(t, 5)
	h, err := Start(Options{File: file, Speed: 100_000})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = h.Close() }()
	r, err := receiver.New(receiver.Options{
		Topics: []string{"u.1"}, Host: "127.0.0.1", Port: h.StompPort(), TLS: h.ca.ClientTLS(),
		Userid: hmcsim.DefaultUserid, Password: hmcsim.DefaultPassword,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	if err := r.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	next, highest := 0, uint64(0)
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
			var m runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&m)
			highest = max(highest, m.HeapAlloc)
		}
	}
	played(t, h)
	t.Logf("%d KiB of heap at most", highest>>10)
	if limit := uint64(24 << 20); highest > limit {
		t.Errorf("%d MiB of heap at most, more than %d", highest>>20, limit>>20)
	}
}
