package sinks

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	promconfig "github.com/prometheus/common/config"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// bulkSink is the smallest sink of a protocol whose answer tells of single events, as those of search engines do, or of a
// number of them only, as OTLP does.
type bulkSink struct{ *webhook }

type bulkAnswer struct {
	Items []struct {
		Status int    `json:"status"`
		Reason string `json:"reason"`
	} `json:"items"`
	Rejected int    `json:"rejected"`
	Message  string `json:"message"`
}

func (s bulkSink) Send(ctx context.Context, records []event.Record) error {
	body, err := s.body(records)
	if err != nil {
		return err
	}
	return s.send(ctx, func(attempt context.Context) *http.Request {
		return s.request(attempt, maps.Clone(s.header), body)
	}, func(a *httpAnswer) error {
		if err := a.judge(a.Status, a.Body); err != nil {
			return err
		}
		var said bulkAnswer
		if err := json.Unmarshal(a.Body, &said); err != nil {
			return fmt.Errorf("not the answer of a search engine: %s", a.excerpt(a.Body))
		}
		if len(said.Items) == 0 {
			return a.rejected(said.Rejected, len(records), []byte(said.Message))
		}
		each := make([]error, len(records))
		for i, item := range said.Items {
			each[i] = a.judge(item.Status, []byte(item.Reason))
		}
		return eventsError(each)
	})
}

// bulkTo sends to a server that answers with this.
func bulkTo(t *testing.T, answer func(w http.ResponseWriter)) bulkSink {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		answer(w)
	}))
	t.Cleanup(server.Close)
	return bulkSink{webhookTo(t, server.URL+"/a-t0ken-of-the-index", func(c *config.Sink) { c.Batch.MaxEvents = 100 })}
}

// What the body of an answer says of an event counts for that event, whatever the status of the whole.
func TestAnswerOfEachEvent(t *testing.T) {
	said := bulkAnswer{}
	for i := range 100 {
		said.Items = append(said.Items, struct {
			Status int    `json:"status"`
			Reason string `json:"reason"`
		}{Status: 201})
		switch i {
		case 3:
			said.Items[i].Status, said.Items[i].Reason = 400, "mapper_parsing_exception in /a-t0ken-of-the-index\n"
		case 5:
			said.Items[i].Status = 429
		case 8:
			said.Items[i].Status = 403
		}
	}
	s := bulkTo(t, func(w http.ResponseWriter) { _ = json.NewEncoder(w).Encode(said) })
	rs := records(0, 100)
	err := s.Send(t.Context(), rs)
	each, ok := errors.AsType[*EventsError](err)
	if !ok || len(each.Events) != 100 {
		t.Fatalf("%T %v", err, err)
	}
	for i, err := range each.Events {
		refused, permanent := errors.AsType[*PermanentError](err)
		later, temporary := errors.AsType[*RetryAfterError](err)
		paused := PauseReason(err)
		switch i {
		case 3:
			if !permanent || refused.Status != 400 || !strings.Contains(err.Error(), "status 400 Bad Request: mapper_parsing_exception in <secret>") {
				t.Errorf("%d: %#v", i, err)
			}
		case 5:
			if !temporary || later.Status != 429 {
				t.Errorf("%d: %#v", i, err)
			}
		case 8:
			if paused != PausedUnauthorized {
				t.Errorf("%d: %#v", i, err)
			}
		default:
			if err != nil {
				t.Errorf("%d: %v", i, err)
			}
		}
	}
	// What it says about the destination is what says the most.
	if PauseReason(err) != PausedUnauthorized || !strings.HasPrefix(err.Error(), "3 of 100 events: webhook: http://") {
		t.Errorf("%v", err)
	}
	said.Items = said.Items[:3]
	if err := s.Send(t.Context(), rs[:3]); err != nil {
		t.Errorf("all accepted: %v", err)
	}
	said.Items[0].Status = 400
	said.Items = said.Items[:1]
	err = s.Send(t.Context(), rs[:1])
	if _, ok := errors.AsType[*EventsError](err); ok {
		t.Errorf("of one event: %T", err)
	}
	if _, ok := errors.AsType[*PermanentError](err); !ok {
		t.Errorf("of one event: %v", err)
	}
}

// An answer that tells only how many were refused says so; one that refuses all says which.
func TestAnswerOfANumber(t *testing.T) {
	said := bulkAnswer{Rejected: 2, Message: "two are too old"}
	s := bulkTo(t, func(w http.ResponseWriter) { _ = json.NewEncoder(w).Encode(said) })
	err := s.Send(t.Context(), records(0, 5))
	if e, ok := errors.AsType[*RejectedError](err); !ok || e.Events != 2 || !strings.HasSuffix(err.Error(), ": 2 of 5 events refused: two are too old") {
		t.Errorf("%T %v", err, err)
	}
	err = s.Send(t.Context(), records(0, 2))
	if _, ok := errors.AsType[*PermanentError](err); !ok {
		t.Errorf("all of them: %T %v", err, err)
	}
	said.Rejected = 0
	if err := s.Send(t.Context(), records(0, 2)); err != nil {
		t.Errorf("none of them: %v", err)
	}
}

