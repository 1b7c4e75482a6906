package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
)

// publishChange sends a status change whose text nobody should let at a terminal.
func publishChange(t *testing.T, sim *hmcsim.HMC, partition string) {
	t.Helper()
	publish(t, sim, partition+"\x1b[2J")
}

// tail follows a real daemon: filters, JSON, a restart of the daemon, a reload, the end.
func TestTail(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{Partitions: 2})
	dir := t.TempDir()
	cfg := daemonConfig(t, dir, sim, hmcsim.DefaultPassword)
	addr := freeAddress(t)
	daemonArgs := []string{"--config.file=" + cfg, "--storage.path=" + filepath.Join(dir, "data"), "--web.listen-address=" + addr}
	p := start(t, nil, daemonArgs...)
	p.matches("connected to the HMC")
	// Somebody who reads along and does not read.
	idle, err := new(net.Dialer).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	if _, err := io.WriteString(idle, "GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	lines := start(t, nil, "tail", "--url=http://"+addr)
	stops := start(t, nil, "tail", "--url=http://"+addr, "--type=status-change", "--hmc=ea.*", "--severity=warning", "--text=STOPPED", "--sink=file", "--json")
	// They follow when they show something: what was stored before is not theirs.
	n := 0
	eventually(t, "both follow", func() bool {
		n++
		publishChange(t, sim, fmt.Sprintf("FIRST%d", n))
		return strings.Contains(lines.out.String(), "FIRST") && strings.Contains(stops.out.String(), "FIRST")
	})
	lines.matches(`(?m)^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}  warning   status-change        east          partition FIRST\d+.*: active -> stopped`)
	if out := lines.out.String(); strings.Contains(out, "\x1b") {
		t.Errorf("%q", out)
	}
	first, _, _ := strings.Cut(stops.out.String(), "\n")
	var e event.Event
	if err := json.Unmarshal([]byte(first), &e); err != nil || e.ID == "" || e.Type != event.TypeStatusChange || e.Validate() != nil {
		t.Errorf("%v: %s", err, first)
	}

	// Neither a reload nor an end waits for those who read along.
	p.signal(syscall.SIGHUP)
	p.matches("the configuration was reloaded")
	publishChange(t, sim, "RELOADED")
	lines.matches("RELOADED")
	p.signal(syscall.SIGTERM)
	if status := p.wait(); status != 0 {
		t.Errorf("exit status %d", status)
	}
	lines.matches("the stream was lost, and is made again: the daemon is ending")
	if strings.Contains(p.out.String(), "took longer") {
		t.Error("the end was held up")
	}
	lines.matches(`bridge-disconnected +east`) // what was stored at the end is shown as well

	p = start(t, nil, daemonArgs...)
	p.matches("connected to the HMC")
	lines.matches("connected again; what was stored meanwhile follows")
	lines.matches(`bridge-connected +east`)
	stops.matches("connected again")
	publishChange(t, sim, "AGAIN")
	lines.matches("AGAIN")
	stops.matches(`"name":"AGAIN`)
	if out := stops.out.String(); strings.Contains(out, `"type":"bridge-`) {
		t.Errorf("%s", out)
	}
	for _, tail := range []*program{lines, stops} {
		tail.signal(os.Interrupt)
		if status := tail.wait(); status != 0 {
			t.Errorf("exit status %d", status)
		}
	}
	p.signal(syscall.SIGTERM)
	p.wait()
}

func TestTailUsage(t *testing.T) {
	for _, args := range [][]string{{"--type=("}, {"--url=x"}, {"--text=" + strings.Repeat("x", 201)}} {
		if status, _, stderr := call(append([]string{"tail"}, args...)...); status != exitUsage || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%v: %d %s", args, status, stderr)
		}
	}
}

// tailOf runs the command against a server that a test has made.
func tailOf(ctx context.Context, address string, stdout io.Writer) (status int, stderr string) {
	var errs bytes.Buffer
	e := &environment{stdout: stdout, stderr: &errs}
	e.tail = tailFlags{client: clientFlags{url: address}, silence: 100 * time.Millisecond, pause: time.Millisecond, pauseMax: time.Millisecond}
	if err := e.follow(ctx); err != nil {
		printError(&errs, err)
		return exitFailed, errs.String()
	}
	return exitDone, errs.String()
}

func TestTailAnswers(t *testing.T) {
	for name, test := range map[string]struct {
		answer http.HandlerFunc
		stderr string
	}{
		"no such sink": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusNotFound)
			_, _ = w.Write([]byte(`{"error":"there is no such sink: \"x\""}`))
		}, "hmcnotifyd: tail: there is no such sink: \"x\"\n"},
		"too many readers": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = w.Write([]byte(`{"error":"too many readers of live events"}`))
		}, "hmcnotifyd: tail: too many readers of live events\n"},
		"a password is wanted": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) }, "--credentials-file\n"},
		"another program":      {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) }, "is not hmcnotifyd\n"},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(test.answer)
			t.Cleanup(server.Close)
			if status, stderr := tailOf(t.Context(), server.URL, io.Discard); status != exitFailed || !strings.HasSuffix(stderr, test.stderr) || strings.Count(stderr, "\n") != 1 {
				t.Errorf("%d %q", status, stderr)
			}
		})
	}
	if status, stderr := tailOf(t.Context(), "http://127.0.0.1:1", io.Discard); status != exitFailed || !strings.Contains(stderr, "no answer from a daemon") {
		t.Errorf("%d %q", status, stderr)
	}
}

// A stream that is silent without a word is given up and made again; what the daemon refuses then
// ends it.
func TestTailSilence(t *testing.T) {
	t.Parallel()
	streams := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if streams++; streams > 2 {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		if id := r.Header.Get("Last-Event-ID"); (streams == 1 && id != "") || (streams == 2 && id != "1") {
			t.Errorf("stream %d goes on behind %q", streams, id)
		}
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = w.Write([]byte(": hello\n\nevent: lost\ndata: {\"lost\":3}\n\nevent: news\ndata: {}\n\nid: 1\ndata: {\"id\":\"1\",\"summary\":\"s\"}\n\n"))
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	t.Cleanup(server.Close)
	var out bytes.Buffer
	status, stderr := tailOf(t.Context(), server.URL, &out)
	for _, want := range []string{"3 events came faster than they were read", "nothing came for 100ms", "connected again"} {
		if !strings.Contains(stderr, want) {
			t.Errorf("no %q in %s", want, stderr)
		}
	}
	if status != exitFailed || streams != 3 || strings.Count(out.String(), "\n") != 2 {
		t.Errorf("%d, %d streams: %s", status, streams, out.String())
	}
}

// Nobody reads the output any more: that is no failure.
func TestTailOutputGone(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = w.Write([]byte("data: {}\n\n"))
	}))
	t.Cleanup(server.Close)
	r, w := io.Pipe()
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if status, stderr := tailOf(t.Context(), server.URL, w); status != exitDone || stderr != "" {
		t.Errorf("%d %s", status, stderr)
	}
}
