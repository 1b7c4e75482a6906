// Package estate is what is known of the CPCs and partitions that one HMC manages, or several HMCs
// that manage the same machines: their names, statuses, and since when.
//
// Notifications keep it true (SetStatus, Update, Announce, Remove), and lists from the HMC are
// compared with it (Learn, Compare): what differs was missed. It knows nothing of where either
// comes from, and can be stored (Unstored, Load).
package estate

import (
	"cmp"
	"encoding/json"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// The classes of resources, as the HMC names them.
const (
	ClassCPC = "cpc"
	// Of a CPC in DPM mode.
	ClassPartition = "partition"
	// Of a classic CPC.
	ClassLogicalPartition = "logical-partition"
)

// Tracked says whether resources of a class are part of an estate.
func Tracked(class string) bool {
	return class == ClassCPC || class == ClassPartition || class == ClassLogicalPartition
}

// ClassOf returns the class of a CPC or partition by its URI, "" for anything else.
func ClassOf(uri string) string {
	switch {
	case strings.HasPrefix(uri, "/api/partitions/"):
		return ClassPartition
	case strings.HasPrefix(uri, "/api/logical-partitions/"):
		return ClassLogicalPartition
	case strings.HasPrefix(uri, "/api/cpcs/"):
		return ClassCPC
	}
	return ""
}

// onCPC are the beginnings of the URIs of what belongs to one CPC, and says so itself only when it
// is asked: in its parent, or its cpc-uri (golang-zhmcclient, model.go; zhmcclient).
var onCPC = []string{
	"/api/adapters/", "/api/virtual-switches/", "/api/storage-groups/", "/api/storage-templates/",
	"/api/partition-links/", "/api/tape-links/", "/api/tape-libraries/",
	"/api/partitions/", "/api/logical-partitions/",
}

// OnCPC says whether what has this URI belongs to a CPC that it can be asked for.
func OnCPC(uri string) bool {
	return slices.ContainsFunc(onCPC, func(prefix string) bool {
		id, ok := strings.CutPrefix(uri, prefix)
		return ok && id != "" && !strings.Contains(id, "/")
	})
}

// Resource is a CPC or a partition.
type Resource struct {
	URI   string
	Class string
	Name  string
	// CPC is the name of the CPC, of a CPC its own.
	CPC string
	// of a partition
	CPCURI string
	// Status is "" while it is not known.
	Status string
	// Judged is what the HMC thinks of Status.
	Judged Judgement
	// Acceptable are the statuses that the HMC calls acceptable for this resource, as operators
	// maintain them; nil: they are not known.
	Acceptable []string
	// Since is from when on Status is known to have lasted. Exact says that it began then.
	Since time.Time
	Exact bool
	// System is what it runs, or ran last.
	System System
	// Away is since when the system does not run, of one that ran; zero: it runs, or that is not
	// known.
	Away time.Time
	// Starting is since when it does not operate yet after it was activated, which is usual for a
	// time; zero: it was not activated, or that it takes too long was told.
	Starting time.Time
	// Waiting are messages of its operating system that wait for an answer, the oldest first; nil:
	// none ever did.
	Waiting []Message
}

// Message is a message of an operating system that waits for an answer.
type Message struct {
	ID     string `json:"id"`  // of its event
	HMC    string `json:"hmc"` // that told of it
	Number int64  `json:"number"`
	// the operating system's, in milliseconds; 0 or less: it gave none
	Time   int64     `json:"time,omitempty"`
	Text   string    `json:"text"`
	Prompt string    `json:"prompt,omitempty"` // what an answer begins with
	Since  time.Time `json:"since"`
	// Received is when it came, or up to an hour before an HMC was last seen to hold it.
	Received time.Time `json:"received"`
	// Stopped says that the system has stopped since: the next one does not wait for an answer to
	// it.
	Stopped bool `json:"stopped,omitempty"`
}

// System is an operating system, as an HMC tells of it. What it does not tell is "".
type System struct {
	OSName, OSLevel string
	// of z/OS
	Sysplex string
	// IPLToken is another one after each IPL, of a system that sets one.
	IPLToken string
	// how an LPAR was loaded last
	LoadAddress, LoadParameter string
}

// Merge returns the system with what the HMC tells now. It forgets what was loaded when nothing is
// loaded any more; here it is kept, since it says whose the resource is. Another system has nothing
// of the one before.
func (s System) Merge(told System) System {
	if told.OSName != "" && s.OSName != "" && told.OSName != s.OSName {
		s = System{}
	}
	return System{
		OSName: cmp.Or(told.OSName, s.OSName), OSLevel: cmp.Or(told.OSLevel, s.OSLevel),
		Sysplex: cmp.Or(told.Sysplex, s.Sysplex), IPLToken: cmp.Or(told.IPLToken, s.IPLToken),
		LoadAddress:   cmp.Or(told.LoadAddress, s.LoadAddress),
		LoadParameter: cmp.Or(told.LoadParameter, s.LoadParameter),
	}
}

// notOperating is the status of what is activated, and nothing runs in it: not yet, or not any
// more.
const notOperating = "not-operating"

// atRest are the statuses from which an activation leads to notOperating, by class.
var atRest = map[string]string{ClassLogicalPartition: "not-activated", ClassCPC: "no-power"}

// Activated says whether a resource that has come from one status to another was activated, and has
// not started yet.
func Activated(class, from, to string) bool {
	return to == notOperating && from != "" && from == atRest[class]
}

// Runs says whether a status is one in which an operating system runs, at least in part.
func Runs(status string) bool {
	switch status {
	case "operating", "exceptions", "active", "degraded", "acceptable":
		return true
	}
	return false
}

// moved notes what follows from another status, which it has since at, and of which was heard now.
func (r *Resource) moved(to string, at, now time.Time) {
	r.Starting = time.Time{}
	if Activated(r.Class, r.Status, to) {
		r.Starting = now
	}
	switch {
	case Runs(to):
		// what was away is told with the IPL
	case Runs(r.Status):
		r.Away = at
		r.Waiting = slices.Clone(r.Waiting)
		for i := range r.Waiting {
			r.Waiting[i].Stopped = true
		}
	}
}

// Judgement is what an HMC thinks of the status of a resource: whether it calls for attention.
type Judgement int8

// The judgements. The zero value is that none is known.
const (
	Unjudged Judgement = iota
	Acceptable
	Unacceptable
)

// JudgementOf returns the judgement of has-unacceptable-status.
func JudgementOf(unacceptable bool) Judgement {
	if unacceptable {
		return Unacceptable
	}
	return Acceptable
}

// judge returns what the HMC thinks of a status that it has not judged: by the acceptable ones,
// where they are known, or what it thought of the same status before.
func (r *Resource) judge(status string) Judgement {
	switch {
	case status == "":
		return Unjudged
	case r.Acceptable != nil:
		return JudgementOf(!slices.Contains(r.Acceptable, status))
	case status == r.Status:
		return r.Judged
	}
	return Unjudged
}

// maxResources bounds the CPCs and partitions that are known, and those that are remembered as gone
// or announced: well above what the HMCs of the largest sites manage. What is beyond is not known.
const maxResources = 21_000

// goneFor is how long a resource that was removed is remembered: so that a list which was made
// before does not bring it back, and for its name, where later notifications are about it.
const goneFor = 5 * time.Minute

// Estate is safe for concurrent use.
type Estate struct {
	mu      sync.RWMutex
	objects map[string]*object
	// lately
	gone map[string]removed
	// announced has what was announced lately, and is not listed yet.
	announced map[string]time.Time
	// listed is how much of a class an HMC has listed before.
	listed map[list]extent
	// dirty has the URIs of what is to be stored.
	dirty map[string]bool
	next  uint64
	// pruned is when what was gone or announced for long was forgotten last.
	pruned time.Time
	// places has where those belong that are not tracked, by URI, as far as the HMC was asked.
	places map[string]*place
	// loaded is when Load was called last. A listing that was asked for before proves nothing.
	loaded time.Time
}

// list is a class as an HMC lists it.
type list struct{ hmc, class string }

// extent is how much of a class an HMC has listed.
type extent int

const (
	noneOfIt extent = iota
	someOfIt
	allOfIt
)

// removed is a resource that is gone.
type removed struct {
	was object
	at  time.Time
}

type object struct {
	Resource
	// that list it
	hmcs []string
	// touched is when the last notification came that may have told its status or name, and
	// announced when one came that only says that it is there, as of everything when an HMC has
	// started.
	touched, announced time.Time
	// fresh says that it was learned from a list and is not compared yet.
	fresh bool
	// missing is the time of the first list without it; zero: the last one has it.
	missing time.Time
	// order is that in which resources became known.
	order uint64
}

// New returns an empty estate.
func New() *Estate {
	return &Estate{
		objects: make(map[string]*object), gone: make(map[string]removed), announced: make(map[string]time.Time),
		listed: make(map[list]extent), dirty: make(map[string]bool),
		places: make(map[string]*place),
	}
}

// Lookup returns what is known of a resource, also of one that was removed a moment ago.
func (e *Estate) Lookup(uri string) (Resource, bool) {
	if uri == "" {
		return Resource{}, false
	}
	e.mu.RLock()
	defer e.mu.RUnlock()
	if o := e.objects[uri]; o != nil {
		return e.resource(o), true
	}
	if r, ok := e.gone[uri]; ok && r.was.URI != "" {
		return e.resource(&r.was), true
	}
	return Resource{}, false
}

// resource completes an object with the name that its CPC has now. e.mu is held.
func (e *Estate) resource(o *object) Resource {
	r := o.Resource
	if r.Class == ClassCPC {
		r.CPC = r.Name
	} else if cpc := e.objects[r.CPCURI]; cpc != nil {
		r.CPC = cpc.Name
	}
	return r
}

// change finds or makes the object, and returns how it was. e.mu is held.
func (e *Estate) change(uri, class, name string) (o *object, was Resource, known bool) {
	if o = e.objects[uri]; o != nil {
		e.reported(o)
		return o, o.Resource, true
	}
	if o = e.revive(uri); o == nil {
		if len(e.objects) >= maxResources {
			return &object{Resource: Resource{URI: uri, Class: class, Name: name}}, Resource{}, false
		}
		o = e.add(Resource{URI: uri, Class: class, Name: name})
	}
	return o, Resource{}, false
}

// reported notes that a notification was about an object: it is no news any more, and is stored
// with the event. e.mu is held.
func (e *Estate) reported(o *object) {
	if o.fresh {
		o.fresh, e.dirty[o.URI] = false, true
	}
}

// revive brings back a resource that was removed a moment ago, because there is something new about
// it; nil: there is none. e.mu is held.
func (e *Estate) revive(uri string) *object {
	r, ok := e.gone[uri]
	delete(e.gone, uri)
	if !ok || r.was.URI == "" { // nothing was known of it
		return nil
	}
	o := r.was
	o.fresh = false
	e.objects[uri], e.dirty[uri] = &o, true
	return &o
}

func (e *Estate) add(r Resource) *object {
	e.next++
	// What comes from a list or a notification may be a part of something much larger.
	r.URI, r.Class, r.Name = strings.Clone(r.URI), strings.Clone(r.Class), strings.Clone(r.Name)
	r.CPC, r.CPCURI, r.Status = strings.Clone(r.CPC), strings.Clone(r.CPCURI), strings.Clone(r.Status)
	r.Judged = cmp.Or(r.Judged, r.judge(r.Status))
	o := &object{Resource: r, order: e.next}
	e.objects[r.URI] = o
	e.dirty[r.URI] = true
	delete(e.gone, r.URI)
	return o
}

// SetStatus takes over what a notification says of a resource: the status ("": the one it had),
// which it has since r.Since, and what the HMC thinks of it, where it says so; now is when the
// notification came. A resource that is not known becomes known, with the name given ("" if that is
// not known). It returns what was known before, if anything was, and what is known now.
func (e *Estate) SetStatus(r *Resource, now time.Time) (was, is Resource, known bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	o, was, known := e.change(r.URI, r.Class, r.Name)
	o.touched = now
	status := cmp.Or(r.Status, o.Status)
	judged := cmp.Or(r.Judged, o.judge(status))
	if known && (o.Judged != judged || o.Status != status) { // else it is stored already
		e.dirty[o.URI] = true
	}
	o.Judged = judged
	if o.Status != status {
		o.moved(status, r.Since, now)
		o.Status, o.Since, o.Exact = strings.Clone(status), r.Since, true
	}
	return was, e.resource(o), known
}

// Members counts the systems that belong to a sysplex, and those of them that do not run: where the
// HMC calls that acceptable they are off.
func (e *Estate) Members(sysplex string) (down, off, all int) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	for _, o := range e.objects {
		if o.System.Sysplex != sysplex || o.Status == "" {
			continue
		}
		all++
		switch {
		case Runs(o.Status):
		case o.Judged == Acceptable:
			off++
		default:
			down++
		}
	}
	return down, off, all
}

