package status

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
)

// Each reason that the metrics have has words of its own, and each of them ends as a sentence does.
func TestAdviceForEachReason(t *testing.T) {
	t.Parallel()
	seen := map[string]string{}
	for _, reason := range FailureReasons {
		h := HMCStatus{State: StateDisconnected, Problems: []Problem{{Kind: ProblemKind(reason), Text: "the link is disconnected: x"}}}
		got := h.FindTroubles(time.Now())
		if len(got) != 1 || got[0].Severity != event.SeverityCritical || got[0].What != "The link is disconnected: x." || !strings.HasSuffix(got[0].Do, "by itself.") {
			t.Errorf("%s: %+v", reason, got)
			continue
		}
		if other, twice := seen[got[0].Do]; twice && reason != receiver.ReasonOther && other != receiver.ReasonBroker && reason != receiver.ReasonBroker {
			t.Errorf("%s says what %s says", reason, other)
		}
		seen[got[0].Do] = reason
	}
}

// Partitions whose OS messages are not followed are one trouble where the reason is the same, and no fault where it is only not yet
// their turn.
func TestManyPartitionsThatAreNotFollowed(t *testing.T) {
	t.Parallel()
	var problems []Problem
	for _, name := range []string{"A on M90", "B on M90", "C on M90", "D on M90", "E on M90"} {
		problems = append(problems, NotFollowed(name, NotOpenYet))
	}
	problems = append(problems, NotFollowed("F on M90", "HTTP status 403, reason 1: no"),
		Problem{Kind: ProblemOSMessages, Text: "OS messages: the partitions could not be listed: x"})
	h := HMCStatus{State: StateConnected, Problems: problems}
	want := []string{
		"OS messages: the partitions could not be listed: x. Grant",
		"OS messages of A on M90, B on M90, C on M90 and 2 more partitions: the channel is not open yet. Nothing is wrong",
		"OS messages of F on M90: HTTP status 403, reason 1: no. Grant",
	}
	got := h.FindTroubles(time.Now())
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || !strings.HasPrefix(got[i].What+" "+got[i].Do, want[i]) {
			t.Fatalf("%+v", got)
		}
	}
}

func TestTroublesOfAnHMC(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 20, 10, 0, 0, 0, time.UTC)
	in := func(d time.Duration) *time.Time { return TimeOrNil(now.Add(d)) }
	for name, test := range map[string]struct {
		status   HMCStatus
		severity string // of the one trouble; "" where there is none
		what, do string
	}{
		"connected":           {HMCStatus{State: StateConnected, CertificateNotAfter: in(60 * 24 * time.Hour)}, "", "", ""},
		"the first attempt":   {HMCStatus{State: StateLoggingOn, Problems: []Problem{{Kind: "", Text: "the link is logging on"}}}, "", "", ""},
		"a later attempt":     {HMCStatus{State: StateConnecting, Problems: []Problem{{Kind: receiver.ReasonTimeout, Text: "the link is connecting: x"}}}, "critical", "The link is connecting: x.", "firewall"},
		"a refused logon":     {HMCStatus{State: StateAuthFailed, Problems: []Problem{{Kind: ProblemLogonRefused, Text: "refused, and left alone until then: x"}}}, "critical", "The logon is refused, and left alone until then: x.", "password has expired"},
		"a topic":             {HMCStatus{State: StateConnected, Problems: []Problem{{Kind: ProblemNotGranted, Text: "topic audit is not granted to u: it needs p"}}}, "warning", "Topic audit", "Grant it"},
		"a channel":           {HMCStatus{State: StateConnected, Problems: []Problem{NotFollowed("P", "403")}}, "warning", "OS messages of P: 403.", "Operating System Messages"},
		"a late confirmation": {HMCStatus{State: StateConnected, Problems: []Problem{{Kind: ProblemNotConfirmed, Text: "topic x (job): not subscribed"}}}, "warning", "Topic x", "not confirmed"},
		"something else":      {HMCStatus{State: StateConnected, Problems: []Problem{{Kind: ProblemTopic, Text: "topic x (job): refused."}}}, "warning", "Topic x (job): refused.", "log"},
		"a certificate":       {HMCStatus{State: StateConnected, CertificateNotAfter: in(29 * 24 * time.Hour)}, "warning", "expires on 2026-12-19.", "Renew"},
		"an old certificate":  {HMCStatus{State: StateConnected, CertificateNotAfter: in(6 * 24 * time.Hour)}, "critical", "expires on 2026-11-26.", "Renew"},
		"a useless one":       {HMCStatus{State: StateConnected, Connected: true, CertificateNotAfter: in(-time.Hour)}, "critical", "expired on 2026-11-20.", "Renew"},
		"one that is refused": {HMCStatus{State: StateDisconnected, CertificateNotAfter: in(-time.Hour), Problems: []Problem{{Kind: receiver.ReasonTLS, Text: "the link is disconnected: x"}}}, "critical", "expired on 2026-11-20: no link", "Renew"},
		"a password":          {HMCStatus{State: StateConnected, PasswordExpires: in(14 * 24 * time.Hour)}, "warning", "The password that the daemon logs on with expires on 2026-12-04, in 14 days.", "password_file"},
		"just told":           {HMCStatus{State: StateConnected, PasswordExpires: in(5*24*time.Hour - time.Minute)}, "warning", "expires on 2026-11-25, in 5 days.", "password_file"},
		"an old password":     {HMCStatus{State: StateConnected, PasswordExpires: in(50 * time.Hour)}, "critical", "expires on 2026-11-22, in 2 days.", "without expiry"},
		"one of today":        {HMCStatus{State: StateConnected, PasswordExpires: in(-time.Hour)}, "critical", "expires on 2026-11-20.", "Change it"},
		"an expired one":      {HMCStatus{State: StateConnected, PasswordExpires: in(-25 * time.Hour)}, "critical", "has expired on 2026-11-19.", "Change it"},
		"15 days are enough":  {HMCStatus{State: StateConnected, PasswordExpires: in(15 * 24 * time.Hour)}, "", "", ""},
		"nothing was read":    {HMCStatus{State: StateConnected, Problems: []Problem{{Kind: ProblemEstate, Text: "not all CPCs and partitions could be listed: x"}}}, "warning", "Not all CPCs and partitions could be listed: x.", "rest_timeout"},
		"a month is enough":   {HMCStatus{State: StateConnected, CertificateNotAfter: in(31 * 24 * time.Hour)}, "", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := test.status.FindTroubles(now)
			if test.severity == "" {
				if len(got) != 0 || got == nil {
					t.Errorf("%+v", got)
				}
				return
			}
			if len(got) != 1 || got[0].Severity != test.severity || !strings.Contains(got[0].What, test.what) || !strings.Contains(got[0].Do, test.do) {
				t.Errorf("%+v", got)
			}
		})
	}
}

