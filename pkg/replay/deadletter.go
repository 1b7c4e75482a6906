package replay

import (
	"encoding/json"
	"errors"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/queue"
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
	Summary   string `json:"summary,omitempty"`
	// Size is that of the event in bytes.
	Size int `json:"size"`
	// Event is absent in lists. Where what was stored is not an event, Data has it instead.
	Event json.RawMessage `json:"event,omitempty"`
	Data  []byte          `json:"data,omitempty"`
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
