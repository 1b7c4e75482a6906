package sinks

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	promconfig "github.com/prometheus/common/config"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// One attempt after the other has the same context, until one fails, is out of time or is made within another.
func TestSpans(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a := attempts{name: "x", timeout: time.Second, life: newLifetime(), spans: &spans{timeout: time.Second}}
		var last *span
		attempt := func(ctx context.Context, f func(*span) error) (again bool, err error) {
			before := last
			err = a.cancelable(ctx, noAnswer, func(_ context.Context, s *span) error {
				last = s
				if got := time.Since(s.began); got != 0 {
					t.Errorf("it began %s ago", got)
				}
				return f(s)
			})
			return before == last, err
		}
		nothing := func(*span) error { return nil }
		expect := func(what string, want bool, within context.Context, f func(*span) error, text string) {
			t.Helper()
			again, err := attempt(within, f)
			if again != want {
				t.Errorf("%s: the same context: %v", what, again)
			}
			if got := "nil"; err != nil || text != got {
				if err != nil {
					got = err.Error()
				}
				if got != text {
					t.Errorf("%s: %s", what, got)
				}
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		expect("the first", false, ctx, nothing, "nil")
		expect("the next", true, ctx, nothing, "nil")
		time.Sleep(time.Second - 1)
		expect("just before the time of the last one is over", true, ctx, func(s *span) error {
			time.Sleep(time.Second - 1)
			return s.Err()
		}, "nil")
		expect("out of time", true, ctx, func(s *span) error {
			<-s.Done()
			if !errors.Is(s.Err(), context.DeadlineExceeded) {
				t.Error(s.Err())
			}
			return s.Err()
		}, "x: no answer after 1s: context deadline exceeded")
		expect("after that", false, ctx, nothing, "nil")
		expect("that fails", true, ctx, func(*span) error { return io.ErrUnexpectedEOF }, "x: unexpected EOF")
		if last.Err() == nil {
			t.Error("what a failed attempt has begun goes on")
		}
		expect("after a failure", false, ctx, nothing, "nil")
		expect("that gives up and is content", true, ctx, func(s *span) error { s.giveUp(); return nil }, "nil")
		expect("after it gave up", false, ctx, nothing, "nil")
		time.Sleep(time.Minute)
		expect("much later", false, ctx, nothing, "nil")
		expect("within another context", false, t.Context(), nothing, "nil")
		expect("two at a time", false, t.Context(), func(*span) error {
			_, err := attempt(t.Context(), nothing)
			return err
		}, "nil")
		expect("within one that ends", false, ctx, func(s *span) error {
			cancel()
			<-s.Done()
			return s.Err()
		}, "x: context canceled")
		expect("within one that has ended", true, ctx, nothing, "x: context canceled")
	})
}

// A form is filled in again only where the transport does not read it any more.
func TestFormIsUsedAgain(t *testing.T) {
	t.Parallel()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || !bytes.Contains(body, []byte(r.Header.Get("Webhook-Id"))) {
			t.Errorf("%q: %s, %v", r.Header.Get("Webhook-Id"), body, err)
		}
		w.WriteHeader(http.StatusNoContent)
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	plain := httptest.NewServer(server.Config.Handler)
	defer plain.Close()
	for _, test := range []struct {
		url   string
		http2 bool
		again bool
	}{{plain.URL, true, true}, {server.URL, false, true}, {server.URL, true, false}} {
		s := webhookTo(t, test.url, withHTTP(func(c *promconfig.HTTPClientConfig) {
			c.EnableHTTP2, c.TLSConfig.InsecureSkipVerify = test.http2, true
		}))
		var first *form
		for i := range 5 {
			if err := s.Send(t.Context(), records(i, 1)); err != nil {
				t.Fatal(err)
			}
			f := s.spans.idle[0].form
			if i == 0 {
				first = f
			}
			if test.again != (f != nil) || f != first {
				t.Errorf("%s, HTTP/2 %v: event %d has form %p behind %p", test.url[:5], test.http2, i, f, first)
			}
			if f != nil && f.body != nil {
				t.Error("it keeps the body")
			}
		}
	}
}

// TestFormAnsweredEarly has a consumer that accepts before it has read the request: what is still being sent is not that of
// the next event.
func TestFormAnsweredEarly(t *testing.T) {
	t.Parallel()
	for _, size := range []int{100, 8 << 20} {
		rs := []event.Record{largeRecord(0, size), largeRecord(1, size)}
		s := webhookTo(t, "http://"+rawPeer(t, func(conn net.Conn) {
			r := bufio.NewReader(conn)
			if size > writeBuffer { // until the header has come
				if _, err := r.Peek(1); err != nil {
					return
				}
			}
			for {
				if _, err := io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"); err != nil {
					return
				}
				req, err := http.ReadRequest(r)
				if err != nil {
					return
				}
				id := req.Header.Get("Webhook-Id")
				begin := make([]byte, min(req.ContentLength, 100))
				if _, err := io.ReadFull(req.Body, begin); err == nil && !strings.Contains(string(begin), id) {
					t.Errorf("%q: %s", id, begin)
				}
				_, _ = io.Copy(io.Discard, req.Body)
			}
		}))
		for i := range 10 {
			// Where the answer comes before the request, it is none.
			_ = soon(t, "Send", func() error { return s.Send(t.Context(), rs[i%2:i%2+1]) })
		}
	}
}
