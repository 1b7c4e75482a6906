package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/crypto/bcrypt"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
	"github.com/hmcnotifyd/hmcnotifyd/tests/natscluster"
	"github.com/hmcnotifyd/hmcnotifyd/tests/output"
	started "github.com/hmcnotifyd/hmcnotifyd/tests/real/program"
)

// beProgram makes the test binary be the program: tests start it as users do, as a process of its
// own.
const beProgram = "HMCNOTIFYD_TEST_BE_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(beProgram) != "" {
		os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
	}
	if code, child := natscluster.Child(); child {
		os.Exit(code)
	}
	goleak.VerifyTestMain(m)
}

const within = 2 * time.Minute

// program is a started process of hmcnotifyd.
type program struct {
	t      *testing.T
	cmd    *exec.Cmd
	out    *output.Buffer
	exited chan struct{}
	err    error
}

// start starts the program. It is killed at the end of the test if it still runs.
func start(t *testing.T, env []string, args ...string) *program {
	t.Helper()
	return startWriting(t, nil, nil, env, args...)
}

// startWriting starts the program with these files as its stdout and stderr; nil: what it writes is
// kept in out.
func startWriting(t *testing.T, stdout, stderr *os.File, env []string, args ...string) *program {
	t.Helper()
	return startReading(t, nil, stdout, stderr, env, args...)
}

// startReading starts the program with these files as its stdin, stdout and stderr; nil: it reads
// nothing, and what it writes is kept in out.
func startReading(t *testing.T, stdin, stdout, stderr *os.File, env []string, args ...string) *program {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &program{t: t, out: new(output.Buffer), exited: make(chan struct{})}
	p.cmd = exec.CommandContext(context.WithoutCancel(t.Context()), exe, args...)
	p.cmd.Env = append(append(started.Environ(), beProgram+"=1"), env...)
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	if stdin != nil {
		p.cmd.Stdin = stdin
	}
	if stdout != nil {
		p.cmd.Stdout = stdout
	}
	if stderr != nil {
		p.cmd.Stderr = stderr
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.exited)
		p.err = p.cmd.Wait()
	}()
	t.Cleanup(func() {
		select {
		case <-p.exited:
		default:
			_ = p.cmd.Process.Kill()
			<-p.exited
		}
		if t.Failed() {
			t.Logf("%v wrote:\n%s", args, p.out)
		}
	})
	return p
}

// wait waits for the end and returns the exit status.
func (p *program) wait() int {
	p.t.Helper()
	select {
	case <-p.exited:
	case <-time.After(within):
		p.t.Fatalf("the program does not end:\n%s", p.out)
	}
	if exit, ok := errors.AsType[*exec.ExitError](p.err); ok {
		return exit.ExitCode()
	}
	if p.err != nil {
		p.t.Fatal(p.err)
	}
	return 0
}

func (p *program) signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// matches waits until the output matches, and returns the submatches.
func (p *program) matches(pattern string) []string {
	p.t.Helper()
	re := regexp.MustCompile(pattern)
	var found []string
	eventually(p.t, "output "+pattern, func() bool {
		found = re.FindStringSubmatch(p.out.String())
		return found != nil
	})
	return found
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	started.Await(t, within, func() error {
		if !ok() {
			return errors.New(what)
		}
		return nil
	})
}

// get fetches a page and returns its status and text; 0 where there is no answer.
func get(t *testing.T, client *http.Client, method, url string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// call runs the program in this process.
func call(args ...string) (status int, stdout, stderr string) {
	var out, err bytes.Buffer
	status = run(args, &out, &err)
	return status, out.String(), err.String()
}

func TestUsage(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		args   []string
		status int
		stdout string // parts
		stderr string
	}{
		{[]string{"--help"}, 0, "check-config", ""},
		{[]string{"run", "--help"}, 0, "--config.file", ""},
		{[]string{"check-config", "--help"}, 0, "FILE", ""},
		{[]string{"simulate", "--help"}, 0, "--ca-out", ""},
		{[]string{"demo", "--help"}, 0, "--duration", ""},
		{[]string{"version", "--help"}, 0, "version", ""},
		{[]string{"version"}, 0, "go-stomp", ""},
		{[]string{"--no-such-flag"}, 2, "", "hmcnotifyd: there is no flag --no-such-flag"},
		{[]string{"no-such-command"}, 2, "", "no-such-command"},
		{[]string{"check-config"}, 2, "", "FILE"},
		{[]string{"demo", "--duration=soon"}, 2, "", "soon"},
		{[]string{"--log.level=loud", "version"}, 2, "", "loud"},
		{[]string{"--config.file=/nonexistent/hmcnotifyd.yaml"}, 1, "", "/nonexistent/hmcnotifyd.yaml"},
		{[]string{"run", "--config.file=/nonexistent/hmcnotifyd.yaml"}, 1, "", "/nonexistent/hmcnotifyd.yaml"},
		{[]string{"--version"}, 0, "go-stomp", ""},
		{[]string{"simulate", "--rate=-1"}, 2, "", "--rate"},
		{[]string{"simulate", "--rate=NaN"}, 2, "", "--rate"},
		{[]string{"simulate", "--speed=2"}, 2, "", "--replay"},
		{[]string{"simulate", "--rate=Inf"}, 2, "", "--rate"},
		{[]string{"simulate", "--cpcs=0"}, 2, "", "--cpcs"},
		{[]string{"simulate", "--partitions=-1"}, 2, "", "--partitions"},
		{[]string{"simulate", "--hmcs=0"}, 2, "", "--hmcs"},
		{[]string{"simulate", "--hmcs=101"}, 2, "", "--hmcs"},
		{[]string{"simulate", "--hmcs=2", "--rest-port=65535"}, 2, "", "--rest-port"},
		{[]string{"simulate", "--hmcs=2", "--stomp-port=65535"}, 2, "", "--stomp-port"},
		{[]string{"simulate", "--rest-port=70000"}, 2, "", "70000"},
		{[]string{"simulate", "--rest-port=16794", "--stomp-port=16794"}, 2, "", "16794 is that of --rest-port"},
		{[]string{"simulate", "--hmcs=2", "--rest-port=16794", "--stomp-port=16795"}, 2, "", "with --hmcs=2 it must be at least 2 from --rest-port"},
		{[]string{"simulate", "--hmcs=3", "--rest-port=16796", "--stomp-port=16794"}, 2, "", "with --hmcs=3 it must be at least 3 from --rest-port"},
		{[]string{"tail", "--severity=crit"}, 2, "", "--severity: \"crit\" matches none of info, warning, critical"},
		{[]string{"demo", "--duration=-1s"}, 2, "", "--duration"},
		{[]string{"--storage.path="}, 2, "", "--storage.path must not be empty"},
		{[]string{"--config.file="}, 2, "", "--config.file must not be empty"},
		{[]string{"check-config", ""}, 2, "", "FILE must not be empty"},
		{[]string{"check-config", "-"}, 2, "", "cannot be there: name a file"},
		{[]string{"simulate", "--ca-out="}, 2, "", "--ca-out must not be empty"},
		{[]string{"check-config", "--online=maybe", "x"}, 2, "", `--online: "maybe" is neither true nor false`},
		{[]string{"check-config", "--online=false", "/nonexistent/x.yaml"}, 1, "", "/nonexistent/x.yaml: cannot be read"},
		{[]string{"--web.enable-admin-api=true", "--config.file=/nonexistent/x.yaml"}, 1, "", "/nonexistent/x.yaml: cannot be read"},
		{[]string{"help", "bogus"}, 2, "", "bogus"},
		{[]string{"--web.listen-address=10291"}, 2, "", "--web.listen-address"},
		{[]string{"--web.listen-address=127.0.0.1:102910"}, 2, "", "--web.listen-address"},
		{[]string{"--web.external-url=hmc.example.com"}, 2, "", "--web.external-url"},
	} {
		t.Run(strings.Join(test.args, " "), func(t *testing.T) {
			status, stdout, stderr := call(test.args...)
			if status != test.status || !strings.Contains(stdout, test.stdout) || !strings.Contains(stderr, test.stderr) {
				t.Errorf("status %d\nstdout: %s\nstderr: %s", status, stdout, stderr)
			}
			if status != 0 && strings.Count(stderr, "\n") != 1 {
				t.Errorf("an error is one line: %q", stderr)
			}
		})
	}
}

