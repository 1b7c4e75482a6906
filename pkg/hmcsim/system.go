package hmcsim

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
)

// osInfo is what an operating system tells the HMC of itself, and how it was loaded. The names of
// the properties are those of a public sample of an LPAR, and of zhmcclient's mock.
type osInfo struct {
	name, kind, level, sysplex string
	token                      string // another one at each IPL; Linux sets none
	loadAddress, loadParameter string
}

// noToken is the os-ipl-token where none was set.
const noToken = "0000000000000000"

// loaded returns what an operating system says that has just been loaded.
func (w *world) loaded(p *partition) osInfo {
	if !p.zos {
		return osInfo{
			name: strings.ToLower(p.name), kind: "Linux", level: "5.14.0", token: noToken, loadAddress: "00100",
		}
	}
	w.loads++
	return osInfo{
		name: p.system, kind: "MVS", level: "z/OS V2.5", sysplex: p.sysplex,
		token:       fmt.Sprintf("%s%08X", strings.ToUpper(p.id[:8]), w.loads),
		loadAddress: "00A86", loadParameter: "0A8600M1",
	}
}

// properties returns the properties that tell of it.
func (o osInfo) properties(dpm bool) map[string]any {
	if dpm {
		return map[string]any{"os-name": o.name, "os-type": o.kind, "os-version": o.level}
	}
	m := map[string]any{
		"os-name": o.name, "os-type": o.kind, "os-level": o.level, "sysplex-name": nil,
		"os-ipl-token": cmp.Or(o.token, noToken), "last-used-load-address": cmp.Or(o.loadAddress, "00000"),
		"last-used-load-parameter": o.loadParameter,
	}
	if o.sysplex != "" {
		m["sysplex-name"] = o.sysplex
	}
	return m
}

// setOS takes over what an operating system says, and tells of it.
func (w *world) setOS(p *partition, o osInfo) {
	old, now := p.os.properties(p.cpc.dpm), o.properties(p.cpc.dpm)
	p.os = o
	var changes []change
	for _, name := range sortedKeys(now) {
		if old[name] != now[name] {
			changes = append(changes, change{name, old[name], now[name]})
		}
	}
	if len(changes) > 0 && p.oldStatus == "" {
		w.tell(propertyChange(p, "", changes...))
	}
}

// pswInformation returns the program status words as the property has them.
func (p *partition) pswInformation() []any {
	list := []any{}
	for i, psw := range p.psws {
		list = append(list, map[string]any{"psw": psw, "cpid": fmt.Sprintf("%02X", i)})
	}
	return list
}

// everyProcessor returns a program status word for each processor.
func (p *partition) everyProcessor(format string, args ...any) []string {
	return slices.Repeat([]string{fmt.Sprintf(format, args...)}, max(p.cp+p.ifl, 1))
}

// DisabledWait lets all processors of a classic LPAR stop in a disabled wait, as z/OS does when it
// cannot go on: code is the wait state code, of three hexadecimal digits, reason its reason code.
func (h *HMC) DisabledWait(key string, code, reason int) error {
	return h.withPartition(key, func(p *partition) error {
		if p.cpc.dpm || !p.hasOS() || code < 0 || code > 0xfff || reason < 0 || reason > 0xfffff {
			return fmt.Errorf(
				"hmcsim: partition %s cannot wait: it is %s, or the codes are too large", p.name, p.status,
			)
		}
		p.psws = p.everyProcessor("000200008000000000000000%05X%03X", reason, code)
		h.world.setStatus(p, statusNotOperating)
		return nil
	})
}

// SetSysplex names the sysplex that the operating system of a partition belongs to; "": to none. A
// z/OS of the estate belongs to PLEX1 from the beginning.
func (h *HMC) SetSysplex(key, name string) error {
	return h.withPartition(key, func(p *partition) error {
		p.sysplex = name
		if o := p.os; o.name != "" {
			o.sysplex = name
			h.world.setOS(p, o)
		}
		return nil
	})
}

