package record

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmc"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/ledger"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
)

const (
	ConsoleURI = "/api/console"
)

const (
	ClassConsole = "console"
)

const (
	ClassCPC = "cpc"
)

// stateHardware begins the keys of what is known of hardware messages: HMC, NUL, URI of the console or CPC. Under that key
// is what counts for all of them, under that key, NUL and element URI what is known of one.
const stateHardware = "hw/"

// HardwareParent is the console or a CPC.
type HardwareParent struct {
	URI, Class, Name string
}

func (p *HardwareParent) Label() string {
	if p.Class == ClassConsole {
		return "console " + p.Name
	}
	return "CPC " + p.Name
}

// OrTime returns the first that is a time.
func OrTime(a, b time.Time) time.Time {
	if a.IsZero() {
		return b
	}
	return a
}

// hardwareChange is what a list says that was not known.
type hardwareChange struct {
	Added  []hmc.HardwareMessage // oldest first
	Gone   []string              // element URIs
	Origin string                // of what was added
}

// hardwareUndo is how something of a mark was before a batch.
type hardwareUndo struct {
	number int64 // they are taken back in the reverse order
	mark   *ledger.HardwareMark
	parent string

	uri    string                // of the message whose state this is; "": of the rest
	known  *ledger.KnownHardware // nil: it was not known
	floor  int64
	listed bool
}

// hardwareBook is what a recorder knows of hardware messages. The recorder's mu guards it.
type hardwareBook struct {
	marks map[string]*ledger.HardwareMark // by the URI of the console or CPC
	undos int64                           // made so far
	again func(parent string)             // has the messages of a console or CPC listed again; nil: nobody watches
}

func (b *hardwareBook) mark(parent string) *ledger.HardwareMark {
	m := b.marks[parent]
	if m == nil {
		m = &ledger.HardwareMark{Known: make(map[string]ledger.KnownHardware), Floor: -1}
		if b.marks == nil {
			b.marks = make(map[string]*ledger.HardwareMark)
		}
		b.marks[parent] = m
	}
	return m
}

// openHardware reads what is known from the queue's state. r.mu is held.
func (r *Recorder) openHardware() {
	prefix := stateHardware + r.cfg.Name + "\x00"
	r.queue.StateRange(prefix, func(key string, value []byte) bool {
		parent, uri, one := strings.Cut(key[len(prefix):], "\x00")
		if len(value) < 8 {
			return true
		}
		n := int64(binary.BigEndian.Uint64(value))
		m := r.hardware.mark(parent)
		if one {
			m.Known[uri] = ledger.KnownHardware{At: n, Text: string(value[8:])}
		} else {
			m.Floor, m.Listed = n, true
		}
		return true
	})
}

// WatchHardware says who lists again what could not be stored; nil: nobody.
func (r *Recorder) WatchHardware(again func(parent string)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hardware.again = again
}

// CompareHardware returns what a list says that is not known. Only a complete one says what is gone.
func (r *Recorder) CompareHardware(parent string, messages []hmc.HardwareMessage, complete bool) hardwareChange {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := r.hardware.mark(parent)
	var change hardwareChange
	listed := make(map[string]bool, len(messages))
	for _, message := range messages {
		uri := message.ElementURI
		if uri == "" || len(uri) > ledger.LongestElementURI || strings.Contains(uri, "\x00") || listed[uri] {
			continue
		}
		listed[uri] = true
		if m.News(uri, ledger.Milliseconds(message.Timestamp)) {
			change.Added = append(change.Added, message)
		}
	}
	if complete {
		for _, uri := range slices.Sorted(maps.Keys(m.Known)) {
			if !listed[uri] {
				change.Gone = append(change.Gone, uri)
			}
		}
	}
	slices.SortStableFunc(change.Added, func(a, b hmc.HardwareMessage) int {
		return cmp.Or(a.Timestamp.Compare(b.Timestamp), cmp.Compare(a.ElementURI, b.ElementURI))
	})
	return change
}

// RecordHardware records what has changed of the hardware messages of a console or CPC, and returns how many there are. ok
// is false while what could not be stored is not taken back yet.
func (r *Recorder) RecordHardware(ctx context.Context, p *HardwareParent, change hardwareChange) (known int, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.awaitSettled()
	if !r.settled() {
		return 0, false
	}
	w := hardwareWriter{r: r, parent: p, mark: r.hardware.mark(p.URI)}
	m := w.mark
	origin := event.OriginLive
	if m.Listed { // at the very first time all of them are told as they stand
		origin = cmp.Or(change.Origin, origin)
	}
	// What was known may have been taken back since the comparison.
	for _, message := range change.Added {
		if m.News(message.ElementURI, ledger.Milliseconds(message.Timestamp)) {
			w.added(ctx, message, origin)
		}
	}
	for _, uri := range change.Gone {
		if _, known := m.Known[uri]; known {
			w.gone(ctx, uri)
		}
	}
	w.forgetOldest()
	if !m.Listed {
		w.rest(m.Floor)
	}
	w.send(ctx)
	return len(m.Known), true
}

// hardwareWriter brings changes of a mark into the queue, with the events that tell them. r.mu is held.
type hardwareWriter struct {
	r      *Recorder
	parent *HardwareParent
	mark   *ledger.HardwareMark
	state  []queue.KeyValue
}

func (w *hardwareWriter) key() string {
	return stateHardware + w.r.cfg.Name + "\x00" + w.parent.URI
}

// undo notes how something is now, for the case that what follows cannot be stored.
func (w *hardwareWriter) undo(u hardwareUndo) {
	w.r.hardware.undos++
	u.number, u.mark, u.parent = w.r.hardware.undos, w.mark, w.parent.URI
	w.r.notes.hardware = append(w.r.notes.hardware, u)
}

