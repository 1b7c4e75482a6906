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
	groups, current := now.groups()
	var units []status.Unit
	for _, g := range groups {
		// whoever shows them must not hold up what the HMC sends
		for _, r := range slices.Collect(g.Estate.All("")) {
			units = append(units, status.Unit{
				Group: g.Name, Class: r.Class, Name: r.Name, CPC: r.CPC, Status: r.Status,
				Severity: severities.OfActivation(r.Class, r.Status, r.Judged, !r.Starting.IsZero()),
				Since:    r.Since, Exact: r.Exact, Current: current[g],
				OSName: r.System.OSName, OSLevel: r.System.OSLevel, Sysplex: r.System.Sysplex,
			})
		}
	}
	return units
}

// groups are those of the HMCs, and which of them have one that is connected.
func (w *current) groups() (groups []*record.Group, connected map[*record.Group]bool) {
	connected = make(map[*record.Group]bool)
	for _, s := range w.supervisors {
		g := s.it.Rec.Group()
		if !slices.Contains(groups, g) {
			groups = append(groups, g)
		}
		connected[g] = connected[g] || s.it.Link() != nil
	}
	return groups, connected
}

// held are the messages of operating systems that wait for an answer.
func (w *current) held() []status.HeldMessage {
	list := []status.HeldMessage{}
	groups, _ := w.groups()
	for _, g := range groups {
		for r := range g.Estate.Waiting() {
			for _, m := range r.Waiting {
				list = append(list, status.HeldMessage{
					HMC: m.HMC, CPC: r.CPC, Class: r.Class, Name: r.Name,
					Reply: m.Prompt, Number: m.Number, Text: m.Text, Since: m.Since.UTC(),
				})
			}
		}
	}
	slices.SortStableFunc(list, func(a, b status.HeldMessage) int { return a.Since.Compare(b.Since) })
	return list
}
