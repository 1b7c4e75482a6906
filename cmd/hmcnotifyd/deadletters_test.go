package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/crypto/bcrypt"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/bridge"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/replay"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/web"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
)

// picky is a webhook consumer that answers what it is told to, and quotes what it was asked for.
type picky struct {
	*httptest.Server
	mu     sync.Mutex
	answer func(e *event.Event) int
	got    []string // names of the resources of what it has accepted
}

func startPicky(t *testing.T, answer func(e *event.Event) int) *picky {
	p := &picky{answer: answer}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e := new(event.Event)
		if err := json.NewDecoder(r.Body).Decode(e); err != nil {
			t.Error(err)
			return
		}
		p.mu.Lock()
		answer := p.answer
		p.mu.Unlock()
		status := answer(e)
		if status == http.StatusOK && e.Resource != nil {
			p.mu.Lock()
			p.got = append(p.got, e.Resource.Name)
			p.mu.Unlock()
		}
		w.WriteHeader(status)
		_, _ = fmt.Fprintf(w, "%s does not fit\x1b[2J%s", r.URL, strings.Repeat(" and more", 1000))
	}))
	t.Cleanup(p.Close)
	return p
}

func (p *picky) answers(answer func(e *event.Event) int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answer = answer
}

func (p *picky) accepted(name string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, got := range p.got {
		if got == name {
			n++
		}
	}
	return n
}

func acceptAll(*event.Event) int { return http.StatusOK }

// secretive is a configuration with a webhook whose address is full of secrets.
func secretive(t *testing.T, dir string, sim *hmcsim.HMC, sink, address string) string {
	t.Helper()
	path := daemonConfig(t, dir, sim, hmcsim.DefaultPassword)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head, _, _ := strings.Cut(string(text), "sinks:")
	write(t, path, head+fmt.Sprintf("sinks:\n  - {name: %s, webhook: {url: %q, secret_file: hook.secret}, concurrency: 1, retry: {initial: 10ms, max: 50ms}}\n",
		sink, address+"/s3cr3t-path/k?token=s3cr3t-token"))
	return path
}

// publish sends a notification about a partition.
func publish(t *testing.T, sim *hmcsim.HMC, partition string) {
	t.Helper()
	eventually(t, "published", func() bool {
		return sim.Publish("object-notification", []hmcsim.Header{
			{Name: "notification-type", Value: "status-change"},
			{Name: "class", Value: "partition"},
			{Name: "name", Value: partition},
			{Name: "object-uri", Value: "/api/partitions/" + partition},
		}, []byte(`{"change-reports":[{"old-status":"active","new-status":"stopped"}]}`)) > 0
	})
}

// operator calls the command against one daemon and keeps what it prints.
type operator struct {
	t    *testing.T
	url  string
	seen strings.Builder
}

func (o *operator) call(args ...string) (status int, stdout, stderr string) {
	o.t.Helper()
	status, stdout, stderr = call(append([]string{"dead-letters", "--url=" + o.url}, args...)...)
	o.seen.WriteString(stdout + stderr)
	if status != 0 && strings.Count(stderr, "\n") != 1 {
		o.t.Errorf("%v: an error is one line: %q", args, stderr)
	}
	return status, stdout, stderr
}

// list returns the letters that list --json prints.
func (o *operator) list(args ...string) []replay.DeadLetter {
	o.t.Helper()
	status, stdout, stderr := o.call(append([]string{"list", "--json"}, args...)...)
	if status != 0 || stderr != "" {
		o.t.Fatalf("list: status %d: %s", status, stderr)
	}
	var letters []replay.DeadLetter
	for dec := json.NewDecoder(strings.NewReader(stdout)); ; {
		var l replay.DeadLetter
		if err := dec.Decode(&l); err == io.EOF {
			break
		} else if err != nil {
			o.t.Fatal(err)
		}
		letters = append(letters, l)
	}
	if strings.Count(stdout, "\n") != len(letters) {
		o.t.Errorf("%d letters in %d lines", len(letters), strings.Count(stdout, "\n"))
	}
	return letters
}

