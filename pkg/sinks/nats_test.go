package sinks

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/program"
)

const (
	natsUser     = "hmcnotifyd"
	natsPassword = "p4ssw0rd-of-the-stream"
	natsStream   = "HMC"
)

// natsServer is a real server with JetStream in files, that may be stopped and started again at the same address.
type natsServer struct {
	t       testing.TB
	options server.Options
	server  *server.Server
}

func startNATS(t testing.TB, change ...func(*server.Options)) *natsServer {
	t.Helper()
	s := &natsServer{t: t, options: server.Options{
		Host: "127.0.0.1", Port: program.FreePort(t), NoLog: true, NoSigs: true,
		JetStream: true, StoreDir: t.TempDir(), MaxPayload: 16 << 20,
		Username: natsUser, Password: natsPassword,
	}}
	for _, c := range change {
		c(&s.options)
	}
	s.start()
	t.Cleanup(s.stop)
	return s
}

func (s *natsServer) start() {
	s.t.Helper()
	options := s.options
	options.AuthTimeout = patience.Seconds() // for a slow machine
	var err error
	if s.server, err = server.NewServer(&options); err != nil {
		s.t.Fatal(err)
	}
	s.server.Start()
	if !s.server.ReadyForConnections(patience) {
		s.t.Fatal("the server does not start")
	}
	addr, ok := s.server.Addr().(*net.TCPAddr)
	if !ok {
		s.t.Fatalf("%T", s.server.Addr())
	}
	s.options.Port = addr.Port
}

func (s *natsServer) stop() {
	s.server.Shutdown()
	s.server.WaitForShutdown()
}

func (s *natsServer) url() string { return fmt.Sprintf("nats://127.0.0.1:%d", s.options.Port) }

// client connects with all rights.
func (s *natsServer) client() (*nats.Conn, jetstream.JetStream) {
	s.t.Helper()
	nc, js := s.connect(nats.UserInfo(natsUser, natsPassword))
	s.t.Cleanup(nc.Close)
	return nc, js
}

func (s *natsServer) connect(options ...nats.Option) (*nats.Conn, jetstream.JetStream) {
	s.t.Helper()
	nc, err := nats.Connect(s.url(), append(options, nats.Timeout(patience))...)
	if err != nil {
		s.t.Fatal(err)
	}
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(patience))
	if err != nil {
		s.t.Fatal(err)
	}
	return nc, js
}

// natsStreamConfig is that of a stream in memory: the server goes on with the files of one that was deleted after it has
// answered, and takes those of one with the same name that is made meanwhile.
func natsStreamConfig() jetstream.StreamConfig {
	return jetstream.StreamConfig{Name: natsStream, Subjects: []string{"hmc.>"}, Storage: jetstream.MemoryStorage, Duplicates: time.Hour}
}

func (s *natsServer) addStream(js jetstream.JetStream, change ...func(*jetstream.StreamConfig)) {
	s.t.Helper()
	cfg := natsStreamConfig()
	for _, c := range change {
		c(&cfg)
	}
	if _, err := js.CreateOrUpdateStream(s.t.Context(), cfg); err != nil {
		s.t.Fatal(err)
	}
}

func (s *natsServer) deleteStream(js jetstream.JetStream) {
	s.t.Helper()
	if err := js.DeleteStream(s.t.Context(), natsStream); err != nil {
		s.t.Fatal(err)
	}
}

// messages returns all messages of the stream.
func (s *natsServer) messages(js jetstream.JetStream) []*jetstream.RawStreamMsg {
	s.t.Helper()
	ctx := context.WithoutCancel(s.t.Context())
	stream, err := js.Stream(ctx, natsStream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil
	}
	if err != nil {
		s.t.Fatal(err)
	}
	state := stream.CachedInfo().State
	var all []*jetstream.RawStreamMsg
	for seq := state.FirstSeq; seq <= state.LastSeq && seq > 0; seq++ {
		m, err := stream.GetMsg(ctx, seq)
		if err != nil {
			s.t.Fatal(err)
		}
		all = append(all, m)
	}
	return all
}

func natsConfig(s *natsServer) config.Sink {
	return config.Sink{
		NATS: &config.NATS{
			Servers: []string{s.url()}, Subject: config.DefaultSubject,
			NATSLogon: config.NATSLogon{Userid: natsUser, Password: config.NewSecret(natsPassword)},
		},
		Batch: config.Batch{MaxEvents: 1}, Concurrency: 4, Timeout: patience,
	}
}