// The flag --version prints what the command prints.
func TestVersion(t *testing.T) {
	_, command, _ := call("version")
	if status, flag, stderr := call("--version"); status != 0 || flag != command || stderr != "" {
		t.Errorf("status %d\n%s%s", status, flag, stderr)
	}
}

// Without the linker's flags the revision is the one that Go has noted.
func TestRevision(t *testing.T) {
	const commit = "0123456789abcdef0123456789abcdef01234567"
	for name, test := range map[string]struct {
		linked   string
		settings []debug.BuildSetting
		want     string
	}{
		"linked":    {"feedbeef", []debug.BuildSetting{{Key: "vcs.revision", Value: commit}}, "feedbeef"},
		"committed": {"", []debug.BuildSetting{{Key: "vcs.revision", Value: commit}, {Key: "vcs.modified", Value: "false"}}, "0123456789ab"},
		"changed":   {"", []debug.BuildSetting{{Key: "vcs.modified", Value: "true"}, {Key: "vcs.revision", Value: commit}}, "0123456789ab-modified"},
		"unknown":   {"", []debug.BuildSetting{{Key: "vcs.modified", Value: "true"}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got := revisionOf(test.linked, &debug.BuildInfo{Settings: test.settings}); got != test.want {
				t.Errorf("%q, not %q", got, test.want)
			}
		})
	}
	if got := revisionOf("", nil); got != "" {
		t.Errorf("%q without any build information", got)
	}
}

// Help that cannot be printed is an error, unless nobody reads it any more.
func TestHelpThatCannotBePrinted(t *testing.T) {
	for _, args := range [][]string{{"--help"}, {"help"}, {"tail", "--help"}, {"dead-letters", "--help"}} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		_ = r.Close()
		var stderr bytes.Buffer
		if status := run(args, w, &stderr); status != exitDone || stderr.Len() > 0 {
			t.Errorf("%q, which nobody reads: status %d, %s", args, status, &stderr)
		}
		_ = w.Close()
		if status := run(args, w, &stderr); status != exitFailed || strings.Count(stderr.String(), "\n") != 1 {
			t.Errorf("%q: status %d, %s", args, status, &stderr)
		}
	}
}

// A type of events that is mistyped is said; one that may come one day, and a pattern, are not.
func TestMistypedTypes(t *testing.T) {
	for typ, said := range map[string]string{
		"stauts-change": `no event of the type "stauts-change" is known, did you mean "status-change"?`, "os_message": `did you mean "os-message"?`,
		"os-message": "", "new-type-of-tomorrow": "", "os-.*": "", "": "",
	} {
		for _, command := range [][]string{{"tail"}, {"replay", "--sink", "s", "--since", "1h"}} {
			_, _, stderr := call(append(command, "--url=http://127.0.0.1:1", "--type="+typ)...)
			if !strings.Contains(stderr, said) || strings.Contains(stderr, "did you mean") != (said != "") {
				t.Errorf("%q, %q: %s", command, typ, stderr)
			}
		}
	}
}

