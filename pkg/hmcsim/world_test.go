package hmcsim

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-stomp/stomp/v3"
)

// shape gives the keys of a JSON value with the kinds of their values.
func shape(v any) string {
	switch v := v.(type) {
	case map[string]any:
		var parts []string
		for _, key := range slices.Sorted(maps.Keys(v)) {
			parts = append(parts, key+":"+shape(v[key]))
		}
		return "{" + strings.Join(parts, ",") + "}"
	case []any:
		if len(v) == 0 {
			return "[]"
		}
		return "[" + shape(v[0]) + "]"
	case nil:
		return "null"
	case string:
		return "string"
	case bool:
		return "bool"
	default:
		return "number"
	}
}

// everything subscribes a client to all topics of its session, with a channel for each partition that has one.
func everything(t *testing.T, h *HMC) *wireClient {
	t.Helper()
	r := newRESTClient(t, h)
	r.logon()
	for _, p := range h.Partitions() {
		r.do(http.MethodPost, p.URI+"/operations/open-os-message-channel", `{"include-refresh-messages":false}`)
	}
	s := h.SessionInfos()[0]
	c := newWireClient(t, h.StompPort())
	c.send("CONNECT\naccept-version:1.1\nlogin:" + s.SessionID + "\npasscode:" + s.Credential + "\n\n\x00")
	if f := c.mustFrame(); f.command != "CONNECTED" {
		t.Fatalf("%s", f)
	}
	for _, names := range s.Topics {
		for _, name := range names {
			c.send(subscribeFrame(name, name, name))
		}
	}
	eventually(t, "the subscriptions", func() bool { return int(h.Broker().Stats().Subscribes) == 4+len(s.Topics[TopicOSMessage]) })
	return c
}

