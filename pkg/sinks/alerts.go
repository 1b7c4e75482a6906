package sinks

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/match"
)

const (
	// maxAlerts bounds how many alerts are known at a time.
	maxAlerts = 20_000
	// maxOSMessageAlerts bounds those of OS messages. Beyond it the oldest ends.
	maxOSMessageAlerts = 1000
	// resolvedRetention is how long an alert that is over is said to be, as long as Prometheus
	// does: a member of the cluster that was away must hear it as well.
	resolvedRetention = 15 * time.Minute
	// maxAnnotation bounds a text that comes from an HMC or an operating system, in bytes.
	maxAnnotation = 4 << 10
	// maxAlertEvent bounds the event that is kept with an alert, in bytes.
	maxAlertEvent = 4 << 10
)

// alert is one alert as Alertmanager knows it: its labels are what it is. The exported fields are
// what is stored.
type alert struct {
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
	Starts      time.Time         `json:"starts"`
	// Until is when it ends by itself; zero: it does not.
	Until time.Time `json:"until,omitzero"`
	// zero: it fires
	Ended time.Time `json:"ended,omitzero"`
	// Latest is when the last event about it was received.
	Latest time.Time `json:"latest"`
	// URI is that of the object it is about.
	URI   string `json:"uri,omitempty"`
	HMC   string `json:"hmc"`
	Group string `json:"group,omitempty"`
	// Added are those of Labels that the HMC's configuration or a rule has added to the event.
	Added map[string]string `json:"added,omitempty"`
	// Event is the last one about it, without headers; none if it is long.
	Event json.RawMessage `json:"event,omitempty"`

	// These count the changes of what is above: as it is, as Alertmanager has it, as it is
	// stored.
	version, posted, stored int
}

func (a *alert) changed()     { a.version++ }
func (a *alert) firing() bool { return a.Ended.IsZero() }

// end makes the alert be over.
func (a *alert) end(now time.Time) {
	if a.firing() {
		a.Ended = now
		a.changed()
	}
}

// knows says whether something newer than the event was reported already: it comes again after a
// restart, or out of the dead letters. Where the clock was set back since, nothing can be said.
func (a *alert) knows(e *news) bool {
	return e.Received.Before(a.Latest) && !a.Latest.After(e.now)
}

// wireAlert is an alert as the API v2 of Alertmanager takes it.
type wireAlert struct {
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
	StartsAt    time.Time         `json:"startsAt"`
	EndsAt      time.Time         `json:"endsAt"`
	// GeneratorURL is where the daemon itself is to be seen.
	GeneratorURL string `json:"generatorURL,omitempty"`
}

// wire returns the alert for a request that is made now. Where it fires it ends by itself, unless
// it is sent again before.
func (a *alert) wire(now time.Time, lasts time.Duration) wireAlert {
	ends := a.Ended
	if a.firing() {
		ends = now.Add(lasts)
		if !a.Until.IsZero() && a.Until.Before(ends) {
			ends = event.Wall(a.Until, now) // as the clock is set now
		}
	}
	// An end before the start is an error, and a start that is ahead of Alertmanager's clock is
	// of no use.
	starts := a.Starts
	if starts.After(ends) {
		starts = ends
	}
	return wireAlert{Labels: a.Labels, Annotations: a.Annotations, StartsAt: starts, EndsAt: ends}
}

// alertBook knows which alerts fire, and which have ended a short time ago. It is not safe for
// concurrent use.
type alertBook struct {
	// names are those of the alerts that are made.
	names    []string
	statuses match.Patterns
	// of every alert
	labels    map[string]string
	osResolve time.Duration
	selects   func(event.Record) bool

	alerts map[string]*alert
	// groups are those of the HMCs; nil: not known yet.
	groups map[string]string
}

// The first part of an alert's key.
const (
	keyStatus = "status\x00" // URI
	keyLink   = "link\x00"   // HMC
	// URI, and id of the event.
	keyOS       = "os\x00"
	keyHardware = "hardware\x00" // element URI
)

// configured makes what was stored be as the configuration says now.
func (b *alertBook) configured(now time.Time) {
	for _, key := range slices.Sorted(maps.Keys(b.alerts)) {
		a := b.alerts[key]
		if !a.firing() {
			continue
		}
		if !b.makes(a.Labels["alertname"]) || !b.stillSelects(a) {
			a.end(now)
			continue
		}
		labels := maps.Clone(a.Labels)
		maps.DeleteFunc(labels, func(name, _ string) bool { return !slices.Contains(config.AlertLabels(), name) })
		maps.Copy(labels, b.labels)
		maps.Copy(labels, a.Added)
		if !maps.Equal(labels, a.Labels) {
			b.relabel(key, labels, now)
		}
	}
}

