package playback

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/capture"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
	"github.com/hmcnotifyd/hmcnotifyd/tests/soak"
)

// made writes a capture of one link with one topic, u.1, and what add writes.
func made(t *testing.T, add func(write func(capture.Entry))) (file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "made")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	w, err := capture.NewWriter(f, capture.Header{Program: "test", Began: time.Now().Add(-2 * time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	write := func(e capture.Entry) {
		t.Helper()
		if err := w.Write(&e); err != nil {
			t.Fatal(err)
		}
	}
	write(capture.Entry{Kind: capture.KindFrame, Frame: &capture.Frame{
		Command: capture.Subscribe, Headers: capture.Pairs{{"destination", "/topic/u.1"}},
	}})
	add(write)
	write(capture.Entry{At: hourUS, Kind: capture.KindEnd, End: new(capture.End)})
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return file
}

const hourUS = int64(time.Hour / time.Microsecond)

// get is a request of somebody who is logged on.
func (h *HMC) get(t *testing.T, path string) (status int, body []byte) {
	t.Helper()
	id, _ := h.logon()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, fmt.Sprintf("https://127.0.0.1:%d%s", h.RESTPort(), path), http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-API-Session", id)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: h.ca.ClientTLS(), DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if body, err = io.ReadAll(resp.Body); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, body
}

// largeAnswers writes so many answers of nearly 5 MiB each, each another one.
func largeAnswers(n int) func(write func(capture.Entry)) {
	return func(write func(capture.Entry)) {
		for i := range n {
			body := fmt.Appendf(nil, `{"nr":%d,"objects":["%s"]}`, i, strings.Repeat("all that an HMC knows of its objects ", 140_000))
			write(capture.Entry{At: 1, Kind: capture.KindRequest, Request: &capture.Request{
				Operation: "get-properties", Method: http.MethodGet, URI: fmt.Sprintf("/api/cpcs/%d", i), Status: 200,
				Answer: capture.Content{JSON: body},
			}})
		}
	}
}

// Many large answers are there, and take little.
func TestLargeAnswers(t *testing.T) {
	t.Parallel()
	n := soak.Count(t, "LARGE_INDEXED", 3, 8)
	h, err := Start(t.Context(), Options{File: made(t, largeAnswers(n))})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = h.Close() }()
	if h.index.size > 2<<20 {
		t.Errorf("they take %d bytes", h.index.size)
	}
	for i := range n {
		status, body := h.get(t, fmt.Sprintf("/api/cpcs/%d", i))
		if status != 200 || !bytes.HasPrefix(body, fmt.Appendf(nil, `{"nr":%d,`, i)) || len(body) < 4<<20 || !json.Valid(body) {
			t.Errorf("%d, %d bytes: %.100s", status, len(body), body)
		}
	}
}

// What would take too much is refused, in one line: in full by the limit that there is, else by a lower one,
// with as much less.
func TestTooMuchToPlay(t *testing.T) {
	t.Parallel()
	limit := soak.Count(t, "PLAYED_MIB", 1, maxIndex>>20)
	random := rand.New(rand.NewPCG(1, 2))
	noise := func(n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(random.Uint32())
		}
		return base64.StdEncoding.EncodeToString(b)
	}
	for name, add := range map[string]func(write func(capture.Entry)){
		"bodies": func(write func(capture.Entry)) {
			for range 9 {
				write(capture.Entry{Kind: capture.KindRequest, Request: &capture.Request{
					Operation: "x", Method: http.MethodGet, URI: "/api/x", Status: 200, Answer: capture.Content{Text: noise(limit << 17)},
				}})
			}
		},
		"paths": func(write func(capture.Entry)) {
			for i := range 3_750 * limit {
				write(capture.Entry{Kind: capture.KindRequest, Request: &capture.Request{
					Operation: "x", Method: http.MethodGet, URI: fmt.Sprintf("/api/%d", i), Query: "a=b", Status: 200,
				}})
			}
		},
		"topics": func(write func(capture.Entry)) {
			for i := range 5_625 * limit {
				write(capture.Entry{Kind: capture.KindFrame, Frame: &capture.Frame{
					Command: capture.Subscribe, Headers: capture.Pairs{{"destination", fmt.Sprintf("/topic/u.%d", i)}},
				}})
			}
		},
		"refusals": func(write func(capture.Entry)) {
			for i := range 5_625 * limit {
				write(capture.Entry{Kind: capture.KindFrame, Frame: &capture.Frame{
					Command: capture.Error, Headers: capture.Pairs{{"message", fmt.Sprintf("not 'topic://u.%d'", i)}},
				}})
			}
		},
	} {
		o := Options{File: made(t, add)}
		if limit<<20 != maxIndex {
			o.limit = limit << 20
		}
		h, err := Start(t.Context(), o)
		if err == nil {
			_ = h.Close()
		}
		want := fmt.Sprintf("%s has answers of more than %d MiB, compressed, which is too much to play back: capture for a shorter time (--duration)", o.File, limit)
		if err == nil || err.Error() != want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What nobody has ever answered is not answered: a status that there is none of, or a body that is left out.
func TestOddAnswers(t *testing.T) {
	t.Parallel()
	request := func(operation, method, path string, status int, sent, answer string) capture.Entry {
		return capture.Entry{Kind: capture.KindRequest, Request: &capture.Request{
			Operation: operation, Method: method, URI: path, Status: status,
			Sent: capture.Content{JSON: json.RawMessage(sent)}, Answer: capture.Content{JSON: json.RawMessage(answer)},
		}}
	}
	h, err := Start(t.Context(), Options{File: made(t, func(write func(capture.Entry)) {
		write(request("submit-requests", http.MethodPost, "/api/services/aggregation/submit", 200,
			`{"requests":[{"method":"GET","uri":"/api/a","id":"1"},{"method":"GET","uri":"/api/b","id":"2"},{"method":"GET","uri":"/api/c","id":"3"}]}`,
			`[{"id":"1","status":99999,"body":{}},{"id":"2","status":0,"body":{}},{"id":"3","status":200,"body":{"c":1}}]`))
		write(request("x", http.MethodGet, "/api/d", 101, "", `{}`))
		large := request("x", http.MethodGet, "/api/e", 200, "", `{}`)
		large.Request.Answer = capture.Content{Omitted: 7 << 20}
		write(large)
		write(request("x", http.MethodGet, "/api/f", 999, "", `{"f":1}`))
		write(request("logon", http.MethodPost, "/api/sessions", 200, "", `[`+strings.Repeat("{},", 1_000_000)+`{}]`))
	})})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = h.Close() }()
	for path, want := range map[string]int{"/api/a": 404, "/api/b": 404, "/api/c": 200, "/api/d": 404, "/api/e": 404, "/api/f": 999, "/api/g": 404} {
		if status, body := h.get(t, path); status != want {
			t.Errorf("%s: %d %s, want %d", path, status, body, want)
		}
	}
}

// Time stands still while a client does not read: little waits for it, and nothing is lost.
func TestSlowReader(t *testing.T) {
	t.Parallel()
	file, messages := hour(t, 2) // 14 MiB: more than may wait anywhere
	h, r, ctx := following(t, file, receiver.Limits{Handover: 1 << 20, HandoverWait: within})
	waitFor(t, "time that stands still", func() bool { return h.broker.Waiting() > maxWaiting && h.still.Load() })
	if n := h.broker.Waiting(); n > maxWaiting+64<<10 {
		t.Errorf("%d bytes wait", n)
	}
	next := 0
	for _, err := range r.Notifications(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		if next++; next == messages {
			break
		}
	}
	played(t, h)
}
