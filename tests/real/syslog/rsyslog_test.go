//go:build real

// Package syslog_test runs the daemon with the sink syslog against Debian's rsyslog.
package syslog_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	stored "github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/sinks"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/certs"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/daemon"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/program"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	within   = 5 * time.Minute // for what takes moments on a machine with nothing else to do
	events   = 20_000
	rate     = 4000 // notifications per second
	restarts = 2    // at a third and at two thirds
)

// rsyslog is a server that can be restarted. It has the configuration that docs/sinks.md shows.
type rsyslog struct {
	tcp, tls int // ports
	ca       string
	file     string // where it writes events

	cert, key string // its own, which a client may use too

	path string
	args []string
	dir  string
	*program.Process
}

func newRsyslog(t *testing.T, replace ...string) *rsyslog {
	t.Helper()
	doc, err := os.ReadFile(filepath.Join(daemon.Root(t), "docs", "sinks.md"))
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)\n```rsyslog\n(.*?)```\n").FindSubmatch(doc)
	if block == nil {
		t.Fatal("docs/sinks.md shows no configuration of rsyslog")
	}
	ca, dir := certs.NewAuthority(t), t.TempDir()
	cert, key := ca.Issue(t, certs.Request{}).WriteFiles(t, dir)
	r := &rsyslog{
		tcp: program.FreePort(t), tls: program.FreePort(t), ca: ca.WriteFile(t), file: filepath.Join(dir, "events.log"),
		path: program.Look(t, "rsyslogd", "rsyslog"), dir: dir, cert: cert, key: key,
	}
	text := strings.NewReplacer(append(replace,
		"/var/spool/rsyslog", dir, "/etc/rsyslog.d/ca.pem", r.ca, "/etc/rsyslog.d/cert.pem", cert, "/etc/rsyslog.d/key.pem", key,
		"/var/log/hmc-events.log", r.file,
		`port="601"`, fmt.Sprintf(`address="127.0.0.1" port="%d"`, r.tcp), `port="6514"`, fmt.Sprintf(`address="127.0.0.1" port="%d"`, r.tls),
	)...).Replace(string(block[1]))
	file := filepath.Join(dir, "rsyslog.conf")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, status := program.Output(t, within, r.path, "-N1", "-f", file); status != 0 {
		t.Fatalf("rsyslogd -N1: exit status %d\n%s", status, out)
	}
	r.args = []string{"-n", "-f", file, "-i", "NONE"}
	r.start(t)
	return r
}

func (r *rsyslog) start(t *testing.T) {
	t.Helper()
	r.Process = program.Start(t, program.Options{Name: "rsyslogd", Path: r.path, Args: r.args, Dir: r.dir})
	r.Await(t, within, func() error {
		for _, port := range []int{r.tcp, r.tls} {
			conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
			if err != nil {
				return err
			}
			_ = conn.Close()
		}
		return nil
	})
}

func (r *rsyslog) restart(t *testing.T) {
	t.Helper()
	if status := r.Terminate(t, within); status != 0 {
		t.Errorf("rsyslogd: exit status %d after SIGTERM", status)
	}
	r.start(t)
}

// event is what the test looks at of an event.
type event struct {
	ID, Type, Severity, HMC string
	Time                    time.Time
	Resource                struct{ Class, Name, CPC string }
}

