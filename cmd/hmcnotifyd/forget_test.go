package main

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
)

// An operator has what is known of an HMC forgotten that was renamed.
func TestForget(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{Partitions: 2})
	dir := t.TempDir()
	cfg := daemonConfig(t, dir, sim, hmcsim.DefaultPassword)
	p, o := startDaemon(t, cfg, dir)
	publish(t, sim, "P")
	if status, stdout, stderr := call("forget", "--hmc=east", "--url="+o.url); status != 1 || stdout != "" || !strings.HasPrefix(stderr, "hmcnotifyd: forget: east: the HMC is configured") {
		t.Errorf("of one that is configured: status %d\n%s%s", status, stdout, stderr)
	}
	text, err := os.ReadFile(cfg)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "hmcnotifyd.yaml"), strings.Replace(string(text), "name: east", "name: west", 1))
	if status, body := get(t, http.DefaultClient, http.MethodPost, o.url+"/-/reload"); status != http.StatusOK {
		t.Fatalf("status %d: %s", status, body)
	}
	if status, stdout, stderr := call("forget", "--hmc=east", "--url="+o.url); status != 0 || !strings.HasPrefix(stdout, "HMC east is forgotten: ") || stderr != "" {
		t.Errorf("status %d\n%s%s", status, stdout, stderr)
	}
	if status, _, stderr := call("forget", "--hmc=east", "--url="+o.url); status != 1 || stderr != "hmcnotifyd: forget: east: nothing is known of an HMC of that name\n" {
		t.Errorf("a second time: status %d\n%s", status, stderr)
	}
	for _, args := range [][]string{{}, {"--hmc="}} {
		if status, _, stderr := call(append([]string{"forget"}, args...)...); status != 2 || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%v: status %d\n%s", args, status, stderr)
		}
	}
	p.signal(syscall.SIGTERM)
	if status := p.wait(); status != 0 {
		t.Errorf("exit status %d", status)
	}
}