func startDaemon(t *testing.T, cfg, dir string, more ...string) (*program, *operator) {
	t.Helper()
	p := start(t, nil, append([]string{"--config.file=" + cfg, "--storage.path=" + filepath.Join(dir, "data"), "--web.listen-address=127.0.0.1:0"}, more...)...)
	o := &operator{t: t, url: "http://" + p.matches(`"addresses":\["(127\.0\.0\.1:\d+)"\]`)[1]}
	eventually(t, "connected", func() bool {
		_, body := get(t, http.DefaultClient, http.MethodGet, o.url+"/metrics")
		return strings.Contains(body, `hmcnotifyd_receiver_connected{hmc="east"} 1`) || len(more) > 0
	})
	return p, o
}

// The life of dead letters as an operator sees it, while the daemon runs.
func TestDeadLetters(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{Partitions: -1})
	dir := t.TempDir()
	refused := map[string]int{"P400": 400, "P415": 415, "P413": 413}
	consumer := startPicky(t, func(e *event.Event) int {
		if e.Resource != nil && refused[e.Resource.Name] != 0 {
			return refused[e.Resource.Name]
		}
		return http.StatusOK
	})
	cfg := secretive(t, dir, sim, "ops", consumer.URL)
	p, o := startDaemon(t, cfg, dir)
	if status, stdout, stderr := o.call("list"); status != 0 || stdout != "" || stderr != "no dead letters\n" {
		t.Errorf("list of nothing: status %d, %q, %q", status, stdout, stderr)
	}
	if status, stdout, _ := o.call("replay", "--all"); status != 0 || stdout != "no dead letters\n" {
		t.Errorf("replay of nothing: status %d, %q", status, stdout)
	}
	for _, name := range []string{"P400", "P415", "P413", "GOOD"} {
		publish(t, sim, name)
	}
	eventually(t, "three are refused", func() bool { return len(o.list()) == 3 && consumer.accepted("GOOD") == 1 })
	letters := o.list("--sink=ops", "--since=1h")
	for i, status := range []int{400, 415, 413} {
		if l := letters[i]; l.Status != status || l.Sink != "ops" || l.EventType != "status-change" || l.Request != "POST "+consumer.URL+"/..." ||
			!strings.Contains(l.Reason, fmt.Sprintf("status %d", status)) || !strings.Contains(l.Reason, "does not fit") || len(l.Reason) > 400 || l.Event != nil {
			t.Errorf("letter %d: %+v", i, l)
		}
	}
	status, stdout, _ := o.call("list")
	if lines := strings.Split(stdout, "\n"); status != 0 || len(lines) != 5 || !strings.HasPrefix(lines[0], "ID                SINK  TIME                 STATUS  TYPE           SUMMARY  ") ||
		!strings.HasPrefix(lines[2], letters[1].ID+"  ops   ") || !strings.Contains(lines[2], "  415     status-change  "+letters[1].Summary) ||
		letters[1].Summary == "" || !strings.Contains(lines[2], "  webhook: "+consumer.URL+": status 415") || strings.Contains(stdout, "\x1b") {
		t.Errorf("status %d\n%s", status, stdout)
	}
	if got := o.list("--since", time.Now().Add(time.Hour).Format(time.RFC3339)); len(got) != 0 {
		t.Errorf("%+v from the future", got)
	}
	status, stdout, _ = o.call("show", "--id", letters[1].EventID)
	for _, want := range []string{"letter:   " + letters[1].ID, "status:   415", "request:  POST " + consumer.URL, "event:    status-change " + letters[1].EventID, `    "name": "P415"`} {
		if status != 0 || !strings.Contains(stdout, want) {
			t.Errorf("show: status %d, no %q in\n%s", status, want, stdout)
		}
	}
	if status, stdout, _ := o.call("show", "--json", "--sink=ops"); status != 0 || strings.Count(stdout, `"new-status":"stopped"`) != 3 || strings.Count(stdout, "\n") != 3 {
		t.Errorf("show --json: status %d\n%s", status, stdout)
	}
	if status, stdout, stderr := o.call("show", "--id=0123456789abcdef", "--id="+letters[0].ID); status != 1 || !strings.Contains(stderr, "no such dead letter: 0123456789abcdef") || !strings.Contains(stdout, letters[0].ID) {
		t.Errorf("show: status %d\n%s%s", status, stdout, stderr)
	}

	// Two are accepted now, while other events come; the third is refused for another reason.
	consumer.answers(func(e *event.Event) int {
		if e.Resource != nil && e.Resource.Name == "P415" {
			return http.StatusConflict
		}
		return http.StatusOK
	})
	stop, live := make(chan struct{}), sync.WaitGroup{}
	live.Go(func() {
		for {
			publish(t, sim, "LIVE")
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
			}
		}
	})
	status, stdout, stderr := o.call("replay", "--sink=ops")
	close(stop)
	live.Wait()
	if status != 1 || !strings.Contains(stdout, letters[1].ID+"  refused again: webhook: "+consumer.URL+": status 409 Conflict") ||
		!strings.HasSuffix(stdout, "sink ops: 2 accepted, 1 refused again, 0 not tried\n") || stderr != "hmcnotifyd: dead-letters replay: 1 letter refused again\n" {
		t.Errorf("replay: status %d\n%s%s", status, stdout, stderr)
	}
	if got := o.list(); len(got) != 1 || got[0].ID != letters[1].ID || got[0].Status != 409 || consumer.accepted("P400") != 1 || consumer.accepted("P413") != 1 {
		t.Errorf("left: %+v", got)
	}
	_, metrics := get(t, http.DefaultClient, http.MethodGet, o.url+"/metrics")
	for _, want := range []string{`hmcnotifyd_sink_dead_letters{sink="ops"} 1`, `hmcnotifyd_sink_events_total{outcome="dead_letter",sink="ops"} 3`} {
		if !strings.Contains(metrics, want) {
			t.Errorf("metrics lack %s", want)
		}
	}
	consumer.answers(func(*event.Event) int { return http.StatusServiceUnavailable })
	if status, stdout, stderr := o.call("replay", "--all"); status != 1 || stdout != "sink ops: 0 accepted, 0 refused again, 1 not tried\n" || !strings.Contains(stderr, "stopped at sink ops: webhook: "+consumer.URL+": status 503") {
		t.Errorf("replay: status %d\n%s%s", status, stdout, stderr)
	}

	// The sink is renamed while an event waits for it.
	publish(t, sim, "WAITS")
	eventually(t, "it waits", func() bool { return len(statusOf(t, o.url).Sinks) == 1 && statusOf(t, o.url).Sinks[0].QueueEvents >= 1 })
	secretive(t, dir, sim, "new", consumer.URL)
	p.signal(syscall.SIGHUP)
	eventually(t, "renamed", func() bool {
		s := statusOf(t, o.url)
		return len(s.Removed) == 1 && s.Removed[0].Name == "ops" && s.Removed[0].QueueEvents >= 1 && s.Sinks[0].Name == "new"
	})
	consumer.answers(acceptAll)
	if status, _, stderr := o.call("replay", "--sink=ops"); status != 1 || !strings.Contains(stderr, `there is no such sink: "ops" is not in the configuration`) {
		t.Errorf("replay to a sink that is gone: status %d, %s", status, stderr)
	}
	if status, stdout, stderr := o.call("replay", "--sink=ops", "--to=new"); status != 0 || stdout != "sink ops: 1 accepted to sink new, 0 refused again, 0 not tried\n" || consumer.accepted("P415") != 1 {
		t.Errorf("replay to the new sink: status %d\n%s%s", status, stdout, stderr)
	}
	if status, _, stderr := o.call("purge", "--waiting", "--sink=new"); status != 1 || !strings.Contains(stderr, "is configured") {
		t.Errorf("purge of what waits for a configured sink: status %d, %s", status, stderr)
	}
	if status, stdout, stderr := o.call("purge", "--waiting", "--sink=ops"); status != 0 || !strings.Contains(stdout, " that waited for sink ops purged\n") || len(statusOf(t, o.url).Removed) != 0 {
		t.Errorf("purge of what waits: status %d\n%s%s", status, stdout, stderr)
	}

	// What nobody wants any more.
	consumer.answers(func(*event.Event) int { return http.StatusBadRequest })
	publish(t, sim, "P400")
	publish(t, sim, "P415")
	eventually(t, "refused", func() bool { return len(o.list("--sink=new")) >= 2 })
	one := o.list()[0].ID
	if status, stdout, stderr := o.call("purge", "--id="+one); status != 0 || stdout != "1 dead letter purged\n" {
		t.Errorf("purge: status %d\n%s%s", status, stdout, stderr)
	}
	if status, _, stderr := o.call("purge", "--id="+one); status != 1 || !strings.Contains(stderr, one) {
		t.Errorf("purge of what is gone: status %d, %s", status, stderr)
	}
	if status, _, stderr := o.call("purge", "--sink=nwe"); status != 1 || !strings.Contains(stderr, "nwe") {
		t.Errorf("purge with a slip: status %d, %s", status, stderr)
	}
	if status, stdout, _ := o.call("purge", "--all"); status != 0 || !strings.HasSuffix(stdout, "purged\n") || len(o.list()) != 0 {
		t.Errorf("purge: status %d\n%s", status, stdout)
	}

	p.signal(syscall.SIGTERM)
	if status := p.wait(); status != 0 {
		t.Errorf("exit status %d", status)
	}
	if status, _, stderr := o.call("list"); status != 1 || !strings.Contains(stderr, "no answer from a daemon at "+o.url) {
		t.Errorf("without a daemon: status %d, %s", status, stderr)
	}
	for _, secret := range []string{"s3cr3t", "c2VjcmV0LW9m", hmcsim.DefaultPassword} {
		if strings.Contains(p.out.String()+o.seen.String(), secret) {
			t.Errorf("%q was printed", secret)
		}
	}
}

