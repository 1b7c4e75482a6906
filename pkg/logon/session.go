package logon

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/budget"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmc"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/logs"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/translate"
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

	// Cfg is the configuration in use, with what its files hold now. It is not to be changed.
	Cfg *config.HMC
	log *zap.Logger
	// client is nil where the Web Services API is not used.
	client *hmc.Client
	// host is the index of the host in use, where the client does not choose it.
	host int
	// Expires is when the password does, as the last logon told it; nil: never, or not known.
	Expires *time.Time
	// unreadable is why the files could not be read again, as it was logged.
	unreadable string
}

// Dial makes a network connection, as net.Dialer.DialContext does.
type Dial = func(ctx context.Context, network, addr string) (net.Conn, error)

// SessionOptions are what a Session needs besides the configuration of its HMC. Logger is required.
type SessionOptions struct {
	Logger *zap.Logger
	// of the program, as the HMC sees it
	Version string
	// Notes is where sessions are noted until their logoff: see hmc.Options.SessionNotes.
	Notes string
	// Dial connects; nil: net.Dialer.
	Dial Dial
	// OnRequest is called after each request; it may be nil.
	OnRequest func(operation, code string)
	Budget    *budget.Budget // see hmc.Options; nil: none
	// OnExchange is called with each request and its answer: see hmc.Options; it may be nil.
	OnExchange func(hmc.Exchange)
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

	// Channels are the topics of OS message channels that are open, by the partition's object
	// id.
	Channels map[string]string
	// Complete says that the session has no other topics.
	Complete bool
	// Unlisted is why it is not known yet whose OS messages to follow; "": nobody's.
	Unlisted string
	// REST says that there is a session of the Web Services API, and PasswordExpires when the
	// password does that it was logged on with; nil: never, or not known.
	REST            bool
	PasswordExpires *time.Time
}