// Starting returns what was activated before a time and does not operate yet.
func (e *Estate) Starting(before time.Time) (list []Resource) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	for _, o := range e.objects {
		if !o.Starting.IsZero() && o.Starting.Before(before) {
			list = append(list, e.resource(o))
		}
	}
	slices.SortFunc(list, func(a, b Resource) int { return strings.Compare(a.URI, b.URI) })
	return list
}

// SharesName says whether another resource than this one has a name.
func (e *Estate) SharesName(uri, name string) bool {
	e.mu.RLock()
	defer e.mu.RUnlock()
	for _, o := range e.objects {
		if o.Name == name && o.URI != uri {
			return true
		}
	}
	return false
}

// place is where something belongs that is not listed, and the status that it was told to have
// last.
type place struct {
	name, cpcURI, status string
	told                 time.Time // when it was
	asked                bool
}

// maxPlaces bounds of how many it is known.
const maxPlaces = 20_000

// Place notes the name of something that an HMC was asked about, and the CPC that it belongs to;
// "": the HMC does not tell.
func (e *Estate) Place(uri, name, cpcURI string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := e.place(uri)
	p.name, p.cpcURI, p.asked = strings.Clone(name), strings.Clone(cpcURI), true
}

// place finds or makes the place of something. e.mu is held.
func (e *Estate) place(uri string) *place {
	if p := e.places[uri]; p != nil {
		return p
	}
	if len(e.places) >= maxPlaces {
		clear(e.places)
	}
	p := new(place)
	e.places[strings.Clone(uri)] = p
	return p
}

