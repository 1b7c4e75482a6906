// Package ha has one daemon lead of those that share a log on a cluster: it runs a bridge for as
// long as it leads, and stands by otherwise. A daemon whose log is in its directory leads alone.
package ha

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/bridge"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/cluster"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/deliver"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/sinks"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
)

const (
	// startTimeout is for how long a daemon tries the cluster at its start: after a loss of power
	// its servers may take longer than the daemon. So few starts go into the time in which systemd
	// counts those that fail, so that it never gives up.
	startTimeout = 4 * time.Minute
	// migrateTimeout is for how long somebody who migrates waits for it.
	migrateTimeout = 30 * time.Second
	// sayAgainAfter is the time between two lines of the log that say the same while it is tried.
	sayAgainAfter = 30 * time.Second
	// releaseTimeout bounds the giving up of the lease at the end.
	releaseTimeout = 2 * time.Second
	// handOverLimit is for how long a daemon that ends in order begins to deliver what it has
	// stored, and resumeLimit for how long the next leader waits for what comes of that: longer
	// than the attempts which were begun may last.
	handOverLimit = 8 * time.Second
	resumeLimit   = 11 * time.Second
	// againAfter is the time between two attempts to lead of which the first has failed.
	againAfter = time.Second
)

// Node is one daemon. Make it with New, then call Run once. All other methods may be called at any
// time, from any goroutine.
type Node struct {
	opts    bridge.Options
	log     *zap.Logger
	host    string
	started time.Time

	// nil: this daemon leads alone. Run makes it anew where a server has ended it.
	cluster atomic.Pointer[cluster.Cluster]

	changes prometheus.Counter
	commits prometheus.Histogram

	// the term that runs; nil: none does
	term atomic.Pointer[term]
	// what there is while this daemon stands by; nil: it does not
	standing atomic.Pointer[standing]
	// ends the standing by, which begins anew then
	again atomic.Pointer[context.CancelFunc]

	mu     sync.Mutex // guards what follows
	cfg    *config.Config
	leader cluster.Holder // that was seen last
	// why it could not lead when it had the lease
	failed error
}

// term is a bridge with what it has registered.
type term struct {
	bridge  *bridge.Bridge
	metrics *prometheus.Registry // nil: that of the process has it
	valid   func() bool          // that it leads; nil: always
}

// leads is 1 where this daemon leads: not where nobody has confirmed that for too long.
func (n *Node) leads() float64 {
	if t := n.term.Load(); t != nil && (t.valid == nil || t.valid()) {
		return 1
	}
	return 0
}

// New checks that everything can be had, as bridge.New does, and that the cluster can keep the log.
// registry is that of the process: what a bridge registers goes with its term. ctx ends the wait
// for the cluster.
func New(ctx context.Context, opts bridge.Options, registry *prometheus.Registry) (*Node, error) {
	n := &Node{
		opts: opts, log: opts.Logger.Named("ha"), started: time.Now(), cfg: opts.Config,
		changes: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: "hmcnotifyd", Name: "leader_changes_total",
			Help: "How often another daemon than before was seen to lead, this one included.",
		}),
		commits: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "hmcnotifyd", Name: "log_commit_duration_seconds",
			Help: "How long the NATS cluster took to store a group of events; " +
				"nothing is counted where the log is in the directory.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}),
	}
	n.host, _ = os.Hostname()
	if opts.Config.Storage.JetStream == nil {
		to, err := movedTo(opts.StoragePath)
		if err != nil {
			return nil, fmt.Errorf("storage: %w", err)
		}
		if err = movedError(opts.StoragePath, to); err != nil {
			return nil, fmt.Errorf("storage: %w, or remove the file %s there to go on without that", err, movedName)
		}
		opts.Registerer = registry
		b, err := bridge.New(opts) //nolint:contextcheck // ctx is for the wait of a cluster
		if err != nil {
			return nil, err
		}
		n.term.Store(&term{bridge: b})
	} else {
		if err := n.usable(opts.Config); err != nil {
			return nil, err
		}
		if err := n.connect(ctx, opts.Config.Storage.JetStream); err != nil {
			return nil, fmt.Errorf("storage.jetstream: %w", err)
		}
		registry.MustRegister(n)
	}
	registry.MustRegister(n.changes, n.commits, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: "hmcnotifyd", Name: "leader",
		Help: "Whether this daemon leads: it does always where the log is in its directory.",
	}, n.leads))
	return n, nil
}

