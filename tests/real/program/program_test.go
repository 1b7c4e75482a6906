package program_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hmcnotifyd/hmcnotifyd/tests/real/program"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestProcess(t *testing.T) {
	sh := program.Look(t, "sh", "dash")
	p := program.Start(t, program.Options{
		Name: "sleeper", Path: sh, Env: []string{"WORD=hello"},
		Args: []string{"-c", `trap 'echo bye; exit 3' TERM; echo "$WORD"; while :; do sleep 0.05; done`},
	})
	p.AwaitOutput(t, "hello", 10*time.Second)
	if got := p.Terminate(t, 10*time.Second); got != 3 {
		t.Errorf("exit status %d, want 3", got)
	}
	if out := p.Output(); out != "hello\nbye\n" {
		t.Errorf("output %q", out)
	}
	p.Kill()                     // no harm after the end
	p.Signal(t, syscall.SIGUSR1) // neither
}

func TestProcessDiesWithTheTest(t *testing.T) {
	sh := program.Look(t, "sh", "dash")
	var pid int
	t.Run("inner", func(t *testing.T) {
		p := program.Start(t, program.Options{Name: "sleeper", Path: sh, Args: []string{"-c", "exec sleep 600"}})
		pid = p.PID()
	})
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("process %d after the test: %v, want %v", pid, err, syscall.ESRCH)
	}
}

func TestOutput(t *testing.T) {
	sh := program.Look(t, "sh", "dash")
	out, status := program.Output(t, 10*time.Second, sh, "-c", "echo out; echo err >&2; exit 4")
	if out != "out\nerr\n" || status != 4 {
		t.Errorf("got %q, %d", out, status)
	}
}

func TestStdoutFile(t *testing.T) {
	sh := program.Look(t, "sh", "dash")
	f, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p := program.Start(t, program.Options{Name: "two", Path: sh, Args: []string{"-c", "echo out; echo err >&2"}, Stdout: f})
	if status := p.Wait(t, 10*time.Second); status != 0 {
		t.Errorf("exit status %d", status)
	}
	b, err := os.ReadFile(f.Name())
	if err != nil || strings.TrimSpace(string(b)) != "out" {
		t.Errorf("stdout file: %q, %v", b, err)
	}
	if out := p.Output(); out != "err\n" {
		t.Errorf("output %q", out)
	}
}

func TestFreePort(t *testing.T) {
	seen := map[int]bool{}
	for range 50 {
		port := program.FreePort(t)
		if seen[port] {
			t.Fatalf("port %d handed out twice", port)
		}
		seen[port] = true
		l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}

	if runtime.GOOS != "linux" {
		return
	}
	// What another test process finds.
	for port := range seen {
		if l, err := new(net.ListenConfig).Listen(t.Context(), "unix", "@hmcnotifyd-test-port-"+strconv.Itoa(port)); err == nil {
			_ = l.Close()
			t.Errorf("port %d is not reserved", port)
		}
	}
}
