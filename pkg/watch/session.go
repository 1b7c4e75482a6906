package watch

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmc"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
)

// permissions names the HMC task that a userid needs for a topic, as the HMC's own panels call it.
var permissions = map[string]string{
	event.TopicAudit:    `the task "Audit and Log Management"`,
	event.TopicSecurity: `the task "View Security Logs"`,
}

// prepare makes sure that there is a session, and returns the topics to subscribe to with their kinds, and the host
// that has them.
func (s *Supervisor) prepare(ctx context.Context) (wanted map[string]string, host string, err error) {
	var missing []string
	if s.usesREST() {
		s.SetState(status.StateLoggingOn)
		wanted, missing, err = s.prepareSession(ctx)
		host = s.client.Host()
	} else {
		wanted = make(map[string]string)
		for _, topic := range s.Cfg.TopicNames {
			wanted[topic] = event.TopicOther
		}
		host = s.Cfg.Hosts[s.hostIndex%len(s.Cfg.Hosts)]
	}
	if err != nil {
		return nil, "", err
	}
	s.topics.Set(maps.Clone(wanted))
	s.Mu.Lock()
	defer s.Mu.Unlock()
	s.status.host, s.status.missing, s.status.unlisted = host, missing, ""
	if s.usesREST() && len(s.Cfg.OSMessages) > 0 {
		s.status.unlisted = "the partitions are not listed yet"
	}
	clear(s.status.channels)
	s.status.wanted = make(map[string]topicStatus, len(wanted))
	for topic, kind := range wanted {
		s.status.wanted[topic] = topicStatus{kind: kind, problem: status.NotSubscribed}
	}
	return wanted, host, nil
}

// prepareSession asks the first HMC host that answers for the topics of the session, and logs on where there is none
// or the HMC has ended it.
func (s *Supervisor) prepareSession(ctx context.Context) (wanted map[string]string, missing []string, err error) {
	before := s.client.Host()
	if _, err := s.client.QueryAPIVersion(ctx); err != nil {
		return nil, nil, err
	}
	if s.session != nil && s.client.Host() != before {
		s.logoff(ctx) // it belongs to the host that does not answer any more
	}
	if s.session == nil {
		if err := s.logon(ctx); err != nil {
			return nil, nil, err
		}
	}
	topics, err := s.session.NotificationTopics(ctx)
	if hmc.SessionLost(err) && s.Cfg.Session == nil {
		s.log.Info("the HMC has ended the session; logging on again", zap.Error(err))
		s.session = nil
		if err := s.logon(ctx); err != nil {
			return nil, nil, err
		}
		topics, err = s.session.NotificationTopics(ctx)
	}
	if hmc.SessionLost(err) && s.Cfg.Session != nil {
		s.session = nil
		return nil, nil, &holdError{reason: status.ReasonLogon, err: fmt.Errorf(
			"the session given in the configuration has ended; make a new one and name it in session.id and session.credential: %w", err)}
	}
	if err != nil {
		return nil, nil, err
	}
	wanted, missing = s.choose(topics)
	for _, m := range missing {
		s.log.Warn("a topic is not granted", zap.String("missing", m))
	}
	return wanted, missing, nil
}

// choose picks the topics that the configuration asks for. Channels for OS messages that the session has open
// already (from a link before this one) are among them.
func (s *Supervisor) choose(topics []hmc.Topic) (wanted map[string]string, missing []string) {
	wanted = make(map[string]string)
	got := make(map[string]bool)
	ask := make(map[string]bool)
	for _, kind := range s.Cfg.Topics {
		ask[kind] = true
	}
	ask[event.TopicOSMessage] = len(s.Cfg.OSMessages) > 0
	clear(s.openChannels)
	s.complete = true
	for _, t := range topics {
		if kind, ok := knownKinds[t.Type]; ok && ask[kind] {
			wanted[t.Name] = kind
			got[kind] = true
			if kind == event.TopicOSMessage {
				s.openChannels[event.LastSegment(t.ObjectURI)] = t.Name
			}
		} else {
			s.complete = false
		}
	}
	for _, kind := range s.Cfg.Topics {
		if got[kind] {
			continue
		}
		text := "topic " + kind + " is not granted to " + s.who()
		if p, ok := permissions[kind]; ok {
			text += ": it needs " + p + " on the HMC"
		}
		missing = append(missing, text)
	}
	return wanted, missing
}

// who names whom the HMC knows this daemon as.
func (s *Supervisor) who() string {
	if s.Cfg.Session != nil {
		return "the session given in the configuration"
	}
	return "userid " + s.Cfg.Userid
}

// logon makes a session. A refusal comes back as a holdError: to try it again soon would make the HMC disable the
// userid.
func (s *Supervisor) logon(ctx context.Context) error {
	if s.Cfg.Session != nil {
		s.session = s.client.Resume(s.Cfg.Session.ID.Expose(), s.Cfg.Session.Credential.Expose())
		return nil
	}
	session, err := s.client.Logon(ctx, s.Cfg.Userid, s.Cfg.Password.Expose())
	// Whatever else the HMC has against the logon (too many sessions, for one) does not go away by asking again soon.
	var answer *hmc.HTTPError
	if errors.As(err, &answer) && (answer.Status == http.StatusUnauthorized || answer.Status == http.StatusForbidden) {
		err = s.passwordRefused(err)
	}
	if hmc.LogonRefused(err) || (errors.As(err, &answer) && answer.Status >= 400 && answer.Status < 500) {
		return &holdError{reason: status.ReasonLogon, err: err}
	}
	if err != nil {
		return err
	}
	s.session = session
	return nil
}

// passwordRefused says what to look at when the userid and its password were refused, by the API or by the broker.
func (s *Supervisor) passwordRefused(err error) error {
	return fmt.Errorf("check password or password_file, and on the HMC whether userid %s is disabled: %w", s.Cfg.Userid, err)
}

// nextHost moves to the next configured host after the link to one could not be made. With REST the client looks
// for the first host that answers.
func (s *Supervisor) nextHost(err error) {
	var link *receiver.ConnectionError
	if !s.usesREST() && errors.As(err, &link) && link.Reason != receiver.ReasonAuthorization {
		s.hostIndex++
	}
}
