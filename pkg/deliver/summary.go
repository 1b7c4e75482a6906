package deliver

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// maxOldStatuses bounds how many old statuses a summary names.
const maxOldStatuses = 4

// FloodSummary is the body of a status-change-summary event.
type FloodSummary struct {
	CPC       string `json:"cpc"`
	NewStatus string `json:"new-status"`
	// Count is the number of resources.
	Count int `json:"count"`
	// FirstTime and LastTime are those of the events, as in their member time.
	FirstTime string          `json:"first-time"`
	LastTime  string          `json:"last-time"`
	Resources []floodResource `json:"resources"`
}

// floodResource is one of the status changes that a status-change-summary event stands for.
type floodResource struct {
	Class     string `json:"class"`
	Name      string `json:"name"`
	ObjectURI string `json:"object-uri"`
	// OldStatus is "" where the HMC did not say it.
	OldStatus string `json:"old-status"`
	NewStatus string `json:"new-status"`
	Time      string `json:"time"`
	// ID is that of its event, which sinks without collapse got.
	ID string `json:"id"`
}

// summary makes one item of all members of a group; uri is that of the CPC, "" while it is not
// known.
func (in *flood) summary(uri string) item {
	first := &in.members[0]
	e := event.Event{
		HMC: first.change.HMC, Type: event.TypeStatusChangeSummary, Origin: first.change.Origin,
		Received: first.item.record.Received, Severity: event.SeverityInfo, Labels: first.change.Labels,
		Resource: &event.Resource{Class: "cpc", Name: in.key.cpc, ObjectURI: uri, CPC: in.key.cpc},
	}
	body := FloodSummary{
		CPC: in.key.cpc, NewStatus: in.key.status, Count: len(in.members),
		FirstTime: first.change.Time, LastTime: first.change.Time,
		Resources: make([]floodResource, 0, len(in.members)),
	}
	it := item{key: in.key.order(), members: make([]uint64, 0, len(in.members))}
	ids := append(make([]string, 0, 1+len(in.members)), e.Type)
	severities := event.Severities()
	for i := range in.members {
		m, c := &in.members[i].item, &in.members[i].change
		it.seq = m.seq
		it.members = append(it.members, m.seq)
		ids = append(ids, m.record.ID)
		if m.record.Received.Before(e.Received) {
			e.Received = m.record.Received
		}
		if len(c.SeenBy) > 0 && !slices.Contains(e.SeenBy, c.HMC) {
			e.SeenBy = append(e.SeenBy, c.HMC)
		}
		if i > 0 { // those that all of them have
			e.Labels = slices.DeleteFunc(slices.Clone(e.Labels), func(l event.Header) bool {
				return c.Labels.Get(l.Name) != l.Value
			})
		}
		if c.Origin != e.Origin {
			e.Origin = event.OriginLive
		}
		if slices.Index(severities, c.Severity) > slices.Index(severities, e.Severity) {
			e.Severity = c.Severity
		}
		// As events have them, times sort as text.
		body.FirstTime, body.LastTime = min(body.FirstTime, c.Time), max(body.LastTime, c.Time)
		body.Resources = append(body.Resources, floodResource{
			Class: c.Resource.Class, Name: c.Resource.Name, ObjectURI: c.Resource.ObjectURI,
			OldStatus: c.from, NewStatus: c.to, Time: c.Time, ID: m.record.ID,
		})
	}
	e.ID = event.NewID(ids...)
	e.Summary = body.text()
	// Neither can fail: events are written with a time, and the body is strings and a number.
	e.Time, _ = time.Parse(time.RFC3339Nano, body.LastTime)
	e.Body, _ = json.Marshal(body)
	it.record = event.NewRecord(&e)
	it.record.Stored = first.item.record.Stored
	return it
}

// text sums a flood up in one line: "CPC M90: 143 partitions active -> communications-not-active".
func (s *FloodSummary) text() string {
	formers := make(map[string]int) // old statuses
	what := ""
	for i := range s.Resources {
		kind := "resources"
		switch s.Resources[i].Class {
		case "partition", "logical-partition":
			kind = "partitions"
		case "adapter":
			kind = "adapters"
		}
		if i > 0 && what != kind {
			kind = "resources"
		}
		what = kind
		if old := s.Resources[i].OldStatus; old != "" { // else it was not told
			formers[old]++
		}
	}
	many := fmt.Sprintf("CPC %s: %d %s", s.CPC, s.Count, what)
	order := slices.SortedFunc(maps.Keys(formers), func(x, y string) int {
		return cmp.Or(formers[y]-formers[x], strings.Compare(x, y))
	})
	switch {
	case len(order) == 0:
		return many + " -> " + s.NewStatus
	case formers[order[0]] == s.Count:
		return many + " " + order[0] + " -> " + s.NewStatus
	}
	others, were := s.Count, "were "
	var parts []string
	for _, status := range order[:min(len(order), maxOldStatuses)] {
		parts = append(parts, fmt.Sprintf("%d %s%s", formers[status], were, status))
		others -= formers[status]
		were = ""
	}
	if others > 0 {
		parts = append(parts, fmt.Sprintf("%d others", others))
	}
	return many + " -> " + s.NewStatus + " (" + strings.Join(parts, ", ") + ")"
}
