package check

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/capture"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/datadir"
)

// benchName is how the names of benches begin.
const benchName = "hmcnotifyd-capture-"

// bench is a directory below TMPDIR, for this user alone, in which the daemon's own part of a
// capture works. It has a lock for as long as the process lives. One that a killed process has left
// is taken over by the next capture: its sessions are noted for their logoff, the rest is removed.
type bench struct {
	dir  string
	lock *os.File
}

func newBench(log *zap.Logger) (_ *bench, err error) {
	b := new(bench)
	const tries = 5
	for range tries { // somebody who takes over what is left may be quicker than the lock
		if b.dir, err = os.MkdirTemp("", benchName); err != nil {
			return nil, fmt.Errorf("%s: no directory can be made there for what is in work: %w; "+
				"set TMPDIR to one where there is room", os.TempDir(), capture.Cause(err))
		}
		if b.lock, err = datadir.Lock(b.dir); err == nil {
			break
		}
		_ = os.RemoveAll(b.dir)
	}
	if err == nil {
		err = os.Mkdir(b.sessions(), 0o700)
	}
	if err != nil {
		return nil, errors.Join(err, b.remove())
	}
	left, _ := filepath.Glob(filepath.Join(os.TempDir(), benchName+"*")) // the pattern is good
	for _, dir := range left {
		if dir != b.dir && datadir.IsPrivate(dir) {
			b.takeOver(dir, log)
		}
	}
	return b, nil
}

func (b *bench) queue() string    { return filepath.Join(b.dir, "queue") }
func (b *bench) sessions() string { return filepath.Join(b.dir, "sessions") }

// takeOver takes over what is left in the directory of another bench, unless somebody works there.
func (b *bench) takeOver(dir string, log *zap.Logger) {
	lock, err := datadir.Lock(dir)
	if err != nil {
		return
	}
	defer func() { _ = lock.Close() }()
	other := bench{dir: dir}
	notes, err := os.ReadDir(other.sessions())
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	for _, n := range notes {
		from, to := filepath.Join(other.sessions(), n.Name()), filepath.Join(b.sessions(), n.Name())
		err = errors.Join(err, os.Rename(from, to))
	}
	if err == nil {
		err = os.RemoveAll(dir)
	}
	if err != nil {
		log.Warn("what a killed capture has left cannot be removed", zap.String("directory", dir), zap.Error(err))
		return
	}
	log.Info("what a killed capture had left was removed",
		zap.String("directory", dir), zap.Int("sessions", len(notes)))
}

// remove removes it, but for sessions that are still to be logged off: these are for the next one.
func (b *bench) remove() error {
	if b.dir == "" {
		return nil
	}
	err := os.RemoveAll(b.queue())
	if os.Remove(b.sessions()) == nil || !exists(b.sessions()) { // there are none
		err = errors.Join(err, os.RemoveAll(b.dir))
	}
	if b.lock != nil {
		err = errors.Join(err, b.lock.Close())
	}
	return err
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