func TestTroublesOfASink(t *testing.T) {
	t.Parallel()
	since := time.Now()
	for name, test := range map[string]struct {
		status SinkStatus
		want   []string // severity, part of what, part of do; of each trouble
	}{
		"fine":        {SinkStatus{Waiting: Waiting{QueueEvents: 3, OldestEventAgeSeconds: 1}}, nil},
		"slow":        {SinkStatus{Waiting: Waiting{QueueEvents: 3, OldestEventAgeSeconds: 601}}, []string{"warning", "more slowly", "concurrency"}},
		"one attempt": {SinkStatus{FailingSince: &since, LastError: "webhook: https://h: 503"}, []string{"warning", "webhook: https://h: 503.", "Nothing is lost"}},
		"stuck":       {SinkStatus{FailingSince: &since, Stuck: true, LastError: "dial tcp: connect: connection refused"}, []string{"critical", "refused.", "Look at it. Nothing is lost"}},
		"hangs":       {SinkStatus{Stuck: true}, []string{"critical", "hangs", "Nothing is lost"}},
		"refusals":    {SinkStatus{Name: "ops", DeadLetters: 1}, []string{"warning", "refused 1 event for good", "dead-letters list --sink=ops"}},
		"limits": {
			SinkStatus{Name: "ops", DeadLetters: 2, Dropped: 5},
			[]string{"warning", "refused 2 events for good", "replay", "critical", "5 stored events went undelivered", "queue.max_bytes"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := test.status.FindTroubles("look at it")
			if len(got) != len(test.want)/3 || got == nil {
				t.Fatalf("%+v", got)
			}
			for i, tr := range got {
				if w := test.want[3*i:]; tr.Severity != w[0] || !strings.Contains(tr.What, w[1]) || !strings.Contains(tr.Do+tr.Command, w[2]) {
					t.Errorf("%+v", tr)
				}
			}
		})
	}
}

