package main

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/capture"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
)

// capturing is a program that captures a living HMC into a file, of which something is written already.
func capturing(t *testing.T, sim *hmcsim.HMC, file string, env ...string) *program {
	t.Helper()
	p := start(t, env, "capture", "--hmc=east", "--duration=10m", "--out="+file, daemonConfig(t, t.TempDir(), sim, hmcsim.DefaultPassword))
	eventually(t, "a capture with notifications", func() bool { return strings.Contains(inspected(file), "status-change") })
	return p
}

func inspected(file string) string {
	_, stdout, _ := call("capture", "--inspect", file)
	return stdout
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

// What a killed capture leaves below TMPDIR is removed by the next one, which logs off its session, also where that is of another
// HMC first. One that is alive is left alone.
func TestKilledCaptureIsTakenOver(t *testing.T) {
	t.Parallel()
	sim, other := hmctest.Start(t, hmcsim.Options{Rate: 50}), hmctest.Start(t, hmcsim.Options{Rate: 50})
	tmp, dir := t.TempDir(), t.TempDir()
	left := func() (n int) {
		entries, err := os.ReadDir(tmp)
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	env := "TMPDIR=" + tmp
	file := func(name string) string { return filepath.Join(dir, name) }
	p := capturing(t, sim, file("killed"), env)
	p.signal(syscall.SIGKILL)
	<-p.exited
	if left() != 1 || sim.Sessions() != 1 {
		t.Fatalf("a killed capture leaves %d directories and %d sessions", left(), sim.Sessions())
	}
	if err := os.Mkdir(filepath.Join(tmp, "hmcnotifyd-capture-open"), 0o755); err != nil { // whoever made it, it is not that of a capture
		t.Fatal(err)
	}
	alive := capturing(t, other, file("alive"), env) // takes over what fits another HMC
	if left() != 2 || sim.Sessions() != 1 || other.Sessions() != 1 {
		t.Errorf("%d directories, %d and %d sessions", left(), sim.Sessions(), other.Sessions())
	}
	next := capturing(t, other, file("next"), env)
	if left() != 3 || other.Sessions() != 2 {
		t.Errorf("%d directories and %d sessions while two captures are alive", left(), other.Sessions())
	}
	for _, p := range []*program{alive, next} {
		p.signal(syscall.SIGINT)
		if code := p.wait(); code != 0 {
			t.Errorf("status %d: %s", code, p.out.String())
		}
	}
	if left() != 2 || sim.Sessions() != 1 || other.Sessions() != 0 { // the note of the first
		t.Errorf("%d directories, %d and %d sessions", left(), sim.Sessions(), other.Sessions())
	}
	last := capturing(t, sim, file("last"), env)
	last.signal(syscall.SIGINT)
	if code := last.wait(); code != 0 || left() != 1 || sim.Sessions() != 0 {
		t.Errorf("status %d, %d directories and %d sessions are left: %s", code, left(), sim.Sessions(), last.out.String())
	}
}

// Where only the link cannot be made, what the HMC has answered is written, whichever way it ends.
func TestCaptureWithoutALink(t *testing.T) {
	t.Parallel()
	for name, ctrlC := range map[string]bool{"its time is over": false, "Ctrl-C": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sim := hmctest.Start(t, hmcsim.Options{Rate: 50})
			sim.Broker().StopListening()
			file := filepath.Join(t.TempDir(), "capture")
			args := []string{"capture", "--hmc=east", "--duration=3s", "--out=" + file, daemonConfig(t, t.TempDir(), sim, hmcsim.DefaultPassword)}
			if ctrlC {
				args[2] = "--duration=1h"
			}
			p := start(t, nil, args...)
			if ctrlC {
				eventually(t, "an attempt has failed", func() bool { return strings.Contains(p.out.String(), "not connected to the HMC") })
				p.signal(syscall.SIGINT)
			}
			if code := p.wait(); code != 1 || !strings.Contains(p.out.String(), "hmcnotifyd: capture: no link was made: ") ||
				!strings.Contains(p.out.String(), file+" is written; look at it") {
				t.Errorf("status %d: %s", code, p.out.String())
			}
			for _, want := range []string{"links: 0,", "attempts to connect that failed: ", "  logon: 200\n", "  get-notification-topics: 200\n"} {
				if text := inspected(file); !strings.Contains(text, want) {
					t.Errorf("lacks %q:\n%s", want, text)
				}
			}
			if n := sim.Sessions(); n != 0 {
				t.Errorf("%d sessions are left", n)
			}
			if status, _, stderr := call("simulate", "--replay="+file); status != 1 || stderr != "hmcnotifyd: simulate: --replay: "+file+
				" has no link in it, and so nothing to play back: capture --inspect shows what there is\n" {
				t.Errorf("status %d: %s", status, stderr)
			}
		})
	}
}

// Ctrl-C is heard while a file is read that has no end, nearly.
func TestReadingIsInterrupted(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "capture")
	var lines, part bytes.Buffer
	w, err := capture.NewWriter(&lines, capture.Header{Program: "test", Began: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	zip := gzip.NewWriter(&part)
	if _, err := io.WriteString(zip, strings.Repeat(`{"at_us":1,"kind":"link","link":{}}`+"\n", 100_000)); err != nil {
		t.Fatal(err)
	}
	if err := zip.Close(); err != nil {
		t.Fatal(err)
	}
	write(t, file, lines.String()+strings.Repeat(part.String(), 1000)) // as one text, of 3.6 GB
	for _, test := range []struct {
		args   []string
		signal syscall.Signal
		status int
		says   string
	}{
		{[]string{"capture", "--inspect", file}, syscall.SIGINT, 1, "hmcnotifyd: " + file + ": interrupted\n"},
		{[]string{"capture", "--inspect", file}, syscall.SIGTERM, 1, "hmcnotifyd: " + file + ": interrupted\n"},
		{[]string{"simulate", "--replay=" + file}, syscall.SIGINT, 0, ""},
		{[]string{"simulate", "--replay=" + file}, syscall.SIGTERM, 0, ""},
	} {
		p := start(t, nil, test.args...)
		eventually(t, "it reads the file", func() bool {
			fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", p.cmd.Process.Pid))
			return slices.ContainsFunc(fds, func(fd string) bool { to, _ := os.Readlink(fd); return to == file })
		})
		p.signal(test.signal)
		if code := p.wait(); code != test.status || p.out.String() != test.says {
			t.Errorf("%v: status %d: %s", test.args, code, p.out.String())
		}
	}
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
	if left, err := filepath.Glob(file + ".*"); err != nil || len(left) > 0 {
		t.Errorf("half a file is left: %s, %v", left, err)
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