func statusOf(t *testing.T, base string) status.Status {
	t.Helper()
	_, body := get(t, http.DefaultClient, http.MethodGet, base+"/api/v1/status")
	var s status.Status
	if err := json.Unmarshal([]byte(body), &s); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	return s
}

// A daemon that is killed during a replay loses no letter: each is deleted after it was accepted,
// not before.
func TestReplayKilled(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{Partitions: -1})
	dir := t.TempDir()
	consumer := startPicky(t, func(*event.Event) int { return http.StatusBadRequest })
	cfg := secretive(t, dir, sim, "ops", consumer.URL)
	p, o := startDaemon(t, cfg, dir)
	const n = 20
	for i := range n {
		publish(t, sim, fmt.Sprintf("P%02d", i))
	}
	// The event of the connection is refused as well: without it the last one might still be on
	// its way, and be counted with the replay.
	eventually(t, "all are refused", func() bool { return len(o.list()) > n })
	ninth, release := make(chan struct{}), make(chan struct{})
	unblock := sync.OnceFunc(func() { close(release) })
	defer unblock()
	count := 0
	consumer.answers(func(*event.Event) int {
		if count++; count == 9 {
			close(ninth)
			<-release
		}
		return http.StatusOK
	})
	type outcome struct {
		status         int
		stdout, stderr string
	}
	done := make(chan outcome, 1)
	go func() {
		status, stdout, stderr := call("dead-letters", "replay", "--all", "--url="+o.url)
		done <- outcome{status, stdout, stderr}
	}()
	select {
	case <-ninth:
	case got := <-done:
		t.Fatalf("the replay has ended: %+v", got)
	}
	p.signal(syscall.SIGKILL)
	<-p.exited
	unblock()
	if got := <-done; got.status != 1 || !strings.Contains(got.stderr, "the connection to the daemon was lost after 8 were accepted") || strings.Count(got.stderr, "\n") != 1 {
		t.Errorf("%+v", got)
	}
	consumer.answers(acceptAll)
	_, o = startDaemon(t, cfg, dir)
	left := len(o.list())
	if left < n-8 {
		t.Errorf("%d letters are left, at most 8 were accepted", left)
	}
	if status, stdout, stderr := o.call("replay", "--all"); status != 0 || !strings.Contains(stdout, " 0 refused again, 0 not tried\n") {
		t.Errorf("status %d\n%s%s", status, stdout, stderr)
	}
	for i := range n {
		if name := fmt.Sprintf("P%02d", i); consumer.accepted(name) == 0 {
			t.Errorf("%s never arrived", name)
		}
	}
	if got := o.list(); len(got) != 0 {
		t.Errorf("%d letters are left", len(got))
	}
}

