package event

import "strings"

// OSMessage is an os-message-info object of the HMC: one message of an operating system.
type OSMessage struct {
	// the object as it stands
	Raw []byte
	// the number as it stands
	Sequence string
	// assigned by the HMC, per partition
	Number int64
	Text   string
	// in milliseconds; 0 or less: the operating system gave none, which is usual for Linux
	Time     int64
	Refresh  bool
	Held     bool
	Priority bool
	Alarm    bool
	// what an answer begins with; "": nothing
	Prompt string
}

// ParseOSMessage parses an os-message-info object, which has to be valid JSON.
func ParseOSMessage(raw []byte) OSMessage {
	m := OSMessage{Raw: raw}
	for name, value := range Members(raw) {
		m.set(name, value)
	}
	return m
}

// ReadOSMessage is ParseOSMessage of the element that o is at.
func ReadOSMessage(o *Objects) (m OSMessage) {
	for o.Member() {
		m.set(o.Name, o.Value)
	}
	m.Raw = o.Raw()
	return m
}

func (m *OSMessage) set(name, value []byte) {
	switch string(name) {
	case "sequence-number":
		m.Sequence = string(value)
		m.Number = Int(value)
	case "message-text":
		m.Text = String(value)
	case "timestamp":
		m.Time = Int(value)
	case "prompt-text":
		m.Prompt = String(value)
	case "is-refresh":
		m.Refresh = True(value)
	case "is-held":
		m.Held = True(value)
	case "is-priority":
		m.Priority = True(value)
	case "sound-alarm":
		m.Alarm = True(value)
	}
}

// PlainText is the text without the line end, which clients have seen come and go.
func (m *OSMessage) PlainText() string { return strings.TrimRight(m.Text, " \t\r\n") }
