package playback

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/capture"
	"github.com/hmcnotifyd/hmcnotifyd/pkg/hmcsim"
)

const (
	// maxBody bounds a request, maxAnswers the answers to several requests in one, in bytes.
	maxBody, maxAnswers = 4 << 20, 8 << 20
	// maxMembers bounds what is taken apart of a body: it is played back as it is where it has
	// more members. maxAsked is how many different requests are remembered, and maxTold how many
	// bytes of what was notified.
	maxMembers, maxAsked, maxTold = 50_000, 100_000, 8 << 20
	// The reasons of the answers that a playback gives by itself.
	reasonNoSession, reasonUnknownSession, reasonNotFound, reasonBadRequest = 4, 5, 1, 9
)

// serve answers a request as the HMC did.
func (h *HMC) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		h.refuse(w, r, http.StatusBadRequest, reasonBadRequest, "the body cannot be read")
		return
	}
	switch {
	case r.Method == http.MethodGet && r.URL.Path == "/api/version":
		if a := h.index.answerAt(r.Method, r.URL.Path, "", h.now()); a != nil {
			h.reply(w, a, a.body())
			return
		}
		h.json(w, map[string]any{
			"api-major-version": 4, "api-minor-version": 1, "hmc-name": "PLAYBACK", "hmc-version": "2.16.0",
		})
		return
	case r.Method == http.MethodPost && r.URL.Path == "/api/sessions":
		h.serveLogon(w, r, body)
		return
	}
	id := r.Header.Get("X-API-Session")
	h.mu.Lock()
	_, known := h.sessions[id]
	h.mu.Unlock()
	switch {
	case id == "":
		h.refuse(w, r, http.StatusForbidden, reasonNoSession, "no session id was provided")
	case !known:
		h.refuse(w, r, http.StatusForbidden, reasonUnknownSession, "the session id is not known")
	case r.Method == http.MethodDelete && r.URL.Path == "/api/sessions/this-session":
		h.mu.Lock()
		delete(h.sessions, id)
		h.mu.Unlock()
		w.WriteHeader(http.StatusNoContent)
	case r.Method == http.MethodPost && r.URL.Path == "/api/services/aggregation/submit":
		h.serveBulk(w, r, body)
	default:
		h.serveOne(w, r)
	}
}

func (h *HMC) serveOne(w http.ResponseWriter, r *http.Request) {
	a := h.index.answerAt(r.Method, r.URL.Path, r.URL.RawQuery, h.now())
	h.mu.Lock()
	if len(h.asked) < maxAsked {
		h.asked[keyOf(r.Method, r.URL.Path, "")] = true
	}
	h.mu.Unlock()
	if a == nil {
		h.refuse(w, r, http.StatusNotFound, reasonNotFound, "the captured daemon did not ask this")
		return
	}
	if tellsOrder(r.Method + " " + r.URL.Path) {
		h.await(r.Context(), a.at)
	}
	h.reply(w, a, h.current(r.URL.Path, a))
}

// await waits for a time of the capture: what was notified before an answer is notified before it
// again, even where who asks now is quicker. It does not while time stands still: that may be for
// something that comes after this answer.
func (h *HMC) await(ctx context.Context, at time.Duration) {
	still := 0
	for began := time.Now(); h.now() < at && still < patientPolls && time.Since(began) < askWait; {
		if still++; !h.still.Load() {
			still = 0
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(poll):
		}
	}
}

func (h *HMC) serveLogon(w http.ResponseWriter, r *http.Request, body []byte) {
	var who struct{ Userid, Password string }
	if json.Unmarshal(body, &who) != nil || !isUser(who.Userid, who.Password) {
		h.refuse(w, r, http.StatusForbidden, 0, "Login failed. Userid and password are "+
			hmcsim.DefaultUserid+" and "+hmcsim.DefaultPassword)
		return
	}
	answer := map[string]any{"api-major-version": 4, "api-minor-version": 1, "password-expires": -1}
	if a := latest(h.index.logons, h.now()); a != nil {
		h.began(a.at)
		_ = parse(a.body(), &answer) // else the session was made elsewhere
	} else if topics := h.index.answerAt(http.MethodGet, topicsPath, "", h.now()); topics != nil {
		var list struct {
			Topics []map[string]any `json:"topics"`
		}
		_ = parse(topics.body(), &list)
		for _, t := range list.Topics {
			switch t["topic-type"] {
			case "object-notification":
				answer["notification-topic"] = t["topic-name"]
			case "job-notification":
				answer["job-notification-topic"] = t["topic-name"]
			}
		}
	}
	answer["api-session"], answer["session-credential"] = h.logon()
	h.json(w, answer)
}