// The command reaches a daemon behind TLS and basic authentication, and says what is missing.
func TestDeadLettersOverTLS(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{Partitions: -1})
	ca, err := hmcsim.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.Certificate(hmcsim.CertificateGood)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	writeKeyPair(t, dir, cert)
	write(t, filepath.Join(dir, "web-ca.pem"), string(ca.PEM()))
	hash, err := bcrypt.GenerateFromPassword([]byte("pass:word"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	webConfig := filepath.Join(dir, "web.yaml")
	write(t, webConfig, "tls_server_config: {cert_file: web.crt, key_file: web.key}\nbasic_auth_users: {ops: "+string(hash)+"}\n")
	write(t, filepath.Join(dir, "credentials"), "ops:pass:word\n")
	write(t, filepath.Join(dir, "wrong"), "ops:wrong\n")
	write(t, filepath.Join(dir, "bad"), "nothing that is it\n")
	write(t, filepath.Join(dir, "marked"), "\ufeffops:pass:word\n")
	write(t, filepath.Join(dir, "marked-ca.pem"), "\ufeff"+string(ca.PEM()))
	_, o := startDaemon(t, daemonConfig(t, dir, sim, hmcsim.DefaultPassword), dir, "--web.config.file="+webConfig)
	o.url = strings.Replace(o.url, "http:", "https:", 1)
	trust := "--ca-file=" + filepath.Join(dir, "web-ca.pem")
	for name, test := range map[string]struct {
		args   []string
		stderr string
	}{
		"no authority":     {[]string{}, "(--ca-file names what to verify it with)"},
		"no password":      {[]string{trust}, "--credentials-file"},
		"wrong password":   {[]string{trust, "--credentials-file=" + filepath.Join(dir, "wrong")}, "does not accept the userid and password of --credentials-file"},
		"marked":           {[]string{trust, "--credentials-file=" + filepath.Join(dir, "marked")}, "marked begins with a byte order mark"},
		"marked authority": {[]string{"--ca-file=" + filepath.Join(dir, "marked-ca.pem")}, "wants a userid and a password"},
		"no credentials":   {[]string{trust, "--credentials-file=" + filepath.Join(dir, "bad")}, "USERID:PASSWORD"},
		"no file":          {[]string{trust, "--credentials-file=" + filepath.Join(dir, "none")}, "no such file"},
		"no certificates":  {[]string{"--ca-file=" + filepath.Join(dir, "bad")}, "no certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			if status, stdout, stderr := o.call(append([]string{"list"}, test.args...)...); status != 1 || !strings.Contains(stderr, test.stderr) || strings.Contains(stderr, "wrong\n") {
				t.Errorf("status %d\n%s%s", status, stdout, stderr)
			}
		})
	}
	for _, args := range [][]string{{"list"}, {"replay", "--all"}, {"purge", "--all"}} {
		if status, stdout, stderr := o.call(append(args, trust, "--credentials-file="+filepath.Join(dir, "credentials"))...); status != 0 {
			t.Errorf("%v: status %d\n%s%s", args, status, stdout, stderr)
		}
	}
}

