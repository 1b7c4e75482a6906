package hmcsim

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
)

// Each operation is one that somebody else knows too, with the same method and path.
func TestOperationsAreKnownElsewhere(t *testing.T) {
	text, err := os.ReadFile("testdata/operations.txt")
	if err != nil {
		t.Fatal(err)
	}
	known, source := make(map[string]string), ""
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if after, ok := strings.CutPrefix(line, "source: "); ok {
			source = after
			continue
		}
		if line != "" && !strings.HasPrefix(line, "#") {
			known[line] = source
		}
	}
	for i := range operations {
		op := &operations[i]
		key := op.method + " /" + strings.Join(op.path, "/")
		if known[key] == "" {
			t.Errorf("%s (%s) is in no other source", key, op.name)
		}
		delete(known, key)
	}
	for key := range known {
		t.Errorf("%s is not there any more", key)
	}
}

// Several GETs in one are answered as each by itself would be.
func TestAggregatedGETs(t *testing.T) {
	h := startHMC(t, Options{})
	c := newRESTClient(t, h)
	c.logon()
	p := h.Partitions()[0]
	const submit = "/api/services/aggregation/submit"
	body := map[string]any{"threads": 2, "requests": []any{
		map[string]any{"method": "GET", "uri": p.URI + "?properties=name,acceptable-status", "id": "a"},
		map[string]any{"method": "GET", "uri": "/api/partitions/nobody", "id": "b"},
		map[string]any{"method": "POST", "uri": p.URI + "/operations/stop", "id": "c"},
		map[string]any{"method": "GET", "uri": submit},
	}}
	status, v := c.do(http.MethodPost, submit, body)
	list, _ := v.([]any)
	if status != 200 || len(list) != 4 {
		t.Fatalf("%d %v", status, v)
	}
	got := fmt.Sprint(list[0], list[1].(map[string]any)["status"], list[2].(map[string]any)["status"], list[3].(map[string]any)["status"])
	if want := "map[body:map[acceptable-status:[active starting stopping] name:PART1] headers:[] id:a status:200] 404 400 405"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	c.fails(http.MethodPost, submit, map[string]any{}, 400, 5)
	c.fails(http.MethodPost, submit, map[string]any{"requests": []any{map[string]any{"uri": p.URI, "id": "a"}}}, 400, 5)
	if status, v := c.do(http.MethodPost, submit, map[string]any{"requests": []any{}}); status != 200 || len(v.([]any)) != 0 {
		t.Errorf("%d %v", status, v)
	}
	c.fails(http.MethodPost, submit, map[string]any{"threads": 11, "requests": body["requests"]}, 400, 7)
	c.fails(http.MethodPost, submit, map[string]any{"requests": []any{map[string]any{"id": strings.Repeat("x", maxAggregated)}}}, 413, 0)
}

// What operators call acceptable is told, and so is what it makes of the status; lists know it as zhmcclient asks for it.
func TestAcceptableStatus(t *testing.T) {
	h := startHMC(t, Options{})
	c := newRESTClient(t, h)
	on := c.logon()
	l := listenTo(t, h, on["notification-topic"].(string))
	p := h.Partitions()[0]
	listed := func(value string) bool {
		v := c.get("/api/console/operations/list-permitted-partitions?has-unacceptable-status=" + url.QueryEscape(value))
		return slices.ContainsFunc(v["partitions"].([]any), func(one any) bool { return one.(map[string]any)["object-uri"] == p.URI })
	}
	if listed("True") || !listed("False") || !listed("false") {
		t.Error("a status that is acceptable is listed as not")
	}
	if status, v := c.do(http.MethodPost, p.URI, map[string]any{"acceptable-status": []string{"stopped"}}); status != 204 {
		t.Fatalf("%d %v", status, v)
	}
	if got := string(l.next("property-change").Body); got != `{"change-reports":[{"property-name":"acceptable-status","old-value":["active","starting","stopping"],"new-value":["stopped"]}]}` {
		t.Error(got)
	}
	if got := string(l.next("status-change").Body); got != `{"change-reports":[{"has-unacceptable-status":true}]}` {
		t.Error(got)
	}
	if !listed("true") || !listed("True") || listed("False") {
		t.Error("a status that is not acceptable is listed as if it were")
	}
	if err := h.SetAcceptableStatus(p.URI, "active"); err != nil {
		t.Fatal(err)
	}
	l.next("property-change")
	if got := string(l.next("status-change").Body); got != `{"change-reports":[{"has-unacceptable-status":false}]}` {
		t.Error(got)
	}
	c.fails(http.MethodPost, p.URI, map[string]any{"acceptable-status": "active"}, 400, 6)
	lpar := h.Partitions()[slices.IndexFunc(h.Partitions(), func(p PartitionInfo) bool { return !p.DPM })]
	c.fails(http.MethodPost, lpar.URI, map[string]any{"name": "X"}, 400, 6) // both are read-only
	c.fails(http.MethodPost, lpar.URI, map[string]any{"description": "X"}, 400, 6)
}