// serveBulk answers several requests in one.
func (h *HMC) serveBulk(w http.ResponseWriter, r *http.Request, body []byte) {
	var sent struct{ Requests bulks }
	if json.Unmarshal(body, &sent) != nil {
		h.refuse(w, r, http.StatusBadRequest, reasonBadRequest, "the body is not what this operation takes")
		return
	}
	answers, size := make(bulks, 0, len(sent.Requests)), 0
	for _, one := range sent.Requests {
		path, query, _ := strings.Cut(one.URI, "?")
		b := bulk{ID: one.ID, Status: http.StatusNotFound}
		if a := h.index.answerAt(one.Method, path, query, h.now()); a != nil {
			b.Status = a.status
			if current := h.later(h.current(path, a)); json.Valid(current) {
				b.Body = current
			}
			if size += len(b.Body); size > maxAnswers {
				h.refuse(w, r, http.StatusBadRequest, reasonBadRequest, "the answers are too large for one")
				return
			}
		}
		answers = append(answers, b)
	}
	h.json(w, answers)
}

func (h *HMC) reply(w http.ResponseWriter, a *answer, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	for name, value := range map[string]string{
		"Content-Type": a.header.ContentType, "Retry-After": a.header.RetryAfter,
	} {
		if value != "" {
			w.Header().Set(name, value)
		}
	}
	w.WriteHeader(a.status)
	_, _ = w.Write(h.later(body))
}

func (h *HMC) json(w http.ResponseWriter, what any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(what)
}

func (h *HMC) refuse(w http.ResponseWriter, r *http.Request, status, reason int, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{
		"http-status": status, "reason": reason, "message": message,
		"request-method": r.Method, "request-uri": r.URL.Path,
	})
}

// times are members that hold a time, in milliseconds; one that is none has fewer digits.
var times = regexp.MustCompile(`"(?:event-time|timestamp)":\s*[0-9]{12,14}\b`)

// later moves the times in what the HMC has said by how long ago that is, so that it is new again.
func (h *HMC) later(body []byte) []byte {
	return times.ReplaceAllFunc(body, func(member []byte) []byte {
		i := bytes.LastIndexAny(member, ": ") + 1
		return append(member[:i:i], h.laterText(string(member[i:]))...)
	})
}

// laterText moves one time.
func (h *HMC) laterText(ms string) string {
	n, err := strconv.ParseInt(ms, 10, 64)
	if err != nil || n <= 0 {
		return ms
	}
	h.began(h.index.segments[0].begins)
	return strconv.FormatInt(n+h.shift, 10)
}

// change is what a notification has told of a property.
type change struct {
	at    time.Duration
	value json.RawMessage
}

// note remembers what a notification tells of statuses and properties: an answer that is older must
// not take it back.
func (h *HMC) note(f *capture.Frame) {
	kind, uri := f.Get("notification-type"), f.Get("object-uri")
	if kind != "status-change" && kind != "property-change" || uri == "" || f.Get("element-uri") != "" {
		return
	}
	var body struct {
		Reports []map[string]json.RawMessage `json:"change-reports"`
	}
	if !parse(f.Body.Raw(), &body) {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.told[uri] == nil {
		h.told[uri] = make(map[string]change)
	}
	set := func(name string, value json.RawMessage) {
		if len(value) == 0 || value[0] == '[' || value[0] == '{' { // of an array it is what was added
			return
		}
		size := len(value) - len(h.told[uri][name].value)
		if _, has := h.told[uri][name]; !has {
			size += entrySize + len(uri) + len(name)
		}
		if h.toldSize+size <= maxTold {
			h.toldSize += size
			h.told[uri][name] = change{h.now(), value}
		}
	}
	for _, report := range body.Reports {
		if kind == "status-change" {
			set("status", report["new-status"])
			set("has-unacceptable-status", report["has-unacceptable-status"])
			continue
		}
		var name string
		if json.Unmarshal(report["property-name"], &name) == nil {
			set(name, report["new-value"])
		}
	}
}

// current returns an answer with what notifications have told since.
func (h *HMC) current(path string, a *answer) []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	var top map[string]json.RawMessage
	body := a.body()
	if !a.ok() || len(h.told) == 0 || !parse(body, &top) {
		return body
	}
	if h.patch(path, top, a.at) {
		return encode(top, body)
	}
	for name, list := range top {
		var objects []map[string]json.RawMessage
		if !bytes.HasPrefix(list, []byte("[{")) || json.Unmarshal(list, &objects) != nil {
			continue
		}
		changed := false
		for _, o := range objects {
			var uri string
			if json.Unmarshal(o["object-uri"], &uri) == nil {
				changed = h.patch(uri, o, a.at) || changed
			}
		}
		if changed {
			top[name] = encode(objects, list)
		}
	}
	return encode(top, body)
}

// patch puts what was told of an object after a time into what is known of it.
func (h *HMC) patch(uri string, object map[string]json.RawMessage, after time.Duration) (changed bool) {
	const status, judgement = "status", "has-unacceptable-status"
	told := h.told[uri]
	for name, c := range told {
		if _, has := object[name]; has && c.at > after {
			object[name] = c.value
			changed = true
		}
	}
	if told[status].at > max(after, told[judgement].at) {
		delete(object, judgement) // it was one of another status
	}
	return changed
}

// parse takes a body apart, unless it is no JSON of that kind, or a very large one.
func parse(body []byte, into any) bool {
	return bytes.Count(body, []byte(",")) <= maxMembers && json.Unmarshal(body, into) == nil
}

func encode(what any, otherwise []byte) []byte {
	b, err := json.Marshal(what)
	if err != nil {
		return otherwise
	}
	return b
}
