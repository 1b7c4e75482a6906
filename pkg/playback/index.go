package playback

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/hmcnotifyd/hmcnotifyd/pkg/capture"
)

const (
	logonOperation  = "logon"
	logoffOperation = "logoff"
	submitOperation = "submit-requests"

	topicPrefix = "/topic/"
)

// answer is what the HMC said at a time.
type answer struct {
	at     time.Duration
	status int
	header map[string]string
	body   []byte
}

func (a *answer) ok() bool { return a.status/100 == 2 }

// segment is a link of the capture, from the first subscription to its end.
type segment struct {
	begins, ends time.Duration
	// lost says that the HMC or the network ended it, newSession that a logon came before it.
	lost, newSession bool
	topics           []string
}

// index is what must be known of a capture before it is played: all answers, the logons and the
// links. Frames stay in the file.
type index struct {
	header   capture.Header
	end      capture.End
	exact    map[string][]*answer // by method, path and query
	byPath   map[string][]*answer // by method and path
	logons   []*answer
	segments []segment
	bodies   map[string][]byte // equal ones are kept once
}

func load(r io.Reader) (*index, error) {
	in, err := capture.NewReader(r)
	if err != nil {
		return nil, err
	}
	x := &index{
		header: in.Header, bodies: make(map[string][]byte),
		exact: make(map[string][]*answer), byPath: make(map[string][]*answer),
	}
	var open *segment
	var refused strings.Builder
	for {
		e, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		switch e.Kind {
		case capture.KindRequest:
			x.request(e.Time(), e.Request)
		case capture.KindFrame:
			switch topic, _ := strings.CutPrefix(e.Frame.Get("destination"), topicPrefix); e.Frame.Command {
			case capture.Subscribe:
				if open == nil {
					open = &segment{begins: e.Time()}
				}
				open.topics = append(open.topics, topic)
			case capture.Error:
				refused.WriteString(e.Frame.Get("message") + "\n" + string(e.Frame.Body.Raw()) + "\n")
			}
		case capture.KindLink:
			if open != nil {
				open.ends, open.lost = e.Time(), e.Link.Lost != ""
				x.segments, open = append(x.segments, *open), nil
			}
		case capture.KindEnd:
			x.end = *e.End
			if open != nil {
				open.ends = e.Time()
				x.segments = append(x.segments, *open)
			}
		}
	}
	if len(x.segments) == 0 {
		return nil, errors.New("there is no link in this capture, and so nothing to play back")
	}
	for i := range x.segments {
		s := &x.segments[i]
		s.topics = slices.DeleteFunc(s.topics, func(topic string) bool {
			return strings.Contains(refused.String(), "'topic://"+topic+"'")
		})
		s.newSession = i == 0 || slices.ContainsFunc(x.logons, func(a *answer) bool {
			return a.at >= x.segments[i-1].ends && a.at <= s.begins
		})
	}
	x.bodies = nil
	return x, nil
}

func keyOf(method, path, query string) string {
	if query == "" {
		return method + " " + path
	}
	if values, err := url.ParseQuery(query); err == nil {
		query = values.Encode()
	}
	return method + " " + path + "?" + query
}

// request takes up an exchange.
func (x *index) request(at time.Duration, r *capture.Request) {
	a := &answer{at: at, status: r.Status, header: r.Headers, body: x.keep(r.Answer.Raw())}
	switch {
	case r.Status == 0, r.Operation == logoffOperation,
		r.Status == http.StatusForbidden && sessionLost(a.body): // that is told by who asks now
	case r.Operation == logonOperation:
		if a.ok() {
			x.logons = append(x.logons, a)
		}
	case r.Operation == submitOperation && a.ok():
		x.submitted(at, r, a.body)
	default:
		x.add(r.Method, r.URI, r.Query, a)
	}
}

func (x *index) add(method, path, query string, a *answer) {
	key := keyOf(method, path, query)
	x.exact[key] = append(x.exact[key], a)
	if query != "" {
		key = keyOf(method, path, "")
		x.byPath[key] = append(x.byPath[key], a)
	}
}

