package status

import (
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// Trouble is something that a person should look at: what is wrong, and what to do about it.
type Trouble struct {
	Severity string `json:"severity"` // warning or critical
	What     string `json:"what"`
	Do       string `json:"do,omitempty"`
	Command  string `json:"command,omitempty"` // that helps with it
	// Since is from when on it is wrong; absent where that is not known.
	Since *time.Time `json:"since,omitempty"`
	// Runbook is the page of docs/runbooks about it, without .md; "": there is none.
	Runbook string `json:"runbook,omitempty"`
}

// address is how one stands in what a network says.
var address = regexp.MustCompile(`\[[0-9a-fA-F:.]+\](?::\d+)?|` + // IPv6
	`\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b|` + // IPv4
	`\b[\w-]+(?:\.[\w-]+)*:\d{2,5}\b`) // a name and a port

// Common is What without the host and addresses of the one that it is of: where the same is wrong
// with several, they have this in common.
func (t *Trouble) Common(host string) string {
	const some = "…"
	what := t.What
	if host != "" {
		what = strings.ReplaceAll(what, host+": ", some+": ")
	}
	return address.ReplaceAllString(what, some)
}

// of returns the trouble with the page about it, and from when on it is wrong.
func (t Trouble) of(runbook string, since *time.Time) Trouble {
	t.Runbook, t.Since = runbook, since
	return t
}

func warning(what, do string) Trouble {
	return Trouble{Severity: event.SeverityWarning, What: what, Do: do}
}

func critical(what, do string) Trouble {
	return Trouble{Severity: event.SeverityCritical, What: what, Do: do}
}

// number writes n with the form of the noun that fits: "1 event", "2 events".
func number(n int64, one, more string) string {
	if n != 1 {
		one = more
	}
	return strconv.FormatInt(n, 10) + " " + one
}

// sentence makes one of a message as programs write them.
func sentence(s string) string {
	s = period(s)
	first, size := utf8.DecodeRuneInString(s)
	return string(unicode.ToUpper(first)) + s[size:]
}

func period(s string) string { return strings.TrimSuffix(strings.TrimSpace(s), ".") + "." }
