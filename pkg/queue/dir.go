package queue

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/datadir"
)

const (
	lockName        = "lock"
	cursorsName     = "cursors"
	deadName        = "dead-letters.log"
	segmentPrefix   = "segment-"
	segmentSuffix   = ".log"
	temporarySuffix = ".tmp"
	damagedSuffix   = ".damaged"
)

// ErrLocked is what Open returns (wrapped) when another process, or another Queue of this one, uses
// the directory.
var ErrLocked = errors.New("directory is in use")

// lockDir takes the lock on dir. It ends with the process or when the file is closed, so a crash
// leaves nothing behind.
func lockDir(dir string) (*os.File, error) {
	path := filepath.Join(dir, lockName)
	f, err := datadir.Open(path, os.O_RDWR|os.O_CREATE)
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

// setAside renames a damaged file, for whoever wants to look at it, and reports the damage unless
// that is nil. The numbered names keep an earlier file.
func (r *reporter) setAside(path string, damage error) error {
	if damage != nil {
		r.damaged(damage)
	}
	target := path + damagedSuffix
	for i := 2; ; i++ {
		if _, err := os.Lstat(target); errors.Is(err, os.ErrNotExist) {
			break
		}
		target = path + damagedSuffix + "-" + strconv.Itoa(i)
	}
	if err := os.Rename(path, target); err != nil {
		return err
	}
	r.log.Warn("damaged file was set aside", zap.String("file", target))
	return datadir.Sync(filepath.Dir(path))
}

// segmentName carries the sequence number of the segment's first record, so that what a damaged
// segment held is known without opening it.
func segmentName(base uint64) string {
	return fmt.Sprintf("%s%020d%s", segmentPrefix, base, segmentSuffix)
}

func parseSegmentName(name string) (base uint64, ok bool) {
	digits := strings.TrimSuffix(strings.TrimPrefix(name, segmentPrefix), segmentSuffix)
	base, err := strconv.ParseUint(digits, 10, 64)
	return base, err == nil && base > 0 && name == segmentName(base)
}
