package watch

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmc"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/logon"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/record"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/translate"
)

const (
	// HardwareDetails is how many hardware messages of one list are asked for one by one. A
	// console was seen with thousands.
	HardwareDetails = 10
	// hardwareShare is the part of the request budget that may go into asking for single ones.
	hardwareShare = 6
	// hardwareIdle is when a CPC that had no hardware messages is listed again although nothing
	// was said of it.
	hardwareIdle = 24 * time.Hour
	// hardwareGaps is how often, at most, a console or CPC is listed within the usual interval,
	// whatever is said of it.
	hardwareGaps = 60
	// largestHardwareBody is how much an event takes of what the HMC says of one message.
	largestHardwareBody = 1 << 20
)

// hardwareWatch lists the hardware messages of an HMC's console and CPCs and has those recorded
// that are new, and those that are gone. An HMC announces them by a property,
// has-hardware-messages, that changes with the first one and the last one only (whether it
// announces each in another way is not documented), so that they are listed again while there are
// any. It only ever reads: the other operations on hardware messages delete them or call IBM.
//
// One goroutine per link, of its own: a CPC that answers slowly holds up none of what the keeper
// does. The lists are made one after the other, so that at most one of the requests in flight is
// its.
type hardwareWatch struct {
	k       *keeper
	details *rate.Limiter
	wake    chan struct{}
	// parents are found by URI. They are of its goroutine alone.
	parents map[string]*watchedParent

	mu sync.Mutex
	// asked are the URIs of parents whose messages are to be listed soon.
	asked map[string]bool
	// cpcs are those that the keeper has listed; nil: not since they were looked at.
	cpcs []hmc.CPC
}

// watchedParent is a console or CPC whose hardware messages are listed.
type watchedParent struct {
	retry

	of record.HardwareParent
	// last is when it was listed last, or that was tried; listed says that it was, on this
	// link.
	last   time.Time
	listed bool
	// problem is why that failed; "": it did not.
	problem string
}

// newHardwareWatch returns nil where hardware messages are not asked for.
func newHardwareWatch(k *keeper) *hardwareWatch {
	if !k.Cfg.HardwareMessages || k.session == nil {
		return nil
	}
	share := max(k.Cfg.RESTRequestsPerMinute/hardwareShare, 1)
	console := record.HardwareParent{URI: record.ConsoleURI, Class: record.ClassConsole, Name: k.Cfg.Name}
	return &hardwareWatch{
		k: k, wake: make(chan struct{}, 1), asked: make(map[string]bool),
		details: rate.NewLimiter(rate.Limit(share)/60, min(share, HardwareDetails)),
		parents: map[string]*watchedParent{record.ConsoleURI: {of: console}},
	}
}

// start begins to watch, in a goroutine of its own that stop ends and waits for. A nil watch does
// nothing.
func (w *hardwareWatch) start(ctx context.Context) (stop func()) {
	if w == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { w.run(ctx) })
	return func() {
		cancel()
		running.Wait()
	}
}

func (w *hardwareWatch) run(ctx context.Context) {
	defer w.k.isolate()
	for ctx.Err() == nil {
		sleepUntilWoken(ctx, w.work(ctx), w.wake)
	}
}

// ask makes the messages of a console or CPC be listed soon.
func (w *hardwareWatch) ask(parent string) {
	w.mu.Lock()
	w.asked[parent] = true
	w.mu.Unlock()
	signal(w.wake)
}

// listed takes the CPCs that the keeper has listed. A nil watch does nothing.
func (w *hardwareWatch) listed(cpcs []hmc.CPC) {
	if w != nil {
		w.mu.Lock()
		w.cpcs = append([]hmc.CPC{}, cpcs...)
		w.mu.Unlock()
		signal(w.wake)
	}
}

// notified looks at each notification for what says that hardware messages came or went. It runs on
// the supervisor's goroutine. A nil watch does nothing.
func (w *hardwareWatch) notified(n *translate.Notification) {
	if w == nil {
		return
	}
	switch n.Type {
	case event.TypePropertyChange:
		// and has-hardware-messages
		if strings.Contains(n.Headers.Get("property-names"), "hardware-messages") {
			w.ask(n.Resource.ObjectURI)
		}
	case event.TypeInventoryChange:
		// documented is the URI of the containing object
		if n.Resource.Class == "hardware-message" {
			parent, _, _ := strings.Cut(n.Resource.ObjectURI, "/hardware-messages/")
			w.ask(parent)
		}
	}
}

// work does one thing that is due, the one that has been so for the longest time, and returns how
// long nothing else will be.
func (w *hardwareWatch) work(ctx context.Context) time.Duration {
	w.takeAsked()
	var next *watchedParent
	for _, p := range w.parents {
		if next == nil || cmp.Or(p.due.Compare(next.due), cmp.Compare(p.of.URI, next.of.URI)) < 0 {
			next = p
		}
	}
	wait := time.Until(next.due) // there always is the console
	if wait <= 0 {
		w.list(ctx, next)
	}
	return max(wait, 0)
}

