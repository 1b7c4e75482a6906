package datadir

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// ErrLocked is what Lock returns (wrapped) when another process, or this one, has the lock.
var ErrLocked = errors.New("directory is in use")

// Lock takes the lock on a directory. It ends with the process or when the file is closed, so a
// crash leaves nothing behind.
func Lock(dir string) (*os.File, error) {
	path := filepath.Join(dir, "lock")
	f, err := Open(path, os.O_RDWR|os.O_CREATE)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer func() { _ = f.Close() }()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s: flock: %w", path, err)
		}
		holder, _ := io.ReadAll(io.LimitReader(f, 32)) // the pid is a courtesy
		if pid := strings.TrimSpace(string(holder)); pid != "" {
			return nil, fmt.Errorf("%s: %w by process %s", dir, ErrLocked, pid)
		}
		return nil, fmt.Errorf("%s: %w", dir, ErrLocked)
	}
	// With a full disk the pid may not fit, the lock holds all the same.
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	return f, nil
}
