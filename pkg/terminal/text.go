// Package terminal writes what people read in one: lines that fit, colors by severity, the screen
// of the command top. It knows events and statuses, and not where they come from.
package terminal

import (
	"io"
	"os"
	"strings"
	"unicode"

	"charm.land/lipgloss/v2"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// OneLine returns s as one line that does nothing to a terminal, of at most limit characters; 0: of
// any length.
func OneLine(s string, limit int) string {
	line := []rune(strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s))
	if limit > 0 && len(line) > limit {
		line = append(line[:max(0, limit-3)], '.', '.', '.')
	}
	return string(line)
}

// Text writes text for people that does nothing to a terminal, whoever has written it: only line
// feeds stay. Each Write has whole characters.
type Text struct{ io.Writer }

// Write implements io.Writer.
func (w Text) Write(text []byte) (int, error) {
	lines := strings.Split(string(text), "\n")
	for i := range lines {
		lines[i] = event.Printable(lines[i])
	}
	_, err := io.WriteString(w.Writer, strings.Join(lines, "\n"))
	return len(text), err
}

// wrapped breaks a line where words end, so that each part has at most width columns, and at least
// what a word takes.
func wrapped(line string, width int) []string {
	const narrowest = 20
	return strings.Split(lipgloss.Wrap(line, max(narrowest, width), ""), "\n")
}

// WantsColor says whether the user of a terminal wants colors (https://no-color.org).
func WantsColor() bool { return os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" }

// styles are the colors, those that the terminal's owner has chosen for their names.
type styles struct {
	bold, faint, good lipgloss.Style
	severity          map[string]lipgloss.Style
}

// newStyles returns styles; those without color change nothing.
func newStyles(color bool) *styles {
	s := &styles{severity: map[string]lipgloss.Style{}}
	if !color {
		return s
	}
	s.bold, s.faint = lipgloss.NewStyle().Bold(true), lipgloss.NewStyle().Faint(true)
	s.good = lipgloss.NewStyle().Foreground(lipgloss.Green)
	s.severity[event.SeverityWarning] = lipgloss.NewStyle().Foreground(lipgloss.Yellow)
	s.severity[event.SeverityCritical] = lipgloss.NewStyle().Foreground(lipgloss.Red).Bold(true)
	return s
}