// stillSelects says whether an alert would fire by the configuration as it is now. Where the event
// is not known it goes on.
func (b *alertBook) stillSelects(a *alert) bool {
	e, err := event.Record{JSON: a.Event}.Event()
	if err != nil {
		return true
	}
	if e.Resource != nil && a.Labels["resource"] != "" {
		e.Resource.Name = a.Labels["resource"] // it may have another name since
	}
	return (e.Type != event.TypeStatusChange || b.fires(e)) && b.selects(event.NewRecord(e))
}

// keep returns of an event what stillSelects needs.
func keep(e *event.Event) json.RawMessage {
	short := *e
	short.Headers = nil
	if kept := short.AppendJSON(nil); len(kept) <= maxAlertEvent {
		return kept
	}
	return nil
}

// fires says whether a status change is to one that is not acceptable.
func (b *alertBook) fires(e *event.Event) bool {
	if len(b.statuses) > 0 {
		return b.statuses.Match(newStatus(e))
	}
	return e.Severity != event.SeverityInfo
}

// news is an event as it comes in, parsed and as it was stored.
type news struct {
	*event.Event
	record event.Record
	now    time.Time
}

// text is a member of the body.
func (e *news) text(member string) string { return event.String(event.Member(e.Body, member)) }

// is says whether a member of the body is true.
func (e *news) is(member string) bool { return event.True(event.Member(e.Body, member)) }

// apply takes in one event that concerns it and returns the keys of the alerts that it is about. ok
// is false where there is no room for one more alert.
func (b *alertBook) apply(parsed *event.Event, rec event.Record, now time.Time) (keys []string, ok bool) {
	e := &news{parsed, rec, now}
	if b.groups != nil {
		if _, configured := b.groups[e.HMC]; !configured {
			return nil, true // what it would make fire nothing would end
		}
	}
	switch e.Type {
	case event.TypeStatusChange:
		return b.status(e)
	case event.TypeInventoryChange:
		return b.inventory(e), true
	case event.TypePropertyChange:
		keys, ok = b.property(e)
		return append(keys, b.renamed(e)...), ok
	case event.TypeBridgeDisconnected, event.TypeBridgeConnected:
		return b.link(e)
	case event.TypeOSMessage:
		return b.osMessage(e)
	case event.TypeHardwareMessage:
		return b.hardwareMessage(e)
	}
	return nil, true
}

// concerns says whether apply has any use for events of a type.
func (b *alertBook) concerns(typ string) bool {
	switch typ {
	case event.TypeStatusChange:
		return b.makes(config.AlertResourceStatus)
	// What is gone or has another name.
	case event.TypeInventoryChange, event.TypePropertyChange:
		return b.makes(config.AlertResourceStatus, config.AlertOSMessage, config.AlertHardwareMessage)
	case event.TypeBridgeDisconnected, event.TypeBridgeConnected:
		return b.makes(config.AlertConnectionLost)
	case event.TypeOSMessage:
		return b.makes(config.AlertOSMessage)
	case event.TypeHardwareMessage:
		return b.makes(config.AlertHardwareMessage)
	}
	return false
}

// makes says whether one of these alerts is made.
func (b *alertBook) makes(names ...string) bool {
	return slices.ContainsFunc(names, func(name string) bool { return slices.Contains(b.names, name) })
}

// status: the alert fires while the last status that was reported is not acceptable.
func (b *alertBook) status(e *news) (keys []string, ok bool) {
	uri := objectOf(e.Event)
	if uri == "" {
		return nil, true
	}
	if newStatus(e.Event) == "" && (len(b.statuses) > 0 || e.Unacceptable == nil && e.Severity == event.SeverityInfo) {
		return nil, true // the status is what it was
	}
	key := keyStatus + uri
	if !b.fires(e.Event) || !b.selects(e.record) {
		return b.resolve(key, newStatus(e.Event), e), true
	}
	return b.fire(key, config.AlertResourceStatus, "", e, map[string]string{"status": newStatus(e.Event)}, time.Time{})
}

