package bridge

import (
	"slices"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/record"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/translate"
)

// Units returns the estate: all CPCs and partitions, each once, also where several HMCs of a group
// list it. It answers from memory.
func (b *Bridge) Units() []status.Unit {
	now := b.now()
	severities := translate.NewSeverities(now.cfg.Severity)
	var groups []*record.Group
	current := make(map[*record.Group]bool)
	for _, s := range now.supervisors {
		g := s.it.Rec.Group()
		if !slices.Contains(groups, g) {
			groups = append(groups, g)
		}
		current[g] = current[g] || s.it.Link() != nil
	}
	var units []status.Unit
	for _, g := range groups {
		// whoever shows them must not hold up what the HMC sends
		for _, r := range slices.Collect(g.Estate.All("")) {
			units = append(units, status.Unit{
				Group: g.Name, Class: r.Class, Name: r.Name, CPC: r.CPC, Status: r.Status,
				Severity: severities.OfStatus(r.Class, r.Status, r.Judged),
				Since:    r.Since, Exact: r.Exact, Current: current[g],
			})
		}
	}
	return units
}
