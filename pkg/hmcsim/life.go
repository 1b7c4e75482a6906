package hmcsim

import (
	"fmt"
	"slices"
)

// mix is the order of what happens in a living estate. Its first seven turns show all six
// notification types (both logs), and each type comes again soon, whenever a listener comes. An
// operation causes a dozen notifications, which life waits for.
var mix = [...]func(*world) bool{
	(*world).lifeOS, (*world).lifeStatus, (*world).lifeAudit, (*world).lifeProperty, (*world).lifeJob,
	(*world).lifeInventory, (*world).lifeSecurity,
	(*world).lifeOS, (*world).lifeOperation, (*world).lifeJob, (*world).lifeInventory, (*world).lifeAudit,
	(*world).lifeOS, (*world).lifeHardware, (*world).lifeStatus, (*world).lifeProperty,
}

// live lets one thing happen.
func (w *world) live() {
	do := mix[w.turn%len(mix)]
	w.turn++
	if !do(w) && !w.lifeStatus() {
		w.happened++ // nothing can happen in an estate without machines, and life goes on
	}
}

// anyPartition returns a partition for which ok holds, or nil if there seems to be none.
func (w *world) anyPartition(ok func(*partition) bool) *partition {
	if len(w.parts) == 0 {
		return nil
	}
	start := w.rng.IntN(len(w.parts))
	for i := range w.parts {
		if p := w.parts[(start+i)%len(w.parts)]; ok(p) {
			return p
		}
	}
	return nil
}

// listenedPartition returns a partition for which ok holds and of which some session has an open
// channel, or nil.
func (w *world) listenedPartition(ok func(*partition) bool) *partition {
	for _, h := range w.hmcs {
		if len(h.order) == 0 {
			continue
		}
		s := h.order[w.ids.IntN(len(h.order))]
		start := w.ids.IntN(len(s.topics) + 1)
		for i := range s.topics {
			if t := s.topics[(start+i)%len(s.topics)]; t.partition != nil && ok(t.partition) {
				return t.partition
			}
		}
	}
	return nil
}

// lifeOS: an operating system writes; two times of three one that somebody listens to.
func (w *world) lifeOS() bool {
	writes := func(p *partition) bool { return p.hasOS() && !p.busy }
	var p *partition
	if w.turn%3 != 0 {
		p = w.listenedPartition(writes)
	}
	if p == nil {
		p = w.anyPartition(writes)
	}
	if p == nil {
		return false
	}
	w.tellOS(p, w.everydayMessages(p)...)
	return true
}

// lifeStatus: something degrades, or is well again.
func (w *world) lifeStatus() bool {
	if len(w.cpcs) == 0 {
		return false
	}
	if w.rng.IntN(10) == 0 {
		c := w.cpcs[w.rng.IntN(len(w.cpcs))]
		switch c.status {
		case c.goodStatus():
			w.setCPCStatus(c, statusServiceRequired)
			return true
		case statusServiceRequired:
			w.setCPCStatus(c, c.goodStatus())
			return true
		}
	}
	p := w.anyPartition(func(p *partition) bool { return !p.busy && p.hasOS() })
	if p == nil {
		return false
	}
	switch {
	case p.status != p.goodStatus():
		w.setStatus(p, p.goodStatus())
	case p.cpc.dpm:
		w.setStatus(p, statusDegraded)
	default:
		w.setStatus(p, statusExceptions)
	}
	return true
}

// lifeOperation: somebody starts a partition that is stopped, or stops one.
func (w *world) lifeOperation() bool {
	stop := w.rng.IntN(2) == 0
	p := w.anyPartition(func(p *partition) bool { return !p.busy && !p.cpc.cutOff && p.stopped() != stop })
	if p == nil {
		return false
	}
	if p.stopped() {
		w.startUp(p, func() {})
	} else {
		w.shutDown(p, p.restStatus(), func() {})
	}
	return true
}

