package status

import (
	"strings"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
)

// The values of the label state of receiver_state.
const (
	StateDisconnected = "disconnected"
	StateLoggingOn    = "logging_on"
	StateConnecting   = "connecting"
	StateConnected    = "connected"
	StateAuthFailed   = "auth_failed"
)

// States lists every state of an HMC's link.
var States = []string{StateDisconnected, StateLoggingOn, StateConnecting, StateConnected, StateAuthFailed}

// ReasonLogon is the connect failure that only the REST side can have; the others are the
// receiver's.
const ReasonLogon = "logon"

// FailureReasons lists every reason why a link was not made.
var FailureReasons = []string{
	receiver.ReasonDNS, receiver.ReasonRefused, receiver.ReasonTimeout, receiver.ReasonTLS,
	ReasonLogon, receiver.ReasonAuthorization, receiver.ReasonBroker, receiver.ReasonOther,
}

// NotSubscribed is the problem of a topic before the broker has confirmed or refused it.
const NotSubscribed = "not subscribed"

const (
	// certificateWarning is how long before a certificate expires that is worth a word;
	// certificateCritical is how long before it is urgent: on the day that it expires the link
	// cannot be made any more.
	certificateWarning  = 30 * 24 * time.Hour
	certificateCritical = 7 * 24 * time.Hour
)

const (
	// PasswordWarning is how long before a password expires that is worth a word.
	PasswordWarning  = 14 * 24 * time.Hour
	passwordCritical = 3 * 24 * time.Hour
)

// HMCStatus says how the daemon sees one HMC.
type HMCStatus struct {
	Name  string    `json:"name"`
	State string    `json:"state"`
	Since time.Time `json:"since"`
	// Connected is as receiver_connected: the link is up and every topic subscribed.
	Connected        bool             `json:"connected"`
	Host             string           `json:"host,omitempty"`
	Topics           []TopicStatus    `json:"topics"`
	Problems         []Problem        `json:"problems"`
	NextAttempt      *time.Time       `json:"next_attempt,omitempty"`
	Reconnects       int              `json:"reconnects"`
	LastFrame        *time.Time       `json:"last_frame,omitempty"`
	LastNotification *time.Time       `json:"last_notification,omitempty"`
	Notifications    map[string]int64 `json:"notifications"`
	Missed           int              `json:"notifications_missed"`
	// BlindSince is from when on notifications may be missed.
	BlindSince *time.Time `json:"blind_since,omitempty"`
	// Gaps counts the blind windows since the start that are over.
	Gaps                int64            `json:"gaps"`
	LastGap             *GapStatus       `json:"last_gap,omitempty"`
	OSMessages          *OSMessageStatus `json:"os_messages,omitempty"`
	CertificateNotAfter *time.Time       `json:"certificate_not_after,omitempty"`
	// PasswordExpires is absent where that is not known, or never.
	PasswordExpires *time.Time `json:"password_expires,omitempty"`
	// Outages are the last times without a link, the oldest first; the last one may not be
	// over.
	Outages []Outage `json:"outages"`
	// NotificationsPerMinute are those of the last 60 minutes, the oldest first; the last one
	// is still running.
	NotificationsPerMinute []int64   `json:"notifications_per_minute"`
	Troubles               []Trouble `json:"troubles"`
	// Violations are what the HMC does although it is assumed not to; it is no fault of the HMC.
	Violations []Violation `json:"assumption_violations"`
}

// Violation is something that an HMC does and is assumed not to do.
type Violation struct {
	// Assumption is as the metrics name it.
	Assumption string `json:"assumption"`
	Question   string `json:"question"`
	Assumed    string `json:"assumed"`
	Seen       string `json:"seen"`
}

// Outage is a time without a link to an HMC.
type Outage struct {
	From time.Time `json:"from"`
	// To is absent while it lasts.
	To *time.Time `json:"to,omitempty"`
	// Cause is what it began with.
	Cause       string `json:"cause"`
	LastProblem string `json:"last_problem,omitempty"`
	// Attempts counts those that failed.
	Attempts int `json:"attempts"`
}

// GapStatus is a blind window that is over.
type GapStatus struct {
	From        time.Time      `json:"from"`
	To          time.Time      `json:"to"`
	Causes      []string       `json:"causes"`
	Missed      map[string]int `json:"missed,omitempty"`
	Recovered   map[string]int `json:"recovered,omitempty"`
	MayBeMissed []string       `json:"may_be_missing,omitempty"`
}

