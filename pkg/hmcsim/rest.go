package hmcsim

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

const noSuchResource = "The request URI does not designate a resource of an expected type, " +
	"or designates a resource that does not exist: "

// maxRequestBody is what an HMC takes; beyond it answers 413.
const maxRequestBody = 1 << 20

// RESTFaultKind names one way in which REST misbehaves.
type RESTFaultKind string

// What can go wrong with a REST request.
const (
	// 500 with a text/html body: "Web Services are not enabled.".
	RESTFaultDisabled RESTFaultKind = "disabled"
	RESTFaultBusy     RESTFaultKind = "busy"   // 503: too many concurrent requests
	RESTFaultStatus   RESTFaultKind = "status" // Status and Reason with a JSON error body
	RESTFaultSlow     RESTFaultKind = "slow"   // answered after Delay
	RESTFaultLate     RESTFaultKind = "late"   // answered at once; the answer comes after Delay
	// never answered; ends with the client, Close, Stop or Restart.
	RESTFaultHang    RESTFaultKind = "hang"
	RESTFaultDrop    RESTFaultKind = "drop"    // the connection is closed without an answer
	RESTFaultGarbage RESTFaultKind = "garbage" // 200 with a body that is not JSON
	// 200, and the connection is closed in the middle of the body.
	RESTFaultTruncate RESTFaultKind = "truncate"
	// 200 with no CPC or partition listed, as while an HMC learns what it manages.
	RESTFaultEmpty RESTFaultKind = "empty"
)

// RESTFault makes REST requests go wrong.
type RESTFault struct {
	Kind RESTFaultKind
	// the operation it is for, as Call.Operation names it; "" = every one
	Operation string
	// a part of the URI it is for, an object id for example; "" = every one
	URI            string
	Times          int           // how many requests; 0 = all until ClearRESTFaults
	Status, Reason int           // RESTFaultStatus
	Message        string        // RESTFaultStatus; "" = a general one
	Delay          time.Duration // RESTFaultSlow, RESTFaultLate; default 1 s
}

// FaultREST adds faults. The first that fits a request is what happens to it.
func (h *HMC) FaultREST(faults ...RESTFault) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.restFaults = append(h.restFaults, faults...)
}

// ClearRESTFaults takes all faults of REST away.
func (h *HMC) ClearRESTFaults() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.restFaults = nil
}

func (h *HMC) restFaultLocked(operation, uri string) (RESTFault, bool) {
	for i, f := range h.restFaults {
		if (f.Operation != "" && f.Operation != operation) || !strings.Contains(uri, f.URI) {
			continue
		}
		if f.Times == 1 {
			h.restFaults = slices.Delete(h.restFaults, i, i+1)
		} else if f.Times > 1 {
			h.restFaults[i].Times--
		}
		return f, true
	}
	return RESTFault{}, false
}

