// Package daemon runs hmcnotifyd as the program that users run: a child
// process with a configuration file, flags, signals and an exit status.
package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/hmcnotifyd/hmcnotifyd/tests/real/program"
)

const (
	buildTimeout   = 5 * time.Minute
	startTimeout   = 5 * time.Minute
	requestTimeout = time.Minute
	// StopTimeout is what the systemd unit grants: the daemon's own limit of
	// 20 s and something for a busy machine.
	StopTimeout = 30 * time.Second
	// BinaryVariable names a program that is built already.
	BinaryVariable = "HMCNOTIFYD_BINARY"
)

// Root returns the repository's root directory.
func Root(tb testing.TB) string {
	tb.Helper()
	dir, err := os.Getwd()
	if err != nil {
		tb.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, ".golangci.yaml")); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			tb.Fatal("the test does not run in the repository")
		}
		dir = parent
	}
}

// Binary returns the path of the program: what the environment variable
// HMCNOTIFYD_BINARY names (`make test-real` sets it), or a new build.
func Binary(tb testing.TB) string {
	tb.Helper()
	if path := os.Getenv(BinaryVariable); path != "" {
		return path
	}
	path := filepath.Join(tb.TempDir(), "hmcnotifyd")
	cmd := exec.CommandContext(tb.Context(), program.Look(tb, "go", "golang-go"), "build", "-o", path, "./cmd/hmcnotifyd")
	cmd.Dir = Root(tb)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, status := program.OutputOf(tb, buildTimeout, cmd); status != 0 {
		tb.Fatalf("go build: exit status %d\n%s", status, out)
	}
	return path
}

// Options of a daemon.
type Options struct {
	// Config is the text of the configuration file.
	Config string
	// Files are further files by name, beside the configuration file, for
	// example a password file.
	Files map[string]string
	// Flags are added to the command line.
	Flags []string
	// Env is added to the environment.
	Env []string
	// Storage is the directory of the queue; "": a new one.
	Storage string
	// Wrap is the beginning of a command line that the daemon's is the end of.
	Wrap []string
	// Client makes the requests to a web interface with TLS; nil: it has none.
	Client *http.Client
}

// Daemon is a daemon that may be stopped and started again with the same
// configuration file, storage and web address.
type Daemon struct {
	// URL is that of the web interface, without a final slash.
	URL string
	// Dir holds the configuration file and the other files.
	Dir string
	// Storage is the directory of the queue.
	Storage string
	// Process is the running program.
	Process *program.Process

	binary string
	addr   string
	opts   Options
}

// Start starts a daemon and returns when it is healthy, which is before it is
// ready. It ends with the test.
func Start(tb testing.TB, opts Options) *Daemon {
	tb.Helper()
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(program.FreePort(tb)))
	scheme := "https://"
	if opts.Client == nil {
		scheme, opts.Client = "http://", http.DefaultClient
	}
	d := &Daemon{
		URL: scheme + addr, Dir: tb.TempDir(), Storage: cmp.Or(opts.Storage, filepath.Join(tb.TempDir(), "data")),
		binary: Binary(tb), addr: addr, opts: opts,
	}
	for _, name := range slices.Sorted(maps.Keys(opts.Files)) {
		d.WriteFile(tb, name, opts.Files[name])
	}
	d.WriteConfig(tb, opts.Config)
	d.Start(tb)
	return d
}

// Addr is the HOST:PORT of the web interface, for a scrape configuration.
func (d *Daemon) Addr() string { return d.addr }

// Start starts the daemon again after Stop or Kill.
func (d *Daemon) Start(tb testing.TB) {
	tb.Helper()
	args := append([]string{
		"--config.file=" + d.configFile(), "--storage.path=" + d.Storage, "--web.listen-address=" + d.addr,
	}, d.opts.Flags...)
	args = slices.Concat(d.opts.Wrap, []string{d.binary}, args)
	d.Process = program.Start(tb, program.Options{Name: "hmcnotifyd", Path: args[0], Args: args[1:], Dir: d.Dir, Env: d.opts.Env})
	d.Process.Await(tb, startTimeout, func() error {
		status, body, err := d.request(tb.Context(), http.MethodGet, "/-/healthy")
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("status %d: %s", status, body)
		}
		return err
	})
}

func (d *Daemon) configFile() string { return filepath.Join(d.Dir, "hmcnotifyd.yaml") }

