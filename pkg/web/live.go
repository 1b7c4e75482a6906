package web

import (
	"bytes"
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

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/match"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/replay"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
)

const (
	// HeartBeat is how often a stream of live events without events sends a sign of life.
	HeartBeat = 15 * time.Second
	// liveRetry is how long a client should wait before it comes back.
	liveRetry = 2 * time.Second
	// maxFilter bounds each value of a filter, in bytes, and how many values it may have.
	maxFilter       = 200
	maxFilterValues = 10
)

// LiveFilterParameters are the parameters of /api/v1/events.
func LiveFilterParameters() []string {
	return []string{"type", "hmc", "severity", "text", "sink", "since", "last"}
}

// ParseLiveFilter reads the query of /api/v1/events. A parameter that is empty, as a form sends it,
// counts as absent.
func ParseLiveFilter(raw string) (f replay.LiveFilter, err error) {
	values, err := url.ParseQuery(raw)
	if err != nil {
		return f, errors.New("the query is malformed")
	}
	patterns := map[string]*match.Patterns{"type": &f.Type, "hmc": &f.HMC, "severity": &f.Severity}
	var since, last string
	texts := map[string]*string{"text": &f.Text, "sink": &f.Sink, "since": &since, "last": &last}
	for name, list := range values {
		text, to := texts[name], patterns[name]
		if text == nil && to == nil {
			return f, fmt.Errorf("unknown parameter %q; there are: %s",
				name, strings.Join(LiveFilterParameters(), ", "))
		}
		list = slices.DeleteFunc(list, func(value string) bool { return value == "" })
		switch {
		case len(list) == 0:
		case len(list) > maxFilterValues:
			return f, fmt.Errorf("%s: at most %d values", name, maxFilterValues)
		case slices.ContainsFunc(list, func(value string) bool { return len(value) > maxFilter }):
			return f, fmt.Errorf("%s: at most %d bytes", name, maxFilter)
		case to != nil:
			if *to, err = match.NewPatterns(list...); err != nil {
				return f, fmt.Errorf("%s: %w", name, err)
			}
		case len(list) > 1:
			return f, fmt.Errorf("%s: may be given once", name)
		default:
			*text = list[0]
		}
	}
	if since != "" {
		if f.Since, err = ParseSince(since, time.Now()); err != nil {
			return f, fmt.Errorf("since: %w", err)
		}
	}
	if last != "" {
		if f.Last, err = strconv.Atoi(last); err != nil || f.Last < 1 || f.Last > replay.MaxLast {
			return f, fmt.Errorf("last: must be a number from 1 to %d", replay.MaxLast)
		}
	}
	for _, p := range f.Severity {
		if !slices.ContainsFunc(event.Severities(), p.Match) {
			return f, fmt.Errorf("severity: %q matches none of %s", p, strings.Join(event.Severities(), ", "))
		}
	}
	return f, nil
}

// LiveReader is what a stream of live events reads from; *replay.LiveReader is one.
type LiveReader interface {
	Only(filter replay.LiveFilter) (known bool, err error)
	Next(ctx context.Context) (events []event.Record, lost int, err error)
	Close()
}

// liveEvents answers with what is stored from now on, or from where the request says, as
// server-sent events, until the client goes away or the daemon ends.
func (h handler) liveEvents(w http.ResponseWriter, r *http.Request) error {
	// Its place first: as many filters are compiled at a time as there may be readers.
	reader, err := h.Live()
	if err != nil {
		return err
	}
	defer reader.Close()
	filter, err := ParseLiveFilter(r.URL.RawQuery)
	if err != nil {
		return badRequest{err}
	}
	if id := r.Header.Get("Last-Event-ID"); len(id) <= maxFilter {
		filter.After = id
	}
	known, err := reader.Only(filter)
	if err != nil {
		return err
	}
	s := stream{w: w, control: http.NewResponseController(w), beat: h.heartBeat}
	// The time limits of the server are those of a request, not of an answer that lasts for
	// days.
	if err := s.control.SetReadDeadline(time.Time{}); err != nil {
		h.Logger.Debug("a limit could not be lifted", zap.Error(err))
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	// a proxy is to pass on what comes when it comes
	w.Header().Set("X-Accel-Buffering", "no")
	if now := h.now.get(h.Status); now.Role == status.RoleStandby {
		leader, err := json.Marshal(map[string]string{"leader": now.Leader})
		if err != nil {
			return err
		}
		fmt.Fprintf(&s.out, "event: standby\ndata: %s\n\n", leader)
	}
	if !known {
		// As many were missed, but it is not known how many.
		s.out.WriteString("event: lost\ndata: {\"lost\":0,\"unknown\":true}\n\n")
	}
	if err := s.run(r.Context(), reader); err != nil {
		h.Logger.Debug("a reader of live events has gone", zap.Error(err))
	}
	return nil
}

// stream writes server-sent events.
type stream struct {
	w       http.ResponseWriter
	control *http.ResponseController
	beat    time.Duration
	out     bytes.Buffer
}

func (s *stream) run(ctx context.Context, reader LiveReader) error {
	fmt.Fprintf(&s.out, "retry: %d\n: live events\n\n", liveRetry.Milliseconds())
	for {
		if err := s.flush(); err != nil {
			return err
		}
		beat, cancel := context.WithTimeout(ctx, s.beat)
		events, lost, err := reader.Next(beat)
		cancel()
		switch {
		case errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil:
			s.out.WriteString(": heart-beat\n\n")
			continue
		case err != nil && ctx.Err() == nil: // the daemon ends, or the sink has gone
			s.out.WriteString("event: end\ndata: ")
			s.line([]byte(strconv.Quote(err.Error())))
			s.out.WriteString("\n")
			return s.flush()
		case err != nil:
			return err
		}
		if lost > 0 {
			fmt.Fprintf(&s.out, "event: lost\ndata: {\"lost\":%d}\n\n", lost)
		}
		for _, e := range events {
			s.out.WriteString("id: ")
			s.line([]byte(e.ID))
			s.out.WriteString("data: ")
			s.line(e.JSON)
			s.out.WriteString("\n")
			if s.out.Len() >= 64<<10 {
				if err := s.flush(); err != nil {
					return err
				}
			}
		}
	}
}

// line writes one line. Events are JSON on one line; what is not is no reason to break the stream.
func (s *stream) line(text []byte) {
	for _, c := range text {
		if c == '\n' || c == '\r' {
			c = ' '
		}
		s.out.WriteByte(c)
	}
	s.out.WriteByte('\n')
}

// flush writes what was gathered. A client that does not read in time is left alone.
func (s *stream) flush() error {
	if s.out.Len() == 0 {
		return nil
	}
	err := s.control.SetWriteDeadline(time.Now().Add(WriteTimeout))
	if err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	_, err = s.w.Write(s.out.Bytes())
	s.out.Reset()
	if s.out.Cap() > 1<<20 {
		s.out = bytes.Buffer{} // one huge event is no reason to keep its memory
	}
	if err != nil {
		return err
	}
	return s.control.Flush()
}