// check-config --event says which sinks an event goes to, and why.
func TestCheckConfigEvent(t *testing.T) {
	dir := t.TempDir()
	cfg, ev := filepath.Join(dir, "c.yaml"), filepath.Join(dir, "event.json")
	write(t, cfg, `hmcs: [{name: east, hosts: [x], userid: u, password: p, os_messages: [{cpc: CPC1}]}]
sinks:
  - {name: all, log: {output: stderr}}
  - {name: ops, log: {output: stdout}, match: [{type: os-message}, {type: status-change, status: [stopped, terminated]}]}
  - {name: pager, log: {output: stdout}, match: [{severity: critical}, {class: cpc}], collapse: true}
  - {name: quiet, log: {output: stdout}, drop: [{name: "TEST.*"}, {cpc: CPC1}]}
  - {name: gathered, log: {output: stdout}, collapse: true}
`)
	write(t, ev, `{"id":"1","hmc":"east","type":"status-change","time":"2026-11-20T10:00:00Z","received":"2026-11-20T10:00:00Z","origin":"live","severity":"warning",
		"resource":{"class":"partition","name":"PART1","cpc":"CPC1"},"body":{"change-reports":[{"old-status":"active","new-status":"stopped"}]}}`)
	status, stdout, stderr := call("check-config", "--event", ev, cfg)
	want := cfg + ` is valid: 1 HMC, 5 sinks
sink all gets it: it has no match, and so gets every event
sink ops gets it: match[1] fits
sink pager does not get it: match[0] does not fit severity "warning"; match[1] does not fit class "partition"
sink quiet does not get it: drop[1] fits
sink gathered gets it: it has no match, and so gets every event; collapse may gather it into a status-change-summary
`
	if status != 0 || stdout != want || stderr != "" {
		t.Errorf("status %d\n%s%s", status, stdout, stderr)
	}
	for text, said := range map[string]string{
		"": "is no event as JSON: it is empty", "[1]": "is no event as JSON: that is one object in braces", `{"type":`: "is no event as JSON: it ends in the middle",
		`{"type":1}`: "is no event: type must be a string", "{}": "is no event: it has no type", "garbage": "is no event as JSON",
		`{"type":"x","hmc":"a"} garbage`: "has something behind the event", `{"type":"x","hmc":"a"}{}`: "has something behind the event",
		`{"type":"x","hmc":"a","severity":"crit"}`: `has the severity "crit", which is none of info, warning, critical`,
	} {
		write(t, ev, text)
		in, err := os.Open(ev)
		if err != nil {
			t.Fatal(err)
		}
		for _, flag := range [][]string{{"--event", "-"}, {"--event=-"}} {
			p := startReading(t, in, nil, nil, nil, append(append([]string{"check-config"}, flag...), cfg)...)
			if status := p.wait(); status != 1 || !strings.Contains(p.out.String(), "--event: standard input "+said) {
				t.Errorf("%q on standard input: status %d, %s", text, status, p.out)
			}
			if _, err := in.Seek(0, io.SeekStart); err != nil {
				t.Fatal(err)
			}
		}
		_ = in.Close()
		if status, _, stderr := call("check-config", "--event", ev, cfg); status != 1 || !strings.Contains(stderr, said) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%q: status %d, %s", text, status, stderr)
		}
	}
	write(t, ev, `{"type":"status-change","hmc":"east","body":{"change-reports":[{"old-status":"active","new-status":"status-check"}]}}`)
	if status, stdout, stderr := call("check-config", "--event", ev, cfg); status != 0 || !strings.Contains(stdout, "sink pager gets it: match[0] fits") {
		t.Errorf("an event without severity: status %d, %s%s", status, stdout, stderr)
	}
	write(t, ev, "\ufeff"+`{"type":"status_change","hmc":"easy"}`)
	note := "no event of the type \"status_change\" is known, did you mean \"status-change\"?\nno HMC of the configuration is called \"easy\"\n"
	if status, _, stderr := call("check-config", "--event", ev, cfg); status != 0 || stderr != note {
		t.Errorf("an event that does not come, behind a byte order mark: status %d, %s", status, stderr)
	}
	if status, _, stderr := call("check-config", "--event=", cfg); status != 2 || !strings.Contains(stderr, "--event must not be empty") {
		t.Errorf("status %d, %s", status, stderr)
	}
	if status, _, stderr := call("check-config", "--event", ev+"x", cfg); status != 1 || !strings.Contains(stderr, ev+"x") {
		t.Errorf("status %d, %s", status, stderr)
	}
}

// check-config --test holds events against what is expected of them. The example of the documentation is right, and a change of
// its configuration is seen.
func TestCheckConfigTest(t *testing.T) {
	const dir = "../../docs/rules/test/"
	status, stdout, stderr := call("check-config", "--test", dir+"test.yaml", dir+"hmcnotifyd.yaml")
	if want := dir + "hmcnotifyd.yaml is valid: 1 HMC, 3 sinks\n" + dir + "test.yaml: 7 events, all as expected\n"; status != 0 || stdout != want {
		t.Errorf("status %d\n%s%s", status, stdout, stderr)
	}
	text, err := os.ReadFile(dir + "hmcnotifyd.yaml")
	if err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "c.yaml")
	write(t, other, strings.Replace(string(text), "partition/stopped: critical", "partition/stopped: warning", 1))
	status, stdout, stderr = call("check-config", "--test="+dir+"test.yaml", other)
	want := dir + `test.yaml: test 1 (a partition that stops calls somebody) is not as expected:
  severity: expected critical, is warning
  sink pager: expected to get it, does not: match[0] does not fit severity "warning"
  body of journal:
    - 2000-01-01T00:00:00.000Z critical hmc-east status-change partition PART1 on CPC1: active -> stopped
    + 2000-01-01T00:00:00.000Z warning hmc-east status-change partition PART1 on CPC1: active -> stopped
  body of pager:
    severity: expected "critical", is "warning"
` + dir + `test.yaml: test 3 (not if somebody wanted it) is not as expected:
  severity: expected critical, is warning
`
	if status != 1 || !strings.HasSuffix(stdout, want) || stderr != "hmcnotifyd: "+dir+"test.yaml: of 7 events 2 are not as expected\n" {
		t.Errorf("status %d\n%s%s\nwant\n%s", status, stdout, stderr, want)
	}
	if status, _, stderr := call("check-config", "--test=", other); status != 2 || !strings.Contains(stderr, "--test must not be empty") {
		t.Errorf("status %d, %s", status, stderr)
	}
	if status, _, stderr := call("check-config", "--test", other, other); status != 1 || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, other+": line ") {
		t.Errorf("status %d, %s", status, stderr)
	}
}

