package hmcsim

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// topicKind completes the short names of topic types: "object", "job", "audit", "security",
// "os-message".
func topicKind(s string) string {
	switch s {
	case "object", "job", "audit", "security", "os-message":
		return s + "-notification"
	default:
		return s
	}
}

// Publish publishes a notification as it is on the topics of a type (TopicObject, ..., or just
// "object") of all sessions, and returns how many subscriptions it went to. For OS messages: on
// every open channel. The sequence numbers and the broker's headers are added.
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

// SkipSequence makes the next notification of every topic miss numbers in session-sequence-nr, as
// if n notifications had been lost.
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
	Communicating         bool // its SE does, see SetCommunicating
}

func (c *cpc) info() CPCInfo {
	return CPCInfo{ID: c.id, URI: c.uri(), Name: c.name, Status: c.status, DPM: c.dpm, Communicating: !c.cutOff}
}

// CPCs tells of all CPCs.
func (h *HMC) CPCs() []CPCInfo {
	h.mu.Lock()
	defer h.mu.Unlock()
	var infos []CPCInfo
	for _, c := range h.world.cpcs {
		infos = append(infos, c.info())
	}
	return infos
}

// PartitionInfo tells of a DPM partition or classic LPAR.
type PartitionInfo struct {
	ID, URI, Name, CPC, Class, Status string
	DPM                               bool
	Busy                              bool  // an operation is going on
	HasOS                             bool  // an operating system runs whose messages the HMC gets
	NextOSMessage                     int64 // sequence-number of the next OS message
	OSMessages                        int   // how many the HMC holds
}

