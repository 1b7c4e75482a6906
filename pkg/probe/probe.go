// Package probe asks an HMC what no notification tells of single resources: which statuses
// operators find acceptable, what a partition runs, and which messages of operating systems still
// wait for an answer.
package probe

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/estate"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmc"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/record"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/translate"
)

const (
	// perRequest is how many resources are asked for in one request.
	perRequest = 200
	// oneByOne is how many are, each in a request of its own, before it is looked whether messages
	// are due, where an HMC does not know how to tell of several at once.
	oneByOne = 5
	// heldPerRound is of how many partitions the messages are listed in one round.
	heldPerRound = 10
)

// Intervals are what a Probe waits for. One that is 0 is the usual one; tests shorten them.
type Intervals struct {
	// Loaded is how long after the start of an operating system it is asked for: by then it has
	// told the HMC its name.
	Loaded time.Duration
	// Held is how often the messages are listed of a partition with one that waits for an answer.
	Held time.Duration
	// Retry is the first wait after a request that failed; it grows up to ten times that.
	Retry time.Duration
}

func (i Intervals) withDefaults() Intervals {
	usual := func(d *time.Duration, to time.Duration) {
		if *d == 0 {
			*d = to
		}
	}
	usual(&i.Loaded, 45*time.Second)
	usual(&i.Held, time.Minute)
	usual(&i.Retry, time.Minute)
	return i
}

// Options are what a Probe needs. All but Intervals are required.
type Options struct {
	Session  *hmc.Session
	Recorder *record.Recorder
	Logger   *zap.Logger
	// Over reports whether nothing is to be asked any more: ctx is done, or err says that the
	// session has ended.
	Over      func(ctx context.Context, err error) bool
	Intervals Intervals
}

// Probe asks one HMC for as long as a link lasts. What it asks never holds up notifications, and
// goes by the budget of requests. Its methods are safe for concurrent use.
type Probe struct {
	o    Options
	wake chan struct{}

	mu sync.Mutex
	// due are the URIs of what is to be asked for, and when.
	due map[string]time.Time
	// asked are those that were asked for on this link.
	asked map[string]bool

	// Of Run's goroutine alone. single says that the HMC tells of one resource at a time only,
	// unfiltered that it does not know which messages are held.
	single, unfiltered bool
	fails              int
	warned             bool
	nextHeld           time.Time
}

// New returns a Probe that asks nothing yet.
func New(o Options) *Probe {
	o.Intervals = o.Intervals.withDefaults()
	return &Probe{
		o: o, wake: make(chan struct{}, 1), due: make(map[string]time.Time), asked: make(map[string]bool),
	}
}

// Listed has everything in a list asked for that was not on this link.
func (p *Probe) Listed(l *estate.Listing) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	for i := range l.Resources {
		if uri := l.Resources[i].URI; !p.asked[uri] {
			p.asked[uri], p.due[uri] = true, now
		}
	}
	p.signal()
}

// Notified looks at a notification for the start of an operating system.
func (p *Probe) Notified(n *translate.Notification) {
	r := &n.Resource
	if n.Type != event.TypeStatusChange || r.ElementURI != "" || len(n.Reports) == 0 ||
		r.Class != estate.ClassPartition && r.Class != estate.ClassLogicalPartition ||
		estate.ClassOf(r.ObjectURI) != r.Class || !estate.Runs(n.Reports[len(n.Reports)-1].NewStatus) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.due[r.ObjectURI] = time.Now().Add(p.o.Intervals.Loaded)
	p.signal()
}

