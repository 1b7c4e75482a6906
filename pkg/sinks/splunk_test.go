package sinks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hec"
)

const hecToken = "12345678-t0ken-0000-of-the-collector"

func splunkConfig(url string, change ...func(*config.Sink)) config.Sink {
	cfg := config.Sink{
		Splunk: &config.Splunk{URL: config.NewURL(url), Token: config.NewSecret(hecToken), Sourcetype: config.DefaultSourcetype},
		Batch:  config.Batch{MaxEvents: 100}, Concurrency: 4, Timeout: patience,
	}
	for _, c := range change {
		c(&cfg)
	}
	return cfg
}

func withAcknowledgement(c *config.Sink) { c.Splunk.Acknowledge = true }

// splunkTo makes a sink for a server.
func splunkTo(t testing.TB, url string, change ...func(*config.Sink)) *splunk {
	t.Helper()
	s, err := New(splunkConfig(url, change...), Options{Version: "1.2.3"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s.(*splunk)
}

// collector starts a collector.
func collector(t testing.TB, settings hec.Settings) (*hec.Server, string) {
	t.Helper()
	if settings.Token == "" {
		settings.Token = hecToken
	}
	c := hec.New(settings)
	server := httptest.NewServer(c)
	t.Cleanup(server.Close)
	return c, server.URL
}

// The far side of a sink for Splunk.
func newSplunkPeer(t *testing.T, acknowledge bool, compression string) *peer {
	c := hec.New(hec.Settings{Token: hecToken, Acknowledge: acknowledge})
	g := newGate(t, c)
	p := &peer{
		cfg: splunkConfig(g.server.URL, func(c *config.Sink) {
			c.Splunk.Acknowledge, c.Splunk.Compression = acknowledge, compression
		}),
		opts: Options{Version: "1.2.3"}, secrets: []string{hecToken},
		can: []behavior{refuse, busy, defer30, hang, pause, refuseLarge},
		behave: func(b behavior) {
			g.state.Store(int32(b))
			c.Change(func(s *hec.Settings) {
				s.Token, s.Busy, s.Invalid = hecToken, b == busy, nil
				switch b {
				case pause:
					s.Token = "another"
				case refuse:
					s.Invalid = func(hec.Event) bool { return true }
				case refuseLarge:
					s.Invalid = func(e hec.Event) bool { return len(e.Event) > manyBytes }
				}
			})
		},
		hanging: func() bool { return g.waiting.Load() > 0 },
		received: func() (all []json.RawMessage) {
			for _, e := range c.Events() {
				all = append(all, e.Event)
			}
			return all
		},
		visitors: func() int { _, requests, _ := c.Counts(); return requests },
		leave:    g.close,
	}
	if acknowledge {
		// What was taken before the one that is not valid nobody has acknowledged: it is sent again.
		p.can = slices.DeleteFunc(p.can, func(b behavior) bool { return b == refuseLarge })
	}
	return p
}

// What Splunk gets of an event: its time with a fraction, where it belongs, what is indexed, and all of it.
func TestSplunkEvent(t *testing.T) {
	c, url := collector(t, hec.Settings{Indexes: []string{"ibmz"}})
	s := splunkTo(t, url, func(c *config.Sink) { c.Splunk.Index = "ibmz" })
	r := fullEvent()
	at := time.Date(2026, 11, 20, 10, 0, 0, 123_000_000, time.UTC)
	e, _ := r.Event()
	e.Time = at
	r = event.NewRecord(e)
	if err := s.Send(t.Context(), []event.Record{r}); err != nil {
		t.Fatal(err)
	}
	got := c.Events()[0]
	want := hec.Event{
		Time: json.Number(fmt.Sprintf("%d.123", at.Unix())), Host: "hmc-east", Source: "hmcnotifyd", Sourcetype: "hmc:event", Index: "ibmz", Event: r.JSON,
		Fields: map[string]any{
			"id": r.ID, "hmc": "hmc-east", "type": "status-change", "severity": "warning", "class": "partition", "name": "PART1", "cpc": "CPC1",
			"label_site": "DC1", "label_team": `z"os`,
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
	// Without an index it is the token's.
	if err := splunkTo(t, url).Send(t.Context(), records(0, 1)); err != nil || c.Events()[1].Index != "" {
		t.Errorf("%v: %+v", err, c.Events()[1])
	}
}

func TestSplunkOneOfAHundred(t *testing.T) {
	for _, bad := range []int{0, 33, 99} {
		c, url := collector(t, hec.Settings{})
		id := record(bad).ID
		c.Change(func(s *hec.Settings) { s.Invalid = func(e hec.Event) bool { return e.Fields["id"] == id } })
		s := splunkTo(t, url)
		err := s.Send(t.Context(), records(1000, 1))
		if err != nil {
			t.Fatal(err)
		}
		oneOfAHundred(t, s, bad, func() (ids []string) {
			for _, e := range c.Events()[1:] {
				ids = append(ids, e.Fields["id"].(string))
			}
			return ids
		})
	}
}

// Of each event the answer says, by the number of the one that is not valid, what becomes of it.
func TestSplunkInvalidEvent(t *testing.T) {
	c, url := collector(t, hec.Settings{})
	id := record(2).ID
	c.Change(func(s *hec.Settings) { s.Invalid = func(e hec.Event) bool { return e.Fields["id"] == id } })
	err := splunkTo(t, url).Send(t.Context(), records(0, 5))
	want := []string{"delivered", "delivered", "refused: Bad Request", "not judged", "not judged"}
	if got := verdicts(5, err); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if !strings.Contains(err.Error(), `status 400 Bad Request: {"code":6,"invalid-event-number":2,"text":"Invalid data format"}`) {
		t.Errorf("the reason: %v", err)
	}
	// What was taken before it nobody has acknowledged.
	c.Change(func(s *hec.Settings) { s.Acknowledge = true })
	err = splunkTo(t, url, withAcknowledgement).Send(t.Context(), records(0, 5))
	want = []string{"not judged", "not judged", "refused: Bad Request", "not judged", "not judged"}
	if got := verdicts(5, err); !slices.Equal(got, want) {
		t.Errorf("with acknowledgement: %q, want %q", got, want)
	}
}

// The codes of the documentation, and what is not in it:
// https://help.splunk.com/en/splunk-enterprise/get-data-in/collect-http-event-data/troubleshoot-http-event-collector
func TestSplunkCodes(t *testing.T) {
	for _, test := range []struct {
		status int
		body   string
		want   string
	}{
		{200, `{"text":"Success","code":0}`, "delivered"},
		{403, `{"text":"Token disabled","code":1}`, "paused: unauthorized"},
		{401, `{"text":"Token is required","code":2}`, "paused: unauthorized"},
		{401, `{"text":"Invalid authorization","code":3}`, "paused: unauthorized"},
		{403, `{"text":"Invalid token","code":4}`, "paused: unauthorized"},
		{400, `{"text":"No data","code":5}`, "refused: Bad Request"},
		{400, `{"text":"Invalid data format","code":6}`, "refused: Bad Request"},
		// A number that no event has says nothing of one.
		{400, `{"text":"Invalid data format","code":6,"invalid-event-number":3}`, "refused: Bad Request"},
		{400, `{"text":"Invalid data format","code":6,"invalid-event-number":-1}`, "refused: Bad Request"},
		{400, `{"text":"Incorrect index","code":7,"invalid-event-number":1}`, "paused: not_found"},
		{500, `{"text":"Internal server error","code":8}`, "again"},
		{503, `{"text":"Server is busy","code":9}`, "again"},
		{400, `{"text":"Data channel is missing","code":10}`, "paused: other"},
		{400, `{"text":"Invalid data channel","code":11}`, "paused: other"},
		{400, `{"text":"Event field is required","code":12}`, "refused: Bad Request"},
		{400, `{"text":"Event field cannot be blank","code":13}`, "refused: Bad Request"},
		{400, `{"text":"ACK is disabled","code":14}`, "paused: other"},
		{400, `{"text":"Error in handling indexed fields","code":15}`, "refused: Bad Request"},
		{503, `{"text":"HEC is unhealthy, queues are full","code":18}`, "again"},
		{503, `{"text":"Server is shutting down","code":23}`, "again"},
		{200, `{"text":"Queue is approaching capacity","code":24}`, "delivered"},
		{200, `{"text":"Ack queue is approaching capacity","code":25}`, "delivered"},
		{429, `{"text":"Queue is at capacity","code":26}`, "again"},
		{413, "Content-Length of 1000000 too large (maximum is 1000)", "refused: Request Entity Too Large"},
		{404, "The requested URL was not found on this server.", "paused: not_found"},
		{302, "", "paused: redirect"},
		{502, "<html>", "again"},
		// A polite answer of something else is none.
		{200, "<html>Splunk Web</html>", "paused: not_found"},
		{200, "", "paused: not_found"},
		{200, `{"text":"Invalid data format","code":6}`, "refused: Bad Request"},
		{204, "", "paused: not_found"},
	} {
		s := splunkTo(t, answering(t, test.status, test.body))
		err := s.Send(t.Context(), records(0, 3))
		for _, got := range verdicts(3, err) {
			if got != test.want {
				t.Errorf("%d %s: %s, want %s: %v", test.status, test.body, got, test.want, err)
				break
			}
		}
	}
}

// An event is delivered when the indexer has acknowledged it, however often that has to be asked for.
func TestSplunkAcknowledgement(t *testing.T) {
	c, url := collector(t, hec.Settings{Acknowledge: true, Lag: 3})
	s := splunkTo(t, url, withAcknowledgement)
	for i := range 2 {
		if err := s.Send(t.Context(), records(10*i, 10)); err != nil {
			t.Fatal(err)
		}
	}
	if events, requests, polls := c.Counts(); events != 20 || requests != 2 || polls != 8 {
		t.Errorf("%d events, %d requests, %d questions", events, requests, polls)
	}
	if !regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(s.channel) || s.channel == splunkTo(t, url, withAcknowledgement).channel {
		t.Errorf("the channel is %q", s.channel)
	}
}

// What is not acknowledged in time is sent again.
func TestSplunkNotAcknowledged(t *testing.T) {
	c, url := collector(t, hec.Settings{Acknowledge: true, Forgets: true})
	s := splunkTo(t, url, withAcknowledgement, withTimeout(300*time.Millisecond))
	err := s.Send(t.Context(), records(0, 3))
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "no acknowledgement after ") || verdict(err) != "again" {
		t.Errorf("%T %v", err, err)
	}
	c.Change(func(s *hec.Settings) { s.Forgets = false })
	// With a limit that no machine is too slow for.
	s = splunkTo(t, url, withAcknowledgement)
	if err := s.Send(t.Context(), records(0, 3)); err != nil {
		t.Error(err)
	}
	if events, _, _ := c.Counts(); events != 6 {
		t.Errorf("%d events", events)
	}
}

// With Close ends also a Send that waits for an acknowledgement.
func TestSplunkClosedBeforeTheAcknowledgement(t *testing.T) {
	t.Parallel()
	leaksNothing(t)
	c, url := collector(t, hec.Settings{Acknowledge: true, Lag: 1 << 30})
	s := splunkTo(t, url, withAcknowledgement, withTimeout(time.Hour))
	result := make(chan error, 1)
	go func() { result <- s.Send(t.Context(), records(0, 1)) }()
	eventually(t, "it is asked", func() bool { _, _, questions := c.Counts(); return questions > 0 })
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := soon(t, "Send", func() error { return <-result }); !errors.Is(err, ErrClosed) {
		t.Errorf("%v", err)
	}
}

// Token and configuration must agree about acknowledgements: until they do, nothing is lost.
func TestSplunkAcknowledgementDisagrees(t *testing.T) {
	_, with := collector(t, hec.Settings{Acknowledge: true})
	_, without := collector(t, hec.Settings{})
	for name, test := range map[string]struct {
		sink *splunk
		want string
	}{
		"only the token":         {splunkTo(t, with), "set acknowledge: true"},
		"only the configuration": {splunkTo(t, without, withAcknowledgement), "set acknowledge: false"},
	} {
		err := test.sink.Send(t.Context(), records(0, 1))
		if PauseReason(err) != PausedOther || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// While it is asked for acknowledgements a collector may be away for a moment, or the token be revoked.
func TestSplunkAcknowledgementInterrupted(t *testing.T) {
	c := hec.New(hec.Settings{Token: hecToken, Acknowledge: true})
	var polls atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/ack") {
			switch polls.Add(1) {
			case 1:
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			case 2:
				panic(http.ErrAbortHandler)
			}
		}
		c.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	s := splunkTo(t, server.URL, withAcknowledgement)
	if err := s.Send(t.Context(), records(0, 3)); err != nil || polls.Load() != 3 {
		t.Errorf("after %d questions: %v", polls.Load(), err)
	}
	c.Change(func(s *hec.Settings) { s.Lag = 1 << 30 })
	result := make(chan error, 1)
	go func() { result <- s.Send(t.Context(), records(3, 1)) }()
	eventually(t, "it is asked", func() bool { return polls.Load() > 3 })
	c.Change(func(s *hec.Settings) { s.Disabled = true })
	if err := soon(t, "Send", func() error { return <-result }); PauseReason(err) != PausedUnauthorized {
		t.Errorf("%T %v", err, err)
	}
}

// Behind a load balancer that tells by a cookie which indexer it was, the same one is asked.
func TestSplunkAcknowledgementOfTheSameIndexer(t *testing.T) {
	indexers := []*hec.Server{hec.New(hec.Settings{Token: hecToken, Acknowledge: true}), hec.New(hec.Settings{Token: hecToken, Acknowledge: true})}
	var turn atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		which := 0
		if c, err := r.Cookie("indexer"); err == nil {
			which = int(c.Value[0] - '0')
		} else {
			which = int(turn.Add(1)) % 2
			http.SetCookie(w, &http.Cookie{Name: "indexer", Value: fmt.Sprint(which)})
		}
		indexers[which].ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	s := splunkTo(t, server.URL, withAcknowledgement)
	for i := range 4 {
		if err := s.Send(t.Context(), records(i, 1)); err != nil {
			t.Fatal(err)
		}
	}
	for i, c := range indexers {
		if events, _, polls := c.Counts(); events != 2 || polls != 2 {
			t.Errorf("indexer %d: %d events, %d questions", i, events, polls)
		}
	}
}

// A request that is too large is sent in parts.
func TestSplunkTooLarge(t *testing.T) {
	c, url := collector(t, hec.Settings{MaxContentLength: 20_000})
	rs := records(0, 50)
	rs[20] = largeRecord(20, 50_000)
	if refused := sendInParts(t, splunkTo(t, url), rs); !slices.Equal(refused, []string{rs[20].ID}) {
		t.Errorf("refused %v", refused)
	}
	if n := len(c.Events()); n != 49 {
		t.Errorf("%d events", n)
	}
}

// A probe asks for the health, with the token, and sends nothing.
func TestSplunkProbe(t *testing.T) {
	for name, test := range map[string]struct {
		settings hec.Settings
		want     string
	}{
		"healthy":        {hec.Settings{}, "delivered"},
		"queues full":    {hec.Settings{Busy: true}, "again"},
		"another token":  {hec.Settings{Token: "another"}, "paused: unauthorized"},
		"token disabled": {hec.Settings{Disabled: true}, "paused: unauthorized"},
	} {
		c, url := collector(t, test.settings)
		err := splunkTo(t, url).Probe(t.Context())
		if got := verdict(err); got != test.want {
			t.Errorf("%s: %s: %v", name, got, err)
		}
		if _, requests, _ := c.Counts(); requests != 0 {
			t.Errorf("%s: %d requests", name, requests)
		}
	}
	if err := splunkTo(t, answering(t, 200, "<html>")).Probe(t.Context()); verdict(err) != "paused: not_found" {
		t.Errorf("something else: %v", err)
	}
}
