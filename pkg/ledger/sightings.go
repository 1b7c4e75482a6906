package ledger

import (
	"slices"
	"sync"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

const (
	// TwinWithin is how much later another HMC may tell of the same change.
	TwinWithin = 30 * time.Second
	// ReplayWithin is how long ago another HMC may have told of an OS message that this one replays after an outage.
	ReplayWithin = 24 * time.Hour
	// maxSightings bounds how many changes, and how many OS messages, are remembered.
	maxSightings = 50_000
)

// Sightings recognizes what another HMC of the group has told of: each HMC tells of a change once, so what one has told twice has
// happened twice.
type Sightings struct {
	Keep time.Duration

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

func (s *Sightings) SetMembers(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.members = n
	if n < 2 {
		s.byKey, s.order, s.head = nil, nil, 0
	}
}

// Shared reports whether there is another HMC that could tell the same.
func (s *Sightings) Shared() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.members > 1
}

// Note notes that an HMC told of something, and reports whether another one has done so within the time given.
func (s *Sightings) Note(key event.ID, hmc string, at time.Time, within time.Duration) (twin bool) {
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

// Forget takes back what note did for an HMC the last time: it could not be recorded.
func (s *Sightings) Forget(key event.ID, hmc string) {
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

func (s *Sightings) set(key event.ID, list []sighting) {
	if len(list) == 0 {
		delete(s.byKey, key)
	} else {
		s.byKey[key] = list
	}
}

// expire forgets what is too old, and the oldest of what is too much.
func (s *Sightings) expire(now time.Time) {
	for s.head < len(s.order) && (now.Sub(s.order[s.head].at) > s.Keep || len(s.order)-s.head >= maxSightings) {
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
