package translate

import (
	"cmp"
	"encoding/json"
	"regexp"
	"strings"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/estate"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
)

// IPL is the body of an event of the type ipl. What is not known is absent.
type IPL struct {
	OSName        string     `json:"os-name,omitempty"`
	OSLevel       string     `json:"os-level,omitempty"`
	Sysplex       string     `json:"sysplex-name,omitempty"`
	Token         string     `json:"os-ipl-token,omitempty"`
	LoadAddress   string     `json:"load-address,omitempty"`
	LoadParameter string     `json:"load-parameter,omitempty"`
	AwaySince     *time.Time `json:"away-since,omitempty"`
	// AwaySeconds is how long the system did not run.
	AwaySeconds float64 `json:"away-seconds,omitempty"`
}

// bootMessage is the first message of a Linux that boots, with its version. It sets no IPL token.
var bootMessage = regexp.MustCompile(`^\[ *0\.0+\] Linux version ([0-9A-Za-z._+~-]{0,80})`)

// emitIPL makes the event of an IPL that a notification tells of, in place of its own.
func (c *Converter) emitIPL(n *Notification, emit func(*Part)) {
	if known, ok := c.estate.Lookup(n.Resource.ObjectURI); ok {
		c.emitIPLOf(n, &known, emit)
	}
}

func (c *Converter) emitIPLOf(n *Notification, known *estate.Resource, emit func(*Part)) {
	c.begin(n)
	c.event.Headers = nil // of another event
	emit(c.IPL(&c.event, known))
}

// iplMessage emits an event more where an OS message is the first one of an IPL.
func (c *Converter) iplMessage(n *Notification, emit func(*Part)) {
	text := c.message.Text
	if c.message.Refresh || !strings.Contains(text, "Linux version ") {
		return
	}
	version := bootMessage.FindStringSubmatch(text)
	known, ok := c.estate.Lookup(n.Resource.ObjectURI)
	if version == nil || !ok || known.System.IPLToken != "" {
		return // the token tells it
	}
	// Until the HMC is asked, which is soon, the message alone tells what was loaded.
	s := &known.System
	s.OSName, s.OSLevel = cmp.Or(s.OSName, "Linux"), cmp.Or(version[1], s.OSLevel)
	c.emitIPLOf(n, &known, emit)
}

// IPL makes e the event of an IPL of a resource.
func (c *Converter) IPL(e *event.Event, r *estate.Resource) *Part {
	s := &r.System
	body := IPL{
		OSName: s.OSName, OSLevel: s.OSLevel, Sysplex: s.Sysplex, Token: s.IPLToken,
		LoadAddress: s.LoadAddress, LoadParameter: s.LoadParameter,
	}
	what := "IPL"
	if s.OSName != "" {
		what += " of " + s.OSName
	}
	if s.OSLevel != "" {
		what += " (" + s.OSLevel + ")"
	}
	if address := strings.TrimLeft(s.LoadAddress, "0"); address != "" {
		what += " from " + s.LoadAddress
		if s.LoadParameter != "" {
			what += ", parameter " + s.LoadParameter
		}
	}
	// One that has run for long since it was away was not away for this IPL.
	lately := !estate.Runs(r.Status) || e.Time.Sub(r.Since) < time.Hour
	if away := e.Time.Sub(r.Away); !r.Away.IsZero() && away > 0 && lately {
		at := r.Away.UTC()
		body.AwaySince, body.AwaySeconds = &at, away.Round(time.Second).Seconds()
		what += ", after " + roughly(away)
	}
	c.estate.Update(r.URI, r.Class, r.Name, time.Time{}, func(known *estate.Resource) { known.Away = time.Time{} })
	e.Type, e.Severity, e.BodyText = event.TypeIPL, event.SeverityInfo, ""
	e.Body, _ = json.Marshal(body) // strings, a time and a number
	e.Summary = event.OneLine(withResource(e, what))
	if e.Resource != nil {
		e.Resource.OSName, e.Resource.OSLevel = s.OSName, s.OSLevel
	}
	at := e.Time.UTC().Format(time.RFC3339Nano)
	c.part = Part{Event: e, ID: event.IDOf(event.TypeIPL, e.HMC, r.URI, s.IPLToken, at)}
	e.ID = c.part.ID.String()
	return &c.part
}
