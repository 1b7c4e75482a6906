// Package route says which sinks of a configuration get an event, and why.
package route

import (
	"fmt"
	"strings"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/match"
)

// Route says whether a sink gets an event, and why.
type Route struct {
	Sink string
	Gets bool
	Why  string // in words
}

// All says which sinks of a configuration get an event.
func All(cfg *config.Config, e *event.Event) []Route {
	var routes []Route
	for i := range cfg.Sinks {
		s := &cfg.Sinks[i]
		r := Route{Sink: s.Name}
		r.Gets, r.Why = Explain(s, &match.View{Event: e})
		if s.Alertmanager != nil && !r.Gets {
			r.Why += "; it can end an alert all the same"
		}
		routes = append(routes, r)
	}
	return routes
}

// Explain says whether a sink gets an event.
func Explain(s *config.Sink, v *match.View) (gets bool, why string) {
	for i := range s.Drop {
		if key, _ := v.Mismatch(&s.Drop[i]); key == "" {
			return false, fmt.Sprintf("drop[%d] fits", i)
		}
	}
	why = "it has no match, and so gets every event"
	if len(s.Match) > 0 {
		var misses []string
		for i := range s.Match {
			key, value := v.Mismatch(&s.Match[i])
			if key == "" {
				gets, why = true, fmt.Sprintf("match[%d] fits", i)
				break
			}
			value = event.Cut(event.Printable(value), event.MaxValue)
			misses = append(misses, fmt.Sprintf("match[%d] does not fit %s %q", i, key, value))
		}
		if !gets {
			return false, strings.Join(misses, "; ")
		}
	}
	if s.Collapse && (v.Repeat || v.Type == event.TypeStatusChange) {
		if v.Repeat {
			return false, why + ", but collapse leaves out what was told before"
		}
		why += "; collapse may gather it into a " + event.TypeStatusChangeSummary
	}
	return true, why
}