// Turned notes the status of something that is not tracked, as it is told at a time, and returns
// the one before, and when that was told last; "": none is known.
func (e *Estate) Turned(uri, status string, at time.Time) (before string, told time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := e.place(uri)
	before, told = p.status, p.told
	p.status, p.told = strings.Clone(status), at
	return before, told
}

// PlaceOf returns what Place noted, with the name that the CPC has now. known says that it did.
func (e *Estate) PlaceOf(uri string) (name, cpc string, known bool) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	p := e.places[uri]
	if p == nil {
		return "", "", false
	}
	if o := e.objects[p.cpcURI]; o != nil {
		cpc = o.Name
	}
	return p.name, cpc, p.asked
}

// Update changes what is known of a resource as a notification says that came at a time; the zero
// time: it was none, and hides nothing of what a list tells. fn must not keep what it is given. A
// resource that is not known becomes known, with the name given.
func (e *Estate) Update(uri, class, name string, now time.Time, fn func(*Resource)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	o := e.objects[uri]
	if o == nil || !now.IsZero() {
		o, _, _ = e.change(uri, class, name)
	}
	e.dirty[uri] = true
	if now.After(o.touched) {
		o.touched = now
	}
	fn(&o.Resource)
	o.Judged = cmp.Or(o.Judged, o.judge(o.Status))
}

