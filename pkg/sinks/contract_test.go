package sinks

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	promconfig "github.com/prometheus/common/config"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

type contractCase struct {
	kind, variant string
	peer          func(*testing.T) *peer
}

// contract lists the sinks that have to keep the contract of Sink. A new kind of sink is one line here, and a function
// that makes its far side.
var contract = []contractCase{
	{"webhook", "single", func(t *testing.T) *peer { return newWebhookPeer(t, 1) }},
	{"webhook", "batch", func(t *testing.T) *peer { return newWebhookPeer(t, 100) }},
	{"webhook", "cloudevents", func(t *testing.T) *peer { return newCloudEventsPeer(t, 1) }},
	{"webhook", "cloudevents batch", func(t *testing.T) *peer { return newCloudEventsPeer(t, 100) }},
	{"webhook", "template", newTemplatePeer},
	{"webhook", "authenticated", newAuthenticatedPeer},
	{"webhook", "oauth2", newOAuth2Peer},
	{"webhook", "gzip", func(t *testing.T) *peer {
		p := newWebhookPeer(t, 100)
		p.cfg.Webhook.Compression = config.CompressionGzip
		return p
	}},
	{"alertmanager", "one member", newAlertmanagerPeer},
	{"log", "pipe", newLogPipePeer},
	{"log", "file", newLogFilePeer},
	{"nats", "JetStream", newNATSPeer},
	{"kafka", "SASL", newKafkaPeer},
	{"otlp", "single", func(t *testing.T) *peer { return newOTLPPeer(t, 1) }},
	{"otlp", "batch", func(t *testing.T) *peer { return newOTLPPeer(t, 100) }},
	{"syslog", "octets", func(t *testing.T) *peer { return syslogPeer(t, "tcp", config.FramingOctetCounting) }},
	{"syslog", "lines", func(t *testing.T) *peer { return syslogPeer(t, "tcp", config.FramingLF) }},
	{"syslog", "TLS", func(t *testing.T) *peer { return syslogPeer(t, "tls", config.FramingOctetCounting) }},
	{"splunk", "events", func(t *testing.T) *peer { return newSplunkPeer(t, false, "") }},
	{"splunk", "acknowledged", func(t *testing.T) *peer { return newSplunkPeer(t, true, config.CompressionGzip) }},
	{"elasticsearch", "data stream", func(t *testing.T) *peer { return newElasticsearchPeer(t, false) }},
	{"elasticsearch", "OpenSearch", func(t *testing.T) *peer { return newElasticsearchPeer(t, true) }},
	{"syslog", "socket", func(t *testing.T) *peer { return syslogPeer(t, "unix", config.FramingLF) }},
}

// behavior is what the far side of a sink does with what it gets.
type behavior int32

const (
	accept      behavior = iota
	refuse               // for good
	busy                 // not now
	defer30              // not now, and not in the next 30 seconds
	hang                 // no answer
	pause                // takes nothing, because a credential, the address or a certificate is wrong
	refuseOne            // takes all but one for good, and says only that it is one
	refuseLarge          // refuses for good each event that is larger than manyBytes, and takes those sent with it
)

// manyBytes is the limit of refuseLarge.
const manyBytes = 10_000

// peer is the far side of one sink.
type peer struct {
	cfg      config.Sink
	opts     Options
	secrets  []string
	can      []behavior               // besides accept
	behave   func(behavior)           // from now on
	hanging  func() bool              // Send is waiting; nil: cannot be told
	received func() []json.RawMessage // every event accepted so far
	visitors func() int               // how often an event, accepted or not, has been offered; nil: cannot be told
	leave    func()                   // makes the destination unreachable; nil: cannot
	largest  int                      // about how many bytes an event may have; 0: any number
}

// check fails if err shows a secret, and returns it.
func (p *peer) check(t *testing.T, err error) error {
	t.Helper()
	if err == nil {
		return nil
	}
	for _, text := range []string{err.Error(), fmt.Sprintf("%+v", err), fmt.Sprintf("%#v", err)} {
		for _, secret := range p.secrets {
			if strings.Contains(text, secret) {
				t.Errorf("an error shows the secret %q: %s", secret, text)
			}
		}
	}
	return err
}