func TestDeadLettersUsage(t *testing.T) {
	for _, test := range []struct {
		args   []string
		stderr string
	}{
		{[]string{"purge"}, "--all"},
		{[]string{"replay"}, "--all"},
		{[]string{"show"}, "--id"},
		{[]string{"purge", "--all", "--sink=x"}, "--all goes with no"},
		{[]string{"purge", "--waiting"}, "--waiting goes with --sink"},
		{[]string{"purge", "--waiting", "--sink=x", "--since=1h"}, "--waiting goes with --sink"},
		// A variable that is not set must not make it all letters.
		{[]string{"purge", "--sink=", "--since=1h"}, "--sink must not be empty"},
		{[]string{"purge", "--sink=x", "--since="}, "--since must not be empty"},
		{[]string{"replay", "--sink=", "--id=1"}, "--sink must not be empty"},
		{[]string{"replay", "--sink=x", "--to="}, "--to must not be empty"},
		{[]string{"list", "--since=yesterday"}, "yesterday"},
		{[]string{"list", "--id="}, "--id"},
		{[]string{"list", "--all"}, "--all"},
		{[]string{"list", "--url=localhost:10291"}, "--url"},
		{[]string{"list", "--url=http://ops:s3cr3t@localhost"}, "--credentials-file"},
		{[]string{"list", "--url=http://ops:s3cr3t@local host"}, "--url"},
		{[]string{"list", "--url=http://localhost/?x=1"}, "query"},
		{[]string{"list", "--url=http://example.com", "--credentials-file=x"}, "https"},
		{[]string{}, "command"},
	} {
		status, stdout, stderr := call(append([]string{"dead-letters"}, test.args...)...)
		if status != 2 || stdout != "" || !strings.Contains(stderr, test.stderr) || strings.Count(stderr, "\n") != 1 || strings.Contains(stderr, "s3cr3t") {
			t.Errorf("%v: status %d\n%s%s", test.args, status, stdout, stderr)
		}
	}
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	if status, _, stderr := call("dead-letters", "list", "--url="+other.URL); status != 1 || !strings.Contains(stderr, "is not hmcnotifyd") {
		t.Errorf("status %d, %s", status, stderr)
	}
}

