package sinks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	promconfig "github.com/prometheus/common/config"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/match"
)

// fakeAlertmanager takes alerts as Alertmanager does, and keeps the last of each set of labels.
type fakeAlertmanager struct {
	server *httptest.Server
	state  atomic.Int32
	wait   atomic.Int32
	leave  chan struct{}
	stop   func()

	mu       sync.Mutex
	posts    int
	received []wireAlert // all, in order
}

func startAlertmanager(t *testing.T) *fakeAlertmanager {
	t.Helper()
	f := &fakeAlertmanager{leave: make(chan struct{})}
	f.server = httptest.NewServer(http.HandlerFunc(f.answer))
	f.stop = sync.OnceFunc(func() { close(f.leave); f.server.Close() })
	t.Cleanup(f.stop)
	return f
}

func (f *fakeAlertmanager) answer(w http.ResponseWriter, r *http.Request) {
	body, err := readBody(r)
	if err != nil {
		return
	}
	f.mu.Lock()
	f.posts++
	f.mu.Unlock()
	var alerts []wireAlert
	switch err := json.Unmarshal(body, &alerts); {
	case r.Method != http.MethodPost || strings.TrimPrefix(r.URL.Path, "/prefix") != "/api/v2/alerts" || r.Header.Get("Content-Type") != "application/json":
		http.Error(w, "no such thing: "+r.Method+" "+r.URL.Path, http.StatusNotFound)
		return
	case err != nil:
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	for i := range alerts {
		a := &alerts[i]
		if a.EndsAt.Before(a.StartsAt) || a.Labels["alertname"] == "" || slices.Contains(slices.Collect(maps.Values(a.Labels)), "") {
			http.Error(w, fmt.Sprintf("invalid: %+v", a), http.StatusBadRequest)
			return
		}
	}
	switch behavior(f.state.Load()) {
	case refuse:
		http.Error(w, "bad: "+r.Header.Get("Authorization"), http.StatusBadRequest)
	case busy:
		http.Error(w, "busy", http.StatusServiceUnavailable)
	case pause:
		http.Error(w, "not "+r.Header.Get("Authorization"), http.StatusUnauthorized)
	case defer30:
		w.Header().Set("Retry-After", "30")
		w.WriteHeader(http.StatusTooManyRequests)
	case hang:
		f.wait.Add(1)
		select {
		case <-r.Context().Done():
		case <-f.leave:
		}
	case accept:
		f.mu.Lock()
		f.received = append(f.received, alerts...)
		f.mu.Unlock()
	}
}

func (f *fakeAlertmanager) url() config.URL { return config.NewURL(f.server.URL + "/prefix/") }

func (f *fakeAlertmanager) all() []wireAlert {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.received)
}

// current are the alerts as the last request about each said, as "name resource firing".
func (f *fakeAlertmanager) current() []string {
	last := make(map[string]string)
	for _, a := range f.all() {
		labels, _ := json.Marshal(a.Labels)
		state := "firing"
		if !a.EndsAt.After(time.Now()) {
			state = "resolved"
		}
		last[string(labels)] = strings.Join([]string{a.Labels["alertname"], a.Labels["hmc"], a.Labels["resource"], a.Labels["severity"], state}, " ")
	}
	return slices.Sorted(maps.Values(last))
}

func alertmanagerConfig(members ...*fakeAlertmanager) config.Sink {
	c := &config.Alertmanager{Alerts: config.AlertNames(), ResendInterval: time.Minute, OSMessageResolve: time.Hour}
	for _, m := range members {
		c.URLs = append(c.URLs, m.url())
	}
	return config.Sink{Name: "alerts", Alertmanager: c, Timeout: patience, Concurrency: 4}
}

// The far side of an alertmanager for the contract: the events of the contract are about a partition each, which tells from which
// event an alert comes.
func newAlertmanagerPeer(t *testing.T) *peer {
	const password = "p4ss-of-the-alertmanager"
	f := startAlertmanager(t)
	cfg := alertmanagerConfig(f)
	cfg.Alertmanager.HTTPConfig = config.NewHTTPConfig(promconfig.HTTPClientConfig{
		BasicAuth: &promconfig.BasicAuth{Username: "hmc", Password: password}, EnableHTTP2: true,
	})
	return &peer{
		cfg: cfg, opts: Options{Version: "1.2.3"}, secrets: []string{password},
		can:     []behavior{refuse, busy, defer30, hang, pause},
		behave:  func(b behavior) { f.state.Store(int32(b)) },
		hanging: func() bool { return f.wait.Load() > 0 },
		received: func() []json.RawMessage {
			var events []json.RawMessage
			for _, a := range f.all() {
				var n int
				if _, err := fmt.Sscanf(a.Labels["resource"], "PART%d", &n); err != nil {
					t.Errorf("labels %v", a.Labels)
				}
				rec := record(n)
				if a.Annotations["status"] == "" { // of a large one: there is nothing in its body
					rec = largeRecord(n, 5<<20)
				}
				events = append(events, rec.JSON)
			}
			return events
		},
		visitors: func() int {
			f.mu.Lock()
			defer f.mu.Unlock()
			return f.posts
		},
		leave: f.stop,
	}
}

// memoryStore is a Store that lasts as long as the test.
type memoryStore struct {
	mu     sync.Mutex
	values map[string][]byte
	fails  error
}

func (m *memoryStore) Range(fn func(string, []byte) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for key, value := range m.values {
		if !fn(key, value) {
			return
		}
	}
}

func (m *memoryStore) Put(_ context.Context, values map[string][]byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fails != nil {
		return m.fails
	}
	if m.values == nil {
		m.values = make(map[string][]byte)
	}
	for key, value := range values {
		if value == nil {
			delete(m.values, key)
		} else {
			m.values[key] = value
		}
	}
	return nil
}

// alerting is a sink with what a test wants to say to it.
type alerting struct {
	*testing.T
	sink Sink
	at   time.Time // when the next event is received
}

