package match

import (
	"slices"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// Router decides which events a sink gets.
type Router struct {
	Match, Drop []Matcher
}

// Wants says whether the sink gets the record: any item of match (or none configured) and no item
// of drop. A record that cannot be parsed is delivered: what nobody can read must not vanish on the
// way.
func (r Router) Wants(rec event.Record) bool {
	if len(r.Match) == 0 && len(r.Drop) == 0 {
		return true
	}
	can := func(m Matcher) bool { return m.CanFit(rec.Type) }
	if len(r.Match) > 0 && !slices.ContainsFunc(r.Match, can) {
		return false // most events of a busy HMC, for most sinks: they need not be read
	}
	e, err := rec.Event()
	if err != nil {
		return true
	}
	v := View{Event: e}
	if len(r.Match) > 0 && !v.Fits(r.Match) {
		return false
	}
	return !v.Fits(r.Drop)
}