func (p *partition) info() PartitionInfo {
	return PartitionInfo{
		ID: p.id, URI: p.uri(), Name: p.name, CPC: p.cpc.name, Class: p.class(), Status: p.status, DPM: p.cpc.dpm,
		Busy: p.busy, HasOS: p.hasOS(), NextOSMessage: p.nextSeq, OSMessages: len(p.messages),
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

// Partition tells of one partition, named by its name, "CPC/name", object id or URI, as in all
// methods here.
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

// StartPartition starts a partition that is at rest: status changes and the boot messages of its
// operating system follow, StepDelay apart.
func (h *HMC) StartPartition(key string) error { return h.startPartitionBy("", key) }

// startPartitionBy starts a partition, and the audit log says that a user did; "": it says nothing.
func (h *HMC) startPartitionBy(user, key string) error {
	return h.withPartition(key, func(p *partition) error {
		if p.busy || !p.stopped() {
			return fmt.Errorf("hmcsim: partition %s cannot be started: %s", p.name, p.doing())
		}
		switch {
		case p.cpc.dpm:
			h.operated(user, "Start Partition", p)
		case p.status == statusNotActivated:
			h.operated(user, "Activate Logical Partition", p)
		default:
			h.operated(user, "Load Logical Partition", p)
		}
		h.world.startUp(p, func() {})
		return nil
	})
}

// doing is why something cannot be done with a partition now.
func (p *partition) doing() string {
	if p.busy {
		return "an operation is under way, try again in a moment"
	}
	return "it is " + p.status
}

// StopPartition stops a partition with a running operating system: its last messages and status
// changes follow, StepDelay apart.
func (h *HMC) StopPartition(key string) error { return h.stopPartitionBy("", key) }

// stopPartitionBy stops a partition; see startPartitionBy.
func (h *HMC) stopPartitionBy(user, key string) error {
	return h.withPartition(key, func(p *partition) error {
		if p.busy || !p.hasOS() {
			return fmt.Errorf("hmcsim: partition %s cannot be stopped: %s", p.name, p.doing())
		}
		operation := "Deactivate Logical Partition"
		if p.cpc.dpm {
			operation = "Stop Partition"
		}
		h.operated(user, operation, p)
		h.world.shutDown(p, p.restStatus(), func() {})
		return nil
	})
}

// SetPartitionStatus gives a partition any status, at once.
func (h *HMC) SetPartitionStatus(key, status string) error {
	return h.withPartition(key, func(p *partition) error {
		h.world.showStatus(p, status)
		return nil
	})
}

// SetCPCStatus gives a CPC any status, at once. Its partitions keep theirs: see SetCommunicating
// for the loss of the SE.
func (h *HMC) SetCPCStatus(key, status string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	c, err := h.world.findCPC(key)
	if err == nil {
		h.world.setCPCStatus(c, status)
	}
	return err
}

// RenamePartition gives a partition another name. That it is another partition's is not refused:
// when two swap their names, an HMC's clients see two of one name for a moment.
func (h *HMC) RenamePartition(key, name string) error {
	return h.withPartition(key, func(p *partition) error {
		switch {
		case name == "":
			return errors.New("hmcsim: a partition must have a name")
		case p.name == name:
			return nil
		}
		old := p.name
		p.name = name
		h.world.tell(propertyChange(p, "", change{"name", old, name}))
		return nil
	})
}

// RenameCPC gives a CPC another name; see RenamePartition.
func (h *HMC) RenameCPC(key, name string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	c, err := h.world.findCPC(key)
	switch {
	case err != nil:
		return err
	case name == "":
		return errors.New("hmcsim: a CPC must have a name")
	case c.name == name:
		return nil
	}
	old := c.name
	c.name = name
	h.world.tell(propertyChange(c, "", change{"name", old, name}))
	return nil
}

// AddCPC makes a CPC without partitions, as one that an HMC begins to manage.
func (h *HMC) AddCPC(name string, dpm bool) (CPCInfo, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case name == "":
		return CPCInfo{}, errors.New("hmcsim: a CPC must have a name")
	case h.world.hasCPC(name):
		return CPCInfo{}, fmt.Errorf("hmcsim: there is a CPC %q already", name)
	}
	c := h.world.newCPC(name, dpm)
	h.world.tell(inventoryChange(c, "", "add"))
	return c.info(), nil
}

// RemoveCPC takes a CPC and its partitions away, as one that an HMC manages no more.
func (h *HMC) RemoveCPC(key string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	c, err := h.world.findCPC(key)
	if err != nil {
		return err
	}
	for _, p := range slices.Clone(c.partitions) {
		h.world.deletePartition(p)
	}
	h.world.cpcs = slices.DeleteFunc(h.world.cpcs, func(o *cpc) bool { return o == c })
	h.world.tell(inventoryChange(c, "", "remove"))
	return nil
}

// CreatePartition makes a partition of a CPC (by name, object id or URI), at rest. A name "" gives
// the next free one.
func (h *HMC) CreatePartition(cpc, name string) (PartitionInfo, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c, err := h.world.findCPC(cpc)
	if err != nil {
		return PartitionInfo{}, err
	}
	if c.hasPartition(name) {
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

// OSMessages lets the operating system of a partition write one message for each text, all in one
// notification, and returns how many subscriptions it went to; those of HMCs with a lag are not
// counted.
func (h *HMC) OSMessages(key string, texts ...string) (int, error) {
	n := 0
	err := h.withPartition(key, func(p *partition) error {
		n = h.world.tellOS(p, texts...)
		return nil
	})
	return n, err
}

// DeleteOSMessages deletes what is held of a partition's operating system, as an operator does.
func (h *HMC) DeleteOSMessages(key string) error {
	return h.withPartition(key, func(p *partition) error {
		p.messages = nil
		return nil
	})
}

// SetOSMessageSequence makes a number the sequence-number of a partition's next OS message: for
// wraps, gaps and restarts of the sequence.
func (h *HMC) SetOSMessageSequence(key string, next int64) error {
	return h.withPartition(key, func(p *partition) error {
		p.nextSeq = next
		return nil
	})
}

// SetCommunicating cuts the support element of a CPC off, or brings it back: a burst of status
// changes of the CPC and all its partitions, to communications-not-active (classic LPARs:
// status-check) and from there. Of the partitions' some are published twice when it is cut off, and
// all when it is back. What changes meanwhile shows when it is back, and what operating systems
// write meanwhile is held, but not published.
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

// HardwareMessage is a hardware message of a CPC or of the console.
type HardwareMessage struct {
	URI, Text string
	Time      time.Time
}

// HardwareMessages tells of the hardware messages of a CPC, or with cpc "" of the console, the
// oldest first.
func (h *HMC) HardwareMessages(cpc string) ([]HardwareMessage, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	owner, err := h.hwOwnerLocked(cpc)
	if err != nil {
		return nil, err
	}
	var infos []HardwareMessage
	for _, m := range *owner.list {
		infos = append(infos, HardwareMessage{URI: m.uri, Text: m.text, Time: time.UnixMilli(m.timestamp)})
	}
	return infos, nil
}

// AddHardwareMessage adds a hardware message to a CPC, or with cpc "" to the console, and returns
// its URI. The property-change of has-hardware-messages is published when it is the first; for what
// else is published see Options.HardwareMessageChanges and HardwareMessageInventory.
func (h *HMC) AddHardwareMessage(cpc, text string) (string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	owner, err := h.hwOwnerLocked(cpc)
	if err != nil {
		return "", err
	}
	return h.world.addHardware(owner.object, owner.hmcs, owner.list, text).uri, nil
}

// DeleteHardwareMessage removes one hardware message, by its URI, as a person at the console would.
func (h *HMC) DeleteHardwareMessage(uri string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	parent, id, _ := strings.Cut(uri, "/hardware-messages/")
	if parent == (console{h}).uri() {
		parent = ""
	}
	owner, err := h.hwOwnerLocked(parent)
	if err != nil {
		return err
	}
	m := owner.find(id)
	if m == nil {
		return fmt.Errorf("hmcsim: hardware message %q is unknown", uri)
	}
	h.world.removeHardware(owner.object, owner.hmcs, owner.list, m)
	return nil
}

// DeleteHardwareMessages removes all hardware messages of a CPC, or with cpc "" of the console, as
// a person there would.
func (h *HMC) DeleteHardwareMessages(cpc string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	owner, err := h.hwOwnerLocked(cpc)
	if err != nil {
		return err
	}
	h.world.removeHardware(owner.object, owner.hmcs, owner.list, slices.Clone(*owner.list)...)
	return nil
}

// LogEntries writes entries into the audit or security log (TopicAudit, TopicSecurity, or "audit",
// "security"), all in one notification, and returns how many subscriptions it went to.
func (h *HMC) LogEntries(topicType string, entries ...LogEntry) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.logLocked(topicKind(topicType), h.newLogEntries(entries)...)
}

// LoseLogEntries writes entries as LogEntries does, but their notification is lost on its way: the
// log holds them, and the sequence numbers go on as if it had been sent.
func (h *HMC) LoseLogEntries(topicType string, entries ...LogEntry) {
	h.mu.Lock()
	defer h.mu.Unlock()
	kind := topicKind(topicType)
	h.book(kind).add(h.newLogEntries(entries)...)
	for _, s := range h.order {
		if t := s.topic(kind); t != nil {
			h.headers = h.sequenceLocked(h.headers[:0], s, t, nil)
		}
	}
}

// SetClock sets the HMC's clock ahead of that of its Options, or behind. It is that of log entries
// that have no time of their own, and of the header timestamp.
func (h *HMC) SetClock(ahead time.Duration) { h.ahead.Store(int64(ahead)) }

// now is the time by the HMC's clock.
func (h *HMC) now() time.Time { return h.world.opts.now().Add(time.Duration(h.ahead.Load())) }

// StartJob starts a job in a session, named by its SessionInfo.SessionID, or with "" in the one
// that was made last, and returns the job's URI. It runs until CompleteJob or CancelJob, or until
// its session ends. A client may cancel it: it is then cancel-pending until one of the two.
func (h *HMC) StartJob(session string) (uri string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.sessions[session]
	if session == "" && len(h.order) > 0 {
		s = h.order[len(h.order)-1]
	}
	if s == nil || s.partial {
		return "", errors.New("hmcsim: there is no such session")
	}
	j := h.newJobLocked(s)
	j.cancel = true
	return j.uri(), nil
}

// CompleteJob ends a job that runs, and its session is told. A job that is cancel-pending ends as
// canceled.
func (h *HMC) CompleteJob(uri string, result JobResult) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	j, err := h.runningJobLocked(uri)
	if err == nil {
		h.endJobLocked(j, result)
	}
	return err
}

// CancelJob ends a job that runs as canceled, and its session is told.
func (h *HMC) CancelJob(uri string, result JobResult) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	j, err := h.runningJobLocked(uri)
	if err == nil {
		j.state = "cancel-pending"
		h.endJobLocked(j, result)
	}
	return err
}