func natsTo(t testing.TB, s *natsServer, change ...func(*config.Sink)) *natsSink {
	t.Helper()
	cfg := natsConfig(s)
	cfg.Name = "stream"
	for _, c := range change {
		c(&cfg)
	}
	sink, err := New(cfg, Options{Version: "1.2.3"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sink.Close() })
	n, ok := sink.(*natsSink)
	if !ok {
		t.Fatalf("%T", sink)
	}
	return n
}

// The far side of a NATS sink: a real server. What it cannot be made to do, a client does in the place of the stream.
func newNATSPeer(t *testing.T) *peer {
	s := startNATS(t)
	nc, js := s.client()
	s.addStream(js)
	var (
		state    atomic.Int32
		visits   atomic.Int32
		mu       sync.Mutex
		instead  *nats.Subscription
		received []json.RawMessage // by streams that are gone
	)
	// A plain subscriber sees all that is offered.
	visitor, err := nc.Subscribe("hmc.>", func(*nats.Msg) { visits.Add(1) })
	if err == nil {
		err = nc.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	kept := func() []json.RawMessage {
		var all []json.RawMessage
		for _, m := range s.messages(js) {
			all = append(all, m.Data)
		}
		return all
	}
	return &peer{
		cfg:     natsConfig(s),
		secrets: []string{natsPassword},
		can:     []behavior{refuse, busy, hang, pause, refuseLarge},
		behave: func(b behavior) {
			mu.Lock()
			defer mu.Unlock()
			state.Store(int32(b))
			if instead != nil {
				if err := instead.Unsubscribe(); err != nil {
					t.Error(err)
				}
				instead = nil
			}
			switch b {
			case accept:
				s.addStream(js)
			case refuse:
				s.addStream(js, func(c *jetstream.StreamConfig) { c.MaxMsgSize = 100 })
			case refuseLarge:
				s.addStream(js, func(c *jetstream.StreamConfig) { c.MaxMsgSize = manyBytes })
			case busy, hang, pause:
				received = append(received, kept()...)
				s.deleteStream(js)
				if b == pause { // nobody is there
					if err := errors.Join(visitor.Unsubscribe(), nc.Flush()); err != nil {
						t.Error(err)
					}
					break
				}
				var err error
				instead, err = nc.Subscribe("hmc.>", func(m *nats.Msg) {
					if b == busy {
						_ = m.Respond([]byte(`{"error":{"code":503,"err_code":10077,"description":"maximum messages exceeded"}}`))
					}
				})
				if err == nil {
					err = nc.Flush()
				}
				if err != nil {
					t.Fatal(err)
				}
			}
		},
		hanging: func() bool { return visits.Load() > 0 },
		received: func() []json.RawMessage {
			mu.Lock()
			defer mu.Unlock()
			return append(slices.Clip(received), kept()...)
		},
		visitors: func() int { return int(visits.Load()) },
		leave:    s.stop,
	}
}

// keyed returns a record of a resource of its own.
func keyed(n int, resource string) event.Record {
	r := event.NewRecord(&event.Event{
		ID: event.NewID("keyed", strconv.Itoa(n)), HMC: "hmc-east", Type: event.TypeStatusChange, Origin: event.OriginLive,
		Time: time.Unix(int64(n), 0), Received: time.Unix(int64(n), 0), Severity: event.SeverityInfo,
		Resource: &event.Resource{Class: "partition", Name: resource, CPC: "CPC 1", ObjectURI: "/api/partitions/" + resource},
	})
	return r
}

func TestNATSMessage(t *testing.T) {
	s := startNATS(t)
	_, js := s.client()
	s.addStream(js)
	n := natsTo(t, s, func(c *config.Sink) { c.NATS.Subject = "hmc.{hmc}.{type}.{cpc}.{class}.{name}.{severity}" })
	r := keyed(1, "A.B *>")
	if err := n.Send(t.Context(), []event.Record{r}); err != nil {
		t.Fatal(err)
	}
	bridge := event.NewRecord(&event.Event{ID: "b", HMC: "west", Type: event.TypeBridgeGap, Severity: event.SeverityWarning})
	if err := n.Send(t.Context(), []event.Record{bridge}); err != nil {
		t.Fatal(err)
	}
	all := s.messages(js)
	if len(all) != 2 {
		t.Fatalf("%d messages", len(all))
	}
	m := all[0]
	if m.Subject != "hmc.hmc-east.status-change.CPC_1.partition.A_B___.info" || !bytes.Equal(m.Data, r.JSON) {
		t.Errorf("%s: %s", m.Subject, m.Data)
	}
	want := nats.Header{
		"Nats-Msg-Id": {r.ID}, "Hmcnotifyd-Type": {"status-change"}, "Hmcnotifyd-Hmc": {"hmc-east"}, "Hmcnotifyd-Severity": {"info"},
	}
	if !maps.EqualFunc(m.Header, want, slices.Equal) {
		t.Errorf("header %v, want %v", m.Header, want)
	}
	if all[1].Subject != "hmc.west.bridge-gap._._._.warning" {
		t.Error(all[1].Subject)
	}
}

// The stream keeps an event once, however often and in whatever company it is sent, also by another process.
func TestNATSOnce(t *testing.T) {
	s := startNATS(t)
	_, js := s.client()
	s.addStream(js)
	rs := records(0, 20)
	for range 2 {
		n := natsTo(t, s)
		for _, batch := range [][]event.Record{rs, rs[5:9], rs[9:10]} {
			if err := n.Send(t.Context(), batch); err != nil {
				t.Fatal(err)
			}
		}
	}
	if all := s.messages(js); len(all) != len(rs) {
		t.Errorf("the stream holds %d messages of %d events", len(all), len(rs))
	}
}

// A server that goes away and comes back, while several lanes send: nothing is missing, nothing is there twice, and the
// events of each resource are in their order.
func TestNATSRestarts(t *testing.T) {
	t.Parallel()
	s := startNATS(t)
	nc, js := s.client()
	s.addStream(js, func(c *jetstream.StreamConfig) { c.Storage = jetstream.FileStorage })
	n := natsTo(t, s, func(c *config.Sink) { c.Timeout = 5 * time.Second })
	nc.Close()

	const lanes, batches, size = 3, 30, 20
	var (
		wg     sync.WaitGroup
		sent   atomic.Int32
		failed atomic.Int32
	)
	for lane := range lanes {
		wg.Go(func() {
			for b := range batches {
				var batch []event.Record
				for i := range size {
					batch = append(batch, keyed((lane*batches+b)*size+i, fmt.Sprintf("L%d-%d", lane, i%4)))
				}
				for len(batch) > 0 && t.Context().Err() == nil {
					err := n.Send(t.Context(), batch)
					if err == nil {
						break
					}
					failed.Add(1)
					batch, _ = left(batch, err)
					select {
					case <-time.After(10 * time.Millisecond): // the pause of a lane
					case <-t.Context().Done():
						return
					}
				}
				sent.Add(1)
			}
		})
	}
	for i := range int32(2) {
		eventually(t, "some are sent", func() bool { return sent.Load() >= (i+1)*lanes*batches/4 })
		s.stop()
		before := failed.Load()
		eventually(t, "the loss is noticed", func() bool { return failed.Load() > before })
		s.start()
	}
	wg.Wait()

	_, js = s.client()
	all := s.messages(js)
	if want := lanes * batches * size; len(all) != want {
		t.Errorf("the stream holds %d messages of %d events", len(all), want)
	}
	last := make(map[string]int64)
	ids := make(map[string]bool)
	for _, m := range all {
		r := event.Record{JSON: m.Data}
		e, err := r.Event()
		if err != nil {
			t.Fatal(err)
		}
		if ids[e.ID] {
			t.Errorf("%s is there twice", e.ID)
		}
		ids[e.ID] = true
		if at := e.Time.Unix(); at < last[e.Resource.Name] {
			t.Errorf("%s: %d comes after %d", e.Resource.Name, at, last[e.Resource.Name])
		} else {
			last[e.Resource.Name] = at
		}
	}
}

// What is wrong is said, and judged for what it is.
func TestNATSErrors(t *testing.T) {
	t.Parallel()
	permitted := func(publish, subscribe []string) func(*server.Options) {
		return func(o *server.Options) {
			o.Username, o.Password = "", ""
			o.Users = []*server.User{
				{Username: "admin", Password: "admin"},
				{Username: natsUser, Password: natsPassword, Permissions: &server.Permissions{
					Publish: &server.SubjectPermission{Allow: publish}, Subscribe: &server.SubjectPermission{Allow: subscribe},
				}},
			}
		}
	}
	inbox, all := []string{"_INBOX.>"}, []string{">"}
	for _, test := range []struct {
		name   string
		server func(*server.Options)
		stream func(*jetstream.StreamConfig) // nil: none
		sink   func(*config.Sink)
		send   string // what the error of Send tells; "": none
		probe  string // and that of Probe
	}{
		{"no stream", nil, nil, nil, `no stream takes the subject "hmc.hmc-east.status-change": add one`, `no stream takes the subject "hmc.*.*": add one`},
		{"no JetStream", func(o *server.Options) { o.JetStream = false }, nil, nil, `no stream takes the subject "hmc.hmc-east.status-change"`, "not enabled"},
		{"another subject", nil, func(c *jetstream.StreamConfig) { c.Subjects = []string{"other"} }, nil, "no stream takes the subject", "no stream takes the subject"},
		{"right stream", nil, func(*jetstream.StreamConfig) {}, func(c *config.Sink) { c.NATS.Stream = natsStream }, "", ""},
		{"wrong stream", nil, func(*jetstream.StreamConfig) {}, func(c *config.Sink) { c.NATS.Stream = "OPS" }, "is not OPS", "there is no stream OPS"},
		{"stream is full", nil, func(c *jetstream.StreamConfig) { c.MaxBytes, c.Discard = 10, jetstream.DiscardNew }, nil, "maximum bytes exceeded", ""},
		{"may not publish", permitted([]string{"other", "$JS.API.>"}, inbox), func(*jetstream.StreamConfig) {}, nil, `Permissions Violation for Publish to "hmc.hmc-east.status-change"`, ""},
		{"may not ask", permitted([]string{"hmc.>"}, inbox), func(*jetstream.StreamConfig) {}, nil, "", ""},
		{"may not hear", permitted(all, []string{"other"}), func(*jetstream.StreamConfig) {}, nil, "Permissions Violation for Subscription", "Permissions Violation for Subscription"},
		{"wrong password", nil, nil, func(c *config.Sink) { c.NATS.Password = config.NewSecret("wr0ng-p4ssword") }, "does not accept how this sink logs on", "does not accept how this sink logs on"},
		{"no password", nil, nil, func(c *config.Sink) { c.NATS.Userid, c.NATS.Password = "", config.Secret{} }, "does not accept how this sink logs on", "does not accept how this sink logs on"},
		{"no TLS", nil, nil, func(c *config.Sink) { c.NATS.TLS = &config.TLS{} }, "does not offer TLS", "does not offer TLS"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			leaksNothing(t)
			if test.server == nil {
				test.server = func(*server.Options) {}
			}
			s := startNATS(t, test.server)
			if test.stream != nil {
				user, password := natsUser, natsPassword
				if s.options.Username == "" {
					user, password = "admin", "admin"
				}
				nc, js := s.connect(nats.UserInfo(user, password))
				defer nc.Close()
				s.addStream(js, test.stream)
			}
			if test.sink == nil {
				test.sink = func(*config.Sink) {}
			}
			n := natsTo(t, s, test.sink)
			p := &peer{secrets: []string{natsPassword, "wr0ng-p4ssword"}}
			for range 2 { // the second time on the same connection, if there is one
				for what, got := range map[string]struct {
					err  error
					want string
				}{
					"Send":  {n.Send(t.Context(), records(0, 1)), test.send},
					"Probe": {n.Probe(t.Context()), test.probe},
				} {
					err := p.check(t, got.err)
					if (err == nil) != (got.want == "") || err != nil && !strings.Contains(err.Error(), got.want) {
						t.Errorf("%s: %v, want %q", what, err, got.want)
					}
					if _, permanent := errors.AsType[*PermanentError](err); permanent {
						t.Errorf("%s: %v is permanent", what, err)
					}
					if errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("%s: found out by the timeout only: %v", what, err)
					}
				}
			}
		})
	}
}

