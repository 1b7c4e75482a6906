package bridge

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/estate"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

const (
	// twinWithin is how much later another HMC may tell of the same change.
	twinWithin = 30 * time.Second
	// replayWithin is how long ago another HMC may have told of an OS message that this one replays after an outage.
	replayWithin = 24 * time.Hour
	// maxSightings bounds how many changes, and how many OS messages, are remembered.
	maxSightings = 50_000
)

// group is what HMCs share that manage the same machines: what is known of these, and what any of them has told. Safe for
// concurrent use.
type group struct {
	name     string
	estate   *estate.Estate
	changes  sightings
	messages sightings

	mu      sync.Mutex
	members map[string]*recorder // that run
	untold  map[untold]struct{}
}

// untold is a resource of which an HMC has told something whose event is not in the queue yet.
type untold struct {
	uri string
	by  *recorder
}

func newGroup(name string) *group {
	return &group{
		name: name, estate: estate.New(), members: make(map[string]*recorder), untold: make(map[untold]struct{}),
		changes: sightings{keep: twinWithin}, messages: sightings{keep: replayWithin},
	}
}

func (g *group) join(r *recorder) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.members[r.cfg.Name] = r
}

func (g *group) leave(r *recorder) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.members, r.cfg.Name)
	maps.DeleteFunc(g.untold, func(u untold, _ struct{}) bool { return u.by == r })
}

// configured says how many HMCs the group has by the configuration. That one of them does not run, for a moment of a reload, is no
// reason to forget what it, or another one, has told.
func (g *group) configured(n int) {
	g.changes.setMembers(n)
	g.messages.setMembers(n)
}

// hold keeps what is known of a resource from being stored with the events of another HMC, until release.
func (g *group) hold(uri string, r *recorder) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.untold[untold{uri, r}] = struct{}{}
}

// release says that the events of an HMC which tell of resources are in the queue.
func (g *group) release(uris []string, r *recorder) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, uri := range uris {
		delete(g.untold, untold{uri, r})
	}
}

// heldFrom reports whether another HMC holds a resource.
func (g *group) heldFrom(uri string, r *recorder) bool {
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
func (g *group) others(r *recorder) []*recorder {
	g.mu.Lock()
	defer g.mu.Unlock()
	var others []*recorder
	for _, o := range g.members {
		if o != r {
			others = append(others, o)
		}
	}
	return others
}

// sawAll reports whether another HMC was in sight for the whole of a time, and told all that happened to the kinds of topics.
func (g *group) sawAll(r *recorder, from, to time.Time, kind string) bool {
	return slices.ContainsFunc(g.others(r), func(o *recorder) bool {
		follows := slices.Contains(o.cfg.Topics, kind)
		if kind == event.TopicOSMessage {
			follows = len(o.cfg.OSMessages) > 0
		}
		return follows && o.sight.clear(from, to)
	})
}

// inSight reports whether an HMC of the group is in sight now.
func (g *group) inSight(hmc string) bool {
	g.mu.Lock()
	r := g.members[hmc]
	g.mu.Unlock()
	if r == nil {
		return false
	}
	now := time.Now()
	return r.sight.clear(now, now)
}

// sightings recognizes what another HMC of the group has told of: each HMC tells of a change once, so what one has told twice has
// happened twice.
type sightings struct {
	keep time.Duration

	mu      sync.Mutex
	members int
	byKey   map[event.ID][]sighting
	order   []sightingRef // from head, the oldest first
	head    int
}

// sighting is one thing that happened, and who has told of it.
type sighting struct {
	at time.Time
	by []string
}

type sightingRef struct {
	key event.ID
	at  time.Time
}

func (s *sightings) setMembers(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.members = n
	if n < 2 {
		s.byKey, s.order, s.head = nil, nil, 0
	}
}

// shared reports whether there is another HMC that could tell the same.
func (s *sightings) shared() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.members > 1
}

// note notes that an HMC told of something, and reports whether another one has done so within the time given.
func (s *sightings) note(key event.ID, hmc string, at time.Time, within time.Duration) (twin bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.members < 2 {
		return false
	}
	if s.byKey == nil {
		s.byKey = make(map[event.ID][]sighting)
	}
	s.expire(at)
	list := s.byKey[key]
	for i := range list {
		if slices.Contains(list[i].by, hmc) || at.Sub(list[i].at) > within {
			continue
		}
		list[i].by = append(list[i].by, hmc)
		if len(list[i].by) >= s.members {
			s.set(key, slices.Delete(list, i, i+1))
		}
		return true
	}
	s.byKey[key] = append(list, sighting{at, []string{hmc}})
	s.order = append(s.order, sightingRef{key, at})
	return false
}

// forget takes back what note did for an HMC the last time: it could not be recorded.
func (s *sightings) forget(key event.ID, hmc string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.byKey[key]
	for i, sighting := range slices.Backward(list) {
		if sighting.by[0] == hmc {
			s.set(key, slices.Delete(list, i, i+1))
			return
		}
	}
}

func (s *sightings) set(key event.ID, list []sighting) {
	if len(list) == 0 {
		delete(s.byKey, key)
	} else {
		s.byKey[key] = list
	}
}

// expire forgets what is too old, and the oldest of what is too much.
func (s *sightings) expire(now time.Time) {
	for s.head < len(s.order) && (now.Sub(s.order[s.head].at) > s.keep || len(s.order)-s.head >= maxSightings) {
		ref := s.order[s.head]
		s.head++
		list := s.byKey[ref.key]
		if len(list) > 0 && list[0].at.Equal(ref.at) {
			s.set(ref.key, list[1:])
		}
	}
	if s.head > len(s.order)/2 {
		s.order = append(s.order[:0], s.order[s.head:]...)
		s.head = 0
	}
}
