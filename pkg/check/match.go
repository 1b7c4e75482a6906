package check

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
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

// seen is what the HMCs have listed. Safe for concurrent use.
type seen struct {
	mu                    sync.Mutex
	names, cpcs, statuses []string
	// of how many HMCs it is not known what all of it is
	open int
}

// listed takes in what an HMC has listed; all says that nothing is missing.
func (s *seen) listed(cpcs []hmc.CPC, partitions []hmc.Partition, all bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if all {
		s.open--
	}
	for i := range cpcs {
		c := &cpcs[i]
		s.names, s.cpcs, s.statuses = append(s.names, c.Name), append(s.cpcs, c.Name), append(s.statuses, c.Status)
	}
	for i := range partitions {
		p := &partitions[i]
		s.names, s.cpcs, s.statuses = append(s.names, p.Name), append(s.cpcs, p.CPCName), append(s.statuses, p.Status)
	}
}

// matchers says which patterns of a sink match nothing that there is.
func (s *seen) matchers(f *finding, c *config.Sink) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for list, all := range map[string][]match.Matcher{"match": c.Match, "drop": c.Drop} {
		for i := range all {
			m := &all[i]
			at := fmt.Sprintf("%s[%d].", list, i)
			s.unmatched(f, at+"status", m.Status, append(slices.Clone(statuses), s.statuses...),
				"is no status that an HMC is known to report")
			isListed := !m.Class.IsSet() ||
				slices.ContainsFunc([]string{"cpc", "partition", "logical-partition"}, m.Class.Match)
			if s.open > 0 || len(s.names) == 0 || !isListed {
				continue // it may be the name of something that was not listed
			}
			s.unmatched(f, at+"name", m.Name, s.names, "matches none of the CPCs and partitions that the HMCs list now")
			s.unmatched(f, at+"cpc", m.CPC, s.cpcs, "matches none of the CPCs that the HMCs list now")
		}
	}
}

// unmatched warns of each pattern that matches none of the values.
func (s *seen) unmatched(f *finding, at string, patterns match.Patterns, values []string, text string) {
	for _, p := range patterns {
		if slices.ContainsFunc(values, p.Match) {
			continue
		}
		meant := event.Nearest(strings.ToLower(p.String()), values)
		if meant != "" {
			meant = "; is " + meant + " meant?"
		}
		f.warn("%s: %q %s%s", at, p, text, meant)
	}
}