// A stream that cannot take anything is said with what to do about it.
func TestNATSStreamsThatTakeNothing(t *testing.T) {
	t.Parallel()
	for answer, want := range map[string]string{
		`{"error":{"code":503,"err_code":10077,"description":"maximum messages exceeded"}}`:                "have it discard old messages",
		`{"error":{"code":500,"err_code":10047,"description":"insufficient storage resources available"}}`: "raise the stream's limits",
		`{"error":{"code":400,"err_code":10109,"description":"invalid operation on sealed stream"}}`:       "a stream takes the subject",
	} {
		s := startNATS(t)
		nc, _ := s.client()
		if _, err := nc.Subscribe("hmc.>", func(m *nats.Msg) { _ = m.Respond([]byte(answer)) }); err != nil {
			t.Fatal(err)
		}
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
		err := natsTo(t, s, func(*config.Sink) {}).Send(t.Context(), records(0, 1))
		reason, status := ReasonOf(err)
		if got := Advice(&config.Sink{NATS: &config.NATS{}}, reason, status); !strings.Contains(got, want) {
			t.Errorf("%v: %s", err, got)
		}
		if _, paused := errors.AsType[*PausedError](err); paused != strings.Contains(answer, "sealed") {
			t.Errorf("%v: paused %v", err, paused)
		}
	}
}

