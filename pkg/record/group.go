package record

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/estate"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/ledger"
)

// Group is what HMCs share that manage the same machines: what is known of these, and what any of them has told. Safe for
// concurrent use.
type Group struct {
	Name     string
	Estate   *estate.Estate
	changes  ledger.Sightings
	messages ledger.Sightings

	mu      sync.Mutex
	members map[string]*Recorder // that run
	untold  map[untold]struct{}
}

// untold is a resource of which an HMC has told something whose event is not in the queue yet.
type untold struct {
	uri string
	by  *Recorder
}

func NewGroup(name string) *Group {
	return &Group{
		Name: name, Estate: estate.New(), members: make(map[string]*Recorder), untold: make(map[untold]struct{}),
		changes: ledger.Sightings{Keep: ledger.TwinWithin}, messages: ledger.Sightings{Keep: ledger.ReplayWithin},
	}
}

func (g *Group) Join(r *Recorder) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.members[r.cfg.Name] = r
}

func (g *Group) Leave(r *Recorder) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.members, r.cfg.Name)
	maps.DeleteFunc(g.untold, func(u untold, _ struct{}) bool { return u.by == r })
}

// Configured says how many HMCs the group has by the configuration. That one of them does not run, for a moment of a reload, is no
// reason to forget what it, or another one, has told.
func (g *Group) Configured(n int) {
	g.changes.SetMembers(n)
	g.messages.SetMembers(n)
}

// hold keeps what is known of a resource from being stored with the events of another HMC, until release.
func (g *Group) hold(uri string, r *Recorder) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.untold[untold{uri, r}] = struct{}{}
}

// release says that the events of an HMC which tell of resources are in the queue.
func (g *Group) release(uris []string, r *Recorder) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, uri := range uris {
		delete(g.untold, untold{uri, r})
	}
}

// heldFrom reports whether another HMC holds a resource.
func (g *Group) heldFrom(uri string, r *Recorder) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, o := range g.members {
		if _, held := g.untold[untold{uri, o}]; held && o != r {
			return true
		}
	}
	return false
}

// others returns the other HMCs of the group.
func (g *Group) others(r *Recorder) []*Recorder {
	g.mu.Lock()
	defer g.mu.Unlock()
	var others []*Recorder
	for _, o := range g.members {
		if o != r {
			others = append(others, o)
		}
	}
	return others
}

// sawAll reports whether another HMC was in sight for the whole of a time, and told all that happened to the kinds of topics.
func (g *Group) sawAll(r *Recorder, from, to time.Time, kind string) bool {
	return slices.ContainsFunc(g.others(r), func(o *Recorder) bool {
		follows := slices.Contains(o.cfg.Topics, kind)
		if kind == event.TopicOSMessage {
			follows = len(o.cfg.OSMessages) > 0
		}
		return follows && o.Sight.Clear(from, to)
	})
}

// inSight reports whether an HMC of the group is in sight now.
func (g *Group) inSight(hmc string) bool {
	g.mu.Lock()
	r := g.members[hmc]
	g.mu.Unlock()
	if r == nil {
		return false
	}
	now := time.Now()
	return r.Sight.Clear(now, now)
}