// publish publishes property changes and waits until they are gone. Some of the names are of the kind that syslog has to escape.
func publish(t *testing.T, sim *hmcsim.HMC) {
	t.Helper()
	start, partitions := time.Now(), sim.Partitions()
	strange := []string{`say "hi"`, `a]b[c`, `back\slash`, "Zürich", "d=e f"}
	for i := 0; i < events; {
		for due := min(events, int(time.Since(start).Seconds()*rate)+1); i < due; i++ {
			p := partitions[i%len(partitions)]
			if n := i % (2 * len(partitions)); n < len(strange) {
				p = hmcsim.PartitionInfo{Name: strange[n], URI: "/api/partitions/" + strconv.Itoa(n), Class: "partition"}
			}
			sim.Publish("object", []hmcsim.Header{
				{Name: "notification-type", Value: "property-change"},
				{Name: "class", Value: p.Class},
				{Name: "name", Value: p.Name},
				{Name: "object-uri", Value: p.URI},
				{Name: "property-names", Value: " description "},
			}, fmt.Appendf(nil, `{"change-reports":[{"property-name":"description","old-value":null,"new-value":"%d"}]}`, i))
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// TestRestarted has rsyslog receive events, and restarts it while they come. At the end its file holds each at least once, and
// what it took for the fields of a message is what the event says.
func TestRestarted(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, address, settings string }{
		{"TCP, octet counting", "tcp://127.0.0.1:TCP", ""},
		{"TCP, LF", "tcp://127.0.0.1:TCP", ", framing: lf"},
		{"TLS", "tls://127.0.0.1:TLS", ", tls: {ca_file: server-ca.pem}"},
	} {
		t.Run(test.name, func(t *testing.T) {
			server := newRsyslog(t)
			sim := hmctest.Start(t, hmcsim.Options{Name: "east", Partitions: 12})
			ca, err := os.ReadFile(server.ca)
			if err != nil {
				t.Fatal(err)
			}
			address := strings.NewReplacer("TCP", strconv.Itoa(server.tcp), "TLS", strconv.Itoa(server.tls)).Replace(test.address)
			d := daemon.Start(t, daemon.Options{
				Files: map[string]string{"ca.pem": string(sim.CACertPEM()), "server-ca.pem": string(ca)},
				Config: fmt.Sprintf(`hmcs:
- {name: hmc-east, hosts: [%q], rest_port: %d, stomp_port: %d, userid: %s, password: %s, tls: {ca_file: ca.pem}, rest_requests_per_minute: 10000}
sinks:
- {name: siem, syslog: {address: %q, hostname: bridge.example.com%s}, match: [{type: [property-change]}], retry: {initial: 50ms, max: 500ms}}
- {name: file, log: {output: events.log}, match: [{type: [property-change]}]}
`, sim.Host(), sim.RESTPort(), sim.StompPort(), hmcsim.DefaultUserid, hmcsim.DefaultPassword, address, test.settings),
			})
			d.AwaitReady(t, within)

			var publishing sync.WaitGroup
			publishing.Go(func() { publish(t, sim) })
			defer publishing.Wait()
			for i := range restarts {
				d.Process.Await(t, within, func() error {
					if n := d.Metric(t, "hmcnotifyd_sink_events_total", "sink", "siem", "outcome", "delivered"); n < float64((i+1)*events/(restarts+1)) {
						return fmt.Errorf("%v events are delivered", n)
					}
					return nil
				})
				server.restart(t)
			}
			d.AwaitMetric(t, within, events, "hmcnotifyd_sink_events_total", "sink", "siem", "outcome", "delivered")
			d.AwaitMetric(t, within, events, "hmcnotifyd_sink_events_total", "sink", "file", "outcome", "delivered")
			attempts := d.Metric(t, "hmcnotifyd_sink_attempts_total", "sink", "siem", "outcome", "retry")
			d.Stop(t)
			if status := server.Terminate(t, within); status != 0 {
				t.Errorf("rsyslogd: exit status %d after SIGTERM", status)
			}

			kept := make(map[string]string)
			for _, line := range lines(t, filepath.Join(d.Dir, "events.log")) {
				var e event
				if err := json.Unmarshal([]byte(line), &e); err != nil {
					t.Fatalf("%v: %.300s", err, line)
				}
				kept[e.ID] = line
			}
			if len(kept) != events {
				t.Fatalf("%d events were stored of %d", len(kept), events)
			}
			received := make(map[string]int)
			all := lines(t, server.file)
			for _, line := range all {
				received[check(t, line, kept)]++
				if t.Failed() {
					t.Fatalf("the line is %.1000s", line)
				}
			}
			missing := 0
			for id := range kept {
				if received[id] == 0 {
					missing++
				}
			}
			if missing > 0 {
				t.Errorf("%d events are missing", missing)
			}
			t.Logf("%d lines of %d events after %d restarts, %v failed attempts", len(all), events, restarts, attempts)
		})
	}
}

// TestClientCertificate has rsyslog want a certificate of its clients. That there is none it finds after the handshake, when the
// client thinks that all is well.
func TestClientCertificate(t *testing.T) {
	t.Parallel()
	server := newRsyslog(t, `authMode="anon"`, `authMode="x509/certvalid"`)
	at := time.Now()
	rs := []stored.Record{stored.NewRecord(&stored.Event{
		ID: "0123", HMC: "hmc-east", Type: stored.TypeBridgeTest, Time: at, Received: at, Origin: stored.OriginBridge, Severity: stored.SeverityInfo,
	})}
	for _, with := range []bool{false, true} {
		cfg := &config.Syslog{
			Address: fmt.Sprintf("tls://127.0.0.1:%d", server.tls), Framing: config.FramingOctetCounting, Facility: "local0", AppName: "hmcnotifyd",
			MaxSize: 8000, TLS: config.SyslogTLS{TLS: config.TLS{CAFile: server.ca}},
		}
		if with {
			cfg.TLS.CertFile, cfg.TLS.KeyFile = server.cert, server.key
		}
		s, err := sinks.New(config.Sink{Name: "siem", Syslog: cfg, Timeout: within}, sinks.Options{})
		if err != nil {
			t.Fatal(err)
		}
		probed, sent := s.Probe(t.Context()), s.Send(t.Context(), rs)
		t.Logf("with a certificate %v: Probe: %v; Send: %v", with, probed, sent)
		if (probed == nil) != with || (sent == nil) != with {
			t.Error("not as expected")
		}
		if !with && !strings.Contains(fmt.Sprint(probed), "tls.cert_file") {
			t.Error("Probe does not say what to do")
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	if status := server.Terminate(t, within); status != 0 {
		t.Errorf("rsyslogd: exit status %d after SIGTERM", status)
	}
	if all := lines(t, server.file); len(all) != 1 {
		t.Errorf("%d lines: %q", len(all), all)
	}
}

// check compares the fields of a line with the event, and returns its id.
func check(t *testing.T, line string, kept map[string]string) string {
	t.Helper()
	fields := strings.Split(line, "\t")
	if len(fields) != 10 {
		t.Errorf("%d fields", len(fields))
		return ""
	}
	text := fields[9]
	var e event
	if err := json.Unmarshal([]byte(text), &e); err != nil {
		t.Error(err)
		return ""
	}
	if text != kept[e.ID] {
		t.Errorf("the event is\n%s\nnot\n%s", text, kept[e.ID])
	}
	at, err := time.Parse(time.RFC3339Nano, fields[0])
	if err != nil || !at.Equal(e.Time) {
		t.Errorf("the time is %s, not %s", fields[0], e.Time)
	}
	want := []string{e.Severity, "bridge.example.com", "hmcnotifyd", e.Type, e.HMC, e.Resource.CPC, e.Resource.Name, e.ID}
	for i, name := range []string{"severity", "host", "app name", "message id", "HMC", "CPC", "partition", "id"} {
		if fields[i+1] != want[i] {
			t.Errorf("%s is %q, not %q", name, fields[i+1], want[i])
		}
	}
	return e.ID
}

func lines(t *testing.T, path string) []string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for line := range bytes.Lines(data) {
		all = append(all, strings.TrimSuffix(string(line), "\n"))
	}
	return all
}