// expect waits until exactly want has been received, in this order.
func (p *peer) expect(t *testing.T, want []event.Record) {
	t.Helper()
	var got []json.RawMessage
	eventually(t, fmt.Sprintf("%d events received", len(want)), func() bool {
		got = p.received()
		return len(got) >= len(want)
	})
	if len(got) != len(want) {
		t.Fatalf("received %d events, want %d", len(got), len(want))
	}
	for i := range want {
		if !bytes.Equal(got[i], want[i].JSON) {
			t.Fatalf("event %d: received\n%.300s\nwant\n%.300s", i, got[i], want[i].JSON)
		}
	}
}

func TestContract(t *testing.T) {
	t.Parallel()
	for _, c := range contract {
		t.Run(c.kind+"/"+c.variant, func(t *testing.T) {
			t.Parallel()
			for _, test := range contractTests {
				t.Run(test.name, func(t *testing.T) {
					leaksNothing(t)
					p := c.peer(t)
					p.cfg.Name = "ops"
					if p.cfg.Kind() != c.kind {
						t.Fatalf("the peer is one of %q", p.cfg.Kind())
					}
					test.run(t, p)
				})
			}
		})
	}
}

// open makes the sink of p and closes it with the test.
func (p *peer) open(t *testing.T) Sink {
	t.Helper()
	s, err := New(p.cfg, p.opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := soon(t, "Close", s.Close); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

// needs skips the test where the far side cannot do b.
func (p *peer) needs(t *testing.T, b behavior) {
	t.Helper()
	if !slices.Contains(p.can, b) {
		t.Skip("the destination cannot do this")
	}
}

var contractTests = []struct {
	name string
	run  func(*testing.T, *peer)
}{
	{"one event", func(t *testing.T, p *peer) {
		s := p.open(t)
		rs := records(0, 3)
		before := clone(rs)
		for i := range rs {
			if err := s.Send(t.Context(), rs[i:i+1]); err != nil {
				t.Fatal(err)
			}
		}
		p.expect(t, rs)
		if !reflect.DeepEqual(rs, before) {
			t.Error("Send has changed the records")
		}
	}},
	{"batch", func(t *testing.T, p *peer) {
		s := p.open(t)
		limit, size := MaxBatch(s)
		if limit < 1 || size < 1 {
			t.Fatalf("MaxBatch: %d records, %d bytes", limit, size)
		}
		rs := records(0, limit)
		before := clone(rs)
		if err := s.Send(t.Context(), rs); err != nil {
			t.Fatal(err)
		}
		p.expect(t, rs)
		if !reflect.DeepEqual(rs, before) {
			t.Error("Send has changed the records")
		}
		// One more is taken as well or turned down, but never thrown away.
		more := records(limit, limit+1)
		err := p.check(t, s.Send(t.Context(), more))
		if err == nil {
			p.expect(t, append(rs, more...))
		}
		if _, ok := errors.AsType[*PermanentError](err); ok {
			t.Error("a batch above MaxBatch would be thrown away")
		}
	}},
	{"an event that cannot be read", func(t *testing.T, p *peer) {
		// Either the destination gets it as it is, and judges it, or it is refused: it is not "accepted" without a word. What
		// is sent with it arrives.
		n := 0
		for name, text := range map[string]string{
			"time":  `{"id":"time","hmc":"east","type":"status-change","time":"10000-01-01T00:00:00.000Z","received":"2026-11-20T10:00:00.000Z","origin":"live","severity":"warning"}`,
			"shape": `{"id":"shape","hmc":"east","type":"status-change","time":7,"received":"2026-11-20T10:00:00.000Z","origin":[],"severity":{}}`,
		} {
			bad := event.Record{ID: name, Type: event.TypeStatusChange, Key: "k", Received: time.Now(), JSON: []byte(text)}
			s, before := p.open(t), len(p.received())
			err := p.check(t, s.Send(t.Context(), []event.Record{bad}))
			if _, refused := errors.AsType[*PermanentError](err); !refused && err != nil {
				t.Fatalf("%s: %v", name, err)
			} else if !refused {
				eventually(t, name+": the destination has it", func() bool { return len(p.received()) > before })
			}
			before = len(p.received())
			if err := s.Send(t.Context(), records(n, 1)); err != nil {
				t.Fatal(err)
			}
			n++
			eventually(t, name+": what comes behind it has arrived", func() bool { return len(p.received()) > before })
		}
	}},
	{"empty batch", func(t *testing.T, p *peer) {
		s := p.open(t)
		for _, rs := range [][]event.Record{nil, {}} {
			if err := s.Send(t.Context(), rs); err != nil {
				t.Fatal(err)
			}
		}
		p.expect(t, nil)
	}},
	{"large event", func(t *testing.T, p *peer) {
		s := p.open(t)
		size := 5 << 20
		if p.largest > 0 {
			size = p.largest - 1<<10
		}
		rs := []event.Record{largeRecord(0, size), record(1)}
		for i := range rs {
			if err := s.Send(t.Context(), rs[i:i+1]); err != nil {
				t.Fatal(err)
			}
		}
		p.expect(t, rs)
	}},
	{"concurrent use", func(t *testing.T, p *peer) {
		s := p.open(t)
		const senders, each = 8, 25
		var wg sync.WaitGroup
		for i := range senders {
			wg.Go(func() {
				for j := range each {
					if err := s.Send(t.Context(), records(i*each+j, 1)); err != nil {
						t.Errorf("Send: %v", err)
					}
					if j%10 == 0 {
						if err := s.Probe(t.Context()); err != nil {
							t.Errorf("Probe: %v", err)
						}
					}
				}
			})
		}
		wg.Wait()
		eventually(t, "all events received", func() bool { return len(p.received()) == senders*each })
		seen := make(map[string]bool)
		for _, e := range p.received() {
			seen[string(e)] = true
		}
		for _, r := range records(0, senders*each) {
			if !seen[string(r.JSON)] {
				t.Errorf("not received whole: %s", r.JSON)
			}
		}
	}},
	{"refused for good", func(t *testing.T, p *peer) {
		p.needs(t, refuse)
		s := p.open(t)
		p.behave(refuse)
		err := p.check(t, s.Send(t.Context(), records(0, 1)))
		if _, ok := errors.AsType[*PermanentError](err); !ok {
			t.Errorf("got %T %v, want a *PermanentError", err, err)
		}
		p.behave(accept)
		if err := s.Send(t.Context(), records(1, 1)); err != nil {
			t.Errorf("the next event: %v", err)
		}
		p.expect(t, records(1, 1))
	}},
	{"refused for now", func(t *testing.T, p *peer) {
		p.needs(t, busy)
		s := p.open(t)
		p.behave(busy)
		err := p.check(t, s.Send(t.Context(), records(0, 1)))
		if err == nil {
			t.Fatal("no error")
		}
		if _, ok := errors.AsType[*PermanentError](err); ok {
			t.Errorf("%v is permanent", err)
		}
		if reason := PauseReason(err); reason != "" {
			t.Errorf("%v pauses the sink: %s", err, reason)
		}
		p.behave(accept)
		if err := s.Send(t.Context(), records(0, 1)); err != nil {
			t.Errorf("the next attempt: %v", err)
		}
		p.expect(t, records(0, 1))
	}},
	{"paused", func(t *testing.T, p *peer) {
		p.needs(t, pause)
		s := p.open(t)
		p.behave(pause)
		for range 2 { // as often as somebody looks
			err := p.check(t, s.Send(t.Context(), records(0, 1)))
			if _, ok := errors.AsType[*PausedError](err); !ok {
				t.Fatalf("got %T %v, want a *PausedError", err, err)
			}
			if !slices.Contains(PauseReasons(), PauseReason(err)) {
				t.Errorf("the reason of %v is %q", err, PauseReason(err))
			}
			if _, ok := errors.AsType[*PermanentError](err); ok {
				t.Errorf("%v is permanent", err)
			}
			reason, status := ReasonOf(err)
			if advice := Advice(&p.cfg, reason, status); advice == "" || advice == Advice(&p.cfg, ReasonOther, 0) {
				t.Errorf("no advice about %v", err)
			}
		}
		p.behave(accept)
		for i := range 3 {
			if err := s.Send(t.Context(), records(i, 1)); err != nil {
				t.Errorf("when it is mended: %v", err)
			}
		}
		p.expect(t, records(0, 3))
	}},
	{"refused in part", func(t *testing.T, p *peer) {
		p.needs(t, refuseLarge)
		p.behave(refuseLarge)
		s := p.open(t)
		rs := records(0, 5)
		rs[2] = largeRecord(2, 2*manyBytes)
		_, refused := sendAll(t, s, rs)
		if !slices.Equal(refused, []string{rs[2].ID}) {
			t.Errorf("refused %v", refused)
		}
		p.expect(t, slices.Delete(rs, 2, 3)) // and none of them twice
	}},
	{"refused by number", func(t *testing.T, p *peer) {
		p.needs(t, refuseOne)
		p.behave(refuseOne)
		s := p.open(t)
		limit, _ := MaxBatch(s)
		rs := records(0, min(limit, 5))
		err := p.check(t, s.Send(t.Context(), rs))
		if len(rs) == 1 { // it is that one
			if _, ok := errors.AsType[*PermanentError](err); !ok {
				t.Errorf("got %T %v, want a *PermanentError", err, err)
			}
			return
		}
		if e, ok := errors.AsType[*RejectedError](err); !ok || e.Events != 1 {
			t.Errorf("got %T %v, want a *RejectedError of one", err, err)
		}
		if got := p.received(); len(got) != len(rs)-1 {
			t.Errorf("%d were taken", len(got))
		}
	}},
	{"asked to wait", func(t *testing.T, p *peer) {
		p.needs(t, defer30)
		s := p.open(t)
		p.behave(defer30)
		err := p.check(t, s.Send(t.Context(), records(0, 1)))
		if e, ok := errors.AsType[*RetryAfterError](err); !ok || e.After != 30*time.Second {
			t.Errorf("got %T %v, want a *RetryAfterError of 30s", err, err)
		}
	}},
	{"canceled before", func(t *testing.T, p *peer) {
		s := p.open(t)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := p.check(t, s.Send(ctx, records(0, 1))); !errors.Is(err, context.Canceled) {
			t.Errorf("Send: %v", err)
		}
		if err := p.check(t, s.Probe(ctx)); !errors.Is(err, context.Canceled) {
			t.Errorf("Probe: %v", err)
		}
		p.expect(t, nil)
	}},
	{"canceled while it hangs", func(t *testing.T, p *peer) {
		p.needs(t, hang)
		s := p.open(t)
		p.behave(hang)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		result := make(chan error, 1)
		go func() { result <- s.Send(ctx, []event.Record{largeRecord(0, 1<<20-1<<10)}) }()
		p.awaitHanging(t)
		cancel()
		err := soon(t, "Send returns", func() error { return <-result })
		if !errors.Is(p.check(t, err), context.Canceled) {
			t.Errorf("got %v, want context.Canceled", err)
		}
		if _, ok := errors.AsType[*PermanentError](err); ok {
			t.Errorf("%v is permanent", err)
		}
	}},
	{"timeout", func(t *testing.T, p *peer) {
		p.needs(t, hang)
		p.cfg.Timeout = time.Second
		s := p.open(t)
		p.behave(hang)
		err := soon(t, "Send returns", func() error { return s.Send(t.Context(), []event.Record{largeRecord(0, 1<<20-1<<10)}) })
		if p.check(t, err) == nil {
			t.Fatal("no error")
		}
		if _, ok := errors.AsType[*PermanentError](err); ok {
			t.Errorf("%v is permanent", err)
		}
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), " after ") {
			t.Errorf("the error does not tell of the timeout: %v", err)
		}
	}},
	{"probe", func(t *testing.T, p *peer) {
		s := p.open(t)
		for range 3 {
			if err := s.Probe(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		p.expect(t, nil)
		if p.visitors != nil && p.visitors() != 0 {
			t.Error("Probe has sent something")
		}
	}},
	{"unreachable", func(t *testing.T, p *peer) {
		if p.leave == nil {
			t.Skip("the destination cannot do this")
		}
		s := p.open(t)
		p.leave()
		if p.check(t, s.Probe(t.Context())) == nil {
			t.Error("Probe: no error")
		}
		err := p.check(t, s.Send(t.Context(), records(0, 1)))
		if err == nil {
			t.Fatal("Send: no error")
		}
		if _, ok := errors.AsType[*PermanentError](err); ok {
			t.Errorf("%v is permanent", err)
		}
	}},
	{"closed", func(t *testing.T, p *peer) {
		s := p.open(t)
		if err := s.Send(t.Context(), records(0, 1)); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if err := s.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		}
		if err := p.check(t, s.Send(t.Context(), records(1, 1))); !errors.Is(err, ErrClosed) {
			t.Errorf("Send: %v", err)
		}
		if err := p.check(t, s.Probe(t.Context())); !errors.Is(err, ErrClosed) {
			t.Errorf("Probe: %v", err)
		}
		if r, ok := s.(Reopener); ok && p.cfg.Log != nil && filepath.IsAbs(p.cfg.Log.Output) {
			if err := p.check(t, r.Reopen()); !errors.Is(err, ErrClosed) {
				t.Errorf("Reopen: %v", err)
			}
		}
		p.expect(t, records(0, 1))
	}},
	{"closed while it hangs", func(t *testing.T, p *peer) {
		p.needs(t, hang)
		s := p.open(t)
		p.behave(hang)
		const senders = 3
		result := make(chan error, senders)
		for i := range senders {
			go func() { result <- s.Send(t.Context(), []event.Record{largeRecord(i, 1<<20-1<<10)}) }()
		}
		p.awaitHanging(t)
		if err := soon(t, "Close", s.Close); err != nil {
			t.Errorf("Close: %v", err)
		}
		for range senders {
			if err := soon(t, "Send returns", func() error { return <-result }); !errors.Is(p.check(t, err), ErrClosed) {
				t.Errorf("Send: %v", err)
			}
		}
	}},
}

func (p *peer) awaitHanging(t *testing.T) {
	t.Helper()
	if p.hanging != nil {
		eventually(t, "Send hangs", p.hanging)
	}
}

// TestEveryKind holds the three lists of kinds together: the fields of config.Sink, the cases of New, the contract.
func TestEveryKind(t *testing.T) {
	kinds := 0
	for field := range reflect.TypeFor[config.Sink]().Fields() {
		if field.Type.Kind() != reflect.Pointer {
			continue
		}
		kinds++
		kind := field.Tag.Get("yaml")
		t.Run(kind, func(t *testing.T) {
			var cfg config.Sink
			reflect.ValueOf(&cfg).Elem().FieldByIndex(field.Index).Set(reflect.New(field.Type.Elem()))
			s, err := New(cfg, Options{})
			if errors.Is(err, errNoKind) {
				t.Error("New has no case for it")
			}
			if err == nil {
				_ = s.Close()
				t.Error("New made one of an empty configuration")
			}
			if cfg.Kind() != kind {
				t.Errorf("config.Sink.Kind says %q", cfg.Kind())
			}
			if !slices.ContainsFunc(contract, func(c contractCase) bool { return c.kind == kind }) {
				t.Error("it is not in the contract test")
			}
		})
	}
	if kinds == 0 {
		t.Error("no kinds found")
	}
	if _, err := New(config.Sink{Name: "ops"}, Options{}); !errors.Is(err, errNoKind) {
		t.Errorf("a sink of no kind: %v", err)
	}
}

// The far side of a webhook: a real server. Its address is full of secrets, and it repeats them in its answers.
func newWebhookPeer(t *testing.T, batch int) *peer {
	var (
		state    atomic.Int32
		visits   atomic.Int32
		waiting  atomic.Int32
		mu       sync.Mutex
		received []json.RawMessage
	)
	leave := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		visits.Add(1)
		body, err := readBody(r)
		if err != nil {
			return
		}
		switch behavior(state.Load()) {
		case refuse:
			http.Error(w, fmt.Sprintf("not for %s (%s) %q", r.URL, r.URL.Path, r.Header), http.StatusUnprocessableEntity)
		case pause:
			http.Error(w, fmt.Sprintf("no such hook: %s (%s) %q", r.URL, r.URL.Path, r.Header), http.StatusUnauthorized)
		case busy:
			http.Error(w, "busy, try "+r.URL.RequestURI()+" later", http.StatusServiceUnavailable)
		case defer30:
			w.Header().Set("Retry-After", "30")
			w.WriteHeader(http.StatusTooManyRequests)
		case hang:
			waiting.Add(1)
			select {
			case <-r.Context().Done():
			case <-leave:
			}
		case accept:
			events := []json.RawMessage{body}
			if batch > 1 {
				if err := json.Unmarshal(body, &events); err != nil {
					t.Errorf("the body is not an array: %v", err)
				}
			}
			mu.Lock()
			received = append(received, events...)
			mu.Unlock()
			w.WriteHeader(http.StatusNoContent)
		}
	}))
	stop := sync.OnceFunc(func() { close(leave); server.Close() })
	t.Cleanup(stop)

	const path, token, key = "T0CAFE0/B0BABE0", "t0k3n-of-the-hook", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	address := server.URL + "/services/" + path + "?token=" + token
	return &peer{
		cfg: config.Sink{
			Webhook: &config.Webhook{URL: config.NewURL(address), Format: config.FormatJSON, Secret: config.NewSecret("whsec_" + key)},
			Batch:   config.Batch{MaxEvents: batch}, Concurrency: 4, Timeout: patience,
		},
		opts:    Options{Version: "1.2.3"},
		secrets: []string{path, token, key},
		can:     []behavior{refuse, busy, defer30, hang, pause},
		behave:  func(b behavior) { state.Store(int32(b)) },
		hanging: func() bool { return waiting.Load() > 0 },
		received: func() []json.RawMessage {
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(received)
		},
		visitors: func() int { return int(visits.Load()) },
		leave:    stop,
	}
}