// Each page that a trouble names is there, and what cuts people off from an HMC or a sink has one.
func TestTroublesHavePages(t *testing.T) {
	t.Parallel()
	now, since := time.Now(), time.Now().Add(-time.Hour)
	var all []Trouble
	for _, kind := range append([]string{
		string(ProblemLogonRefused), string(ProblemNotGranted), string(ProblemNotConfirmed), string(ProblemTopic),
	}, FailureReasons...) {
		h := HMCStatus{Since: since, Problems: []Problem{{Kind: ProblemKind(kind), Text: "x"}}}
		all = append(all, h.FindTroubles(now)...)
	}
	h := HMCStatus{CertificateNotAfter: &since, PasswordExpires: &since}
	all = append(all, h.FindTroubles(now)...)
	for _, s := range []SinkStatus{
		{Paused: "other", PausedSince: &since},
		{FailingSince: &since},
		{Stuck: true},
		{Refusing: true},
		{DeadLetters: 1, Dropped: 1},
		{Waiting: Waiting{QueueEvents: 1, OldestEventAgeSeconds: 1e6}},
		{Waiting: Waiting{QueueEvents: 1, OldestEventAgeSeconds: 1e6}, LastErrorTime: &since},
	} {
		all = append(all, s.FindTroubles("x")...)
	}
	all = append(all, (&Status{Storage: StorageStatus{Error: "x", Bytes: 99, MaxBytes: 100}}).StorageTroubles()...)
	if len(all) < 20 {
		t.Errorf("only %d", len(all))
	}
	for _, tr := range all {
		if _, err := os.Stat("../../docs/runbooks/" + tr.Runbook + ".md"); tr.Runbook == "" || err != nil {
			t.Errorf("%q: %v", tr.What, err)
		}
	}
}

// A problem is its text for whoever reads the status as JSON.
func TestProblemAsJSON(t *testing.T) {
	t.Parallel()
	problems := []Problem{{Kind: ProblemTopic, Text: `topic "x": refused`}}
	data, err := json.Marshal(HMCStatus{Problems: problems})
	if err != nil || !strings.Contains(string(data), `"problems":["topic \"x\": refused"]`) {
		t.Errorf("%s, %v", data, err)
	}
	var h HMCStatus
	if err := json.Unmarshal(data, &h); err != nil || len(h.Problems) != 1 || h.Problems[0].Text != problems[0].Text {
		t.Errorf("%+v, %v", h, err)
	}
	if got := Texts(nil); got == nil || len(got) != 0 {
		t.Errorf("%#v", got)
	}
}

func TestTroublesOfTheStorage(t *testing.T) {
	t.Parallel()
	s := Status{
		Storage: StorageStatus{Path: "/data", Bytes: 95, MaxBytes: 100, Error: "read-only file system"},
		Removed: []RemovedSink{{Name: "old", Waiting: Waiting{QueueEvents: 1}}},
	}
	s.Storage.Bytes, s.Storage.MaxBytes = 95<<20, 100<<20
	got := s.StorageTroubles()
	if len(got) != 3 || !strings.Contains(got[0].What, "read-only file system.") || !strings.Contains(got[1].What, "nearly full") || !strings.Contains(got[2].Command, "--sink=old") ||
		got[2].What != "1 event waits for the sink old, which is not configured any more." {
		t.Errorf("%+v", got)
	}
	for _, fine := range []StorageStatus{{Bytes: 80 << 20, MaxBytes: 100 << 20}, {Bytes: 80 << 40}} {
		if got := (&Status{Storage: fine}).StorageTroubles(); len(got) != 0 {
			t.Errorf("%+v: %+v", fine, got)
		}
	}
}

// What is wrong with several for the same reason is the same, whichever of them it is of; what tells reasons apart stays.
func TestTroubleInCommon(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ host, what, want string }{
		{"hmc1", "The link is disconnected: hmc1: dial tcp 10.1.0.1:6794: i/o timeout.", "The link is disconnected: …: dial tcp …: i/o timeout."},
		{"hmc1.example.com", "x: hmc1.example.com: dial tcp [fd00::1]:6794: y", "x: …: dial tcp …: y"},
		{"fd00::1", "x: fd00::1: dial tcp [fd00::1]:6794: y", "x: …: dial tcp …: y"},
		{"", "webhook: http://hooks.example.com:8080: dial tcp: lookup hooks.example.com: no such host", "webhook: http://…: dial tcp: lookup hooks.example.com: no such host"},
		{"hmc", "hmcnotifyd of hmc: status 503", "hmcnotifyd of …: status 503"},
		{"", "The certificate expired on 2026-11-01, 28 days ago.", "The certificate expired on 2026-11-01, 28 days ago."},
	} {
		if got := (&Trouble{What: test.what}).Common(test.host); got != test.want {
			t.Errorf("%s: %q, want %q", test.host, got, test.want)
		}
	}
}
