package ha

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/cluster"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/replay"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/sinks"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/standby"
)

// keepHeard is for how long at least a connected daemon that stands by keeps what it has not seen
// recorded: a busy machine takes its time to lead.
const keepHeard = 30 * time.Second

// liveBytes is what a daemon that stands by keeps of the newest events, for those who look at them.
const liveBytes = 4 << 20

// errLeads ends the reading of events that another daemon stores.
var errLeads = errors.New("this daemon leads from now on, or begins to stand by anew")

// standing is what a daemon has while another one leads: what it reads of the log, and where the
// configuration wants that, what it hears of the HMCs.
type standing struct {
	tail     *cluster.Tail
	events   *replay.Ring
	live     *replay.Live
	ears     *standby.Ears        // nil: it hears nothing
	registry *prometheus.Registry // of a term that begins with this

	recorded uint64 // the last event that ears were told of
}

// standBy reads along in the log, and hears the HMCs, until it is stopped: what there is to load is
// loaded when this daemon has to lead, and its events can be looked at meanwhile.
func (n *Node) standBy(ctx context.Context, c *cluster.Cluster) (s *standing, stop func(), err error) {
	cfg := n.config()
	s = &standing{events: &replay.Ring{MaxBytes: liveBytes}, registry: prometheus.NewRegistry()}
	s.live = replay.NewLiveOf(s.events, n.config)
	s.tail = c.Tail(s.record)
	if cfg.HA.Standby == config.StandbyConnected {
		s.ears, err = standby.New(standby.Options{ //nolint:contextcheck // Close ends them
			HMCs: cfg.HMCs, Keep: max(2*cfg.HA.LeaseTTL, keepHeard), StoragePath: n.opts.StoragePath,
			Registerer: s.registry, Logger: n.opts.Logger, Version: n.opts.Version, Intervals: n.opts.Intervals,
		})
		if err != nil {
			return nil, nil, err
		}
	}
	n.standing.Store(s)
	reading, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { s.tail.Run(reading) })
	return s, func() {
		cancel()
		running.Wait()
		n.standing.Store(nil)
		if ctx.Err() != nil {
			s.live.End()
		} else {
			s.live.EndBecause(errLeads)
		}
	}, nil
}

// fits says whether it hears what a configuration says.
func (s *standing) fits(cfg *config.Config) bool {
	if s.ears == nil {
		return cfg.HA.Standby != config.StandbyConnected
	}
	return cfg.HA.Standby == config.StandbyConnected && s.ears.Fit(cfg.HMCs)
}

// record takes what another daemon has recorded.
func (s *standing) record(seq uint64, data []byte) {
	s.events.Add(seq, data)
	if s.ears == nil || seq <= s.recorded {
		return
	}
	if s.recorded > 0 && seq != s.recorded+1 { // what is not needed any more was removed before it was read
		s.ears.Unsure()
	}
	s.recorded = seq
	if rec, err := event.ParseRecord(data); err == nil {
		s.ears.Recorded(rec)
	}
}

// Live returns a reader of the events that are stored from now on, whoever stores them.
func (n *Node) Live() (*replay.LiveReader, error) {
	b, err := n.Bridge()
	if err == nil {
		return b.Live()
	}
	n.mu.Lock()
	known := n.leader.Host != ""
	n.mu.Unlock()
	if s := n.standing.Load(); s != nil && known {
		if _, last := s.events.Bounds(); last > 0 {
			return s.live.Read()
		}
	}
	return nil, err
}

// usable checks what a configuration says of sinks, which are made when this daemon has to lead.
func (n *Node) usable(cfg *config.Config) (err error) {
	for _, c := range cfg.Sinks {
		s, failed := sinks.New(c, sinks.Options{
			Version: n.opts.Version, ExternalURL: n.opts.ExternalURL, Stdout: n.opts.Stdout, Stderr: n.opts.Stderr,
		})
		if failed == nil {
			failed = s.Close()
		}
		if failed != nil {
			err = errors.Join(err, fmt.Errorf("sink %s: %w", c.Name, failed))
		}
	}
	return err
}