func TestCheckConfig(t *testing.T) {
	if status, stdout, stderr := call("check-config", "../../config.example.yaml"); status != 1 || !strings.Contains(stderr, "hmc-east.password") {
		// Its password file does not exist here, which is what has to be said, and nothing
		// else.
		t.Errorf("status %d\n%s%s", status, stdout, stderr)
	}
	dir := t.TempDir()
	bad, good := filepath.Join(dir, "bad.yaml"), filepath.Join(dir, "good.yaml")
	write(t, bad, "hmcs:\n  - name: a\n    hots: [x]\n    userid: u\n    password: p\nsinks:\n  - name: s\n    log: {output: stderr}\n    timeout: 5\n")
	write(t, good, "hmcs:\n  - {name: a, hosts: [x], userid: u, password: p}\nsinks:\n  - {name: s, log: {output: stderr}}\n")
	status, _, stderr := call("check-config", bad)
	if status != 1 || strings.Count(stderr, "\n") != 2 || !strings.Contains(stderr, bad+":3: hmcs[0]: unknown key \"hots\", did you mean \"hosts\"?") || !strings.Contains(stderr, "sinks[0].timeout") {
		t.Errorf("status %d\n%s", status, stderr)
	}
	if status, stdout, stderr := call("check-config", good); status != 0 || stdout != good+" is valid: 1 HMC, 1 sink\n" || stderr != "" {
		t.Errorf("status %d\n%s%s", status, stdout, stderr)
	}
	// The daemon says the same, one line each.
	if status, _, stderr := call("--config.file", bad); status != 1 || !strings.Contains(stderr, bad+":3:") || strings.Count(stderr, "\n") != 2 {
		t.Errorf("status %d\n%s", status, stderr)
	}
}

