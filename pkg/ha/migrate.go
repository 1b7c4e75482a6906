package ha

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/cluster"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/datadir"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
)

// movedName is the file that says that what a directory has was moved.
const movedName = "moved"

// leaveFor is for how much longer than the lease_ttl a daemon that leads is waited for.
const leaveFor = 5 * time.Second

// Migration copies what a stopped daemon has stored to another place, and marks it there as moved.
type Migration struct {
	// Config has storage.jetstream.
	Config      *config.Config
	StoragePath string
	// ToDirectory is from the cluster to the directory; else it is the other way round.
	ToDirectory bool
	Version     string
	Logger      *zap.Logger
	// Progress is told up to which record it is, of how many.
	Progress func(record, of uint64)
}

// Migrated says what was copied.
type Migrated struct {
	Events  uint64
	Letters int
	// Sinks are the cursors.
	Sinks    int
	From, To string
}

// place is where events and dead letters are.
type place struct {
	name    string
	options func() (queue.Options, error)
	letters func(queue.DeadLetterOptions) (queue.Letters, error)
	moved   func() (string, error)
	mark    func(to string) error
}

// Run copies. After an error what there was is as it was.
func (m *Migration) Run(ctx context.Context) (done Migrated, err error) {
	j := m.Config.Storage.JetStream
	if j == nil {
		return done, errors.New("the configuration has no storage.jetstream, which says where the cluster is")
	}
	c, err := connect(ctx, j, m.Version, m.Logger, migrateTimeout)
	if err != nil {
		return done, fmt.Errorf("storage.jetstream: %w", err)
	}
	defer c.Close()
	lease, err := m.lead(ctx, c)
	if err != nil {
		return done, err
	}
	defer func() {
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
		defer cancel()
		if e := lease.End(ending); e != nil { // whatever became of the copy
			m.Logger.Warn("the lease could not be given up: daemons wait until it has run out", zap.Error(e))
		}
	}()
	from, to := m.directory(), m.cluster(ctx, c, lease)
	if m.ToDirectory {
		from, to = to, from
	}
	done.From, done.To = from.name, to.name
	if where, err := from.moved(); err != nil || where != "" {
		return done, errors.Join(err, movedError(from.name, where))
	}
	if err = m.copy(ctx, &from, &to, &done); err == nil {
		err = from.mark(to.name)
	}
	return done, err
}

// lead keeps daemons from using the log meanwhile.
func (m *Migration) lead(ctx context.Context, c *cluster.Cluster) (*cluster.Term, error) {
	host, _ := os.Hostname()
	waiting, cancel := context.WithTimeout(ctx, m.Config.HA.LeaseTTL+leaveFor)
	defer cancel()
	leader := ""
	lease, err := c.Lead(waiting, leaseOptions(m.Config, host, m.Logger), func(h cluster.Holder) { leader = h.Host })
	if err != nil && ctx.Err() == nil {
		return nil, fmt.Errorf("a daemon on %s uses the cluster: stop all that share storage.jetstream.name %s",
			leader, m.Config.Storage.JetStream.Name)
	}
	return lease, err
}

func (m *Migration) directory() place {
	return place{
		name: m.StoragePath,
		options: func() (queue.Options, error) {
			return queue.Options{Dir: m.StoragePath}, nil
		},
		letters: func(o queue.DeadLetterOptions) (queue.Letters, error) {
			o.Dir = m.StoragePath
			return queue.OpenDeadLetters(o)
		},
		moved: func() (string, error) { return movedTo(m.StoragePath) },
		mark: func(to string) error {
			f, err := datadir.WriteNew(datadir.Disk, filepath.Join(m.StoragePath, movedName), []byte(to+"\n"))
			if err == nil {
				err = errors.Join(f.Close(), datadir.Sync(m.StoragePath))
			}
			return err
		},
	}
}