// property: some properties are statuses by another name.
func (b *alertBook) property(e *news) (keys []string, ok bool) {
	uri := objectOf(e.Event)
	if uri == "" || !b.makes(config.AlertResourceStatus) {
		return nil, true
	}
	property, _, is := event.StatusProperty(e.Resource.Class, e.Body)
	if property == "" || is == "" {
		return nil, true
	}
	key, fires := keyStatus+uri+"\x00"+property, e.Severity != event.SeverityInfo
	if len(b.statuses) > 0 {
		fires = b.statuses.Match(is)
	}
	if !fires || !b.selects(e.record) {
		return b.resolve(key, is, e), true
	}
	return b.fire(key, config.AlertResourceStatus, property, e, map[string]string{"status": is}, time.Time{})
}

// newStatus is the status that an event reports; "" where it reports none.
func newStatus(e *event.Event) string {
	_, status := event.FromTo(e.Body)
	return status
}

// objectOf is the URI of what an event is about.
func objectOf(e *event.Event) string {
	if e.Resource == nil {
		return ""
	}
	return cmp.Or(e.Resource.ElementURI, e.Resource.ObjectURI)
}

// inventory: nothing is left of an object that is gone, and of what was in it.
func (b *alertBook) inventory(e *news) []string {
	uri := objectOf(e.Event)
	if uri == "" || e.Headers.Get("action") != "remove" {
		return nil
	}
	cpc := ""
	if e.Resource.Class == "cpc" && e.Resource.ElementURI == "" {
		cpc = e.Resource.Name
	}
	return b.endAll(e, func(a *alert) bool {
		return a.URI == uri || strings.HasPrefix(a.URI, uri+"/") ||
			cpc != "" && a.Labels["cpc"] == cpc && a.Group == b.groupOf(e.HMC)
	})
}

// renamed: an alert has the name that the object has. Its labels are what an alert is, so with
// another name it is another one.
func (b *alertBook) renamed(e *news) (keys []string) {
	if e.Resource == nil || e.Resource.ElementURI != "" || e.Resource.ObjectURI == "" || e.Resource.Name == "" {
		return nil
	}
	// Most are about something else, and not worth a look at each alert.
	if names := strings.Fields(e.Headers.Get("property-names")); len(names) > 0 && !slices.Contains(names, "name") {
		return nil
	}
	for _, key := range slices.Sorted(maps.Keys(b.alerts)) {
		a := b.alerts[key]
		if !a.firing() || a.URI != e.Resource.ObjectURI || a.Labels["resource"] == e.Resource.Name {
			continue
		}
		labels := maps.Clone(a.Labels)
		labels["resource"] = e.Resource.Name
		keys = append(keys, b.relabel(key, labels, e.now), key)
	}
	return keys
}

// link: the alert fires while an HMC is not connected, unless the daemon itself was told to
// disconnect.
func (b *alertBook) link(e *news) (keys []string, ok bool) {
	key := keyLink + e.HMC
	switch {
	case e.Type == event.TypeBridgeConnected:
		return b.resolve(key, "", e), true
	case e.is("planned") || !b.selects(e.record):
		return nil, true
	}
	return b.fire(key, config.AlertConnectionLost, "", e, map[string]string{"state": e.text("state")}, time.Time{})
}

// osMessage: the alert fires for a time, or until the message does not wait for an answer any more.
// What was held or had priority before that is not news.
func (b *alertBook) osMessage(e *news) (keys []string, ok bool) {
	if id := e.text("answered"); id != "" {
		return b.resolve(keyOS+objectOf(e.Event)+"\x00"+id, "", e), true
	}
	held, priority := e.is("is-held"), e.is("is-priority")
	// The time is by the clock of the operating system, which may be far off. What comes live
	// was written just now.
	written, received := e.Time, e.Received
	if !e.record.Stored.IsZero() {
		received = e.record.Stored // it does not follow the clock of this machine
	}
	if e.Origin == event.OriginLive || written.After(received) {
		written = received
	}
	until := written.Add(b.osResolve)
	if objectOf(e.Event) == "" || !held && !priority || !until.After(e.now) || !b.selects(e.record) {
		return nil, true
	}
	key := keyOS + objectOf(e.Event) + "\x00" + e.ID
	keys, ok = b.fire(key, config.AlertOSMessage, shortID(e.ID), e, map[string]string{
		"text": e.text("message-text"), "prompt": e.text("prompt-text"),
	}, until)
	return append(keys, b.limitOSMessages(e.now)...), ok
}