// Where the body has to be known, half of one says nothing: the events are sent again.
func TestAnswerCutOff(t *testing.T) {
	for name, answer := range map[string]func(w http.ResponseWriter){
		"cut off": func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, `{"items":[{"status":400}`)
		},
		"too long": func(w http.ResponseWriter) { _, _ = w.Write(make([]byte, maxAnswerBody+1)) },
		"no JSON":  func(w http.ResponseWriter) { _, _ = io.WriteString(w, "<html>/a-t0ken-of-the-index") },
	} {
		t.Run(name, func(t *testing.T) {
			err := bulkTo(t, answer).Send(t.Context(), records(0, 2))
			if err == nil || isAnswer(err) || !strings.HasPrefix(err.Error(), "webhook: http://") || strings.Contains(err.Error(), "t0ken") {
				t.Errorf("%T %v", err, err)
			}
		})
	}
}

// Of an answer that refuses the status decides: it is not lost because the rest of it does not come, or does not end.
func TestAnswerWhoseEndDoesNotCome(t *testing.T) {
	t.Parallel()
	const unending = "Content-Length: 100\r\n\r\nab"
	tests := map[string]struct {
		serve  func(net.Conn)
		want   string
		splunk string // where it is another one: with 400 it says in its body what is wrong
		search string
	}{
		"401, hangs":             {answer("HTTP/1.1 401 No\r\n" + unending), "paused: unauthorized", "", ""},
		"404, drips":             {endless("HTTP/1.1 404 No\r\n\r\n", "a", 10*time.Millisecond), "paused: not_found", "", ""},
		"404, endless":           {endless("HTTP/1.1 404 No\r\n\r\n", strings.Repeat("x", 1<<10), 0), "paused: not_found", "", ""},
		"413, closes":            {closing(answer("HTTP/1.1 413 No\r\n" + unending)), "refused: Request Entity Too Large", "", ""},
		"503, hangs":             {answer("HTTP/1.1 503 No\r\nRetry-After: 7\r\n" + unending), "again", "", ""},
		"400, closes":            {closing(answer("HTTP/1.1 400 No\r\n" + unending)), "refused: Bad Request", "again", "paused: other"},
		"301, speaks on":         {answer("HTTP/1.1 301 No\r\n" + unending), "paused: redirect", "", ""},
		"101, another protocol":  {answer("HTTP/1.1 101 No\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"), "refused: Switching Protocols", "", "paused: other"},
		"200, closes, unchanged": {closing(answer("HTTP/1.1 200 OK\r\n" + unending)), "again", "", ""},
	}
	for name, test := range tests {
		for kind, cfg := range map[string]func(url string) config.Sink{
			"otlp":          func(url string) config.Sink { return otlpTo(url, 10) },
			"splunk":        func(url string) config.Sink { return splunkConfig(url) },
			"acknowledged":  func(url string) config.Sink { return splunkConfig(url, withAcknowledgement) },
			"elasticsearch": func(url string) config.Sink { return elasticsearchConfig(url) },
		} {
			t.Run(kind+", "+name, func(t *testing.T) {
				t.Parallel()
				c := cfg("http://" + rawPeer(t, test.serve))
				c.Timeout = time.Hour
				s, err := New(c, Options{})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = s.Close() })
				want := test.want
				if c.Splunk != nil {
					want = cmp.Or(test.splunk, want)
				} else if c.Elasticsearch != nil {
					want = cmp.Or(test.search, want)
				}
				err = soon(t, "Send", func() error { return s.Send(t.Context(), records(0, 1)) })
				if got := verdict(err); got != want {
					t.Errorf("%s, want %s: %v", got, want, err)
				}
				if later, ok := errors.AsType[*RetryAfterError](err); ok && later.After != 7*time.Second {
					t.Errorf("retry after %s", later.After)
				}
			})
		}
	}
}

// While an indexer has not acknowledged, it is asked again although an answer in between does not end.
func TestAnswerInBetweenWhoseEndDoesNotCome(t *testing.T) {
	t.Parallel()
	var polls atomic.Int32
	s := splunkTo(t, "http://"+rawPeer(t, func(conn net.Conn) {
		defer conn.Close()
		r := bufio.NewReader(conn)
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, req.Body)
			said := `{"text":"Success","code":0,"ackId":0}`
			if strings.HasSuffix(req.URL.Path, "/ack") {
				if polls.Add(1) == 1 {
					_, _ = io.WriteString(conn, "HTTP/1.1 503 No\r\nContent-Length: 100\r\n\r\nab")
					_, _ = io.Copy(io.Discard, r)
					return
				}
				said = `{"acks":{"0":true}}`
			}
			_, _ = fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(said), said)
		}
	}), withAcknowledgement, withTimeout(time.Hour))
	if err := soon(t, "Send", func() error { return s.Send(t.Context(), records(0, 1)) }); err != nil {
		t.Error(err)
	}
}

// A proxy that wants to know who asks pauses the sink as a server that does.
func TestProxyWantsCredentials(t *testing.T) {
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusProxyAuthRequired)
	}))
	defer proxy.Close()
	at, err := url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{"http://hooks.test/", "https://hooks.test/"} {
		s := webhookTo(t, address, withHTTP(func(c *promconfig.HTTPClientConfig) { c.ProxyURL = promconfig.URL{URL: at} }))
		err := s.Send(t.Context(), records(0, 1))
		if reason, status := ReasonOf(err); PauseReason(err) != PausedUnauthorized || reason != ReasonAuthorization || status != http.StatusProxyAuthRequired {
			t.Errorf("%s: %q, status %d: %T %v", address, reason, status, err, err)
		}
	}
}
