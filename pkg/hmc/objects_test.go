package hmc_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmc"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
)

// answering is a session on a server that answers each request with this.
func answering(t *testing.T, status int, body string) *hmc.Session {
	t.Helper()
	return answeringWith(t, func(r *http.Request, _ string) (int, string) {
		if r.Method != http.MethodGet {
			t.Errorf("%s %s", r.Method, r.URL)
		}
		return status, body
	})
}

// answeringWith is a session on a server that answers each request as a function says.
func answeringWith(t *testing.T, answer func(r *http.Request, body string) (int, string)) *hmc.Session {
	t.Helper()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sent, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		status, body := answer(r, string(sent))
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}))
	t.Cleanup(server.Close)
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	_, port, _ := strings.Cut(strings.TrimPrefix(server.URL, "https://"), ":")
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	c, err := hmc.New(hmc.Options{Hosts: []string{"127.0.0.1"}, Port: n, TLS: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c.Resume("session", "credential")
}

// The CPCs of an HMC, DPM and classic (facts-hmc.md 1.10).
func TestListCPCs(t *testing.T) {
	sim, c := simulate(t, hmcsim.Options{CPCs: 3, Partitions: -1})
	s, err := c.Logon(t.Context(), "hmcuser", "hmcpass")
	if err != nil {
		t.Fatal(err)
	}
	cpcs, err := s.ListCPCs(t.Context())
	if err != nil || len(cpcs) != 3 {
		t.Fatalf("%+v, %v", cpcs, err)
	}
	for i, want := range sim.CPCs() {
		if got := cpcs[i]; got.Name != want.Name || got.ObjectURI != want.URI || got.Status != want.Status || got.DPMEnabled != want.DPM || got.SEVersion == "" {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
	// An HMC before 2.14 tells less.
	cpcs, err = answering(t, 200, `{"cpcs":[{"object-uri":"/api/cpcs/x","name":"C","status":"operating","new":1}]}`).ListCPCs(t.Context())
	if want := []hmc.CPC{{Name: "C", ObjectURI: "/api/cpcs/x", Status: "operating"}}; err != nil || !slices.Equal(cpcs, want) {
		t.Errorf("%+v, %v", cpcs, err)
	}
	if cpcs, err := answering(t, 200, `{"cpcs":[]}`).ListCPCs(t.Context()); err != nil || len(cpcs) != 0 {
		t.Errorf("%+v, %v", cpcs, err)
	}
}

// A job is told as it stands (facts-hmc.md 1.11): codes when it has ended, the reason on errors.
func TestQueryJob(t *testing.T) {
	sim, c := simulate(t, hmcsim.Options{CPCs: 1, Partitions: -1})
	s, err := c.Logon(t.Context(), "hmcuser", "hmcpass")
	if err != nil {
		t.Fatal(err)
	}
	for _, uri := range sim.CompleteJobs() {
		job, err := s.QueryJob(t.Context(), uri)
		if err != nil || job.Status != "complete" || job.StatusCode == nil || *job.StatusCode != 200 || job.ReasonCode != nil || string(job.Results) != "{}" {
			t.Errorf("%+v, %v", job, err)
		}
	}
	if _, err := s.QueryJob(t.Context(), "/api/jobs/unknown"); !hmc.IsReason(err, 404, 1) {
		t.Errorf("a job that is gone: %v", err)
	}
	requests := sim.RESTRequests()["query-job-status"]
	for _, uri := range []string{"", "/api/jobs/", "/api/jobs/x/operations/cancel", "/api/jobs/..", "/api/cpcs/x", "x", "https://elsewhere/api/jobs/x"} {
		if _, err := s.QueryJob(t.Context(), uri); err == nil {
			t.Errorf("%q is taken for the URI of a job", uri)
		}
	}
	if sim.RESTRequests()["query-job-status"] != requests {
		t.Error("it was asked for none the less")
	}

	job, err := answering(t, 200, `{"status":"running"}`).QueryJob(t.Context(), "/api/jobs/1")
	if err != nil || job.Status != "running" || job.StatusCode != nil || job.ReasonCode != nil || job.Results != nil {
		t.Errorf("%+v, %v", job, err)
	}
	// What has another type hides nothing else.
	job, err = answering(t, 200, `{"status":"complete","job-status-code":"500","job-reason-code":"x","job-results":[1]}`).QueryJob(t.Context(), "/api/jobs/1")
	if err != nil || job.Status != "complete" || job.StatusCode == nil || *job.StatusCode != 500 || job.ReasonCode != nil || string(job.Results) != "[1]" {
		t.Errorf("%+v, %v", job, err)
	}
	job, err = answering(t, 200, `{"status":7,"job-status-code":409.0}`).QueryJob(t.Context(), "/api/jobs/1")
	if err != nil || job.Status != "" || job.StatusCode == nil || *job.StatusCode != 409 {
		t.Errorf("%+v, %v", job, err)
	}
	job, err = answering(t, 200, `{"status":"canceled","job-status-code":409,"job-reason-code":0,"job-results":{"message":"x"}}`).QueryJob(t.Context(), "/api/jobs/1")
	if err != nil || *job.StatusCode != 409 || *job.ReasonCode != 0 || string(job.Results) != `{"message":"x"}` {
		t.Errorf("%+v, %v", job, err)
	}
}

// The hardware messages of the console and of a CPC (facts-hmc.md 9.1): listed from a time on, which is inclusive, and each
// with its properties. Nothing else is ever called.
func TestHardwareMessages(t *testing.T) {
	sim, c := simulate(t, hmcsim.Options{CPCs: 2, Partitions: -1})
	s, err := c.Logon(t.Context(), "hmcuser", "hmcpass")
	if err != nil {
		t.Fatal(err)
	}
	cpc := sim.CPCs()[1]
	for parent, key := range map[string]string{"/api/console": "", cpc.URI: cpc.Name} {
		if list, complete, err := s.ListHardwareMessages(t.Context(), parent, time.Time{}); err != nil || len(list) != 0 || !complete {
			t.Errorf("%v, %v, %v", list, complete, err)
		}
		var uris []string
		for i := range 3 {
			uri, err := sim.AddHardwareMessage(key, fmt.Sprint("message ", i))
			if err != nil {
				t.Fatal(err)
			}
			uris = append(uris, uri)
		}
		list, complete, err := s.ListHardwareMessages(t.Context(), parent, time.Time{})
		if err != nil || len(list) != 3 || !complete {
			t.Fatalf("%v, %v, %v", list, complete, err)
		}
		slices.SortFunc(list, func(a, b hmc.HardwareMessage) int { return strings.Compare(a.Text, b.Text) })
		for i, m := range list {
			if m.ElementURI != uris[i] || m.Text != fmt.Sprint("message ", i) || time.Since(m.Timestamp) > time.Hour || !strings.Contains(string(m.Raw), m.Text) {
				t.Errorf("%+v", m)
			}
			one, err := s.GetHardwareMessage(t.Context(), m.ElementURI)
			if err != nil || one.Text != m.Text || !one.Timestamp.Equal(m.Timestamp) || one.Parent != parent || !strings.HasSuffix(one.ElementURI, one.ElementID) ||
				one.ServiceSupported != (i%2 == 0) || !strings.Contains(string(one.Raw), `"details"`) {
				t.Errorf("%+v, %v", one, err)
			}
		}
		newest := slices.MaxFunc(list, func(a, b hmc.HardwareMessage) int { return a.Timestamp.Compare(b.Timestamp) }).Timestamp
		if list, complete, err := s.ListHardwareMessages(t.Context(), parent, newest); err != nil || len(list) == 0 || complete {
			t.Errorf("from the newest on: %v, %v, %v", list, complete, err)
		}
		if list, _, err := s.ListHardwareMessages(t.Context(), parent, newest.Add(time.Millisecond)); err != nil || len(list) != 0 {
			t.Errorf("later than the newest: %v, %v", list, err)
		}
		if _, err := s.GetHardwareMessage(t.Context(), parent+"/hardware-messages/gone"); !hmc.IsReason(err, 404, 1) {
			t.Errorf("one that is gone: %v", err)
		}
	}

	requests := sim.RESTRequests()
	for _, uri := range []string{"", "/api/partitions/x", "/api/cpcs", "/api/cpcs/", "/api/cpcs/x/y", "/api/cpcs/..", "/api/console/", "/api/cpcs/x?a=b"} {
		if _, _, err := s.ListHardwareMessages(t.Context(), uri, time.Time{}); err == nil {
			t.Errorf("%q is taken for the URI of a console or CPC", uri)
		}
	}
	for _, uri := range []string{
		"", "/api/console", "/api/console/hardware-messages", "/api/console/hardware-messages/", "/api/console/hardware-messages/..",
		"/api/console/hardware-messages/x/operations/get-service-information", "/api/cpcs/x/y/hardware-messages/z", "/api/users/x/hardware-messages/y",
		"/api/cpcs/x/hardware-messages/y/hardware-messages/z", "/api/console/hardware-messages/x?delete=true", "https://elsewhere/api/console/hardware-messages/x",
	} {
		if _, err := s.GetHardwareMessage(t.Context(), uri); err == nil {
			t.Errorf("%q is taken for the URI of a hardware message", uri)
		}
	}
	for operation, n := range sim.RESTRequests() {
		if n != requests[operation] {
			t.Errorf("%d times %s for a URI that is none", n-requests[operation], operation)
		}
	}
	if sim.ForbiddenCalls() != 0 {
		t.Errorf("%d forbidden calls", sim.ForbiddenCalls())
	}
}

// What an HMC may answer beyond what it documents: only a list that is certainly whole says what is gone.
func TestHardwareMessagesOddly(t *testing.T) {
	for _, tc := range []struct {
		name, answer string
		n            int
		complete     bool
		wrong        bool
	}{
		{name: "one", answer: `{"hardware-messages":[{"element-uri":"/api/console/hardware-messages/1","text":"a","timestamp":1700000000000}]}`, n: 1, complete: true},
		{name: "none", answer: `{"hardware-messages":[]}`, complete: true},
		{name: "without a URI", answer: `{"hardware-messages":[{"text":"a"},{"element-uri":"/api/console/hardware-messages/1"}]}`, n: 2},
		{name: "other types", answer: `{"hardware-messages":[{"element-uri":"/api/console/hardware-messages/1","text":7,"timestamp":"never"}]}`, n: 1, complete: true},
		{name: "beyond the year 9999", answer: `{"hardware-messages":[{"element-uri":"/api/console/hardware-messages/1","timestamp":253402300800000}]}`, n: 1, complete: true},
		{name: "the last of the year 9999", answer: `{"hardware-messages":[{"element-uri":"/api/console/hardware-messages/1","timestamp":253402300799999}]}`, n: 1, complete: true},
		{name: "in seconds", answer: `{"hardware-messages":[{"element-uri":"/api/console/hardware-messages/1","timestamp":1700000000}]}`, n: 1, complete: true},
		{name: "with others", answer: `{"hardware-messages":[null,5,"x",[],{"element-uri":"/api/console/hardware-messages/1"}]}`, n: 1},
		{name: "in part", answer: `{"hardware-messages":[{"element-uri":"/api/console/hardware-messages/1"}],"@@implementation-errors":["x"]}`, n: 1},
		{name: "no content", answer: ""},
		{name: "no JSON", answer: "<html>", wrong: true},
		{name: "no list", answer: `{"a":1}`, wrong: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			list, complete, err := answering(t, 200, tc.answer).ListHardwareMessages(t.Context(), "/api/console", time.Time{})
			if len(list) != tc.n || complete != tc.complete || (err != nil) != tc.wrong {
				t.Errorf("%d messages, complete %v, %v", len(list), complete, err)
			}
			if len(list) > 0 && !list[0].Timestamp.IsZero() && list[0].Timestamp.Year() != 2023 {
				t.Errorf("a message of the year %d", list[0].Timestamp.Year())
			}
		})
	}
	const uri = "/api/cpcs/x/hardware-messages/1"
	for _, body := range []string{"", "null", "[]", "{}", `{"element-uri":"/api/cpcs/x/hardware-messages/2"}`} {
		if m, err := answering(t, 200, body).GetHardwareMessage(t.Context(), uri); err == nil {
			t.Errorf("%q is taken for %+v", body, m)
		}
	}
	m, err := answering(t, 200, ` {"element-uri":"`+uri+`","text":"a\nb","details":[[1]]}`).GetHardwareMessage(t.Context(), uri)
	if err != nil || m.Text != "a\nb" || !m.Timestamp.IsZero() || !strings.Contains(string(m.Raw), `"details":[[1]]`) {
		t.Errorf("%+v, %v", m, err)
	}
}
