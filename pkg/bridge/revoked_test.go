package bridge

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
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
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl/scram"
	logspb "go.opentelemetry.io/proto/slim/otlp/collector/logs/v1"
	"google.golang.org/protobuf/proto"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/certs"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/program"
)

// guarded is the far side of a sink with a credential.
type guarded struct {
	// yaml is the sink's configuration but for its name.
	yaml string
	// revoke makes the credential one that is not accepted any more; mend gives the sink the new one, in a file.
	revoke, mend func()
	// got returns the events that have arrived, in their order.
	got func() []*event.Event
	// alerts says that got has none, but one for each resource.
	alerts bool
}

// A credential that is revoked under load, and mended by a file, costs nothing: no dead letter, nothing lost, the order kept;
// the daemon is not ready meanwhile, and says why; the other sinks go on.
func TestCredentialRevoked(t *testing.T) {
	t.Parallel()
	for name, far := range map[string]func(t *testing.T, dir string) guarded{
		"webhook, token": guardedWebhook, "webhook, signature": signedWebhook, "alertmanager": guardedAlertmanager,
		"kafka": guardedKafka, "nats": guardedNATS, "syslog": guardedSyslog, "otlp": guardedOTLP,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			credentialRevoked(t, far)
		})
	}
}

func credentialRevoked(t *testing.T, far func(t *testing.T, dir string) guarded) {
	sim := hmctest.Start(t, hmcsim.Options{Partitions: -1})
	d := &daemon{t: t, dir: t.TempDir(), consumer: newConsumer(t), timing: testTiming()}
	g := far(t, d.dir)
	d.start(load(t, d.dir, "hmcs:\n"+hmcYAML(t, "a", sim)+fmt.Sprintf(`
sinks:
  - {name: guarded, %s, retry: {initial: 10ms, max: 200ms}, drop: [{type: ["bridge-.*"]}]}
  - {name: hook, webhook: {url: %q}, drop: [{type: ["bridge-.*"]}]}
  - {name: file, log: {output: events.log}, drop: [{type: ["bridge-.*"]}]}
`, g.yaml, d.consumer.url())))
	d.connected("a")
	d.eventually("ready", func() bool { return d.bridge.Status().Ready })

	const partitions = 6
	n := 0
	send := func(more int) {
		t.Helper()
		for range more {
			name := "P" + strconv.Itoa(n%partitions)
			if g.alerts {
				state := []string{"stopped", "active"}[n/partitions%2]
				sim.Publish("object-notification", []hmcsim.Header{
					{Name: "notification-type", Value: "status-change"},
					{Name: "class", Value: "partition"},
					{Name: "name", Value: name},
					{Name: "object-uri", Value: "/api/partitions/" + name},
				}, fmt.Appendf(nil, `{"change-reports":[{"old-status":"x","new-status":%q,"has-unacceptable-status":%v}]}`, state, state == "stopped"))
			} else {
				publish(sim, name, strconv.Itoa(n))
			}
			n++
		}
	}
	others := func() bool {
		return len(d.consumer.got()) == n && len(d.fileEvents()) == n
	}
	send(120)
	d.eventually("all sinks have all", func() bool { return others() && d.sink("guarded").QueueEvents == 0 })

	stop, load := make(chan struct{}), sync.WaitGroup{}
	load.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				send(3)
				time.Sleep(10 * time.Millisecond)
			}
		}
	})
	g.revoke()
	d.eventually("it is paused", func() bool { return d.sink("guarded").Paused != "" })
	close(stop)
	load.Wait()
	send(60)
	s := d.bridge.Status()
	if s.Ready || len(s.Reasons) != 1 || s.Reasons[0].Sink != "guarded" || !strings.HasPrefix(s.Reasons[0].Reason, "paused (unauthorized) since ") ||
		!strings.Contains(s.Reasons[0].Reason, "(what to do: ") {
		t.Errorf("ready %v: %+v", s.Ready, s.Reasons)
	}
	if got := d.metric(`hmcnotifyd_sink_paused{reason="unauthorized",sink="guarded"}`); got != 1 {
		t.Errorf("the metric says %v", got)
	}
	d.eventually("the other sinks have all", others)
	if s := d.sink("guarded"); s.QueueEvents == 0 || s.DeadLetters != 0 || s.Accepting() {
		t.Errorf("%+v", s)
	}

	g.mend()
	d.eventually("all has arrived", func() bool { return d.sink("guarded").QueueEvents == 0 })
	d.eventually("ready", func() bool { return d.bridge.Status().Ready })
	send(30)
	d.eventually("all sinks have all", func() bool { return others() && d.sink("guarded").QueueEvents == 0 })
	if s := d.sink("guarded"); s.DeadLetters != 0 || s.Dropped != 0 || s.Paused != "" {
		t.Errorf("%+v", s)
	}
	if g.alerts {
		return
	}
	first := func(list []string) (out []string) { // what is sent again counts where it came first
		seen := make(map[string]bool)
		for _, mark := range list {
			if !seen[mark] {
				out = append(out, mark)
			}
			seen[mark] = true
		}
		return out
	}
	d.eventually("each has arrived", func() bool {
		total := 0
		for _, list := range marks(g.got()) {
			total += len(first(list))
		}
		return total == n
	})
	for partition, list := range marks(g.got()) {
		last := -1
		for _, mark := range first(list) {
			number, err := strconv.Atoi(mark)
			if err != nil || number <= last {
				t.Errorf("%s: %s after %d", partition, mark, last)
			}
			last = number
		}
	}
}

