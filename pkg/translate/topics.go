package translate

import (
	"strings"
	"sync"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// TopicTable knows what kind each topic of an HMC's session is. Safe for concurrent use.
type TopicTable struct {
	mu    sync.RWMutex
	kinds map[string]string
}

// Set takes the kinds of all topics of a new session.
func (t *TopicTable) Set(kinds map[string]string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kinds = kinds
}

// Add takes the kind of one more topic.
func (t *TopicTable) Add(topic, kind string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kinds[topic] = kind
}

// KindOf returns the kind of a topic. Where the HMC was not asked (topic_names), the notification's
// type tells it, and for log entries the form of the name: <user>.<n>aud and <user>.<n>sec on every
// HMC seen.
func (t *TopicTable) KindOf(topic, notificationType string) string {
	t.mu.RLock()
	kind, ok := t.kinds[topic]
	t.mu.RUnlock()
	if ok && kind != event.TopicOther {
		return kind
	}
	switch notificationType {
	case event.TypeStatusChange, event.TypePropertyChange, event.TypeInventoryChange:
		return event.TopicObject
	case event.TypeJobCompletion:
		return event.TopicJob
	case event.TypeOSMessage:
		return event.TopicOSMessage
	}
	switch {
	case strings.HasSuffix(topic, "aud"):
		return event.TopicAudit
	case strings.HasSuffix(topic, "sec"):
		return event.TopicSecurity
	}
	return event.TopicOther
}
