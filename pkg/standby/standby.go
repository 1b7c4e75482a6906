// Package standby hears what HMCs say while another daemon records it, with sessions and links of
// its own: what that daemon has not recorded when it dies is not lost then.
package standby

import (
	"context"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/budget"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/record"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/watch"
)

// leaveTimeout bounds how long logging off may take.
const leaveTimeout = 5 * time.Second

// SessionsName is the directory below that of the storage in which sessions are noted until their
// logoff.
const SessionsName = "sessions"

// Options are what Ears need. All but Intervals are required.
type Options struct {
	HMCs []config.HMC
	// Keep is for how long what was heard and not seen recorded is kept.
	Keep        time.Duration
	StoragePath string
	Registerer  prometheus.Registerer
	Logger      *zap.Logger
	Version     string
	Intervals   watch.Intervals
}

// Ears hear all HMCs of a configuration. Make them with New, and end them with Close, after which
// whoever has taken a Supervisor goes on with it.
type Ears struct {
	// Metrics and Budget are those of the Supervisors.
	Metrics *record.Metrics
	Budget  *budget.Budget

	registerer prometheus.Registerer
	collector  prometheus.Collector
	all        map[string]*ear
	order      []*watch.Supervisor
}

type ear struct {
	*watch.Supervisor
	stop  context.CancelFunc
	done  chan struct{}
	taken bool
}

// New begins to hear. On an error nothing has begun.
func New(o Options) (*Ears, error) {
	e := &Ears{
		Metrics: record.NewMetrics(o.Registerer), Budget: budget.New(budget.Common()),
		registerer: o.Registerer, all: make(map[string]*ear),
	}
	for _, c := range o.HMCs {
		s, err := watch.NewListening(watch.Options{
			HMC: c, Metrics: e.Metrics, Logger: o.Logger, Version: o.Version, Budget: e.Budget, Intervals: o.Intervals,
			SessionNotes: filepath.Join(o.StoragePath, SessionsName, c.Name), Handover: budget.Share(len(o.HMCs)),
		}, o.Keep, budget.Divided(budget.Common()/2, len(o.HMCs)))
		if err != nil {
			return nil, err
		}
		e.all[c.Name], e.order = &ear{Supervisor: s, done: make(chan struct{})}, append(e.order, s)
	}
	for _, one := range e.all {
		var ctx context.Context
		ctx, one.stop = context.WithCancel(context.Background())
		go func() {
			defer close(one.done)
			one.Listen(ctx)
		}()
	}
	e.collector = watch.NewCollector(func() []*watch.Supervisor { return e.order })
	e.registerer.MustRegister(e.collector)
	return e, nil
}

// Recorded notes that another daemon has recorded an event.
func (e *Ears) Recorded(rec event.Record) {
	switch rec.Type {
	case event.TypeOSMessage, event.TypeLogEntry:
		return // they have ids of their own
	}
	it, err := rec.Event()
	if err != nil || e.all[it.HMC] == nil {
		return
	}
	// What another HMC of the group has told is not told once more.
	for _, one := range e.all {
		if one.Cfg.Group == e.all[it.HMC].Cfg.Group {
			one.Heard().Recorded(it)
		}
	}
}

// Unsure notes that there may be events that Recorded was not told of.
func (e *Ears) Unsure() {
	for _, one := range e.all {
		one.Heard().Unsure()
	}
}

// Take returns what hears an HMC, which has stopped to do so and has its link still; nil: nothing
// does, by this configuration.
func (e *Ears) Take(c *config.HMC) *watch.Supervisor {
	if e == nil {
		return nil
	}
	e.registerer.Unregister(e.collector) // whoever takes them has one
	one := e.all[c.Name]
	if one == nil || one.taken || !one.Cfg.Equal(c) && !one.Config().Equal(c) {
		return nil
	}
	one.stop()
	<-one.done
	one.taken = true
	return one.Supervisor
}

// Fit says whether they hear these HMCs, and no others.
func (e *Ears) Fit(hmcs []config.HMC) bool {
	return slices.EqualFunc(e.order, hmcs, func(s *watch.Supervisor, c config.HMC) bool {
		return s.Cfg.Equal(&c) || s.Config().Equal(&c)
	})
}

// Close ends what was not taken, and logs off.
func (e *Ears) Close() {
	e.registerer.Unregister(e.collector)
	var leaving sync.WaitGroup
	for _, one := range e.all {
		if one.taken {
			continue
		}
		one.stop()
		leaving.Go(func() {
			<-one.done
			ctx, cancel := context.WithTimeout(context.Background(), leaveTimeout)
			defer cancel()
			one.Leave(ctx)
		})
	}
	leaving.Wait()
}

// Status says how it stands with the HMCs, and what keeps the daemon from hearing them.
func (e *Ears) Status() (hmcs []status.HMCStatus, reasons []status.Reason) {
	for _, s := range e.order {
		h := s.Snapshot()
		hmcs = append(hmcs, h)
		for _, p := range h.Problems {
			reasons = append(reasons, status.Reason{HMC: h.Name, Reason: p.Text})
		}
	}
	return hmcs, reasons
}