// limitOSMessages ends the oldest of too many alerts of OS messages.
func (b *alertBook) limitOSMessages(now time.Time) []string {
	var firing []string
	for key, a := range b.alerts {
		if strings.HasPrefix(key, keyOS) && a.firing() {
			firing = append(firing, key)
		}
	}
	excess := len(firing) - maxOSMessageAlerts
	if excess <= 0 {
		return nil
	}
	slices.SortFunc(firing, func(x, y string) int {
		return cmp.Or(b.alerts[x].Starts.Compare(b.alerts[y].Starts), cmp.Compare(x, y))
	})
	for _, key := range firing[:excess] {
		b.alerts[key].end(now)
	}
	return firing[:excess]
}

// hardwareMessage: the alert fires until the message is deleted. Another HMC of the group, which
// may have another name for the message, can be the one that reports it.
func (b *alertBook) hardwareMessage(e *news) (keys []string, ok bool) {
	uri, text := objectOf(e.Event), e.text("text")
	key := keyHardware + uri
	switch {
	case uri == "":
		return nil, true
	case !e.is("deleted"):
		if !b.selects(e.record) {
			return nil, true
		}
		return b.fire(key, config.AlertHardwareMessage, shortID(e.ID), e, map[string]string{"text": text}, time.Time{})
	case b.alerts[key] != nil:
		return b.resolve(key, "", e), true
	}
	if len(e.SeenBy) == 0 {
		return nil, true
	}
	oldest := ""
	for key, a := range b.alerts {
		if strings.HasPrefix(key, keyHardware) && a.firing() && a.Group == b.groupOf(e.HMC) &&
			strings.HasPrefix(a.URI, e.Resource.ObjectURI) && strings.HasPrefix(a.Annotations["text"], text) &&
			(oldest == "" || a.Starts.Before(b.alerts[oldest].Starts)) {
			oldest = key
		}
	}
	if oldest == "" {
		return nil, true
	}
	return b.resolve(oldest, "", e), true
}

// shortID distinguishes the messages of one resource.
func shortID(id string) string { return id[:min(len(id), 12)] }

// fire makes an alert fire, or keeps it firing with what is known of it now.
func (b *alertBook) fire(
	key, name, message string, e *news, more map[string]string, until time.Time,
) (keys []string, ok bool) {
	labels := map[string]string{"alertname": name, "severity": e.Severity, "hmc": e.HMC, "message": message}
	uri := ""
	if r := e.Resource; r != nil {
		uri = objectOf(e.Event)
		labels["class"], labels["resource"], labels["cpc"] = r.Class, r.Name, r.CPC
		labels["os_name"], labels["os_level"], labels["sysplex"] = r.OSName, r.OSLevel, r.Sysplex
		if r.Class == "cpc" {
			labels["cpc"] = cmp.Or(r.CPC, r.Name)
		}
		// Two that are not the same must differ, or one would end the alert of the other.
		element := r.ElementURI != "" && name != config.AlertHardwareMessage
		if element {
			labels["element_id"] = cmp.Or(r.ElementID, event.LastSegment(r.ElementURI))
		}
		if element || r.Class != "console" && (r.Name == "" || labels["cpc"] == "") {
			labels["object_id"] = cmp.Or(r.ObjectID, event.LastSegment(r.ObjectURI))
		}
	}
	maps.Copy(labels, b.labels)
	added := make(map[string]string, len(e.Labels))
	for _, l := range e.Labels {
		added[l.Name] = l.Value
	}
	maps.Copy(labels, added)
	// Alertmanager takes an empty label for none.
	maps.DeleteFunc(labels, func(_, value string) bool { return value == "" })
	annotations := map[string]string{
		"summary": e.Summary, "description": describe(e.Event), "runbook_url": e.Runbook,
	}
	maps.Copy(annotations, more)
	for name, text := range annotations {
		annotations[name] = event.Cut(text, maxAnnotation)
	}
	maps.DeleteFunc(annotations, func(_, text string) bool { return text == "" })

	keys = []string{key}
	a := b.alerts[key]
	if a != nil && a.knows(e) {
		return keys, true
	}
	if a != nil && a.firing() {
		// Told by another HMC of the group it stays the same alert.
		if a.HMC != e.HMC && a.Group == b.groupOf(e.HMC) {
			labels["hmc"] = a.HMC
		}
		if !maps.Equal(a.Labels, labels) {
			keys = append([]string{b.relabel(key, labels, e.now)}, keys...)
			a = b.alerts[key]
		}
		if !maps.Equal(a.Annotations, annotations) || !a.Until.Equal(until) {
			a.changed()
		}
		a.Annotations, a.Until, a.Latest, a.Event = annotations, until, e.Received, keep(e.Event)
		a.Added = added
		return keys, true
	}
	if a == nil && len(b.alerts) >= maxAlerts {
		return nil, false
	}
	starts := e.Time
	if starts.After(e.now) {
		starts = e.now
	}
	fresh := &alert{
		Labels: labels, Annotations: annotations, Starts: starts, Until: until, Latest: e.Received, URI: uri,
		HMC: e.HMC, Group: b.groupOf(e.HMC), Event: keep(e.Event), Added: added, version: 1,
	}
	// It fires again: what is stored of it, and what Alertmanager has, is the one before.
	if a != nil {
		fresh.version, fresh.posted, fresh.stored = a.version+1, a.posted, a.stored
	}
	b.alerts[key] = fresh
	return keys, true
}