func (h *HMC) runningJobLocked(uri string) (*job, error) {
	j := h.jobs[lastSegment(uri)]
	switch {
	case j == nil:
		return nil, fmt.Errorf("hmcsim: job %q is unknown", uri)
	case j.ended():
		return nil, fmt.Errorf("hmcsim: job %q has ended", uri)
	}
	return j, nil
}

// CompleteJobs lets a job of each session complete and returns the jobs' URIs.
func (h *HMC) CompleteJobs() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var uris []string
	for _, s := range h.order {
		if !s.partial {
			j := h.newJobLocked(s)
			h.endJobLocked(j, JobResult{Results: map[string]any{}})
			uris = append(uris, j.uri())
		}
	}
	return uris
}

// SetPassword changes a user's password, or makes the user, and enables one that was disabled.
// Sessions live on; those of the user are told, by a property-change whose values are null.
func (h *HMC) SetPassword(userid, password string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.users[userid] = password
	delete(h.failures, userid)
	delete(h.expires, userid)
	for _, s := range h.order {
		if s.user == userid {
			h.publishLocked(s, s.topic(TopicObject), propertyChange(user{h, userid}, "", change{"password", nil, nil}))
		}
	}
}

// SetPasswordExpires says in how many days a user's password expires, which logons tell; -1: never,
// as it is until then and after SetPassword. It does not expire by itself: see ExpirePassword.
func (h *HMC) SetPasswordExpires(userid string, days int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.expires[userid] = max(days, -1)
}

// expired is in HMC.expires for a password that has expired.
const expired = -2

// ExpirePassword makes a user's password one that has expired: logons with it are refused (see
// Options.ExpiredIsWrong) until SetPassword. Sessions live on.
func (h *HMC) ExpirePassword(userid string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.expires[userid] = expired
}

// Disabled says whether a userid has been disabled by too many refused logons, see
// Options.DisableAfter.
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

// Published returns how many notifications of each type were published, one for each session's
// topic.
func (h *HMC) Published() map[string]int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.Clone(h.published)
}

// Delivered returns how many notifications of each type were handed to subscriptions. What a
// connection's fault withholds, or what a connection that ends has not sent, is counted too.
func (h *HMC) Delivered() map[string]int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.Clone(h.delivered)
}

// sortedKeys returns the keys of m in order.
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