func (m *Migration) cluster(ctx context.Context, c *cluster.Cluster, lease *cluster.Term) place {
	return place{
		name: "stream " + cluster.LogStream(m.Config.Storage.JetStream.Name),
		options: func() (queue.Options, error) {
			store, err := lease.NewStore(ctx, cluster.StoreOptions{Life: ctx})
			return queue.Options{Store: store}, err
		},
		letters: func(o queue.DeadLetterOptions) (queue.Letters, error) {
			//nolint:contextcheck // ctx is in the options
			return c.OpenLetters(cluster.LettersOptions{Options: o, Life: ctx})
		},
		moved: func() (string, error) { return c.Moved(ctx) },
		mark:  func(to string) error { return c.SetMoved(ctx, to) },
	}
}

// open opens what a place has; from is copied there first. dropped is told what cannot be read.
func (m *Migration) open(
	p *place, from *queue.Queue, copied func(uint64) error, dropped func(sink string, n int),
) (*queue.Queue, error) {
	o, err := p.options()
	if err != nil {
		return nil, err
	}
	o.MaxBytes, o.Retain, o.Logger = queue.Unlimited, m.Config.Storage.Retain, m.Logger
	o.From, o.Copied, o.OnDropped = from, copied, dropped
	q, err := queue.Open(o)
	switch {
	case errors.Is(err, queue.ErrNotEmpty):
		err = fmt.Errorf("there are events already: copies go to an empty place only; "+
			"remove the streams and the bucket, or take another --storage.path: %w", err)
	case err != nil && errors.Is(err, queue.ErrLocked):
		err = fmt.Errorf("stop the daemon first: %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.name, err)
	}
	return q, nil
}

func (m *Migration) copy(ctx context.Context, from, to *place, done *Migrated) (err error) {
	lost := map[string]int64{} // of each sink, what cannot be read
	source, err := m.open(from, nil, nil, func(sink string, n int) { lost[sink] += int64(n) })
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, source.Close()) }()
	clear(lost) // that was lost before
	had := map[string]int64{}
	for _, name := range source.Cursors() {
		had[name], _, _ = source.Lookup(name).Pending()
	}
	first, last := source.Bounds()
	target, err := m.open(to, source, func(record uint64) error {
		if record == 0 { // it has been found empty
			done.Letters, err = m.copyLetters(from, to)
			if err != nil {
				return fmt.Errorf("dead letters: %w", err)
			}
		}
		m.Progress(record, last)
		return ctx.Err()
	}, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, target.Close()) }()
	for _, name := range source.Cursors() {
		c := target.Lookup(name)
		if c == nil {
			return fmt.Errorf("%s: the position of sink %s is missing in the copy", to.name, name)
		}
		if has, _, _ := c.Pending(); has != had[name]-lost[name] {
			return fmt.Errorf("%s: %d events wait for sink %s, of which %d cannot be read, and %d in the copy",
				to.name, had[name], name, lost[name], has)
		}
		done.Sinks++
	}
	if done.Events = last - first + 1; last < first {
		done.Events = 0
	}
	return nil
}

// copyLetters copies the dead letters, in their order, in the place of those of a copy that was not
// completed.
func (m *Migration) copyLetters(from, to *place) (n int, err error) {
	o := queue.DeadLetterOptions{MaxBytes: queue.Unlimited, Logger: m.Logger}
	o.OnDropped = func(string, int) {}
	source, err := from.letters(o)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, source.Close()) }()
	target, err := to.letters(o)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, target.Close()) }()
	if _, err := queue.Purge(target, queue.DeadLetterFilter{}); err != nil {
		return 0, err
	}
	list, err := source.List(queue.DeadLetterFilter{})
	if err != nil {
		return 0, err
	}
	for _, l := range list {
		whole, err := source.Get(l.ID)
		if err != nil {
			return n, err
		}
		if err := target.Put(whole); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// movedTo says where what a directory had was moved to; "": it was not.
func movedTo(dir string) (string, error) {
	to, err := os.ReadFile(filepath.Join(dir, movedName))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) { // who needs a directory says that
		return "", nil
	}
	if to = bytes.TrimSpace(to); err == nil && len(to) == 0 {
		to = []byte("another place")
	}
	return string(to), err
}

// movedError says that something was moved; nil where it was not.
func movedError(what, to string) error {
	if to == "" {
		return nil
	}
	return fmt.Errorf("what %s has was moved to %q: use that", what, to)
}