// WriteFile writes a file beside the configuration file.
func (d *Daemon) WriteFile(tb testing.TB, name, text string) {
	tb.Helper()
	if err := os.WriteFile(filepath.Join(d.Dir, name), []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
}

// WriteConfig replaces the configuration file; Reload makes it count.
func (d *Daemon) WriteConfig(tb testing.TB, text string) {
	tb.Helper()
	d.WriteFile(tb, filepath.Base(d.configFile()), text)
}

// Reload asks for a reload over HTTP and returns the status code and the body
// of the answer.
func (d *Daemon) Reload(tb testing.TB) (int, string) {
	tb.Helper()
	return d.do(tb, http.MethodPost, "/-/reload")
}

// Get requests a page and returns the status code and the body.
func (d *Daemon) Get(tb testing.TB, path string) (int, string) {
	tb.Helper()
	return d.do(tb, http.MethodGet, path)
}

// AwaitReady waits until /-/ready answers 200.
func (d *Daemon) AwaitReady(tb testing.TB, within time.Duration) {
	tb.Helper()
	d.Process.Await(tb, within, func() error {
		status, body, err := d.request(tb.Context(), http.MethodGet, "/-/ready")
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("status %d: %s", status, body)
		}
		return err
	})
}

// Metrics returns what /metrics says.
func (d *Daemon) Metrics(tb testing.TB) string {
	tb.Helper()
	status, body := d.Get(tb, "/metrics")
	if status != http.StatusOK {
		tb.Fatalf("/metrics: status %d: %s", status, body)
	}
	return body
}

// Metric returns the sum of a metric's series that have the given labels,
// which are names and values in turn; of a histogram, the number of
// observations. The test fails if there is no such series.
func (d *Daemon) Metric(tb testing.TB, name string, labels ...string) float64 {
	tb.Helper()
	value, err := Metric(d.Metrics(tb), name, labels...)
	if err != nil {
		tb.Fatal(err)
	}
	return value
}

// AwaitMetric waits until Metric is a certain value.
func (d *Daemon) AwaitMetric(tb testing.TB, within time.Duration, want float64, name string, labels ...string) {
	tb.Helper()
	d.Process.Await(tb, within, func() error {
		got, err := Metric(d.Metrics(tb), name, labels...)
		if err == nil && got != want {
			err = fmt.Errorf("%s%v is %v, not %v", name, labels, got, want)
		}
		return err
	})
}

// Metric is Daemon.Metric for a text in the exposition format.
func Metric(text, name string, labels ...string) (float64, error) {
	if len(labels)%2 != 0 {
		return 0, errors.New("labels are names and values in turn")
	}
	var family strings.Builder // to parse all the others takes long, and this is asked again and again
	for line := range strings.Lines(text) {
		if of, ok := strings.CutPrefix(line, "# TYPE "); strings.HasPrefix(line, name) || ok && strings.HasPrefix(of, name) {
			family.WriteString(line)
		}
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(family.String()))
	if err != nil {
		return 0, fmt.Errorf("metrics: %w", err)
	}
	sum, found := 0.0, false
	for _, m := range families[name].GetMetric() {
		has := map[string]string{}
		for _, pair := range m.GetLabel() {
			has[pair.GetName()] = pair.GetValue()
		}
		wanted := true
		for i := 0; i < len(labels); i += 2 {
			if value, ok := has[labels[i]]; !ok || value != labels[i+1] {
				wanted = false
			}
		}
		if wanted {
			found = true
			sum += m.GetGauge().GetValue() + m.GetCounter().GetValue() + m.GetUntyped().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	if !found {
		return 0, fmt.Errorf("metrics: no series %s%v", name, labels)
	}
	return sum, nil
}

// Stop ends the daemon by SIGTERM and wants exit status 0.
func (d *Daemon) Stop(tb testing.TB) {
	tb.Helper()
	if status := d.Process.Terminate(tb, StopTimeout); status != 0 {
		tb.Errorf("hmcnotifyd: exit status %d after SIGTERM", status)
	}
}

// Kill ends the daemon by SIGKILL.
func (d *Daemon) Kill() { d.Process.Kill() }

// Hangup sends SIGHUP.
func (d *Daemon) Hangup(tb testing.TB) {
	tb.Helper()
	d.Process.Signal(tb, syscall.SIGHUP)
}

func (d *Daemon) do(tb testing.TB, method, path string) (int, string) {
	tb.Helper()
	status, body, err := d.request(tb.Context(), method, path)
	if err != nil {
		tb.Fatal(err)
	}
	return status, body
}

func (d *Daemon) request(ctx context.Context, method, path string) (int, string, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, d.URL+path, nil)
	if err != nil {
		return 0, "", err
	}
	// Nothing stays open for the leak check to find.
	req.Close = true
	resp, err := d.opts.Client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

// Run runs a command of the program, for example "check-config FILE", to its
// end and returns its output and exit status.
func Run(tb testing.TB, within time.Duration, args ...string) (string, int) {
	tb.Helper()
	return program.Output(tb, within, Binary(tb), args...)
}