func (n *Node) connect(ctx context.Context, j *config.JetStream) error {
	c, err := connect(ctx, j, n.opts.Version, n.log, startTimeout)
	if err != nil {
		return err
	}
	if err = mayUse(ctx, c); err != nil {
		c.Close()
		return err
	}
	n.cluster.Store(c)
	return nil
}

// mayUse fails where what the cluster has was moved.
func mayUse(ctx context.Context, c *cluster.Cluster) error {
	to, err := c.Moved(ctx)
	return errors.Join(err, movedError("the cluster", to))
}

// connect waits for the cluster, for as long as it may take.
func connect(ctx context.Context, j *config.JetStream, version string, log *zap.Logger, limit time.Duration,
) (*cluster.Cluster, error) {
	files := &files{last: j, log: log}
	logon, err := sinks.NATSLogon(files.logon)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var said string
	var at time.Time
	for {
		c, err := cluster.Connect(ctx, cluster.Options{
			URLs: j.URLs, Logon: logon, Name: j.Name, Replicas: j.Replicas,
			Client: "hmcnotifyd/" + version, Logger: log,
		})
		if err == nil || !cluster.Unsettled(err) {
			return c, err
		}
		if text := err.Error(); text != said || time.Since(at) >= sayAgainAfter {
			log.Warn("the NATS cluster cannot be used yet", zap.Error(err))
			said, at = text, time.Now()
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(againAfter):
		}
	}
}

// files are those that the configuration of a cluster names.
type files struct {
	log *zap.Logger

	mu   sync.Mutex
	last *config.JetStream // as they could be read
	said string
}

// logon has what they hold now, for a connection that is made.
func (f *files) logon() *config.NATSLogon {
	f.mu.Lock()
	defer f.mu.Unlock()
	fresh, err := f.last.Reread()
	switch {
	case err == nil:
		f.last, f.said = fresh, ""
	case f.said != err.Error():
		f.said = err.Error()
		f.log.Warn("a file that storage.jetstream names cannot be used: what it held before counts", zap.Error(err))
	}
	return &f.last.NATSLogon
}

// Run works until ctx is done and everything has ended in order. A nil error means that it was.
func (n *Node) Run(ctx context.Context) error {
	if n.cluster.Load() == nil {
		return n.term.Load().bridge.Run(ctx)
	}
	defer func() { n.cluster.Load().Close() }()
	var err error
	for ctx.Err() == nil {
		if err = n.reconnect(ctx); err == nil {
			err = n.lead(ctx)
		} else if ctx.Err() != nil {
			err = nil
		}
		if err == nil || ctx.Err() != nil {
			continue
		}
		n.log.Error("this daemon could not lead, or not to an orderly end", zap.Error(err))
		select {
		case <-ctx.Done():
		case <-time.After(againAfter):
		}
	}
	return err
}

// reconnect makes the connection to the cluster anew if it has ended for good.
func (n *Node) reconnect(ctx context.Context) error {
	c := n.cluster.Load()
	if c.Life().Err() == nil {
		return nil
	}
	n.log.Error("the connection to the NATS cluster was ended, and is made anew", zap.Error(c.Why()))
	return n.connect(ctx, n.opts.Config.Storage.JetStream)
}

