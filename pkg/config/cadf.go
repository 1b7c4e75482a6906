package config

import (
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

const (
	maxLogMessageFile = 4 * mib
	maxLogMessages    = 10_000
	// maxLogMessageText bounds the words of one message, which are part of each event.
	maxLogMessageText = 200
)

// LogMessage says what an entry of the console's logs means to CADF (DMTF DSP0262).
type LogMessage struct {
	// the event-id of the entry, in digits
	Number string
	// of its taxonomies; "unknown" where the file leaves it open
	Action, Outcome, TargetType string
	// of the HMC's object that is the target; "unknown" where the file leaves it open
	TargetClass string
	// the variable that says where somebody came from; -1: there is none
	Address int
}

// logMessages reads the file of log messages: a mapping with a list messages, as zhmc-log-forwarder
// has it. What else is in it is left alone.
func (d *decoder) logMessages(path string, s *Syslog) {
	if d.has(path) && s.Format != FormatCADF && !d.failed(parent(path)+".format") {
		d.errorf(path, "has a meaning with format: cadf only")
		return
	}
	text, shown, ok := d.read(path, &s.LogMessageFile, maxLogMessageFile, false)
	if !ok {
		return
	}
	of := newDecoder(filepath.ToSlash(shown), 0)
	if root := of.document([]byte(text)); root != nil {
		s.LogMessages = of.readLogMessages(root)
	} else if len(of.errs) == 0 {
		of.fail(1, "", "is empty: list messages, each with number, action and outcome")
	}
	for _, err := range of.errs {
		d.report(d.lineOf(path), path, "%s", err)
	}
}

func (d *decoder) readLogMessages(root *yaml.Node) (messages []LogMessage) {
	list := memberOf(root, "messages")
	switch {
	case list == nil || list.Kind != yaml.SequenceNode || len(list.Content) == 0:
		d.fail(root.Line, "messages", "is missing: list messages, each with number, action and outcome")
		return nil
	case len(list.Content) > maxLogMessages:
		d.fail(list.Line, "messages", "are more than %d", maxLogMessages)
		return nil
	}
	lines := make(map[string]int)
	for i, n := range list.Content {
		m, ok := d.readLogMessage(n, item("messages", i))
		if !ok {
			continue
		}
		if line := lines[m.Number]; line > 0 {
			d.fail(n.Line, item("messages", i), "describes number %s, as line %d does", m.Number, line)
			continue
		}
		lines[m.Number] = n.Line
		messages = append(messages, m)
	}
	return messages
}

// addressVariable finds the variable that says where somebody came from in the text of a message.
var addressVariable = regexp.MustCompile(`\blocation \{(\d{1,2})\}|\bclient on \{(\d{1,2})\}`)

func (d *decoder) readLogMessage(n *yaml.Node, path string) (m LogMessage, ok bool) {
	text := func(key string, needed bool) string {
		v := memberOf(n, key)
		switch {
		case v == nil && !needed:
			return ""
		case v == nil:
			d.fail(n.Line, path, "has no %s", key)
		case v.Kind != yaml.ScalarNode || v.Value == "" && needed:
			d.fail(v.Line, under(path)(key), "must be a text")
		case key != "message" && (len(v.Value) > maxLogMessageText || checkLine(v.Value) != ""):
			d.fail(v.Line, under(path)(key), "must be a single line of at most %d bytes", maxLogMessageText)
		case strings.HasPrefix(v.Value, "TBD"):
			return "unknown"
		default:
			return v.Value
		}
		return ""
	}
	before := len(d.errs)
	m = LogMessage{
		Number: text("number", true), Action: text("action", true), Outcome: text("outcome", true),
		TargetType: text("target_type", false), TargetClass: text("target_class", false), Address: -1,
	}
	if m.Number != "" && strings.Trim(m.Number, "0123456789") != "" {
		d.fail(n.Line, under(path)("number"), "must be in digits, not %s", quote(m.Number))
	}
	if found := addressVariable.FindStringSubmatch(text("message", false)); found != nil {
		m.Address, _ = strconv.Atoi(found[1] + found[2])
	}
	return m, len(d.errs) == before
}

// memberOf returns the value of a key of a mapping; nil: it has none.
func memberOf(n *yaml.Node, key string) *yaml.Node {
	if n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}
