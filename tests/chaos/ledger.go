package chaos

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
	"sync"
	"time"
)

// notification is one thing that an HMC published: what becomes one event.
type notification struct {
	hmc         string
	resource    string // a partition, "job", "audit" or "security"
	number      int    // of the resource, from 1 on
	recoverable bool   // the HMC holds it and tells it again
	at          time.Time
	subscribers int // to how many subscriptions it went
}

// mark is the text that makes a notification known wherever it arrives.
func mark(hmc, resource string, number int) string {
	return fmt.Sprintf("chaos:%s:%s:%d;", hmc, resource, number)
}

func (n *notification) mark() string { return mark(n.hmc, n.resource, n.number) }

// ledger is what was published, of each HMC in the order in which it was. Safe
// for concurrent use.
type ledger struct {
	mu        sync.Mutex
	published map[string][]*notification // by HMC
	next      map[string]int
	windows   []window
}

func newLedger() *ledger {
	return &ledger{published: make(map[string][]*notification), next: make(map[string]int)}
}

// add notes what is about to be published.
func (l *ledger) add(hmc, resource string, recoverable bool) *notification {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.next[hmc+":"+resource]++
	n := &notification{hmc: hmc, resource: resource, number: l.next[hmc+":"+resource], recoverable: recoverable, at: time.Now()}
	l.published[hmc] = append(l.published[hmc], n)
	return n
}

// sent notes to how many subscriptions it went.
func (l *ledger) sent(subscribers int, list ...*notification) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range list {
		n.subscribers = subscribers
	}
}

// window is a time in which a fault was at work that may cost notifications.
type window struct {
	hmc      string // "" = all
	what     string
	from, to time.Time // to zero: it is still at work
}

// begin notes that a fault begins, and returns what ends it.
func (l *ledger) begin(hmc, what string) (end func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := len(l.windows)
	l.windows = append(l.windows, window{hmc: hmc, what: what, from: time.Now()})
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.windows[i].to = time.Now()
	}
}

// snapshot returns copies of what is known.
func (l *ledger) snapshot() (published map[string][]notification, windows []window) {
	l.mu.Lock()
	defer l.mu.Unlock()
	published = make(map[string][]notification, len(l.published))
	for hmc, list := range l.published {
		for _, n := range list {
			published[hmc] = append(published[hmc], *n)
		}
	}
	return published, slices.Clone(l.windows)
}

// arrival is one event as a sink got it.
type arrival struct {
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

// gapBody is the body of a bridge-gap event.
type gapBody struct {
	From      time.Time      `json:"from"`
	To        time.Time      `json:"to"`
	Causes    []string       `json:"causes"`
	Missed    map[string]int `json:"missed"`
	Recovered map[string]int `json:"recovered"`
	Missing   []string       `json:"may_be_missing"`
}

// marks finds a notification's mark.
var marks = regexp.MustCompile(`chaos:\w+:\w+:\d+;`) //nolint:gochecknoglobals // a constant

func parseArrival(raw []byte) (arrival, error) {
	a := arrival{raw: bytes.Clone(raw)}
	if err := json.Unmarshal(raw, &a); err != nil {
		return a, fmt.Errorf("not an event: %w: %.200q", err, raw)
	}
	if a.ID == "" || a.Type == "" || a.HMC == "" {
		return a, fmt.Errorf("an event without id, type or hmc: %.200q", raw)
	}
	a.mark = string(marks.Find(raw))
	return a, nil
}

// lane is what events are kept in order by, as docs/delivery.md has it.
func (a *arrival) lane() string {
	if a.Resource != nil && a.Resource.ObjectURI != "" {
		return a.Resource.ObjectURI
	}
	return a.Topic
}

// parseMark is the reverse of mark.
func parseMark(mark string) (resource string, number int) {
	parts := bytes.Split([]byte(mark[:len(mark)-1]), []byte(":"))
	number, _ = strconv.Atoi(string(parts[3])) // the expression wants digits
	return string(parts[1]) + ":" + string(parts[2]), number
}

// deliveries is what a sink got, in the order of arrival.
type deliveries struct {
	sink     string
	arrivals []arrival
	dead     []arrival // its dead letters
}

// readLog reads what the log sink wrote.
func readLog(sink, path string) (deliveries, error) {
	d := deliveries{sink: sink}
	f, err := os.Open(path)
	if err != nil {
		return d, err
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, 1<<20)
	for {
		line, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			if len(line) > 0 {
				return d, fmt.Errorf("the log ends in the middle of a line: %.200q", line)
			}
			return d, nil
		}
		if err != nil {
			return d, err
		}
		a, err := parseArrival(bytes.TrimSpace(line))
		if err != nil {
			return d, err
		}
		d.arrivals = append(d.arrivals, a)
	}
}
