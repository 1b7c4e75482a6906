package hmcsim

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// The statuses of DPM partitions.
const (
	statusStopped  = "stopped"
	statusStarting = "starting"
	statusActive   = "active"
	statusStopping = "stopping"
	statusDegraded = "degraded"
	statusPaused   = "paused"
	statusNoComm   = "communications-not-active"

	statusTerminated = "terminated"
)

// The statuses of classic LPARs.
const (
	statusNotActivated = "not-activated"
	statusNotOperating = "not-operating"
	statusOperating    = "operating"
	statusExceptions   = "exceptions"
	statusCheck        = "status-check" // also of DPM partitions and CPCs
)

// The statuses of CPCs, besides active (DPM), operating (classic) and degraded.
const (
	statusNotCommunicating = "not-communicating"
	statusServiceRequired  = "service-required"
)

// cpc is a machine.
type cpc struct {
	id, name    string
	description string
	dpm         bool
	status      string
	seVersion   string
	partitions  []*partition
	partNo      int // of the last partition made
	hardware    hwMessages
	cutOff      bool // the SE does not communicate
	adapters    []*adapter
	accepted    []string // statuses that operators call acceptable
}

func (c *cpc) class() string      { return "cpc" }
func (c *cpc) objectName() string { return c.name }
func (c *cpc) objectID() string   { return c.id }
func (c *cpc) uri() string        { return "/api/cpcs/" + c.id }

func (c *cpc) acceptable() []string { return c.accepted }

// goodStatus is the CPC's status when all is well.
func (c *cpc) goodStatus() string {
	if c.dpm {
		return statusActive
	}
	return statusOperating
}

// partition is a DPM partition or a classic LPAR.
type partition struct {
	id, name    string
	description string
	cpc         *cpc
	status      string
	zos         bool // else Linux
	numericIDs  bool // its message-ids are JSON numbers, else strings: both have been seen
	ifl, cp     int
	memory      int // MiB
	nics        []*nic
	busy        bool // an operation is going on
	deleted     bool
	messages    []osMessage
	nextSeq     int64
	oldStatus   string // while the SE is cut off: the one to come back to

	keepMessages int // how many messages the HMC holds

	accepted []string // statuses that operators call acceptable
	system   string   // the name that its z/OS gives itself, whatever the LPAR is called; Linux: none
	sysplex  string   // that its operating system joins
	halted   bool     // its processors were stopped, and its operating system waits for them
	os       osInfo   // what it says of itself; the zero value: nothing is loaded
	psws     []string // of its processors, while they do not run
}

func (p *partition) acceptable() []string { return p.accepted }

func (p *partition) class() string {
	if p.cpc.dpm {
		return "partition"
	}
	return "logical-partition"
}
func (p *partition) objectName() string { return p.name }
func (p *partition) objectID() string   { return p.id }

func (p *partition) uri() string {
	if p.cpc.dpm {
		return "/api/partitions/" + p.id
	}
	return "/api/logical-partitions/" + p.id
}

// stopped says whether the partition is at rest, without an operating system.
func (p *partition) stopped() bool {
	return p.status == statusStopped || p.status == statusNotActivated || p.status == statusNotOperating
}

// hasOS says whether the interface to the operating system's messages is there.
func (p *partition) hasOS() bool {
	switch p.status {
	case statusActive, statusDegraded, statusStarting, statusStopping, statusPaused, statusOperating, statusExceptions:
		return true
	default:
		return false
	}
}

// goodStatus is the partition's status with a running operating system.
func (p *partition) goodStatus() string {
	if p.cpc.dpm {
		return statusActive
	}
	return statusOperating
}

// newSystem returns a name for a z/OS, which no other one has: SY01 for LP01, if it is free.
func (w *world) newSystem(lpar string) string {
	name := "SY" + lpar[max(len(lpar)-2, 0):]
	for n := len(w.parts); slices.ContainsFunc(w.parts, func(p *partition) bool { return p.system == name }); n++ {
		name = fmt.Sprintf("SY%02d", n)
	}
	return name
}

// nic is an element of a DPM partition.
type nic struct {
	id, name, description string
}

func (p *partition) nicURI(n *nic) string { return p.uri() + "/nics/" + n.id }

// elementClass returns the class of an element by its URI.
func elementClass(uri string) string {
	parts := strings.Split(uri, "/")
	if len(parts) < 2 {
		return ""
	}
	return strings.TrimSuffix(parts[len(parts)-2], "s")
}

