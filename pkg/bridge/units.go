package bridge

import (
	"slices"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/estate"
)

// Unit is a CPC or a partition as the status page shows it.
type Unit struct {
	Group    string // of the HMCs that list it
	Class    string
	Name     string
	CPC      string // of a CPC its own name
	Status   string // "" while it is not known
	Severity string // of the status
	// Since is from when on the status is known to have lasted; Exact says that it began then.
	Since time.Time
	Exact bool
	// Current says that an HMC that tells of it is in sight; else the status is what it was when one was.
	Current bool
}

// Units returns the estate: all CPCs and partitions, each once, also where several HMCs of a group list it. It answers from memory.
func (b *Bridge) Units() []Unit {
	b.mu.RLock()
	supervisors, cfg := b.supervisors, b.cfg
	b.mu.RUnlock()
	severities := newSeverities(cfg.Severity)
	var groups []*group
	current := make(map[*group]bool)
	for _, s := range supervisors {
		g := s.it.rec.group
		if !slices.Contains(groups, g) {
			groups = append(groups, g)
		}
		current[g] = current[g] || s.it.isUp()
	}
	var units []Unit
	for _, g := range groups {
		for _, r := range slices.Collect(g.estate.All("")) { // whoever shows them must not hold up what the HMC sends
			units = append(units, unitOf(&r, g.name, severities, current[g]))
		}
	}
	return units
}

func unitOf(r *estate.Resource, group string, severities *severities, current bool) Unit {
	return Unit{
		Group: group, Class: r.Class, Name: r.Name, CPC: r.CPC, Status: r.Status, Severity: severities.ofStatus(r.Status),
		Since: r.Since, Exact: r.Exact, Current: current,
	}
}

// isUp says whether the link is up.
func (s *supervisor) isUp() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status.state == StateConnected
}