// set changes what is known of a message; nil: nothing is any more.
func (w *hardwareWriter) set(uri string, k *ledger.KnownHardware) {
	u := hardwareUndo{uri: uri}
	if old, known := w.mark.Known[uri]; known {
		u.known = &old
	}
	w.undo(u)
	kv := queue.KeyValue{Key: w.key() + "\x00" + uri}
	if k == nil {
		delete(w.mark.Known, uri)
	} else {
		w.mark.Known[uri] = *k
		kv.Value = append(binary.BigEndian.AppendUint64(nil, uint64(k.At)), k.Text...)
	}
	w.state = append(w.state, kv)
}

// rest changes what counts for all of the messages.
func (w *hardwareWriter) rest(floor int64) {
	w.undo(hardwareUndo{floor: w.mark.Floor, listed: w.mark.Listed})
	w.mark.Floor, w.mark.Listed = floor, true
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
	w.set(m.ElementURI, &ledger.KnownHardware{At: ledger.Milliseconds(m.Timestamp), Text: event.Beginning(m.Text, ledger.HardwareText)})
	w.put(ctx, &event.Event{
		ID:   event.NewID(event.TypeHardwareMessage, w.r.cfg.Name, m.ElementURI),
		Time: m.Timestamp, Origin: origin, Severity: event.SeverityWarning, Body: event.CompactValid(m.Raw),
		Summary: "hardware message on " + w.parent.Label(),
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
	k := w.mark.Known[uri]
	body, err := json.Marshal(deletedHardware{ElementURI: uri, Text: k.Text, Timestamp: k.At, Deleted: true})
	if err != nil {
		w.r.log.Error("the event of a deleted hardware message could not be made", zap.Error(err))
		return
	}
	w.set(uri, nil)
	w.put(ctx, &event.Event{
		ID:     event.NewID(event.TypeHardwareMessage, w.r.cfg.Name, uri, "deleted"),
		Origin: event.OriginLive, Severity: event.SeverityInfo, Body: body,
		Summary: "hardware message on " + w.parent.Label() + " was deleted",
	}, uri, "", k.Text)
}

// twin reports whether another HMC of the group has told the same of a CPC. Whether it names the message the same is not known.
func (w *hardwareWriter) twin(e *event.Event, text string) bool {
	if w.parent.URI == ConsoleURI || !w.r.Group.messages.Shared() {
		return false
	}
	e.SeenBy = []string{w.r.cfg.Name}
	deleted := string(event.Member(e.Body, "deleted"))
	key := event.IDOf(e.Type, w.parent.URI, event.Beginning(text, ledger.HardwareText), strconv.FormatInt(ledger.Milliseconds(e.Time), 10), deleted)
	if deleted != "" { // when that was is not known
		key = event.IDOf(e.Type, w.parent.URI, event.Beginning(text, ledger.HardwareText), deleted)
	}
	return w.r.twinOf(&w.r.Group.messages, key, e.Received, ledger.ReplayWithin)
}

// put completes and records an event of a message with this text.
func (w *hardwareWriter) put(ctx context.Context, e *event.Event, uri, id, text string) {
	e.HMC, e.Type, e.Received = w.r.cfg.Name, event.TypeHardwareMessage, time.Now()
	e.Time = OrTime(e.Time, e.Received)
	if line := event.FirstLine(text); line != "" {
		e.Summary = event.OneLine(e.Summary + ": " + line)
	}
	p := w.parent
	e.Resource = &event.Resource{
		Class: p.Class, Name: p.Name, ObjectURI: p.URI, ElementURI: uri, ElementID: cmp.Or(id, event.LastSegment(uri)),
	}
	if p.Class == ClassCPC {
		e.Resource.CPC, e.Resource.ObjectID = p.Name, event.LastSegment(p.URI)
	}
	if w.twin(e, text) {
		w.r.metrics.duplicate(e.Type)
		return
	}
	w.r.put(e)
	if w.r.Out.full() {
		w.send(ctx)
	}
}

// forgetOldest keeps the number of those that are known within its limit.
func (w *hardwareWriter) forgetOldest() {
	excess := len(w.mark.Known) - ledger.HardwareKnown
	if excess <= 0 {
		return
	}
	known := w.mark.Known
	oldest := slices.SortedFunc(maps.Keys(known), func(a, b string) int {
		return cmp.Or(cmp.Compare(known[a].At, known[b].At), cmp.Compare(a, b))
	})[:excess]
	w.rest(max(w.mark.Floor, known[oldest[excess-1]].At))
	for _, uri := range oldest {
		w.set(uri, nil)
	}
}

// takeBackHardware takes back what is known of hardware messages by batches that could not be stored, and has them listed
// again. r.mu is held.
func (r *Recorder) takeBackHardware(failed []notes) {
	var undos []hardwareUndo
	for i := range failed {
		undos = append(undos, failed[i].hardware...)
	}
	slices.SortFunc(undos, func(a, b hardwareUndo) int { return cmp.Compare(b.number, a.number) })
	again := make(map[string]bool)
	for _, u := range undos {
		switch {
		case u.uri == "":
			u.mark.Floor, u.mark.Listed = u.floor, u.listed
		case u.known == nil:
			delete(u.mark.Known, u.uri)
		default:
			u.mark.Known[u.uri] = *u.known
		}
		again[u.parent] = true
	}
	for parent := range again {
		if r.hardware.again != nil {
			r.hardware.again(parent)
		}
	}
}
