package web

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/replay"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/units"
)

const (
	// deadLettersPage and maxDeadLettersPage bound one answer.
	deadLettersPage    = 1000
	maxDeadLettersPage = 10000
)

// DeadLetterList is the answer to GET /api/v1/dead-letters.
type DeadLetterList struct {
	DeadLetters []replay.DeadLetter `json:"dead_letters"`
	// Next is what to give as after for those that follow; absent at the end.
	Next string `json:"next,omitempty"`
}

// Purged is the answer to DELETE /api/v1/dead-letters, where it counts letters, to DELETE
// /api/v1/removed-sinks/NAME, where it counts the events that waited, and to DELETE
// /api/v1/removed-hmcs/NAME, where it counts what was known.
type Purged struct {
	Purged int64 `json:"purged"`
}

// Error is the answer to a request for dead letters that failed.
type Error struct {
	Error string `json:"error"`
}

// deadLetters adds the paths of dead letters to mux.
func (h handler) deadLetters(mux *http.ServeMux) {
	mux.Handle("GET /api/v1/dead-letters", h.desk.serving(h.answering(h.listDeadLetters)))
	mux.Handle("GET /api/v1/dead-letters/{id}", h.desk.serving(h.answering(h.showDeadLetter)))
	mux.HandleFunc("DELETE /api/v1/dead-letters", h.changing(h.answering(h.purgeDeadLetters)))
	mux.HandleFunc("POST /api/v1/dead-letters/replay", h.changing(h.failing(h.replayDeadLetters)))
	mux.HandleFunc("DELETE /api/v1/removed-sinks/{name}", h.changing(h.answering(h.purgeRemovedSink)))
	mux.HandleFunc("DELETE /api/v1/removed-hmcs/{name}", h.changing(h.answering(h.forgetHMC)))
}

// query is what a request for dead letters asks for.
type query struct {
	filter    replay.DeadLetterFilter
	all       bool
	to, after string
	limit     int
}

// parseQuery reads the parameters of a request. Only those in may are allowed: a filter that is
// misspelled must not select everything.
func parseQuery(raw string, may ...string) (q query, err error) {
	values, err := url.ParseQuery(raw)
	if err != nil {
		return q, errors.New("the query is malformed")
	}
	q.limit = deadLettersPage
	for name, list := range values {
		if !slices.Contains(may, name) {
			return q, fmt.Errorf("unknown parameter %q; there are: %s", name, strings.Join(may, ", "))
		}
		value := list[0]
		switch {
		case slices.Contains(list, ""):
			return q, fmt.Errorf("%s: must not be empty", name)
		case name == "id":
			q.filter.IDs = list
			continue
		case len(list) > 1:
			return q, fmt.Errorf("%s: may be given once", name)
		}
		switch name {
		case "sink":
			q.filter.Sink = value
		case "since":
			q.filter.Since, err = ParseSince(value, time.Now())
		case "after":
			q.after = value
		case "to":
			q.to = value
		case "all":
			q.all, err = strconv.ParseBool(value)
		case "limit":
			q.limit, err = strconv.Atoi(value)
			if err == nil && (q.limit < 1 || q.limit > maxDeadLettersPage) {
				err = fmt.Errorf("must be from 1 to %d", maxDeadLettersPage)
			}
		}
		if err != nil {
			return q, fmt.Errorf("%s: %w", name, err)
		}
	}
	return q, nil
}

// explicit fails where the parameters would select all dead letters without all=true.
func (q query) explicit() error {
	if f := q.filter; f.Sink == "" && len(f.IDs) == 0 && f.Since.IsZero() && !q.all {
		return errors.New("name a sink, an id or since, or say all=true")
	}
	return nil
}

