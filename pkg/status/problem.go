package status

import "github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"

// Problem is one thing that keeps an HMC from counting as connected. In JSON it is its text.
type Problem struct {
	Kind ProblemKind
	Text string

	// of one partition, and what is wrong with it; "": of none
	partition, cause string
}

// osMessagesOf begins what is said of a partition's OS messages.
const osMessagesOf = "OS messages of "

// NotFollowed is the problem of a partition whose OS messages are not followed.
func NotFollowed(partition, cause string) Problem {
	return Problem{ProblemOSMessages, osMessagesOf + partition + ": " + cause, partition, cause}
}

// MarshalText returns the text.
func (p Problem) MarshalText() ([]byte, error) { return []byte(p.Text), nil }

// UnmarshalText sets the text; the kind is not known.
func (p *Problem) UnmarshalText(text []byte) error {
	p.Text = string(text)
	return nil
}

// Texts returns the texts of problems. It is never nil.
func Texts(problems []Problem) []string {
	texts := make([]string, len(problems))
	for i, p := range problems {
		texts[i] = p.Text
	}
	return texts
}

// ProblemKind says what a problem is about; the advice follows from it. A link that cannot be made
// has one of FailureReasons as its kind, and "" as long as no attempt has failed.
type ProblemKind string

const (
	// ProblemLogonRefused means that userid or password were refused, and are not tried again
	// soon.
	ProblemLogonRefused ProblemKind = "logon_refused"
	// ProblemNotGranted means that the userid may not have a topic that is configured.
	ProblemNotGranted ProblemKind = "not_granted"
	// ProblemNotConfirmed means that the broker has not answered a subscription yet.
	ProblemNotConfirmed ProblemKind = "not_confirmed"
	// ProblemTopic means that the broker refuses a subscription.
	ProblemTopic ProblemKind = "topic"
	// ProblemOSMessages means that OS messages cannot be followed.
	ProblemOSMessages ProblemKind = "os_messages"
	// ProblemEstate means that CPCs and partitions could not be read; the link is not concerned.
	ProblemEstate ProblemKind = "estate"
)

// ofLink says whether there is no link because of the problem.
func (k ProblemKind) ofLink() bool {
	switch k {
	case ProblemNotGranted, ProblemNotConfirmed, ProblemTopic, ProblemOSMessages, ProblemEstate:
		return false
	}
	return true
}

// NotOpenYet is said of a partition whose OS messages are going to be followed.
const NotOpenYet = "the channel is not open yet"

const notOpenAdvice = "Nothing is wrong: after each logon it takes one request for each partition. " +
	"Where that takes too long, raise rest_requests_per_minute."

// again is said of what needs no one to start it.
const again = "It is tried again by itself."

// Advice says what to do about a problem of this kind, in whole sentences.
func (k ProblemKind) Advice() string {
	const again = " " + again
	switch k {
	case ProblemLogonRefused:
		return "Look on the HMC whether the userid is disabled or its password has expired, and correct what is " +
			"wrong. A password file that has changed is noticed and tried at once, and a reload tries it in any " +
			"case. Else the HMC is left alone until then, because it disables a userid that goes on being refused."
	case receiver.ReasonDNS:
		return "Look at the name under hosts, and whether this machine can resolve it: getent hosts NAME." + again
	case receiver.ReasonRefused:
		return "Nothing listens there. The HMC may be restarting; if that lasts, enable the Web Services API " +
			"and STOMP over TLS under Customize API Settings." + again
	case receiver.ReasonTimeout:
		return "Nothing answers. Look whether the HMC is up, and whether a firewall lets this machine through " +
			"to the ports rest_port and stomp_port. If it answers, and takes longer than rest_timeout, make that " +
			"longer." + again
	case receiver.ReasonTLS:
		return "Compare the HMC's certificate with tls.ca_file and tls.server_name: " +
			"openssl s_client -connect HOST:PORT -showcerts." + again
	case receiver.ReasonAuthorization:
		return "The broker refuses the session. If that lasts, look whether the HMC allows the userid " +
			"the topics that are asked for." + again
	case ReasonLogon:
		return "The Web Services API answers, but gives no session. Look whether the userid may use it " +
			"(Allow access to Web Services management interfaces)." + again
	case ProblemNotGranted:
		return "Grant it to the userid on the HMC, or take the topic out of the configuration."
	case ProblemNotConfirmed:
		return "The broker has not confirmed it yet." + again
	case ProblemTopic:
		return "It is tried again by itself; if it lasts, the daemon's log has more."
	case ProblemOSMessages:
		return "Grant the userid access to the partition and to the task Operating System Messages on the HMC, " +
			"or narrow os_messages. If it takes longer to list the partitions than rest_timeout, make that " +
			"longer." + again
	case ProblemEstate:
		return "Names, statuses and what changed while nobody could see are missing until the HMC has listed them. " +
			"If it takes longer to answer than rest_timeout, make that longer." + again
	}
	return "The HMC may be restarting. If it lasts, the daemon's log has more." + again
}