// An event that is too large is refused for good, by itself: the rest of its batch arrives, and once.
func TestNATSTooLarge(t *testing.T) {
	t.Parallel()
	for name, limit := range map[string]struct {
		server func(*server.Options)
		stream func(*jetstream.StreamConfig)
	}{
		"for the server": {func(o *server.Options) { o.MaxPayload = 100_000 }, func(*jetstream.StreamConfig) {}},
		"for the stream": {func(*server.Options) {}, func(c *jetstream.StreamConfig) { c.MaxMsgSize = 100_000 }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startNATS(t, limit.server)
			nc, js := s.client()
			s.addStream(js, limit.stream)
			var offered atomic.Int32
			if _, err := nc.Subscribe("hmc.>", func(*nats.Msg) { offered.Add(1) }); err != nil {
				t.Fatal(err)
			}
			if err := nc.Flush(); err != nil {
				t.Fatal(err)
			}
			n := natsTo(t, s)
			rs := records(0, 5)
			rs[2] = largeRecord(2, 200_000)
			err := n.Send(t.Context(), rs)
			if e, ok := errors.AsType[*PermanentError](err); !ok || e.Status != http.StatusRequestEntityTooLarge {
				t.Fatalf("%T %v", err, err)
			}
			if again, refused := left(rs, err); len(again) != 0 || !slices.Equal(refused, []string{rs[2].ID}) {
				t.Errorf("%d to be sent again, refused %v", len(again), refused)
			}
			if got := len(s.messages(js)); got != 4 {
				t.Errorf("%d messages", got)
			}
			if err := nc.Flush(); err != nil {
				t.Fatal(err)
			}
			if got := offered.Load(); got > 5 {
				t.Errorf("%d events were sent for 5", got)
			}
		})
	}
}

