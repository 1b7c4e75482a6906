package hmcsim

import (
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// channel opens a partition's OS message channel and listens to it.
func (c *restClient) channel(p PartitionInfo) *listener {
	c.t.Helper()
	_, v := c.do(http.MethodPost, p.URI+"/operations/open-os-message-channel", `{"include-refresh-messages":false}`)
	obj, _ := v.(map[string]any)
	return listenTo(c.t, c.h, fmt.Sprint(obj["topic-name"]))
}

// Two HMCs have one estate: what one of them does shows on both, with the same object ids. Sessions, topics, jobs and
// hardware messages of the console are each one's own.
func TestTwoHMCs(t *testing.T) {
	a := startHMC(t, Options{StepDelay: time.Millisecond, Partitions: 6})
	b := startHMC(t, Options{Name: "HMC2", EstateOf: a, CPCs: 9, Partitions: 9, Rate: 1000})
	if !reflect.DeepEqual(a.Partitions(), b.Partitions()) || !reflect.DeepEqual(a.CPCs(), b.CPCs()) || len(b.Partitions()) != 6 {
		t.Fatalf("%+v, %+v", a.Partitions(), b.Partitions())
	}
	if string(a.CACertPEM()) != string(b.CACertPEM()) {
		t.Error("two authorities")
	}
	ca, cb := newRESTClient(t, a), newRESTClient(t, b)
	la := listenTo(t, a, fmt.Sprint(ca.logon()["notification-topic"]))
	lb := listenTo(t, b, fmt.Sprint(cb.logon()["notification-topic"]))
	p := a.Partitions()[0]
	oa, ob := ca.channel(p), cb.channel(p)
	if a.Sessions() != 1 || b.Sessions() != 1 {
		t.Errorf("%d and %d sessions", a.Sessions(), b.Sessions())
	}
	if err := a.StopPartition("PART1"); err != nil {
		t.Fatal(err)
	}
	for _, l := range []*listener{la, lb} {
		if x, y := l.statusOf(p.URI), l.statusOf(p.URI); x != "stopping" || y != "stopped" {
			t.Errorf("%s, %s", x, y)
		}
	}
	if x, y := oa.osMessages(), ob.osMessages(); !reflect.DeepEqual(x, y) {
		t.Errorf("%v, %v", x, y)
	}
	eventually(t, "rest", func() bool { i, err := b.Partition("PART1"); return err == nil && !i.Busy })
	// By REST of one, seen by the other.
	if status, v := cb.do(http.MethodPost, p.URI+"/operations/start", nil); status != 202 {
		t.Fatalf("%d %v", status, v)
	} else {
		uri := fmt.Sprint(v.(map[string]any)["job-uri"])
		eventually(t, "the job's end", func() bool { return cb.get(uri)["status"] == "complete" })
		ca.fails(http.MethodGet, uri, nil, 404, 1) // it is the other HMC's
	}
	if x, y := la.statusOf(p.URI), la.statusOf(p.URI); x != "starting" || y != "active" {
		t.Errorf("%s, %s", x, y)
	}
	if ca.get(p.URI)["status"] != "active" || cb.get(p.URI)["status"] != "active" {
		t.Error("two statuses")
	}
	if _, err := a.AddHardwareMessage("", "only here"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.AddHardwareMessage("CPC1", "on both"); err != nil {
		t.Fatal(err)
	}
	for h, want := range map[*HMC][2]int{a: {1, 1}, b: {0, 1}} {
		for i, cpc := range []string{"", "CPC1"} {
			if m, err := h.HardwareMessages(cpc); err != nil || len(m) != want[i] {
				t.Errorf("%s, %q: %v, %v", h.Name(), cpc, m, err)
			}
		}
	}
	// A restart of one is none of the other.
	if err := a.Restart(0); err != nil {
		t.Fatal(err)
	}
	if a.Sessions() != 0 || b.Sessions() != 1 || b.Links() != 2 {
		t.Errorf("%d, %d sessions, %d links", a.Sessions(), b.Sessions(), b.Links())
	}
	// The first may go: the estate lives on.
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	for lb.statusOf(p.URI) != "active" {
		continue // the partition's stop and start from before
	}
	before := a.Published()
	if err := b.StopPartition("PART1"); err != nil {
		t.Fatal(err)
	}
	if x, y := lb.statusOf(p.URI), lb.statusOf(p.URI); x != "stopping" || y != "stopped" {
		t.Errorf("%s, %s", x, y)
	}
	if !reflect.DeepEqual(a.Published(), before) {
		t.Error("a closed HMC publishes")
	}
	c := startHMC(t, Options{EstateOf: a}) // the estate is still there
	if len(c.Partitions()) != 6 {
		t.Errorf("%v", c.Partitions())
	}
	for _, h := range []*HMC{b, c, b, a} {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := Start(Options{EstateOf: a}); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("an HMC of an estate that is gone: %v", err)
	}
}

// The notifications of a slower HMC come later, in their order; a closed one's do not come.
func TestLag(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, err := newHMC(Options{StepDelay: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		b, err := newHMC(Options{EstateOf: a, Lag: 10 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		a.world.start()
		for _, h := range []*HMC{a, b} {
			h.mu.Lock()
			h.newSessionLocked("u")
			h.mu.Unlock()
		}
		count := func(h *HMC) int64 { return h.Published()["property-change"] }
		rename := func(name string) {
			t.Helper()
			if err := a.RenamePartition(a.Partitions()[0].ID, name); err != nil {
				t.Fatal(err)
			}
		}
		rename("X")
		if count(a) != 1 || count(b) != 0 {
			t.Errorf("%d, %d", count(a), count(b))
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if count(b) != 1 {
			t.Error("never told")
		}
		rename("Y")
		b.mu.Lock()
		b.closed = true
		b.world.leaveLocked(b)
		b.mu.Unlock()
		time.Sleep(time.Minute)
		synctest.Wait()
		if count(a) != 2 || count(b) != 1 {
			t.Errorf("%d, %d", count(a), count(b))
		}
		a.world.stop()
	})
}

// An HMC may number OS messages in its own way, and a sequence may begin anew at each IPL.
func TestOSMessageNumbers(t *testing.T) {
	a := startHMC(t, Options{StepDelay: time.Millisecond, OSSequenceAtIPL: true})
	b := startHMC(t, Options{EstateOf: a, OSMessageOffset: 1000})
	ca, cb := newRESTClient(t, a), newRESTClient(t, b)
	ca.logon()
	cb.logon()
	p := a.Partitions()[0]
	la, lb := ca.channel(p), cb.channel(p)
	if err := a.SetOSMessageSequence("PART1", 70); err != nil {
		t.Fatal(err)
	}
	if _, err := a.OSMessages("PART1", "hello"); err != nil {
		t.Fatal(err)
	}
	if x, y := la.osMessages()[0], lb.osMessages()[0]; x.Sequence != 70 || y.Sequence != 1070 || x.Text != y.Text {
		t.Errorf("%v, %v", x, y)
	}
	list, _ := cb.get(p.URI + "/operations/list-os-messages?begin-sequence-number=1070&end-sequence-number=1070")["os-messages"].([]any)
	if len(list) != 1 {
		t.Errorf("%v", list)
	}
	if status, _ := cb.do(http.MethodPost, p.URI+"/operations/delete-os-message", `{"sequence-number":1070}`); status != 204 {
		t.Error(status)
	}
	ca.fails(http.MethodPost, p.URI+"/operations/delete-os-message", `{"sequence-number":70}`, 404, 1)
	if err := a.StopPartition("PART1"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "rest", func() bool { i, err := a.Partition("PART1"); return err == nil && !i.Busy })
	if err := a.StartPartition("PART1"); err != nil {
		t.Fatal(err)
	}
	for {
		m := la.osMessages()[0]
		if strings.Contains(m.Text, "Linux version") {
			if m.Sequence != 0 {
				t.Errorf("the first message of an IPL has the number %d", m.Sequence)
			}
			break
		}
	}
}

// What happens while the SE is cut off shows when it is back, and nothing of it before.
func TestChangesWhileCutOff(t *testing.T) {
	h := startHMC(t, Options{CPCs: 2, Partitions: 8, StepDelay: time.Hour, SessionIdleTimeout: -1})
	c := newRESTClient(t, h)
	l := listenTo(t, h, fmt.Sprint(c.logon()["notification-topic"]))
	part, lpar := h.Partitions()[0], h.Partitions()[1]
	console := c.channel(part)
	if _, err := h.OSMessages(part.ID, "before"); err != nil {
		t.Fatal(err)
	}
	if err := h.StopPartition(part.ID); err != nil {
		t.Fatal(err)
	}
	for _, cpc := range h.CPCs() {
		if err := h.SetCommunicating(cpc.Name, false); err != nil {
			t.Fatal(err)
		}
	}
	for _, cpc := range h.CPCs() {
		if cpc.Communicating || cpc.Status != "not-communicating" {
			t.Errorf("%+v", cpc)
		}
	}
	for _, p := range h.Partitions() {
		if want := map[bool]string{true: "communications-not-active", false: "status-check"}[p.DPM]; p.Status != want || p.HasOS {
			t.Errorf("%+v", p)
		}
	}
	if l.statusOf(part.URI) != "stopping" || l.statusOf(part.URI) != "communications-not-active" || l.statusOf(lpar.URI) != "status-check" {
		t.Error("no burst")
	}
	if h.StartPartition(part.ID) == nil || h.StartPartition(lpar.ID) == nil || h.StopPartition(lpar.ID) == nil {
		t.Error("operated without an SE")
	}
	c.fails(http.MethodPost, lpar.URI+"/operations/load", nil, 409, 6)
	h.mu.Lock()
	for len(h.world.tasks) > 0 { // its stop goes on
		do := h.world.tasks[0].do
		h.world.tasks = h.world.tasks[1:]
		do()
	}
	h.mu.Unlock()
	if p, err := h.Partition(part.ID); err != nil || p.Status != "communications-not-active" || p.Busy {
		t.Errorf("%+v, %v", p, err)
	}
	if err := h.SetCommunicating(part.CPC, true); err != nil {
		t.Fatal(err)
	}
	if s := l.statusOf(part.URI); s != "stopped" {
		t.Errorf("%s", s)
	}
	if err := h.SetPartitionStatus(part.ID, "active"); err != nil {
		t.Fatal(err)
	}
	next, err := h.OSMessages(part.ID, "back")
	if err != nil || next != 1 {
		t.Errorf("%d, %v", next, err)
	}
	// The four messages of its shutdown were held, unheard.
	before, back := console.osMessages()[0], console.osMessages()[0]
	if before.Text != "before" || back.Text != "back" || back.Sequence != before.Sequence+5 {
		t.Errorf("%v, %v", before, back)
	}
	list, _ := c.get(fmt.Sprintf("%s/operations/list-os-messages?begin-sequence-number=%d", part.URI, before.Sequence))["os-messages"].([]any)
	if len(list) != 6 {
		t.Errorf("%v", list)
	}
}

// CPCs come, are renamed and go.
func TestCPCsComeAndGo(t *testing.T) {
	h := startHMC(t, Options{})
	c := newRESTClient(t, h)
	l := listenTo(t, h, fmt.Sprint(c.logon()["notification-topic"]))
	made, err := h.AddCPC("NEW", true)
	if err != nil {
		t.Fatal(err)
	}
	if m := l.next(typeInventoryChange); m.Header.Get("action") != "add" || m.Header.Get("object-uri") != made.URI || m.Header.Get("class") != "cpc" {
		t.Errorf("%v", m.Header)
	}
	p, err := h.CreatePartition("NEW", "P")
	if err != nil {
		t.Fatal(err)
	}
	if err := h.RenameCPC("NEW", "NEWER"); err != nil {
		t.Fatal(err)
	}
	if m := l.next(typePropertyChange); !strings.Contains(string(m.Body), `{"property-name":"name","old-value":"NEW","new-value":"NEWER"}`) {
		t.Errorf("%s", m.Body)
	}
	if err := h.SetCPCStatus("NEWER", "service"); err != nil {
		t.Fatal(err)
	}
	if s := l.statusOf(made.URI); s != "service" {
		t.Error(s)
	}
	if err := h.RemoveCPC("NEWER"); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{p.URI, made.URI} {
		if m := l.next(typeInventoryChange); m.Header.Get("action") != "remove" || m.Header.Get("object-uri") != want {
			t.Errorf("%v, want %s", m.Header, want)
		}
	}
	c.fails(http.MethodGet, p.URI, nil, 404, 1)
	c.fails(http.MethodGet, made.URI, nil, 404, 1)
	if err := h.RenamePartition("PART1", "PART1"); err != nil {
		t.Error(err)
	}
	for _, err := range []error{
		h.RenamePartition("PART1", ""), h.RenameCPC("CPC1", ""), h.RenameCPC("", "X"),
		h.RenameCPC("NEWER", "X"), h.RemoveCPC("NEWER"), h.SetCPCStatus("NEWER", "active"),
	} {
		if err == nil {
			t.Error("no error")
		}
	}
	for _, name := range []string{"", "CPC1"} {
		if _, err := h.AddCPC(name, true); err == nil {
			t.Errorf("%q: added", name)
		}
	}
}

// Jobs run until they are completed or canceled, and Query Job Status tells how they ended.
func TestJobResults(t *testing.T) {
	h := startHMC(t, Options{})
	if _, err := h.StartJob(""); err == nil {
		t.Error("a job without a session")
	}
	c := newRESTClient(t, h)
	l := listenTo(t, h, fmt.Sprint(c.logon()["job-notification-topic"]))
	other := newRESTClient(t, h)
	other.logon()
	start := func() string {
		t.Helper()
		uri, err := h.StartJob(c.token)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.get(uri); !reflect.DeepEqual(got, map[string]any{"status": "running"}) {
			t.Errorf("%v", got)
		}
		return uri
	}
	ends := func(uri, want string) {
		t.Helper()
		if m := l.next(typeJobCompletion); m.Header.Get("job-uri") != uri {
			t.Errorf("%v, want %s", m.Header, uri)
		}
		if got, err := json.Marshal(c.get(uri)); err != nil || string(got) != want {
			t.Errorf("%s, want %s", got, want)
		}
		if h.CompleteJob(uri, JobResult{}) == nil || h.CancelJob(uri, JobResult{}) == nil {
			t.Error("ended twice")
		}
		c.fails(http.MethodPost, uri+"/operations/cancel", nil, 409, 41)
	}
	for _, test := range []struct {
		end  func(uri string, result JobResult) error
		with JobResult
		want string
	}{
		{h.CompleteJob, JobResult{}, `{"job-status-code":200,"status":"complete"}`},
		{h.CompleteJob, JobResult{Reason: 9, Results: map[string]any{"message": "done"}}, `{"job-results":{"message":"done"},"job-status-code":200,"status":"complete"}`},
		{h.CompleteJob, JobResult{Status: 500, Reason: 263, Results: map[string]any{"message": "no"}}, `{"job-reason-code":263,"job-results":{"message":"no"},"job-status-code":500,"status":"complete"}`},
		{h.CancelJob, JobResult{Status: 409}, `{"job-reason-code":0,"job-status-code":409,"status":"canceled"}`},
	} {
		uri := start()
		if err := test.end(uri, test.with); err != nil {
			t.Fatal(err)
		}
		ends(uri, test.want)
	}
	uri := start()
	if status, _ := c.do(http.MethodPost, uri+"/operations/cancel", nil); status != 202 {
		t.Error(status)
	}
	if err := h.CompleteJob(uri, JobResult{}); err != nil {
		t.Fatal(err)
	}
	ends(uri, `{"job-status-code":200,"status":"canceled"}`)
	if latest, err := h.StartJob(""); err != nil || other.get(latest)["status"] != "running" {
		t.Errorf("%s, %v", latest, err)
	}
	if h.CompleteJob("/api/jobs/x", JobResult{}) == nil || h.CancelJob("x", JobResult{}) == nil {
		t.Error("no error")
	}
	if _, err := h.StartJob("x"); err == nil {
		t.Error("no error")
	}
}

// Each hardware message may be told as a change of the container hardware-messages, as an inventory-change, as both, or
// by the edge of has-hardware-messages alone.
func TestHardwareMessageNotifications(t *testing.T) {
	for _, test := range []struct{ changes, inventory bool }{{false, false}, {true, false}, {false, true}, {true, true}} {
		h := startHMC(t, Options{HardwareMessageChanges: test.changes, HardwareMessageInventory: test.inventory})
		c := newRESTClient(t, h)
		l := listenTo(t, h, fmt.Sprint(c.logon()["notification-topic"]))
		next := func(uri string) map[string]any {
			t.Helper()
			m := l.next(typePropertyChange)
			if m.Header.Get("object-uri") != uri {
				t.Fatalf("%v, want %s", m.Header, uri)
			}
			body := map[string]any{"names": m.Header.Get("property-names")}
			if err := json.Unmarshal(m.Body, &body); err != nil {
				t.Fatal(err)
			}
			return body
		}
		// report returns the last change report of a property-change.
		report := func(body map[string]any) map[string]any {
			reports, _ := body["change-reports"].([]any)
			r, _ := reports[len(reports)-1].(map[string]any)
			return r
		}
		uriOf := func(v any) any {
			list, _ := v.([]any)
			if len(list) != 1 {
				return fmt.Sprint(v)
			}
			m, _ := list[0].(map[string]any)
			if _, has := m["details"]; has || m["class"] != "hardware-message" {
				t.Errorf("%v", m)
			}
			return m["element-uri"]
		}
		for key, owner := range map[string]string{"": "/api/console", "CPC1": h.CPCs()[0].URI} {
			first, err := h.AddHardwareMessage(key, "one")
			if err != nil {
				t.Fatal(err)
			}
			second, err := h.AddHardwareMessage(key, "two")
			if err != nil {
				t.Fatal(err)
			}
			infos, err := h.HardwareMessages(key)
			if err != nil || len(infos) != 2 || infos[0].URI != first || infos[1].Text != "two" {
				t.Errorf("%v, %v", infos, err)
			}
			if test.changes {
				body := next(owner)
				if r := report(body); body["names"] != " has-hardware-messages hardware-messages " || r["old-value"] != nil || uriOf(r["new-value"]) != first {
					t.Errorf("%v", body)
				}
				body = next(owner)
				if r := report(body); body["names"] != " hardware-messages " || r["old-value"] != nil || uriOf(r["new-value"]) != second {
					t.Errorf("%v", body)
				}
			} else if body := next(owner); body["names"] != " has-hardware-messages " {
				t.Errorf("%v", body)
			}
			if err := h.DeleteHardwareMessage(first); err != nil {
				t.Fatal(err)
			}
			if h.DeleteHardwareMessage(first) == nil || h.DeleteHardwareMessage("/api/cpcs/x/hardware-messages/y") == nil {
				t.Error("deleted twice")
			}
			c.fails(http.MethodGet, first, nil, 404, 1)
			if status, _ := c.do(http.MethodDelete, second, nil); status != 204 {
				t.Error(status)
			}
			if test.changes {
				if r := report(next(owner)); r["new-value"] != nil || uriOf(r["old-value"]) != first {
					t.Errorf("%v", r)
				}
			}
			body := next(owner)
			if r := report(body); !strings.HasPrefix(fmt.Sprint(body["names"]), " has-hardware-messages ") || (test.changes && uriOf(r["old-value"]) != second) {
				t.Errorf("%v", body)
			}
			if err := h.DeleteHardwareMessages(key); err != nil { // of none
				t.Error(err)
			}
		}
		if n := h.Published()[typeInventoryChange]; n != map[bool]int64{true: 8}[test.inventory] {
			t.Errorf("%d inventory changes", n)
		}
		if test.inventory {
			uri, err := h.AddHardwareMessage("", "three")
			if err != nil {
				t.Fatal(err)
			}
			m := l.next(typeInventoryChange)
			for m.Header.Get("element-uri") != uri {
				m = l.next(typeInventoryChange)
			}
			if m.Header.Get("action") != "add" || m.Header.Get("class") != "hardware-message" || m.Header.Get("object-uri") != "/api/console" {
				t.Errorf("%v", m.Header)
			}
		}
		if _, err := h.HardwareMessages("nowhere"); err == nil {
			t.Error("no error")
		}
		c.fails(http.MethodGet, "/api/cpcs/CPC1/hardware-messages", nil, 404, 1) // a name is no id
	}
}

// begin-time and end-time are inclusive.
func TestHardwareMessageTimes(t *testing.T) {
	h := startHMC(t, Options{})
	c := newRESTClient(t, h)
	c.logon()
	if _, err := h.AddHardwareMessage("CPC1", "x"); err != nil {
		t.Fatal(err)
	}
	infos, err := h.HardwareMessages("CPC1")
	if err != nil {
		t.Fatal(err)
	}
	at := infos[0].Time.UnixMilli()
	for query, want := range map[string]int{
		"":                                1,
		fmt.Sprintf("?begin-time=%d", at): 1, fmt.Sprintf("?begin-time=%d", at+1): 0,
		fmt.Sprintf("?end-time=%d", at): 1, fmt.Sprintf("?end-time=%d", at-1): 0,
		fmt.Sprintf("?begin-time=%d&end-time=%d", at, at): 1,
	} {
		if list, _ := c.get(h.CPCs()[0].URI + "/hardware-messages" + query)["hardware-messages"].([]any); len(list) != want {
			t.Errorf("%s: %v", query, list)
		}
	}
}

// A fault may be for one object only.
func TestRESTFaultOfOneObject(t *testing.T) {
	h := startHMC(t, Options{})
	c := newRESTClient(t, h)
	c.logon()
	one, other := h.Partitions()[0], h.Partitions()[2]
	h.FaultREST(RESTFault{Kind: RESTFaultStatus, Status: 409, Reason: 272, Operation: "get-partition-properties", URI: one.ID})
	for range 2 {
		c.fails(http.MethodGet, one.URI, nil, 409, 272)
		c.get(other.URI)
	}
	h.ClearRESTFaults()
	c.get(one.URI)
}

// An estate of any size is there at once, and one call lists all of it.
func TestLargeEstate(t *testing.T) {
	h := startHMC(t, Options{CPCs: 20, Partitions: 3000})
	c := newRESTClient(t, h)
	c.logon()
	n, seen := 0, map[any]bool{}
	for _, kind := range []string{"partitions", "logical-partitions"} {
		list, _ := c.get("/api/console/operations/list-permitted-" + kind)[kind].([]any)
		for _, e := range list {
			entry, _ := e.(map[string]any)
			seen[entry["object-uri"]] = true
			n++
		}
	}
	cpcs, _ := c.get("/api/cpcs")["cpcs"].([]any)
	if n != 3000 || len(seen) != 3000 || len(cpcs) != 20 {
		t.Errorf("%d partitions, %d URIs, %d CPCs", n, len(seen), len(cpcs))
	}
	for _, p := range h.Partitions()[2990:] {
		if c.get(p.URI)["name"] != p.Name {
			t.Errorf("%+v", p)
		}
	}
}
