package watch

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmc"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/record"
)

const (

	// HardwareDetails is how many hardware messages of one list are asked for one by one. A console was seen with thousands.
	HardwareDetails = 10
)

const (
	// hardwareShare is the part of the request budget that may go into asking for single ones.
	hardwareShare = 6
)

const (
	// hardwareIdle is when a CPC that had no hardware messages is listed again although nothing was said of it.
	hardwareIdle = 24 * time.Hour
)

const (
	// hardwareGaps is how often, at most, a console or CPC is listed within the usual interval, whatever is said of it.
	hardwareGaps = 60
)

const (
	// largestHardwareBody is how much an event takes of what the HMC says of one message.
	largestHardwareBody = 1 << 20
)

// hardwareWatch lists the hardware messages of an HMC's console and CPCs and has those recorded that are new, and those that
// are gone. An HMC tells of them by a property, has-hardware-messages, that changes with the first one and the last one only
// (whether it tells of each in another way is not documented), so that they are listed again while there are any. It only
// ever reads: the other operations on hardware messages delete them or call IBM.
//
// One goroutine per link, of its own: a CPC that answers slowly holds up none of what the keeper does. The lists are made one after
// the other, so that at most one of the requests in flight is its.
type hardwareWatch struct {
	s       *Supervisor
	k       *keeper
	details *rate.Limiter
	wake    chan struct{}

	// Of its goroutine alone.
	parents map[string]*watchedParent // by URI
	cpcs    upkeep                    // when the CPCs are listed ...
	cpcsDue bool                      // ... if that is to be done

	mu    sync.Mutex
	asked map[string]bool // whose messages are to be listed soon; "": the CPCs are, and the messages of those that are new
}

// watchedParent is a console or CPC whose hardware messages are listed.
type watchedParent struct {
	upkeep
	of      record.HardwareParent
	last    time.Time // when it was listed last, or that was tried
	listed  bool      // on this link
	problem string    // why that failed; "": it did not
}

// newHardwareWatch returns nil where hardware messages are not asked for.
func newHardwareWatch(k *keeper) *hardwareWatch {
	if !k.s.Cfg.HardwareMessages || k.session == nil {
		return nil
	}
	share := max(k.s.Cfg.RESTRequestsPerMinute/hardwareShare, 1)
	return &hardwareWatch{
		s: k.s, k: k, wake: make(chan struct{}, 1), asked: make(map[string]bool), cpcsDue: true,
		details: rate.NewLimiter(rate.Limit(share)/60, min(share, HardwareDetails)),
		parents: map[string]*watchedParent{record.ConsoleURI: {of: record.HardwareParent{URI: record.ConsoleURI, Class: record.ClassConsole, Name: k.s.Cfg.Name}}},
	}
}

// start begins to watch, in a goroutine of its own that stop ends and waits for. A nil watch does nothing.
func (w *hardwareWatch) start(ctx context.Context) (stop func()) {
	if w == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	w.s.Rec.WatchHardware(w.ask)
	var running sync.WaitGroup
	running.Go(func() { w.run(ctx) })
	return func() {
		cancel()
		w.s.Rec.WatchHardware(nil)
		running.Wait()
	}
}

func (w *hardwareWatch) run(ctx context.Context) {
	defer w.k.isolate()
	for ctx.Err() == nil {
		timer := time.NewTimer(w.work(ctx))
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-w.wake:
		}
		timer.Stop()
	}
}

