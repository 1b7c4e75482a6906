package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
)

// simulator is a process of the command simulate with a pipe as its standard input.
type simulator struct {
	*program
	stdin *os.File
	seen  int // how much of the output has been matched
}

func startSimulator(t *testing.T, args ...string) *simulator {
	t.Helper()
	r, w := newPipe(t)
	p := startReading(t, r, nil, nil, nil, append([]string{"simulate", "--rest-port=0", "--stomp-port=0", "--rate=0"}, args...)...)
	s := &simulator{program: p, stdin: w}
	s.says(`Commands are read from standard input`)
	return s
}

// types writes a line.
func (s *simulator) types(line string) {
	s.t.Helper()
	if _, err := io.WriteString(s.stdin, line+"\n"); err != nil {
		s.t.Fatal(err)
	}
}

// says waits for a match in what was printed after the last one, and returns the submatches.
func (s *simulator) says(pattern string) []string {
	s.t.Helper()
	re := regexp.MustCompile(`(?m)` + pattern)
	var found []string
	eventually(s.t, "output "+pattern, func() bool {
		text := s.out.String()[s.seen:]
		at := re.FindStringSubmatchIndex(text)
		if at == nil {
			return false
		}
		found = re.FindStringSubmatch(text)
		s.seen += at[1]
		return true
	})
	return found
}

