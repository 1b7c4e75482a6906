package watch

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmc"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
)

// newSessionHint says what to do about a session of the configuration that does not work.
const newSessionHint = "make a new one and name it in session.id and session.credential"

// Permissions name the HMC task that a userid needs for a topic, as the HMC's own panels call it.
var Permissions = map[string]string{
	event.TopicAudit:    `the task "Audit and Log Management"`,
	event.TopicSecurity: `the task "View Security Logs"`,
}

// Session is what one HMC knows of this daemon: a logon, and the topics that come with it. Where
// the topics are given by name there is no logon, and all that is left is the host. It is used by
// one goroutine.
type Session struct {
	// API is the session of the Web Services API; nil while nobody is logged on.
	API *hmc.Session
	// TLS says how the HMC's certificate is verified. It is not to be changed.
	TLS *tls.Config

	cfg *config.HMC
	log *zap.Logger
	// client is nil where the Web Services API is not used.
	client *hmc.Client
	// host is the index of the host in use, where the client does not choose it.
	host int
}

// Offer is what an HMC has of what the configuration asks for.
type Offer struct {
	Host string
	// Console is the HMC's own name of itself.
	Console string
	// Kinds are those of the topics that are asked for, by name.
	Kinds map[string]string
	// Granted are the kinds of notifications that the userid may have, Missing those that it
	// may not have and should, in words.
	Granted, Missing []string

	// channels are the topics of OS message channels that are open, by the partition's object
	// id.
	channels map[string]string
	// complete says that the session has no other topics.
	complete bool
	// unlisted is why it is not known yet whose OS messages to follow; "": nobody's.
	unlisted string
}

// NewSession makes a session that is not logged on. onRequest is called after each request.
func NewSession(
	cfg *config.HMC, log *zap.Logger, version string, onRequest func(operation, code string),
) (*Session, error) {
	tlsConfig, err := cfg.TLS.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("hmc %s: %w", cfg.Name, err)
	}
	s := &Session{cfg: cfg, TLS: tlsConfig, log: log}
	if len(cfg.TopicNames) > 0 {
		return s, nil
	}
	s.client, err = hmc.New(hmc.Options{
		Hosts: cfg.Hosts, Port: cfg.RESTPort, TLS: tlsConfig, UserAgent: "hmcnotifyd/" + version,
		RequestsPerMinute: cfg.RESTRequestsPerMinute, Logger: log, OnRequest: onRequest,
	})
	if err != nil {
		return nil, fmt.Errorf("hmc %s: %w", cfg.Name, err)
	}
	return s, nil
}

// Version looks for the first host that answers, and asks it for its version.
func (s *Session) Version(ctx context.Context) (v hmc.Version, host string, err error) {
	v, err = s.client.QueryAPIVersion(ctx)
	return v, s.client.Host(), err
}

// UseHost says which host is used where the Web Services API is not.
func (s *Session) UseHost(index int) { s.host = index }

// UsesREST says whether the Web Services API is needed: not where the topics are known.
func (s *Session) UsesREST() bool { return s.client != nil }

// Prepare asks the first host that answers for its topics, and logs on where nobody is or the HMC
// has ended the session.
func (s *Session) Prepare(ctx context.Context) (*Offer, error) {
	if !s.UsesREST() {
		o := &Offer{Host: s.cfg.Hosts[s.host%len(s.cfg.Hosts)], Kinds: make(map[string]string)}
		for _, topic := range s.cfg.TopicNames {
			o.Kinds[topic] = event.TopicOther
		}
		return o, nil
	}
	before := s.client.Host()
	version, err := s.client.QueryAPIVersion(ctx)
	if err != nil {
		return nil, err
	}
	if s.API != nil && s.client.Host() != before {
		s.logoff(ctx) // it belongs to the host that does not answer any more
	}
	topics, err := s.topics(ctx)
	switch lost := hmc.SessionLost(err); {
	case lost && s.cfg.Session == nil:
		s.log.Info("the HMC has ended the session; logging on again", zap.Error(err))
		s.API = nil
		topics, err = s.topics(ctx)
	case lost:
		s.API = nil
		return nil, hold(status.ReasonLogon, fmt.Errorf(
			"the session given in the configuration has ended; "+newSessionHint+": %w", err))
	}
	if err != nil {
		return nil, err
	}
	o := s.choose(topics)
	o.Console = version.HMCName
	for _, m := range o.Missing {
		s.log.Warn("a topic is not granted", zap.String("missing", m))
	}
	return o, nil
}

