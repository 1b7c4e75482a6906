// Package oracle judges whether the daemon has kept what docs/delivery.md promises: a test notes in
// a ledger what it publishes, with the faults that it causes, and has that compared with what
// arrived at each sink.
package oracle

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Notification is one thing that an HMC published: what becomes one event.
type Notification struct {
	hmc         string
	resource    string // a partition, "job", "audit" or "security"
	number      int    // of the resource, from 1 on
	recoverable bool   // the HMC holds it and tells it again
	at          time.Time
	subscribers int // to how many subscriptions it went
}

func mark(hmc, resource string, number int) string {
	return fmt.Sprintf("chaos:%s:%s:%d;", hmc, resource, number)
}

// Mark returns the text to publish, by which the notification is known wherever it arrives.
func (n *Notification) Mark() string { return mark(n.hmc, n.resource, n.number) }

// Ledger is what was published, of each HMC in the order in which it was. Safe
// for concurrent use.
type Ledger struct {
	mu        sync.Mutex
	published map[string][]*Notification // by HMC
	next      map[string]int
	windows   []Window
}

// NewLedger returns a ledger with nothing in it.
func NewLedger() *Ledger {
	return &Ledger{published: make(map[string][]*Notification), next: make(map[string]int)}
}

// Add notes what is about to be published.
func (l *Ledger) Add(hmc, resource string, recoverable bool) *Notification {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.next[hmc+":"+resource]++
	n := &Notification{hmc: hmc, resource: resource, number: l.next[hmc+":"+resource], recoverable: recoverable, at: time.Now()}
	l.published[hmc] = append(l.published[hmc], n)
	return n
}

// Sent notes to how many subscriptions it went.
func (l *Ledger) Sent(subscribers int, list ...*Notification) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range list {
		n.subscribers = subscribers
	}
}

// Window is a time in which a fault was at work that may cost notifications.
type Window struct {
	hmc      string // "" = all
	what     string
	from, to time.Time // to zero: it is still at work
}

// Begin notes that a fault begins, and returns what ends it.
func (l *Ledger) Begin(hmc, what string) (end func()) { return l.BeginAt(hmc, what, time.Now()) }

// BeginAt is Begin for a fault that has begun at a time.
func (l *Ledger) BeginAt(hmc, what string, from time.Time) (end func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := len(l.windows)
	l.windows = append(l.windows, Window{hmc: hmc, what: what, from: from})
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.windows[i].to = time.Now()
	}
}

// Snapshot returns copies of what is known.
func (l *Ledger) Snapshot() (published map[string][]Notification, windows []Window) {
	l.mu.Lock()
	defer l.mu.Unlock()
	published = make(map[string][]Notification, len(l.published))
	for hmc, list := range l.published {
		for _, n := range list {
			published[hmc] = append(published[hmc], *n)
		}
	}
	return published, slices.Clone(l.windows)
}

// Arrival is one event as a sink got it.
type Arrival struct {
	ID        string    `json:"id"`
	HMC       string    `json:"hmc"`
	Type      string    `json:"type"`
	Origin    string    `json:"origin"`
	Topic     string    `json:"topic"`
	TopicType string    `json:"topic_type"`
	Received  time.Time `json:"received"`
	Summary   string    `json:"summary"`
	Resource  *struct {
		ObjectURI string `json:"object_uri"`
	} `json:"resource"`
	Body json.RawMessage `json:"body"`

	mark string // "" = none of the ledger's
	raw  []byte
}

// Mark returns the mark of the notification that the event reports; "" if it is none of the ledger's.
func (a *Arrival) Mark() string { return a.mark }

// Gap is the body of a bridge-gap event.
type Gap struct {
	From      time.Time      `json:"from"`
	To        time.Time      `json:"to"`
	Causes    []string       `json:"causes"`
	Missed    map[string]int `json:"missed"`
	Recovered map[string]int `json:"recovered"`
	Missing   []string       `json:"may_be_missing"`
}

// marks finds a notification's mark.
var marks = regexp.MustCompile(`chaos:\w+:\w+:\d+;`) //nolint:gochecknoglobals // a constant

// ParseArrival reads an event. One without id, type or hmc is an error.
func ParseArrival(raw []byte) (Arrival, error) {
	a := Arrival{raw: bytes.Clone(raw)}
	if err := json.Unmarshal(raw, &a); err != nil {
		return a, fmt.Errorf("not an event: %w: %.200q", err, raw)
	}
	if a.ID == "" || a.Type == "" || a.HMC == "" {
		return a, fmt.Errorf("an event without id, type or hmc: %.200q", raw)
	}
	if !strings.HasPrefix(a.Type, "bridge-") { // one may quote what it could not do
		a.mark = string(marks.Find(raw))
	}
	return a, nil
}

// lane is what events are kept in order by, as docs/delivery.md has it.
func (a *Arrival) lane() string {
	if a.Resource != nil && a.Resource.ObjectURI != "" {
		return a.Resource.ObjectURI
	}
	return a.Topic
}

// topic tells what comes on one topic from what comes on others.
func (n *Notification) topic() string {
	switch {
	case slices.Contains([]string{"job", "audit", "security"}, n.resource), strings.HasSuffix(n.resource, "os"):
		return n.resource
	}
	return "object"
}

// parseMark is the reverse of mark.
func parseMark(mark string) (resource string, number int) {
	parts := bytes.Split([]byte(mark[:len(mark)-1]), []byte(":"))
	number, _ = strconv.Atoi(string(parts[3])) // the expression wants digits
	return string(parts[1]) + ":" + string(parts[2]), number
}

// Deliveries is what a sink got, in the order of arrival.
type Deliveries struct {
	Sink     string
	Arrivals []Arrival
	Dead     []Arrival // its dead letters
}

// Share brings what the HMCs of a group have reported to the account of the ledger in which the test
// has noted what all of them tell: a gap of one of them counts for it too. The order is kept of what
// each HMC reports. Any other HMC's arrivals stay as they are.
func Share(list []Arrival, account string, hmcs ...string) []Arrival {
	out := make([]Arrival, 0, len(list))
	for _, a := range list {
		if !slices.Contains(hmcs, a.HMC) {
			out = append(out, a)
			continue
		}
		if a.Type == "bridge-gap" {
			shared := a
			shared.ID, shared.HMC = a.ID+"@"+account, account
			out = append(out, shared)
		}
		if strings.Contains(a.mark, ":"+account+":") {
			resource := *a.Resource
			resource.ObjectURI += "@" + a.HMC
			a.Resource, a.HMC = &resource, account
		}
		out = append(out, a)
	}
	return out
}

// ReadLog reads what the log sink wrote. A kill may leave a line that is not whole, whose event is
// written again: so many may be torn.
func ReadLog(sink, path string, torn int) (Deliveries, error) {
	d := Deliveries{Sink: sink}
	f, err := os.Open(path)
	if err != nil {
		return d, err
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, 1<<20)
	for {
		line, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			if len(line) > 0 && torn == 0 {
				return d, fmt.Errorf("the log ends in the middle of a line: %.200q", line)
			}
			return d, nil
		}
		if err != nil {
			return d, err
		}
		line = bytes.TrimSpace(line)
		if torn > 0 && !bytes.HasSuffix(line, []byte("}")) {
			torn--
			continue
		}
		a, err := ParseArrival(line)
		if err != nil {
			return d, err
		}
		d.Arrivals = append(d.Arrivals, a)
	}
}
