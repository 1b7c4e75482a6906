package hmcsim

import (
	"fmt"
	"maps"
	"slices"
)

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

// SkipSequence makes the next notification of every topic miss numbers in session-sequence-nr, as if n
// notifications had been lost.
func (h *HMC) SkipSequence(n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.order {
		s.seq += int64(n)
		for _, t := range s.topics {
			t.seq += int64(n)
		}
	}
	h.globalSeq += int64(n)
}

// CPCInfo tells of a CPC.
type CPCInfo struct {
	ID, URI, Name, Status string
	DPM                   bool
}

// CPCs tells of all CPCs.
func (h *HMC) CPCs() []CPCInfo {
	h.mu.Lock()
	defer h.mu.Unlock()
	var infos []CPCInfo
	for _, c := range h.world.cpcs {
		infos = append(infos, CPCInfo{ID: c.id, URI: c.uri(), Name: c.name, Status: c.status, DPM: c.dpm})
	}
	return infos
}

// PartitionInfo tells of a DPM partition or classic LPAR.
type PartitionInfo struct {
	ID, URI, Name, CPC, Class, Status string
	DPM                               bool
	Busy                              bool  // an operation is going on
	NextOSMessage                     int64 // sequence-number of the next OS message
	OSMessages                        int   // how many the HMC holds
}

func (p *partition) info() PartitionInfo {
	return PartitionInfo{
		ID: p.id, URI: p.uri(), Name: p.name, CPC: p.cpc.name, Class: p.class(), Status: p.status, DPM: p.cpc.dpm,
		Busy: p.busy, NextOSMessage: p.nextSeq, OSMessages: len(p.messages),
	}
}

// Partitions tells of all partitions of all CPCs.
func (h *HMC) Partitions() []PartitionInfo {
	h.mu.Lock()
	defer h.mu.Unlock()
	var infos []PartitionInfo
	for _, p := range h.world.parts {
		infos = append(infos, p.info())
	}
	return infos
}

// Partition tells of one partition, named by its name, "CPC/name", object id or URI, as in all methods here.
func (h *HMC) Partition(key string) (PartitionInfo, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p, err := h.world.findPartition(key)
	if err != nil {
		return PartitionInfo{}, err
	}
	return p.info(), nil
}

// withPartition calls do for a partition.
func (h *HMC) withPartition(key string, do func(p *partition) error) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	p, err := h.world.findPartition(key)
	if err != nil {
		return err
	}
	return do(p)
}

// StartPartition starts a partition that is at rest: status changes and the boot messages of its operating system
// follow, StepDelay apart.
func (h *HMC) StartPartition(key string) error {
	return h.withPartition(key, func(p *partition) error {
		if p.busy || !p.stopped() {
			return fmt.Errorf("hmcsim: partition %s cannot be started: it is %s", p.name, p.status)
		}
		h.world.startUp(p, func() {})
		return nil
	})
}

// StopPartition stops a partition with a running operating system: its last messages and status changes follow,
// StepDelay apart.
func (h *HMC) StopPartition(key string) error {
	return h.withPartition(key, func(p *partition) error {
		if p.busy || !p.hasOS() {
			return fmt.Errorf("hmcsim: partition %s cannot be stopped: it is %s", p.name, p.status)
		}
		h.world.shutDown(p, p.restStatus(), func() {})
		return nil
	})
}

// SetPartitionStatus gives a partition any status, at once.
func (h *HMC) SetPartitionStatus(key, status string) error {
	return h.withPartition(key, func(p *partition) error {
		h.world.setStatus(p, status)
		return nil
	})
}

// RenamePartition gives a partition another name.
func (h *HMC) RenamePartition(key, name string) error {
	return h.withPartition(key, func(p *partition) error {
		old := p.name
		p.name = name
		h.world.tell(propertyChange(p, "", change{"name", old, name}))
		return nil
	})
}

// CreatePartition makes a partition of a CPC (by name, object id or URI), at rest. A name "" gives the next free one.
func (h *HMC) CreatePartition(cpc, name string) (PartitionInfo, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c, err := h.world.findCPC(cpc)
	if err != nil {
		return PartitionInfo{}, err
	}
	if slices.ContainsFunc(c.partitions, func(p *partition) bool { return p.name == name }) {
		return PartitionInfo{}, fmt.Errorf("hmcsim: CPC %s has a partition %q already", c.name, name)
	}
	p := h.world.newPartition(c, name)
	h.world.tell(inventoryChange(p, "", "add"))
	return p.info(), nil
}