// A batch that needs longer than the timeout comes to its end in several attempts.
func TestNATSSlow(t *testing.T) {
	t.Parallel()
	s := startNATS(t)
	nc, _ := s.client()
	got := make(map[string]int)
	var order []string
	var mu sync.Mutex
	_, err := nc.Subscribe("hmc.>", func(m *nats.Msg) {
		time.Sleep(60 * time.Millisecond) // how far away the stream is
		mu.Lock()
		defer mu.Unlock()
		id := m.Header.Get("Nats-Msg-Id")
		if got[id]++; got[id] == 1 {
			order = append(order, id)
		}
		_ = m.Respond([]byte(`{"stream":"HMC","seq":1}`))
	})
	if err == nil {
		err = nc.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	n := natsTo(t, s, func(c *config.Sink) { c.Timeout = 500 * time.Millisecond })
	var batch []event.Record
	for i := range 20 {
		batch = append(batch, keyed(i, "one"))
	}
	attempts, _ := sendAll(t, n, batch)
	mu.Lock()
	defer mu.Unlock()
	if attempts == 1 {
		t.Error("the test is not slow enough")
	}
	for i, r := range batch {
		if i >= len(order) || order[i] != r.ID {
			t.Fatalf("event %d is not at its place", i)
		}
	}
}

// A stream that refuses some events for now: none that is behind one of them arrives before it, and none arrives twice.
func TestNATSOrder(t *testing.T) {
	t.Parallel()
	s := startNATS(t)
	nc, _ := s.client()
	var (
		mu      sync.Mutex
		refused = make(map[string]bool)
		order   = make(map[string][]string) // ids that were accepted, by subject
	)
	_, err := nc.Subscribe("hmc.>", func(m *nats.Msg) {
		mu.Lock()
		defer mu.Unlock()
		if id := m.Header.Get("Nats-Msg-Id"); id[0] < '6' && !refused[id] { // a third
			refused[id] = true
			_ = m.Respond([]byte(`{"error":{"code":503,"err_code":10077,"description":"maximum messages exceeded"}}`))
		} else {
			order[m.Subject] = append(order[m.Subject], id)
			_ = m.Respond([]byte(`{"stream":"HMC","seq":1}`))
		}
	})
	if err == nil {
		err = nc.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	n := natsTo(t, s, func(c *config.Sink) { c.NATS.Subject = "hmc.{name}" })
	var batch []event.Record
	want := make(map[string][]string)
	for i := range 60 {
		name := fmt.Sprintf("R%d", i%4)
		batch = append(batch, keyed(i, name))
		want["hmc."+name] = append(want["hmc."+name], batch[i].ID)
	}
	sendAll(t, n, batch)
	mu.Lock()
	defer mu.Unlock()
	if len(refused) == 0 {
		t.Fatal("nothing was refused")
	}
	if !maps.EqualFunc(order, want, slices.Equal) {
		t.Errorf("accepted\n%v\nsent\n%v", order, want)
	}
}

// A stream that is deleted and made again under its name is written to again at once, whether or not anything was sent
// meanwhile, and also where somebody else listens to the subject, so that the server does not say that nobody is there. What
// is said while it is not there is true.
func TestNATSStreamDeleted(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		named     bool // the sink names the stream
		listener  bool
		meanwhile int // attempts
	}{
		"any stream": {false, false, 2}, "a named one": {true, false, 2}, "nobody noticed": {false, false, 0},
		"somebody listens": {false, true, 3}, "a named one, somebody listens": {true, true, 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startNATS(t)
			nc, js := s.client()
			s.addStream(js)
			if test.listener {
				if _, err := nc.Subscribe("hmc.>", func(*nats.Msg) {}); err != nil {
					t.Fatal(err)
				}
			}
			n := natsTo(t, s, func(c *config.Sink) {
				c.Timeout = 2 * time.Second
				if test.named {
					c.NATS.Stream = natsStream
				}
			})
			if _, refused := sendAll(t, n, records(0, 50)); len(refused) > 0 {
				t.Fatal(refused)
			}
			s.deleteStream(js)
			paused := 0
			for range test.meanwhile {
				err := n.Send(t.Context(), records(50, 3))
				if PauseReason(err) == PausedNotFound && strings.Contains(err.Error(), "stream") {
					paused++
				}
				if err == nil {
					t.Error("an event is accepted by nobody")
				}
				if err := n.Probe(t.Context()); PauseReason(err) != PausedNotFound {
					t.Errorf("Probe: %v", err)
				}
			}
			// At the latest the second attempt knows why nobody answers.
			if paused < test.meanwhile-1 {
				t.Errorf("%d of %d attempts said that there is no stream", paused, test.meanwhile)
			}
			s.addStream(js)
			if err := n.Probe(t.Context()); err != nil {
				t.Errorf("Probe: %v", err)
			}
			if attempts, refused := sendAll(t, n, records(50, 50)); attempts > 20 || len(refused) > 0 {
				t.Errorf("%d attempts, refused %v", attempts, refused)
			}
			if all := s.messages(js); len(all) != 50 {
				t.Errorf("%d messages", len(all))
			}
		})
	}
}

