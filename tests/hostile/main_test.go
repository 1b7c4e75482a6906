// Package hostile_test holds the daemon to docs/security.md: what somebody who reaches its port, an
// HMC that has gone mad, or whoever writes on the console of a partition cannot do. The daemon is
// the program that users run, with 256 MiB of memory; while it is attacked it has to answer
// /-/healthy all the time, and to lose nothing that it has counted.
package hostile_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
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

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/tests/real/daemon"
	"github.com/hmcnotifyd/hmcnotifyd/tests/soak"
)

// TestMain builds the program once.
func TestMain(m *testing.M) {
	if os.Getenv(daemon.BinaryVariable) == "" {
		dir, err := os.MkdirTemp("", "hostile")
		if err != nil {
			panic(err)
		}
		path := filepath.Join(dir, "hmcnotifyd")
		cmd := exec.CommandContext(context.Background(), "go", "build", "-o", path, "github.com/hmcnotifyd/hmcnotifyd/cmd/hmcnotifyd")
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
	// memory is what the daemon has.
	memory = 256 << 20
)

// victim is a daemon under attack.
type victim struct {
	*daemon.Daemon
	cgroup string // "": it has none
}

// start starts a daemon with limited memory, watches its health until the test ends, and then looks
// at how much memory it has taken.
func start(t *testing.T, opts daemon.Options) *victim {
	t.Helper()
	v := &victim{cgroup: newCgroup(t)}
	if v.cgroup != "" {
		opts.Wrap = []string{"/bin/sh", "-c", `echo $$ >"$0/cgroup.procs" && exec "$@"`, v.cgroup}
	} else {
		opts.Env = append(opts.Env, "GOMEMLIMIT="+strconv.Itoa(memory))
	}
	v.Daemon = daemon.Start(t, opts)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var watching sync.WaitGroup
	var slowest time.Duration
	var problem error
	watching.Go(func() { slowest, problem = v.watchHealth(ctx) })
	t.Cleanup(func() {
		peak := v.peak()
		cancel()
		watching.Wait()
		if problem != nil {
			t.Errorf("/-/healthy: %v", problem)
		}
		t.Logf("slowest answer of /-/healthy: %v, peak of memory: %d MiB (cgroup %q)", slowest.Round(time.Millisecond), peak>>20, v.cgroup)
		if limit := time.Duration(soak.Count(t, "HEALTHY_MS", 10_000, 1_000)) * time.Millisecond; slowest > limit {
			t.Errorf("/-/healthy took %v", slowest)
		}
		if peak > memory {
			t.Errorf("it took %d MiB", peak>>20)
		}
	})
	return v
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

// peak is the most memory that the daemon had, in bytes; 0: it is gone.
func (v *victim) peak() int64 { return v.field("status", "VmHWM:") << 10 }

// resident is the memory that it has.
func (v *victim) resident() int64 { return v.field("status", "VmRSS:") << 10 }

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

// watchHealth asks as a probe of Kubernetes does, each time over a new connection, until ctx is done or
// the daemon has ended.
func (v *victim) watchHealth(ctx context.Context) (slowest time.Duration, err error) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: within}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return slowest, nil
		case <-v.Process.Exited():
			return slowest, nil // the test knows whether it was to
		case <-tick.C:
		}
		began := time.Now()
		status, _, err := ask(ctx, client, http.MethodGet, v.URL+"/-/healthy", nil)
		slowest = max(slowest, time.Since(began))
		select {
		case <-ctx.Done():
			return slowest, nil
		case <-v.Process.Exited():
			return slowest, nil
		default:
		}
		if err != nil || status != http.StatusOK {
			return slowest, fmt.Errorf("status %d, %w", status, err)
		}
	}
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

// startHMC starts a simulated HMC. It ends with the test.
func startHMC(t *testing.T, opts hmcsim.Options) *hmcsim.HMC {
	t.Helper()
	sim, err := hmcsim.Start(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sim.Close(); err != nil {
			t.Error(err)
		}
	})
	return sim
}

// entry is the configuration of a simulated HMC; extra are further keys, each with a comma in front.
func entry(t *testing.T, sim *hmcsim.HMC, extra string) string {
	t.Helper()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, sim.CACertPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("- {name: %s, hosts: [%q], rest_port: %d, stomp_port: %d, userid: %s, password: %s, tls: {ca_file: %q}, "+
		"rest_requests_per_minute: 10000, stomp: {reconnect_sleep_initial: 20ms, reconnect_sleep_max: 200ms}%s}\n",
		strings.ToLower(sim.Name()), sim.Host(), sim.RESTPort(), sim.StompPort(), hmcsim.DefaultUserid, hmcsim.DefaultPassword, ca, extra)
}

// idle is a configuration whose HMC does not exist.
const idle = "hmcs: [{name: east, hosts: [127.0.0.1], rest_port: 9, stomp_port: 10, userid: u, password: p}]\n" +
	"sinks: [{name: none, log: {output: /dev/null}}]\n"

// dial opens a connection to the daemon's web side, which ends with the test.
func (v *victim) dial(t *testing.T) net.Conn {
	t.Helper()
	c, err := new(net.Dialer).DialContext(t.Context(), "tcp", v.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// cut says that a connection was ended by the other side.
func cut(err error) bool {
	var timeout net.Error
	return err != nil && !(errors.As(err, &timeout) && timeout.Timeout())
}