// A living estate shows all six types soon, in the shapes of the facts: status-change with four keys and now and then
// more, empty bodies of inventory-change and job-completion, message-ids of both kinds, property-names with blanks
// at both ends, elements, repeats, logs in their own topics.
func TestLife(t *testing.T) {
	t.Parallel()
	h := startHMC(t, Options{StepDelay: 5 * time.Millisecond, Broker: BrokerOptions{PlainText: true}})
	c := everything(t, h)
	// The life begins when each partition has its channel: later one may be stopped, and has none.
	h.world.mu.Lock()
	h.world.opts.rate = 400
	h.world.after(0, func() {})
	h.world.mu.Unlock()
	seen := map[string]bool{}
	want := []string{
		"status-change", "status-change more", "status-change repeated", "status-change partition", "status-change logical-partition", "status-change cpc",
		"property-change", "property-change element", "property-change two", "property-change has-hardware-messages",
		"inventory-change add", "inventory-change remove", "inventory-change element", "inventory-change object",
		"job-completion", "log-entry audit", "log-entry security", "log-entry several", "log-entry without user",
		"os-message id string", "os-message id number", "os-message prompt null", "os-message prompt empty", "os-message prompt", "os-message timestamp -1",
		"os-message timestamp", "os-message several", "os-message os-name", "os-message without os-name",
	}
	sequences := map[string]string{} // by topic
	last := ""
	missing := func() []string {
		return slices.DeleteFunc(slices.Clone(want), func(s string) bool { return seen[s] })
	}
	for n := 0; len(missing()) > 0; n++ {
		if n == 20000 {
			t.Fatalf("not seen: %q", missing())
		}
		f := c.mustFrame()
		if f.command == "RECEIPT" {
			continue
		}
		topic := strings.TrimPrefix(f.headers["destination"], "/topic/")
		if f.command != "MESSAGE" || f.headers["subscription"] != topic || f.headers["expires"] != "0" || f.headers["priority"] != "4" ||
			f.headers["timestamp"] == "" || f.headers["global-sequence-nr"] == "" || !strings.HasPrefix(f.headers["message-id"], `ID\cHMCHOST-42915-`) {
			t.Fatalf("%s", f)
		}
		if before := sequences[topic]; before != "" && f.headers["session-sequence-nr"] != before {
			t.Fatalf("session-sequence-nr %s, want %s", f.headers["session-sequence-nr"], before)
		}
		var nr int64
		if _, err := fmt.Sscan(f.headers["session-sequence-nr"], &nr); err != nil {
			t.Fatal(err)
		}
		sequences[topic] = fmt.Sprint(nr + 1)
		kind := f.headers["notification-type"]
		var body any
		if f.body != "" {
			if err := json.Unmarshal([]byte(f.body), &body); err != nil {
				t.Fatalf("%s: %v", f, err)
			}
		}
		see := func(details ...string) { seen[strings.Join(append([]string{kind}, details...), " ")] = true }
		checkObject := func() {
			if uri := f.headers["object-uri"]; f.headers["class"] == "" || f.headers["name"] == "" || !strings.HasSuffix(uri, f.headers["object-id"]) {
				t.Errorf("%s", f)
			}
		}
		switch kind {
		case typeStatusChange:
			checkObject()
			see()
			see(f.headers["class"])
			switch s := shape(body); s {
			case "{change-reports:[{new-additional-status:null,new-status:string,old-additional-status:null,old-status:string}]}":
			case "{change-reports:[{has-unacceptable-status:bool,new-additional-status:null,new-status:string,old-additional-status:null,old-status:string,status-change-origin:{kind:string,level:number}}]}":
				see("more")
			default:
				t.Errorf("%s", s)
			}
			if f.headers["object-uri"]+f.body == last {
				see("repeated")
			}
			last = f.headers["object-uri"] + f.body
		case typePropertyChange:
			checkObject()
			see()
			names := f.headers["property-names"]
			reports, _ := body.(map[string]any)["change-reports"].([]any)
			var listed []string
			for _, r := range reports {
				m, _ := r.(map[string]any)
				listed = append(listed, fmt.Sprint(m["property-name"]))
				if _, ok := m["old-value"]; !ok || len(m) != 3 {
					t.Errorf("%s", f)
				}
			}
			if names != " "+strings.Join(listed, " ")+" " {
				t.Errorf("property-names %q of %q", names, listed)
			}
			if len(listed) == 2 {
				see("two")
			}
			if names == " has-hardware-messages " {
				see("has-hardware-messages")
			}
			if f.headers["element-uri"] != "" {
				see("element")
			}
		case typeInventoryChange:
			if f.body != "" {
				t.Errorf("%s", f)
			}
			see(f.headers["action"])
			if e := f.headers["element-uri"]; e != "" {
				see("element")
				if f.headers["class"] != "nic" || !strings.HasPrefix(e, f.headers["object-uri"]+"/nics/") || !strings.HasSuffix(e, "/"+f.headers["element-id"]) {
					t.Errorf("%s", f)
				}
			} else {
				see("object")
			}
		case typeJobCompletion:
			if f.body != "" || !strings.HasPrefix(f.headers["job-uri"], "/api/jobs/") || !strings.HasSuffix(topic, "job") {
				t.Errorf("%s", f)
			}
			see()
		case typeLogEntry:
			if f.headers["class"] != "" {
				t.Errorf("%s", f)
			}
			see(map[bool]string{true: "audit", false: "security"}[strings.HasSuffix(topic, "aud")])
			entries, _ := body.(map[string]any)["log-entries"].([]any)
			if len(entries) > 1 {
				see("several")
			}
			for _, e := range entries {
				s := shape(e)
				if strings.Contains(s, "user-uri:null,userid:null") {
					see("without user")
				}
				s = strings.NewReplacer("user-uri:null,userid:null", "user-uri:string,userid:string",
					"[{data-item-number:number,data-item-type:string,data-item-value:string}]", "[]").Replace(s)
				if s != "{event-data-items:[],event-details:[],event-id:string,event-message:string,event-name:string,event-time:number,user-uri:string,userid:string}" {
					t.Errorf("%s", s)
				}
			}
		case typeOSMessage:
			checkObject()
			messages, _ := body.(map[string]any)["os-messages"].([]any)
			if len(messages) > 1 {
				see("several")
			}
			if !strings.HasSuffix(topic, "osm."+strings.ReplaceAll(f.headers["object-id"], "-", "")) {
				t.Errorf("topic %s of %s", topic, f.headers["object-id"])
			}
			for _, e := range messages {
				m, _ := e.(map[string]any)
				if len(m) != 10 || m["is-refresh"] != false {
					t.Errorf("%v", m)
				}
				see("id", shape(m["message-id"]))
				switch m["prompt-text"] {
				case nil:
					see("prompt null")
				case "":
					see("prompt empty")
				default:
					see("prompt")
					if m["is-held"] != true {
						t.Errorf("%v", m)
					}
				}
				if m["timestamp"] == -1.0 {
					see("timestamp -1")
				} else {
					see("timestamp")
				}
				if m["os-name"] == nil {
					see("without os-name")
				} else {
					see("os-name")
				}
			}
		default:
			t.Fatalf("%s", f)
		}
	}
}