// ask makes the messages of a console or CPC be listed soon; "": those of CPCs that are new.
func (w *hardwareWatch) ask(parent string) {
	w.mu.Lock()
	w.asked[parent] = true
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// notified looks at each notification for what says that hardware messages came or went, or that CPCs did. It runs on the
// supervisor's goroutine. A nil watch does nothing.
func (w *hardwareWatch) notified(n *receiver.Notification) {
	if w == nil {
		return
	}
	class := n.Headers.Get("class")
	switch n.Headers.Get("notification-type") {
	case event.TypePropertyChange:
		names := n.Headers.Get("property-names")
		switch {
		case strings.Contains(names, "hardware-messages"): // and has-hardware-messages
			w.ask(n.Headers.Get("object-uri"))
		case class == record.ClassCPC && slices.Contains(strings.Fields(names), "name"):
			w.ask("")
		}
	case event.TypeInventoryChange:
		switch class {
		case "hardware-message":
			parent := n.Headers.Get("object-uri")
			if i := strings.Index(parent, "/hardware-messages/"); i >= 0 { // documented is the containing object
				parent = parent[:i]
			}
			w.ask(parent)
		case record.ClassCPC:
			w.ask("")
		}
	}
}

// work does one thing that is due, the one that has been so for the longest time, and returns how long nothing else will be.
func (w *hardwareWatch) work(ctx context.Context) time.Duration {
	now := time.Now()
	w.takeAsked()
	if w.cpcsDue && !now.Before(w.cpcs.due) {
		w.listCPCs(ctx)
		return 0
	}
	var next *watchedParent
	for _, p := range w.parents {
		if next == nil || cmp.Or(p.due.Compare(next.due), cmp.Compare(p.of.URI, next.of.URI)) < 0 {
			next = p
		}
	}
	wait := next.due.Sub(now) // there always is the console
	if wait <= 0 {
		w.list(ctx, next)
		return 0
	}
	if w.cpcsDue {
		wait = min(wait, w.cpcs.due.Sub(now))
	}
	return wait
}

// takeAsked makes due what was asked for since the last call.
func (w *hardwareWatch) takeAsked() {
	w.mu.Lock()
	asked := w.asked
	w.asked = make(map[string]bool)
	w.mu.Unlock()
	for uri := range asked {
		p := w.parents[uri]
		if p == nil {
			w.cpcsDue = true
			continue
		}
		if soon := p.last.Add(w.s.Timing.Hardware / hardwareGaps); p.problem == "" && soon.Before(p.due) {
			p.due = soon
		}
	}
}

// listCPCs learns which CPCs there are. It reports whether the list could be had.
func (w *hardwareWatch) listCPCs(ctx context.Context) (list []hmc.CPC, ok bool) {
	list, err := w.k.session.ListCPCs(ctx)
	if ctx.Err() != nil || w.k.lost(err) {
		return nil, false
	}
	if err != nil {
		w.cpcsDue = true
		if w.cpcs.postpone(w.s.Timing); w.cpcs.tries == 1 {
			w.s.log.Warn("the CPCs could not be listed; their hardware messages have to wait until they can", zap.Error(err))
		}
		return nil, false
	}
	// The next time is at least so long away, however many of them come and go.
	w.cpcsDue, w.cpcs = false, upkeep{due: time.Now().Add(w.s.Timing.Hardware / hardwareGaps)}
	exists := map[string]bool{record.ConsoleURI: true}
	for _, c := range list {
		if !strings.HasPrefix(c.ObjectURI, "/api/cpcs/") {
			continue
		}
		exists[c.ObjectURI] = true
		if p := w.parents[c.ObjectURI]; p != nil {
			p.of.Name = c.Name // it may have another name now
		} else {
			w.parents[c.ObjectURI] = &watchedParent{of: record.HardwareParent{URI: c.ObjectURI, Class: record.ClassCPC, Name: c.Name}}
		}
	}
	// What is known of a CPC that is gone is kept: it may be back.
	maps.DeleteFunc(w.parents, func(uri string, _ *watchedParent) bool { return !exists[uri] })
	return list, true
}

// list lists the messages of a console or CPC and has recorded what has changed.
func (w *hardwareWatch) list(ctx context.Context, p *watchedParent) {
	p.last = time.Now()
	if w.s.queue.Err() != nil { // it could not be recorded
		p.postpone(w.s.Timing)
		return
	}
	messages, complete, err := w.k.session.ListHardwareMessages(ctx, p.of.URI, time.Time{})
	if ctx.Err() != nil || w.k.lost(err) {
		return
	}
	if err != nil {
		p.postpone(w.s.Timing)
		if problem := err.Error(); problem != p.problem {
			p.problem = problem
			w.s.log.Warn("hardware messages could not be listed"+hardwareHint(err), zap.String("of", p.of.Label()), zap.Error(err), zap.Duration("next_attempt_in", p.wait))
		}
		return
	}
	if p.problem != "" {
		p.problem = ""
		w.s.log.Info("hardware messages can be listed again", zap.String("of", p.of.Label()))
	}
	change := w.s.Rec.CompareHardware(p.of.URI, messages, complete)
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
	known, ok := w.s.Rec.RecordHardware(ctx, &p.of, change)
	if !ok {
		p.postpone(w.s.Timing)
		return
	}
	p.listed = true
	p.upkeep = upkeep{due: p.last.Add(hardwareIdle)}
	if known > 0 || p.of.Class == record.ClassConsole { // whether the console tells of its first one is not documented
		p.due = p.last.Add(w.s.Timing.Hardware)
	}
}

// communicates says whether the HMC reaches a CPC, so that what it does not list of it is gone and not out of sight. It
// makes sure of that once messages are missing, which is rare.
func (w *hardwareWatch) communicates(ctx context.Context, p *watchedParent) bool {
	list, ok := w.listCPCs(ctx)
	return ok && slices.ContainsFunc(list, func(c hmc.CPC) bool { return c.ObjectURI == p.of.URI && c.Status != "not-communicating" })
}

// hardwareHint says what may be missing where a list was refused.
func hardwareHint(err error) string {
	if answer, ok := errors.AsType[*hmc.HTTPError](err); ok && (answer.Status == http.StatusForbidden || answer.Status == http.StatusNotFound) {
		return ` (it takes the task "Hardware Messages", for which view-only is enough, and object access)`
	}
	return ""
}

// askDetails asks for the properties of the newest messages, no more than the share of the budget allows. The others have what
// the list says of them, and so has one that cannot be had.
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
		if ctx.Err() != nil || w.k.lost(err) {
			return
		}
		w.s.log.Debug("the properties of a hardware message could not be had", zap.String("uri", m.ElementURI), zap.Error(err))
		if _, unreachable := errors.AsType[*hmc.ConnectError](err); unreachable {
			return // the rest would take as long
		}
	}
}
