// Package hec is a judge for tests: an HTTP event collector that answers as Splunk documents it.
//
// Each rule has the address it comes from: [codes], [format], [acks], [rest], and [moby] for what
// these leave open.
//
// [codes]: https://help.splunk.com/en/splunk-enterprise/get-data-in/collect-http-event-data/troubleshoot-http-event-collector
// [format]: https://help.splunk.com/en/splunk-enterprise/get-data-in/collect-http-event-data/format-events-for-http-event-collector
// [acks]: https://help.splunk.com/en/splunk-enterprise/get-data-in/collect-http-event-data/about-http-event-collector-indexer-acknowledgment
// [rest]: https://docs.splunk.com/Documentation/Splunk/latest/RESTREF/RESTinput
// [moby]: https://github.com/moby/moby/issues/35862
package hec

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/hmcnotifyd/hmcnotifyd/tests/httpbody"
)

// Event is one event as the collector has taken it.
type Event struct {
	Time       json.Number     `json:"time"`
	Host       string          `json:"host"`
	Source     string          `json:"source"`
	Sourcetype string          `json:"sourcetype"`
	Index      string          `json:"index"`
	Fields     map[string]any  `json:"fields"`
	Event      json.RawMessage `json:"event"`
}

// Settings are what an administrator sets, or what happens to a collector.
type Settings struct {
	// Token is the only one; Disabled says that it is turned off.
	Token    string
	Disabled bool
	// Indexes are those that the token may write to; none: all.
	Indexes []string
	// Acknowledge turns indexer acknowledgement on, Lag is how many questions for one are answered
	// with no, and Forgets says that none is ever acknowledged.
	Acknowledge bool
	Lag         int
	Forgets     bool
	// Busy says that the queues are full.
	Busy bool
	// MaxContentLength is that of limits.conf; 0: 800 MiB.
	MaxContentLength int64
	// Invalid says of an event that it is not in a valid format, besides those that are not.
	Invalid func(Event) bool
	// Count says that events, each on a line, are only counted.
	Count bool
}

// Server is a collector: an http.Handler.
type Server struct {
	mu       sync.Mutex
	settings Settings
	events   []Event
	taken    int
	requests int
	polls    int
	channels map[string]map[int64]int // questions left by ackId
	next     map[string]int64
}

// New makes a collector.
func New(settings Settings) *Server {
	return &Server{settings: settings, channels: make(map[string]map[int64]int), next: make(map[string]int64)}
}

// Change changes the settings.
func (s *Server) Change(change func(*Settings)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.settings)
}

// Events returns what was taken, in its order.
func (s *Server) Events() []Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.events)
}

// Counts returns how many events were taken, how many requests there were with events, taken or
// not, and how often acknowledgements were asked for.
func (s *Server) Counts() (events, requests, polls int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.taken, s.requests, s.polls
}

// answer is one of the documented answers.
type answer struct {
	status  int
	text    string
	code    int
	invalid *int
	ack     *int64
}

func (a answer) write(w http.ResponseWriter) {
	body := map[string]any{"text": a.text, "code": a.code}
	if a.invalid != nil {
		body["invalid-event-number"] = *a.invalid
	}
	if a.ack != nil {
		body["ackId"] = *a.ack
	}
	w.Header().Set("Content-Type", "application/json; charset=UTF-8")
	w.WriteHeader(a.status)
	_ = json.NewEncoder(w).Encode(body)
}

func at(n int, a answer) answer {
	a.invalid = &n
	return a
}

