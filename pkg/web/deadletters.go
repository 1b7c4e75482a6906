package web

import (
	"context"
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

	"github.com/hmcnotifyd/hmcnotifyd/pkg/deliver"
)

// DeadLetters is what the handler does with dead letters and with what waits for removed sinks; *bridge.Bridge has it.
type DeadLetters interface {
	DeadLetters(filter deliver.DeadLetterFilter, after string, limit int) (letters []deliver.DeadLetter, next string, err error)
	DeadLetter(id string) (deliver.DeadLetter, error)
	PurgeDeadLetters(filter deliver.DeadLetterFilter) (int, error)
	PurgeRemovedSink(name string) (int64, error)
	Replay(ctx context.Context, filter deliver.DeadLetterFilter, to string, report func(deliver.ReplayStep) error) error
}

const (
	// deadLettersPage and maxDeadLettersPage bound one answer.
	deadLettersPage    = 1000
	maxDeadLettersPage = 10000
	// stepTimeout is how long a client may take to read what a replay tells.
	stepTimeout = 30 * time.Second
)

// DeadLetterList is the answer to GET /api/v1/dead-letters.
type DeadLetterList struct {
	DeadLetters []deliver.DeadLetter `json:"dead_letters"`
	// Next is what to give as after for those that follow; absent at the end.
	Next string `json:"next,omitempty"`
}

// Purged is the answer to DELETE /api/v1/dead-letters, where it counts letters, and to DELETE /api/v1/removed-sinks/NAME, where it
// counts the events that waited.
type Purged struct {
	Purged int64 `json:"purged"`
}

// Error is the answer to a request for dead letters that failed.
type Error struct {
	Error string `json:"error"`
}

// deadLetters adds the paths of dead letters to mux.
func (h handler) deadLetters(mux *http.ServeMux) {
	mux.HandleFunc("GET /api/v1/dead-letters", h.listDeadLetters)
	mux.HandleFunc("GET /api/v1/dead-letters/{id}", h.showDeadLetter)
	mux.HandleFunc("DELETE /api/v1/dead-letters", h.purgeDeadLetters)
	mux.HandleFunc("POST /api/v1/dead-letters/replay", h.replayDeadLetters)
	mux.HandleFunc("DELETE /api/v1/removed-sinks/{name}", h.purgeRemovedSink)
}

// sameOrigin refuses requests that change something and that a browser makes for a page of another site: it tells by Sec-Fetch-Site or
// else by Origin, which a page cannot forge. Programs that are no browsers send neither.
func (h handler) sameOrigin(next http.Handler) http.Handler {
	protection := http.NewCrossOriginProtection()
	protection.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		h.json(w, http.StatusForbidden, Error{"this request comes from a page of another site"})
	}))
	return protection.Handler(next)
}

// query is what a request for dead letters asks for.
type query struct {
	filter    deliver.DeadLetterFilter
	all       bool
	to, after string
	limit     int
}

// parseQuery reads the parameters of a request. Only those in may are allowed: a filter that is misspelled must not select everything.
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

// explicit fails where nothing was said to select all dead letters.
func (q query) explicit() error {
	if f := q.filter; f.Sink == "" && len(f.IDs) == 0 && f.Since.IsZero() && !q.all {
		return errors.New("name a sink, an id or since, or say all=true")
	}
	return nil
}

// ParseSince reads a point in time: as RFC 3339 has it, or how long ago it was, as 90m.
func ParseSince(value string, now time.Time) (time.Time, error) {
	if t, err := time.Parse(time.RFC3339, value); err == nil {
		return t, nil
	}
	ago, err := time.ParseDuration(value)
	if err != nil || ago < 0 {
		return time.Time{}, fmt.Errorf("%q is neither a duration, as 1h30m, nor a time, as 2026-11-20T10:00:00Z", value)
	}
	return now.Add(-ago), nil
}

func (h handler) listDeadLetters(w http.ResponseWriter, r *http.Request) {
	q, err := parseQuery(r.URL.RawQuery, "sink", "id", "since", "after", "limit")
	if err != nil {
		h.json(w, http.StatusBadRequest, Error{err.Error()})
		return
	}
	letters, next, err := h.DeadLetters.DeadLetters(q.filter, q.after, q.limit)
	if err != nil {
		h.failed(w, err)
		return
	}
	h.json(w, http.StatusOK, DeadLetterList{DeadLetters: letters, Next: next})
}

func (h handler) showDeadLetter(w http.ResponseWriter, r *http.Request) {
	letter, err := h.DeadLetters.DeadLetter(r.PathValue("id"))
	if err != nil {
		h.failed(w, err)
		return
	}
	h.json(w, http.StatusOK, letter)
}

func (h handler) purgeDeadLetters(w http.ResponseWriter, r *http.Request) {
	q, err := parseQuery(r.URL.RawQuery, "sink", "id", "since", "all")
	if err == nil {
		err = q.explicit()
	}
	if err != nil {
		h.json(w, http.StatusBadRequest, Error{err.Error()})
		return
	}
	n, err := h.DeadLetters.PurgeDeadLetters(q.filter)
	if err != nil {
		h.failed(w, err)
		return
	}
	h.json(w, http.StatusOK, Purged{int64(n)})
}

func (h handler) purgeRemovedSink(w http.ResponseWriter, r *http.Request) {
	n, err := h.DeadLetters.PurgeRemovedSink(r.PathValue("name"))
	if err != nil {
		h.failed(w, err)
		return
	}
	h.json(w, http.StatusOK, Purged{n})
}

// replayDeadLetters answers with what happens while it happens, one JSON object per line. The replay ends when the client goes away.
func (h handler) replayDeadLetters(w http.ResponseWriter, r *http.Request) {
	q, err := parseQuery(r.URL.RawQuery, "sink", "id", "since", "all", "to")
	if err == nil {
		err = q.explicit()
	}
	if err != nil {
		h.json(w, http.StatusBadRequest, Error{err.Error()})
		return
	}
	control := http.NewResponseController(w)
	limit := func(t time.Time) {
		if err := control.SetWriteDeadline(t); err != nil {
			h.Logger.Debug("a limit could not be set", zap.Error(err))
		}
	}
	defer limit(time.Time{}) // the connection may serve other requests
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("Cache-Control", "no-store")
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	err = h.DeadLetters.Replay(r.Context(), q.filter, q.to, func(s deliver.ReplayStep) error {
		limit(time.Now().Add(stepTimeout))
		if err := enc.Encode(s); err != nil {
			return err
		}
		return control.Flush()
	})
	if err != nil {
		h.failed(w, err)
	}
}

// failed answers with an error of the bridge.
func (h handler) failed(w http.ResponseWriter, err error) {
	code := http.StatusInternalServerError
	switch {
	case errors.Is(err, deliver.ErrNoSuchLetter), errors.Is(err, deliver.ErrNoSuchSink):
		code = http.StatusNotFound
	case errors.Is(err, deliver.ErrConfigured), errors.Is(err, deliver.ErrReplaying):
		code = http.StatusConflict
	}
	h.json(w, code, Error{err.Error()})
}