// lead waits until nobody else leads, and leads until ctx is done or another one does.
func (n *Node) lead(ctx context.Context) (err error) {
	waiting, again := context.WithCancel(ctx)
	defer again()
	n.again.Store(&again) // before there is anything that a reload would have to do anew
	c, cfg := n.cluster.Load(), n.config()
	defer context.AfterFunc(c.Life(), again)() //nolint:contextcheck // both end it
	s, stopStanding, err := n.standBy(ctx, c)
	if err != nil {
		return unlessDone(ctx, err)
	}
	closeEars := func() {}
	if s.ears != nil {
		closeEars = sync.OnceFunc(s.ears.Close) // it logs off, whatever ended
	}
	defer closeEars()
	lease, err := c.Lead(waiting, leaseOptions(cfg, n.host, n.log), n.saw)
	stopStanding()
	if err != nil {
		return nil //nolint:nilerr // the wait was ended, which is no fault
	}
	defer func() {
		releasing, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
		defer cancel()
		if e := lease.End(releasing); e != nil {
			n.log.Warn("the lease could not be given up: the others wait until it has run out", zap.Error(e))
		}
		n.note(cluster.Holder{}, err)
	}()
	if err := mayUse(ctx, c); err != nil { // it may have been moved while this daemon stood by
		return unlessDone(ctx, err)
	}
	// What is written at the end is to arrive: this life ends after the bridge.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	store, err := lease.NewStore(life, cluster.StoreOptions{
		Life: life, Warm: s.tail, Committed: func(d time.Duration) { n.commits.Observe(d.Seconds()) },
	})
	if err != nil {
		return err
	}
	lost := make(chan struct{})
	opts := n.opts
	opts.Config, opts.Registerer, opts.Ears = n.config(), s.registry, s.ears
	over := handOver{log: n.log, life: life, lease: lease, store: store, led: time.Now(), taken: make(chan struct{})}
	opts.Elsewhere = &bridge.Elsewhere{
		Store: store, Valid: over.valid, Lost: lost, After: n.after(lease.Before()),
		Resume: over.resume, HandOver: over.tell, Taken: over.taken,
		Letters: func(o queue.DeadLetterOptions) (queue.Letters, error) {
			//nolint:contextcheck // life is the context
			return c.OpenLetters(cluster.LettersOptions{Options: o, Life: life})
		},
	}
	b, err := bridge.New(opts) //nolint:contextcheck // what it waits for ends with life
	go closeEars()             // of what it has not taken
	if errors.Is(err, queue.ErrHalfCopied) {
		return fmt.Errorf("run hmcnotifyd migrate again: %w", err)
	}
	if err != nil {
		return err
	}
	running, stop := context.WithCancel(ctx)
	defer stop()
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-running.Done():
			return
		case <-store.Lost():
			n.log.Error("another daemon writes to the log: this one stands by", zap.Error(store.Why()))
		case <-lease.Lost():
			n.log.Error("another daemon leads: this one stands by")
		case <-c.Life().Done(): // which Run says
		}
		close(lost)
		stop()
		end() // nothing that is for the cluster is waited for
	})
	n.note(cluster.Holder{Host: n.host, ID: "this daemon"}, nil)
	n.term.Store(&term{b, s.registry, lease.Valid})
	n.changes.Inc()
	err = b.Run(running)
	n.term.Store(nil)
	stop()
	watch.Wait()
	if errors.Is(err, cluster.ErrDeposed) {
		return nil // said above
	}
	return err
}