// DeletePartition removes a partition, whatever its status. Its OS message channels end.
func (h *HMC) DeletePartition(key string) error {
	return h.withPartition(key, func(p *partition) error {
		h.world.deletePartition(p)
		return nil
	})
}

// OSMessages lets the operating system of a partition write one message for each text, all in one notification, and
// returns how many subscriptions it went to.
func (h *HMC) OSMessages(key string, texts ...string) (int, error) {
	n := 0
	err := h.withPartition(key, func(p *partition) error {
		n = h.world.tellOS(p, texts...)
		return nil
	})
	return n, err
}

// SetOSMessageSequence makes a number the sequence-number of a partition's next OS message: for wraps, gaps and
// restarts of the sequence.
func (h *HMC) SetOSMessageSequence(key string, next int64) error {
	return h.withPartition(key, func(p *partition) error {
		p.nextSeq = next
		return nil
	})
}

// SetCommunicating cuts the support element of a CPC off, or brings it back: a burst of status changes of the CPC and
// all its partitions; when it is back each is published twice.
func (h *HMC) SetCommunicating(cpc string, up bool) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	c, err := h.world.findCPC(cpc)
	if err != nil {
		return err
	}
	h.world.setCommunicating(c, up)
	return nil
}

// AddHardwareMessage adds a hardware message to a CPC, or with cpc "" to the console, and returns its URI. The
// property-change of has-hardware-messages is published when it is the first.
func (h *HMC) AddHardwareMessage(cpc, text string) (string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if cpc == "" {
		m := h.world.newHardwareMessage(console{h}, text, len(h.hwMessages))
		h.hwMessages = append(h.hwMessages, m)
		if len(h.hwMessages) == 1 {
			h.publishAllLocked(TopicObject, propertyChange(console{h}, "", change{"has-hardware-messages", false, true}))
		}
		return m.uri, nil
	}
	c, err := h.world.findCPC(cpc)
	if err != nil {
		return "", err
	}
	return h.world.addHardwareMessage(c, text).uri, nil
}

// DeleteHardwareMessages removes all hardware messages of a CPC, or with cpc "" of the console, as a person there
// would.
func (h *HMC) DeleteHardwareMessages(cpc string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if cpc == "" {
		if len(h.hwMessages) > 0 {
			h.hwMessages = nil
			h.publishAllLocked(TopicObject, propertyChange(console{h}, "", change{"has-hardware-messages", true, false}))
		}
		return nil
	}
	c, err := h.world.findCPC(cpc)
	if err != nil {
		return err
	}
	h.world.removeHardwareMessages(c, func(*hwMessage) bool { return true })
	return nil
}

// LogEntries writes entries into the audit or security log (TopicAudit, TopicSecurity, or "audit", "security"), all
// in one notification, and returns how many subscriptions it went to.
func (h *HMC) LogEntries(topicType string, entries ...LogEntry) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	made := make([]logEntry, 0, len(entries))
	for _, e := range entries {
		made = append(made, h.newLogEntry(e))
	}
	return h.logLocked(topicKind(topicType), made...)
}

// CompleteJobs lets a job of each session complete and returns the jobs' URIs.
func (h *HMC) CompleteJobs() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var uris []string
	for _, s := range h.order {
		if !s.partial {
			j := h.newJobLocked(s)
			h.endJobLocked(j, 200, 0, map[string]any{})
			uris = append(uris, j.uri())
		}
	}
	return uris
}

// SetPassword changes a user's password, or makes the user, and enables one that was disabled. Sessions live on.
func (h *HMC) SetPassword(userid, password string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.users[userid] = password
	delete(h.failures, userid)
}

// Disabled says whether a userid has been disabled by too many refused logons, see Options.DisableAfter.
func (h *HMC) Disabled(userid string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.disabledLocked(userid)
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

// Delivered returns how many notifications of each type were handed to subscriptions. What a connection's fault
// withholds, or what a connection that ends has not sent, is counted too.
func (h *HMC) Delivered() map[string]int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.Clone(h.delivered)
}

// sortedKeys returns the keys of m in order.
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
