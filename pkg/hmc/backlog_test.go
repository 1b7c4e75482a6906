package hmc_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmc"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
)

// What the HMC holds can be fetched, from a number or a time on.
func TestBacklog(t *testing.T) {
	sim, c := simulate(t, hmcsim.Options{CPCs: 2, Partitions: 4})
	s, err := c.Logon(t.Context(), "hmcuser", "hmcpass")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range sim.Partitions() { // DPM and classic
		if _, err := sim.OSMessages(p.URI, "one", "two"); err != nil {
			t.Fatal(err)
		}
		p, err = sim.Partition(p.URI)
		if err != nil {
			t.Fatal(err)
		}
		all, err := s.ListOSMessages(t.Context(), p.URI, -1)
		if err != nil || len(all) != p.OSMessages {
			t.Errorf("%s: %d messages, %v", p.Name, len(all), err)
		}
		last, err := s.ListOSMessages(t.Context(), p.URI, p.NextOSMessage-1)
		if err != nil || len(last) != 1 || !strings.Contains(string(last[0]), "two") || strings.Contains(string(last[0]), "one") {
			t.Errorf("%s: the last is %q, %v", p.Name, last, err)
		}
	}

	old, now := time.Now().Add(-time.Hour), time.Now()
	for kind, get := range map[string]func(begin, end time.Time) ([][]byte, error){
		"audit":    func(b, e time.Time) ([][]byte, error) { return s.GetAuditLog(t.Context(), b, e) },
		"security": func(b, e time.Time) ([][]byte, error) { return s.GetSecurityLog(t.Context(), b, e) },
	} {
		sim.LogEntries(kind, hmcsim.LogEntry{EventID: "1", Message: "old", Time: old}, hmcsim.LogEntry{EventID: "2", Message: "new", Time: now})
		texts := func(begin, end time.Time) (out []string) {
			t.Helper()
			entries, err := get(begin, end)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				for _, text := range []string{"old", "new"} {
					if strings.Contains(string(e), `"event-message":"`+text+`"`) {
						out = append(out, text)
					}
				}
			}
			slices.Sort(out)
			return out
		}
		for _, test := range []struct {
			begin, end time.Time
			want       []string
		}{
			{time.Time{}, time.Time{}, []string{"new", "old"}},
			{old, now, []string{"new", "old"}}, // inclusive, in milliseconds
			{old.Add(time.Millisecond), time.Time{}, []string{"new"}},
			{time.Time{}, now.Add(-time.Millisecond), []string{"old"}},
		} {
			if got := texts(test.begin, test.end); !slices.Equal(got, test.want) {
				t.Errorf("%s from %v to %v: %v", kind, test.begin, test.end, got)
			}
		}
	}
	if err := s.Logoff(t.Context()); err != nil {
		t.Error(err)
	}
}

// A userid without the permission, and a partition that is not active, are told as such.
func TestBacklogRefused(t *testing.T) {
	sim, c := simulate(t, hmcsim.Options{CPCs: 1, Partitions: 2, NoAuditLog: true})
	s, err := c.Logon(t.Context(), "hmcuser", "hmcpass")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.GetAuditLog(t.Context(), time.Time{}, time.Time{}); !hmc.IsReason(err, 403, 1) || hmc.SessionLost(err) {
		t.Errorf("audit log without permission: %v", err)
	}
	p, err := sim.CreatePartition(sim.CPCs()[0].Name, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.ListOSMessages(t.Context(), p.URI, -1); !hmc.IsReason(err, 409, hmc.ReasonChannelUnavailable) {
		t.Errorf("inactive partition: %v", err)
	}
	for _, uri := range []string{"", "/api/cpcs/x", "/api/partitions/x/../y", "/api/partitions/x?a=b"} {
		if _, err := s.ListOSMessages(t.Context(), uri, -1); err == nil {
			t.Errorf("%q is taken for the URI of a partition", uri)
		}
	}
	sim.ExpireSessions(false)
	if _, err := s.GetSecurityLog(t.Context(), time.Time{}, time.Time{}); !hmc.SessionLost(err) {
		t.Errorf("without a session: %v", err)
	}
}