func startAlerting(t *testing.T, cfg config.Sink, opts Options) *alerting {
	t.Helper()
	s, err := New(cfg, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	s.(Follower).Follow(map[string]string{"a": "east", "b": "east", "c": "west"})
	return &alerting{T: t, sink: s, at: time.Now().Add(-10 * time.Second)}
}

// tell sends one event.
func (a *alerting) tell(e event.Event) error {
	a.Helper()
	a.at = a.at.Add(time.Millisecond)
	e.Received = a.at.UTC().Truncate(time.Millisecond)
	if e.Time.IsZero() {
		e.Time = e.Received
	}
	if e.HMC == "" {
		e.HMC = "a"
	}
	if e.Severity == "" {
		e.Severity = event.SeverityInfo
	}
	if e.ID == "" {
		e.ID = event.NewID("test", a.at.String())
	}
	return a.sink.Send(a.Context(), []event.Record{event.NewRecord(&e)})
}

func (a *alerting) must(e event.Event) {
	a.Helper()
	if err := a.tell(e); err != nil {
		a.Fatal(err)
	}
}

func (a *alerting) repeat() {
	a.Helper()
	if err := a.sink.(Repeater).Repeat(a.Context()); err != nil {
		a.Fatal(err)
	}
}

func (a *alerting) expect(f *fakeAlertmanager, want ...string) {
	a.Helper()
	slices.Sort(want)
	if got := f.current(); !slices.Equal(got, want) {
		a.Errorf("Alertmanager has\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func partition(name string) *event.Resource {
	return &event.Resource{Class: "partition", Name: name, CPC: "CPC1", ObjectURI: "/api/partitions/" + strings.ToLower(name)}
}

func statusOf(r *event.Resource, status, severity string) event.Event {
	return event.Event{
		Type: event.TypeStatusChange, Resource: r, Severity: severity, Summary: r.Name + " is " + status,
		Body: fmt.Appendf(nil, `{"change-reports":[{"old-status":"x","new-status":%q}]}`, status),
	}
}

// A status that is not acceptable fires, with labels and annotations that ordinary routes and people can use, and the next good one
// resolves it.
func TestAlertOfStatus(t *testing.T) {
	f := startAlertmanager(t)
	cfg := alertmanagerConfig(f)
	cfg.Alertmanager.Labels = map[string]string{"team": "mainframe"}
	a := startAlerting(t, cfg, Options{})
	began := time.Now().Add(-time.Hour).UTC().Truncate(time.Millisecond)
	e := statusOf(partition("LINUX7"), "stopped", event.SeverityWarning)
	e.Time = began
	a.must(e)
	got := f.all()
	if len(got) != 1 {
		t.Fatalf("%+v", got)
	}
	want := map[string]string{
		"alertname": "HMCResourceStatus", "severity": "warning", "hmc": "a", "cpc": "CPC1", "resource": "LINUX7", "class": "partition", "team": "mainframe",
	}
	if !maps.Equal(got[0].Labels, want) {
		t.Errorf("labels %v", got[0].Labels)
	}
	if n := got[0].Annotations; n["summary"] != "LINUX7 is stopped" || n["status"] != "stopped" || !strings.Contains(n["description"], "/api/partitions/linux7") {
		t.Errorf("annotations %v", n)
	}
	if !got[0].StartsAt.Equal(began) {
		t.Errorf("starts %s, want %s", got[0].StartsAt, began)
	}
	if lasts := time.Until(got[0].EndsAt); lasts < 3*time.Minute || lasts > 4*time.Minute {
		t.Errorf("it lasts %s", lasts)
	}
	a.must(statusOf(partition("OTHER"), "active", event.SeverityInfo)) // says nothing that Alertmanager has to know
	a.must(event.Event{Type: event.TypePropertyChange, Resource: partition("LINUX7")})
	if n := len(f.all()); n != 1 {
		t.Errorf("%d alerts were sent", n)
	}
	// Another severity is another alert; the one before ends.
	a.must(statusOf(partition("LINUX7"), "terminated", event.SeverityCritical))
	a.expect(f, "HMCResourceStatus a LINUX7 critical firing", "HMCResourceStatus a LINUX7 warning resolved")
	a.must(statusOf(partition("LINUX7"), "active", event.SeverityInfo))
	a.expect(f, "HMCResourceStatus a LINUX7 critical resolved", "HMCResourceStatus a LINUX7 warning resolved")
	last := f.all()[len(f.all())-1]
	if n := last.Annotations; n["summary"] != "LINUX7 is active" || n["status"] != "active" || !strings.HasPrefix(n["description"], "LINUX7 is active\n") || last.EndsAt.Before(last.StartsAt) {
		t.Errorf("resolved as %+v", last)
	}
	// An old event, out of the dead letters or after a restart, changes nothing.
	a.at = a.at.Add(-time.Minute)
	a.must(statusOf(partition("LINUX7"), "terminated", event.SeverityCritical))
	a.expect(f, "HMCResourceStatus a LINUX7 critical resolved", "HMCResourceStatus a LINUX7 warning resolved")
}

// Whatever is known of two resources, and whatever they have in common: one does not end the alert of the other.
func TestAlertsOfTwoAreTwo(t *testing.T) {
	adapter := func(id, name, cpc string) *event.Resource {
		return &event.Resource{Class: "adapter", Name: name, CPC: cpc, ObjectURI: "/api/adapters/" + id, ObjectID: id}
	}
	port := func(id, element, name, cpc string) *event.Resource {
		r := adapter(id, name, cpc)
		r.Class, r.ElementURI, r.ElementID = "storage-port", r.ObjectURI+"/storage-ports/"+element, element
		return r
	}
	for name, two := range map[string][2]*event.Resource{
		"on two CPCs":              {adapter("1", "OSD", "C1"), adapter("2", "OSD", "C2")},
		"on one that is known":     {adapter("1", "OSD", "C1"), adapter("2", "OSD", "")},
		"the CPCs are not known":   {adapter("1", "OSD", ""), adapter("2", "OSD", "")},
		"the names are not known":  {adapter("1", "", "C1"), adapter("2", "", "C1")},
		"nothing but the URI":      {{ObjectURI: "/api/adapters/1"}, {ObjectURI: "/api/adapters/2"}},
		"two ports of an adapter":  {port("1", "0", "OSD", "C1"), port("1", "1", "OSD", "C1")},
		"ports of two adapters":    {port("1", "0", "Port 0", "C1"), port("2", "0", "Port 0", "C1")},
		"an adapter and its port":  {adapter("1", "OSD", "C1"), port("1", "0", "OSD", "C1")},
		"a port without an id":     {port("1", "0", "", ""), {ObjectURI: "/api/adapters/1", ElementURI: "/api/adapters/1/storage-ports/1"}},
		"a CPC and one without":    {{Class: "cpc", Name: "C1", CPC: "C1", ObjectURI: "/api/cpcs/1"}, {Class: "cpc", ObjectURI: "/api/cpcs/2"}},
		"two CPCs without a name":  {{Class: "cpc", ObjectURI: "/api/cpcs/1"}, {Class: "cpc", ObjectURI: "/api/cpcs/2"}},
		"partitions of two groups": {partition("P"), {Class: "partition", Name: "P", CPC: "CPC2", ObjectURI: "/api/partitions/p2"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := startAlertmanager(t)
			a := startAlerting(t, alertmanagerConfig(f), Options{})
			for _, r := range two {
				a.must(statusOf(r, "not-active", event.SeverityWarning))
			}
			a.must(statusOf(two[1], "active", event.SeverityInfo))
			firing, resolved := 0, 0
			for _, state := range f.current() {
				if strings.HasSuffix(state, " firing") {
					firing++
				} else {
					resolved++
				}
			}
			if firing != 1 || resolved != 1 {
				t.Errorf("%q", f.current())
			}
		})
	}
}

// Storage that is incomplete, and a link without a signal, are statuses too; what else changes of the same object ends nothing.
func TestAlertOfStatusProperties(t *testing.T) {
	f := startAlertmanager(t)
	a := startAlerting(t, alertmanagerConfig(f), Options{})
	change := func(class, property, value, severity string) event.Event {
		return event.Event{
			Type: event.TypePropertyChange, Severity: severity, Resource: &event.Resource{Class: class, Name: "X", ObjectURI: "/api/x/" + class},
			Body: []byte(`{"change-reports":[{"property-name":"description","new-value":"d"},{"property-name":"` + property + `","new-value":"` + value + `"}]}`),
		}
	}
	a.must(change("storage-group", "fulfillment-state", "incomplete", event.SeverityWarning))
	a.must(change("adapter", "physical-channel-status", "link-failure", event.SeverityWarning))
	a.must(change("partition", "fulfillment-state", "incomplete", event.SeverityWarning)) // no partition has it
	a.must(change("adapter", "name", "X", event.SeverityInfo))
	a.must(change("storage-group", "description", "x", event.SeverityInfo))
	a.expect(f, "HMCResourceStatus a X warning firing", "HMCResourceStatus a X warning firing")
	a.must(change("adapter", "physical-channel-status", "operating", event.SeverityInfo))
	a.expect(f, "HMCResourceStatus a X warning firing", "HMCResourceStatus a X warning resolved")
	if last := f.all()[len(f.all())-1]; last.Labels["message"] != "physical-channel-status" || last.Labels["class"] != "adapter" {
		t.Errorf("%v", last.Labels)
	}
	a.must(change("storage-group", "fulfillment-state", "complete", event.SeverityInfo))
	a.expect(f, "HMCResourceStatus a X warning resolved", "HMCResourceStatus a X warning resolved")
	// Of several changes in one notification the last counts, and a value that is not told ends nothing.
	several := func(severity string, values ...string) event.Event {
		var reports []string
		for _, value := range values {
			reports = append(reports, `{"property-name":"fulfillment-state","new-value":`+value+`}`)
		}
		e := change("storage-group", "", "", severity)
		e.Body = []byte(`{"change-reports":[` + strings.Join(reports, ",") + `]}`)
		return e
	}
	a.must(several(event.SeverityWarning, `"complete"`, `"incomplete"`))
	a.must(several(event.SeverityInfo, "null"))
	a.expect(f, "HMCResourceStatus a X warning firing", "HMCResourceStatus a X warning resolved")
	a.must(several(event.SeverityInfo, `"incomplete"`, `"complete"`))
	a.expect(f, "HMCResourceStatus a X warning resolved", "HMCResourceStatus a X warning resolved")
	// Nor does a status change that tells no status.
	status := func(severity, reports string) event.Event {
		e := change("adapter", "", "", severity)
		e.Type, e.Body = event.TypeStatusChange, []byte(`{"change-reports":[`+reports+`]}`)
		return e
	}
	a.must(status(event.SeverityWarning, `{"old-status":"active","new-status":"not-detected"}`))
	a.must(status(event.SeverityInfo, ""))
	a.expect(f, "HMCResourceStatus a X warning firing", "HMCResourceStatus a X warning resolved", "HMCResourceStatus a X warning resolved")
}

// A message that waits for an answer fires until it does not wait any more, whatever match leaves out; what it was of has labels of
// its operating system.
func TestAlertOfAMessageThatWaits(t *testing.T) {
	f := startAlertmanager(t)
	a := startAlerting(t, alertmanagerConfig(f), Options{Selects: func(rec event.Record) bool { return !strings.Contains(string(rec.JSON), "answered") }})
	message := func(id, body string) event.Event {
		return event.Event{
			ID: id, Type: event.TypeOSMessage, Origin: event.OriginLive, Severity: event.SeverityWarning, Body: []byte(body),
			Resource: &event.Resource{Class: "logical-partition", Name: "LP01", ObjectURI: "/api/logical-partitions/l", CPC: "M90", OSName: "SY01", OSLevel: "V2.5", Sysplex: "PLEX1"},
		}
	}
	a.must(message("0123456789abcdef", `{"message-text":"*17 REPLY","prompt-text":"R 17,","is-held":true}`))
	a.must(message("fedcba9876543210", `{"message-text":"*18 REPLY","prompt-text":"R 18,","is-held":true}`))
	got := f.all()
	if len(got) != 2 || got[0].Labels["os_name"] != "SY01" || got[0].Labels["os_level"] != "V2.5" || got[0].Labels["sysplex"] != "PLEX1" || got[0].Annotations["prompt"] != "R 17," {
		t.Fatalf("%+v", got)
	}
	a.must(message("x", `{"message-text":"*17 REPLY","is-held":false,"answered":"another"}`))
	a.expect(f, "HMCOSMessage a LP01 warning firing", "HMCOSMessage a LP01 warning firing")
	a.must(message("y", `{"message-text":"*17 REPLY","is-held":false,"answered":"0123456789abcdef"}`))
	a.expect(f, "HMCOSMessage a LP01 warning firing", "HMCOSMessage a LP01 warning resolved")
	if last := f.all()[len(f.all())-1]; last.Labels["message"] != "0123456789ab" {
		t.Errorf("%v", last.Labels)
	}
}

// A clock that is set back does not keep an alert from resolving.
func TestAlertWhenTheClockIsSetBack(t *testing.T) {
	f := startAlertmanager(t)
	a := startAlerting(t, alertmanagerConfig(f), Options{})
	a.at = time.Now().Add(time.Hour)
	a.must(statusOf(partition("P1"), "stopped", event.SeverityWarning))
	a.at = time.Now()
	a.must(statusOf(partition("P1"), "active", event.SeverityInfo))
	a.expect(f, "HMCResourceStatus a P1 warning resolved")
}

// Which statuses fire is a matter of the configuration, and match and drop leave out what may fire, never what resolves.
func TestAlertSelection(t *testing.T) {
	f := startAlertmanager(t)
	cfg := alertmanagerConfig(f)
	p, err := match.NewPattern("paused|reserved")
	if err != nil {
		t.Fatal(err)
	}
	cfg.Alertmanager.Statuses = match.Patterns{p}
	a := startAlerting(t, cfg, Options{Selects: func(rec event.Record) bool {
		return strings.Contains(string(rec.JSON), `"name":"PROD`) && strings.Contains(string(rec.JSON), "is paused")
	}})
	a.must(statusOf(partition("PROD1"), "stopped", event.SeverityWarning))
	a.must(statusOf(partition("PROD2"), "paused", event.SeverityInfo))
	a.must(statusOf(partition("TEST1"), "paused", event.SeverityInfo))
	a.must(statusOf(partition("PROD3"), "reserved", event.SeverityInfo))
	a.expect(f, "HMCResourceStatus a PROD2 info firing")
	for _, report := range []string{`"has-unacceptable-status":false`, `"old-additional-status":"a","new-additional-status":"b"`} { // the status is what it was
		same := statusOf(partition("PROD2"), "", event.SeverityInfo)
		same.Body = []byte(`{"change-reports":[{` + report + `}]}`)
		a.must(same)
	}
	a.expect(f, "HMCResourceStatus a PROD2 info firing")
	a.must(statusOf(partition("PROD2"), "active", event.SeverityInfo))
	a.expect(f, "HMCResourceStatus a PROD2 info resolved")
	s := a.sink.(Selector)
	for typ, want := range map[string]bool{
		event.TypeStatusChange: true, event.TypeInventoryChange: true, event.TypeLogEntry: false, event.TypeJobCompletion: false, event.TypeBridgeTest: false,
	} {
		if s.Wants(event.Record{Type: typ}) != want {
			t.Errorf("wants %s: %v", typ, !want)
		}
	}
}

// Nothing is left of what is gone, and what has another name has it in its alert too.
func TestAlertOfWhatIsGone(t *testing.T) {
	f := startAlertmanager(t)
	a := startAlerting(t, alertmanagerConfig(f), Options{})
	gone := func(r *event.Resource) event.Event {
		return event.Event{Type: event.TypeInventoryChange, Resource: r, Headers: event.Headers{{Name: "action", Value: "remove"}}}
	}
	cpc := &event.Resource{Class: "cpc", Name: "CPC1", ObjectURI: "/api/cpcs/1"}
	for _, r := range []*event.Resource{partition("P1"), partition("P2"), partition("P3"), cpc} {
		a.must(statusOf(r, "stopped", event.SeverityWarning))
	}
	nic := partition("P2")
	nic.ElementURI = nic.ObjectURI + "/nics/1"
	a.must(gone(nic))
	a.must(gone(partition("P1")))
	added := gone(partition("P2"))
	added.Headers[0].Value = "add"
	a.must(added)
	renamed := partition("P2")
	renamed.Name = "NEW2"
	a.must(event.Event{Type: event.TypePropertyChange, Resource: renamed})
	a.expect(f, "HMCResourceStatus a P1 warning resolved", "HMCResourceStatus a P2 warning resolved", "HMCResourceStatus a NEW2 warning firing",
		"HMCResourceStatus a P3 warning firing", "HMCResourceStatus a CPC1 warning firing")
	a.must(gone(cpc))
	for _, line := range f.current() {
		if strings.HasSuffix(line, "firing") {
			t.Errorf("after the CPC is gone: %s", line)
		}
	}
	if cpcLabel := f.all()[3].Labels["cpc"]; cpcLabel != "CPC1" {
		t.Errorf("the label cpc of a CPC is %q", cpcLabel)
	}
}

// The loss of an HMC fires until it is in sight again. That the daemon was told to stop is no trouble.
func TestAlertOfConnection(t *testing.T) {
	f := startAlertmanager(t)
	a := startAlerting(t, alertmanagerConfig(f), Options{})
	lost := func(body string) event.Event {
		return event.Event{Type: event.TypeBridgeDisconnected, Severity: event.SeverityWarning, Summary: "HMC a: gone", Body: []byte(body)}
	}
	a.must(lost(`{"state":"disconnected","cause":"the daemon was stopped","planned":true}`))
	a.expect(f)
	a.must(lost(`{"state":"disconnected","cause":"refused"}`))
	a.expect(f, "HMCConnectionLost a  warning firing")
	a.must(event.Event{Type: event.TypeBridgeConnected, HMC: "b"})
	a.expect(f, "HMCConnectionLost a  warning firing")
	a.must(event.Event{Type: event.TypeBridgeConnected})
	a.expect(f, "HMCConnectionLost a  warning resolved")
	unknown := lost(`{"state":"disconnected","cause":"refused"}`)
	unknown.HMC = "removed"
	a.must(unknown)
	a.expect(f, "HMCConnectionLost a  warning resolved")
}

// HMCs that are not configured any more leave nothing behind but what another one of their group sees.
func TestAlertsOfRemovedHMC(t *testing.T) {
	f := startAlertmanager(t)
	a := startAlerting(t, alertmanagerConfig(f), Options{})
	for _, hmc := range []string{"a", "c"} {
		e := statusOf(partition("OF"+strings.ToUpper(hmc)), "stopped", event.SeverityWarning)
		e.HMC = hmc
		a.must(e)
		a.must(event.Event{Type: event.TypeBridgeDisconnected, Severity: event.SeverityWarning, HMC: hmc})
	}
	a.sink.(Follower).Follow(map[string]string{"b": "east"})
	a.repeat()
	a.expect(f, "HMCResourceStatus a OFA warning firing", "HMCConnectionLost a  warning resolved",
		"HMCResourceStatus c OFC warning resolved", "HMCConnectionLost c  warning resolved")
	// The other one tells that it is well again.
	e := statusOf(partition("OFA"), "active", event.SeverityInfo)
	e.HMC = "b"
	a.must(e)
	if slices.Contains(f.current(), "HMCResourceStatus a OFA warning firing") {
		t.Error("the other HMC of the group does not resolve it")
	}
}

// Held messages and those with priority fire each, for a time.
func TestAlertOfOSMessage(t *testing.T) {
	t.Parallel()
	f := startAlertmanager(t)
	cfg := alertmanagerConfig(f)
	a := startAlerting(t, cfg, Options{})
	message := func(body string, at time.Time) event.Event {
		return event.Event{Type: event.TypeOSMessage, Resource: partition("ZOS1"), Severity: event.SeverityWarning, Body: []byte(body), Time: at}
	}
	a.must(message(`{"message-text":"IEF450I","is-held":false,"is-priority":false}`, time.Time{}))
	a.must(message(`{"message-text":"old","is-held":true}`, time.Now().Add(-2*time.Hour)))
	a.expect(f)
	a.must(message(`{"message-text":"*01 REPLY Y OR N","prompt-text":"01","is-held":true}`, time.Now().Add(-59*time.Minute)))
	a.must(message(`{"message-text":"BLW004A","is-priority":true}`, time.Time{}))
	a.expect(f, "HMCOSMessage a ZOS1 warning firing", "HMCOSMessage a ZOS1 warning firing")
	first := f.all()[0]
	if first.Annotations["text"] != "*01 REPLY Y OR N" || first.Annotations["prompt"] != "01" || time.Until(first.EndsAt) > time.Minute+time.Second {
		t.Errorf("%+v", first)
	}
	s := a.sink.(*alertmanager)
	s.mu.Lock()
	for _, known := range s.book.alerts {
		if known.Annotations["prompt"] != "" {
			known.Until = time.Now().Add(-time.Second)
		}
	}
	s.mu.Unlock()
	a.repeat()
	a.expect(f, "HMCOSMessage a ZOS1 warning firing", "HMCOSMessage a ZOS1 warning resolved")
	for i := range maxOSMessageAlerts {
		a.must(message(fmt.Sprintf(`{"message-text":"%d","is-held":true}`, i), time.Time{}))
	}
	firing := 0
	for _, line := range f.current() {
		if strings.HasSuffix(line, "firing") {
			firing++
		}
	}
	if firing != maxOSMessageAlerts {
		t.Errorf("%d fire", firing)
	}
}

// A hardware message fires until it is deleted, by whichever HMC of a group tells that.
func TestAlertOfHardwareMessage(t *testing.T) {
	f := startAlertmanager(t)
	a := startAlerting(t, alertmanagerConfig(f), Options{})
	message := func(hmc, id, body string) event.Event {
		return event.Event{
			Type: event.TypeHardwareMessage, HMC: hmc, Severity: event.SeverityWarning, Body: []byte(body), SeenBy: []string{hmc},
			Resource: &event.Resource{Class: "cpc", Name: "CPC1", CPC: "CPC1", ObjectURI: "/api/cpcs/1", ElementURI: "/api/cpcs/1/hardware-messages/" + id, ElementID: id},
		}
	}
	a.must(message("a", "1", `{"text":"fan 3 is broken, call service"}`))
	a.must(message("a", "2", `{"text":"power supply 1 is off"}`))
	a.must(message("b", "77", `{"text":"fan 3 is broken","deleted":true}`))
	a.must(message("b", "78", `{"text":"nobody has seen this","deleted":true}`))
	a.expect(f, "HMCHardwareMessage a CPC1 warning resolved", "HMCHardwareMessage a CPC1 warning firing")
	a.must(message("a", "2", `{"text":"power supply 1 is off","deleted":true}`))
	a.expect(f, "HMCHardwareMessage a CPC1 warning resolved", "HMCHardwareMessage a CPC1 warning resolved")
}

// What fires does so after a restart as well, and what has ended meanwhile is said to have ended.
func TestAlertsOverARestart(t *testing.T) {
	f := startAlertmanager(t)
	store := new(memoryStore)
	cfg := alertmanagerConfig(f)
	a := startAlerting(t, cfg, Options{Store: store})
	a.must(statusOf(partition("P1"), "stopped", event.SeverityWarning))
	a.must(statusOf(partition("P2"), "stopped", event.SeverityWarning))
	a.must(statusOf(partition("P2"), "active", event.SeverityInfo))
	a.must(event.Event{Type: event.TypeBridgeDisconnected, Severity: event.SeverityWarning})
	before := f.all()[0]
	at := a.at
	_ = a.sink.Close()
	f.mu.Lock()
	f.received = nil
	f.mu.Unlock()

	cfg.Alertmanager.Alerts = []string{config.AlertResourceStatus}
	cfg.Alertmanager.Labels = map[string]string{"team": "z"}
	a = startAlerting(t, cfg, Options{Store: store})
	a.at = at
	a.repeat()
	a.expect(f, "HMCResourceStatus a P1 warning firing", "HMCResourceStatus a P1 warning resolved", "HMCResourceStatus a P2 warning resolved", "HMCConnectionLost a  warning resolved")
	for _, alert := range f.all() {
		if alert.Labels["team"] == "z" && !alert.StartsAt.Equal(before.StartsAt) {
			t.Errorf("it starts %s, before the restart %s", alert.StartsAt, before.StartsAt)
		}
	}
	a.must(statusOf(partition("P1"), "active", event.SeverityInfo))
	a.repeat()
	for _, line := range f.current() {
		if strings.HasSuffix(line, "firing") {
			t.Error(line)
		}
	}
	// What has been over for a while is forgotten, on disk as well.
	s := a.sink.(*alertmanager)
	s.mu.Lock()
	for _, known := range s.book.alerts {
		known.Ended = time.Now().Add(-resolvedRetention - time.Second)
	}
	s.mu.Unlock()
	a.repeat()
	if len(store.values) != 0 || len(s.book.alerts) != 0 {
		t.Errorf("%d are stored, %d known", len(store.values), len(s.book.alerts))
	}
	// Damage costs what it hits.
	store.values["x"] = []byte("{")
	_ = a.sink.Close()
	a = startAlerting(t, cfg, Options{Store: store})
	a.repeat()
	if len(store.values) != 0 {
		t.Errorf("stored: %q", store.values)
	}
}

// An event counts as delivered only when what it says is remembered.
func TestAlertsThatCannotBeStored(t *testing.T) {
	f := startAlertmanager(t)
	store := &memoryStore{fails: errors.New("no space left on device")}
	a := startAlerting(t, alertmanagerConfig(f), Options{Store: store})
	err := a.tell(statusOf(partition("P1"), "stopped", event.SeverityWarning))
	if err == nil || !strings.Contains(err.Error(), "no space left on device") {
		t.Errorf("got %v", err)
	}
	a.expect(f, "HMCResourceStatus a P1 warning firing") // it is said all the same
	store.fails = nil
	a.at = a.at.Add(-time.Millisecond)
	a.must(statusOf(partition("P1"), "stopped", event.SeverityWarning))
	if len(store.values) != 1 {
		t.Errorf("%d are stored", len(store.values))
	}
}

// One member of a cluster is enough; the others are told by the next repetition, and until then it is said who lacks what.
func TestAlertmanagerCluster(t *testing.T) {
	t.Parallel()
	one, two, three := startAlertmanager(t), startAlertmanager(t), startAlertmanager(t)
	a := startAlerting(t, alertmanagerConfig(one, two, three), Options{})
	two.state.Store(int32(busy))
	three.state.Store(int32(hang))
	if err := soon(t, "Send returns", func() error { return a.tell(statusOf(partition("P1"), "stopped", event.SeverityWarning)) }); err != nil {
		t.Fatal(err)
	}
	a.expect(one, "HMCResourceStatus a P1 warning firing")
	err := soon(t, "Repeat returns", func() error { return a.sink.(Repeater).Repeat(t.Context()) })
	partial, ok := errors.AsType[*PartialError](err)
	if !ok || !strings.Contains(partial.Error(), two.server.URL) || !strings.Contains(partial.Error(), three.server.URL+": no answer within 1s") {
		t.Errorf("got %v", err)
	}
	two.state.Store(int32(accept))
	three.state.Store(int32(accept))
	a.repeat()
	for _, f := range []*fakeAlertmanager{one, two, three} {
		a.expect(f, "HMCResourceStatus a P1 warning firing")
	}
	// All refuse, or nearly: as long as one may accept it later it is tried again.
	one.state.Store(int32(refuse))
	two.state.Store(int32(refuse))
	three.state.Store(int32(defer30))
	err = a.tell(statusOf(partition("P2"), "stopped", event.SeverityWarning))
	if e, ok := errors.AsType[*RetryAfterError](err); !ok || e.After != 30*time.Second {
		t.Errorf("got %v", err)
	}
	three.server.Close()
	err = a.tell(statusOf(partition("P3"), "stopped", event.SeverityWarning))
	if _, permanent := errors.AsType[*PermanentError](err); permanent || err == nil {
		t.Errorf("got %v", err)
	}
}

// The address may have a path, and end with a slash.
func TestAlertmanagerAddress(t *testing.T) {
	f := startAlertmanager(t)
	for i, path := range []string{"", "/", "/prefix", "/prefix/"} {
		cfg := alertmanagerConfig()
		cfg.Alertmanager.URLs = []config.URL{config.NewURL(f.server.URL + path)}
		a := startAlerting(t, cfg, Options{})
		a.must(statusOf(partition(fmt.Sprintf("P%d", i)), "stopped", event.SeverityWarning))
		if n := len(f.all()); n != i+1 {
			t.Errorf("%q: %d alerts arrived", path, n)
		}
	}
}

// What Alertmanager refuses does not keep it from taking the rest.
func TestRefusedAlert(t *testing.T) {
	f := startAlertmanager(t)
	store := new(memoryStore)
	a := startAlerting(t, alertmanagerConfig(f), Options{Store: store})
	f.state.Store(int32(refuse))
	err := a.tell(statusOf(partition("P1"), "stopped", event.SeverityWarning))
	if e, ok := errors.AsType[*PermanentError](err); !ok || e.Status != http.StatusBadRequest {
		t.Fatalf("got %v", err)
	}
	f.state.Store(int32(accept))
	a.must(statusOf(partition("P2"), "stopped", event.SeverityWarning))
	a.repeat()
	a.expect(f, "HMCResourceStatus a P2 warning firing")
}

// However many alerts there are, a member that hangs takes the time of one request: the others hear of all of them.
func TestManyAlertsAndAMemberThatHangs(t *testing.T) {
	t.Parallel()
	pieces := 40 // as many seconds, if each waited
	if testing.Short() {
		pieces = 10
	}
	one, two := startAlertmanager(t), startAlertmanager(t)
	cfg := alertmanagerConfig(one, two)
	cfg.Timeout = 35 * time.Second
	a := startAlerting(t, cfg, Options{})
	all := make([]event.Record, pieces*alertsPerRequest)
	for i := range all {
		e := statusOf(partition(fmt.Sprintf("P%d", i)), "stopped", event.SeverityWarning)
		e.HMC, e.ID, e.Received, e.Time = "a", fmt.Sprint(i), a.at, a.at
		all[i] = event.NewRecord(&e)
	}
	for part := range slices.Chunk(all, maxAlertEvents) {
		if err := a.sink.Send(t.Context(), part); err != nil {
			t.Fatal(err)
		}
	}
	before := len(one.all())
	two.state.Store(int32(hang))
	err := a.sink.(Repeater).Repeat(t.Context())
	if partial, ok := errors.AsType[*PartialError](err); !ok || !strings.Contains(partial.Error(), two.server.URL+": no answer within 1s") {
		t.Errorf("%T %v", err, err)
	}
	if n := len(one.all()) - before; n != len(all) {
		t.Errorf("%d of %d alerts were told again", n, len(all))
	}
	two.state.Store(int32(accept))
	if err := a.sink.(Repeater).Repeat(t.Context()); err != nil {
		t.Error(err)
	}
	if n := len(two.all()); n < 2*len(all) { // and what it has kept waiting, if it noticed the end of that late
		t.Errorf("the other one has heard of %d of %d alerts", n, 2*len(all))
	}
}

// What many events say of one alert in one batch is one alert.
func TestAlertBatch(t *testing.T) {
	f := startAlertmanager(t)
	a := startAlerting(t, alertmanagerConfig(f), Options{})
	var records []event.Record
	for i := range 600 {
		severity := event.SeverityWarning
		if i%2 == 1 {
			severity = event.SeverityInfo
		}
		e := statusOf(partition(fmt.Sprintf("P%d", i/2%3)), "stopped", severity)
		e.HMC, e.ID, e.Received, e.Time = "a", fmt.Sprint(i), a.at.Add(time.Duration(i)*time.Millisecond), a.at
		records = append(records, event.NewRecord(&e))
	}
	if err := a.sink.Send(t.Context(), records); err != nil {
		t.Fatal(err)
	}
	if n := len(f.all()); n != 3 {
		t.Errorf("%d alerts were sent", n)
	}
	a.expect(f, "HMCResourceStatus a P0 warning resolved", "HMCResourceStatus a P1 warning resolved", "HMCResourceStatus a P2 warning resolved")
}

// Requests about different alerts do not wait for each other; those about the same one do, and so does a repetition, which nobody
// can keep waiting for ever.
func TestAlertTurns(t *testing.T) {
	f := startAlertmanager(t)
	a := startAlerting(t, alertmanagerConfig(f), Options{})
	f.state.Store(int32(hang))
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error, 1)
	e := statusOf(partition("P1"), "stopped", event.SeverityWarning)
	e.HMC, e.ID, e.Received, e.Time = "a", "1", a.at, a.at
	go func() { first <- a.sink.Send(ctx, []event.Record{event.NewRecord(&e)}) }()
	eventually(t, "the first hangs", func() bool { return f.wait.Load() == 1 })
	f.state.Store(int32(accept))
	a.must(statusOf(partition("P2"), "stopped", event.SeverityWarning))
	a.expect(f, "HMCResourceStatus a P2 warning firing")

	same := make(chan error, 1)
	end := statusOf(partition("P1"), "active", event.SeverityInfo)
	end.HMC, end.ID, end.Received, end.Time = "a", "2", a.at.Add(time.Second), a.at
	go func() { same <- a.sink.Send(t.Context(), []event.Record{event.NewRecord(&end)}) }()
	repeated := make(chan error, 1)
	go func() { repeated <- a.sink.(Repeater).Repeat(t.Context()) }()
	s := a.sink.(*alertmanager)
	eventually(t, "the repetition waits", func() bool {
		s.turns.mu.Lock()
		defer s.turns.mu.Unlock()
		return s.turns.waiting
	})
	short, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer stop()
	other := statusOf(partition("P3"), "stopped", event.SeverityWarning)
	other.HMC, other.ID, other.Received, other.Time = "a", "3", a.at, a.at
	if err := a.sink.Send(short, []event.Record{event.NewRecord(&other)}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("it overtakes the repetition: %v", err)
	}
	cancel()
	if err := soon(t, "the first ends", func() error { return <-first }); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	for what, result := range map[string]chan error{"the same alert": same, "the repetition": repeated} {
		if err := soon(t, what, func() error { return <-result }); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	a.repeat()
	a.expect(f, "HMCResourceStatus a P1 warning resolved", "HMCResourceStatus a P2 warning firing", "HMCResourceStatus a P3 warning firing")
	if len(s.turns.keys) != 0 || s.turns.all || s.turns.waiting {
		t.Errorf("left: %v, %v, %v", s.turns.keys, s.turns.all, s.turns.waiting)
	}
}

// The time of an OS message is by the clock of its operating system, which need not be right: of a message that was received when it
// was written it neither hides the alert nor makes it last.
func TestAlertOfOSMessageWhoseClockIsWrong(t *testing.T) {
	for name, ahead := range map[string]time.Duration{"behind": -48 * time.Hour, "ahead": 48 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			f := startAlertmanager(t)
			cfg := alertmanagerConfig(f)
			a := startAlerting(t, cfg, Options{})
			for _, origin := range []string{event.OriginLive, event.OriginRefresh} {
				a.must(event.Event{
					Type: event.TypeOSMessage, Origin: origin, Resource: partition("ZOS1"), Severity: event.SeverityWarning, Time: time.Now().Add(ahead),
					Body: []byte(`{"message-text":"*01 REPLY Y OR N","prompt-text":"01","is-held":true}`),
				})
			}
			want := 1 // of what is replayed nothing else tells whether it is old
			if ahead > 0 {
				want = 2
			}
			s := a.sink.(*alertmanager)
			s.mu.Lock()
			defer s.mu.Unlock()
			if n := len(s.book.alerts); n != want {
				t.Errorf("%d alerts, want %d", n, want)
			}
			for _, known := range s.book.alerts {
				if left := time.Until(known.Until); left > s.book.osResolve || left < s.book.osResolve-time.Minute {
					t.Errorf("it fires for %s", left)
				}
			}
		})
	}
}

// What the configuration does not let fire any more ends with the reload, or the next start, and not with the next status: of a
// partition that is stopped for good there is none.
func TestAlertsThatAreNotSelectedAnyMore(t *testing.T) {
	f := startAlertmanager(t)
	store := new(memoryStore)
	cfg := alertmanagerConfig(f)
	a := startAlerting(t, cfg, Options{Store: store})
	for _, name := range []string{"PROD1", "TEST1", "OLD", "MOVED"} {
		a.must(statusOf(partition(name), "stopped", event.SeverityWarning))
	}
	a.must(statusOf(partition("PROD2"), "paused", event.SeverityWarning))
	renamed := partition("MOVED")
	renamed.Name = "TEST2"
	a.must(event.Event{Type: event.TypePropertyChange, Resource: renamed})
	long := statusOf(partition("LONG"), "stopped", event.SeverityWarning)
	long.BodyText = strings.Repeat("x", 2*maxAnnotation) // not kept, so nobody can say
	a.must(long)
	_ = a.sink.Close()

	p, err := match.NewPattern("stopped")
	if err != nil {
		t.Fatal(err)
	}
	cfg.Alertmanager.Statuses = match.Patterns{p}
	a = startAlerting(t, cfg, Options{Store: store, Selects: func(rec event.Record) bool {
		e, err := rec.Event()
		return err == nil && !strings.HasPrefix(e.Resource.Name, "TEST") && e.Resource.Name != "OLD" && e.ID != ""
	}})
	a.repeat()
	a.expect(f, "HMCResourceStatus a PROD1 warning firing", "HMCResourceStatus a PROD2 warning resolved", "HMCResourceStatus a LONG warning firing",
		"HMCResourceStatus a TEST1 warning resolved", "HMCResourceStatus a TEST2 warning resolved", "HMCResourceStatus a OLD warning resolved",
		"HMCResourceStatus a MOVED warning resolved")
}

// A property that is no name costs the same however many alerts there are: in a flood each partition fires, and one comes with each.
func TestPropertyChangeWithManyAlerts(t *testing.T) {
	allocations := func(alerts int) float64 {
		b := alertBook{names: config.AlertNames(), osResolve: time.Hour, selects: func(event.Record) bool { return true }, alerts: make(map[string]*alert)}
		now := time.Now()
		for i := range alerts {
			e := statusOf(partition(fmt.Sprint("P", i)), "stopped", event.SeverityWarning)
			e.Time, e.Received = now, now
			if _, ok := b.apply(&e, event.NewRecord(&e), now); !ok {
				t.Fatal("no room")
			}
		}
		e := event.Event{
			Type: event.TypePropertyChange, Resource: partition("P0"), Time: now, Received: now,
			Headers: event.Headers{{Name: "property-names", Value: " has-unacceptable-status "}},
		}
		rec := event.NewRecord(&e)
		return testing.AllocsPerRun(20, func() { b.apply(&e, rec, now) })
	}
	if few, many := allocations(1), allocations(5000); many > few {
		t.Errorf("%.0f allocations with many alerts, %.0f with one", many, few)
	}
}

// A message that waits for an answer fires for as long as it may, though the clock of this machine was set between its receipt
// and now.
func TestAlertOfOSMessageWhenTheClockIsSet(t *testing.T) {
	for _, by := range []time.Duration{-200 * time.Hour, -3 * time.Hour, 3 * time.Hour, 200 * time.Hour} {
		t.Run(by.String(), func(t *testing.T) {
			f := startAlertmanager(t)
			a := startAlerting(t, alertmanagerConfig(f), Options{})
			before := time.Now().Add(-by) // by the clock as it was set then
			e := event.Event{
				ID: "1", HMC: "a", Type: event.TypeOSMessage, Origin: event.OriginLive, Severity: event.SeverityWarning, Resource: partition("P1"),
				Received: before, Time: before, Body: []byte(`{"message-text":"*01 REPLY","is-held":true}`),
			}
			r := event.NewRecord(&e)
			r.Stored = time.Now().Add(-time.Second)
			if err := a.sink.Send(t.Context(), []event.Record{r}); err != nil {
				t.Fatal(err)
			}
			all := f.all()
			if len(all) != 1 || time.Until(all[0].EndsAt) < time.Minute || time.Until(all[0].EndsAt) > 2*time.Hour {
				t.Errorf("%+v", all)
			}
		})
	}
}
