// Package program runs the real programs that tests use as counterparts:
// brokers, Prometheus, the daemon itself. Each is a child process on
// loopback, is ended by its process id, dies with the test process, and has
// its output shown when the test fails.
package program

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// shownOutput is how much of a program's output a failed test prints, in bytes
// from its end.
const shownOutput = 16 << 10

// Look returns the path of an installed program. If there is none the test
// fails, it is not skipped: a test of a real counterpart that nobody notices
// did not run is worth nothing. debianPackage is what to install.
func Look(tb testing.TB, name, debianPackage string) string {
	tb.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		tb.Fatalf("%s is not installed: apt-get install %s", name, debianPackage)
	}
	return path
}

// Options describe a program to start.
type Options struct {
	// Name is for messages and for the file that keeps the output.
	Name string
	// Path is the program, as Look returned it.
	Path string
	Args []string
	// Dir is the working directory, by default a new temporary one.
	Dir string
	// Env is added to the environment of the test process.
	Env []string
	// Stdout, if set, is the file that receives standard output instead of
	// the one Process.Output reads.
	Stdout *os.File
	// Log, if set, is the file that the output is appended to, for a program
	// that is started many times; it is not shown when the test fails.
	Log string
}

// Process is a running child process.
type Process struct {
	name   string
	cmd    *exec.Cmd
	log    string
	exited chan struct{}
	err    error // of cmd.Wait; read after exited is closed
}

// Start runs a program. When the test ends it is killed if it still runs, and
// its output is logged if the test failed.
func Start(tb testing.TB, opts Options) *Process {
	tb.Helper()
	dir := tb.TempDir()
	if opts.Dir == "" {
		opts.Dir = dir
	}
	logPath := cmp.Or(opts.Log, filepath.Join(dir, opts.Name+".log"))
	logFile, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		tb.Fatal(err)
	}
	defer logFile.Close()

	// Not tb.Context(): that ends before the cleanups run, which may want to
	// stop the program in their own way.
	cmd := exec.CommandContext(context.WithoutCancel(tb.Context()), opts.Path, opts.Args...)
	cmd.Dir = opts.Dir
	cmd.Env = append(Environ(), opts.Env...)
	cmd.Stdout, cmd.Stderr = logFile, logFile
	if opts.Stdout != nil {
		cmd.Stdout = opts.Stdout
	}
	cmd.SysProcAttr = dieWithParent()
	if err := cmd.Start(); err != nil {
		tb.Fatalf("start %s: %v", opts.Name, err)
	}
	p := &Process{name: opts.Name, cmd: cmd, log: logPath, exited: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.exited)
	}()
	tb.Cleanup(func() {
		p.Kill()
		if tb.Failed() && opts.Log == "" {
			tb.Logf("output of %s (process %d, %s):\n%s", p.name, p.PID(), p.state(), tail(p.Output(), shownOutput))
		}
	})
	return p
}

// PID returns the process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Output returns what the program has written so far.
func (p *Process) Output() string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// Exited is closed when the program has ended.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Signal sends a signal; a program that has ended is no error.
func (p *Process) Signal(tb testing.TB, sig os.Signal) {
	tb.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		tb.Fatalf("signal %s: %v", p.name, err)
	}
}

// Kill ends the program with SIGKILL and waits until it is gone.
func (p *Process) Kill() {
	// The only errors are "finished already" ones.
	_ = p.cmd.Process.Kill()
	<-p.exited
}

// Wait returns the exit status, -1 for a death by signal. The test fails if
// the program is still running after the given time.
func (p *Process) Wait(tb testing.TB, within time.Duration) int {
	tb.Helper()
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case <-p.exited:
		return p.cmd.ProcessState.ExitCode()
	case <-timer.C:
		tb.Fatalf("%s (process %d) still runs after %v", p.name, p.PID(), within)
		return -1
	}
}

// Terminate sends SIGTERM and returns the exit status, as Wait does.
func (p *Process) Terminate(tb testing.TB, within time.Duration) int {
	tb.Helper()
	p.Signal(tb, syscall.SIGTERM)
	return p.Wait(tb, within)
}

// AwaitOutput waits until the program's output contains a text. The test
// fails at once if the program ends before, and after the given time.
func (p *Process) AwaitOutput(tb testing.TB, text string, within time.Duration) {
	tb.Helper()
	p.Await(tb, within, func() error {
		if !strings.Contains(p.Output(), text) {
			return fmt.Errorf("no %q in the output of %s", text, p.name)
		}
		return nil
	})
}

