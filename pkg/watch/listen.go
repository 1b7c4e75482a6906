package watch

import (
	"context"
	"errors"
	"sync"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/heard"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/logon"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
)

// listening is what a Supervisor has while another daemon records what the HMC says.
type listening struct {
	heard *heard.Log
	// The link that is up at the end of Listen, and what it is subscribed to.
	link  *receiver.Receiver
	offer *logon.Offer
}

// take returns the link that Listen has left, if there is one, and forgets it.
func (l *listening) take() (link *receiver.Receiver, o *logon.Offer) {
	link, o = l.link, l.offer
	l.link, l.offer = nil, nil
	return link, o
}

// Listen keeps the HMC connected as Run does until ctx is done, and records nothing. It leaves the
// link to Run, or Leave.
func (s *Supervisor) Listen(ctx context.Context) { s.rounds(ctx) }

// Leave ends what Listen has begun, where Run does not come.
func (s *Supervisor) Leave(ctx context.Context) {
	s.listen.take()
	s.leaveLink("", "")()
	s.session.Close(ctx)
}

// Heard is what Listen keeps: it is told of what another daemon records.
func (s *Supervisor) Heard() *heard.Log { return s.listen.heard }

// hear keeps what comes over a link until that ends, and returns why it did; or until ctx is done,
// and leaves it open.
func (s *Supervisor) hear(ctx context.Context, link *receiver.Receiver, o *logon.Offer) (err error) {
	s.announce(link, o)
	s.source.update(func(now *state) { now.unread, now.unlisted = "", "" }) // nothing is listed
	s.listen.heard.Begin()
	linkCtx, cancel := context.WithCancelCause(ctx)
	k := newKeeper(s, link, o, cancel)
	var keeping sync.WaitGroup
	keeping.Go(func() { k.keepAlive(linkCtx) })
	defer func() {
		cancel(nil)
		keeping.Wait()
		if ctx.Err() != nil {
			s.listen.link, s.listen.offer = link, o
			return
		}
		s.listen.heard.Lost()
		s.leaveLink(s.explain(err))()
	}()
	for n, err := range link.Notifications(linkCtx) {
		s.beat.Turn()
		_, jms := errors.AsType[*receiver.JMSError](err)
		switch {
		case s.record(linkCtx, &n, err):
		case jms:
			s.log.Warn("the HMC's broker sent an error", zap.Error(err))
		default:
			return err
		}
	}
	if cause := context.Cause(linkCtx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause // the keeper ended the link, and knows why
	}
	return errors.New("the link was closed")
}

// keepAlive keeps the session, and does nothing else.
func (k *keeper) keepAlive(ctx context.Context) {
	defer k.isolate()
	for status.Sleep(ctx, k.intervals.Ping) {
		k.ping(ctx)
	}
}

// overheard has recorded what was heard before and not seen recorded.
func (s *Supervisor) overheard(ctx context.Context) {
	all := s.listen.heard.Unrecorded()
	for i := range all {
		s.note.Parse(&all[i].Notification, all[i].Valid)
		s.Rec.Overheard(ctx, &s.note)
	}
	if len(all) > 0 {
		s.Rec.Flush(ctx)
		s.log.Info("what the leader before has not recorded was heard, and is recorded",
			zap.Int("notifications", len(all)))
	}
}