// [codes]: "Possible error codes".
var (
	success         = answer{status: http.StatusOK, text: "Success", code: 0}
	tokenDisabled   = answer{status: http.StatusForbidden, text: "Token disabled", code: 1}
	tokenRequired   = answer{status: http.StatusUnauthorized, text: "Token is required", code: 2}
	invalidAuth     = answer{status: http.StatusUnauthorized, text: "Invalid authorization", code: 3}
	invalidToken    = answer{status: http.StatusForbidden, text: "Invalid token", code: 4}
	noData          = answer{status: http.StatusBadRequest, text: "No data", code: 5}
	invalidFormat   = answer{status: http.StatusBadRequest, text: "Invalid data format", code: 6}
	incorrectIndex  = answer{status: http.StatusBadRequest, text: "Incorrect index", code: 7}
	serverBusy      = answer{status: http.StatusServiceUnavailable, text: "Server is busy", code: 9}
	channelMissing  = answer{status: http.StatusBadRequest, text: "Data channel is missing", code: 10}
	channelInvalid  = answer{status: http.StatusBadRequest, text: "Invalid data channel", code: 11}
	eventRequired   = answer{status: http.StatusBadRequest, text: "Event field is required", code: 12}
	eventBlank      = answer{status: http.StatusBadRequest, text: "Event field cannot be blank", code: 13}
	ackDisabled     = answer{status: http.StatusBadRequest, text: "ACK is disabled", code: 14}
	invalidFields   = answer{status: http.StatusBadRequest, text: "Error in handling indexed fields", code: 15}
	healthy         = answer{status: http.StatusOK, text: "HEC is healthy", code: 17}
	unhealthy       = answer{status: http.StatusServiceUnavailable, text: "HEC is unhealthy, queues are full", code: 18}
	healthNoToken   = answer{status: http.StatusBadRequest, text: "Invalid token", code: 21}
	healthDisabled  = answer{status: http.StatusBadRequest, text: "Token disabled", code: 22}
	methodNotPOST   = answer{status: http.StatusMethodNotAllowed, text: "Method not allowed", code: 404}
	contentTooLarge = answer{status: http.StatusRequestEntityTooLarge, text: "Content-Length is too large", code: 27}
)

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch r.URL.Path { // [rest]
	case "/services/collector", "/services/collector/event", "/services/collector/event/1.0":
		s.requests++
		s.collect(r).write(w)
	case "/services/collector/ack":
		s.polls++
		s.acknowledge(w, r)
	case "/services/collector/health", "/services/collector/health/1.0":
		switch refusal := s.authorize(r); {
		case refusal.code == tokenDisabled.code:
			healthDisabled.write(w)
		case refusal.code != success.code:
			healthNoToken.write(w)
		case s.settings.Busy:
			unhealthy.write(w)
		default:
			healthy.write(w)
		}
	default:
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, "The requested URL was not found on this server.")
	}
}

// authorize looks at the token: [format], "Authorization: Splunk <hec_token>".
func (s *Server) authorize(r *http.Request) answer {
	value := r.Header.Get("Authorization")
	token, ok := strings.CutPrefix(value, "Splunk ")
	switch {
	case value == "":
		return tokenRequired
	case !ok:
		return invalidAuth
	case token != s.settings.Token:
		return invalidToken
	case s.settings.Disabled:
		return tokenDisabled
	}
	return success
}

var guid = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)

// channel is where a request says who it is from: [acks], a header or a part of the query.
func channel(r *http.Request) string {
	if c := r.Header.Get("X-Splunk-Request-Channel"); c != "" {
		return c
	}
	return r.URL.Query().Get("channel")
}

// collect takes events.
func (s *Server) collect(r *http.Request) answer {
	body, err := httpbody.Read(r, cmp.Or(s.settings.MaxContentLength, 800<<20))
	refusal := s.authorize(r)
	switch {
	case r.Method != http.MethodPost:
		return methodNotPOST
	case refusal.code != success.code:
		return refusal
	case errors.Is(err, httpbody.ErrTooLarge):
		return contentTooLarge
	case err != nil:
		return invalidFormat
	case s.settings.Busy:
		return serverBusy
	case s.settings.Acknowledge && channel(r) == "": // [acks]
		return channelMissing
	case s.settings.Acknowledge && !guid.MatchString(channel(r)):
		return channelInvalid
	case len(bytes.TrimSpace(body)) == 0:
		return noData
	}
	refusal = success
	if s.settings.Count {
		s.taken += bytes.Count(body, []byte{'\n'})
	} else {
		var taken []Event
		taken, refusal = s.read(body)
		s.taken += len(taken)
		s.events = append(s.events, taken...)
	}
	if refusal.code == success.code && s.settings.Acknowledge {
		id := s.next[channel(r)]
		s.next[channel(r)]++
		if s.channels[channel(r)] == nil {
			s.channels[channel(r)] = make(map[int64]int)
		}
		s.channels[channel(r)][id] = s.settings.Lag
		refusal.ack = &id
	}
	return refusal
}

