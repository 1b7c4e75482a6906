// Package prometheus runs a real Prometheus server that scrapes what a test
// serves, and asks promtool for its judgement of metrics.
package prometheus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/tests/real/program"
)

const (
	debianPackage = "prometheus"
	startTimeout  = 5 * time.Minute
	queryTimeout  = time.Minute
)

// Job is something to scrape.
type Job struct {
	// Name becomes the job label.
	Name string
	// Targets are HOST:PORT.
	Targets []string
	// Path is by default /metrics.
	Path string
	// Extra is more YAML of this scrape configuration, for example
	// "scheme: https", without indentation.
	Extra string
}

// Options of a server.
type Options struct {
	Jobs []Job
	// Interval between scrapes and between rule evaluations, by default 1s.
	Interval time.Duration
	// RuleFiles hold alerting and recording rules.
	RuleFiles []string
	// Alertmanagers are HOST:PORT.
	Alertmanagers []string
}

// Server is a running Prometheus.
type Server struct {
	// URL is that of the web interface and the API, without a final slash.
	URL     string
	Process *program.Process
}

// Sample is one series of an instant query's answer.
type Sample struct {
	Labels map[string]string
	Value  float64
}

func (s Sample) String() string {
	labels := make([]string, 0, len(s.Labels))
	for _, name := range slices.Sorted(maps.Keys(s.Labels)) {
		labels = append(labels, fmt.Sprintf("%s=%q", name, s.Labels[name]))
	}
	return fmt.Sprintf("{%s} %v", strings.Join(labels, ","), s.Value)
}

// Start starts a server, which ends with the test, and returns when it is
// ready.
func Start(tb testing.TB, opts Options) *Server {
	tb.Helper()
	path := program.Look(tb, "prometheus", debianPackage)
	if opts.Interval == 0 {
		opts.Interval = time.Second
	}
	dir := tb.TempDir()
	config := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(config, []byte(opts.yaml()), 0o600); err != nil {
		tb.Fatal(err)
	}
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(program.FreePort(tb)))
	s := &Server{URL: "http://" + addr}
	s.Process = program.Start(tb, program.Options{
		Name: "prometheus", Path: path, Dir: dir,
		Args: []string{
			"--config.file=" + config, "--storage.tsdb.path=" + filepath.Join(dir, "data"),
			"--web.listen-address=" + addr, "--query.lookback-delta=30s",
		},
	})
	s.Process.Await(tb, startTimeout, func() error {
		_, err := s.get(tb.Context(), "/-/ready", nil)
		return err
	})
	return s
}

func (o Options) yaml() string {
	var b strings.Builder
	fmt.Fprintf(&b, "global: {scrape_interval: %[1]s, scrape_timeout: %[1]s, evaluation_interval: %[1]s}\n", o.Interval)
	if len(o.RuleFiles) > 0 {
		fmt.Fprintf(&b, "rule_files: [%s]\n", quoted(o.RuleFiles))
	}
	if len(o.Alertmanagers) > 0 {
		fmt.Fprintf(&b, "alerting: {alertmanagers: [{static_configs: [{targets: [%s]}]}]}\n", quoted(o.Alertmanagers))
	}
	b.WriteString("scrape_configs:\n")
	for _, job := range o.Jobs {
		if job.Path == "" {
			job.Path = "/metrics"
		}
		fmt.Fprintf(&b, "- job_name: %q\n  metrics_path: %q\n  static_configs: [{targets: [%s]}]\n", job.Name, job.Path, quoted(job.Targets))
		for line := range strings.Lines(job.Extra) {
			b.WriteString("  " + strings.TrimRight(line, "\n") + "\n")
		}
	}
	return b.String()
}

func quoted(list []string) string {
	all := make([]string, 0, len(list))
	for _, s := range list {
		all = append(all, strconv.Quote(s))
	}
	return strings.Join(all, ", ")
}

// Query evaluates an expression now. The answer is a vector; a scalar is a
// vector of one sample without labels.
func (s *Server) Query(ctx context.Context, expr string) ([]Sample, error) {
	body, err := s.get(ctx, "/api/v1/query", url.Values{"query": {expr}})
	if err != nil {
		return nil, fmt.Errorf("query %s: %w", expr, err)
	}
	var answer struct {
		Data struct {
			ResultType string
			Result     json.RawMessage
		}
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, fmt.Errorf("query %s: %w", expr, err)
	}
	type point [2]any // seconds, value as a string
	value := func(p point) (float64, error) {
		text, _ := p[1].(string)
		return strconv.ParseFloat(text, 64)
	}
	switch answer.Data.ResultType {
	case "vector":
		var result []struct {
			Metric map[string]string
			Value  point
		}
		if err := json.Unmarshal(answer.Data.Result, &result); err != nil {
			return nil, fmt.Errorf("query %s: %w", expr, err)
		}
		samples := make([]Sample, 0, len(result))
		for _, r := range result {
			v, err := value(r.Value)
			if err != nil {
				return nil, fmt.Errorf("query %s: %w", expr, err)
			}
			samples = append(samples, Sample{Labels: r.Metric, Value: v})
		}
		return samples, nil
	case "scalar":
		var p point
		if err := json.Unmarshal(answer.Data.Result, &p); err != nil {
			return nil, fmt.Errorf("query %s: %w", expr, err)
		}
		v, err := value(p)
		if err != nil {
			return nil, fmt.Errorf("query %s: %w", expr, err)
		}
		return []Sample{{Value: v}}, nil
	default:
		return nil, fmt.Errorf("query %s: answer is a %s", expr, answer.Data.ResultType)
	}
}

// Await evaluates an expression until the answer pleases, and returns that
// answer; the test fails after the given time.
func (s *Server) Await(tb testing.TB, within time.Duration, expr string, pleases func([]Sample) bool) []Sample {
	tb.Helper()
	var samples []Sample
	s.Process.Await(tb, within, func() error {
		var err error
		samples, err = s.Query(tb.Context(), expr)
		if err != nil {
			return err
		}
		if !pleases(samples) {
			return fmt.Errorf("%s is %v", expr, samples)
		}
		return nil
	})
	return samples
}

// AwaitTargets waits until a number of targets has been scraped well.
func (s *Server) AwaitTargets(tb testing.TB, n int) {
	tb.Helper()
	s.Await(tb, startTimeout, "count(up == 1) or vector(0)", func(samples []Sample) bool {
		return len(samples) == 1 && samples[0].Value == float64(n)
	})
}

func (s *Server) get(ctx context.Context, path string, query url.Values) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+path+"?"+query.Encode(), nil)
	if err != nil {
		return nil, err
	}
	// Nothing stays open for the leak check to find.
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, errors.New(resp.Status + ": " + string(body))
	}
	return body, nil
}

// CheckMetrics fails the test if `promtool check metrics` has anything to say
// about a text in the exposition format.
func CheckMetrics(tb testing.TB, text string) {
	tb.Helper()
	cmd := exec.CommandContext(tb.Context(), program.Look(tb, "promtool", debianPackage), "check", "metrics")
	cmd.Stdin = strings.NewReader(text)
	if out, status := program.OutputOf(tb, queryTimeout, cmd); out != "" || status != 0 {
		tb.Errorf("promtool check metrics: exit status %d\n%s", status, out)
	}
}

// Promtool runs promtool, for example "check rules FILE", and returns its
// output and exit status.
func Promtool(tb testing.TB, args ...string) (string, int) {
	tb.Helper()
	return program.Output(tb, startTimeout, program.Look(tb, "promtool", debianPackage), args...)
}
