package watch

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/logon"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
)

// newLink returns a receiver that is not connected.
func newLink(t testing.TB) *receiver.Receiver {
	t.Helper()
	link, err := receiver.New(receiver.Options{Host: "localhost", Userid: "u", Password: "p"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = link.Close() })
	return link
}

// An outage that comes in many attempts is one; only the last ones are kept.
func TestOutages(t *testing.T) {
	link, s := newLink(t), newState()
	end := func() {
		s.down("", "")
		s.up(link)
	}
	end() // there was none
	s.down("", "")
	s.Since = time.Unix(1_000, 0)
	s.wait(status.StateDisconnected, "first", "", time.Time{})
	published := *s
	s.wait(status.StateDisconnected, "second", "", time.Time{})
	end()
	end()
	if o := s.Outages; len(o) != 1 || o[0].From.Unix() != 1_000 || o[0].To == nil || o[0].Cause != "first" || o[0].LastProblem != "second" || o[0].Attempts != 1 {
		t.Errorf("%+v", o)
	}
	if o := published.Outages; len(o) != 1 || o[0].To != nil || o[0].LastProblem != "" {
		t.Errorf("what was published has changed: %+v", o)
	}
	for i := range 3 * maxOutages {
		s.down("", "")
		s.Since = time.Unix(int64(10_000+i), 0)
		s.wait(status.StateDisconnected, "more", "", time.Time{})
		end()
	}
	if o := s.Outages; len(o) != maxOutages || o[maxOutages-1].From.Unix() != 10_000+3*maxOutages-1 || cap(o) > 4*maxOutages {
		t.Errorf("%d, %d: %+v", len(o), cap(o), o)
	}
}

// Attempts that the HMC does not answer take nothing from what is known of the links before.
func TestLastTimesStay(t *testing.T) {
	s := newState()
	s.frame, s.notification = time.Unix(2, 0), time.Unix(1, 0)
	s.attempted(newLink(t))
	if frame, notification := s.lastTimes(); frame.Unix() != 2 || notification.Unix() != 1 {
		t.Error(frame, notification)
	}
}

// Whoever reads sees one state or the next, never a part of each: what is wrong is there together
// with the state that says so, the next attempt too, and nothing of it is left once the link is up.
func TestNobodySeesHalfAChange(t *testing.T) {
	s := newTestSupervisor(t)
	board, link := s.source.board, newLink(t)
	o := &logon.Offer{Host: "h", Kinds: map[string]string{"t.1": event.TopicObject}}
	ctx, cancel := context.WithCancel(t.Context())
	var changing, reading sync.WaitGroup
	changing.Go(func() {
		defer cancel()
		for range 2_000 {
			board.update(func(now *state) { now.attempt(status.StateLoggingOn) })
			board.update(func(now *state) { now.offered(o) })
			board.update(func(now *state) { now.attempt(status.StateConnecting) })
			board.update(func(now *state) {
				now.up(link)
				now.setTopic("t.1", "")
			})
			board.setChannel("/api/partitions/1", channelStatus{partition: "P"})
			board.update(func(now *state) { now.down("lost", receiver.ReasonBroker) })
			board.update(func(now *state) {
				now.wait(status.StateAuthFailed, "refused", status.ReasonLogon, time.Now().Add(time.Hour))
			})
		}
	})
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(NewCollector(func() []*Supervisor { return []*Supervisor{s} }))
	reading.Go(func() {
		for ctx.Err() == nil {
			if problem := impossibleMetrics(registry); problem != "" {
				t.Error(problem)
				return
			}
		}
	})
	for range 4 {
		reading.Go(func() {
			for ctx.Err() == nil {
				if problem := impossible(s); problem != "" {
					t.Error(problem)
					return
				}
			}
		})
	}
	changing.Wait()
	reading.Wait()
}

// impossibleMetrics scrapes, and says what cannot be: the HMC is in one state, and connected in
// that one alone.
func impossibleMetrics(registry *prometheus.Registry) string {
	families, err := registry.Gather()
	if err != nil {
		return err.Error()
	}
	values, states := make(map[string]float64), 0.0
	for _, f := range families {
		for _, m := range f.GetMetric() {
			key := f.GetName()
			for _, l := range m.GetLabel() {
				if l.GetName() == "state" {
					key += "/" + l.GetValue()
					states += m.GetGauge().GetValue()
				}
			}
			values[key] = m.GetGauge().GetValue()
		}
	}
	if states != 1 || values["hmcnotifyd_receiver_connected"] > values["hmcnotifyd_receiver_state/connected"] {
		return fmt.Sprint(values)
	}
	return ""
}

// impossible looks at a supervisor as page, readiness and heart-beats do, and says what cannot be.
func impossible(s *Supervisor) string {
	h := s.Snapshot()
	var problem string
	if len(h.Problems) > 0 {
		problem = h.Problems[0].Text
	}
	critical := len(h.Troubles) > 0 && h.Troubles[0].Severity == event.SeverityCritical
	switch h.State {
	case status.StateAuthFailed:
		if h.NextAttempt == nil || problem != "refused, and left alone until "+h.NextAttempt.Format(time.RFC3339)+": refused" || !critical {
			return "auth_failed without its reason: " + problem
		}
	case status.StateConnected:
		if h.NextAttempt != nil || h.Connected != (problem == "") {
			return "connected, and " + problem
		}
	case status.StateDisconnected:
		if h.Reconnects > 0 && problem != "the link is disconnected: lost" {
			return "disconnected without a reason: " + problem
		}
	default:
		if h.NextAttempt != nil {
			return h.State + " while the next attempt is waited for"
		}
	}
	if beat := s.source.Heartbeat(); beat.Connected != (len(beat.Problems) == 0) || beat.Connected && beat.State != status.StateConnected {
		return "a heart-beat of " + beat.State
	}
	if _, handedOn := s.source.LastContact(); handedOn && s.source.now().links == 0 {
		return "contact without a link"
	}
	return ""
}

// A certificate that was refused is known as well: when it expired, for example.
func TestRefusedCertificateIsKnown(t *testing.T) {
	end := time.Date(2026, 11, 20, 10, 0, 0, 0, time.UTC)
	s := newState()
	s.rejected(errors.New("dial: connection refused"))
	if s.CertificateNotAfter != nil {
		t.Errorf("%v", s.CertificateNotAfter)
	}
	s.rejected(fmt.Errorf("the link: %w", &tls.CertificateVerificationError{UnverifiedCertificates: []*x509.Certificate{{NotAfter: end}}, Err: x509.CertificateInvalidError{Reason: x509.Expired}}))
	if s.CertificateNotAfter == nil || !s.CertificateNotAfter.Equal(end) {
		t.Errorf("%v", s.CertificateNotAfter)
	}
}