func TestNATSTLS(t *testing.T) {
	authority := newTLSServer(t)
	ca := caFile(t, authority)
	s := startNATS(t, func(o *server.Options) {
		o.TLS, o.TLSTimeout = true, patience.Seconds()
		o.TLSConfig = &tls.Config{Certificates: authority.TLS.Certificates, MinVersion: tls.VersionTLS12}
	})
	nc, js := s.connect(nats.UserInfo(natsUser, natsPassword), nats.RootCAs(ca))
	defer nc.Close()
	s.addStream(js)
	for _, test := range []struct {
		name, scheme string
		tls          *config.TLS
		want         string
	}{
		{"known", "tls", &config.TLS{CAFile: ca}, ""},
		{"known, by key", "nats", &config.TLS{CAFile: ca}, ""},
		{"known by another name", "tls", &config.TLS{CAFile: ca, ServerName: "example.com"}, ""},
		{"unverified", "tls", &config.TLS{InsecureSkipVerify: true}, ""},
		{"unknown", "tls", &config.TLS{}, "put this certificate into a file"},
		{"unknown, asked for by the server", "nats", nil, "unknown authority"},
		{"wrong name", "tls", &config.TLS{CAFile: ca, ServerName: "other.test"}, "not for other.test"},
	} {
		t.Run(test.name, func(t *testing.T) {
			n := natsTo(t, s, func(c *config.Sink) {
				c.NATS.Servers = []string{strings.Replace(s.url(), "nats", test.scheme, 1)}
				c.NATS.TLS = test.tls
			})
			for what, err := range map[string]error{"Send": n.Send(t.Context(), records(0, 1)), "Probe": n.Probe(t.Context())} {
				if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
					t.Errorf("%s: %v, want %q", what, err, test.want)
				}
			}
		})
	}
}

