package status

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/event"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
)

// Trouble is something that a person should look at: what is wrong, and what to do about it.
type Trouble struct {
	Severity string `json:"severity"` // warning or critical
	What     string `json:"what"`
	Do       string `json:"do,omitempty"`
	Command  string `json:"command,omitempty"` // that helps with it
}

const (
	// certificateWarning is how long before a certificate expires that is worth a word; certificateCritical is how long before it
	// is urgent: on the day that it expires the link cannot be made any more.
	certificateWarning  = 30 * 24 * time.Hour
	certificateCritical = 7 * 24 * time.Hour
	// storageNearlyFull is the part of storage.max_bytes above which the oldest events are about to go, in percent.
	storageNearlyFull = 90
	// longWait is how old the oldest waiting event of a sink that does not fail may be without a word.
	longWait = 10 * time.Minute
)

// FindTroubles says what is wrong with an HMC, and what to do. reason is why there is no link, as the metrics name it.
func (h *HMCStatus) FindTroubles(reason string, now time.Time) []Trouble {
	out := []Trouble{}
	add := func(severity, what, do string) { out = append(out, Trouble{Severity: severity, What: what, Do: do}) }
	switch {
	case h.State == StateAuthFailed:
		add(event.SeverityCritical, "The logon is "+period(strings.Join(h.Problems, "; ")),
			"Correct the userid, the password or its file, look on the HMC whether the userid is disabled or its password has expired, and reload: "+
				"what has changed is tried at once. Else the HMC is left alone until then, because it disables a userid that goes on being refused.")
	case h.State != StateConnected && reason == "":
		// The first attempt is under way.
	case h.State != StateConnected:
		add(event.SeverityCritical, sentence(strings.Join(h.Problems, "; ")), adviceFor(reason))
	default:
		for _, p := range h.Problems {
			add(event.SeverityWarning, sentence(p), adviceForProblem(p))
		}
	}
	if at := h.CertificateNotAfter; at != nil {
		left := at.Sub(now)
		switch do := "Renew it on the HMC, under Certificate Management. If another authority signs the new one, name that in tls.ca_file before."; {
		case left <= 0:
			add(event.SeverityCritical, "The HMC's certificate expired on "+at.Format(time.DateOnly)+".", do)
		case left < certificateCritical:
			add(event.SeverityCritical, "The HMC's certificate expires on "+at.Format(time.DateOnly)+".", do)
		case left < certificateWarning:
			add(event.SeverityWarning, "The HMC's certificate expires on "+at.Format(time.DateOnly)+".", do)
		}
	}
	return out
}

// adviceFor says what to do about a link that cannot be made, by the reason as the metrics name it.
func adviceFor(reason string) string {
	const again = " It is tried again by itself."
	switch reason {
	case receiver.ReasonDNS:
		return "Look at the name under hosts, and whether this machine can resolve it: getent hosts NAME." + again
	case receiver.ReasonRefused:
		return "Nothing listens there. The HMC may be restarting; if that lasts, enable the Web Services API and STOMP over TLS under Customize API Settings." + again
	case receiver.ReasonTimeout:
		return "Nothing answers. Look whether the HMC is up, and whether a firewall lets this machine through to the ports rest_port and stomp_port." + again
	case receiver.ReasonTLS:
		return "Compare the HMC's certificate with tls.ca_file and tls.server_name: openssl s_client -connect HOST:PORT -showcerts." + again
	case receiver.ReasonAuthorization:
		return "The broker refuses the session. If that lasts, look whether the HMC allows the userid the topics that are asked for." + again
	case ReasonLogon:
		return "The Web Services API answers, but gives no session. Look whether the userid may use it (Allow access to Web Services management interfaces)." + again
	}
	return "The HMC may be restarting. If it lasts, the daemon's log has more." + again
}

// adviceForProblem says what to do about a problem of a link that is up.
func adviceForProblem(problem string) string {
	switch {
	case strings.Contains(problem, "not granted"):
		return "Grant it to the userid on the HMC, or take the topic out of the configuration."
	case strings.HasPrefix(problem, "OS messages"):
		return "Grant the userid access to the partition and to the task Operating System Messages on the HMC, or narrow os_messages. It is tried again by itself."
	case strings.Contains(problem, NotSubscribed):
		return "The broker has not confirmed it yet. It is tried again by itself."
	}
	return "It is tried again by itself; if it lasts, the daemon's log has more."
}

