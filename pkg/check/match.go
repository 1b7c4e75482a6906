package check

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/estate"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmc"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/match"
)

// statuses are those that CPCs, partitions and adapters have by IBM's book.
var statuses = []string{
	"active", "operating", "not-operating", "not-activated", "exceptions", "degraded", "acceptable", "stopped",
	"paused", "starting", "stopping", "terminated", "reservation-error", "service-required", "service", "no-power",
	"not-active", "not-detected", "communications-not-active", "not-communicating", "status-check",
}

// listedClasses are those of what HMCs list.
var listedClasses = []string{estate.ClassCPC, estate.ClassPartition, estate.ClassLogicalPartition}

// seen is what the HMCs have listed. Safe for concurrent use.
type seen struct {
	mu      sync.Mutex
	objects []object
	// of how many HMCs it is not known what all of it is
	open int
}

// object is a CPC or a partition.
type object struct{ class, name, cpc, status string }

// listed takes in what an HMC has listed; all says that nothing is missing.
func (s *seen) listed(cpcs []hmc.CPC, partitions []hmc.Partition, all bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if all {
		s.open--
	}
	for i := range cpcs {
		c := &cpcs[i]
		s.objects = append(s.objects, object{estate.ClassCPC, c.Name, c.Name, c.Status})
	}
	for i := range partitions {
		p := &partitions[i]
		s.objects = append(s.objects, object{estate.ClassOf(p.ObjectURI), p.Name, p.CPCName, p.Status})
	}
}

// values returns a part of each object.
func (s *seen) values(of func(*object) string) (values []string) {
	for i := range s.objects {
		values = append(values, of(&s.objects[i]))
	}
	return values
}

// matchers says which of these can match nothing that there is.
func (s *seen) matchers(f *finding, list string, all []match.Matcher) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range all {
		m := &all[i]
		at := fmt.Sprintf("%s[%d]", list, i)
		reported := s.values(func(o *object) string { return o.status })
		unmatched(f, at+".status", m.Status, append(slices.Clone(statuses), reported...),
			"is no status that an HMC is known to report")
		isListed := !m.Class.IsSet() || slices.ContainsFunc(listedClasses, m.Class.Match)
		if s.open > 0 || len(s.objects) == 0 || !isListed {
			continue // it may be of something that was not listed
		}
		names := unmatched(f, at+".name", m.Name, s.values(func(o *object) string { return o.name }),
			"matches none of the CPCs and partitions that the HMCs list now")
		cpcs := unmatched(f, at+".cpc", m.CPC, s.values(func(o *object) string { return o.cpc }),
			"matches none of the CPCs that the HMCs list now")
		if names || cpcs || otherClass(m) {
			continue
		}
		fits := func(o object) bool {
			return (!m.Class.IsSet() || m.Class.Match(o.class)) && (!m.Name.IsSet() || m.Name.Match(o.name)) &&
				(!m.CPC.IsSet() || m.CPC.Match(o.cpc))
		}
		if !slices.ContainsFunc(s.objects, fits) {
			f.warn("%s: nothing that the HMCs list now has its %s", at, strings.Join(keysOfResource(m), " and "))
		}
	}
}

// otherClass says whether a matcher is also about what is not listed: a name, or a CPC, may be that
// of something else.
func otherClass(m *match.Matcher) bool {
	return !m.Class.IsSet() || slices.ContainsFunc(event.Classes, func(class string) bool {
		return !slices.Contains(listedClasses, class) && m.Class.Match(class)
	})
}

// keysOfResource names the keys of a matcher that are about a resource.
func keysOfResource(m *match.Matcher) (keys []string) {
	for key, patterns := range map[string]match.Patterns{"class": m.Class, "name": m.Name, "cpc": m.CPC} {
		if patterns.IsSet() {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// unmatched warns of each pattern that matches none of the values, and reports whether there is
// one.
func unmatched(f *finding, at string, patterns match.Patterns, values []string, text string) (found bool) {
	for _, p := range patterns {
		if slices.ContainsFunc(values, p.Match) {
			continue
		}
		meant := event.Nearest(strings.ToLower(p.String()), values)
		if meant != "" {
			meant = "; is " + meant + " meant?"
		}
		f.warn("%s: %q %s%s", at, p, text, meant)
		found = true
	}
	return found
}