// Operations returns the names of all operations, as RESTFault.Operation and Call.Operation have
// them.
func Operations() []string {
	var names []string
	for i := range operations {
		names = append(names, operations[i].name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// request is one request as its handler sees it. HMC.mu is held while a handler runs.
type request struct {
	*http.Request
	session *session       // nil before logon
	ids     []string       // the path's variable segments
	query   url.Values     // of the URL
	raw     []byte         // the body
	fields  map[string]any // the body as a JSON object; nil if there is none
	op      *operation     // what is asked for
	h       *HMC           // who is asked
}

// reply is an answer. A nil body means none.
type reply struct {
	status int
	body   any
	reason int    // of an error
	before func() // is called before the answer is sent, without the lock; may be nil
}

// operation is one operation of the Web Services API.
type operation struct {
	name      string // IBM's name in lower case with dashes, as "get-notification-topics"
	method    string
	path      []string // segments; "{}" stands for any
	open      bool     // needs no session
	partial   bool     // a partially authenticated session will do
	forbidden bool     // must never be called by a bridge; counted
	// does several requests in one, instead of handle, which could not refer to the operations
	aggregates bool
	handle     func(*request) reply
}

func (h *HMC) newServer() *http.Server {
	return &http.Server{
		Handler: http.HandlerFunc(h.serve), TLSConfig: h.tls.Clone(), ReadHeaderTimeout: 30 * time.Second,
		IdleTimeout: h.opts.HTTPIdleTimeout, ErrorLog: ErrorLog(h.log),
	}
}

// serve answers one request.
func (h *HMC) serve(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	h.mu.Lock()
	if h.server == nil {
		h.mu.Unlock()
		panic(http.ErrAbortHandler)
	}
	h.inFlight.Add(1)
	defer h.inFlight.Done()
	generation := h.generation
	op, ids, pathKnown := h.route(r)
	name := "unknown"
	if op != nil {
		name = op.name
	}
	fault, faulty := h.restFaultLocked(name, r.URL.RequestURI())
	h.requests[name]++
	if op != nil && op.forbidden {
		h.forbidden++
	}
	stop := h.stopRequests
	h.mu.Unlock()

	call := Call{Time: start, Method: r.Method, URI: r.URL.RequestURI(), Operation: name, Header: r.Header.Clone()}
	head := w.Header()
	head.Set("Server", "Hardware management console API web server / 2.0")
	head.Set("Cache-control", "no-cache")
	head.Set(
		"x-request-id",
		fmt.Sprintf("Sx%s.%x Rx%x", h.world.name, start.UnixMilli()&0xffff, start.UnixNano()&0xffffff),
	)
	head.Set("Strict-Transport-Security", "max-age=0")
	head.Set("X-Frame-Options", "SAMEORIGIN")
	head.Set("X-Content-Type-Options", "nosniff")
	head.Set("Content-Security-Policy", "default-src 'self'")
	if r.ProtoMajor == 1 {
		head.Set("Keep-Alive", fmt.Sprintf("timeout=%d", int(max(h.opts.HTTPIdleTimeout.Seconds(), 1))))
	}

	// The body is read first: only then net/http notices that a client has gone.
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequestBody))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		call.Status = http.StatusRequestEntityTooLarge
		h.record(call)
		writeReply(w, r, errorReply(r, http.StatusRequestEntityTooLarge, 0, "The request body is too large."))
		return
	case err != nil:
		return
	}
	delay := cmp.Or(fault.Delay, time.Second)
	if faulty && fault.Kind != RESTFaultSlow && fault.Kind != RESTFaultLate {
		call.Status, call.Reason = fault.answers()
		h.record(call)
	}
	if faulty {
		switch fault.Kind {
		case RESTFaultSlow:
			if !wait(r, stop, delay) {
				panic(http.ErrAbortHandler)
			} // and then answered as usual
		case RESTFaultLate: // below
		case RESTFaultHang:
			wait(r, stop, time.Duration(math.MaxInt64))
			panic(http.ErrAbortHandler)
		case RESTFaultDrop:
			panic(http.ErrAbortHandler)
		default:
			writeFault(w, r, fault)
			if fault.Kind == RESTFaultTruncate {
				panic(http.ErrAbortHandler)
			}
			return
		}
	}

	h.mu.Lock()
	if h.server == nil || h.generation != generation { // stopped meanwhile
		h.mu.Unlock()
		panic(http.ErrAbortHandler)
	}
	rep := h.answerLocked(r, op, ids, pathKnown, body, &call)
	h.mu.Unlock()
	call.Status, call.Reason = rep.status, rep.reason
	h.record(call)
	if rep.before != nil {
		rep.before()
	}
	if fault.Kind == RESTFaultLate && !wait(r, stop, delay) {
		panic(http.ErrAbortHandler)
	}
	writeReply(w, r, rep)
}

// record keeps a call, before it is answered: whoever has the answer finds it in Calls.
func (h *HMC) record(call Call) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.calls.add(call)
}

// answers returns the status and reason that a fault answers with, 0 if it does not.
func (f *RESTFault) answers() (status, reason int) {
	switch f.Kind {
	case RESTFaultDisabled:
		return http.StatusInternalServerError, 0
	case RESTFaultBusy:
		return http.StatusServiceUnavailable, 0
	case RESTFaultGarbage, RESTFaultTruncate, RESTFaultEmpty:
		return http.StatusOK, 0
	case RESTFaultStatus:
		return f.Status, f.Reason
	default:
		return 0, 0
	}
}

// wait waits for d, and says whether nothing ended the request before: the client, or stop.
func wait(r *http.Request, stop <-chan struct{}, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-r.Context().Done():
		return false
	case <-stop:
		return false
	}
}

