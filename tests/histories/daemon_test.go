package histories_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/bridge"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
)

// errKilled is what a store says whose process is gone.
var errKilled = errors.New("killed")

// disk is where the queue is. It outlives the daemon.
type disk struct {
	mu     sync.Mutex
	rng    *rand.Rand
	commit time.Duration // how long a commit takes, at most
	full   bool
	refuse int // so many commits
	// kill says that the daemon is killed at the next commit: before it, or when it is durable.
	kill killAt
}

type killAt int

const (
	never killAt = iota
	before
	after
)

// life is one life of the daemon: from a start to its end.
type life struct {
	disk   *disk
	client *client
	bridge *bridge.Bridge
	cancel context.CancelFunc
	done   chan struct{}
	err    error

	reloading sync.WaitGroup

	mu   sync.Mutex
	dead time.Time // when it was killed; zero: it was not
	out  []line    // what it has delivered
	rest []byte
}

// line is what the daemon has delivered.
type line struct {
	life *life
	at   time.Time
	data []byte
}

// startLife starts the daemon. There is no other one in its directory.
func startLife(cfg *config.Config, dir string, d *disk, n *network, log io.Writer) (*life, error) {
	l := &life{disk: d, client: n.dialer(), done: make(chan struct{})}
	logger := zap.NewNop()
	if log != nil {
		core := zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.AddSync(log), zap.DebugLevel)
		logger = zap.New(core)
	}
	var err error
	l.bridge, err = bridge.New(bridge.Options{
		Config: cfg, StoragePath: filepath.Join(dir, "data"), Version: "test", Stdout: l, Stderr: io.Discard, Logger: logger,
		Dial: l.client.dial, WrapStore: func(s queue.Store) queue.Store { return &store{s, l} },
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	l.cancel = cancel
	go func() {
		defer close(l.done)
		l.err = l.bridge.Run(ctx)
	}()
	return l, nil
}

// kill ends it as a kill -9 does: what is stored stays, what was delivered was delivered, and nothing else
// happens. What is left in memory takes a while to end.
func (l *life) kill() {
	l.mu.Lock()
	if l.dead.IsZero() {
		l.dead = time.Now()
	}
	l.mu.Unlock()
	l.client.die()
	if l.cancel != nil { // else it is still starting
		go l.end()
	}
}

// end tells it to end. A reload that is under way ends first: who waits for that holds a lock, which would
// stop the time of the bubble.
func (l *life) end() {
	l.reloading.Wait()
	l.cancel()
}

// reload gives it another configuration.
func (l *life) reload(cfg *config.Config) error {
	l.reloading.Add(1)
	defer l.reloading.Done()
	return l.bridge.Reload(cfg)
}

// gone says whether the daemon was killed.
func (l *life) gone() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.dead.IsZero()
}

// Write takes what a log sink writes.
func (l *life) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.dead.IsZero() {
		return 0, os.ErrClosed
	}
	l.rest = append(l.rest, b...)
	for {
		i := bytes.IndexByte(l.rest, '\n')
		if i < 0 {
			return len(b), nil
		}
		l.out = append(l.out, line{life: l, at: time.Now(), data: bytes.Clone(l.rest[:i])})
		l.rest = l.rest[i+1:]
	}
}

// store is the queue's, on a disk that fails.
type store struct {
	queue.Store
	life *life
}

func (s *store) Commit(g *queue.Group) error {
	d := s.life.disk
	d.mu.Lock()
	takes := time.Duration(0)
	if d.commit > 0 {
		takes = time.Duration(d.rng.Int64N(int64(d.commit)))
	}
	d.mu.Unlock()
	if takes > 0 {
		time.Sleep(takes)
	}
	d.mu.Lock()
	kill := d.kill
	d.kill = never
	refuses := d.full || d.refuse > 0
	if d.refuse > 0 {
		d.refuse--
	}
	d.mu.Unlock()
	if kill == before {
		s.life.kill()
	}
	switch {
	case s.life.gone():
		return errKilled
	case refuses:
		return syscall.ENOSPC
	}
	err := s.Store.Commit(g)
	if kill == after {
		s.life.kill()
	}
	return err
}

func (s *store) Begin(start *queue.Start) (int64, error) {
	d := s.life.disk
	d.mu.Lock()
	full := d.full
	d.mu.Unlock()
	switch {
	case s.life.gone():
		return 0, errKilled
	case full:
		return 0, syscall.ENOSPC
	}
	return s.Store.Begin(start)
}

func (s *store) SaveCursors(c *queue.Checkpoint, sync bool) error {
	if s.life.gone() {
		return errKilled
	}
	return s.Store.SaveCursors(c, sync)
}

func (s *store) Trim(base uint64) error {
	if s.life.gone() {
		return errKilled
	}
	return s.Store.Trim(base)
}
