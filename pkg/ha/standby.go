package ha

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/cluster"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/replay"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/sinks"
)

// liveBytes is what a daemon that stands by keeps of the newest events, for those who look at them.
const liveBytes = 4 << 20

// errLeads ends the reading of events that another daemon stores.
var errLeads = errors.New("this daemon leads from now on, or begins to stand by anew")

// standing is what a daemon has while another one leads.
type standing struct {
	tail   *cluster.Tail
	events *replay.Ring
	live   *replay.Live
}

// standBy reads along in the log until it is stopped: what there is to load is loaded when this
// daemon has to lead, and its events can be looked at meanwhile.
func (n *Node) standBy(ctx context.Context) (s *standing, stop func()) {
	s = &standing{events: &replay.Ring{MaxBytes: liveBytes}}
	s.live = replay.NewLiveOf(s.events, n.config)
	s.tail = n.cluster.Tail(s.events.Add)
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