// read reads events that stand behind each other, and not in an array: [format], "Batching events".
// The first that is not valid ends it: those before it are taken, those behind it are not: [moby].
func (s *Server) read(body []byte) (taken []Event, a answer) {
	d := json.NewDecoder(bytes.NewReader(body))
	for n := 0; ; n++ {
		var raw struct {
			Event
			Fields json.RawMessage `json:"fields"`
		}
		switch err := d.Decode(&raw); {
		case errors.Is(err, io.EOF):
			return taken, success
		case err != nil:
			return taken, at(n, invalidFormat)
		}
		e := raw.Event
		switch {
		case len(e.Event) == 0 || string(e.Event) == "null":
			return taken, at(n, eventRequired)
		case string(e.Event) == `""`:
			return taken, at(n, eventBlank)
		case !flat(raw.Fields, &e.Fields):
			return taken, at(n, invalidFields)
		case s.settings.Invalid != nil && s.settings.Invalid(e):
			return taken, at(n, invalidFormat)
		case e.Index != "" && len(s.settings.Indexes) > 0 && !slices.Contains(s.settings.Indexes, e.Index):
			// The only one that is counted from 1, and nothing of the request is taken:
			// https://github.com/signalfx/splunk-otel-collector-chart/issues/935
			return nil, at(n+1, incorrectIndex)
		}
		taken = append(taken, e)
	}
}

// flat reads the fields, which are not nested: [format], "Event metadata".
func flat(raw json.RawMessage, into *map[string]any) bool {
	if len(raw) == 0 {
		return true
	}
	if json.Unmarshal(raw, into) != nil {
		return false
	}
	for _, value := range *into {
		switch list := value.(type) {
		case map[string]any, nil:
			return false
		case []any:
			if slices.ContainsFunc(list, func(v any) bool { _, text := v.(string); return !text }) {
				return false
			}
		}
	}
	return true
}

// acknowledge answers what has been indexed: [acks], "Query for indexing status". It says yes once,
// and no of what it does not know.
func (s *Server) acknowledge(w http.ResponseWriter, r *http.Request) {
	refusal := s.authorize(r)
	var asked struct {
		Acks []int64 `json:"acks"`
	}
	known := s.channels[channel(r)]
	switch err := json.NewDecoder(r.Body).Decode(&asked); {
	case r.Method != http.MethodPost:
		refusal = methodNotPOST
	case refusal.code != success.code:
	case !s.settings.Acknowledge:
		refusal = ackDisabled
	case channel(r) == "":
		refusal = channelMissing
	case !guid.MatchString(channel(r)):
		refusal = channelInvalid
	case err != nil:
		refusal = invalidFormat
	}
	if refusal.code != success.code {
		refusal.write(w)
		return
	}
	acks := make(map[string]bool, len(asked.Acks))
	for _, id := range asked.Acks {
		left, waits := known[id]
		done := waits && left == 0 && !s.settings.Forgets
		acks[fmt.Sprint(id)] = done
		if done {
			delete(known, id)
		} else if waits && left > 0 {
			known[id] = left - 1
		}
	}
	w.Header().Set("Content-Type", "application/json; charset=UTF-8")
	_ = json.NewEncoder(w).Encode(map[string]any{"acks": acks})
}