// takeAsked takes over what came from other goroutines since the last call.
func (w *hardwareWatch) takeAsked() {
	w.mu.Lock()
	asked, cpcs := w.asked, w.cpcs
	w.asked, w.cpcs = make(map[string]bool), nil
	w.mu.Unlock()
	if cpcs != nil {
		w.watchCPCs(cpcs)
	}
	for uri := range asked {
		p := w.parents[uri]
		if p == nil {
			w.k.lister.ask() // it may be new
			continue
		}
		if soon := p.last.Add(w.k.intervals.Hardware / hardwareGaps); p.problem == "" && soon.Before(p.due) {
			p.due = soon
		}
	}
}

// watchCPCs makes these the CPCs whose messages are listed. What is known of one that is gone is
// kept: it may be back.
func (w *hardwareWatch) watchCPCs(list []hmc.CPC) {
	before := w.parents
	w.parents = map[string]*watchedParent{record.ConsoleURI: before[record.ConsoleURI]}
	for _, c := range list {
		if !strings.HasPrefix(c.ObjectURI, "/api/cpcs/") {
			continue
		}
		p := before[c.ObjectURI]
		if p == nil {
			p = &watchedParent{of: record.HardwareParent{URI: c.ObjectURI, Class: record.ClassCPC}}
		}
		p.of.Name = c.Name
		w.parents[c.ObjectURI] = p
	}
}

// list lists the messages of a console or CPC and has recorded what has changed.
func (w *hardwareWatch) list(ctx context.Context, p *watchedParent) {
	p.last = time.Now()
	if w.k.queue.Err() != nil { // it could not be recorded
		p.failed(&w.k.intervals)
		return
	}
	messages, complete, err := w.k.session.ListHardwareMessages(ctx, p.of.URI, time.Time{})
	if w.k.over(ctx, err) {
		return
	}
	if err != nil {
		p.failed(&w.k.intervals)
		if problem := err.Error(); problem != p.problem {
			p.problem = problem
			w.k.log.Warn("hardware messages could not be listed"+logon.HardwareHint(err),
				zap.String("of", p.of.Label()), zap.Error(err), zap.Duration("next_attempt_in", p.wait))
		}
		return
	}
	if p.problem != "" {
		p.problem = ""
		w.k.log.Info("hardware messages can be listed again", zap.String("of", p.of.Label()))
	}
	change := w.k.Rec.CompareHardware(p.of.URI, messages, complete)
	if len(change.Gone) > 0 && p.of.Class == record.ClassCPC && !w.communicates(ctx, p) {
		change.Gone = nil
	}
	w.askDetails(ctx, change.Added)
	if ctx.Err() != nil {
		return // the next link finds all of it
	}
	if !p.listed {
		change.Origin = event.OriginBackfill // came while nobody looked
	}
	known := w.k.Rec.RecordHardware(ctx, &p.of, change)
	p.listed = true
	p.retry = retry{due: p.last.Add(hardwareIdle)}
	// whether the console announces its first one is not documented
	if known > 0 || p.of.Class == record.ClassConsole {
		p.due = p.last.Add(w.k.intervals.Hardware)
	}
}

// communicates says whether the HMC reaches a CPC, so that what it does not list of it is gone and
// not out of reach. It makes sure of that once messages are missing, which is rare.
func (w *hardwareWatch) communicates(ctx context.Context, p *watchedParent) bool {
	list, err := w.k.session.ListCPCs(ctx)
	return !w.k.over(ctx, err) && slices.ContainsFunc(list, func(c hmc.CPC) bool {
		return c.ObjectURI == p.of.URI && c.Status != "not-communicating"
	})
}

// askDetails asks for the properties of the newest messages, no more than the share of the budget
// allows. The others have what the list says of them, and so has one that cannot be had.
func (w *hardwareWatch) askDetails(ctx context.Context, added []hmc.HardwareMessage) {
	n := 0
	for i, m := range slices.Backward(added) {
		if n++; n > HardwareDetails || !w.details.Allow() {
			return
		}
		whole, err := w.k.session.GetHardwareMessage(ctx, m.ElementURI)
		if err == nil && len(whole.Raw) <= largestHardwareBody {
			whole.Timestamp = record.OrTime(m.Timestamp, whole.Timestamp)
			added[i] = whole
			continue
		}
		if w.k.over(ctx, err) {
			return
		}
		w.k.log.Debug("the properties of a hardware message could not be had",
			zap.String("uri", m.ElementURI), zap.Error(err))
		if _, unreachable := errors.AsType[*hmc.ConnectError](err); unreachable {
			return // the rest would take as long
		}
	}
}