// check-config --online says what works and what does not, and leaves no session behind.
func TestCheckConfigOnline(t *testing.T) {
	t.Parallel()
	sim := hmctest.Start(t, hmcsim.Options{NoAuditLog: true})
	dir := t.TempDir()
	cfg := daemonConfig(t, dir, sim, hmcsim.DefaultPassword)
	status, stdout, stderr := call("check-config", "--online", cfg)
	for _, want := range []string{
		"hmc east: the Web Services API of 127.0.0.1 accepts userid hmcuser", "may see 8 partitions on 2 CPCs",
		"topics subscribed: job, object", "; valid until 20", "hmc east: logged off", "sink file: can be reached",
	} {
		if !strings.Contains(stdout, want) {
			t.Errorf("stdout lacks %q", want)
		}
	}
	if status != 1 || !strings.HasPrefix(stderr, "hmcnotifyd: sink dead: ") || strings.Count(stderr, "\n") != 1 {
		t.Errorf("status %d, stderr %s", status, stderr)
	}
	text, err := os.ReadFile(cfg)
	if err != nil {
		t.Fatal(err)
	}
	write(t, cfg, strings.Replace(string(text), "    tls:", "    topics: [object, audit]\n    tls:", 1))
	if status, _, stderr := call("check-config", "--online", cfg); status != 1 || !strings.Contains(stderr, `hmc east: topic audit is not granted to userid hmcuser: it needs the task "Audit and Log Management"`) {
		t.Errorf("status %d, stderr %s", status, stderr)
	}
	write(t, filepath.Join(dir, "hmc.password"), "wrong-password")
	if status, _, stderr := call("check-config", "--online", cfg); status != 1 || !strings.Contains(stderr, "hmc east: ") || strings.Contains(stderr, "wrong-password") {
		t.Errorf("status %d, stderr %s", status, stderr)
	}
	if sim.Sessions() != 0 || sim.Links() != 0 || sim.RefusedLogons() != 1 {
		t.Errorf("%d sessions, %d links, %d refused logons", sim.Sessions(), sim.Links(), sim.RefusedLogons())
	}
	if stdout != "" && strings.Contains(stdout+stderr, hmcsim.DefaultPassword) {
		t.Error("the password was printed")
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// alone has no other demo begin meanwhile: each looks whether the usual port is free, and takes it a moment later.
func alone(t *testing.T) {
	t.Helper()
	oneDemo.Lock()
	t.Cleanup(oneDemo.Unlock)
}

var oneDemo sync.Mutex

// The demo as a user sees it: events of all six types, the address of the status page, a clean end.
func TestDemo(t *testing.T) {
	t.Parallel()
	alone(t)
	p := start(t, nil, "demo")
	for _, typ := range []string{"status-change", "property-change", "inventory-change", "job-completion", "os-message", "log-entry"} {
		p.matches(`(?m)^\d\d:\d\d:\d\d\.\d\d\d  ` + typ + ` +(info|warning|critical) +\S`)
	}
	address := p.matches(`Status page +(http://\S+/)`)[1]
	if status, body := get(t, http.DefaultClient, http.MethodGet, address); status != http.StatusOK || !strings.Contains(body, "hmcnotifyd") {
		t.Errorf("status page: %d %s", status, body)
	}
	p.signal(syscall.SIGINT)
	if status := p.wait(); status != 0 {
		t.Errorf("exit status %d", status)
	}
	// On a slow machine others come too.
	if types := p.matches(`The webhook consumer received \d+ events of (\d+) types from the HMC. Sessions left on the HMC: 0.`)[1]; types < "6" || len(types) > 1 {
		t.Errorf("%s types", types)
	}
	if strings.Contains(p.out.String(), hmcsim.DefaultPassword) {
		t.Error("the password was printed")
	}
}

// Nobody reads the demo's output any more: it ends in good order by itself.
func TestDemoOutputGone(t *testing.T) {
	t.Parallel()
	r, w := newPipe(t)
	alone(t)
	p := startWriting(t, w, nil, nil, "demo")
	if _, err := bufio.NewReader(r).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Close(), r.Close()); err != nil {
		t.Fatal(err)
	}
	if status := p.wait(); status != 0 {
		t.Errorf("exit status %d", status)
	}
}

// The demo ends by itself. It has failed exactly if no event had arrived by then, as it may be on a
// slow machine.
func TestDemoDuration(t *testing.T) {
	t.Parallel()
	alone(t)
	status, stdout, stderr := call("demo", "--duration=3s")
	wantStatus, wantError := 0, ""
	if strings.Contains(stdout, "received 0 events of 0 types") {
		wantStatus, wantError = 1, "no event arrived"
	}
	if status != wantStatus || !strings.Contains(stderr, wantError) || !strings.Contains(stdout, "Sessions left on the HMC: 0") {
		t.Errorf("status %d\n%s%s", status, stdout, stderr)
	}
}

// daemonConfig is a configuration for a simulated HMC with a log sink.
func daemonConfig(t *testing.T, dir string, sim *hmcsim.HMC, password string) string {
	t.Helper()
	write(t, filepath.Join(dir, "ca.pem"), string(sim.CACertPEM()))
	write(t, filepath.Join(dir, "hmc.password"), password+"\n")
	write(t, filepath.Join(dir, "hook.secret"), "whsec_"+"c2VjcmV0LW9mLXRoZS13ZWJob29rLXRlc3Q=\n")
	path := filepath.Join(dir, "hmcnotifyd.yaml")
	write(t, path, fmt.Sprintf(`hmcs:
  - name: east
    hosts: ["127.0.0.1"]
    rest_port: %d
    stomp_port: %d
    userid: hmcuser
    password_file: hmc.password
    tls: {ca_file: ca.pem}
    stomp: {reconnect_sleep_max: 100ms}
sinks:
  - {name: file, log: {output: events.log}}
  - {name: dead, webhook: {url: "http://127.0.0.1:9/token-in-the-path?key=token-in-the-query", secret_file: hook.secret}}
`, sim.RESTPort(), sim.StompPort()))
	return path
}

// The life of a daemon, as systemd, an administrator and Prometheus see it.
func TestDaemon(t *testing.T) {
	t.Parallel()
	const password = "correct:horse\\battery"
	sim := hmctest.Start(t, hmcsim.Options{Rate: 50, Userid: "hmcuser", Password: password})
	dir := t.TempDir()
	cfg := daemonConfig(t, dir, sim, password)
	notify := listenNotify(t)
	p := start(t, []string{"NOTIFY_SOCKET=" + notify.path, "WATCHDOG_USEC=400000"},
		"--config.file="+cfg, "--storage.path="+filepath.Join(dir, "data"), "--web.listen-address=127.0.0.1:0", "--log.level=debug")
	base := "http://" + p.matches(`"addresses":\["(127\.0\.0\.1:\d+)"\]`)[1]
	notify.waitFor("READY=1")
	notify.waitFor("WATCHDOG=1")

	eventually(t, "the dead sink is stuck, and only that", func() bool {
		status, body := get(t, http.DefaultClient, http.MethodGet, base+"/-/ready")
		var reasons []struct{ HMC, Sink, Reason string }
		return status == http.StatusServiceUnavailable && json.Unmarshal([]byte(body), &reasons) == nil &&
			len(reasons) == 1 && reasons[0].Sink == "dead" && strings.Contains(reasons[0].Reason, "refused")
	})
	if status, _ := get(t, http.DefaultClient, http.MethodGet, base+"/-/healthy"); status != http.StatusOK {
		t.Errorf("healthy: %d", status)
	}
	status, metrics := get(t, http.DefaultClient, http.MethodGet, base+"/metrics")
	for _, series := range []string{
		`hmcnotifyd_receiver_connected{hmc="east"} 1`, `hmcnotifyd_receiver_state{hmc="east",state="connected"} 1`,
		`hmcnotifyd_receiver_reconnects_total{hmc="east"} 0`, `hmcnotifyd_notifications_total{hmc="east",type="status-change"} `,
		`hmcnotifyd_config_last_reload_successful 1`, `hmcnotifyd_build_info{goversion="go`, `hmcnotifyd_hmc_rest_requests_total{code="200",hmc="east",operation="logon"} 1`,
		`hmcnotifyd_sink_queue_events{sink="dead"} `, `hmcnotifyd_hmc_certificate_not_after_timestamp_seconds{hmc="east"} `,
	} {
		if status != http.StatusOK || !strings.Contains(metrics, series) {
			t.Errorf("metrics (%d) lack %s", status, series)
		}
	}

	// A latency leads to an event that had it.
	eventually(t, "there is an exemplar", func() bool {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, base+"/metrics", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", "application/openmetrics-text; version=1.0.0")
		answer, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		exemplar := regexp.MustCompile(`hmcnotifyd_sink_delivery_latency_seconds_bucket\{sink="file",le="[^"]+"\} \d+ # \{event_id="([0-9a-f]+)"\}`).FindSubmatch(text)
		if exemplar == nil {
			return false
		}
		delivered, err := os.ReadFile(filepath.Join(dir, "events.log"))
		return err == nil && bytes.Contains(delivered, []byte(`"id":"`+string(exemplar[1])+`"`))
	})

	// A bad file changes nothing, whichever way the reload is asked for.
	good, err := os.ReadFile(cfg)
	if err != nil {
		t.Fatal(err)
	}
	write(t, cfg, strings.Replace(string(good), "rest_port", "rest_prot", 1))
	if status, body := get(t, http.DefaultClient, http.MethodPost, base+"/-/reload"); status != http.StatusInternalServerError || !strings.Contains(body, "rest_prot") {
		t.Errorf("reload of a bad file: %d %s", status, body)
	}
	if _, metrics := get(t, http.DefaultClient, http.MethodGet, base+"/metrics"); !strings.Contains(metrics, "hmcnotifyd_config_last_reload_successful 0") ||
		!strings.Contains(metrics, `hmcnotifyd_receiver_connected{hmc="east"} 1`) {
		t.Error("after a bad reload the metrics do not say so, or the link is lost")
	}
	write(t, cfg, strings.Replace(string(good), "name: file", "name: renamed", 1))
	p.signal(syscall.SIGHUP)
	notify.waitFor("RELOADING=1")
	eventually(t, "reloaded", func() bool {
		_, metrics := get(t, http.DefaultClient, http.MethodGet, base+"/metrics")
		return strings.Contains(metrics, "hmcnotifyd_config_last_reload_successful 1") && strings.Contains(metrics, `sink="renamed"`)
	})
	if status, _ := get(t, http.DefaultClient, http.MethodPost, base+"/-/reload"); status != http.StatusOK {
		t.Errorf("reload: %d", status)
	}
	if sim.Logons() != 1 {
		t.Errorf("%d logons: a reload touched the link", sim.Logons())
	}

	var seen strings.Builder
	for _, path := range []string{"/", "/metrics", "/api/v1/status", "/-/ready", "/-/reload", "/nothing"} {
		_, body := get(t, http.DefaultClient, http.MethodGet, base+path)
		seen.WriteString(body)
	}
	p.signal(syscall.SIGTERM)
	if status := p.wait(); status != 0 {
		t.Errorf("exit status %d", status)
	}
	notify.waitFor("STOPPING=1")
	if sim.Sessions() != 0 || sim.Links() != 0 {
		t.Errorf("%d sessions and %d links are left on the HMC", sim.Sessions(), sim.Links())
	}
	if events, err := os.ReadFile(filepath.Join(dir, "events.log")); err != nil || !strings.Contains(string(events), `"type":"status-change"`) {
		t.Errorf("the log sink's file: %v", err)
	}
	seen.WriteString(p.out.String())
	for _, secret := range []string{password, `correct:horse`, "token-in-the-path", "token-in-the-query", "c2VjcmV0LW9m", "secret-of-the-webhook"} {
		if strings.Contains(seen.String(), secret) {
			t.Errorf("%q was printed", secret)
		}
	}
	if n := strings.Count(p.out.String(), `"level":"info"`) + strings.Count(p.out.String(), `"level":"warn"`); n > 30 {
		t.Errorf("%d lines above debug for a quiet life", n)
	}
}

// notifySocket is systemd's end of sd_notify.
type notifySocket struct {
	t    *testing.T
	path string
	mu   sync.Mutex
	got  []string
}

func listenNotify(t *testing.T) *notifySocket {
	t.Helper()
	n := &notifySocket{t: t, path: filepath.Join(t.TempDir(), "notify")}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: n.path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() {
		_ = conn.Close()
		<-done
	})
	go func() {
		defer close(done)
		buf := make([]byte, 4096)
		for {
			k, err := conn.Read(buf)
			if err != nil {
				return
			}
			n.mu.Lock()
			n.got = append(n.got, strings.Split(string(buf[:k]), "\n")...)
			n.mu.Unlock()
		}
	}()
	return n
}

