package hmc_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmc"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
)

// simulate starts a simulated HMC and a client of it.
func simulate(t *testing.T, opts hmcsim.Options) (*hmcsim.HMC, *hmc.Client) {
	t.Helper()
	sim := hmctest.Start(t, opts)
	return sim, newClient(t, sim, "")
}

// newClient makes a client of a simulated HMC, with the notes of its sessions under a path.
func newClient(t *testing.T, sim *hmcsim.HMC, notes string, others ...string) *hmc.Client {
	t.Helper()
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(sim.CACertPEM()) {
		t.Fatal("no CA certificate")
	}
	c, err := hmc.New(hmc.Options{
		Hosts: append([]string{sim.Host()}, others...), Port: sim.RESTPort(), UserAgent: "hmcnotifyd/test",
		TLS: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, ServerName: "localhost"}, Timeout: time.Minute, SessionNotes: notes,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestSimulatedHMC(t *testing.T) {
	sim, c := simulate(t, hmcsim.Options{CPCs: 2, Partitions: 6, Userid: "hmcuser", Password: `a:b\c"dé`})
	ctx := t.Context()
	v, err := c.QueryAPIVersion(ctx)
	if err != nil || v.HMCName != sim.Name() || v.APIMajor == 0 {
		t.Fatalf("%v, %v", v, err)
	}
	s, err := c.Logon(ctx, "hmcuser", `a:b\c"dé`)
	if err != nil {
		t.Fatal(err)
	}
	topics, err := s.NotificationTopics(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var types []string
	for _, topic := range topics {
		types = append(types, topic.Type)
		if topic.Type == hmc.TopicTypeObject && topic.Name != s.ObjectTopic || topic.Type == hmc.TopicTypeJob && topic.Name != s.JobTopic {
			t.Errorf("%v is not the topic of the logon", topic)
		}
	}
	slices.Sort(types)
	if want := []string{hmc.TopicTypeAudit, hmc.TopicTypeJob, hmc.TopicTypeObject, hmc.TopicTypeSecurity}; !slices.Equal(types, want) {
		t.Errorf("topics of the types %v", types)
	}

	partitions, err := s.ListPermittedPartitions(ctx)
	if err != nil || len(partitions) == 0 {
		t.Fatalf("%v, %v", partitions, err)
	}
	lpars, err := s.ListPermittedLogicalPartitions(ctx)
	if err != nil || len(partitions)+len(lpars) != 6 {
		t.Fatalf("%d partitions, %d logical ones, %v", len(partitions), len(lpars), err)
	}
	for _, p := range slices.Concat(partitions, lpars) {
		if p.Name == "" || p.CPCName == "" || p.Status == "" || !strings.HasPrefix(p.ObjectURI, "/api/") || !strings.HasPrefix(p.CPCURI, "/api/cpcs/") {
			t.Errorf("incomplete: %+v", p)
		}
	}

	// A channel for each that offers messages; a second one is refused, and its topic listed.
	opened := 0
	for _, p := range slices.Concat(partitions, lpars) {
		name, err := s.OpenOSMessageChannel(ctx, p.ObjectURI, true)
		if hmc.IsReason(err, 409, hmc.ReasonChannelUnavailable) {
			continue
		}
		if err != nil {
			t.Errorf("%s (%s): %v", p.Name, p.Status, err)
			continue
		}
		opened++
		if _, err := s.OpenOSMessageChannel(ctx, p.ObjectURI, true); !hmc.IsReason(err, 409, hmc.ReasonChannelExists) {
			t.Errorf("a second channel: %v", err)
		}
		topics, err := s.NotificationTopics(ctx)
		if err != nil || !slices.ContainsFunc(topics, func(x hmc.Topic) bool {
			return x.Type == hmc.TopicTypeOSMessage && x.Name == name && x.IncludeRefreshMessages && strings.HasSuffix(p.ObjectURI, x.ObjectURI[strings.LastIndex(x.ObjectURI, "/")+1:])
		}) {
			t.Errorf("%s is not listed: %v, %v", name, topics, err)
		}
	}
	if opened == 0 {
		t.Error("no channel could be opened")
	}

	if err := s.Logoff(ctx); err != nil {
		t.Error(err)
	}
	if err := s.Ping(ctx); !hmc.SessionLost(err) {
		t.Errorf("after the logoff: %v", err)
	}
	if sim.Sessions() != 0 || sim.Logons() != 1 || sim.ForbiddenCalls() != 0 {
		t.Errorf("%d sessions left of %d, %d forbidden calls", sim.Sessions(), sim.Logons(), sim.ForbiddenCalls())
	}
}

func TestSimulatedLogonProblems(t *testing.T) {
	ctx := t.Context()
	t.Run("wrong password", func(t *testing.T) {
		sim, c := simulate(t, hmcsim.Options{})
		if _, err := c.Logon(ctx, "hmcuser", "wrong"); !hmc.LogonRefused(err) || !hmc.IsReason(err, 403, 0) || strings.Contains(err.Error(), "wrong") {
			t.Errorf("%v", err)
		}
		if sim.RefusedLogons() != 1 {
			t.Errorf("tried %d times", sim.RefusedLogons())
		}
	})
	t.Run("too many sessions", func(t *testing.T) {
		_, c := simulate(t, hmcsim.Options{MaxSessions: 1})
		s, err := c.Logon(ctx, "hmcuser", "hmcpass")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Logon(ctx, "hmcuser", "hmcpass"); !hmc.TooManySessions(err) || hmc.LogonRefused(err) {
			t.Errorf("%v", err)
		}
		if err := s.Logoff(ctx); err != nil {
			t.Error(err)
		}
		if s, err = c.Logon(ctx, "hmcuser", "hmcpass"); err != nil {
			t.Fatal(err)
		}
		if err := s.Logoff(ctx); err != nil {
			t.Error(err)
		}
	})
	for _, reason := range []int{0, 50, 51} {
		t.Run("multi-factor authentication", func(t *testing.T) {
			sim, c := simulate(t, hmcsim.Options{MFA: true, MFAReason: reason})
			_, err := c.Logon(ctx, "hmcuser", "hmcpass")
			var partial *hmc.PartialLogonError
			if !errors.As(err, &partial) || !hmc.LogonRefused(err) || reason != 0 && partial.Reason != reason {
				t.Errorf("%v", err)
			}
			if n := sim.Sessions(); n != 0 {
				t.Errorf("%d sessions are left", n)
			}
			// A session made elsewhere works.
			info, err := sim.NewSession("hmcuser")
			if err != nil {
				t.Fatal(err)
			}
			s := c.Resume(info.SessionID, info.Credential)
			if topics, err := s.NotificationTopics(ctx); err != nil || len(topics) < 2 {
				t.Errorf("%v, %v", topics, err)
			}
			if err := s.Logoff(ctx); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestSimulatedSessionEnds(t *testing.T) {
	sim, c := simulate(t, hmcsim.Options{})
	ctx := t.Context()
	for _, end := range []struct {
		name string
		do   func()
	}{
		{"expired", func() { sim.ExpireSessions(false) }},
		{"restarted", func() {
			if err := sim.Restart(0); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		s, err := c.Logon(ctx, "hmcuser", "hmcpass")
		if err != nil {
			t.Fatal(err)
		}
		end.do()
		// The first request after a restart may meet a closed connection.
		if err := s.Ping(ctx); !hmc.SessionLost(err) {
			t.Errorf("%s: %v", end.name, err)
		}
		if err := s.Logoff(ctx); err != nil {
			t.Errorf("%s: logoff: %v", end.name, err)
		}
	}
	sim.Stop()
	var unreachable *hmc.ConnectError
	if _, err := c.QueryAPIVersion(ctx); !errors.As(err, &unreachable) || unreachable.Reason != hmc.ReasonRefused {
		t.Errorf("stopped: %v", err)
	}
}

func TestSimulatedRESTFaults(t *testing.T) {
	sim, c := simulate(t, hmcsim.Options{})
	ctx := t.Context()
	s, err := c.Logon(ctx, "hmcuser", "hmcpass")
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		fault hmcsim.RESTFault
		check func(error) bool
	}{
		{hmcsim.RESTFault{Kind: hmcsim.RESTFaultDisabled}, func(err error) bool { return strings.Contains(err.Error(), "Customize API Settings") }},
		{hmcsim.RESTFault{Kind: hmcsim.RESTFaultBusy}, func(err error) bool { var e *hmc.BusyError; return errors.As(err, &e) }},
		{hmcsim.RESTFault{Kind: hmcsim.RESTFaultStatus, Status: 500, Reason: 12}, func(err error) bool { return hmc.IsReason(err, 500, 12) }},
		{hmcsim.RESTFault{Kind: hmcsim.RESTFaultGarbage}, func(err error) bool { var e *hmc.AnswerError; return errors.As(err, &e) }},
		{hmcsim.RESTFault{Kind: hmcsim.RESTFaultDrop}, func(err error) bool { var e *hmc.ConnectError; return errors.As(err, &e) }},
		{hmcsim.RESTFault{Kind: hmcsim.RESTFaultTruncate}, func(err error) bool { var e *hmc.ConnectError; return errors.As(err, &e) }},
	} {
		sim.FaultREST(tc.fault)
		if err := s.Ping(ctx); err == nil || !tc.check(err) {
			t.Errorf("%s: %v", tc.fault.Kind, err)
		}
		sim.ClearRESTFaults()
		if err := s.Ping(ctx); err != nil {
			t.Errorf("after %s: %v", tc.fault.Kind, err)
		}
	}
	if err := s.Logoff(ctx); err != nil {
		t.Error(err)
	}
}

// The client goes on over connections that the HMC closes as soon as they are idle.
func TestSimulatedIdleClose(t *testing.T) {
	_, c := simulate(t, hmcsim.Options{HTTPIdleTimeout: time.Millisecond})
	s, err := c.Logon(t.Context(), "hmcuser", "hmcpass")
	if err != nil {
		t.Fatal(err)
	}
	for range 50 {
		if err := s.Ping(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Logoff(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestSimulatedCertificates(t *testing.T) {
	for kind, check := range map[hmcsim.CertificateKind]func(error) bool{
		hmcsim.CertificateExpired: func(err error) bool {
			var e x509.CertificateInvalidError
			return errors.As(err, &e) && e.Reason == x509.Expired
		},
		hmcsim.CertificateSelfSigned: func(err error) bool { var e x509.UnknownAuthorityError; return errors.As(err, &e) },
		hmcsim.CertificateOtherName:  func(err error) bool { var e x509.HostnameError; return errors.As(err, &e) },
	} {
		t.Run(string(kind), func(t *testing.T) {
			_, c := simulate(t, hmcsim.Options{CertificateKind: kind})
			_, err := c.QueryAPIVersion(t.Context())
			var unreachable *hmc.ConnectError
			if !errors.As(err, &unreachable) || unreachable.Reason != hmc.ReasonTLS || !check(err) {
				t.Errorf("%v", err)
			}
		})
	}
}

// The broker's port speaks TLS, but not HTTP.
func TestSimulatedWrongPort(t *testing.T) {
	t.Parallel()
	sim, _ := simulate(t, hmcsim.Options{})
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(sim.CACertPEM())
	c, err := hmc.New(hmc.Options{Hosts: []string{sim.Host()}, Port: sim.StompPort(), Timeout: 2 * time.Second, TLS: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var unreachable *hmc.ConnectError
	if _, err := c.QueryAPIVersion(t.Context()); !errors.As(err, &unreachable) {
		t.Errorf("%v", err)
	}
}

func TestSimulatedIPv6(t *testing.T) {
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "[::1]:0")
	if err != nil {
		t.Skip("no IPv6 here: ", err)
	}
	_ = ln.Close()
	sim, c := simulate(t, hmcsim.Options{RESTAddr: "[::1]:0", StompAddr: "[::1]:0"})
	s, err := c.Logon(t.Context(), "hmcuser", "hmcpass")
	if err != nil || sim.Host() != "::1" || c.Host() != "::1" {
		t.Fatalf("%s, %s, %v", sim.Host(), c.Host(), err)
	}
	if err := s.Logoff(t.Context()); err != nil {
		t.Error(err)
	}
}

// What was given up is said without the names of packages, methods and paths.
func TestGivenUpIsForPeople(t *testing.T) {
	t.Parallel()
	mute, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = mute.Close() })
	c, err := hmc.New(hmc.Options{Hosts: []string{"127.0.0.1"}, Port: mute.Addr().(*net.TCPAddr).Port, RequestsPerMinute: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	check := func(want string, kind, err error) {
		t.Helper()
		if !errors.Is(err, kind) || !strings.HasPrefix(err.Error(), want) || strings.Contains(err.Error(), "/api") || strings.Contains(err.Error(), "hmc:") {
			t.Errorf("%v, want %s ...", err, want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		if conn, err := mute.Accept(); err == nil {
			cancel()
			_ = conn.Close()
		}
	}()
	_, err = c.QueryAPIVersion(ctx)
	check("the request was given up", context.Canceled, err)
	// The budget is used up for longer than this may take.
	ctx, cancel = context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	_, err = c.QueryAPIVersion(ctx)
	check("the request was not sent", context.DeadlineExceeded, err)
	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	_, err = c.Logon(ctx, "u", "p")
	if err == nil || strings.Contains(err.Error(), "hmc:") || strings.Contains(err.Error(), "/api") {
		t.Error(err)
	}
}