// writeFault answers wrongly.
func writeFault(w http.ResponseWriter, r *http.Request, fault RESTFault) {
	status, reason := fault.answers()
	switch fault.Kind {
	case RESTFaultDisabled:
		w.Header().Set("Content-Type", "text/html;charset=utf-8")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, disabledHTML)
	case RESTFaultBusy:
		writeReply(w, r, errorReply(r, status, reason, "Too many requests are being processed."))
	case RESTFaultGarbage:
		w.Header().Set("Content-Type", "application/json;charset=utf-8")
		_, _ = io.WriteString(w, `{"api-major-version": 4, "unfinished": [`)
	case RESTFaultEmpty:
		writeReply(w, r, ok(map[string]any{"cpcs": []any{}, "partitions": []any{}, "logical-partitions": []any{}}))
	case RESTFaultTruncate:
		w.Header().Set("Content-Type", "application/json;charset=utf-8")
		w.Header().Set("Content-Length", "4096")
		_, _ = io.WriteString(w, `{"api-major-version": 4,`)
		_ = http.NewResponseController(w).Flush()
	default:
		msg := fault.Message
		if msg == "" {
			msg = "The operation did not succeed."
		}
		writeReply(w, r, errorReply(r, status, reason, msg))
	}
}

// disabledHTML is the body of an HMC whose Web Services API is switched off, as zhmcclient expects
// it.
const disabledHTML = `<!doctype html public "-//IETF//DTD HTML 2.0//EN">
<html>
<head>
<title>500 Internal Server Error</title>
</head>
<body>
<h1>Internal Server Error</h1>
<pre>
javax.servlet.ServletException: Web Services are not enabled.
	at com.ibm.hwmca.fw.api.ApiServlet.service(ApiServlet.java:212)
	at javax.servlet.http.HttpServlet.service(HttpServlet.java:668)
</pre>
</body>
</html>
`

// answerLocked finds out who asks and lets the operation's handler answer.
func (h *HMC) answerLocked(
	r *http.Request, op *operation, ids []string, pathKnown bool, body []byte, call *Call,
) reply {
	if r.ProtoMajor == 1 && r.ProtoMinor == 0 {
		return errorReply(r, http.StatusHTTPVersionNotSupported, 0, "HTTP/1.0 is not supported.")
	}
	if accept := r.Header.Get("Accept"); accept != "" && !acceptsJSON(accept) {
		return errorReply(r, http.StatusNotAcceptable, 0, "The Accept header does not permit application/json.")
	}
	req := &request{Request: r, ids: ids, raw: body, op: op, h: h}
	if op == nil || !op.open {
		token := r.Header.Get("X-API-Session")
		if token == "" {
			return errorReply(r, http.StatusForbidden, 4, "No session id was provided (must login)")
		}
		s := h.sessions[token]
		if s == nil {
			return errorReply(r, http.StatusForbidden, 5, "The x-api-session header did not map to a known session.")
		}
		if s.partial && (op == nil || !op.partial) {
			return errorReply(r, http.StatusForbidden, 5, "The session is only partially authenticated.")
		}
		s.lastUsed = time.Now()
		req.session = s
		call.Session = s.nr
	}
	if op == nil {
		if pathKnown {
			return errorReply(r, http.StatusMethodNotAllowed, 0, "The method is not allowed for this URI.")
		}
		return errorReply(
			r, http.StatusNotFound, 1, noSuchResource+r.URL.Path,
		)
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return errorReply(r, http.StatusBadRequest, 14, "A query parameter is malformed.")
	}
	req.query = query
	if len(bytes.TrimSpace(body)) > 0 {
		if err := json.Unmarshal(body, &req.fields); err != nil || req.fields == nil {
			return errorReply(r, http.StatusBadRequest, 9, "The request body is not a well-formed JSON object.")
		}
	}
	if op.aggregates {
		return submitRequests(req)
	}
	return op.handle(req)
}

func acceptsJSON(accept string) bool {
	for part := range strings.SplitSeq(accept, ",") {
		media, _, _ := strings.Cut(part, ";")
		switch strings.TrimSpace(media) {
		case "*/*", "application/*", "application/json":
			return true
		}
	}
	return false
}