// At 5 notifications per second each type has come within a few seconds.
func TestLifeShowsAllTypesEarly(t *testing.T) {
	h, err := newHMC(Options{Rate: 5, SessionIdleTimeout: -1})
	if err != nil {
		t.Fatal(err)
	}
	w := h.world
	w.mu.Lock()
	defer w.mu.Unlock()
	s := h.newSessionLocked("u")
	for _, p := range w.parts {
		if p.hasOS() {
			ch := h.addTopicLocked(s, TopicOSMessage, "osm."+p.id)
			ch.partition, s.channels[p] = p, ch
		}
	}
	for start := range 50 { // wherever in life a listener comes
		from := w.happened
		clear(h.published)
		for w.happened < from+25 && len(h.published) < 6 {
			w.live()
			for len(w.tasks) > 0 { // operations go on
				do := w.tasks[0].do
				w.tasks = w.tasks[1:]
				do()
			}
		}
		if len(h.published) < 6 {
			t.Errorf("round %d: only %v within 25 notifications", start, h.published)
		}
	}
}

func TestEstateIsTheSameForASeed(t *testing.T) {
	estate := func(seed uint64) []PartitionInfo {
		return startHMC(t, Options{CPCs: 20, Partitions: 300, Seed: seed}).Partitions()
	}
	a, b, c := estate(7), estate(7), estate(8)
	if !reflect.DeepEqual(a, b) {
		t.Error("one seed gives two estates")
	}
	if reflect.DeepEqual(a, c) {
		t.Error("two seeds give one estate")
	}
	kinds := map[string]int{}
	for _, p := range a {
		kinds[p.Class+" "+p.Status]++
	}
	for _, want := range []string{"partition active", "partition stopped", "logical-partition operating", "logical-partition not-activated", "logical-partition not-operating"} {
		if kinds[want] == 0 {
			t.Errorf("no %s in %v", want, kinds)
		}
	}
	if h := startHMC(t, Options{CPCs: -1, Partitions: -1, Rate: 1000}); len(h.CPCs()) != 0 || len(h.Partitions()) != 0 {
		t.Error("an empty estate is not empty")
	}
}