func lastSegment(uri string) string { return uri[strings.LastIndexByte(uri, '/')+1:] }

// console is the HMC itself as a managed object.
type console struct{ h *HMC }

func (console) class() string        { return "console" }
func (c console) objectName() string { return c.h.opts.Name }
func (console) objectID() string     { return "console" }
func (console) uri() string          { return "/api/console" }

// user is a userid as a managed object.
type user struct {
	h  *HMC
	id string
}

func (user) class() string        { return "user" }
func (u user) objectName() string { return u.id }
func (u user) objectID() string   { return u.h.userID(u.id) }
func (u user) uri() string        { return "/api/users/" + u.objectID() }

// populate makes the estate. The same options always give the same one.
func (w *world) populate() {
	for i := range w.opts.cpcs {
		if i%2 == 0 {
			w.newCPC(fmt.Sprintf("CPC%d", i/2+1), true)
		} else {
			w.newCPC(fmt.Sprintf("M%d", 90+i/2), false)
		}
	}
	if len(w.cpcs) == 0 {
		return
	}
	for i := range w.opts.partitions {
		c := w.cpcs[i%len(w.cpcs)]
		p := w.newPartition(c, "")
		switch {
		case c.partNo%4 == 0 && c.dpm:
			p.status = statusStopped
		case c.partNo%4 == 0:
			p.status = statusNotActivated
		case c.partNo%8 == 7 && !c.dpm:
			p.status = statusNotOperating
		default:
			p.status = p.goodStatus()
			p.os = w.loaded(p)
			// What the HMC still holds from the last IPL.
			for _, group := range p.bootMessages() {
				for _, text := range group {
					w.write(p, text)
				}
			}
		}
	}
}

func (w *world) newCPC(name string, dpm bool) *cpc {
	c := &cpc{id: w.uuid(), name: name, dpm: dpm, seVersion: "2.15.0"}
	if dpm {
		c.seVersion = "2.16.0"
	}
	c.status = c.goodStatus()
	c.accepted = []string{c.goodStatus()}
	w.addAdapters(c)
	w.cpcs = append(w.cpcs, c)
	return c
}

func (w *world) hasCPC(name string) bool {
	return slices.ContainsFunc(w.cpcs, func(c *cpc) bool { return c.name == name })
}

func (c *cpc) hasPartition(name string) bool {
	return slices.ContainsFunc(c.partitions, func(p *partition) bool { return p.name == name })
}

// newPartition makes a partition at rest. A name "" gives the next free one of its CPC.
func (w *world) newPartition(c *cpc, name string) *partition {
	for name == "" {
		c.partNo++
		name = fmt.Sprintf("LP%02d", c.partNo)
		if c.dpm {
			name = fmt.Sprintf("PART%d", c.partNo)
		}
		if c.hasPartition(name) {
			name = ""
		}
	}
	p := &partition{
		id: w.uuid(), name: name, cpc: c, status: statusNotActivated,
		zos: !c.dpm && len(c.partitions)%2 == 0, numericIDs: len(w.parts)%3 == 2,
		ifl: 1 + w.rng.IntN(4), memory: 1024 << w.rng.IntN(5), keepMessages: w.opts.keepMessages,
	}
	if p.zos {
		p.cp, p.ifl = p.ifl, 0
	}
	p.accepted = []string{statusOperating}
	if p.zos {
		p.system, p.sysplex = w.newSystem(name), "PLEX1"
	}
	if c.dpm {
		p.status = statusStopped
		p.accepted = []string{statusActive, statusStarting, statusStopping}
		p.nics = []*nic{{id: w.uuid(), name: "nic1"}}
	}
	c.partitions = append(c.partitions, p)
	w.parts = append(w.parts, p)
	w.byID[p.id] = p
	return p
}

// removePartition takes a partition out of the estate.
func (w *world) removePartition(p *partition) {
	p.deleted = true
	gone := func(o *partition) bool { return o == p }
	p.cpc.partitions = slices.DeleteFunc(p.cpc.partitions, gone)
	w.parts = slices.DeleteFunc(w.parts, gone)
	delete(w.byID, p.id)
	for _, h := range w.hmcs {
		for _, s := range h.order {
			if t := s.channels[p]; t != nil {
				delete(s.channels, p)
				s.topics = slices.DeleteFunc(s.topics, func(o *sessionTopic) bool { return o == t })
				h.broker.RemoveTopic(t.name, false)
			}
		}
	}
}

