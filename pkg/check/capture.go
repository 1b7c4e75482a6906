package check

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/capture"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmc"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/ledger"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/record"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/watch"
)

// captureDisk bounds what the daemon's own part of a capture stores meanwhile.
const captureDisk = 64 << 20

// CaptureOptions are what Capture needs.
type CaptureOptions struct {
	Config *config.Config
	// HMC is the name of the one to capture.
	HMC string
	// File is written; it must not be there yet.
	File string
	// Duration is how long it lasts, if it does not become too large or ctx ends before.
	Duration time.Duration
	// Names keeps names as they are.
	Names   bool
	Version string
	Logger  *zap.Logger
	// Progress is called with how much there is, by another goroutine. It may be nil.
	Progress func(func() string)
}

// Capture does for a while with one HMC what the daemon does with it, and nothing else, in a
// session of its own, and writes down all that goes to and fro. The link is ended in order, and
// the session logged off. What is recorded is in memory until it is written; the events that the
// daemon makes of it are on a bench, which is removed. The file is written whatever has ended it,
// where the HMC had let it in before.
func Capture(ctx context.Context, o CaptureOptions) (written bool, err error) {
	i := slices.IndexFunc(o.Config.HMCs, func(c config.HMC) bool { return c.Name == o.HMC })
	if i < 0 {
		var names []string
		for _, c := range o.Config.HMCs {
			names = append(names, c.Name)
		}
		return false, fmt.Errorf("--hmc: there is no HMC %q in the configuration; it has %s",
			o.HMC, strings.Join(names, ", "))
	}
	cfg := o.Config.HMCs[i]
	cfg.Group = cmp.Or(cfg.Group, cfg.Name)
	out, err := capture.Create(o.File)
	if err == nil {
		err = out.Close()
	}
	if err != nil {
		return false, fmt.Errorf("--out: %w", err)
	}
	r := capture.NewRecorder(0)
	if o.Progress != nil {
		o.Progress(func() string {
			entries, size := r.Size()
			return fmt.Sprintf("capturing %s: %d requests and frames, %d KiB; Ctrl-C ends it",
				cfg.Name, entries, size>>10)
		})
	}
	k := &keeper{file: o.File, recorder: r, options: capture.WriteOptions{
		Names: o.Names, Secrets: secretsOf(&cfg), Program: o.Version,
		Known: append([]string{cfg.Userid, cfg.Name}, cfg.Hosts...),
	}}
	ended := make(chan struct{})
	var keeping sync.WaitGroup
	keeping.Go(func() { k.keep(ended, cmp.Or(o.Logger, zap.NewNop())) })
	why := follow(ctx, cfg, r, o)
	close(ended)
	keeping.Wait()
	if why != nil && !r.LetIn() {
		return false, errors.Join(why, os.Remove(o.File))
	}
	switch err = k.write(false); {
	case err == nil:
		return true, why
	case k.kept.IsZero():
		return false, errors.Join(why, err, os.Remove(o.File))
	}
	err = fmt.Errorf("%w; %s holds what there was until %s", err, o.File, k.kept.Format(time.TimeOnly))
	return true, errors.Join(why, err)
}

const (
	// keepFirst is when a capture is written for the first time while it goes on, keepEvery how
	// often at most after that, and keepShare one in so much of the time is what it takes.
	keepFirst = time.Second
	keepEvery = 10 * time.Second
	keepShare = 20
)

// keeper writes a capture that goes on, so that something is there whatever ends it. The file is
// always a whole one: a new one is written beside it, and takes its place.
type keeper struct {
	file     string
	recorder *capture.Recorder
	options  capture.WriteOptions
	kept     time.Time // when the file was written
}

func (k *keeper) keep(ended <-chan struct{}, log *zap.Logger) {
	for wait := keepFirst; ; {
		select {
		case <-ended:
			return
		case <-time.After(wait):
		}
		began := time.Now()
		if err := k.write(true); err != nil {
			log.Warn("the capture goes on and cannot be written now", zap.Error(err))
		}
		wait = max(min(2*wait, keepEvery), keepShare*time.Since(began))
	}
}

func (k *keeper) write(partial bool) (err error) {
	out, err := os.CreateTemp(filepath.Dir(k.file), filepath.Base(k.file)+".*") // under a name that nobody has
	if err != nil {
		return fmt.Errorf("%s cannot be written: %w", k.file, capture.Cause(err))
	}
	o := k.options
	o.Partial = partial
	written := time.Now()
	if err = k.recorder.Write(out, o); err == nil {
		err = out.Sync()
	}
	if err = cmp.Or(err, out.Close()); err == nil {
		err = os.Rename(out.Name(), k.file)
	}
	if err != nil {
		_ = os.Remove(out.Name())
		return fmt.Errorf("%s cannot be written: %w", k.file, capture.Cause(err))
	}
	k.kept = written
	return nil
}

func secretsOf(cfg *config.HMC) []string {
	secrets := []string{cfg.Password.Expose()}
	if cfg.Session != nil {
		secrets = append(secrets, cfg.Session.ID.Expose(), cfg.Session.Credential.Expose())
	}
	return secrets
}

// follow has a supervisor look after the HMC until the time is over.
func follow(ctx context.Context, cfg config.HMC, r *capture.Recorder, o CaptureOptions) (err error) {
	log := cmp.Or(o.Logger, zap.NewNop())
	b, err := newBench(log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.remove()) }()
	q, err := queue.Open(queue.Options{Dir: b.queue(), MaxBytes: captureDisk, Logger: log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, q.Close()) }()

	ctx, cancel := context.WithTimeout(ctx, o.Duration)
	defer cancel()
	var linked atomic.Bool
	var refused atomic.Pointer[string]
	s, err := watch.New(watch.Options{
		HMC: cfg, Queue: q, Group: record.NewGroup(cfg.Group, q, log), Metrics: record.NewMetrics(nil), Logger: log,
		Version: o.Version, SessionNotes: filepath.Join(b.sessions(), cfg.Name),
		Tap: watch.Tap{
			Exchange: func(x hmc.Exchange) {
				r.Exchange(x)
				if x.Operation == "logon" && x.Status != 0 && x.Status != http.StatusOK {
					text := fmt.Sprintf("the HMC has answered %d to the logon; "+
						"check-config --online says why", x.Status)
					refused.Store(&text)
					cancel() // what was refused once is not tried again
				}
			},
			Traffic: func(t receiver.Traffic) {
				r.Frame(t)
				if t.Command == capture.Connected {
					linked.Store(true)
				}
			},
			Failed: r.NoLink,
		},
	})
	if err != nil {
		return err
	}
	go func() {
		select {
		case <-r.Full():
			cancel()
		case <-ctx.Done():
		}
	}()
	s.EndBecause("the capture has ended")
	s.Run(ctx, ledger.NewSeenWindow(o.Config.Dedup.Window, o.Config.Dedup.MaxIDs))
	switch why := refused.Load(); {
	case why != nil:
		return errors.New(*why)
	case !linked.Load():
		err := errors.New("no link was made")
		for _, p := range s.Snapshot().Problems {
			err = fmt.Errorf("%w: %s", err, p.Text)
		}
		return err
	}
	return nil
}