// Announce remembers that a notification was about a resource that may be new: a list that has it
// is no news then.
func (e *Estate) Announce(uri string, now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	again := e.revive(uri)
	if o := e.objects[uri]; o != nil {
		e.reported(o)
		o.announced = now
		if again != nil { // made again, and perhaps with another status
			o.touched = now
		}
		return
	}
	e.prune(now)
	if len(e.announced) < maxResources {
		e.announced[strings.Clone(uri)] = now
	}
}

// prune forgets what is not to be remembered any more, now and then: there may be many.
func (e *Estate) prune(now time.Time) {
	if now.Sub(e.pruned) < goneFor/10 {
		return
	}
	e.pruned = now
	maps.DeleteFunc(e.announced, func(_ string, at time.Time) bool { return now.Sub(at) > goneFor })
	maps.DeleteFunc(e.gone, func(_ string, r removed) bool { return now.Sub(r.at) > goneFor })
}

// Remove takes over that a notification reports a resource as gone.
func (e *Estate) Remove(uri string, now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var was object
	if o := e.objects[uri]; o != nil {
		was = *o
	} else if g, twice := e.gone[uri]; twice {
		was = g.was
	}
	e.remove(uri)
	e.prune(now)
	was.touched = now
	if len(e.gone) < maxResources {
		e.gone[strings.Clone(uri)] = removed{was, now}
	}
}