// SetAcceptableStatus says which statuses of a partition or CPC operators call acceptable. That the
// status which it has is acceptable now, or not any more, is told too.
func (h *HMC) SetAcceptableStatus(key string, statuses ...string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if p, err := h.world.findPartition(key); err == nil {
		h.world.setAcceptable(p, &p.accepted, p.status, statuses)
		return nil
	}
	c, err := h.world.findCPC(key)
	if err == nil {
		h.world.setAcceptable(c, &c.accepted, c.status, statuses)
	}
	return err
}

func (w *world) setAcceptable(o statusObject, accepted *[]string, status string, statuses []string) {
	was, before := unacceptable(o, status), *accepted
	*accepted = append([]string{}, statuses...)
	w.tell(propertyChange(o, "", change{"acceptable-status", before, *accepted}))
	if is := unacceptable(o, status); is != was {
		w.tell(judgementChange(o, is))
	}
}

// ReplyToOSMessage answers the message of a z/OS that waits for an answer under a reply id, as an
// operator does who types R 07,TEXT; it says so on its console.
func (h *HMC) ReplyToOSMessage(key string, id int, text string) error {
	return h.withPartition(key, func(p *partition) error {
		if !p.hasOS() || !p.answered(id) {
			return fmt.Errorf("hmcsim: no message of %s waits for an answer under %02d%s", p.name, id, p.waiting())
		}
		h.world.tellOS(p, fmt.Sprintf("R %02d,%s", id, text), fmt.Sprintf("IEE600I REPLY TO %02d IS;%s", id, text))
		return nil
	})
}

// waiting lists the replies that messages wait for.
func (p *partition) waiting() string {
	var ids []string
	for i := range p.messages {
		if m := &p.messages[i]; m.held {
			ids = append(ids, fmt.Sprintf("%02d", m.reply))
		}
	}
	if len(ids) == 0 {
		return ""
	}
	return ", but under " + strings.Join(ids, ", ")
}

// answered takes the message that waits for a reply for one that has it.
func (p *partition) answered(id int) (found bool) {
	for i := range p.messages {
		if m := &p.messages[i]; m.held && m.reply == id {
			m.held, found = false, true
		}
	}
	return found
}

// AnswerOSMessage answers a message that is held. Whether the HMC then keeps it, not held any more,
// or forgets it is not known: gone says which.
func (h *HMC) AnswerOSMessage(key string, sequence int64, gone bool) error {
	return h.withPartition(key, func(p *partition) error {
		for i := range p.messages {
			m := &p.messages[i]
			if m.seq+h.opts.OSMessageOffset != sequence || !m.held {
				continue
			}
			if m.held = false; gone {
				p.forget(m.seq)
			}
			return nil
		}
		return fmt.Errorf("hmcsim: partition %s holds no message %d for an answer", p.name, sequence)
	})
}

// adapter is an I/O adapter of a CPC in DPM mode.
type adapter struct {
	id, name string
	cpc      *cpc
	status   string // active, not-active, not-detected or exceptions
	channel  string // physical-channel-status
	number   string // adapter-id
	family   string
	kind     string
	card     string
}

func (a *adapter) class() string        { return "adapter" }
func (a *adapter) objectName() string   { return a.name }
func (a *adapter) objectID() string     { return a.id }
func (a *adapter) uri() string          { return "/api/adapters/" + a.id }
func (a *adapter) acceptable() []string { return []string{statusActive} }

func (w *world) addAdapters(c *cpc) {
	if !c.dpm {
		return
	}
	c.adapters = []*adapter{
		{name: "OSD 0120", number: "120", family: "osa", kind: "osd", card: "osa-express-7s-25gb"},
		{name: "FCP 0124", number: "124", family: "ficon", kind: "fcp", card: "ficon-express-32s"},
	}
	for _, a := range c.adapters {
		a.id, a.cpc, a.status, a.channel = partID(c, a.name), c, statusActive, statusOperating
	}
	name := "SG " + c.name
	w.groups = append(w.groups, &storageGroup{id: partID(c, name), name: name, cpc: c, fulfillment: "complete"})
}

// partID returns the id of a part of a CPC. It does not change the ids of what is made later.
func partID(c *cpc, name string) string {
	h := fnv.New32a()
	_, _ = h.Write([]byte(name))
	return fmt.Sprintf("%08x%s", h.Sum32(), c.id[8:])
}