// Names are unique within a CPC only, as on real machines.
func TestFindPartition(t *testing.T) {
	h := startHMC(t, Options{CPCs: 4, Partitions: 16})
	for key, cpc := range map[string]string{"CPC1/PART1": "CPC1", "CPC2/PART1": "CPC2", "M91/LP02": "M91"} {
		p, err := h.Partition(key)
		if err != nil || p.CPC != cpc {
			t.Errorf("%s: %+v, %v", key, p, err)
		}
		for _, k := range []string{p.ID, p.URI} {
			if again, err := h.Partition(k); err != nil || again != p {
				t.Errorf("%s: %+v, %v", k, again, err)
			}
		}
	}
	if _, err := h.Partition("CPC1/NO"); err == nil {
		t.Error("found")
	}
	// A name that several have is refused, with what says which.
	refused := func(err error, want string) {
		t.Helper()
		if err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
	_, err := h.Partition("PART1")
	refused(err, `hmcsim: "PART1" is the name of 2: say which partition, CPC1/PART1 or CPC2/PART1`)
	refused(h.SetAdapterStatus("OSD 0120", "not-active", ""),
		`hmcsim: "OSD 0120" is the name of 2: say which adapter, CPC1/OSD 0120 or CPC2/OSD 0120`)
	if err := h.SetAdapterStatus("CPC2/OSD 0120", "not-active", ""); err != nil {
		t.Error(err)
	}
	for _, r := range h.Resources() {
		if want := map[bool]string{true: "not-active", false: "active"}[r.CPC == "CPC2" && r.Name == "OSD 0120"]; r.Class == "adapter" && r.Status != want {
			t.Errorf("%+v", r)
		}
	}
	if err := h.RenamePartition("CPC1/PART2", "PART1"); err != nil {
		t.Fatal(err)
	}
	if _, err = h.Partition("CPC1/PART1"); err == nil || !strings.Contains(err.Error(), h.Partitions()[0].ID) {
		t.Errorf("%v", err)
	}
}

func TestControl(t *testing.T) {
	h := startHMC(t, Options{StepDelay: time.Millisecond})
	c := newRESTClient(t, h)
	on := c.logon()
	l := listenTo(t, h, fmt.Sprint(on["notification-topic"]))
	p := h.Partitions()[0]
	if err := h.StopPartition("PART1"); err != nil {
		t.Fatal(err)
	}
	if err := h.StartPartition("PART1"); err == nil {
		t.Error("started while it stops")
	}
	if a, b := l.statusOf(p.URI), l.statusOf(p.URI); a != "stopping" || b != "stopped" {
		t.Errorf("%s, %s", a, b)
	}
	eventually(t, "rest", func() bool { i, err := h.Partition("PART1"); return err == nil && !i.Busy })
	if err := h.StopPartition("PART1"); err == nil {
		t.Error("stopped twice")
	}
	if err := h.StartPartition("PART1"); err != nil {
		t.Fatal(err)
	}
	if a, b := l.statusOf(p.URI), l.statusOf(p.URI); a != "starting" || b != "active" {
		t.Errorf("%s, %s", a, b)
	}
	if err := h.RenamePartition("PART1", "X"); err != nil {
		t.Fatal(err)
	}
	if m := l.next(typePropertyChange); !strings.Contains(string(m.Body), `{"property-name":"name","old-value":"PART1","new-value":"X"}`) {
		t.Errorf("%s", m.Body)
	}
	made, err := h.CreatePartition("CPC1", "Y")
	if err != nil {
		t.Fatal(err)
	}
	if m := l.next(typeInventoryChange); m.Header.Get("action") != "add" || m.Header.Get("object-uri") != made.URI {
		t.Errorf("%v", m.Header)
	}
	if _, err := h.CreatePartition("CPC1", "Y"); err == nil {
		t.Error("made twice")
	}
	if next, err := h.CreatePartition("M90", ""); err != nil || next.Name != "LP05" || next.Class != "logical-partition" {
		t.Errorf("%+v, %v", next, err)
	}
	if err := h.SetPartitionStatus("Y", "paused"); err != nil {
		t.Error(err)
	}
	if s := l.statusOf(made.URI); s != "paused" {
		t.Error(s)
	}
	if err := h.DeletePartition("Y"); err != nil {
		t.Error(err)
	}
	if m := l.next(typeInventoryChange); m.Header.Get("action") != "remove" {
		t.Errorf("%v", m.Header)
	}
	for _, err := range []error{
		h.StopPartition("no"), h.StartPartition("no"), h.RenamePartition("no", "x"), h.DeletePartition("no"), h.SetPartitionStatus("no", "x"),
		h.SetCommunicating("no", false), h.DeleteHardwareMessages("no"), h.SetOSMessageSequence("no", 1),
	} {
		if err == nil {
			t.Error("no error")
		}
	}
	if _, err := h.CreatePartition("no", ""); err == nil {
		t.Error("no error")
	}
	// Anything can be published, and numbers can be missed.
	before := l.seq(h)
	h.SkipSequence(5)
	if n := h.Publish("object", []Header{{"notification-type", "brand-new"}, {"x", "y"}}, []byte("no JSON")); n != 1 {
		t.Errorf("%d", n)
	}
	if m := l.next("brand-new"); string(m.Body) != "no JSON" || m.Header.Get("session-sequence-nr") != fmt.Sprint(before+5) {
		t.Errorf("%v %s, %d", m.Header, m.Body, before)
	}
	if h.Published()["brand-new"] != 1 || h.Delivered()["brand-new"] != 1 || h.Links() != 1 {
		t.Errorf("%v %v %d", h.Published(), h.Delivered(), h.Links())
	}
}

// seq returns the session-sequence-nr that the topic's next notification has.
func (l *listener) seq(h *HMC) int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.order[0].topics[0].seq
}