func (e *Estate) remove(uri string) {
	if _, known := e.objects[uri]; known {
		delete(e.objects, uri)
		e.dirty[uri] = true
	}
	delete(e.announced, uri)
}

// Listing is what an HMC answered.
type Listing struct {
	HMC string
	// Asked is when the HMC was asked, at the earliest.
	Asked time.Time
	// Complete has the classes that could be listed.
	Complete map[string]bool
	// Resources are those of these classes.
	Resources []Resource
}

// Learn takes over what is new in a listing, so that names are known at once. What is reported of
// it is up to Compare.
func (e *Estate) Learn(l *Listing) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.loaded.After(l.Asked) {
		return
	}
	for i := range l.Resources {
		r := &l.Resources[i]
		if o := e.objects[r.URI]; o != nil {
			if o.CPCURI == "" && (r.CPCURI != "" || o.CPC != r.CPC) {
				o.CPC, o.CPCURI = r.CPC, r.CPCURI
				e.dirty[r.URI] = true
			}
			if o.Name == "" {
				o.Name = r.Name
			}
			continue
		}
		if g, gone := e.gone[r.URI]; gone && g.at.After(l.Asked) || len(e.objects) >= maxResources {
			continue
		}
		o := e.add(*r)
		o.Since, o.Exact, o.hmcs = l.Asked, false, []string{l.HMC}
		e.hasListed(l.HMC, r.Class, someOfIt)
		_, announced := e.announced[r.URI]
		// The first list of a class is no news, and nor is what was announced.
		o.fresh = e.listed[list{l.HMC, r.Class}] == allOfIt && !announced
		if o.fresh {
			delete(e.dirty, r.URI) // or after a crash nobody would report it
		}
		delete(e.announced, r.URI)
	}
}

// The kinds of differences.
const (
	Added   = "added"
	Removed = "removed"
	Renamed = "renamed"
	// Moved to another status.
	Moved = "moved"
	// Judged otherwise: the status is the same, but acceptable now, or not any more.
	Judged = "judged"
)

// Difference is something that changed without a notification about it.
type Difference struct {
	Kind string
	// Was is the resource before; of one that was added nothing.
	Was Resource
	// Now is what the resource is; of one that was removed, what it was.
	Now Resource
}