func (n *notifySocket) waitFor(state string) {
	n.t.Helper()
	eventually(n.t, "sd_notify "+state, func() bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		return slices.Contains(n.got, state)
	})
}

func (n *notifySocket) count(state string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	count := 0
	for _, s := range n.got {
		if s == state {
			count++
		}
	}
	return count
}

// after returns which of these states was told first after another one; "": none yet.
func (n *notifySocket) after(state string, which ...string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if begin := slices.Index(n.got, state); begin >= 0 {
		for _, s := range n.got[begin:] {
			if slices.Contains(which, s) {
				return s
			}
		}
	}
	return ""
}

// reloads returns the begins and ends of reloads, in order, from the first begin.
func (n *notifySocket) reloads() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []string
	for _, s := range n.got {
		if s == "RELOADING=1" || s == "READY=1" && out != nil {
			out = append(out, s)
		}
	}
	return out
}

// withSinks returns a configuration file's text with these lines instead of its sinks.
func withSinks(t *testing.T, path, sinks string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	hmcs, _, _ := strings.Cut(string(text), "sinks:\n")
	return hmcs + "sinks:\n" + sinks
}

// newPipe returns a pipe whose write end is for a child process: writing to it waits, as to any
// inherited pipe.
func newPipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = r.Close()
		_ = w.Close()
	})
	return r, w
}

// A reader of the output that goes away, as head does, is no reason to leave sessions behind.
func TestOutputGone(t *testing.T) {
	t.Parallel()
	for name, stderrToo := range map[string]bool{"stdout": false, "stdout and stderr": true} {
		t.Run(name, func(t *testing.T) {
			sim := hmctest.Start(t, hmcsim.Options{Rate: 50})
			dir := t.TempDir()
			cfg := daemonConfig(t, dir, sim, hmcsim.DefaultPassword)
			write(t, cfg, withSinks(t, cfg, "  - {name: screen, log: {output: stdout}, retry: {initial: 10ms, max: 10ms}}\n"))
			r, w := newPipe(t)
			var stderr *os.File
			if stderrToo {
				stderr = w
			}
			p := startWriting(t, w, stderr, nil,
				"--config.file="+cfg, "--storage.path="+filepath.Join(dir, "data"), "--web.listen-address=127.0.0.1:0")
			lines := bufio.NewReader(io.TeeReader(r, p.out))
			for line := ""; !strings.Contains(line, `"topic_type":`); { // an event, not the log
				var err error
				if line, err = lines.ReadString('\n'); err != nil {
					t.Fatal(err)
				}
			}
			address := p.matches(`"addresses":\["(127\.0\.0\.1:\d+)"\]`)[1]
			if err := errors.Join(w.Close(), r.Close()); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the sink tries again", func() bool {
				_, metrics := get(t, http.DefaultClient, http.MethodGet, "http://"+address+"/metrics")
				return regexp.MustCompile(`(?m)^hmcnotifyd_sink_attempts_total\{outcome="retry",sink="screen"\} [1-9]`).MatchString(metrics)
			})
			p.signal(syscall.SIGTERM)
			if status := p.wait(); status != 0 {
				t.Errorf("exit status %d", status)
			}
			if sim.Sessions() != 0 || sim.Links() != 0 {
				t.Errorf("%d sessions and %d links are left on the HMC", sim.Sessions(), sim.Links())
			}
		})
	}
}

