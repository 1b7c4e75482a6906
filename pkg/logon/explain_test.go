package logon

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmc"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
	"github.com/hmcnotifyd/hmcnotifyd/tests/hmctest"
)

// What people read says nothing of packages and paths of the API.
func TestExplainIsForPeople(t *testing.T) {
	lost := &receiver.ConnectionError{Reason: receiver.ReasonBroker, Err: fmt.Errorf("the HMC closed the link: %w", io.EOF)}
	for _, err := range []error{
		lost, fmt.Errorf("at the second host: %w", lost),
		&hmc.HTTPError{Status: 503, Reason: hmc.NoReason, Message: "busy", Method: "GET", URI: "/api/cpcs"},
		&hmc.AnswerError{Status: 200, Problem: "cut", Method: "GET", URI: "/api/cpcs"},
		&hmc.ConnectError{Host: "h", Err: io.EOF}, &hmc.PartialLogonError{Status: 201, Reason: hmc.NoReason},
		&receiver.SubscriptionError{Topic: "t", Err: io.EOF}, receiver.ErrClosed,
	} {
		text := Explain(&config.HMC{}, err)
		for _, never := range []string{"receiver:", "hmc:", "/api/", "connection lost"} {
			if strings.Contains(text, never) {
				t.Errorf("%q has %q", text, never)
			}
		}
	}
	if got, want := Explain(&config.HMC{}, fmt.Errorf("x: %w", lost)), "x: the HMC closed the link: EOF"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// Lists that take too long are said once, with what to do, and not as if nothing ever answered.
func TestExplainLists(t *testing.T) {
	cfg := &config.HMC{RESTPort: 7000, RESTTimeout: 30 * time.Second}
	late := &hmc.ConnectError{Host: "h", Reason: hmc.ReasonTimeout, Err: fmt.Errorf("no answer within 30s: %w", context.DeadlineExceeded)}
	odd := &hmc.AnswerError{Status: 200, Problem: "cut"}
	for want, err := range map[string]error{
		"h: no answer within 30s; where this HMC takes longer, set rest_timeout (now 30s) to more": errors.Join(errors.Join(late, late, late), nil),
		"HTTP status 200: cut; EOF": errors.Join(odd, io.EOF),
	} {
		if got := ExplainLists(cfg, err); got != want {
			t.Errorf("%q\nwant %q", got, want)
		}
	}
	if got := Explain(&config.HMC{RESTPort: hmc.DefaultPort, RESTTimeout: time.Second}, late); !strings.HasSuffix(got, "set rest_timeout (now 1s) to more") {
		t.Error(got)
	}
}

// Whoever has mixed up the ports is told so, and which ones HMCs have.
func TestMixedUpPorts(t *testing.T) {
	sim := hmctest.Start(t, hmcsim.Options{})
	plain, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = plain.Close() })
	go func() {
		for {
			c, err := plain.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "SSH-2.0-OpenSSH_9.9\r\n")
			_ = c.Close()
		}
	}()
	noTLS := plain.Addr().(*net.TCPAddr).Port
	// As a broker does with who says nothing that it understands, some time later.
	closes, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{sim.ServerCertificate()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = closes.Close() })
	go func() {
		for {
			c, err := closes.Accept()
			if err != nil {
				return
			}
			_, _ = c.Read(make([]byte, 1))
			_ = c.Close()
		}
	}()
	closing := closes.Addr().(*net.TCPAddr).Port
	for name, test := range map[string]struct {
		rest, stomp int
		want        string
	}{
		"the STOMP port is that of the API":  {sim.RESTPort(), sim.RESTPort(), fmt.Sprintf("stomp_port (%d) is the port of a web server", sim.RESTPort())},
		"the API's port is that of STOMP":    {sim.StompPort(), sim.StompPort(), fmt.Sprintf("if rest_port (%d) is the port of STOMP", sim.StompPort())},
		"the API's port is of what hangs up": {closing, sim.StompPort(), fmt.Sprintf("if rest_port (%d) is the port of STOMP", closing)},
		"the STOMP port does not speak TLS":  {sim.RESTPort(), noTLS, "does not speak TLS"},
		"the port of the API has no TLS too": {noTLS, sim.StompPort(), "does not speak TLS"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := &config.HMC{
				Name: "x", Hosts: []string{"127.0.0.1"}, RESTPort: test.rest, StompPort: test.stomp, Userid: hmcsim.DefaultUserid,
				Password: config.NewSecret(hmcsim.DefaultPassword), RESTRequestsPerMinute: 6000, RESTTimeout: 2 * time.Second, Topics: []string{"object"},
				TLS: config.TLS{InsecureSkipVerify: true}, Stomp: receiver.DefaultStompRetryTimeoutConfig(),
			}
			s, err := NewSession(cfg, SessionOptions{Logger: zap.NewNop()})
			if err != nil {
				t.Fatal(err)
			}
			s.TLS = &tls.Config{InsecureSkipVerify: true}
			defer s.Logoff(t.Context())
			o, err := s.Prepare(t.Context())
			if err == nil {
				_, err = NewConnector(s, receiver.Options{}, func(*receiver.Receiver) {}).Connect(t.Context(), o)
			}
			if err == nil {
				t.Fatal("it works")
			}
			if text := Explain(cfg, err); !strings.Contains(text, test.want) || strings.Contains(text, "/api/") {
				t.Errorf("%s\nwant %s (%T)", text, test.want, errors.Unwrap(err))
			}
		})
	}
}
