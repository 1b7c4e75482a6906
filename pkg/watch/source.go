package watch

import (
	"sync/atomic"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/record"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
)

// source answers what the recorder asks of whoever looks after the HMC. None of its methods waits.
type source struct {
	*board
	metrics *record.HMCMetrics
	missed  atomic.Int64
	// something was yielded, and is not recorded yet
	recording atomic.Bool
	// of the link that is up, where there is a session
	keeper atomic.Pointer[keeper]
}

// Missed counts notifications that are known to be missing on a topic of this type.
func (s *source) Missed(topicType string, n int) {
	s.missed.Add(int64(n))
	s.metrics.MissedOn(topicType, n)
}

// Heartbeat is the body of a bridge-heartbeat event.
func (s *source) Heartbeat() record.Heartbeat {
	now := s.now()
	frame, notification := now.lastTimes()
	return record.Heartbeat{
		Connected: now.Connected, State: now.State, Since: event.Wall(now.Since, time.Now()),
		Problems:  status.Texts(now.reasons()),
		LastFrame: status.TimeOrNil(frame), LastNotification: status.TimeOrNil(notification),
	}
}

// LastContact returns when the last bytes came from the HMC. handedOn says that the link is up and
// all that came over it before has been handed on.
func (s *source) LastContact() (at time.Time, handedOn bool) {
	now := s.now()
	at, _ = now.lastTimes() // before the buffer is looked at
	return at, now.link != nil && now.link.Buffered() == 0 && !s.recording.Load()
}

// CanFetch says whether what was missed can be fetched.
func (s *source) CanFetch() bool { return s.keeper.Load() != nil }

// Fetch has what was missed on topics fetched; "": on all. It returns at once.
func (s *source) Fetch(topics map[string]bool) {
	if k := s.keeper.Load(); k != nil {
		k.fetch.ask(topics)
	}
}

// FetchLog has a log listed. It returns at once.
func (s *source) FetchLog(kind string) {
	if k := s.keeper.Load(); k != nil {
		k.fetch.askLog(kind)
	}
}

// Ask has it asked how a job has ended, or about a resource, and reports whether that will be done.
func (s *source) Ask(uri string) bool {
	k := s.keeper.Load()
	if k == nil {
		return false
	}
	select {
	case k.questions <- uri:
		return true
	default:
		return false
	}
}

// ListHardware has the hardware messages of a console or CPC listed again.
func (s *source) ListHardware(parent string) {
	if k := s.keeper.Load(); k != nil && k.hardware != nil {
		k.hardware.ask(parent)
	}
}