// route finds the operation of a request and the variable segments of its path.
func (h *HMC) route(r *http.Request) (op *operation, ids []string, pathKnown bool) {
	segments := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	for i := range operations {
		o := &operations[i]
		if len(o.path) != len(segments) {
			continue
		}
		ids = ids[:0]
		match := true
		for j, want := range o.path {
			switch {
			case want == "{}":
				ids = append(ids, segments[j])
			case want != segments[j]:
				match = false
			}
		}
		if !match {
			continue
		}
		pathKnown = true
		if o.method == r.Method {
			return o, ids, true
		}
	}
	return nil, nil, pathKnown
}

// errorReply is an error as the Web Services API answers it.
func errorReply(r *http.Request, status, reason int, message string) reply {
	return reply{status: status, reason: reason, body: map[string]any{
		"http-status": status, "reason": reason, "message": message, "request-method": r.Method,
		"request-uri": r.URL.RequestURI(),
	}}
}

func (r *request) fail(status, reason int, message string) reply {
	return errorReply(r.Request, status, reason, message)
}

func (r *request) notFound() reply {
	return r.fail(
		http.StatusNotFound, 1, noSuchResource+r.URL.Path,
	)
}

func ok(body any) reply { return reply{status: http.StatusOK, body: body} }

func noContent() reply { return reply{status: http.StatusNoContent} }

// writeReply sends an answer, chunked as real HMCs do.
func writeReply(w http.ResponseWriter, r *http.Request, rep reply) {
	if rep.body == nil {
		w.WriteHeader(rep.status)
		return
	}
	body, err := json.Marshal(rep.body)
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json;charset=utf-8")
	w.WriteHeader(rep.status)
	if r.Method == http.MethodHead {
		return
	}
	_ = http.NewResponseController(w).Flush()
	_, _ = w.Write(body)
}

// Call is one request as it was made.
type Call struct {
	Time      time.Time
	Method    string
	URI       string
	Operation string // "unknown" for what is no operation of the Web Services API
	Session   int    // SessionInfo.Nr; 0 without a session
	Status    int    // 0 when there is no answer
	Reason    int
	Header    http.Header
}

// keepCalls is how many calls are kept.
const keepCalls = 20000

// callLog keeps the last calls.
type callLog struct {
	calls []Call
	next  int
}

func (l *callLog) add(c Call) {
	if len(l.calls) < keepCalls {
		l.calls = append(l.calls, c)
		return
	}
	l.calls[l.next] = c
	l.next = (l.next + 1) % keepCalls
}

func (l *callLog) all() []Call {
	return append(slices.Clone(l.calls[l.next:]), l.calls[:l.next]...)
}

// Calls returns the last requests (up to 20,000), the oldest first. A request is among them before
// its answer is sent.
func (h *HMC) Calls() []Call {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.calls.all()
}

// RESTRequests returns how often each operation has been called.
func (h *HMC) RESTRequests() map[string]int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.Clone(h.requests)
}

// RequestsPerMinute returns the requests of each minute since the first of the calls that are kept,
// the present minute last.
func (h *HMC) RequestsPerMinute() []int {
	calls := h.Calls()
	if len(calls) == 0 {
		return nil
	}
	first := calls[0].Time
	for _, c := range calls {
		if c.Time.Before(first) {
			first = c.Time
		}
	}
	perMinute := make([]int, int(time.Since(first)/time.Minute)+1)
	for _, c := range calls {
		perMinute[int(c.Time.Sub(first)/time.Minute)]++
	}
	return perMinute
}

// BusiestMinute returns the most requests within any 60 s, of the calls that are kept.
func (h *HMC) BusiestMinute() int {
	calls := h.Calls()
	slices.SortFunc(calls, func(a, b Call) int { return a.Time.Compare(b.Time) })
	most, from := 0, 0
	for i := range calls {
		for calls[i].Time.Sub(calls[from].Time) >= time.Minute {
			from++
		}
		most = max(most, i-from+1)
	}
	return most
}

// ForbiddenCalls returns how often operations were called that change or report hardware messages:
// deleting one, and the service operations. (On a real HMC they call IBM.) A monitor must never do
// that.
func (h *HMC) ForbiddenCalls() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.forbidden
}
