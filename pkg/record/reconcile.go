package record

import (
	"context"
	"encoding/json"
	"path"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/estate"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/ledger"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/translate"
)

// Load takes over what is stored of the group's estate.
func (g *Group) Load(stored func(prefix string, fn func(key string, value []byte) bool)) (unreadable int) {
	prefix := stateUnit + g.Name + "\x00"
	stored(prefix, func(key string, value []byte) bool {
		if !g.Estate.Load(key[len(prefix):], value) {
			unreadable++
		}
		return true
	})
	return unreadable
}

// twin reports whether another HMC of the group has told of the same change of the same object. r.mu is held.
func (r *Recorder) twin(typ string, n *receiver.Notification) bool {
	parts := []string{typ, n.Headers.Get("object-uri"), n.Headers.Get("element-uri")}
	if parts[1] == "" {
		return false
	}
	switch typ {
	case event.TypeStatusChange, event.TypePropertyChange:
		// What says the same need not be written the same by two HMCs of different versions.
		for report := range event.Elements(event.Member(event.CompactValid(n.Body), "change-reports")) {
			for _, name := range []string{"property-name", "old-status", "new-status", "new-additional-status", "new-value"} {
				parts = append(parts, string(event.Member(report, name)))
			}
		}
	case event.TypeInventoryChange:
		parts = append(parts, n.Headers.Get("action"))
	default:
		return false
	}
	return r.twinOf(&r.Group.changes, event.IDOf(parts...), n.Received, ledger.TwinWithin)
}

// twinMessage reports whether another HMC of the group has told of the same OS message. Each HMC numbers them itself. r.mu is held.
func (r *Recorder) twinMessage(e *event.Event, partition string, within time.Duration) bool {
	if !r.Group.messages.Shared() {
		return false
	}
	e.SeenBy = []string{r.cfg.Name}
	text := strings.TrimRight(event.String(event.Member(e.Body, "message-text")), " \t\r\n")
	key := event.IDOf(partition, text, string(event.Member(e.Body, "timestamp")))
	return r.twinOf(&r.Group.messages, key, e.Received, within)
}

func (r *Recorder) twinOf(in *ledger.Sightings, key event.ID, at time.Time, within time.Duration) bool {
	if in.Note(key, r.cfg.Name, at, within) {
		return true
	}
	r.notes.twins = append(r.notes.twins, notedTwin{in, key})
	return false
}

// Reconcile compares what an HMC has listed with what is known of the estate, and records each difference as the event that
// would have told of it. again reports that another listing would tell more.
func (r *Recorder) Reconcile(ctx context.Context, l *estate.Listing) (again bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.awaitSettled()
	now := time.Now()
	differences, again := r.Group.Estate.Compare(l, now, r.Group.inSight)
	for i := range differences {
		d := &differences[i]
		r.notes.before = append(r.notes.before, d.Before)
		r.holdUnit(d.Before.URI())
		e := r.difference(d, now)
		translate.Describe(e, 0, r.Severities.Load())
		r.put(e)
		r.Sight.Recovered(event.TopicObject)
		if r.Out.full() {
			r.flush(ctx)
		}
	}
	if len(differences) > 0 {
		r.log.Info("the estate is not as it was known: changes were missed", zap.Int("differences", len(differences)))
	}
	if state := r.state(); len(state) > 0 || !r.Out.empty() {
		r.send(ctx, state)
	}
	return again
}

// difference makes an event of what changed without a notification.
func (r *Recorder) difference(d *estate.Difference, now time.Time) *event.Event {
	res, was := d.Now, d.Before.Resource()
	e := &event.Event{
		HMC: r.cfg.Name, Time: now, Received: now, TopicType: event.TopicObject, Origin: event.OriginReconcile, Severity: event.SeverityInfo,
		Resource: &event.Resource{Class: res.Class, Name: res.Name, ObjectURI: res.URI, ObjectID: path.Base(res.URI), CPC: res.CPC},
	}
	type report map[string]any
	var reports []report
	header := event.Header{}
	switch d.Kind {
	case estate.Moved:
		e.Type = event.TypeStatusChange
		reports = []report{{"old-status": was.Status, "new-status": res.Status}}
	case estate.Renamed:
		e.Type = event.TypePropertyChange
		header = event.Header{Name: "property-names", Value: " name "}
		reports = []report{{"property-name": "name", "old-value": was.Name, "new-value": res.Name}}
	case estate.Added:
		e.Type = event.TypeInventoryChange
		header = event.Header{Name: "action", Value: "add"}
	case estate.Removed:
		e.Type = event.TypeInventoryChange
		header = event.Header{Name: "action", Value: "remove"}
	}
	e.Headers = event.Headers{
		{Name: "notification-type", Value: e.Type},
		{Name: "class", Value: res.Class},
		{Name: "name", Value: res.Name},
		{Name: "object-uri", Value: res.URI},
		{Name: "object-id", Value: path.Base(res.URI)},
	}
	if header.Name != "" {
		e.Headers = append(e.Headers, header)
	}
	if reports != nil {
		e.Body, _ = json.Marshal(map[string]any{"change-reports": reports}) // strings only
	}
	e.ID = event.NewID("reconcile", r.cfg.Name, d.Kind, res.URI, was.Name, was.Status, res.Name, res.Status, strconv.FormatInt(now.UnixNano(), 10))
	return e
}