// NewSession makes a session that is not logged on.
func NewSession(cfg *config.HMC, o SessionOptions) (*Session, error) {
	tlsConfig, err := cfg.TLS.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("hmc %s: %w", cfg.Name, err)
	}
	s := &Session{Cfg: cfg, TLS: tlsConfig, log: o.Logger}
	if len(cfg.TopicNames) > 0 {
		return s, nil
	}
	s.client, err = hmc.New(hmc.Options{
		Hosts: cfg.Hosts, Port: cfg.RESTPort, TLS: tlsConfig, UserAgent: "hmcnotifyd/" + o.Version,
		RequestsPerMinute: cfg.RESTRequestsPerMinute, Timeout: cfg.RESTTimeout,
		Logger: logs.Slog(o.Logger.Named("rest")), Dial: o.Dial, OnRequest: o.OnRequest,
		SessionNotes: o.Notes, Budget: o.Budget,
		OnExchange: o.OnExchange,
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

// Refresh takes over what has changed in the files that the configuration names, and reports
// whether something has. While they cannot be used, what was read before counts.
func (s *Session) Refresh() (changed bool) {
	fresh, err := s.Cfg.Reread()
	if err == nil && fresh.Equal(s.Cfg) {
		s.unreadable = ""
		return false
	}
	var verify *tls.Config
	if err == nil {
		verify, err = fresh.TLS.ClientConfig()
	}
	if err != nil {
		if text := err.Error(); text != s.unreadable {
			s.unreadable = text
			s.log.Warn("a file of the configuration cannot be read again; what it held before counts", zap.Error(err))
		}
		return false
	}
	s.log.Info("a file of the configuration has changed and counts from now on")
	s.unreadable, s.Cfg, s.TLS = "", fresh, verify
	if s.client != nil {
		s.client.SetTLS(verify)
	}
	if s.Cfg.Session != nil {
		s.API = nil
	}
	return true
}

// NextHost has the next attempt begin with the host behind the one in use.
func (s *Session) NextHost() {
	if s.client != nil {
		s.client.NextHost()
	}
	s.host++
}

// UsesREST says whether the Web Services API is needed: not where the topics are known.
func (s *Session) UsesREST() bool { return s.client != nil }

// Prepare asks the first host that answers for its topics, and logs on where nobody is or the HMC
// has ended the session.
func (s *Session) Prepare(ctx context.Context) (*Offer, error) {
	if !s.UsesREST() {
		o := &Offer{Host: s.Cfg.Hosts[s.host%len(s.Cfg.Hosts)], Kinds: make(map[string]string)}
		for _, topic := range s.Cfg.TopicNames {
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
		s.Logoff(ctx) // it belongs to the host that does not answer any more
	}
	topics, err := s.topics(ctx)
	switch lost := hmc.SessionLost(err); {
	case lost && s.Cfg.Session == nil:
		s.log.Info("the HMC has ended the session; logging on again", zap.Error(err))
		s.Logoff(ctx)
		topics, err = s.topics(ctx)
	case lost:
		s.API = nil
		return nil, hold(status.ReasonLogon, fmt.Errorf(
			"the session given in the configuration has ended; "+newSessionHint+": %w", err))
	}
	_, tooMany := errors.AsType[*hmc.TooManyError](err)
	if err != nil && !tooMany {
		return nil, err
	}
	o := s.choose(topics)
	o.Console = version.HMCName
	if tooMany {
		o.Complete = false
		o.Missing = append(o.Missing, err.Error())
	}
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
		Host: s.client.Host(), Complete: true, REST: true, PasswordExpires: s.Expires,
		Kinds: make(map[string]string), Channels: make(map[string]string),
	}
	ask := make(map[string]bool)
	if len(s.Cfg.OSMessages) > 0 {
		ask[event.TopicOSMessage], o.Unlisted = true, "the partitions are not listed yet"
	}
	for _, kind := range s.Cfg.Topics {
		ask[kind] = true
	}
	for _, t := range topics {
		kind := strings.TrimSuffix(t.Type, "-notification")
		o.Complete = o.Complete && ask[kind]
		if ask[kind] {
			o.Kinds[t.Name] = kind
		}
		switch {
		case kind != event.TopicOSMessage:
			o.Granted = append(o.Granted, kind)
		case ask[kind]:
			o.Channels[event.LastSegment(t.ObjectURI)] = t.Name
		}
	}
	for _, kind := range s.Cfg.Topics {
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
	if s.Cfg.Session != nil {
		return "the session given in the configuration"
	}
	return "userid " + s.Cfg.Userid
}

// logon makes a session. What is refused because of the userid or the password comes back as a
// HoldError: to try that again soon would make the HMC disable the userid. Whatever else the HMC
// has against a logon (too many sessions, an API that is disabled) may be over soon.
func (s *Session) logon(ctx context.Context) error {
	if given := s.Cfg.Session; given != nil {
		s.API = s.client.Resume(given.ID.Expose(), given.Credential.Expose())
		return nil
	}
	api, err := s.client.Logon(ctx, s.Cfg.Userid, s.Cfg.Password.Expose())
	switch {
	case err == nil:
		s.API = api
		s.tellExpiry(api.PasswordExpires)
		return nil
	case hmc.PasswordExpired(err):
		return hold(status.ReasonLogon, fmt.Errorf("the password of userid %s has expired: "+
			"change it on the HMC, and in password or password_file: %w", s.Cfg.Userid, err))
	case IsStatus(err, http.StatusUnauthorized), IsStatus(err, http.StatusForbidden):
		return hold(status.ReasonLogon, s.passwordRefused(err))
	case hmc.LogonRefused(err):
		return hold(status.ReasonLogon, err)
	case hmc.TooManySessions(err):
		return fmt.Errorf("userid %s has as many sessions as it may have: end some of them, "+
			"or let it have more (max-web-services-api-sessions): %w", s.Cfg.Userid, err)
	}
	return err
}

// tellExpiry notes in how many days the password expires, below 0: never, and warns when they are
// few.
func (s *Session) tellExpiry(days int) {
	if s.Expires = nil; days < 0 {
		return
	}
	const day = 24 * time.Hour
	s.Expires = status.TimeOrNil(time.Now().Add(time.Duration(days) * day))
	if time.Duration(days)*day <= status.PasswordWarning {
		s.log.Warn("the password of the userid expires soon, and is then refused: change it on the HMC and here before",
			zap.String("userid", s.Cfg.Userid), zap.Int("days", days))
	}
}

// ChangesPassword says whether a notification tells that the password of the userid was changed.
// When the new one expires, the next logon tells.
func (s *Session) ChangesPassword(n *translate.Notification) bool {
	return n.Type == event.TypePropertyChange && n.Resource.Class == "user" && n.Resource.Name == s.Cfg.Userid &&
		strings.Contains(n.Headers.Get("property-names"), " password ")
}

// passwordRefused says what to look at when userid and password were refused, by the API or by the
// broker.
func (s *Session) passwordRefused(err error) error {
	return fmt.Errorf("check password or password_file, and on the HMC whether userid %s is disabled "+
		"or the password has expired: %w", s.Cfg.Userid, err)
}

// Logoff ends the session on the HMC, unless it was made elsewhere. lost says that the HMC had
// ended it before.
func (s *Session) Logoff(ctx context.Context) (lost bool) {
	api := s.API
	if err := s.End(ctx); err != nil {
		s.log.Warn("the session could not be logged off; the next logon tries it again", zap.Error(err))
	}
	return api != nil && api.Lost()
}

// logoffTimeout bounds a logoff.
const logoffTimeout = 5 * time.Second

// End is Logoff that returns what went wrong. It works also when ctx is done.
func (s *Session) End(ctx context.Context) error {
	api := s.API
	s.API = nil
	if api == nil || s.Cfg.Session != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), logoffTimeout)
	defer cancel()
	if err := api.Logoff(ctx); err != nil && !hmc.SessionLost(err) {
		return err
	}
	return nil
}

// Close ends all that the HMC knows of the session, also when ctx is done. lost is as Logoff has
// it.
func (s *Session) Close(ctx context.Context) (lost bool) {
	lost = s.Logoff(ctx)
	if s.client != nil {
		s.client.Close()
	}
	return lost
}

// credentials are what the broker is shown.
func (s *Session) credentials(o *receiver.Options) {
	o.Secrets = []string{s.Cfg.Password.Expose()} // the HMC knows it as well
	switch given := s.Cfg.Session; {
	case s.API != nil:
		o.SessionID, o.SessionCredential = s.API.ID(), s.API.Credential()
	case given != nil:
		o.SessionID, o.SessionCredential = given.ID.Expose(), given.Credential.Expose()
	default:
		o.Userid, o.Password = s.Cfg.Userid, s.Cfg.Password.Expose()
	}
}
