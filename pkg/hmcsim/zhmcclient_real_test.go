//go:build real

package hmcsim

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// zhmcclient runs testdata/zhmcclient_walk.py against an HMC and returns what it found, each value as JSON.
func zhmcclient(t *testing.T, h *HMC, userid, password, mode string) map[string]string {
	t.Helper()
	const python = "/usr/bin/python3" // Debian's: python3-stomp is for it
	if _, err := os.Stat(python); err != nil {
		t.Fatalf("%v: apt-get install python3 python3-stomp", err)
	}
	caFile := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(caFile, h.CACertPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, python, "testdata/zhmcclient_walk.py", h.Host(), strconv.Itoa(h.RESTPort()),
		strconv.Itoa(h.StompPort()), caFile, userid, password, mode)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 3 {
		t.Fatal("stomp.py is not installed: apt-get install python3-stomp")
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr.Bytes())
	}
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(stdout.Bytes(), &raw); err != nil {
		t.Fatalf("%q: %v", stdout.Bytes(), err)
	}
	found := make(map[string]string)
	for key, value := range raw {
		var b bytes.Buffer
		if err := json.Compact(&b, value); err != nil {
			t.Fatal(err)
		}
		found[key] = b.String()
	}
	return found
}

// TestZhmcclientWalk lets Python and stomp.py, the library below zhmcclient, do what zhmcclient does: log on, find
// CPCs and partitions, open OS message channels, receive, stop and start.
func TestZhmcclientWalk(t *testing.T) {
	want := map[string]string{
		"without logon":   `[403,4]`,
		"console":         `"HMC1"`,
		"dpm-enabled":     `true`,
		"partition class": `"partition"`,
		"second channel":  `[409,331]`,
		"topic types":     `["audit-notification","job-notification","object-notification","os-message-notification","security-notification"]`,
		"channel listed":  `true`,
		"refresh":         `true`,
		"os headers": `["class","destination","expires","global-sequence-nr","message-id","name","notification-type","object-id",` +
			`"object-uri","priority","session-sequence-nr","subscription","timestamp"]`,
		"os keys": `["is-held","is-priority","is-refresh","message-id","message-text","os-name","prompt-text","sequence-number",` +
			`"sound-alarm","timestamp"]`,
		"stop":           `["complete",200]`,
		"status change":  `"stopping"`,
		"job completion": `["job-completion",true,null]`,
		"property":       `[" description ","a:b\\c\nd"]`,
		"list":           `true`,
		"lpar":           `["logical-partition",false]`,
		"no channel":     `[409,332]`,
		"permitted":      `[4,4]`,
		"own logon":      `true`,
		"token in log":   `false`,
		"unknown topic": `"  remote addConsumer failed because the specified destination, 'topic://nobody.1', is not a known or approved ` +
			`topic."`,
		"alive after":    `true`,
		"wrong password": `"ConnectFailedException"`,
		"after logoff":   `[403,5]`,
	}
	for name, opts := range map[string]Options{
		"IPv4":          {},
		"IPv6":          {RESTAddr: "[::1]:0", StompAddr: "[::1]:0"},
		"hard password": {Userid: "us er", Password: `p:a\s"s\c` + "wörd€"},
	} {
		t.Run(name, func(t *testing.T) {
			opts.StepDelay = 5 * time.Millisecond
			opts.Broker.ConnectTimeout = 2 * time.Minute // Python on a busy machine
			if opts.Userid == "" {
				opts.Userid, opts.Password = DefaultUserid, DefaultPassword
			}
			h := startHMC(t, opts)
			found := zhmcclient(t, h, opts.Userid, opts.Password, "walk")
			for key := range want {
				if found[key] != want[key] {
					t.Errorf("%s: %s, want %s", key, found[key], want[key])
				}
			}
			if h.Sessions() != 0 || h.ForbiddenCalls() != 0 {
				t.Errorf("%d sessions left, %d forbidden calls", h.Sessions(), h.ForbiddenCalls())
			}
			t.Logf("stomp.py %s", found["stomp"])
		})
	}
}

// TestZhmcclientBeats lets it wait for heart-beats with zhmcclient's default cycle of 5 s.
func TestZhmcclientBeats(t *testing.T) {
	h := startHMC(t, Options{})
	found := zhmcclient(t, h, DefaultUserid, DefaultPassword, "beat")
	if found["heart-beat"] != `"5000,5000"` || found["alive"] != `true` {
		t.Errorf("%v", found)
	}
}

// TestZhmcclientListens lets it wait for all six types of a living estate.
func TestZhmcclientListens(t *testing.T) {
	h := startHMC(t, Options{Rate: 50})
	found := zhmcclient(t, h, DefaultUserid, DefaultPassword, "listen")
	if got, want := found["types with body"], `["log-entry","os-message","property-change","status-change"]`; got != want {
		t.Errorf("types with body: %s, want %s", got, want)
	}
	if got, want := found["types without body"], `["inventory-change","job-completion"]`; got != want {
		t.Errorf("types without body: %s, want %s", got, want)
	}
}
