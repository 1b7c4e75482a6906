package hmc_test

import (
	"net/http"
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

// Program status words come as they are shown, in groups or not.
func TestPSWs(t *testing.T) {
	const lpar = "/api/logical-partitions/l"
	words, err := answering(t, 200, `{"program-status-word-information":[{"psw":"00020000 80000000 00000000 0017C0A2","cpid":"00"},{"psw":"0706C00180000000000000000070E050"},{}]}`).GetPSWs(t.Context(), lpar)
	if want := []string{"0002000080000000000000000017C0A2", "0706C00180000000000000000070E050", ""}; err != nil || !slices.Equal(words, want) {
		t.Errorf("%q, %v", words, err)
	}
	for _, body := range []string{`{}`, `{"program-status-word-information":null}`} {
		if words, err := answering(t, 200, body).GetPSWs(t.Context(), lpar); err != nil || len(words) != 0 {
			t.Errorf("%s: %q, %v", body, words, err)
		}
	}
	if _, err := answering(t, 200, `{"program-status-word-information":"x"}`).GetPSWs(t.Context(), lpar); err == nil {
		t.Error("a text was taken for words")
	}
	if _, err := answering(t, 200, `{}`).GetPSWs(t.Context(), "/api/partitions/p"); err == nil {
		t.Error("a DPM partition was asked")
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