// The far side of a webhook with a password and a header that are in files.
func newAuthenticatedPeer(t *testing.T) *peer {
	p := newWebhookPeer(t, 1)
	const password, token = "p4ssword-in-a-file", "t0k3n-in-a-file"
	withHTTP(func(c *promconfig.HTTPClientConfig) {
		c.BasicAuth = &promconfig.BasicAuth{Username: "me", PasswordFile: secretFile(t, password)}
		c.HTTPHeaders = &promconfig.Headers{Headers: map[string]promconfig.Header{"X-Token": {Files: []string{secretFile(t, token)}}}}
	})(&p.cfg)
	p.secrets = append(p.secrets, password, token, base64.StdEncoding.EncodeToString([]byte("me:"+password)))
	return p
}

// The far side of a webhook that wants tokens.
func newOAuth2Peer(t *testing.T) *peer {
	p := newWebhookPeer(t, 1)
	tokens := newTokenServer(t)
	withHTTP(func(c *promconfig.HTTPClientConfig) {
		c.OAuth2 = &promconfig.OAuth2{ClientID: "me", ClientSecretFile: secretFile(t, tokens.secret), TokenURL: tokens.URL + "/token"}
	})(&p.cfg)
	p.secrets = append(p.secrets, tokens.secret, "t0k3n-number-")
	return p
}

