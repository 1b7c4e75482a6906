// Package hostile_test holds the daemon to docs/security.md: what somebody who reaches its port, an
// HMC that has gone mad, or whoever writes on the console of a partition cannot do. The daemon is
// the program that users run, with 256 MiB of memory; while it is attacked it has to answer
// /-/healthy all the time, and to lose nothing that it has counted.
package hostile_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hmcnotifyd/hmcnotifyd/tests/real/daemon"
	"github.com/hmcnotifyd/hmcnotifyd/tests/soak"
)

// TestMain builds the program once.
func TestMain(m *testing.M) {
	if url := os.Getenv(probeVariable); url != "" {
		probe(url)
		return
	}
	if os.Getenv(daemon.BinaryVariable) == "" {
		dir, err := os.MkdirTemp("", "hostile")
		if err != nil {
			panic(err)
		}
		path := filepath.Join(dir, "hmcnotifyd")
		cmd := exec.CommandContext(context.Background(), "go", "build", "-ldflags=-s -w", "-o", path, "github.com/hmcnotifyd/hmcnotifyd/cmd/hmcnotifyd")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			panic(fmt.Sprintf("go build: %v\n%s", err, out))
		}
		if err := os.Setenv(daemon.BinaryVariable, path); err != nil {
			panic(err)
		}
		goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
			_ = os.RemoveAll(dir)
			os.Exit(code)
		}))
	}
	goleak.VerifyTestMain(m)
}

const (
	// within is how long a test waits for something that takes moments on a machine with
	// nothing else to do.
	within = 5 * time.Minute
	// endsWithin is how long the daemon may take after SIGTERM: 18 s, and what the machine needs to
	// write down what is left and to end the process.
	endsWithin = 25 * time.Second
	// memory is what the daemon has.
	memory = 256 << 20
)

// victim is a daemon under attack.
type victim struct {
	*daemon.Daemon
	cgroup string // "": it has none
	judge  func()
	// password of the web side; "": it has none
	password string
}

// start starts a daemon with limited memory, watches its health until the test ends, and then looks
// at how much memory it has taken.
func start(t *testing.T, opts daemon.Options) *victim {
	t.Helper()
	v := &victim{cgroup: newCgroup(t)}
	if opts.Client != nil {
		v.password = opts.Client.Transport.(operator).password
	}
	if v.cgroup != "" {
		opts.Wrap = []string{"/bin/sh", "-c", `echo $$ >"$0/cgroup.procs" && exec "$@"`, v.cgroup}
	} else {
		opts.Env = append(opts.Env, "GOMEMLIMIT="+strconv.Itoa(memory))
	}
	v.Daemon = daemon.Start(t, opts)
	stopProbe := v.startProbe(t)
	v.judge = sync.OnceFunc(func() {
		peak := v.peak()
		slowest, problem := stopProbe()
		if problem != "" {
			t.Errorf("/-/healthy: %s", problem)
		}
		t.Logf("slowest answer of /-/healthy: %v, peak of memory: %d MiB (cgroup %q)", slowest.Round(time.Millisecond), peak>>20, v.cgroup)
		if limit := time.Duration(soak.Count(t, "HEALTHY_MS", 10_000, 1_000)) * time.Millisecond; slowest > limit {
			t.Errorf("/-/healthy took %v", slowest)
		}
		// In a cgroup the kernel ends what takes more. The peak has pages of files in it, which are not the
		// daemon's alone.
		if peak == 0 || v.cgroup == "" && peak > memory {
			t.Errorf("it took %d MiB", peak>>20)
		}
	})
	t.Cleanup(v.judge)
	return v
}

// end judges the daemon, ends it by SIGTERM, and says how long that took.
func (v *victim) end(t *testing.T) {
	t.Helper()
	v.judge()
	began := time.Now()
	v.Stop(t)
	took := time.Since(began).Round(time.Millisecond)
	t.Logf("SIGTERM took %v", took)
	if took > endsWithin {
		t.Errorf("it took more than %v", endsWithin)
	}
}

