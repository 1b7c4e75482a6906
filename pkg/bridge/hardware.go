package bridge

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmc"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
)

const (
	consoleURI   = "/api/console"
	classConsole = "console"
	classCPC     = "cpc"

	// hardwareDetails is how many hardware messages of one list are asked for one by one. A console was seen with thousands.
	hardwareDetails = 10
	// hardwareShare is the part of the request budget that may go into asking for single ones.
	hardwareShare = 6
	// hardwareKnown is how many hardware messages of a console or CPC are remembered, hardwareText how much of their texts.
	hardwareKnown = 5000
	hardwareText  = 200
	// longestElementURI is far beyond those that HMCs have.
	longestElementURI = 1024
	// hardwareIdle is when a CPC that had no hardware messages is listed again although nothing was said of it.
	hardwareIdle = 24 * time.Hour
	// hardwareGaps is how often, at most, a console or CPC is listed within the usual interval, whatever is said of it.
	hardwareGaps = 60
	// largestHardwareBody is how much an event takes of what the HMC says of one message.
	largestHardwareBody = 1 << 20
)

// stateHardware begins the keys of what is known of hardware messages: HMC, NUL, URI of the console or CPC. Under that key
// is what counts for all of them, under that key, NUL and element URI what is known of one.
const stateHardware = "hw/"

