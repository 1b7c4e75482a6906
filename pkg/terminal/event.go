package terminal

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// Events writes events as people read them.
type Events struct {
	// Width is how many columns a line has; 0: nobody looks, and an event is one line.
	Width  int
	styles *styles
}

// NewEvents returns a writer of lines of so many columns, 0: of any number.
func NewEvents(width int, color bool) *Events { return &Events{width, newStyles(color)} }

// Line is an event that came as JSON, without its end. Where it does not fit, what it
// is about goes on below itself.
func (e *Events) Line(data []byte) string {
	var ev event.Event
	if err := json.Unmarshal(data, &ev); err != nil {
		return OneLine(string(data), 0)
	}
	at := ev.Time.Local().Format("2006-01-02 15:04:05.000")
	style := e.styles.severity[ev.Severity]
	severity := style.Render(fmt.Sprintf("%-8s", OneLine(ev.Severity, 0)))
	lead := fmt.Sprintf("%s  %s  %-19s  %-12s  ", OneLine(at, 0), severity,
		OneLine(ev.Type, 0), OneLine(ev.HMC, 0))
	text := OneLine(ev.Summary, 0)
	if marks := Marks(&ev); marks != "" {
		text = strings.TrimSpace(text + " (" + marks + ")")
	}
	if e.Width == 0 {
		return strings.TrimRight(lead+text, " ")
	}
	const column, least = 23 + 2 + 8 + 2 + 19 + 2 + 12 + 2, 24
	indent := column
	if e.Width-column < least {
		indent = 4
		lead = strings.TrimRight(lead, " ") + "\n" + strings.Repeat(" ", indent)
	}
	parts := wrapped(text, e.Width-indent)
	for i, part := range parts {
		parts[i] = style.Render(strings.TrimRight(part, " "))
	}
	return strings.TrimRight(lead+strings.Join(parts, "\n"+strings.Repeat(" ", indent)), " ")
}

// Marks say of an event what keeps a person from acting on it; "": nothing does.
func Marks(ev *event.Event) string {
	var marks []string
	if ev.Repeat {
		marks = append(marks, "repeated")
	}
	if ev.Planned {
		marks = append(marks, "planned")
	}
	if ev.Origin == event.OriginRefresh {
		marks = append(marks, "replayed by the HMC")
	}
	return strings.Join(marks, ", ")
}