// renew replaces a file as a program does that renews credentials.
func renew(t *testing.T, path, text string) {
	t.Helper()
	if err := errors.Join(os.WriteFile(path+".new", []byte(text), 0o600), os.Rename(path+".new", path)); err != nil {
		t.Error(err)
	}
}

func guardedWebhook(t *testing.T, dir string) guarded {
	path := filepath.Join(dir, "token")
	renew(t, path, "t0ken-1")
	var token atomic.Value
	token.Store("t0ken-1")
	c := newConsumer(t)
	c.set(func(r *http.Request, _ *event.Event) int {
		if r.Header.Get("Authorization") != "Bearer "+token.Load().(string) {
			return http.StatusUnauthorized
		}
		return http.StatusOK
	})
	return guarded{
		yaml:   fmt.Sprintf(`webhook: {url: %q, http_config: {authorization: {credentials_file: token}}}`, c.url()),
		revoke: func() { token.Store("t0ken-2") },
		mend:   func() { renew(t, path, "t0ken-2") },
		got:    c.got,
	}
}

func guardedOTLP(t *testing.T, dir string) guarded {
	path := filepath.Join(dir, "token")
	renew(t, path, "t0ken-1")
	var (
		token  atomic.Value
		mu     sync.Mutex
		events []*event.Event
	)
	token.Store("t0ken-1")
	collector := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var from io.Reader = r.Body
		if z, err := gzip.NewReader(r.Body); err == nil {
			from = z
		}
		body, err := io.ReadAll(from)
		if err != nil {
			return
		}
		if r.Header.Get("Authorization") != "Bearer "+token.Load().(string) {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		var req logspb.ExportLogsServiceRequest
		if err := proto.Unmarshal(body, &req); err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		for _, of := range req.GetResourceLogs() {
			for _, record := range of.GetScopeLogs()[0].GetLogRecords() {
				for _, a := range record.GetAttributes() {
					if a.GetKey() == "log.record.original" {
						events = append(events, decoded(t, []byte(a.GetValue().GetStringValue())))
					}
				}
			}
		}
	}))
	t.Cleanup(collector.Close)
	return guarded{
		yaml:   fmt.Sprintf(`otlp: {url: "%s/v1/logs", http_config: {authorization: {credentials_file: token}}}, batch: {max_wait: 10ms}`, collector.URL),
		revoke: func() { token.Store("t0ken-2") },
		mend:   func() { renew(t, path, "t0ken-2") },
		got: func() []*event.Event {
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(events)
		},
	}
}

