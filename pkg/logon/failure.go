package logon

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/config"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmc"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/receiver"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/status"
)

// HoldError says that trying again soon would do harm.
type HoldError struct {
	// as the metrics name it
	Reason string
	Err    error
}

// Error implements error.
func (e *HoldError) Error() string { return e.Err.Error() }

// Unwrap returns Err.
func (e *HoldError) Unwrap() error { return e.Err }

func hold(reason string, err error) error { return &HoldError{Reason: reason, Err: err} }

// IsHold says whether trying again soon would do harm: an HMC disables a userid that goes on being
// refused.
func IsHold(err error) bool {
	_, hold := errors.AsType[*HoldError](err)
	return hold
}

// FailureReason is the label reason of receiver_connect_failures_total for an error.
func FailureReason(err error) string {
	var (
		hold    *HoldError
		link    *receiver.ConnectionError
		rest    *hmc.ConnectError
		answer  *hmc.HTTPError
		partial *hmc.PartialLogonError
	)
	switch {
	case errors.As(err, &hold):
		return hold.Reason
	case errors.As(err, &link):
		return link.Reason
	case errors.As(err, &rest):
		return rest.Reason
	case errors.As(err, &partial), errors.As(err, &answer):
		return status.ReasonLogon
	}
	return receiver.ReasonOther
}

// Explain is the error as the person on call needs it: with the setting to change where there is
// one, and without what libraries say of themselves.
func Explain(cfg *config.HMC, err error) string {
	if text := cfg.TLS.Explain(err); text != "" {
		return text
	}
	text := err.Error()
	if e, ok := errors.AsType[*receiver.ConnectionError](err); ok {
		text = strings.Replace(text, e.Error(), e.Err.Error(), 1)
	}
	switch {
	case strings.Contains(text, `it begins with "HTTP/`):
		text += fmt.Sprintf("; stomp_port (%d) is the port of a web server, such as the Web Services API has it: "+
			"STOMP over TLS is at another one, on HMCs %d", cfg.StompPort, receiver.DefaultPort)
	case strings.Contains(text, "malformed HTTP"):
		text += fmt.Sprintf("; what answers at rest_port (%d) is no web server: "+
			"the Web Services API is at another one, on HMCs %d", cfg.RESTPort, hmc.DefaultPort)
	case cfg.RESTPort != hmc.DefaultPort &&
		(strings.Contains(text, "no answer within") || strings.Contains(text, "closed before the answer was complete")):
		// A broker closes sooner or later, or the request has ended before.
		text += fmt.Sprintf("; if rest_port (%d) is the port of STOMP nobody ever answers there: "+
			"the Web Services API is at another one, on HMCs %d", cfg.RESTPort, hmc.DefaultPort)
	case strings.Contains(text, "no answer within"):
		text += longer(cfg)
	}
	return text
}

// longer says what to set where an HMC is too slow.
func longer(cfg *config.HMC) string {
	return fmt.Sprintf("; where this HMC takes longer, set rest_timeout (now %v) to more", cfg.RESTTimeout)
}

// ExplainLists is Explain for what failed in a session that is there, each of it once.
func ExplainLists(cfg *config.HMC, err error) string {
	var texts []string
	for text := range strings.SplitSeq(err.Error(), "\n") {
		if text = strings.TrimSuffix(text, ": "+context.DeadlineExceeded.Error()); !slices.Contains(texts, text) {
			texts = append(texts, text)
		}
	}
	text := strings.Join(texts, "; ")
	if errors.Is(err, context.DeadlineExceeded) {
		text += longer(cfg)
	}
	return text
}

// IsStatus says whether err is an answer of the HMC with this HTTP status.
func IsStatus(err error, status int) bool {
	answer, ok := errors.AsType[*hmc.HTTPError](err)
	return ok && answer.Status == status
}

// HardwareHint says what may be missing where a list of hardware messages was refused.
func HardwareHint(err error) string {
	if IsStatus(err, http.StatusForbidden) || IsStatus(err, http.StatusNotFound) {
		return ` (it takes the task "Hardware Messages", for which view-only is enough, and object access)`
	}
	return ""
}