// TopicStatus says whether a topic is subscribed.
type TopicStatus struct {
	Name       string `json:"name"`
	Type       string `json:"type"`
	Subscribed bool   `json:"subscribed"`
	Problem    string `json:"problem,omitempty"`
}

// OSMessageStatus says which partitions' operating system messages are not followed, and why. A
// partition that is not active is no fault.
type OSMessageStatus struct {
	Followed    int               `json:"followed"`
	NotFollowed map[string]string `json:"not_followed"`
}

// FindTroubles says what is wrong with the HMC, and what to do. It is never nil.
func (h *HMCStatus) FindTroubles(now time.Time) []Trouble {
	out := []Trouble{}
	at := h.CertificateNotAfter
	expired := at != nil && !at.After(now)
	var since *time.Time
	if !h.Since.IsZero() {
		since = &h.Since
	}
	for _, p := range h.Problems {
		switch {
		case p.Kind == "": // the first attempt is under way
		case p.Kind == receiver.ReasonTLS && expired: // said below
		case p.Kind == ProblemLogonRefused:
			out = append(out, critical("The logon is "+period(p.Text), p.Kind.Advice()).
				of("HmcnotifydAuthFailed", since))
		case p.Kind.ofLink():
			out = append(out, critical(sentence(p.Text), p.Kind.Advice()).of("HmcnotifydLinkDown", since))
		case p.Kind == ProblemOSMessages: // below
		case p.Kind == ProblemEstate:
			out = append(out, warning(sentence(p.Text), p.Kind.Advice()))
		default:
			out = append(out, warning(sentence(p.Text), p.Kind.Advice()).of("HmcnotifydLinkDown", nil))
		}
	}
	out = append(out, notFollowed(h.Problems)...)
	if at := h.PasswordExpires; at != nil && at.Sub(now) <= PasswordWarning {
		out = append(out, passwordTrouble(*at, now))
	}
	if at == nil || at.Sub(now) >= certificateWarning {
		return out
	}
	const page, renew = "HmcnotifydCertificateExpiring", "Renew it on the HMC, under Certificate Management. " +
		"If another authority signs the new one, name that in tls.ca_file before."
	if expired {
		what := "The HMC's certificate expired on " + at.Format(time.DateOnly)
		if h.Connected {
			return append(out, critical(what+".", renew).of(page, at))
		}
		return append(out, critical(what+": no link can be made with it.", renew+" "+again).of(page, at))
	}
	rate := critical
	if at.Sub(now) >= certificateCritical {
		rate = warning
	}
	return append(out, rate("The HMC's certificate expires on "+at.Format(time.DateOnly)+".", renew).of(page, nil))
}

// notFollowed says whose OS messages are not followed: once where it is for the same reason, as of
// hundreds of partitions.
func notFollowed(problems []Problem) (out []Trouble) {
	const most = 3
	var texts []string
	of := make(map[string][]string) // by what is said of the partitions
	for _, p := range problems {
		if p.Kind != ProblemOSMessages {
			continue
		}
		if p.partition == "" {
			out = append(out, warning(sentence(p.Text), p.Kind.Advice()))
			continue
		}
		if of[p.cause] == nil {
			texts = append(texts, p.cause)
		}
		of[p.cause] = append(of[p.cause], p.partition)
	}
	for _, cause := range texts {
		names, advice := of[cause], ProblemOSMessages.Advice()
		if cause == NotOpenYet {
			advice = notOpenAdvice
		}
		text := osMessagesOf + strings.Join(names[:min(most, len(names))], ", ")
		if len(names) > most {
			text += " and " + number(int64(len(names)-most), "more partition", "more partitions")
		}
		out = append(out, warning(text+": "+period(cause), advice))
	}
	return out
}

func passwordTrouble(at, now time.Time) Trouble {
	const day = 24 * time.Hour
	left, days := at.Sub(now), at.Truncate(day).Sub(now.Truncate(day))/day // by the dates, as people count
	rate, what := warning, "expires on "+at.Format(time.DateOnly)+", in "+number(int64(days), "day", "days")
	switch {
	case left < -day: // the HMC tells it in whole days
		rate, what = critical, "has expired on "+at.Format(time.DateOnly)
	case left < day:
		rate, what = critical, "expires on "+at.Format(time.DateOnly)
	case left < passwordCritical:
		rate = critical
	}
	return rate("The password that the daemon logs on with "+what+".",
		"Change it on the HMC and in password_file, which is read again at the next logon, or give the userid "+
			"a password rule without expiry. The HMC refuses a password that has expired; a session lives on.",
	).of("HmcnotifydPasswordExpiring", nil)
}
