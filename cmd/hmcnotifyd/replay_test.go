package main

import (
	"bufio"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
)

// replay as an operator uses it, over a restart of the daemon; and streams that begin in what is stored.
func TestReplayCommand(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{Partitions: -1})
	dir := t.TempDir()
	var (
		mu     sync.Mutex
		ids    []string
		refuse string
	)
	consumer := startPicky(t, func(e *event.Event) int {
		mu.Lock()
		defer mu.Unlock()
		if e.Type != event.TypeStatusChange {
			return http.StatusOK
		}
		if e.Resource.Name == refuse {
			return http.StatusBadRequest
		}
		ids = append(ids, e.ID)
		return http.StatusOK
	})
	came := func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(ids)
	}
	config := secretive(t, dir, sim, "ops", consumer.URL)
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	write(t, config, string(text)+"storage: {retain: 1h}\n")
	p, o := startDaemon(t, config, dir)
	for i := range 5 {
		publish(t, sim, fmt.Sprintf("PART%d", i))
	}
	eventually(t, "all are delivered", func() bool { return len(came()) == 5 })
	first := came()
	p.signal(syscall.SIGTERM)
	if status := p.wait(); status != 0 {
		t.Errorf("exit status %d", status)
	}
	p, o2 := startDaemon(t, config, dir)
	replay := func(args ...string) (status int, stdout, stderr string) {
		status, stdout, stderr = call(append([]string{"replay", "--url=" + o2.url}, args...)...)
		o2.seen.WriteString(stdout + stderr)
		return status, stdout, stderr
	}
	if status, stdout, stderr := replay("--sink=ops", "--since=1h", "--type=status-change", "--dry-run"); status != 0 ||
		stdout != "what is stored begins"+rest(stdout, "what is stored begins", "\n")+"\nsink ops: 5 events would be sent, 0 left out by match and drop\n" || stderr != "" {
		t.Errorf("status %d\n%s%s", status, stdout, stderr)
	}
	if got := came(); len(got) != 5 {
		t.Errorf("%d events came of a dry run", len(got)-5)
	}
	if status, stdout, stderr := replay("--sink=ops", "--since=1h", "--type=status-change"); status != 0 ||
		!strings.HasSuffix(stdout, "\nsink ops: 5 events delivered, 0 refused, 0 left out by match and drop\n") || stderr != "" {
		t.Errorf("status %d\n%s%s", status, stdout, stderr)
	}
	if got := came(); !slices.Equal(got[5:], first) {
		t.Errorf("%s came again, want %s", got[5:], first)
	}
	mu.Lock()
	refuse = "PART3"
	mu.Unlock()
	if status, stdout, stderr := replay("--sink=ops", "--since=1h", "--hmc="+"no-such"); status != 0 || !strings.Contains(stdout, "sink ops: 0 events delivered") {
		t.Errorf("status %d\n%s%s", status, stdout, stderr)
	}
	if status, stdout, stderr := replay("--sink=ops", "--since=1h", "--type=status-change"); status != 1 ||
		!strings.Contains(stdout, "\nstatus-change "+first[3]+"  refused: webhook: http://127.0.0.1:") || !strings.Contains(stdout, ": status 400 Bad Request: ") ||
		!strings.HasSuffix(stdout, "\nsink ops: 4 events delivered, 1 refused, 0 left out by match and drop\n") || stderr != "hmcnotifyd: replay: 1 event refused\n" {
		t.Errorf("status %d\n%s%s", status, stdout, stderr)
	}
	if status, _, stderr := replay("--sink=osp", "--since=1h"); status != 1 || stderr != "hmcnotifyd: replay: there is no such sink: \"osp\" is not in the configuration\n" {
		t.Errorf("status %d\n%s", status, stderr)
	}
	if status, _, stderr := replay("--sink=o/ p", "--since=1h"); status != 1 || !strings.Contains(stderr, `there is no such sink: "o/ p" is not`) {
		t.Errorf("status %d\n%s", status, stderr)
	}
	if status, _, stderr := replay("--sink=ops", "--since=2h", "--until=1h"); status != 1 ||
		!strings.HasPrefix(stderr, "hmcnotifyd: replay: nothing is stored of that time: what there is was received from ") || strings.Count(stderr, "\n") != 1 {
		t.Errorf("status %d\n%s", status, stderr)
	}
	for _, args := range [][]string{{}, {"--sink=ops"}, {"--since=1h"}, {"--sink=", "--since=1h"}, {"--sink=ops", "--since=x"}, {"--sink=ops", "--since="}, {"--sink=ops", "--since=1h", "--until="}, {"--sink=ops", "--since=1h", "--until=2h"}, {"--sink=ops", "--since=1h", "--type=("}} {
		if status, _, stderr := replay(args...); status != 2 || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%v: status %d\n%s", args, status, stderr)
		}
	}

	// Streams begin where they are told to.
	for what, begin := range map[string]func(*http.Request){
		"since":         func(r *http.Request) { r.URL.RawQuery = "type=status-change&since=1h" },
		"last":          func(r *http.Request) { r.URL.RawQuery = "type=status-change&last=4" },
		"Last-Event-ID": func(r *http.Request) { r.URL.RawQuery = "type=status-change"; r.Header.Set("Last-Event-ID", first[0]) },
	} {
		want := first[1:]
		if what == "since" {
			want = first
		}
		if got := streamed(t, o2.url, begin, len(want)); !slices.Equal(got, want) {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
	p.signal(syscall.SIGTERM)
	if status := p.wait(); status != 0 {
		t.Errorf("exit status %d", status)
	}
	if seen := o.seen.String() + o2.seen.String() + p.out.String(); strings.Contains(seen, "s3cr3t") {
		t.Errorf("a secret was printed:\n%s", seen)
	}
}

// rest is what stands in text between two others.
func rest(text, before, after string) string {
	_, text, _ = strings.Cut(text, before)
	text, _, _ = strings.Cut(text, after)
	return text
}

// streamed returns the first n ids of a stream of events.
func streamed(t *testing.T, url string, begin func(*http.Request), n int) (ids []string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+eventsPath, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	begin(req)
	transport := new(http.Transport)
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	for in := bufio.NewReader(resp.Body); len(ids) < n; {
		line, err := in.ReadString('\n')
		if err != nil {
			t.Fatalf("after %s: %v", ids, err)
		}
		if id, ok := strings.CutPrefix(strings.TrimSpace(line), "id: "); ok {
			ids = append(ids, id)
		}
	}
	return ids
}