func (p *Probe) signal() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Run asks what is due until ctx is done.
func (p *Probe) Run(ctx context.Context) {
	for ctx.Err() == nil {
		p.askInfos(ctx)
		p.askHeld(ctx)
		timer := time.NewTimer(p.untilDue(time.Now()))
		select {
		case <-ctx.Done():
		case <-p.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// untilDue is how long nothing is to be asked.
func (p *Probe) untilDue(now time.Time) time.Duration {
	next := p.nextHeld
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, at := range p.due {
		if at.Before(next) {
			next = at
		}
	}
	return max(next.Sub(now), 0)
}

// take returns what is due, no more than one request asks for.
func (p *Probe) take(now time.Time) (uris []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for uri, at := range p.due {
		if !at.After(now) {
			uris = append(uris, uri)
		}
	}
	slices.Sort(uris)
	limit := perRequest
	if p.single {
		limit = oneByOne
	}
	uris = uris[:min(limit, len(uris))]
	for _, uri := range uris {
		delete(p.due, uri)
	}
	return uris
}

// later has resources asked for again after a time.
func (p *Probe) later(uris []string, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, uri := range uris {
		if before, waits := p.due[uri]; !waits || at.Before(before) {
			p.due[uri] = at
		}
	}
}

// askInfos asks for resources that are due.
func (p *Probe) askInfos(ctx context.Context) {
	uris := p.take(time.Now())
	if len(uris) == 0 {
		return
	}
	infos, rest, err := p.infos(ctx, uris)
	if len(infos) > 0 {
		p.o.Recorder.Informed(ctx, infos)
	}
	if p.o.Over(ctx, err) {
		return
	}
	if err == nil {
		p.fails = 0
		return
	}
	p.fails = min(p.fails+1, 10)
	p.later(rest, time.Now().Add(time.Duration(p.fails)*p.o.Intervals.Retry))
	if !p.warned {
		p.warned = true
		p.o.Logger.Warn("it is not known what partitions run and which statuses are acceptable; "+
			"until it is, the notifications and lists alone say", zap.Error(err))
	}
}

// infos asks for resources, in one request if the HMC can. rest are those that an error has left.
func (p *Probe) infos(ctx context.Context, uris []string) (infos []hmc.Info, rest []string, err error) {
	s := p.o.Session
	if !p.single {
		if infos, err = s.GetInfos(ctx, uris); err == nil {
			return infos, nil, nil
		}
		unknown := hmc.IsStatus(err, http.StatusNotFound) || hmc.IsStatus(err, http.StatusMethodNotAllowed)
		if !unknown {
			return nil, uris, err
		}
		p.single = true
		p.later(uris, time.Now())
		return nil, nil, nil
	}
	for i, uri := range uris {
		info, err := s.GetInfo(ctx, uri)
		switch {
		case err == nil:
			infos = append(infos, info)
		case !hmc.IsStatus(err, http.StatusNotFound) && !hmc.IsStatus(err, http.StatusConflict):
			return infos, uris[i:], err
		}
	}
	return infos, nil, nil
}

// askHeld lists the messages of partitions with some that wait for an answer: an HMC does not tell
// that one was answered.
func (p *Probe) askHeld(ctx context.Context) {
	now := time.Now()
	if now.Before(p.nextHeld) {
		return
	}
	p.nextHeld = now.Add(p.o.Intervals.Held)
	for _, uri := range p.o.Recorder.Holding(heldPerRound) {
		asked := time.Now()
		messages, err := p.o.Session.ListHeldMessages(ctx, uri, !p.unfiltered)
		if hmc.IsStatus(err, http.StatusBadRequest) && !p.unfiltered {
			p.unfiltered = true
			messages, err = p.o.Session.ListHeldMessages(ctx, uri, false)
		}
		if p.o.Over(ctx, err) {
			return
		}
		switch {
		case err == nil:
		case hmc.IsStatus(err, http.StatusNotFound),
			hmc.IsReason(err, http.StatusConflict, hmc.ReasonChannelUnavailable):
			messages = nil // nothing runs there any more that waits
		default:
			p.o.Logger.Debug("it is not known whether messages still wait for an answer",
				zap.String("partition", uri), zap.Error(err))
			continue
		}
		p.o.Recorder.StillHeld(ctx, uri, messages, asked)
	}
}