// Many letters come page by page, and a replay may take longer than the web server waits for a
// request.
func TestManyDeadLetters(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	dead, err := queue.OpenDeadLetters(queue.DeadLetterOptions{Dir: data})
	if err != nil {
		t.Fatal(err)
	}
	const n = 2500
	letters := make([]queue.DeadLetter, n)
	for i := range letters {
		letters[i] = queue.DeadLetter{
			Sink: "gone", Reason: "no", EventID: fmt.Sprint("event ", i), Time: time.Now().Add(-time.Duration(n-i) * time.Minute),
			Data: fmt.Appendf(nil, `{"id":"event %d","hmc":"a","type":"bridge-test","origin":"bridge","severity":"info"}`, i),
		}
	}
	if err := dead.Put(letters...); err != nil {
		t.Fatal(err)
	}
	if err := dead.Close(); err != nil {
		t.Fatal(err)
	}
	const limit = 2 * time.Second // of a request
	slow := startPicky(t, func(*event.Event) int {
		time.Sleep(limit / 4) // for each of five letters
		return http.StatusOK
	})
	file := filepath.Join(dir, "hmcnotifyd.yaml")
	write(t, file, fmt.Sprintf("hmcs:\n  - {name: a, hosts: [127.0.0.1], rest_port: 9, userid: u, password: p}\nsinks:\n  - {name: ops, webhook: {url: %q}}\n", slow.URL))
	cfg, err := config.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	b, err := bridge.New(bridge.Options{Config: cfg, StoragePath: data})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- b.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ran; err != nil {
			t.Error(err)
		}
	}()
	eventually(t, "running", func() bool { return len(b.Status().Sinks) == 1 })
	server := httptest.NewUnstartedServer(web.NewHandler(web.Options{Bridge: func() (*bridge.Bridge, error) { return b, nil }, Status: b.Status, Gatherer: prometheus.NewRegistry()}))
	server.Config.ReadTimeout = limit
	server.Start()
	defer server.Close()
	o := &operator{t: t, url: server.URL}

	got := o.list()
	if len(got) != n || !slices.IsSortedFunc(got, func(a, b replay.DeadLetter) int { return strings.Compare(a.ID, b.ID) }) || got[n-1].EventID != "event 2499" {
		t.Fatalf("%d letters", len(got))
	}
	if _, stdout, _ := o.call("list"); strings.Count(stdout, "\n") != n+1 || strings.Count(stdout, "REASON") != 1 {
		t.Errorf("%d lines", strings.Count(stdout, "\n"))
	}
	if got := o.list("--since=100m"); len(got) != 99 && len(got) != 100 {
		t.Errorf("%d letters of 100 minutes", len(got))
	}
	args := []string{"replay", "--to=ops"}
	for i := range 5 {
		args = append(args, "--id=event "+fmt.Sprint(i))
	}
	if status, stdout, stderr := o.call(args...); status != 0 || stdout != "sink gone: 5 accepted to sink ops, 0 refused again, 0 not tried\n" {
		t.Errorf("status %d\n%s%s", status, stdout, stderr)
	}
	if status, stdout, stderr := o.call("purge", "--sink=gone"); status != 0 || stdout != fmt.Sprintf("%d dead letters purged\n", n-5) {
		t.Errorf("status %d\n%s%s", status, stdout, stderr)
	}
}

func TestWriteTable(t *testing.T) {
	letters := []replay.DeadLetter{
		{ID: "0123456789abcdef", Sink: "a", Time: time.Unix(0, 0), Status: 400, Reason: "a reason that is\ntoo long for the terminal, ééééé and goes on"},
		{ID: "0123456789abcdef", Sink: "with a long name", Time: time.Unix(0, 0), Reason: "short"},
	}
	var out bytes.Buffer
	writeTable(&out, letters, true, 90)
	lines := strings.Split(out.String(), "\n")
	if len(lines) != 4 || len([]rune(lines[1])) != 90 || !strings.HasSuffix(lines[1], "...") || !strings.HasSuffix(lines[2], "  -                      short") {
		t.Errorf("%q", lines)
	}
	out.Reset()
	writeTable(&out, letters, false, 0)
	if got := out.String(); !strings.Contains(got, "goes on\n") || strings.Contains(got, "SINK") || strings.Count(got, "\n") != 2 {
		t.Errorf("%q", got)
	}
}
