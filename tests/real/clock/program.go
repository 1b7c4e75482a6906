// Package clock builds hmcnotifyd so that it reads a clock that a test sets. The
// machine's own clock stays as it is.
package clock

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

const (
	buildTimeout = 15 * time.Minute
	// variable names the file with the seconds by which the clock is set.
	variable = "HMCNOTIFYD_TEST_CLOCK"
	// read is how Go reads the clock, shifted how the built program does: it may
	// happen on any stack, and so does no more than that.
	read    = "\tsec, nsec, mono := runtimeNow()\n\tif mono == 0 {"
	shifted = "\tsec, nsec, mono := runtimeNow()\n\tsec += setBy.Load()\n\tif mono == 0 {"
	// source reads the file again every 5 ms.
	source = `package time

import (
	"sync/atomic"
	"syscall"
)

var setBy atomic.Int64

func init() {
	file, ok := syscall.Getenv("` + variable + `")
	if !ok {
		return
	}
	readSetBy(file)
	go func() {
		for {
			Sleep(5 * Millisecond)
			readSetBy(file)
		}
	}()
}

func readSetBy(file string) {
	f, err := syscall.Open(file, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	var b [32]byte
	n, _ := syscall.Read(f, b[:])
	_ = syscall.Close(f)
	seconds, sign := int64(0), int64(1)
	for _, c := range b[:max(n, 0)] {
		switch {
		case c == '-':
			sign = -1
		case '0' <= c && c <= '9':
			seconds = 10*seconds + int64(c-'0')
		}
	}
	setBy.Store(sign * seconds)
}
`
)

// Build builds hmcnotifyd in a directory so that it reads a Clock, and returns its path.
func Build(dir string) (path string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), buildTimeout)
	defer cancel()
	command := func(args ...string) (string, error) {
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		out, err := cmd.CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%s: %w\n%s", cmd, err, out)
		}
		return strings.TrimSpace(string(out)), err
	}
	root, err := command("env", "GOROOT")
	if err != nil {
		return "", err
	}
	place := filepath.Join(root, "src", "time")
	text, err := os.ReadFile(filepath.Join(place, "time.go"))
	if err != nil {
		return "", err
	}
	if strings.Count(string(text), read) != 1 {
		return "", errors.New("this Go reads the clock in another way")
	}
	replaced, added := filepath.Join(dir, "time.go"), filepath.Join(dir, "set.go")
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{
		filepath.Join(place, "time.go"): replaced, filepath.Join(place, "set.go"): added,
	}})
	if err != nil {
		return "", err
	}
	for name, text := range map[string]string{
		replaced: strings.Replace(string(text), read, shifted, 1), added: source,
		filepath.Join(dir, "overlay.json"): string(overlay),
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			return "", err
		}
	}
	path = filepath.Join(dir, "hmcnotifyd")
	_, err = command("build", "-trimpath", "-overlay", filepath.Join(dir, "overlay.json"), "-o", path,
		"github.com/hmcnotifyd/hmcnotifyd/cmd/hmcnotifyd")
	return path, err
}

// Clock is what a program that was built with Build takes for the machine's
// clock.
type Clock struct{ file string }

// New returns a clock that is right.
func New(tb testing.TB) *Clock {
	tb.Helper()
	c := &Clock{file: filepath.Join(tb.TempDir(), "clock")}
	c.Set(tb, 0)
	return c
}

// Env is for the environment of the program.
func (c *Clock) Env() string { return variable + "=" + c.file }

// Set sets the clock to so much later than it is, and returns when programs
// read it so.
func (c *Clock) Set(tb testing.TB, later time.Duration) {
	tb.Helper()
	write(tb, c.file+".new", strconv.FormatInt(int64(later/time.Second), 10))
	if err := os.Rename(c.file+".new", c.file); err != nil {
		tb.Fatal(err)
	}
	time.Sleep(20 * time.Millisecond) // four times what a program may take to look again
}

func write(tb testing.TB, path, text string) {
	tb.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
}
