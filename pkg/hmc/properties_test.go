package hmc_test

import (
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmc"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
)

// What an HMC tells of CPCs and partitions, in one request or one by one; one that is gone is left out.
func TestInfos(t *testing.T) {
	sim, c := simulate(t, hmcsim.Options{CPCs: 2, Partitions: 8})
	s, err := c.Logon(t.Context(), "hmcuser", "hmcpass")
	if err != nil {
		t.Fatal(err)
	}
	uris := []string{"/api/partitions/nobody"}
	for _, cpc := range sim.CPCs() {
		uris = append(uris, cpc.URI)
	}
	for _, p := range sim.Partitions() {
		uris = append(uris, p.URI)
	}
	infos, err := s.GetInfos(t.Context(), uris)
	if err != nil || len(infos) != len(uris)-1 {
		t.Fatalf("%d of %d, %v", len(infos), len(uris), err)
	}
	if n := sim.RESTRequests()["submit-requests"]; n != 1 {
		t.Errorf("%d requests", n)
	}
	zos := 0
	for i, info := range infos {
		if info.ObjectURI != uris[i+1] || len(info.AcceptableStatus) == 0 {
			t.Errorf("%+v", info)
		}
		if info.Sysplex == "PLEX1" && info.OSLevel == "z/OS V2.5" && info.IPLToken != "" && info.LoadAddress == "00A86" && info.LoadParameter == "0A8600M1" {
			zos++
		}
		alone, err := s.GetInfo(t.Context(), info.ObjectURI)
		if err != nil || !slices.Equal(alone.AcceptableStatus, info.AcceptableStatus) || alone.OSName != info.OSName || alone.IPLToken != info.IPLToken {
			t.Errorf("%+v, alone %+v, %v", info, alone, err)
		}
	}
	if zos == 0 {
		t.Error("no z/OS")
	}
	if _, err := s.GetInfo(t.Context(), uris[0]); !hmc.IsStatus(err, http.StatusNotFound) {
		t.Error(err)
	}
	for _, bad := range []string{"/api/console", "/api/adapters/a", "/api/cpcs/", "/api/partitions/a/nics/b", "/api/partitions/a?x"} {
		if _, err := s.GetInfos(t.Context(), []string{bad}); err == nil {
			t.Errorf("%s was asked for", bad)
		}
		if _, err := s.GetInfo(t.Context(), bad); err == nil {
			t.Errorf("%s was asked for", bad)
		}
	}
}

// An HMC that does not know a property is asked for the whole object; texts lose the blanks that they are filled up with.
func TestInfosOfAnOlderHMC(t *testing.T) {
	var bodies []string
	s := answeringWith(t, func(r *http.Request, body string) (int, string) {
		bodies = append(bodies, r.Method+" "+r.URL.RequestURI()+" "+body)
		switch {
		case strings.Contains(body, "?properties=") && strings.Contains(body, "/api/partitions/p"):
			return 200, `[{"id":"0","status":200,"headers":[],"body":{"acceptable-status":[]}},{"id":"1","status":400,"body":{"reason":1}},{"id":"2","status":404},{"id":"x"},{"id":"9","status":200},{"id":0,"status":200,"body":{}}]`
		case strings.Contains(body, "/api/partitions/p"):
			return 200, `[{"id":"0","status":200,"body":{"os-name":"LNX01   ","os-version":" 6.4 ","sysplex-name":null,"acceptable-status":"x","os-ipl-token":7}}]`
		case r.URL.Query().Has("properties"):
			return 400, `{"http-status":400,"reason":1,"message":"m"}`
		}
		return 200, `{"os-name":"SY1","os-ipl-token":"0000000000000000"}`
	})
	infos, err := s.GetInfos(t.Context(), []string{"/api/cpcs/c", "/api/partitions/p", "/api/partitions/gone"})
	if err != nil || len(infos) != 2 || infos[0].AcceptableStatus == nil || infos[1].OSName != "LNX01" || infos[1].OSLevel != "6.4" || infos[1].AcceptableStatus != nil || len(bodies) != 2 {
		t.Errorf("%+v, %v, %q", infos, err, bodies)
	}
	bodies = nil
	info, err := s.GetInfo(t.Context(), "/api/logical-partitions/l")
	if err != nil || info.OSName != "SY1" || info.IPLToken != "" || len(bodies) != 2 {
		t.Errorf("%+v, %v, %q", info, err, bodies)
	}
}

