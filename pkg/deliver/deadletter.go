package deliver

import (
	"encoding/json"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/sinks"
)

const (
	// maxReason bounds the reason that a dead letter keeps.
	maxReason = 1000
	// logEvery is how often the log speaks of the same thing that happens again and again.
	logEvery = time.Minute
)

var (
	// ErrNoSuchLetter says that a dead letter does not exist.
	ErrNoSuchLetter = errors.New("there is no such dead letter")
	// ErrNoSuchSink says that nothing is known by the name of a sink.
	ErrNoSuchSink = errors.New("there is no such sink")
	// ErrConfigured says that what was asked for is possible only with a sink that is not
	// configured any more.
	ErrConfigured = errors.New("the sink is configured: its waiting events are going to be delivered")
)

// DeadLetter is an event that a sink refused for good, or did not accept within its retry.max_age.
// It holds no secret.
type DeadLetter struct {
	ID   string `json:"id"`
	Sink string `json:"sink"`
	// Time is that of the refusal.
	Time time.Time `json:"time"`
	// Status is that of the answer; absent where there was none.
	Status    int    `json:"status,omitempty"`
	Reason    string `json:"reason"`
	Request   string `json:"request"`
	EventID   string `json:"event_id,omitempty"`
	EventType string `json:"event_type,omitempty"`
	// Size is that of the event in bytes.
	Size int `json:"size"`
	// Event is absent in lists. Where what was stored is not an event, Data has it instead.
	Event json.RawMessage `json:"event,omitempty"`
	Data  []byte          `json:"data,omitempty"`
}

// LetterOf is a stored letter as it is shown, with its event if that was read.
func LetterOf(l *queue.DeadLetter) DeadLetter {
	out := DeadLetter{
		ID: l.ID, Sink: l.Sink, Time: l.Time.UTC(), Status: l.Status, Reason: l.Reason, Request: l.Request,
		EventID: l.EventID, EventType: l.EventType, Size: l.Size,
	}
	if json.Valid(l.Data) {
		out.Event = l.Data
	} else {
		out.Data = l.Data
	}
	return out
}

// LetterError is an error of the stored letters as it is shown.
func LetterError(err error) error {
	if errors.Is(err, queue.ErrNotFound) {
		return ErrNoSuchLetter
	}
	return err
}

// DeadLetterFilter selects dead letters. Its zero value selects all.
type DeadLetterFilter struct {
	Sink string
	// IDs are those of letters or of events.
	IDs   []string
	Since time.Time
}

// Query is the filter as the stored letters take it.
func (f DeadLetterFilter) Query() queue.DeadLetterFilter {
	return queue.DeadLetterFilter{Sink: f.Sink, IDs: f.IDs, Since: f.Since}
}

// Fields are the filter as the log shows it.
func (f DeadLetterFilter) Fields() []zap.Field {
	var fields []zap.Field
	if f.Sink != "" {
		fields = append(fields, zap.String("of_sink", f.Sink))
	}
	if len(f.IDs) > 0 {
		fields = append(fields, zap.Int("of_ids", len(f.IDs)))
	}
	if !f.Since.IsZero() {
		fields = append(fields, zap.Time("since", f.Since))
	}
	return fields
}

// refusal is what a dead letter keeps of why the sink refused.
func (d *Delivery) refusal(cause error) queue.DeadLetter {
	_, status := sinks.ReasonOf(cause)
	return queue.DeadLetter{
		Sink: d.Cfg.Name, Time: time.Now(), Status: status, Reason: event.Bounded(cause.Error(), maxReason),
		Request: d.Cfg.Request(),
	}
}

// Throttle keeps the log from repeating itself. The zero value is ready. Safe for concurrent use.
type Throttle struct {
	mu     sync.Mutex
	last   time.Time
	silent int
}

// Count counts n more. It reports whether the log is due to have them now, and how many there have
// been since it last was.
func (t *Throttle) Count(now time.Time, n int) (total int, due bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.silent += n
	if !t.last.IsZero() && now.Sub(t.last) < logEvery {
		return 0, false
	}
	total, t.silent, t.last = t.silent, 0, now
	return total, true
}