func (a *adapter) properties() map[string]any {
	return map[string]any{
		"class": a.class(), "object-id": a.id, "object-uri": a.uri(), "parent": a.cpc.uri(), "name": a.name,
		"description": "", "status": a.status, "state": "online", "type": a.kind, "adapter-id": a.number,
		"adapter-family": a.family, "detected-card-type": a.card, "card-location": "A14B-D101-J.01",
		"port-count": 1, "physical-channel-status": a.channel,
	}
}

// listed is one entry of a list of adapters.
func (a *adapter) listed(permitted bool, more []string) map[string]any {
	m := map[string]any{
		"object-uri": a.uri(), "name": a.name, "adapter-id": a.number, "adapter-family": a.family, "type": a.kind,
		"status": a.status,
	}
	for _, name := range more {
		if value, ok := a.properties()[name]; ok {
			m[name] = value
		}
	}
	if permitted {
		m["firmware-update-pending"] = false
		m["cpc-name"], m["cpc-object-uri"] = a.cpc.name, a.cpc.uri()
		m["se-version"], m["dpm-enabled"] = a.cpc.seVersion, true
	}
	return m
}

// storageGroup is the storage of partitions of a CPC in DPM mode.
type storageGroup struct {
	id, name    string
	cpc         *cpc
	fulfillment string
}

func (g *storageGroup) class() string      { return "storage-group" }
func (g *storageGroup) objectName() string { return g.name }
func (g *storageGroup) objectID() string   { return g.id }
func (g *storageGroup) uri() string        { return "/api/storage-groups/" + g.id }

func (g *storageGroup) properties() map[string]any {
	return map[string]any{
		"class": g.class(), "object-id": g.id, "object-uri": g.uri(), "parent": "/api/console", "name": g.name,
		"description": "", "type": "fcp", "shared": true, "cpc-uri": g.cpc.uri(), "fulfillment-state": g.fulfillment,
		"storage-volume-uris": []string{}, "virtual-storage-resource-uris": []string{},
		"candidate-adapter-port-uris": []string{},
	}
}

// SetAdapterStatus gives an adapter, named by name, "CPC/name", object id or URI, a status; ""
// keeps it. channel is its physical-channel-status; "" keeps it.
func (h *HMC) SetAdapterStatus(key, status, channel string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []*adapter
	for _, c := range h.world.cpcs {
		all = append(all, c.adapters...)
	}
	a, err := find("adapter", key, all, func(a *adapter) *cpc { return a.cpc })
	if err != nil {
		return err
	}
	if old := a.status; status != "" && status != old {
		a.status = status
		h.world.tellStatus(a, old, status)
	}
	if old := a.channel; channel != "" && channel != old {
		a.channel = channel
		h.world.tell(propertyChange(a, "", change{"physical-channel-status", old, channel}))
	}
	return nil
}

// SetFulfillment gives a storage group, named in the same way, a fulfillment-state.
func (h *HMC) SetFulfillment(key, state string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	g, err := find("storage group", key, h.world.groups, func(g *storageGroup) *cpc { return g.cpc })
	if err != nil {
		return err
	}
	if old := g.fulfillment; old != state {
		g.fulfillment = state
		h.world.tell(propertyChange(g, "", change{"fulfillment-state", old, state}))
	}
	return nil
}

// ResourceInfo tells of an adapter or storage group. Status is the fulfillment-state of the latter,
// Link the physical-channel-status of the former.
type ResourceInfo struct{ ID, URI, Name, CPC, Class, Status, Link string }

// Resources tells of all adapters and storage groups.
func (h *HMC) Resources() []ResourceInfo {
	h.mu.Lock()
	defer h.mu.Unlock()
	var infos []ResourceInfo
	for _, c := range h.world.cpcs {
		for _, a := range c.adapters {
			infos = append(infos, ResourceInfo{a.id, a.uri(), a.name, c.name, a.class(), a.status, a.channel})
		}
	}
	for _, g := range h.world.groups {
		infos = append(infos, ResourceInfo{g.id, g.uri(), g.name, g.cpc.name, g.class(), g.fulfillment, ""})
	}
	return infos
}