// ParseSince reads a point in time: as RFC 3339 has it, or how long ago it was, as 90m, or as 7d,
// which the configuration has too.
func ParseSince(value string, now time.Time) (time.Time, error) {
	if t, err := time.Parse(time.RFC3339, value); err == nil {
		return t, nil
	}
	ago, err := units.ParseDuration(strings.TrimPrefix(value, "+"))
	if err != nil {
		return time.Time{}, fmt.Errorf("%q is neither a duration, as 1h30m, nor a time, as 2026-11-20T10:00:00Z", value)
	}
	return now.Add(-ago), nil
}

// badRequest is an error of the request itself.
type badRequest struct{ error }

// letterQuery reads the parameters of a request for dead letters, which may be those of may. One
// that may select all has to say so.
func letterQuery(r *http.Request, may ...string) (query, error) {
	q, err := parseQuery(r.URL.RawQuery, may...)
	if err == nil && slices.Contains(may, "all") {
		err = q.explicit()
	}
	if err != nil {
		return q, badRequest{err}
	}
	return q, nil
}

func (h handler) listDeadLetters(r *http.Request) (any, error) {
	q, err := letterQuery(r, "sink", "id", "since", "after", "limit")
	if err != nil {
		return nil, err
	}
	b, err := h.Bridge()
	if err != nil {
		return nil, err
	}
	letters, next, err := b.DeadLetters(q.filter, q.after, q.limit)
	return DeadLetterList{DeadLetters: letters, Next: next}, err
}

func (h handler) showDeadLetter(r *http.Request) (any, error) {
	b, err := h.Bridge()
	if err != nil {
		return nil, err
	}
	return b.DeadLetter(r.PathValue("id"))
}

func (h handler) purgeDeadLetters(r *http.Request) (any, error) {
	q, err := letterQuery(r, "sink", "id", "since", "all")
	if err != nil {
		return nil, err
	}
	b, err := h.Bridge()
	if err != nil {
		return nil, err
	}
	n, err := b.PurgeDeadLetters(q.filter)
	return Purged{int64(n)}, err
}

func (h handler) purgeRemovedSink(r *http.Request) (any, error) {
	b, err := h.Bridge()
	if err != nil {
		return nil, err
	}
	n, err := b.PurgeRemovedSink(r.PathValue("name"))
	return Purged{n}, err
}

func (h handler) forgetHMC(r *http.Request) (any, error) {
	b, err := h.Bridge()
	if err != nil {
		return nil, err
	}
	n, err := b.ForgetHMC(r.Context(), r.PathValue("name"))
	return Purged{int64(n)}, err
}

// replayDeadLetters answers with what happens while it happens. The replay ends when the client
// goes away.
func (h handler) replayDeadLetters(w http.ResponseWriter, r *http.Request) error {
	q, err := letterQuery(r, "sink", "id", "since", "all", "to")
	if err != nil {
		return err
	}
	b, err := h.Bridge()
	if err != nil {
		return err
	}
	return answerSteps(h, w, func(report func(replay.LettersStep) error) error {
		return b.Replay(r.Context(), q.filter, q.to, report)
	})
}

// answerSteps answers with the steps of something that may take long, one JSON object per line, as
// they are reported.
func answerSteps[T any](h handler, w http.ResponseWriter, do func(report func(T) error) error) error {
	control := http.NewResponseController(w)
	limit := func(t time.Time) {
		if err := control.SetWriteDeadline(t); err != nil {
			h.Logger.Debug("a limit could not be set", zap.Error(err))
		}
	}
	// It may last for as long as it wants to, but each step has to be read.
	limit(time.Time{})
	defer func() { limit(time.Now().Add(WriteTimeout)) }()
	enc := json.NewEncoder(event.EscapingWriter{Writer: w})
	enc.SetEscapeHTML(false)
	return do(func(step T) error {
		w.Header().Set("Content-Type", "application/x-ndjson")
		w.Header().Set("Cache-Control", "no-store")
		limit(time.Now().Add(WriteTimeout))
		defer limit(time.Time{})
		if err := enc.Encode(step); err != nil {
			return err
		}
		return control.Flush()
	})
}