// newCgroup makes a memory cgroup with the limit; "": this machine does not let us.
func newCgroup(t *testing.T) string {
	for base, limit := range map[string]string{"/sys/fs/cgroup/memory": "memory.limit_in_bytes", "/sys/fs/cgroup": "memory.max"} {
		dir := filepath.Join(base, fmt.Sprintf("hmcnotifyd-test-%d-%d", os.Getpid(), time.Now().UnixNano()))
		if err := os.Mkdir(dir, 0o755); err != nil {
			continue
		}
		file, err := os.OpenFile(filepath.Join(dir, limit), os.O_WRONLY, 0) // there only where this is a cgroup
		if err == nil {
			_, err = file.WriteString(strconv.Itoa(memory))
			err = errors.Join(err, file.Close())
		}
		if err != nil {
			_ = os.Remove(dir)
			continue
		}
		t.Cleanup(func() {
			for range 100 { // until the kernel has seen that the process is gone
				if os.Remove(dir) == nil {
					return
				}
				time.Sleep(50 * time.Millisecond)
			}
		})
		return dir
	}
	return ""
}

// peak is the most memory that the daemon had, in bytes, with what it had of files; 0: it is gone.
func (v *victim) peak() int64 { return v.field("status", "VmHWM:") << 10 }

func (v *victim) field(file, name string) int64 {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/%s", v.Process.PID(), file))
	_, rest, _ := strings.Cut(string(text), name)
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		return 0
	}
	n, _ := strconv.ParseInt(fields[0], 10, 64)
	return n
}

const probeVariable = "HMCNOTIFYD_HOSTILE_PROBE"

// startProbe asks for the health of the daemon until the function it returns is called, which returns how long the slowest
// answer took, and what was wrong. A process of its own does that: the attackers keep this one busy.
func (v *victim) startProbe(t *testing.T) func() (slowest time.Duration, problem string) {
	t.Helper()
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), probeVariable+"="+v.URL, "HMCNOTIFYD_HOSTILE_PASSWORD="+v.password)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return func() (slowest time.Duration, problem string) {
		_ = stdin.Close()
		if err := cmd.Wait(); err != nil {
			return 0, fmt.Sprintf("the probe: %v: %s", err, out.String())
		}
		first, problem, _ := strings.Cut(out.String(), "\n")
		slowest, err := time.ParseDuration(first)
		if err != nil {
			problem = out.String()
		}
		return slowest, strings.TrimSpace(problem)
	}
}

// probe asks as a probe of Kubernetes does, each time over a new connection, until standard input ends.
func probe(url string) {
	ended := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(ended)
	}()
	client := &http.Client{Transport: operator{os.Getenv("HMCNOTIFYD_HOSTILE_PASSWORD")}, Timeout: within}
	var slowest time.Duration
	asked, cut := 0, 0
	problem := ""
	for {
		select {
		case <-ended:
			if problem == "" && cut > 2+asked/20 {
				problem = fmt.Sprintf("%d of %d connections were cut", cut, asked)
			}
			fmt.Printf("%v\n%s\n", slowest, problem)
			return
		case <-time.After(50 * time.Millisecond):
		}
		began := time.Now()
		status, _, err := ask(context.Background(), client, http.MethodGet, url+"/-/healthy", nil)
		// On a machine without time for it a connection may not be served before it gives way to another one.
		for err != nil && time.Since(began) < within {
			cut++
			status, _, err = ask(context.Background(), client, http.MethodGet, url+"/-/healthy", nil)
		}
		asked++
		slowest = max(slowest, time.Since(began))
		if (err != nil || status != http.StatusOK) && problem == "" {
			problem = fmt.Sprintf("after %v: status %d, %v", time.Since(began), status, err)
		}
	}
}

// operator makes each request over a new connection, with the password where there is one.
type operator struct{ password string }

func (o operator) RoundTrip(r *http.Request) (*http.Response, error) {
	if o.password != "" {
		r = r.Clone(r.Context())
		r.SetBasicAuth("ops", o.password)
	}
	return (&http.Transport{
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	}).RoundTrip(r)
}

// ask makes a request and returns status and body.
func ask(ctx context.Context, client *http.Client, method, url string, header http.Header) (int, string, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, http.NoBody)
	if err != nil {
		return 0, "", err
	}
	for name, values := range header {
		req.Header[name] = values
		if name == "Host" {
			req.Host = values[0]
		}
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	if resp.Header.Get("Content-Type") == "text/event-stream" {
		return resp.StatusCode, "", nil // it does not end
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return resp.StatusCode, string(body), err
}

// newClient is a client whose connections end with the test.
func newClient(t *testing.T) *http.Client {
	transport := &http.Transport{MaxIdleConnsPerHost: 100}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: within}
}

// idle is a configuration whose HMC does not exist.
const idle = "hmcs: [{name: east, hosts: [127.0.0.1], rest_port: 9, stomp_port: 10, userid: u, password: p}]\n" +
	"sinks:\n- {name: none, log: {output: /dev/null}}\n"