// A system that waits has stopped all processors, with the codes in their program status words; its next IPL has another token.
func TestDisabledWait(t *testing.T) {
	h := startHMC(t, Options{})
	c := newRESTClient(t, h)
	on := c.logon()
	l := listenTo(t, h, on["notification-topic"].(string))
	i := slices.IndexFunc(h.Partitions(), func(p PartitionInfo) bool { return !p.DPM && p.HasOS })
	p := h.Partitions()[i]
	before := c.get(p.URI)
	if before["os-type"] != "MVS" || before["sysplex-name"] != "PLEX1" || before["os-ipl-token"] == noToken || len(before["program-status-word-information"].([]any)) != 0 {
		t.Errorf("%v", before)
	}
	if err := h.DisabledWait(p.URI, 0x0a2, 0x17c); err != nil {
		t.Fatal(err)
	}
	if got := l.statusOf(p.URI); got != "not-operating" {
		t.Error(got)
	}
	words := c.get(p.URI + "?properties=program-status-word-information")["program-status-word-information"].([]any)
	if len(words) == 0 || fmt.Sprint(words[0]) != "map[cpid:00 psw:0002000080000000000000000017C0A2]" {
		t.Errorf("%v", words)
	}
	if err := h.StartPartition(p.URI); err != nil {
		t.Fatal(err)
	}
	if got := string(l.next("property-change").Body); !strings.Contains(got, `"property-name":"os-ipl-token"`) {
		t.Error(got)
	}
	after := c.get(p.URI)
	if after["os-ipl-token"] == before["os-ipl-token"] || after["os-name"] != before["os-name"] || len(after["program-status-word-information"].([]any)) != 0 {
		t.Errorf("%v", after)
	}
	if err := h.SetSysplex(p.URI, "PLEX2"); err != nil {
		t.Fatal(err)
	}
	if got := string(l.next("property-change").Body); got != `{"change-reports":[{"property-name":"sysplex-name","old-value":"PLEX1","new-value":"PLEX2"}]}` {
		t.Error(got)
	}
	if err := h.DisabledWait(h.Partitions()[0].URI, 1, 1); err == nil {
		t.Error("a DPM partition waits")
	}
}

// Adapters and storage groups are listed, and tell what becomes of them.
func TestAdaptersAndStorage(t *testing.T) {
	h := startHMC(t, Options{})
	c := newRESTClient(t, h)
	on := c.logon()
	l := listenTo(t, h, on["notification-topic"].(string))
	adapters := c.get("/api/console/operations/list-permitted-adapters?type=osd")["adapters"].([]any)
	groups := c.get("/api/storage-groups")["storage-groups"].([]any)
	if len(adapters) != 1 || len(groups) != 1 {
		t.Fatalf("%v, %v", adapters, groups)
	}
	uri := adapters[0].(map[string]any)["object-uri"].(string)
	if err := h.SetAdapterStatus("OSD 0120", "not-detected", "link-failure"); err != nil {
		t.Fatal(err)
	}
	m := l.next("status-change")
	if m.Header.Get("class") != "adapter" || m.Header.Get("object-uri") != uri || !strings.Contains(string(m.Body), `"new-status":"not-detected"`) {
		t.Errorf("%v %s", m.Header, m.Body)
	}
	l.next("property-change")
	if a := c.get(uri); a["status"] != "not-detected" || a["physical-channel-status"] != "link-failure" {
		t.Errorf("%v", a)
	}
	if err := h.SetFulfillment("SG CPC1", "incomplete"); err != nil {
		t.Fatal(err)
	}
	if m := l.next("property-change"); m.Header.Get("class") != "storage-group" || !strings.Contains(string(m.Body), `"new-value":"incomplete"`) {
		t.Errorf("%v %s", m.Header, m.Body)
	}
	if got := c.get("/api/storage-groups?fulfillment-state=complete")["storage-groups"].([]any); len(got) != 0 {
		t.Errorf("%v", got)
	}
	if h.SetAdapterStatus("nobody", "active", "") == nil || h.SetFulfillment("nobody", "x") == nil {
		t.Error("nobody has a status")
	}
}

