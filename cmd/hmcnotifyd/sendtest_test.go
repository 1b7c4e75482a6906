package main

import (
	"net/http"
	"regexp"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
)

// send-test as an operator uses it: it says what happened, what to do, and nothing of what is
// secret.
func TestSendTestCommand(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{Partitions: -1})
	dir := t.TempDir()
	var reported atomic.Bool
	consumer := startPicky(t, func(e *event.Event) int {
		if e.Type == event.TypeBridgeConnected {
			reported.Store(true)
		}
		return http.StatusOK
	})
	p, o := startDaemon(t, secretive(t, dir, sim, "ops", consumer.URL), dir)
	// It would be refused with the test below, and be a dead letter that is spoken of.
	eventually(t, "the connection is reported", reported.Load)
	test := func(args ...string) (status int, stdout, stderr string) {
		status, stdout, stderr = call(append([]string{"send-test", "--url=" + o.url}, args...)...)
		o.seen.WriteString(stdout + stderr)
		return status, stdout, stderr
	}

	status, stdout, stderr := test("--sink=ops")
	if want := regexp.MustCompile(`^sink ops \(POST http://127\.0\.0\.1:\d+/\.\.\.\): delivered in [0-9.]+ ms, event [0-9a-f]{32}\n$`); status != 0 || !want.MatchString(stdout) || stderr != "" {
		t.Errorf("status %d\n%s%s", status, stdout, stderr)
	}
	consumer.answers(func(*event.Event) int { return http.StatusForbidden })
	status, stdout, stderr = test("--sink=ops")
	if status != 1 || stdout != "" || !strings.HasPrefix(stderr, "hmcnotifyd: send-test: sink ops (POST ") || !strings.Contains(stderr, "): not delivered after ") ||
		!strings.Contains(stderr, ": status 403 Forbidden: ") || !strings.Contains(stderr, "\nhmcnotifyd: what to do: ") || strings.Count(stderr, "\n") != 2 || strings.Contains(stderr, "\x1b") {
		t.Errorf("status %d\n%s%s", status, stdout, stderr)
	}
	if status, _, stderr := test("--sink=osp"); status != 1 || stderr != "hmcnotifyd: send-test: there is no such sink: \"osp\" is not in the configuration, which has ops\n" {
		t.Errorf("status %d\n%s", status, stderr)
	}
	for _, args := range [][]string{{}, {"--sink="}, {"--sink=ops", "--url=ftp://x"}} {
		if status, _, stderr := test(args...); status != 2 || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%v: status %d\n%s", args, status, stderr)
		}
	}
	p.signal(syscall.SIGTERM)
	if status := p.wait(); status != 0 {
		t.Errorf("exit status %d", status)
	}
	if status, _, stderr := test("--sink=ops"); status != 1 || !strings.HasPrefix(stderr, "hmcnotifyd: send-test: no answer from a daemon at "+o.url) {
		t.Errorf("status %d\n%s", status, stderr)
	}
	if seen := o.seen.String() + p.out.String(); strings.Contains(seen, "s3cr3t") {
		t.Errorf("a secret was printed:\n%s", seen)
	}
}