func (x *index) keep(b []byte) []byte {
	if same, ok := x.bodies[string(b)]; ok {
		return same
	}
	x.bodies[string(b)] = b
	return b
}

// sessionLost says whether an answer is that to a session which is not known.
func sessionLost(body []byte) bool {
	var e struct{ Reason int }
	return json.Unmarshal(body, &e) == nil && (e.Reason == 4 || e.Reason == 5)
}

// bulk is a request of Submit Requests, and its answer.
type bulk struct {
	Method string          `json:"method,omitempty"`
	URI    string          `json:"uri,omitempty"`
	ID     json.RawMessage `json:"id,omitempty"`
	Status int             `json:"status,omitempty"`
	Body   json.RawMessage `json:"body,omitempty"`
}

// submitted takes up each of several requests in one.
func (x *index) submitted(at time.Duration, r *capture.Request, body []byte) {
	var sent struct{ Requests []bulk }
	var answers []bulk
	if json.Unmarshal(r.Sent.Raw(), &sent) != nil || json.Unmarshal(body, &answers) != nil {
		return
	}
	for _, one := range answers {
		i := slices.IndexFunc(sent.Requests, func(b bulk) bool { return bytes.Equal(b.ID, one.ID) })
		if i < 0 {
			continue
		}
		path, query, _ := strings.Cut(sent.Requests[i].URI, "?")
		x.add(sent.Requests[i].Method, path, query, &answer{at: at, status: one.Status, body: x.keep(one.Body)})
	}
}

// answerAt returns what the HMC said to a request, as of a time; nil: nothing like it was ever
// asked. What was asked before the link of that time began is as old as that, so the first answer
// of this link is taken, although it is still to come; but which topics there are is asked before
// each link.
func (x *index) answerAt(method, path, query string, at time.Duration) *answer {
	all := x.exact[keyOf(method, path, query)]
	if all == nil && query != "" {
		all = x.exact[keyOf(method, path, "")]
	}
	if all == nil {
		all = x.byPath[keyOf(method, path, "")]
	}
	if all == nil {
		return nil
	}
	chosen := latest(all, at)
	if s := x.segmentAt(at); chosen.at < s.begins && path != topicsPath {
		i := slices.IndexFunc(all, func(a *answer) bool { return a.at >= s.begins && a.at <= s.ends })
		if i >= 0 {
			chosen = all[i]
		}
	}
	if strings.HasSuffix(path, "/open-os-message-channel") && isReason(chosen, channelExists) {
		// it is opened anew
		refused := func(a *answer) bool { return !a.ok() }
		if opened := latest(slices.DeleteFunc(slices.Clone(all), refused), at); opened != nil {
			return opened
		}
	}
	return chosen
}

// segmentAt returns the last link that began before a time.
func (x *index) segmentAt(at time.Duration) *segment {
	i := 0
	for i+1 < len(x.segments) && x.segments[i+1].begins <= at {
		i++
	}
	return &x.segments[i]
}

const (
	channelExists = 331
	topicsPath    = "/api/sessions/operations/get-notification-topics"
)

func isReason(a *answer, reason int) bool {
	var e struct{ Reason int }
	return a.status == http.StatusConflict && json.Unmarshal(a.body, &e) == nil && e.Reason == reason
}

// latest returns the last one that was true at a time, or the first one where none was.
func latest(all []*answer, at time.Duration) *answer {
	var chosen *answer
	for _, a := range all {
		if chosen == nil || a.at <= at {
			chosen = a
		}
	}
	return chosen
}

// String says what there is to play.
func (x *index) String() string {
	last := x.segments[len(x.segments)-1]
	return fmt.Sprintf("%d frames and %d requests of %s, over %d links",
		x.end.Frames, x.end.Requests, (last.ends - x.segments[0].begins).Round(time.Second), len(x.segments))
}