// A reply to a message that waits for it ends the waiting, by whatever way it came.
func TestAnswers(t *testing.T) {
	h := startHMC(t, Options{})
	c := newRESTClient(t, h)
	c.logon()
	i := slices.IndexFunc(h.Partitions(), func(p PartitionInfo) bool { return !p.DPM && p.HasOS })
	p := h.Partitions()[i]
	held := func() (numbers []int64) {
		for _, m := range c.get(p.URI + "/operations/list-os-messages?is-held=True")["os-messages"].([]any) {
			numbers = append(numbers, int64(m.(map[string]any)["sequence-number"].(float64)))
		}
		return numbers
	}
	if n := len(held()); n != 0 {
		t.Errorf("%d messages are held after an IPL", n)
	}
	if _, err := h.OSMessages(p.URI, "*07 ABC999D REPLY U", "*08 ABC999D REPLY U"); err != nil {
		t.Fatal(err)
	}
	first := held()
	if len(first) != 2 {
		t.Fatalf("%v", first)
	}
	if status, v := c.do(http.MethodPost, p.URI+"/operations/send-os-cmd", map[string]any{"operating-system-command-text": "r 8,U"}); status != 204 {
		t.Fatalf("%d %v", status, v)
	}
	if got := held(); !slices.Equal(got, first[:1]) {
		t.Errorf("%v", got)
	}
	if h.AnswerOSMessage(p.URI, first[1], true) == nil {
		t.Error("it was answered twice")
	}
	if err := h.AnswerOSMessage(p.URI, first[0], false); err != nil || len(held()) != 0 {
		t.Errorf("%v, %v", err, held())
	}
	if _, err := h.OSMessages(p.URI, "*09 ABC999D REPLY U", "*10 ABC999D REPLY U"); err != nil {
		t.Fatal(err)
	}
	if err := h.ReplyToOSMessage(p.URI, 11, "U"); err == nil || err.Error() != "hmcsim: no message of "+p.Name+" waits for an answer under 11, but under 09, 10" {
		t.Error(err)
	}
	if err := h.ReplyToOSMessage(p.URI, 9, "U"); err != nil || len(held()) != 1 {
		t.Errorf("%v, %v", err, held())
	}
	if err := h.DisabledWait(p.URI, 0x0a2, 0); err != nil {
		t.Fatal(err)
	}
	if err := h.StartPartition(p.URI); err != nil {
		t.Fatal(err)
	}
	eventually(t, "its IPL", func() bool { i, err := h.Partition(p.URI); return err == nil && !i.Busy })
	if n := len(held()); n != 0 {
		t.Errorf("%d messages are held after an IPL", n)
	}
}

// No two systems of a sysplex have one name, whatever their LPARs are called.
func TestSystemNames(t *testing.T) {
	h := startHMC(t, Options{CPCs: 4, Partitions: 40})
	c := newRESTClient(t, h)
	c.logon()
	names := map[any]string{}
	for _, p := range h.Partitions() {
		of := c.get(p.URI)
		if p.DPM || of["sysplex-name"] != "PLEX1" {
			continue
		}
		if names[of["os-name"]] != "" {
			t.Errorf("%v is on %s and %s", of["os-name"], names[of["os-name"]], p.CPC+"/"+p.Name)
		}
		names[of["os-name"]] = p.CPC + "/" + p.Name
	}
	if len(names) < 6 || names["SY01"] != "M90/LP01" {
		t.Errorf("%v", names)
	}
}

// What this HMC has none of is an empty list, as on an HMC without.
func TestEmptyLists(t *testing.T) {
	h := startHMC(t, Options{})
	c := newRESTClient(t, h)
	c.logon()
	cpc := h.CPCs()[0].URI
	for _, uri := range []string{"/api/console/users", "/api/groups", cpc + "/capacity-groups"} {
		member := lastSegment(uri)
		if got := c.get(uri)[member].([]any); len(got) != 0 {
			t.Errorf("%s: %v", uri, got)
		}
	}
	if got := c.get("/api/console/operations/list-unmanaged-cpcs")["cpcs"].([]any); len(got) != 0 {
		t.Errorf("%v", got)
	}
	c.fails(http.MethodGet, "/api/cpcs/nobody/virtual-switches", nil, 404, 1)
}