// Await is the function Await for a condition that only a running program can
// bring about: the test fails at once when the program ends.
func (p *Process) Await(tb testing.TB, within time.Duration, cond func() error) {
	tb.Helper()
	Await(tb, within, func() error {
		ended := false
		select {
		case <-p.exited:
			ended = true // before the last look, which may still succeed
		default:
		}
		err := cond()
		if err != nil && ended {
			tb.Fatalf("%s has ended (%s): %v", p.name, p.state(), err)
		}
		return err
	})
}

func (p *Process) state() string {
	select {
	case <-p.exited:
		if p.err != nil {
			return p.err.Error()
		}
		return "exit status 0"
	default:
		return "running"
	}
}

// Environ is the environment for a program: without GOGC, which make sets for the tests alone.
func Environ() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "GOGC=") })
}

// Await polls until cond returns nil. The test fails with cond's last error
// after the given time. What takes long, and an answer that does, is asked for
// less often, so that what is waited for has most of the processors.
func Await(tb testing.TB, within time.Duration, cond func() error) {
	tb.Helper()
	start := time.Now()
	for {
		asked := time.Now()
		err := cond()
		if err == nil {
			return
		}
		waited := time.Since(start)
		if waited > within {
			tb.Fatalf("not within %v: %v", within, err)
		}
		time.Sleep(min(max(10*time.Millisecond, waited/20, 4*time.Since(asked)), 200*time.Millisecond))
	}
}

// Output runs a program to its end and returns standard output and standard
// error together and the exit status. The test fails if the program cannot be
// run or takes longer than the given time.
func Output(tb testing.TB, within time.Duration, path string, args ...string) (string, int) {
	tb.Helper()
	return OutputOf(tb, within, exec.CommandContext(tb.Context(), path, args...))
}

// OutputOf is Output for a command that needs a directory, an environment or
// an input; its Stdout and Stderr are taken.
func OutputOf(tb testing.TB, within time.Duration, cmd *exec.Cmd) (string, int) {
	tb.Helper()
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = dieWithParent()
	// A grandchild that keeps the pipe open must not hold the test up.
	cmd.WaitDelay = 5 * time.Second
	start := time.Now()
	if err := cmd.Start(); err != nil {
		tb.Fatalf("%s: %v", cmd, err)
	}
	timer := time.AfterFunc(within, func() { _ = cmd.Process.Kill() })
	err := cmd.Wait()
	if !timer.Stop() {
		tb.Fatalf("%s: still running after %v\n%s", cmd, time.Since(start).Round(time.Second), tail(out.String(), shownOutput))
	}
	if _, failed := errors.AsType[*exec.ExitError](err); err != nil && !failed {
		tb.Fatalf("%s: %v\n%s", cmd, err, tail(out.String(), shownOutput))
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

func tail(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return "...\n" + s[len(s)-n:]
}

// Ports handed out by this test process; none is handed out twice.
var ports struct {
	sync.Mutex
	reserved map[int]io.Closer
}

// FreePort returns a TCP port of 127.0.0.1 and ::1 that nothing listens on. It
// is below the range from which Linux takes the local ports of outgoing
// connections, so that it stays free while the program that is to listen on it
// is down. On Linux no other test process gets it until this one has ended.
func FreePort(tb testing.TB) int {
	tb.Helper()
	ports.Lock()
	defer ports.Unlock()
	if ports.reserved == nil {
		ports.reserved = map[int]io.Closer{}
	}
	for range 1000 {
		port := 15000 + rand.IntN(15000)
		if ports.reserved[port] != nil {
			continue
		}
		// Reserved first: looking at a port takes it for a moment from a program that is to listen on it.
		reservation := reserve(port)
		if reservation == nil {
			continue
		}
		if listenable("127.0.0.1", port) && (listenable("::1", port) || !listenable("::1", 0)) {
			ports.reserved[port] = reservation
			return port
		}
		_ = reservation.Close()
	}
	tb.Fatal("no free port")
	return 0
}

// reserve keeps a port from other test processes until the process ends; nil: another one has it.
func reserve(port int) io.Closer {
	if runtime.GOOS != "linux" {
		return io.NopCloser(nil)
	}
	// An abstract socket: its name goes with the process, whichever way that ends.
	l, err := new(net.ListenConfig).Listen(context.Background(), "unix", fmt.Sprintf("@hmcnotifyd-test-port-%d", port))
	if err != nil {
		return nil
	}
	return l
}

func listenable(host string, port int) bool {
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return false
	}
	return l.Close() == nil
}
