// Package follow joins pkg/hmc and pkg/receiver for a program that follows the console of one
// partition: OSMessages logs on, opens the channel, receives, and does all of it again after
// whatever happens to the partition, the session, the link and the HMC.
package follow

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/http"
	"path"
	"sync"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/console"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmc"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
)

const (
	// An HMC ends a session that is idle for six hours, and tells nobody.
	pingEvery   = time.Minute
	logoffLimit = 10 * time.Second
	// What lasted this long worked.
	lasting = time.Minute
)

// Options say whose console is followed, and as whom. Hosts, Userid, Password, CPC and Partition
// are required.
type Options struct {
	// Hosts are DNS names or addresses of one HMC, or of several that stand in for each other.
	Hosts []string
	// RESTPort and StompPort are hmc.DefaultPort and receiver.DefaultPort if 0.
	RESTPort, StompPort int
	// TLS verifies both connections; nil: against the system's authorities.
	TLS *tls.Config
	// Userid needs access to the partition and the task "Operating System Messages".
	Userid, Password string
	// CPC and Partition are the names of the CPC and of its partition or LPAR.
	CPC, Partition string
	// Held has it begin with the messages that the HMC holds already.
	Held bool
	// PingEvery is how often the session is asked whether it lives; 0: each minute.
	PingEvery time.Duration
	// Stomp is receiver.DefaultStompRetryTimeoutConfig if nil. Its delays are those between all
	// attempts, and there is no end of them.
	Stomp *receiver.StompRetryTimeoutConfig
	// Logger gets what helps to find a fault, never a secret; nil: none.
	Logger *slog.Logger
}

// Message is a message that an operating system wrote to its console.
type Message struct {
	// Number is the HMC's, per partition. It begins anew at times, without a word.
	Number int64
	// Text is without the line end.
	Text string
	// Time is the operating system's; zero where it gives none, as Linux does.
	Time time.Time
	// Held says that somebody has to answer, Prompt with what an answer begins.
	Held, Priority bool
	Prompt         string
	// Fetched says that it was not received as it was written, but found on the HMC later.
	Fetched bool
}

// OSMessages returns an iterator over the messages of a partition's operating system, each once,
// in the order of the HMC. What is written while the session, the link or the HMC is down is
// fetched afterwards, as far as the HMC holds it.
//
// With an error there is no message: something failed, and is tried again when the loop goes on,
// after a delay. Only a logon that the HMC refuses for its userid or password ends the iteration
// (hmc.LogonRefused): a userid that fails to log on too often is disabled. Otherwise it ends with
// ctx, or when the loop is left, and has then logged off.
func OSMessages(ctx context.Context, o Options) iter.Seq2[Message, error] {
	return func(yield func(Message, error) bool) {
		stomp := receiver.DefaultStompRetryTimeoutConfig()
		if o.Stomp != nil {
			stomp = *o.Stomp
		}
		stomp.ConnectRetries = -1
		o.Stomp, o.PingEvery = &stomp, cmp.Or(o.PingEvery, pingEvery)
		if o.Logger == nil {
			o.Logger = slog.New(slog.DiscardHandler)
		}
		client, err := hmc.New(hmc.Options{Hosts: o.Hosts, Port: o.RESTPort, TLS: o.TLS, Logger: o.Logger})
		if err == nil {
			err = stomp.Validate()
		}
		if err != nil {
			yield(Message{}, err)
			return
		}
		defer client.Close()
		f := &follower{Options: o, client: client, yield: yield, book: console.NewOSMessages("")}
		f.run(ctx)
	}
}

var errLeft = errors.New("the loop was left")

// follower is one iteration.
type follower struct {
	Options
	client *hmc.Client
	yield  func(Message, error) bool
	// The loop was left: yield must not be called any more.
	left bool
	book *console.OSMessages
	// What the HMC held at the begin is known.
	begun bool
}

// tell has the loop see something, and returns whether that goes on.
func (f *follower) tell(m Message, err error) bool {
	f.left = f.left || !f.yield(m, err)
	return !f.left
}

func (f *follower) run(ctx context.Context) {
	backoff := receiver.NewBackoff(*f.Stomp)
	for {
		began := time.Now()
		err := f.session(ctx)
		if f.left || ctx.Err() != nil || !f.tell(Message{}, err) || hmc.LogonRefused(err) {
			return
		}
		if time.Since(began) > lasting {
			backoff.Reset()
		} else {
			f.client.NextHost()
		}
		if !wait(ctx, backoff.Next()) {
			return
		}
	}
}

func wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
	return ctx.Err() == nil
}

// session follows the partition with one session, until that or the loop is lost.
func (f *follower) session(ctx context.Context) error {
	if _, err := f.client.QueryAPIVersion(ctx); err != nil {
		return err
	}
	s, err := f.client.Logon(ctx, f.Userid, f.Password)
	if err != nil {
		return err
	}
	defer func() { // also when ctx has ended: an HMC has a limited number of sessions
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), logoffLimit)
		defer cancel()
		if err := s.Logoff(ctx); err != nil {
			f.Logger.Debug("the session was not logged off", "error", err)
		}
	}()
	uri, err := f.find(ctx, s)
	if err != nil {
		return err
	}
	r, err := receiver.New(receiver.Options{
		Host: s.Host(), Port: f.StompPort, TLS: f.TLS, Config: f.Stomp, Logger: f.Logger,
		SessionID: s.ID(), SessionCredential: s.Credential(),
	})
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	ctx, cancel := context.WithCancelCause(ctx)
	var pinging sync.WaitGroup
	defer pinging.Wait()
	defer cancel(nil)
	pinging.Go(func() { cancel(f.ping(ctx, s)) })
	for {
		topic, err := f.channel(ctx, s, uri)
		if err == nil {
			err = r.Subscribe(ctx, topic)
		}
		if err == nil {
			err = f.receive(ctx, s, r, uri)
		}
		if err != nil {
			return cmp.Or(context.Cause(ctx), err)
		}
	}
}