// findPartition finds a partition by name, "CPC/name", object id or URI.
func (w *world) findPartition(key string) (*partition, error) {
	if p := w.byID[lastSegment(key)]; p != nil {
		return p, nil
	}
	return find("partition", key, w.parts, func(p *partition) *cpc { return p.cpc })
}

// findCPC finds a CPC by name, object id or URI.
func (w *world) findCPC(key string) (*cpc, error) {
	return find("CPC", key, w.cpcs, func(*cpc) *cpc { return nil })
}

var errUnknown = errors.New("is unknown")

// find finds the one thing that a key names: its object id or URI, its name, or "CPC/name". of says
// which CPC a thing is of. A name that several things have names none of them.
func find[T object](kind, key string, things []T, of func(T) *cpc) (T, error) {
	var none T
	found := make(map[string]T) // by what names one of them alone
	for _, thing := range things {
		c, name := of(thing), thing.objectName()
		qualified := name
		if c != nil {
			qualified = c.name + "/" + name
		}
		switch {
		case thing.objectID() == lastSegment(key):
			return thing, nil
		case name != key && qualified != key:
			continue
		}
		if _, taken := found[qualified]; taken || qualified == key {
			qualified = thing.objectID()
		}
		found[qualified] = thing
	}
	choices := sortedKeys(found)
	switch len(choices) {
	case 0:
		return none, fmt.Errorf("hmcsim: %s %q %w", kind, key, errUnknown)
	case 1:
		return found[choices[0]], nil
	}
	return none, fmt.Errorf("hmcsim: %q is the name of %d: say which %s, %s",
		key, len(choices), kind, strings.Join(choices, " or "))
}

// properties returns the CPC's properties, as Get CPC Properties gives them.
func (c *cpc) properties() map[string]any {
	return map[string]any{
		"class":                   "cpc",
		"object-id":               c.id,
		"object-uri":              c.uri(),
		"parent":                  nil,
		"name":                    c.name,
		"description":             c.description,
		"status":                  c.status,
		"has-unacceptable-status": unacceptable(c, c.status),
		"acceptable-status":       c.accepted,
		"dpm-enabled":             c.dpm,
		"is-ensemble-member":      false,
		"se-version":              c.seVersion,
		"machine-type":            "3931",
		"machine-model":           "A01",
		"machine-serial-number":   "0000000" + strings.ToUpper(c.id[:5]),
		"has-hardware-messages":   len(c.hardware) > 0,
		"hardware-messages":       c.hardware.properties(),
		"has-operating-system-messages": slices.ContainsFunc(c.partitions, func(p *partition) bool {
			return len(p.messages) > 0
		}),
	}
}

// properties returns the partition's properties, as Get Partition (or Logical Partition) Properties
// gives them.
func (p *partition) properties() map[string]any {
	m := map[string]any{
		"class": p.class(), "object-id": p.id,
		"object-uri": p.uri(), "parent": p.cpc.uri(),
		"name": p.name, "description": p.description,
		"status": p.status, "has-unacceptable-status": unacceptable(p, p.status), "acceptable-status": p.accepted,
		"has-operating-system-messages": len(p.messages) > 0,
	}
	if p.cpc.dpm {
		nics := make([]string, 0, len(p.nics))
		for _, n := range p.nics {
			nics = append(nics, p.nicURI(n))
		}
		m["type"] = p.kind()
		m["ifl-processors"] = p.ifl
		m["cp-processors"] = p.cp
		m["initial-memory"] = p.memory
		m["maximum-memory"] = p.memory
		m["nic-uris"] = nics
		m["hba-uris"], m["virtual-function-uris"], m["storage-group-uris"] = []string{}, []string{}, []string{}
		maps.Copy(m, p.os.properties(true))
		return m
	}
	m["activation-mode"] = p.kind()
	m["next-activation-profile-name"] = p.name
	m["number-ifl-cores"] = p.ifl
	m["number-general-purpose-cores"] = p.cp
	m["additional-status"] = ""
	m["partition-number"] = fmt.Sprintf("%x", p.id[:2])
	m["program-status-word-information"] = p.pswInformation()
	maps.Copy(m, p.os.properties(false))
	return m
}

// kind is a DPM partition's type or a classic LPAR's activation mode.
func (p *partition) kind() string {
	switch {
	case p.cpc.dpm:
		return "linux"
	case p.status == statusNotActivated:
		return "not-set"
	case p.zos:
		return "general"
	default:
		return "linux"
	}
}