// lifeProperty: somebody changes a property, or two at once, of a partition or of one of its NICs.
func (w *world) lifeProperty() bool {
	p := w.anyPartition(func(*partition) bool { return true })
	if p == nil {
		return false
	}
	text := fmt.Sprintf("changed %d times; was %q", w.turn, p.name)
	switch {
	case len(p.nics) > 0 && w.rng.IntN(4) == 0:
		n := p.nics[w.rng.IntN(len(p.nics))]
		old := n.description
		n.description = text
		w.tell(propertyChange(p, p.nicURI(n), change{"description", old, text}))
	case p.zos:
		old := p.description
		p.description = text
		w.tell(propertyChange(p, "", change{"description", old, text}))
	default:
		oldText, oldIFL := p.description, p.ifl
		p.description, p.ifl = text, 1+p.ifl%4
		name := "ifl-processors"
		if !p.cpc.dpm {
			name = "number-ifl-cores"
		}
		w.tell(propertyChange(p, "", change{"description", oldText, text}, change{name, oldIFL, p.ifl}))
	}
	return true
}

// lifeInventory: a NIC comes or goes, or the HMC says again that something is there.
func (w *world) lifeInventory() bool {
	p := w.anyPartition(func(p *partition) bool { return p.cpc.dpm })
	if p == nil || w.rng.IntN(3) == 0 {
		if p = w.anyPartition(func(*partition) bool { return true }); p == nil {
			return false
		}
		w.tell(inventoryChange(p, "", "add"))
		return true
	}
	if len(p.nics) > 2 {
		n := p.nics[len(p.nics)-1]
		p.nics = p.nics[:len(p.nics)-1]
		w.tell(inventoryChange(p, p.nicURI(n), "remove"))
		return true
	}
	n := &nic{id: w.uuid(), name: fmt.Sprintf("nic%d", len(p.nics)+1)}
	p.nics = append(p.nics, n)
	w.tell(inventoryChange(p, p.nicURI(n), "add"))
	return true
}

// lifeJob: a job of each session completes. (On a real HMC only jobs that the session itself has
// started do; a session that only listens would never see one.)
func (w *world) lifeJob() bool {
	w.happened++
	for _, h := range w.hmcs {
		for _, s := range h.order {
			if !s.partial {
				h.endJobLocked(h.newJobLocked(s), JobResult{Results: map[string]any{}})
			}
		}
	}
	return true
}

// lifeAudit: somebody did something, now and then several things.
func (w *world) lifeAudit() bool {
	w.happened++
	for _, h := range w.hmcs {
		entries := []logEntry{h.newLogEntry(LogEntry{
			EventID: "721", Message: "A backup of critical data was performed",
		})}
		if p := w.anyPartition(func(*partition) bool { return true }); p != nil {
			entries = entries[:0]
			for range 1 + w.rng.IntN(3) {
				entries = append(entries, h.newLogEntry(LogEntry{
					EventID: "116", Name: "ProfileChanged", User: "ensadmin", Items: []string{p.name, "Activation"},
					Message: "The {1} profile {0} was changed",
				}))
			}
		}
		h.logLocked(TopicAudit, entries...)
	}
	return true
}

// lifeSecurity: somebody logs on or off at the console, or cannot.
func (w *world) lifeSecurity() bool {
	w.happened++
	for _, h := range w.hmcs {
		var e logEntry
		switch w.rng.IntN(3) {
		case 0:
			e = h.newLogEntry(
				LogEntry{
					EventID: "1279", Name: "Logon", User: "sysprog", Items: []string{"sysprog"},
					Message: "User {0} has logged on",
				},
			)
		case 1:
			e = h.newLogEntry(
				LogEntry{
					EventID: "1280", Name: "Logoff", User: "sysprog", Items: []string{"sysprog"},
					Message: "User {0} has logged off",
				},
			)
		default:
			e = h.badLogonEntry("operator")
		}
		h.logLocked(TopicSecurity, e)
	}
	return true
}

// lifeHardware: a CPC has a hardware message, and when it has three somebody deletes them.
func (w *world) lifeHardware() bool {
	if len(w.cpcs) == 0 || w.rng.IntN(3) != 0 {
		return false
	}
	c := w.cpcs[w.rng.IntN(len(w.cpcs))]
	before := w.happened
	if len(c.hardware) == 3 {
		w.removeHardware(c, w.hmcs, &c.hardware, slices.Clone(c.hardware)...)
	} else {
		w.addHardware(
			c, w.hmcs, &c.hardware,
			fmt.Sprintf("Licensed internal code has detected a problem. [Problem # %d]", 1+w.turn%9999),
		)
	}
	if w.happened == before { // a second message changes no flag
		w.happened++
	}
	return true
}