// An event is held back for facts: of one object in a GET, of several in one request, or one by one where the HMC does not know
// how to tell of several. What is gone is left out.
func TestFacts(t *testing.T) {
	const lpar, adapter, group = "/api/logical-partitions/l", "/api/adapters/a", "/api/storage-groups/g"
	objects := map[string]string{
		lpar:    `{"name":"LP01","parent":"/api/cpcs/c","program-status-word-information":[{"psw":"00020000 80000000 00000000 0017C0A2","cpid":"00"},{"psw":"0706C00180000000000000000070E050"},{}]}`,
		adapter: `{"name":"OSD 1","parent":"/api/cpcs/c"}`,
		group:   `{"name":"SG","parent":"/api/console","cpc-uri":"/api/cpcs/d","program-status-word-information":"x"}`,
	}
	want := []hmc.Info{
		{ObjectURI: lpar, Name: "LP01", CPCURI: "/api/cpcs/c", PSWs: []string{"0002000080000000000000000017C0A2", "0706C00180000000000000000070E050", ""}},
		{ObjectURI: adapter, Name: "OSD 1", CPCURI: "/api/cpcs/c"},
		{ObjectURI: group, Name: "SG", CPCURI: "/api/cpcs/d"},
	}
	for name, several := range map[string]int{"several at once": 200, "not known": 404, "not allowed": 405} {
		var asked []string
		s := answeringWith(t, func(r *http.Request, body string) (int, string) {
			asked = append(asked, r.Method+" "+r.URL.RequestURI())
			if r.Method == http.MethodPost {
				if several != 200 {
					return several, `{"http-status":404,"reason":1,"message":"m"}`
				}
				return 200, `[{"id":"0","status":200,"body":` + objects[lpar] + `},{"id":"1","status":404},{"id":"2","status":200,"body":` + objects[adapter] + `},{"id":"3","status":200,"body":` + objects[group] + `}]`
			}
			if answer, ok := objects[r.URL.Path]; ok {
				return 200, answer
			}
			return 404, `{"http-status":404,"reason":1,"message":"m"}`
		})
		facts, err := s.GetFacts(t.Context(), []string{lpar, "/api/adapters/gone", adapter, group})
		if err != nil || !reflect.DeepEqual(facts, want) {
			t.Errorf("%s: %+v, %v", name, facts, err)
		}
		if requests := map[int]int{200: 1, 404: 5, 405: 5}[several]; len(asked) != requests {
			t.Errorf("%s: %q", name, asked)
		}
		asked = nil
		facts, err = s.GetFacts(t.Context(), []string{lpar})
		if one := []string{"GET " + lpar + "?properties=name%2Cparent%2Cprogram-status-word-information"}; err != nil || len(facts) != 1 || !slices.Equal(asked, one) {
			t.Errorf("%s: %+v, %v, %q", name, facts, err, asked)
		}
		for _, bad := range []string{"", "/api/console", "/api/cpcs/", "/api/partitions/a/nics/b", "/api/adapters/a?x", "/api//x", "/api/../x", "adapters/x"} {
			if facts, err := s.GetFacts(t.Context(), []string{bad}); err == nil {
				t.Errorf("%s was asked for: %v", bad, facts)
			}
		}
	}
	for _, body := range []string{`{}`, `{"program-status-word-information":null}`, `{"program-status-word-information":"x"}`} {
		facts, err := answering(t, 200, body).GetFacts(t.Context(), []string{lpar})
		if err != nil || len(facts) != 1 || len(facts[0].PSWs) != 0 {
			t.Errorf("%s: %+v, %v", body, facts, err)
		}
	}
}

// Of an LPAR the HMC is asked for the messages that are held, of a DPM partition, and where it does not know the filter, for all.
func TestHeldMessages(t *testing.T) {
	var asked []string
	s := answeringWith(t, func(r *http.Request, _ string) (int, string) {
		asked = append(asked, r.URL.RequestURI())
		return 200, `{"os-messages":[{"sequence-number":1,"is-held":true}]}`
	})
	for _, test := range []struct {
		uri      string
		filtered bool
		want     string
	}{
		{"/api/logical-partitions/l", true, "/api/logical-partitions/l/operations/list-os-messages?is-held=true"},
		{"/api/logical-partitions/l", false, "/api/logical-partitions/l/operations/list-os-messages"},
		{"/api/partitions/p", true, "/api/partitions/p/operations/list-os-messages"},
	} {
		asked = nil
		if messages, err := s.ListHeldMessages(t.Context(), test.uri, test.filtered); err != nil || len(messages) != 1 || !slices.Equal(asked, []string{test.want}) {
			t.Errorf("%+v: %q, %v", test, asked, err)
		}
	}
	if _, err := s.ListHeldMessages(t.Context(), "/api/cpcs/c", true); err == nil {
		t.Error("a CPC was asked")
	}
}