func signedWebhook(t *testing.T, dir string) guarded {
	path := filepath.Join(dir, "secret")
	keys := [2][]byte{bytes.Repeat([]byte("a"), 32), bytes.Repeat([]byte("b"), 32)}
	text := func(i int) string { return "whsec_" + base64.StdEncoding.EncodeToString(keys[i]) }
	renew(t, path, text(0))
	var current atomic.Int32
	c := newConsumer(t)
	inner := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		mac := hmac.New(sha256.New, keys[current.Load()])
		_, _ = fmt.Fprintf(mac, "%s.%s.%s", r.Header.Get("Webhook-Id"), r.Header.Get("Webhook-Timestamp"), body)
		if r.Header.Get("Webhook-Signature") != "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)) {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		c.ServeHTTP(w, r)
	}))
	t.Cleanup(inner.Close)
	return guarded{
		yaml:   fmt.Sprintf(`webhook: {url: %q, secret_file: secret}`, inner.URL),
		revoke: func() { current.Store(1) },
		mend:   func() { renew(t, path, text(1)) },
		got:    c.got,
	}
}

func guardedAlertmanager(t *testing.T, dir string) guarded {
	path := filepath.Join(dir, "password")
	renew(t, path, "p4ss-1")
	var password atomic.Value
	password.Store("p4ss-1")
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if _, p, _ := r.BasicAuth(); p != password.Load().(string) {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	t.Cleanup(server.Close)
	return guarded{
		yaml:   fmt.Sprintf(`alertmanager: {urls: [%q], http_config: {basic_auth: {username: hmc, password_file: password}}}`, server.URL),
		revoke: func() { password.Store("p4ss-2") },
		mend:   func() { renew(t, path, "p4ss-2") },
		alerts: true,
	}
}

// A broker of Kafka does not look at the password again: the connections are cut when it is changed.
func guardedKafka(t *testing.T, dir string) guarded {
	const user, admin = "hmcnotifyd", "admin"
	path := filepath.Join(dir, "password")
	renew(t, path, "p4ss-1")
	c, err := kfake.NewCluster(kfake.SeedTopics(1, "hmc-events"), kfake.EnableSASL(), kfake.NumBrokers(1),
		kfake.Superuser("SCRAM-SHA-512", user, "p4ss-1"), kfake.Superuser("SCRAM-SHA-256", admin, admin))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	client := func(options ...kgo.Opt) *kgo.Client {
		options = append(options, kgo.SeedBrokers(c.ListenAddrs()...), kgo.SASL(scram.Auth{User: admin, Pass: admin}.AsSha256Mechanism()))
		cl, err := kgo.NewClient(options...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(cl.Close)
		return cl
	}
	administrator := client()
	return guarded{
		yaml: fmt.Sprintf(`kafka: {brokers: [%q], sasl: {mechanism: scram-sha-512, userid: %s, password_file: password}}`, c.ListenAddrs()[0], user),
		revoke: func() {
			req := kmsg.NewPtrAlterUserSCRAMCredentialsRequest()
			change := kmsg.NewAlterUserSCRAMCredentialsRequestUpsertion()
			change.Name, change.Mechanism, change.Iterations, change.Salt = user, 2, 4096, []byte("a grain of it")
			var err error
			if change.SaltedPassword, err = pbkdf2.Key(sha512.New, "p4ss-2", change.Salt, 4096, sha512.Size); err != nil {
				t.Error(err)
			}
			req.Upsertions = append(req.Upsertions, change)
			resp, err := req.RequestWith(t.Context(), administrator)
			if err != nil || resp.Results[0].ErrorCode != 0 {
				t.Errorf("%+v, %v", resp, err)
			}
			c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) { return nil, errors.New("cut"), true })
		},
		mend: func() { renew(t, path, "p4ss-2") },
		got: func() (events []*event.Event) {
			reader := client(kgo.ConsumeTopics("hmc-events"), kgo.FetchMaxWait(10*time.Millisecond))
			ctx, cancel := context.WithTimeout(t.Context(), within)
			defer cancel()
			end := kmsg.NewPtrListOffsetsRequest()
			topic, partition := kmsg.NewListOffsetsRequestTopic(), kmsg.NewListOffsetsRequestTopicPartition()
			topic.Topic, partition.Timestamp = "hmc-events", -1
			topic.Partitions = append(topic.Partitions, partition)
			end.Topics = append(end.Topics, topic)
			resp, err := end.RequestWith(ctx, reader)
			if err != nil {
				t.Error(err)
				return nil
			}
			for want := int(resp.Topics[0].Partitions[0].Offset); len(events) < want; {
				fetched := reader.PollFetches(ctx)
				if err := fetched.Err(); err != nil {
					t.Error(err)
					return nil
				}
				for _, r := range fetched.Records() {
					events = append(events, decoded(t, r.Value))
				}
			}
			return events
		},
	}
}