// When the SE loses contact and has it again, every partition's status changes, and each change is told twice.
func TestSetCommunicating(t *testing.T) {
	h := startHMC(t, Options{})
	c := newRESTClient(t, h)
	l := listenTo(t, h, fmt.Sprint(c.logon()["notification-topic"]))
	before := h.Partitions()
	if err := h.SetCommunicating("CPC1", false); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := h.SetCommunicating("CPC1", false); err != nil { // no change
			t.Fatal(err)
		}
	}
	if got := l.statusOf(h.CPCs()[0].URI); got != "not-communicating" {
		t.Error(got)
	}
	for _, p := range h.Partitions() {
		if p.CPC == "CPC1" && p.Status != "communications-not-active" {
			t.Errorf("%+v", p)
		}
	}
	if err := h.SetCommunicating("CPC1", true); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(h.Partitions(), before) {
		t.Errorf("%+v", h.Partitions())
	}
	back := map[string]int{}
	for len(back) < 4 || back[before[6].URI] < 2 {
		m := l.next(typeStatusChange)
		if strings.Contains(string(m.Body), `"old-status":"communications-not-active"`) {
			back[m.Header.Get("object-uri")]++
		}
	}
	for uri, n := range back {
		if n != 2 {
			t.Errorf("%s: told %d times", uri, n)
		}
	}
}

// A session's end makes its topics unknown; connections fall silent or are closed.
func TestSessionEnd(t *testing.T) {
	for _, cut := range []bool{false, true} {
		h := startHMC(t, Options{CutOnSessionEnd: cut, Broker: BrokerOptions{PlainText: true}})
		r := newRESTClient(t, h)
		topic := fmt.Sprint(r.logon()["notification-topic"])
		c := newWireClient(t, h.StompPort())
		c.send(connect11 + subscribeFrame("s", topic, "r"))
		c.mustFrame()
		c.mustFrame()
		r.do(http.MethodDelete, "/api/sessions/this-session", nil)
		if cut {
			if f, ok := c.frame(); ok {
				t.Errorf("%s instead of the end", f)
			}
			continue
		}
		c.send(subscribeFrame("s2", topic, "r2"))
		if f := c.mustFrame(); f.command != "ERROR" || !strings.Contains(f.headers["message"], "is not a known or approved topic") {
			t.Errorf("%s", f)
		}
	}
}