// The ways to log on, besides the password.
func TestNATSLogon(t *testing.T) {
	const (
		nkey  = "UDRG6NDY6USRWW23IZTPZMG2KMQZL7SLACG3MFG32OZVW3BEQNW7OCIN"
		token = "t0k3n-of-the-stream"
	)
	accounts, err := os.ReadFile("testdata/nats/accounts.conf")
	if err != nil {
		t.Fatal(err)
	}
	operator, err := filepath.Abs("testdata/nats/operator.jwt")
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		server string // of its configuration file
		sink   config.NATS
		wrong  config.NATS
	}{
		"credentials": {
			fmt.Sprintf("operator: %q\n%s", operator, accounts),
			config.NATS{NATSLogon: config.NATSLogon{CredentialsFile: "testdata/nats/user.creds"}},
			config.NATS{},
		},
		"nkey": {
			fmt.Sprintf("authorization: {users: [{nkey: %s}]}\n", nkey),
			config.NATS{NATSLogon: config.NATSLogon{NKeyFile: "testdata/nats/user.nk"}},
			config.NATS{NATSLogon: config.NATSLogon{Token: config.NewSecret(token)}},
		},
		"token": {
			fmt.Sprintf("authorization: {token: %q}\n", token),
			config.NATS{NATSLogon: config.NATSLogon{Token: config.NewSecret(token)}},
			config.NATS{NATSLogon: config.NATSLogon{Token: config.NewSecret(token + "!")}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "server.conf")
			text := fmt.Sprintf("listen: \"127.0.0.1:-1\"\njetstream: {store_dir: %q}\n%s", t.TempDir(), test.server)
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			options, err := server.ProcessConfigFile(file)
			if err != nil {
				t.Fatal(err)
			}
			options.NoLog, options.NoSigs = true, true
			s := startNATS(t, func(o *server.Options) { *o = *options })
			logon := func(c config.NATS) func(*config.Sink) {
				return func(s *config.Sink) {
					c.Servers, c.Subject = s.NATS.Servers, s.NATS.Subject
					s.NATS = &c
				}
			}
			right, wrong := natsTo(t, s, logon(test.sink)), natsTo(t, s, logon(test.wrong))
			p := &peer{secrets: []string{token, "SUA"}}
			if err := p.check(t, right.Send(t.Context(), records(0, 1))); err == nil || !strings.Contains(err.Error(), "no stream takes") {
				t.Errorf("without a stream: %v", err)
			}
			s.addStream(right.link.js)
			if err := right.Send(t.Context(), records(0, 1)); err != nil {
				t.Error(err)
			}
			if err := p.check(t, wrong.Send(t.Context(), records(0, 1))); err == nil || !strings.Contains(err.Error(), "does not accept how") {
				t.Errorf("the wrong one: %v", err)
			}
		})
	}
	if _, err := New(config.Sink{NATS: &config.NATS{Servers: []string{"nats://n"}, NATSLogon: config.NATSLogon{NKeyFile: "testdata/nats/operator.jwt"}}}, Options{}); err == nil || strings.Contains(err.Error(), "eyJ") {
		t.Errorf("a file that is no seed: %v", err)
	}
}

// stalling is a way to a server on which nothing goes on from some moment on, while all connections stay.
func stalling(t *testing.T, target string) (address string, stall func(), stalled func() int64) {
	t.Helper()
	var (
		dead  atomic.Bool
		bytes atomic.Int64
	)
	address = rawPeer(t, func(conn net.Conn) {
		defer conn.Close()
		far, err := new(net.Dialer).DialContext(t.Context(), "tcp", target)
		if err != nil {
			return
		}
		defer far.Close()
		var wg sync.WaitGroup
		for _, way := range [][2]net.Conn{{conn, far}, {far, conn}} {
			wg.Go(func() {
				defer way[1].Close()
				buf := make([]byte, 4096)
				for {
					n, err := way[0].Read(buf)
					if err != nil {
						return
					}
					if dead.Load() {
						bytes.Add(int64(n))
						<-t.Context().Done() // ends before the cleanups
						return
					}
					if _, err := way[1].Write(buf[:n]); err != nil {
						return
					}
				}
			})
		}
		wg.Wait()
	})
	return address, func() { dead.Store(true) }, bytes.Load
}

