package hmcsim

import (
	"net"
	"net/http"
	"strings"
)

// path splits a path of the Web Services API into segments.
func path(p string) []string { return strings.Split(strings.Trim(p, "/"), "/") }

// operations are what REST can do.
var operations = []operation{
	{name: "query-api-version", method: http.MethodGet, path: path("/api/version"), open: true, handle: queryAPIVersion},
	{name: "logon", method: http.MethodPost, path: path("/api/sessions"), open: true, handle: logon},
	{name: "logoff", method: http.MethodDelete, path: path("/api/sessions/this-session"), partial: true, handle: logoff},
	{name: "get-notification-topics", method: http.MethodGet, path: path("/api/sessions/operations/get-notification-topics"), handle: getNotificationTopics},
}

func queryAPIVersion(r *request) reply {
	return ok(map[string]any{
		"api-major-version": 4,
		"api-minor-version": 40,
		"hmc-name":          r.h.opts.Name,
		"hmc-version":       r.h.opts.Version,
	})
}

// loginFailed is the message of a refused logon, whatever was wrong with it, as real HMCs say it.
const loginFailed = "Login failed. Try the operation again. If the problem persists, contact your security administrator."

func logon(r *request) reply {
	h := r.h
	if r.fields == nil {
		return r.fail(http.StatusBadRequest, 3, "The request body is missing.")
	}
	for name, value := range r.fields {
		switch name {
		case "userid", "password", "new-password":
			if _, ok := value.(string); !ok {
				return r.fail(http.StatusBadRequest, 7, "The field '"+name+"' is not of the type String.")
			}
		default:
			return r.fail(http.StatusBadRequest, 6, "The field '"+name+"' is not recognized.")
		}
	}
	userid, ok1 := r.fields["userid"].(string)
	password, ok2 := r.fields["password"].(string)
	if !ok1 || !ok2 {
		return r.fail(http.StatusBadRequest, 5, "A required field is missing: userid and password are required.")
	}
	if want, known := h.users[userid]; !known || want != password {
		h.refused++
		return r.fail(http.StatusForbidden, 0, loginFailed)
	}
	n := 0
	for _, s := range h.order {
		if s.user == userid {
			n++
		}
	}
	if h.opts.MaxSessions > 0 && n >= h.opts.MaxSessions {
		h.refused++
		return r.fail(http.StatusBadRequest, 13, "The maximum number of sessions for this user has been reached.")
	}
	if h.opts.MFA && h.opts.MFAReason != 0 {
		h.refused++
		return r.fail(http.StatusConflict, h.opts.MFAReason, "The logon is incomplete: multi-factor authentication is required.")
	}
	if newPassword, ok := r.fields["new-password"].(string); ok {
		h.users[userid] = newPassword
	}
	s := h.newSessionLocked(userid)
	body := map[string]any{
		"api-session":            s.token,
		"notification-topic":     s.topic(TopicObject).name,
		"job-notification-topic": s.topic(TopicJob).name,
		"session-credential":     s.credential,
		"api-major-version":      4,
		"api-minor-version":      40,
		"password-expires":       -1,
	}
	if h.opts.MFA {
		s.partial = true
		return reply{status: http.StatusCreated, body: body}
	}
	h.logons++
	from, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		from = r.RemoteAddr
	}
	h.logLocked(TopicSecurity, h.apiLogonEntry(s, from))
	if h.rebuild {
		h.rebuild = false
		h.world.after(h.opts.StepDelay, h.republishInventoryLocked)
	}
	return ok(body)
}

func logoff(r *request) reply {
	r.h.logoffs++
	r.h.endSessionLocked(r.session, "logoff", r.h.opts.CutOnSessionEnd)
	return noContent()
}

func getNotificationTopics(r *request) reply {
	topics := make([]any, 0, len(r.session.topics))
	for _, t := range r.session.topics {
		topics = append(topics, map[string]any{"topic-type": t.kind, "topic-name": t.name})
	}
	return ok(map[string]any{"topics": topics})
}