// unlessDone is for what is asked before the bridge runs: where ctx has ended it, nothing failed.
func unlessDone(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// leaseOptions are how a process on a host has the lease of a configuration.
func leaseOptions(cfg *config.Config, host string, log *zap.Logger) cluster.LeaseOptions {
	return cluster.LeaseOptions{
		TTL: cfg.HA.LeaseTTL, Host: host, Config: strconv.FormatUint(cfg.Hash(), 16), Logger: log,
	}
}

// after says who led before.
func (n *Node) after(before cluster.Holder) string {
	if before.Host == "" {
		return ""
	}
	return "the daemon on " + n.host + " leads now, after the one on " + before.Host
}

// saw notes who leads.
func (n *Node) saw(h cluster.Holder) {
	if h.Released {
		return
	}
	n.mu.Lock()
	before, own := n.leader, n.cfg
	n.mu.Unlock()
	if h.ID != before.ID {
		n.changes.Inc()
		n.log.Info("this daemon stands by; another one leads", zap.String("leader", h.Host))
	}
	if hash := strconv.FormatUint(own.Hash(), 16); h.Config != "" && h.Config != hash {
		n.log.Warn("the leader was started with another configuration: what changes with it changes at a take-over",
			zap.String("leader", h.Host))
	}
	n.note(h, nil)
}

func (n *Node) note(h cluster.Holder, failed error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.leader, n.failed = h, failed
}

func (n *Node) config() *config.Config {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cfg
}

// Bridge returns the bridge of a daemon that leads, else bridge.ErrStandby.
func (n *Node) Bridge() (*bridge.Bridge, error) {
	if t := n.term.Load(); t != nil {
		return t.bridge, nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.leader.Host == "" {
		return nil, bridge.ErrStandby
	}
	return nil, fmt.Errorf("%w: ask the one on %s, which leads", bridge.ErrStandby, n.leader.Host)
}

// SendTest sends an event through a sink, on a daemon that leads, as bridge.Bridge does.
func (n *Node) SendTest(ctx context.Context, sink string, report func(deliver.TestStep) error) error {
	b, err := n.Bridge()
	if err != nil {
		return err
	}
	return b.SendTest(ctx, sink, report)
}

// Status returns a snapshot. It asks nobody.
func (n *Node) Status() status.Status {
	if b, err := n.Bridge(); err == nil {
		s := b.Status()
		if n.cluster.Load() != nil {
			s.Leader = n.host
		}
		return s
	}
	s := status.Status{
		Role: status.RoleStandby, Started: n.started.UTC(), Reasons: []status.Reason{},
		HMCs: []status.HMCStatus{}, Sinks: []status.SinkStatus{}, Removed: []status.RemovedSink{},
		Held: []status.HeldMessage{}, Troubles: []status.Trouble{},
		Storage: status.StorageStatus{Path: n.opts.StoragePath, MaxBytes: int64(n.opts.Config.Storage.MaxBytes)},
	}
	if standing := n.standing.Load(); standing != nil && standing.ears != nil {
		s.HMCs, s.Reasons = standing.ears.Status()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	s.Leader = n.leader.Host
	if c := n.cluster.Load(); !c.Connected() {
		reason := "there is no connection to the NATS cluster"
		if err := c.Why(); err != nil {
			reason += ": " + err.Error()
		}
		s.Reasons = append(s.Reasons, status.Reason{Reason: reason})
	}
	if n.failed != nil {
		s.Reasons = append(s.Reasons, status.Reason{Reason: "this daemon could not lead: " + n.failed.Error()})
	}
	s.Ready = len(s.Reasons) == 0
	return s
}

// Reload makes cfg the running configuration, or on a standby the one that it will lead with.
func (n *Node) Reload(cfg *config.Config) error {
	if b, err := n.Bridge(); err == nil {
		if err := b.Reload(cfg); err != nil {
			return err
		}
	} else if err := n.usable(cfg); err != nil {
		return err
	} else if !cfg.Storage.Equal(&n.opts.Config.Storage) {
		n.log.Warn("the storage section of the configuration is not as it was at the start: " +
			"what it says of the cluster takes effect when the daemon is started anew")
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cfg = cfg
	if s := n.standing.Load(); s != nil && !s.fits(cfg) {
		(*n.again.Load())() // it hears what the new one says
	}
	return nil
}

// Reopen makes log files be opened anew, after they were rotated.
func (n *Node) Reopen() error {
	if b, err := n.Bridge(); err == nil {
		return b.Reopen()
	}
	return nil
}

// Alive says which loop does not turn any more; nil when all do.
func (n *Node) Alive() error {
	if b, err := n.Bridge(); err == nil {
		return b.Alive()
	}
	return nil
}

// Units are the CPCs and partitions that are known.
func (n *Node) Units() []status.Unit {
	if b, err := n.Bridge(); err == nil {
		return b.Units()
	}
	return nil
}

var connected = prometheus.NewDesc("hmcnotifyd_receiver_connected",
	"Whether the link to the HMC is up and every wanted topic is subscribed.", []string{"hmc"}, nil)

// Describe implements prometheus.Collector: which metrics there are depends on who leads.
func (n *Node) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector for what the bridge of a term has registered. Who stands
// by has a link to no HMC.
func (n *Node) Collect(to chan<- prometheus.Metric) {
	if t := n.term.Load(); t != nil {
		t.metrics.Collect(to)
		return
	}
	if s := n.standing.Load(); s != nil && s.ears != nil {
		s.registry.Collect(to)
		return
	}
	for _, h := range n.config().HMCs {
		to <- prometheus.MustNewConstMetric(connected, prometheus.GaugeValue, 0, h.Name)
	}
}
