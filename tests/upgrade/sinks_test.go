package upgrade_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// arrival is an event as a sink got it.
type arrival struct {
	ID       string          `json:"id"`
	HMC      string          `json:"hmc"`
	Type     string          `json:"type"`
	Origin   string          `json:"origin"`
	Topic    string          `json:"topic"`
	Summary  string          `json:"summary"`
	Body     json.RawMessage `json:"body"`
	Resource struct {
		Name       string `json:"name"`
		ObjectURI  string `json:"object_uri"`
		ElementURI string `json:"element_uri"`
	} `json:"resource"`

	raw []byte
}

func parse(raw []byte) (arrival, error) {
	a := arrival{raw: bytes.Clone(raw)}
	if err := json.Unmarshal(raw, &a); err != nil || a.ID == "" {
		return a, fmt.Errorf("not an event (%w): %.300s", err, raw)
	}
	return a, nil
}

// sum is the checksum of an event or a value.
func sum(raw []byte) string { return fmt.Sprintf("%08x", crc32.ChecksumIEEE(raw)) }

// lane is what the order is kept of.
func (a *arrival) lane() string {
	if a.Resource.ObjectURI != "" {
		return a.Resource.ObjectURI
	}
	return a.HMC + " " + a.Topic
}

// text is what a log entry or OS message says.
func (a *arrival) text() string {
	for _, name := range []string{"message-text", "event-message", "text"} {
		if v := event.Member(a.Body, name); v != nil {
			return strings.TrimSpace(event.String(v))
		}
	}
	return ""
}

// ownLogon says whether an event tells that the daemon has logged on or off.
func (a *arrival) ownLogon() bool {
	id := event.String(event.Member(a.Body, "event-id"))
	return a.Type == event.TypeLogEntry && (id == "1941" || id == "1942")
}

// hook is a webhook consumer.
type hook struct {
	server *httptest.Server

	mu       sync.Mutex
	answer   func(body []byte) int // nil: 200
	arrivals []arrival
	refused  map[string]int // ids of events that were answered with 400
	problems []string
}

// startHook starts a consumer. It ends with the test.
func startHook(t *testing.T) *hook {
	t.Helper()
	h := &hook{refused: make(map[string]int)}
	h.server = httptest.NewServer(h)
	t.Cleanup(func() {
		h.server.Close()
		for _, p := range h.problems {
			t.Error(p)
		}
	})
	return h
}

func (h *hook) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the sender has gone
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	status := http.StatusOK
	if h.answer != nil {
		status = h.answer(body)
	}
	records := [][]byte{body}
	if body[0] == '[' {
		records = slices.Collect(event.Elements(body))
	}
	for _, raw := range records {
		a, err := parse(raw)
		switch {
		case err != nil:
			h.problems = append(h.problems, err.Error())
		case status == http.StatusOK:
			h.arrivals = append(h.arrivals, a)
		case status == http.StatusBadRequest:
			h.refused[a.ID]++
		}
	}
	w.WriteHeader(status)
}

// set says what requests are answered with from now on.
func (h *hook) set(answer func(body []byte) int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.answer = answer
}

func (h *hook) got() []arrival {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.arrivals)
}

// handled are the ids of the events that were accepted or refused for good.
func (h *hook) handled() map[string]bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	ids := make(map[string]bool)
	for i := range h.arrivals {
		ids[h.arrivals[i].ID] = true
	}
	for id := range h.refused {
		ids[id] = true
	}
	return ids
}

// alertmanager keeps the alerts that it was told of.
type alertmanager struct {
	server *httptest.Server

	mu       sync.Mutex
	alerts   map[string]postedAlert // by their labels
	problems []string
}

type postedAlert struct {
	Labels   map[string]string `json:"labels"`
	StartsAt time.Time         `json:"startsAt"`
	EndsAt   time.Time         `json:"endsAt"`
}

// startAlertmanager starts a server. It ends with the test.
func startAlertmanager(t *testing.T) *alertmanager {
	t.Helper()
	m := &alertmanager{alerts: make(map[string]postedAlert)}
	m.server = httptest.NewServer(m)
	t.Cleanup(func() {
		m.server.Close()
		for _, p := range m.problems {
			t.Error(p)
		}
	})
	return m
}

func (m *alertmanager) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var posted []postedAlert
	err := json.NewDecoder(r.Body).Decode(&posted)
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil {
		m.problems = append(m.problems, err.Error())
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	for _, a := range posted {
		var labels []string
		for _, name := range slices.Sorted(maps.Keys(a.Labels)) {
			labels = append(labels, name+"="+a.Labels[name])
		}
		m.alerts[strings.Join(labels, ",")] = a
	}
}

// all are the alerts that Alertmanager was ever told of, and since when those fire that do; the
// zero time: it is resolved.
func (m *alertmanager) all() map[string]time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make(map[string]time.Time)
	for labels, a := range m.alerts {
		out[labels] = time.Time{}
		if a.EndsAt.After(time.Now()) {
			out[labels] = a.StartsAt
		}
	}
	return out
}

// firing are those that fire.
func (m *alertmanager) firing() map[string]time.Time {
	out := m.all()
	maps.DeleteFunc(out, func(_ string, since time.Time) bool { return since.IsZero() })
	return out
}

// journal reads what the log sink has written. An event that is being written is left out.
func journal(t *testing.T, path string) []arrival {
	t.Helper()
	data, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	var out []arrival
	for line := range bytes.Lines(data) {
		raw, ended := bytes.CutSuffix(line, []byte("\n"))
		if !ended {
			break
		}
		a, err := parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, a)
	}
	return out
}

// count is how many events a function is true of.
func count(events []arrival, is func(a *arrival) bool) (n int) {
	for i := range events {
		if is(&events[i]) {
			n++
		}
	}
	return n
}