// stuck is a daemon that is stuck in a reload: the sink that goes is writing to a pipe that nobody
// reads.
type stuck struct {
	*program
	sim    *hmcsim.HMC
	notify *notifySocket
	cfg    string
	base   string
	pipe   *os.File
}

func startStuck(t *testing.T) *stuck {
	t.Helper()
	s := &stuck{sim: hmctest.Start(t, hmcsim.Options{Rate: 50}), notify: listenNotify(t)}
	dir := t.TempDir()
	s.cfg = daemonConfig(t, dir, s.sim, hmcsim.DefaultPassword)
	write(t, s.cfg, withSinks(t, s.cfg, "  - {name: screen, log: {output: stdout}}\n"))
	r, w := newPipe(t)
	s.pipe = r
	if err := w.SetWriteDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(make([]byte, 1<<20)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("the pipe is not full: %v", err)
	}
	if err := syscall.SetNonblock(int(w.Fd()), false); err != nil {
		t.Fatal(err)
	}
	s.program = startWriting(t, w, nil, []string{"NOTIFY_SOCKET=" + s.notify.path, "WATCHDOG_USEC=100000"},
		"--config.file="+s.cfg, "--storage.path="+filepath.Join(dir, "data"), "--web.listen-address=127.0.0.1:0")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	s.base = "http://" + s.matches(`"addresses":\["(127\.0\.0\.1:\d+)"\]`)[1]
	eventually(t, "events wait for the pipe", func() bool {
		_, metrics := get(t, http.DefaultClient, http.MethodGet, s.base+"/metrics")
		return regexp.MustCompile(`(?m)^hmcnotifyd_sink_queue_events\{sink="screen"\} \d\d`).MatchString(metrics)
	})
	write(t, s.cfg, withSinks(t, s.cfg, "  - {name: first, log: {output: events.log}}\n"))
	s.signal(syscall.SIGHUP)
	s.notify.waitFor("RELOADING=1")
	return s
}

// release reads the pipe, until everybody has closed it.
func (s *stuck) release() {
	s.t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(io.Discard, s.pipe)
	}()
	s.t.Cleanup(func() { <-done })
}

// While a reload takes its time, systemd is told that the daemon lives, and the daemon obeys
// SIGTERM.
func TestReloadHangs(t *testing.T) {
	t.Parallel()
	s := startStuck(t)
	// The bridge leaves a sink that hangs behind after a while: what counts is what comes
	// before that.
	var next string
	eventually(t, "a sign of life, or the end of the reload", func() bool {
		next = s.notify.after("RELOADING=1", "WATCHDOG=1", "READY=1")
		return next != ""
	})
	if next != "WATCHDOG=1" {
		t.Error("the watchdog was not fed during the reload")
	}
	s.signal(syscall.SIGTERM)
	s.notify.waitFor("STOPPING=1")
	eventually(t, "logged off", func() bool { return s.sim.Sessions() == 0 && s.sim.Links() == 0 })
	s.release()
	if status := s.wait(); status != 0 {
		t.Errorf("exit status %d", status)
	}
}

// However reloads are asked for, one comes after the other, and what the last one has read is what
// runs.
func TestReloadsInTurn(t *testing.T) {
	t.Parallel()
	s := startStuck(t)
	write(t, s.cfg, withSinks(t, s.cfg, "  - {name: second, log: {output: events.log}}\n"))
	answered := make(chan int, 1)
	go func() {
		status, _ := get(t, http.DefaultClient, http.MethodPost, s.base+"/-/reload")
		answered <- status
	}()
	// Where the second reload does not wait for the first, it begins soon. There is no sign of
	// one that waits.
	for end := time.Now().Add(500 * time.Millisecond); time.Now().Before(end) && s.notify.count("RELOADING=1") < 2; {
		time.Sleep(5 * time.Millisecond)
	}
	s.release()
	if status := <-answered; status != http.StatusOK {
		t.Errorf("reload: %d", status)
	}
	eventually(t, "both reloads have ended", func() bool { return s.notify.count("READY=1") == 3 })
	if got := s.notify.reloads(); !slices.Equal(got, []string{"RELOADING=1", "READY=1", "RELOADING=1", "READY=1"}) {
		t.Errorf("not in turn: %q", got)
	}
	if _, metrics := get(t, http.DefaultClient, http.MethodGet, s.base+"/metrics"); !strings.Contains(metrics, `sink="second"`) || strings.Contains(metrics, `sink="first"`) {
		t.Error("what was read last does not run")
	}
	s.signal(syscall.SIGTERM)
	if status := s.wait(); status != 0 {
		t.Errorf("exit status %d", status)
	}
}

// What libraries write to Go's standard logger goes the way of the daemon's own log.
func TestStandardLogger(t *testing.T) {
	sim := hmctest.Start(t, hmcsim.Options{Rate: 5})
	dir := t.TempDir()
	cfg := daemonConfig(t, dir, sim, hmcsim.DefaultPassword)
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // a consumer
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	defer serving.Wait()
	defer func() { _ = l.Close() }()
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			// One answer more than was asked for: net/http says so through the standard
			// logger.
			if req, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
				_, _ = io.Copy(io.Discard, req.Body)
				_, _ = io.WriteString(conn, strings.Repeat("HTTP/1.1 204 No Content\r\n\r\n", 2))
			}
			_ = conn.Close()
		}
	})
	write(t, cfg, withSinks(t, cfg, "  - {name: chatty, webhook: {url: \"http://"+l.Addr().String()+"/\"}, concurrency: 1}\n"))
	p := start(t, nil, "--config.file="+cfg, "--storage.path="+filepath.Join(dir, "data"), "--web.listen-address=127.0.0.1:0", "--log.level=debug")
	p.matches("Unsolicited response")
	p.signal(syscall.SIGTERM)
	if status := p.wait(); status != 0 {
		t.Errorf("exit status %d", status)
	}
	for line := range strings.Lines(p.out.String()) {
		if !json.Valid([]byte(line)) {
			t.Errorf("not a line of the log: %s", line)
		}
	}
}

