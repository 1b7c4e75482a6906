package web

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/match"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/replay"
)

// replayParameters are the parameters of /api/v1/sinks/NAME/replay.
func replayParameters() []string { return []string{"since", "until", "type", "hmc", "dry_run"} }

// ParseReplay reads the query of /api/v1/sinks/NAME/replay.
func ParseReplay(raw string) (q replay.Query, err error) {
	values, err := url.ParseQuery(raw)
	if err != nil {
		return q, errors.New("the query is malformed")
	}
	now := time.Now()
	for name, list := range values {
		patterns := map[string]*match.Patterns{"type": &q.Type, "hmc": &q.HMC}[name]
		switch {
		case !slices.Contains(replayParameters(), name):
			return q, fmt.Errorf("unknown parameter %q; there are: %s", name, strings.Join(replayParameters(), ", "))
		case slices.Contains(list, ""):
			return q, fmt.Errorf("%s: must not be empty", name)
		case patterns != nil && len(list) > maxFilterValues:
			return q, fmt.Errorf("%s: at most %d values", name, maxFilterValues)
		case patterns != nil && slices.ContainsFunc(list, func(value string) bool { return len(value) > maxFilter }):
			return q, fmt.Errorf("%s: at most %d bytes", name, maxFilter)
		case patterns != nil:
			*patterns, err = match.NewPatterns(list...)
		case len(list) > 1:
			return q, fmt.Errorf("%s: may be given once", name)
		case name == "since":
			q.Since, err = ParseSince(list[0], now)
		case name == "until":
			q.Until, err = ParseSince(list[0], now)
		default:
			q.DryRun, err = strconv.ParseBool(list[0])
		}
		if err != nil {
			return q, fmt.Errorf("%s: %w", name, err)
		}
	}
	switch {
	case q.Since.IsZero():
		return q, errors.New("since: is required: from which time of receipt on")
	case !q.Until.IsZero() && !q.Until.After(q.Since):
		return q, errors.New("until: is not after since")
	}
	return q, nil
}

// replay sends stored events once more, and answers with what happens while it happens. It ends
// when the client goes away.
func (h handler) replay(w http.ResponseWriter, r *http.Request) error {
	q, err := ParseReplay(r.URL.RawQuery)
	if err != nil {
		return badRequest{err}
	}
	b, err := h.Bridge()
	if err != nil {
		return err
	}
	return answerSteps(h, w, func(report func(replay.Step) error) error {
		return b.ReplayStored(r.Context(), r.PathValue("name"), q, report)
	})
}