// hardwareWatch lists the hardware messages of an HMC's console and CPCs and has those recorded that are new, and those that
// are gone. An HMC tells of them by a property, has-hardware-messages, that changes with the first one and the last one only
// (whether it tells of each in another way is not documented), so that they are listed again while there are any. It only
// ever reads: the other operations on hardware messages delete them or call IBM.
//
// One goroutine per link, of its own: a CPC that answers slowly holds up none of what the keeper does. The lists are made one after
// the other, so that at most one of the requests in flight is its.
type hardwareWatch struct {
	s       *supervisor
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

// hardwareParent is the console or a CPC.
type hardwareParent struct {
	uri, class, name string
}

// watchedParent is a console or CPC whose hardware messages are listed.
type watchedParent struct {
	upkeep
	of      hardwareParent
	last    time.Time // when it was listed last, or that was tried
	listed  bool      // on this link
	problem string    // why that failed; "": it did not
}

func (p *hardwareParent) label() string {
	if p.class == classConsole {
		return "console " + p.name
	}
	return "CPC " + p.name
}

// newHardwareWatch returns nil where hardware messages are not asked for.
func newHardwareWatch(k *keeper) *hardwareWatch {
	if !k.s.cfg.HardwareMessages || k.session == nil {
		return nil
	}
	share := max(k.s.cfg.RESTRequestsPerMinute/hardwareShare, 1)
	return &hardwareWatch{
		s: k.s, k: k, wake: make(chan struct{}, 1), asked: make(map[string]bool), cpcsDue: true,
		details: rate.NewLimiter(rate.Limit(share)/60, min(share, hardwareDetails)),
		parents: map[string]*watchedParent{consoleURI: {of: hardwareParent{uri: consoleURI, class: classConsole, name: k.s.cfg.Name}}},
	}
}

// start begins to watch, in a goroutine of its own that stop ends and waits for. A nil watch does nothing.
func (w *hardwareWatch) start(ctx context.Context) (stop func()) {
	if w == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	w.s.rec.watchHardware(w.ask)
	var running sync.WaitGroup
	running.Go(func() { w.run(ctx) })
	return func() {
		cancel()
		w.s.rec.watchHardware(nil)
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
		case class == classCPC && slices.Contains(strings.Fields(names), "name"):
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
		case classCPC:
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
		if next == nil || cmp.Or(p.due.Compare(next.due), cmp.Compare(p.of.uri, next.of.uri)) < 0 {
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
		if soon := p.last.Add(w.s.timing.hardware / hardwareGaps); p.problem == "" && soon.Before(p.due) {
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
		if w.cpcs.postpone(w.s.timing); w.cpcs.tries == 1 {
			w.s.log.Warn("the CPCs could not be listed; their hardware messages have to wait until they can", zap.Error(err))
		}
		return nil, false
	}
	// The next time is at least so long away, however many of them come and go.
	w.cpcsDue, w.cpcs = false, upkeep{due: time.Now().Add(w.s.timing.hardware / hardwareGaps)}
	exists := map[string]bool{consoleURI: true}
	for _, c := range list {
		if !strings.HasPrefix(c.ObjectURI, "/api/cpcs/") {
			continue
		}
		exists[c.ObjectURI] = true
		if p := w.parents[c.ObjectURI]; p != nil {
			p.of.name = c.Name // it may have another name now
		} else {
			w.parents[c.ObjectURI] = &watchedParent{of: hardwareParent{uri: c.ObjectURI, class: classCPC, name: c.Name}}
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
		p.postpone(w.s.timing)
		return
	}
	messages, complete, err := w.k.session.ListHardwareMessages(ctx, p.of.uri, time.Time{})
	if ctx.Err() != nil || w.k.lost(err) {
		return
	}
	if err != nil {
		p.postpone(w.s.timing)
		if problem := err.Error(); problem != p.problem {
			p.problem = problem
			w.s.log.Warn("hardware messages could not be listed"+hardwareHint(err), zap.String("of", p.of.label()), zap.Error(err), zap.Duration("next_attempt_in", p.wait))
		}
		return
	}
	if p.problem != "" {
		p.problem = ""
		w.s.log.Info("hardware messages can be listed again", zap.String("of", p.of.label()))
	}
	change := w.s.rec.compareHardware(p.of.uri, messages, complete)
	if len(change.gone) > 0 && p.of.class == classCPC && !w.communicates(ctx, p) {
		change.gone = nil
	}
	w.askDetails(ctx, change.added)
	if ctx.Err() != nil {
		return // the next link finds all of it
	}
	if !p.listed {
		change.origin = event.OriginBackfill // came while nobody looked
	}
	known, ok := w.s.rec.recordHardware(ctx, &p.of, change)
	if !ok {
		p.postpone(w.s.timing)
		return
	}
	p.listed = true
	p.upkeep = upkeep{due: p.last.Add(hardwareIdle)}
	if known > 0 || p.of.class == classConsole { // whether the console tells of its first one is not documented
		p.due = p.last.Add(w.s.timing.hardware)
	}
}

// communicates says whether the HMC reaches a CPC, so that what it does not list of it is gone and not out of sight. It
// makes sure of that once messages are missing, which is rare.
func (w *hardwareWatch) communicates(ctx context.Context, p *watchedParent) bool {
	list, ok := w.listCPCs(ctx)
	return ok && slices.ContainsFunc(list, func(c hmc.CPC) bool { return c.ObjectURI == p.of.uri && c.Status != "not-communicating" })
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
		if n++; n > hardwareDetails || !w.details.Allow() {
			return
		}
		whole, err := w.k.session.GetHardwareMessage(ctx, m.ElementURI)
		if err == nil && len(whole.Raw) <= largestHardwareBody {
			whole.Timestamp = orTime(m.Timestamp, whole.Timestamp)
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

// orTime returns the first that is a time.
func orTime(a, b time.Time) time.Time {
	if a.IsZero() {
		return b
	}
	return a
}

// hardwareMark is what is known of the hardware messages of a console or CPC: each that is there, by its element URI. Beyond
// hardwareKnown the oldest are forgotten, and what is not newer than those is taken for known.
type hardwareMark struct {
	known  map[string]knownHardware
	floor  int64 // the time of the latest that was forgotten, in ms; -1: none was
	listed bool  // it was listed before, in this run or another one
}

type knownHardware struct {
	at   int64 // ms; 0: not told
	text string
}

// hardwareChange is what a list says that was not known.
type hardwareChange struct {
	added  []hmc.HardwareMessage // oldest first
	gone   []string              // element URIs
	origin string                // of what was added
}

// hardwareUndo is how something of a mark was before a batch.
type hardwareUndo struct {
	number int64 // they are taken back in the reverse order
	mark   *hardwareMark
	parent string

	uri    string         // of the message whose state this is; "": of the rest
	known  *knownHardware // nil: it was not known
	floor  int64
	listed bool
}

// hardwareBook is what a recorder knows of hardware messages. The recorder's mu guards it.
type hardwareBook struct {
	marks map[string]*hardwareMark // by the URI of the console or CPC
	undos int64                    // made so far
	again func(parent string)      // has the messages of a console or CPC listed again; nil: nobody watches
}

func (b *hardwareBook) mark(parent string) *hardwareMark {
	m := b.marks[parent]
	if m == nil {
		m = &hardwareMark{known: make(map[string]knownHardware), floor: -1}
		if b.marks == nil {
			b.marks = make(map[string]*hardwareMark)
		}
		b.marks[parent] = m
	}
	return m
}

// openHardware reads what is known from the queue's state. r.mu is held.
func (r *recorder) openHardware() {
	prefix := stateHardware + r.cfg.Name + "\x00"
	r.queue.StateRange(prefix, func(key string, value []byte) bool {
		parent, uri, one := strings.Cut(key[len(prefix):], "\x00")
		if len(value) < 8 {
			return true
		}
		n := int64(binary.BigEndian.Uint64(value))
		m := r.hardware.mark(parent)
		if one {
			m.known[uri] = knownHardware{at: n, text: string(value[8:])}
		} else {
			m.floor, m.listed = n, true
		}
		return true
	})
}

// watchHardware says who lists again what could not be stored; nil: nobody.
func (r *recorder) watchHardware(again func(parent string)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hardware.again = again
}

// compareHardware returns what a list says that is not known. Only a complete one says what is gone.
func (r *recorder) compareHardware(parent string, messages []hmc.HardwareMessage, complete bool) hardwareChange {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := r.hardware.mark(parent)
	var change hardwareChange
	listed := make(map[string]bool, len(messages))
	for _, message := range messages {
		uri := message.ElementURI
		if uri == "" || len(uri) > longestElementURI || strings.Contains(uri, "\x00") || listed[uri] {
			continue
		}
		listed[uri] = true
		if m.news(uri, milliseconds(message.Timestamp)) {
			change.added = append(change.added, message)
		}
	}
	if complete {
		for _, uri := range slices.Sorted(maps.Keys(m.known)) {
			if !listed[uri] {
				change.gone = append(change.gone, uri)
			}
		}
	}
	slices.SortStableFunc(change.added, func(a, b hmc.HardwareMessage) int {
		return cmp.Or(a.Timestamp.Compare(b.Timestamp), cmp.Compare(a.ElementURI, b.ElementURI))
	})
	return change
}

// news says whether a message of a time was not seen before.
func (m *hardwareMark) news(uri string, at int64) bool {
	_, known := m.known[uri]
	return !known && at > m.floor
}

// milliseconds is t as the HMC tells it; 0: it does not.
func milliseconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// recordHardware records what has changed of the hardware messages of a console or CPC, and returns how many there are. ok
// is false while what could not be stored is not taken back yet.
func (r *recorder) recordHardware(ctx context.Context, p *hardwareParent, change hardwareChange) (known int, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.awaitSettled()
	if !r.settled() {
		return 0, false
	}
	w := hardwareWriter{r: r, parent: p, mark: r.hardware.mark(p.uri)}
	m := w.mark
	origin := event.OriginLive
	if m.listed { // at the very first time all of them are told as they stand
		origin = cmp.Or(change.origin, origin)
	}
	// What was known may have been taken back since the comparison.
	for _, message := range change.added {
		if m.news(message.ElementURI, milliseconds(message.Timestamp)) {
			w.added(ctx, message, origin)
		}
	}
	for _, uri := range change.gone {
		if _, known := m.known[uri]; known {
			w.gone(ctx, uri)
		}
	}
	w.forgetOldest()
	if !m.listed {
		w.rest(m.floor)
	}
	w.send(ctx)
	return len(m.known), true
}

// hardwareWriter brings changes of a mark into the queue, with the events that tell them. r.mu is held.
type hardwareWriter struct {
	r      *recorder
	parent *hardwareParent
	mark   *hardwareMark
	state  []queue.KeyValue
}

func (w *hardwareWriter) key() string {
	return stateHardware + w.r.cfg.Name + "\x00" + w.parent.uri
}

// undo notes how something is now, for the case that what follows cannot be stored.
func (w *hardwareWriter) undo(u hardwareUndo) {
	w.r.hardware.undos++
	u.number, u.mark, u.parent = w.r.hardware.undos, w.mark, w.parent.uri
	w.r.notes.hardware = append(w.r.notes.hardware, u)
}

// set changes what is known of a message; nil: nothing is any more.
func (w *hardwareWriter) set(uri string, k *knownHardware) {
	u := hardwareUndo{uri: uri}
	if old, known := w.mark.known[uri]; known {
		u.known = &old
	}
	w.undo(u)
	kv := queue.KeyValue{Key: w.key() + "\x00" + uri}
	if k == nil {
		delete(w.mark.known, uri)
	} else {
		w.mark.known[uri] = *k
		kv.Value = append(binary.BigEndian.AppendUint64(nil, uint64(k.at)), k.text...)
	}
	w.state = append(w.state, kv)
}

// rest changes what counts for all of the messages.
func (w *hardwareWriter) rest(floor int64) {
	w.undo(hardwareUndo{floor: w.mark.floor, listed: w.mark.listed})
	w.mark.floor, w.mark.listed = floor, true
	w.state = append(w.state, queue.KeyValue{Key: w.key(), Value: binary.BigEndian.AppendUint64(nil, uint64(floor))})
}

// send hands everything to the queue. Nothing is left for others to send, so that what is taken back is all there is.
func (w *hardwareWriter) send(ctx context.Context) {
	if len(w.state) > 0 {
		w.r.send(ctx, append(w.r.state(), w.state...))
		w.state = nil
	}
}

func (w *hardwareWriter) added(ctx context.Context, m hmc.HardwareMessage, origin string) {
	w.set(m.ElementURI, &knownHardware{at: milliseconds(m.Timestamp), text: beginning(m.Text, hardwareText)})
	w.put(ctx, &event.Event{
		ID:   event.NewID(event.TypeHardwareMessage, w.r.cfg.Name, m.ElementURI),
		Time: m.Timestamp, Origin: origin, Severity: event.SeverityWarning, Body: event.CompactValid(m.Raw),
		Summary: "hardware message on " + w.parent.label(),
	}, m.ElementURI, m.ElementID, m.Text)
}

// deletedHardware is the body of the event that a hardware message is gone.
type deletedHardware struct {
	ElementURI string `json:"element-uri"`
	Text       string `json:"text"` // its beginning
	Timestamp  int64  `json:"timestamp,omitempty"`
	Deleted    bool   `json:"deleted"`
}

func (w *hardwareWriter) gone(ctx context.Context, uri string) {
	k := w.mark.known[uri]
	body, err := json.Marshal(deletedHardware{ElementURI: uri, Text: k.text, Timestamp: k.at, Deleted: true})
	if err != nil {
		w.r.log.Error("the event of a deleted hardware message could not be made", zap.Error(err))
		return
	}
	w.set(uri, nil)
	w.put(ctx, &event.Event{
		ID:     event.NewID(event.TypeHardwareMessage, w.r.cfg.Name, uri, "deleted"),
		Origin: event.OriginLive, Severity: event.SeverityInfo, Body: body,
		Summary: "hardware message on " + w.parent.label() + " was deleted",
	}, uri, "", k.text)
}

// twin reports whether another HMC of the group has told the same of a CPC. Whether it names the message the same is not known.
func (w *hardwareWriter) twin(e *event.Event, text string) bool {
	if w.parent.uri == consoleURI || !w.r.group.messages.shared() {
		return false
	}
	e.SeenBy = []string{w.r.cfg.Name}
	deleted := string(event.Member(e.Body, "deleted"))
	key := event.IDOf(e.Type, w.parent.uri, beginning(text, hardwareText), strconv.FormatInt(milliseconds(e.Time), 10), deleted)
	if deleted != "" { // when that was is not known
		key = event.IDOf(e.Type, w.parent.uri, beginning(text, hardwareText), deleted)
	}
	return w.r.twinOf(&w.r.group.messages, key, e.Received, replayWithin)
}

// put completes and records an event of a message with this text.
func (w *hardwareWriter) put(ctx context.Context, e *event.Event, uri, id, text string) {
	e.HMC, e.Type, e.Received = w.r.cfg.Name, event.TypeHardwareMessage, time.Now()
	e.Time = orTime(e.Time, e.Received)
	if line := firstLine(text); line != "" {
		e.Summary = oneLine(e.Summary + ": " + line)
	}
	p := w.parent
	e.Resource = &event.Resource{
		Class: p.class, Name: p.name, ObjectURI: p.uri, ElementURI: uri, ElementID: cmp.Or(id, lastSegment(uri)),
	}
	if p.class == classCPC {
		e.Resource.CPC, e.Resource.ObjectID = p.name, lastSegment(p.uri)
	}
	if w.twin(e, text) {
		w.r.metrics.duplicate(e.Type)
		return
	}
	w.r.put(e)
	if w.r.out.full() {
		w.send(ctx)
	}
}

// forgetOldest keeps the number of those that are known within its limit.
func (w *hardwareWriter) forgetOldest() {
	excess := len(w.mark.known) - hardwareKnown
	if excess <= 0 {
		return
	}
	known := w.mark.known
	oldest := slices.SortedFunc(maps.Keys(known), func(a, b string) int {
		return cmp.Or(cmp.Compare(known[a].at, known[b].at), cmp.Compare(a, b))
	})[:excess]
	w.rest(max(w.mark.floor, known[oldest[excess-1]].at))
	for _, uri := range oldest {
		w.set(uri, nil)
	}
}

// takeBackHardware takes back what is known of hardware messages by batches that could not be stored, and has them listed
// again. r.mu is held.
func (r *recorder) takeBackHardware(failed []notes) {
	var undos []hardwareUndo
	for i := range failed {
		undos = append(undos, failed[i].hardware...)
	}
	slices.SortFunc(undos, func(a, b hardwareUndo) int { return cmp.Compare(b.number, a.number) })
	again := make(map[string]bool)
	for _, u := range undos {
		switch {
		case u.uri == "":
			u.mark.floor, u.mark.listed = u.floor, u.listed
		case u.known == nil:
			delete(u.mark.known, u.uri)
		default:
			u.mark.known[u.uri] = *u.known
		}
		again[u.parent] = true
	}
	for parent := range again {
		if r.hardware.again != nil {
			r.hardware.again(parent)
		}
	}
}

// beginning returns the beginning of a text, at most n bytes and no half characters.
func beginning(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "")
}