// topics lists the topics of the session, for which it logs on if nobody is.
func (s *Session) topics(ctx context.Context) ([]hmc.Topic, error) {
	if s.API == nil {
		if err := s.logon(ctx); err != nil {
			return nil, err
		}
	}
	return s.API.NotificationTopics(ctx)
}

// choose picks the topics that the configuration asks for. Channels for OS messages that the
// Session has open already (from a link before this one) are among them.
func (s *Session) choose(topics []hmc.Topic) *Offer {
	o := &Offer{
		Host: s.client.Host(), complete: true,
		Kinds: make(map[string]string), channels: make(map[string]string),
	}
	ask := make(map[string]bool)
	if len(s.cfg.OSMessages) > 0 {
		ask[event.TopicOSMessage], o.unlisted = true, "the partitions are not listed yet"
	}
	for _, kind := range s.cfg.Topics {
		ask[kind] = true
	}
	for _, t := range topics {
		kind := strings.TrimSuffix(t.Type, "-notification")
		o.complete = o.complete && ask[kind]
		if ask[kind] {
			o.Kinds[t.Name] = kind
		}
		switch {
		case kind != event.TopicOSMessage:
			o.Granted = append(o.Granted, kind)
		case ask[kind]:
			o.channels[event.LastSegment(t.ObjectURI)] = t.Name
		}
	}
	for _, kind := range s.cfg.Topics {
		if slices.Contains(o.Granted, kind) {
			continue
		}
		text := "topic " + kind + " is not granted to " + s.Who()
		if p, ok := Permissions[kind]; ok {
			text += ": it needs " + p + " on the HMC"
		}
		o.Missing = append(o.Missing, text)
	}
	return o
}

// Who names whom the HMC knows this daemon as.
func (s *Session) Who() string {
	if s.cfg.Session != nil {
		return "the session given in the configuration"
	}
	return "userid " + s.cfg.Userid
}

// logon makes a session. A refusal comes back as a holdError: to try it again soon would make the
// HMC disable the userid.
func (s *Session) logon(ctx context.Context) error {
	if given := s.cfg.Session; given != nil {
		s.API = s.client.Resume(given.ID.Expose(), given.Credential.Expose())
		return nil
	}
	api, err := s.client.Logon(ctx, s.cfg.Userid, s.cfg.Password.Expose())
	if err == nil {
		s.API = api
		return nil
	}
	// Whatever else the HMC has against the logon (too many sessions, for one) does not go away
	// by asking again soon.
	var answer *hmc.HTTPError
	refused := errors.As(err, &answer) && answer.Status >= 400 && answer.Status < 500
	if refused && (answer.Status == http.StatusUnauthorized || answer.Status == http.StatusForbidden) {
		err = s.passwordRefused(err)
	}
	if refused || hmc.LogonRefused(err) {
		return hold(status.ReasonLogon, err)
	}
	return err
}

// passwordRefused says what to look at when userid and password were refused, by the API or by the
// broker.
func (s *Session) passwordRefused(err error) error {
	return fmt.Errorf("check password or password_file, and on the HMC whether userid %s is disabled: %w",
		s.cfg.Userid, err)
}

// logoff ends the session on the HMC, unless it was made elsewhere.
func (s *Session) logoff(ctx context.Context) {
	if err := s.End(ctx); err != nil {
		s.log.Warn("the session may be left on the HMC until its idle time ends", zap.Error(err))
	}
}

// logoffTimeout bounds a logoff.
const logoffTimeout = 5 * time.Second

// End is logoff that returns what went wrong. It works also when ctx is done.
func (s *Session) End(ctx context.Context) error {
	api := s.API
	s.API = nil
	if api == nil || s.cfg.Session != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), logoffTimeout)
	defer cancel()
	if err := api.Logoff(ctx); err != nil && !hmc.SessionLost(err) {
		return err
	}
	return nil
}

// Close ends all that the HMC knows of the session, also when ctx is done.
func (s *Session) Close(ctx context.Context) {
	s.logoff(ctx)
	if s.client != nil {
		s.client.Close()
	}
}

// credentials are what the broker is shown.
func (s *Session) credentials(o *receiver.Options) {
	switch given := s.cfg.Session; {
	case s.API != nil:
		o.SessionID, o.SessionCredential = s.API.ID(), s.API.Credential()
	case given != nil:
		o.SessionID, o.SessionCredential = given.ID.Expose(), given.Credential.Expose()
	default:
		o.Userid, o.Password = s.cfg.Userid, s.cfg.Password.Expose()
	}
}