// Compare returns how a listing differs from what is known, CPCs first, and takes it over. Of what
// notifications reported since the HMC was asked it says nothing: the listing may be older than
// they are. again reports that some of that differs, and that another listing would show which is
// right. inSight says which other HMCs are watched without interruption: what those see is not gone
// because this one does not list it.
//
// A resource is gone when two listings in a row do not have it: an HMC that has just started may
// not know yet what it manages. Nothing is reported of the partitions of a CPC that does not
// communicate.
func (e *Estate) Compare(
	l *Listing, now time.Time, inSight func(hmc string) bool,
) (differences []Difference, again bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.loaded.After(l.Asked) {
		return nil, true
	}
	present := make(map[string]struct{}, len(l.Resources))
	for i := range l.Resources {
		r := &l.Resources[i]
		present[r.URI] = struct{}{}
		o := e.objects[r.URI]
		if o == nil {
			continue // removed since
		}
		o.missing = time.Time{}
		if !slices.Contains(o.hmcs, l.HMC) {
			o.hmcs = append(o.hmcs, l.HMC)
			e.hasListed(l.HMC, o.Class, someOfIt)
			e.dirty[r.URI] = true
		}
		if r.CPCURI != "" && o.CPCURI != r.CPCURI || o.CPC != r.CPC {
			o.CPC, o.CPCURI = strings.Clone(r.CPC), strings.Clone(r.CPCURI)
			e.dirty[r.URI] = true
		}
		if o.fresh {
			o.fresh = false
			e.dirty[r.URI] = true
			differences = append(differences, Difference{Added, Resource{}, e.resource(o)})
		}
		// It was learned from a notification about something else.
		if o.Status == "" && r.Status != "" {
			o.Status, o.Since, o.Exact = strings.Clone(r.Status), l.Asked, false
			e.dirty[r.URI] = true
		}
		renamed, moved := r.Name != "" && o.Name != r.Name, r.Status != "" && o.Status != r.Status
		judged := r.Judged != Unjudged && !moved && o.Judged != r.Judged
		if !renamed && !moved && !judged {
			continue
		}
		if o.touched.After(l.Asked) {
			again = true
			continue
		}
		if renamed {
			was := o.Resource
			o.Name = strings.Clone(r.Name)
			differences = append(differences, Difference{Renamed, was, e.resource(o)})
		}
		if moved {
			was := o.Resource
			o.Judged = cmp.Or(r.Judged, o.judge(r.Status))
			o.moved(r.Status, now, now)
			o.Status, o.Since, o.Exact = strings.Clone(r.Status), now, false
			differences = append(differences, Difference{Moved, was, e.resource(o)})
		}
		if judged {
			was := o.Resource
			if o.Judged = r.Judged; was.Judged != Unjudged {
				differences = append(differences, Difference{Judged, was, e.resource(o)})
			}
		}
		e.dirty[r.URI] = true
	}
	for uri, o := range e.objects {
		_, there := present[uri]
		if there || !l.Complete[o.Class] || (len(o.hmcs) > 0 && !slices.Contains(o.hmcs, l.HMC)) {
			continue
		}
		since := o.touched.After(l.Asked) || o.announced.After(l.Asked)
		if len(o.hmcs) == 0 { // no HMC has ever listed it
			if !since {
				e.remove(uri)
			}
			continue
		}
		if since {
			again = true
			continue
		}
		if cpc := e.objects[o.CPCURI]; cpc != nil && silent(cpc.Status) {
			continue
		}
		if o.missing.IsZero() || !l.Asked.After(o.missing) {
			o.missing = l.Asked
			again = true
			continue
		}
		others := slices.DeleteFunc(slices.Clone(o.hmcs), func(h string) bool { return h == l.HMC })
		if slices.ContainsFunc(others, inSight) {
			o.hmcs, o.missing = others, time.Time{} // this userid may not see it any more
			e.dirty[uri] = true
			continue
		}
		differences = append(differences, Difference{Removed, o.Resource, e.resource(o)})
	}
	for i := range differences {
		if differences[i].Kind == Removed {
			e.remove(differences[i].Now.URI)
		}
	}
	for class, complete := range l.Complete {
		if complete {
			e.hasListed(l.HMC, class, allOfIt)
		}
	}
	slices.SortStableFunc(differences, func(a, b Difference) int {
		x, y := &a.Now, &b.Now
		return cmp.Or(rank(x.Class)-rank(y.Class), strings.Compare(x.CPC, y.CPC), strings.Compare(x.Name, y.Name))
	})
	return differences, again
}

// hasListed notes how much of a class an HMC has listed. e.mu is held.
func (e *Estate) hasListed(hmc, class string, n extent) {
	l := list{hmc, class}
	e.listed[l] = max(e.listed[l], n)
}

// silent says whether a status is that of a CPC of whose partitions the HMC knows nothing.
func silent(status string) bool {
	return status == "not-communicating" || status == "no-power" || status == "status-check"
}

func rank(class string) int {
	if class == ClassCPC {
		return 0
	}
	return 1
}

// All ranges over what an HMC lists ("": whatever any lists), in the order in which it became
// known, CPCs first. The estate does not change meanwhile, and fn must not call it.
func (e *Estate) All(hmc string) iter.Seq[Resource] {
	return e.those(func(o *object) bool { return hmc == "" || slices.Contains(o.hmcs, hmc) })
}

// Waiting ranges, as All does, over what has messages that wait for an answer.
func (e *Estate) Waiting() iter.Seq[Resource] {
	return e.those(func(o *object) bool { return len(o.Waiting) > 0 })
}

func (e *Estate) those(wanted func(*object) bool) iter.Seq[Resource] {
	return func(yield func(Resource) bool) {
		e.mu.RLock()
		defer e.mu.RUnlock()
		var list []*object
		for _, o := range e.objects {
			if wanted(o) {
				list = append(list, o)
			}
		}
		slices.SortFunc(list, func(a, b *object) int {
			return cmp.Or(rank(a.Class)-rank(b.Class), cmp.Compare(a.order, b.order))
		})
		for _, o := range list {
			if !yield(e.resource(o)) {
				return
			}
		}
	}
}

// Lists reports whether an HMC lists a resource, as far as is known: it did, and it was not found
// to be gone since.
func (e *Estate) Lists(hmc, uri string) bool {
	e.mu.RLock()
	defer e.mu.RUnlock()
	o := e.objects[uri]
	return o != nil && slices.Contains(o.hmcs, hmc)
}