// FindTroubles says what is wrong with a sink, and what to do.
func (s *SinkStatus) FindTroubles() []Trouble {
	out := []Trouble{}
	add := func(severity, what, do string) { out = append(out, Trouble{Severity: severity, What: what, Do: do}) }
	const kept = " Nothing is lost meanwhile: events wait on disk and are tried again by themselves."
	switch {
	case s.FailingSince != nil:
		severity := event.SeverityWarning
		if s.Stuck {
			severity = event.SeverityCritical
		}
		add(severity, "It does not accept events: "+period(s.LastError), adviceForSink(s.LastError)+kept)
	case s.Stuck:
		add(event.SeverityCritical, "An attempt to deliver hangs.", "Look at what the sink writes to."+kept)
	case s.QueueEvents > 0 && s.OldestEventAgeSeconds > longWait.Seconds():
		add(event.SeverityWarning, "It accepts events, but more slowly than they come.", "Give it more concurrency or larger batches, or narrow match.")
	}
	if s.DeadLetters > 0 {
		add(event.SeverityWarning, fmt.Sprintf("It refused %d %s for good.", s.DeadLetters, plural(s.DeadLetters, "event", "events")),
			"See why, then send them again or delete them, with replay or purge instead of list.")
		out[len(out)-1].Command = "hmcnotifyd dead-letters list --sink=" + s.Name
	}
	if s.Dropped > 0 {
		add(event.SeverityCritical, fmt.Sprintf("%d stored %s went undelivered since the start, by a limit or because a file was damaged.", s.Dropped, plural(int(min(s.Dropped, 2)), "event", "events")),
			"Raise queue.max_bytes, queue.max_age or storage.max_bytes, or make the sink faster. The daemon's log says what went.")
	}
	return out
}

// adviceForSink says what to do about the error of a sink.
func adviceForSink(problem string) string {
	has := func(parts ...string) bool {
		return slices.ContainsFunc(parts, func(p string) bool { return strings.Contains(problem, p) })
	}
	switch {
	case has("no such host", "server misbehaving"):
		return "Look at the address, and whether this machine can resolve its name."
	case has("connection refused"):
		return "Nothing listens there. Look whether the receiver is up, and at the address."
	case has("x509", "certificate", "tls:"):
		return "The receiver's certificate is not trusted, or does not fit its name: look at the sink's TLS settings."
	case has("deadline exceeded", "timeout", "no answer"):
		return "The receiver does not answer in time. Look at its load and at firewalls; timeout sets how long it may take."
	case has("429", "503"):
		return "The receiver asks for fewer requests, or is overloaded. Larger batches or less concurrency help."
	case has("no space left"):
		return "Make space on that disk."
	case has("permission denied"):
		return "Let the daemon's user write there."
	}
	return "Look at the receiver."
}

// StorageTroubles says what is wrong with what the HMCs and sinks share.
func (s *Status) StorageTroubles() []Trouble {
	out := []Trouble{}
	if s.Storage.Error != "" {
		out = append(out, Trouble{
			Severity: event.SeverityCritical, What: "The storage is not writable: " + period(s.Storage.Error),
			Do: "Make space on the disk of " + s.Storage.Path + ", or look whether it is mounted read-only. What comes from the HMCs meanwhile waits in memory, and is missed when that is full.",
		})
	}
	if limit := s.Storage.MaxBytes; limit > 0 && s.Storage.Bytes > limit/100*storageNearlyFull {
		out = append(out, Trouble{
			Severity: event.SeverityWarning, What: "The storage is nearly full; the oldest events go when it is.",
			Do: "Look for the sink that has the most events waiting, or raise storage.max_bytes.",
		})
	}
	for _, r := range s.Removed {
		out = append(out, Trouble{
			Severity: event.SeverityWarning,
			What:     fmt.Sprintf("%d %s for the sink %s, which is not configured any more.", r.QueueEvents, plural(int(min(r.QueueEvents, 2)), "event waits", "events wait"), r.Name),
			Do:       "Give a sink that name to have them delivered, or give them up.",
			Command:  "hmcnotifyd dead-letters purge --waiting --sink=" + r.Name,
		})
	}
	return out
}

func plural(n int, one, more string) string {
	if n == 1 {
		return one
	}
	return more
}

// sentence makes one of a message as programs write them.
func sentence(s string) string {
	s = strings.TrimSpace(s)
	if s == "" {
		return s
	}
	if first := s[0]; first >= 'a' && first <= 'z' {
		s = string(first-'a'+'A') + s[1:]
	}
	return period(s)
}

func period(s string) string { return strings.TrimSuffix(strings.TrimSpace(s), ".") + "." }
