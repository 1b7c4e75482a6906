package hmcsim

import "maps"

// topicKind completes the short names of topic types: "object", "job", "audit", "security", "os-message".
func topicKind(s string) string {
	switch s {
	case "object", "job", "audit", "security", "os-message":
		return s + "-notification"
	default:
		return s
	}
}

// Publish publishes a notification as it is on the topics of a type (TopicObject, ..., or just "object") of all
// sessions, and returns how many subscriptions it went to. For OS messages: on every open channel. The sequence
// numbers and the broker's headers are added.
func (h *HMC) Publish(topicType string, headers []Header, body []byte) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n, kind := 0, topicKind(topicType)
	for _, s := range h.order {
		for _, t := range s.topics {
			if t.kind == kind {
				n += h.publishLocked(s, t, Message{headers, body})
			}
		}
	}
	return n
}

// Sessions returns how many sessions there are.
func (h *HMC) Sessions() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.order)
}

// Links returns how many STOMP connections are CONNECTED.
func (h *HMC) Links() int { return int(h.broker.Stats().Links) }

// Logons returns how many logons REST has accepted (and NewSession has made).
func (h *HMC) Logons() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.logons
}

// RefusedLogons returns how many logons REST has refused.
func (h *HMC) RefusedLogons() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.refused
}

// Logoffs returns how many sessions were logged off.
func (h *HMC) Logoffs() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.logoffs
}

// ExpiredSessions returns how many sessions ended by their idle timeout (or ExpireSessions).
func (h *HMC) ExpiredSessions() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.expired
}

// Published returns how many notifications of each type were published, one for each session's topic.
func (h *HMC) Published() map[string]int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.Clone(h.published)
}

// Delivered returns how many notifications of each type were handed to subscriptions.
func (h *HMC) Delivered() map[string]int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.Clone(h.delivered)
}