// Each command does what help says of it, or prints one line that says why not. All that is printed
// stays a configuration.
func TestSimulateCommands(t *testing.T) {
	t.Parallel()
	s := startSimulator(t, "--hmcs=2", "--cpcs=2", "--partitions=8")
	for _, step := range []struct{ line, want string }{
		{"list", `^# CPC1 +active\n#   PART1 +active\n#   PART2 +active\n#   PART3 +active\n#   PART4 +stopped\n#   OSD 0120 +active, link=operating\n#   FCP 0124 +active, link=operating\n#   SG CPC1 +complete\n# M90 +operating\n#   LP01 +operating\n`},
		{"list M90", `^# M90 +operating\n#   LP01 +operating\n(#   LP0\d +\S+\n){3}`},
		{"list CPC9", `^# error: CPC "CPC9" is unknown; list lists all$`},
		{"bogus PART1", `^# error: unknown command "bogus"; help lists the commands$`},
		{"stop", `^# error: stop: NAME is missing; usage: stop NAME \[USER\]$`},
		{"stop PART1 me now", `^# error: stop: "now" is too much; usage: stop NAME \[USER\]$`},
		{"stop NOBODY", `^# error: partition "NOBODY" is unknown$`},
		{"stop PART4", `^# error: partition PART4 cannot be stopped: it is stopped$`},
		{"", ``}, // an empty line is no mistake
		{"  start   CPC1/PART4 ", `^# partition PART4 on CPC1 starts$`},
		{"status PART2 paused", `^# partition PART2 on CPC1: active -> paused$`},
		{"status CPC1 service", `^# CPC CPC1: active -> service$`},
		{"status NOBODY paused", `^# error: no partition and no CPC is called "NOBODY"; list lists all$`},
		{"status PART2", `^# error: status: STATUS is missing; usage: status NAME STATUS$`},
		{"acceptable PART2 active stopped", `^# partition PART2 on CPC1: acceptable is active, stopped$`},
		{"acceptable CPC1 operating", `^# CPC CPC1: acceptable is operating$`},
		{"wait LP01 0A2 17C", `^# partition LP01 on M90 waits$`},
		{"wait LP01 0A2", `^# error: partition LP01 cannot wait: it is not-operating, or the codes are too large$`},
		{"wait LP01 A-2", `^# error: "A-2" is no wait state code: three hexadecimal digits$`},
		{"wait LP01 0A2 x", `^# error: "x" is no reason code: up to five hexadecimal digits$`},
		{"say LP03 *07 IEF238D REPLY DEVICE NAME OR 'CANCEL'.", `^# partition LP03 on M90 has said it, to 0 subscriptions$`},
		{"reply LP03 8", `^# error: no message of LP03 waits for an answer under 08, but under 07$`},
		{"reply LP03 7 CANCEL", `^# partition LP03 on M90 has its answer$`},
		{"reply LP03 07", `^# error: no message of LP03 waits for an answer under 07$`},
		{"reply LP03 x", `^# error: "x" is no reply id: digits, as 07 in \*07 IEF238D$`},
		{`adapter "OSD 0120" not-active`, `^# adapter OSD 0120: not-active$`},
		{`adapter "OSD 0120" link=stopped`, `^# adapter OSD 0120: link=stopped$`},
		{`adapter "CPC1/OSD 0120" active`, `^# adapter CPC1/OSD 0120: active$`},
		{"adapter NONE active", `^# error: adapter "NONE" is unknown$`},
		{`storage "SG CPC1" incomplete`, `^# storage group SG CPC1: incomplete$`},
		{`rename PART2 "two words"`, `^# partition PART2 on CPC1 is now two words$`},
		{`rename "two words" PART3`, `^# error: CPC1 has a partition PART3 already$`},
		{`rename CPC1 M90`, `^# error: there is a CPC M90 already$`},
		{`rename CPC1 EAST`, `^# CPC CPC1 is now EAST$`},
		{`rename "two`, `^# error: rename: the closing quote is missing: "two$`},
		{`rename NOBODY X`, `^# error: no partition and no CPC is called "NOBODY"; list lists all$`},
		{"create EAST NEW", `^# partition NEW on EAST is there: stopped$`},
		{"create EAST NEW", `^# error: CPC EAST has a partition "NEW" already$`},
		{"create M90", `^# partition LP05 on M90 is there: not-activated$`},
		{"create NOWHERE", `^# error: CPC "NOWHERE" is unknown$`},
		{"stop LP02 SYSPROG2", `^# partition LP02 on M90 stops$`},
		{"password 5 simulated-2", `^# simulated-2: the password of hmcuser expires in 5 days, as the next logon tells$`},
		{"password -1", `^# simulated-1: the password of hmcuser never expires\n# simulated-2: the password of hmcuser never expires$`},
		{"password now", `^# simulated-1: the password of hmcuser has expired: the next logon is refused\n#`},
		{"password soon", `^# error: "soon" is neither now nor a number of days$`},
		{"list EAST", `^# EAST +service\n#   PART1 +active\n#   two words +paused\n#   PART3 +active\n#   PART4 +\S+\n#   NEW +stopped\n#   OSD 0120`},
		{"delete NEW", `^# partition NEW on EAST is gone$`},
		{"delete NEW", `^# error: partition "NEW" is unknown$`},
		{"say PART1 hello  there", `^# partition PART1 on EAST has said it, to 0 subscriptions$`},
		{"say PART1", `^# error: say: TEXT is missing; usage: say NAME TEXT...$`},
		{"say LP05 x", `^# error: partition LP05 on M90 is not-activated: no operating system of it can be heard$`},
		{"say NOBODY x", `^# error: partition "NOBODY" is unknown$`},
		{"lose EAST", `^# the support element of EAST is cut off$`},
		{"lose EAST", `^# error: the support element of EAST is cut off already$`},
		{"list EAST", `^# EAST +not-communicating\n#   PART1 +communications-not-active\n`},
		{"regain EAST", `^# the support element of EAST communicates again$`},
		{"regain EAST", `^# error: the support element of EAST communicates already$`},
		{"lose NOWHERE", `^# error: CPC "NOWHERE" is unknown; list lists all$`},
		{"job", `^# error: job: nobody is logged on, and jobs belong to sessions$`},
		{"hwmessage EAST a fan  has failed", `^# hardware message /api/cpcs/[-0-9a-f]+/hardware-messages/[-0-9a-f]+$`},
		{"hwmessage console no backup", `^# hardware message /api/console/hardware-messages/\S+\n# hardware message /api/console/hardware-messages/\S+$`},
		{"hwclear EAST", `^# 1 hardware message of EAST removed$`},
		{"hwclear console", `^# 1 hardware message of console removed\n# 1 hardware message of console removed$`},
		{"hwclear NOWHERE", `^# error: CPC "NOWHERE" is unknown; list lists all$`},
		{"hwmessage NOWHERE x", `^# error: CPC "NOWHERE" is unknown; list lists all$`},
		{"drop", `^# simulated-1: 0 links cut\n# simulated-2: 0 links cut$`},
		{"drop simulated-2", `^# simulated-2: 0 links cut$`},
		{"drop HMC9", `^# error: HMC "HMC9" is unknown$`},
		{"expire simulated-1", `^# simulated-1: 0 sessions expired$`},
		{"expire HMC9", `^# error: HMC "HMC9" is unknown$`},
		{"restart soon", `^# error: restart: "soon" is not a number of seconds from 0 to 86400$`},
		{"restart 0 HMC9", `^# error: HMC "HMC9" is unknown$`},
		{"restart 0.01 simulated-2", `^# simulated-2 is down\n# simulated-2 is up again$`},
		{"restart 86400 simulated-2", `^# simulated-2 is down$`},
		{"restart 0 simulated-2", `^# error: simulated-2 is down already$`},
		{"restart", `^# simulated-1 is down$`}, // the second one is: nothing more
		{"say PART1 \xff", `^# partition PART1 on EAST has said it, to 0 subscriptions$`},
	} {
		s.types(step.line)
		s.says(step.want)
	}
	s.types("help")
	for _, cmd := range hmcsim.ConsoleCommands() {
		s.says(`^# ` + regexp.QuoteMeta(cmd.Usage) + ` +` + regexp.QuoteMeta(cmd.Help) + `$`)
	}
	s.types("quit")
	if status := s.wait(); status != 0 {
		t.Errorf("exit status %d", status)
	}
	file := filepath.Join(t.TempDir(), "hmcnotifyd.yaml")
	write(t, file, s.out.String())
	cfg, err := config.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	if len(cfg.HMCs) != 2 || cfg.HMCs[0].Group != "simulated" || cfg.HMCs[1].Group != "simulated" || cfg.HMCs[0].RESTPort == cfg.HMCs[1].RESTPort ||
		cfg.HMCs[0].Name != "simulated-1" || cfg.HMCs[1].Name != "simulated-2" {
		t.Errorf("%+v", cfg.HMCs)
	}
}

