package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/capture"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
)

// TestCapture captures a simulated HMC, shows the file, and plays it back to another capture.
func TestCapture(t *testing.T) {
	t.Parallel()
	sim, err := hmcsim.Start(hmcsim.Options{Name: "QUOKKA77", Userid: "zebrauser", Password: "wombat-pw-1", Rate: 50})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sim.Close() }()
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	config := func(name, password string) string {
		text := strings.NewReplacer("userid: "+hmcsim.DefaultUserid, "userid: zebrauser",
			"password: "+hmcsim.DefaultPassword, "password: "+password).Replace(
			"hmcs:\n" + hmcConfig(sim, "east", "insecure_skip_verify: true") + screenConfig)
		if err := os.WriteFile(file(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file(name)
	}
	good := config("good.yaml", "wombat-pw-1")
	status, stdout, stderr := call("--log.level=error", "capture", "--hmc=east", "--out", file("a.gz"), "--duration=3s", good)
	if status != 0 || stderr != "" {
		t.Fatalf("status %d: %s", status, stderr)
	}
	for _, want := range []string{"a.gz is written; look at it", "names, addresses and texts: replaced", "links: 1, of which the HMC or the network ended 0", "logon: 200", "logoff: 204", "status-change"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("lacks %q:\n%s", want, stdout)
		}
	}
	for _, never := range []string{"zebrauser", "QUOKKA77", "wombat-pw-1"} {
		if strings.Contains(stdout, never) {
			t.Errorf("shows %q:\n%s", never, stdout)
		}
	}
	if n := sim.Sessions(); n != 0 {
		t.Errorf("%d sessions are left", n)
	}
	if _, again, _ := call("capture", "--inspect", file("a.gz")); !strings.HasSuffix(stdout, again) || again == "" {
		t.Errorf("--inspect says something else:\n%s", again)
	}
	for _, want := range []string{"what is not known of HMCs, and what this one shows:", "  as assumed: ", "  not seen: "} {
		if !strings.Contains(stdout, want) {
			t.Errorf("lacks %q:\n%s", want, stdout)
		}
	}
	status, stdout, stderr = call("check-config", "--online", good)
	if status != 0 || !strings.Contains(stdout, " questions about HMCs are not answered by a check; hmcnotifyd capture sees more") {
		t.Errorf("status %d: %s%s", status, stdout, stderr)
	}
	before := sim.RefusedLogons()
	for _, test := range []struct {
		args   []string
		status int
		stderr string
	}{
		{[]string{"--hmc=east", "--out", file("a.gz"), good}, 1, "a.gz is there already, and is not overwritten"},
		{[]string{"--hmc=west", "--out", file("b.gz"), good}, 1, `--hmc: there is no HMC "west" in the configuration; it has east`},
		{[]string{"--hmc=east", "--out", file("b.gz"), config("bad.yaml", "other-pw-22")}, 1, "the HMC has answered 403 to the logon"},
		{[]string{"--hmc=east", good}, 2, "capture needs --hmc NAME, --out FILE"},
		{[]string{"--inspect", file("a.gz"), good}, 2, "--inspect stands alone"},
		{[]string{"--inspect", good}, 1, "good.yaml is not a capture of hmcnotifyd: it is not compressed by gzip"},
	} {
		status, _, stderr := call(append([]string{"--log.level=error", "capture", "--duration=1m"}, test.args...)...)
		if status != test.status || !strings.Contains(stderr, test.stderr) {
			t.Errorf("%v: status %d, %s; want %d, %s", test.args, status, stderr, test.status, test.stderr)
		}
	}
	if _, err := os.Stat(file("b.gz")); err == nil {
		t.Error("a file is left of a capture that has failed")
	}
	if n := sim.RefusedLogons() - before; n != 1 {
		t.Errorf("a wrong password was tried %d times", n)
	}
	if status, _, stderr := call("simulate", "--replay", good); status != 1 || !strings.Contains(stderr, "good.yaml is not a capture of hmcnotifyd") {
		t.Errorf("status %d: %s", status, stderr)
	}
	if status, _, stderr := call("simulate", "--replay", file("a.gz"), "--speed=0"); status != 2 || !strings.Contains(stderr, "--speed must be") {
		t.Errorf("status %d: %s", status, fmt.Sprint(stderr))
	}
}

// What somebody else has written does nothing to the terminal of whoever looks at a capture, or reads an error.
func TestOthersDoNotSteerTheTerminal(t *testing.T) {
	const nasty = "\x1b[2J\x1b]0;x\a\r\u009b\u202e\x7f"
	file := filepath.Join(t.TempDir(), "a.gz")
	out, err := capture.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	w, err := capture.NewWriter(out, capture.Header{Program: "1.2" + nasty, Began: time.Now()})
	if err == nil {
		frame := &capture.Frame{Command: capture.Message, Headers: capture.Pairs{{"notification-type", "kind" + nasty}}}
		request := &capture.Request{Operation: "list" + nasty, Method: "GET", URI: "/api/cpcs", Failure: "why" + nasty}
		err = errors.Join(w.Write(&capture.Entry{Kind: capture.KindFrame, Frame: frame}),
			w.Write(&capture.Entry{Kind: capture.KindRequest, Request: request}),
			w.Write(&capture.Entry{Kind: capture.KindEnd, End: &capture.End{}}), w.Close(), out.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	var errs bytes.Buffer
	printError(&errs, errors.New("one"+nasty+"\ntwo"+nasty))
	status, stdout, stderr := call("capture", "--inspect="+file)
	if status != 0 || !strings.Contains(stdout, "kind") || !strings.Contains(stdout, "list") || strings.Count(errs.String(), "\n") != 2 {
		t.Errorf("status %d\n%s%s%s", status, stdout, stderr, errs.String())
	}
	for _, text := range []string{stdout, errs.String()} {
		if strings.ContainsFunc(text, func(r rune) bool { return r != '\n' && event.PrintableRune(r) != r }) {
			t.Errorf("%q", text)
		}
	}
}
