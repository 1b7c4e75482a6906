package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/capture"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
)

// capturing is a program that captures a living HMC into a file, of which something is written already.
func capturing(t *testing.T, sim *hmcsim.HMC, file string) *program {
	t.Helper()
	p := start(t, nil, "capture", "--hmc=east", "--duration=10m", "--out="+file, daemonConfig(t, t.TempDir(), sim, hmcsim.DefaultPassword))
	eventually(t, "a capture with notifications", func() bool { return strings.Contains(inspected(file), "status-change") })
	return p
}

func inspected(file string) string {
	f, err := os.Open(file)
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	var b strings.Builder
	if err := capture.Inspect(&b, f); err != nil {
		return ""
	}
	return b.String()
}

// playable plays a capture to its first notification.
func playable(t *testing.T, file string) {
	t.Helper()
	status, stdout, stderr := call("capture", "--inspect", file)
	if status != 0 || !strings.Contains(stdout, "it was killed, or the disk was full") {
		t.Errorf("status %d: %s%s", status, stdout, stderr)
	}
	p := start(t, nil, "simulate", "--replay="+file, "--rest-port=0", "--stomp-port=0")
	eventually(t, "the capture is offered", func() bool { return strings.Contains(p.out.String(), "stomp_port: ") })
	p.signal(syscall.SIGTERM)
	<-p.exited
}

// What a killed capture has written is a whole capture.
func TestKilledCapture(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{Rate: 50})
	file := filepath.Join(t.TempDir(), "capture")
	p := capturing(t, sim, file)
	p.signal(syscall.SIGKILL)
	<-p.exited
	playable(t, file)
}

// A disk that gets full in the middle of a capture leaves what was written before, and the end says so.
func TestCaptureOnAFullDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	switch err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=4m"); {
	case errors.Is(err, syscall.EPERM):
		t.Skip("only root may mount")
	case err != nil:
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	sim := hmctest.Start(t, hmcsim.Options{Rate: 50})
	file := filepath.Join(dir, "capture")
	p := capturing(t, sim, file)
	filler, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "no room, not even for what is written now", func() bool {
		for err == nil {
			_, err = filler.Write(make([]byte, 4096))
		}
		full := errors.Is(err, syscall.ENOSPC)
		err = nil
		return full && strings.Contains(p.out.String(), "the capture goes on and cannot be written now")
	})
	p.signal(syscall.SIGINT)
	<-p.exited
	if code := p.cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(p.out.String(), "no space left on device; "+file+" holds what there was until ") {
		t.Errorf("status %d: %s", code, p.out.String())
	}
	if _, err := os.Stat(file + ".new"); err == nil {
		t.Error("half a file is left")
	}
	if n := sim.Sessions(); n != 0 {
		t.Errorf("%d sessions are left", n)
	}
	if err := filler.Close(); err != nil {
		t.Fatal(err)
	}
	playable(t, file)
}

// A capture keeps to the requests that its HMC is granted, and to its time.
func TestCaptureKeepsToItsLimits(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{CPCs: 8, Partitions: 60, Rate: 20})
	dir := t.TempDir()
	config := filepath.Join(dir, "c.yaml")
	text := "hmcs:\n" + strings.Replace(hmctest.Entry(t, sim, ", topics: [object, job, audit, security], os_messages: [{cpc: '.*', partition: '.*'}]"),
		"rest_requests_per_minute: 10000", "rest_requests_per_minute: 30", 1) + screenConfig
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	status, _, stderr := call("--log.level=error", "capture", "--hmc="+strings.ToLower(sim.Name()), "--duration=5s", "--out="+filepath.Join(dir, "a"), config)
	if status != 0 {
		t.Fatal(stderr)
	}
	if took := time.Since(began); took < 4*time.Second {
		t.Errorf("it took %v", took)
	}
	// What has to be done at once goes beyond, but not by much: logon, logoff and the questions before.
	const more = 10
	if n := len(sim.Calls()); n > 30+more {
		t.Errorf("%d requests, and it is granted 30 a minute", n)
	}
}