// The end of the input ends the reading only, as does a line that is too long.
func TestSimulateInputEnds(t *testing.T) {
	t.Parallel()
	for name, last := range map[string]string{"end": "", "no line end": "list", "too long": "say PART1 " + strings.Repeat("x", hmcsim.MaxConsoleLine) + "\n"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startSimulator(t)
			s.types("create CPC1 A")
			s.says(`partition A on CPC1 is there`)
			if _, err := io.WriteString(s.stdin, last); err != nil && !errors.Is(err, syscall.EPIPE) {
				t.Fatal(err)
			}
			if err := s.stdin.Close(); err != nil {
				t.Fatal(err)
			}
			switch name {
			case "no line end":
				s.says(`#   PART1 +active`)
			case "too long":
				s.says(`^# no more commands are read: .*too long$`)
			}
			rest := regexp.MustCompile(`rest_port: (\d+)`).FindStringSubmatch(s.out.String())
			var dialer net.Dialer
			conn, err := dialer.DialContext(t.Context(), "tcp", "127.0.0.1:"+rest[1])
			if err != nil {
				t.Fatalf("the simulator has gone with its input: %v", err)
			}
			_ = conn.Close()
			s.signal(syscall.SIGINT)
			if status := s.wait(); status != 0 {
				t.Errorf("exit status %d", status)
			}
		})
	}
}

// webhook collects what a daemon delivers.
type webhook struct {
	url    string
	mu     sync.Mutex
	events []event.Event
}

func startWebhook(t *testing.T) *webhook {
	t.Helper()
	hook := new(webhook)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var e event.Event
		if err := json.NewDecoder(r.Body).Decode(&e); err != nil {
			t.Error(err)
		}
		hook.mu.Lock()
		defer hook.mu.Unlock()
		hook.events = append(hook.events, e)
		w.WriteHeader(http.StatusNoContent)
	}))
	t.Cleanup(server.Close)
	hook.url = server.URL
	return hook
}

// matching returns the events for which ok holds, in the order in which they came.
func (w *webhook) matching(ok func(event.Event) bool) []event.Event {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(w.events), func(e event.Event) bool { return !ok(e) })
}

// waitFor waits until n events match.
func (w *webhook) waitFor(t *testing.T, what string, n int, ok func(event.Event) bool) {
	t.Helper()
	eventually(t, what, func() bool { return len(w.matching(ok)) >= n })
}

