package playback

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
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

// maxIndex bounds what the answers of a capture take in memory, in bytes. Bodies are compressed.
const maxIndex = 16 << 20

// answer is what the HMC said at a time.
type answer struct {
	at     time.Duration
	status int
	// reason is that of an error, as the API counts them; 0: none.
	reason int
	header capture.Headers
	packed packed
}

func (a *answer) ok() bool { return a.status/100 == 2 }

func (a *answer) body() []byte { return a.packed.bytes() }

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
	began    time.Time
	end      capture.End
	exact    map[string][]*answer // by method, path and query
	byPath   map[string][]*answer // by method and path
	logons   []*answer
	segments []segment
	refused  map[string]bool // topics
	bodies   packer
	size     int // about what it takes, in bytes
}

// load reads a capture to its end, unless the index takes more than limit bytes.
func load(in *capture.Reader, name string, limit int) (*index, error) {
	x := &index{
		began: in.Began, refused: make(map[string]bool),
		exact: make(map[string][]*answer), byPath: make(map[string][]*answer),
	}
	var open *segment
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
			switch e.Frame.Command {
			case capture.Subscribe:
				if open == nil {
					open = &segment{begins: e.Time()}
				}
				topic := strings.TrimPrefix(e.Frame.Get("destination"), topicPrefix)
				open.topics = append(open.topics, topic)
				x.size += entrySize + len(topic)
			case capture.Error:
				x.refusal(e.Frame)
			}
		case capture.KindLink:
			if open != nil && !e.Link.Failed {
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
		if x.size > limit {
			return nil, fmt.Errorf("%s has answers of more than %d MiB, compressed, which is too much to play back: "+
				"capture for a shorter time (--duration)", name, limit>>20)
		}
	}
	if len(x.segments) == 0 {
		return nil, fmt.Errorf("%s has no link in it, and so nothing to play back: "+
			"capture --inspect shows what there is", name)
	}
	for i := range x.segments {
		s := &x.segments[i]
		s.topics = slices.DeleteFunc(s.topics, func(topic string) bool { return x.refused[topic] })
		s.newSession = i == 0 || slices.ContainsFunc(x.logons, func(a *answer) bool {
			return a.at >= x.segments[i-1].ends && a.at <= s.begins
		})
	}
	x.bodies = packer{}
	return x, nil
}

// entrySize is about what each entry of the index takes besides its texts.
const entrySize = 200

// topicRefused is how ActiveMQ names a topic that it refuses.
var topicRefused = regexp.MustCompile(`'topic://([^']{1,1000})'`)

func (x *index) refusal(f *capture.Frame) {
	for _, text := range [][]byte{[]byte(f.Get("message")), f.Body.Raw()} {
		for _, m := range topicRefused.FindAllSubmatch(text, maxRefused) {
			if topic := string(m[1]); !x.refused[topic] {
				x.refused[topic] = true
				x.size += entrySize + len(topic)
			}
		}
	}
}

// maxRefused is how many topics one ERROR refuses at most.
const maxRefused = 1000

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
	if r.Status < http.StatusOK || r.Answer.Omitted > 0 {
		return // it is as if it had not been asked
	}
	body := r.Answer.Raw()
	a := x.answer(at, r.Status, body)
	a.header = r.Headers
	switch {
	case r.Operation == logoffOperation,
		// that is told by who asks now
		a.status == http.StatusForbidden && (a.reason == reasonNoSession || a.reason == reasonUnknownSession):
	case r.Operation == logonOperation:
		if a.ok() {
			x.logons = append(x.logons, a)
		}
	case r.Operation == submitOperation && a.ok():
		x.submitted(at, r, body)
	default:
		x.add(r.Method, r.URI, r.Query, a)
	}
}

func (x *index) answer(at time.Duration, status int, body []byte) *answer {
	a := &answer{at: at, status: status}
	var size int
	a.packed, size = x.bodies.pack(body)
	x.size += entrySize + size
	if status >= http.StatusBadRequest {
		a.reason = reasonOf(body)
	}
	return a
}

func (x *index) add(method, path, query string, a *answer) {
	put := func(answers map[string][]*answer, key string) {
		if answers[key] == nil {
			x.size += entrySize + len(key)
		}
		answers[key] = append(answers[key], a)
	}
	put(x.exact, keyOf(method, path, query))
	if query != "" {
		put(x.byPath, keyOf(method, path, ""))
	}
}

// reasonOf is that of an error; 0: it has none.
func reasonOf(body []byte) int {
	var e struct{ Reason int }
	_ = json.Unmarshal(body, &e) // it may be none
	return e.Reason
}

// bulk is a request of Submit Requests, and its answer.
type bulk struct {
	Method string          `json:"method,omitempty"`
	URI    string          `json:"uri,omitempty"`
	ID     json.RawMessage `json:"id,omitempty"`
	Status int             `json:"status,omitempty"`
	Body   json.RawMessage `json:"body,omitempty"`
}

// bulks are several.
type bulks []bulk

const maxBulks = 10_000

var errBulks = errors.New("no list of requests, or too long a one")

// UnmarshalJSON reads them one by one, and no more than maxBulks.
func (b *bulks) UnmarshalJSON(text []byte) error {
	d := json.NewDecoder(bytes.NewReader(text))
	if first, err := d.Token(); err != nil || first != json.Delim('[') {
		return errBulks
	}
	for d.More() {
		var one bulk
		if len(*b) == maxBulks || d.Decode(&one) != nil {
			return errBulks
		}
		*b = append(*b, one)
	}
	return nil
}

// submitted takes up each of several requests in one.
func (x *index) submitted(at time.Duration, r *capture.Request, body []byte) {
	var sent struct{ Requests bulks }
	var answers bulks
	if json.Unmarshal(r.Sent.Raw(), &sent) != nil || json.Unmarshal(body, &answers) != nil {
		return
	}
	asked := make(map[string]*bulk, len(sent.Requests))
	for i := range sent.Requests {
		asked[string(sent.Requests[i].ID)] = &sent.Requests[i]
	}
	for _, one := range answers {
		// HTTP knows statuses of three digits
		if q := asked[string(one.ID)]; q != nil && one.Status >= http.StatusOK && one.Status < 1000 {
			path, query, _ := strings.Cut(q.URI, "?")
			x.add(q.Method, path, query, x.answer(at, one.Status, one.Body))
		}
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
	if strings.HasSuffix(path, "/open-os-message-channel") &&
		chosen.status == http.StatusConflict && chosen.reason == channelExists {
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