// That a subject is denied is known of each event, however many subjects there are: none waits for an answer that does not come.
func TestNATSMayPublishNothing(t *testing.T) {
	t.Parallel()
	s := startNATS(t, func(o *server.Options) {
		o.Username, o.Password = "", ""
		o.Users = []*server.User{{Username: natsUser, Password: natsPassword, Permissions: &server.Permissions{
			Publish: &server.SubjectPermission{Allow: []string{"other"}}, Subscribe: &server.SubjectPermission{Allow: []string{"_INBOX.>"}},
		}}}
	})
	n := natsTo(t, s, withTimeout(time.Hour), func(c *config.Sink) { c.NATS.Subject = "hmc.{name}" })
	rs := records(0, streamBatch)
	err := soon(t, "Send", func() error { return n.Send(t.Context(), rs) })
	for i, got := range verdicts(len(rs), err) {
		if got != "paused: unauthorized" {
			t.Fatalf("event %d: %s: %v", i, got, err)
		}
	}
}

// That the server takes no subscription more, so that no answer arrives, is said at once; the next connection may have one.
func TestNATSNoSubscriptionLeft(t *testing.T) {
	t.Parallel()
	s := startNATS(t, func(o *server.Options) { o.MaxSubs = 1 })
	_, js := s.client()
	s.addStream(js)
	n := natsTo(t, s, withTimeout(time.Hour))
	if err := n.Probe(t.Context()); err != nil { // it has one, for its own answer
		t.Fatal(err)
	}
	err := soon(t, "Send", func() error { return n.Send(t.Context(), records(0, 1)) })
	if reason, _ := ReasonOf(err); verdict(err) != "again" || reason != ReasonOverloaded || !errors.Is(err, nats.ErrMaxSubscriptionsExceeded) {
		t.Errorf("%q: %v", reason, err)
	}
	if err := soon(t, "Send", func() error { return n.Send(t.Context(), records(0, 1)) }); err != nil {
		t.Error(err)
	}
}

// What was not answered does not keep the next attempt from being made with all of its events at once, of which a stream that is
// far away answers none for a while.
func TestNATSUnanswered(t *testing.T) {
	t.Parallel()
	s := startNATS(t)
	nc, _ := s.client()
	var offered atomic.Int32
	var answering atomic.Bool
	_, err := nc.Subscribe("hmc.>", func(m *nats.Msg) {
		respond := func() { _ = m.Respond([]byte(`{"stream":"HMC","seq":1}`)) }
		if offered.Add(1) <= 2 {
			respond()
		} else if answering.Load() {
			time.AfterFunc(300*time.Millisecond, respond)
		}
	})
	if err == nil {
		err = nc.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	n := natsTo(t, s, func(c *config.Sink) { c.Concurrency = 1 })
	rs := records(0, streamBatch)
	if err := n.Send(t.Context(), rs[:1]); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := n.Send(ctx, rs); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	answering.Store(true)
	if err := n.Send(t.Context(), rs); err != nil {
		t.Error(err)
	}
}

// A server that takes nothing any more: each call is bounded, also one that is in the middle of a write, and the next
// attempt does not trust the connection.
func TestNATSStalls(t *testing.T) {
	t.Parallel()
	s := startNATS(t)
	_, js := s.client()
	s.addStream(js)
	address, stall, stalled := stalling(t, fmt.Sprintf("127.0.0.1:%d", s.options.Port))
	n := natsTo(t, s, func(c *config.Sink) { c.NATS.Servers = []string{"nats://" + address} })
	if err := n.Send(t.Context(), records(0, 1)); err != nil {
		t.Fatal(err)
	}
	n.timeout = time.Second
	first := n.link
	stall()
	large := []event.Record{largeRecord(1, 15<<20)} // more than the buffers on the way take
	result := make(chan error, 3)
	for range 3 {
		go func() { result <- n.Send(t.Context(), large) }()
	}
	eventually(t, "it is stalled", func() bool { return stalled() > 0 })
	for range 3 {
		err := soon(t, "Send", func() error { return <-result })
		if err == nil {
			t.Error("no error")
		}
	}
	if err := soon(t, "Send", func() error { return n.Send(t.Context(), records(2, 1)) }); err == nil {
		t.Error("no error")
	}
	if n.link == first {
		t.Error("the same connection is still trusted")
	}
}