// ping keeps a session from being idle, and returns when it is lost.
func (f *follower) ping(ctx context.Context, s *hmc.Session) error {
	for wait(ctx, f.PingEvery) {
		if err := s.Ping(ctx); hmc.SessionLost(err) {
			return fmt.Errorf("the session is lost: %w", err)
		}
	}
	return ctx.Err()
}

// find returns the URI of a DPM partition or a classic LPAR.
func (f *follower) find(ctx context.Context, s *hmc.Session) (string, error) {
	for _, list := range []func(context.Context) ([]hmc.Partition, error){
		s.ListPermittedPartitions, s.ListPermittedLogicalPartitions,
	} {
		partitions, err := list(ctx)
		if err != nil {
			return "", err
		}
		for _, p := range partitions {
			if p.CPCName == f.CPC && p.Name == f.Partition {
				return p.ObjectURI, nil
			}
		}
	}
	return "", fmt.Errorf("there is no partition %s on %s, or the userid may not see it", f.Partition, f.CPC)
}

// channel returns the topic of the partition's messages. It waits while there are none, as of a
// partition that is stopped.
func (f *follower) channel(ctx context.Context, s *hmc.Session, uri string) (string, error) {
	backoff := receiver.NewBackoff(*f.Stomp)
	for {
		topic, err := s.OpenOSMessageChannel(ctx, uri, false)
		switch {
		case hmc.IsReason(err, http.StatusConflict, hmc.ReasonChannelExists):
			topics, err := s.NotificationTopics(ctx)
			for _, t := range topics {
				if t.Type == hmc.TopicTypeOSMessage && path.Base(t.ObjectURI) == path.Base(uri) {
					return t.Name, nil
				}
			}
			return "", cmp.Or(err, errors.New("the HMC does not list the channel that it has"))
		case !unavailable(err):
			return topic, err
		}
		f.Logger.Debug("the operating system offers no messages now", "partition", f.Partition)
		if !wait(ctx, backoff.Next()) {
			return "", ctx.Err()
		}
	}
}

func unavailable(err error) bool {
	return hmc.IsReason(err, http.StatusConflict, hmc.ReasonChannelUnavailable)
}

// receive yields messages, over one link after the other, until the topic has ended; then it
// returns nil.
func (f *follower) receive(ctx context.Context, s *hmc.Session, r *receiver.Receiver, uri string) error {
	for {
		if err := r.Connect(ctx); err != nil {
			return err
		}
		err := f.fetch(ctx, s, uri)
		if f.left || err != nil && (!f.begun || !f.tell(Message{}, err)) {
			return cmp.Or(err, errLeft)
		}
		for n, err := range r.Notifications(ctx) {
			if _, ok := errors.AsType[*receiver.SubscriptionError](err); ok {
				return nil
			}
			if err == nil {
				err = f.live(ctx, s, uri, &n)
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if f.left || err != nil && !f.tell(Message{}, err) {
				return errLeft
			}
		}
	}
}

// live yields the messages of a notification that are new.
func (f *follower) live(ctx context.Context, s *hmc.Session, uri string, n *receiver.Notification) error {
	for raw := range event.Elements(event.Member(n.Body, "os-messages")) {
		m, known := parse(raw)
		v := f.book.Live(uri, s.Host(), known, n.Received)
		if !v.Duplicate && !f.tell(m, nil) {
			return nil
		}
	}
	if _, _, missing := f.book.Missing(uri); missing > 0 && !f.left {
		return f.fetch(ctx, s, uri)
	}
	return nil
}

// fetch yields what the HMC holds and was not yielded.
func (f *follower) fetch(ctx context.Context, s *hmc.Session, uri string) error {
	asked := time.Now()
	list, err := s.ListOSMessages(ctx, uri, -1)
	if err != nil && !unavailable(err) {
		return err
	}
	var messages []Message
	replay := console.OSReplay{Host: s.Host(), Asked: asked, Now: time.Now(), Complete: true}
	for _, raw := range list {
		m, known := parse(raw)
		m.Fetched = true
		messages, replay.Messages = append(messages, m), append(replay.Messages, known)
	}
	if !f.begun && !f.Held {
		f.begun = true
		f.book.StartBehind(uri, s.Host(), replay.Messages)
		return nil
	}
	f.begun = true
	for i, v := range f.book.Replay(uri, replay) {
		if !v.Duplicate && !f.tell(messages[i], nil) {
			return nil
		}
	}
	if _, to, missing := f.book.Missing(uri); missing > 0 && err == nil {
		if gone := f.book.Settle(uri, to); gone > 0 {
			f.Logger.Warn("messages are missing that the HMC does not hold any more", "messages", gone)
		}
	}
	return nil
}

// parse reads an os-message-info object.
func parse(raw []byte) (Message, console.OSMessage) {
	from := event.ParseOSMessage(raw)
	m := Message{
		Number: from.Number, Text: from.PlainText(), Prompt: from.Prompt, Held: from.Held, Priority: from.Priority,
	}
	if from.Time > 0 {
		m.Time = time.UnixMilli(from.Time)
	}
	return m, console.OSMessage{Number: m.Number, Text: console.TextHash(m.Text), Time: from.Time}
}
