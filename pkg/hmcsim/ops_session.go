package hmcsim

import (
	"encoding/json"
	"net"
	"net/http"
	"slices"
)

func queryAPIVersion(r *request) reply {
	return ok(map[string]any{
		"api-major-version": 4, "api-minor-version": 40, "hmc-name": r.h.opts.Name,
		"hmc-version": r.h.opts.Version,
	})
}

// loginFailed is the message of a refused logon, whatever was wrong with it, as real HMCs say it.
const loginFailed = "Login failed. Try the operation again. " +
	"If the problem persists, contact your security administrator."

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
	expires, limited := h.expires[userid]
	if !limited {
		expires = -1
	}
	want, known := h.users[userid]
	right := known && want == password && !h.disabledLocked(userid)
	if right && expires == expired && !h.opts.ExpiredIsWrong {
		h.refused++
		h.logLocked(TopicSecurity, h.badLogonEntry(userid))
		return r.fail(http.StatusBadRequest, 45, "The password for this user has expired.")
	}
	if !right || expires == expired {
		h.refused++
		h.failures[userid]++
		h.logLocked(TopicSecurity, h.badLogonEntry(userid))
		return r.fail(http.StatusForbidden, 0, loginFailed)
	}
	delete(h.failures, userid)
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
		return r.fail(
			http.StatusConflict, h.opts.MFAReason,
			"The logon is incomplete: multi-factor authentication is required.",
		)
	}
	if newPassword, ok := r.fields["new-password"].(string); ok {
		h.users[userid], expires = newPassword, -1
		delete(h.expires, userid)
	}
	s := h.newSessionLocked(userid)
	body := map[string]any{
		"api-session": s.token, "notification-topic": s.topic(TopicObject).name,
		"job-notification-topic": s.topic(TopicJob).name, "session-credential": s.credential,
		"api-major-version": 4, "api-minor-version": 40, "password-expires": expires,
	}
	rep := ok(body)
	if h.opts.OnLogon != nil {
		info := s.info()
		rep.before = func() { h.opts.OnLogon(info) }
	}
	if h.opts.MFA {
		s.partial = true
		rep.status = http.StatusCreated
		return rep
	}
	from, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		from = r.RemoteAddr
	}
	h.loggedOnLocked(s, from)
	return rep
}

// disabledLocked says whether a userid has been disabled by too many refused logons.
func (h *HMC) disabledLocked(userid string) bool {
	return h.opts.DisableAfter > 0 && h.failures[userid] >= h.opts.DisableAfter
}

// loggedOnLocked does what follows a logon.
func (h *HMC) loggedOnLocked(s *session, from string) {
	h.logons++
	h.logLocked(TopicSecurity, h.apiLogonEntry(s, from))
	if h.rebuild {
		h.rebuild = false
		h.world.after(h.opts.StepDelay, h.republishInventoryLocked)
	}
}

func logoff(r *request) reply {
	r.h.logoffs++
	r.h.endSessionLocked(r.session, "logoff", r.h.opts.CutOnSessionEnd)
	return noContent()
}

func getNotificationTopics(r *request) reply {
	topics := make([]any, 0, len(r.session.topics))
	for _, t := range r.session.topics {
		entry := map[string]any{"topic-type": t.kind, "topic-name": t.name}
		if t.partition != nil {
			entry["object-uri"] = t.partition.uri()
			entry["include-refresh-messages"] = t.refresh
		}
		topics = append(topics, entry)
	}
	return ok(map[string]any{"topics": topics})
}

func getConsole(r *request) reply {
	h := r.h
	return r.pick(map[string]any{
		"class":                  "console",
		"object-id":              "console",
		"object-uri":             "/api/console",
		"parent":                 nil,
		"name":                   h.opts.Name,
		"version":                h.opts.Version,
		"description":            "",
		"status":                 statusOperating,
		"is-auto-switch-enabled": false,
		"has-hardware-messages":  len(h.hardware) > 0,
		"hardware-messages":      h.hardware.properties(),
		"machine-info": map[string]any{
			"machine-type": "2461", "machine-model": "SE3", "machine-serial": "000000000042",
		},
	})
}

// getLog returns the handler that reads one of the console's logs: a JSON array, the newest entry
// first (no order is promised).
func getLog(kind string) func(*request) reply {
	return func(r *request) reply {
		book, denied := r.h.book(kind), r.h.opts.NoAuditLog
		if kind == TopicSecurity {
			denied = r.h.opts.NoSecurityLog
		}
		if denied {
			return r.fail(
				http.StatusForbidden, 1, "The API user does not have the required permission for this operation.",
			)
		}
		from, to, bad := r.timeBounds()
		if bad != nil {
			return *bad
		}
		list := make([]json.RawMessage, 0, len(book.entries))
		for _, e := range slices.Backward(book.entries) {
			if e.time >= from && e.time <= to {
				list = append(list, e.json)
			}
		}
		return ok(list)
	}
}