// protectable returns a directory with the configuration of a daemon, and with a certificate of ca
// for its web side, web.crt and web.key; and the hash of a password as the web side wants it.
func protectable(t *testing.T, password string) (dir, cfg string, ca *hmcsim.CA, hash string) {
	t.Helper()
	sim := hmctest.Start(t, hmcsim.Options{Partitions: -1})
	dir = t.TempDir()
	cfg = daemonConfig(t, dir, sim, hmcsim.DefaultPassword)
	ca, err := hmcsim.NewCA()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.Certificate(hmcsim.CertificateGood)
	if err != nil {
		t.Fatal(err)
	}
	writeKeyPair(t, dir, cert)
	hashed, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return dir, cfg, ca, string(hashed)
}

// The web side with TLS and basic authentication, as every Prometheus exporter has them.
func TestWebConfig(t *testing.T) {
	dir, cfg, ca, hash := protectable(t, "status-password")
	web := filepath.Join(dir, "web.yaml")
	write(t, web, "tls_server_config: {cert_file: web.crt, key_file: web.key}\nbasic_auth_users: {ops: "+hash+"}\n")
	p := start(t, nil, "--config.file="+cfg, "--storage.path="+filepath.Join(dir, "data"), "--web.listen-address=127.0.0.1:0", "--web.config.file="+web)
	base := "https://" + p.matches(`"addresses":\["(127\.0\.0\.1:\d+)"\]`)[1]
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: ca.ClientTLS(), DisableKeepAlives: true}}
	eventually(t, "an answer over TLS that asks for a password", func() bool {
		status, _ := get(t, client, http.MethodGet, base+"/metrics")
		return status == http.StatusUnauthorized
	})
	if status, _ := get(t, client, http.MethodGet, strings.Replace(base, "https://", "https://ops:status-password@", 1)+"/metrics"); status != http.StatusOK {
		t.Errorf("with the password: %d", status)
	}
	p.signal(syscall.SIGTERM)
	if status := p.wait(); status != 0 {
		t.Errorf("exit status %d", status)
	}

	write(t, web, "tls_server_config: {cert_file: missing.crt, key_file: web.key}\n")
	if status, _, stderr := call("--config.file="+cfg, "--web.config.file="+web); status != 1 || !strings.Contains(stderr, "web.config.file") {
		t.Errorf("status %d: %s", status, stderr)
	}
}

func writeKeyPair(t *testing.T, dir string, cert tls.Certificate) {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "web.crt"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]})))
	write(t, filepath.Join(dir, "web.key"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})))
}

// What cannot be had at the start is said in one line, and nothing is left behind.
func TestStartFails(t *testing.T) {
	sim := hmctest.Start(t, hmcsim.Options{Partitions: -1})
	dir := t.TempDir()
	cfg := daemonConfig(t, dir, sim, hmcsim.DefaultPassword)
	taken, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // a port that is taken
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	unreadable := filepath.Join(dir, "unreadable")
	if err := os.MkdirAll(filepath.Join(unreadable, "moved"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"port taken": {[]string{"--web.listen-address=" + taken.Addr().String(), "--storage.path=" + filepath.Join(dir, "data")}, "--web.listen-address"},
		"storage":    {[]string{"--web.listen-address=127.0.0.1:0", "--storage.path=" + filepath.Join(cfg, "data")}, "storage"},
		"a file":     {[]string{"--web.listen-address=127.0.0.1:0", "--storage.path=" + cfg}, cfg + "/lock: not a directory\n"},
		"unreadable": {[]string{"--web.listen-address=127.0.0.1:0", "--storage.path=" + unreadable}, "moved: is a directory\n"},
	} {
		t.Run(name, func(t *testing.T) {
			if status, _, stderr := call(append(test.args, "--config.file="+cfg)...); status != 1 || !strings.Contains(stderr, test.want) || strings.Count(stderr, "\n") != 1 {
				t.Errorf("status %d: %s", status, stderr)
			}
		})
	}
	if sim.Logons() != 0 {
		t.Error("logged on before everything was there")
	}
}

// The snippet that simulate prints is a configuration that works.
func TestSimulate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	sim := start(t, nil, "simulate", "--rest-port=0", "--stomp-port=0", "--rate=50", "--ca-out="+filepath.Join(dir, "ca.pem"))
	sim.matches(`Ctrl-C ends it`)
	cfg := filepath.Join(dir, "hmcnotifyd.yaml")
	write(t, cfg, sim.out.String())
	d := start(t, nil, "--config.file="+cfg, "--storage.path="+filepath.Join(dir, "data"), "--web.listen-address=127.0.0.1:0", "--log.format=console")
	eventually(t, "events on the screen", func() bool {
		for s := bufio.NewScanner(strings.NewReader(d.out.String())); s.Scan(); {
			var e struct{ Type, Summary string }
			if json.Unmarshal(s.Bytes(), &e) == nil && e.Type == "os-message" && e.Summary != "" {
				return true
			}
		}
		return false
	})
	d.signal(syscall.SIGINT)
	if status := d.wait(); status != 0 {
		t.Errorf("daemon: exit status %d", status)
	}
	sim.signal(syscall.SIGTERM)
	if status := sim.wait(); status != 0 {
		t.Errorf("simulator: exit status %d", status)
	}
	for line := range strings.SplitSeq(d.out.String(), "\n") {
		if strings.Contains(line, hmcsim.DefaultPassword) {
			t.Errorf("the password was printed: %s", line)
		}
	}
}