func decoded(t *testing.T, data []byte) *event.Event {
	e := new(event.Event)
	if err := json.Unmarshal(data, e); err != nil {
		t.Errorf("%v: %s", err, data)
	}
	return e
}

func guardedNATS(t *testing.T, dir string) guarded {
	path := filepath.Join(dir, "password")
	renew(t, path, "p4ss-1")
	options := func(password string) *server.Options {
		return &server.Options{
			Host: "127.0.0.1", Port: program.FreePort(t), NoLog: true, NoSigs: true, JetStream: true, StoreDir: filepath.Join(dir, "nats"), AuthTimeout: within.Seconds(),
			Users: []*server.User{{Username: "admin", Password: "admin"}, {Username: "hmc", Password: password}},
		}
	}
	first := options("p4ss-1")
	s, err := server.NewServer(first)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(within) {
		t.Fatal("the server does not start")
	}
	nc, err := nats.Connect(s.ClientURL(), nats.UserInfo("admin", "admin"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "HMC", Subjects: []string{"hmc.>"}})
	if err != nil {
		t.Fatal(err)
	}
	return guarded{
		yaml: fmt.Sprintf(`nats: {servers: [%q], userid: hmc, password_file: password}`, s.ClientURL()),
		revoke: func() {
			changed := options("p4ss-2")
			changed.Port = first.Port
			if err := s.ReloadOptions(changed); err != nil {
				t.Error(err)
			}
		},
		mend: func() { renew(t, path, "p4ss-2") },
		got: func() (events []*event.Event) {
			info, err := stream.Info(t.Context())
			if err != nil {
				t.Error(err)
				return nil
			}
			for seq := uint64(1); seq <= info.State.LastSeq; seq++ {
				m, err := stream.GetMsg(t.Context(), seq)
				if err != nil {
					t.Error(err)
					return nil
				}
				events = append(events, decoded(t, m.Data))
			}
			return events
		},
	}
}