// ListsAny says whether an HMC has listed a resource of a class that is known.
func (e *Estate) ListsAny(hmc, class string) bool {
	e.mu.RLock()
	defer e.mu.RUnlock()
	for _, o := range e.objects {
		if o.Class == class && slices.Contains(o.hmcs, hmc) {
			return true
		}
	}
	return false
}

// Listed says whether an HMC has listed a class, or some of it.
func (e *Estate) Listed(hmc, class string) bool {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.listed[list{hmc, class}] > noneOfIt
}

// Len returns how many resources are known.
func (e *Estate) Len() int {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return len(e.objects)
}

// stored is a resource as it is stored, under its URI.
type stored struct {
	Class  string   `json:"class"`
	Name   string   `json:"name,omitempty"`
	CPC    string   `json:"cpc,omitempty"`
	CPCURI string   `json:"cpc_uri,omitempty"`
	Status string   `json:"status,omitempty"`
	Since  int64    `json:"since,omitempty"` // ms since 1970
	Exact  bool     `json:"exact,omitempty"`
	HMCs   []string `json:"hmcs,omitempty"`

	Judged     Judgement `json:"judged,omitempty"`
	Acceptable []string  `json:"acceptable,omitzero"`
	System     System    `json:"system,omitzero"`
	Away       int64     `json:"away,omitempty"` // ms since 1970
	Starting   int64     `json:"starting,omitempty"`
	Waiting    []Message `json:"waiting,omitempty"`
}

// Unstored calls fn for each resource that has changed since the last call, with what is to be
// stored under its URI; nil: it is gone. What hold holds back stays unstored.
func (e *Estate) Unstored(hold func(uri string) bool, fn func(uri string, value []byte)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.dirty) == 0 {
		return
	}
	for uri := range e.dirty {
		if hold(uri) {
			continue
		}
		delete(e.dirty, uri)
		o := e.objects[uri]
		switch {
		case o == nil:
			fn(uri, nil)
		case !o.fresh:
			s := stored{
				Class: o.Class, Name: o.Name, CPC: o.CPC, CPCURI: o.CPCURI,
				Status: o.Status, Exact: o.Exact, HMCs: o.hmcs, Judged: o.Judged, Acceptable: o.Acceptable,
				System: o.System, Waiting: o.Waiting,
			}
			if !o.Since.IsZero() {
				s.Since = o.Since.UnixMilli()
			}
			if !o.Away.IsZero() {
				s.Away = o.Away.UnixMilli()
			}
			if !o.Starting.IsZero() {
				s.Starting = o.Starting.UnixMilli()
			}
			value, err := json.Marshal(&s)
			if err == nil { // strings, numbers and a bool
				fn(uri, value)
			}
		}
	}
}

// Load replaces what is known by what was stored: at the start, and when what has changed since
// could not be stored. all ranges over the URIs and values that Unstored gave. What notifications
// have reported up to now may be newer than a listing that was asked for before. It returns how
// many of the values cannot be read.
func (e *Estate) Load(now time.Time, all func(fn func(uri string, value []byte) bool)) (damaged int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	clear(e.objects)
	clear(e.gone)
	clear(e.announced)
	clear(e.listed)
	e.loaded = now
	all(func(uri string, value []byte) bool {
		if !e.load(uri, value) {
			damaged++
		}
		return true
	})
	clear(e.dirty)
	return damaged
}

func (e *Estate) load(uri string, value []byte) bool {
	var s stored
	if json.Unmarshal(value, &s) != nil || !Tracked(s.Class) {
		return false
	}
	o := e.add(Resource{
		URI: uri, Class: s.Class, Name: s.Name, CPC: s.CPC, CPCURI: s.CPCURI, Status: s.Status, Exact: s.Exact,
		Judged: s.Judged, Acceptable: s.Acceptable, System: s.System,
		Waiting: s.Waiting,
	})
	if s.Since != 0 {
		o.Since = time.UnixMilli(s.Since)
	}
	if s.Away != 0 {
		o.Away = time.UnixMilli(s.Away)
	}
	if s.Starting != 0 { // from now on it does not follow the clock
		o.Starting = e.loaded.Add(min(0, time.UnixMilli(s.Starting).Sub(e.loaded)))
	}
	o.hmcs = s.HMCs
	for _, hmc := range s.HMCs {
		e.hasListed(hmc, s.Class, allOfIt)
	}
	return true
}