// As a new user would try it: the simulator in one terminal, the daemon with what the simulator
// printed in another. A partition that is stopped and started shows its shutdown and boot messages
// at the webhook, in order, once; and so do the other things that can be typed.
func TestSimulateToWebhook(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := startSimulator(t, "--ca-out="+filepath.Join(dir, "ca.pem"))
	hook := startWebhook(t)
	cfg := filepath.Join(dir, "hmcnotifyd.yaml")
	write(t, cfg, s.out.String())
	write(t, cfg, withSinks(t, cfg, fmt.Sprintf("  - {name: hook, webhook: {url: %q}}\n", hook.url)))
	d := start(t, nil, "--config.file="+cfg, "--storage.path="+filepath.Join(dir, "data"), "--web.listen-address=127.0.0.1:0")
	of := func(kind string, names ...string) func(event.Event) bool {
		return func(e event.Event) bool {
			return e.Type == kind && (len(names) == 0 || e.Resource != nil && slices.Contains(names, e.Resource.Name))
		}
	}
	texts := func() []string {
		var all []string
		for _, e := range hook.matching(of("os-message", "PART1")) {
			var body struct {
				Text string `json:"message-text"`
			}
			if err := json.Unmarshal(e.Body, &body); err != nil {
				t.Fatal(err)
			}
			all = append(all, strings.TrimSpace(body.Text))
		}
		return all
	}
	hook.waitFor(t, "what the HMC still holds of the last boot", 11, of("os-message", "PART1"))
	boot := texts()
	s.types("stop PART1")
	s.says(`^# partition PART1 on CPC1 stops`)
	// One status change to stopping and one to stopped; either may be told twice.
	hook.waitFor(t, "stopped", 1, func(e event.Event) bool {
		return of("status-change", "PART1")(e) && strings.Contains(string(e.Body), `"new-status":"stopped"`)
	})
	hook.waitFor(t, "the shutdown messages", 11+4, of("os-message", "PART1"))
	eventually(t, "at rest", func() bool {
		s.types("start PART1")
		return s.says(`^# (partition PART1 on CPC1 starts|error: partition PART1 cannot be started: .*)$`)[1] == "partition PART1 on CPC1 starts"
	})
	hook.waitFor(t, "the boot messages", 11+4+11, of("os-message", "PART1"))
	s.types("say PART1 that's all")
	s.says(`^# partition PART1 on CPC1 has said it, to 1 subscription$`)
	hook.waitFor(t, "the last one", 11+4+11+1, of("os-message", "PART1"))
	want := slices.Concat(boot, []string{
		"[  OK  ] Stopped target Multi-User System.", "Stopping OpenSSH server daemon...",
		"[  OK  ] Reached target System Power Off.", "[ 8123.456789] reboot: System halted",
	}, boot, []string{"that's all"})
	if got := texts(); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}

	s.types("job")
	s.says(`^# /api/jobs/\S+ is complete on simulated$`)
	hook.waitFor(t, "the job", 1, of("job-completion"))
	s.types("hwmessage CPC1 a fan has failed")
	hook.waitFor(t, "the change of has-hardware-messages", 1, func(e event.Event) bool {
		return of("property-change", "CPC1")(e) && strings.Contains(string(e.Body), "has-hardware-messages")
	})
	s.types("lose CPC1")
	for _, name := range []string{"PART1", "PART2", "PART3", "PART4"} {
		hook.waitFor(t, name, 1, func(e event.Event) bool {
			return of("status-change", name)(e) && strings.Contains(string(e.Body), `"new-status":"communications-not-active"`)
		})
	}
	s.types("expire")
	s.says(`^# simulated: 1 session expired$`)
	s.types("drop")
	s.says(`^# simulated: (1 link|0 links) cut$`) // none, if the daemon has found out by itself that the session is gone
	hook.waitFor(t, "a new session and link", 2, of("bridge-connected"))
	d.signal(syscall.SIGINT)
	if status := d.wait(); status != 0 {
		t.Errorf("daemon: exit status %d", status)
	}
	s.signal(syscall.SIGTERM)
	if status := s.wait(); status != 0 {
		t.Errorf("simulator: exit status %d", status)
	}
}

// docs/simulator.md has the commands that help has.
func TestSimulateDocumented(t *testing.T) {
	doc, err := os.ReadFile("../../docs/simulator.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := regexp.MustCompile("(?m)^\\| `([a-z].*?)` \\|").FindAllStringSubmatch(string(doc), -1)
	var documented, there []string
	for _, row := range rows {
		documented = append(documented, row[1])
	}
	for _, cmd := range hmcsim.ConsoleCommands() {
		there = append(there, cmd.Usage)
	}
	if !slices.Equal(documented, there) {
		t.Errorf("docs/simulator.md has the commands %q, the simulator %q", documented, there)
	}
}