// With SequencePerSession all topics of a session share one sequence.
func TestSequences(t *testing.T) {
	for _, perSession := range []bool{false, true} {
		h := startHMC(t, Options{SequencePerSession: perSession})
		c := newRESTClient(t, h)
		on := c.logon()
		h.LogEntries(TopicAudit, LogEntry{EventID: "1"})
		h.LogEntries(TopicAudit, LogEntry{EventID: "2"})
		l := listenTo(t, h, fmt.Sprint(on["notification-topic"]))
		h.Publish(TopicObject, []Header{{"notification-type", "x"}}, nil)
		want := "0"
		if perSession {
			want = "3" // after the own logon's and two log entries
		}
		if got := l.next("x").Header.Get("session-sequence-nr"); got != want {
			t.Errorf("per session %t: %s, want %s", perSession, got, want)
		}
	}
}

func TestStartFails(t *testing.T) {
	h := startHMC(t, Options{})
	for _, opts := range []Options{
		{RESTAddr: h.RESTAddr()}, {StompAddr: h.StompAddr()}, {CertificateKind: "rusty"}, {RESTAddr: "nonsense"},
	} {
		if other, err := Start(opts); err == nil {
			t.Errorf("%+v: started", opts)
			_ = other.Close()
		}
	}
	if err := h.Close(); err != nil {
		t.Error(err)
	}
	if err := h.Close(); err != nil {
		t.Error(err)
	}
	if err := h.Restart(0); err == nil {
		t.Error("restarted after Close")
	}
}

func TestIPv6(t *testing.T) {
	h := startHMC(t, Options{RESTAddr: "[::1]:0", StompAddr: "[::1]:0"})
	if h.Host() != "::1" || !strings.HasPrefix(h.URL(), "https://[::1]:") {
		t.Errorf("%s %s", h.Host(), h.URL())
	}
	c := newRESTClient(t, h)
	l := listenTo(t, h, fmt.Sprint(c.logon()["notification-topic"]))
	h.Publish("object", []Header{{"notification-type", "x"}}, nil)
	l.next("x")
}

// A clock that is wrong shows in log entries and in the time of notifications, and entries whose notification is lost are in the
// log and have taken a number.
func TestClockAndLostEntries(t *testing.T) {
	t.Parallel()
	h := startHMC(t, Options{})
	c := newRESTClient(t, h)
	c.logon()
	l := listenTo(t, h, h.SessionInfos()[0].Topics[TopicAudit][0])
	h.LogEntries(TopicAudit, LogEntry{EventID: "1"})
	first := l.next(typeLogEntry)
	h.SetClock(-time.Hour)
	h.LoseLogEntries(TopicAudit, LogEntry{EventID: "2"}, LogEntry{EventID: "3"})
	h.LogEntries(TopicAudit, LogEntry{EventID: "4"})
	last := l.next(typeLogEntry)
	number := func(m *stomp.Message, header string) int64 {
		n, err := strconv.ParseInt(m.Header.Get(header), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := number(last, "session-sequence-nr") - number(first, "session-sequence-nr"); n != 2 {
		t.Errorf("the number is %d higher", n)
	}
	if behind := number(first, "timestamp") - number(last, "timestamp"); behind < 50*60*1000 {
		t.Errorf("the time is %d ms behind", behind)
	}
	_, v := c.do(http.MethodGet, "/api/console/operations/get-audit-log", nil)
	entries, _ := v.([]any)
	if len(entries) != 4 {
		t.Fatalf("%v", v)
	}
	at := func(i int) float64 { return entries[i].(map[string]any)["event-time"].(float64) }
	if at(3)-at(0) < 50*60*1000 {
		t.Errorf("the last entry has the time %v, the first %v", at(0), at(3))
	}
}

// What cannot be done while something is under way is said so: the status alone may be the one it needs.
func TestOperationUnderWay(t *testing.T) {
	t.Parallel()
	h := startHMC(t, Options{StepDelay: time.Hour})
	if err := h.StopPartition("PART1"); err != nil {
		t.Fatal(err)
	}
	for name, do := range map[string]func(string) error{"stopped": h.StopPartition, "started": h.StartPartition} {
		want := "hmcsim: partition PART1 cannot be " + name + ": an operation is under way, try again in a moment"
		if err := do("PART1"); err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
}
