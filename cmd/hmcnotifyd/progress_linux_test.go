package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/deliver"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/terminal"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
	"github.com/hmcnotifyd/hmcnotifyd/tests/output"
)

// tty is a pseudo-terminal and what a program has written to it.
type tty struct {
	slave *os.File
	out   *output.Buffer
}

// newTerminal opens one of 120 columns.
func newTerminal(t *testing.T) *tty {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	control := func(do func(fd int) error) {
		t.Helper()
		raw, err := master.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		var failed error
		if err := raw.Control(func(fd uintptr) { failed = do(int(fd)) }); err != nil || failed != nil {
			t.Fatal(err, failed)
		}
	}
	number := 0
	control(func(fd int) error { return unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0) })
	control(func(fd int) (err error) {
		number, err = unix.IoctlGetInt(fd, unix.TIOCGPTN)
		return err
	})
	control(func(fd int) error { return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 120}) })
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	term := &tty{slave: slave, out: new(output.Buffer)}
	read := make(chan struct{})
	go func() {
		defer close(read)
		_, _ = io.Copy(term.out, master) // ends when nobody has the other side open any more
	}()
	t.Cleanup(func() {
		_ = slave.Close()
		<-read
		_ = master.Close()
	})
	return term
}

// screen is what somebody who looks at the terminal sees in the end: a carriage return begins the
// line again, and what clears the rest of the line does.
func screen(written string) string {
	var shown strings.Builder
	for line := range strings.SplitSeq(written, "\n") {
		var now []rune
		for part := range strings.SplitSeq(strings.TrimSuffix(line, "\r"), "\r") {
			text, _, clears := strings.Cut(part, "\x1b[K")
			next := []rune(text)
			if !clears && len(now) > len(next) {
				next = append(next, now[len(next):]...)
			}
			now = next
			if _, rest, ok := strings.Cut(part, "\x1b[K"); ok {
				now = append(now, []rune(rest)...)
			}
		}
		shown.WriteString(strings.TrimRight(string(now), " ") + "\n")
	}
	return shown.String()
}

// What takes longer than a second is shown on a terminal while it lasts, and gone afterwards.
func TestProgressOnTerminal(t *testing.T) {
	t.Parallel()
	term := newTerminal(t)
	// A slow machine may not show each second; n stands for any.
	sees := func(text string) func() bool {
		re := regexp.MustCompile(strings.ReplaceAll(regexp.QuoteMeta(text), `\(n s\)`, `\(\d+ s\)`))
		return func() bool { return re.MatchString(term.out.String()) }
	}
	answer := make(chan struct{})
	daemon := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		enc := json.NewEncoder(w)
		if r.Method == http.MethodGet {
			<-answer
			_, _ = io.WriteString(w, `{"dead_letters":[]}`)
			return
		}
		_ = enc.Encode(deliver.TestStep{Outcome: deliver.TestBegins, Sink: "ops", Request: "POST http://x/...", TimeoutSeconds: 10})
		_ = http.NewResponseController(w).Flush()
		<-answer
		_ = enc.Encode(deliver.TestStep{Outcome: deliver.TestDelivered, Sink: "ops", EventID: "e", Seconds: 2})
	}))
	t.Cleanup(daemon.Close)

	p := startWriting(t, term.slave, term.slave, nil, "send-test", "--sink=ops", "--url="+daemon.URL)
	eventually(t, "the wait for the sink is shown", sees("sink ops: waiting for an answer, 10 s at most (n s)"))
	answer <- struct{}{}
	if status := p.wait(); status != 0 {
		t.Errorf("status %d", status)
	}
	eventually(t, "the end is shown", sees("delivered in 2 s, event e"))

	p = startWriting(t, term.slave, term.slave, nil, "dead-letters", "list", "--url="+daemon.URL)
	eventually(t, "the wait for the daemon is shown", sees("waiting for the daemon at "+daemon.URL+" (n s)"))
	answer <- struct{}{}
	if status := p.wait(); status != 0 {
		t.Errorf("status %d", status)
	}
	eventually(t, "the end is shown", sees("no dead letters"))

	sim := hmctest.Start(t, hmcsim.Options{RESTFaults: []hmcsim.RESTFault{{Kind: hmcsim.RESTFaultHang, Operation: "list-cpcs"}}})
	p = startWriting(t, term.slave, term.slave, nil, "check-config", "--online", daemonConfig(t, t.TempDir(), sim, hmcsim.DefaultPassword))
	eventually(t, "what is being done is shown", sees("hmc east: listing CPCs and partitions (n s)"))
	p.signal(syscall.SIGINT)
	if status := p.wait(); status != 1 {
		t.Errorf("status %d", status)
	}
	eventually(t, "the end is shown", sees("interrupted; the sessions are logged off"))
	if sim.Sessions() != 0 {
		t.Errorf("%d sessions are left", sim.Sessions())
	}
	if left := screen(term.out.String()); strings.Contains(left, "waiting") || strings.Contains(left, "listing CPCs") || regexp.MustCompile(`\(\d+ s\)`).MatchString(left) {
		t.Errorf("it stays on the terminal:\n%s", left)
	}

	// Elsewhere nothing of it is written.
	var out bytes.Buffer
	terminal.Waiting(&out, func() string { return "waiting" })()
	if out.Len() != 0 {
		t.Errorf("%q", out.String())
	}
}

// What ends the program has the priority of an error in the journal, also where there is no log yet.
func TestWhyItEndsIsAnErrorInTheJournal(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"--config.file=" + t.TempDir() + "/none"}, {"--no-such-flag"}, {"check-config", t.TempDir()},
	} {
		f, err := os.Create(filepath.Join(t.TempDir(), "journal"))
		if err != nil {
			t.Fatal(err)
		}
		var s unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &s); err != nil {
			t.Fatal(err)
		}
		if startWriting(t, nil, f, []string{fmt.Sprintf("JOURNAL_STREAM=%d:%d", s.Dev, s.Ino)}, args...).wait() == 0 {
			t.Errorf("%q: no error", args)
		}
		_ = f.Close()
		text, err := os.ReadFile(f.Name())
		if err != nil || !strings.HasPrefix(string(text), "<3>") || strings.Count(string(text), "\n") != 1 {
			t.Errorf("%q: %s, %v", args, text, err)
		}
	}
}
