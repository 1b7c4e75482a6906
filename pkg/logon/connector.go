package logon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/logs"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
)

// Connector makes the link of a session. It is used by one goroutine.
type Connector struct {
	session *Session
	// options lack host, topics and credentials.
	options receiver.Options
	// Asked is when the last attempt began.
	Asked time.Time
	// attempted is called with each link that was tried to make, before it is closed if that
	// failed.
	attempted func(*receiver.Receiver)
}

// NewConnector makes a Connector of o without host, port, topics, credentials, TLS, logger and
// retries. attempted is called with each link that was tried to make, before it is closed if that
// failed.
func NewConnector(s *Session, o receiver.Options, attempted func(*receiver.Receiver)) *Connector {
	stomp := s.Cfg.Stomp
	stomp.ConnectRetries = 0
	o.Port, o.Config, o.Logger = s.Cfg.StompPort, &stomp, logs.Slog(s.log)
	return &Connector{session: s, options: o, attempted: attempted}
}

// Connect makes one attempt at a link that is subscribed to what the HMC offers. Where the broker
// refuses a session, that is logged off. It returns a HoldError where another attempt would do
// harm.
func (c *Connector) Connect(ctx context.Context, o *Offer) (*receiver.Receiver, error) {
	s, opts := c.session, c.options
	opts.Host, opts.TLS, opts.Topics = o.Host, s.TLS, slices.Collect(maps.Keys(o.Kinds))
	s.credentials(&opts)
	link, err := receiver.New(opts)
	if err != nil {
		return nil, fmt.Errorf("the configuration does not fit: %w", err)
	}
	c.Asked = time.Now()
	err = link.Connect(ctx)
	c.attempted(link)
	if err == nil {
		return link, nil
	}
	CloseLink(link, s.log)
	broken, ok := errors.AsType[*receiver.ConnectionError](err)
	switch {
	case !ok || broken.Reason != receiver.ReasonAuthorization:
	case opts.Userid != "":
		return nil, hold(receiver.ReasonAuthorization, s.passwordRefused(err))
	case s.Cfg.Session != nil:
		err = fmt.Errorf("the broker refuses the session given in the configuration; "+newSessionHint+": %w", err)
	default:
		err = fmt.Errorf("the broker refuses the sessions that the Web Services API makes: %w", err)
		// the broker does not know the session, so its topics are gone too
		s.Logoff(ctx)
	}
	return nil, err
}

// CloseLink ends a link: UNSUBSCRIBE, DISCONNECT, bounded in time. It reports whether the HMC has
// confirmed it.
func CloseLink(link *receiver.Receiver, log *zap.Logger) bool {
	err := link.Close()
	if err != nil {
		log.Debug("the link did not end cleanly", zap.Error(err))
	}
	return err == nil
}