// Over TLS 1.3 a client writes before it can know that its certificate is refused. What it has written when it gets a new one has
// not been read by anybody, and no further event has to come for it to be written again.
func TestCertificateRefusedLate(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{Partitions: -1})
	d := &daemon{t: t, dir: t.TempDir(), timing: testTiming()}
	refusal := make(chan struct{})
	refuse := sync.OnceFunc(func() { close(refusal) })
	g := syslogRefusing(t, d.dir, refusal)
	t.Cleanup(refuse)
	d.start(load(t, d.dir, "hmcs:\n"+hmcYAML(t, "a", sim)+fmt.Sprintf(`
sinks:
  - {name: guarded, %s, retry: {initial: 10ms, max: 200ms}, drop: [{type: ["bridge-.*"]}]}
`, g.yaml)))
	d.connected("a")
	has := func(n int) func() bool {
		return func() bool {
			seen := make(map[string]bool)
			for _, e := range g.got() {
				seen[e.ID] = true
			}
			return len(seen) == n && d.sink("guarded").QueueEvents == 0
		}
	}
	publish(sim, "P", "0")
	d.eventually("the first one has arrived", has(1))
	g.revoke()
	publish(sim, "P", "1")
	d.eventually("the second one is written", func() bool { return d.sink("guarded").Delivered == 2 })
	if has(2)() {
		t.Fatal("the server has read it")
	}
	g.mend()
	d.eventually("the second one has arrived", has(2))
	refuse()
	publish(sim, "P", "2")
	d.eventually("the third one has arrived", has(3))
}

// A syslog server that takes the certificates of one authority, and then those of another.
func guardedSyslog(t *testing.T, dir string) guarded {
	refusal := make(chan struct{})
	close(refusal)
	return syslogRefusing(t, dir, refusal)
}

// syslogRefusing is guardedSyslog with a server that does not refuse a certificate before refusal is closed.
func syslogRefusing(t *testing.T, dir string, refusal <-chan struct{}) guarded {
	ca, others := certs.NewAuthority(t), [2]*certs.Authority{certs.NewAuthority(t), certs.NewAuthority(t)}
	base := ca.Issue(t, certs.Request{}).ServerConfig(t)
	base.ClientAuth, base.ClientCAs = tls.RequireAndVerifyClientCert, others[0].Pool()
	second := base.Clone()
	second.ClientAuth, second.ClientCAs = tls.RequireAnyClientCert, nil
	second.VerifyConnection = func(state tls.ConnectionState) error {
		_, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: others[1].Pool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
		if err != nil {
			<-refusal
			return &tls.CertificateVerificationError{Err: err}
		}
		return nil
	}
	var (
		renewed atomic.Bool
		mu      sync.Mutex
		conns   []net.Conn
		events  []*event.Event
	)
	base.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		if renewed.Load() {
			return second, nil
		}
		return nil, nil
	}
	listener, err := tls.Listen("tcp", "127.0.0.1:0", base)
	if err != nil {
		t.Fatal(err)
	}
	cut := func() {
		mu.Lock()
		defer mu.Unlock()
		for _, c := range conns {
			_ = c.Close()
		}
	}
	var serving sync.WaitGroup
	t.Cleanup(func() { _ = listener.Close(); cut(); serving.Wait() })
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, conn)
			mu.Unlock()
			serving.Go(func() {
				defer conn.Close()
				for r := bufio.NewReader(conn); ; {
					length, err := r.ReadString(' ')
					if err != nil {
						return
					}
					n, err := strconv.Atoi(strings.TrimSuffix(length, " "))
					if err != nil {
						t.Error(err)
						return
					}
					message := make([]byte, n)
					if _, err := io.ReadFull(r, message); err != nil {
						return
					}
					mu.Lock()
					events = append(events, decoded(t, message[bytes.Index(message, []byte(`{"id":`)):]))
					mu.Unlock()
				}
			})
		}
	})
	others[0].Issue(t, certs.Request{}).WriteFiles(t, dir)
	return guarded{
		yaml: fmt.Sprintf(`syslog: {address: "tls://%s", tls: {ca_file: %q, cert_file: cert.pem, key_file: key.pem}}`, listener.Addr(), ca.WriteFile(t)),
		revoke: func() {
			renewed.Store(true)
			cut()
		},
		mend: func() { others[1].Issue(t, certs.Request{}).WriteFiles(t, dir) },
		got: func() []*event.Event {
			mu.Lock()
			defer mu.Unlock()
			return append([]*event.Event(nil), events...)
		},
	}
}
