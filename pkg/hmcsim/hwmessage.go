package hmcsim

import (
	"fmt"
	"net/http"
	"slices"
)

// hwMessage is a hardware message of the console or of a CPC.
type hwMessage struct {
	id, uri, parent string
	text            string
	timestamp       int64 // ms
	service         bool  // service can be requested
}

// brief is what a list gives of it.
func (m *hwMessage) brief() map[string]any {
	return map[string]any{"element-uri": m.uri, "text": m.text, "timestamp": m.timestamp}
}

// properties are what a GET of it gives. The shape of details is not known.
func (m *hwMessage) properties() map[string]any {
	return map[string]any{
		"class": "hardware-message", "element-id": m.id, "element-uri": m.uri, "parent": m.parent, "text": m.text,
		"timestamp": m.timestamp, "service-supported": m.service,
		"details": map[string]any{"reference-code": "1F0A2C11", "problem-number": int(m.timestamp % 10000)},
	}
}

// hwMessages are the hardware messages of one object, the oldest first.
type hwMessages []*hwMessage

// properties is the value of the property hardware-messages.
func (l hwMessages) properties() []any {
	all := make([]any, 0, len(l))
	for _, m := range l {
		p := m.properties()
		delete(p, "details")
		all = append(all, p)
	}
	return all
}

// addHardware adds a hardware message to an object's, and tells the HMCs that see the object. Of
// every second message service can be requested.
func (w *world) addHardware(o object, hmcs []*HMC, list *hwMessages, text string) *hwMessage {
	id := w.uuid()
	m := &hwMessage{
		id: id, uri: o.uri() + "/hardware-messages/" + id, parent: o.uri(), text: text,
		timestamp: w.opts.now().UnixMilli(), service: len(*list)%2 == 0,
	}
	*list = append(*list, m)
	w.tellHardware(o, hmcs, hwMessages{m}, true, len(*list) == 1)
	return m
}

// removeHardware takes hardware messages off an object's.
func (w *world) removeHardware(o object, hmcs []*HMC, list *hwMessages, gone ...*hwMessage) {
	if len(gone) == 0 {
		return
	}
	*list = slices.DeleteFunc(*list, func(m *hwMessage) bool { return slices.Contains(gone, m) })
	w.tellHardware(o, hmcs, gone, false, len(*list) == 0)
}

// tellHardware tells of hardware messages that came or went, as each HMC's options want it.
// has-hardware-messages is an edge: it changes with the first message and with the last.
// hardware-messages is a container: its change names what came or what went, and not the whole.
func (w *world) tellHardware(o object, hmcs []*HMC, messages hwMessages, came, edge bool) {
	var told int64
	for _, h := range hmcs {
		var out []Message
		var changes []change
		if edge {
			changes = append(changes, change{"has-hardware-messages", !came, came})
		}
		if h.opts.HardwareMessageChanges {
			c := change{"hardware-messages", nil, messages.properties()}
			if !came {
				c.from, c.to = c.to, nil
			}
			changes = append(changes, c)
		}
		if len(changes) > 0 {
			out = append(out, propertyChange(o, "", changes...))
		}
		if h.opts.HardwareMessageInventory {
			action := "remove"
			if came {
				action = "add"
			}
			for _, m := range messages {
				out = append(out, inventoryChange(o, m.uri, action))
			}
		}
		told = max(told, int64(len(out)))
		for _, m := range out {
			h.laterLocked(func() int { return h.publishAllLocked(TopicObject, m) })
		}
	}
	w.happened += told
}

// hwOwner is an object that has hardware messages: the console or a CPC.
type hwOwner struct {
	object object
	hmcs   []*HMC // who tells of them
	list   *hwMessages
}

// hwOwnerLocked finds a CPC by name, object id or URI, or with "" the console.
func (h *HMC) hwOwnerLocked(cpc string) (hwOwner, error) {
	if cpc == "" {
		return hwOwner{console{h}, []*HMC{h}, &h.hardware}, nil
	}
	c, err := h.world.findCPC(cpc)
	if err != nil {
		return hwOwner{}, err
	}
	return hwOwner{c, h.world.hmcs, &c.hardware}, nil
}

// hwOwner returns the object that a request names, or false if there is no such object, and the id
// of the message that it names.
func (r *request) hwOwner() (owner hwOwner, id string, found bool) {
	ids, key := r.ids, ""
	if r.op.path[1] == "cpcs" {
		if r.cpc() == nil { // its name will not do
			return owner, "", false
		}
		key, ids = r.ids[0], r.ids[1:]
	}
	owner, err := r.h.hwOwnerLocked(key)
	if err != nil {
		return owner, "", false
	}
	if len(ids) > 0 {
		id = ids[0]
	}
	return owner, id, true
}

// hwMessage returns the message that a request names, or nil, and whose it is.
func (r *request) hwMessage() (hwOwner, *hwMessage) {
	owner, id, found := r.hwOwner()
	if !found {
		return owner, nil
	}
	return owner, owner.find(id)
}

// find finds a message by its element id.
func (o hwOwner) find(id string) *hwMessage {
	for _, m := range *o.list {
		if m.id == id {
			return m
		}
	}
	return nil
}

func (r *request) removeHWMessage(owner hwOwner, m *hwMessage) {
	r.h.world.removeHardware(owner.object, owner.hmcs, owner.list, m)
}

func listHWMessages(r *request) reply {
	owner, _, found := r.hwOwner()
	if !found {
		return r.notFound()
	}
	from, to, bad := r.timeBounds()
	if bad != nil {
		return *bad
	}
	list := []any{}
	for _, m := range slices.Backward(*owner.list) { // no order is promised
		if m.timestamp >= from && m.timestamp <= to {
			list = append(list, m.brief())
		}
	}
	return ok(map[string]any{"hardware-messages": list})
}

func getHWMessage(r *request) reply {
	_, m := r.hwMessage()
	if m == nil {
		return r.notFound()
	}
	return ok(m.properties())
}

func deleteHWMessage(r *request) reply {
	owner, m := r.hwMessage()
	if m == nil {
		return r.notFound()
	}
	r.removeHWMessage(owner, m)
	return noContent()
}

// serviceHWMessage is request-service and decline-service: both delete the message.
func serviceHWMessage(r *request) reply {
	owner, m := r.hwMessage()
	switch {
	case m == nil:
		return r.notFound()
	case !m.service:
		return r.fail(http.StatusBadRequest, 340, "The hardware message does not support service.")
	}
	r.removeHWMessage(owner, m)
	return noContent()
}

func getServiceInformation(r *request) reply {
	owner, m := r.hwMessage()
	if m == nil {
		return r.notFound()
	}
	if r.query.Get("delete") == "true" {
		r.removeHWMessage(owner, m)
	}
	return ok(map[string]any{
		"service-phone": "", "machine-type": "3931", "machine-model": "A01",
		"machine-serial-number": "000000012345", "problem-type": "9",
		"problem-number": fmt.Sprint(m.timestamp % 10000), "problem-data": "",
		"reference-code": "1F0A2C11", "customer-name": "", "customer-phone": "",
	})
}