// readBody reads the body of a request, compressed or not.
func readBody(r *http.Request) ([]byte, error) {
	if r.Header.Get("Content-Encoding") != "gzip" {
		return io.ReadAll(r.Body)
	}
	z, err := gzip.NewReader(r.Body)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(z)
}

// The far side of a webhook that gets CloudEvents: the events are their data.
func newCloudEventsPeer(t *testing.T, batch int) *peer {
	p := newWebhookPeer(t, batch)
	p.cfg.Webhook.Format = config.FormatCloudEvents
	received := p.received
	p.received = func() []json.RawMessage {
		all := received()
		for i := range all {
			var e struct{ Data json.RawMessage }
			if err := json.Unmarshal(all[i], &e); err != nil {
				t.Error(err)
			}
			all[i] = e.Data
		}
		return all
	}
	return p
}

// The far side of a webhook that gets what a template makes of events, which here is the event itself.
func newTemplatePeer(t *testing.T) *peer {
	p := newWebhookPeer(t, 1)
	p.cfg.Webhook.Format = config.FormatTemplate
	p.cfg.Webhook.Template = "{{ json . }}"
	p.largest = 1 << 20
	return p
}

// The far side of a log on a pipe, as a container's standard output is one.
func newLogPipePeer(t *testing.T) *peer {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	var (
		mu       sync.Mutex
		received []json.RawMessage
		paused   atomic.Bool
	)
	done := make(chan struct{})
	go func() {
		defer close(done)
		lines := bufio.NewReader(readerFunc(func(p []byte) (int, error) {
			n, err := r.Read(p)
			if paused.Load() {
				<-t.Context().Done() // ends before the cleanups run
				return 0, io.EOF
			}
			return n, err
		}))
		for {
			line, err := lines.ReadBytes('\n')
			if err != nil {
				return
			}
			mu.Lock()
			received = append(received, line[:len(line)-1])
			mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		_ = r.Close()
		_ = w.Close()
		<-done
	})
	return &peer{
		cfg:  config.Sink{Log: &config.Log{Output: config.OutputStdout}, Timeout: patience},
		opts: Options{Stdout: w},
		can:  []behavior{hang},
		behave: func(b behavior) {
			if b == hang {
				paused.Store(true)
				_ = r.SetReadDeadline(time.Unix(1, 0))
			}
		},
		received: func() []json.RawMessage {
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(received)
		},
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func newLogFilePeer(t *testing.T) *peer {
	path := filepath.Join(t.TempDir(), "events.log")
	return &peer{
		cfg: config.Sink{Log: &config.Log{Output: path}, Timeout: patience},
		received: func() []json.RawMessage {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Error(err)
			}
			var lines []json.RawMessage
			for line := range bytes.Lines(data) {
				lines = append(lines, bytes.TrimSuffix(line, []byte("\n")))
			}
			return lines
		},
	}
}