// describe returns what a person wants to know beyond the summary.
func describe(e *event.Event) string {
	text := e.Summary + "\nTold by HMC " + e.HMC + " at " + e.Time.UTC().Format(time.RFC3339)
	if uri := objectOf(e); uri != "" {
		text += ", " + uri
	}
	return text + "."
}

// relabel ends an alert under its labels, as an alert of its own, and goes on with it under others.
// It returns the key of the one that has ended.
func (b *alertBook) relabel(key string, labels map[string]string, now time.Time) string {
	was := *b.alerts[key]
	is := was
	was.end(now)
	// Strings only; in the order of their names.
	name, _ := json.Marshal(was.Labels)
	old := key + "\x00was\x00" + string(name)
	if before := b.alerts[old]; before != nil {
		was.version, was.stored = max(was.version, before.version)+1, before.stored
	} else {
		was.stored = 0
	}
	b.alerts[old] = &was
	is.Labels = labels
	is.changed()
	is.posted = 0
	b.alerts[key] = &is
	return old
}

// resolve ends an alert, for there is another status; "": there is none.
func (b *alertBook) resolve(key, status string, e *news) []string {
	a := b.alerts[key]
	if a == nil || a.knows(e) {
		return nil
	}
	if a.firing() {
		a.Latest = e.Received
		// what it was about stays: the text of a message
		a.Annotations = maps.Clone(a.Annotations)
		a.Annotations["summary"] = event.Cut(e.Summary, maxAnnotation)
		a.Annotations["description"] = event.Cut(describe(e.Event), maxAnnotation)
		delete(a.Annotations, "state")
		delete(a.Annotations, "status")
		if status != "" {
			a.Annotations["status"] = event.Cut(status, maxAnnotation)
		}
		a.end(e.now)
	}
	return []string{key}
}

func (b *alertBook) endAll(e *news, those func(*alert) bool) (keys []string) {
	for _, key := range slices.Sorted(maps.Keys(b.alerts)) {
		if a := b.alerts[key]; a.firing() && those(a) {
			keys = append(keys, b.resolve(key, "", e)...)
		}
	}
	return keys
}

// follow ends what is about HMCs that are not configured any more. What another HMC of the group
// sees goes on.
func (b *alertBook) follow(groups map[string]string, now time.Time) {
	b.groups = maps.Clone(groups)
	watched := make(map[string]bool)
	for _, group := range groups {
		watched[group] = true
	}
	for key, a := range b.alerts {
		_, configured := groups[a.HMC]
		if !configured && (!watched[a.Group] || a.Group == "" || !strings.HasPrefix(key, keyStatus)) {
			a.end(now)
		}
	}
}

func (b *alertBook) groupOf(hmc string) string { return b.groups[hmc] }

// expire ends what ends by itself, and forgets what has been over for long enough. It returns the
// keys of what is forgotten.
func (b *alertBook) expire(now time.Time) (forgotten []string) {
	for key, a := range b.alerts {
		if a.firing() && !a.Until.IsZero() && !a.Until.After(now) {
			a.end(a.Until)
		}
		if !a.firing() && a.posted == a.version && now.Sub(a.Ended) > resolvedRetention {
			delete(b.alerts, key)
			forgotten = append(forgotten, key)
		}
	}
	return forgotten
}
