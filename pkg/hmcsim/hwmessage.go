package hmcsim

import (
	"fmt"
	"net/http"
	"slices"
	"time"
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

// hwMessageProperties is the value of the property hardware-messages.
func hwMessageProperties(messages []*hwMessage) []any {
	all := make([]any, 0, len(messages))
	for _, m := range messages {
		p := m.properties()
		delete(p, "details")
		all = append(all, p)
	}
	return all
}

// newHardwareMessage makes the nth hardware message of an object; of every second one service can be requested.
func (w *world) newHardwareMessage(o object, text string, n int) *hwMessage {
	id := w.uuid()
	return &hwMessage{
		id: id, uri: o.uri() + "/hardware-messages/" + id, parent: o.uri(), text: text,
		timestamp: time.Now().UnixMilli(), service: n%2 == 0,
	}
}

// addHardwareMessage adds a hardware message to a CPC. has-hardware-messages is an edge: its change is told with the
// first message only.
func (w *world) addHardwareMessage(c *cpc, text string) *hwMessage {
	m := w.newHardwareMessage(c, text, len(c.hwMessages))
	c.hwMessages = append(c.hwMessages, m)
	if len(c.hwMessages) == 1 {
		w.tell(propertyChange(c, "", change{"has-hardware-messages", false, true}))
	}
	return m
}

// removeHardwareMessages takes hardware messages off a CPC, as a person at the console does.
func (w *world) removeHardwareMessages(c *cpc, gone func(*hwMessage) bool) {
	had := len(c.hwMessages)
	c.hwMessages = slices.DeleteFunc(c.hwMessages, gone)
	if had > 0 && len(c.hwMessages) == 0 {
		w.tell(propertyChange(c, "", change{"has-hardware-messages", true, false}))
	}
}

// hwMessages returns the messages of the object that a request names, the console or a CPC, or false if there is no
// such object.
func (r *request) hwMessages() (messages []*hwMessage, id string, found bool) {
	if r.op.path[1] == "console" {
		if len(r.ids) > 0 {
			id = r.ids[0]
		}
		return r.h.hwMessages, id, true
	}
	c, err := r.h.world.findCPC(r.ids[0])
	if err != nil {
		return nil, "", false
	}
	if len(r.ids) > 1 {
		id = r.ids[1]
	}
	return c.hwMessages, id, true
}

func (r *request) hwMessage() *hwMessage {
	messages, id, _ := r.hwMessages()
	for _, m := range messages {
		if m.id == id {
			return m
		}
	}
	return nil
}

func listHWMessages(r *request) reply {
	messages, _, found := r.hwMessages()
	if !found {
		return r.notFound()
	}
	from, to, bad := r.timeBounds()
	if bad != nil {
		return *bad
	}
	list := []any{}
	for _, m := range slices.Backward(messages) { // no order is promised
		if m.timestamp >= from && m.timestamp <= to {
			list = append(list, m.brief())
		}
	}
	return ok(map[string]any{"hardware-messages": list})
}

func getHWMessage(r *request) reply {
	m := r.hwMessage()
	if m == nil {
		return r.notFound()
	}
	return ok(m.properties())
}

func deleteHWMessage(r *request) reply {
	m := r.hwMessage()
	if m == nil {
		return r.notFound()
	}
	r.removeHWMessage(m)
	return noContent()
}

func (r *request) removeHWMessage(m *hwMessage) {
	gone := func(o *hwMessage) bool { return o == m }
	if r.op.path[1] == "console" {
		r.h.hwMessages = slices.DeleteFunc(r.h.hwMessages, gone)
		return
	}
	if c, err := r.h.world.findCPC(r.ids[0]); err == nil {
		r.h.world.removeHardwareMessages(c, gone)
	}
}

// serviceHWMessage is request-service and decline-service: both delete the message.
func serviceHWMessage(r *request) reply {
	m := r.hwMessage()
	switch {
	case m == nil:
		return r.notFound()
	case !m.service:
		return r.fail(http.StatusBadRequest, 340, "The hardware message does not support service.")
	}
	r.removeHWMessage(m)
	return noContent()
}

func getServiceInformation(r *request) reply {
	m := r.hwMessage()
	if m == nil {
		return r.notFound()
	}
	if r.query.Get("delete") == "true" {
		r.removeHWMessage(m)
	}
	return ok(map[string]any{
		"service-phone": "", "machine-type": "3931", "machine-model": "A01", "machine-serial-number": "000000012345",
		"problem-type": "9", "problem-number": fmt.Sprint(m.timestamp % 10000), "problem-data": "", "reference-code": "1F0A2C11",
		"customer-name": "", "customer-phone": "",
	})
}
